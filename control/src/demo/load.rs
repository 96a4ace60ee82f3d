//! The load: a host of the nexus, on a thread of its own, that knows what it wrote.
//!
//! Writes and reads blocks at random over NVMe/TCP, two writes to a read, a few at a time, and
//! looks at everything that it reads. What it counts is told to the main thread a few times a
//! second.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bdev::{BlockDevice, Completions, Io, Lba, QueuePair, Status, Token};
use reactor::cores::CoreId;
use reactor::dma::{DmaBuffer, DmaPool, PagePreference, PoolConfig};
use reactor::histogram::Histogram;
use reactor::socket::epoll::EpollNetwork;
use reactor::socket::{Ready, Wait};
use reactor::{Clock, Cx, Nanos};

use super::DemoError;
use super::ledger::{BLOCK_BYTES, Ledger, Tally};

/// I/Os at once.
const DEPTH: u32 = 8;

/// DMA memory of the host, in chunks of 2 MiB.
const CHUNKS: usize = 16;

/// One I/O in so many is a read.
const READ_ONE_IN: u64 = 3;

/// How often what was counted is told.
const TELL_INTERVAL: Nanos = Nanos::from_millis(50);

/// Longest that the socket is waited for at once.
const LOOK: Duration = Duration::from_millis(1);

/// How long an I/O may take before the demo is given up: as long as Linux waits.
const IO_TIMEOUT: Nanos = Nanos::from_secs(30);

/// Parts of the demo that have latencies of their own: before the cut, during it, afterwards.
pub(super) const PHASES: usize = 3;

/// What the main thread and the load tell each other.
#[derive(Debug, Default)]
pub(super) struct Link {
    phase: AtomicU8,
    is_ending: AtomicBool,
    told: Mutex<Told>,
}

/// What the load has counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub tally: Tally,
    pub latencies: [Histogram; PHASES],
}

impl Link {
    /// Counts latencies for this part from now on.
    pub fn enter(&self, phase: u8) {
        // Relaxed, here and below: no other memory goes with it.
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// Asks the load to end.
    pub fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// What was last told.
    pub fn told(&self) -> Told {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is in flight in a place.
#[derive(Clone, Copy, Debug)]
struct Flight {
    block: u64,
    /// The number of a write; none for a read.
    write: Option<u64>,
    begun: Nanos,
}

/// See the module.
pub(super) struct Load {
    queue_pair: Box<dyn QueuePair>,
    block_bytes: u32,
    buffers: Vec<DmaBuffer>,
    flights: Vec<Option<Flight>>,
    completions: Completions,
    ready: Vec<Ready>,
    pub ledger: Ledger,
    latencies: [Histogram; PHASES],
    /// Outlives the queue pair.
    cx: Cx,
    /// The connection is the device's: it stays as long as the load.
    _device: Arc<dyn BlockDevice>,
}

impl Load {
    /// A host of a device.
    pub fn new(device: Arc<dyn BlockDevice>, ledger: Option<Ledger>) -> Result<Load, DemoError> {
        let pages = PagePreference::Ordinary;
        let dma = DmaPool::new(PoolConfig { chunks: CHUNKS, pages })?;
        let network = EpollNetwork::new().map_err(DemoError::Network)?;
        let mut cx = Cx::new(CoreId(0), Clock::real(), dma, Box::new(network), 1);
        let queue_pair = device.open_queue_pair(&mut cx, DEPTH)?;
        let geometry = device.geometry();
        let blocks = geometry.len_bytes() / u64::from(BLOCK_BYTES);
        let take = |_| cx.dma.take(BLOCK_BYTES).ok_or(DemoError::Memory);
        let buffers = (0..DEPTH).map(take).collect::<Result<Vec<_>, _>>()?;
        Ok(Load {
            queue_pair,
            block_bytes: geometry.block_bytes,
            flights: vec![None; buffers.len()],
            buffers,
            completions: Completions::new(),
            ready: Vec::new(),
            ledger: ledger.unwrap_or_else(|| Ledger::new(blocks)),
            latencies: Default::default(),
            cx,
            _device: device,
        })
    }

    /// Writes and reads until it is asked to end and everything is back.
    pub fn run(&mut self, link: &Link) -> Result<(), DemoError> {
        let mut tell_at = self.cx.now();
        loop {
            let is_ending = link.is_ending.load(Ordering::Relaxed);
            if is_ending && self.is_idle() {
                self.tell(link);
                return Ok(());
            }
            for place in 0..self.flights.len() {
                if !is_ending && self.flights[place].is_none() {
                    self.begin(place);
                }
            }
            let phase = usize::from(link.phase.load(Ordering::Relaxed)).min(PHASES - 1);
            self.pass(phase)?;
            if self.cx.now() >= tell_at {
                tell_at = self.cx.now() + TELL_INTERVAL;
                self.tell(link);
            }
        }
    }

    /// Reads every block that was written and looks at it.
    pub fn check_all(&mut self) -> Result<(), DemoError> {
        let all = 0..self.ledger.blocks();
        let written: Vec<u64> = all.filter(|block| self.ledger.is_written(*block)).collect();
        let mut left = written.into_iter();
        loop {
            for place in 0..self.flights.len() {
                if self.flights[place].is_none()
                    && let Some(block) = left.next()
                {
                    self.ledger.take(block);
                    self.submit(place, block, None);
                }
            }
            if self.is_idle() {
                return Ok(());
            }
            self.pass(PHASES - 1)?;
        }
    }

    /// Writes an older content over the first block that has one, without the ledger's knowledge:
    /// what the check at the end has to find.
    pub fn plant_loss(&mut self) -> Result<(), DemoError> {
        let written = (0..self.ledger.blocks()).find(|block| self.ledger.is_written(*block));
        let Some(block) = written else { return Ok(()) };
        self.buffers[0].segment(BLOCK_BYTES).write(0, &[0; BLOCK_BYTES as usize]);
        let io = self.io(Io::write, 0, block);
        self.queue_pair.submit(&mut self.cx, io).map_err(|_| DemoError::Memory)?;
        loop {
            self.look();
            if self.completions.drain().next().is_some() {
                return Ok(());
            }
        }
    }

    fn tell(&self, link: &Link) {
        let mut told = link.lock();
        told.tally = self.ledger.tally();
        told.latencies.clone_from(&self.latencies);
    }

    fn is_idle(&self) -> bool {
        self.flights.iter().all(Option::is_none)
    }

    fn begin(&mut self, place: usize) {
        let block = self.cx.random.below(self.ledger.blocks());
        if !self.ledger.take(block) {
            return;
        }
        let is_read = self.cx.random.below(READ_ONE_IN) == 0;
        let write = (!is_read).then(|| self.ledger.begin_write(block));
        let number = write.as_ref().map(|(number, _)| *number);
        if let Some((_, bytes)) = write {
            self.buffers[place].segment(BLOCK_BYTES).write(0, &bytes);
        }
        self.submit(place, block, number);
    }

    fn io(
        &self,
        make: fn(Lba, u32, reactor::dma::Segment, Token) -> Io,
        place: usize,
        block: u64,
    ) -> Io {
        let blocks = BLOCK_BYTES / self.block_bytes;
        let segment = self.buffers[place].segment(BLOCK_BYTES);
        make(Lba(block * u64::from(blocks)), blocks, segment, Token(place as u64))
    }

    fn submit(&mut self, place: usize, block: u64, write: Option<u64>) {
        let make = if write.is_some() { Io::write } else { Io::read };
        let io = self.io(make, place, block);
        let flight = Flight { block, write, begun: self.cx.read_clock() };
        self.flights[place] = Some(flight);
        if self.queue_pair.submit(&mut self.cx, io).is_err() {
            // There are as many places as credits: only a queue that is gone refuses.
            self.ended(place, Status::INTERNAL_PATH_ERROR, PHASES - 1);
        }
    }

    /// Sends, waits a moment, and takes what has come back.
    fn pass(&mut self, phase: usize) -> Result<(), DemoError> {
        self.look();
        let ended: Vec<_> = self.completions.drain().collect();
        for completion in ended {
            self.ended(completion.token.0 as usize, completion.status, phase);
        }
        let now = self.cx.now();
        let is_late = |flight: &Flight| now.since(flight.begun) > IO_TIMEOUT;
        if self.flights.iter().flatten().any(is_late) {
            return Err(DemoError::Stuck);
        }
        Ok(())
    }

    fn look(&mut self) {
        self.queue_pair.flush(&mut self.cx);
        self.queue_pair.poll(&mut self.cx, &mut self.completions);
        let wait =
            if self.completions.as_slice().is_empty() { Wait::AtMost(LOOK) } else { Wait::No };
        self.cx.network.poll(wait, &mut self.ready);
        for event in self.ready.drain(..) {
            self.cx.device_readiness.note(event);
        }
        self.cx.advance_clock();
    }

    fn ended(&mut self, place: usize, status: Status, phase: usize) {
        let flight = self.flights[place].take().expect("a token comes back once");
        let Flight { block, write, begun } = flight;
        self.ledger.give_back(block);
        match write {
            Some(write) if status.is_success() => self.ledger.acknowledge(block, write),
            Some(write) => self.ledger.fail(block, write),
            None if status.is_success() => {
                self.ledger.check(block, self.buffers[place].bytes(BLOCK_BYTES));
            }
            // What cannot be read is lost as long as it cannot.
            None => {
                self.ledger.check(block, &[]);
            }
        }
        self.latencies[phase].record(self.cx.read_clock().since(begun).0);
    }
}

/// Runs a load against a device until it is asked to end.
pub(super) fn spawn(
    device: Arc<dyn BlockDevice>,
    link: Arc<Link>,
) -> std::io::Result<std::thread::JoinHandle<Result<Ledger, DemoError>>> {
    let body = move || {
        let mut load = Load::new(device, None)?;
        load.run(&link)?;
        Ok(load.ledger)
    };
    std::thread::Builder::new().name(String::from("demo-load")).spawn(body)
}
