//! The simulator finds what is broken on purpose: each rule of the data path within its number of
//! seeds. Beside it, `simulation` shows that it finds nothing else.

use nexus::planted::{self, Bug};
use perf::sim::{Contexts, Lines, Outcome, Truthfulness, run_seed};

/// Each broken rule, and within how many seeds it is found.
const WITHIN: [(Bug, u64); planted::ALL.len()] = [
    (Bug::NoOrderBetweenCores, 100),
    (Bug::AckBeforeOut, 100),
    (Bug::BusyIsFailed, 100),
    (Bug::ReadInFlight, 100),
    (Bug::NotTriedElsewhere, 100),
    (Bug::NoTimeout, 200),
    (Bug::TargetIsRead, 200),
    (Bug::TargetIsNotWritten, 200),
    (Bug::CopyWithoutOrder, 500),
];

/// The first seed that a broken rule breaks a law in.
fn find(bug: Bug, seeds: u64) -> Option<Outcome> {
    let mut contexts = Contexts::new();
    planted::plant(Some(bug));
    let mut outcomes =
        (0..seeds).map(|seed| run_seed(seed, Truthfulness::Untracked, Lines::None, &mut contexts));
    let found = outcomes.find(|outcome| outcome.result.is_err());
    planted::plant(None);
    found
}

#[test]
fn each_broken_rule_is_found_within_its_number_of_seeds() {
    // What the code itself asserts of broken rules is expected, and not to be printed.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for (bug, seeds) in WITHIN {
        match find(bug, seeds) {
            Some(Outcome { seed, result: Err(violation), .. }) => {
                println!("{bug:?}: seed {seed}: {violation}");
            }
            _ => missed.push((bug, seeds)),
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not found within their seeds: {missed:?}");
}

#[test]
fn every_rule_that_can_be_broken_is_in_the_list() {
    for bug in planted::ALL {
        assert!(WITHIN.iter().any(|(known, _)| *known == bug), "{bug:?}");
    }
}
