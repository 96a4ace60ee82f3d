//! Keeps I/Os of several cores from touching the same blocks at once.
//!
//! Owned by a device whose queue pairs share memory (the RAM disk), used on every core that has
//! one of them open. The range of an I/O is cut into stripes of 64 KiB; each stripe has a place in
//! a fixed array of atomic words: its readers counted, or one writer. An I/O takes all of its
//! words in ascending order or none, never waits, and holds them only within one call, so nothing
//! can deadlock and a failed try means "again at the next poll" (ARCHITECTURE 6).
//!
//! While a single queue pair is open no word is touched: [`RangeLock::enter`] finds out with one
//! fence a pass, and [`RangeLock::join`] makes a newcomer wait for a pass that began before it.

use reactor::sync::{AtomicBool, AtomicUsize, Ordering, fence};

/// Bytes of device space in a stripe.
pub(crate) const STRIPE_BYTES: u64 = 64 << 10;

/// Words in the array, which stripes share modulo this number: 32 KiB of memory, 256 MiB of device
/// before two stripes meet. Fewer under loom, which models each.
#[cfg(not(loom))]
pub(crate) const WORDS: usize = 4096;
#[cfg(loom)]
pub(crate) const WORDS: usize = 2;

/// A word taken by a writer; any other value counts readers.
const WRITER: usize = usize::MAX;

/// What an I/O does with its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Looks at it; others may look too.
    Shared,
    /// Changes it; nobody else may look.
    Exclusive,
}

/// The array, and who uses it.
#[derive(Debug)]
pub(crate) struct RangeLock {
    words: Box<[AtomicUsize]>,
    /// Queue pairs open.
    members: AtomicUsize,
    /// The only member is in a pass, without locks.
    alone: AtomicBool,
}

impl RangeLock {
    /// A lock without members.
    pub(crate) fn new() -> RangeLock {
        RangeLock {
            words: (0..WORDS).map(|_| AtomicUsize::new(0)).collect(),
            members: AtomicUsize::new(0),
            alone: AtomicBool::new(false),
        }
    }

    /// Adds a queue pair. Slow path: waits for the end of a pass of another core that went without
    /// locks, which is less than a millisecond of work.
    pub(crate) fn join(&self) {
        // Relaxed: the fence orders it before the look at `alone`.
        self.members.fetch_add(1, Ordering::Relaxed);
        // Partner: the fence in `enter`. Whichever comes first, either that pass sees the new
        // member or this loop sees that pass.
        fence(Ordering::SeqCst);
        // Acquire, partner: the release store in `Pass::drop`, so that what that pass copied
        // without locks is seen by this member.
        while self.alone.load(Ordering::Acquire) {
            yield_to_others();
        }
    }

    /// Removes a queue pair, which is in no pass.
    pub(crate) fn leave(&self) {
        // Release, partner: the acquire load in `enter`, so that a member left alone sees all
        // that this one copied.
        let before = self.members.fetch_sub(1, Ordering::Release);
        assert!(before > 0, "only a member leaves");
    }

    /// Begins a pass over a member's queue.
    #[inline]
    pub(crate) fn enter(&self) -> Pass<'_> {
        // Acquire, partner: the release in `leave`.
        if self.members.load(Ordering::Acquire) != 1 {
            return Pass { lock: self, alone: false };
        }
        // Relaxed: the fence orders it before the second look. No other member can be storing
        // here, as this one is alone and a newcomer that is not never stores.
        self.alone.store(true, Ordering::Relaxed);
        // Partner: the fence in `join`.
        fence(Ordering::SeqCst);
        // Acquire again, same partner: since the first look another member may have come and gone.
        let alone = self.members.load(Ordering::Acquire) == 1;
        if !alone {
            // Release for the newcomer that waits for it, though nothing was copied yet.
            self.alone.store(false, Ordering::Release);
        }
        Pass { lock: self, alone }
    }

    fn try_take_word(&self, index: usize, access: Access) -> bool {
        let word = &self.words[index];
        // Relaxed: only a guess for the exchange, which decides.
        let current = word.load(Ordering::Relaxed);
        let wanted = match access {
            Access::Exclusive if current != 0 => return false,
            Access::Exclusive => WRITER,
            Access::Shared if current == WRITER => return false,
            Access::Shared => current + 1,
        };
        // Acquire, partner: the release in `release_word`, so that the range is seen as its last
        // holder left it. A second reader that lost the race tries again at its next poll.
        word.compare_exchange(current, wanted, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn release_word(&self, index: usize, access: Access) {
        // Release, partner: the acquire in `try_take_word`.
        match access {
            Access::Exclusive => self.words[index].store(0, Ordering::Release),
            Access::Shared => {
                let before = self.words[index].fetch_sub(1, Ordering::Release);
                assert!(before != 0 && before != WRITER, "only a reader releases a reader's word");
            }
        }
    }
}

fn yield_to_others() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::thread::yield_now();
}

/// One pass of a member over its queue. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    lock: &'a RangeLock,
    alone: bool,
}

impl Pass<'_> {
    /// Takes the stripes of `len_bytes` (not zero) from `offset_bytes` on; nothing when another
    /// core has one of them.
    #[inline]
    pub(crate) fn try_take(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        access: Access,
    ) -> Option<Held<'_>> {
        if self.alone {
            return Some(Held { lock: self.lock, low: 0..0, high: 0..0, access });
        }
        let (low, high) = words_of(offset_bytes, len_bytes);
        let mut held = Held { lock: self.lock, low: 0..0, high: high.start..high.start, access };
        for index in low {
            if !self.lock.try_take_word(index, access) {
                return None;
            }
            held.low.end = index + 1;
        }
        for index in high {
            if !self.lock.try_take_word(index, access) {
                return None;
            }
            held.high.end = index + 1;
        }
        Some(held)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.alone {
            // Release, partner: the acquire load in `join`.
            self.lock.alone.store(false, Ordering::Release);
        }
    }
}

/// Words of a range in ascending order: those from zero on, where it wraps, and the others.
fn words_of(offset_bytes: u64, len_bytes: u64) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let first = offset_bytes / STRIPE_BYTES;
    let last = (offset_bytes + len_bytes - 1) / STRIPE_BYTES;
    let stripes = last - first + 1;
    if stripes >= WORDS as u64 {
        return (0..0, 0..WORDS);
    }
    let start = (first % WORDS as u64) as usize;
    let end = start + stripes as usize;
    if end <= WORDS { (0..0, start..end) } else { (0..end - WORDS, start..WORDS) }
}

/// Words held. Released when dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    lock: &'a RangeLock,
    /// From word zero on.
    low: std::ops::Range<usize>,
    high: std::ops::Range<usize>,
    access: Access,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for index in self.low.clone().chain(self.high.clone()) {
            self.lock.release_word(index, self.access);
        }
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE_BYTES: u64 = WORDS as u64 * STRIPE_BYTES;

    fn shared_lock() -> RangeLock {
        let lock = RangeLock::new();
        lock.join();
        lock.join();
        lock
    }

    #[test]
    fn a_writer_keeps_everyone_out_and_readers_keep_writers_out() {
        let lock = shared_lock();
        let pass = lock.enter();
        let writer = pass.try_take(0, 512, Access::Exclusive).unwrap();
        assert!(pass.try_take(512, 512, Access::Shared).is_none());
        assert!(pass.try_take(STRIPE_BYTES, 512, Access::Exclusive).is_some());
        drop(writer);
        let readers = [(); 2].map(|()| pass.try_take(0, 512, Access::Shared).unwrap());
        assert!(pass.try_take(0, 512, Access::Exclusive).is_none());
        drop(readers);
        assert!(pass.try_take(0, 512, Access::Exclusive).is_some());
    }

    #[test]
    fn a_failed_try_releases_all_that_it_took() {
        let lock = shared_lock();
        let pass = lock.enter();
        let last = pass.try_take(3 * STRIPE_BYTES, 1, Access::Exclusive).unwrap();
        assert!(pass.try_take(0, 4 * STRIPE_BYTES, Access::Exclusive).is_none());
        assert!(pass.try_take(0, 3 * STRIPE_BYTES, Access::Exclusive).is_some());
        drop(last);
        assert!(lock.words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn ranges_wrap_around_the_array_and_never_take_a_word_twice() {
        let lock = shared_lock();
        let pass = lock.enter();
        let wrapped = pass.try_take(DEVICE_BYTES - 1, 2, Access::Exclusive).unwrap();
        assert_eq!((wrapped.low.clone(), wrapped.high.clone()), (0..1, WORDS - 1..WORDS));
        assert!(pass.try_take(0, 1, Access::Exclusive).is_none());
        drop(wrapped);
        assert!(pass.try_take(5, 3 * DEVICE_BYTES, Access::Exclusive).is_some());
        assert!(pass.try_take(0, DEVICE_BYTES, Access::Exclusive).is_some());
    }

    #[test]
    fn a_single_member_takes_no_word_and_a_second_one_does() {
        let lock = RangeLock::new();
        lock.join();
        let held = |lock: &RangeLock| {
            let pass = lock.enter();
            let _held = pass.try_take(0, 1, Access::Exclusive).unwrap();
            lock.words[0].load(Ordering::Relaxed)
        };
        assert_eq!(held(&lock), 0);
        lock.join();
        assert_eq!(held(&lock), WRITER);
        lock.leave();
        assert_eq!(held(&lock), 0);
    }
}

#[cfg(loom)]
#[cfg(test)]
mod loom_tests {
    use loom::thread;
    use reactor::sync::Arc;

    use super::*;

    /// A counter in place of the disk. Load and store are apart and relaxed, so an increment is
    /// lost wherever two threads meet or one does not see what the other did before.
    struct Disk {
        lock: RangeLock,
        counter: AtomicUsize,
    }

    fn count(disk: &Disk) {
        loop {
            let pass = disk.lock.enter();
            if let Some(_held) = pass.try_take(0, 1, Access::Exclusive) {
                let counter = disk.counter.load(Ordering::Relaxed);
                disk.counter.store(counter + 1, Ordering::Relaxed);
                return;
            }
            drop(pass);
            thread::yield_now();
        }
    }

    #[test]
    fn loom_a_newcomer_and_a_lone_member_never_meet_on_a_range() {
        loom::model(|| {
            let disk = Arc::new(Disk { lock: RangeLock::new(), counter: AtomicUsize::new(0) });
            disk.lock.join();
            let newcomer = thread::spawn({
                let disk = disk.clone();
                move || {
                    disk.lock.join();
                    count(&disk);
                    disk.lock.leave();
                }
            });
            count(&disk);
            count(&disk);
            newcomer.join().unwrap();
            assert_eq!(disk.counter.load(Ordering::Relaxed), 3);
        });
    }
}
