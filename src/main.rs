//! The `netferry` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    match netferry::cli::parse(std::env::args_os()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            if error.exit_code() == 0 {
                println!("{error}");
            } else {
                eprintln!("{error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
