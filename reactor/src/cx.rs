//! The context of a core, passed down every call: time, memory, sockets, timers, random numbers.
//!
//! One a core, owned by its reactor, never shared and never global, so that a test or the
//! simulator builds another one with a virtual clock and sockets in memory (ARCHITECTURE 3).

use crate::clock::{Clock, Nanos};
use crate::cores::CoreId;
use crate::counters::CoreCounters;
use crate::device_table::DeviceTable;
use crate::dma::DmaPool;
use crate::random::Random;
use crate::sleep::Waker;
use crate::socket::Network;
use crate::socket::readiness::DeviceReadiness;
use crate::timer::Timers;

/// What the layers of a core share.
#[derive(Debug)]
pub struct Cx {
    /// The core.
    pub core: CoreId,
    /// Its DMA buffers.
    pub dma: DmaPool,
    /// Its sockets.
    pub network: Box<dyn Network>,
    /// What was reported of sockets that devices own.
    pub device_readiness: DeviceReadiness,
    /// What its devices share.
    pub devices: DeviceTable,
    /// Its timers; what is armed here comes back through [`crate::Service::timer`].
    pub timers: Timers,
    /// Its random numbers.
    pub random: Random,
    /// What it counts.
    pub counters: CoreCounters,
    /// Wakes the core when it sleeps: for devices whose queue pairs on other cores may have news
    /// for this one. Nothing where no reactor runs the core.
    pub waker: Option<Waker>,
    clock: Clock,
    now: Nanos,
}

/// Timers that a core can have armed at once.
pub const TIMERS_MAX: u32 = 1024;

impl Cx {
    /// Puts a context together. `seed` is for its random numbers.
    pub fn new(
        core: CoreId,
        clock: Clock,
        dma: DmaPool,
        network: Box<dyn Network>,
        seed: u64,
    ) -> Cx {
        let now = clock.read();
        Cx {
            core,
            dma,
            network,
            device_readiness: DeviceReadiness::default(),
            devices: DeviceTable::default(),
            timers: Timers::with_capacity(TIMERS_MAX),
            random: Random::new(seed),
            counters: CoreCounters::default(),
            waker: None,
            clock,
            now,
        }
    }

    /// The time of this pass.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Reads the clock without moving the time of the pass: for measuring what a pass did.
    pub fn read_clock(&self) -> Nanos {
        self.clock.read()
    }

    /// Reads the clock: once a pass, by the loop.
    pub fn advance_clock(&mut self) -> Nanos {
        self.now = self.clock.read();
        self.now
    }
}

/// A context for tests: a virtual clock, a small pool of ordinary pages, an empty epoll set.
/// Panics where the system has not even that.
pub fn test_context() -> (Cx, crate::clock::VirtualClock) {
    use crate::dma::{PagePreference, PoolConfig};
    let hand = crate::clock::VirtualClock::new();
    let pool = PoolConfig { chunks: 6, pages: PagePreference::Ordinary };
    let dma = DmaPool::new(pool).expect("a test needs 12 MiB");
    let network = crate::socket::epoll::EpollNetwork::new().expect("a test needs an epoll set");
    let cx = Cx::new(CoreId(0), Clock::Virtual(hand.clone()), dma, Box::new(network), 1);
    (cx, hand)
}
