//! Seeded random walks.

use super::possible::Event;
use super::world::{Config, World};
use crate::truth::names::Policy;
use crate::truth::planted::{self, Bug};

/// Events of a walk.
const STEPS: usize = 150;

/// Splitmix64: enough to choose.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

/// A history that ends with a broken promise.
struct Broken {
    events: Vec<Event>,
    why: String,
}

/// Each seed makes some kinds of events rarer and some more frequent, so that seeds differ in what
/// they try.
fn factors(random: &mut Random) -> [usize; Event::KINDS] {
    std::array::from_fn(|_| [1, 4, 4, 16][random.below(4)])
}

fn choose(random: &mut Random, factors: &[usize], possible: &[Event]) -> Option<Event> {
    let mut kinds = [(0, 0); Event::KINDS];
    for event in possible {
        let (kind, weight) = event.kind();
        kinds[kind] = (kinds[kind].0 + 1, weight * factors[kind]);
    }
    let total: usize = kinds.iter().map(|(_, weight)| weight).sum();
    if total == 0 {
        return None;
    }
    let mut place = random.below(total);
    let chosen = kinds.iter().position(|(_, weight)| match place.checked_sub(*weight) {
        Some(rest) => {
            place = rest;
            false
        }
        None => true,
    });
    let kind = chosen.expect("the place is below the total");
    let number = random.below(kinds[kind].0);
    possible.iter().filter(|event| event.kind().0 == kind).nth(number).cloned()
}

fn walk(config: Config, seed: u64) -> Result<(), Broken> {
    let mut random = Random(seed);
    let factors = factors(&mut random);
    let mut world = World::new(config);
    let mut events = Vec::new();
    for _ in 0..STEPS {
        let Some(event) = choose(&mut random, &factors, &world.events()) else { break };
        events.push(event.clone());
        let result = world.apply(&event).and_then(|()| world.check());
        if let Err(why) = result {
            return Err(Broken { events, why });
        }
    }
    Ok(())
}

fn seeds(ordinary: u64) -> u64 {
    let asked = std::env::var("TRUTH_WALK_SEEDS").ok();
    asked.and_then(|seeds| seeds.parse().ok()).unwrap_or(ordinary)
}

pub(super) const PAIR: Config = Config {
    replicas: 2,
    members: 2,
    regions: 1,
    writes: 3,
    owners: 3,
    policy: Policy::Majority,
    losses: 0,
    record_losses: 0,
    closes: 1,
    rebuilds: true,
};

const CONFIGS: [(&str, Config); 11] = [
    ("pair", PAIR),
    ("pair, record emptied", Config { record_losses: 1, ..PAIR }),
    ("pair, record emptied twice", Config { record_losses: 2, closes: 0, ..PAIR }),
    ("three, record emptied", Config { policy: Policy::Record, record_losses: 1, ..THREE }),
    ("pair, power", Config { losses: 1, ..PAIR }),
    ("pair, solo", Config { policy: Policy::Solo, ..PAIR }),
    ("one grows", Config { members: 1, ..PAIR }),
    ("three", Config { replicas: 3, members: 3, ..PAIR }),
    ("three, power", Config { replicas: 3, members: 3, losses: 1, regions: 2, ..PAIR }),
    ("three, record", Config { replicas: 3, members: 3, policy: Policy::Record, ..PAIR }),
    ("two of three", Config { replicas: 3, members: 2, regions: 2, ..PAIR }),
];

#[test]
fn no_history_loses_an_acknowledged_write_or_reads_a_stale_replica() {
    planted::plant(None);
    for (name, config) in CONFIGS {
        for seed in 0..seeds(500) {
            if let Err(Broken { events, why }) = walk(config, seed) {
                let events: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
                panic!("{name}, seed {seed}: {why} after\n{}", events.join("\n"));
            }
        }
    }
}

/// Finds a planted bug; the seed that does.
fn find(bug: Bug, config: Config, most: u64) -> Option<u64> {
    planted::plant(Some(bug));
    let found = (0..most).find(|seed| walk(config, *seed).is_err());
    planted::plant(None);
    found
}

/// Two owners, nothing but failures: for histories that need many steps.
const BARE: Config = Config { owners: 2, closes: 0, rebuilds: false, ..PAIR };
const POWER: Config = Config { losses: 1, owners: 2, closes: 0, ..PAIR };
const THREE: Config = Config { replicas: 3, members: 3, owners: 3, closes: 0, ..PAIR };

/// Each broken rule, where it shows, and within how many seeds.
const PLANTED: [(Bug, Config, u64); 25] = [
    (Bug::AckBeforeEpoch, THREE, 1500),
    (Bug::SurvivorsOnly, BARE, 1000),
    (Bug::RecordAsync, BARE, 1000),
    (Bug::SelfSetEnough, Config { owners: 3, ..BARE }, 8000),
    (Bug::NoPreviousQuorum, Config { rebuilds: false, ..THREE }, 4000),
    (Bug::NoGenerationCheck, BARE, 100),
    (Bug::LoneClaim, BARE, 100),
    (Bug::NoLease, BARE, 12000),
    (Bug::NoReadGeneration, BARE, 5000),
    (Bug::ReadInFlight, BARE, 100),
    (Bug::ReadBeforeEqual, Config { policy: Policy::Solo, ..BARE }, 1000),
    (Bug::NoMark, BARE, 50),
    (Bug::MarkOne, BARE, 100),
    (Bug::ClearEarly, BARE, 500),
    (Bug::ClearUnflushed, POWER, 4000),
    (Bug::MissingEmpty, Config { policy: Policy::Solo, ..PAIR }, 1500),
    (Bug::OwnDirtyIgnored, PAIR, 8000),
    (Bug::MemberAtStart, PAIR, 50),
    (Bug::NoForward, PAIR, 400),
    (Bug::LateCommand, Config { owners: 1, ..PAIR }, 2500),
    (Bug::EpochWithdrawn, Config { members: 1, owners: 2, closes: 0, ..PAIR }, 8000),
    (Bug::CleanIsCurrent, PAIR, 5000),
    (Bug::AnySource, POWER, 3000),
    (Bug::SilentRejoin, POWER, 2000),
    (Bug::OutsidersFirst, Config { rebuilds: false, ..POWER }, 2000),
];

#[test]
fn each_broken_rule_is_found_within_its_number_of_seeds() {
    for (bug, config, most) in PLANTED {
        assert!(find(bug, config, most).is_some(), "{bug:?} within {most} seeds");
    }
}
