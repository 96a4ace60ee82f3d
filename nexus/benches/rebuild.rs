//! What a rebuild moves, beside a plain copy between the same two devices; and what a host's
//! latency is while one goes on.
//!
//! One thread, not pinned; `cargo bench -p nexus --bench rebuild`. Devices in memory, so the
//! core's time is all there is to share: the worst case for a host on the same core. The figures
//! to hold are 0.8 of the plain copy, and a p99 that at most doubles. A host's writes go to a
//! target from its beginning on, so the p99 beside a rebuild is set beside that with a paused one.

use std::sync::Arc;

use bdev::{BlockDevice, Completions, Geometry, Io, Lba, Malloc, QueuePair, Token};
use nexus::rebuild::{PIECE_BYTES_MAX, PIECES_MAX};
use nexus::truth::{Discard, Untracked};
use nexus::view::Locality;
use nexus::{ChildConfig, Home, Marking, Nexus, NexusConfig, Standing};
use reactor::cores::CoreId;
use reactor::dma::{DmaBuffer, DmaPool, PagePreference, PoolConfig};
use reactor::socket::epoll::EpollNetwork;
use reactor::{Clock, Cx, Nanos};

const ROUNDS: usize = 5;
const BLOCK_BYTES: u32 = 512;
const DEVICE_BYTES: u64 = 512 << 20;
const BLOCKS: u64 = DEVICE_BYTES / BLOCK_BYTES as u64;
const PIECE_BLOCKS: u32 = PIECE_BYTES_MAX / BLOCK_BYTES;
/// The host's I/Os: random writes of 4 KiB.
const HOST_BYTES: u32 = 4096;
const HOST_DEPTH: u64 = 8;
const HOST_SPAN: Nanos = Nanos::from_millis(1500);

fn context() -> Cx {
    let pool = PoolConfig { chunks: 16, pages: PagePreference::Ordinary };
    let dma = DmaPool::new(pool).expect("32 MiB are there");
    let network = Box::new(EpollNetwork::new().expect("an epoll set is there"));
    Cx::new(CoreId(0), Clock::real(), dma, network, 1)
}

fn disk(name: &str) -> Arc<dyn BlockDevice> {
    let geometry = Geometry { block_bytes: BLOCK_BYTES, blocks: BLOCKS };
    Arc::new(Malloc::new(name, geometry, None).expect("the memory is there"))
}

fn buffers(cx: &mut Cx, count: u64, len_bytes: u32) -> Vec<DmaBuffer> {
    (0..count).map(|_| cx.dma.take(len_bytes).expect("the pool has room")).collect()
}

/// Copies a device, [`PIECES_MAX`] pieces at once; or writes it full where there is no source.
fn copy(cx: &mut Cx, source: Option<&dyn BlockDevice>, target: &dyn BlockDevice) -> Nanos {
    let begin = cx.read_clock();
    let mut open = |device: &dyn BlockDevice| {
        device.open_queue_pair(cx, PIECES_MAX).expect("a memory device opens")
    };
    let mut source = source.map(&mut open);
    let mut target = open(target);
    let buffers = buffers(cx, PIECES_MAX.into(), PIECE_BYTES_MAX);
    buffers.iter().for_each(|buffer| buffer.segment(PIECE_BYTES_MAX).write(0, &[7; 4096]));
    let pieces = BLOCKS / u64::from(PIECE_BLOCKS);
    let mut lbas = vec![Lba(0); buffers.len()];
    let (mut next, mut written) = (0, 0);
    let (mut free, mut read) = ((0..buffers.len()).collect::<Vec<_>>(), Vec::new());
    let mut completions = Completions::new();
    while written < pieces {
        while next < pieces
            && let Some(index) = free.pop()
        {
            lbas[index] = Lba(next * u64::from(PIECE_BLOCKS));
            next += 1;
            match &mut source {
                None => read.push(index),
                Some(source) => {
                    let segment = buffers[index].segment(PIECE_BYTES_MAX);
                    let io = Io::read(lbas[index], PIECE_BLOCKS, segment, Token(index as u64));
                    source.submit(cx, io).expect("the depth is enough");
                }
            }
        }
        if let Some(source) = &mut source {
            source.flush(cx);
            source.poll(cx, &mut completions);
            read.extend(completions.drain().map(|completion| completion.token.0 as usize));
        }
        for index in read.drain(..) {
            let segment = buffers[index].segment(PIECE_BYTES_MAX);
            let io = Io::write(lbas[index], PIECE_BLOCKS, segment, Token(index as u64));
            target.submit(cx, io).expect("the depth is enough");
        }
        target.flush(cx);
        target.poll(cx, &mut completions);
        for completion in completions.drain() {
            assert!(completion.status.is_success());
            free.push(completion.token.0 as usize);
            written += 1;
        }
    }
    buffers.into_iter().for_each(|buffer| cx.dma.give(buffer));
    cx.read_clock().since(begin)
}

fn volume(cx: &mut Cx, source: &Arc<dyn BlockDevice>, target: &Arc<dyn BlockDevice>) -> Volume {
    let child = |name: &str, device: &Arc<dyn BlockDevice>, standing| ChildConfig {
        name: name.to_owned(),
        device: device.clone(),
        data_start_blocks: 0,
        locality: Locality::Local,
        standing,
    };
    let config = NexusConfig {
        name: String::from("nexus0"),
        uuid: None,
        blocks: None,
        children: vec![
            child("source", source, Standing::Member),
            child("target", target, Standing::OutOfSync),
        ],
        marking: Marking::Off,
    };
    let nexus = Nexus::new(config).expect("the children are alike");
    let home = Home::new(nexus.clone(), cx, Box::new(Untracked::default()));
    Volume { nexus, home }
}

struct Volume {
    nexus: Arc<Nexus>,
    home: Home,
}

impl Volume {
    fn begin(&mut self, cx: &mut Cx) {
        self.home.begin_target(cx, "target", Discard::No).expect("it is out");
    }

    fn pass(&mut self, cx: &mut Cx) {
        cx.advance_clock();
        self.home.poll(cx);
    }

    fn rebuild(&mut self, cx: &mut Cx) -> Nanos {
        let begin = cx.read_clock();
        self.begin(cx);
        while self.home.rebuild().is_some() {
            self.pass(cx);
        }
        let record = self.home.rebuild_history().last().expect("one has ended");
        assert_eq!(record.moved.copied_bytes, DEVICE_BYTES);
        cx.read_clock().since(begin)
    }

    /// Latencies of a host's writes; a rebuild is begun again whenever one ends, if so wished.
    fn host(&mut self, cx: &mut Cx, rebuilds: bool) -> Host {
        let mut queue_pair = self.nexus.open_queue_pair(cx, 32).expect("the nexus opens");
        let buffers = buffers(cx, HOST_DEPTH, HOST_BYTES);
        let mut sent_at = vec![Nanos(0); buffers.len()];
        let mut latencies = Vec::new();
        let begin = cx.advance_clock();
        for index in 0..buffers.len() {
            send(cx, &mut *queue_pair, &buffers, &mut sent_at, index);
        }
        let mut completions = Completions::new();
        let mut copied_bytes = 0;
        while cx.now().since(begin) < HOST_SPAN {
            queue_pair.flush(cx);
            queue_pair.poll(cx, &mut completions);
            for completion in completions.drain() {
                let index = completion.token.0 as usize;
                latencies.push(cx.read_clock().since(sent_at[index]));
                send(cx, &mut *queue_pair, &buffers, &mut sent_at, index);
            }
            self.pass(cx);
            match self.home.rebuild() {
                Some(progress) => copied_bytes = progress.moved.copied_bytes,
                None if rebuilds && self.home.find("target").is_ok() => self.restart(cx),
                None => {}
            }
        }
        while queue_pair.inflight() > 0 {
            queue_pair.flush(cx);
            queue_pair.poll(cx, &mut completions);
            completions.drain();
            self.pass(cx);
        }
        drop(queue_pair);
        buffers.into_iter().for_each(|buffer| cx.dma.give(buffer));
        latencies.sort_unstable();
        Host { latencies, copied_bytes }
    }

    fn restart(&mut self, cx: &mut Cx) {
        // Refused while it is a member, and while it is on its way out.
        let _ = self.home.offline(cx, "target");
        let _ = self.home.begin_target(cx, "target", Discard::No);
    }
}

struct Host {
    latencies: Vec<Nanos>,
    copied_bytes: u64,
}

impl Host {
    fn at(&self, per_mille: usize) -> f64 {
        self.latencies[self.latencies.len() * per_mille / 1000].0 as f64 / 1000.0
    }
}

fn send(
    cx: &mut Cx,
    queue_pair: &mut dyn QueuePair,
    buffers: &[DmaBuffer],
    sent_at: &mut [Nanos],
    index: usize,
) {
    let blocks = HOST_BYTES / BLOCK_BYTES;
    let lba = Lba(cx.random.below(BLOCKS / u64::from(blocks)) * u64::from(blocks));
    let segment = buffers[index].segment(HOST_BYTES);
    sent_at[index] = cx.read_clock();
    let io = Io::write(lba, blocks, segment, Token(index as u64));
    queue_pair.submit(cx, io).expect("the depth is enough");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut cx = context();
    let (source, target) = (disk("source"), disk("target"));
    copy(&mut cx, None, &*source);
    copy(&mut cx, None, &*target);
    let rate = |span: Nanos| (DEVICE_BYTES >> 20) as f64 / (span.0 as f64 / 1e9);
    let (mut plain, mut rebuilt) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(rate(copy(&mut cx, Some(&*source), &*target)));
        let mut volume = volume(&mut cx, &source, &target);
        rebuilt.push(rate(volume.rebuild(&mut cx)));
    }
    let (plain, rebuilt) = (median(plain), median(rebuilt));
    println!("plain copy {plain:.0} MiB/s, rebuild {rebuilt:.0} MiB/s: {:.2}", rebuilt / plain);
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let mut volume = volume(&mut cx, &source, &target);
        let alone = volume.host(&mut cx, false);
        volume.begin(&mut cx);
        volume.home.pause_rebuild("target").expect("it goes on");
        let paused = volume.host(&mut cx, false);
        volume.home.resume_rebuild("target").expect("it goes on");
        let beside = volume.host(&mut cx, true);
        ratios.push(beside.at(990) / paused.at(990));
        for (what, host) in [("alone", &alone), ("paused", &paused), ("beside", &beside)] {
            println!(
                "{what}: {} writes, p50 {:.1} us, p99 {:.1} us, {} MiB copied",
                host.latencies.len(),
                host.at(500),
                host.at(990),
                host.copied_bytes >> 20,
            );
        }
    }
    println!("p99 beside a rebuild over that beside a paused one: {:.2}", median(ratios));
}
