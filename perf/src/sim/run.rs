//! One seed, from its plan to its outcome.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::contexts::Contexts;
use super::plan::{Mode, Plan};
use super::trace::{Lines, Trace};
use super::violation::Violation;
use super::world::{Counts, World};

/// What became of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What it did, or what it broke.
    pub result: Result<Counts, Violation>,
    /// By which two runs are compared.
    pub hash: u64,
    /// Events in it.
    pub events: u64,
    /// The last lines of its trace, where they were kept.
    pub last_lines: Vec<String>,
}

/// Runs a seed.
pub fn run_seed(seed: u64, mode: Mode, lines: Lines, contexts: &mut Contexts) -> Outcome {
    let trace = Trace::new(lines);
    let plan = Plan::new(seed, mode);
    trace.say(|| format!("{plan:?}"));
    let outcome = |result| Outcome {
        seed,
        result,
        hash: trace.hash(),
        events: trace.events(),
        last_lines: trace.last_lines(),
    };
    let mut world = match World::new(plan, trace.clone(), contexts) {
        Ok(world) => world,
        Err(violation) => return outcome(Err(violation)),
    };
    // The world of a run that panics is dropped as it is, its contexts with it.
    let run = AssertUnwindSafe(|| {
        let result = world.run(contexts);
        world.dissolve(contexts);
        result
    });
    let result = catch_unwind(run).unwrap_or_else(|panic| Err(Violation::Panicked(said(&*panic))));
    outcome(result)
}

fn said(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
    let made = || panic.downcast_ref::<String>().cloned();
    literal.or_else(made).unwrap_or_else(|| String::from("without a word"))
}
