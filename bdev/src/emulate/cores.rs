//! What keeps the changes of other cores out of a compare-and-write that is emulated.
//!
//! Shared by the queue pairs of an emulated device, each on its core's thread. Until the first
//! compare-and-write of the device nobody takes anything: a queue pair only tells that it has
//! changes in flight, with a fence when it begins the first of them. The first compare-and-write
//! raises `swaps`, after which every change takes its stripes of [`crate::stripe_lock`], and begins
//! once the changes that were begun without have ended on every core. It is not lowered again: who
//! has used compare-and-write will do so again.
//!
//! The pair of flags, each side with a full fence between its store and its load:
//!
//! | core that begins its first change | core of the first compare-and-write |
//! |-----------------------------------|-------------------------------------|
//! | stores `UNLOCKED` in its place    | stores `swaps`                      |
//! | full fence                        | full fence                          |
//! | loads `swaps`, takes back if set  | loads every place                   |
//!
//! Whoever's fence is second sees what the other stored, so no change is both without stripes and
//! unseen.

use std::sync::Arc;

use reactor::sync::{AtomicBool, AtomicUsize, Ordering, fence};

use crate::io::{Io, Operation};
use crate::stripe_lock::{LockMember, StripeLock};

/// Queue pairs that an emulated device can have open at once. Fewer under loom.
#[cfg(not(loom))]
pub(crate) const MEMBERS_MAX: usize = 256;
#[cfg(loom)]
pub(crate) const MEMBERS_MAX: usize = 2;

/// A place is nobody's.
const FREE: usize = 0;
/// Its member has no change in flight that began without stripes.
const QUIET: usize = 1;
/// Its member has one, or is about to.
const UNLOCKED: usize = 2;

/// A member's place, on cache lines of its own: its member writes it, others read it once.
#[derive(Debug)]
#[repr(align(128))]
struct Place(AtomicUsize);

/// What the queue pairs of a device share.
#[derive(Debug)]
pub(super) struct Cores {
    lock: StripeLock,
    /// A compare-and-write has come: changes take their stripes.
    swaps: AtomicBool,
    places: Box<[Place]>,
}

impl Cores {
    /// Nobody has it open; blocks are of `block_bytes`.
    pub(super) fn new(block_bytes: u32) -> Cores {
        Cores {
            lock: StripeLock::new(block_bytes),
            swaps: AtomicBool::new(false),
            places: (0..MEMBERS_MAX).map(|_| Place(AtomicUsize::new(FREE))).collect(),
        }
    }

    /// Adds a member, unless there are [`MEMBERS_MAX`].
    pub(super) fn join(self: &Arc<Cores>) -> Option<Member> {
        let number = self.places.iter().position(|place| {
            // Acquire, partner: the release in `Member::drop`.
            let free = place.0.compare_exchange(FREE, QUIET, Ordering::Acquire, Ordering::Relaxed);
            free.is_ok()
        })?;
        let name = LockMember::new(number).expect("fewer places than names");
        let takes = false;
        Some(Member { cores: self.clone(), name, unlocked: 0, takes, all_take: false })
    }
}

/// What an I/O has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing, and needs nothing.
    Nothing,
    /// It is one of the changes that began without stripes.
    Unlocked,
    /// So many words of its range; while it has not begun, it has tried for the next one in vain.
    Words(u32),
}

/// A queue pair's part in it.
#[derive(Debug)]
pub(super) struct Member {
    cores: Arc<Cores>,
    name: LockMember,
    /// Changes in flight that began without stripes.
    unlocked: u32,
    /// It has seen `swaps`.
    takes: bool,
    /// It has seen that nobody has changes in flight without stripes any more.
    all_take: bool,
}

impl Member {
    /// True when the I/O may begin as far as other cores go; `hold` says what it has then, or until
    /// then. To be asked again at the next poll.
    #[inline]
    pub(super) fn begin(&mut self, io: &Io, hold: &mut Hold) -> bool {
        if !io.operation.changes_blocks() {
            return true;
        }
        if io.operation == Operation::CompareAndWrite {
            return self.do_all_take() && self.take(io, hold);
        }
        if self.takes || self.must_take() {
            return self.take(io, hold);
        }
        self.unlocked += 1;
        *hold = Hold::Unlocked;
        true
    }

    /// The I/O has ended.
    #[inline]
    pub(super) fn end(&mut self, io: &Io, hold: Hold) {
        match hold {
            Hold::Nothing => {}
            Hold::Unlocked => {
                self.unlocked -= 1;
                if self.unlocked == 0 {
                    // Release, partner: the acquire in `do_all_take`, so that a compare-and-write
                    // begins after what this core has changed.
                    self.place().store(QUIET, Ordering::Release);
                }
            }
            // Whose turn has come finds out at its next poll: it has an I/O in line.
            Hold::Words(taken) => {
                self.cores.lock.release(io.lba.0, io.blocks, taken, |_| ());
            }
        }
    }

    /// The I/O has ended before it began.
    pub(super) fn withdraw(&mut self, io: &Io, hold: Hold) {
        if let Hold::Words(taken) = hold {
            self.cores.lock.withdraw(self.name, io.lba.0, io.blocks, taken, |_| ());
        }
    }

    fn place(&self) -> &AtomicUsize {
        &self.cores.places[self.name.number()].0
    }

    fn take(&mut self, io: &Io, hold: &mut Hold) -> bool {
        let mut taken = match *hold {
            Hold::Words(taken) => taken,
            Hold::Nothing | Hold::Unlocked => 0,
        };
        let has_all = self.cores.lock.take(self.name, io.lba.0, io.blocks, &mut taken);
        *hold = Hold::Words(taken);
        has_all
    }

    /// Looks whether changes take stripes; if not, the caller's is counted by the place.
    #[inline]
    fn must_take(&mut self) -> bool {
        if self.unlocked == 0 {
            // Relaxed: the fence orders it before the look at `swaps`.
            self.place().store(UNLOCKED, Ordering::Relaxed);
            // Partner: the fence in `do_all_take`.
            fence(Ordering::SeqCst);
        }
        // Relaxed, after the fence. With others in flight there was none, and an old value does no
        // harm: the place says UNLOCKED until the last of them has ended.
        self.takes = self.cores.swaps.load(Ordering::Relaxed);
        if self.takes && self.unlocked == 0 {
            // Release: as in `end`.
            self.place().store(QUIET, Ordering::Release);
        }
        self.takes
    }

    /// True once every change in flight, on any core, has its stripes.
    fn do_all_take(&mut self) -> bool {
        if !self.all_take {
            self.takes = true;
            // Relaxed: the fence orders it before the look at the places.
            self.cores.swaps.store(true, Ordering::Relaxed);
            // Partner: the fence in `must_take`.
            fence(Ordering::SeqCst);
            let mut places = self.cores.places.iter();
            // Acquire, partner: the releases of QUIET.
            self.all_take = places.all(|place| place.0.load(Ordering::Acquire) != UNLOCKED);
        }
        self.all_take
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.cores.lock.forget(self.name);
        // Release, partner: the acquires in `join` and `do_all_take`.
        self.place().store(FREE, Ordering::Release);
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Lba, Memory, Token};

    fn io(operation: Operation, lba: u64) -> Io {
        Io::with_memory(operation, Lba(lba), 1, Memory::None, Token(0))
    }

    fn begin(member: &mut Member, operation: Operation, lba: u64) -> Option<Hold> {
        let mut hold = Hold::Nothing;
        member.begin(&io(operation, lba), &mut hold).then_some(hold)
    }

    #[test]
    fn nobody_takes_stripes_before_the_first_swap_and_that_waits_for_those_without() {
        let cores = Arc::new(Cores::new(512));
        let [mut one, mut two] = [(); 2].map(|()| cores.join().unwrap());
        let first = begin(&mut one, Operation::Write, 1000).unwrap();
        assert_eq!(first, Hold::Unlocked);
        assert_eq!(begin(&mut two, Operation::CompareAndWrite, 0), None);
        let second = begin(&mut one, Operation::Write, 2000).unwrap();
        assert_eq!(second, Hold::Words(1), "it has seen that there are swaps");
        one.end(&io(Operation::Write, 1000), first);
        assert_eq!(begin(&mut two, Operation::CompareAndWrite, 0), Some(Hold::Words(1)));
        assert_eq!(begin(&mut one, Operation::Read, 0), Some(Hold::Nothing));
        assert_eq!(begin(&mut one, Operation::Unmap, 1), None, "the stripe is taken");
    }

    #[test]
    fn who_withdraws_leaves_its_turn_to_others() {
        let cores = Arc::new(Cores::new(512));
        let [mut one, mut two, mut three] = [(); 3].map(|()| cores.join().unwrap());
        let swap = io(Operation::CompareAndWrite, 0);
        let held = begin(&mut one, swap.operation, 0).unwrap();
        let mut waits = Hold::Nothing;
        assert!(!two.begin(&swap, &mut waits));
        one.end(&swap, held);
        assert_eq!(begin(&mut three, swap.operation, 0), None, "it is the second one's turn");
        two.withdraw(&swap, waits);
        assert!(begin(&mut three, swap.operation, 0).is_some());
    }

    #[test]
    fn there_are_as_many_members_as_places() {
        let cores = Arc::new(Cores::new(512));
        let members: Vec<_> = (0..MEMBERS_MAX).map(|_| cores.join().unwrap()).collect();
        assert!(cores.join().is_none());
        drop(members);
        assert!(cores.join().is_some());
    }
}

#[cfg(loom)]
#[cfg(test)]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::io::{Lba, Memory, Token};

    /// A counter in place of the disk, changed by load and store apart and relaxed.
    fn change(cores: &Arc<Cores>, counter: &AtomicUsize, operation: Operation) {
        let mut member = cores.join().expect("a place for each thread");
        let io = Io::with_memory(operation, Lba(0), 1, Memory::None, Token(0));
        let mut hold = Hold::Nothing;
        while !member.begin(&io, &mut hold) {
            thread::yield_now();
        }
        let value = counter.load(Ordering::Relaxed);
        counter.store(value + 1, Ordering::Relaxed);
        member.end(&io, hold);
    }

    #[test]
    fn loom_no_write_meets_the_first_swap() {
        loom::model(|| {
            let cores = Arc::new(Cores::new(512));
            let counter = Arc::new(AtomicUsize::new(0));
            let other = thread::spawn({
                let (cores, counter) = (cores.clone(), counter.clone());
                move || change(&cores, &counter, Operation::Write)
            });
            change(&cores, &counter, Operation::CompareAndWrite);
            other.join().unwrap();
            assert_eq!(counter.load(Ordering::Relaxed), 2);
        });
    }
}
