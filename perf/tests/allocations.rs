//! A million I/Os without an allocation, counted by the allocator of this test.

#![allow(clippy::unwrap_used, reason = "a test")]

mod by_hand;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use bdev::pcie::software::{Config, NamespaceConfig, SoftwareController};
use bdev::pcie::{Controller, Options, PcieDevice};
use bdev::{BlockDevice, Completions, Io, Lba, QueuePair, Token};
use clap::Parser;
use nvmf::initiator::ConnectOptions;
use nvmf::initiator::remote::{RemoteDevice, RemoteOptions, Supervisor};
use perf::cycles::TickRate;
use perf::echo::client::{Client, ClientConfig};
use perf::echo::server::{Server, ServerConfig};
use perf::harness::pass;
use perf::load::Load;
use perf::options::{Cli, Command};
use perf::reporter::{Event, Outcome, Reporter};
use perf::run::load_config;
use perf::source::{Remote, Source};
use reactor::Cx;
use reactor::clock::Nanos;
use reactor::cx::test_context;
use reactor::socket::epoll::bind_listener;
use reactor::socket::{Ready, Wait};

/// The system's allocator, counting what each thread asks of it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn allocations() -> u64 {
    ALLOCATIONS.get()
}

fn count() {
    // A thread that is ending has no counter any more; nobody asks for it then.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local
// number without a destructor and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those of the allocator below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, len_bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, len_bytes) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn parse(line: &str) -> Command {
    let words = std::iter::once("mayastor-perf").chain(line.split(' '));
    Cli::try_parse_from(words).unwrap().command
}

/// Passes until the load ends. Returns what it brought home, and the allocations from the
/// beginning of its window to the pass in which it closed.
fn passes(reports: &Receiver<Event>, mut pass: impl FnMut()) -> (Outcome, u64) {
    let mut began = None;
    let mut closed = None;
    loop {
        let before = allocations();
        pass();
        while let Ok(event) = reports.try_recv() {
            match event {
                Event::Filling => {}
                Event::Began(_) => began = Some(allocations()),
                Event::Closed(_) => closed = Some(before),
                Event::Ended(outcome) => {
                    let (began, closed) = (began.unwrap(), closed.unwrap());
                    return (*outcome, closed - began);
                }
                Event::Failed(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn the_counter_counts() {
    let before = allocations();
    drop(std::hint::black_box(Box::new(7)));
    assert_eq!(allocations(), before + 1);
}

#[test]
fn a_million_ios_in_process_allocate_nothing() {
    let loads = [
        "null:///n0 --rw randrw",
        "malloc:///m0?size_mb=4 --bs 512 --rw randrw --verify",
        "mirror:null:///n0,null:///n1,null:///n2 --rw randrw",
        "mirror:malloc:///m0?size_mb=4,malloc:///m1?size_mb=4 --bs 512 --rw randrw --verify",
    ];
    for load in loads {
        let line = format!("run {load} --ramp_time 0.001 --number_ios 1000000 --runtime 10000");
        let Command::Run(options) = parse(&line) else { panic!("{line}") };
        let (mut cx, hand) = test_context();
        let (events, reports) = mpsc::channel();
        let uri = options.target.as_deref().unwrap();
        let device = perf::device::open(uri).unwrap();
        let config = load_config(&options, 0, TickRate::calibrate());
        let source = Source::Local(Arc::clone(&device));
        let mut load = Load::new(&cx, config, source, Reporter::alone(events));
        let mut ready = Vec::with_capacity(64);
        let (outcome, allocated) = passes(&reports, || {
            hand.advance(Nanos(1_000));
            pass(&mut load, &mut cx, &mut ready);
        });
        assert!(outcome.faults.is_empty());
        assert!(outcome.measure.histogram.count() >= 1_000_000);
        assert_eq!(allocated, 0, "{line}");
    }
}

/// Reads and writes of one page, and now and then one that takes a list of pages, a bounce buffer
/// or no memory at all: only the controller in software may allocate.
#[test]
fn a_million_ios_through_the_nvme_driver_allocate_nothing() {
    const DEPTH: u64 = 64;
    let namespaces = vec![NamespaceConfig { block_bytes: 512, blocks: 1 << 16, uuid: None }];
    let software = SoftwareController::new(Config { namespaces, ..Config::default() });
    let attached = Controller::attach_stepped("driver", software.platform(), Options::default());
    let (controller, supervisor) = attached.unwrap();
    let device = PcieDevice::new("driver".into(), Arc::new(controller), 1).unwrap();
    let (mut cx, _) = test_context();
    let mut queue_pair = device.open(&mut cx, DEPTH as u32).unwrap();
    let mut completions = Completions::new();
    let long = cx.dma.take(64 << 10).unwrap();
    let mut allocated = 0;
    for round in 0..1_000_000 / DEPTH {
        let before = allocations();
        for token in 0..DEPTH {
            let lba = Lba((round * 8 + token * 8) % 60_000);
            let io = match token {
                0 => Io::read(lba, 128, long.segment(64 << 10), Token(token)),
                // Not on a dword: copied.
                1 => Io::write(lba, 1, long.segment(1024).part(1, 512), Token(token)),
                2 => Io::flush(Token(token)),
                _ if token % 2 == 0 => Io::write(lba, 8, long.segment(4096), Token(token)),
                _ => Io::read(lba, 8, long.segment(4096), Token(token)),
            };
            queue_pair.submit(&mut cx, io).unwrap();
        }
        queue_pair.flush(&mut cx);
        allocated += allocations() - before;
        while queue_pair.inflight() > 0 {
            while software.step() {}
            let before = allocations();
            queue_pair.poll(&mut cx, &mut completions);
            allocated += allocations() - before;
            assert!(completions.drain().all(|completion| completion.status.is_success()));
        }
    }
    assert_eq!(allocated, 0);
    assert_eq!(queue_pair.counters().bounced, 1_000_000 / DEPTH);
    cx.dma.give(long);
    drop(queue_pair);
    supervisor.finish();
}

#[test]
fn a_million_ios_over_tcp_allocate_nothing_on_either_side() {
    let line = "run null:///n0 --rw randrw --iodepth 32 --connections 2 --ramp_time 0.001 \
                --number_ios 1000000 --runtime 10000 --data-digest";
    let words: Vec<_> = line.split_whitespace().collect();
    let Command::Run(options) = parse(&words.join(" ")) else { panic!("{line}") };
    let (mut target_cx, target_hand) = test_context();
    let (mut cx, hand) = test_context();
    let (mut target, connect) = by_hand::target(&mut target_cx, "null:///n0");
    let connect = ConnectOptions { data_digest: true, ..connect };
    let (events, reports) = mpsc::channel();
    let config = load_config(&options, 0, TickRate::calibrate());
    let source = Source::Remote(Remote::Named(Box::new(connect)));
    let mut load = Load::new(&cx, config, source, Reporter::alone(events));
    let mut ready = Vec::with_capacity(64);
    let (outcome, allocated) = passes(&reports, || {
        hand.advance(Nanos(1_000));
        target_hand.advance(Nanos(1_000));
        pass(&mut load, &mut cx, &mut ready);
        pass(&mut target, &mut target_cx, &mut ready);
    });
    assert_eq!(outcome.faults.first, None);
    assert!(outcome.measure.histogram.count() >= 1_000_000);
    assert!(target_cx.counters.ios >= 1_000_000);
    assert_eq!(allocated, 0);
}

/// A pass of the thread of admin queues.
fn step(supervisor: &mut Supervisor, cx: &mut Cx, ready: &mut Vec<Ready>) {
    cx.advance_clock();
    cx.network.poll(Wait::No, ready);
    for event in ready.drain(..) {
        cx.device_readiness.note(event);
    }
    supervisor.poll(cx);
}

#[test]
fn a_remote_device_and_its_keep_alives_allocate_nothing() {
    let line = "run null:///n0 --rw randrw --iodepth 32 --ramp_time 0.001 --number_ios 200000 \
                --runtime 10000";
    let words: Vec<_> = line.split_whitespace().collect();
    let Command::Run(options) = parse(&words.join(" ")) else { panic!("{line}") };
    let (mut target_cx, target_hand) = test_context();
    let (mut admin_cx, admin_hand) = test_context();
    let (mut cx, hand) = test_context();
    let (mut target, connect) = by_hand::target(&mut target_cx, "null:///n0");
    let connect = ConnectOptions { data_digest: true, keep_alive_ms: 100, ..connect };
    let remote = RemoteOptions::new(connect);
    let (opening, mut supervisor) =
        RemoteDevice::open_stepped(String::from("remote"), remote).unwrap();
    let mut ready = Vec::with_capacity(64);
    let device = loop {
        step(&mut supervisor, &mut admin_cx, &mut ready);
        pass(&mut target, &mut target_cx, &mut ready);
        if let Some(opened) = opening.take() {
            break opened.unwrap();
        }
    };
    let sessions = device.sessions().unwrap();
    let (events, reports) = mpsc::channel();
    let config = load_config(&options, 0, TickRate::calibrate());
    let mut load = Load::new(&cx, config, Source::Local(Arc::new(device)), Reporter::alone(events));
    let (outcome, allocated) = passes(&reports, || {
        for hand in [&hand, &target_hand, &admin_hand] {
            hand.advance(Nanos(100_000));
        }
        pass(&mut load, &mut cx, &mut ready);
        step(&mut supervisor, &mut admin_cx, &mut ready);
        pass(&mut target, &mut target_cx, &mut ready);
    });
    assert_eq!(outcome.faults.first, None);
    assert!(outcome.measure.histogram.count() >= 200_000);
    assert_eq!(sessions.state().number, 1);
    // Long enough for a keep alive, and one that is missed.
    assert!(admin_cx.now() > Nanos::from_millis(200));
    assert_eq!(allocated, 0);
}

#[test]
fn the_echo_allocates_nothing() {
    let line = "echo --rw randrw --iodepth 64 --connections 2 --cold --size 4m --ramp_time 0.001 \
                --number_ios 100000 --runtime 10000";
    let words: Vec<_> = line.split_whitespace().collect();
    let Command::Echo(options) = parse(&words.join(" ")) else { panic!("{line}") };
    let (mut server_cx, _) = test_context();
    let (mut client_cx, hand) = test_context();
    let listener = bind_listener(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = std::net::TcpListener::from(listener.try_clone().unwrap()).local_addr().unwrap();
    let mut server = Server::new(&mut server_cx, ServerConfig::new(&options), listener).unwrap();
    let (events, reports) = mpsc::channel();
    let config = ClientConfig::new(&options.load, 0, address, TickRate::calibrate());
    let mut client = Client::new(&mut client_cx, config, Reporter::alone(events)).unwrap();
    let mut ready = Vec::with_capacity(64);
    let (outcome, allocated) = passes(&reports, || {
        hand.advance(Nanos(1_000));
        pass(&mut client, &mut client_cx, &mut ready);
        pass(&mut server, &mut server_cx, &mut ready);
    });
    assert!(outcome.measure.histogram.count() >= 100_000);
    assert_eq!(allocated, 0);
}
