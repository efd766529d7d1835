//! Any text as a value of a bucket.

#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code, reason = "the other targets have the rest")]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| properties::state(text));
