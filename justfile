# What people do daily. `just` lists it.

_default:
    @just --list

# everything that CI runs
test *ARGS:
    tests/run {{ARGS}}

# format, lints, dependencies
lint: audit
    cargo fmt --check
    cargo clippy --all-targets --all-features -- -D warnings

# dependencies: advisories too, which `tests/run` leaves out
audit:
    tests/tools/cargo-deny
    target/tools/cargo-deny check

# the example crawler, on one machine, with nothing else installed
demo:
    cargo run --release -- up

# ten minutes of killed, frozen and restarted workers and servers, in another order each time
chaos:
    CHAOS_SEED=$(date +%s) CHAOS_SECONDS=600 CHAOS_RUNS=2000 cargo test --test e2e chaos -- --nocapture

# throughput, beat and footprint; results go to docs/benchmarks.md
bench *ARGS:
    cargo bench {{ARGS}}
