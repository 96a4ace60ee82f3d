//! A nexus over labels, driven by a seed: replicas fail, hang, lose their caches and return, the
//! process crashes and starts again, hosts read and write.
//!
//! Checked: what was acknowledged or read is read again, or what was written since; when faults
//! stop, the volume serves, and every replica is rebuilt and equal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bdev::{Completions, Io, Lba, Token};
use reactor::Nanos;
use reactor::dma::DmaBuffer;
use reactor::random::Random;

use super::tracked_tests::{Process, REGION_BLOCKS, are_equal, disks, format};
use crate::child::{ChildIndex, ChildState};
use crate::truth::Discard;
use crate::view::Mode;
use crate::volatile_disk::{DISK_BLOCK_BYTES, Mood, VolatileDisk};

const BLOCKS: [u64; 6] =
    [0, 9, REGION_BLOCKS, 3 * REGION_BLOCKS + 7, 3 * REGION_BLOCKS + 8, 20 * REGION_BLOCKS];

/// An I/O in flight.
struct Pending {
    block: u64,
    /// What it writes; nothing for a read.
    stamp: Option<u32>,
    buffer: DmaBuffer,
}

struct Walk {
    disks: Vec<Arc<VolatileDisk>>,
    process: Process,
    random: Random,
    next: u32,
    pending: BTreeMap<Token, Pending>,
    /// What a block must hold, if none of the next.
    held: BTreeMap<u64, u32>,
    /// What was written and never answered.
    may_hold: BTreeMap<u64, BTreeSet<u32>>,
    acknowledged: u32,
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let mut random = Random::new(seed);
        let disks = disks(2 + random.below(2) as usize);
        format(&disks);
        let process = Process::start(&disks);
        Walk {
            disks,
            process,
            random,
            next: 1,
            pending: BTreeMap::new(),
            held: BTreeMap::new(),
            may_hold: BTreeMap::new(),
            acknowledged: 0,
        }
    }

    fn submit(&mut self, is_write: bool) {
        let block = BLOCKS[self.random.below(BLOCKS.len() as u64) as usize];
        if self.pending.values().any(|pending| pending.block == block) {
            return;
        }
        let Process { cx, queue_pair, .. } = &mut self.process;
        let Some(buffer) = cx.dma.take(DISK_BLOCK_BYTES) else { return };
        let segment = buffer.segment(DISK_BLOCK_BYTES);
        let stamp = self.next;
        self.next += 1;
        let token = Token(u64::from(stamp));
        let io = match is_write {
            true => {
                segment.write(0, &stamp.to_le_bytes());
                Io::write(Lba(block), 1, segment, token)
            }
            false => Io::read(Lba(block), 1, segment, token),
        };
        if queue_pair.submit(cx, io).is_err() {
            return cx.dma.give(buffer);
        }
        let stamp = is_write.then_some(stamp);
        self.pending.insert(token, Pending { block, stamp, buffer });
    }

    fn pass(&mut self) {
        let mut completions = Completions::new();
        let Process { cx, queue_pair, home, .. } = &mut self.process;
        queue_pair.flush(cx);
        queue_pair.poll(cx, &mut completions);
        home.poll(cx);
        for completion in completions.drain() {
            let pending = self.pending.remove(&completion.token).expect("a token comes once");
            let Pending { block, stamp, buffer } = pending;
            let read = u32::from_le_bytes(buffer.bytes(4).try_into().unwrap());
            self.process.cx.dma.give(buffer);
            match (completion.status.is_success(), stamp) {
                (true, Some(stamp)) => {
                    self.acknowledged += 1;
                    self.settle(block, stamp);
                }
                (true, None) => self.check(block, read),
                (false, Some(stamp)) => self.note_unanswered(block, stamp),
                (false, None) => {}
            }
        }
    }

    fn settle(&mut self, block: u64, stamp: u32) {
        self.held.insert(block, stamp);
        self.may_hold.remove(&block);
    }

    fn note_unanswered(&mut self, block: u64, stamp: u32) {
        self.may_hold.entry(block).or_default().insert(stamp);
    }

    fn check(&mut self, block: u64, read: u32) {
        let held = self.held.get(&block).copied().unwrap_or(0);
        let may_hold = self.may_hold.get(&block);
        let is_fine = read == held || may_hold.is_some_and(|stamps| stamps.contains(&read));
        assert!(is_fine, "block {block} reads as {read}, it holds {held} or one of {may_hold:?}");
        self.settle(block, read);
    }

    fn crash(&mut self) {
        for pending in std::mem::take(&mut self.pending).into_values() {
            if let Some(stamp) = pending.stamp {
                self.note_unanswered(pending.block, stamp);
            }
        }
        self.process = Process::start(&self.disks);
    }

    /// Only while every replica is a member and well: what one loses, the others have.
    fn lose_power(&mut self) {
        let all: crate::child::ChildSet = ChildIndex::all().take(self.disks.len()).collect();
        let view = self.process.nexus.view();
        let is_whole = view.members == all && view.leaving.is_empty() && view.mode == Mode::Running;
        let is_well = self.disks.iter().all(|disk| disk.state().mood == Mood::Well);
        if is_whole && is_well && self.process.home.unequal_regions() == 0 {
            let number = self.random.below(self.disks.len() as u64) as usize;
            self.disks[number].lose_power();
        }
    }

    fn change_mood(&mut self) {
        let number = self.random.below(self.disks.len() as u64) as usize;
        let well = self.disks[number].state().mood == Mood::Well;
        let mood = match well {
            true if self.random.chance(0.5) => Mood::Gone,
            true => Mood::Hung,
            false => Mood::Well,
        };
        self.disks[number].set(mood);
    }

    fn rebuild_any(&mut self) {
        let Process { home, cx, .. } = &mut self.process;
        let is_out = |state: ChildState| {
            !matches!(state, ChildState::Open | ChildState::Rebuilding | ChildState::Init)
        };
        let out = home.children().find(|child| is_out(child.state));
        if let Some(child) = out {
            // Not now, mostly.
            let _ = home.begin_target(cx, &child.name, Discard::No);
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..30 => self.submit(true),
            30..45 => self.submit(false),
            45..49 => self.change_mood(),
            49..51 => self.lose_power(),
            51..53 => self.crash(),
            53..60 => self.rebuild_any(),
            60..70 => {
                let longest = [1, 50, 3000][self.random.below(3) as usize];
                let time = Nanos::from_millis(self.random.below(longest));
                self.advance(time);
            }
            _ => {}
        }
        (0..self.random.below(8)).for_each(|_| self.pass());
    }

    fn advance(&mut self, time: Nanos) {
        self.process.hand.advance(time);
        self.process.cx.advance_clock();
    }

    /// Faults stop: everything must come right.
    fn end(&mut self) {
        self.disks.iter().for_each(|disk| disk.set(Mood::Well));
        let all: crate::child::ChildSet = ChildIndex::all().take(self.disks.len()).collect();
        for round in 0.. {
            let home = &self.process.home;
            let states: Vec<_> = home.children().map(|child| child.state).collect();
            let stuck = (&home.step, &home.joining, &home.stops, &home.marks, home.rebuild());
            let Process { queue_pair, .. } = &self.process;
            assert!(
                round < 4000,
                "it never ends: {states:?} {stuck:?} {:?} {queue_pair:?}",
                home.truth
            );
            (0..20).for_each(|_| self.pass());
            self.advance(Nanos::from_millis(20));
            self.rebuild_any();
            let view = self.process.nexus.view();
            let is_whole = view.members == all && view.leaving.is_empty();
            if is_whole && self.pending.is_empty() && self.process.home.unequal_regions() == 0 {
                break;
            }
        }
        assert!(are_equal(&self.disks), "the replicas are equal");
        for block in BLOCKS {
            while self.pending.is_empty() {
                let token = Token(u64::from(self.next));
                self.next += 1;
                let Process { cx, queue_pair, .. } = &mut self.process;
                let buffer = cx.dma.take(DISK_BLOCK_BYTES).unwrap();
                let io = Io::read(Lba(block), 1, buffer.segment(DISK_BLOCK_BYTES), token);
                queue_pair.submit(cx, io).unwrap();
                self.pending.insert(token, Pending { block, stamp: None, buffer });
            }
            (0..20).for_each(|_| self.pass());
            assert!(self.pending.is_empty());
        }
    }
}

#[test]
fn what_was_acknowledged_is_read_again_whatever_replicas_and_processes_do() {
    let mut acknowledged = 0;
    for seed in 0..25 {
        let run = std::panic::AssertUnwindSafe(|| {
            let mut walk = Walk::new(seed);
            (0..400).for_each(|_| walk.step());
            walk.end();
            walk.acknowledged
        });
        match std::panic::catch_unwind(run) {
            Ok(count) => acknowledged += count,
            Err(panic) => {
                let message = panic.downcast_ref::<String>().map_or("see above", String::as_str);
                panic!("seed {seed}: {message}");
            }
        }
    }
    assert!(acknowledged > 500, "only {acknowledged} writes were acknowledged");
}
