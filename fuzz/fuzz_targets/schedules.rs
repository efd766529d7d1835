//! Any text as a schedule file.

#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code, reason = "the other target has the rest")]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| properties::schedule(text));
