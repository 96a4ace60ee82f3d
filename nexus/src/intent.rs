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
    /// Something was wanted since the home core last looked.
    any_wanted: AtomicUsize,
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
            any_wanted: AtomicUsize::new(0),
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
        self.any_wanted.swap(1, Ordering::AcqRel) == 0
    }

    /// True when every region of an I/O is marked; asks for the others, and has the home core woken
    /// where need be.
    #[inline]
    pub fn has_all(&self, io: &Io, wake_home: impl Fn()) -> bool {
        if io.operation == Operation::Flush {
            return true;
        }
        let (first, last) = self.regions_of(io.lba.0, io.blocks);
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

    /// Home core: whether something was wanted since [`IntentMap::take_wanted`]. To be asked
    /// between announcing a sleep and sleeping: who wants something before that rings nobody.
    #[inline]
    pub fn is_any_wanted(&self) -> bool {
        // Relaxed: of the fences in `Sleeper::prepare` and `Waker::wake_if_sleeping`, which come
        // before this and after the exchange in `want`, one sees what was stored before the other.
        self.any_wanted.load(Ordering::Relaxed) != 0
    }

    /// Home core: hands each region that is wanted to `each`, and forgets that it was.
    pub fn take_wanted(&self, mut each: impl FnMut(RegionIndex)) {
        // Acquire, partner: the exchange in `want`. Relaxed look first: nothing is wanted mostly.
        if self.any_wanted.load(Ordering::Relaxed) == 0
            || self.any_wanted.swap(0, Ordering::AcqRel) == 0
        {
            return;
        }
        for (index, word) in (0..).zip(&self.wanted) {
            // Relaxed look first; acquire, partner: the release in `want`.
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                each(RegionIndex(index * WORD_BITS + u64::from(bits.trailing_zeros())));
                bits &= bits - 1;
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
