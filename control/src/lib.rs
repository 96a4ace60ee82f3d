//! The daemon around the engine: options, signals, the live line, and what is said when it fails.
//!
//! The binary `mayastor` calls [`run`]; its thread waits for signals and for the next second, the
//! I/O happens on the engine's cores. Only this crate prints.

#![forbid(unsafe_code)]

pub mod client;
pub mod config_file;
pub mod demo;
pub mod drive_events;
pub mod failure;
pub mod grpc;
pub mod identity;
pub mod live;
pub mod open_files;
pub mod options;
pub mod setup;
pub mod signals;
pub mod target;

use std::process::ExitCode;

use clap::Parser;

use options::{Command, Options};

/// Exit code when the options make no sense, as is usual.
const USAGE_EXIT_CODE: u8 = 2;

/// Reads the options, does what they say, and reports a failure in one line.
pub fn run() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) if error.use_stderr() => {
            eprintln!("mayastor: {}", failure::usage_line(&error.to_string()));
            return ExitCode::from(USAGE_EXIT_CODE);
        }
        Err(help) => {
            // Help or version, on standard output; a reader that has left is no failure.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    match options.command {
        Command::Target(options) => end(target::run(&options)),
        Command::Setup(options) => end(setup::run(&options)),
        Command::Demo(options) => end(demo::run(&options)),
    }
}

/// The exit code, after a line for a failure.
fn end<E: std::error::Error>(outcome: Result<(), E>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mayastor: {}", failure::one_line(&error));
            ExitCode::FAILURE
        }
    }
}
