//! Between the main thread and the load's cores: what they report, and waiting for it.
//!
//! The services send an [`Event`] at the beginning and at the end of their window; the main thread
//! reads the counters of a serving core at the same two moments.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use reactor::clock::Nanos;
use reactor::cores::{CoreId, CoreList};
use reactor::counters::{CoreCounters, SharedCounters};
use reactor::dma::pool::{CHUNKS_MIN, CLASS_BYTES};
use reactor::dma::region::HUGE_PAGE_BYTES;
use reactor::dma::{PagePreference, PoolConfig};
use reactor::reactor::{ReactorHandle, StartError};
use reactor::socket::{Ready, Wait};
use reactor::{Cx, Service};

use crate::meter::CoreMeasure;
use crate::report::{Faults, ServerMeasure};

/// Time beyond ramp and runtime for connecting and draining.
pub const GRACE: Duration = Duration::from_secs(30);

/// How long a core may take to end once asked to.
const STOP_GRACE: Nanos = Nanos::from_secs(5);

/// Why a run could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The target that --serve asks for could not be started.
    #[error(transparent)]
    Serve(#[from] engine::EngineError),
    /// It did not end as it should.
    #[error(transparent)]
    Unserve(#[from] engine::StopError),
    /// A core could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A core that may not be used, or is used twice.
    #[error(transparent)]
    Cores(#[from] reactor::cores::CoresError),
    /// The load and the server are on one core.
    #[error("core {core} cannot both make the load and serve it: give one of them another core")]
    SharedCore {
        /// The core.
        core: CoreId,
    },
    /// A list where one core is meant.
    #[error("one core serves: name a single one, not {count}")]
    OneServer {
        /// How many were named.
        count: usize,
    },
    /// The listening socket could not be made, or connected to.
    #[error("cannot open a socket")]
    Socket(#[from] std::io::Error),
    /// The peer closed a connection.
    #[error("the peer closed connection {connection}")]
    Closed {
        /// Its index on its core.
        connection: usize,
    },
    /// There are not enough buffers.
    #[error("the core has too little DMA memory for {depth} buffers of {len_bytes} bytes")]
    Buffers {
        /// Buffers a connection.
        depth: u32,
        /// Bytes a buffer.
        len_bytes: u32,
    },
    /// The device, or the part of it that was asked for, is too small or misaligned.
    #[error("{reason}")]
    Extent {
        /// What is wrong and what to give instead.
        reason: String,
    },
    /// A queue pair could not be opened.
    #[error(transparent)]
    Open(#[from] bdev::OpenError),
    /// The target cannot be connected.
    #[error(transparent)]
    Connect(#[from] nvmf::initiator::ConnectError),
    /// The target went away during the run.
    #[error("the target's controller is lost")]
    Association(#[source] nvmf::initiator::ConnectionError),
    /// The target grants fewer queues.
    #[error("the target grants {granted} connections of {asked}: ask for no more")]
    Connections {
        /// What it grants to a controller.
        granted: usize,
        /// What was asked for on one core.
        asked: u32,
    },
    /// The target's name cannot be used.
    #[error("cannot use {target}: {reason}")]
    Target {
        /// As it was given.
        target: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No end in sight.
    #[error("a core did not finish in time: {waited} s after the start")]
    Deadline {
        /// How long was waited.
        waited: u64,
    },
    /// A core ended without a report.
    #[error("a core ended without a report")]
    Lost,
}

/// What a load-generating core tells the main thread.
#[derive(Debug)]
pub enum Event {
    /// Its window opened.
    Began,
    /// Its window closed.
    Closed,
    /// It is done, nothing is in flight any more.
    Ended(Box<Outcome>),
    /// It cannot go on.
    Failed(RunError),
}

/// What a core brings home.
#[derive(Debug)]
pub struct Outcome {
    /// What it measured.
    pub measure: CoreMeasure,
    /// What went wrong.
    pub faults: Faults,
}

/// What all cores bring home.
#[derive(Debug)]
pub struct Collected {
    /// A measure a core.
    pub measures: Vec<CoreMeasure>,
    /// All faults.
    pub faults: Faults,
    /// The server in the same window.
    pub server: Option<ServerMeasure>,
}

/// Waits for `cores` cores to end; `server` is read at both edges of the window.
///
/// # Errors
///
/// The first failure of a core; `Deadline` when one is not back after `within`.
pub fn collect(
    events: &Receiver<Event>,
    cores: usize,
    server: Option<(CoreId, SharedCounters)>,
    within: Duration,
) -> Result<Collected, RunError> {
    let deadline = Instant::now() + within;
    let (mut measures, mut faults) = (Vec::with_capacity(cores), Faults::default());
    let (mut at_start, mut at_end): (Option<CoreCounters>, Option<CoreCounters>) = (None, None);
    let read = || server.as_ref().map(|(_, counters)| counters.read());
    while measures.len() < cores {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.recv_timeout(left) {
            Ok(Event::Began) => at_start = at_start.or_else(read),
            Ok(Event::Closed) => at_end = at_end.or_else(read),
            Ok(Event::Ended(outcome)) => {
                faults.merge(&outcome.faults);
                measures.push(outcome.measure);
            }
            Ok(Event::Failed(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) => {
                return Err(RunError::Deadline { waited: within.as_secs() });
            }
            Err(RecvTimeoutError::Disconnected) => return Err(RunError::Lost),
        }
    }
    let server = match (server, at_start, at_end) {
        (Some((core, _)), Some(start), Some(end)) => {
            Some(ServerMeasure { core, counters: end.since(start) })
        }
        _ => None,
    };
    measures.sort_by_key(|measure| measure.core);
    Ok(Collected { measures, faults, server })
}

/// The one core of `server`, which must not be among those of the load.
///
/// # Errors
///
/// `OneServer` or `SharedCore`.
pub fn single_core(server: &CoreList, load: &CoreList) -> Result<CoreId, RunError> {
    let &[core] = server.as_slice() else {
        return Err(RunError::OneServer { count: server.as_slice().len() });
    };
    match load.as_slice().contains(&core) {
        true => Err(RunError::SharedCore { core }),
        false => Ok(core),
    }
}

/// Ends a core and waits for it.
pub fn end<S: Service>(handle: ReactorHandle<S>) {
    if handle.stop(STOP_GRACE) {
        // A panic of the core has been printed by then and is part of no result.
        let _ = handle.join();
    }
}

/// One pass of a core that a test or a bench drives by hand: the phases of the reactor, without
/// its sleep, inbox and counters. Returns how much work there was.
pub fn pass<S: Service>(service: &mut S, cx: &mut Cx, ready: &mut Vec<Ready>) -> usize {
    cx.advance_clock();
    let mut work = service.take_messages(cx);
    cx.network.poll(Wait::No, ready);
    for event in ready.drain(..) {
        if !cx.device_readiness.note(event) {
            service.socket_ready(cx, event);
        }
        work += 1;
    }
    work += service.receive(cx) + service.poll_devices(cx) + service.send(cx);
    while let Some(key) = cx.timers.expire_one(cx.now()) {
        service.timer(cx, key);
        work += 1;
    }
    work
}

/// A pool with room for `buffers` buffers of `len_bytes`, beside what every pool has.
pub fn pool_for(buffers: u64, len_bytes: u32) -> PoolConfig {
    let class = CLASS_BYTES.iter().find(|bytes| **bytes >= len_bytes).copied();
    let per_chunk = HUGE_PAGE_BYTES as u64 / u64::from(class.unwrap_or(len_bytes).max(1));
    let chunks = usize::try_from(buffers.div_ceil(per_chunk.max(1))).unwrap_or(usize::MAX);
    PoolConfig { chunks: chunks.saturating_add(2 * CHUNKS_MIN), pages: PagePreference::HugeFirst }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_holds_what_it_was_made_for() {
        let config = pool_for(600, 4096);
        let pages = PagePreference::Ordinary;
        let mut pool = reactor::dma::DmaPool::new(PoolConfig { pages, ..config }).unwrap();
        let held: Vec<_> = (0..600).map(|_| pool.take(4096).unwrap()).collect();
        for buffer in held {
            pool.give(buffer);
        }
        assert_eq!(pool_for(16, 131_072).chunks, 1 + 2 * CHUNKS_MIN);
        assert_eq!(pool_for(17, 131_072).chunks, 2 + 2 * CHUNKS_MIN);
    }

    #[test]
    fn a_failure_and_a_silent_core_are_errors() {
        let (sender, events) = std::sync::mpsc::channel();
        sender.send(Event::Failed(RunError::Lost)).unwrap();
        assert!(matches!(collect(&events, 1, None, GRACE), Err(RunError::Lost)));
        let waited = collect(&events, 1, None, Duration::ZERO);
        assert!(matches!(waited, Err(RunError::Deadline { .. })));
    }
}
