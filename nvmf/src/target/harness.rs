//! A whole target core without a kernel: sockets in memory, a virtual clock, driven by hand.
//!
//! For tests and fuzzing: [`Harness::connect`] gives the host's end of a new connection,
//! [`Harness::pump`] runs the phases of a pass until nothing moves any more.

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::rc::Rc;
use std::sync::Arc;

use reactor::counters::CoreCounters;
use reactor::cx::TIMERS_MAX;
use reactor::dma::{DmaPool, PagePreference, PoolConfig};
use reactor::mesh;
use reactor::random::Random;
use reactor::slab::SlotId;
use reactor::socket::memory::{MemoryLimits, MemorySocket};
use reactor::socket::{Ready, Socket, SocketError, SocketKey};
use reactor::timer::Timers;
use reactor::{Cx, Nanos, Service, VirtualClock, sleep};

use super::{TargetCore, TargetDescription};

/// Passes of one pump: far more than any exchange needs.
const PASSES_MAX: usize = 1_000_000;

/// Passes in which a core may read nothing though the host takes all that it is sent.
const STALLED_PASSES_MAX: usize = 10_000;

/// One core of a target and its surroundings.
#[derive(Debug)]
pub struct Harness {
    /// The core's context.
    pub cx: Cx,
    /// The core.
    pub core: TargetCore,
    /// Its clock.
    pub clock: VirtualClock,
    connections: Vec<(SlotId, Rc<Cell<Edges>>, Reporting)>,
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
        let (_, waker) = sleep::pair().expect("a test needs an eventfd");
        let peers = mesh::connect(&[waker]).pop().expect("one core has one set of peers");
        let core = TargetCore::new(Arc::new(description), peers);
        Harness { cx, core, clock, connections: Vec::new() }
    }

    /// A new connection whose stream has the given limits.
    pub fn connect(&mut self, limits: MemoryLimits) -> HostEnd {
        let (socket, far) = MemorySocket::pair(limits);
        let edges = Rc::<Cell<Edges>>::default();
        let reporting =
            if limits.call_bytes == usize::MAX { Reporting::Edges } else { Reporting::Always };
        let closed = !self.serve_with(far, Rc::clone(&edges), reporting);
        HostEnd { socket, received: Vec::new(), closed, edges }
    }

    /// Serves the target's end of a connection that somebody else has the host's end of. False
    /// when the core has no slot for it.
    pub fn serve(&mut self, far: MemorySocket) -> bool {
        self.serve_with(far, Rc::default(), Reporting::Always)
    }

    fn serve_with(
        &mut self,
        far: MemorySocket,
        edges: Rc<Cell<Edges>>,
        reporting: Reporting,
    ) -> bool {
        let id = self.core.serve(&mut self.cx, |_, _| Some(Box::new(far)));
        self.connections.extend(id.map(|id| (id, edges, reporting)));
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

    /// One pass.
    pub fn pass(&mut self) -> usize {
        self.cx.advance_clock();
        let mut work = self.core.take_messages(&mut self.cx);
        for (id, edges, reporting) in &self.connections {
            let now = edges.take();
            let always = *reporting == Reporting::Always;
            let readable = now.readable || always;
            let writable = now.writable || always;
            if readable || writable {
                let key = SocketKey(id.to_token());
                let ready = Ready { key, readable, writable, closed: now.closed };
                self.core.socket_ready(&mut self.cx, ready);
            }
        }
        work += self.core.receive(&mut self.cx);
        work += self.core.poll_devices(&mut self.cx);
        work += self.core.send(&mut self.cx);
        while let Some(key) = self.cx.timers.expire_one(self.cx.now()) {
            self.core.timer(&mut self.cx, key);
            work += 1;
        }
        work
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
