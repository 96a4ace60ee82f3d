//! A whole target core without a kernel: sockets in memory, a virtual clock, driven by hand.
//!
//! For tests and fuzzing: [`Harness::connect`] gives the host's end of a new connection,
//! [`Harness::pump`] runs the phases of a pass until nothing moves any more.

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::rc::Rc;
use std::sync::Arc;

use reactor::cores::CoreId;
use reactor::counters::CoreCounters;
use reactor::cx::TIMERS_MAX;
use reactor::dma::{DmaPool, PagePreference, PoolConfig};
use reactor::mesh::{self, Peers};
use reactor::random::Random;
use reactor::slab::SlotId;
use reactor::socket::epoll::EpollNetwork;
use reactor::socket::memory::{MemoryLimits, MemorySocket};
use reactor::socket::{Ready, Socket, SocketError, SocketKey};
use reactor::timer::Timers;
use reactor::{Clock, Cx, Nanos, Service, VirtualClock, sleep};

use super::{Message, TargetCore, TargetDescription};

/// Passes of one pump: far more than any exchange needs.
const PASSES_MAX: usize = 1_000_000;

/// Passes in which a core may read nothing though the host takes all that it is sent.
const STALLED_PASSES_MAX: usize = 10_000;

/// The cores of a target and their surroundings. Mostly there is one.
#[derive(Debug)]
pub struct Harness {
    /// The first core's context.
    pub cx: Cx,
    /// The first core.
    pub core: TargetCore,
    /// The clock of all.
    pub clock: VirtualClock,
    /// The other cores, each pumped in its turn.
    pub others: Vec<OtherCore>,
    connections: Vec<Served>,
}

/// A core beside the first.
#[derive(Debug)]
pub struct OtherCore {
    /// Its context.
    pub cx: Cx,
    /// The core.
    pub core: TargetCore,
}

/// A connection, and which core has it.
#[derive(Debug)]
struct Served {
    core: usize,
    id: SlotId,
    edges: Rc<Cell<Edges>>,
    reporting: Reporting,
}

/// What happened at the host's end since the core was last told.
#[derive(Clone, Copy, Debug, Default)]
struct Edges {
    readable: bool,
    writable: bool,
    closed: bool,
}

/// When the core is told that a socket is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reporting {
    /// Once for what happened, as an edge-triggered epoll set does.
    Edges,
    /// In each pass. For streams with a limited call: there a short receive does not mean that
    /// the socket is empty, as it does with a kernel's.
    Always,
}

/// A host's end of a connection.
#[derive(Debug)]
pub struct HostEnd {
    socket: MemorySocket,
    received: Vec<u8>,
    closed: bool,
    edges: Rc<Cell<Edges>>,
}

impl Harness {
    /// A core that serves `description`.
    pub fn new(description: TargetDescription) -> Harness {
        Harness::with(description, reactor::cx::test_context())
    }

    /// A core whose buffers are a pool of so many chunks of 2 MiB.
    pub fn with_pool(description: TargetDescription, chunks: usize) -> Harness {
        let (mut cx, clock) = reactor::cx::test_context();
        let config = PoolConfig { chunks, pages: PagePreference::Ordinary };
        cx.dma = DmaPool::new(config).expect("a test needs a few MiB");
        Harness::with(description, (cx, clock))
    }

    /// A new core in the surroundings of one that is done with: a pool's memory is never unmapped,
    /// so that many cores one after the other should share it.
    pub fn again(self, description: TargetDescription) -> Harness {
        let Harness { mut cx, clock, core, .. } = self;
        drop(core);
        cx.timers = Timers::with_capacity(TIMERS_MAX);
        cx.random = Random::new(1);
        cx.counters = CoreCounters::default();
        Harness::with(description, (cx, clock))
    }

    fn with(description: TargetDescription, (cx, clock): (Cx, VirtualClock)) -> Harness {
        let description = Arc::new(description);
        let peers = peers(1).pop().expect("one core has one set of peers");
        let core = TargetCore::new(description, peers);
        Harness { cx, core, clock, others: Vec::new(), connections: Vec::new() }
    }

    /// A target of so many cores.
    pub fn with_cores(description: TargetDescription, count: usize) -> Harness {
        let (cx, clock) = reactor::cx::test_context();
        let description = Arc::new(description);
        let mut peers = peers(count).into_iter();
        let mut core =
            || TargetCore::new(Arc::clone(&description), peers.next().expect("one for each"));
        let first = core();
        let other = |index| OtherCore { cx: other_context(index, &clock), core: core() };
        let others = (1..count).map(other).collect();
        Harness { cx, core: first, clock, others, connections: Vec::new() }
    }

    /// A new connection whose stream has the given limits.
    pub fn connect(&mut self, limits: MemoryLimits) -> HostEnd {
        self.connect_to(0, limits)
    }

    /// A new connection that a certain core serves, the first being 0.
    pub fn connect_to(&mut self, core: usize, limits: MemoryLimits) -> HostEnd {
        let (socket, far) = MemorySocket::pair(limits);
        let edges = Rc::<Cell<Edges>>::default();
        let reporting =
            if limits.call_bytes == usize::MAX { Reporting::Edges } else { Reporting::Always };
        let closed = !self.serve_with(core, far, Rc::clone(&edges), reporting);
        HostEnd { socket, received: Vec::new(), closed, edges }
    }

    /// Serves the target's end of a connection that somebody else has the host's end of. False
    /// when the core has no slot for it.
    pub fn serve(&mut self, far: MemorySocket) -> bool {
        self.serve_with(0, far, Rc::default(), Reporting::Always)
    }

    fn serve_with(
        &mut self,
        core: usize,
        far: MemorySocket,
        edges: Rc<Cell<Edges>>,
        reporting: Reporting,
    ) -> bool {
        let (serving, cx) = match core.checked_sub(1) {
            None => (&mut self.core, &mut self.cx),
            Some(other) => {
                let OtherCore { cx, core } = &mut self.others[other];
                (core, cx)
            }
        };
        let id = serving.serve(cx, |_, _| Some(Box::new(far)));
        self.connections.extend(id.map(|id| Served { core, id, edges, reporting }));
        id.is_some()
    }

    /// Runs passes until one of them does nothing.
    pub fn pump(&mut self) {
        for _ in 0..PASSES_MAX {
            if self.pass() == 0 {
                return;
            }
        }
        panic!("the core never comes to rest");
    }

    /// One pass of each core.
    pub fn pass(&mut self) -> usize {
        let Harness { cx, core, others, connections, .. } = self;
        let mut work = pass(0, cx, core, connections);
        for (index, other) in others.iter_mut().enumerate() {
            work += pass(index + 1, &mut other.cx, &mut other.core, connections);
        }
        work
    }

    /// Buffers that are taken from the pools of all cores.
    pub fn buffers_taken(&self) -> u32 {
        let others = self.others.iter().map(|other| other.cx.dma.taken());
        self.cx.dma.taken() + others.sum::<u32>()
    }

    /// Connections of all cores.
    pub fn connections(&self) -> u64 {
        let others = self.others.iter().map(|other| other.cx.counters.connections);
        self.cx.counters.connections + others.sum::<u64>()
    }

    /// Lets time pass, in steps that no deadline is missed by, and pumps.
    pub fn wait(&mut self, span: Nanos) {
        let step = Nanos::from_millis(100);
        let mut left = span;
        while left > Nanos(0) {
            self.clock.advance(step.min(left));
            left = left - step;
            self.pump();
        }
    }
}

/// The ends of so many cores' messages.
fn peers(count: usize) -> Vec<Peers<Message>> {
    let wakers: Vec<_> =
        (0..count).map(|_| sleep::pair().expect("a test needs an eventfd").1).collect();
    mesh::connect(&wakers)
}

/// Chunks of 2 MiB in the pool of a core beside the first.
const OTHER_CORE_CHUNKS: usize = 2;

fn other_context(index: usize, clock: &VirtualClock) -> Cx {
    let config = PoolConfig { chunks: OTHER_CORE_CHUNKS, pages: PagePreference::Ordinary };
    let dma = DmaPool::new(config).expect("a test needs a few MiB");
    let network = EpollNetwork::new().expect("a test needs an epoll set");
    let id = CoreId(u32::try_from(index).expect("a test has few cores"));
    Cx::new(id, Clock::Virtual(clock.clone()), dma, Box::new(network), 1 + index as u64)
}

/// One pass of one core.
fn pass(index: usize, cx: &mut Cx, core: &mut TargetCore, connections: &[Served]) -> usize {
    cx.advance_clock();
    let mut work = core.take_messages(cx);
    for Served { id, edges, reporting, .. } in connections.iter().filter(|one| one.core == index) {
        let now = edges.take();
        let always = *reporting == Reporting::Always;
        let readable = now.readable || always;
        let writable = now.writable || always;
        if readable || writable {
            let key = SocketKey(id.to_token());
            core.socket_ready(cx, Ready { key, readable, writable, closed: now.closed });
        }
    }
    work += core.receive(cx);
    work += core.poll_devices(cx);
    work += core.send(cx);
    while let Some(key) = cx.timers.expire_one(cx.now()) {
        core.timer(cx, key);
        work += 1;
    }
    work
}

impl HostEnd {
    /// Sends all of `bytes`, letting the core run while the stream is full. False when the core
    /// has closed the connection.
    pub fn send(&mut self, harness: &mut Harness, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        let mut stalled = 0;
        while !rest.is_empty() {
            match self.socket.send(&[IoSlice::new(rest)]) {
                Ok(sent) => {
                    rest = &rest[sent..];
                    stalled = 0;
                    self.edges.set(Edges { readable: true, ..self.edges.get() });
                }
                Err(SocketError::Closed) => return false,
                Err(SocketError::WouldBlock) => {
                    stalled += 1;
                    assert!(stalled < STALLED_PASSES_MAX, "the core reads nothing any more");
                    self.drain();
                    harness.pass();
                }
            }
        }
        true
    }

    /// Sends as much of `bytes` as the stream takes, and reads nothing; returns how much.
    pub fn send_some(&mut self, bytes: &[u8]) -> usize {
        let sent = self.socket.send(&[IoSlice::new(bytes)]).unwrap_or(0);
        if sent > 0 {
            self.edges.set(Edges { readable: true, ..self.edges.get() });
        }
        sent
    }

    /// Runs the core, and takes all that it sends.
    pub fn exchange(&mut self, harness: &mut Harness) {
        loop {
            let before = self.received.len();
            harness.pump();
            self.drain();
            if self.received.len() == before {
                return;
            }
        }
    }

    /// Takes up to so many bytes of what the core has sent, and leaves the rest in the stream.
    pub fn take_some(&mut self, count: usize) -> usize {
        let mut bytes = vec![0; count];
        let taken = self.socket.receive(&mut [IoSliceMut::new(&mut bytes)]).unwrap_or(0);
        if taken > 0 {
            self.received.extend_from_slice(&bytes[..taken]);
            self.edges.set(Edges { writable: true, ..self.edges.get() });
        }
        taken
    }

    /// What was received and not taken yet.
    pub fn received(&mut self) -> &mut Vec<u8> {
        &mut self.received
    }

    /// True once the core has closed the connection and everything before that was received.
    pub fn is_closed(&mut self) -> bool {
        self.drain();
        self.closed
    }

    fn drain(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.socket.receive(&mut [IoSliceMut::new(&mut bytes)]) {
                Ok(count) => {
                    self.received.extend_from_slice(&bytes[..count]);
                    self.edges.set(Edges { writable: true, ..self.edges.get() });
                }
                Err(SocketError::WouldBlock) => return,
                Err(SocketError::Closed) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }
}

impl Drop for HostEnd {
    fn drop(&mut self) {
        self.edges.set(Edges { readable: true, writable: true, closed: true });
    }
}
