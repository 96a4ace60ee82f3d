//! A core with rings of test guests over RAM disks, pass by pass.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use bdev::{BlockDevice, Geometry, Malloc};
use nix::sys::eventfd::EventFd as Event;
use proptest::prelude::*;
use reactor::Wake;
use reactor::clock::VirtualClock;

use super::setup::Stopped;
use super::*;
use crate::block::config::RANGE_SECTORS_MAX;
use crate::block::request::{RANGES_MAX, SERIAL_BYTES};
use crate::block::{CacheMode, Features, Rules};
use crate::memory::Mapping;
use crate::testing::{BUFFERS_START, Driver, REGIONS, TestGuest, memory_file};
use crate::virtqueue::Inflight;
use crate::virtqueue::inflight::queue_bytes;
use crate::virtqueue::layout::FLAG_WRITE;

const SIZE: u16 = 16;
const BLOCKS: u64 = 256;
const SERIAL: [u8; SERIAL_BYTES] = *b"serial-of-this-disk!";
/// Places of the header, the data and the status of a request.
const HEADER: u64 = BUFFERS_START;
const DATA: u64 = BUFFERS_START + 0x1000;
const STATUS: u64 = BUFFERS_START + 0x100;

/// A device, a guest with one ring, and the core that serves it.
struct World {
    core: VhostCore,
    cx: Cx,
    _hand: VirtualClock,
    guest: TestGuest,
    driver: Driver,
    device: Arc<dyn BlockDevice>,
    cache: Arc<CacheMode>,
    /// Where it is kept what is under way.
    inflight: Option<Arc<Mapping>>,
    call: Event,
    error: Event,
}

fn event() -> Event {
    Event::from_flags(nix::sys::eventfd::EfdFlags::EFD_NONBLOCK).unwrap()
}

/// How often it was written since it was last read.
fn count(event: &Event) -> u64 {
    event.read().unwrap_or(0)
}

/// The other end of an eventfd.
fn end(event: &Event) -> EventFd {
    let descriptor = std::os::fd::AsFd::as_fd(event).try_clone_to_owned().unwrap();
    EventFd::new(descriptor.into()).unwrap()
}

impl World {
    fn new(block_bytes: u32) -> World {
        let geometry = Geometry { block_bytes, blocks: BLOCKS };
        let device = Arc::new(Malloc::new("ram", geometry, None).unwrap());
        let (cx, hand) = reactor::cx::test_context();
        let mut world = World {
            core: VhostCore::default(),
            cx,
            _hand: hand,
            guest: TestGuest::new(),
            driver: Driver::new(0, SIZE),
            device,
            cache: Arc::new(CacheMode::default()),
            inflight: None,
            call: event(),
            error: event(),
        };
        world.start(0, Features(!Features::EVENT_INDEX.0));
        world
    }

    fn start(&mut self, next_available: u16, features: Features) {
        let rules = Rules {
            geometry: self.device.geometry(),
            features,
            is_read_only: false,
            serial: SERIAL,
        };
        let setup = RingSetup {
            ring: self.driver.ring(&self.guest),
            next_available,
            inflight: self
                .inflight
                .as_ref()
                .map(|mapping| Inflight::new(Arc::clone(mapping), KEY.queue, SIZE, SIZE).unwrap()),
            device: Arc::clone(&self.device),
            rules,
            cache: Arc::clone(&self.cache),
            kick: Some(end(&event()).into_descriptor()),
            call: Some(end(&self.call)),
            error: Some(end(&self.error)),
        };
        self.core.start(&mut self.cx, KEY, setup).unwrap();
    }

    /// One pass of the core.
    fn pass(&mut self) -> usize {
        let World { core, cx, .. } = self;
        core.receive(cx) + core.poll_devices(cx) + core.send(cx)
    }

    fn stop(&mut self) -> Receiver<Stopped> {
        let (told, stopped) = mpsc::channel();
        assert!(self.core.stop_ring(KEY, told));
        stopped
    }

    /// Does a request of these buffers, behind its header; its status and the written bytes.
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u8, u32) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.guest.write(HEADER, &header);
        self.guest.write(STATUS, &[0xff]);
        let mut buffers = vec![(HEADER, 16, 0)];
        buffers.extend(data);
        buffers.push((STATUS, 1, FLAG_WRITE));
        self.driver.set_chain(&self.guest, 0, &buffers);
        self.driver.offer(&self.guest, 0);
        for _ in 0..RANGES_MAX + 2 {
            self.pass();
        }
        let used = self.driver.used(&self.guest);
        assert_eq!(used.len(), 1, "a request is answered once");
        assert_eq!(used[0].0, 0);
        (self.guest.read(STATUS, 1)[0], used[0].1)
    }

    fn write_data(&mut self, sector: u64, bytes: &[u8]) -> (u8, u32) {
        self.guest.write(DATA, bytes);
        self.request(1, sector, &[(DATA, bytes.len() as u32, 0)])
    }

    fn read_data(&mut self, sector: u64, len: u32) -> Vec<u8> {
        assert_eq!(self.request(0, sector, &[(DATA, len, FLAG_WRITE)]), (0, len + 1));
        self.guest.read(DATA, len as usize)
    }

    fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> (u8, u32) {
        let bytes: Vec<u8> = ranges
            .iter()
            .flat_map(|(sector, sectors, flags)| {
                [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
            })
            .collect();
        self.guest.write(DATA, &bytes);
        self.request(kind, 0, &[(DATA, bytes.len() as u32, 0)])
    }
}

const KEY: RingKey = RingKey { device: DeviceKey(7), queue: 3 };
const OK: (u8, u32) = (0, 1);
const IO_ERROR: (u8, u32) = (1, 1);
const UNSUPPORTED: (u8, u32) = (2, 1);

#[test]
fn what_is_written_is_read_back_from_several_buffers() {
    let mut world = World::new(512);
    let bytes: Vec<u8> = (0..2048_u32).map(|at| (at % 251) as u8).collect();
    world.guest.write(DATA, &bytes);
    let cut = [(DATA, 500, 0), (DATA + 500, 1036, 0), (DATA + 1536, 512, 0)];
    assert_eq!(world.request(1, 8, &cut), OK);
    assert_eq!(world.read_data(8, 2048), bytes);
    assert_eq!(world.read_data(10, 512), bytes[1024..1536]);
    // From one region of memory into the next.
    let border = REGIONS[1].0 - 300;
    assert_eq!(world.request(0, 8, &[(border, 2048, FLAG_WRITE)]), (0, 2049));
    assert_eq!(world.guest.read(border, 300), bytes[..300]);
    assert_eq!(world.guest.read(REGIONS[1].0, 1748), bytes[300..]);
    assert_eq!(world.request(4, 0, &[]), OK);
}

#[test]
fn a_request_must_lie_on_the_disk_in_whole_blocks() {
    let mut world = World::new(4096);
    let last = (BLOCKS - 1) * 8;
    assert_eq!(world.write_data(last, &[1; 4096]), OK);
    for (sector, len) in [(last + 8, 4096), (last, 8192), (4, 4096), (0, 512), (u64::MAX, 4096)] {
        assert_eq!(world.write_data(sector, &vec![1; len]), IO_ERROR, "{sector}");
    }
    assert_eq!(world.request(1, 0, &[(DATA, 4000, 0)]), IO_ERROR);
    assert_eq!(world.request(1, 0, &[]), IO_ERROR, "no data at all");
    assert_eq!(world.request(0, 0, &[]), IO_ERROR);
}

#[test]
fn the_serial_number_is_told_and_unknown_requests_are_refused() {
    let mut world = World::new(512);
    assert_eq!(world.request(8, 0, &[(DATA, 20, FLAG_WRITE)]), (0, 21));
    assert_eq!(world.guest.read(DATA, 20), SERIAL);
    assert_eq!(world.request(8, 0, &[(DATA, 19, FLAG_WRITE)]), IO_ERROR);
    assert_eq!(world.request(99, 0, &[]), UNSUPPORTED);
}

#[test]
fn ranges_are_zeroed_and_given_back_as_many_as_there_may_be_and_no_more() {
    let mut world = World::new(512);
    let ones = vec![1; 64 * 512];
    for kind in [11, 13] {
        assert_eq!(world.write_data(0, &ones), OK);
        let ranges: Vec<_> = (0..RANGES_MAX as u64).map(|at| (at * 4, 2, 0)).collect();
        assert_eq!(world.ranges(kind, &ranges), OK);
        let expected: Vec<u8> = (0..64 * 512_usize).map(|at| u8::from(at / 512 % 4 >= 2)).collect();
        assert_eq!(world.read_data(0, 64 * 512), expected);
        let more = [ranges.as_slice(), &[(0, 1, 0)]].concat();
        assert_eq!(world.ranges(kind, &more), IO_ERROR);
        assert_eq!(world.ranges(kind, &[]), IO_ERROR);
        assert_eq!(world.ranges(kind, &[(0, 1, 2)]), UNSUPPORTED, "an unknown flag");
        assert_eq!(world.ranges(kind, &[(0, 0, 0)]), IO_ERROR);
        assert_eq!(world.ranges(kind, &[(0, RANGE_SECTORS_MAX, 0)]), IO_ERROR, "off the disk");
    }
    assert_eq!(world.ranges(11, &[(0, 1, 1)]), UNSUPPORTED, "a discard has no flags");
    assert_eq!(world.ranges(13, &[(0, 1, 1)]), OK);
}

#[test]
fn several_requests_of_a_pass_are_one_call() {
    let mut world = World::new(512);
    for head in 0..4 {
        let buffers = [(HEADER, 16, 0), (STATUS, 1, FLAG_WRITE)];
        world.guest.write(HEADER, &4_u32.to_le_bytes());
        world.driver.set_chain(&world.guest, head * 2, &buffers);
        world.driver.offer(&world.guest, head * 2);
    }
    world.pass();
    assert_eq!(world.driver.used(&world.guest).len(), 4);
    assert_eq!(count(&world.call), 1);
    assert_eq!(world.pass(), 0, "an idle pass finds nothing");
}

#[test]
fn a_core_sleeps_over_an_idle_ring_and_not_over_one_with_requests() {
    let mut world = World::new(512);
    assert_eq!(world.core.wake(&world.cx), Wake::Descriptor);
    assert!(world.core.arm(&mut world.cx));
    world.driver.set_chain(&world.guest, 0, &[(STATUS, 1, FLAG_WRITE)]);
    world.driver.offer(&world.guest, 0);
    assert!(!world.core.arm(&mut world.cx));
    world.pass();
    assert_eq!(world.driver.used_flags(&world.guest), 1, "kicks are not wanted any more");
}

#[test]
fn a_driver_that_breaks_the_protocol_loses_its_ring_and_is_told() {
    let breaks: [fn(&mut World); 4] = [
        |world| world.driver.set_available(&world.guest, SIZE + 1),
        |world| world.driver.offer(&world.guest, SIZE),
        |world| {
            world.driver.set_chain(&world.guest, 0, &[(0, 16, 0)]);
            world.driver.offer(&world.guest, 0);
        },
        |world| {
            world.driver.set_chain(&world.guest, 0, &[(HEADER, 16, 0)]);
            world.driver.offer(&world.guest, 0);
        },
    ];
    for break_it in breaks {
        let mut world = World::new(512);
        break_it(&mut world);
        world.pass();
        assert_eq!(count(&world.error), 1);
        assert_eq!(world.cx.counters.protocol_errors, 1);
        world.driver.set_available(&world.guest, 0);
        world.driver.offer(&world.guest, 0);
        assert_eq!(world.pass(), 0, "nothing more is taken");
        assert!(world.core.arm(&mut world.cx));
        let stopped = world.stop();
        world.pass();
        let end = stopped.try_recv().unwrap();
        assert!(end.failure.is_some() && end.next_available == 0);
        assert_eq!(world.core.ring_count(), 0);
    }
}

#[test]
fn a_ring_that_stops_answers_what_it_has_taken_and_goes_on_where_it_stopped() {
    let mut world = World::new(512);
    world.guest.write(HEADER, &4_u32.to_le_bytes());
    world.driver.set_chain(&world.guest, 0, &[(HEADER, 16, 0), (STATUS, 1, FLAG_WRITE)]);
    world.driver.offer(&world.guest, 0);
    assert_eq!(world.core.receive(&mut world.cx), 1);
    let stopped = world.stop();
    assert!(stopped.try_recv().is_err(), "a request is under way");
    world.driver.offer(&world.guest, 0);
    world.pass();
    assert_eq!(stopped.try_recv().unwrap().next_available, 1);
    assert_eq!(world.driver.used(&world.guest), [(0, 1)], "what came after it is not taken");
    world.start(1, Features(!0));
    world.pass();
    assert_eq!(world.driver.used(&world.guest), [(0, 1)]);
}

#[test]
fn a_core_that_ends_answers_first_and_starts_nothing_more() {
    let mut world = World::new(512);
    world.guest.write(HEADER, &4_u32.to_le_bytes());
    world.driver.set_chain(&world.guest, 0, &[(HEADER, 16, 0), (STATUS, 1, FLAG_WRITE)]);
    world.driver.offer(&world.guest, 0);
    world.core.receive(&mut world.cx);
    world.core.stop(world.cx.now());
    assert!(!world.core.stopped());
    world.pass();
    assert!(world.core.stopped());
    assert_eq!(world.driver.used(&world.guest).len(), 1);
}

/// Takes requests on every other descriptor, and lets the process die after `phases` phases of a
/// pass; another one goes on.
fn every_request_is_answered_once_after_a_death(phases: usize) {
    let mut world = World::new(512);
    world.stop();
    world.pass();
    let bytes = queue_bytes(SIZE) * u64::from(KEY.queue + 1);
    world.inflight = Some(Arc::new(Mapping::new(&memory_file(bytes), 0, bytes).unwrap()));
    let features = Features(!Features::EVENT_INDEX.0);
    world.start(0, features);
    world.guest.write(HEADER, &4_u32.to_le_bytes());
    let mut answered = Vec::new();
    for round in 0..3 {
        for head in [4, 0, 6, 2, 8] {
            let buffers = [(HEADER, 16, 0), (STATUS, 1, FLAG_WRITE)];
            world.driver.set_chain(&world.guest, head, &buffers);
            world.driver.offer(&world.guest, head);
        }
        let World { core, cx, .. } = &mut world;
        let all: [fn(&mut VhostCore, &mut Cx) -> usize; 3] =
            [VhostCore::receive, VhostCore::poll_devices, VhostCore::send];
        let _work: usize = all[..phases].iter().map(|phase| phase(core, cx)).sum();
        // The process dies; the front end says no more than what the ring shows.
        world.core = VhostCore::default();
        let known = 5 * round + if phases == 3 { 5 } else { 0 };
        world.start(known, features);
        world.pass();
        world.pass();
        let heads = world.driver.used(&world.guest);
        answered.extend(heads.iter().map(|(head, _)| *head));
        answered[usize::from(round) * 5..].sort_unstable();
    }
    assert_eq!(answered, [0, 2, 4, 6, 8].repeat(3), "after {phases} phases");
}

#[test]
fn requests_that_were_under_way_when_a_process_died_are_answered_once() {
    (0..=3).for_each(every_request_is_answered_once_after_a_death);
}

/// What a hostile driver does.
#[derive(Clone, Debug)]
enum Act {
    /// Descriptors of any contents.
    Scribble(Vec<(u16, u64, u32, u16, u16)>),
    Offer(u16),
    Jump(u16),
    Header(u32, u64),
    Pass,
}

fn act() -> impl Strategy<Value = Act> {
    let address = prop_oneof![6 => (0..0x4000_u64).prop_map(|at| BUFFERS_START + at),
        1 => any::<u64>()];
    let descriptor = (0..SIZE, address, 0..3000_u32, 0..4_u16, 0..SIZE + 1);
    prop_oneof![
        4 => prop::collection::vec(descriptor, 1..8).prop_map(Act::Scribble),
        6 => (0..SIZE + 1).prop_map(Act::Offer),
        1 => (0..64_u16).prop_map(Act::Jump),
        4 => (0..15_u32, 0..300_u64).prop_map(|(kind, sector)| Act::Header(kind, sector)),
        6 => Just(Act::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever a driver writes, and whenever, every head that was taken comes back once, nothing
    /// panics, and the ring can be stopped.
    #[test]
    fn a_hostile_driver_gets_no_more_back_than_it_gave(
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let mut world = World::new(512);
        let mut returned = 0;
        for act in acts {
            match act {
                Act::Scribble(entries) => for (index, address, len, flags, next) in entries {
                    let entry = crate::testing::Entry { address, len, flags, next };
                    world.driver.set_descriptor(&world.guest, index, entry);
                },
                Act::Offer(head) => world.driver.offer(&world.guest, head),
                Act::Jump(by) => {
                    let to = world.driver.available.wrapping_add(by);
                    world.driver.set_available(&world.guest, to);
                }
                Act::Header(kind, sector) => {
                    world.guest.write(HEADER, &kind.to_le_bytes());
                    world.guest.write(HEADER + 8, &sector.to_le_bytes());
                }
                Act::Pass => {
                    world.pass();
                    returned += world.driver.used(&world.guest).len();
                }
            }
        }
        let stopped = world.stop();
        for _ in 0..64 {
            world.pass();
        }
        returned += world.driver.used(&world.guest).len();
        let end = stopped.try_recv().expect("a ring ends once its requests have");
        prop_assert_eq!(returned, usize::from(end.next_available));
        prop_assert_eq!(world.core.ring_count(), 0);
    }
}
