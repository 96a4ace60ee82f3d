//! The load generator on its core: slots with buffers, submitted and timed.
//!
//! A [`Service`] of its core's reactor. It owns queue pairs, each with `iodepth` slots; a pass
//! polls what has completed, times it, fills the free slots again and flushes. Nothing is allocated
//! once the connections are open. It ends by itself, when it is done or at its deadline. With a
//! [`Verifier`] every write carries a pattern, every read is checked, and at the end all that was
//! written is read back.

use bdev::{Completions, Geometry, Io, IoFlags, Lba, Operation, QueuePair, Status, Token};
use reactor::clock::Nanos;
use reactor::dma::DmaBuffer;
use reactor::socket::Ready;
use reactor::{Cx, Service, Wake};

use crate::cycles::{TickRate, Ticks};
use crate::harness::RunError;
use crate::meter::{Meter, Phase, Window};
use crate::pace::Pace;
use crate::prefill::{self, Prefill, Range};
use crate::report::Faults;
use crate::reporter::{Outcome, Reporter};
use crate::source::{Opened, Source};
use crate::verify::Verifier;
use crate::workload::{Direction, Extent, Order, Step, Stream};

/// Places tried before a pass gives up finding one that no other I/O of the load is using.
const PLACE_TRIES: usize = 8;

/// Whether reads are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checking {
    /// No.
    Off,
    /// Against the pattern that was written last.
    Pattern,
}

/// What the range holds before the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// What it holds already.
    AsItIs,
    /// Noise, written once.
    Filled,
}

/// What one core is to do.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// Connections of this core.
    pub connections: u32,
    /// How many the cores before it have, and how many there are in all: where sequential streams
    /// start.
    pub connections_before: u32,
    /// Connections of all cores.
    pub connections_all: u32,
    /// Index of this core among those that make load, and how many those are: with checking each
    /// has a part of the device to itself.
    pub core_index: u64,
    /// Cores that make load.
    pub cores: u64,
    /// I/Os in flight on each connection.
    pub depth: u32,
    /// Bytes of an I/O.
    pub block_bytes: u32,
    /// Reads and writes.
    pub direction: Direction,
    /// Order of the places.
    pub order: Order,
    /// First byte to use.
    pub offset_bytes: u64,
    /// Bytes to use from there; none for all.
    pub size_bytes: Option<u64>,
    /// What the range holds before the load.
    pub before: Before,
    /// Whether reads are checked.
    pub checking: Checking,
    /// I/Os a second of this core, when the load is open.
    pub ios_per_second: Option<f64>,
    /// When to measure.
    pub window: Window,
    /// Of the time-stamp counter.
    pub rate: TickRate,
}

impl LoadConfig {
    /// The blocks from the offset on that the cores fill.
    fn range(&self, geometry: Geometry) -> Range {
        let len_bytes = geometry.len_bytes();
        let size_bytes = self.size_bytes.unwrap_or(len_bytes);
        let end_bytes = self.offset_bytes.saturating_add(size_bytes).min(len_bytes);
        let unit = u64::from(geometry.block_bytes);
        Range { first: Lba(self.offset_bytes / unit), end: Lba(end_bytes / unit) }
    }

    /// The part of a device of this geometry that the core works on.
    ///
    /// # Errors
    ///
    /// When it is misaligned, beyond the device, or has no room for one I/O a core.
    pub fn extent(&self, geometry: Geometry) -> Result<Extent, RunError> {
        let refuse = |reason: String| Err(RunError::Extent { reason });
        let unit = u64::from(geometry.block_bytes);
        let block_bytes = u64::from(self.block_bytes);
        if !block_bytes.is_multiple_of(unit) || !self.offset_bytes.is_multiple_of(unit) {
            return refuse(format!("block size and offset must be multiples of {unit} bytes"));
        }
        let len_bytes = geometry.len_bytes();
        let available = len_bytes.saturating_sub(self.offset_bytes);
        let used = self.size_bytes.unwrap_or(available);
        if used > available {
            return refuse(format!("offset and size end beyond the device of {len_bytes} bytes"));
        }
        let whole = Extent {
            first: Lba(self.offset_bytes / unit),
            places: used / block_bytes,
            place_blocks: self.block_bytes / geometry.block_bytes,
        };
        let part = match self.checking {
            Checking::Off => whole.part(0, 1),
            Checking::Pattern => whole.part(self.core_index, self.cores),
        };
        match part {
            Some(part) => Ok(part),
            None => refuse(format!("{used} bytes have no room for an I/O of {block_bytes} a core")),
        }
    }
}

/// One I/O that can be in flight.
#[derive(Debug)]
struct Slot {
    buffer: DmaBuffer,
    started: Ticks,
    step: Step,
    /// What the place holds by the pattern, or will once a write is done.
    pattern: u32,
    /// Which use of the slot this is; the upper half of the token.
    usage: u32,
    in_flight: bool,
}

#[derive(Debug)]
struct Connection {
    queue_pair: Box<dyn QueuePair>,
    stream: Stream,
    place_bytes: u32,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// What is written where nothing is verified: one buffer, which stays in the cache as that of
    /// the echo's client does. A ratio of the two then compares the targets and not the clients.
    noise: Option<DmaBuffer>,
}

/// How far the load is.
#[derive(Debug)]
enum Stage {
    /// Connections are being made.
    Opening,
    /// The range is being written; when that was last reported.
    Filling(Prefill, Nanos),
    /// Others are not ready yet.
    Waiting,
    /// The meter says where in the run it is.
    Running,
    /// Over: the core ends.
    Ended,
}

/// The service.
#[derive(Debug)]
pub struct Load {
    stage: Stage,
    config: LoadConfig,
    source: Source,
    connections: Vec<Connection>,
    completions: Completions,
    verifier: Option<Verifier>,
    meter: Meter,
    pace: Pace,
    /// Whose turn it is, when the pace says when.
    turn: usize,
    faults: Faults,
    reporter: Reporter,
    /// Set once the service is told to end, or something failed: nothing is read back then.
    stopping: bool,
    /// When the load ends at the latest, with I/Os in flight or without.
    ends_at: Nanos,
}

impl Load {
    /// A load that opens its source in its first passes. On the core's own thread.
    pub fn new(cx: &Cx, config: LoadConfig, source: Source, reporter: Reporter) -> Load {
        Load {
            stage: Stage::Opening,
            source,
            connections: Vec::with_capacity(config.connections as usize),
            completions: Completions::new(),
            verifier: None,
            meter: Meter::new(config.window, config.rate),
            pace: Pace::new(config.ios_per_second, config.rate),
            turn: 0,
            faults: Faults::default(),
            reporter,
            stopping: false,
            ends_at: cx.now() + config.window.lifetime(),
            config,
        }
    }

    /// Goes on with what comes before the load.
    fn prepare(&mut self, cx: &mut Cx) -> Result<usize, RunError> {
        match &mut self.stage {
            Stage::Opening => {
                let LoadConfig { connections, depth, before, .. } = self.config;
                let depth = match before {
                    Before::AsItIs => depth,
                    Before::Filled => depth.max(prefill::DEPTH),
                };
                let Some(opened) = self.source.poll_open(cx, connections, depth)? else {
                    return Ok(0);
                };
                self.stage = self.connect(cx, opened)?;
                Ok(1)
            }
            Stage::Filling(fill, reported) => {
                let first = self.connections.first_mut().expect("a load has a connection");
                let work = fill.step(cx, &mut *first.queue_pair, &mut self.completions)?;
                if work > 0 && cx.now().since(*reported) >= prefill::REPORT_INTERVAL {
                    *reported = cx.now();
                    self.ends_at = cx.now() + self.config.window.lifetime();
                    self.reporter.filling();
                }
                if fill.is_done()
                    && let Stage::Filling(fill, _) =
                        std::mem::replace(&mut self.stage, Stage::Waiting)
                {
                    fill.finish(cx);
                }
                Ok(work)
            }
            Stage::Waiting if self.reporter.may_begin() => {
                self.stage = Stage::Running;
                self.ends_at = cx.now() + self.config.window.lifetime();
                self.meter.begin(cx.now());
                self.pace.begin(Ticks::now());
                Ok(1)
            }
            Stage::Waiting | Stage::Running | Stage::Ended => Ok(0),
        }
    }

    /// Gives every queue pair its slots; returns what comes next.
    fn connect(&mut self, cx: &mut Cx, opened: Opened) -> Result<Stage, RunError> {
        let LoadConfig { depth, block_bytes, connections_all, .. } = self.config;
        let (geometry, limits) = (opened.geometry, opened.limits);
        let extent = self.config.extent(geometry)?;
        if extent.place_blocks > limits.io_blocks_max {
            let bytes = u64::from(limits.io_blocks_max) * u64::from(geometry.block_bytes);
            let reason = format!("one I/O of the device has at most {bytes} bytes: lower --bs");
            return Err(RunError::Extent { reason });
        }
        if self.config.checking == Checking::Pattern {
            self.verifier = Some(Verifier::new(extent, geometry.block_bytes)?);
        }
        for (index, queue_pair) in opened.queue_pairs.into_iter().enumerate() {
            let place = u64::from(self.config.connections_before) + index as u64;
            let cursor = extent.places / u64::from(connections_all.max(1)) * place;
            let slots = (0..depth).map(|_| slot(cx, depth, block_bytes)).collect::<Result<_, _>>();
            let noise = match self.config.checking {
                Checking::Off => Some(slot(cx, depth, block_bytes)?.buffer),
                Checking::Pattern => None,
            };
            self.connections.push(Connection {
                noise,
                queue_pair,
                place_bytes: block_bytes,
                stream: Stream::new(self.config.direction, self.config.order, extent, cursor),
                slots: slots?,
                free: (0..depth).rev().collect(),
            });
        }
        if self.config.before == Before::AsItIs {
            return Ok(Stage::Waiting);
        }
        let (device, range) = ((geometry, limits), self.config.range(geometry));
        let part = (self.config.core_index, self.config.cores);
        Ok(Stage::Filling(Prefill::new(cx, device, range, part)?, cx.now()))
    }

    /// Takes what has completed.
    fn poll(&mut self, cx: &mut Cx) -> usize {
        let mut work = 0;
        for connection in &mut self.connections {
            if connection.free.len() == connection.slots.len() {
                continue;
            }
            let count = connection.queue_pair.poll(cx, &mut self.completions);
            if count == 0 {
                continue;
            }
            work += count;
            let ended = Ticks::now();
            for completion in self.completions.drain() {
                let slot = connection.complete(completion.token);
                if completion.status.is_success() {
                    self.meter.record(slot.started, ended, self.config.block_bytes);
                } else {
                    note_error(&mut self.faults, slot, completion.status);
                }
                if let Some(verifier) = &mut self.verifier {
                    if completion.zeroes {
                        slot.buffer.bytes_mut().fill(0);
                    }
                    verify(verifier, slot, completion.status, &mut self.faults);
                }
            }
        }
        if work > 0 && !self.faults.is_empty() && self.meter.phase() != Phase::Done {
            // As with fio, the first fault ends the run.
            self.meter.end(cx);
            self.reporter.entered(Phase::Done);
        }
        work
    }

    /// Fills free slots as the pace allows.
    fn submit(&mut self, cx: &mut Cx) -> usize {
        let running = matches!(self.meter.phase(), Phase::Ramp | Phase::Measuring);
        let now = Ticks::now();
        let mut work = 0;
        match (running, self.pace) {
            (false, _) => work += self.read_back(cx, now),
            (true, Pace::Closed) => {
                for connection in &mut self.connections {
                    while connection.has_room()
                        && connection.submit_next(cx, &mut self.verifier, now)
                    {
                        work += 1;
                    }
                }
            }
            (true, Pace::Open { .. }) => work += self.submit_due(cx, now),
        }
        for connection in &mut self.connections {
            // Also without new ones: what a full socket kept back is still to be sent.
            if connection.free.len() < connection.slots.len() {
                connection.queue_pair.flush(cx);
            }
        }
        work
    }

    /// Submits what is due, each to the next connection with room.
    fn submit_due(&mut self, cx: &mut Cx, now: Ticks) -> usize {
        let (mut work, mut full) = (0, 0);
        while full < self.connections.len() {
            let index = self.turn % self.connections.len();
            self.turn += 1;
            let connection = &mut self.connections[index];
            if !connection.has_room() {
                full += 1;
                continue;
            }
            let Some(started) = self.pace.start(now) else { break };
            if !connection.submit_next(cx, &mut self.verifier, started) {
                break;
            }
            (work, full) = (work + 1, 0);
        }
        work
    }

    /// Reads again what was written, once the window is closed and nothing is wrong so far.
    fn read_back(&mut self, cx: &mut Cx, now: Ticks) -> usize {
        let Some(verifier) = &mut self.verifier else { return 0 };
        if self.meter.phase() != Phase::Done || self.stopping || !self.faults.is_empty() {
            return 0;
        }
        let mut work = 0;
        for connection in &mut self.connections {
            while connection.has_room() {
                let Some((place, pattern)) = verifier.take_next_written() else { return work };
                let step = Step { operation: Operation::Read, place };
                connection.submit(cx, step, pattern, now);
                work += 1;
            }
        }
        work
    }

    /// Moves on through ramp and window, and tells the main thread.
    fn advance(&mut self, cx: &Cx) {
        let before = self.meter.phase();
        let phase = self.meter.advance(cx);
        if phase != before {
            self.reporter.entered(phase);
        }
    }

    /// Reports once everything is done, and ends.
    fn report(&mut self, cx: &mut Cx) {
        if self.meter.phase() != Phase::Done || self.in_flight() > 0 {
            return;
        }
        let measure = self.meter.measure(cx.core);
        let faults = std::mem::take(&mut self.faults);
        self.reporter.end(Ok(Outcome { measure, faults }));
        self.source.close(cx);
        self.stage = Stage::Ended;
    }

    /// Reports why it cannot go on, and ends once nothing is in flight.
    fn fail(&mut self, cx: &mut Cx, error: RunError) {
        self.meter.end(cx);
        self.reporter.end(Err(error));
        self.abort(cx);
    }

    fn abort(&mut self, cx: &mut Cx) {
        self.stopping = true;
        for connection in &mut self.connections {
            connection.queue_pair.abort_all(cx);
        }
        // What was being filled is not counted among the slots, and is never looked at again.
        if !matches!(self.stage, Stage::Ended) {
            self.stage = Stage::Running;
        }
    }

    /// Ends the load at its deadline, whatever is in flight: nobody else may come to do it.
    fn keep_deadline(&mut self, cx: &mut Cx) {
        if cx.now() < self.ends_at || matches!(self.stage, Stage::Ended) {
            return;
        }
        let within = std::time::Duration::from(self.config.window.lifetime());
        self.fail(cx, RunError::Deadline { core: cx.core, within_s: within.as_secs() });
        self.source.close(cx);
        self.stage = Stage::Ended;
    }

    fn in_flight(&self) -> usize {
        self.connections.iter().map(|one| one.slots.len() - one.free.len()).sum()
    }
}

/// A slot whose buffer is filled with noise, so that nothing below can make a short cut of zeroes.
fn slot(cx: &mut Cx, depth: u32, block_bytes: u32) -> Result<Slot, RunError> {
    let buffer = cx.dma.take(block_bytes);
    let mut buffer = buffer.ok_or(RunError::Buffers { depth, len_bytes: block_bytes })?;
    for word in buffer.bytes_mut().as_chunks_mut::<8>().0 {
        *word = cx.random.next_u64().to_ne_bytes();
    }
    let step = Step { operation: Operation::Read, place: 0 };
    Ok(Slot { buffer, started: Ticks(0), step, pattern: 0, usage: 0, in_flight: false })
}

#[cold]
fn note_error(faults: &mut Faults, slot: &Slot, status: Status) {
    faults.errors += 1;
    let Step { operation, place } = slot.step;
    let words = || format!("{operation:?} at place {place} ended with {status}");
    faults.first.get_or_insert_with(words);
}

/// Checks a read, and gives the place of either free.
fn verify(verifier: &mut Verifier, slot: &Slot, status: Status, faults: &mut Faults) {
    let Step { operation, place } = slot.step;
    if operation == Operation::Read
        && status.is_success()
        && let Err(mismatch) =
            verifier.check(place, slot.pattern, slot.buffer.bytes(verifier.place_bytes()))
    {
        faults.mismatches += 1;
        faults.first.get_or_insert_with(|| mismatch.to_string());
    }
    verifier.release(place, slot.pattern);
}

impl Connection {
    fn has_room(&self) -> bool {
        !self.free.is_empty() && self.queue_pair.credits() > 0
    }

    /// Submits the next step of the stream; false when every place tried was in use.
    fn submit_next(
        &mut self,
        cx: &mut Cx,
        verifier: &mut Option<Verifier>,
        started: Ticks,
    ) -> bool {
        let Some(verifier) = verifier else {
            let step = self.stream.step(&mut cx.random);
            self.submit(cx, step, 0, started);
            return true;
        };
        for _ in 0..PLACE_TRIES {
            let step = self.stream.step(&mut cx.random);
            let Some(written) = verifier.take(step.place) else { continue };
            let pattern = match step.operation {
                Operation::Write => written + 1,
                _ => written,
            };
            if step.operation == Operation::Write {
                let slot = *self.free.last().expect("the caller saw room") as usize;
                let bytes = &mut self.slots[slot].buffer.bytes_mut()[..];
                verifier.fill(step.place, pattern, bytes);
            }
            self.submit(cx, step, pattern, started);
            return true;
        }
        false
    }

    /// Submits a step with a free slot; the caller saw room.
    fn submit(&mut self, cx: &mut Cx, step: Step, pattern: u32, started: Ticks) {
        let index = self.free.pop().expect("the caller saw room");
        let slot = &mut self.slots[index as usize];
        slot.usage = slot.usage.wrapping_add(1);
        slot.in_flight = true;
        (slot.step, slot.pattern, slot.started) = (step, pattern, started);
        let token = Token(u64::from(slot.usage) << 32 | u64::from(index));
        let extent = self.stream.extent();
        let (lba, blocks) = (extent.lba(step.place), extent.place_blocks);
        let segment = slot.buffer.segment(self.place_bytes);
        let io = match step.operation {
            Operation::Write => {
                let noise = self.noise.as_ref().map(|noise| noise.segment(self.place_bytes));
                Io::write(lba, blocks, noise.unwrap_or(segment), token)
            }
            _ => {
                let flags = IoFlags::ACCEPT_ZEROES;
                Io { flags, ..Io::read(lba, blocks, segment, token) }
            }
        };
        self.queue_pair.submit(cx, io).expect("a queue pair with a credit accepts an I/O");
    }

    /// Frees the slot of a completion.
    fn complete(&mut self, token: Token) -> &mut Slot {
        let index = token.0 as u32;
        let slot = &mut self.slots[index as usize];
        assert!(
            slot.in_flight && u64::from(slot.usage) == token.0 >> 32,
            "a token completes exactly once"
        );
        slot.in_flight = false;
        self.free.push(index);
        slot
    }
}

impl Service for Load {
    fn take_messages(&mut self, _: &mut Cx) -> usize {
        0
    }

    fn socket_ready(&mut self, _: &mut Cx, _: Ready) {}

    fn receive(&mut self, _: &mut Cx) -> usize {
        0
    }

    fn poll_devices(&mut self, cx: &mut Cx) -> usize {
        self.keep_deadline(cx);
        if let Err(error) = self.source.poll(cx)
            && !self.reporter.has_ended()
        {
            self.fail(cx, error);
        }
        match self.stage {
            Stage::Running => {}
            Stage::Ended => return 0,
            Stage::Opening | Stage::Filling(..) | Stage::Waiting => {
                return self.prepare(cx).unwrap_or_else(|error| {
                    self.fail(cx, error);
                    1
                });
            }
        }
        let mut work = self.poll(cx);
        self.advance(cx);
        work += self.submit(cx);
        self.report(cx);
        work
    }

    fn send(&mut self, _: &mut Cx) -> usize {
        0
    }

    fn timer(&mut self, _: &mut Cx, _: u64) {}

    fn wake(&self, cx: &Cx) -> Wake {
        let mut wake = self.source.wake().soonest(Wake::At(self.ends_at));
        if let Stage::Waiting = self.stage {
            return Wake::Now;
        }
        for connection in &self.connections {
            wake = wake.soonest(connection.queue_pair.wake());
        }
        match self.pace.wait(Ticks::now()) {
            Some(wait) if !self.reporter.has_ended() => wake.soonest(Wake::At(cx.now() + wait)),
            _ => wake,
        }
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        let armed = self.source.arm(cx);
        self.connections.iter_mut().fold(armed, |armed, one| one.queue_pair.arm(cx) && armed)
    }

    fn stop(&mut self, cx: &mut Cx, deadline: Nanos) {
        self.meter.end(cx);
        self.ends_at = self.ends_at.min(deadline);
        self.abort(cx);
    }

    fn stopped(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }
}
