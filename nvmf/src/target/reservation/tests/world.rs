//! A target of three cores with two namespaces, and hosts with a queue on each core.

use std::sync::Arc;

use bdev::delay::{Delay, Lateness};
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::SglDescriptor;
use bdev::reservation::{ReservationStore, ReservationType};
use bdev::rules::{Match, Rule, RuleSet};
use bdev::{BlockDevice, Geometry, Limits, OpenError, QueuePair, Status};
use reactor::socket::memory::MemoryLimits;
use reactor::{Cx, Nanos};
use uuid::Uuid;
use zerocopy::{FromBytes, IntoBytes};

use crate::fabrics::Nqn;
use crate::pdu::{DataRange, Digests, Flags, H2cData, PduKind, ReadyToTransfer};
use crate::target::TargetDescription;
use crate::target::harness::Harness;
use crate::target::namespace::{Access, Namespace, NamespaceId};
use crate::target::reservation::KeptReservations;
use crate::target::subsystem::{Subsystem, SubsystemConfig, SubsystemKind};
use crate::target::tests::{Host, SUBSYSTEM};

pub const CORES: usize = 3;

/// One range of one block, as Dataset Management has it.
pub const RANGE: [u8; 16] = [0, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];

const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 8192 };

pub fn conflict() -> Status {
    Status::RESERVATION_CONFLICT.with_do_not_retry()
}

/// An I/O command of one block of namespace 1 with so many bytes of data.
pub fn io(opcode: u8, len_bytes: u32) -> SubmissionEntry {
    let is_from_host = opcode & 3 == 1;
    let sgl = if is_from_host && len_bytes > 0 {
        SglDescriptor::in_capsule(0, len_bytes)
    } else {
        SglDescriptor::transport_data_block(len_bytes)
    };
    crate::target::tests::io(opcode, 0, 8, 1, sgl)
}

pub fn flush() -> SubmissionEntry {
    SubmissionEntry::new(0, 0, 1).with_sgl(SglDescriptor::transport_data_block(0))
}

pub fn deallocate() -> SubmissionEntry {
    let mut command = SubmissionEntry::new(9, 0, 1).with_sgl(SglDescriptor::in_capsule(0, 16));
    command.cdw11.set(4);
    command
}

/// A reservation command whose data is in the capsule.
pub fn reservation(opcode: u8, cdw10: u32) -> SubmissionEntry {
    let len_bytes = if opcode == 0x15 { 8 } else { 16 };
    let sgl = SglDescriptor::in_capsule(0, len_bytes);
    let mut command = SubmissionEntry::new(opcode, 0, 1).with_sgl(sgl);
    command.cdw10.set(cdw10);
    command
}

/// A report of 4 KiB.
pub fn report_command() -> SubmissionEntry {
    let sgl = SglDescriptor::transport_data_block(4096);
    let mut command = SubmissionEntry::new(0x0e, 0, 1).with_sgl(sgl);
    command.cdw10.set(1023);
    command.cdw11.set(1);
    command
}

pub fn keys(first: u64, second: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    bytes
}

/// What a report says.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    pub generation: u32,
    pub kind: u8,
    pub persistence: u8,
    pub entries: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub controller_id: u16,
    pub status: u8,
    pub key: u64,
    pub host: [u8; 16],
}

impl Report {
    fn of(bytes: &[u8]) -> Report {
        let entry = |bytes: &[u8]| Entry {
            controller_id: u16::from_le_bytes([bytes[0], bytes[1]]),
            status: bytes[2],
            key: u64::from_le_bytes(bytes[8..16].try_into().unwrap()),
            host: bytes[16..32].try_into().unwrap(),
        };
        let count = usize::from(u16::from_le_bytes([bytes[5], bytes[6]]));
        Report {
            generation: u32::from_le_bytes(bytes[..4].try_into().unwrap()),
            kind: bytes[4],
            persistence: bytes[9],
            entries: bytes[64..].chunks(64).take(count).map(entry).collect(),
        }
    }
}

/// A device that has one I/O of a core at a time, or keeps reservations.
#[derive(Debug)]
pub struct Special {
    pub inner: Arc<dyn BlockDevice>,
    pub depth_max: u32,
    pub store: Option<Arc<dyn ReservationStore>>,
}

impl BlockDevice for Special {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.inner.uuid()
    }

    fn reservation_store(&self) -> Option<Arc<dyn ReservationStore>> {
        self.store.clone()
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        self.inner.open_queue_pair(cx, depth.min(self.depth_max))
    }
}

/// A RAM disk that answers after this long.
pub fn ram(lateness: Nanos) -> Arc<dyn BlockDevice> {
    let ram = Arc::new(bdev::malloc::Malloc::new("ram", GEOMETRY, None).unwrap());
    if lateness == Nanos(0) {
        return ram;
    }
    let rule = Rule { meets: Match::default(), effect: Lateness::Fixed(lateness) };
    Arc::new(Delay::new(ram, RuleSet { rules: vec![rule], ..RuleSet::default() }))
}

/// Namespaces 1 and 2, with what their devices have kept.
fn loaded(devices: &[Arc<dyn BlockDevice>; 2]) -> Vec<Namespace> {
    let nqn: Nqn = SUBSYSTEM.parse().unwrap();
    let namespace = |(id, device): (u32, &Arc<dyn BlockDevice>)| {
        let device = Arc::clone(device);
        let namespace = Namespace::new(&nqn, NamespaceId(id), device, Access::ReadWrite);
        namespace.with_kept_reservations().unwrap()
    };
    (1..).zip(devices).map(namespace).collect()
}

fn described(namespaces: &[Namespace]) -> TargetDescription {
    let nqn: Nqn = SUBSYSTEM.parse().unwrap();
    let config = SubsystemConfig::new(nqn, SubsystemKind::Nvm, [7; 16]);
    let namespaces = namespaces.to_vec();
    TargetDescription::new(vec![Subsystem::new(SubsystemConfig { namespaces, ..config }).unwrap()])
}

/// A host: a controller and a queue of it on each core.
pub struct TestHost {
    pub admin: Host,
    pub controller_id: u16,
    queues: Vec<Host>,
    commands: u16,
}

pub struct World {
    pub harness: Harness,
    devices: [Arc<dyn BlockDevice>; 2],
    namespaces: Vec<Namespace>,
}

impl World {
    /// Both namespaces on disks that answer after this long.
    pub fn new(lateness: Nanos) -> World {
        World::of([ram(lateness), ram(lateness)])
    }

    /// As [`World::new`], with one I/O of a core at the device.
    pub fn narrow(lateness: Nanos) -> World {
        let device = || Special { inner: ram(lateness), depth_max: 1, store: None };
        World::of([Arc::new(device()), Arc::new(device())])
    }

    pub fn of(devices: [Arc<dyn BlockDevice>; 2]) -> World {
        let namespaces = loaded(&devices);
        let harness = Harness::with_cores(described(&namespaces), CORES);
        World { harness, devices, namespaces }
    }

    /// What the namespace of this number keeps.
    pub fn kept(&self, id: u32) -> &KeptReservations {
        let found = self.namespaces.iter().find(|one| one.id == NamespaceId(id));
        &found.unwrap().reservations
    }

    /// Serves the namespaces of these numbers and no others.
    pub fn serve(&mut self, ids: &[u32]) {
        self.namespaces.retain(|one| ids.contains(&one.id.0));
        self.apply();
    }

    /// Serves both namespaces, with the reservations that their devices have kept by now.
    pub fn serve_anew(&mut self) {
        self.namespaces = loaded(&self.devices);
        self.apply();
    }

    fn apply(&mut self) {
        let description = Arc::new(described(&self.namespaces));
        let Harness { core, cx, others, .. } = &mut self.harness;
        core.apply(cx, Arc::clone(&description)).unwrap();
        for other in others {
            other.core.apply(&mut other.cx, Arc::clone(&description)).unwrap();
        }
        self.harness.pump();
    }

    /// Whether nothing is left of what was served before.
    pub fn is_settled(&self) -> bool {
        let others = &self.harness.others;
        self.harness.core.is_settled() && others.iter().all(|one| one.core.is_settled())
    }

    /// Disables the controller of a host, and enables it and connects its queues again.
    pub fn reset(&mut self, host: &mut TestHost, number: u8) {
        let mut disable = SubmissionEntry::new(0x7f, 2, 0);
        disable.flags = 0x40;
        disable.cdw11.set(0x14);
        host.admin.command(&mut self.harness, disable, &[]);
        assert!(host.admin.completion(&mut self.harness).status().is_success());
        self.harness.pump();
        assert!(host.queues.iter_mut().all(|queue| queue.end.is_closed()));
        host.admin.enable(&mut self.harness);
        let controller = host.controller_id;
        let queue = |core| self.connect(core, number, 1 + core as u16, controller).0;
        host.queues = (0..CORES).map(queue).collect();
    }

    fn connect(&mut self, core: usize, number: u8, queue_id: u16, controller: u16) -> (Host, u16) {
        let limits = MemoryLimits::default();
        let harness = &mut self.harness;
        let mut queue = Host::initialize_on(harness, core, limits, Digests::default());
        let (command, mut data) = Host::connect_parts(queue_id, controller);
        data.host_id = [number; 16];
        let name = format!("nqn.2014-08.org.nvmexpress:host-{number}");
        data.host_nqn = name.parse::<Nqn>().unwrap().to_field();
        queue.command(harness, command, data.as_bytes());
        let made = queue.completion(harness);
        assert!(made.status().is_success(), "{}", made.status());
        (queue, u16::try_from(made.result()).unwrap())
    }

    /// A host of this number, with one more controller.
    pub fn host(&mut self, number: u8) -> TestHost {
        let core = usize::from(number) % CORES;
        let (mut admin, controller_id) = self.connect(core, number, 0, 0xffff);
        admin.enable(&mut self.harness);
        let queue = |core| self.connect(core, number, 1 + core as u16, controller_id).0;
        let queues = (0..CORES).map(queue).collect();
        TestHost { admin, controller_id, queues, commands: 0 }
    }

    /// Sends a command on the queue of a core, and lets the cores run.
    pub fn send(
        &mut self,
        host: &mut TestHost,
        core: usize,
        mut command: SubmissionEntry,
        data: &[u8],
    ) {
        host.commands += 1;
        command.command_id.set(host.commands);
        host.queues[core].command(&mut self.harness, command, data);
        self.harness.pump();
    }

    /// The next status, after the data that may come before it.
    pub fn completion(&mut self, host: &mut TestHost, core: usize) -> Status {
        self.answer(host, core).0
    }

    fn answer(&mut self, host: &mut TestHost, core: usize) -> (Status, Vec<u8>) {
        let mut data = Vec::new();
        loop {
            let received = host.queues[core].receive(&mut self.harness);
            if received.parts.kind != PduKind::C2hData {
                return (received.completion().status(), data);
            }
            data.extend_from_slice(received.data());
        }
    }

    pub fn is_silent(&mut self, host: &mut TestHost, core: usize) -> bool {
        host.queues[core].end.exchange(&mut self.harness);
        host.queues[core].end.received().is_empty()
    }

    pub fn run(
        &mut self,
        host: &mut TestHost,
        core: usize,
        command: SubmissionEntry,
        data: &[u8],
    ) -> Status {
        self.send(host, core, command, data);
        self.completion(host, core)
    }

    /// A reservation command, from a core that is not always the same.
    pub fn reserve(&mut self, host: &mut TestHost, opcode: u8, cdw10: u32, data: &[u8]) -> Status {
        let core = usize::from(host.commands) % CORES;
        self.run(host, core, reservation(opcode, cdw10), data)
    }

    pub fn register(&mut self, host: &mut TestHost, key: u64) {
        assert_eq!(self.reserve(host, 0x0d, 0, &keys(0, key)), Status::SUCCESS);
    }

    pub fn acquire(&mut self, host: &mut TestHost, key: u64, kind: ReservationType) -> Status {
        self.reserve(host, 0x11, u32::from(kind.nvme_code()) << 8, &keys(key, 0))
    }

    /// Preempts for a reservation of type 1.
    pub fn preempt(&mut self, host: &mut TestHost, key: u64, target: u64, action: u32) -> Status {
        self.reserve(host, 0x11, action | 1 << 8, &keys(key, target))
    }

    pub fn release(&mut self, host: &mut TestHost, key: u64, kind: u32) -> Status {
        self.reserve(host, 0x15, kind << 8, &keys(key, 0)[..8])
    }

    pub fn report_bytes(&mut self, host: &mut TestHost, dwords: u32) -> Vec<u8> {
        let sgl = SglDescriptor::transport_data_block(dwords * 4);
        let mut command = report_command().with_sgl(sgl);
        command.cdw10.set(dwords - 1);
        self.send(host, 0, command, &[]);
        let (status, data) = self.answer(host, 0);
        assert_eq!(status, Status::SUCCESS);
        data
    }

    pub fn report(&mut self, host: &mut TestHost) -> Report {
        Report::of(&self.report_bytes(host, 1024))
    }

    /// Sends a write whose data the target has to ask for; what it asks.
    pub fn ask_to_write(&mut self, host: &mut TestHost, core: usize) -> ReadyToTransfer {
        let command = io(0x01, 512).with_sgl(SglDescriptor::transport_data_block(512));
        self.send(host, core, command, &[]);
        let asked = host.queues[core].receive(&mut self.harness);
        assert_eq!(asked.parts.kind, PduKind::ReadyToTransfer);
        ReadyToTransfer::read_from_prefix(&asked.bytes).unwrap().0
    }

    pub fn give_data(&mut self, host: &mut TestHost, core: usize, asked: ReadyToTransfer) {
        let queue = &mut host.queues[core];
        let range = DataRange { offset: 0, length: 512 };
        let (command_id, tag) = (asked.command_id.get(), asked.transfer_tag.get());
        let header = H2cData::new(command_id, tag, range, Flags::LAST, queue.framing);
        queue.pdu(&mut self.harness, &header, &[5; 512]);
    }

    /// Lets time pass while the hosts keep alive.
    pub fn wait(&mut self, hosts: &mut [&mut TestHost], span: Nanos) {
        let mut left = span;
        while left > Nanos(0) {
            let step = left.min(Nanos::from_secs(1));
            self.harness.wait(step);
            left = left - step;
            for host in &mut *hosts {
                let sgl = SglDescriptor::transport_data_block(0);
                let alive = SubmissionEntry::keep_alive(3).with_sgl(sgl);
                host.admin.command(&mut self.harness, alive, &[]);
                assert!(host.admin.completion(&mut self.harness).status().is_success());
            }
        }
    }

    /// Lets the cores run until the host has been answered by somebody outside of virtual time.
    pub fn completion_in_real_time(&mut self, host: &mut TestHost, core: usize) -> Status {
        for _ in 0..10_000 {
            if !self.is_silent(host, core) {
                return self.completion(host, core);
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("no answer within ten seconds");
    }
}
