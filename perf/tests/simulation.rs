//! The simulator over many seeds: none breaks a law, and each is repeated exactly.
//!
//! The seeds are cut into as many tests as run side by side on a small machine.

use perf::sim::{Contexts, Lines, Outcome, Truthfulness, run_seed};

fn run_clean(seeds: std::ops::Range<u64>) {
    let mut contexts = Contexts::new();
    for seed in seeds {
        let Outcome { result, last_lines, .. } =
            run_seed(seed, Truthfulness::Untracked, Lines::None, &mut contexts);
        if let Err(violation) = result {
            let again =
                run_seed(seed, Truthfulness::Untracked, Lines::Kept, &mut contexts).last_lines;
            let lines = if last_lines.is_empty() { again } else { last_lines };
            let replay = format!("cargo xtask sim --start {seed} --seeds 1 --trace");
            panic!("{}\nseed {seed}: {violation}\nrepeat with: {replay}", lines.join("\n"));
        }
    }
}

#[test]
fn the_first_hundred_seeds_break_no_law() {
    run_clean(0..100);
}

#[test]
fn the_second_hundred_seeds_break_no_law() {
    run_clean(100..200);
}

#[test]
fn a_seed_is_repeated_event_by_event() {
    let hashes = || {
        let mut contexts = Contexts::new();
        let run = |seed| run_seed(seed, Truthfulness::Untracked, Lines::None, &mut contexts);
        let outcomes = (300..320).map(run);
        outcomes.map(|outcome| (outcome.hash, outcome.events, outcome.result)).collect::<Vec<_>>()
    };
    let first = hashes();
    assert_eq!(first, hashes());
    assert!(first.windows(2).all(|pair| pair[0].0 != pair[1].0), "seeds differ");
}

#[test]
fn a_seed_with_crashes_is_repeated_event_by_event() {
    let hashes = || {
        let mut contexts = Contexts::new();
        let run = |seed| run_seed(seed, Truthfulness::Tracked, Lines::None, &mut contexts);
        let outcomes = (300..310).map(run);
        outcomes.map(|outcome| (outcome.hash, outcome.events)).collect::<Vec<_>>()
    };
    assert_eq!(hashes(), hashes());
}
