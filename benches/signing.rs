//! What signatures cost: `cargo bench --bench signing`.
//!
//! Signing and verifying messages of several sizes, on one core; the smallest is that of a usual run. The median of
//! some rounds, so that a busy machine spoils little.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::{hint::black_box, time::Instant};

use orchestrator::run::{Keyring, Signer};

const ROUNDS: usize = 31;
const PER_ROUND: u32 = 200;
const SUBJECT: &str = "orch.jobs.high.crawl-incremental.slot";
/// What verifying a usual run may take.
const LIMIT_MICROSECONDS: f64 = 100.0;

/// The median over the rounds, in microseconds a call.
fn measure(mut work: impl FnMut()) -> f64 {
    let mut rounds: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..PER_ROUND).for_each(|_| work());
            start.elapsed().as_secs_f64() * 1e6 / f64::from(PER_ROUND)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn main() {
    let signer = Signer::from_seed(&[7; 32]);
    let mut keys = Keyring::default();
    for other in 0..8 {
        keys.add(Signer::from_seed(&[other; 32]).public().clone());
    }
    println!("bytes      sign µs    verify µs");
    for size in [800, 4096, 65_536] {
        let payload = vec![b'x'; size];
        let header = signer.sign(SUBJECT, &payload);
        let sign = measure(|| {
            black_box(signer.sign(SUBJECT, black_box(&payload)));
        });
        let verify = measure(|| {
            let found = keys.verify(SUBJECT, Some(black_box(&header)), black_box(&payload));
            assert!(black_box(found).is_ok());
        });
        println!("{size:<10} {sign:<10.1} {verify:<10.1}");
        if size == 800 && verify > LIMIT_MICROSECONDS {
            println!("           verifying is above the limit of {LIMIT_MICROSECONDS} µs");
        }
    }
}
