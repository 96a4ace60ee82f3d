//! The `mayastor-client` command. All of it is in the library, where tests reach it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    control::client::run()
}
