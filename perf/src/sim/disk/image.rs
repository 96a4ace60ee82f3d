//! The blocks of a simulated disk: what is on the medium, and what is only in its cache.
//!
//! A block is written whole or not at all, as disks promise; nothing is promised of two. When
//! power is lost each block comes back as one of what it was since a flush last covered it, apart
//! from all others: so writes are torn and reordered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use reactor::random::Random;

use crate::sim::content::{BLOCK_BYTES, Content};

/// A block that was written.
pub type Block = Arc<Content>;

/// Names an I/O of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IoNumber(pub u64);

/// Completions that were handed up, counted: a flush covers all that were before it was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order(pub u64);

/// What a block became by one write.
#[derive(Clone, Debug)]
struct Version {
    content: Block,
    by: IoNumber,
    /// When the write was handed up as done, if it was.
    done: Option<Order>,
}

/// See the module. Blocks that were never written are zeroes.
#[derive(Clone, Debug)]
pub struct Image {
    zeroes: Block,
    current: BTreeMap<u64, Block>,
    durable: BTreeMap<u64, Block>,
    unflushed: BTreeMap<u64, Vec<Version>>,
}

impl Default for Image {
    fn default() -> Self {
        Image::new()
    }
}

impl Image {
    /// All zeroes.
    pub fn new() -> Image {
        let zeroes = Arc::new([0; BLOCK_BYTES as usize]);
        let (current, durable, unflushed) = Default::default();
        Image { zeroes, current, durable, unflushed }
    }

    /// What a read returns.
    pub fn read(&self, block: u64) -> &Content {
        self.current.get(&block).unwrap_or(&self.zeroes)
    }

    /// A write into the cache.
    pub fn write(&mut self, block: u64, content: Content, by: IoNumber) {
        let content = Arc::new(content);
        self.current.insert(block, content.clone());
        let versions = self.unflushed.entry(block).or_default();
        versions.push(Version { content, by, done: None });
    }

    /// A write through the cache.
    pub fn write_through(&mut self, block: u64, content: Content) {
        let content = Arc::new(content);
        self.current.insert(block, content.clone());
        self.durable.insert(block, content);
        self.unflushed.remove(&block);
    }

    /// A write was handed up as done.
    pub fn done(&mut self, blocks: std::ops::Range<u64>, by: IoNumber, order: Order) {
        for (_, versions) in self.unflushed.range_mut(blocks) {
            let own = versions.iter_mut().filter(|version| version.by == by);
            own.for_each(|version| version.done = Some(order));
        }
    }

    /// Makes durable what was handed up as done before `order`; of the rest, what it likes.
    pub fn flush(&mut self, order: Order, random: &mut Random) {
        self.unflushed.retain(|block, versions| {
            let is_covered = |version: &Version| version.done.is_some_and(|done| done <= order);
            let covered = versions.iter().rposition(is_covered).map_or(0, |place| place + 1);
            let eager = if random.chance(0.5) { versions.len() } else { 0 };
            let last = versions.drain(..covered.max(eager)).next_back();
            if let Some(version) = last {
                self.durable.insert(*block, version.content);
            }
            !versions.is_empty()
        });
    }

    /// Power is lost. Returns how many blocks went back to what they were before.
    pub fn lose_power(&mut self, random: &mut Random) -> u64 {
        let mut lost = 0;
        for (block, versions) in std::mem::take(&mut self.unflushed) {
            let count = versions.len() as u64;
            let kept = random.below(count + 1);
            lost += u64::from(kept < count);
            let kept = versions.into_iter().take(kept as usize).next_back();
            let survivor = match kept {
                Some(version) => {
                    self.durable.insert(block, version.content.clone());
                    Some(version.content)
                }
                None => self.durable.get(&block).cloned(),
            };
            match survivor {
                Some(content) => self.current.insert(block, content),
                None => self.current.remove(&block),
            };
        }
        lost
    }

    /// Everything in the cache reaches the medium.
    pub fn settle(&mut self) {
        self.durable = self.current.clone();
        self.unflushed.clear();
    }

    /// Blocks that were ever written.
    pub fn written(&self) -> BTreeSet<u64> {
        self.current.keys().copied().collect()
    }

    /// Blocks whose last write a loss of power could undo.
    pub fn at_risk(&self) -> usize {
        self.unflushed.len()
    }
}
