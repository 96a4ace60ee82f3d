//! The initiator and our own target over the kernel's TCP, each on a thread of its own.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bdev::{Completions, Io, Lba, QueuePair, Token};
use reactor::cores::CoreList;
use reactor::cx::test_context;
use reactor::dma::{DmaBuffer, PagePreference, PoolConfig};
use reactor::mesh;
use reactor::random::Random;
use reactor::reactor::{IdlePolicy, Reactor, ReactorConfig, ReactorHandle, StartError};
use reactor::socket::Wait;
use reactor::socket::epoll::bind_listener;
use reactor::{Cx, Nanos, VirtualClock};

use super::connecting::default_options;
use super::laws::own_description;
use crate::initiator::{
    ConnectError, ConnectOptions, ConnectionError, Connector, Progress, RemoteNamespace,
};
use crate::target::{PortalId, TargetCore};

const SLOTS: u64 = 16;
const LEN_BYTES: u32 = 8192;
const BLOCKS: u32 = LEN_BYTES / 512;
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A host core driven by the test's thread.
pub struct Host {
    pub cx: Cx,
    hand: VirtualClock,
    last: Instant,
}

impl Host {
    pub fn new() -> Host {
        let (cx, hand) = test_context();
        Host { cx, hand, last: Instant::now() }
    }

    /// Looks at the sockets and lets the clock follow the real one.
    pub fn look(&mut self) {
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

    fn connect(&mut self, options: ConnectOptions) -> Result<RemoteNamespace, ConnectError> {
        let mut connector = Connector::start(&mut self.cx, options)?;
        loop {
            match connector.poll(&mut self.cx) {
                Progress::Pending => self.look(),
                Progress::Ready(remote) => return Ok(*remote),
                Progress::Failed(error) => return Err(error),
            }
        }
    }
}

pub fn start_target() -> (ReactorHandle<TargetCore>, SocketAddr) {
    let listener = bind_listener(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = TcpListener::from(listener.try_clone().unwrap()).local_addr().unwrap();
    let reactor = Reactor::new(ReactorConfig {
        core: CoreList::allowed().unwrap().as_slice()[0],
        idle: IdlePolicy::Adaptive { spin: Nanos(0) },
        pool: PoolConfig { chunks: 8, pages: PagePreference::Ordinary },
        seed: 1,
    })
    .unwrap();
    let peers = mesh::connect(&[reactor.waker().clone()]).pop().unwrap();
    let description = Arc::new(own_description());
    let handle = reactor.start(move |cx| {
        let mut core = TargetCore::new(description, peers);
        core.listen(cx, PortalId(1), listener).expect("the listener is fresh");
        Ok::<_, StartError>(core)
    });
    (handle.unwrap(), address)
}

/// Writes and reads back every slot's own blocks, all slots at once, on both queue pairs.
fn exercise(host: &mut Host, remote: &mut RemoteNamespace, rounds: u64) {
    let mut random = Random::new(rounds);
    let mut buffers: Vec<DmaBuffer> =
        (0..SLOTS).map(|_| host.cx.dma.take(LEN_BYTES).unwrap()).collect();
    for _ in 0..rounds {
        let patterns: Vec<u8> = (0..SLOTS).map(|_| random.next_u64() as u8).collect();
        for (buffer, pattern) in buffers.iter_mut().zip(&patterns) {
            buffer.bytes_mut()[..LEN_BYTES as usize].fill(*pattern);
        }
        perform(host, remote, &buffers, Io::write);
        for buffer in &mut buffers {
            buffer.bytes_mut().fill(0);
        }
        perform(host, remote, &buffers, Io::read);
        for (buffer, pattern) in buffers.iter().zip(&patterns) {
            assert!(buffer.bytes(LEN_BYTES).iter().all(|byte| byte == pattern));
        }
    }
    buffers.into_iter().for_each(|buffer| host.cx.dma.give(buffer));
}

fn perform(
    host: &mut Host,
    remote: &mut RemoteNamespace,
    buffers: &[DmaBuffer],
    make: fn(Lba, u32, reactor::dma::Segment, Token) -> Io,
) {
    for (slot, buffer) in (0_u64..).zip(buffers) {
        let lba = Lba(slot * u64::from(BLOCKS));
        let io = make(lba, BLOCKS, buffer.segment(LEN_BYTES), Token(slot));
        let pair = usize::try_from(slot).unwrap() % remote.queue_pairs.len();
        remote.queue_pairs[pair].submit(&mut host.cx, io).unwrap();
    }
    let started = Instant::now();
    let mut completions = Completions::new();
    let mut done = 0;
    while done < buffers.len() {
        for queue_pair in &mut remote.queue_pairs {
            queue_pair.flush(&mut host.cx);
            queue_pair.poll(&mut host.cx, &mut completions);
        }
        for completion in completions.drain() {
            assert!(completion.status.is_success(), "{}", completion.status);
            done += 1;
        }
        if done < buffers.len() {
            host.look();
        }
        assert!(started.elapsed() < PATIENCE, "an I/O was lost");
    }
}

#[test]
fn data_survives_the_kernels_tcp_and_a_target_that_ends_is_noticed() {
    for digests in [false, true] {
        let (target, address) = start_target();
        let mut host = Host::new();
        let options = ConnectOptions {
            address,
            io_queues: 2,
            header_digest: digests,
            data_digest: digests,
            ..default_options()
        };
        let mut remote = host.connect(options).unwrap();
        assert_eq!(remote.queue_pairs.len(), 2);
        exercise(&mut host, &mut remote, 20);
        assert!(target.stop(Nanos::from_millis(10)));
        target.join().unwrap();
        let started = Instant::now();
        let mut completions = Completions::new();
        while remote.queue_pairs.iter().any(|pair| pair.failure().is_none())
            || remote.admin.failure().is_none()
        {
            host.look();
            remote.admin.poll(&mut host.cx);
            for queue_pair in &mut remote.queue_pairs {
                queue_pair.poll(&mut host.cx, &mut completions);
            }
            assert!(started.elapsed() < PATIENCE, "the end was not noticed");
        }
        assert_eq!(remote.admin.failure(), Some(ConnectionError::Closed));
    }
}

#[test]
fn a_port_without_a_target_is_refused_in_words() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = ConnectOptions { address: free, ..default_options() };
    match Host::new().connect(options).unwrap_err() {
        ConnectError::Connection { source: ConnectionError::Refused, .. }
        | ConnectError::Socket { .. } => {}
        other => panic!("{other}"),
    }
}
