//! Reservations of a remote namespace, asked for in the name of its host.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bdev::reservation::device::{Answer, Outcome, Pending, Report, Request};
use bdev::reservation::{Command, Key, PersistenceChange, PreemptMode, ReservationType};
use bdev::{BlockDevice, Completions, Io, Lba, QueuePair, Status, Token};
use reactor::Nanos;
use reactor::dma::Segment;
use uuid::Uuid;

use super::connecting::default_options;
use super::loopback::{Host, PATIENCE, start_target};
use crate::initiator::ConnectOptions;
use crate::initiator::remote::{RemoteDevice, RemoteOptions};

const KIND: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;
const LEN_BYTES: u32 = 4096;
const BLOCKS: u32 = LEN_BYTES / 512;

/// A host of its own, with the device open.
struct Owner {
    host: Host,
    device: RemoteDevice,
    pair: Box<dyn QueuePair>,
}

impl Owner {
    fn new(address: SocketAddr, number: u128) -> Owner {
        let host_id = Uuid::from_u128(number);
        let connect = ConnectOptions { address, host_id, io_queues: 8, ..default_options() };
        let name = format!("of host {number}");
        let device = RemoteDevice::open(name, RemoteOptions::new(connect)).unwrap();
        let mut host = Host::new();
        let pair = device.open_queue_pair(&mut host.cx, 8).unwrap();
        Owner { host, device, pair }
    }

    fn ask(&self, request: Request) -> Outcome {
        let (reply, pending) = Pending::new(None);
        self.device.reservations().unwrap().begin(request, reply);
        let begin = Instant::now();
        loop {
            if let Some(outcome) = pending.take() {
                return outcome;
            }
            assert!(begin.elapsed() < PATIENCE, "no answer to {request:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn change(&self, command: Command) -> Result<(), Status> {
        self.ask(Request::Change(command)).map(|answer| assert_eq!(answer, Answer::Changed))
    }

    fn register(&self, key: u64) -> Result<(), Status> {
        let persistence = PersistenceChange::Keep;
        self.change(Command::Register { key: Key(key), persistence })
    }

    fn report(&self) -> Report {
        match self.ask(Request::Report) {
            Ok(Answer::Report(report)) => report,
            other => panic!("{other:?}"),
        }
    }

    fn io(&mut self, make: fn(Lba, u32, Segment, Token) -> Io) -> Status {
        let Owner { host, pair, .. } = self;
        let buffer = host.cx.dma.take(LEN_BYTES).unwrap();
        pair.submit(&mut host.cx, make(Lba(0), BLOCKS, buffer.segment(LEN_BYTES), Token(1)))
            .unwrap();
        let begin = Instant::now();
        let mut completions = Completions::new();
        loop {
            pair.flush(&mut host.cx);
            pair.poll(&mut host.cx, &mut completions);
            if let Some(completion) = completions.drain().next() {
                host.cx.dma.give(buffer);
                return completion.status;
            }
            assert!(begin.elapsed() < PATIENCE, "an I/O was lost");
            host.look();
        }
    }
}

#[test]
fn a_new_owner_takes_the_reservation_and_the_old_one_writes_no_more() {
    let (target, address) = start_target();
    let (mut old, mut new) = (Owner::new(address, 1), Owner::new(address, 2));
    assert!(old.device.reservations().unwrap().abilities().has(KIND));
    assert_eq!(old.report(), Report::default());
    old.register(1).unwrap();
    old.change(Command::Acquire { current: Key(1), kind: KIND }).unwrap();
    assert!(old.io(Io::write).is_success());
    assert!(new.io(Io::write).has_code(Status::RESERVATION_CONFLICT));
    assert!(new.io(Io::read).is_success());

    new.register(2).unwrap();
    let taken = new.change(Command::Acquire { current: Key(2), kind: KIND }).unwrap_err();
    assert!(taken.has_code(Status::RESERVATION_CONFLICT));
    let report = new.report();
    let entries: Vec<_> = report.registrants.iter().map(|one| (one.key, one.is_holder)).collect();
    assert_eq!(report.kind, Some(KIND));
    assert!(entries.contains(&(Key(1), true)) && entries.contains(&(Key(2), false)), "{report:?}");

    let (current, target_key, mode) = (Key(2), Key(1), PreemptMode::Abort);
    new.change(Command::Preempt { current, target: target_key, kind: KIND, mode }).unwrap();
    assert!(new.io(Io::write).is_success());
    assert!(old.io(Io::write).has_code(Status::RESERVATION_CONFLICT));
    let keys: Vec<Key> = new.report().registrants.iter().map(|one| one.key).collect();
    assert!(keys.iter().all(|key| *key == Key(2)), "{keys:?}");
    drop((old, new));
    assert!(target.stop(Nanos::from_millis(10)));
    target.join().unwrap();
}

#[test]
fn what_is_asked_of_a_target_that_is_gone_ends_with_a_path_status() {
    let (target, address) = start_target();
    let owner = Owner::new(address, 1);
    owner.register(1).unwrap();
    assert!(target.stop(Nanos::from_millis(10)));
    target.join().unwrap();
    for _ in 0..2 {
        let status = owner.register(1).unwrap_err();
        assert_eq!(status.code_type(), bdev::nvme::status::StatusCodeType::Path, "{status}");
    }
}
