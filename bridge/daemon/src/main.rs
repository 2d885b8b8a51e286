//! The binary. Everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    match keyferry::cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("keyferry: {error:#}");
            ExitCode::FAILURE
        }
    }
}
