//! What of a ring is under way, kept where it outlives this process.
//!
//! The front end holds the memory and hands it to whoever serves the ring next, so that requests
//! that were under way when a process died are done again, and those that were answered are not.
//! Layout and order are those of vhost-user, "Inflight I/O tracking", for split rings. The front
//! end may write here at any time: every number is checked, and leads nowhere outside.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use crate::memory::Mapping;

/// Bytes before the descriptors' states: features, version, number, last head, used index.
const HEADER_BYTES: u64 = 16;
/// Bytes of a descriptor's state: a flag, the head before it in its batch, its counter.
const STATE_BYTES: u64 = 16;
/// Each queue's part begins at a multiple of this.
const ALIGN_BYTES: u64 = 64;
/// Version of the layout.
const VERSION: u16 = 1;

/// Offsets of the header's fields, and of those of a state.
const VERSION_AT: usize = 8;
const SIZE_AT: usize = 10;
const LAST_HEAD_AT: usize = 12;
const USED_AT: usize = 14;
const NEXT_AT: usize = 6;
const COUNTER_AT: usize = 8;

/// Bytes for a queue of so many entries.
pub fn queue_bytes(size: u16) -> u64 {
    (HEADER_BYTES + STATE_BYTES * u64::from(size)).next_multiple_of(ALIGN_BYTES)
}

/// A queue's part of the memory.
#[derive(Debug)]
pub struct Inflight {
    base: NonNull<u8>,
    size: u16,
    counter: u64,
    /// Heads that were given back and not yet published.
    batch: Vec<u16>,
    /// Keeps the memory mapped.
    _mapping: Arc<Mapping>,
}

// SAFETY: the pointer goes to mapped memory that the value keeps, all access is atomic, and the
// value belongs to one thread at a time.
unsafe impl Send for Inflight {}

impl Inflight {
    /// The part of queue `queue`, where queues have room for `room` entries each and this one has
    /// `size`. None when the memory does not hold it.
    pub fn new(mapping: Arc<Mapping>, queue: u16, room: u16, size: u16) -> Option<Inflight> {
        let offset = queue_bytes(room).checked_mul(u64::from(queue))?;
        let base = mapping.at(offset, queue_bytes(room)).filter(|_| size <= room)?;
        if !base.as_ptr().addr().is_multiple_of(COUNTER_AT) {
            return None;
        }
        let batch = Vec::with_capacity(usize::from(size));
        Some(Inflight { base, size, counter: 0, batch, _mapping: mapping })
    }

    /// Finds what was under way when the ring was served last, in the order in which it was taken.
    /// `used` is the ring's used index. From then on this is kept.
    pub fn recover(&mut self, used: u16) -> Vec<u16> {
        // The order of all accesses is that of the program: who reads them is a later process.
        if self.half(VERSION_AT).load(Ordering::Acquire) == VERSION
            && self.half(SIZE_AT).load(Ordering::Acquire) == self.size
        {
            self.finish_batch(used);
        } else {
            (0..self.size).for_each(|head| self.set_flag(head, 0));
            self.half(SIZE_AT).store(self.size, Ordering::Release);
        }
        self.half(USED_AT).store(used, Ordering::Release);
        self.half(VERSION_AT).store(VERSION, Ordering::Release);
        let is_under_way = |head: &u16| self.flag(*head).load(Ordering::Acquire) != 0;
        let mut heads: Vec<(u64, u16)> = (0..self.size)
            .filter(is_under_way)
            .map(|head| (self.counter_of(head).load(Ordering::Acquire), head))
            .collect();
        heads.sort_unstable();
        self.counter = heads.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        heads.into_iter().map(|(_, head)| head).collect()
    }

    /// The process before died after it had published a batch, and before it had noted that.
    fn finish_batch(&self, used: u16) {
        let noted = self.half(USED_AT).load(Ordering::Acquire);
        let count = used.wrapping_sub(noted).min(self.size);
        let mut head = self.half(LAST_HEAD_AT).load(Ordering::Acquire);
        for _ in 0..count {
            if head >= self.size {
                return;
            }
            self.set_flag(head, 0);
            head = self.state_half(head).load(Ordering::Acquire);
        }
    }

    /// A head is taken.
    #[inline]
    pub fn take(&mut self, head: u16) {
        if head < self.size {
            self.counter_of(head).store(self.counter, Ordering::Release);
            self.counter = self.counter.wrapping_add(1);
            self.set_flag(head, 1);
        }
    }

    /// A head is about to be given back.
    #[inline]
    pub fn give_back(&mut self, head: u16) {
        if head < self.size && self.batch.len() < usize::from(self.size) {
            let last = self.half(LAST_HEAD_AT).load(Ordering::Acquire);
            self.state_half(head).store(last, Ordering::Release);
            self.half(LAST_HEAD_AT).store(head, Ordering::Release);
            self.batch.push(head);
        }
    }

    /// What was given back has been published.
    #[inline]
    pub fn published(&mut self, used: u16) {
        for place in 0..self.batch.len() {
            self.set_flag(self.batch[place], 0);
        }
        self.batch.clear();
        self.half(USED_AT).store(used, Ordering::Release);
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        // SAFETY: every caller stays below what `new` has found mapped: offsets of the header, or
        // of the state of a head below `size`.
        unsafe { self.base.add(offset) }
    }

    fn state(&self, head: u16) -> usize {
        assert!(head < self.size, "a head was compared with the size");
        HEADER_BYTES as usize + STATE_BYTES as usize * usize::from(head)
    }

    #[inline]
    fn half(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: mapped (`at`), and aligned: the base is to eight bytes, all offsets are even.
        unsafe { AtomicU16::from_ptr(self.at(offset).cast().as_ptr()) }
    }

    #[inline]
    fn state_half(&self, head: u16) -> &AtomicU16 {
        self.half(self.state(head) + NEXT_AT)
    }

    #[inline]
    fn counter_of(&self, head: u16) -> &AtomicU64 {
        // SAFETY: mapped (`at`), and aligned to eight bytes as the base is.
        unsafe { AtomicU64::from_ptr(self.at(self.state(head) + COUNTER_AT).cast().as_ptr()) }
    }

    #[inline]
    fn flag(&self, head: u16) -> &AtomicU8 {
        // SAFETY: mapped (`at`); a byte is always aligned.
        unsafe { AtomicU8::from_ptr(self.at(self.state(head)).as_ptr()) }
    }

    #[inline]
    fn set_flag(&self, head: u16, value: u8) {
        self.flag(head).store(value, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory_file;

    const SIZE: u16 = 8;

    /// The memory, and the part of queue 1 in it as each process in turn has it.
    fn memory() -> Arc<Mapping> {
        let len_bytes = 2 * queue_bytes(SIZE);
        Arc::new(Mapping::new(&memory_file(len_bytes), 0, len_bytes).unwrap())
    }

    fn queue(memory: &Arc<Mapping>) -> Inflight {
        Inflight::new(Arc::clone(memory), 1, SIZE, SIZE).unwrap()
    }

    #[test]
    fn what_was_taken_and_not_given_back_is_found_in_its_order() {
        let memory = memory();
        let mut first = queue(&memory);
        assert_eq!(first.recover(5), [0; 0]);
        [3, 0, 7, 2].into_iter().for_each(|head| first.take(head));
        first.give_back(0);
        first.published(6);
        drop(first);
        let mut second = queue(&memory);
        assert_eq!(second.recover(6), [3, 7, 2]);
        second.take(0);
        drop(second);
        assert_eq!(queue(&memory).recover(6), [3, 7, 2, 0], "the count goes on");
    }

    #[test]
    fn a_batch_that_was_published_and_not_noted_is_not_done_again() {
        let memory = memory();
        let mut first = queue(&memory);
        assert_eq!(first.recover(u16::MAX), [0; 0]);
        [1, 2, 3, 4].into_iter().for_each(|head| first.take(head));
        first.give_back(2);
        first.published(0);
        first.give_back(4);
        first.give_back(1);
        // The index of the ring went to 2; then the process died.
        drop(first);
        assert_eq!(queue(&memory).recover(2), [3]);
        // Had it died before that, all of the batch is done again.
        let memory = self::memory();
        let mut first = queue(&memory);
        first.recover(0);
        [1, 2].into_iter().for_each(|head| first.take(head));
        first.give_back(2);
        drop(first);
        assert_eq!(queue(&memory).recover(0), [1, 2]);
    }

    #[test]
    fn a_part_must_lie_in_the_memory_and_nonsense_there_leads_nowhere() {
        let memory = memory();
        assert!(Inflight::new(Arc::clone(&memory), 2, SIZE, SIZE).is_none());
        assert!(Inflight::new(Arc::clone(&memory), 1, SIZE, SIZE + 1).is_none());
        let mut queue = queue(&memory);
        queue.recover(0);
        (0..SIZE).for_each(|head| queue.take(head));
        queue.take(SIZE);
        queue.give_back(SIZE);
        queue.half(LAST_HEAD_AT).store(u16::MAX, Ordering::Release);
        assert_eq!(queue.recover(3).len(), usize::from(SIZE));
        queue.half(LAST_HEAD_AT).store(0, Ordering::Release);
        queue.state_half(0).store(0, Ordering::Release);
        assert_eq!(queue.recover(3 + SIZE).len(), usize::from(SIZE) - 1, "a loop");
    }
}
