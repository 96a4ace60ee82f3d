//! A core of the load ends by itself, at its own deadline and by its own clock, with nobody there
//! to end it: a main thread that is starved by cores that spin at real-time priority is not.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc;

use bdev::delay::Lateness;
use bdev::rules::{Match, Rule, RuleSet};
use bdev::{Delay, Geometry, Null};
use clap::Parser;
use perf::cycles::TickRate;
use perf::echo::client::{Client, ClientConfig};
use perf::echo::server::{Server, ServerConfig};
use perf::harness::{RunError, pass};
use perf::load::Load;
use perf::options::{Cli, Command};
use perf::reporter::{Event, Reporter};
use perf::run::load_config;
use perf::source::Source;
use reactor::clock::Nanos;
use reactor::cx::test_context;
use reactor::{Cx, Service, VirtualClock};

const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 2048 };

/// Ramp and runtime of the loads below.
const WINDOW: Nanos = Nanos::from_secs(3);
const STEP: Nanos = Nanos::from_millis(100);

fn parse(line: &str) -> Command {
    let line = format!("mayastor-perf {line} --ramp_time 1 --runtime 2 --iodepth 4");
    Cli::try_parse_from(line.split(' ')).unwrap().command
}

/// Passes until the service has ended, without asking it to; says when that was.
fn ends_at<S: Service>(service: &mut S, cx: &mut Cx, hand: &VirtualClock) -> Nanos {
    let mut ready = Vec::new();
    while !service.stopped() {
        hand.advance(STEP);
        pass(service, cx, &mut ready);
        assert!(cx.now() < Nanos::from_secs(1000), "it never ends");
    }
    cx.now()
}

fn is_deadline(events: &mpsc::Receiver<Event>) -> bool {
    let last = events.try_iter().last();
    matches!(last, Some(Event::Failed(RunError::Deadline { within_s: 33, .. })))
}

#[test]
fn a_load_whose_device_never_answers_ends_at_its_deadline() {
    for line in ["run null:///n0", "run null:///n0 --prefill"] {
        let Command::Run(options) = parse(line) else { panic!("{line}") };
        let (mut cx, hand) = test_context();
        let never = Lateness::Fixed(Nanos::from_secs(1_000_000));
        let rules = vec![Rule { meets: Match::default(), effect: never }];
        let inner = Arc::new(Null::new("n0", GEOMETRY, None).unwrap());
        let device = Arc::new(Delay::new(inner, RuleSet { rules, seed: 1 }));
        let (events, reports) = mpsc::channel();
        let config = load_config(&options, 0, TickRate::calibrate());
        let reporter = Reporter::alone(events);
        let mut load = Load::new(&cx, config, Source::Local(device), reporter);
        let ended = ends_at(&mut load, &mut cx, &hand);
        assert!(ended >= WINDOW + Nanos::from_secs(30), "{line}: {ended:?}");
        assert!(ended <= WINDOW + Nanos::from_secs(32), "{line}: {ended:?}");
        assert!(is_deadline(&reports), "{line}");
    }
}

#[test]
fn a_load_that_is_done_ends_at_once() {
    let Command::Run(options) = parse("run null:///n0") else { panic!("a run") };
    let (mut cx, hand) = test_context();
    let device = Arc::new(Null::new("n0", GEOMETRY, None).unwrap());
    let (events, reports) = mpsc::channel();
    let config = load_config(&options, 0, TickRate::calibrate());
    let mut load = Load::new(&cx, config, Source::Local(device), Reporter::alone(events));
    let ended = ends_at(&mut load, &mut cx, &hand);
    assert!((WINDOW..=WINDOW + Nanos::from_secs(1)).contains(&ended), "{ended:?}");
    assert!(matches!(reports.try_iter().last(), Some(Event::Ended(_))));
}

#[test]
fn both_sides_of_an_echo_end_at_their_deadlines() {
    let Command::Echo(options) = parse("echo") else { panic!("an echo") };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (mut cx, hand) = test_context();
    let (events, reports) = mpsc::channel();
    let config = ClientConfig::new(&options.load, 0, address, TickRate::calibrate());
    let mut client = Client::new(&mut cx, config, Reporter::alone(events)).unwrap();
    // Connections stand in the backlog; nobody answers on them.
    ends_at(&mut client, &mut cx, &hand);
    assert!(is_deadline(&reports));
    let (mut cx, hand) = test_context();
    let config = ServerConfig::new(&options);
    let mut server = Server::new(&mut cx, config, listener.into()).unwrap();
    let ended = ends_at(&mut server, &mut cx, &hand);
    assert!(ended > WINDOW + Nanos::from_secs(30), "after its clients: {ended:?}");
}
