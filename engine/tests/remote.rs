//! A target that serves the namespace of another target, in one process over loopback.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bdev::session::Link;
use bdev::{BlockDevice, Completions, Io, Lba, Memory, Operation, QueuePair, Status, Token};
use engine::config::DMA_MIB_MIN;
use engine::remote;
use engine::{Engine, OneSubsystem, TargetConfig};
use nvmf::initiator::remote::RemoteDevice;
use reactor::cx::test_context;
use reactor::dma::PagePreference;
use reactor::socket::Wait;
use reactor::{Cx, Nanos, VirtualClock};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_millis(500);
const BLOCKS: u32 = 8;
const LEN_BYTES: u32 = 512 * BLOCKS;

fn serve(nqn: &str, device: String, port: u16) -> Engine {
    let one = OneSubsystem { port, ..OneSubsystem::new(nqn.parse().unwrap(), vec![device]) };
    let config = TargetConfig {
        pages: PagePreference::Ordinary,
        dma_mib: DMA_MIB_MIN,
        ..TargetConfig::new(one.setup())
    };
    Engine::start(&config).unwrap()
}

fn uri(engine: &Engine, nqn: &str, query: &str) -> String {
    format!("nvmf://{}/{nqn}?{query}", engine.local_addresses()[0])
}

fn open(text: &str) -> RemoteDevice {
    let bdev::DeviceUri::Nvmf(uri) = text.parse().unwrap() else { panic!("an nvmf URI") };
    remote::open(&uri).unwrap()
}

/// A core driven by the test's thread.
struct Host {
    cx: Cx,
    hand: VirtualClock,
    last: Instant,
    queue_pair: Box<dyn QueuePair>,
}

impl Host {
    fn new(device: &dyn BlockDevice) -> Host {
        let (mut cx, hand) = test_context();
        let queue_pair = device.open_queue_pair(&mut cx, 16).unwrap();
        Host { cx, hand, last: Instant::now(), queue_pair }
    }

    fn perform(&mut self, io: Io) -> Status {
        let started = Instant::now();
        let mut completions = Completions::new();
        self.queue_pair.submit(&mut self.cx, io).unwrap();
        while started.elapsed() < PATIENCE {
            self.queue_pair.flush(&mut self.cx);
            self.queue_pair.poll(&mut self.cx, &mut completions);
            if let Some(completion) = completions.drain().next() {
                return completion.status;
            }
            let mut ready = Vec::new();
            self.cx.network.poll(Wait::AtMost(Duration::from_millis(1)), &mut ready);
            for event in ready {
                assert!(self.cx.device_readiness.note(event));
            }
            let now = Instant::now();
            self.hand.advance(Nanos::from(now - self.last));
            self.last = now;
            self.cx.advance_clock();
        }
        panic!("never completed: {io:?}");
    }
}

fn exercise(host: &mut Host, pattern: u8) {
    let mut buffer = host.cx.dma.take(2 * LEN_BYTES).unwrap();
    buffer.bytes_mut().fill(pattern);
    let segment = buffer.segment(LEN_BYTES);
    assert_eq!(host.perform(Io::write(Lba(3), BLOCKS, segment, Token(1))), Status::SUCCESS);
    segment.fill_zero();
    assert_eq!(host.perform(Io::read(Lba(3), BLOCKS, segment, Token(2))), Status::SUCCESS);
    assert!(buffer.bytes(LEN_BYTES).iter().all(|byte| *byte == pattern));
    let both = Memory::One(buffer.segment(2 * 512));
    let swap = Io::with_memory(Operation::CompareAndWrite, Lba(3), 1, both, Token(3));
    assert_eq!(host.perform(swap), Status::SUCCESS);
    let other = Io { lba: Lba(100), ..swap };
    assert!(host.perform(other).has_code(Status::COMPARE_FAILURE));
    assert_eq!(host.perform(Io::flush(Token(4))), Status::SUCCESS);
    for operation in [Operation::Unmap, Operation::WriteZeroes] {
        let zero = Io::with_memory(operation, Lba(3), BLOCKS, Memory::None, Token(5));
        assert_eq!(host.perform(zero), Status::SUCCESS);
    }
    host.cx.dma.give(buffer);
}

#[test]
fn a_remote_namespace_is_served_again_and_a_restart_is_told() {
    let (near, far) = ("nqn.2019-05.io.openebs:near", "nqn.2019-05.io.openebs:far");
    let disk = || String::from("malloc:///far0?size_mb=4");
    let first = serve(far, disk(), 0);
    let port = first.local_addresses()[0].port();
    let between = serve(near, uri(&first, far, "wait_ms=10000"), 0);
    let twice = open(&uri(&between, near, "hdgst&ddgst&wait_ms=10000"));
    assert_eq!(twice.geometry().len_bytes(), 4 << 20);
    exercise(&mut Host::new(&twice), 0x5a);

    let once = open(&uri(&first, far, "wait_ms=10000"));
    let sessions = once.sessions().unwrap();
    assert_eq!((sessions.state().link, sessions.restarts()), (Link::Live, 0));
    let mut host = Host::new(&once);
    exercise(&mut host, 0x33);
    first.stop(GRACE).unwrap();
    drop(first);
    let second = serve(far, disk(), port);
    // The first may end with the connection that it finds broken; the next waits for the target.
    let _ = host.perform(Io::flush(Token(9)));
    assert_eq!(host.perform(Io::flush(Token(9))), Status::SUCCESS);
    assert_eq!(sessions.restarts(), 1);
    exercise(&mut host, 0x44);
    between.stop(GRACE).unwrap();
    second.stop(GRACE).unwrap();
}

#[test]
fn what_cannot_be_opened_says_why() {
    let nqn = "nqn.2019-05.io.openebs:there";
    let target = serve(nqn, String::from("null:///n0?size_mb=4"), 0);
    let refuse = |text: &str| {
        let bdev::DeviceUri::Nvmf(uri) = text.parse().unwrap() else { panic!("an nvmf URI") };
        remote::open(&uri).unwrap_err().to_string()
    };
    let other = refuse(&uri(&target, "nqn.2019-05.io.openebs:elsewhere", ""));
    assert!(other.contains("has no subsystem"), "{other}");
    let absent = refuse(&uri(&target, nqn, "namespace=7"));
    assert!(absent.contains("no active namespace"), "{absent}");
    let identity = refuse(&uri(&target, nqn, "uuid=00000000-0000-0000-0000-000000000001"));
    assert!(identity.contains("has the identity"), "{identity}");
    let gone = uri(&target, nqn, "");
    target.stop(GRACE).unwrap();
    let refused = refuse(&gone);
    assert!(refused.contains("connecting to"), "{refused}");
}
