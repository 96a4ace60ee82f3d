//! One remote device on two cores at once, each with a connection of its own, over the kernel's
//! TCP; the target is restarted in the middle.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bdev::session::Link;
use bdev::{BlockDevice, Completions, Io, Lba, QueuePair, Token};
use reactor::cores::{CoreId, CoreList};
use reactor::dma::{DmaBuffer, DmaPool, PagePreference, PoolConfig};
use reactor::mesh;
use reactor::random::Random;
use reactor::reactor::{IdlePolicy, Reactor, ReactorConfig, ReactorHandle, StartError};
use reactor::socket::Wait;
use reactor::socket::epoll::{EpollNetwork, bind_listener};
use reactor::{Clock, Cx, Nanos};

use super::connecting::default_options;
use super::laws::{own_description_of, ram_disk};
use crate::initiator::remote::{RemoteDevice, RemoteOptions, WhenLost};
use crate::target::{PortalId, TargetCore};

const DEPTH: u32 = 16;
const LEN_BYTES: u32 = 4096;
const BLOCKS: u32 = LEN_BYTES / 512;
/// Places of each core, each of the length of an I/O.
const PLACES: u64 = 24;
/// I/Os that a core does before the restart, and after it.
const IOS: u64 = 1500;
const PATIENCE: Duration = Duration::from_secs(60);

fn start_target(
    device: &Arc<dyn BlockDevice>,
    instance: u8,
    listener: OwnedFd,
) -> ReactorHandle<TargetCore> {
    let reactor = Reactor::new(ReactorConfig {
        core: CoreList::allowed().unwrap().as_slice()[0],
        idle: IdlePolicy::Adaptive { spin: Nanos(0) },
        pool: PoolConfig { chunks: 8, pages: PagePreference::Ordinary },
        seed: 1,
    })
    .unwrap();
    let peers = mesh::connect(&[reactor.waker().clone()]).pop().unwrap();
    let description = Arc::new(own_description_of(Arc::clone(device), [instance; 16]));
    let handle = reactor.start(move |cx| {
        let mut core = TargetCore::new(description, peers);
        core.listen(cx, PortalId(1), listener).expect("the listener is fresh");
        Ok::<_, StartError>(core)
    });
    handle.unwrap()
}

/// One core: random writes and reads of its own places, each checked against what was written.
struct Core {
    cx: Cx,
    queue_pair: Box<dyn QueuePair>,
    random: Random,
    first_place: u64,
    buffers: Vec<DmaBuffer>,
    free: Vec<usize>,
    /// By place: what is there, once something was written for sure.
    written: HashMap<u64, u8>,
    /// By token: buffer, place, and what is written there.
    inflight: HashMap<u64, (usize, u64, Option<u8>)>,
    next_token: u64,
    path_errors: u64,
}

impl Core {
    fn new(index: u32, device: &dyn BlockDevice) -> Core {
        let pool = PoolConfig { chunks: 4, pages: PagePreference::Ordinary };
        let dma = DmaPool::new(pool).unwrap();
        let network = Box::new(EpollNetwork::new().unwrap());
        let mut cx = Cx::new(CoreId(index), Clock::real(), dma, network, index.into());
        let queue_pair = device.open_queue_pair(&mut cx, DEPTH).unwrap();
        Core {
            queue_pair,
            random: Random::new(index.into()),
            first_place: u64::from(index) * PLACES,
            buffers: (0..DEPTH).map(|_| cx.dma.take(LEN_BYTES).unwrap()).collect(),
            cx,
            free: (0..DEPTH as usize).collect(),
            written: HashMap::new(),
            inflight: HashMap::new(),
            next_token: 0,
            path_errors: 0,
        }
    }

    fn submit(&mut self) {
        let place = self.first_place + self.random.below(PLACES);
        if self.inflight.values().any(|(_, busy, _)| *busy == place) {
            return;
        }
        let Some(buffer) = self.free.pop() else { return };
        let (lba, token) = (Lba(place * u64::from(BLOCKS)), Token(self.next_token));
        self.next_token += 1;
        let pattern = self.random.next_u64().to_le_bytes()[0];
        let is_write = !self.written.contains_key(&place) || self.random.below(2) == 0;
        self.buffers[buffer].bytes_mut().fill(pattern);
        let segment = self.buffers[buffer].segment(LEN_BYTES);
        let make = if is_write { Io::write } else { Io::read };
        self.queue_pair.submit(&mut self.cx, make(lba, BLOCKS, segment, token)).unwrap();
        self.inflight.insert(token.0, (buffer, place, is_write.then_some(pattern)));
    }

    fn pass(&mut self, completions: &mut Completions) -> u64 {
        self.cx.advance_clock();
        let mut ready = Vec::new();
        self.cx.network.poll(Wait::AtMost(Duration::from_micros(200)), &mut ready);
        ready.into_iter().for_each(|event| assert!(self.cx.device_readiness.note(event)));
        self.queue_pair.flush(&mut self.cx);
        self.queue_pair.poll(&mut self.cx, completions);
        let mut done = 0;
        for completion in completions.drain() {
            let ended = self.inflight.remove(&completion.token.0);
            let (buffer, place, pattern) = ended.expect("a token ends once");
            match (completion.status.is_success(), pattern) {
                (true, Some(pattern)) => drop(self.written.insert(place, pattern)),
                (true, None) => {
                    let expected = self.written[&place];
                    let bytes = self.buffers[buffer].bytes(LEN_BYTES);
                    assert!(bytes.iter().all(|byte| *byte == expected), "place {place}");
                }
                (false, Some(_)) => drop(self.written.remove(&place)),
                (false, None) => {}
            }
            self.path_errors += u64::from(!completion.status.is_success());
            self.free.push(buffer);
            done += 1;
        }
        done
    }

    /// Does so many I/Os; those that fail do not count.
    fn run(&mut self, count: u64, total: &AtomicU64) {
        let started = Instant::now();
        let mut completions = Completions::new();
        let (mut done, mut failed) = (0, self.path_errors);
        while done < count || !self.inflight.is_empty() {
            if done < count && self.queue_pair.credits() > 0 {
                self.submit();
            }
            let ended = self.pass(&mut completions);
            done += ended - (self.path_errors - failed);
            failed = self.path_errors;
            total.fetch_add(ended, Ordering::Relaxed);
            assert!(started.elapsed() < PATIENCE, "{done} of {count} I/Os");
        }
    }
}

#[test]
fn two_cores_go_on_over_a_restart_of_the_target_and_read_what_they_wrote() {
    let disk = ram_disk();
    let listener = bind_listener(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = TcpListener::from(listener.try_clone().unwrap()).local_addr().unwrap();
    let target = start_target(&disk, 1, listener);
    let mut options = RemoteOptions::new(default_options());
    options.connect.address = address;
    options.connect.io_queues = 8;
    options.when_lost = WhenLost::Wait(PATIENCE);
    let device = RemoteDevice::open(String::from("remote"), options).unwrap();
    let total = AtomicU64::new(0);
    thread::scope(|scope| {
        let (device, total) = (&device, &total);
        let cores: Vec<_> = (0..2)
            .map(|index| {
                scope.spawn(move || {
                    let mut core = Core::new(index, device);
                    core.run(2 * IOS, total);
                    core.path_errors
                })
            })
            .collect();
        let started = Instant::now();
        while total.load(Ordering::Relaxed) < IOS {
            assert!(started.elapsed() < PATIENCE, "no load");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(target.stop(Nanos(0)));
        target.join().unwrap();
        let again = start_target(&disk, 2, bind_listener(address).unwrap());
        let failed: u64 = cores.into_iter().map(|core| core.join().unwrap()).sum();
        // Nothing more than what was in flight at once.
        assert!(failed <= 2 * u64::from(DEPTH) * 2, "{failed} I/Os failed");
        assert!(again.stop(Nanos(0)));
        again.join().unwrap();
    });
    let sessions = device.sessions().unwrap();
    assert_eq!(sessions.restarts(), 1, "one restart, however many cores saw it");
    assert!(sessions.state().number >= 2 && sessions.state().link != Link::Refused);
}
