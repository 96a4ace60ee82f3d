//! The price of one I/O in each layer, without sockets: nanoseconds an element.
//!
//! One thread, not pinned; `cargo bench -p perf`. The null device measures the queue-pair layers
//! themselves, the RAM disk adds a copy out of a memory larger than the caches.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;

use bdev::{BlockDevice, Completions, Geometry, Io, IoFlags, Lba, Malloc, Null, QueuePair, Token};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nvmf::pdu::digest::crc32c;
use reactor::Cx;
use reactor::cx::test_context;
use reactor::dma::{DmaBuffer, Segment};
use reactor::spsc;

/// I/Os submitted before a flush and polled after it.
const BATCH: u64 = 128;
const IO_BYTES: u32 = 4096;
const BLOCK_BYTES: u32 = 512;
const IO_BLOCKS: u32 = IO_BYTES / BLOCK_BYTES;
/// Larger than the caches of the machines measured.
const DEVICE_BYTES: u64 = 512 << 20;
const PLACES: u64 = DEVICE_BYTES / IO_BYTES as u64;

struct Bench {
    cx: Cx,
    queue_pair: Box<dyn QueuePair>,
    buffers: Vec<DmaBuffer>,
    completions: Completions,
}

impl Bench {
    fn new(device: &dyn BlockDevice) -> Bench {
        let (mut cx, _) = test_context();
        let depth = u32::try_from(BATCH).expect("a batch is small");
        let queue_pair = device.open_queue_pair(&mut cx, depth).expect("a memory device opens");
        let take = |_| cx.dma.take(IO_BYTES).expect("the pool has 512 buffers");
        let buffers = (0..BATCH).map(take).collect();
        Bench { cx, queue_pair, buffers, completions: Completions::new() }
    }

    /// Submits a batch at random places, flushes, and polls until all of it is back.
    fn batch(&mut self, make: impl Fn(Lba, Segment, Token) -> Io) {
        for (index, buffer) in (0..).zip(&self.buffers) {
            let lba = Lba(self.cx.random.below(PLACES) * u64::from(IO_BLOCKS));
            let io = make(lba, buffer.segment(IO_BYTES), Token(index));
            self.queue_pair.submit(&mut self.cx, io).expect("a batch fits the depth");
        }
        self.queue_pair.flush(&mut self.cx);
        let mut back = 0;
        while back < BATCH {
            back += self.queue_pair.poll(&mut self.cx, &mut self.completions) as u64;
            for completion in self.completions.drain() {
                assert!(black_box(completion).status.is_success());
            }
        }
    }
}

fn read(lba: Lba, segment: Segment, token: Token) -> Io {
    Io { flags: IoFlags::ACCEPT_ZEROES, ..Io::read(lba, IO_BLOCKS, segment, token) }
}

fn write(lba: Lba, segment: Segment, token: Token) -> Io {
    Io::write(lba, IO_BLOCKS, segment, token)
}

fn devices(criterion: &mut Criterion) {
    let geometry =
        Geometry { block_bytes: BLOCK_BYTES, blocks: DEVICE_BYTES / u64::from(BLOCK_BYTES) };
    let null = Null::new("null", geometry, None).expect("the geometry is legal");
    let malloc = Malloc::new("malloc", geometry, None).expect("the machine has 512 MiB");
    let mut group = criterion.benchmark_group("queue_pair");
    group.throughput(Throughput::Elements(BATCH));
    let mut bench = Bench::new(&null);
    group.bench_function("null read", |b| b.iter(|| bench.batch(read)));
    group.bench_function("null write", |b| b.iter(|| bench.batch(write)));
    let mut bench = Bench::new(&malloc);
    // Pages that were never written are all one page of zeroes, and hot.
    for place in 0..PLACES / BATCH {
        bench.batch(|_, segment, token| {
            write(Lba((place * BATCH + token.0) * u64::from(IO_BLOCKS)), segment, token)
        });
    }
    group.bench_function("malloc write 4 KiB", |b| b.iter(|| bench.batch(write)));
    group.bench_function("malloc read 4 KiB", |b| b.iter(|| bench.batch(read)));
    group.finish();
}

fn rings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("spsc");
    group.throughput(Throughput::Elements(BATCH));
    let (mut producer, mut consumer) = spsc::ring::<u64>(256);
    group.bench_function("push, publish, pop", |b| {
        b.iter(|| {
            for item in 0..BATCH {
                producer.push(item).expect("the ring is empty");
            }
            producer.publish();
            while let Some(item) = consumer.pop() {
                black_box(item);
            }
        });
    });
    group.finish();
}

fn digests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crc32c");
    for len_bytes in [128, IO_BYTES as usize, 128 << 10] {
        let bytes = vec![0x5a_u8; len_bytes];
        group.throughput(Throughput::Bytes(len_bytes as u64));
        group.bench_with_input(BenchmarkId::from_parameter(len_bytes), &bytes, |b, bytes| {
            b.iter(|| crc32c(black_box(bytes)));
        });
    }
    group.finish();
}

criterion_group!(benches, devices, rings, digests);
criterion_main!(benches);
