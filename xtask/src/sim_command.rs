//! `cargo xtask sim`: builds the simulator as the tests are built, with its assertions, and runs
//! seeds in parts, each in a process of its own. A long run that is killed is resumed: each part
//! says which seeds are done, and a part that is killed by which command the run goes on.

use std::process::{Command, ExitCode};

use crate::EXIT_USAGE;

/// Seeds of a part: less than a minute, which is what a kill costs at most.
const PART_SEEDS: u64 = 1_000;
/// Seeds unless told.
const SEEDS_DEFAULT: u64 = 200;

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    start: u64,
    seeds: u64,
    /// Options that are the simulator's own.
    passed_on: Vec<String>,
}

impl Request {
    /// The command for these seeds with the same options.
    fn from(&self, start: u64, seeds: u64) -> String {
        let words = ["cargo xtask sim".to_owned(), format!("--start {start} --seeds {seeds}")];
        words.into_iter().chain(self.passed_on.iter().cloned()).collect::<Vec<_>>().join(" ")
    }
}

/// Runs the task; fails with the first part that does.
pub fn run(arguments: &[String]) -> ExitCode {
    let request = match parse(arguments) {
        Ok(request) => request,
        Err(reason) => return crate::usage_error(&reason),
    };
    let commit = commit();
    let end = request.start.saturating_add(request.seeds);
    for (start, seeds) in parts(request.start, request.seeds) {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut command = Command::new(cargo);
        command
            .args(["run", "--quiet", "--package", "perf", "--bin", "mayastor-sim", "--"])
            .args(["--start", &start.to_string(), "--seeds", &seeds.to_string()])
            .args(["--commit", &commit])
            .args(&request.passed_on)
            .current_dir(crate::root());
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => {
                if status.code().is_none() {
                    eprintln!("{status}; go on with: {}", request.from(start, end - start));
                }
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                return ExitCode::from(code.unwrap_or(1));
            }
            Err(error) => {
                eprintln!("cargo: {error}");
                return ExitCode::from(EXIT_USAGE);
            }
        }
    }
    ExitCode::SUCCESS
}

fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut request = Request { start: 0, seeds: SEEDS_DEFAULT, passed_on: Vec::new() };
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        let mut number = || {
            let value = rest.next().ok_or_else(|| format!("{option} needs a number"))?;
            value.parse::<u64>().map_err(|_| format!("{option}: `{value}` is no number"))
        };
        match option.as_str() {
            "--start" => request.start = number()?,
            "--seeds" => request.seeds = number()?,
            "--tracked" | "--contested" | "--network" | "--drives" | "--trace" | "--hashes"
            | "--keep-going" => request.passed_on.push(option.clone()),
            other => return Err(format!("unknown option `{other}`")),
        }
    }
    Ok(request)
}

/// The parts of a run: first seed and number of seeds of each.
fn parts(start: u64, seeds: u64) -> impl Iterator<Item = (u64, u64)> {
    let count = seeds.div_ceil(PART_SEEDS);
    (0..count).map(move |part| {
        let done = part * PART_SEEDS;
        (start.saturating_add(done), PART_SEEDS.min(seeds - done))
    })
}

/// What is built: the commit, and whether there is more.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).current_dir(crate::root()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let known = git(&["rev-parse", "--short=12", "HEAD"]);
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    match (known, changed.is_none_or(|changed| changed.is_empty())) {
        (Some(commit), true) => commit,
        (Some(commit), false) => format!("{commit} with changes"),
        (None, _) => String::from("unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn seeds_are_a_range_and_other_options_are_the_simulators() {
        let request = parsed("--start 7 --trace --seeds 2").unwrap();
        assert_eq!((request.start, request.seeds), (7, 2));
        assert_eq!(request.passed_on, ["--trace"]);
        assert_eq!(parsed("").unwrap().seeds, SEEDS_DEFAULT);
        assert!(parsed("--seeds").is_err() && parsed("--seeds x").is_err());
        assert!(parsed("--nothing").is_err());
    }

    #[test]
    fn a_run_that_was_killed_goes_on_with_its_own_options() {
        let request = parsed("--seeds 9 --tracked --keep-going").unwrap();
        assert_eq!(
            request.from(4, 5),
            "cargo xtask sim --start 4 --seeds 5 --tracked --keep-going"
        );
    }

    #[test]
    fn parts_cover_the_range_once() {
        let seen: Vec<_> = parts(3, 2 * PART_SEEDS + 1).collect();
        let second = 3 + PART_SEEDS;
        assert_eq!(seen, [(3, PART_SEEDS), (second, PART_SEEDS), (second + PART_SEEDS, 1)]);
        assert_eq!(parts(3, PART_SEEDS).count(), 1);
        assert_eq!(parts(3, 0).count(), 0);
    }
}
