//! The remote device over streams in memory: target, supervisor and queue pairs on one clock.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bdev::session::{Link, SessionState};
use bdev::{BlockDevice, Busy, Completions, Geometry, Io, Limits, OpenError, QueuePair, laws};
use reactor::socket::memory::MemoryLimits;
use reactor::{Cx, Nanos, VirtualClock, Wake};
use uuid::Uuid;

use super::connecting::default_options;
use super::controller::{Behaviour, FakeController};
use super::laws::{OwnTarget, own_description};
use super::wire::{Peer, Wires};
use crate::initiator::ConnectError;
use crate::initiator::remote::{RemoteDevice, RemoteOptions, Supervisor, WhenLost};
use crate::target::harness::Harness;

/// Time that goes by in a pass.
pub const PASS: Nanos = Nanos::from_millis(1);

/// Target and supervisor, stepped together.
#[derive(Debug)]
pub struct World {
    pub wires: Wires,
    pub peer: Box<dyn Peer>,
    pub supervisor: Supervisor,
    /// Moved by each step; without one, time stands still.
    pub hand: Option<VirtualClock>,
    /// Nothing answers while this is set: streams that are opened are dropped.
    pub is_down: bool,
}

impl World {
    /// A pass of everything but the queue pairs.
    pub fn step(&mut self, cx: &mut Cx) {
        if let Some(hand) = &self.hand {
            hand.advance(PASS);
        }
        cx.advance_clock();
        if self.is_down {
            while self.wires.take().is_some() {}
        } else {
            self.peer.step(&self.wires);
        }
        self.wires.report(cx);
        self.supervisor.poll(cx);
    }
}

pub fn options(when_lost: WhenLost) -> RemoteOptions {
    RemoteOptions { when_lost, ..RemoteOptions::new(default_options()) }
}

/// Opens a device over a target.
pub fn open(
    cx: &mut Cx,
    hand: Option<&VirtualClock>,
    options: RemoteOptions,
    peer: Box<dyn Peer>,
    limits: MemoryLimits,
) -> Result<(RemoteDevice, World), ConnectError> {
    let wires = Wires::install(cx, limits);
    let (opening, supervisor) = RemoteDevice::open_stepped(String::from("remote"), options)?;
    let hand = hand.cloned();
    let mut world = World { wires, peer, supervisor, hand, is_down: false };
    for _ in 0..100_000 {
        world.step(cx);
        if let Some(outcome) = opening.take() {
            return Ok((outcome?, world));
        }
    }
    panic!("neither open nor failed");
}

/// The device for the suite of laws: polling a queue pair steps the world, too.
#[derive(Debug)]
struct Stepped {
    device: RemoteDevice,
}

thread_local! {
    /// The world of the device under test: a device is shared by threads, a world is not.
    static WORLD: RefCell<Option<Rc<RefCell<World>>>> = const { RefCell::new(None) };
}

impl BlockDevice for Stepped {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn limits(&self) -> Limits {
        self.device.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.device.uuid()
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let world = WORLD.with_borrow(|world| world.clone().expect("set with the device"));
        let queue_pair = self.device.open_queue_pair(cx, depth)?;
        Ok(Box::new(SteppedQueuePair { queue_pair, world }))
    }
}

#[derive(Debug)]
struct SteppedQueuePair {
    queue_pair: Box<dyn QueuePair>,
    world: Rc<RefCell<World>>,
}

impl QueuePair for SteppedQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        self.queue_pair.submit(cx, io)
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.queue_pair.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.world.borrow_mut().step(cx);
        self.queue_pair.poll(cx, completions)
    }

    fn credits(&self) -> u32 {
        self.queue_pair.credits()
    }

    fn inflight(&self) -> u32 {
        self.queue_pair.inflight()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.queue_pair.abort_all(cx);
        // What the target has received happens before the next session.
        self.world.borrow_mut().step(cx);
    }

    fn wake(&self) -> Wake {
        // Time goes on to the next attempt to connect, and not to deadlines.
        match (self.queue_pair.wake(), self.world.borrow().supervisor.next_attempt()) {
            (Wake::At(_), Some(attempt)) => Wake::At(attempt),
            (Wake::At(_), None) => Wake::Now,
            (wake, _) => wake,
        }
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.queue_pair.arm(cx)
    }
}

fn own_target() -> Box<dyn Peer> {
    Box::new(OwnTarget(Harness::new(own_description())))
}

fn fake_target() -> Box<dyn Peer> {
    Box::new(FakeController::new(Behaviour { blocks: 400, ..Behaviour::default() }))
}

fn check_laws(make_peer: fn() -> Box<dyn Peer>, limits: MemoryLimits, digests: bool) {
    let make = |cx: &mut Cx| -> Arc<dyn BlockDevice> {
        let mut options = options(WhenLost::Wait(std::time::Duration::from_secs(60)));
        options.connect.header_digest = digests;
        options.connect.data_digest = digests;
        options.connect.keep_alive_ms = 0;
        options.connect.connect_timeout = std::time::Duration::from_secs(3600);
        let (device, world) = open(cx, None, options, make_peer(), limits).unwrap();
        WORLD.set(Some(Rc::new(RefCell::new(world))));
        Arc::new(Stepped { device })
    };
    laws::check(make, laws::Options { cases: 24, ..laws::Options::default() });
}

#[test]
fn the_laws_hold_over_our_own_target() {
    check_laws(own_target, MemoryLimits::default(), false);
}

#[test]
fn the_laws_hold_over_our_own_target_with_digests_and_narrow_streams() {
    check_laws(own_target, MemoryLimits { call_bytes: 3000, stream_bytes: 9000 }, true);
}

#[test]
fn the_laws_hold_over_another_target() {
    check_laws(fake_target, MemoryLimits::default(), false);
}

#[test]
fn a_device_is_opened_with_what_its_target_says() {
    let (mut cx, hand) = reactor::cx::test_context();
    let limits = MemoryLimits::default();
    let (device, _world) =
        open(&mut cx, Some(&hand), options(WhenLost::Fail), own_target(), limits).unwrap();
    assert_eq!(device.geometry(), Geometry { block_bytes: 512, blocks: 400 });
    assert!(device.uuid().is_some());
    let state = device.sessions().unwrap().state();
    assert_eq!(state, SessionState { number: 1, link: Link::Live });
    assert!(device.about().unwrap().contains("127.0.0.1:4420"));
}
