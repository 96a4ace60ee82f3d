//! Between the main thread and the load's cores: what they report, and waiting for it.
//!
//! The services report through [`crate::reporter`] and end by themselves, at the latest at their
//! deadline: a main thread that is starved by them, because they spin at real-time priority, comes
//! to its turn then.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use reactor::clock::Nanos;
use reactor::cores::{CoreId, CoreList};
use reactor::counters::CoreCounters;
use reactor::dma::pool::{CHUNKS_MIN, CLASS_BYTES};
use reactor::dma::region::HUGE_PAGE_BYTES;
use reactor::dma::{PagePreference, PoolConfig};
use reactor::reactor::{ReactorHandle, StartError};
use reactor::socket::{Ready, Wait};
use reactor::{Cx, Service};

use crate::meter::CoreMeasure;
use crate::report::{Faults, ServerMeasure};
use crate::reporter::Event;

/// How much longer than a core's own deadline the main thread waits.
const SLACK: Duration = Duration::from_secs(5);

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
    /// The target refused a command, or did not carry it out.
    #[error("a command to the target failed")]
    Command(#[from] engine::CommandError),
    /// The target's core did not answer.
    #[error("the target's core does not answer")]
    Unresponsive(#[from] reactor::inbox::CallError),
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
    #[error("core {core} did not finish within {within_s} s: what was in flight is not answered")]
    Deadline {
        /// The core.
        core: CoreId,
        /// How long it had, in seconds.
        within_s: u64,
    },
    /// Not a word from a core.
    #[error("a core has not been heard of for {waited_s} s")]
    Silent {
        /// How long was waited, in seconds.
        waited_s: u64,
    },
    /// The device could not be filled.
    #[error("--prefill: a write ended with {status}")]
    Prefill {
        /// How it ended.
        status: bdev::Status,
    },
    /// A core ended without a report.
    #[error("a core ended without a report")]
    Lost,
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

/// Waits for `cores` cores to end, each of which has `lifetime` beside filling; `server` is the
/// core that serves them.
///
/// # Errors
///
/// The first failure of a core; `Silent` when there is no word of one.
pub fn collect(
    events: &Receiver<Event>,
    cores: usize,
    server: Option<CoreId>,
    lifetime: Nanos,
) -> Result<Collected, RunError> {
    let within = Duration::from(lifetime).saturating_add(SLACK);
    // Past what the clock can show there is no deadline.
    let mut deadline = Instant::now().checked_add(within);
    let (mut measures, mut faults) = (Vec::with_capacity(cores), Faults::default());
    let (mut at_start, mut at_end): (Option<CoreCounters>, Option<CoreCounters>) = (None, None);
    while measures.len() < cores {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        match events.recv_timeout(left.unwrap_or(within)) {
            Ok(Event::Filling) => deadline = Instant::now().checked_add(within),
            Ok(Event::Began(counters)) => at_start = at_start.or(counters),
            Ok(Event::Closed(counters)) => at_end = at_end.or(counters),
            Ok(Event::Ended(outcome)) => {
                faults.merge(&outcome.faults);
                measures.push(outcome.measure);
            }
            Ok(Event::Failed(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) => {
                return Err(RunError::Silent { waited_s: within.as_secs() });
            }
            Err(RecvTimeoutError::Disconnected) => return Err(RunError::Lost),
        }
    }
    let server = match (server, at_start, at_end) {
        (Some(core), Some(start), Some(end)) => {
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
    // One that cannot be asked has ended already, or does so at its deadline.
    let _ = handle.stop(STOP_GRACE);
    // A panic of the core has been printed by then and is part of no result.
    let _ = handle.join();
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
        assert!(matches!(collect(&events, 1, None, Nanos(0)), Err(RunError::Lost)));
        drop(sender);
        assert!(matches!(collect(&events, 1, None, Nanos(u64::MAX)), Err(RunError::Lost)));
    }
}
