//! Devices, hosts and clocks for the tests of copies and of rebuilds.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bdev::delay::{Delay, Lateness};
use bdev::device::Geometry;
use bdev::rules::{Match, Rule, RuleSet};
use bdev::{BlockDevice, Completions, Io, Lba, Malloc, QueuePair, Status, Token};
use reactor::cores::CoreId;
use reactor::dma::{DmaBuffer, DmaPool, PagePreference, PoolConfig};
use reactor::random::Random;
use reactor::socket::epoll::EpollNetwork;
use reactor::{Clock, Cx, Nanos, VirtualClock};

use super::PIECE_BYTES_MAX;
use crate::child::{ChildIndex, ChildSet};
use crate::nexus::Nexus;
use crate::testing::BLOCK_BYTES;
use crate::watch::Watch;

const DEPTH: u32 = 8;
/// Longest I/O of a host, in blocks.
const IO_BLOCKS_MAX: u64 = 200;

pub(crate) fn memory(blocks: u64) -> Arc<dyn BlockDevice> {
    let geometry = Geometry { block_bytes: BLOCK_BYTES, blocks };
    Arc::new(Malloc::new("malloc", geometry, None).unwrap())
}

/// Checks that no two writes to a block are with the device together.
pub(crate) fn watched(inner: Arc<dyn BlockDevice>) -> Arc<dyn BlockDevice> {
    Arc::new(Watch::new(inner).0)
}

pub(crate) fn slow(inner: Arc<dyn BlockDevice>, seed: u64) -> Arc<dyn BlockDevice> {
    let lateness = Lateness::Uniform { least: Nanos(0), most: Nanos::from_millis(2) };
    let meets = Match { probability: 0.8, ..Match::default() };
    Arc::new(Delay::new(inner, RuleSet { rules: vec![Rule { meets, effect: lateness }], seed }))
}

pub(crate) fn child(index: usize) -> ChildIndex {
    ChildIndex::new(index).unwrap()
}

pub(crate) fn set(children: &[usize]) -> ChildSet {
    children.iter().copied().map(child).collect()
}

pub(crate) fn context(hand: &VirtualClock, core: u16) -> Cx {
    let pool = PoolConfig { chunks: 5, pages: PagePreference::Ordinary };
    let network = Box::new(EpollNetwork::new().unwrap());
    let clock = Clock::Virtual(hand.clone());
    Cx::new(CoreId(core.into()), clock, DmaPool::new(pool).unwrap(), network, u64::from(core))
}

struct Core {
    cx: Cx,
    queue_pair: Box<dyn QueuePair>,
    pending: HashMap<Token, DmaBuffer>,
}

/// Cores that read and write a nexus over each other.
pub(crate) struct Hosts {
    random: Random,
    hand: VirtualClock,
    cores: Vec<Core>,
    blocks: u64,
    /// I/Os that were sent, and that have ended well.
    pub(crate) sent: u64,
    pub(crate) ended: u64,
}

impl Hosts {
    pub(crate) fn new(seed: u64, hand: &VirtualClock, nexus: &Nexus, count: u16) -> Hosts {
        let open = |number| {
            let mut cx = context(hand, 1 + number);
            let queue_pair = nexus.open_queue_pair(&mut cx, DEPTH).unwrap();
            Core { cx, queue_pair, pending: HashMap::new() }
        };
        Hosts {
            random: Random::new(seed),
            hand: hand.clone(),
            cores: (0..count).map(open).collect(),
            blocks: nexus.geometry().blocks,
            sent: 0,
            ended: 0,
        }
    }

    /// Each core sends something now and then, and takes what has ended.
    pub(crate) fn pass(&mut self) {
        for core in 0..self.cores.len() {
            if self.random.chance(0.5) {
                self.send(core);
            }
            self.poll(core);
        }
    }

    fn send(&mut self, core: usize) {
        let Core { cx, queue_pair, pending } = &mut self.cores[core];
        if queue_pair.credits() == 0 {
            return;
        }
        self.sent += 1;
        let blocks = 1 + self.random.below(IO_BLOCKS_MAX) as u32;
        let lba = Lba(self.random.below(self.blocks - u64::from(blocks)));
        let buffer = cx.dma.take(blocks * BLOCK_BYTES).unwrap();
        let segment = buffer.segment(blocks * BLOCK_BYTES);
        let stamp = self.sent.to_le_bytes();
        segment.write(0, &stamp.repeat((blocks * BLOCK_BYTES) as usize / stamp.len()));
        let token = Token(self.sent);
        let io = match self.random.below(4) {
            0 => Io::read(lba, blocks, segment, token),
            _ => Io::write(lba, blocks, segment, token),
        };
        queue_pair.submit(cx, io).unwrap();
        pending.insert(token, buffer);
    }

    fn poll(&mut self, core: usize) {
        let Core { cx, queue_pair, pending } = &mut self.cores[core];
        cx.advance_clock();
        let mut completions = Completions::new();
        queue_pair.flush(cx);
        queue_pair.poll(cx, &mut completions);
        for completion in completions.drain() {
            assert_eq!(completion.status, Status::SUCCESS);
            cx.dma.give(pending.remove(&completion.token).unwrap());
            self.ended += 1;
        }
    }

    /// Takes what has ended; true when nothing is in flight.
    pub(crate) fn settle(&mut self) -> bool {
        (0..self.cores.len()).for_each(|core| self.poll(core));
        self.hand.advance(Nanos::from_micros(100));
        self.cores.iter().all(|core| core.pending.is_empty())
    }
}

/// Bytes of a device, past the nexus.
pub(crate) fn content(hand: &VirtualClock, device: &Arc<dyn BlockDevice>) -> Vec<u8> {
    let mut cx = context(hand, 99);
    let mut bytes = Vec::new();
    let blocks = device.geometry().blocks;
    let mut queue_pair = device.open_queue_pair(&mut cx, 1).unwrap();
    let buffer = cx.dma.take(PIECE_BYTES_MAX).unwrap();
    let step = u64::from(PIECE_BYTES_MAX / BLOCK_BYTES);
    for lba in (0..blocks).step_by(step as usize) {
        let blocks = step.min(blocks - lba) as u32;
        let segment = buffer.segment(blocks * BLOCK_BYTES);
        run(hand, &mut cx, &mut *queue_pair, Io::read(Lba(lba), blocks, segment, Token(0)));
        bytes.extend_from_slice(buffer.bytes(blocks * BLOCK_BYTES));
    }
    cx.dma.give(buffer);
    bytes
}

/// Fills blocks of a device with bytes of their own.
pub(crate) fn fill(hand: &VirtualClock, device: &Arc<dyn BlockDevice>, lbas: Range<u64>, salt: u8) {
    let mut cx = context(hand, 99);
    let mut queue_pair = device.open_queue_pair(&mut cx, 1).unwrap();
    let buffer = cx.dma.take(BLOCK_BYTES).unwrap();
    let segment = buffer.segment(BLOCK_BYTES);
    for lba in lbas {
        let stamp = [lba as u8, (lba >> 8) as u8, salt, 1];
        segment.write(0, &stamp.repeat(BLOCK_BYTES as usize / 4));
        run(hand, &mut cx, &mut *queue_pair, Io::write(Lba(lba), 1, segment, Token(0)));
    }
    cx.dma.give(buffer);
}

fn run(hand: &VirtualClock, cx: &mut Cx, queue_pair: &mut dyn QueuePair, io: Io) {
    let mut completions = Completions::new();
    queue_pair.submit(cx, io).unwrap();
    queue_pair.flush(cx);
    while queue_pair.poll(cx, &mut completions) == 0 {
        hand.advance(Nanos::from_millis(1));
        cx.advance_clock();
    }
    assert!(completions.drain().all(|completion| completion.status.is_success()));
}

/// Another user of the volume, alone, can take every stripe: nobody has left one behind.
pub(crate) fn check_lock(nexus: &Nexus) {
    let other = nexus.join(None).unwrap();
    assert_eq!(other.shared_since, None, "all others have left");
    let (blocks, mut taken) = (u32::try_from(nexus.geometry().blocks).unwrap(), 0);
    assert!(nexus.lock.take(other.member, 0, blocks, &mut taken), "no stripe is held");
    nexus.lock.release(0, blocks, taken, |_| ());
    nexus.leave(other.member);
}
