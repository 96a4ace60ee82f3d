//! Tasks of the project, run as `cargo xtask TASK`.
//!
//! `test` is what continuous integration runs: everything, from missing packages to a real kernel
//! that mounts the target. `tidy` checks the rules of style that a machine can check, and is a
//! unit test too. `sim` runs the simulator, seed by seed. `guest` boots the test guest and runs a
//! command in it, for people.

mod guest_command;
mod packages;
mod process;
mod report;
mod sim_command;
mod stage;
mod test_command;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask TASK

tasks
  test [--list] [--only STAGE]...   run all stages of the test run, or some
  tidy                              check the rules of style that a machine can check
  sim [options]                     run the simulator over a range of seeds
      --start SEED                  first seed (0)
      --seeds COUNT                 number of seeds (200)
      --tracked                     keep labels on the disks, and let the process crash
      --trace                       print every event
      --hashes                      print the hash of every seed's events
      --keep-going                  go on after a seed that breaks a law
  guest [options] -- COMMAND        boot the test guest and run a shell command in it
      --share DIRECTORY             show a directory, read-only, as /host/share
      --memory MIB                  memory of the guest (512)
      --cpus COUNT                  processors of the guest (1)
      --iommu                       with an Intel IOMMU
      --console                     print the guest's console afterwards
      --limit SECONDS               time for the command (300)
      --qemu ARGUMENT               one further argument of QEMU (repeatable)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((task, rest)) = arguments.split_first() else {
        eprint!("{USAGE}");
        return ExitCode::from(EXIT_USAGE);
    };
    match task.as_str() {
        "test" => test_command::run(rest),
        "tidy" => tidy_command(),
        "sim" => sim_command::run(rest),
        "guest" => guest_command::run(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        other => usage_error(&format!("unknown task `{other}`")),
    }
}

/// Exit code for a wrong command line.
const EXIT_USAGE: u8 = 2;

fn usage_error(reason: &str) -> ExitCode {
    eprint!("{reason}\n\n{USAGE}");
    ExitCode::from(EXIT_USAGE)
}

fn tidy_command() -> ExitCode {
    let findings = tidy::check(&root());
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Root of the workspace: this crate lies one level below it.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("the crate lies one level below the root").to_owned()
}
