//! A connection that ends, or goes silent, at any byte of a conversation with our own target: each
//! I/O ends once, what was acknowledged is there, nothing is lost of the host's memory or the
//! target's, and the device comes back by itself.

use std::time::Duration;

use bdev::nvme::status::StatusCodeType;
use bdev::session::Link;
use bdev::{BlockDevice, Completions, Io, Lba, Memory, Operation, QueuePair, Status, Token};
use reactor::cx::test_context;
use reactor::dma::DmaBuffer;
use reactor::socket::memory::MemoryLimits;
use reactor::{Cx, Nanos, VirtualClock};

use super::faulty::{Fault, Faults, Plan, Way};
use super::laws::{OwnTarget, own_description};
use super::remote::{World, open, options};
use super::wire::{Peer, Wires};
use crate::initiator::remote::{RemoteDevice, WhenLost};
use crate::target::harness::Harness;

/// Bytes of the large I/O: more than a capsule carries, so that it is asked for by R2T.
const LARGE_BYTES: u32 = 9216;
const LARGE_BLOCKS: u32 = LARGE_BYTES / 512;
const SMALL_BYTES: u32 = 512;
/// I/Os of a conversation.
const IOS: u64 = 8;
/// Streams in the order in which they are opened.
const ADMIN: usize = 0;
const IO: usize = 1;
/// A pass in which nothing happens takes this long once there were a few.
const IDLE_STEP: Nanos = Nanos::from_millis(250);
const IDLE_PASSES: u32 = 8;
const PASSES_MAX: u32 = 20_000;

/// Our own target, looked into.
#[derive(Debug)]
struct Target(std::rc::Rc<std::cell::RefCell<OwnTarget>>);

impl Peer for Target {
    fn step(&mut self, wires: &Wires) {
        self.0.borrow_mut().step(wires);
    }
}

struct Conversation {
    cx: Cx,
    hand: VirtualClock,
    world: World,
    target: std::rc::Rc<std::cell::RefCell<OwnTarget>>,
    faults: Faults,
    device: RemoteDevice,
    queue_pair: Box<dyn QueuePair>,
    large: [DmaBuffer; 3],
    small: DmaBuffer,
    /// What the large blocks hold for sure, where that is known.
    known: Option<u8>,
    rounds: u8,
    /// Memory taken when nothing is in flight and the queue has joined.
    at_rest: Option<(u32, u32)>,
}

impl Conversation {
    fn new(digests: bool) -> Conversation {
        let (mut cx, hand) = test_context();
        let mut options = options(WhenLost::Wait(Duration::from_secs(60)));
        options.connect.header_digest = digests;
        options.connect.data_digest = digests;
        let harness = Harness::new(own_description());
        let target = std::rc::Rc::new(std::cell::RefCell::new(OwnTarget(harness)));
        let peer = Box::new(Target(std::rc::Rc::clone(&target)));
        let limits = MemoryLimits::default();
        let (device, mut world) = open(&mut cx, Some(&hand), options, peer, limits).unwrap();
        let faults = Faults::install(&world.wires);
        // The stream of the opening came before the faults did.
        world.is_down = true;
        while device.sessions().unwrap().state().link == Link::Live {
            world.step(&mut cx);
        }
        world.is_down = false;
        let queue_pair = device.open_queue_pair(&mut cx, 16).unwrap();
        let large = std::array::from_fn(|_| cx.dma.take(LARGE_BYTES).unwrap());
        let mut small = cx.dma.take(2 * SMALL_BYTES).unwrap();
        small.bytes_mut().fill(0);
        Conversation {
            cx,
            hand,
            world,
            target,
            faults,
            device,
            queue_pair,
            large,
            small,
            known: None,
            rounds: 0,
            at_rest: None,
        }
    }

    /// The streams end and are opened anew, with this fault in them; every I/O meets its end.
    fn round(&mut self, plan: Option<Plan>) {
        self.faults.restart(plan);
        self.settle_session(plan.is_none());
        self.rounds = self.rounds.wrapping_add(1);
        let pattern = self.rounds;
        self.large[0].bytes_mut().fill(pattern);
        self.large[1].bytes_mut().fill(0);
        let ended = self.perform(&self.ios());
        for status in ended.iter().filter(|status| !status.is_success()) {
            assert_eq!(status.code_type(), StatusCodeType::Path, "{status}");
        }
        if plan.is_none() || !self.faults.has_struck() {
            assert!(ended.iter().all(|status| status.is_success()), "{ended:?}");
        }
        self.known = if ended[0].is_success() { Some(pattern) } else { None };
        self.check_rest();
    }

    /// Write, read elsewhere, write in the capsule, flush, zeroes, unmap, compare, both at once.
    fn ios(&self) -> [Io; IOS as usize] {
        let large = |index: usize| self.large[index].segment(LARGE_BYTES);
        let small = self.small.segment(2 * SMALL_BYTES);
        let bare = |operation, lba, token| {
            Io::with_memory(operation, Lba(lba), 1, Memory::None, Token(token))
        };
        let part = Memory::One(small.part(0, SMALL_BYTES));
        [
            Io::write(Lba(0), LARGE_BLOCKS, large(0), Token(0)),
            Io::read(Lba(100), LARGE_BLOCKS, large(1), Token(1)),
            Io::with_memory(Operation::Write, Lba(200), 1, part, Token(2)),
            Io::flush(Token(3)),
            bare(Operation::WriteZeroes, 202, 4),
            bare(Operation::Unmap, 204, 5),
            Io::with_memory(Operation::Compare, Lba(206), 1, part, Token(6)),
            Io::with_memory(Operation::CompareAndWrite, Lba(208), 1, Memory::One(small), Token(7)),
        ]
    }

    /// Submits I/Os and waits until each has ended, once; gives how.
    fn perform(&mut self, ios: &[Io]) -> Vec<Status> {
        for io in ios {
            self.queue_pair.submit(&mut self.cx, *io).expect("there is a credit for each");
        }
        let mut ended: Vec<Option<Status>> = vec![None; ios.len()];
        let mut completions = Completions::new();
        let mut idle = 0;
        for _ in 0..PASSES_MAX {
            self.queue_pair.flush(&mut self.cx);
            self.step(&mut idle);
            self.queue_pair.poll(&mut self.cx, &mut completions);
            for completion in completions.drain() {
                idle = 0;
                let index = usize::try_from(completion.token.0).unwrap();
                assert_eq!(ended[index].replace(completion.status), None, "a token ends once");
            }
            if ended.iter().all(Option::is_some) {
                assert_eq!(self.queue_pair.inflight(), 0);
                return ended.into_iter().flatten().collect();
            }
        }
        panic!("I/O that never ends: {ended:?}");
    }

    /// A pass of the world; a long one when nothing has happened for a while.
    fn step(&mut self, idle: &mut u32) {
        *idle += 1;
        if *idle > IDLE_PASSES {
            self.hand.advance(IDLE_STEP);
        }
        self.world.step(&mut self.cx);
    }

    /// Waits until the supervisor has seen the streams end and, if it can be, connected again.
    fn settle_session(&mut self, until_live: bool) {
        let sessions = self.device.sessions().unwrap();
        let before = sessions.state().number;
        let mut idle = 0;
        for pass in 0..PASSES_MAX {
            self.step(&mut idle);
            let state = sessions.state();
            let is_new = state.number > before && state.link == Link::Live;
            if is_new || (!until_live && pass > 0 && self.faults.has_struck()) {
                return;
            }
        }
        panic!("no session: {:?}", sessions.state());
    }

    /// When all is over, a read joins the queue of the new session, and everything is back that
    /// was taken.
    fn check_rest(&mut self) {
        for _ in 0..100 {
            let read = Io::read(Lba(0), LARGE_BLOCKS, self.large[2].segment(LARGE_BYTES), Token(0));
            if !self.perform(&[read])[0].is_success() {
                continue;
            }
            if let Some(known) = self.known {
                let bytes = self.large[2].bytes(LARGE_BYTES);
                assert!(bytes.iter().all(|byte| *byte == known), "what was acknowledged is there");
            }
            // The target sees the end of what was left.
            self.world.step(&mut self.cx);
            let taken = (self.cx.dma.taken(), self.target.borrow().0.buffers_taken());
            assert_eq!(*self.at_rest.get_or_insert(taken), taken, "memory was lost");
            return;
        }
        panic!("it never comes back");
    }
}

/// Where to strike in what was recorded: at every byte of headers and digests, and of a payload at
/// the ends and every so many bytes between.
fn positions(stream: &[u8], payload_step: usize) -> Vec<usize> {
    let mut positions = Vec::new();
    let mut start = 0;
    while start < stream.len() {
        let header = usize::from(stream[start + 2]);
        let length = u32::from_le_bytes(stream[start + 4..start + 8].try_into().unwrap());
        let length = usize::try_from(length).unwrap();
        let is_edge = |offset: &usize| {
            *offset < header + 8
                || *offset + 8 > length
                || (*offset - header).is_multiple_of(payload_step)
        };
        positions.extend((0..length).filter(is_edge).map(|offset| start + offset));
        start += length;
    }
    assert_eq!(start, stream.len(), "a conversation is whole PDUs");
    positions
}

fn strike_everywhere(digests: bool, stream: usize, fault: Fault, step: usize, every: usize) {
    let mut conversation = Conversation::new(digests);
    conversation.round(None);
    for way in [Way::ToHost, Way::ToTarget] {
        conversation.round(None);
        let moved = conversation.faults.moved(stream, way);
        let positions = positions(&moved, step);
        assert!(positions.len() / every > 100, "{}", positions.len());
        for after_bytes in positions.into_iter().step_by(every) {
            conversation.round(Some(Plan { stream, way, after_bytes, fault }));
            assert!(conversation.faults.has_struck(), "{way:?} {after_bytes}");
        }
    }
    let restarts = conversation.device.sessions().unwrap().restarts();
    assert_eq!(restarts, 0, "the target has run on all the time");
}

#[test]
fn an_io_connection_that_ends_at_any_byte_ends_each_io_once() {
    strike_everywhere(false, IO, Fault::Cut, 31, 1);
}

#[test]
fn an_io_connection_with_digests_that_ends_at_any_byte_ends_each_io_once() {
    strike_everywhere(true, IO, Fault::Cut, 31, 9);
}

#[test]
fn an_admin_connection_that_ends_at_any_byte_is_made_anew() {
    strike_everywhere(false, ADMIN, Fault::Cut, 256, 1);
    strike_everywhere(true, ADMIN, Fault::Cut, 256, 5);
}

#[test]
fn a_connection_that_goes_silent_at_any_byte_is_given_up_in_time() {
    strike_everywhere(false, IO, Fault::Silence, 256, 3);
    strike_everywhere(false, ADMIN, Fault::Silence, 256, 3);
}
