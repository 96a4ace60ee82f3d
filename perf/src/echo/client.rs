//! The client of the echo: sends requests as the initiator does, and times the answers.
//!
//! A [`Service`] on its core's reactor. Each connection has `iodepth` slots in a ring, each with a
//! DMA buffer; answers come in the order of the requests, so they are received straight into the
//! buffers, and all requests of a pass go out in one gathered send.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;

use bdev::Operation;
use reactor::clock::Nanos;
use reactor::dma::DmaBuffer;
use reactor::socket::{Ready, Socket, SocketError, SocketKey};
use reactor::{Cx, Service, Wake};

use super::wire::{ANSWER_BYTES, REQUEST_BYTES, Request};
use crate::cycles::{TickRate, Ticks};
use crate::harness::RunError;
use crate::meter::{Meter, Phase, Window};
use crate::options::LoadOptions;
use crate::pace::Pace;
use crate::report::Faults;
use crate::reporter::{Outcome, Reporter};
use crate::workload::{Direction, Extent, Order, Stream};

/// Vectors of a gathered send, or of a receive: 128 or 64 I/Os.
const VECTORS_MAX: usize = 256;
/// Vectors that are enough at low depth.
const VECTORS_FEW: usize = 8;

/// What a client is to do.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The server.
    pub address: SocketAddr,
    /// Connections of this core.
    pub connections: u32,
    /// I/Os in flight on each.
    pub depth: u32,
    /// Payload of an I/O.
    pub block_bytes: u32,
    /// Reads and writes.
    pub direction: Direction,
    /// I/Os a second of this core, when the load is open.
    pub ios_per_second: Option<f64>,
    /// When to measure.
    pub window: Window,
    /// Of the time-stamp counter.
    pub rate: TickRate,
}

impl ClientConfig {
    /// As the options say, for the core at `index` of the list.
    pub fn new(load: &LoadOptions, index: usize, address: SocketAddr, rate: TickRate) -> Self {
        ClientConfig {
            address,
            connections: load.connections_of(index),
            depth: load.depth,
            block_bytes: load.block_bytes,
            direction: load.pattern.direction(load.read_percent),
            ios_per_second: load.ios_per_second_of_core(),
            window: load.window(),
            rate,
        }
    }
}

/// The service.
#[derive(Debug)]
pub struct Client {
    connections: Vec<Connection>,
    connected: usize,
    stream: Stream,
    block_bytes: u32,
    meter: Meter,
    pace: Pace,
    /// Whose turn it is, when the pace says when.
    turn: usize,
    reporter: Reporter,
    /// When the client ends at the latest, with requests in flight or without.
    ends_at: Nanos,
    lifetime: Nanos,
    /// As many read requests as one send takes, one behind the other.
    read_requests: Box<[u8]>,
    write_request: [u8; REQUEST_BYTES],
    /// Where headers of answers are received to.
    headers: Box<[u8]>,
}

#[derive(Debug)]
struct Slot {
    buffer: DmaBuffer,
    started: Ticks,
    operation: Operation,
}

/// Slots are used in a ring; the counts below only grow, and a slot is a count modulo the depth.
#[derive(Debug)]
struct Connection {
    socket: Box<dyn Socket>,
    connected: bool,
    readable: bool,
    blocked: bool,
    slots: Vec<Slot>,
    /// What is written: one buffer, which stays in the cache as that of the load does.
    noise: DmaBuffer,
    /// Requests made, sent whole, and answered whole.
    made: usize,
    sent: usize,
    answered: usize,
    /// Bytes of the request at `sent` that are sent, and of the answer at `answered` received.
    sent_bytes: usize,
    answer_bytes: usize,
}

/// The connection broke.
#[derive(Clone, Copy, Debug)]
struct Closed;

impl Slot {
    fn request_bytes(&self, block_bytes: usize) -> usize {
        match self.operation {
            Operation::Write => REQUEST_BYTES + block_bytes,
            _ => REQUEST_BYTES,
        }
    }

    fn answer_bytes(&self, block_bytes: usize) -> usize {
        match self.operation {
            Operation::Read => ANSWER_BYTES + block_bytes,
            _ => ANSWER_BYTES,
        }
    }
}

impl Client {
    /// A client that connects at once. On the core's own thread.
    ///
    /// # Errors
    ///
    /// When there are too few buffers, or no socket.
    pub fn new(cx: &mut Cx, config: ClientConfig, reporter: Reporter) -> Result<Client, RunError> {
        let ClientConfig { block_bytes, depth, rate, .. } = config;
        let mut connections = Vec::with_capacity(config.connections as usize);
        for index in 0..config.connections {
            let mut slots = Vec::with_capacity(depth as usize);
            for _ in 0..depth {
                let buffer = take(cx, depth, block_bytes)?;
                slots.push(Slot { buffer, started: Ticks(0), operation: Operation::Read });
            }
            let noise = take(cx, depth, block_bytes)?;
            let socket = cx.network.connect(config.address, SocketKey(u64::from(index)))?;
            connections.push(Connection::new(socket, slots, noise));
        }
        let read = Request { payload_bytes: 0, answer_bytes: block_bytes }.encode();
        let extent = Extent { first: bdev::Lba(0), places: 1, place_blocks: 1 };
        Ok(Client {
            connections,
            connected: 0,
            stream: Stream::new(config.direction, Order::Sequential, extent, 0),
            block_bytes,
            meter: Meter::new(config.window, rate),
            pace: Pace::new(config.ios_per_second, rate),
            turn: 0,
            reporter,
            ends_at: cx.now() + config.window.lifetime(),
            lifetime: config.window.lifetime(),
            read_requests: read.repeat(depth as usize).into_boxed_slice(),
            write_request: Request { payload_bytes: block_bytes, answer_bytes: 0 }.encode(),
            headers: vec![0; depth as usize * ANSWER_BYTES].into_boxed_slice(),
        })
    }

    /// Makes requests while slots are free and the pace allows it.
    fn make(&mut self, cx: &mut Cx) -> usize {
        if !matches!(self.meter.phase(), Phase::Ramp | Phase::Measuring) {
            return 0;
        }
        let now = Ticks::now();
        let mut count = 0;
        match self.pace {
            Pace::Closed => {
                for connection in &mut self.connections {
                    while connection.has_free_slot() {
                        connection.make(now, self.stream.step(&mut cx.random).operation);
                        count += 1;
                    }
                }
            }
            Pace::Open { .. } => {
                let mut full = 0;
                while full < self.connections.len() {
                    let connections = self.connections.len();
                    let connection = &mut self.connections[self.turn % connections];
                    self.turn += 1;
                    if !connection.has_free_slot() {
                        full += 1;
                        continue;
                    }
                    let Some(started) = self.pace.start(now) else { break };
                    connection.make(started, self.stream.step(&mut cx.random).operation);
                    (count, full) = (count + 1, 0);
                }
            }
        }
        count
    }

    /// Moves on with connecting, ramp and window, and tells the main thread.
    fn advance(&mut self, cx: &Cx) {
        if self.meter.phase() == Phase::Waiting
            && self.connected == self.connections.len()
            && self.reporter.may_begin()
        {
            self.meter.begin(cx.now());
            self.pace.begin(Ticks::now());
        }
        let before = self.meter.phase();
        let phase = self.meter.advance(cx);
        if phase != before {
            self.reporter.entered(phase);
        }
        let idle = self.connections.iter().all(|connection| connection.in_flight() == 0);
        if phase == Phase::Done && idle && !self.reporter.has_ended() {
            let measure = self.meter.measure(cx.core);
            self.reporter.end(Ok(Outcome { measure, faults: Faults::default() }));
        }
        if cx.now() >= self.ends_at {
            // Nobody else may come to end it.
            let within_s = std::time::Duration::from(self.lifetime).as_secs();
            self.fail(cx, RunError::Deadline { core: cx.core, within_s });
        }
    }

    fn fail(&mut self, cx: &Cx, error: RunError) {
        self.meter.end(cx);
        self.reporter.end(Err(error));
    }
}

fn take(cx: &mut Cx, depth: u32, block_bytes: u32) -> Result<DmaBuffer, RunError> {
    let buffer = cx.dma.take(block_bytes);
    buffer.ok_or(RunError::Buffers { depth, len_bytes: block_bytes })
}

impl Connection {
    fn new(socket: Box<dyn Socket>, slots: Vec<Slot>, noise: DmaBuffer) -> Connection {
        Connection {
            noise,
            socket,
            connected: false,
            readable: false,
            blocked: false,
            slots,
            made: 0,
            sent: 0,
            answered: 0,
            sent_bytes: 0,
            answer_bytes: 0,
        }
    }

    fn in_flight(&self) -> usize {
        self.made - self.answered
    }

    fn has_free_slot(&self) -> bool {
        self.in_flight() < self.slots.len()
    }

    fn make(&mut self, started: Ticks, operation: Operation) {
        let place = self.made % self.slots.len();
        let slot = &mut self.slots[place];
        (slot.started, slot.operation) = (started, operation);
        self.made += 1;
    }

    /// Sends what it can in one call.
    fn send<const VECTORS: usize>(&mut self, requests: &Requests<'_>) -> Result<(), Closed> {
        let mut vectors = [IoSlice::new(&[]); VECTORS];
        let (mut count, mut asked, mut skip) = (0, 0, self.sent_bytes);
        let block_bytes = requests.block_bytes as usize;
        let mut at = self.sent;
        while at < self.made && count + 2 <= VECTORS {
            let slot = &self.slots[at % self.slots.len()];
            if slot.operation == Operation::Read {
                let from = at;
                while at < self.made
                    && self.slots[at % self.slots.len()].operation == Operation::Read
                {
                    at += 1;
                }
                let run = &requests.reads[..(at - from) * REQUEST_BYTES];
                vectors[count] = IoSlice::new(&run[skip..]);
                asked += run.len() - skip;
                count += 1;
            } else {
                at += 1;
                if skip < REQUEST_BYTES {
                    vectors[count] = IoSlice::new(&requests.write[skip..]);
                    count += 1;
                }
                let offset = skip.saturating_sub(REQUEST_BYTES);
                let payload = self.noise.bytes(requests.block_bytes);
                vectors[count] = IoSlice::new(&payload[offset..]);
                count += 1;
                asked += REQUEST_BYTES + block_bytes - skip;
            }
            skip = 0;
        }
        match self.socket.send(&vectors[..count]) {
            Ok(bytes) => {
                self.blocked = bytes < asked;
                self.sent_bytes += bytes;
            }
            Err(SocketError::WouldBlock) => self.blocked = true,
            Err(SocketError::Closed) => return Err(Closed),
        }
        while self.sent < self.made {
            let whole = self.slots[self.sent % self.slots.len()].request_bytes(block_bytes);
            if self.sent_bytes < whole {
                break;
            }
            self.sent_bytes -= whole;
            self.sent += 1;
        }
        Ok(())
    }

    /// Receives answers in one call, straight to where they belong; returns the bytes received
    /// and leaves `readable` as the socket left it.
    fn receive<const VECTORS: usize>(
        &mut self,
        headers: &mut [u8],
        block_bytes: u32,
    ) -> Result<usize, Closed> {
        let mut vectors: [IoSliceMut<'_>; VECTORS] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let (mut count, mut asked, mut skip) = (0, 0, self.answer_bytes);
        let mut headers_left = headers;
        // Headers that follow each other without a payload between share a vector.
        let mut pending = 0;
        let first = self.answered % self.slots.len();
        let expected = self.sent - self.answered;
        let (behind, front) = self.slots.split_at_mut(first);
        for slot in front.iter_mut().chain(behind).take(expected) {
            if count + 3 > VECTORS {
                break;
            }
            pending += ANSWER_BYTES.saturating_sub(skip);
            asked += slot.answer_bytes(block_bytes as usize) - skip;
            if slot.operation == Operation::Read {
                if pending > 0 {
                    let (head, rest) = headers_left.split_at_mut(pending);
                    vectors[count] = IoSliceMut::new(head);
                    (headers_left, pending) = (rest, 0);
                    count += 1;
                }
                let offset = skip.saturating_sub(ANSWER_BYTES);
                let payload = &mut slot.buffer.bytes_mut()[offset..block_bytes as usize];
                vectors[count] = IoSliceMut::new(payload);
                count += 1;
            }
            skip = 0;
        }
        if pending > 0 {
            vectors[count] = IoSliceMut::new(&mut headers_left[..pending]);
            count += 1;
        }
        match self.socket.receive(&mut vectors[..count]) {
            Ok(bytes) => {
                self.readable = bytes == asked;
                Ok(bytes)
            }
            Err(SocketError::WouldBlock) => {
                self.readable = false;
                Ok(0)
            }
            Err(SocketError::Closed) => Err(Closed),
        }
    }

    /// Times the answers that are whole now.
    fn answers_came(&mut self, bytes: usize, block_bytes: u32, meter: &mut Meter) {
        let now = Ticks::now();
        self.answer_bytes += bytes;
        while self.answered < self.sent {
            let slot = &self.slots[self.answered % self.slots.len()];
            let whole = slot.answer_bytes(block_bytes as usize);
            if self.answer_bytes < whole {
                break;
            }
            self.answer_bytes -= whole;
            self.answered += 1;
            meter.record(slot.started, now, block_bytes);
        }
        // Nothing more can come before the next request; what comes then is reported anew.
        self.readable &= self.answered < self.sent;
    }
}

/// What requests are made of.
struct Requests<'a> {
    reads: &'a [u8],
    write: &'a [u8],
    block_bytes: u32,
}

impl Service for Client {
    fn take_messages(&mut self, _: &mut Cx) -> usize {
        0
    }

    fn socket_ready(&mut self, cx: &mut Cx, ready: Ready) {
        let index = usize::try_from(ready.key.0).unwrap_or(usize::MAX);
        let Some(connection) = self.connections.get_mut(index) else { return };
        if !connection.connected && ready.writable {
            match connection.socket.connected() {
                Ok(()) => {
                    connection.connected = true;
                    self.connected += 1;
                }
                Err(SocketError::WouldBlock) => return,
                Err(SocketError::Closed) => {
                    return self.fail(cx, RunError::Closed { connection: index });
                }
            }
        }
        connection.readable |= ready.readable;
        connection.blocked &= !ready.writable;
    }

    fn receive(&mut self, cx: &mut Cx) -> usize {
        let mut work = 0;
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            while connection.readable && connection.sent > connection.answered {
                let received = if connection.in_flight() * 2 < VECTORS_FEW {
                    connection.receive::<VECTORS_FEW>(&mut self.headers, self.block_bytes)
                } else {
                    connection.receive::<VECTORS_MAX>(&mut self.headers, self.block_bytes)
                };
                let Ok(bytes) = received else {
                    self.fail(cx, RunError::Closed { connection: index });
                    return work;
                };
                connection.answers_came(bytes, self.block_bytes, &mut self.meter);
                work += usize::from(bytes > 0);
            }
        }
        self.advance(cx);
        work
    }

    fn poll_devices(&mut self, cx: &mut Cx) -> usize {
        self.make(cx)
    }

    fn send(&mut self, cx: &mut Cx) -> usize {
        let requests = Requests {
            reads: &self.read_requests,
            write: &self.write_request,
            block_bytes: self.block_bytes,
        };
        let mut work = 0;
        let mut broken = None;
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if connection.blocked || connection.sent == connection.made {
                continue;
            }
            let sent = if (connection.made - connection.sent) * 2 <= VECTORS_FEW {
                connection.send::<VECTORS_FEW>(&requests)
            } else {
                connection.send::<VECTORS_MAX>(&requests)
            };
            match sent {
                Ok(()) => work += 1,
                Err(Closed) => broken = Some(index),
            }
        }
        if let Some(connection) = broken {
            self.fail(cx, RunError::Closed { connection });
        }
        work
    }

    fn timer(&mut self, _: &mut Cx, _: u64) {}

    fn wake(&self, cx: &Cx) -> Wake {
        let wake = Wake::At(self.ends_at);
        match self.meter.phase() {
            Phase::Ramp | Phase::Measuring => match self.pace.wait(Ticks::now()) {
                Some(wait) => wake.soonest(Wake::At(cx.now() + wait)),
                None => wake,
            },
            // Others are not ready yet.
            Phase::Waiting if self.connected == self.connections.len() => Wake::Now,
            Phase::Waiting | Phase::Done => wake,
        }
    }

    fn arm(&mut self, _: &mut Cx) -> bool {
        let idle = |connection: &Connection| {
            (!connection.readable || connection.sent == connection.answered)
                && (connection.blocked || connection.sent == connection.made)
        };
        self.connections.iter().all(idle)
    }

    fn stop(&mut self, cx: &mut Cx, deadline: Nanos) {
        self.meter.end(cx);
        self.ends_at = self.ends_at.min(deadline);
    }

    fn stopped(&self) -> bool {
        self.reporter.has_ended()
    }
}
