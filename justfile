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

# the fault matrix for hours, in another order each time
chaos HOURS="1":
    tests/chaos/for-hours {{HOURS}}

# beat and worker in virtual time, while calls are lost and processes die; a failing seed says how to live it again
simulate SEEDS="100000":
    SIMULATION_SEEDS={{SEEDS}} cargo test --release --features simulation --test simulation promised -- --nocapture

# kills of the store's writer, power cuts and damaged files, in another order each time
torture:
    TORTURE_SEED=$(date +%s) TORTURE_ROUNDS=300 cargo test --test torture -- --nocapture --test-threads=1
    DAMAGE_SEED=$(date +%s) DAMAGE_ROUNDS=1500 cargo test --lib store::tests::damage -- --nocapture

# throughput, beat and footprint; results go to docs/benchmarks.md
bench *ARGS:
    cargo bench {{ARGS}}
