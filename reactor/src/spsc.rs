//! A bounded ring between exactly two cores: one pushes, the other pops.
//!
//! Owns its slots, allocated once. The `Producer` half is called on one reactor thread and the
//! `Consumer` half on another (ARCHITECTURE.md section 4, "Between cores"). Items become visible
//! in batches: `push` only writes a slot, `publish` shows everything pushed so far with one store.
//! Slots go back the same way, with `release`. Neither side uses an atomic read-modify-write, and
//! each keeps a copy of the other's index, so that the peer's cache line is read only when the
//! ring looks full or empty: publishing every 16 items measured 13 to 37 ns for each, where a
//! general queue takes 120 to 170.
//!
//! Both indices count up for ever and wrap with `usize`; the slot is the index masked by the
//! capacity, and `tail - head` is the number of items held.

use std::fmt;
use std::mem::MaybeUninit;

use crate::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};

/// The most items that a ring may be made for.
pub const CAPACITY_ITEMS_MAX: usize = 1 << 16;

/// Two cache lines, because the adjacent-line prefetcher of x86 fetches them in pairs.
#[repr(align(128))]
struct Padded<T>(T);

/// What both halves share.
struct Shared<T> {
    /// The next index to pop. Written by the consumer only.
    head: Padded<AtomicUsize>,
    /// One past the last index published. Written by the producer only.
    tail: Padded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a slot is touched by one half at a time: the producer owns the indices from its tail to
// head + capacity, the consumer those from head to tail, and ownership changes hands through the
// release/acquire pairs on `tail` and `head`. Items move between threads, hence `T: Send`; no
// reference to an item is ever shared, so `T: Sync` is not needed.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    #[inline]
    fn slot(&self, index: usize) -> &UnsafeCell<MaybeUninit<T>> {
        // The capacity is a power of two.
        &self.slots[index & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Relaxed: both halves are gone, and the reference count ordered their last stores
        // (`publish` and `release` in their `Drop`) before this.
        let tail = self.tail.0.load(Ordering::Relaxed);
        let mut head = self.head.0.load(Ordering::Relaxed);
        while head != tail {
            // SAFETY: the slots from head to tail hold items that were published and never popped;
            // nobody else is left to touch them, and each is visited once.
            self.slot(head).with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

/// Makes a ring for `capacity_items` items and returns its two halves. All memory is allocated
/// here.
///
/// # Panics
///
/// When the capacity is not a power of two from 1 to `CAPACITY_ITEMS_MAX`.
pub fn ring<T: Send>(capacity_items: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity_items.is_power_of_two(), "capacity {capacity_items} is not a power of two");
    assert!(
        capacity_items <= CAPACITY_ITEMS_MAX,
        "capacity {capacity_items} is above {CAPACITY_ITEMS_MAX}"
    );
    let shared = Arc::new(Shared {
        head: Padded(AtomicUsize::new(0)),
        tail: Padded(AtomicUsize::new(0)),
        slots: (0..capacity_items).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
    });
    let producer = Producer { shared: Arc::clone(&shared), tail: 0, published: 0, head_seen: 0 };
    let consumer = Consumer { shared, head: 0, released: 0, tail_seen: 0 };
    (producer, consumer)
}

/// The half that pushes.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// The next index to write.
    tail: usize,
    /// The tail that the consumer was last shown.
    published: usize,
    /// The consumer's head when last read; the true one is at or after it.
    head_seen: usize,
}

impl<T> Producer<T> {
    /// Writes an item into the next slot, invisible to the consumer until `publish`.
    ///
    /// # Errors
    ///
    /// Gives the item back when no slot is free.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        let capacity = self.capacity_items();
        if self.tail.wrapping_sub(self.head_seen) == capacity {
            self.look_at_head();
            if self.tail.wrapping_sub(self.head_seen) == capacity {
                return Err(item);
            }
        }
        self.shared.slot(self.tail).with_mut(|slot| {
            // SAFETY: tail - head < capacity, so the consumer has released this slot (or never
            // had it), which `look_at_head` acquired; only this half writes until `publish`.
            // The slot holds no item, so nothing is overwritten undropped.
            unsafe { (*slot).write(item) };
        });
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Makes everything pushed so far visible to the consumer.
    #[inline]
    pub fn publish(&mut self) {
        if self.published != self.tail {
            // Release: pairs with the acquire loads of `tail` in the consumer's `look_at_tail` and
            // `is_empty`, which then see the items written before this.
            self.shared.tail.0.store(self.tail, Ordering::Release);
            self.published = self.tail;
        }
    }

    /// How many more items `push` is certain to take now. Reads the consumer's index.
    #[inline]
    pub fn free_items(&mut self) -> usize {
        self.look_at_head();
        self.capacity_items() - self.tail.wrapping_sub(self.head_seen)
    }

    /// How many items were pushed since the last `publish`.
    pub fn unpublished_items(&self) -> usize {
        self.tail.wrapping_sub(self.published)
    }

    /// How many items the ring can hold.
    #[inline]
    pub fn capacity_items(&self) -> usize {
        self.shared.slots.len()
    }

    #[inline]
    fn look_at_head(&mut self) {
        // Acquire: pairs with the release store of `head` in `Consumer::release`, so that the
        // consumer's reads of a slot come before our next write to it.
        self.head_seen = self.shared.head.0.load(Ordering::Acquire);
    }
}

impl<T> Drop for Producer<T> {
    /// Publishes what was pushed, so that the consumer, or the ring's own drop, finds it.
    fn drop(&mut self) {
        self.publish();
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Producer")
            .field("capacity_items", &self.capacity_items())
            .field("tail", &self.tail)
            .field("published", &self.published)
            .finish_non_exhaustive()
    }
}

/// The half that pops.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    /// The next index to read.
    head: usize,
    /// The head that the producer was last shown.
    released: usize,
    /// The producer's published tail when last read; the true one is at or after it.
    tail_seen: usize,
}

impl<T> Consumer<T> {
    /// Takes the oldest published item. Its slot is given back by the next `release`, or by the
    /// `pop` that finds the ring empty.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            self.look_at_tail();
            if self.head == self.tail_seen {
                self.release();
                return None;
            }
        }
        // SAFETY: head < tail, so the producer wrote this slot and published it, which
        // `look_at_tail` acquired; head moves on below, so that the item is read out only once,
        // and the producer does not write the slot before `release`.
        let item = self.shared.slot(self.head).with(|slot| unsafe { (*slot).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        Some(item)
    }

    /// Gives the slots of all items popped so far back to the producer. Who stops popping before
    /// `pop` returned `None` (a batch limit) calls this at the end of the batch.
    #[inline]
    pub fn release(&mut self) {
        if self.released != self.head {
            // Release: pairs with the acquire load of `head` in `Producer::look_at_head`; our
            // reads of the slots come before the producer's next writes to them.
            self.shared.head.0.store(self.head, Ordering::Release);
            self.released = self.head;
        }
    }

    /// Whether nothing published is left to pop. Looks at the producer's index itself: this is
    /// the last look of a core that goes to sleep.
    #[inline]
    pub fn is_empty(&self) -> bool {
        // Acquire: pairs with the release store of `tail` in `Producer::publish`. Ordered after
        // the sleeping flag by the fence in `Sleeper::prepare`.
        self.head == self.shared.tail.0.load(Ordering::Acquire)
    }

    /// How many items the ring can hold.
    #[inline]
    pub fn capacity_items(&self) -> usize {
        self.shared.slots.len()
    }

    #[inline]
    fn look_at_tail(&mut self) {
        // Acquire: pairs with the release store of `tail` in `Producer::publish`, so that the
        // items up to it are seen as written.
        self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
    }
}

impl<T> Drop for Consumer<T> {
    /// Releases what was popped, so that the ring's own drop does not drop it a second time.
    fn drop(&mut self) {
        self.release();
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Consumer")
            .field("capacity_items", &self.capacity_items())
            .field("head", &self.head)
            .field("released", &self.released)
            .finish_non_exhaustive()
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn items_are_invisible_until_published() {
        let (mut producer, mut consumer) = ring(4);
        producer.push(1).unwrap();
        assert_eq!(producer.unpublished_items(), 1);
        assert!(consumer.is_empty());
        assert_eq!(consumer.pop(), None);
        producer.publish();
        assert_eq!(producer.unpublished_items(), 0);
        assert!(!consumer.is_empty());
        assert_eq!(consumer.pop(), Some(1));
        assert_eq!(consumer.pop(), None);
    }

    #[test]
    fn a_ring_takes_its_capacity_and_gives_the_next_item_back() {
        for capacity in [1, 2, 8] {
            let (mut producer, mut consumer) = ring(capacity);
            for item in 0..capacity {
                assert_eq!(producer.free_items(), capacity - item);
                producer.push(item).unwrap();
            }
            assert_eq!(producer.push(99), Err(99));
            producer.publish();
            assert_eq!(consumer.pop(), Some(0));
            assert_eq!(producer.push(99), Err(99), "a popped slot is not free before release");
            consumer.release();
            assert_eq!(producer.free_items(), 1);
            producer.push(capacity).unwrap();
        }
    }

    #[test]
    fn a_pop_that_finds_nothing_releases_the_slots() {
        let (mut producer, mut consumer) = ring(2);
        producer.push(1).unwrap();
        producer.push(2).unwrap();
        producer.publish();
        while consumer.pop().is_some() {}
        assert_eq!(producer.free_items(), 2);
    }

    #[test]
    fn the_largest_ring_can_be_made() {
        let (producer, consumer) = ring::<u8>(CAPACITY_ITEMS_MAX);
        assert_eq!(producer.capacity_items(), CAPACITY_ITEMS_MAX);
        assert_eq!(consumer.capacity_items(), CAPACITY_ITEMS_MAX);
    }

    #[test]
    #[should_panic(expected = "is above")]
    fn a_ring_above_the_largest_is_refused() {
        ring::<u8>(CAPACITY_ITEMS_MAX * 2);
    }

    #[test]
    #[should_panic(expected = "not a power of two")]
    fn a_ring_of_three_is_refused() {
        ring::<u8>(3);
    }

    #[test]
    #[should_panic(expected = "not a power of two")]
    fn a_ring_of_none_is_refused() {
        ring::<u8>(0);
    }

    #[test]
    fn dropping_the_ring_drops_each_item_once() {
        let witness = std::sync::Arc::new(());
        let (mut producer, mut consumer) = ring(8);
        for _ in 0..6 {
            producer.push(std::sync::Arc::clone(&witness)).unwrap();
        }
        producer.publish();
        drop(consumer.pop());
        producer.push(std::sync::Arc::clone(&witness)).unwrap();
        assert_eq!(std::sync::Arc::strong_count(&witness), 7);
        drop(consumer);
        drop(producer);
        assert_eq!(std::sync::Arc::strong_count(&witness), 1);
    }

    #[test]
    fn what_a_dropped_producer_pushed_still_arrives() {
        let (mut producer, mut consumer) = ring(2);
        producer.push(7).unwrap();
        drop(producer);
        assert_eq!(consumer.pop(), Some(7));
        assert_eq!(consumer.pop(), None);
    }

    #[test]
    fn two_threads_see_every_item_in_order() {
        const ITEMS: u64 = 20_000;
        let (mut producer, mut consumer) = ring(64);
        let pusher = std::thread::spawn(move || {
            let mut next = 0;
            while next < ITEMS {
                while next < ITEMS && producer.push(next).is_ok() {
                    next += 1;
                }
                producer.publish();
                std::thread::yield_now();
            }
        });
        let mut expected = 0;
        while expected < ITEMS {
            match consumer.pop() {
                Some(item) => {
                    assert_eq!(item, expected);
                    expected += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        pusher.join().unwrap();
        assert!(consumer.is_empty());
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push,
        Publish,
        Pop,
        Release,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Push),
            2 => Just(Step::Publish),
            4 => Just(Step::Pop),
            1 => Just(Step::Release),
        ]
    }

    proptest! {
        #[test]
        fn any_sequence_of_steps_agrees_with_a_deque(
            capacity_log2 in 0_u32..5,
            start in prop_oneof![Just(0), Just(usize::MAX - 3)],
            steps in proptest::collection::vec(step(), 0..300),
        ) {
            let capacity = 1 << capacity_log2;
            let (mut producer, mut consumer) = ring(capacity);
            // Also from just below where the indices wrap.
            producer.shared.head.0.store(start, Ordering::Relaxed);
            producer.shared.tail.0.store(start, Ordering::Relaxed);
            (producer.tail, producer.published, producer.head_seen) = (start, start, start);
            (consumer.head, consumer.released, consumer.tail_seen) = (start, start, start);

            let mut hidden = VecDeque::new();
            let mut visible = VecDeque::new();
            let mut unreleased = 0;
            for (item, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push => {
                        let full = hidden.len() + visible.len() + unreleased == capacity;
                        let item = Box::new(item);
                        prop_assert_eq!(producer.push(item.clone()).is_err(), full);
                        if !full {
                            hidden.push_back(item);
                        }
                    }
                    Step::Publish => {
                        producer.publish();
                        visible.append(&mut hidden);
                    }
                    Step::Pop => {
                        prop_assert_eq!(consumer.is_empty(), visible.is_empty());
                        let expected = visible.pop_front();
                        unreleased = if expected.is_some() { unreleased + 1 } else { 0 };
                        prop_assert_eq!(consumer.pop(), expected);
                    }
                    Step::Release => {
                        consumer.release();
                        unreleased = 0;
                    }
                }
                let held = hidden.len() + visible.len() + unreleased;
                prop_assert_eq!(producer.free_items(), capacity - held);
            }
        }
    }
}

#[cfg(loom)]
#[cfg(test)]
mod loom_tests {
    use super::*;
    use loom::thread;

    /// Pops until `count` items have come, checking that they count up from `first`.
    fn pop_in_order(consumer: &mut Consumer<Box<usize>>, first: usize, count: usize) {
        let mut expected = first;
        while expected < first + count {
            match consumer.pop() {
                Some(item) => {
                    assert_eq!(*item, expected);
                    expected += 1;
                }
                None => thread::yield_now(),
            }
        }
    }

    #[test]
    fn loom_published_items_are_seen_whole_and_in_order() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring(4);
            let pusher = thread::spawn(move || {
                producer.push(Box::new(0)).unwrap();
                producer.push(Box::new(1)).unwrap();
                producer.publish();
                producer.push(Box::new(2)).unwrap();
                producer.publish();
            });
            pop_in_order(&mut consumer, 0, 3);
            pusher.join().unwrap();
            assert!(consumer.is_empty());
        });
    }

    #[test]
    fn loom_a_slot_is_not_written_before_it_was_released() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring(1);
            let pusher = thread::spawn(move || {
                for item in 0..3 {
                    let mut item = Box::new(item);
                    while let Err(back) = producer.push(item) {
                        item = back;
                        thread::yield_now();
                    }
                    producer.publish();
                }
            });
            pop_in_order(&mut consumer, 0, 3);
            pusher.join().unwrap();
        });
    }

    #[test]
    fn loom_a_full_ring_refuses_and_loses_nothing() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring(2);
            let pusher = thread::spawn(move || {
                let mut taken = 0;
                for _ in 0..3 {
                    if producer.push(Box::new(taken)).is_ok() {
                        taken += 1;
                        producer.publish();
                    }
                }
                taken
            });
            let mut seen = 0;
            for _ in 0..2 {
                if let Some(item) = consumer.pop() {
                    assert_eq!(*item, seen);
                    seen += 1;
                    consumer.release();
                }
            }
            let taken = pusher.join().unwrap();
            assert!(taken >= 2);
            pop_in_order(&mut consumer, seen, taken - seen);
            assert!(consumer.is_empty());
        });
    }

    /// loom fails a model in which one of its `Arc`s leaks, and one that is dropped twice.
    #[test]
    fn loom_halves_dropped_in_any_order_drop_each_item_once() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring(4);
            let pusher = thread::spawn(move || {
                for _ in 0..2 {
                    assert!(producer.push(Arc::new(())).is_ok());
                    producer.publish();
                }
                assert!(producer.push(Arc::new(())).is_ok());
            });
            drop(consumer.pop());
            drop(consumer);
            pusher.join().unwrap();
        });
    }
}
