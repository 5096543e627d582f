//! The `netferry` program: reads its command line, carries the plan out, and ends with the right status.

use std::io::{self, Write};
use std::process::ExitCode;

use netferry::{cli, run};

fn main() -> ExitCode {
    let plan = match cli::parse(std::env::args_os()) {
        Ok(plan) => plan,
        Err(error) => {
            let text = format!("{error}\n");
            // Whoever reads only the beginning of a help text has not made a mistake.
            let _ = if error.exit_code() == 0 {
                io::stdout().write_all(text.as_bytes())
            } else {
                io::stderr().write_all(text.as_bytes())
            };
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
