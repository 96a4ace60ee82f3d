//! The context of a core, passed down every call: time, memory, sockets, timers, random numbers.
//!
//! One a core, owned by its reactor, never shared and never global, so that a test or the
//! simulator builds another one with a virtual clock and sockets in memory (ARCHITECTURE 3).

use crate::clock::{Clock, Nanos};
use crate::cores::CoreId;
use crate::counters::CoreCounters;
use crate::dma::DmaPool;
use crate::socket::Network;

/// What the layers of a core share.
#[derive(Debug)]
pub struct Cx {
    /// The core.
    pub core: CoreId,
    /// Its DMA buffers.
    pub dma: DmaPool,
    /// Its sockets.
    pub network: Box<dyn Network>,
    /// What it counts.
    pub counters: CoreCounters,
    clock: Clock,
    now: Nanos,
}

impl Cx {
    /// Puts a context together.
    pub fn new(core: CoreId, clock: Clock, dma: DmaPool, network: Box<dyn Network>) -> Cx {
        let now = clock.read();
        Cx { core, dma, network, counters: CoreCounters::default(), clock, now }
    }

    /// The time of this pass.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Reads the clock: once a pass, by the loop.
    pub fn advance_clock(&mut self) -> Nanos {
        self.now = self.clock.read();
        self.now
    }
}
