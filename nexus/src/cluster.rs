//! Several cores of one nexus in one thread, driven by a seed, with everything that may fail
//! failing.
//!
//! Each write has a stamp of its own. Checked: a write is acknowledged only when every member in
//! force has it; what a read returns is on every member by then, and was not overwritten before it
//! began; no two writes to one block are at a child together; members are equal at the end; every
//! token comes back once and no buffer is lost.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use bdev::fault::Failure;
use bdev::{
    BlockDevice, Completions, Geometry, Io, Lba, Operation, OperationSet, QueuePair, Status, Token,
};
use reactor::cores::CoreId;
use reactor::dma::{DmaBuffer, DmaPool, PagePreference, PoolConfig};
use reactor::random::Random;
use reactor::socket::epoll::EpollNetwork;
use reactor::{Clock, Cx, Nanos, VirtualClock};

use crate::child::{ChildIndex, ChildSet, ChildState, FaultReason};
use crate::home::{ChildReport, Home};
use crate::nexus::Nexus;
use crate::rebuild::RebuildEnd;
use crate::testing::{BLOCK_BYTES, config, disk, faulty, slow};
use crate::truth::{
    ControlIo, CopyOrder, Discard, MemberChange, NotRebuilt, Truth, TruthEvent, Untracked,
};
use crate::watch::{Log, Stamp, Watch};

const DEPTH: u32 = 8;
/// Where the I/O goes: around the border of two stripes, and at the beginning.
const PLACES: [u64; 2] = [0, 120];
const PLACE_BLOCKS: u64 = 16;

/// Decides in its own time, and freezes now and then.
#[derive(Debug)]
struct Hesitant {
    random: Random,
    is_deciding: bool,
    is_frozen: bool,
    /// What is decided, at once.
    inner: Untracked,
}

impl Truth for Hesitant {
    fn attach(&mut self, volume: Geometry, members: ChildSet) {
        self.inner.attach(volume, members);
    }

    fn begin_change(&mut self, cx: &mut Cx, change: MemberChange) {
        assert!(!self.is_deciding, "one change at a time");
        assert!(!change.after.is_empty() && change.after != change.before);
        self.is_deciding = true;
        self.inner.begin_change(cx, change);
    }

    fn marks_regions(&self) -> bool {
        false
    }

    fn begin_mark(&mut self, _: &mut Cx, _: crate::intent::RegionIndex) {
        unreachable!("regions are not marked");
    }

    fn begin_clear(&mut self, _: &mut Cx, _: crate::intent::RegionIndex) {
        unreachable!("regions are not marked");
    }

    fn begin_target(
        &mut self,
        cx: &mut Cx,
        child: ChildIndex,
        discard: Discard,
    ) -> Result<(), NotRebuilt> {
        self.inner.begin_target(cx, child, discard)
    }

    fn target_lost(&mut self, cx: &mut Cx, child: ChildIndex) {
        self.inner.target_lost(cx, child);
    }

    fn next_copy(&mut self) -> Option<CopyOrder> {
        self.inner.next_copy()
    }

    fn copied(&mut self, cx: &mut Cx, order: CopyOrder) {
        self.inner.copied(cx, order);
    }

    fn copy_failed(&mut self, cx: &mut Cx, order: CopyOrder, child: ChildIndex) {
        self.inner.copy_failed(cx, order, child);
    }

    fn copies_left(&self) -> u64 {
        self.inner.copies_left()
    }

    fn is_complete(&self, child: ChildIndex) -> bool {
        self.inner.is_complete(child)
    }

    fn begin_close(&mut self, _: &mut Cx) {}

    fn completed(&mut self, _: &mut Cx, _: ChildIndex, _: bdev::Completion) {
        unreachable!("nothing was submitted");
    }

    fn poll(&mut self, cx: &mut Cx, io: &mut dyn ControlIo) -> Option<TruthEvent> {
        if self.is_frozen && self.random.chance(0.2) {
            self.is_frozen = false;
            return Some(TruthEvent::Thawed);
        }
        if self.is_deciding && self.random.chance(0.02) {
            self.is_frozen = true;
            return Some(TruthEvent::Frozen);
        }
        if self.is_frozen || self.random.chance(0.9) {
            return None;
        }
        let event = self.inner.poll(cx, io);
        self.is_deciding &= event != Some(TruthEvent::InForce);
        event
    }

    fn wake(&self) -> reactor::Wake {
        reactor::Wake::Now
    }
}

/// A write, and when it was, in steps of the run.
#[derive(Clone, Copy, Debug)]
struct Written {
    began: u64,
    acknowledged: Option<u64>,
}

/// An I/O of the host.
struct Pending {
    operation: Operation,
    start: u64,
    blocks: u32,
    stamp: Stamp,
    began: u64,
    buffer: DmaBuffer,
}

struct Core {
    cx: Cx,
    queue_pair: Box<dyn QueuePair>,
    pending: HashMap<Token, Pending>,
}

struct Cluster {
    nexus: Arc<Nexus>,
    home: Home,
    home_cx: Cx,
    cores: Vec<Core>,
    logs: Vec<Arc<Mutex<Log>>>,
    random: Random,
    hand: VirtualClock,
    step: u64,
    next_stamp: Stamp,
    /// By block and stamp.
    writes: HashMap<(u64, Stamp), Written>,
    by_block: HashMap<u64, Vec<Stamp>>,
    failures: HashSet<u16>,
    acknowledged: u64,
    /// When a child became a member, of those that were rebuilt.
    joined_at: HashMap<ChildIndex, u64>,
}

fn context(hand: &VirtualClock, core: u16) -> Cx {
    let pool = PoolConfig { chunks: 2, pages: PagePreference::Ordinary };
    let dma = DmaPool::new(pool).unwrap();
    let network = Box::new(EpollNetwork::new().unwrap());
    Cx::new(CoreId(core.into()), Clock::Virtual(hand.clone()), dma, network, u64::from(core))
}

/// A device, and what it was given.
type Watched = (Arc<dyn BlockDevice>, Arc<Mutex<Log>>);

/// Children of a run: slow ones that fail in one way or another, or not at all.
fn children(random: &mut Random) -> Vec<Watched> {
    let count = 1 + random.below(4);
    let failing = |random: &mut Random, device: Arc<dyn BlockDevice>| {
        let reads = OperationSet::ALL.without(Operation::Write).without(Operation::Flush);
        let (operations, status) = match random.below(3) {
            0 => (reads, Status::UNRECOVERED_READ_ERROR),
            1 => (OperationSet::ALL, Status::CAPACITY_EXCEEDED),
            _ => (OperationSet::ALL, Status::INTERNAL_PATH_ERROR),
        };
        let failure = match random.below(2) {
            0 => Failure::Before(status),
            _ if status == Status::CAPACITY_EXCEEDED => Failure::Before(status),
            _ => Failure::After(status),
        };
        faulty(
            device,
            operations,
            [0.02, 0.5][random.below(2) as usize],
            failure,
            random.next_u64(),
        )
    };
    (0..count)
        .map(|_| {
            let inner = if random.chance(0.2) { disk() } else { slow(random.next_u64()) };
            let (watch, log) = Watch::new(inner);
            let watch: Arc<dyn BlockDevice> = Arc::new(watch);
            let device = if random.chance(0.5) { failing(random, watch) } else { watch };
            (device, log)
        })
        .collect()
}

impl Cluster {
    fn new(seed: u64) -> Cluster {
        let mut random = Random::new(seed);
        let hand = VirtualClock::new();
        let (devices, logs): (Vec<_>, Vec<_>) = children(&mut random).into_iter().unzip();
        let nexus = Nexus::new(config(devices)).unwrap();
        let mut home_cx = context(&hand, 9);
        let decisions = Random::new(random.next_u64());
        let inner = Untracked::default();
        let truth = Hesitant { random: decisions, is_deciding: false, is_frozen: false, inner };
        let home = Home::new(nexus.clone(), &mut home_cx, Box::new(truth));
        Cluster {
            nexus,
            home,
            home_cx,
            cores: Vec::new(),
            logs,
            random,
            hand,
            step: 0,
            next_stamp: 1,
            writes: HashMap::new(),
            by_block: HashMap::new(),
            failures: HashSet::new(),
            acknowledged: 0,
            joined_at: HashMap::new(),
        }
    }

    fn open_core(&mut self) {
        let mut cx = context(&self.hand, self.cores.len() as u16);
        let queue_pair = self.nexus.open_queue_pair(&mut cx, DEPTH).unwrap();
        self.cores.push(Core { cx, queue_pair, pending: HashMap::new() });
    }

    fn submit(&mut self, core: usize) {
        let operation = match self.random.below(10) {
            0..5 => Operation::Write,
            5..9 => Operation::Read,
            _ => Operation::Flush,
        };
        let place = PLACES[self.random.below(2) as usize];
        let (mut start, mut blocks) =
            (place + self.random.below(PLACE_BLOCKS), 1 + self.random.below(8) as u32);
        if operation == Operation::Flush {
            (start, blocks) = (0, 0);
        }
        let Core { cx, queue_pair, pending } = &mut self.cores[core];
        if queue_pair.credits() == 0 {
            return;
        }
        let stamp = self.next_stamp;
        self.next_stamp += 1;
        let len_bytes = blocks.max(1) * BLOCK_BYTES;
        let buffer = cx.dma.take(len_bytes).unwrap();
        let segment = buffer.segment(len_bytes);
        if operation == Operation::Write {
            let bytes = stamp.to_le_bytes().repeat(len_bytes as usize / 4);
            segment.write(0, &bytes);
        }
        let token = Token(u64::from(stamp));
        let io = match operation {
            Operation::Write => Io::write(Lba(start), blocks, segment, token),
            Operation::Read => Io::read(Lba(start), blocks, segment, token),
            _ => Io::flush(token),
        };
        queue_pair.submit(cx, io).unwrap();
        let began = self.step;
        pending.insert(token, Pending { operation, start, blocks, stamp, began, buffer });
        if operation == Operation::Write {
            for block in start..start + u64::from(blocks) {
                self.writes.insert((block, stamp), Written { began, acknowledged: None });
                self.by_block.entry(block).or_default().push(stamp);
            }
        }
    }

    fn poll(&mut self, core: usize) {
        let mut completions = Completions::new();
        let Core { cx, queue_pair, .. } = &mut self.cores[core];
        cx.advance_clock();
        queue_pair.flush(cx);
        queue_pair.poll(cx, &mut completions);
        for completion in completions.drain() {
            let pending = self.cores[core].pending.remove(&completion.token);
            let pending = pending.expect("a token completes once");
            self.check(&pending, completion.status);
            self.cores[core].cx.dma.give(pending.buffer);
        }
    }

    fn check(&mut self, pending: &Pending, status: Status) {
        if !status.is_success() {
            self.failures.insert(status.code());
            return;
        }
        let range = pending.start..pending.start + u64::from(pending.blocks);
        match pending.operation {
            Operation::Write => {
                self.acknowledged += 1;
                for block in range {
                    self.check_on_members(block, pending.stamp, "acknowledged");
                    let written = self.writes.get_mut(&(block, pending.stamp)).unwrap();
                    written.acknowledged = Some(self.step);
                }
            }
            Operation::Read => {
                for (block, at) in range.zip((0..).step_by(BLOCK_BYTES as usize)) {
                    let bytes = &pending.buffer.bytes(pending.blocks * BLOCK_BYTES)[at..at + 4];
                    let stamp = Stamp::from_le_bytes(bytes.try_into().unwrap());
                    self.check_read_on_members(block, stamp, pending.began);
                    self.check_fresh(block, stamp, pending.began);
                }
            }
            _ => {}
        }
    }

    fn members(&self) -> ChildSet {
        self.nexus.view().members
    }

    fn check_on_members(&self, block: u64, stamp: Stamp, what: &str) {
        for child in self.members() {
            let has = self.logs[child.get()].lock().unwrap().has(block, stamp);
            assert!(has, "block {block}: {stamp} was {what}, and member {child} lacks it");
        }
    }

    /// A member that was rebuilt since the read began may have what was written over it instead.
    fn check_read_on_members(&self, block: u64, stamp: Stamp, began: u64) {
        for child in self.members() {
            let log = self.logs[child.get()].lock().unwrap();
            let is_over = |later: &Stamp| {
                let acknowledged = self.writes[&(block, *later)].acknowledged;
                log.has(block, *later) && acknowledged.is_none_or(|at| at >= began)
            };
            let has = log.has(block, stamp);
            let joined_at = self.joined_at.get(&child).copied().unwrap_or(0);
            let is_overwritten = || self.by_block.get(&block).into_iter().flatten().any(is_over);
            let has_later = joined_at >= began && is_overwritten();
            assert!(
                has || has_later,
                "block {block}: {stamp} was read, and member {child} lacks it"
            );
        }
    }

    /// No write was acknowledged before `began` that came after this one was acknowledged.
    fn check_fresh(&self, block: u64, stamp: Stamp, began: u64) {
        let own = match stamp {
            0 => Some(0),
            _ => self.writes[&(block, stamp)].acknowledged,
        };
        let Some(own) = own else { return };
        for later in self.by_block.get(&block).into_iter().flatten() {
            let later_write = self.writes[&(block, *later)];
            let over = *later != stamp
                && later_write.acknowledged.is_some_and(|by| by < began)
                && later_write.began > own;
            assert!(!over, "block {block} reads as {stamp}, overwritten by {later}");
        }
    }

    fn operate(&mut self) {
        let names: Vec<String> = self.home.children().map(|child| child.name).collect();
        let name = names[self.random.below(names.len() as u64) as usize].clone();
        // What cannot be done is refused, which is fine here.
        match self.random.below(4) {
            0 => drop(self.home.fault(&mut self.home_cx, &name, FaultReason::Rpc)),
            1 => drop(self.home.offline(&mut self.home_cx, &name)),
            2 => self.home.pause(),
            _ => self.home.resume(),
        }
    }

    /// A child that is out comes back, or what goes on of the kind is stopped, paused or resumed.
    fn rebuild(&mut self) {
        let is_out = |child: &ChildReport| !matches!(child.state, ChildState::Open);
        let out: Vec<_> = self.home.children().filter(is_out).map(|child| child.name).collect();
        let Some(name) = out.first() else { return drop(self.home.verify()) };
        match self.random.below(10) {
            0 => drop(self.home.stop_rebuild(&mut self.home_cx, name)),
            1 => drop(self.home.pause_rebuild(name)),
            2 => drop(self.home.resume_rebuild(name)),
            _ => drop(self.home.begin_target(&mut self.home_cx, name, Discard::No)),
        }
    }

    fn poll_home(&mut self) {
        self.home_cx.advance_clock();
        let before = self.members();
        self.home.poll(&mut self.home_cx);
        let joined = self.members().minus(before);
        self.joined_at.extend(joined.iter().map(|child| (child, self.step)));
    }

    fn run(&mut self, steps: u64) {
        let cores = 1 + self.random.below(3) as usize;
        self.open_core();
        for _ in 0..steps {
            self.step += 1;
            let core = self.random.below(self.cores.len() as u64) as usize;
            match self.random.below(100) {
                0..40 => self.submit(core),
                40..80 => self.poll(core),
                80..93 => self.poll_home(),
                93..98 => self.hand.advance(Nanos::from_micros(self.random.below(3000))),
                98 if self.random.chance(0.1) => self.operate(),
                98 => self.rebuild(),
                99 if self.cores.len() < cores => self.open_core(),
                99 if self.random.chance(0.1) => self.close_idle_core(),
                _ => {}
            }
        }
        self.home.resume();
        if let Some(rebuild) = self.home.rebuild() {
            self.home.resume_rebuild(&rebuild.name).unwrap();
        }
        self.drain();
    }

    fn close_idle_core(&mut self) {
        let idle = |core: &Core| core.pending.is_empty();
        if let Some(place) = self.cores.iter().position(idle).filter(|_| self.cores.len() > 1) {
            self.cores.swap_remove(place);
        }
    }

    fn drain(&mut self) {
        for round in 0.. {
            let home = &self.home;
            let inflight = || self.cores.iter().map(|core| core.pending.len()).collect::<Vec<_>>();
            assert!(
                round < 20_000,
                "it never ends: {:?} in flight, changing: {}, {:?}, {:?}",
                inflight(),
                home.is_changing(),
                home.rebuild(),
                home.verification(),
            );
            self.step += 1;
            (0..self.cores.len()).for_each(|core| self.poll(core));
            self.poll_home();
            self.hand.advance(Nanos::from_millis(1));
            let pending = self.cores.iter().any(|core| !core.pending.is_empty());
            let is_still = self.home.rebuild().is_none() && self.home_cx.dma.taken() == 0;
            if !pending && !self.home.is_changing() && is_still {
                break;
            }
        }
        for core in &self.cores {
            assert_eq!(core.queue_pair.inflight(), 0);
            assert_eq!(core.queue_pair.credits(), DEPTH);
            assert_eq!(core.cx.dma.taken(), 0, "every buffer came back");
        }
    }

    /// Members are equal, and hold what was written last.
    fn check_end(&mut self) {
        let view = self.nexus.view();
        let mut contents: Vec<Vec<u8>> = Vec::new();
        for child in view.members {
            let device = view.devices[child.get()].as_ref().unwrap().device.clone();
            contents.push(self.read_all(&*device));
        }
        for other in &contents[1..] {
            assert!(*other == contents[0], "the members are equal");
        }
        for (block, at) in (0_u64..).zip((0..contents[0].len()).step_by(BLOCK_BYTES as usize)) {
            let stamp = Stamp::from_le_bytes(contents[0][at..at + 4].try_into().unwrap());
            self.check_fresh(block, stamp, u64::MAX);
        }
    }

    /// Reads a child past its faults.
    fn read_all(&mut self, device: &dyn BlockDevice) -> Vec<u8> {
        let cx = &mut self.home_cx;
        let mut queue_pair = device.open_queue_pair(cx, 1).unwrap();
        let buffer = cx.dma.take(BLOCK_BYTES).unwrap();
        let mut bytes = Vec::new();
        for lba in 0..device.geometry().blocks {
            let mut completions = Completions::new();
            let mut is_read = false;
            while !is_read {
                let io = Io::read(Lba(lba), 1, buffer.segment(BLOCK_BYTES), Token(1));
                queue_pair.submit(cx, io).unwrap();
                while queue_pair.poll(cx, &mut completions) == 0 {
                    self.hand.advance(Nanos::from_millis(1));
                    cx.advance_clock();
                }
                is_read = completions.drain().all(|completion| completion.status.is_success());
            }
            bytes.extend_from_slice(buffer.bytes(BLOCK_BYTES));
        }
        drop(queue_pair);
        cx.dma.give(buffer);
        bytes
    }
}

#[test]
fn members_have_every_acknowledged_write_whatever_fails_on_whatever_core() {
    let mut acknowledged = 0;
    let mut failures = HashSet::new();
    let mut rebuilds = Vec::new();
    for seed in 0..300 {
        let run = std::panic::AssertUnwindSafe(|| {
            let mut cluster = Cluster::new(seed);
            cluster.run(1500);
            cluster.check_end();
            let ends = cluster.home.rebuild_history().map(|record| record.end).collect::<Vec<_>>();
            (cluster.acknowledged, cluster.failures, ends)
        });
        match std::panic::catch_unwind(run) {
            Ok((count, statuses, ends)) => {
                acknowledged += count;
                rebuilds.extend(ends);
                failures.extend(statuses);
            }
            Err(panic) => {
                let message = panic.downcast_ref::<String>().map_or("see above", String::as_str);
                panic!("seed {seed}: {message}");
            }
        }
    }
    assert!(acknowledged > 15_000, "only {acknowledged} writes were acknowledged");
    let count = |end| rebuilds.iter().filter(|rebuild| **rebuild == end).count();
    let completed = count(RebuildEnd::Completed);
    assert!(completed > 20, "only {completed} of {} rebuilds were completed", rebuilds.len());
    assert!(failures.len() > 1, "the last member's errors are the host's: {failures:?}");
}
