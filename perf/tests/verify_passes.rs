//! `--verify` on a sound device and on one that corrupts a block, passed by hand in one thread.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::mpsc;

use bdev::{
    BlockDevice, Busy, Completions, Geometry, Io, Lba, Limits, Malloc, OpenError, Operation,
    QueuePair,
};
use clap::Parser;
use perf::cycles::TickRate;
use perf::harness::pass;
use perf::load::Load;
use perf::options::{Cli, Command};
use perf::report::Faults;
use perf::reporter::{Event, Reporter};
use perf::run::load_config;
use perf::source::Source;
use reactor::clock::Nanos;
use reactor::cx::test_context;
use reactor::{Cx, Wake};

const PASSES_MAX: usize = 100_000;
const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 2048 };

/// A device that damages what is written to one block.
#[derive(Debug)]
struct Corrupting {
    below: Malloc,
    block: Lba,
}

#[derive(Debug)]
struct CorruptingQueuePair {
    below: Box<dyn QueuePair>,
    block: Lba,
}

impl BlockDevice for Corrupting {
    fn name(&self) -> &str {
        "corrupting"
    }

    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }

    fn limits(&self) -> Limits {
        self.below.limits()
    }

    fn uuid(&self) -> Option<uuid::Uuid> {
        None
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let below = self.below.open_queue_pair(cx, depth)?;
        Ok(Box::new(CorruptingQueuePair { below, block: self.block }))
    }
}

impl QueuePair for CorruptingQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        let hit = (io.lba.0..io.lba.0 + u64::from(io.blocks)).position(|lba| lba == self.block.0);
        if let (Operation::Write, Some(index)) = (io.operation, hit) {
            let offset = u32::try_from(index).unwrap() * 512 + 100;
            io.memory.segments()[0].write(offset, &[0xa5; 8]);
        }
        self.below.submit(cx, io)
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.below.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.below.poll(cx, completions)
    }

    fn credits(&self) -> u32 {
        self.below.credits()
    }

    fn inflight(&self) -> u32 {
        self.below.inflight()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.below.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        self.below.wake()
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.below.arm(cx)
    }
}

fn faults(device: Arc<dyn BlockDevice>, line: &str) -> Faults {
    let line = format!("mayastor-perf run null:///n0 --verify --ramp_time 0 {line}");
    let Command::Run(options) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
        panic!("{line} is a run");
    };
    let (mut cx, hand) = test_context();
    let (events, reports) = mpsc::channel();
    let config = load_config(&options, 0, TickRate::calibrate());
    let mut load = Load::new(&cx, config, Source::Local(device), Reporter::alone(events));
    let mut ready = Vec::new();
    for _ in 0..PASSES_MAX {
        hand.advance(Nanos(100));
        pass(&mut load, &mut cx, &mut ready);
        match reports.try_recv() {
            Ok(Event::Ended(outcome)) => return outcome.faults,
            Ok(Event::Failed(error)) => panic!("{error}"),
            Ok(Event::Filling | Event::Began(_) | Event::Closed(_)) | Err(_) => {}
        }
    }
    panic!("the load did not finish");
}

fn malloc() -> Malloc {
    Malloc::new("m0", GEOMETRY, None).unwrap()
}

const LOADS: [&str; 4] = [
    "--rw randrw --rwmixread 50 --iodepth 16 --number_ios 20000",
    "--rw write --iodepth 16 --number_ios 500",
    "--rw randwrite --iodepth 4 --connections 3 --number_ios 5000",
    "--rw randrw --bs 128k --iodepth 2 --number_ios 500",
];

#[test]
fn a_sound_device_passes() {
    for line in LOADS {
        assert_eq!(faults(Arc::new(malloc()), line), Faults::default(), "{line}");
    }
}

#[test]
fn a_corrupted_block_is_found_by_every_load() {
    for line in LOADS {
        let device = Corrupting { below: malloc(), block: Lba(77) };
        let faults = faults(Arc::new(device), line);
        assert!(faults.mismatches > 0, "{line}");
        let first = faults.first.unwrap();
        assert!(first.starts_with("block 77 ") && first.contains("from byte 96 on"), "{first}");
    }
}

#[test]
fn a_device_that_keeps_nothing_fails() {
    let null = bdev::Null::new("n0", GEOMETRY, None).unwrap();
    assert!(faults(Arc::new(null), LOADS[1]).mismatches > 0);
}
