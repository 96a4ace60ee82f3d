//! A disk for tests that has a cache, and can lose it, go away, hang and come back.
//!
//! Shared by its queue pairs and by the test, which changes how it behaves and looks at what it
//! holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bdev::device::{BlockDevice, Geometry, Limits, OpenError};
use bdev::session::{Continuity, Link, Sessions};
use bdev::{Busy, Completion, Completions, Io, IoFlags, Memory, Operation, QueuePair, Status};
use reactor::dma::Segment;
use reactor::{Cx, Wake};
use uuid::Uuid;

/// Bytes of a block.
pub(crate) const DISK_BLOCK_BYTES: u32 = 4096;

type Block = Box<[u8; DISK_BLOCK_BYTES as usize]>;

/// How it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Well.
    #[default]
    Well,
    /// Each I/O fails.
    Gone,
    /// Each I/O waits until it is aborted.
    Hung,
    /// As well as ever for those that have it open, and nobody else can open it.
    Shut,
}

/// What it was given, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// A write to this block.
    Write(u64),
    Flush,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    durable: BTreeMap<u64, Block>,
    /// Nothing for zeroes.
    cache: BTreeMap<u64, Option<Block>>,
    pub(crate) mood: Mood,
    pub(crate) given: Vec<Given>,
}

impl State {
    fn block(&self, block: u64) -> Option<&Block> {
        match self.cache.get(&block) {
            Some(cached) => cached.as_ref(),
            None => self.durable.get(&block),
        }
    }

    /// First byte of a block.
    pub(crate) fn first_byte(&self, block: u64) -> u8 {
        self.block(block).map_or(0, |bytes| bytes[0])
    }

    /// All blocks that are not zero, as they read now.
    pub(crate) fn contents(&self, from: u64) -> BTreeMap<u64, Block> {
        let blocks = self.durable.keys().chain(self.cache.keys()).filter(|block| **block >= from);
        let known = blocks.filter_map(|block| Some((*block, self.block(*block)?.clone())));
        known.filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)).collect()
    }

    /// Spoils a block behind everybody's back.
    pub(crate) fn spoil(&mut self, block: u64) {
        let bytes = self.durable.entry(block).or_insert_with(|| Box::new([0; 4096]));
        bytes[100] ^= 0xff;
    }

    fn flush(&mut self) {
        self.given.push(Given::Flush);
        for (block, bytes) in std::mem::take(&mut self.cache) {
            match bytes {
                Some(bytes) => drop(self.durable.insert(block, bytes)),
                None => drop(self.durable.remove(&block)),
            }
        }
    }
}

/// See the module.
pub(crate) struct VolatileDisk {
    blocks: u64,
    state: Arc<Mutex<State>>,
    sessions: Arc<Sessions>,
}

impl std::fmt::Debug for VolatileDisk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("VolatileDisk").finish_non_exhaustive()
    }
}

impl VolatileDisk {
    pub(crate) fn new(blocks: u64) -> Arc<VolatileDisk> {
        let sessions = Arc::new(Sessions::new());
        sessions.name_run(Some(Uuid::from_u128(1)));
        sessions.begin(Continuity::Kept, Link::Live);
        Arc::new(VolatileDisk { blocks, state: Arc::default(), sessions })
    }

    pub(crate) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// Loses power, and is back at once: what no flush covered is gone.
    pub(crate) fn lose_power(&self) {
        let run = Uuid::from_u128(u128::from(self.sessions.restarts()) + 2);
        self.sessions.name_run(Some(run));
        self.sessions.begin(Continuity::Restarted, Link::Live);
        self.state().cache.clear();
    }
}

impl BlockDevice for VolatileDisk {
    fn name(&self) -> &str {
        "volatile"
    }

    fn geometry(&self) -> Geometry {
        Geometry { block_bytes: DISK_BLOCK_BYTES, blocks: self.blocks }
    }

    fn limits(&self) -> Limits {
        Limits { volatile_cache: true, ..Limits::default() }
    }

    fn uuid(&self) -> Option<Uuid> {
        None
    }

    fn sessions(&self) -> Option<Arc<Sessions>> {
        Some(self.sessions.clone())
    }

    fn open_queue_pair(&self, _: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        if self.state().mood == Mood::Shut {
            let source = std::io::Error::other("it is shut");
            return Err(OpenError::System { device: self.name().to_owned(), source });
        }
        Ok(Box::new(VolatileQueuePair {
            state: self.state.clone(),
            pending: Vec::new(),
            aborted: false,
            depth,
        }))
    }
}

struct VolatileQueuePair {
    state: Arc<Mutex<State>>,
    pending: Vec<Io>,
    aborted: bool,
    depth: u32,
}

impl std::fmt::Debug for VolatileQueuePair {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("VolatileQueuePair").field("pending", &self.pending).finish()
    }
}

impl VolatileQueuePair {
    fn segment(io: &Io) -> Segment {
        match io.memory {
            Memory::One(segment) => segment,
            ref other => panic!("tests use one segment, not {other:?}"),
        }
    }

    fn run(state: &mut State, io: &Io) {
        let part =
            |number: u32| Self::segment(io).part(number * DISK_BLOCK_BYTES, DISK_BLOCK_BYTES);
        let blocks = (io.lba.0..).zip(0..io.blocks);
        match io.operation {
            Operation::Flush => state.flush(),
            Operation::Read => {
                for (block, number) in blocks {
                    let known = state.block(block);
                    part(number).write(0, known.map_or(&[0; 4096][..], |bytes| &bytes[..]));
                }
            }
            Operation::Write => {
                for (block, number) in blocks {
                    let mut bytes = Box::new([0; 4096]);
                    part(number).read(0, &mut bytes[..]);
                    state.given.push(Given::Write(block));
                    match io.flags.contains(IoFlags::FUA) {
                        true => {
                            state.cache.remove(&block);
                            state.durable.insert(block, bytes);
                        }
                        false => drop(state.cache.insert(block, Some(bytes))),
                    }
                }
            }
            Operation::WriteZeroes | Operation::Unmap => {
                for (block, _) in blocks {
                    state.given.push(Given::Write(block));
                    state.cache.insert(block, None);
                }
            }
            other => panic!("tests do not use {other:?}"),
        }
    }
}

impl QueuePair for VolatileQueuePair {
    fn submit(&mut self, _: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.credits() == 0 {
            return Err(Busy);
        }
        self.aborted = false;
        self.pending.push(io);
        Ok(())
    }

    fn flush(&mut self, _: &mut Cx) {}

    fn poll(&mut self, _: &mut Cx, completions: &mut Completions) -> usize {
        let mut state = self.state.lock().unwrap();
        if state.mood == Mood::Hung && !self.aborted {
            return 0;
        }
        let count = self.pending.len().min(completions.room());
        for io in self.pending.drain(..count) {
            let status = match state.mood {
                Mood::Well | Mood::Shut => {
                    Self::run(&mut state, &io);
                    Status::SUCCESS
                }
                Mood::Gone => Status::INTERNAL_PATH_ERROR,
                Mood::Hung => Status::ABORT_REQUESTED,
            };
            completions.push(Completion::new(io.token, status));
        }
        count
    }

    fn credits(&self) -> u32 {
        self.depth - self.inflight()
    }

    fn inflight(&self) -> u32 {
        self.pending.len() as u32
    }

    fn abort_all(&mut self, _: &mut Cx) {
        self.aborted = true;
    }

    fn wake(&self) -> Wake {
        if self.pending.is_empty() { Wake::Never } else { Wake::Now }
    }

    fn arm(&mut self, _: &mut Cx) -> bool {
        false
    }
}
