//! A set of regions of a volume, as it is kept in memory and in labels.
//!
//! Which regions are being written, or what an absent replica lacks. On the home core's slow path
//! and in tests; the cores' side of the write-intent map is [`crate::intent`].

use std::fmt;
use std::sync::Arc;

use crate::intent::RegionIndex;

const WORD_BITS: u64 = u64::BITS as u64;

/// A bit a region. A clone shares them with what it was cloned from until one of both changes, so
/// that the labels of all children, as they are and as they are to be, cost little.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RegionMap {
    regions: u64,
    /// How many bits are set, so that a map of nothing is known for one without a look at it.
    len: u64,
    words: Arc<[u64]>,
}

impl RegionMap {
    /// No region of `regions`.
    pub fn new(regions: u64) -> RegionMap {
        let words = usize::try_from(regions.div_ceil(WORD_BITS)).expect("regions are countable");
        RegionMap { regions, len: 0, words: vec![0; words].into() }
    }

    /// All of `regions`.
    pub fn full(regions: u64) -> RegionMap {
        let mut map = RegionMap::new(regions);
        map.words_mut().fill(u64::MAX);
        map.trim();
        map
    }

    /// How many there are, in it or not.
    pub fn regions(&self) -> u64 {
        self.regions
    }

    /// True when `region` is in it.
    pub fn contains(&self, region: RegionIndex) -> bool {
        let (word, bit) = self.place(region);
        self.words[word] & bit != 0
    }

    /// Adds a region; true when it was not there.
    pub fn insert(&mut self, region: RegionIndex) -> bool {
        let (word, bit) = self.place(region);
        let is_new = self.words[word] & bit == 0;
        if is_new {
            self.words_mut()[word] |= bit;
            self.len += 1;
        }
        is_new
    }

    /// Takes a region out; true when it was there.
    pub fn remove(&mut self, region: RegionIndex) -> bool {
        let (word, bit) = self.place(region);
        let was_there = self.words[word] & bit != 0;
        if was_there {
            self.words_mut()[word] &= !bit;
            self.len -= 1;
        }
        was_there
    }

    /// Adds all of `other`, which is of the same volume.
    pub fn unite(&mut self, other: &RegionMap) {
        assert_eq!(self.regions, other.regions, "maps of one volume");
        if other.is_empty() {
            return;
        }
        self.words_mut().iter_mut().zip(&*other.words).for_each(|(word, more)| *word |= more);
        self.count();
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        if !self.is_empty() {
            self.words_mut().fill(0);
            self.len = 0;
        }
    }

    /// How many are in it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True when none is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Each region in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = RegionIndex> + '_ {
        (0..).zip(&*self.words).flat_map(|(index, word)| {
            let mut bits = *word;
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| u64::from(bits.trailing_zeros()))?;
                bits &= bits - 1;
                Some(RegionIndex(index * WORD_BITS + bit))
            })
        })
    }

    /// The map for a volume of another length. What is new is not in it.
    #[must_use]
    pub fn resized(&self, regions: u64) -> RegionMap {
        let mut map = RegionMap::new(regions);
        map.words_mut().iter_mut().zip(&*self.words).for_each(|(word, old)| *word = *old);
        map.trim();
        map
    }

    /// Its bits from region `first` on, as they are kept on a page: region `first + n` is bit
    /// `n % 8` of byte `n / 8`. `first` is a multiple of 64, and the page has whole words.
    pub(super) fn write_page(&self, first: u64, bytes: &mut [u8]) {
        let words = self.words_from(first);
        let (chunks, _) = bytes.as_chunks_mut();
        for (chunk, word) in chunks.iter_mut().zip(words) {
            *chunk = word.to_le_bytes();
        }
        if let Some(rest) = bytes.get_mut(8 * words.len()..) {
            rest.fill(0);
        }
    }

    /// True when [`RegionMap::write_page`] would write the same for both, of a page of so many
    /// regions.
    pub(super) fn is_same_page(&self, other: &RegionMap, first: u64, page_regions: u64) -> bool {
        let words = usize::try_from(page_regions / WORD_BITS).expect("regions are countable");
        if Arc::ptr_eq(&self.words, &other.words) {
            return true;
        }
        let (own, others) = (self.words_from(first), other.words_from(first));
        let words = words.min(own.len());
        self.regions == other.regions && own[..words] == others[..words]
    }

    /// Takes its bits from region `first` on from a page. Bits past the last region are ignored.
    pub(super) fn read_page(&mut self, first: u64, bytes: &[u8]) {
        let start = usize::try_from(first / WORD_BITS).expect("regions are countable");
        for (word, chunk) in self.words_mut().iter_mut().skip(start).zip(bytes.chunks(8)) {
            let mut value = [0; 8];
            value[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_le_bytes(value);
        }
        self.trim();
    }

    /// The words from region `first` on; none where that is past the last.
    fn words_from(&self, first: u64) -> &[u64] {
        assert!(first.is_multiple_of(WORD_BITS), "pages begin with a whole word");
        let start = usize::try_from(first / WORD_BITS).expect("regions are countable");
        self.words.get(start..).unwrap_or_default()
    }

    /// The words, which are its own from here on.
    fn words_mut(&mut self) -> &mut [u64] {
        Arc::make_mut(&mut self.words)
    }

    /// Takes out what is past the last region, and counts the rest.
    fn trim(&mut self) {
        let rest = self.regions % WORD_BITS;
        if let (true, Some(last)) = (rest != 0, self.words_mut().last_mut()) {
            *last &= (1 << rest) - 1;
        }
        self.count();
    }

    fn count(&mut self) {
        self.len = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
    }

    fn place(&self, region: RegionIndex) -> (usize, u64) {
        assert!(region.0 < self.regions, "the volume has no region {}", region.0);
        let word = usize::try_from(region.0 / WORD_BITS).expect("regions are countable");
        (word, 1 << (region.0 % WORD_BITS))
    }
}

impl fmt::Debug for RegionMap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of {} regions", self.len(), self.regions)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set_and_survives_pages(
            regions in 1..700u64,
            steps in proptest::collection::vec((any::<u64>(), any::<bool>()), 0..60),
        ) {
            let (mut map, mut set) = (RegionMap::new(regions), BTreeSet::new());
            for (region, add) in steps {
                let region = region % regions;
                if add {
                    prop_assert_eq!(map.insert(RegionIndex(region)), set.insert(region));
                } else {
                    prop_assert_eq!(map.remove(RegionIndex(region)), set.remove(&region));
                }
            }
            prop_assert_eq!(map.len(), set.len() as u64);
            let listed: Vec<u64> = map.iter().map(|region| region.0).collect();
            prop_assert_eq!(&listed, &set.iter().copied().collect::<Vec<_>>());
            let mut copy = RegionMap::new(regions);
            for first in (0..regions).step_by(128) {
                let mut page = [0xff; 16];
                map.write_page(first, &mut page);
                copy.read_page(first, &page);
                prop_assert!(copy.is_same_page(&map, first, 128));
            }
            prop_assert_eq!(copy.len(), map.len());
            prop_assert_eq!(&copy, &map);
            for region in (0..regions).map(RegionIndex) {
                let was_there = !copy.insert(region);
                let first = region.0 / 128 * 128;
                prop_assert_eq!(copy.is_same_page(&map, first, 128), was_there);
                if !was_there {
                    copy.remove(region);
                }
            }
        }
    }

    #[test]
    fn a_full_map_has_no_region_past_the_last() {
        for regions in [1, 63, 64, 65, 128] {
            let full = RegionMap::full(regions);
            assert_eq!(full.len(), regions);
            let mut read = RegionMap::new(regions);
            read.read_page(0, &[0xff; 64]);
            assert_eq!(read, full);
        }
    }

    #[test]
    fn a_volume_that_grows_keeps_its_marks() {
        let mut map = RegionMap::new(10);
        map.insert(RegionIndex(9));
        let grown = map.resized(100);
        assert_eq!(grown.iter().collect::<Vec<_>>(), [RegionIndex(9)]);
        assert_eq!(grown.regions(), 100);
    }
}
