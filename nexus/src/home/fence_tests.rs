//! Owners that keep each other out by reservations at their replicas.

use std::sync::Arc;

use bdev::Status;
use bdev::reservation::device::Abilities;
use bdev::reservation::{Command, Key, PersistenceChange, RegistrantId, ReservationType};
use reactor::Nanos;

use super::tracked_tests::{self, Process, block_of, child_config, settings};
use crate::child::ChildState;
use crate::reserved_disk::{self, Register, Replica};
use crate::truth::tracked::{Fence, TrackedConfig};
use crate::volatile_disk::VolatileDisk;

const KIND: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

/// Replicas of a new volume, and owners on hosts of their own.
struct World {
    disks: Vec<Arc<VolatileDisk>>,
    registers: Vec<Register>,
    abilities: Abilities,
}

impl World {
    fn new(count: usize, abilities: Abilities) -> World {
        let disks = tracked_tests::disks(count);
        tracked_tests::format(&disks);
        let registers = (0..count).map(|_| reserved_disk::register()).collect();
        World { disks, registers, abilities }
    }

    fn replica(&self, place: usize, host: u8) -> Replica {
        let host = RegistrantId::nvme([host; 16]).unwrap();
        let (disk, register) = (self.disks[place].clone(), self.registers[place].clone());
        Replica { disk, register, host, abilities: self.abilities }
    }

    fn start(&self, host: u8) -> Process {
        let child = |(place, disk)| {
            let device = Arc::new(self.replica(place, host));
            crate::config::ChildConfig { device, ..child_config(place, disk) }
        };
        let children = self.disks.iter().enumerate().map(child).collect();
        let polled = TrackedConfig { fence: Some(Fence::Polled), ..settings() };
        Process::start_over(children, polled)
    }

    fn holders(&self) -> Vec<Vec<[u8; 16]>> {
        let holders = |place| self.replica(place, 1).report().registrants;
        let ids = |place| holders(place).iter().map(|one| one.host_id).collect();
        (0..self.disks.len()).map(ids).collect()
    }
}

fn all_kinds() -> Abilities {
    Abilities(0x7e)
}

/// The newer owner of two, in service; the older one was not polled meanwhile.
fn overtaken() -> (World, Process, Process) {
    let world = World::new(3, all_kinds());
    let mut older = world.start(1);
    older.open();
    older.write(block_of(1), 1);
    assert_eq!(world.holders(), vec![vec![[1; 16]]; 3]);
    let mut newer = world.start(2);
    newer.open();
    assert_eq!(world.holders(), vec![vec![[2; 16]]; 3]);
    newer.write(block_of(1), 2);
    (world, older, newer)
}

#[test]
fn writes_of_an_older_owner_do_not_land_and_are_not_acknowledged() {
    let (world, mut older, mut newer) = overtaken();
    // It knows of nothing: its lease has not run out by its clock.
    older.submit_write(block_of(1), 9);
    older.passes();
    assert_eq!(older.ended, [(block_of(1), Status::INTERNAL_PATH_ERROR)]);
    for place in 0..3 {
        assert_eq!(older.state(place), ChildState::Open, "nothing is wrong with a replica");
    }
    assert_eq!(newer.read(block_of(1)), 2);
    newer.close();
    assert!(tracked_tests::are_equal(&world.disks));
}

#[test]
fn labels_of_an_older_owner_do_not_land_either() {
    let (world, mut older, mut newer) = overtaken();
    let before = world.disks[0].state().contents(0);
    older.home.offline(&mut older.cx, "child2").unwrap();
    older.wait(Nanos::from_secs(1));
    assert!(before == world.disks[0].state().contents(0));
    assert_eq!(older.state(0), ChildState::Open);
    older.submit_write(block_of(4), 9);
    older.passes();
    assert_eq!(older.ended, [(block_of(4), Status::INTERNAL_PATH_ERROR)]);
    newer.write(block_of(4), 5);
    assert_eq!(newer.read(block_of(4)), 5);
}

#[test]
fn a_volume_that_is_closed_leaves_no_reservation() {
    let world = World::new(2, all_kinds());
    let mut process = world.start(1);
    process.open();
    process.write(block_of(0), 1);
    process.close();
    assert_eq!(world.holders(), vec![Vec::<[u8; 16]>::new(); 2]);
}

#[test]
fn a_replica_that_a_stranger_has_reserved_is_left_alone() {
    let world = World::new(3, all_kinds());
    let mut process = world.start(1);
    process.open();
    process.close();
    let stranger = world.replica(2, 9);
    let (key, persistence) = (Key(77), PersistenceChange::Keep);
    stranger.change(Command::Register { key, persistence }).unwrap();
    stranger.change(Command::Acquire { current: key, kind: KIND }).unwrap();
    let mut process = world.start(1);
    process.open();
    process.write(block_of(0), 1);
    assert!(matches!(process.state(2), ChildState::Faulted(_)));
    let report = process.home.children().nth(2).unwrap();
    assert!(report.words.unwrap().contains("0x4d"));
    assert_eq!(world.holders()[2], [[9; 16]]);
}

#[test]
fn replicas_without_reservations_are_named_and_used_all_the_same() {
    let world = World::new(2, Abilities::default());
    let mut process = world.start(1);
    process.open();
    let notice = process.home.notice().unwrap().to_owned();
    assert!(notice.contains("no reservations at child0, child1"), "{notice}");
    process.write(block_of(0), 1);
}
