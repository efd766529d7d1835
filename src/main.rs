//! The `orchestrator` binary: everything lives in the library.

fn main() -> std::process::ExitCode {
    orchestrator::cli::main()
}
