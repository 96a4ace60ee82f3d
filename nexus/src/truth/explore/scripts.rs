//! Histories too rare for random walks, step by step; each holds, and with its rule broken it does
//! not.

use super::possible::Event;
use super::walks::PAIR;
use super::world::{Config, World, child};
use crate::child::ChildSet;
use crate::intent::RegionIndex;
use crate::truth::label::Missing;
use crate::truth::owner::{Progress, Request};
use crate::truth::planted::{self, Bug};
use crate::truth::quorum::Voter;

const REGION: RegionIndex = RegionIndex(0);

impl World {
    /// Whom an owner has a request for now.
    fn asks(&self, owner: usize) -> Vec<Voter> {
        self.nexuses[owner].owner.requests().iter().map(Request::voter).collect()
    }

    /// An owner's request to a voter is made and answered.
    fn run(&mut self, owner: usize, voter: Voter) {
        let place = self.asks(owner).iter().position(|asked| *asked == voter);
        let place = place.unwrap_or_else(|| panic!("{owner} asks {voter:?} for nothing"));
        self.apply(&Event::Send(owner, place)).unwrap();
        let index = self.sent.len() - 1;
        self.apply(&Event::RequestArrives { index, is_answered: true }).unwrap();
    }

    fn run_all(&mut self, owner: usize) {
        while let Some(voter) = self.asks(owner).first().copied() {
            self.run(owner, voter);
        }
    }

    fn data(&mut self, owner: usize, place: usize) {
        self.apply(&Event::SendData(owner, child(place))).unwrap();
        let index = self.data.len() - 1;
        self.apply(&Event::DataArrives(index)).unwrap();
    }

    fn has_event(&self, event: &Event) -> bool {
        self.events().contains(event)
    }
}

fn replica(index: usize) -> Voter {
    Voter::Replica(child(index))
}

/// Runs a history as it should be and with a rule broken; the broken one must fail.
fn breaks(bug: Bug, history: impl Fn() -> Result<(), String>) {
    planted::plant(None);
    assert_eq!(history(), Ok(()));
    planted::plant(Some(bug));
    let broken = history();
    planted::plant(None);
    assert!(broken.is_err(), "{bug:?} breaks nothing");
}

#[test]
fn a_survivor_that_does_not_flush_before_its_label_loses_what_it_is_trusted_for() {
    let config = Config { losses: 1, ..PAIR };
    breaks(Bug::NoFlushAtChange, || {
        let mut world = World::new(config);
        world.apply(&Event::Submit(0, REGION))?;
        world.run_all(0);
        world.data(0, 0);
        world.data(0, 1);
        world.apply(&Event::Acknowledge(0))?;
        world.apply(&Event::GiveUp(0, child(0)))?;
        world.run(0, replica(1));
        world.apply(&Event::PowerLoss(child(1)))?;
        world.apply(&Event::Start(1))?;
        world.run(1, replica(0));
        world.run(1, replica(1));
        world.run(1, Voter::Record);
        world.apply(&Event::Open(1))?;
        world.run_all(1);
        world.apply(&Event::Read(1, child(1), REGION))
    });
}

#[test]
fn a_region_is_not_read_until_the_smaller_epoch_is_in_force() {
    breaks(Bug::ReadEarlyShrink, || {
        let mut world = World::new(Config { owners: 3, ..PAIR });
        world.apply(&Event::Submit(0, REGION))?;
        world.run_all(0);
        world.data(0, 0);
        // The second owner finds both, and R0 to be the source; it gives up on R1.
        world.apply(&Event::Start(1))?;
        world.run(1, replica(0));
        world.run(1, replica(1));
        world.apply(&Event::Open(1))?;
        while world.nexuses[1].owner.is_changing() {
            let voter = world.asks(1)[0];
            world.run(1, voter);
        }
        world.apply(&Event::GiveUp(1, child(1)))?;
        let early = Event::Read(1, child(0), REGION);
        if world.has_event(&early) {
            world.apply(&early)?;
        }
        // The third one finds only R1 and the record, which know of no smaller epoch.
        world.apply(&Event::Start(2))?;
        world.run(2, replica(1));
        world.run(2, Voter::Record);
        world.apply(&Event::Open(2))?;
        world.run(2, replica(1));
        world.run(2, Voter::Record);
        assert!(matches!(world.nexuses[2].owner.progress(), Progress::InForce { .. }));
        world.apply(&Event::Read(2, child(1), REGION))
    });
}

#[test]
fn a_copy_waits_for_its_mark_on_the_receiver() {
    planted::plant(None);
    let mut world = World::new(Config { owners: 2, ..PAIR });
    world.apply(&Event::Submit(0, REGION)).unwrap();
    world.run(0, replica(0));
    world.data(0, 0);
    world.apply(&Event::Start(1)).unwrap();
    world.run(1, replica(0));
    world.run(1, replica(1));
    world.apply(&Event::Open(1)).unwrap();
    assert!(!world.nexuses[1].owner.is_equal(REGION));
    assert_eq!(world.nexuses[1].owner.copies(REGION), ChildSet::EMPTY);
    world.run_all(1);
    assert!(world.replicas[1].label.dirty.contains(REGION));
    assert_eq!(world.nexuses[1].owner.copies(REGION), ChildSet::only(child(1)));
    world.apply(&Event::Copy(1, child(1), REGION)).unwrap();
    assert!(world.nexuses[1].owner.is_equal(REGION));
}

/// The owner died when the page of marks was durable, and that of what R2 lacks was not.
#[test]
fn a_mark_that_no_map_of_an_absent_replica_has_is_copied_all_the_same() {
    planted::plant(None);
    let mut world = World::new(Config { replicas: 3, members: 3, ..PAIR });
    world.apply(&Event::GiveUp(0, child(2))).unwrap();
    world.run_all(0);
    let label = &mut world.replicas[0].label;
    let lacks_nothing = |missing: &Missing| missing.lacks.is_empty();
    assert!(label.missing.iter().flatten().all(lacks_nothing), "it was left out before the mark");
    label.dirty.insert(REGION);
    world.apply(&Event::Start(1)).unwrap();
    for index in 0..2 {
        world.run(1, replica(index));
    }
    world.apply(&Event::Open(1)).unwrap();
    while world.nexuses[1].owner.is_changing() {
        let voter = world.asks(1)[0];
        world.run(1, voter);
    }
    world.run_all(1);
    assert_eq!(world.nexuses[1].owner.copies(REGION), ChildSet::only(child(1)));
    for index in 0..2 {
        let mut missing = world.replicas[index].label.missing.iter().flatten();
        assert!(missing.all(|missing| missing.lacks.contains(REGION)), "R2 lacks it as well");
    }
}

#[test]
fn members_are_written_first_then_those_left_out_then_the_record_and_only_if_needed() {
    planted::plant(None);
    let mut world = World::new(PAIR);
    world.run_all(0);
    world.apply(&Event::Offline(0, child(1))).unwrap();
    assert_eq!(world.asks(0), [replica(0)]);
    world.run(0, replica(0));
    assert_eq!(world.asks(0), [replica(1)], "it votes for its own exclusion");
    world.run(0, replica(1));
    assert!(!world.nexuses[0].owner.is_changing(), "the record was not needed");

    let mut world = World::new(PAIR);
    world.run_all(0);
    world.apply(&Event::GiveUp(0, child(1))).unwrap();
    world.run(0, replica(0));
    assert_eq!(world.asks(0), [Voter::Record]);
    assert!(world.nexuses[0].owner.is_changing());
    world.run(0, Voter::Record);
    assert!(!world.nexuses[0].owner.is_changing());
}

/// R1 is left behind with the record's vote, and R0 goes on alone.
fn leave_r1_behind(world: &mut World) -> Result<(), String> {
    world.run_all(0);
    world.apply(&Event::GiveUp(0, child(1)))?;
    world.run(0, replica(0));
    world.run(0, Voter::Record);
    world.apply(&Event::Submit(0, REGION))?;
    world.run_all(0);
    world.data(0, 0);
    world.apply(&Event::Acknowledge(0))
}

#[test]
fn an_emptied_record_is_no_vote_for_a_replica_that_was_left_behind() {
    breaks(Bug::EmptyRecordVotes, || {
        let mut world = World::new(Config { record_losses: 1, ..PAIR });
        leave_r1_behind(&mut world)?;
        world.apply(&Event::RecordEmptied)?;
        world.apply(&Event::Start(1))?;
        world.run(1, Voter::Record);
        world.run(1, replica(1));
        world.apply(&Event::Open(1))?;
        if world.nexuses[1].owner.progress() == Progress::Claiming {
            return Ok(());
        }
        while !matches!(world.nexuses[1].owner.progress(), Progress::InForce { .. }) {
            let voter = world.asks(1)[0];
            world.run(1, voter);
        }
        world.apply(&Event::Read(1, child(1), REGION))
    });
}

#[test]
fn an_emptied_record_gives_an_owner_that_was_overtaken_no_vote() {
    breaks(Bug::EmptyRecordAccepts, || {
        let mut world = World::new(Config { record_losses: 1, ..PAIR });
        world.run_all(0);
        world.apply(&Event::Submit(0, REGION))?;
        world.run_all(0);
        world.data(0, 0);
        // The second owner goes on with R1 alone, by the record's vote.
        world.apply(&Event::Start(1))?;
        world.run(1, replica(1));
        world.run(1, Voter::Record);
        world.apply(&Event::Open(1))?;
        world.run(1, replica(1));
        world.run(1, Voter::Record);
        assert!(matches!(world.nexuses[1].owner.progress(), Progress::InForce { .. }));
        world.apply(&Event::RecordEmptied)?;
        world.apply(&Event::GiveUp(0, child(1)))?;
        world.run(0, replica(0));
        if world.asks(0) == [Voter::Record] {
            world.run(0, Voter::Record);
        }
        let acknowledge = Event::Acknowledge(0);
        if world.has_event(&acknowledge) { world.apply(&acknowledge) } else { Ok(()) }
    });
}

#[test]
fn an_emptied_record_votes_again_once_all_members_have_opened_the_volume() {
    planted::plant(None);
    let mut world = World::new(Config { record_losses: 1, ..PAIR });
    world.run_all(0);
    world.apply(&Event::RecordEmptied).unwrap();
    world.apply(&Event::Start(1)).unwrap();
    world.run(1, replica(0));
    world.run(1, Voter::Record);
    assert_eq!(world.asks(1), [replica(0), replica(1)], "promised too early to count");
    world.run(1, replica(0));
    world.run(1, replica(1));
    world.apply(&Event::Open(1)).unwrap();
    world.run_all(1);
    assert!(world.record.settled, "it was told of the epoch in force");
    world.apply(&Event::GiveUp(1, child(1))).unwrap();
    world.run(1, replica(0));
    world.run(1, Voter::Record);
    assert!(!world.nexuses[1].owner.is_changing());
}

#[test]
fn a_frozen_volume_says_whom_it_waits_for() {
    planted::plant(None);
    let mut world = World::new(Config { replicas: 3, members: 3, ..PAIR });
    world.run_all(0);
    for index in [1, 2] {
        world.apply(&Event::GiveUp(0, child(index))).unwrap();
    }
    while let Some(voter) = world.asks(0).first().copied() {
        world.run(0, voter);
    }
    let Progress::Frozen { waits_for } = world.nexuses[0].owner.progress() else {
        panic!("two of three are lost at once")
    };
    assert_eq!(waits_for.len(), 2, "{waits_for:?}");
    assert!(waits_for.iter().all(|name| name.starts_with("replica 00000000")), "{waits_for:?}");
}
