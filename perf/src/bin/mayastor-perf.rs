//! The command `mayastor-perf`: parses its options and prints what was found.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use perf::options::{Cli, Command};
use perf::report::Report;
use perf::{compare, echo, resync, run};

fn main() -> ExitCode {
    match execute(&Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprint!("mayastor-perf: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprint!(": {cause}");
                source = cause.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn execute(command: &Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Run(options) => print_report(&run::run(options)?, options.load.json),
        Command::Echo(options) => print_report(&echo::run(options)?, options.load.json),
        Command::Compare(options) => {
            let comparison = compare::run(options)?;
            match options.json {
                true => println!("{}", serde_json::to_string(&comparison)?),
                false => print!("{comparison}"),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Resync(options) => {
            print!("{}", resync::run(options)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn print_report(report: &Report, json: bool) -> Result<ExitCode, Box<dyn Error>> {
    match json {
        true => println!("{}", serde_json::to_string(report)?),
        false => print!("{report}"),
    }
    Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
