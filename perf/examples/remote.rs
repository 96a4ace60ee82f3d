//! Tries a namespace of a remote target: `remote URI [MiB] [SECONDS]` writes, reads back and
//! verifies the beginning of it, flushes, zeroes and unmaps; then goes on writing and reading for
//! some seconds, whatever becomes of the target meanwhile, and says what happened. What was there
//! is lost. For guests with the kernel's target, and for whoever has a target to lose.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bdev::nvme::status::StatusCodeType;
use bdev::{
    BlockDevice, Completions, DeviceUri, Io, Lba, Memory, Operation, QueuePair, Status, Token,
};
use nvmf::initiator::remote::RemoteDevice;
use reactor::dma::{DmaBuffer, DmaPool, PagePreference, PoolConfig};
use reactor::socket::Wait;
use reactor::socket::epoll::EpollNetwork;
use reactor::{Clock, Cx};

/// Bytes of an I/O: more than a capsule carries.
const IO_BYTES: u32 = 64 << 10;
/// I/Os in flight.
const DEPTH: u32 = 16;
/// Time after which an I/O is taken to be lost: beyond every time-out of the initiator.
const LIMIT: Duration = Duration::from_secs(120);
/// Pause after an I/O that failed: the target is gone, or closed.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest look at the sockets.
const LOOK: Duration = Duration::from_millis(1);

type Failure = Box<dyn std::error::Error>;

struct Host {
    cx: Cx,
    device: RemoteDevice,
    queue_pair: Box<dyn QueuePair>,
    buffers: Vec<DmaBuffer>,
    blocks: u32,
}

impl Host {
    fn open(uri: &str) -> Result<Host, Failure> {
        let DeviceUri::Nvmf(uri) = uri.parse()? else { return Err("not an nvmf URI".into()) };
        let device = engine::remote::open(&uri)?;
        println!("{} {:?}", device.about().unwrap_or_default(), device.geometry());
        println!("{:?}", device.limits());
        let pool = PoolConfig { chunks: 8, pages: PagePreference::Ordinary };
        let core = reactor::cores::CoreId(0);
        let network = Box::new(EpollNetwork::new()?);
        let mut cx = Cx::new(core, Clock::real(), DmaPool::new(pool)?, network, 1);
        let queue_pair = device.open_queue_pair(&mut cx, DEPTH)?;
        let take = |_| cx.dma.take(IO_BYTES).ok_or("no memory");
        let buffers = (0..DEPTH).map(take).collect::<Result<Vec<_>, _>>()?;
        let blocks = IO_BYTES / device.geometry().block_bytes;
        Ok(Host { cx, device, queue_pair, buffers, blocks })
    }

    /// Does I/Os, the first with the first buffer and so on, each to its end; gives how.
    fn perform(&mut self, ios: &[Io]) -> Result<Vec<Status>, Failure> {
        for io in ios {
            self.queue_pair.submit(&mut self.cx, *io).map_err(|_| "a credit was refused")?;
        }
        let deadline = Instant::now() + LIMIT;
        let mut ended = vec![None; ios.len()];
        let mut left = ios.len();
        let mut completions = Completions::new();
        let mut ready = Vec::new();
        while left > 0 {
            self.cx.advance_clock();
            self.queue_pair.flush(&mut self.cx);
            let count = self.queue_pair.poll(&mut self.cx, &mut completions);
            for completion in completions.drain() {
                let slot = usize::try_from(completion.token.0)?;
                if ended[slot].replace(completion.status).is_some() {
                    return Err("a token ended twice".into());
                }
                left -= 1;
            }
            let wait = if count > 0 { Wait::No } else { Wait::AtMost(LOOK) };
            self.cx.network.poll(wait, &mut ready);
            for event in ready.drain(..) {
                self.cx.device_readiness.note(event);
            }
            if Instant::now() > deadline {
                return Err(format!("{left} I/Os are lost").into());
            }
        }
        Ok(ended.into_iter().flatten().collect())
    }

    fn io(&self, operation: Operation, place: u64, slot: u32) -> Io {
        let memory = match operation {
            Operation::Read | Operation::Write => {
                Memory::One(self.buffers[slot as usize].segment(IO_BYTES))
            }
            _ => Memory::None,
        };
        let lba = Lba(place * u64::from(self.blocks));
        Io::with_memory(operation, lba, self.blocks, memory, Token(slot.into()))
    }

    /// One operation on so many places from the first on; all must succeed.
    fn on_all(&mut self, operation: Operation, first: u64, count: u32) -> Result<(), Failure> {
        let ios: Vec<Io> =
            (0..count).map(|slot| self.io(operation, first + u64::from(slot), slot)).collect();
        match self.perform(&ios)?.into_iter().find(|status| !status.is_success()) {
            Some(status) => Err(format!("{operation:?} from {first} on: {status}").into()),
            None => Ok(()),
        }
    }

    /// Whether each buffer has what `expected` says of its place.
    fn check(&self, first: u64, count: u32, expected: impl Fn(u64) -> u8) -> Result<(), Failure> {
        for slot in 0..count {
            let place = first + u64::from(slot);
            let bytes = self.buffers[slot as usize].bytes(IO_BYTES);
            if bytes.iter().any(|byte| *byte != expected(place)) {
                return Err(format!("place {place} reads what was not written").into());
            }
        }
        Ok(())
    }

    fn fill(&mut self, first: u64, value: impl Fn(u64) -> u8) {
        for (place, buffer) in (first..).zip(&mut self.buffers) {
            buffer.bytes_mut().fill(value(place));
        }
    }

    fn read_and_check(&mut self, first: u64, expected: impl Fn(u64) -> u8) -> Result<(), Failure> {
        // Not what is expected, nor zeroes.
        self.fill(first, |place| !expected(place) | 1);
        self.on_all(Operation::Read, first, DEPTH)?;
        self.check(first, DEPTH, expected)
    }

    /// Everything that a queue pair can do.
    fn verify(&mut self, mib: u64) -> Result<(), Failure> {
        let places = (mib << 20) / u64::from(IO_BYTES);
        for first in (0..places).step_by(DEPTH as usize) {
            self.fill(first, pattern);
            self.on_all(Operation::Write, first, DEPTH)?;
        }
        let flush = self.perform(&[Io::flush(Token(0))])?;
        if !flush[0].is_success() {
            return Err(format!("flush: {}", flush[0]).into());
        }
        for first in (0..places).step_by(DEPTH as usize) {
            self.read_and_check(first, pattern)?;
        }
        let operations = self.device.limits().operations;
        for operation in [Operation::WriteZeroes, Operation::Unmap] {
            if !operations.contains(operation) {
                println!("no {operation:?}");
                continue;
            }
            self.fill(0, pattern);
            self.on_all(Operation::Write, 0, DEPTH)?;
            self.on_all(operation, 0, 2)?;
            if operation == Operation::WriteZeroes || self.device.limits().unmap_zeroes {
                self.read_and_check(0, |place| if place < 2 { 0 } else { pattern(place) })?;
            }
            println!("{operation:?} done");
        }
        let end = self.device.geometry().blocks;
        let beyond = Io::with_memory(
            Operation::Read,
            Lba(end),
            self.blocks,
            Memory::One(self.buffers[0].segment(IO_BYTES)),
            Token(0),
        );
        match self.perform(&[beyond])?[0] {
            Status::LBA_OUT_OF_RANGE => Ok(()),
            other => Err(format!("beyond the end: {other}").into()),
        }
    }

    /// Writes and reads for so long; gives how many succeeded and how many failed, which they may
    /// only for want of a path.
    fn go_on(&mut self, span: Duration) -> Result<(u64, u64), Failure> {
        let started = Instant::now();
        let (mut done, mut failed, mut round) = (0, 0, 0_u64);
        while started.elapsed() < span {
            round += 1;
            let value = |place: u64| pattern(place.wrapping_add(round << 32));
            self.fill(0, value);
            let write: Vec<Io> =
                (0..DEPTH).map(|slot| self.io(Operation::Write, slot.into(), slot)).collect();
            let written = self.perform(&write)?;
            self.fill(0, |place| !value(place));
            let read: Vec<Io> =
                (0..DEPTH).map(|slot| self.io(Operation::Read, slot.into(), slot)).collect();
            let read = self.perform(&read)?;
            for (slot, (written, read)) in (0..DEPTH).zip(written.iter().zip(&read)) {
                for status in [written, read] {
                    if !status.is_success() && status.code_type() != StatusCodeType::Path {
                        return Err(format!("an I/O failed: {status}").into());
                    }
                    if status.is_success() { done += 1 } else { failed += 1 }
                }
                let bytes = self.buffers[slot as usize].bytes(IO_BYTES);
                let is_right = bytes.iter().all(|byte| *byte == value(slot.into()));
                if written.is_success() && read.is_success() && !is_right {
                    return Err(format!("place {slot} reads what was not written").into());
                }
            }
            if written.iter().chain(&read).any(|status| !status.is_success()) {
                std::thread::sleep(PAUSE);
            }
            self.tell();
        }
        Ok((done, failed))
    }

    fn tell(&self) {
        while let Some(event) = self.device.take_event() {
            println!("event: {event}");
        }
    }
}

fn pattern(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn run(uri: &str, mib: u64, span: Duration) -> Result<(), Failure> {
    let mut host = Host::open(uri)?;
    host.verify(mib)?;
    host.tell();
    println!("verified");
    let (done, failed) = host.go_on(span)?;
    host.tell();
    let sessions = host.device.sessions().ok_or("a remote device has sessions")?;
    println!(
        "{done} done, {failed} failed, sessions {}, restarts {}, {} blocks",
        sessions.state().number,
        sessions.restarts(),
        host.device.geometry().blocks
    );
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let uri = arguments.next().unwrap_or_default();
    let mut number = |default| arguments.next().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (mib, seconds) = (number(8), number(0));
    match run(&uri, mib, Duration::from_secs(seconds)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{uri}: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
