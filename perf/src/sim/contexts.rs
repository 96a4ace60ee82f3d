//! Contexts of simulated cores, made of parts that are used again by the next run: memory of a
//! pool is never given back to the system, and a descriptor costs a system call.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use reactor::cores::CoreId;
use reactor::dma::pool::CHUNKS_MIN;
use reactor::dma::{DmaPool, PagePreference, PoolConfig};
use reactor::sleep::{self, Sleeper, Waker};
use reactor::socket::{AcceptedStream, Listener, Network, Ready, Socket, SocketKey, Wait};
use reactor::{Clock, Cx, VirtualClock};

use super::network::Port;
use super::violation::Violation;

/// What a core sleeps by.
#[derive(Debug)]
pub struct Bed {
    /// The core's side.
    pub sleeper: Sleeper,
    waker: Waker,
    bell: File,
}

impl Bed {
    fn new() -> std::io::Result<Bed> {
        let (sleeper, waker) = sleep::pair().map_err(std::io::Error::other)?;
        let bell = File::from(sleeper.as_fd().try_clone_to_owned()?);
        Ok(Bed { sleeper, waker, bell })
    }

    /// True when somebody has rung since the last time.
    pub fn is_rung(&mut self) -> bool {
        self.bell.read(&mut [0; 8]).is_ok()
    }
}

/// Parts that no core uses at present.
#[derive(Debug, Default)]
pub struct Contexts {
    pools: Vec<DmaPool>,
    beds: Vec<Bed>,
    /// Pools whose memory is never used again.
    pub pools_lost: u64,
}

impl Contexts {
    /// None yet.
    pub fn new() -> Contexts {
        Contexts::default()
    }

    /// A context of a core.
    ///
    /// # Errors
    ///
    /// When the system has no memory or descriptor for it.
    pub fn take(&mut self, core: usize, hand: &VirtualClock, seed: u64) -> std::io::Result<Core> {
        let pool = match self.pools.pop() {
            Some(pool) => pool,
            None => {
                let config = PoolConfig { chunks: CHUNKS_MIN, pages: PagePreference::Ordinary };
                DmaPool::new(config).map_err(std::io::Error::other)?
            }
        };
        let bed = self.beds.pop().map_or_else(Bed::new, Ok)?;
        let clock = Clock::Virtual(hand.clone());
        let mut cx = Cx::new(CoreId(core as _), clock, pool, Box::new(NoNetwork), seed);
        cx.waker = Some(bed.waker.clone());
        Ok(Core { cx, bed, port: None })
    }

    /// A context of a core that has a place in a simulated network.
    ///
    /// # Errors
    ///
    /// As [`Contexts::take`].
    pub fn take_wired(
        &mut self,
        core: usize,
        hand: &VirtualClock,
        seed: u64,
        port: &Port,
    ) -> Result<Core, Violation> {
        let taken = self.take(core, hand, seed);
        let mut core = taken.map_err(|error| Violation::Stuck(error.to_string()))?;
        core.cx.network = Box::new(port.clone());
        core.port = Some(port.clone());
        Ok(core)
    }

    /// Takes a context back. What its process was made of is gone, and with it the buffers that
    /// it had; where some are not back all the same, something still has them, and the pool is
    /// never used again.
    pub fn give(&mut self, core: Core) {
        let Core { cx, mut bed, .. } = core;
        bed.sleeper.awake();
        self.beds.push(bed);
        // What devices left in the context goes first: it may have buffers too.
        let mut pool = {
            let cx = cx;
            cx.dma
        };
        pool.regain();
        match pool.taken() {
            0 => self.pools.push(pool),
            _ => self.pools_lost += 1,
        }
    }
}

/// A context, and how its core sleeps.
#[derive(Debug)]
pub struct Core {
    /// The context.
    pub cx: Cx,
    /// The sleep.
    pub bed: Bed,
    /// Its place in a simulated network, if it has one.
    pub port: Option<Port>,
}

impl Core {
    /// Looks at its sockets, and notes what they report for the devices that own them.
    pub fn look(&mut self) {
        let mut ready = Vec::new();
        self.cx.network.poll(Wait::No, &mut ready);
        for ready in ready {
            self.cx.device_readiness.note(ready);
        }
    }

    /// True when a socket has something to report.
    pub fn has_news(&self) -> bool {
        self.port.as_ref().is_some_and(Port::has_news)
    }

    /// Buffers that are in use.
    pub fn buffers_taken(&self) -> u32 {
        self.cx.dma.taken()
    }
}

/// Of a core without sockets.
#[derive(Debug)]
struct NoNetwork;

fn unsupported<T>() -> std::io::Result<T> {
    Err(std::io::ErrorKind::Unsupported.into())
}

impl Network for NoNetwork {
    fn connect(
        &mut self,
        _: std::net::SocketAddr,
        _: SocketKey,
    ) -> std::io::Result<Box<dyn Socket>> {
        unsupported()
    }

    fn adopt(&mut self, _: AcceptedStream, _: SocketKey) -> std::io::Result<Box<dyn Socket>> {
        unsupported()
    }

    fn listen(&mut self, _: OwnedFd, _: SocketKey) -> std::io::Result<Box<dyn Listener>> {
        unsupported()
    }

    fn poll(&mut self, _: Wait, _: &mut Vec<Ready>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_loses_is_there_for_the_next_process() {
        let (mut contexts, hand) = (Contexts::new(), VirtualClock::new());
        for _ in 0..3 {
            let mut core = contexts.take(0, &hand, 1).unwrap();
            drop(core.cx.dma.take(4096).unwrap());
            contexts.give(core);
        }
        assert_eq!((contexts.pools.len(), contexts.pools_lost), (1, 0));
        let mut core = contexts.take(0, &hand, 1).unwrap();
        let held = core.cx.dma.take(4096).unwrap();
        contexts.give(core);
        assert_eq!((contexts.pools.len(), contexts.pools_lost), (0, 1));
        drop(held);
    }
}
