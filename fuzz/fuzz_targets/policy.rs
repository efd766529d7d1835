//! Any text as the rules of a worker.

#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code, reason = "the other targets have the rest")]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| properties::policy(text));
