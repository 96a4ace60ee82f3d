//! Persistence through power loss: what is stored, when, and what a target starts with.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use bdev::file::Backing;
use bdev::reservation::{ReservationStore, ReservationType, StoreError};
use bdev::{Aio, BlockDevice, Status};
use reactor::Nanos;
use uuid::Uuid;

use super::world::*;

/// CPTPL: kept through power loss, and not.
const KEEP: u32 = 3 << 30;
const LOSE: u32 = 2 << 30;
const NO_NAMESPACE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry();
const EXCLUSIVE: ReservationType = ReservationType::ExclusiveAccess;

/// A medium for one record. Each save waits to be let through, and fails if it is told to.
#[derive(Debug)]
struct Medium {
    record: Mutex<Option<Vec<u8>>>,
    gate: Mutex<Receiver<bool>>,
}

impl ReservationStore for Medium {
    fn load(&self, _: Uuid) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.record.lock().unwrap().clone())
    }

    fn save(&self, _: Uuid, record: &[u8]) -> Result<(), StoreError> {
        if self.gate.lock().unwrap().recv() != Ok(true) {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(StoreError::System { action: "write", place: self.place(), source });
        }
        *self.record.lock().unwrap() = Some(record.to_vec());
        Ok(())
    }

    fn place(&self) -> String {
        String::from("memory")
    }
}

fn medium() -> (Arc<Medium>, Sender<bool>) {
    let (sender, receiver) = channel();
    let medium = Medium { record: Mutex::new(None), gate: Mutex::new(receiver) };
    (Arc::new(medium), sender)
}

fn world(medium: &Arc<Medium>) -> World {
    let store: Arc<dyn ReservationStore> = medium.clone();
    let inner = ram(Nanos(0));
    let device = Special { inner, depth_max: u32::MAX, store: Some(store) };
    World::of([Arc::new(device), ram(Nanos(0))])
}

/// A command whose record is stored first.
fn stored(world: &mut World, host: &mut TestHost, opcode: u8, cdw10: u32, data: &[u8]) -> Status {
    world.send(host, 1, reservation(opcode, cdw10), data);
    world.completion_in_real_time(host, 1)
}

#[test]
fn what_is_kept_is_in_force_on_every_core_from_the_start() {
    let (medium, gate) = medium();
    (0..3).for_each(|_| gate.send(true).unwrap());
    let mut before = world(&medium);
    let mut one = before.host(1);
    assert_eq!(stored(&mut before, &mut one, 0x0d, KEEP, &keys(0, 7)), Status::SUCCESS);
    assert_eq!(stored(&mut before, &mut one, 0x11, 2 << 8, &keys(7, 0)), Status::SUCCESS);
    assert_eq!(before.report(&mut one).persistence, 1);
    drop((one, before));

    let mut after = world(&medium);
    let mut other = after.host(2);
    for core in 0..CORES {
        assert_eq!(after.run(&mut other, core, io(0x02, 512), &[]), conflict());
    }
    let mut back = after.host(1);
    assert_eq!(after.run(&mut back, 2, io(0x01, 512), &[3; 512]), Status::SUCCESS);
    let report = after.report(&mut back);
    assert_eq!((report.generation, report.kind, report.entries.len()), (0, 2, 1));
    assert_eq!(stored(&mut after, &mut back, 0x15, 2 << 8, &keys(7, 0)[..8]), Status::SUCCESS);
    assert_eq!(after.run(&mut other, 0, io(0x02, 512), &[]), Status::SUCCESS);
}

#[test]
fn what_is_not_to_be_kept_is_gone_after_a_restart() {
    let (medium, gate) = medium();
    (0..2).for_each(|_| gate.send(true).unwrap());
    let mut before = world(&medium);
    let mut one = before.host(1);
    assert_eq!(stored(&mut before, &mut one, 0x0d, KEEP, &keys(0, 7)), Status::SUCCESS);
    let again = stored(&mut before, &mut one, 0x0d, LOSE | 2, &keys(7, 9));
    assert_eq!(again, Status::SUCCESS);
    assert_eq!(before.acquire(&mut one, 9, EXCLUSIVE), Status::SUCCESS, "nothing to store");
    drop((one, before));

    let mut after = world(&medium);
    let mut other = after.host(2);
    assert_eq!(after.run(&mut other, 0, io(0x01, 512), &[3; 512]), Status::SUCCESS);
    assert_eq!(after.report(&mut other).entries, []);
}

#[test]
fn a_medium_that_hangs_holds_up_one_command_and_no_io() {
    let (medium, gate) = medium();
    let mut world = world(&medium);
    let mut one = world.host(1);
    world.send(&mut one, 1, reservation(0x0d, KEEP), &keys(0, 7));
    assert!(world.is_silent(&mut one, 1));
    assert_eq!(world.run(&mut one, 0, io(0x01, 512), &[3; 512]), Status::SUCCESS);
    let mut elsewhere = reservation(0x0d, 0);
    elsewhere.namespace_id.set(2);
    assert_eq!(world.run(&mut one, 2, elsewhere, &keys(0, 7)), Status::SUCCESS);
    gate.send(true).unwrap();
    assert_eq!(world.completion_in_real_time(&mut one, 1), Status::SUCCESS);
}

#[test]
fn what_cannot_be_stored_has_not_happened() {
    let (medium, gate) = medium();
    gate.send(false).unwrap();
    let mut world = world(&medium);
    let mut one = world.host(1);
    let failed = stored(&mut world, &mut one, 0x0d, KEEP, &keys(0, 7));
    assert_eq!(failed, Status::INTERNAL_ERROR, "to be tried again");
    let failures = world.kept(1).failures();
    assert_eq!(failures.count, 1);
    let words = failures.first.unwrap();
    assert!(words.contains("cannot write") && words.contains("memory"), "{words}");
    assert_eq!(world.report(&mut one).entries, []);
    gate.send(true).unwrap();
    assert_eq!(stored(&mut world, &mut one, 0x0d, KEEP, &keys(0, 7)), Status::SUCCESS);
    assert_eq!(world.report(&mut one).entries.len(), 1);
}

#[test]
fn a_namespace_that_comes_back_amid_a_save_starts_with_what_was_saved() {
    let (medium, gate) = medium();
    let mut world = world(&medium);
    let mut one = world.host(1);
    world.send(&mut one, 1, reservation(0x0d, KEEP), &keys(0, 7));
    assert!(world.is_silent(&mut one, 1));
    world.serve(&[2]);
    assert_eq!(world.completion(&mut one, 1), NO_NAMESPACE);
    assert!(!world.is_settled(), "its record is not to be loaded yet");
    gate.send(true).unwrap();
    for _ in 0..10_000 {
        world.harness.pump();
        if world.is_settled() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(world.is_settled());
    world.serve_anew();
    let report = world.report(&mut one);
    assert_eq!(report.entries.iter().map(|entry| entry.key).collect::<Vec<_>>(), [7]);
}

#[test]
fn the_feature_shows_persistence_and_changes_it() {
    let (medium, gate) = medium();
    (0..2).for_each(|_| gate.send(true).unwrap());
    let mut world = world(&medium);
    let mut one = world.host(1);
    let feature = |world: &mut World, one: &mut TestHost, opcode: u8, id: u32, value: u32| {
        let mut command = bdev::nvme::command::SubmissionEntry::new(opcode, 9, id)
            .with_sgl(bdev::nvme::sgl::SglDescriptor::transport_data_block(0));
        command.cdw10.set(0x83);
        command.cdw11.set(value);
        one.admin.command(&mut world.harness, command, &[]);
        for _ in 0..10_000 {
            one.admin.end.exchange(&mut world.harness);
            if !one.admin.end.received().is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let done = one.admin.completion(&mut world.harness);
        (done.status(), done.result())
    };
    let good = |value| (Status::SUCCESS, value);
    assert_eq!(feature(&mut world, &mut one, 0x0a, 1, 0), good(0));
    assert_eq!(feature(&mut world, &mut one, 0x09, 1, 1), good(0));
    assert_eq!(feature(&mut world, &mut one, 0x0a, 1, 0), good(1));
    let invalid = (Status::INVALID_FIELD.with_do_not_retry(), 0);
    assert_eq!(feature(&mut world, &mut one, 0x09, 2, 1), invalid, "a RAM disk keeps nothing");
    assert_eq!(feature(&mut world, &mut one, 0x0a, 2, 0), good(0));
    let unknown = (Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry(), 0);
    assert_eq!(feature(&mut world, &mut one, 0x0a, 3, 0), unknown);
    let mut identify = bdev::nvme::command::SubmissionEntry::new(0x06, 9, 1)
        .with_sgl(bdev::nvme::sgl::SglDescriptor::transport_data_block(4096));
    identify.cdw10.set(0);
    one.admin.command(&mut world.harness, identify, &[]);
    assert_eq!(one.admin.receive(&mut world.harness).data()[31], 0xff, "RESCAP");
}

/// A file of zeroes and its record, gone with the value.
struct Disk(std::path::PathBuf);

impl Disk {
    fn new(name: &str) -> Disk {
        let name = format!("reservations-{}-{name}.disk", std::process::id());
        let path = std::env::current_exe().unwrap().with_file_name(name);
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        Disk(path)
    }

    fn record(&self) -> String {
        format!("{}.reservations", self.0.display())
    }

    fn device(&self) -> Arc<dyn BlockDevice> {
        let backing = Backing::open(self.0.to_str().unwrap(), Some(512)).unwrap();
        Arc::new(Aio::new(Arc::new(backing), None).unwrap())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.record());
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_file_keeps_reservations_in_a_file_beside_it() {
    let disk = Disk::new("kept");
    let mut before = World::of([disk.device(), ram(Nanos(0))]);
    let mut one = before.host(1);
    assert_eq!(stored(&mut before, &mut one, 0x0d, KEEP, &keys(0, 7)), Status::SUCCESS);
    assert_eq!(stored(&mut before, &mut one, 0x11, 2 << 8, &keys(7, 0)), Status::SUCCESS);
    drop((one, before));
    let mut after = World::of([disk.device(), ram(Nanos(0))]);
    let mut other = after.host(2);
    assert_eq!(after.run(&mut other, 1, io(0x02, 512), &[]), conflict());
    assert_eq!(after.report(&mut other).entries.len(), 1);
}

#[test]
fn a_damaged_record_is_refused_with_its_name() {
    let disk = Disk::new("damaged");
    std::fs::write(disk.record(), b"not a record of anything, but long enough").unwrap();
    let refused = super::super::KeptReservations::load(&*disk.device(), Uuid::from_u128(1));
    let words = refused.unwrap_err().to_string();
    assert!(words.contains(&disk.record()) && words.contains("remove it"), "{words}");
}
