//! Any text as what a server answers to the request of a job.

#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code, reason = "the other targets have the rest")]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| properties::answer(text));
