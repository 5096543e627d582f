//! The `netferry` program: reads its command line, carries the plan out, and ends with the right status.

use std::process::ExitCode;

use netferry::{cli, run};

fn main() -> ExitCode {
    let plan = match cli::parse(std::env::args_os()) {
        Ok(plan) => plan,
        Err(error) => {
            if error.exit_code() == 0 {
                println!("{error}");
            } else {
                eprintln!("{error}");
            }
            return ExitCode::from(error.exit_code());
        }
    };
    match run::run(plan) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("netferry: {error}");
            ExitCode::FAILURE
        }
    }
}
