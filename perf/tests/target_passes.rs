//! The load over loopback against our own target, both passed by hand in one thread.

#![allow(clippy::unwrap_used, reason = "a test")]

mod by_hand;

use std::sync::mpsc;

use clap::Parser;
use nvmf::initiator::{ConnectOptions, IO_QUEUES_MAX};
use perf::cycles::TickRate;
use perf::harness::{RunError, pass};
use perf::load::Load;
use perf::options::{Cli, Command};
use perf::reporter::{Event, Outcome, Reporter};
use perf::run::load_config;
use perf::source::{Remote, Source};
use reactor::Service;
use reactor::clock::Nanos;
use reactor::cx::test_context;

const PASSES_MAX: usize = 100_000;

fn run(line: &str) -> Result<Outcome, RunError> {
    run_counted(line).map(|(outcome, _)| outcome)
}

/// Bytes that the target moved.
fn served_bytes(line: &str) -> u64 {
    run_counted(line).unwrap().1
}

fn run_counted(line: &str) -> Result<(Outcome, u64), RunError> {
    let words = ["mayastor-perf", "run", "malloc:///m0?size_mb=4", "--ramp_time=0"];
    let words = words.into_iter().chain(line.split(' '));
    let Command::Run(options) = Cli::try_parse_from(words).unwrap().command else {
        panic!("{line} is a run");
    };
    let (mut target_cx, target_hand) = test_context();
    let (mut cx, hand) = test_context();
    let uri = options.target.as_deref().unwrap();
    let (mut target, connect) = by_hand::target(&mut target_cx, uri);
    let (header_digest, data_digest) = (options.header_digest, options.data_digest);
    let connect = ConnectOptions { header_digest, data_digest, ..connect };
    let (events, reports) = mpsc::channel();
    let config = load_config(&options, 0, TickRate::calibrate());
    let source = Source::Remote(Remote::Named(Box::new(connect)));
    let mut load = Load::new(&cx, config, source, Reporter::alone(events));
    let mut ready = Vec::new();
    for _ in 0..PASSES_MAX {
        hand.advance(Nanos(1_000));
        target_hand.advance(Nanos(1_000));
        pass(&mut load, &mut cx, &mut ready);
        pass(&mut target, &mut target_cx, &mut ready);
        match reports.try_recv() {
            Ok(Event::Ended(outcome)) => {
                assert!(load.stopped(), "a load that is done ends by itself");
                return Ok((*outcome, target_cx.counters.io_bytes));
            }
            Ok(Event::Failed(error)) => return Err(error),
            Ok(Event::Filling | Event::Began(_) | Event::Closed(_)) | Err(_) => {}
        }
    }
    panic!("the load did not finish: {line}");
}

#[test]
fn what_is_written_over_tcp_is_read_back() {
    for line in [
        "--rw randrw --iodepth 16 --number_ios 5000",
        "--rw randrw --iodepth 8 --connections 5 --number_ios 5000 --header-digest",
        "--rw randwrite --iodepth 128 --number_ios 2000 --data-digest --header-digest",
        "--rw write --bs 64k --iodepth 4 --number_ios 200 --data-digest",
        "--rw randrw --bs 128k --iodepth 4 --connections 2 --number_ios 300",
        "--rw randrw --bs 512 --iodepth 1 --number_ios 500",
        "--rw randrw --iodepth 2 --connections 3 --number_ios 500 --prefill --data-digest",
    ] {
        let outcome = run(&format!("{line} --verify --runtime 1000")).unwrap();
        assert_eq!(outcome.faults.first, None, "{line}");
        assert!(outcome.measure.histogram.count() > 0, "{line}");
    }
}

#[test]
fn a_device_is_filled_once_before_the_load() {
    let line = "--rw randread --iodepth 1 --number_ios 50 --runtime 1000 --size 3m --offset 64k";
    let filled = |line: &str| served_bytes(line) - 50 * 4096;
    assert!(filled(line) < 1 << 20, "the load alone");
    assert!((3 << 20..4 << 20).contains(&filled(&format!("{line} --prefill"))));
}

#[test]
fn a_part_beyond_the_device_is_refused() {
    let whole = "--rw randread --iodepth 2 --number_ios 50";
    assert!(run(&format!("{whole} --size 4m")).is_ok());
    let error = run(&format!("{whole} --size 4m --offset 512")).unwrap_err();
    assert!(matches!(error, RunError::Extent { .. }), "{error}");
}

#[test]
fn more_connections_than_the_target_grants_are_refused() {
    let with = |connections| {
        run(&format!("--rw read --connections {connections} --iodepth 1 --number_ios 1000"))
    };
    assert!(with(u32::from(IO_QUEUES_MAX)).is_ok());
    assert!(with(u32::from(IO_QUEUES_MAX) + 1).is_err());
}
