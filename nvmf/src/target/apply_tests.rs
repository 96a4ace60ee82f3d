//! A description that changes while hosts are connected.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bdev::delay::Lateness;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::log_page::AnaState;
use bdev::nvme::sgl::SglDescriptor;
use bdev::rules::{Match, Rule, RuleSet};
use bdev::{
    BlockDevice, Busy, Completions, Delay, Geometry, Io, Limits, Malloc, OpenError, QueuePair,
    Status,
};
use reactor::{Cx, Nanos, Wake};
use uuid::Uuid;

use super::harness::Harness;
use super::namespace::{Access, Namespace, NamespaceId};
use super::reset_tests::{attach, open, write};
use super::statistics::NamespaceStatistics;
use super::subsystem::{HostPolicy, Subsystem, SubsystemConfig, SubsystemKind};
use super::tests::{Host, SUBSYSTEM};
use super::{SubsystemId, TargetDescription};
use crate::fabrics::Nqn;

const LATENESS: Nanos = Nanos::from_millis(1000);

fn nqn() -> Nqn {
    SUBSYSTEM.parse().unwrap()
}

pub(super) fn ram(blocks: u64) -> Arc<dyn BlockDevice> {
    let geometry = Geometry { block_bytes: 512, blocks };
    Arc::new(Malloc::new("ram", geometry, None).unwrap())
}

pub(super) fn slow(device: Arc<dyn BlockDevice>) -> Arc<dyn BlockDevice> {
    let rule = Rule { meets: Match::default(), effect: Lateness::Fixed(LATENESS) };
    Arc::new(Delay::new(device, RuleSet { rules: vec![rule], ..RuleSet::default() }))
}

pub(super) fn namespace(id: u32, device: &Arc<dyn BlockDevice>) -> Namespace {
    let statistics = Arc::new(NamespaceStatistics::new(2));
    let made = Namespace::new(&nqn(), NamespaceId(id), Arc::clone(device), Access::ReadWrite);
    Namespace { statistics, ..made }
}

pub(super) fn subsystem(namespaces: Vec<Namespace>) -> SubsystemConfig {
    let config = SubsystemConfig::new(nqn(), SubsystemKind::Nvm, [7; 16]);
    SubsystemConfig { namespaces, ..config }
}

pub(super) fn described(config: SubsystemConfig) -> TargetDescription {
    TargetDescription::new(vec![Subsystem::new(config).unwrap()])
}

/// A target of two cores with a controller and a queue on each core.
pub(super) struct Connected {
    pub harness: Harness,
    pub admin: Host,
    pub queues: [Host; 2],
}

impl Connected {
    pub fn to(config: SubsystemConfig) -> Connected {
        let mut harness = Harness::with_cores(described(config), 2);
        let mut admin = open(&mut harness, 1);
        assert!(admin.connect(&mut harness, 0, 0xffff).status().is_success());
        admin.enable(&mut harness);
        let sgl = SglDescriptor::transport_data_block(0);
        let mut events = SubmissionEntry::new(0x09, 39, 0).with_sgl(sgl);
        events.cdw10.set(0x0b);
        events.cdw11.set(1 << 8 | 1 << 11);
        admin.command(&mut harness, events, &[]);
        assert!(admin.completion(&mut harness).status().is_success());
        let queues = [0, 1].map(|core| attach(&mut harness, core, core as u16 + 1, 1));
        Connected { harness, admin, queues }
    }

    pub fn apply(&mut self, description: TargetDescription) {
        let description = Arc::new(description);
        let Harness { core, cx, others, .. } = &mut self.harness;
        core.apply(cx, Arc::clone(&description)).unwrap();
        for other in others {
            other.core.apply(&mut other.cx, Arc::clone(&description)).unwrap();
        }
    }

    pub fn is_settled(&self) -> bool {
        self.harness.core.is_settled()
            && self.harness.others.iter().all(|one| one.core.is_settled())
    }

    /// Reads the block at `lba` of a namespace by the queue on `core`.
    pub fn read(&mut self, core: usize, namespace: u32, lba: u32) -> Result<Vec<u8>, Status> {
        let sgl = SglDescriptor::transport_data_block(512);
        let mut command = SubmissionEntry::new(0x02, 9, namespace).with_sgl(sgl);
        command.cdw10.set(lba);
        let queue = &mut self.queues[core];
        queue.command(&mut self.harness, command, &[]);
        queue.read_answer(&mut self.harness)
    }

    /// Asks for an event; to be answered by [`Connected::event`].
    fn ask_for_event(&mut self) {
        let sgl = SglDescriptor::transport_data_block(0);
        self.admin.command(&mut self.harness, SubmissionEntry::new(0x0c, 40, 0).with_sgl(sgl), &[]);
        self.harness.pump();
    }

    fn event(&mut self) -> u32 {
        self.admin.completion(&mut self.harness).result()
    }
}

#[test]
fn a_namespace_that_is_added_is_told_of_and_can_be_read_on_every_core() {
    let (first, second) = (ram(64), ram(128));
    let mut connected = Connected::to(subsystem(vec![namespace(1, &first)]));
    connected.ask_for_event();
    assert_eq!(
        connected.read(0, 2, 0),
        Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry())
    );
    let both = vec![namespace(1, &first), namespace(2, &second)];
    connected.apply(described(subsystem(both)));
    assert_eq!(connected.event(), 0x0004_0002, "changed namespaces");
    for core in [0, 1] {
        assert_eq!(connected.read(core, 2, 127).unwrap(), [0; 512]);
        assert_eq!(connected.read(core, 1, 0).unwrap(), [0; 512]);
    }
}

#[test]
fn a_namespace_that_is_removed_takes_nothing_new_and_lets_go_once_its_io_is_back() {
    let device = slow(ram(64));
    let watched = Arc::downgrade(&device);
    let kept = ram(64);
    let mut connected = Connected::to(subsystem(vec![namespace(1, &device), namespace(2, &kept)]));
    drop(device);
    for queue in &mut connected.queues {
        write(&mut connected.harness, queue);
    }
    connected.apply(described(subsystem(vec![namespace(2, &kept)])));
    assert!(!connected.is_settled());
    assert_eq!(
        connected.read(1, 1, 0),
        Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry())
    );
    assert!(connected.read(1, 2, 0).is_ok());
    connected.harness.wait(LATENESS + Nanos::from_millis(100));
    assert!(connected.is_settled());
    for queue in &mut connected.queues {
        assert!(queue.completion(&mut connected.harness).status().is_success());
    }
    assert!(watched.upgrade().is_none(), "nobody holds the device");
}

#[test]
fn a_device_that_is_replaced_gets_new_io_only_after_the_old_one_has_answered() {
    let below = ram(64);
    let device = slow(Arc::clone(&below));
    let mut connected = Connected::to(subsystem(vec![namespace(1, &device)]));
    write(&mut connected.harness, &mut connected.queues[0]);
    connected.apply(described(subsystem(vec![namespace(1, &below)])));
    assert!(!connected.is_settled());
    let sgl = SglDescriptor::transport_data_block(512);
    let read = SubmissionEntry::new(0x02, 9, 1).with_sgl(sgl);
    connected.queues[0].command(&mut connected.harness, read, &[]);
    connected.harness.pump();
    assert!(connected.queues[0].end.received().is_empty(), "it waits for the write");
    connected.harness.wait(LATENESS + Nanos::from_millis(100));
    assert!(connected.is_settled());
    assert!(connected.queues[0].completion(&mut connected.harness).status().is_success());
    assert!(connected.queues[0].read_answer(&mut connected.harness).is_ok());
    assert!(connected.read(1, 1, 0).is_ok(), "the other core had nothing under way");
}

#[test]
fn a_namespace_that_grew_is_told_of_and_its_new_blocks_can_be_read() {
    let (small, large) = (ram(64), ram(96));
    let mut connected = Connected::to(subsystem(vec![namespace(1, &small)]));
    connected.ask_for_event();
    assert_eq!(connected.read(0, 1, 80), Err(Status::LBA_OUT_OF_RANGE.with_do_not_retry()));
    connected.apply(described(subsystem(vec![namespace(1, &large)])));
    assert_eq!(connected.event(), 0x0004_0002);
    assert!(connected.read(0, 1, 80).is_ok());
    assert!(connected.read(1, 1, 95).is_ok());
}

#[test]
fn an_inaccessible_namespace_is_told_of_and_refuses_as_a_path_error() {
    let device = ram(64);
    let mut connected = Connected::to(subsystem(vec![namespace(1, &device)]));
    for (state, refusal) in [
        (AnaState::Inaccessible, Some(Status::ANA_INACCESSIBLE)),
        (AnaState::Change, Some(Status::ANA_TRANSITION)),
        (AnaState::PersistentLoss, Some(Status::ANA_PERSISTENT_LOSS)),
        (AnaState::NonOptimized, None),
    ] {
        connected.ask_for_event();
        let changed = Namespace { ana: state, ..namespace(1, &device) };
        connected.apply(described(subsystem(vec![changed])));
        assert_eq!(connected.event(), 0x000c_0302, "ANA change");
        let sgl = SglDescriptor::transport_data_block(4096);
        let mut log = SubmissionEntry::new(0x02, 41, 0xffff_ffff).with_sgl(sgl);
        log.cdw10.set(0x0c | 1023 << 16);
        connected.admin.command(&mut connected.harness, log, &[]);
        let page = connected.admin.read_answer(&mut connected.harness).unwrap();
        assert_eq!(page[32], state.value());
        assert_eq!(connected.read(1, 1, 0).err(), refusal);
    }
}

#[test]
fn a_subsystem_that_is_removed_closes_its_connections_everywhere() {
    let device = ram(64);
    let mut connected = Connected::to(subsystem(vec![namespace(1, &device)]));
    let mut description = described(subsystem(Vec::new()));
    description.subsystems.remove(&SubsystemId(0));
    connected.apply(description);
    connected.harness.pump();
    assert!(connected.admin.end.is_closed());
    assert!(connected.queues.iter_mut().all(|queue| queue.end.is_closed()));
    assert_eq!(connected.harness.connections(), 0);
    assert!(connected.is_settled());
}

#[test]
fn a_host_that_is_no_longer_allowed_is_closed_and_others_stay() {
    let device = ram(64);
    let mut connected = Connected::to(subsystem(vec![namespace(1, &device)]));
    let allow = |hosts| {
        described(SubsystemConfig {
            hosts: HostPolicy::Only(hosts),
            ..subsystem(vec![namespace(1, &device)])
        })
    };
    connected.apply(allow(vec![super::tests::HOST.parse().unwrap()]));
    assert!(connected.read(0, 1, 0).is_ok());
    connected.apply(allow(Vec::new()));
    connected.harness.pump();
    assert!(connected.admin.end.is_closed());
    assert!(connected.queues.iter_mut().all(|queue| queue.end.is_closed()));
}

/// A device below `below` that allows one queue pair at a time, and none once it is broken.
#[derive(Debug)]
struct Exclusive {
    below: Arc<dyn BlockDevice>,
    is_open: Arc<AtomicBool>,
    is_broken: Arc<AtomicBool>,
}

/// A queue pair of it, which lets go when it is dropped.
#[derive(Debug)]
struct ExclusiveQueuePair {
    below: Box<dyn QueuePair>,
    is_open: Arc<AtomicBool>,
}

impl Exclusive {
    fn new(below: Arc<dyn BlockDevice>, shared: &(Arc<AtomicBool>, Arc<AtomicBool>)) -> Exclusive {
        let (is_open, is_broken) = shared.clone();
        Exclusive { below, is_open, is_broken }
    }
}

impl BlockDevice for Exclusive {
    fn name(&self) -> &str {
        self.below.name()
    }

    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }

    fn limits(&self) -> Limits {
        self.below.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.below.uuid()
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let is_refused = self.is_broken.load(Ordering::Relaxed);
        if is_refused || self.is_open.swap(true, Ordering::Relaxed) {
            let source = std::io::Error::from(std::io::ErrorKind::ResourceBusy);
            return Err(OpenError::System { device: String::from("exclusive"), source });
        }
        let (below, is_open) = (self.below.open_queue_pair(cx, depth)?, Arc::clone(&self.is_open));
        Ok(Box::new(ExclusiveQueuePair { below, is_open }))
    }
}

impl Drop for ExclusiveQueuePair {
    fn drop(&mut self) {
        self.is_open.store(false, Ordering::Relaxed);
    }
}

impl QueuePair for ExclusiveQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        self.below.submit(cx, io)
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.below.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.below.poll(cx, completions)
    }

    fn credits(&self) -> u32 {
        self.below.credits()
    }

    fn inflight(&self) -> u32 {
        self.below.inflight()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.below.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        self.below.wake()
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.below.arm(cx)
    }
}

/// A controller with one queue on the first core, as only that one may open the device.
fn connected_to(device: &Arc<dyn BlockDevice>) -> (Harness, Host, Host) {
    let mut harness = Harness::new(described(subsystem(vec![namespace(1, device)])));
    let mut admin = open(&mut harness, 0);
    assert!(admin.connect(&mut harness, 0, 0xffff).status().is_success());
    admin.enable(&mut harness);
    let queue = attach(&mut harness, 0, 1, 1);
    (harness, admin, queue)
}

fn read(harness: &mut Harness, queue: &mut Host, lba: u32) {
    let sgl = SglDescriptor::transport_data_block(512);
    let mut command = SubmissionEntry::new(0x02, 9, 1).with_sgl(sgl);
    command.cdw10.set(lba);
    queue.command(harness, command, &[]);
}

#[test]
fn a_device_that_allows_one_queue_pair_grows_under_load() {
    let shared = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
    let small: Arc<dyn BlockDevice> = Arc::new(Exclusive::new(slow(ram(64)), &shared));
    let large: Arc<dyn BlockDevice> = Arc::new(Exclusive::new(ram(96), &shared));
    let (mut harness, _admin, mut queue) = connected_to(&small);
    write(&mut harness, &mut queue);
    let grown = Arc::new(described(subsystem(vec![namespace(1, &large)])));
    harness.core.apply(&mut harness.cx, grown).unwrap();
    read(&mut harness, &mut queue, 80);
    harness.pump();
    assert!(!harness.core.is_settled());
    harness.wait(LATENESS + Nanos::from_millis(100));
    assert!(harness.core.is_settled() && harness.core.take_failure().is_none());
    assert!(queue.completion(&mut harness).status().is_success(), "the write");
    assert!(queue.read_answer(&mut harness).is_ok(), "the read past the old end");
}

#[test]
fn a_device_that_cannot_be_opened_anew_is_told_of_and_refuses_until_a_later_change() {
    let shared = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
    let first: Arc<dyn BlockDevice> = Arc::new(Exclusive::new(slow(ram(64)), &shared));
    let second: Arc<dyn BlockDevice> = Arc::new(Exclusive::new(ram(64), &shared));
    let (mut harness, _admin, mut queue) = connected_to(&first);
    write(&mut harness, &mut queue);
    shared.1.store(true, Ordering::Relaxed);
    let changed = || Arc::new(described(subsystem(vec![namespace(1, &second)])));
    harness.core.apply(&mut harness.cx, changed()).unwrap();
    read(&mut harness, &mut queue, 0);
    harness.wait(LATENESS + Nanos::from_millis(100));
    assert!(queue.completion(&mut harness).status().is_success(), "the write");
    assert_eq!(queue.read_answer(&mut harness), Err(Status::INTERNAL_ERROR));
    assert!(!harness.core.is_settled(), "nobody was told");
    assert_eq!(harness.core.take_failure().unwrap().subsystem, SUBSYSTEM);
    assert!(harness.core.take_failure().is_none() && harness.core.is_settled());
    assert_eq!(Arc::strong_count(&first), 1, "nobody else holds the device");
    harness.core.apply(&mut harness.cx, changed()).unwrap_err();
    shared.1.store(false, Ordering::Relaxed);
    harness.core.apply(&mut harness.cx, changed()).unwrap();
    read(&mut harness, &mut queue, 0);
    assert!(queue.read_answer(&mut harness).is_ok());
}
