//! Tries a local NVMe drive: `drive URI [MiB]` writes, reads back and verifies the beginning of the
//! device, and says what it saw. What was there is lost. For guests with emulated drives, and for
//! whoever has a drive to lose.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bdev::{
    BlockDevice, Completions, DeviceUri, Geometry, Io, Lba, Memory, Operation, QueuePair, Token,
    pcie, stack,
};
use reactor::dma::{DmaBuffer, DmaPool, PagePreference, PoolConfig};
use reactor::socket::epoll::EpollNetwork;
use reactor::{Clock, Cx, Wake};

/// Bytes of an I/O.
const IO_BYTES: u32 = 64 << 10;
/// I/Os in flight.
const DEPTH: u32 = 32;
/// Time after which an I/O is taken to be lost.
const LIMIT: Duration = Duration::from_secs(120);

type Failure = Box<dyn std::error::Error>;

struct Drive {
    cx: Cx,
    geometry: Geometry,
    queue_pair: Box<dyn QueuePair>,
    completions: Completions,
    sleeps: u64,
}

impl Drive {
    /// Submits and waits until at most `left` I/Os are in flight; sleeps where it may.
    fn settle(&mut self, left: u32) -> Result<Vec<Token>, Failure> {
        let deadline = Instant::now() + LIMIT;
        let mut ended = Vec::new();
        let mut idle = 0_u32;
        self.queue_pair.flush(&mut self.cx);
        while self.queue_pair.inflight() > left {
            self.cx.advance_clock();
            let count = self.queue_pair.poll(&mut self.cx, &mut self.completions);
            for completion in self.completions.drain() {
                if !completion.status.is_success() {
                    return Err(format!("{:?}: {}", completion.token, completion.status).into());
                }
                ended.push(completion.token);
            }
            idle = if count > 0 { 0 } else { idle + 1 };
            if idle > 1000 {
                self.sleep();
                idle = 0;
            }
            if Instant::now() > deadline {
                return Err(format!("{} I/Os are lost", self.queue_pair.inflight()).into());
            }
        }
        Ok(ended)
    }

    /// As a reactor does: arm, then block until a descriptor fires, or a while.
    fn sleep(&mut self) {
        if matches!(self.queue_pair.wake(), Wake::Now | Wake::Never)
            || !self.queue_pair.arm(&mut self.cx)
        {
            return;
        }
        self.sleeps += 1;
        let wait = reactor::socket::Wait::AtMost(Duration::from_secs(5));
        let started = Instant::now();
        self.cx.network.poll(wait, &mut Vec::new());
        assert!(started.elapsed() < Duration::from_secs(4), "a completion ends the sleep");
    }

    fn submit(&mut self, io: Io) -> Result<Vec<Token>, Failure> {
        let ended = self.settle(DEPTH - 1)?;
        self.queue_pair.submit(&mut self.cx, io).map_err(|_| "a credit was refused")?;
        Ok(ended)
    }
}

fn pattern(lba: u64) -> u8 {
    (lba.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn run(uri: &str, mib: u64) -> Result<(), Failure> {
    let DeviceUri::Pcie(uri) = uri.parse()? else { return Err("not a pcie URI".into()) };
    let device = pcie::open(&uri)?;
    let controller = device.controller().clone();
    let limits = device.limits();
    println!("{} {:?}", device.about().unwrap_or_default(), device.geometry());
    println!("{} queues, doorbells {:?}", controller.queues(), controller.shadow_doorbells());
    println!("{limits:?}");
    let device = stack::complete(Arc::new(device));
    let geometry = device.geometry();
    let pool = PoolConfig { chunks: 8, pages: PagePreference::HugeFirst };
    let network = EpollNetwork::new()?;
    let dma = DmaPool::new(pool)?;
    let core = reactor::cores::CoreId(0);
    let mut cx = Cx::new(core, Clock::real(), dma, Box::new(network), 1);
    let queue_pair = device.open_queue_pair(&mut cx, DEPTH)?;
    let mut drive = Drive { cx, geometry, queue_pair, completions: Completions::new(), sleeps: 0 };
    verify(&mut drive, mib)?;
    println!("verified, {} sleeps", drive.sleeps);
    drop(drive);
    while let Some(event) = controller.take_event() {
        println!("event: {event}");
    }
    Ok(())
}

/// Writes everything, reads it back, and zeroes the first I/O's blocks.
fn verify(drive: &mut Drive, mib: u64) -> Result<(), Failure> {
    let blocks = IO_BYTES / drive.geometry.block_bytes;
    let count = ((mib << 20) / u64::from(IO_BYTES)).min(drive.geometry.blocks / u64::from(blocks));
    let mut buffers: Vec<DmaBuffer> = Vec::new();
    for _ in 0..DEPTH {
        buffers.push(drive.cx.dma.take(IO_BYTES).ok_or("no memory")?);
    }
    let lba = |index: u64| Lba(index * u64::from(blocks));
    for operation in [Operation::Write, Operation::Read] {
        let mut free: Vec<usize> = (0..buffers.len()).collect();
        let mut held = std::collections::HashMap::new();
        let mut next = 0;
        while next < count || !held.is_empty() {
            if next < count
                && let Some(slot) = free.pop()
            {
                let fill = if operation == Operation::Write { pattern(next) } else { 0 };
                buffers[slot].bytes_mut().fill(fill);
                let memory = Memory::One(buffers[slot].segment(IO_BYTES));
                held.insert(Token(next), slot);
                let io = Io::with_memory(operation, lba(next), blocks, memory, Token(next));
                next += 1;
                let ended = drive.submit(io)?;
                release(&mut held, &mut free, ended, operation, &buffers)?;
                continue;
            }
            let left = drive.queue_pair.inflight().saturating_sub(1);
            let ended = drive.settle(left)?;
            release(&mut held, &mut free, ended, operation, &buffers)?;
        }
        drive.submit(Io::flush(Token(u64::MAX)))?;
        drive.settle(0)?;
    }
    let memory = Memory::None;
    let zero = Io::with_memory(Operation::WriteZeroes, lba(0), blocks, memory, Token(1));
    drive.submit(zero)?;
    drive.settle(0)?;
    drive.submit(Io::read(lba(0), blocks, buffers[0].segment(IO_BYTES), Token(2)))?;
    drive.settle(0)?;
    let zeroed = buffers[0].bytes(IO_BYTES).iter().all(|byte| *byte == 0);
    buffers.into_iter().for_each(|buffer| drive.cx.dma.give(buffer));
    if zeroed { Ok(()) } else { Err("zeroed blocks do not read as zeroes".into()) }
}

fn release(
    held: &mut std::collections::HashMap<Token, usize>,
    free: &mut Vec<usize>,
    ended: Vec<Token>,
    operation: Operation,
    buffers: &[DmaBuffer],
) -> Result<(), Failure> {
    for token in ended {
        let Some(slot) = held.remove(&token) else { continue };
        let right = buffers[slot].bytes(IO_BYTES).iter().all(|byte| *byte == pattern(token.0));
        if operation == Operation::Read && !right {
            return Err(format!("I/O {} reads what was not written", token.0).into());
        }
        free.push(slot);
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let uri = arguments.next().unwrap_or_default();
    let mib = arguments.next().and_then(|mib| mib.parse().ok()).unwrap_or(16);
    match run(&uri, mib) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{uri}: {error}");
            ExitCode::FAILURE
        }
    }
}
