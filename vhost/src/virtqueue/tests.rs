//! Tests of the virtqueue: each claim on its own, and against `virtio-queue` as an oracle.

use std::sync::Arc;

use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{FileOffset, GuestMemoryMmap};

use super::layout::{CHAIN_DESCRIPTORS_MAX, FLAG_INDIRECT, FLAG_NEXT, FLAG_WRITE, RING_SIZE_MAX};
use super::*;
use crate::memory::FrontendAddress;
use crate::testing::{BUFFERS_START, Driver, Entry, REGIONS, TestGuest, region_place};

const FLAGS: QueueFeatures =
    QueueFeatures { indirect: Indirect::Allowed, suppression: Suppression::Flags };
const EVENTS: QueueFeatures =
    QueueFeatures { indirect: Indirect::Allowed, suppression: Suppression::EventIndex };

fn queue(guest: &TestGuest, driver: &Driver, features: QueueFeatures) -> SplitQueue {
    SplitQueue::new(driver.ring(guest), features, 0)
}

/// Walks the chain at descriptor 0 of a ring of 256.
fn walk(guest: &TestGuest, driver: &Driver) -> Result<ChainBuffer, ChainError> {
    let mut chain = ChainBuffer::default();
    chain.walk(&driver.ring(guest), 0, Indirect::Allowed).map(|()| chain)
}

#[test]
fn a_ring_must_be_a_power_of_two_in_memory_and_aligned() {
    let guest = TestGuest::new();
    let driver = Driver::new(0, 16);
    let good = driver.addresses();
    let make = |size, addresses| Ring::new(Arc::clone(&guest.memory), size, addresses).err();
    assert_eq!(make(16, good), None);
    for size in [0, 3, 65536 + 16, u32::from(RING_SIZE_MAX) * 2] {
        assert_eq!(make(size, good), Some(RingError::Size { size }));
    }
    let moved =
        |by: u64| RingAddresses { descriptors: FrontendAddress(good.descriptors.0 + by), ..good };
    assert_eq!(make(16, moved(8)), Some(RingError::Place));
    let odd = RingAddresses { used: FrontendAddress(good.used.0 + 2), ..good };
    assert_eq!(make(16, odd), Some(RingError::Place));
    // The last place of the last region, and 16 bytes further.
    let (place, _) = region_place(2);
    let end = place.frontend.0 + place.len_bytes - 256;
    let last = RingAddresses { descriptors: FrontendAddress(end), ..good };
    assert_eq!(make(16, last), None);
    let past = RingAddresses { descriptors: FrontendAddress(end + 16), ..good };
    assert_eq!(make(16, past), Some(RingError::Place));
    let nowhere = RingAddresses { available: FrontendAddress(u64::MAX - 1), ..good };
    assert_eq!(make(16, nowhere), Some(RingError::Place));
}

#[test]
fn a_chain_is_its_buffers_in_order_and_runs_over_into_the_next_region() {
    let guest = TestGuest::new();
    let driver = Driver::new(0, 256);
    let border = REGIONS[1].0;
    let buffers = [(BUFFERS_START, 16, 0), (border - 100, 300, 0), (BUFFERS_START, 1, FLAG_WRITE)];
    driver.set_chain(&guest, 0, &buffers);
    let chain = walk(&guest, &driver).unwrap();
    let lens = |segments: &[reactor::dma::Segment]| -> Vec<u32> {
        segments.iter().map(|segment| segment.len_bytes()).collect()
    };
    assert_eq!(lens(chain.readable()), [16, 100, 200]);
    assert_eq!(lens(chain.writable()), [1]);
    assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (316, 1));
}

#[test]
fn every_mistake_of_a_driver_ends_the_walk() {
    let guest = TestGuest::new();
    let driver = Driver::new(0, 256);
    let outcome = |buffers: &[(u64, u32, u16)]| {
        driver.set_chain(&guest, 0, buffers);
        walk(&guest, &driver).err()
    };
    let (start, end) = (BUFFERS_START, REGIONS[1].0 + REGIONS[1].1);
    let outside = |address, len_bytes| Some(ChainError::Outside { address, len_bytes });
    assert_eq!(outcome(&[(end - 1, 1, 0)]), None);
    assert_eq!(outcome(&[(end - 1, 2, 0)]), outside(end - 1, 2));
    assert_eq!(outcome(&[(u64::MAX, 2, 0)]), outside(u64::MAX, 2));
    assert_eq!(outcome(&[(0, 1, FLAG_WRITE)]), outside(0, 1));
    assert_eq!(outcome(&[(start, 1, FLAG_WRITE), (start, 1, 0)]), Some(ChainError::Order));
    let most = vec![(start, 1, 0); usize::from(CHAIN_DESCRIPTORS_MAX)];
    assert_eq!(outcome(&most), None);
    assert_eq!(outcome(&[most.as_slice(), &most[..1]].concat()), Some(ChainError::Long));
    let entry = Entry { address: start, len: 1, flags: FLAG_NEXT, next: 0 };
    driver.set_descriptor(&guest, 0, entry);
    assert_eq!(walk(&guest, &driver).err(), Some(ChainError::Long), "a loop");
    driver.set_descriptor(&guest, 0, Entry { next: 256, ..entry });
    assert_eq!(walk(&guest, &driver).err(), Some(ChainError::Index { index: 256 }));
    let whole = u32::try_from(REGIONS[0].1 + REGIONS[1].1).unwrap();
    let heavy = vec![(REGIONS[0].0, whole, 0); 64];
    assert_eq!(outcome(&heavy), None, "128 MiB");
}

#[test]
fn indirect_tables_are_followed_once_and_only_where_they_were_negotiated() {
    let guest = TestGuest::new();
    let driver = Driver::new(0, 256);
    let table = BUFFERS_START + 0x1000;
    let set = |index: u64, entry: Entry| guest.write(table + 16 * index, &entry.bytes());
    let entry = Entry { address: BUFFERS_START, len: 8, flags: FLAG_NEXT, next: 1 };
    set(0, entry);
    set(1, Entry { flags: FLAG_WRITE, next: 0, ..entry });
    let direct = |len, flags| {
        driver.set_descriptor(&guest, 0, Entry { address: table, len, flags, next: 1 });
        walk(&guest, &driver).map(|chain| (chain.readable_bytes(), chain.writable_bytes()))
    };
    assert_eq!(direct(32, FLAG_INDIRECT), Ok((8, 8)));
    assert_eq!(direct(16, FLAG_INDIRECT), Err(ChainError::Index { index: 1 }));
    for (len, flags) in [(0, 0), (33, 0), (16 << 16, 0), (32, FLAG_NEXT)] {
        assert_eq!(direct(len, FLAG_INDIRECT | flags), Err(ChainError::Indirect), "{len}");
    }
    set(1, Entry { flags: FLAG_INDIRECT, ..entry });
    assert_eq!(direct(32, FLAG_INDIRECT), Err(ChainError::Indirect), "a table in a table");
    let mut chain = ChainBuffer::default();
    let refused = chain.walk(&driver.ring(&guest), 0, Indirect::Refused);
    assert_eq!(refused, Err(ChainError::Indirect));
}

#[test]
fn an_index_may_be_a_whole_ring_ahead_and_not_one_more() {
    let guest = TestGuest::new();
    let mut driver = Driver::new(0, 16);
    let mut queue = queue(&guest, &driver, FLAGS);
    driver.set_available(&guest, 16);
    assert_eq!(queue.look(), Ok(16));
    for to in [17, u16::MAX] {
        driver.set_available(&guest, to);
        assert_eq!(queue.look(), Err(QueueError::Jump { from: 0, to, size: 16 }));
    }
}

#[test]
fn what_is_given_back_is_seen_when_it_is_published_and_calls_follow_the_flag() {
    let guest = TestGuest::new();
    let mut driver = Driver::new(0, 4);
    let mut queue = queue(&guest, &driver, FLAGS);
    assert_eq!(driver.used_flags(&guest), 1, "no kick while the ring is polled");
    queue.give_back(3, 7);
    assert_eq!(driver.used(&guest), []);
    assert_eq!(queue.publish(), Call::Wanted);
    assert_eq!(driver.used(&guest), [(3, 7)]);
    assert_eq!(queue.publish(), Call::Unwanted, "nothing new");
    driver.set_flags(&guest, 1);
    (0..4).for_each(|head| queue.give_back(head, 0));
    assert_eq!(queue.publish(), Call::Unwanted);
    assert_eq!(driver.used(&guest).len(), 4);
    assert!(queue.arm());
    assert_eq!(driver.used_flags(&guest), 0);
    driver.set_chain(&guest, 0, &[(BUFFERS_START, 1, 0)]);
    driver.offer(&guest, 0);
    assert!(!queue.arm(), "a head is there already");
    queue.disarm();
    assert_eq!(driver.used_flags(&guest), 1);
}

#[test]
fn with_event_indices_one_kick_is_asked_for_and_calls_come_at_the_index() {
    let guest = TestGuest::new();
    let mut driver = Driver::new(0, 4);
    let mut queue = queue(&guest, &driver, EVENTS);
    assert_eq!(driver.available_event(&guest), u16::MAX, "passed already");
    assert!(queue.arm());
    assert_eq!(driver.available_event(&guest), 0);
    driver.set_used_event(&guest, 2);
    for call in [Call::Unwanted, Call::Unwanted, Call::Wanted, Call::Unwanted] {
        queue.give_back(0, 0);
        assert_eq!(queue.publish(), call);
    }
    driver.set_used_event(&guest, 5);
    (0..3).for_each(|_| queue.give_back(0, 0));
    assert_eq!(queue.publish(), Call::Wanted, "one call for all");
    assert_eq!(driver.used(&guest).len(), 7);
}

#[test]
fn a_chain_that_is_changed_after_it_was_taken_stays_as_it_was() {
    let guest = TestGuest::new();
    let mut driver = Driver::new(0, 4);
    let mut queue = queue(&guest, &driver, FLAGS);
    driver.set_chain(&guest, 0, &[(BUFFERS_START, 16, 0), (BUFFERS_START, 1, FLAG_WRITE)]);
    driver.offer(&guest, 0);
    let mut chain = ChainBuffer::default();
    assert_eq!(queue.look(), Ok(1));
    assert_eq!(queue.take(&mut chain), Ok(Some(0)));
    let before = chain.readable().to_vec();
    driver.set_chain(&guest, 0, &[(0, u32::MAX, 0)]);
    assert_eq!(chain.readable(), before);
    assert_eq!(queue.take(&mut chain), Ok(None), "no head is taken twice");
}

/// The oracle over the same memory.
fn oracle(guest: &TestGuest, driver: &Driver) -> (Queue, GuestMemoryMmap<()>) {
    let ranges = (0..REGIONS.len()).map(|index| {
        let (place, offset) = region_place(index);
        let file = FileOffset::new(guest.file.try_clone().unwrap(), offset);
        (vm_memory::GuestAddress(place.guest.0), place.len_bytes as usize, Some(file))
    });
    let ranges: Vec<_> = ranges.collect();
    let memory = GuestMemoryMmap::<()>::from_ranges_with_files(ranges).unwrap();
    let mut queue = Queue::new(driver.size).unwrap();
    queue.set_size(driver.size);
    let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
    let (low, high) = halves(driver.descriptors());
    queue.set_desc_table_address(low, high);
    let (low, high) = halves(driver.available_ring());
    queue.set_avail_ring_address(low, high);
    let (low, high) = halves(driver.used_ring());
    queue.set_used_ring_address(low, high);
    queue.set_ready(true);
    assert!(queue.is_valid(&memory));
    (queue, memory)
}

/// A descriptor of any kind, most of them sane.
fn entry() -> impl Strategy<Value = Entry> {
    let address = prop_oneof![
        8 => BUFFERS_START..REGIONS[1].0 + REGIONS[1].1,
        1 => any::<u64>(),
        1 => Just(BUFFERS_START),
    ];
    let whole = (0..10_u32).prop_map(|count| count * 16);
    let len = prop_oneof![8 => 0..5000_u32, 2 => whole, 1 => any::<u32>()];
    let flags = prop_oneof![4 => Just(FLAG_NEXT), 2 => Just(FLAG_NEXT | FLAG_WRITE),
        2 => Just(FLAG_WRITE), 1 => Just(FLAG_INDIRECT), 1 => any::<u16>()];
    let next = prop_oneof![8 => 0..16_u16, 1 => any::<u16>()];
    (address, len, flags, next).prop_map(|(address, len, flags, next)| Entry {
        address,
        len,
        flags,
        next,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever is in memory, a chain that we accept is to the oracle what it is to us.
    #[test]
    fn a_chain_that_is_accepted_is_the_oracles(
        ring in prop::collection::vec(entry(), 16),
        table in prop::collection::vec(entry(), 16),
        head in prop_oneof![8 => 0..16_u16, 1 => any::<u16>()],
    ) {
        let guest = TestGuest::new();
        let mut driver = Driver::new(0, 16);
        for (index, entry) in (0..).zip(&ring) {
            driver.set_descriptor(&guest, index, *entry);
        }
        for (index, entry) in (0_u64..).zip(&table) {
            guest.write(BUFFERS_START + 16 * index, &entry.bytes());
        }
        let mut queue = queue(&guest, &driver, FLAGS);
        driver.offer(&guest, head);
        let mut chain = ChainBuffer::default();
        prop_assert_eq!(queue.look(), Ok(1));
        let taken = queue.take(&mut chain);
        if taken.is_ok() {
            let (mut oracle, memory) = oracle(&guest, &driver);
            let theirs = oracle.pop_descriptor_chain(&memory).unwrap();
            prop_assert_eq!(taken.unwrap(), Some(theirs.head_index()));
            let sum = |written: bool| -> u64 {
                let its = theirs.clone().filter(|one| one.is_write_only() == written);
                its.map(|one| u64::from(one.len())).sum()
            };
            prop_assert_eq!(chain.readable_bytes(), sum(false));
            prop_assert_eq!(chain.writable_bytes(), sum(true));
            let pieces = chain.readable().iter().chain(chain.writable());
            let bytes: u64 = pieces.map(|one| u64::from(one.len_bytes())).sum();
            prop_assert_eq!(bytes, sum(false) + sum(true));
        }
    }

    /// Every sound chain is accepted, buffer by buffer.
    #[test]
    fn a_sound_chain_is_accepted(
        readable in prop::collection::vec((0..0x1000_u64, 1..0x2000_u32), 0..6),
        writable in prop::collection::vec((0..0x1000_u64, 1..0x2000_u32), 1..6),
    ) {
        let guest = TestGuest::new();
        let driver = Driver::new(0, 256);
        let of = |flags| move |(at, len): &(u64, u32)| (BUFFERS_START + at, *len, flags);
        let buffers: Vec<_> =
            readable.iter().map(of(0)).chain(writable.iter().map(of(FLAG_WRITE))).collect();
        driver.set_chain(&guest, 0, &buffers);
        let chain = walk(&guest, &driver).unwrap();
        prop_assert_eq!(chain.readable().len(), readable.len());
        let lens: Vec<u32> = chain.writable().iter().map(|one| one.len_bytes()).collect();
        prop_assert_eq!(lens, writable.iter().map(|(_, len)| *len).collect::<Vec<_>>());
    }

    /// Used entries, the index and the wish for a call are the oracle's, over many rounds.
    #[test]
    fn used_entries_and_calls_are_the_oracles(
        rounds in prop::collection::vec(
            (prop::collection::vec((0..16_u16, any::<u32>()), 0..20), any::<u16>(), any::<bool>()),
            1..20,
        ),
    ) {
        let guests = [TestGuest::new(), TestGuest::new()];
        let driver = Driver::new(0, 16);
        let mut ours = queue(&guests[0], &driver, EVENTS);
        let (mut theirs, memory) = oracle(&guests[1], &driver);
        theirs.set_event_idx(true);
        let mut used = 0_u16;
        for (batch, event, is_near) in rounds {
            let event = if is_near { used.wrapping_add(event % 24) } else { event };
            guests.iter().for_each(|guest| driver.set_used_event(guest, event));
            for (head, len) in &batch {
                ours.give_back(*head, *len);
                theirs.add_used(&memory, *head, *len).unwrap();
            }
            used = used.wrapping_add(batch.len() as u16);
            let wanted = !batch.is_empty() && theirs.needs_notification(&memory).unwrap();
            prop_assert_eq!(ours.publish() == Call::Wanted, wanted);
            let rings = guests.each_ref().map(|one| one.read(driver.used_ring() + 2, 2 + 16 * 8));
            prop_assert_eq!(&rings[0], &rings[1]);
        }
    }
}
