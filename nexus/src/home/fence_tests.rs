//! Owners that keep each other out by reservations at their replicas.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bdev::device::{Geometry, Limits, OpenError};
use bdev::reservation::device::{Abilities, Answer, Outcome, Reply, Report, Reported, Request};
use bdev::reservation::{
    Access, Command, DeviceReservations, Key, Persistence, PersistenceChange, Registrant,
    RegistrantId, ReservationType, Reservations,
};
use bdev::{BlockDevice, Busy, Completion, Completions, Io, QueuePair, Status};
use reactor::{Cx, Nanos, Wake};
use uuid::Uuid;

use super::tracked_tests::{self, Process, block_of, child_config, settings};
use crate::child::ChildState;
use crate::truth::tracked::{Fence, TrackedConfig};
use crate::volatile_disk::VolatileDisk;

const KIND: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

/// What a replica knows of its hosts.
type Register = Arc<Mutex<Reservations>>;

/// A replica, as one host has it.
#[derive(Clone, Debug)]
struct Replica {
    disk: Arc<VolatileDisk>,
    register: Register,
    host: RegistrantId,
    abilities: Abilities,
}

impl Replica {
    fn report(&self) -> Report {
        let register = self.register.lock().unwrap();
        let entry = |one: &bdev::reservation::Registration| Reported {
            host_id: one.registrant.id.bytes(),
            key: one.key,
            is_holder: register.is_holder(&one.registrant.id),
        };
        let kind = register.reservation().map(|held| held.kind);
        let registrants = register.registrations().iter().map(entry).collect();
        Report { generation: register.generation(), kind, is_persistent: false, registrants }
    }

    fn change(&self, command: Command) -> Outcome {
        let from = Registrant::unnamed(self.host);
        let applied = self.register.lock().unwrap().apply(&from, command);
        applied.map(|_| Answer::Changed).map_err(|refusal| refusal.nvme_status())
    }
}

impl DeviceReservations for Replica {
    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn begin(&self, request: Request, reply: Reply) {
        reply.send(match request {
            Request::Change(command) => self.change(command),
            Request::Report => Ok(Answer::Report(self.report())),
        });
    }
}

impl BlockDevice for Replica {
    fn name(&self) -> &str {
        self.disk.name()
    }

    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn limits(&self) -> Limits {
        self.disk.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.disk.uuid()
    }

    fn reservations(&self) -> Option<Arc<dyn DeviceReservations>> {
        (self.abilities != Abilities::default()).then(|| Arc::new(self.clone()) as Arc<_>)
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let (inner, replica) = (self.disk.open_queue_pair(cx, depth)?, self.clone());
        Ok(Box::new(Checked { inner, replica, refused: VecDeque::new() }))
    }
}

/// Refuses what the reservation forbids.
#[derive(Debug)]
struct Checked {
    inner: Box<dyn QueuePair>,
    replica: Replica,
    refused: VecDeque<Completion>,
}

impl QueuePair for Checked {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        let table = self.replica.register.lock().unwrap().access_table();
        if table.access(&self.replica.host, io.operation) == Access::Conflict {
            self.refused.push_back(Completion::new(io.token, Status::RESERVATION_CONFLICT));
            return Ok(());
        }
        self.inner.submit(cx, io)
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.inner.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        let refused = self.refused.drain(..).map(|one| completions.push(one)).count();
        refused + self.inner.poll(cx, completions)
    }

    fn credits(&self) -> u32 {
        self.inner.credits()
    }

    fn inflight(&self) -> u32 {
        self.inner.inflight() + u32::try_from(self.refused.len()).unwrap()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.inner.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        self.inner.wake()
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.inner.arm(cx)
    }
}

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
        let register = |_| Arc::new(Mutex::new(Reservations::new(Persistence::Unsupported)));
        World { disks, registers: (0..count).map(register).collect(), abilities }
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
