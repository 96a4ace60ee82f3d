//! Loads a local NVMe drive from several cores, through a queue pair each:
//! `drive_load URI [key=value ...]` writes, reads back and verifies until the time is over, and
//! says what it counted. What was on the drive is lost. For guests with emulated drives, and for
//! whoever has a drive to lose.
//!
//! Keys: `cores` (1), `seconds` (5), `reset_ms` (never: the controller is reset every so often),
//! `errors` (`fail`, or `count`: an I/O that fails is counted and its blocks are written anew).
//! A drive that goes ends the load, and is no failure where errors are counted.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bdev::pcie::queue_pair::{Counters, GONE, PcieQueuePair};
use bdev::{BlockDevice, Completions, DeviceUri, Io, Lba, QueuePair, Token, pcie};
use reactor::cores::CoreId;
use reactor::dma::{DmaBuffer, DmaPool, PagePreference, PoolConfig};
use reactor::socket::Wait;
use reactor::socket::epoll::EpollNetwork;
use reactor::{Clock, Cx, Wake};

/// I/Os in flight on each core.
const DEPTH: u32 = 16;
/// Bytes that a slot writes and reads at a time, by turns: one page, two, and a list of them.
const SIZES: [u32; 3] = [4 << 10, 8 << 10, 64 << 10];
/// Longest of [`SIZES`].
const EXTENT_BYTES: u32 = 64 << 10;
/// Time after which an I/O is taken to be lost.
const LIMIT: Duration = Duration::from_secs(90);
/// Polls without news before a core tries to sleep.
const IDLE_POLLS: u32 = 200;

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Options {
    cores: u64,
    seconds: u64,
    reset_ms: Option<u64>,
    count_errors: Errors,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Errors {
    Fail,
    Count,
}

impl Options {
    fn parse(words: impl Iterator<Item = String>) -> Result<Options, Failure> {
        let mut options =
            Options { cores: 1, seconds: 5, reset_ms: None, count_errors: Errors::Fail };
        for word in words {
            match word.split_once('=') {
                Some(("cores", value)) => options.cores = value.parse()?,
                Some(("seconds", value)) => options.seconds = value.parse()?,
                Some(("reset_ms", value)) => options.reset_ms = Some(value.parse()?),
                Some(("errors", "count")) => options.count_errors = Errors::Count,
                Some(("errors", "fail")) => options.count_errors = Errors::Fail,
                _ => return Err(format!("unknown option {word}").into()),
            }
        }
        Ok(options)
    }
}

/// What a slot is doing.
#[derive(Clone, Copy)]
enum Step {
    Write,
    Read,
}

struct Slot {
    buffer: DmaBuffer,
    round: u64,
    step: Step,
}

struct Load<'a> {
    options: &'a Options,
    cx: Cx,
    queue_pair: PcieQueuePair,
    slots: Vec<Slot>,
    block_bytes: u32,
    /// First extent of this core, and extents that each of its slots has.
    first: u64,
    extents: u64,
    ios: u64,
    errors: u64,
    is_gone: bool,
}

struct Report {
    ios: u64,
    errors: u64,
    is_gone: bool,
    counters: Counters,
}

fn pattern(lba: u64, round: u64) -> u8 {
    ((lba ^ round.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl Load<'_> {
    fn place(&self, index: usize) -> (Lba, u32) {
        let slot = &self.slots[index];
        let extent = self.first + index as u64 * self.extents + slot.round % self.extents;
        let bytes = SIZES[(slot.round % 3) as usize];
        (Lba(extent * u64::from(EXTENT_BYTES / self.block_bytes)), bytes)
    }

    fn submit(&mut self, index: usize) -> Result<(), Failure> {
        let (lba, bytes) = self.place(index);
        let slot = &mut self.slots[index];
        let (segment, token) = (slot.buffer.segment(bytes), Token(index as u64));
        let blocks = bytes / self.block_bytes;
        let io = match slot.step {
            Step::Write => {
                slot.buffer.bytes_mut().fill(pattern(lba.0, slot.round));
                Io::write(lba, blocks, segment, token)
            }
            Step::Read => {
                slot.buffer.bytes_mut().fill(0);
                Io::read(lba, blocks, segment, token)
            }
        };
        self.queue_pair.submit(&mut self.cx, io).map_err(|_| "a credit was refused".into())
    }

    /// What was read is what was written; the slot goes on to its next step.
    fn succeed(&mut self, index: usize) -> Result<(), Failure> {
        let (lba, bytes) = self.place(index);
        let slot = &mut self.slots[index];
        self.ios += 1;
        slot.step = match slot.step {
            Step::Write => Step::Read,
            Step::Read => {
                let wanted = pattern(lba.0, slot.round);
                if !slot.buffer.bytes(bytes).iter().all(|byte| *byte == wanted) {
                    return Err(format!("block {} reads what was not written", lba.0).into());
                }
                slot.round += 1;
                Step::Write
            }
        };
        Ok(())
    }

    fn run(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + Duration::from_secs(self.options.seconds);
        let mut completions = Completions::new();
        (0..self.slots.len()).try_for_each(|index| self.submit(index))?;
        let mut idle = 0;
        while self.queue_pair.inflight() > 0 {
            self.cx.advance_clock();
            self.queue_pair.flush(&mut self.cx);
            let count = self.queue_pair.poll(&mut self.cx, &mut completions);
            let is_over = Instant::now() > end;
            if Instant::now() > end + LIMIT {
                return Err(format!("{} I/Os are lost", self.queue_pair.inflight()).into());
            }
            for completion in completions.drain() {
                let index = completion.token.0 as usize;
                if completion.status.is_success() {
                    self.succeed(index)?;
                } else if self.options.count_errors == Errors::Count {
                    self.errors += 1;
                    self.is_gone |= completion.status == GONE;
                    self.slots[index].step = Step::Write;
                } else {
                    return Err(format!("an I/O failed: {}", completion.status).into());
                }
                if !is_over && !self.is_gone {
                    self.submit(index)?;
                }
            }
            idle = if count > 0 { 0 } else { idle + 1 };
            if idle > IDLE_POLLS {
                self.sleep();
                idle = 0;
            }
        }
        Ok(())
    }

    /// As a reactor does: arm, then block until a descriptor fires, or a while.
    fn sleep(&mut self) {
        if !matches!(self.queue_pair.wake(), Wake::Now) && self.queue_pair.arm(&mut self.cx) {
            self.cx.network.poll(Wait::AtMost(Duration::from_secs(1)), &mut Vec::new());
        }
    }
}

fn work(device: &pcie::PcieDevice, core: u64, options: &Options) -> Result<Report, Failure> {
    let pool = PoolConfig { chunks: 4, pages: PagePreference::HugeFirst };
    let network = Box::new(EpollNetwork::new()?);
    let core_id = CoreId(u32::try_from(core)?);
    let mut cx = Cx::new(core_id, Clock::real(), DmaPool::new(pool)?, network, core);
    let queue_pair = device.open(&mut cx, DEPTH)?;
    let geometry = device.geometry();
    let extents = geometry.blocks * u64::from(geometry.block_bytes) / u64::from(EXTENT_BYTES);
    let of_slot = extents / options.cores / u64::from(DEPTH);
    if of_slot == 0 {
        return Err("the drive is too small for so many cores".into());
    }
    let mut slots = Vec::new();
    for _ in 0..DEPTH {
        let buffer = cx.dma.take(EXTENT_BYTES).ok_or("no memory")?;
        slots.push(Slot { buffer, round: 0, step: Step::Write });
    }
    let mut load = Load {
        options,
        cx,
        queue_pair,
        slots,
        block_bytes: geometry.block_bytes,
        first: core * of_slot * u64::from(DEPTH),
        extents: of_slot,
        ios: 0,
        errors: 0,
        is_gone: false,
    };
    load.run()?;
    let Load { mut cx, queue_pair, slots, ios, errors, is_gone, .. } = load;
    slots.into_iter().for_each(|slot| cx.dma.give(slot.buffer));
    Ok(Report { ios, errors, is_gone, counters: queue_pair.counters() })
}

fn run(uri: &str, options: &Options) -> Result<(), Failure> {
    let DeviceUri::Pcie(uri) = uri.parse()? else { return Err("not a pcie URI".into()) };
    let device = pcie::open(&uri)?;
    let controller = device.controller().clone();
    println!("{} queues, {:?}", controller.queues(), device.geometry());
    let reports = std::thread::scope(|scope| {
        let device = &device;
        let workers: Vec<_> = (0..options.cores)
            .map(|core| scope.spawn(move || work(device, core, options)))
            .collect();
        while let Some(every_ms) = options.reset_ms
            && workers.iter().any(|worker| !worker.is_finished())
        {
            std::thread::sleep(Duration::from_millis(every_ms));
            controller.reset();
        }
        workers
            .into_iter()
            .map(|worker| worker.join().expect("it does not panic"))
            .collect::<Vec<_>>()
    });
    let mut is_gone = false;
    for (core, report) in reports.into_iter().enumerate() {
        let Report { ios, errors, is_gone: gone, counters } = report?;
        is_gone |= gone;
        println!("core {core}: {ios} ios {errors} errors {counters:?}");
    }
    while let Some(event) = controller.take_event() {
        println!("event: {event}");
    }
    println!("{}", if is_gone { "gone" } else { "verified" });
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let uri = arguments.next().unwrap_or_default();
    match Options::parse(arguments).and_then(|options| run(&uri, &options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{uri}: {error}");
            ExitCode::FAILURE
        }
    }
}
