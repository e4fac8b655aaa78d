//! The `staticfire` binary: see `staticfire --help`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
