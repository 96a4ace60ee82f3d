//! A host of the target, on the test's thread.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use bdev::{Completions, Io, Lba, QueuePair, Status, Token};
use nvmf::initiator::{ConnectOptions, Connector, Progress, RemoteNamespace};
use reactor::cx::test_context;
use reactor::dma::{DmaBuffer, Segment};
use reactor::socket::Wait;
use reactor::{Cx, Nanos, VirtualClock};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of an I/O here.
const LEN_BYTES: u32 = 4096;

/// A connected host.
pub struct Host {
    cx: Cx,
    hand: VirtualClock,
    last: Instant,
    pub remote: RemoteNamespace,
    buffer: DmaBuffer,
}

/// What a block holds: its number, over and over.
fn content(block: u64) -> Vec<u8> {
    block.to_le_bytes().repeat(LEN_BYTES as usize / size_of::<u64>())
}

fn look(cx: &mut Cx, hand: &VirtualClock, last: &mut Instant) {
    let mut ready = Vec::new();
    cx.network.poll(Wait::AtMost(Duration::from_millis(1)), &mut ready);
    for event in ready {
        assert!(cx.device_readiness.note(event));
    }
    let now = Instant::now();
    hand.advance(Nanos::from(now - *last));
    *last = now;
    cx.advance_clock();
}

impl Host {
    /// Connects to the namespace of this number.
    pub fn connect(address: SocketAddr, nqn: &str, nsid: u32) -> Host {
        let (mut cx, hand) = test_context();
        let mut last = Instant::now();
        let options = ConnectOptions {
            namespace_id: Some(nsid),
            io_queues: 1,
            ..ConnectOptions::new(address, nqn.parse().unwrap(), Uuid::from_u128(7))
        };
        let mut connector = Connector::start(&mut cx, options).unwrap();
        let remote = loop {
            match connector.poll(&mut cx) {
                Progress::Pending => look(&mut cx, &hand, &mut last),
                Progress::Ready(remote) => break *remote,
                Progress::Failed(error) => panic!("{error}"),
            }
        };
        let buffer = cx.dma.take(LEN_BYTES).unwrap();
        Host { cx, hand, last, remote, buffer }
    }

    /// Writes blocks of [`LEN_BYTES`], each with its number in it, and reads them back.
    pub fn write_and_check(&mut self, blocks: Range<u64>) {
        for block in blocks.clone() {
            self.buffer.segment(LEN_BYTES).write(0, &content(block));
            let io = self.io(Io::write, block);
            assert!(self.perform(io).is_success(), "block {block} is written");
        }
        self.check(blocks);
    }

    /// Reads blocks that [`Host::write_and_check`] wrote.
    pub fn check(&mut self, blocks: Range<u64>) {
        for block in blocks {
            let io = self.io(Io::read, block);
            assert!(self.perform(io).is_success(), "block {block} is read");
            let found = self.buffer.bytes(LEN_BYTES);
            assert!(found == content(block), "block {block} is what was written");
        }
    }

    fn io(&self, make: fn(Lba, u32, Segment, Token) -> Io, block: u64) -> Io {
        let blocks = LEN_BYTES / self.remote.geometry.block_bytes;
        make(Lba(block * u64::from(blocks)), blocks, self.buffer.segment(LEN_BYTES), Token(1))
    }

    fn perform(&mut self, io: Io) -> Status {
        self.remote.queue_pairs[0].submit(&mut self.cx, io).unwrap();
        self.wait()
    }

    /// True when what was sent has not been answered, and is not within a moment.
    pub fn is_waiting(&mut self) -> bool {
        let started = Instant::now();
        let mut completions = Completions::new();
        while started.elapsed() < Duration::from_millis(100) {
            self.remote.queue_pairs[0].flush(&mut self.cx);
            self.remote.queue_pairs[0].poll(&mut self.cx, &mut completions);
            if completions.drain().next().is_some() {
                return false;
            }
            look(&mut self.cx, &self.hand, &mut self.last);
        }
        true
    }

    /// Sends a write of a block and does not wait for it.
    pub fn send_write(&mut self, block: u64) {
        self.buffer.segment(LEN_BYTES).write(0, &content(block));
        let io = self.io(Io::write, block);
        self.remote.queue_pairs[0].submit(&mut self.cx, io).unwrap();
        self.remote.queue_pairs[0].flush(&mut self.cx);
    }

    /// Sends a read and does not wait for it.
    pub fn send_read(&mut self) {
        let blocks = LEN_BYTES / self.remote.geometry.block_bytes;
        let io = Io::read(Lba(0), blocks, self.buffer.segment(LEN_BYTES), Token(1));
        self.remote.queue_pairs[0].submit(&mut self.cx, io).unwrap();
        self.remote.queue_pairs[0].flush(&mut self.cx);
    }

    /// Waits for what was sent.
    pub fn wait(&mut self) -> Status {
        let started = Instant::now();
        let mut completions = Completions::new();
        loop {
            self.remote.queue_pairs[0].flush(&mut self.cx);
            self.remote.queue_pairs[0].poll(&mut self.cx, &mut completions);
            if let Some(completion) = completions.drain().next() {
                return completion.status;
            }
            look(&mut self.cx, &self.hand, &mut self.last);
            assert!(started.elapsed() < PATIENCE, "an I/O was lost");
        }
    }

    /// Reads, and tells how it went.
    pub fn read(&mut self) -> Status {
        self.send_read();
        self.wait()
    }
}
