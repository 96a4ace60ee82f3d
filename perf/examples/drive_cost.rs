//! What the NVMe driver costs a core: 4 KiB reads at depth 128 over the software controller.
//!
//! The driver's calls stand in functions of their own, `driver_*`, so that callgrind can count what
//! happens inside them and leave the software controller's cost out:
//!
//! `valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*driver_*'
//! target/release/examples/drive_cost 1000`. The instructions that it reports, over the I/Os that
//! this prints, are the driver's. Time is that of the time-stamp counter, in its own cycles too: of
//! rounds of 128 I/Os the one in the middle, and the one that nine of ten took longer than, which a
//! busy machine leaves almost alone.

use bdev::pcie::queue_pair::PcieQueuePair;
use bdev::pcie::software::{Config, NamespaceConfig, SoftwareController};
use bdev::pcie::{Controller, Options, PcieDevice};
use bdev::{Completions, Io, Lba, QueuePair, Token};
use perf::cycles::{TickRate, Ticks};
use reactor::Cx;
use std::hint::black_box;
use std::sync::Arc;

const DEPTH: u64 = 128;
const BLOCKS: u64 = 4096;

#[inline(never)]
fn driver_submit(queue_pair: &mut PcieQueuePair, cx: &mut Cx, io: Io) {
    queue_pair.submit(cx, io).expect("a credit was seen");
}

#[inline(never)]
fn driver_flush(queue_pair: &mut PcieQueuePair, cx: &mut Cx) {
    queue_pair.flush(cx);
}

#[inline(never)]
fn driver_poll(queue_pair: &mut PcieQueuePair, cx: &mut Cx, completions: &mut Completions) -> u64 {
    queue_pair.poll(cx, completions) as u64
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(1000);
    let namespaces = vec![NamespaceConfig { block_bytes: 4096, blocks: BLOCKS, uuid: None }];
    let software = SoftwareController::new(Config { namespaces, ..Config::default() });
    let attached = Controller::attach_stepped("cost", software.platform(), Options::default());
    let (controller, supervisor) = attached.expect("a software controller answers");
    let device = PcieDevice::new("cost".into(), Arc::new(controller), 1).expect("a namespace");
    let (mut cx, _) = reactor::cx::test_context();
    let mut queue_pair = device.open(&mut cx, DEPTH as u32).expect("a queue is free");
    let buffers: Vec<_> =
        (0..DEPTH).map(|_| cx.dma.take(4096).expect("the pool has 512 of them")).collect();
    let mut completions = Completions::new();
    let mut ios = 0;
    let mut spent = Vec::with_capacity(usize::try_from(rounds).expect("rounds fit in memory"));
    for round in 0..rounds {
        let begin = Ticks::now();
        for (token, buffer) in (0..DEPTH).zip(&buffers) {
            let lba = Lba((round * 7 + token * 31) % BLOCKS);
            let io = Io::read(lba, 1, buffer.segment(4096), Token(token));
            driver_submit(&mut queue_pair, &mut cx, io);
        }
        driver_flush(&mut queue_pair, &mut cx);
        let submitted = Ticks::now().since(begin);
        while software.step() {}
        let begin = Ticks::now();
        while queue_pair.inflight() > 0 {
            ios += driver_poll(&mut queue_pair, &mut cx, &mut completions);
            completions.drain().for_each(|completion| {
                assert!(black_box(completion).status.is_success());
            });
        }
        spent.push(submitted + Ticks::now().since(begin));
    }
    let doorbells = queue_pair.doorbell_writes() as f64 / ios as f64;
    println!("{ios} I/Os, {doorbells:.4} doorbell writes each");
    spent.sort_unstable();
    let hertz = TickRate::calibrate().hertz();
    for (name, rank) in
        [("in the middle", spent.len() / 2), ("the quickest tenth", spent.len() / 10)]
    {
        let cycles = spent.get(rank).map_or(0.0, |ticks| *ticks as f64 / DEPTH as f64);
        println!("{name}: {cycles:.0} cycles each, {:.1} ns", cycles / hertz * 1e9);
    }
    drop(queue_pair);
    supervisor.finish();
    buffers.into_iter().for_each(|buffer| cx.dma.give(buffer));
}
