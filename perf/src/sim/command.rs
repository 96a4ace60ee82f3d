//! The command `mayastor-sim`: runs seeds one after another, and says of the first that breaks a
//! law how it is repeated.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use super::contexts::Contexts;
use super::plan::{Mode, Wiring};
use super::run::{Outcome, run_seed};
use super::trace::Lines;
use super::world::Counts;

/// Seeds between two lines of progress.
const REPORT_SEEDS: u64 = 10_000;

/// Runs the mirror over simulated disks, one seed after another.
#[derive(Clone, Debug, Parser)]
#[command(name = "mayastor-sim", version)]
pub struct Options {
    /// First seed.
    #[arg(long, default_value_t = 0)]
    pub start: u64,
    /// Number of seeds.
    #[arg(long, default_value_t = 1)]
    pub seeds: u64,
    /// Keep labels on the disks, and let the process crash.
    #[arg(long)]
    pub tracked: bool,
    /// Put each disk behind a target, and a network between.
    #[arg(long)]
    pub network: bool,
    /// Labels as well; let other processes open the volume, and everything lose power.
    #[arg(long)]
    pub contested: bool,
    /// Make each disk an NVMe drive, with the real driver.
    #[arg(long, conflicts_with_all = ["network", "contested"])]
    pub drives: bool,
    /// Print every event.
    #[arg(long)]
    pub trace: bool,
    /// Print the hash of every seed's events.
    #[arg(long)]
    pub hashes: bool,
    /// Go on after a seed that breaks a law.
    #[arg(long)]
    pub keep_going: bool,
    /// What was built, for the report of a failure.
    #[arg(long, default_value = "unknown")]
    pub commit: String,
}

impl Options {
    fn mode(&self) -> Mode {
        let local = match (self.contested, self.tracked) {
            (true, _) => Mode::CONTESTED,
            (false, true) => Mode::TRACKED,
            (false, false) => Mode::UNTRACKED,
        };
        let wiring = match (self.network, self.drives) {
            (true, _) => Wiring::Network,
            (false, true) => Wiring::Drives,
            (false, false) => Wiring::Local,
        };
        Mode { wiring, ..local }
    }

    /// What repeats a seed.
    fn replay(&self, seed: u64) -> String {
        let kind = self.mode().options();
        let commit = &self.commit;
        format!(
            "commit {commit}; repeat with: cargo xtask sim --start {seed} --seeds 1{kind} --trace"
        )
    }
}

/// Runs the command.
pub fn execute(options: &Options) -> ExitCode {
    let mut contexts = Contexts::new();
    let lines = if options.trace { Lines::Printed } else { Lines::None };
    let begin = Instant::now();
    let (mut failed, mut succeeded, mut done) = (0, 0, 0);
    let end = options.start.saturating_add(options.seeds);
    say_where_it_panics(options.clone());
    for seed in options.start..end {
        SEED.set(seed);
        let outcome = run_seed(seed, options.mode(), lines, &mut contexts);
        done += 1;
        if options.hashes {
            println!("seed {seed} hash {:016x} events {}", outcome.hash, outcome.events);
        }
        match &outcome.result {
            Ok(Counts { succeeded: ios, .. }) => succeeded += ios,
            Err(violation) => {
                failed += 1;
                println!("seed {seed}: {violation}");
                if !options.keep_going {
                    explain(&outcome, options, &mut contexts);
                    break;
                }
            }
        }
        if done % REPORT_SEEDS == 0 {
            eprintln!("{done} seeds, {failed} failed, {:.0?}", begin.elapsed());
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "seeds {} to {}: {failed} failed, {succeeded} I/Os, {seconds:.1} s, {:.0} seeds/s",
        options.start,
        options.start + done.max(1) - 1,
        done as f64 / seconds,
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The end of a failed run, run once more with its lines.
fn explain(outcome: &Outcome, options: &Options, contexts: &mut Contexts) {
    if !options.trace {
        let again = run_seed(outcome.seed, options.mode(), Lines::Kept, contexts);
        again.last_lines.iter().for_each(|line| println!("{line}"));
        let is_same = again.hash == outcome.hash && again.result == outcome.result;
        println!("run again, it {}", if is_same { "is the same" } else { "DIFFERS" });
    }
    println!("seed {}: {}", outcome.seed, options.replay(outcome.seed));
}

thread_local! {
    static SEED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// A binary that ships aborts where it panics, so the seed is named before.
fn say_where_it_panics(options: Options) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let seed = SEED.get();
        eprintln!("seed {seed} panicked: {}", options.replay(seed));
        before(info);
    }));
}
