//! One core of a process that serves the volume: its queue pair, its host's I/Os, its sleep.
//!
//! Does in a pass what the reactor does: submit, ring, poll, home core, and then sleeps, if it is a
//! core that sleeps, by the reactor's own protocol.

use std::collections::BTreeMap;

use bdev::{Completion, Completions, Io, IoFlags, Lba, Memory, Operation, QueuePair, Token};
use nexus::Home;
use reactor::dma::DmaBuffer;
use reactor::{Nanos, Wake};

use super::contexts::Core;
use super::plan::Idling;
use super::violation::Violation;
use super::volume::{HostIo, Volume};

/// What a core does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Awake,
    /// Until this time, or until it is woken.
    Asleep(Option<Nanos>),
}

/// An I/O in flight.
#[derive(Debug)]
struct Pending {
    io: HostIo,
    since: Nanos,
    buffer: Option<DmaBuffer>,
}

/// What ended in a pass.
#[derive(Debug)]
pub struct Ended {
    /// The I/O.
    pub io: HostIo,
    /// How it ended.
    pub completion: Completion,
    /// How long the host waited.
    pub time: Nanos,
}

/// See the module.
#[derive(Debug)]
pub struct Server {
    /// Its context.
    pub core: Core,
    /// The volume's home, on one core of a process.
    pub home: Option<Home>,
    queue_pair: Option<Box<dyn QueuePair>>,
    depth: u32,
    pending: BTreeMap<Token, Pending>,
    tokens: u64,
    idling: Idling,
    state: State,
    /// The last pass did nothing.
    is_idle: bool,
    completions: Completions,
}

impl Server {
    /// A core that serves nothing yet.
    pub fn new(core: Core, depth: u32, idling: Idling) -> Server {
        Server {
            core,
            home: None,
            queue_pair: None,
            depth,
            pending: BTreeMap::new(),
            tokens: 0,
            idling,
            state: State::Awake,
            is_idle: false,
            completions: Completions::new(),
        }
    }

    /// Opens the volume here.
    pub fn open(&mut self, device: &dyn bdev::BlockDevice) -> Result<(), Violation> {
        self.core.cx.advance_clock();
        let opened = device.open_queue_pair(&mut self.core.cx, self.depth);
        self.queue_pair = Some(opened.map_err(|error| Violation::Stuck(error.to_string()))?);
        self.rouse();
        Ok(())
    }

    /// True while the volume is open here.
    pub fn is_open(&self) -> bool {
        self.queue_pair.is_some()
    }

    /// Closes the volume here, which has nothing in flight.
    pub fn close(&mut self) -> Result<(), Violation> {
        if let Some(queue_pair) = &self.queue_pair {
            let (inflight, credits) = (queue_pair.inflight(), queue_pair.credits());
            if inflight != 0 || credits != self.depth {
                return Err(Violation::Leak(format!("{inflight} in flight, {credits} credits")));
            }
        }
        self.queue_pair = None;
        Ok(())
    }

    /// I/Os of the host in flight.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// True when another I/O is accepted.
    pub fn has_credit(&self) -> bool {
        self.queue_pair.as_ref().is_some_and(|queue_pair| queue_pair.credits() > 0)
    }

    /// The host submits an I/O. A core that sleeps is woken by it.
    pub fn submit(&mut self, io: HostIo, memory: &[u8]) -> Result<(), Violation> {
        self.rouse();
        let cx = &mut self.core.cx;
        cx.advance_clock();
        let queue_pair = self.queue_pair.as_mut().expect("the volume is open here");
        self.tokens += 1;
        let token = Token(self.tokens);
        let len_bytes = u32::try_from(memory.len()).expect("I/Os are short");
        let buffer = match len_bytes {
            0 => None,
            _ => Some(cx.dma.take(len_bytes).expect("the pool holds all I/Os of a core")),
        };
        let memory_of = |buffer: &DmaBuffer| {
            let segment = buffer.segment(len_bytes);
            segment.write(0, memory);
            Memory::One(segment)
        };
        let lba = if io.operation == Operation::Flush { Lba(0) } else { Lba(io.start) };
        let (operation, flags, blocks) = (io.operation, io.flags, io.blocks);
        let memory = buffer.as_ref().map_or(Memory::None, memory_of);
        let submitted = Io { operation, flags, blocks, lba, token, memory };
        let refused = queue_pair.submit(cx, submitted).is_err();
        let since = cx.now();
        self.pending.insert(token, Pending { io, since, buffer });
        match refused {
            true => Err(Violation::Leak(String::from("a credit that was there was refused"))),
            false => Ok(()),
        }
    }

    /// All that its queue pair and its home know, for whoever looks for what it waits for.
    pub fn describe(&self) -> String {
        format!("{:?}\n{:?}", self.queue_pair, self.home)
    }

    /// Ends the sleep: somebody on this core has something to do.
    pub fn rouse(&mut self) {
        if self.state != State::Awake {
            self.core.bed.sleeper.awake();
            self.state = State::Awake;
        }
        self.is_idle = false;
    }

    /// One pass, if the core is awake or has a reason to wake. What ended goes to `volume` and to
    /// `ended`.
    pub fn pass(&mut self, volume: &mut Volume, ended: &mut Vec<Ended>) -> Result<(), Violation> {
        let now = self.core.cx.advance_clock();
        if let State::Asleep(until) = self.state {
            let is_due = until.is_some_and(|until| until <= now);
            if !is_due && !self.core.has_news() && !self.core.bed.is_rung() {
                return Ok(());
            }
            self.rouse();
        }
        self.core.look();
        let mut work = 0;
        if let Some(queue_pair) = &mut self.queue_pair {
            queue_pair.flush(&mut self.core.cx);
            queue_pair.poll(&mut self.core.cx, &mut self.completions);
        }
        let completions: Vec<Completion> = self.completions.drain().collect();
        for completion in completions {
            work += 1;
            ended.push(self.complete(completion, volume)?);
        }
        if let Some(home) = &mut self.home {
            work += home.poll(&mut self.core.cx);
        }
        self.is_idle = work == 0;
        if self.is_idle && self.idling == Idling::Sleeping {
            self.sleep();
        }
        Ok(())
    }

    fn complete(
        &mut self,
        completion: Completion,
        volume: &mut Volume,
    ) -> Result<Ended, Violation> {
        let unknown = Violation::UnknownToken(completion.token);
        let Pending { io, since, buffer } =
            self.pending.remove(&completion.token).ok_or(unknown)?;
        if completion.status.is_success() {
            let has_memory = io.operation == Operation::Read && !completion.zeroes;
            let len_bytes = io.blocks * super::content::BLOCK_BYTES;
            let memory = buffer.as_ref().filter(|_| has_memory);
            volume.succeeded(&io, memory.map(|buffer| buffer.bytes(len_bytes)))?;
            if completion.zeroes && !io.flags.contains(IoFlags::ACCEPT_ZEROES) {
                return Err(Violation::Garbage { block: io.start });
            }
        } else {
            volume.failed(&io);
        }
        if let Some(buffer) = buffer {
            self.core.cx.dma.give(buffer);
        }
        let time = self.core.cx.now().since(since);
        Ok(Ended { io, completion, time })
    }

    /// When the core must be polled next, by what its parts say.
    fn wake(&self) -> Wake {
        let queue_pair = self.queue_pair.as_ref().map_or(Wake::Never, |pair| pair.wake());
        queue_pair.soonest(self.home.as_ref().map_or(Wake::Never, Home::wake))
    }

    fn sleep(&mut self) {
        let until = match self.wake() {
            Wake::Now => return,
            Wake::At(time) => Some(time),
            Wake::Descriptor | Wake::Never => None,
        };
        self.core.bed.sleeper.prepare();
        let cx = &mut self.core.cx;
        let is_still = self.queue_pair.as_mut().is_none_or(|pair| pair.arm(cx))
            && self.home.as_mut().is_none_or(|home| home.arm(cx));
        match is_still {
            true => self.state = State::Asleep(until),
            false => {
                self.core.bed.sleeper.cancel();
                self.is_idle = false;
            }
        }
    }

    /// When there is something to do here, as far as the core knows; nothing when it would sleep
    /// for ever. `now` when there is something already.
    pub fn next_event(&self, now: Nanos) -> Option<Nanos> {
        if self.core.has_news() {
            return Some(now);
        }
        match (self.state, self.is_idle, self.wake()) {
            (State::Asleep(until), ..) => until,
            (State::Awake, false, _) | (State::Awake, true, Wake::Now) => Some(now),
            (State::Awake, true, Wake::At(time)) => Some(time),
            (State::Awake, true, Wake::Descriptor | Wake::Never) => None,
        }
    }

    /// The core is switched off: the process has crashed. What was in flight is nobody's any more;
    /// hosts never hear of it.
    pub fn crash(mut self) -> Core {
        self.queue_pair = None;
        self.home = None;
        for (_, pending) in std::mem::take(&mut self.pending) {
            if let Some(buffer) = pending.buffer {
                self.core.cx.dma.give(buffer);
            }
        }
        self.core
    }
}
