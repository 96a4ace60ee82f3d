//! The server of the echo: receives, reads two lengths, answers.
//!
//! A [`Service`] on its core's reactor, with the phases of the target: receive into 64 KiB and
//! parse in place, the rest of a large payload straight to where it belongs, one gathered send a
//! connection and pass, header and payload as separate vectors (ARCHITECTURE 5).

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;

use reactor::clock::Nanos;
use reactor::random::Random;
use reactor::socket::{Listener, Ready, Socket, SocketError, SocketKey};
use reactor::{Cx, Service, Wake};

use super::cold::{Payloads, Place};
use super::wire::{ANSWER_BYTES, REQUEST_BYTES, Request};
use crate::harness::RunError;
use crate::meter::GRACE;
use crate::options::{CONNECTIONS_MAX, DEPTH_MAX, EchoOptions};
use crate::workload::Order;

/// Bytes received at once, as by the target.
const INPUT_BYTES: usize = 64 << 10;

/// A payload of which this much is still in the kernel is received straight to its place.
const DIRECT_BYTES: usize = 8 << 10;

/// Receives a connection and pass at most: 1 MiB.
const RECEIVES_PER_PASS: usize = 16;

/// Vectors of a gathered send: 128 answers with payload. The kernel takes 1024.
const VECTORS_MAX: usize = 256;

/// Vectors that are enough at low depth; filling in the larger array costs some 60 ns.
const VECTORS_FEW: usize = 8;

/// The listener's key; connections follow.
const LISTENER_KEY: SocketKey = SocketKey(0);

const ANSWER_HEADER: [u8; ANSWER_BYTES] = [0; ANSWER_BYTES];

/// What the server is to do.
#[derive(Clone, Copy, Debug)]
pub struct ServerConfig {
    /// Largest payload.
    pub payload_bytes: u32,
    /// Size of the memory of payloads; none for one hot buffer.
    pub cold_bytes: Option<u64>,
    /// Order of the places in it.
    pub order: Order,
    /// How long it serves at most: a main thread that is starved cannot end it.
    pub lifetime: Nanos,
}

impl ServerConfig {
    /// As the options say.
    pub fn new(options: &EchoOptions) -> ServerConfig {
        ServerConfig {
            payload_bytes: options.load.block_bytes,
            cold_bytes: options.cold.then_some(options.size),
            order: options.load.pattern.order(),
            // The clients start later and may use all of theirs.
            lifetime: options.load.window().lifetime() + GRACE,
        }
    }
}

/// The service.
#[derive(Debug)]
pub struct Server {
    listener: Box<dyn Listener>,
    streams_wait: bool,
    connections: Vec<Option<Connection>>,
    payloads: Payloads,
    payload_bytes_max: u32,
    ends_at: Nanos,
    ended: bool,
}

/// A request whose payload is still arriving.
#[derive(Clone, Copy, Debug)]
struct Arriving {
    place: Place,
    received: usize,
    payload_bytes: usize,
    answer_bytes: u32,
}

/// An answer that is not sent yet.
#[derive(Clone, Copy, Debug)]
struct Answer {
    place: Place,
    payload_bytes: usize,
}

#[derive(Debug)]
struct Connection {
    socket: Box<dyn Socket>,
    readable: bool,
    blocked: bool,
    input: Box<[u8]>,
    filled: usize,
    arriving: Option<Arriving>,
    answers: VecDeque<Answer>,
    /// Bytes of the first answer that are sent already.
    sent: usize,
}

/// The connection broke, or the peer does not speak the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Malformed,
}

impl Server {
    /// A server on `socket`, which listens. On the core's own thread.
    ///
    /// # Errors
    ///
    /// When there is no memory, or the socket cannot be watched.
    pub fn new(cx: &mut Cx, config: ServerConfig, socket: OwnedFd) -> Result<Server, RunError> {
        let ServerConfig { payload_bytes, cold_bytes, order, lifetime } = config;
        let payloads = match cold_bytes {
            Some(len_bytes) => Payloads::cold(len_bytes, payload_bytes, order),
            None => Payloads::hot(payload_bytes),
        };
        Ok(Server {
            listener: cx.network.listen(socket, LISTENER_KEY)?,
            streams_wait: true,
            connections: Vec::with_capacity(CONNECTIONS_MAX as usize),
            payloads: payloads.map_err(reactor::reactor::StartError::from)?,
            payload_bytes_max: payload_bytes,
            ends_at: cx.now() + lifetime,
            ended: false,
        })
    }

    fn end(&mut self) {
        self.ended = true;
        self.connections.clear();
    }

    /// Takes a stream that waits, if any.
    fn accept(&mut self, cx: &mut Cx) -> usize {
        if !self.streams_wait || self.connections.len() >= CONNECTIONS_MAX as usize {
            return 0;
        }
        let Ok(stream) = self.listener.accept() else {
            self.streams_wait = false;
            return 0;
        };
        let key = SocketKey(self.connections.len() as u64 + 1);
        if let Ok(socket) = cx.network.adopt(stream, key) {
            self.connections.push(Some(Connection::new(socket)));
            cx.counters.connections += 1;
        }
        1
    }
}

impl Connection {
    fn new(socket: Box<dyn Socket>) -> Connection {
        Connection {
            socket,
            readable: true,
            blocked: false,
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            filled: 0,
            arriving: None,
            answers: VecDeque::with_capacity(DEPTH_MAX as usize),
            sent: 0,
        }
    }

    /// Receives until the socket is empty or the pass has had its share.
    fn receive(
        &mut self,
        payloads: &mut Payloads,
        random: &mut Random,
        payload_bytes_max: u32,
    ) -> Result<usize, End> {
        let mut count = 0;
        while self.readable && count < RECEIVES_PER_PASS {
            let room = &mut self.input[self.filled..];
            let direct = match self.arriving {
                Some(arriving) => arriving.payload_bytes - arriving.received,
                None => 0,
            };
            let (received, asked) = match self.arriving {
                Some(Arriving { place, received, .. }) if direct >= DIRECT_BYTES => {
                    let rest = payloads.bytes_mut(place, received, direct);
                    let asked = direct + room.len();
                    let mut into = [IoSliceMut::new(rest), IoSliceMut::new(room)];
                    (self.socket.receive(&mut into), asked)
                }
                _ => {
                    let asked = room.len();
                    (self.socket.receive(&mut [IoSliceMut::new(room)]), asked)
                }
            };
            let received = match received {
                Ok(received) => received,
                Err(SocketError::WouldBlock) => {
                    self.readable = false;
                    break;
                }
                Err(SocketError::Closed) => return Err(End::Closed),
            };
            self.readable = received == asked;
            count += 1;
            let mut buffered = received;
            if direct >= DIRECT_BYTES {
                buffered -= received.min(direct);
                self.arrived(received.min(direct));
            }
            self.filled += buffered;
            self.parse(payloads, random, payload_bytes_max)?;
        }
        Ok(count)
    }

    /// Notes payload bytes that are at their place; the last of them makes the answer.
    fn arrived(&mut self, count: usize) {
        let Some(arriving) = &mut self.arriving else { return };
        arriving.received += count;
        if arriving.received == arriving.payload_bytes {
            let Arriving { place, answer_bytes, .. } = *arriving;
            self.answers.push_back(Answer { place, payload_bytes: answer_bytes as usize });
            self.arriving = None;
        }
    }

    /// Takes apart what is in the input; less than a request stays, moved to its beginning.
    fn parse(
        &mut self,
        payloads: &mut Payloads,
        random: &mut Random,
        payload_bytes_max: u32,
    ) -> Result<(), End> {
        let mut at = 0;
        loop {
            if let Some(Arriving { place, received, payload_bytes, .. }) = self.arriving {
                let count = (payload_bytes - received).min(self.filled - at);
                let from = &self.input[at..at + count];
                payloads.keep(place, received, from);
                at += count;
                self.arrived(count);
                if self.arriving.is_some() {
                    break;
                }
            }
            let Some(bytes) = self.input[at..self.filled].first_chunk::<REQUEST_BYTES>() else {
                break;
            };
            let request = Request::decode(bytes, payload_bytes_max).ok_or(End::Malformed)?;
            if self.answers.len() == DEPTH_MAX as usize {
                return Err(End::Malformed);
            }
            at += REQUEST_BYTES;
            let place = payloads.next_place(random);
            let payload_bytes = request.payload_bytes as usize;
            let answer_bytes = request.answer_bytes;
            self.arriving = Some(Arriving { place, received: 0, payload_bytes, answer_bytes });
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    /// Sends what it can in one call; returns how many answers went out whole.
    fn send<const VECTORS: usize>(&mut self, payloads: &Payloads) -> Result<usize, End> {
        let mut vectors = [IoSlice::new(&[]); VECTORS];
        let (mut count, mut asked, mut skip) = (0, 0, self.sent);
        for answer in &self.answers {
            if count + 2 > VECTORS {
                break;
            }
            if skip < ANSWER_BYTES {
                vectors[count] = IoSlice::new(&ANSWER_HEADER[skip..]);
                count += 1;
            }
            let offset = skip.saturating_sub(ANSWER_BYTES);
            let rest = answer.payload_bytes - offset;
            if rest > 0 {
                vectors[count] = IoSlice::new(payloads.bytes(answer.place, offset, rest));
                count += 1;
            }
            asked += ANSWER_BYTES + answer.payload_bytes - skip;
            skip = 0;
        }
        match self.socket.send(&vectors[..count]) {
            Ok(sent) => {
                self.blocked = sent < asked;
                Ok(self.advance(sent))
            }
            Err(SocketError::WouldBlock) => {
                self.blocked = true;
                Ok(0)
            }
            Err(SocketError::Closed) => Err(End::Closed),
        }
    }

    /// Drops answers that are sent whole; returns how many.
    fn advance(&mut self, sent: usize) -> usize {
        self.sent += sent;
        let mut count = 0;
        while let Some(answer) = self.answers.front() {
            let whole = ANSWER_BYTES + answer.payload_bytes;
            if self.sent < whole {
                break;
            }
            self.sent -= whole;
            self.answers.pop_front();
            count += 1;
        }
        count
    }
}

impl Service for Server {
    fn take_messages(&mut self, _: &mut Cx) -> usize {
        0
    }

    fn socket_ready(&mut self, _: &mut Cx, ready: Ready) {
        if ready.key == LISTENER_KEY {
            self.streams_wait = true;
            return;
        }
        let index = usize::try_from(ready.key.0 - 1).unwrap_or(usize::MAX);
        if let Some(Some(connection)) = self.connections.get_mut(index) {
            connection.readable |= ready.readable;
            connection.blocked &= !ready.writable;
        }
    }

    fn receive(&mut self, cx: &mut Cx) -> usize {
        if cx.now() >= self.ends_at {
            self.end();
        }
        let mut work = self.accept(cx);
        let maximum = self.payload_bytes_max;
        for slot in &mut self.connections {
            let Some(connection) = slot else { continue };
            match connection.receive(&mut self.payloads, &mut cx.random, maximum) {
                Ok(count) => work += count,
                Err(end) => {
                    cx.counters.protocol_errors += u64::from(end == End::Malformed);
                    cx.counters.connections -= 1;
                    *slot = None;
                }
            }
        }
        work
    }

    fn poll_devices(&mut self, _: &mut Cx) -> usize {
        0
    }

    fn send(&mut self, cx: &mut Cx) -> usize {
        let mut work = 0;
        for slot in &mut self.connections {
            let Some(connection) = slot else { continue };
            if connection.blocked || connection.answers.is_empty() {
                continue;
            }
            let sent = if connection.answers.len() * 2 <= VECTORS_FEW {
                connection.send::<VECTORS_FEW>(&self.payloads)
            } else {
                connection.send::<VECTORS_MAX>(&self.payloads)
            };
            match sent {
                Ok(count) => {
                    cx.counters.ios += count as u64;
                    work += 1;
                }
                Err(_) => {
                    cx.counters.connections -= 1;
                    *slot = None;
                }
            }
        }
        work
    }

    fn timer(&mut self, _: &mut Cx, _: u64) {}

    fn wake(&self, _: &Cx) -> Wake {
        Wake::At(self.ends_at)
    }

    fn arm(&mut self, _: &mut Cx) -> bool {
        let idle = |connection: &Connection| {
            !connection.readable && (connection.answers.is_empty() || connection.blocked)
        };
        !self.streams_wait && self.connections.iter().flatten().all(idle)
    }

    fn stop(&mut self, _: &mut Cx, _: Nanos) {
        self.end();
    }

    fn stopped(&self) -> bool {
        self.ended
    }
}
