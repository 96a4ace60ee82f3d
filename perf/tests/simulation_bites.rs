//! The simulator finds what is broken on purpose: each rule of the data path within its number of
//! seeds. Beside it, `simulation` shows that it finds nothing else.

use nexus::planted::{self, Bug, LabelBug};
use perf::sim::{Contexts, Lines, Mode, Outcome, run_seed};

/// Each broken rule, and within how many seeds it is found.
const WITHIN: [(Bug, Mode, u64); planted::ALL.len()] = [
    (Bug::NoOrderBetweenCores, Mode::UNTRACKED, 100),
    (Bug::AckBeforeOut, Mode::UNTRACKED, 100),
    (Bug::BusyIsFailed, Mode::UNTRACKED, 100),
    (Bug::ReadInFlight, Mode::UNTRACKED, 100),
    (Bug::NotTriedElsewhere, Mode::UNTRACKED, 100),
    (Bug::NoTimeout, Mode::UNTRACKED, 200),
    (Bug::TargetIsRead, Mode::UNTRACKED, 200),
    (Bug::TargetIsNotWritten, Mode::UNTRACKED, 200),
    (Bug::CopyWithoutOrder, Mode::UNTRACKED, 500),
    (Bug::RestartUnnoticed, Mode::REMOTE, 300),
];

/// Rules of labels that the simulator breaks on the way through the real label I/O, and within how
/// many seeds each is found.
const LABELS_WITHIN: [(LabelBug, u64); 4] = [
    (LabelBug::NoMark, 100),
    (LabelBug::MissingEmpty, 100),
    (LabelBug::ReadBeforeEqual, 100),
    (LabelBug::ClearUnflushed, 300),
];
/// The first seed that a broken rule breaks a law in.
fn find(bug: Bug, mode: Mode, seeds: u64) -> Option<Outcome> {
    planted::plant(Some(bug));
    let found = first_failure(mode, seeds);
    planted::plant(None);
    found
}

fn first_failure(mode: Mode, seeds: u64) -> Option<Outcome> {
    let mut contexts = Contexts::new();
    let mut outcomes = (0..seeds).map(|seed| run_seed(seed, mode, Lines::None, &mut contexts));
    outcomes.find(|outcome| outcome.result.is_err())
}

#[test]
fn each_broken_rule_is_found_within_its_number_of_seeds() {
    // What the code itself asserts of broken rules is expected, and not to be printed.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for (bug, mode, seeds) in WITHIN {
        match find(bug, mode, seeds) {
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
fn each_broken_rule_of_labels_is_found_within_its_number_of_seeds() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for (bug, seeds) in LABELS_WITHIN {
        planted::plant_label(Some(bug));
        let found = first_failure(Mode::CONTESTED, seeds);
        planted::plant_label(None);
        match found {
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
        assert!(WITHIN.iter().any(|(known, ..)| *known == bug), "{bug:?}");
    }
}
