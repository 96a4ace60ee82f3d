//! `mayastor-client`: shows and changes what a running daemon serves, over gRPC.
//!
//! The binary calls [`run`]. `options` is the command line, `call` sends what it asks for, `shape`
//! makes of the answer what scripts and people are shown, `table` lays it out for people. One
//! thread; one connection; one call.

mod call;
mod nexus;
mod options;
mod question;
mod rules;
mod shape;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::failure;
use call::CallError;
use options::{ClientOptions, Output};

/// Exit code when the server refused.
const REFUSED_EXIT_CODE: u8 = 1;

/// Exit code when the options make no sense, as is usual.
const USAGE_EXIT_CODE: u8 = 2;

/// Exit code when there is no server, or no answer from it.
const UNREACHABLE_EXIT_CODE: u8 = 3;

/// Reads the options, asks the server, and shows what it answers.
pub fn run() -> ExitCode {
    let options = match ClientOptions::try_parse() {
        Ok(options) => options,
        Err(error) if error.use_stderr() => {
            complain(&failure::usage_line(&error.to_string()));
            return ExitCode::from(USAGE_EXIT_CODE);
        }
        Err(help) => {
            // Help or version, on standard output; a reader that has left is no failure.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let answer = match call::call(&options) {
        Ok(answer) => answer,
        Err(error) => {
            report(&error, options.output);
            return ExitCode::from(match error {
                CallError::Refused { .. } => REFUSED_EXIT_CODE,
                CallError::Server { .. } => USAGE_EXIT_CODE,
                CallError::Unreachable { .. }
                | CallError::NoAnswer { .. }
                | CallError::Start(_) => UNREACHABLE_EXIT_CODE,
            });
        }
    };
    let text = match options.output {
        Output::Json => shape::json_text(&answer),
        Output::Table => table::text(&answer),
    };
    let mut stdout = io::stdout().lock();
    // A reader that has left wants no more.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    ExitCode::SUCCESS
}

fn complain(line: &str) {
    eprintln!("mayastor-client: {line}");
}

/// One line for people; for scripts, one object on standard error that says the same.
fn report(error: &CallError, output: Output) {
    let line = failure::one_line(error);
    match output {
        Output::Table => complain(&line),
        Output::Json => eprintln!("{}", shape::error(error, &line)),
    }
}
