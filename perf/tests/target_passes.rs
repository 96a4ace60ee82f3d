//! The load over loopback against our own target, both passed by hand in one thread.

#![allow(clippy::unwrap_used, reason = "a test")]

mod by_hand;

use std::sync::mpsc;

use clap::Parser;
use nvmf::initiator::{ConnectOptions, IO_QUEUES_MAX};
use perf::cycles::TickRate;
use perf::harness::{Event, Outcome, RunError, pass};
use perf::load::Load;
use perf::options::{Cli, Command};
use perf::run::load_config;
use perf::source::{Remote, Source};
use reactor::clock::Nanos;
use reactor::cx::test_context;

const PASSES_MAX: usize = 100_000;

fn run(line: &str) -> Result<Outcome, RunError> {
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
    let mut load = Load::new(&cx, config, source, events);
    let mut ready = Vec::new();
    for _ in 0..PASSES_MAX {
        hand.advance(Nanos(1_000));
        target_hand.advance(Nanos(1_000));
        pass(&mut load, &mut cx, &mut ready);
        pass(&mut target, &mut target_cx, &mut ready);
        match reports.try_recv() {
            Ok(Event::Ended(outcome)) => return Ok(*outcome),
            Ok(Event::Failed(error)) => return Err(error),
            Ok(Event::Began | Event::Closed) | Err(_) => {}
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
    ] {
        let outcome = run(&format!("{line} --verify --runtime 1000")).unwrap();
        assert_eq!(outcome.faults.first, None, "{line}");
        assert!(outcome.measure.histogram.count() > 0, "{line}");
    }
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
