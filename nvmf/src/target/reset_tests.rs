//! Resets, shutdowns and lost connections while writes are at a slow device, on two cores.

use std::sync::Arc;

use bdev::delay::{Delay, Lateness};
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::SglDescriptor;
use bdev::rules::{Match, Rule, RuleSet};
use bdev::{BlockDevice, Geometry, Status};
use reactor::Nanos;
use reactor::socket::memory::MemoryLimits;

use super::TargetDescription;
use super::admin::QUIESCE_TIMEOUT;
use super::harness::Harness;
use super::namespace::{Access, Namespace, NamespaceId};
use super::subsystem::{Subsystem, SubsystemConfig, SubsystemKind};
use super::tests::{Host, SUBSYSTEM, io};
use crate::fabrics::Nqn;
use crate::pdu::Digests;

const ENABLE: u32 = 0x0046_0001;
const SHUTDOWN: u32 = ENABLE | 1 << 14;
const READY: u64 = 1;
const FATAL: u64 = 2;
const SHUTDOWN_OCCURRING: u64 = 1 << 2;
const SHUTDOWN_COMPLETE: u64 = 2 << 2;

/// A RAM disk that answers after this long.
fn slow(lateness: Nanos) -> TargetDescription {
    let nqn: Nqn = SUBSYSTEM.parse().unwrap();
    let geometry = Geometry { block_bytes: 512, blocks: 8192 };
    let ram = Arc::new(bdev::malloc::Malloc::new("ram", geometry, None).unwrap());
    let rule = Rule { meets: Match::default(), effect: Lateness::Fixed(lateness) };
    let rules = RuleSet { rules: vec![rule], ..RuleSet::default() };
    let device: Arc<dyn BlockDevice> = Arc::new(Delay::new(ram, rules));
    let namespaces = vec![Namespace::new(&nqn, NamespaceId(1), device, Access::ReadWrite)];
    let config = SubsystemConfig::new(nqn, SubsystemKind::Nvm, [7; 16]);
    let subsystem = Subsystem::new(SubsystemConfig { namespaces, ..config }).unwrap();
    TargetDescription::new(vec![subsystem])
}

pub(super) fn open(harness: &mut Harness, core: usize) -> Host {
    Host::initialize_on(harness, core, MemoryLimits::default(), Digests::default())
}

pub(super) fn attach(
    harness: &mut Harness,
    core: usize,
    queue_id: u16,
    controller_id: u16,
) -> Host {
    let mut queue = open(harness, core);
    let made = queue.connect(harness, queue_id, controller_id);
    assert!(made.status().is_success(), "{}", made.status());
    queue
}

/// Sends a write, which is at the device then.
pub(super) fn write(harness: &mut Harness, queue: &mut Host) {
    let sgl = SglDescriptor::in_capsule(0, 4096);
    queue.command(harness, io(1, 7, 8, 8, sgl), &[3; 4096]);
    harness.pump();
}

/// A controller whose admin queue is on core 1, and an I/O queue on each core with a write at the
/// device.
fn writing(lateness: Nanos) -> (Harness, Host, [Host; 2]) {
    let mut harness = Harness::with_cores(slow(lateness), 2);
    let mut admin = open(&mut harness, 1);
    let made = admin.connect(&mut harness, 0, 0xffff);
    assert_eq!((made.status(), made.result()), (Status::SUCCESS, 1));
    admin.enable(&mut harness);
    let queues = [0, 1].map(|core| {
        let mut queue = attach(&mut harness, core, 1 + core as u16, 1);
        write(&mut harness, &mut queue);
        queue
    });
    assert_eq!(harness.buffers_taken(), 2, "both writes are at the device");
    (harness, admin, queues)
}

fn configure(harness: &mut Harness, admin: &mut Host, value: u32) -> Status {
    let mut command = SubmissionEntry::new(0x7f, 2, 0);
    command.flags = 0x40;
    command.cdw11.set(0x14);
    command.cdw12.set(value);
    admin.command(harness, command, &[]);
    admin.completion(harness).status()
}

/// CSTS.
fn status(harness: &mut Harness, admin: &mut Host) -> u64 {
    let mut command = SubmissionEntry::new(0x7f, 3, 4);
    command.flags = 0x40;
    command.cdw11.set(0x1c);
    admin.command(harness, command, &[]);
    let done = admin.completion(harness);
    assert_eq!(done.status(), Status::SUCCESS);
    u64::from(done.result())
}

fn milliseconds(count: u64) -> Nanos {
    Nanos::from_millis(count)
}

#[test]
fn a_reset_is_complete_when_the_last_write_of_every_core_is_back() {
    let (mut harness, mut admin, mut queues) = writing(milliseconds(3000));
    assert_eq!(configure(&mut harness, &mut admin, 0), Status::SUCCESS);
    harness.wait(milliseconds(2800));
    assert_eq!(status(&mut harness, &mut admin), READY);
    assert!(queues.iter_mut().all(|queue| queue.end.is_closed()), "they are closed at once");
    assert_eq!(harness.buffers_taken(), 2);
    let too_soon = configure(&mut harness, &mut admin, ENABLE);
    assert!(too_soon.has_code(Status::COMMAND_SEQUENCE_ERROR));
    harness.wait(milliseconds(300));
    assert_eq!(harness.buffers_taken(), 0);
    assert_eq!(status(&mut harness, &mut admin), 0);
    assert_eq!(harness.connections(), 1);
    admin.enable(&mut harness);
    for (core, queue_id) in [(1, 1), (0, 2)] {
        attach(&mut harness, core, queue_id, 1);
    }
}

#[test]
fn a_shutdown_is_complete_when_the_last_write_of_every_core_is_back() {
    let (mut harness, mut admin, _queues) = writing(milliseconds(3000));
    assert_eq!(configure(&mut harness, &mut admin, SHUTDOWN), Status::SUCCESS);
    harness.wait(milliseconds(2800));
    assert_eq!(status(&mut harness, &mut admin), READY | SHUTDOWN_OCCURRING);
    harness.wait(milliseconds(300));
    assert_eq!(status(&mut harness, &mut admin), READY | SHUTDOWN_COMPLETE);
    assert_eq!(harness.buffers_taken(), 0);
}

#[test]
fn a_reset_amid_a_shutdown_waits_for_the_same_writes() {
    let (mut harness, mut admin, _queues) = writing(milliseconds(3000));
    configure(&mut harness, &mut admin, SHUTDOWN);
    harness.wait(milliseconds(1000));
    configure(&mut harness, &mut admin, 0);
    assert_eq!(status(&mut harness, &mut admin), READY);
    harness.wait(milliseconds(2200));
    assert_eq!(status(&mut harness, &mut admin), 0);
}

#[test]
fn a_controller_fails_whose_writes_do_not_come_back_in_time() {
    let (mut harness, mut admin, _queues) = writing(Nanos::from_secs(60));
    configure(&mut harness, &mut admin, 0);
    harness.wait(QUIESCE_TIMEOUT - milliseconds(100));
    assert_eq!(status(&mut harness, &mut admin), READY);
    harness.wait(milliseconds(500));
    assert_eq!(status(&mut harness, &mut admin) & FATAL, FATAL);
    harness.wait(Nanos::from_secs(60));
    assert_eq!(status(&mut harness, &mut admin) & FATAL, FATAL, "late writes change nothing");
}

#[test]
fn a_queue_that_is_lost_is_there_again_when_its_write_is_back() {
    let (mut harness, _admin, queues) = writing(milliseconds(3000));
    let [lost, _kept] = queues;
    drop(lost);
    harness.pump();
    let mut again = open(&mut harness, 1);
    again.send_connect(&mut harness, 1, 1);
    harness.wait(milliseconds(2800));
    again.end.exchange(&mut harness);
    assert!(again.end.received().is_empty(), "it waits");
    harness.wait(milliseconds(300));
    assert_eq!(again.completion(&mut harness).status(), Status::SUCCESS);
}

#[test]
fn a_host_comes_back_when_the_writes_of_its_lost_controller_are_back() {
    let (mut harness, admin, queues) = writing(milliseconds(3000));
    drop((admin, queues));
    harness.pump();
    let mut again = open(&mut harness, 0);
    again.send_connect(&mut harness, 0, 0xffff);
    harness.wait(milliseconds(2800));
    again.end.exchange(&mut harness);
    assert!(again.end.received().is_empty(), "it waits");
    harness.wait(milliseconds(300));
    let made = again.completion(&mut harness);
    assert_eq!((made.status(), made.result()), (Status::SUCCESS, 2));
    assert_eq!((harness.buffers_taken(), harness.connections()), (0, 1));
}

#[test]
fn a_host_that_gives_up_waiting_leaves_nothing_behind() {
    let (mut harness, admin, queues) = writing(milliseconds(3000));
    drop((admin, queues));
    harness.pump();
    let mut again = open(&mut harness, 1);
    again.send_connect(&mut harness, 0, 0xffff);
    harness.pump();
    drop(again);
    harness.wait(milliseconds(3500));
    assert_eq!((harness.buffers_taken(), harness.connections()), (0, 0));
    let made = open(&mut harness, 1).connect(&mut harness, 0, 0xffff);
    assert_eq!(made.status(), Status::SUCCESS);
}

/// Set Features, number of queues.
fn grant(harness: &mut Harness, admin: &mut Host, count: u32) -> Status {
    let sgl = SglDescriptor::transport_data_block(0);
    let mut command = SubmissionEntry::new(0x09, 4, 0).with_sgl(sgl);
    command.cdw10.set(0x07);
    command.cdw11.set((count - 1) * 0x1_0001);
    admin.command(harness, command, &[]);
    admin.completion(harness).status()
}

#[test]
fn the_number_of_queues_holds_on_every_core_and_is_fixed_while_there_are_queues() {
    let (mut harness, mut admin, [first, second]) = writing(milliseconds(1000));
    let sequence = |status: Status| status.has_code(Status::COMMAND_SEQUENCE_ERROR);
    assert!(sequence(grant(&mut harness, &mut admin, 1)));
    drop(first);
    harness.wait(milliseconds(1100));
    assert!(sequence(grant(&mut harness, &mut admin, 1)), "there is one left");
    drop(second);
    harness.pump();
    assert_eq!(grant(&mut harness, &mut admin, 2), Status::SUCCESS);
    let mut third = open(&mut harness, 0);
    let status = third.connect(&mut harness, 3, 1).status();
    assert!(status.has_code(Status::CONNECT_INVALID_PARAMETERS), "{status}");
    attach(&mut harness, 0, 2, 1);
    configure(&mut harness, &mut admin, 0);
    admin.enable(&mut harness);
    attach(&mut harness, 0, 3, 1);
}
