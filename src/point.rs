//! Points between the steps of beat at which a test slows it down or stops it for good. There are none without the feature
//! `failpoints`.
//!
//! The variable `FAILPOINTS` says what happens where: `NAME=sleep(100)`, and what else the crate `fail` knows.
//! `NAME=return` says in the log that the point was reached, and goes on no more: the process is there to be killed;
//! `NAME=return(2000)` says so and goes on after so many milliseconds.

/// A point with a name.
macro_rules! point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        crate::point::reached($name);
    };
}

#[cfg(feature = "failpoints")]
pub(crate) fn reached(name: &'static str) {
    fail::fail_point!(name, |pause: Option<String>| {
        tracing::info!(target: "orchestrator::point", point = name, pause, "stopped here");
        // Other tasks get on meanwhile: the connection is one of them.
        tokio::task::block_in_place(|| match pause.and_then(|pause| pause.parse().ok()) {
            Some(pause) => std::thread::park_timeout(std::time::Duration::from_millis(pause)),
            None => loop {
                std::thread::park();
            },
        });
    });
}
