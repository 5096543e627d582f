//! The `netferry` program: reads its command line, carries the plan out, and ends with the right status.

use std::io::{self, Write};
use std::process::ExitCode;

use netferry::cli::Invocation;
use netferry::run::client::ClientError;
use netferry::run::say;
use netferry::{cli, run};

fn main() -> ExitCode {
    let invocation = match cli::read(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(error) => {
            // Whoever reads only the beginning of a help text has not made a mistake.
            if let Some(text) = error.standard_output() {
                let _ = writeln!(io::stdout(), "{text}");
            }
            if let Some(text) = error.standard_error() {
                let _ = writeln!(io::stderr(), "{text}");
            }
            return ExitCode::from(error.exit_code());
        }
    };
    let outcome = match invocation {
        Invocation::Serve(plan) => run::run(*plan).map_err(|error| (error.to_string(), ExitCode::FAILURE)),
        Invocation::Join(asked) => run::run_on_network(&asked).map_err(told_with_status),
        Invocation::Ask(command) => run::client::run(&command).map_err(told_with_status),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err((error, status)) => {
            say(&error);
            status
        }
    }
}

fn told_with_status(error: ClientError) -> (String, ExitCode) {
    (error.to_string(), ExitCode::from(error.exit_code()))
}
