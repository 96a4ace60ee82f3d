//! The price of one I/O in the mirror, over devices that keep nothing: nanoseconds an element.
//!
//! One thread, not pinned; `cargo bench -p nexus`. The figure to hold is 50 ns for a write to three
//! children on one core.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;
use std::sync::Arc;

use bdev::{BlockDevice, Completions, Geometry, Io, Lba, Null, QueuePair, Token};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nexus::view::Locality;
use nexus::{ChildConfig, Marking, Nexus, NexusConfig, Standing};
use reactor::Cx;
use reactor::cx::test_context;
use reactor::dma::DmaBuffer;

/// I/Os submitted before a flush and polled after it.
const BATCH: u64 = 32;
const IO_BYTES: u32 = 4096;
const BLOCK_BYTES: u32 = 512;
const IO_BLOCKS: u32 = IO_BYTES / BLOCK_BYTES;
const PLACES: u64 = (512 << 20) / IO_BYTES as u64;

struct Bench {
    cx: Cx,
    queue_pair: Box<dyn QueuePair>,
    buffers: Vec<DmaBuffer>,
    completions: Completions,
}

fn null(number: usize) -> Arc<dyn BlockDevice> {
    let blocks = PLACES * u64::from(IO_BLOCKS);
    let geometry = Geometry { block_bytes: BLOCK_BYTES, blocks };
    Arc::new(Null::new(format!("null{number}"), geometry, None).expect("the geometry is legal"))
}

fn mirror(children: usize) -> Arc<Nexus> {
    let child = |number| ChildConfig {
        name: format!("null{number}"),
        device: null(number),
        data_start_blocks: 0,
        locality: Locality::Remote,
        standing: Standing::Member,
    };
    let config = NexusConfig {
        name: String::from("nexus0"),
        uuid: None,
        blocks: None,
        children: (0..children).map(child).collect(),
        marking: Marking::Off,
    };
    Nexus::new(config).expect("the children are alike")
}

impl Bench {
    fn new(device: &dyn BlockDevice) -> Bench {
        let (mut cx, _) = test_context();
        let queue_pair = device.open_queue_pair(&mut cx, 128).expect("a memory device opens");
        let buffers = (0..BATCH).map(|_| cx.dma.take(IO_BYTES).expect("the pool has room"));
        let buffers = buffers.collect();
        Bench { cx, queue_pair, buffers, completions: Completions::new() }
    }

    /// Submits a batch at random places, flushes, and polls until all of it is back.
    fn batch(&mut self, writes: bool) {
        for (index, buffer) in (0..).zip(&self.buffers) {
            let lba = Lba(self.cx.random.below(PLACES) * u64::from(IO_BLOCKS));
            let segment = buffer.segment(IO_BYTES);
            let io = match writes {
                true => Io::write(lba, IO_BLOCKS, segment, Token(index)),
                false => Io {
                    flags: bdev::IoFlags::ACCEPT_ZEROES,
                    ..Io::read(lba, IO_BLOCKS, segment, Token(index))
                },
            };
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

fn mirrors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mirror");
    group.throughput(Throughput::Elements(BATCH));
    let mut alone = Bench::new(&*null(0));
    group.bench_function("null write", |b| b.iter(|| alone.batch(true)));
    for children in [1, 2, 3] {
        let nexus = mirror(children);
        let mut bench = Bench::new(&*nexus);
        group.bench_function(format!("write to {children}"), |b| b.iter(|| bench.batch(true)));
        group.bench_function(format!("read of {children}"), |b| b.iter(|| bench.batch(false)));
    }
    let nexus = mirror(3);
    let (mut cx, _) = test_context();
    let other = nexus.open_queue_pair(&mut cx, 1).expect("a second core opens it");
    let mut bench = Bench::new(&*nexus);
    group.bench_function("write to 3, shared by 2 cores", |b| b.iter(|| bench.batch(true)));
    drop(other);
}

criterion_group!(benches, mirrors);
criterion_main!(benches);
