//! `import`: whatever comes in, what comes out passes `check`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

#[path = "import/bad_input.rs"]
mod bad_input;
#[path = "import/properties.rs"]
mod properties;
#[path = "import/samples.rs"]
mod samples;
#[path = "import/support.rs"]
mod support;
