//! The command `mayastor-sim`: the simulator, seed by seed.

use std::process::ExitCode;

use clap::Parser;
use perf::sim::command::{self, Options};

fn main() -> ExitCode {
    command::execute(&Options::parse())
}
