//! A device behind a socket, with a front end of the `vhost` crate at the other end.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bdev::{Geometry, Malloc};
use proptest::prelude::*;
use reactor::inbox::CallError;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd as Event};

use super::cores::CoreWork;
use super::*;
use crate::block::Features;
use crate::core::VhostCore;
use crate::testing::{BUFFERS_START, Driver, FRONTEND_OFFSET, REGIONS, TestGuest, region_place};
use crate::virtqueue::inflight::queue_bytes;
use crate::virtqueue::layout::{FLAG_WRITE, RING_SIZE_MAX};

const SOON: Duration = Duration::from_secs(20);
const SIZE: u16 = 16;

type Job = (CoreWork, Sender<()>);

/// Cores that are threads which pass all the time.
#[derive(Debug)]
struct TestCores(Vec<Mutex<Sender<Job>>>);

impl TestCores {
    fn new(count: usize) -> Arc<TestCores> {
        Arc::new(TestCores((0..count).map(|_| Mutex::new(run_core())).collect()))
    }
}

fn run_core() -> Sender<Job> {
    let (sender, jobs) = mpsc::channel::<Job>();
    thread::spawn(move || {
        let (mut cx, _hand) = reactor::cx::test_context();
        let mut core = VhostCore::default();
        loop {
            match jobs.recv_timeout(Duration::from_micros(200)) {
                Ok((work, done)) => {
                    (work.0)(&mut core, &mut cx);
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            core.receive(&mut cx);
            core.poll_devices(&mut cx);
            core.send(&mut cx);
        }
    });
    sender
}

impl Cores for TestCores {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn run(&self, place: usize, within: Duration, work: CoreWork) -> Result<(), CallError> {
        let (done, ended) = mpsc::channel();
        let gone = |_| CallError::Gone;
        self.0[place].lock().unwrap().send((work, done)).map_err(gone)?;
        ended.recv_timeout(within).map_err(|_| CallError::Unfinished)
    }
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("vhost-{name}-{}", std::process::id()))
}

fn options(name: &str) -> VhostOptions {
    let geometry = Geometry { block_bytes: 512, blocks: 1024 };
    VhostOptions {
        socket: path(name),
        key: DeviceKey(1),
        device: Arc::new(Malloc::new("ram", geometry, None).unwrap()),
        queues: 4,
        access: GuestAccess::ReadWrite,
        serial: String::from("serial"),
        first_core: 1,
    }
}

fn device(name: &str) -> VhostDevice {
    VhostDevice::start(options(name), TestCores::new(2)).unwrap()
}

/// A front end with a guest, whose features are negotiated.
struct Machine {
    front_end: Frontend,
    guest: TestGuest,
    calls: Vec<Event>,
    errors: Vec<Event>,
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < SOON, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

impl Machine {
    fn connect(device: &VhostDevice) -> Machine {
        let mut front_end = Frontend::connect(device.socket(), 4).unwrap();
        front_end.set_owner().unwrap();
        let features = front_end.get_features().unwrap();
        let wanted = features & !Features::EVENT_INDEX.0;
        front_end.set_features(wanted).unwrap();
        let protocol = front_end.get_protocol_features().unwrap();
        front_end.set_protocol_features(protocol).unwrap();
        front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        Machine { front_end, guest: TestGuest::new(), calls: Vec::new(), errors: Vec::new() }
    }

    fn region(&self, index: usize) -> VhostUserMemoryRegionInfo {
        let (place, offset) = region_place(index);
        VhostUserMemoryRegionInfo {
            guest_phys_addr: place.guest.0,
            memory_size: place.len_bytes,
            userspace_addr: place.frontend.0,
            mmap_offset: offset,
            mmap_handle: self.guest.file.as_raw_fd(),
        }
    }

    fn set_memory(&self, regions: &[usize]) {
        let regions: Vec<_> = regions.iter().map(|index| self.region(*index)).collect();
        self.front_end.set_mem_table(&regions).unwrap();
    }

    /// Starts a queue; its driver's side.
    fn start_queue(&mut self, queue: u16) -> Driver {
        let driver = Driver::new(queue, SIZE);
        let index = usize::from(queue);
        let [call, kick, error] = [0; 3].map(|_| Event::new(EFD_NONBLOCK).unwrap());
        let front_end = &mut self.front_end;
        front_end.set_vring_num(index, SIZE).unwrap();
        let addresses = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: driver.descriptors() + FRONTEND_OFFSET,
            used_ring_addr: driver.used_ring() + FRONTEND_OFFSET,
            avail_ring_addr: driver.available_ring() + FRONTEND_OFFSET,
            log_addr: None,
        };
        front_end.set_vring_addr(index, &addresses).unwrap();
        front_end.set_vring_base(index, 0).unwrap();
        front_end.set_vring_call(index, &call).unwrap();
        front_end.set_vring_err(index, &error).unwrap();
        front_end.set_vring_kick(index, &kick).unwrap();
        front_end.set_vring_enable(index, true).unwrap();
        self.calls.push(call);
        self.errors.push(error);
        driver
    }

    /// Does a request on a queue; its status.
    fn request(&self, driver: &mut Driver, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> u8 {
        let at = BUFFERS_START + u64::from(driver.queue) * 0x1000;
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.guest.write(at, &header);
        self.guest.write(at + 16, &[0xff]);
        let buffers = [&[(at, 16, 0)], data, &[(at + 16, 1, FLAG_WRITE)]].concat();
        driver.set_chain(&self.guest, 0, &buffers);
        driver.offer(&self.guest, 0);
        let begin = Instant::now();
        while driver.used(&self.guest).is_empty() {
            assert!(begin.elapsed() < SOON, "no answer");
            thread::sleep(Duration::from_micros(100));
        }
        self.guest.read(at + 16, 1)[0]
    }
}

#[test]
fn a_front_end_negotiates_and_its_guest_reads_what_it_wrote_over_every_queue() {
    let device = device("whole");
    let mut machine = Machine::connect(&device);
    assert_eq!(machine.front_end.get_queue_num().unwrap(), 4);
    machine.set_memory(&[0, 1]);
    let mut drivers: Vec<Driver> = (0..4).map(|queue| machine.start_queue(queue)).collect();
    let data = BUFFERS_START + 0x1_0000;
    for driver in &mut drivers {
        let sector = u64::from(driver.queue);
        machine.guest.write(data, &[driver.queue as u8 + 1; 512]);
        assert_eq!(machine.request(driver, 1, sector, &[(data, 512, 0)]), 0);
    }
    for driver in drivers.iter_mut().rev() {
        let sector = u64::from(driver.queue ^ 1);
        assert_eq!(machine.request(driver, 0, sector, &[(data, 512, FLAG_WRITE)]), 0);
        assert_eq!(machine.guest.read(data, 512), [(driver.queue ^ 1) as u8 + 1; 512]);
    }
    assert!(machine.calls.iter().all(|call| call.read().is_ok()), "every queue was called");
    assert_eq!(machine.front_end.get_vring_base(2).unwrap(), 2);
    assert!(device.is_connected() && device.failure().is_none());
}

#[test]
fn the_configuration_is_read_and_the_cache_turned_off() {
    let device = device("config");
    let mut machine = Machine::connect(&device);
    let flags = VhostUserConfigFlags::WRITABLE;
    let mut read = |offset, len: usize| {
        machine.front_end.get_config(offset, len as u32, flags, &vec![0; len]).unwrap().1
    };
    assert_eq!(read(0, 8), 1024_u64.to_le_bytes());
    assert_eq!(read(32, 1), [1]);
    machine.front_end.set_config(32, flags, &[0]).unwrap();
    let after = machine.front_end.get_config(32, 1, flags, &[0]).unwrap().1;
    assert_eq!(after, [0]);
    drop(machine);
    for (offset, bytes) in [(32, &[2][..]), (0, &[1]), (31, &[1]), (32, &[1, 1])] {
        let mut machine = Machine::connect(&device);
        assert!(machine.front_end.set_config(offset, flags, bytes).is_err(), "{offset}");
    }
}

#[test]
fn memory_comes_and_goes_while_rings_run() {
    let device = device("memory");
    let mut machine = Machine::connect(&device);
    for index in [0, 1] {
        let region = machine.region(index);
        machine.front_end.add_mem_region(&region).unwrap();
    }
    let mut driver = machine.start_queue(0);
    let far = REGIONS[2].0;
    let write =
        |machine: &Machine, driver: &mut Driver, at| machine.request(driver, 1, 0, &[(at, 512, 0)]);
    assert_eq!(write(&machine, &mut driver, BUFFERS_START + 0x8000), 0);
    let third = machine.region(2);
    machine.front_end.add_mem_region(&third).unwrap();
    assert_eq!(write(&machine, &mut driver, far), 0);
    machine.front_end.remove_mem_region(&third).unwrap();
    assert_eq!(write(&machine, &mut driver, BUFFERS_START + 0x8000), 0);
    // Behind the memory that is left: the driver's mistake.
    driver.set_chain(&machine.guest, 0, &[(far, 16, 0)]);
    driver.offer(&machine.guest, 0);
    wait_until("the mistake is told", || machine.errors[0].read().is_ok());
    assert_eq!(machine.front_end.get_vring_base(0).unwrap(), 3);
    assert!(device.failure().is_some());
    assert!(machine.front_end.remove_mem_region(&third).is_err(), "it is gone");
}

#[test]
fn a_front_end_that_goes_leaves_nothing_behind_and_the_next_one_is_served() {
    let device = device("next");
    for round in 0..3 {
        let mut machine = Machine::connect(&device);
        machine.set_memory(&[0, 1, 2]);
        let mut driver = machine.start_queue(0);
        let data = BUFFERS_START + 0x8000;
        assert_eq!(machine.request(&mut driver, 0, 5, &[(data, 512, FLAG_WRITE)]), 0);
        assert_eq!(machine.guest.read(data, 1), [round]);
        machine.guest.write(data, &[round + 1; 512]);
        assert_eq!(machine.request(&mut driver, 1, 5, &[(data, 512, 0)]), 0);
    }
}

#[test]
fn what_a_front_end_may_not_do_is_refused() {
    let device = device("refused");
    // Each ends its session.
    let mistakes: [fn(&mut Machine); 6] = [
        |machine| drop(machine.front_end.set_vring_num(0, SIZE).unwrap_err()),
        |machine| drop(machine.front_end.set_vring_base(0, 1).unwrap_err()),
        |machine| drop(machine.front_end.set_features(1 << 40).unwrap_err()),
        |machine| {
            // The answer is given up together with the feature that it depends on.
            let protocol = VhostUserProtocolFeatures::LOG_SHMFD;
            let _ = machine.front_end.set_protocol_features(protocol);
        },
        |machine| {
            let there = machine.region(0);
            machine.front_end.add_mem_region(&there).unwrap_err();
        },
        |machine| {
            let never = machine.region(2);
            machine.front_end.remove_mem_region(&never).unwrap_err();
        },
    ];
    for mistake in mistakes {
        let mut machine = Machine::connect(&device);
        machine.set_memory(&[0]);
        let _driver = machine.start_queue(0);
        mistake(&mut machine);
        wait_until("the session has ended", || !device.is_connected());
        assert!(device.failure().is_some());
    }
    let refused = VhostDevice::start(options("refused"), TestCores::new(1));
    assert!(matches!(refused, Err(ServeError::Socket(SocketError::Live(_)))));
    let none = VhostOptions { queues: 0, ..options("queues") };
    let many = VhostOptions { queues: QUEUES_MAX + 1, ..options("queues") };
    for options in [none, many] {
        let refused = VhostDevice::start(options, TestCores::new(1));
        assert!(matches!(refused, Err(ServeError::Queues { .. })));
    }
    let most = VhostOptions { queues: QUEUES_MAX, ..options("queues") };
    assert!(VhostDevice::start(most, TestCores::new(1)).is_ok());
}

#[test]
fn memory_for_requests_in_flight_is_made_and_taken_back() {
    let device = device("inflight");
    let mut machine = Machine::connect(&device);
    let asked = VhostUserInflight::new(0, 0, 4, SIZE);
    let (given, file) = machine.front_end.get_inflight_fd(&asked).unwrap();
    assert_eq!(given.mmap_size, 4 * queue_bytes(SIZE));
    let mut driver = {
        machine.set_memory(&[0, 1]);
        machine.start_queue(3)
    };
    assert_eq!(machine.request(&mut driver, 4, 0, &[]), 0);
    drop(machine);
    let mut machine = Machine::connect(&device);
    machine.front_end.set_inflight_fd(&given, file.as_raw_fd()).unwrap();
    machine.set_memory(&[0, 1]);
    let mut driver = machine.start_queue(3);
    assert_eq!(machine.request(&mut driver, 4, 0, &[]), 0);
    drop(machine);
    for (queues, size) in [(0, SIZE), (5, SIZE), (4, RING_SIZE_MAX + 1)] {
        let mut machine = Machine::connect(&device);
        let asked = VhostUserInflight::new(0, 0, queues, size);
        assert!(machine.front_end.get_inflight_fd(&asked).is_err(), "{queues} {size}");
    }
}

#[test]
fn a_device_ends_under_a_front_end_and_takes_its_socket_with_it() {
    let device = device("end");
    let mut machine = Machine::connect(&device);
    machine.set_memory(&[0]);
    let _driver = machine.start_queue(0);
    drop(device);
    assert!(!path("end").exists());
    assert!(machine.front_end.get_vring_base(0).is_err());
}

/// What the messages of a front end may look like: a sane header with any body, or anything.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let sane = (0..45_u32, prop::collection::vec(any::<u8>(), 0..64), any::<bool>());
    let sane = sane.prop_map(|(code, body, wants_reply)| {
        let flags = 1_u32 | u32::from(wants_reply) << 3;
        let words = [code, flags, body.len() as u32];
        [words.map(u32::to_le_bytes).concat(), body].concat()
    });
    prop_oneof![6 => sane, 1 => prop::collection::vec(any::<u8>(), 0..64)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever comes over the socket, that session ends at the most, and the next is served.
    #[test]
    fn nonsense_ends_its_session_and_nothing_else(
        messages in prop::collection::vec(message(), 1..12),
    ) {
        static DEVICE: std::sync::LazyLock<VhostDevice> =
            std::sync::LazyLock::new(|| device("nonsense"));
        let mut stream = UnixStream::connect(DEVICE.socket()).unwrap();
        for message in messages {
            if stream.write_all(&message).is_err() {
                break;
            }
        }
        drop(stream);
        let mut machine = Machine::connect(&DEVICE);
        prop_assert_eq!(machine.front_end.get_queue_num().unwrap(), 4);
    }
}
