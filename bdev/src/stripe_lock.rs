//! Keeps overlapping writes of several cores apart: one word a stripe of 64 KiB.
//!
//! Shared by the cores of a device while more than one has it open, on each core's thread; with
//! one, the device needs no lock between cores and no word is touched. A word says which member of
//! the lock has the stripe, for how many of its I/Os, and who is next. Within a member its own
//! table keeps I/Os apart, so a member may have several in one stripe. Words are taken in ascending
//! order, and nobody spins: who must wait keeps what it has, parks in its slot, and tries again
//! when it is polled. A member that sees somebody next begins nothing new in the stripe, so turns
//! are taken.
//!
//! Here and in `range_lock` only is an atomic read, changed and written on the path of an
//! I/O (ARCHITECTURE 6). That lock, of the RAM disk, is held within one call and has no order; here
//! a word is held as long as a replicated write takes, or a compare-and-write in steps.

use std::ops::Range;

use reactor::sync::{AtomicUsize, Ordering};

/// Bytes of a stripe.
pub const STRIPE_BYTES: u64 = 64 << 10;

/// Words, which stripes share modulo this number: 32 KiB, 256 MiB of volume before two meet. Fewer
/// under loom, which models each.
#[cfg(not(loom))]
const WORDS: usize = 4096;
#[cfg(loom)]
const WORDS: usize = 2;

const COUNT_BITS: u32 = 32;
const NAME_BITS: u32 = 16;
const NAME_MASK: usize = (1 << NAME_BITS) - 1;
const COUNT_MASK: usize = (1 << COUNT_BITS) - 1;
const _: () = assert!(usize::BITS == COUNT_BITS + 2 * NAME_BITS, "a word holds two names, a count");

/// A member of the lock: a core's queue pair, or a rebuild. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockMember(u16);

impl LockMember {
    /// The member of a number from zero; nothing when there are too many.
    pub fn new(number: usize) -> Option<LockMember> {
        u16::try_from(number + 1).ok().map(LockMember)
    }

    /// Its number from zero.
    pub fn number(self) -> usize {
        usize::from(self.0) - 1
    }

    fn from_name(name: usize) -> Option<LockMember> {
        let name = u16::try_from(name).expect("a name has 16 bits");
        (name != 0).then_some(LockMember(name))
    }

    fn name(self) -> usize {
        usize::from(self.0)
    }
}

/// The content of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    owner: usize,
    next: usize,
    count: usize,
}

impl Word {
    fn unpack(word: usize) -> Word {
        Word {
            owner: word >> (COUNT_BITS + NAME_BITS),
            next: (word >> COUNT_BITS) & NAME_MASK,
            count: word & COUNT_MASK,
        }
    }

    fn pack(self) -> usize {
        self.owner << (COUNT_BITS + NAME_BITS) | self.next << COUNT_BITS | self.count
    }

    /// After a try of `name`: the new content, and whether it has the stripe. Nothing when the word
    /// stays as it is and the stripe is somebody else's.
    fn tried_by(self, name: usize) -> Option<(Word, bool)> {
        let is_free = self.count == 0 && (self.owner == 0 || self.owner == name);
        if is_free || (self.owner == name && self.next == 0) {
            return Some((Word { owner: name, count: self.count + 1, ..self }, true));
        }
        (self.owner != name && self.next == 0).then_some((Word { next: name, ..self }, false))
    }

    /// After `name` has given up its turn, had or to come; nothing when it has none.
    fn withdrawn_by(self, name: usize) -> Option<Word> {
        let has_turn = self.owner == name && self.count == 0;
        if has_turn {
            return Some(Word { owner: self.next, next: 0, count: 0 });
        }
        (self.next == name).then_some(Word { next: 0, ..self })
    }

    /// After one I/O of the owner has left.
    fn released(self) -> Word {
        match self.count {
            1 => Word { owner: self.next, next: 0, count: 0 },
            _ => Word { count: self.count - 1, ..self },
        }
    }
}

/// The words.
#[derive(Debug)]
pub struct StripeLock {
    words: Box<[AtomicUsize]>,
    stripe_blocks: u64,
}

impl StripeLock {
    /// All free, for a volume of blocks of `block_bytes`.
    pub fn new(block_bytes: u32) -> StripeLock {
        StripeLock {
            words: (0..WORDS).map(|_| AtomicUsize::new(0)).collect(),
            stripe_blocks: STRIPE_BYTES / u64::from(block_bytes),
        }
    }

    /// Takes the words of a range of `blocks` blocks (not zero) beyond the first `taken`, which the
    /// caller has; advances `taken`. True when it has all of them.
    #[inline]
    pub fn take(&self, member: LockMember, start: u64, blocks: u32, taken: &mut u32) -> bool {
        let words = self.words_of(start, blocks);
        for index in words.skip(*taken as usize) {
            if !self.try_word(member, index) {
                return false;
            }
            *taken += 1;
        }
        true
    }

    /// Gives back the first `taken` words of a range. Each member whose turn has come is handed to
    /// `turn`, to be woken.
    #[inline]
    pub fn release(&self, start: u64, blocks: u32, taken: u32, mut turn: impl FnMut(LockMember)) {
        for index in self.words_of(start, blocks).take(taken as usize) {
            if let Some(next) = self.release_word(index) {
                turn(next);
            }
        }
    }

    /// Gives back the first `taken` words of a range, and the turn at the next word, for which
    /// [`StripeLock::take`] tried in vain: the I/O has ended before it had them all. Others of the
    /// member's I/Os that wait for that word have to try again. `turn` is as in
    /// [`StripeLock::release`].
    #[cold]
    pub fn withdraw(
        &self,
        member: LockMember,
        start: u64,
        blocks: u32,
        taken: u32,
        mut turn: impl FnMut(LockMember),
    ) {
        self.release(start, blocks, taken, &mut turn);
        let tried = self.words_of(start, blocks).nth(taken as usize);
        if let Some(next) = tried.and_then(|index| self.withdraw_word(member, index)) {
            turn(next);
        }
    }

    /// True when another member than `member` has a part of the range: the answer of a read waits.
    #[inline]
    pub fn is_written_by_others(&self, member: LockMember, start: u64, blocks: u32) -> bool {
        self.words_of(start, blocks).any(|index| {
            // Acquire, partner: the release in `release_word`, so that a read that finds nobody
            // comes after the writes that ended.
            let word = Word::unpack(self.words[index].load(Ordering::Acquire));
            word.count > 0 && word.owner != member.name()
        })
    }

    /// Forgets a member that is gone with whatever it had.
    pub fn forget(&self, member: LockMember) {
        let name = member.name();
        for word in &self.words {
            let forgotten = |word| {
                let word = Word::unpack(word);
                let next = if word.next == name { 0 } else { word.next };
                let kept = Word { next, ..word };
                let gone = Word { owner: next, next: 0, count: 0 };
                let new = if word.owner == name { gone } else { kept };
                (new != word).then_some(new.pack())
            };
            // Release, partner: the acquire in `try_word`. The result is the old value or that
            // nothing was to be changed; neither matters.
            let _ = word.fetch_update(Ordering::Release, Ordering::Relaxed, forgotten);
        }
    }

    #[inline]
    fn try_word(&self, member: LockMember, index: usize) -> bool {
        let word = &self.words[index];
        // Relaxed: only a guess for the exchange, which decides.
        let mut current = word.load(Ordering::Relaxed);
        loop {
            let Some((new, has)) = Word::unpack(current).tried_by(member.name()) else {
                return false;
            };
            // Acquire, partner: the release in `release_word`: what the last owner wrote, and had
            // its children write, comes before what this one begins.
            match word.compare_exchange_weak(
                current,
                new.pack(),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return has,
                Err(seen) => current = seen,
            }
        }
    }

    #[inline]
    fn release_word(&self, index: usize) -> Option<LockMember> {
        let word = &self.words[index];
        // Relaxed: only a guess for the exchange, which decides.
        let mut current = word.load(Ordering::Relaxed);
        loop {
            let new = Word::unpack(current).released();
            // Release, partner: the acquires in `try_word` and `is_written_by_others`.
            match word.compare_exchange_weak(
                current,
                new.pack(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) if new.count == 0 => return LockMember::from_name(new.owner),
                Ok(_) => return None,
                Err(seen) => current = seen,
            }
        }
    }

    fn withdraw_word(&self, member: LockMember, index: usize) -> Option<LockMember> {
        let word = &self.words[index];
        // Relaxed: only a guess for the exchange, which decides.
        let mut current = word.load(Ordering::Relaxed);
        loop {
            let new = Word::unpack(current).withdrawn_by(member.name())?;
            // Release, partner: the acquire in `try_word`. This member has written nothing here;
            // what the one before it wrote goes along with the exchange.
            match word.compare_exchange_weak(
                current,
                new.pack(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) if new.count == 0 => return LockMember::from_name(new.owner),
                Ok(_) => return None,
                Err(seen) => current = seen,
            }
        }
    }

    /// The words of a range in ascending order, each once.
    #[inline]
    fn words_of(&self, start: u64, blocks: u32) -> std::iter::Chain<Range<usize>, Range<usize>> {
        let first = start / self.stripe_blocks;
        let last = (start + u64::from(blocks) - 1) / self.stripe_blocks;
        let stripes = last - first + 1;
        if stripes >= WORDS as u64 {
            return (0..0).chain(0..WORDS);
        }
        let from = (first % WORDS as u64) as usize;
        let to = from + stripes as usize;
        match to.checked_sub(WORDS) {
            Some(wrapped) => (0..wrapped).chain(from..WORDS),
            None => (0..0).chain(from..to),
        }
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    const STRIPE_BLOCKS: u32 = (STRIPE_BYTES / 512) as u32;

    fn members() -> [LockMember; 3] {
        [0, 1, 2].map(|number| LockMember::new(number).unwrap())
    }

    fn take(lock: &StripeLock, member: LockMember, start: u64, blocks: u32) -> bool {
        lock.take(member, start, blocks, &mut 0)
    }

    fn release(lock: &StripeLock, start: u64, blocks: u32, taken: u32) -> Vec<LockMember> {
        let mut turns = Vec::new();
        lock.release(start, blocks, taken, |member| turns.push(member));
        turns
    }

    #[test]
    fn a_member_may_have_several_ios_in_a_stripe_and_others_none() {
        let lock = StripeLock::new(512);
        let [one, two, _] = members();
        assert!(take(&lock, one, 0, 1) && take(&lock, one, 1, 1));
        assert!(!lock.is_written_by_others(one, 0, 1) && lock.is_written_by_others(two, 0, 1));
        assert!(!take(&lock, two, 0, 1));
        assert!(take(&lock, two, u64::from(STRIPE_BLOCKS), 1));
        assert_eq!(release(&lock, 0, 1, 1), []);
        assert_eq!(release(&lock, 1, 1, 1), [two]);
        assert!(!lock.is_written_by_others(two, 0, 1));
        assert!(take(&lock, two, 0, 1));
    }

    #[test]
    fn who_sees_another_waiting_begins_nothing_new_there() {
        let lock = StripeLock::new(512);
        let [one, two, three] = members();
        assert!(take(&lock, one, 0, 1));
        assert!(!take(&lock, two, 0, 1) && !take(&lock, three, 0, 1));
        assert!(!take(&lock, one, 1, 1), "it is the second one's turn");
        assert_eq!(release(&lock, 0, 1, 1), [two]);
        assert!(!take(&lock, one, 0, 1), "and nobody takes it from under him");
        assert!(take(&lock, two, 0, 1));
        assert_eq!(release(&lock, 0, 1, 1), [one]);
    }

    #[test]
    fn what_was_taken_is_kept_until_the_rest_can_be() {
        let lock = StripeLock::new(512);
        let [one, two, _] = members();
        let (blocks, mut taken) = (3 * STRIPE_BLOCKS, 0);
        assert!(take(&lock, two, u64::from(2 * STRIPE_BLOCKS), 1));
        assert!(!lock.take(one, 0, blocks, &mut taken));
        assert_eq!(taken, 2);
        assert_eq!(release(&lock, u64::from(2 * STRIPE_BLOCKS), 1, 1), [one]);
        assert!(lock.take(one, 0, blocks, &mut taken));
        assert_eq!(taken, 3);
        assert_eq!(release(&lock, 0, blocks, taken), []);
        assert!(lock.words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn a_turn_given_up_goes_to_the_next_one_whether_it_had_come_or_not() {
        let lock = StripeLock::new(512);
        let [one, two, three] = members();
        let withdraw = |member, taken| {
            let mut turns = Vec::new();
            lock.withdraw(member, 0, 2 * STRIPE_BLOCKS, taken, |member| turns.push(member));
            turns
        };
        let second = u64::from(STRIPE_BLOCKS);
        assert!(take(&lock, one, second, 1));
        let mut taken = 0;
        assert!(!lock.take(two, 0, 2 * STRIPE_BLOCKS, &mut taken));
        assert!(!take(&lock, three, 0, 1), "the second one has the first stripe");
        assert_eq!(withdraw(two, taken), [three]);
        assert_eq!(release(&lock, second, 1, 1), [], "nobody waits for the second stripe");
        assert!(take(&lock, three, 0, 1));
        assert!(!take(&lock, two, 0, 1));
        assert_eq!(release(&lock, 0, 1, 1), [two]);
        assert!(!take(&lock, one, 0, 1));
        assert_eq!(withdraw(two, 0), [one], "its turn had come");
        assert!(take(&lock, one, 0, 1));
        assert_eq!(release(&lock, 0, 1, 1), []);
        assert!(lock.words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn a_range_as_long_as_the_array_takes_each_word_once() {
        let lock = StripeLock::new(512);
        let [one, ..] = members();
        let mut taken = 0;
        assert!(lock.take(one, 7, u32::MAX, &mut taken));
        assert_eq!(taken as usize, WORDS);
        let wrapped = lock.words_of(WORDS as u64 * u64::from(STRIPE_BLOCKS) - 1, 2);
        assert_eq!(wrapped.collect::<Vec<_>>(), [0, WORDS - 1]);
    }

    #[test]
    fn a_member_that_is_gone_leaves_nothing_behind() {
        let lock = StripeLock::new(512);
        let [one, two, _] = members();
        assert!(take(&lock, one, 0, 1) && take(&lock, two, 1000, 1));
        assert!(!take(&lock, two, 0, 1) && !take(&lock, one, 1000, 1));
        lock.forget(one);
        assert!(take(&lock, two, 0, 1) && take(&lock, two, 1000, 1));
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
    struct Volume {
        lock: StripeLock,
        counter: AtomicUsize,
    }

    fn count(volume: &Volume, number: usize, blocks: u32) {
        let member = LockMember::new(number).unwrap();
        let mut taken = 0;
        while !volume.lock.take(member, 0, blocks, &mut taken) {
            thread::yield_now();
        }
        let counter = volume.counter.load(Ordering::Relaxed);
        volume.counter.store(counter + 1, Ordering::Relaxed);
        volume.lock.release(0, blocks, taken, |_| ());
    }

    #[test]
    fn loom_two_cores_never_write_one_stripe_together() {
        loom::model(|| {
            let lock = StripeLock::new(512);
            let volume = Arc::new(Volume { lock, counter: AtomicUsize::new(0) });
            let other = thread::spawn({
                let volume = volume.clone();
                move || count(&volume, 1, 129)
            });
            count(&volume, 0, 1);
            other.join().unwrap();
            assert_eq!(volume.counter.load(Ordering::Relaxed), 2);
        });
    }
}
