//! Which regions of the volume are marked as being written: the cores' side of the write-intent
//! map.
//!
//! One bit a region, shared by the cores. A write looks at its regions with plain loads; where a
//! bit is clear it says so ([`IntentMap::want`]) and waits in its slot. [`crate::Home`] has
//! [`crate::truth::Truth`] make the mark durable on every member, and then sets the bit
//! (replica-truth rule 18).
//!
//! Clearing (rule 19) takes the bit back first, so that the next write to the region waits, then
//! lets every write end that may have seen it, flushes, and only then has the mark cleared.

use bdev::io::{Io, Operation};
use reactor::sync::{AtomicUsize, Ordering};

/// A region of the volume, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionIndex(pub u64);

/// Bytes of a region: 4 MiB. The limit of 1 GiB dirty is 256 regions, which is what is read after a
/// crash, and a volume of 100 GiB has 25,600 of them, a map of 3 KiB. Smaller ones would mark more
/// often, larger ones copy more for a single write.
pub const REGION_BYTES: u64 = 4 << 20;

const WORD_BITS: u64 = usize::BITS as u64;

/// The bits, and which are wanted.
#[derive(Debug)]
pub struct IntentMap {
    regions: u64,
    /// A region has two to this power blocks: a division would take longer than the look.
    region_shift: u32,
    marked: Box<[AtomicUsize]>,
    wanted: Box<[AtomicUsize]>,
    /// Where something was wanted since the home core last looked: a bit for each of as many equal
    /// parts of `wanted`, so that a look at a large map is short too.
    wanted_parts: AtomicUsize,
    /// Words of `wanted` in a part.
    part_words: usize,
    /// Counts the times at which the home core has set marks.
    changes: AtomicUsize,
}

impl IntentMap {
    /// All clear, for a volume of `blocks` blocks of `block_bytes` bytes, in regions of
    /// [`REGION_BYTES`].
    pub fn new(blocks: u64, block_bytes: u32) -> IntentMap {
        IntentMap::with_regions(blocks, block_bytes, REGION_BYTES)
    }

    /// The same with larger regions, as very large volumes have them.
    pub fn with_regions(blocks: u64, block_bytes: u32, region_bytes: u64) -> IntentMap {
        let region_blocks = region_bytes / u64::from(block_bytes);
        assert!(region_blocks.is_power_of_two(), "regions and blocks are powers of two");
        let regions = blocks.div_ceil(region_blocks);
        let words = usize::try_from(regions.div_ceil(WORD_BITS)).expect("regions are countable");
        let zeroes = || (0..words).map(|_| AtomicUsize::new(0)).collect();
        IntentMap {
            regions,
            region_shift: region_blocks.trailing_zeros(),
            marked: zeroes(),
            wanted: zeroes(),
            wanted_parts: AtomicUsize::new(0),
            part_words: words.div_ceil(WORD_BITS as usize).max(1),
            changes: AtomicUsize::new(0),
        }
    }

    /// Number of regions.
    pub fn regions(&self) -> u64 {
        self.regions
    }

    /// The regions that have one of `blocks` blocks (not zero) from `lba` on: first and last.
    #[inline]
    pub fn regions_of(&self, lba: u64, blocks: u32) -> (RegionIndex, RegionIndex) {
        let last = lba + u64::from(blocks) - 1;
        (RegionIndex(lba >> self.region_shift), RegionIndex(last >> self.region_shift))
    }

    /// True when a region may be written.
    #[inline]
    pub fn is_marked(&self, region: RegionIndex) -> bool {
        let (word, bit) = place(region);
        // Acquire, partner: the release in `set_marked`.
        self.marked[word].load(Ordering::Acquire) & bit != 0
    }

    /// Asks the home core for a mark. True when nobody had asked since it last looked, so that the
    /// home core must be woken.
    pub fn want(&self, region: RegionIndex) -> bool {
        let (word, bit) = place(region);
        // Release, partner: the acquire in `take_wanted`.
        self.wanted[word].fetch_or(bit, Ordering::Release);
        self.wanted_parts.fetch_or(1 << (word / self.part_words), Ordering::AcqRel) == 0
    }

    /// True when every region of an I/O is marked; asks for the others, and has the home core woken
    /// where need be.
    #[inline]
    pub fn has_all(&self, io: &Io, wake_home: impl Fn()) -> bool {
        if io.operation == Operation::Flush {
            return true;
        }
        let (first, last) = self.regions_of(io.lba.0, io.blocks);
        if first == last && self.is_marked(first) {
            return true;
        }
        self.want_all(first, last, wake_home)
    }

    /// True when every region of an I/O that has some is marked. Asks for nothing.
    #[inline]
    pub fn are_all_marked(&self, io: &Io) -> bool {
        let (first, last) = self.regions_of(io.lba.0, io.blocks);
        (first.0..=last.0).all(|region| self.is_marked(RegionIndex(region)))
    }

    /// The rest of [`IntentMap::has_all`]: of I/Os that lie in several regions, or wait.
    #[inline(never)]
    fn want_all(&self, first: RegionIndex, last: RegionIndex, wake_home: impl Fn()) -> bool {
        let mut all = true;
        for region in (first.0..=last.0).map(RegionIndex) {
            if !self.is_marked(region) {
                all = false;
                if self.want(region) {
                    wake_home();
                }
            }
        }
        all
    }

    /// Another number than before when marks were set since, all of which are seen then: what
    /// waits for one is looked at again.
    #[inline]
    pub fn changes(&self) -> usize {
        // Acquire, partner: the release in `announce`.
        self.changes.load(Ordering::Acquire)
    }

    /// Home core: marks were set since the last call.
    pub fn announce(&self) {
        // Relaxed: only the home core writes it.
        let changes = self.changes.load(Ordering::Relaxed).wrapping_add(1);
        // Release, partner: the acquire in `changes`.
        self.changes.store(changes, Ordering::Release);
    }

    /// Home core: whether something was wanted since [`IntentMap::take_wanted`]. To be asked
    /// between announcing a sleep and sleeping: who wants something before that rings nobody.
    #[inline]
    pub fn is_any_wanted(&self) -> bool {
        // Relaxed: of the fences in `Sleeper::prepare` and `Waker::wake_if_sleeping`, which come
        // before this and after the exchange in `want`, one sees what was stored before the other.
        self.wanted_parts.load(Ordering::Relaxed) != 0
    }

    /// Home core: hands each region that is wanted to `each`, and forgets that it was.
    pub fn take_wanted(&self, mut each: impl FnMut(RegionIndex)) {
        // Acquire, partner: the exchange in `want`. Relaxed look first: nothing is wanted mostly.
        if self.wanted_parts.load(Ordering::Relaxed) == 0 {
            return;
        }
        for part in bits_of(self.wanted_parts.swap(0, Ordering::AcqRel)) {
            let first = part * self.part_words;
            for (index, word) in self.wanted.iter().enumerate().skip(first).take(self.part_words) {
                // Relaxed look first; acquire, partner: the release in `want`.
                if word.load(Ordering::Relaxed) == 0 {
                    continue;
                }
                for bit in bits_of(word.swap(0, Ordering::Acquire)) {
                    each(RegionIndex(index as u64 * WORD_BITS + bit as u64));
                }
            }
        }
    }

    /// Home core: the mark is durable on every member.
    pub fn set_marked(&self, region: RegionIndex) {
        let (word, bit) = place(region);
        // Release, partner: the acquire in `is_marked`.
        self.marked[word].fetch_or(bit, Ordering::Release);
    }

    /// Home core: writes that come from now on wait for another mark.
    pub fn take_back(&self, region: RegionIndex) {
        let (word, bit) = place(region);
        // Release: whoever sees the bit gone may see all before it; nothing depends on it.
        self.marked[word].fetch_and(!bit, Ordering::Release);
    }
}

/// The numbers of the bits that are set.
fn bits_of(mut word: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(bit)
    })
}

fn place(region: RegionIndex) -> (usize, usize) {
    let word = usize::try_from(region.0 / WORD_BITS).expect("regions are countable");
    (word, 1 << (region.0 % WORD_BITS))
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    fn taken(map: &IntentMap) -> Vec<u64> {
        let mut regions = Vec::new();
        map.take_wanted(|region| regions.push(region.0));
        regions
    }

    #[test]
    fn the_last_region_may_be_short() {
        let blocks = 2 * REGION_BYTES / 512;
        assert_eq!(IntentMap::new(blocks, 512).regions(), 2);
        assert_eq!(IntentMap::new(blocks + 1, 512).regions(), 3);
    }

    #[test]
    fn a_range_names_the_regions_at_both_of_its_ends() {
        let map = IntentMap::new(1 << 30, 512);
        let region_blocks = REGION_BYTES / 512;
        let of = |lba, blocks| {
            let (first, last) = map.regions_of(lba, blocks);
            (first.0, last.0)
        };
        assert_eq!(of(0, 1), (0, 0));
        assert_eq!(of(region_blocks - 1, 1), (0, 0));
        assert_eq!(of(region_blocks - 1, 2), (0, 1));
        assert_eq!(of(region_blocks, 1), (1, 1));
    }

    #[test]
    fn what_is_wanted_is_handed_out_once_and_asking_twice_wakes_once() {
        let map = IntentMap::new(1 << 30, 512);
        assert!(!map.is_any_wanted());
        assert!(map.want(RegionIndex(70)));
        assert!(map.is_any_wanted());
        assert!(!map.want(RegionIndex(3)));
        assert!(!map.want(RegionIndex(70)));
        assert_eq!(taken(&map), [3, 70]);
        assert!(!map.is_any_wanted());
        assert_eq!(taken(&map), [0; 0]);
        assert!(map.want(RegionIndex(3)));
    }

    #[test]
    fn what_is_wanted_anywhere_in_a_large_map_is_found() {
        let map = IntentMap::new(REGION_BYTES / 512 * 10_001, 512);
        let regions = [0, 63, 64, 4_999, 9_983, 9_984, 10_000];
        for region in regions {
            map.want(RegionIndex(region));
        }
        assert_eq!(taken(&map), regions);
        assert_eq!(taken(&map), [0; 0]);
    }

    #[test]
    fn marks_that_were_set_are_announced() {
        let map = IntentMap::new(1 << 30, 512);
        let before = map.changes();
        map.set_marked(RegionIndex(1));
        map.announce();
        assert_ne!(map.changes(), before);
    }

    #[test]
    fn a_mark_holds_until_it_is_taken_back() {
        let map = IntentMap::new(1 << 30, 512);
        let region = RegionIndex(65);
        assert!(!map.is_marked(region));
        map.set_marked(region);
        assert!(map.is_marked(region) && !map.is_marked(RegionIndex(64)));
        map.take_back(region);
        assert!(!map.is_marked(region));
    }
}
