//! `cargo xtask test`: runs the stages one after another and says at the end what came of each.
//!
//! The last line is always `N passed, M failed`, counted in stages; a stage that could not run
//! because one that it needs has failed counts as failed.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use guest::{Cache, GuestImage};

use crate::packages;
use crate::process::{self, End};
use crate::report::{self, Failure, Tally};
use crate::stage::{self, Body, Cargo, STAGES, Stage};

/// Variables of the run that started this program which must not reach the runs that it starts.
const FOREIGN_VARIABLES: &[&str] = &["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER"];

/// What came of one stage.
struct Outcome {
    stage: &'static Stage,
    time: Duration,
    result: Result<String, Failure>,
}

/// Runs the task.
pub fn run(arguments: &[String]) -> ExitCode {
    let chosen = match parse(arguments) {
        Ok(Request::Run(stages)) => stages,
        Ok(Request::List) => {
            for stage in STAGES {
                println!("{:10} {}", stage.name, stage.purpose);
            }
            return ExitCode::SUCCESS;
        }
        Err(reason) => return crate::usage_error(&reason),
    };
    let mut outcomes: Vec<Outcome> = Vec::new();
    for stage in chosen {
        println!("== {}: {}", stage.name, stage.purpose);
        let begin = Instant::now();
        let result = match failed_need(stage, &outcomes) {
            Some(need) => Err(Failure::new(format!("not run: it needs {need}, which failed"))),
            None => run_stage(stage),
        };
        let time = begin.elapsed();
        match &result {
            Ok(detail) => println!("   ok {} {detail}", report::seconds(time)),
            Err(failure) => println!("{failure}\n   FAILED {}", report::seconds(time)),
        }
        outcomes.push(Outcome { stage, time, result });
    }
    summarise(&outcomes)
}

#[derive(Debug)]
enum Request {
    List,
    Run(Vec<&'static Stage>),
}

fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut only = Vec::new();
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        match option.as_str() {
            "--list" => return Ok(Request::List),
            "--only" => {
                let name = rest.next().ok_or("--only needs the name of a stage")?;
                only.push(stage::find(name).ok_or_else(|| format!("no stage `{name}`"))?.name);
            }
            other => return Err(format!("unknown option `{other}`")),
        }
    }
    let is_chosen = |stage: &&Stage| only.is_empty() || only.contains(&stage.name);
    Ok(Request::Run(STAGES.iter().filter(is_chosen).collect()))
}

fn failed_need(stage: &Stage, outcomes: &[Outcome]) -> Option<&'static str> {
    let is_failed_need =
        |outcome: &&Outcome| outcome.result.is_err() && stage.needs.contains(&outcome.stage.name);
    outcomes.iter().find(is_failed_need).map(|outcome| outcome.stage.name)
}

fn run_stage(stage: &Stage) -> Result<String, Failure> {
    match &stage.body {
        Body::Packages => packages::ensure(),
        Body::Image => prepare_image(),
        Body::Cargo(cargo) => run_cargo(stage, cargo),
    }
}

fn prepare_image() -> Result<String, Failure> {
    let image = GuestImage::prepare(&Cache::from_environment())
        .map_err(|error| Failure::new(error.to_string()))?;
    let len = fs::metadata(image.initramfs()).map_or(0, |metadata| metadata.len());
    Ok(format!("{} MB", len / 1_000_000))
}

fn run_cargo(stage: &Stage, cargo: &Cargo) -> Result<String, Failure> {
    let log = fresh_log(stage)?;
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    command.args(cargo.arguments.split_whitespace()).current_dir(crate::root());
    for variable in FOREIGN_VARIABLES {
        command.env_remove(variable);
    }
    // Back traces of a property test are thousands of lines; whoever wants one runs the one test.
    command
        .env("CARGO_TERM_COLOR", "never")
        .env("RUST_BACKTRACE", "0")
        .envs(cargo.environment.iter().copied());
    let mut tally = Tally::default();
    let mut binary = String::new();
    let end = process::run(&mut command, &log, stage.limit, |line| {
        if let Some(name) = line.trim().strip_prefix("Running ").or(doc_tests_of(line)) {
            binary = short_name(name).to_owned();
        }
        if tally.add_line(line) {
            println!("   {binary}: {}", line.trim());
        }
    });
    let reason = match end {
        Ok(End::Exited(status)) if !status.success() => format!("cargo: {status}"),
        Ok(End::TimedOut) => format!("not done within {:?}", stage.limit),
        Err(error) => format!("cargo: {error}"),
        Ok(End::Exited(_)) if tally.passed < cargo.tests_min => String::from("no test was run"),
        Ok(End::Exited(_)) if cargo.tests_min > 0 => {
            return Ok(format!("{} tests passed", tally.passed));
        }
        Ok(End::Exited(_)) => return Ok(String::new()),
    };
    let output = fs::read_to_string(&log).unwrap_or_default();
    let log = log.display();
    Err(Failure::new(format!("{}\n   {reason}; all of it is in {log}", report::excerpt(&output))))
}

/// An empty file for the output of a stage.
fn fresh_log(stage: &Stage) -> Result<PathBuf, Failure> {
    let directory = crate::root().join("target/xtask");
    let log = directory.join(format!("{}.log", stage.name));
    let created = fs::create_dir_all(&directory).and_then(|()| fs::write(&log, ""));
    created.map_err(|error| Failure::new(format!("{}: {error}", log.display())))?;
    Ok(log)
}

fn doc_tests_of(line: &str) -> Option<&str> {
    line.trim().strip_prefix("Doc-tests ")
}

/// cargo names a binary `unittests src/lib.rs (target/debug/deps/bdev-0123456789abcdef)`; what
/// tells it from the others is the file's name without its hash.
fn short_name(name: &str) -> &str {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.rsplit_once('-').map_or(file, |(stem, _)| stem)
}

fn summarise(outcomes: &[Outcome]) -> ExitCode {
    println!();
    for outcome in outcomes {
        let word = if outcome.result.is_ok() { "ok" } else { "FAILED" };
        println!("{:10} {word:6} {}", outcome.stage.name, report::seconds(outcome.time));
    }
    let total: Duration = outcomes.iter().map(|outcome| outcome.time).sum();
    println!("{:10} {:6} {}", "all", "", report::seconds(total));
    let failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn outcome(name: &str, result: Result<String, Failure>) -> Outcome {
        Outcome { stage: stage::find(name).unwrap(), time: Duration::ZERO, result }
    }

    #[test]
    fn all_stages_run_unless_some_are_named() {
        assert!(
            matches!(parsed("").unwrap(), Request::Run(stages) if stages.len() == STAGES.len())
        );
        let Request::Run(stages) = parsed("--only kernel --only lint").unwrap() else {
            panic!("not a run")
        };
        // In their own order, not in that of the command line.
        assert_eq!(stages.iter().map(|s| s.name).collect::<Vec<_>>(), ["lint", "kernel"]);
        assert!(parsed("--only nothing").is_err() && parsed("--only").is_err());
    }

    #[test]
    fn a_stage_does_not_run_when_one_that_it_needs_has_failed() {
        let kernel = stage::find("kernel").unwrap();
        let passed = [outcome("build", Ok(String::new()))];
        assert_eq!(failed_need(kernel, &passed), None);
        let failed = [outcome("build", Err(Failure::new("bad")))];
        assert_eq!(failed_need(kernel, &failed), Some("build"));
    }

    #[test]
    fn test_binaries_are_named_by_their_crate() {
        assert_eq!(short_name("unittests src/lib.rs (target/debug/deps/bdev-0123)"), "bdev");
        assert_eq!(short_name("tests/split.rs (target/debug/deps/split-0123)"), "split");
        assert_eq!(short_name("reactor"), "reactor");
    }
}
