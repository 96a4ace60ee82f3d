//! The laws of queue pairs over the initiator and the fake controller together.

use std::sync::{Arc, OnceLock};

use bdev::{BlockDevice, Busy, Completions, Geometry, Io, Limits, OpenError, QueuePair, laws};
use reactor::socket::memory::MemoryLimits;
use reactor::{Cx, Wake};
use uuid::Uuid;

use super::connecting::{NQN, default_options};
use super::controller::{Behaviour, FakeController};
use super::wire::{Peer, Wires};
use crate::initiator::{ConnectOptions, Connector, Progress, RemoteNamespace};
use crate::pdu::Flags;
use crate::target::TargetDescription;
use crate::target::harness::Harness;
use crate::target::namespace::{Access, Namespace, NamespaceId};
use crate::target::subsystem::{Subsystem, SubsystemConfig, SubsystemKind};

/// A remote device with a controller of its own behind every queue pair.
#[derive(Debug)]
struct Device {
    make_peer: fn() -> Box<dyn Peer>,
    limits: MemoryLimits,
    options: ConnectOptions,
    described: OnceLock<(Geometry, Limits)>,
}

impl BlockDevice for Device {
    fn name(&self) -> &str {
        "remote"
    }

    fn geometry(&self) -> Geometry {
        self.described.get().expect("a queue pair was opened").0
    }

    fn limits(&self) -> Limits {
        self.described.get().expect("a queue pair was opened").1
    }

    fn uuid(&self) -> Option<Uuid> {
        None
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let wires = Wires::install(cx, self.limits);
        let options = ConnectOptions { queue_depth: depth, ..self.options.clone() };
        let mut peer = (self.make_peer)();
        let remote = connect(cx, &wires, &mut *peer, &options);
        let described = (remote.geometry, remote.limits);
        assert_eq!(*self.described.get_or_init(|| described), described);
        Ok(Box::new(Reconnecting { wires, peer, options, depth, remote, old: Vec::new() }))
    }
}

fn connect(
    cx: &mut Cx,
    wires: &Wires,
    peer: &mut dyn Peer,
    options: &ConnectOptions,
) -> RemoteNamespace {
    let mut connector = Connector::start(cx, options.clone()).unwrap();
    loop {
        match connector.poll(cx) {
            Progress::Pending => {}
            Progress::Ready(remote) => return *remote,
            Progress::Failed(error) => panic!("{error}"),
        }
        peer.step(wires);
        wires.report(cx);
    }
}

/// An aborted queue pair is done; this connects anew, as the owner of one does.
#[derive(Debug)]
struct Reconnecting {
    wires: Wires,
    peer: Box<dyn Peer>,
    options: ConnectOptions,
    depth: u32,
    remote: RemoteNamespace,
    /// Aborted ones whose completions were not taken yet.
    old: Vec<RemoteNamespace>,
}

impl QueuePair for Reconnecting {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.credits() == 0 { Err(Busy) } else { self.remote.queue_pairs[0].submit(cx, io) }
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.remote.queue_pairs[0].flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.peer.step(&self.wires);
        self.wires.report(cx);
        let mut count = 0;
        for old in &mut self.old {
            count += old.queue_pairs[0].poll(cx, completions);
        }
        self.old.retain(|old| old.queue_pairs[0].inflight() > 0);
        count + self.remote.queue_pairs[0].poll(cx, completions)
    }

    fn credits(&self) -> u32 {
        let left = self.depth - self.inflight();
        self.remote.queue_pairs[0].credits().min(left)
    }

    fn inflight(&self) -> u32 {
        let all = self.old.iter().chain([&self.remote]);
        all.map(|remote| remote.queue_pairs[0].inflight()).sum()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.remote.queue_pairs[0].abort_all(cx);
        self.remote.admin.close(cx);
        // What the target has received of the old connection happens before the new one.
        self.peer.step(&self.wires);
        let fresh = connect(cx, &self.wires, &mut *self.peer, &self.options);
        self.old.push(std::mem::replace(&mut self.remote, fresh));
    }

    fn wake(&self) -> Wake {
        let all = self.old.iter().chain([&self.remote]);
        all.fold(Wake::Never, |wake, remote| wake.soonest(remote.queue_pairs[0].wake()))
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.remote.queue_pairs[0].arm(cx)
    }
}

fn check(
    make_peer: fn() -> Box<dyn Peer>,
    limits: MemoryLimits,
    change: impl Fn(&mut ConnectOptions),
) {
    let mut options = default_options();
    options.keep_alive_ms = 0;
    change(&mut options);
    let device = |_: &mut Cx| -> Arc<dyn BlockDevice> {
        let (options, described) = (options.clone(), OnceLock::new());
        Arc::new(Device { make_peer, limits, options, described })
    };
    laws::check(device, laws::Options { cases: 24, ..laws::Options::default() });
}

fn with_digests(options: &mut ConnectOptions) {
    options.header_digest = true;
    options.data_digest = true;
}

const NARROW: MemoryLimits = MemoryLimits { call_bytes: 3000, stream_bytes: 9000 };

fn plain_controller() -> Box<dyn Peer> {
    Box::new(FakeController::new(Behaviour { blocks: 400, ..Behaviour::default() }))
}

fn controller_in_pieces() -> Box<dyn Peer> {
    Box::new(FakeController::new(Behaviour {
        blocks: 400,
        capsule_bytes: 64,
        alignment: 15,
        send_bytes: 1028,
        ask_bytes: 6000,
        data_bytes_max: 4096,
        success: Flags::NONE,
        ..Behaviour::default()
    }))
}

/// This project's own target over a RAM disk.
#[derive(Debug)]
pub struct OwnTarget(pub Harness);

impl Peer for OwnTarget {
    fn step(&mut self, wires: &Wires) {
        while let Some(socket) = wires.take() {
            assert!(self.0.serve(socket));
        }
        self.0.pump();
    }
}

/// Our own target's RAM disk of 400 blocks.
pub fn own_description() -> TargetDescription {
    own_description_of(ram_disk(), [7; 16])
}

/// A RAM disk of 400 blocks.
pub fn ram_disk() -> Arc<dyn BlockDevice> {
    let geometry = Geometry { block_bytes: 512, blocks: 400 };
    Arc::new(bdev::Malloc::new("ram", geometry, None).unwrap())
}

/// A run of our own target that serves this device.
pub fn own_description_of(device: Arc<dyn BlockDevice>, instance: [u8; 16]) -> TargetDescription {
    let nqn = NQN.parse().unwrap();
    let namespaces = vec![Namespace::new(&nqn, NamespaceId(1), device, Access::ReadWrite)];
    let config =
        SubsystemConfig { namespaces, ..SubsystemConfig::new(nqn, SubsystemKind::Nvm, instance) };
    TargetDescription::new(vec![Subsystem::new(config).unwrap()])
}

fn own_target() -> Box<dyn Peer> {
    Box::new(OwnTarget(Harness::new(own_description())))
}

#[test]
fn the_laws_hold_with_data_in_the_capsule() {
    check(plain_controller, MemoryLimits::default(), |_| {});
}

#[test]
fn the_laws_hold_with_digests_and_data_in_pieces() {
    check(controller_in_pieces, NARROW, with_digests);
}

#[test]
fn the_laws_hold_over_our_own_target() {
    check(own_target, MemoryLimits::default(), |_| {});
    check(own_target, NARROW, with_digests);
}
