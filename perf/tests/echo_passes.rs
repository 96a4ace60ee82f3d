//! Server and client of the echo over loopback, passed by hand in one thread.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::SocketAddr;
use std::sync::mpsc;

use clap::Parser;
use perf::cycles::TickRate;
use perf::echo::client::{Client, ClientConfig};
use perf::echo::server::{Server, ServerConfig};
use perf::harness::pass;
use perf::meter::CoreMeasure;
use perf::options::{Cli, Command, EchoOptions};
use perf::reporter::{Event, Reporter};
use reactor::clock::Nanos;
use reactor::cx::test_context;
use reactor::socket::epoll::bind_listener;

const PASSES_MAX: usize = 200_000;

fn options(line: &str) -> EchoOptions {
    let words = ["mayastor-perf", "echo", "--ramp_time=0"].into_iter().chain(line.split(' '));
    match Cli::try_parse_from(words).unwrap().command {
        Command::Echo(options) => options,
        other => panic!("{other:?}"),
    }
}

/// Runs until the client has done its I/Os; returns what it measured and what the server counted.
fn echo(line: &str) -> (CoreMeasure, u64) {
    let options = options(line);
    let (mut server_cx, _) = test_context();
    let (mut client_cx, hand) = test_context();
    let listener = bind_listener(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = std::net::TcpListener::from(listener.try_clone().unwrap()).local_addr().unwrap();
    let config = ServerConfig::new(&options);
    let mut server = Server::new(&mut server_cx, config, listener).unwrap();
    let (events, reports) = mpsc::channel();
    let config = ClientConfig::new(&options.load, 0, address, TickRate::calibrate());
    let mut client = Client::new(&mut client_cx, config, Reporter::alone(events)).unwrap();
    let mut ready = Vec::new();
    for _ in 0..PASSES_MAX {
        hand.advance(Nanos(100));
        pass(&mut client, &mut client_cx, &mut ready);
        pass(&mut server, &mut server_cx, &mut ready);
        match reports.try_recv() {
            Ok(Event::Ended(outcome)) => {
                assert!(outcome.faults.is_empty());
                assert_eq!(server_cx.counters.protocol_errors, 0);
                return (outcome.measure, server_cx.counters.ios);
            }
            Ok(Event::Failed(error)) => panic!("{error}"),
            Ok(Event::Filling | Event::Began(_) | Event::Closed(_)) | Err(_) => {}
        }
    }
    panic!("the client did not finish");
}

fn check(line: &str, block_bytes: u64) {
    let (measure, served) = echo(&format!("{line} --number_ios 2000"));
    assert!(measure.histogram.count() >= 2_000, "{line}");
    assert_eq!(measure.bytes, measure.histogram.count() * block_bytes);
    // Those in flight when the window closed are served and not counted.
    assert!((measure.histogram.count()..4_000).contains(&served), "{line}: {served}");
}

#[test]
fn every_read_is_answered_at_every_depth() {
    for depth in [1, 3, 4, 5, 128, 300] {
        check(&format!("--rw randread --iodepth {depth}"), 4096);
    }
}

#[test]
fn every_write_is_answered_at_every_depth() {
    for depth in [1, 4, 5, 128, 300] {
        check(&format!("--rw randwrite --iodepth {depth}"), 4096);
    }
}

#[test]
fn mixed_loads_over_several_connections_are_answered() {
    check("--rw randrw --iodepth 8 --connections 5", 4096);
    check("--rw randrw --iodepth 8 --connections 5 --cold --size 4m", 4096);
    check("--rw randrw --iodepth 40 --bs 512", 512);
}

#[test]
fn large_blocks_are_answered_hot_and_cold() {
    for rw in ["read", "write", "randrw"] {
        check(&format!("--rw {rw} --bs 128k --iodepth 8"), 131_072);
        check(&format!("--rw {rw} --bs 128k --iodepth 8 --cold --size 4m"), 131_072);
    }
}

#[test]
fn a_rate_is_kept_by_the_clock_of_the_load() {
    // The schedule follows the time-stamp counter, so this takes a hundredth of a second.
    let (measure, _) = echo("--rate 20000 --iodepth 8 --connections 2 --number_ios 200");
    assert!(measure.histogram.count() >= 200);
}
