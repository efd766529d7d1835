# What people do daily. `just` lists it.

_default:
    @just --list

# everything that CI runs
test *ARGS:
    tests/run {{ARGS}}

# format, lints, dependencies
lint:
    cargo fmt --check
    cargo clippy --all-targets --all-features -- -D warnings
    cargo deny check

# the example crawler, on one machine, with nothing else installed
demo:
    cargo run --release -- up

# ten minutes of killed, frozen and restarted workers and servers, in another order each time
chaos:
    CHAOS_SEED=$(date +%s) CHAOS_SECONDS=600 CHAOS_RUNS=2000 cargo test --test e2e chaos -- --nocapture

# beat and worker in virtual time, while calls are lost and processes die; a failing seed says how to live it again
simulate SEEDS="100000":
    SIMULATION_SEEDS={{SEEDS}} cargo test --release --features simulation --test simulation promised -- --nocapture

# throughput, beat and footprint; results go to docs/benchmarks.md
bench *ARGS:
    cargo bench {{ARGS}}
