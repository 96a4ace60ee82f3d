//! The pattern that `--verify` writes, and what it expects of every read.
//!
//! Belongs to one core's load, which alone writes its part of the device. Each device block carries
//! its own address, a generation that grows with each write of its place, and words that follow
//! from both, so that a lost, stale, torn or misplaced write shows and says what it is. A place has
//! one I/O in flight at most: only then is the expectation exact.

use std::fmt;

use crate::harness::RunError;
use crate::workload::Extent;

/// Marks a place with an I/O in flight.
const BUSY: u32 = 1 << 31;

/// Largest table of generations: 2^28 places, 1 GiB.
pub const PLACES_MAX: u64 = 1 << 28;

/// The increment from word to word of a block: odd, so that all words of a block differ.
const WORD_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Words of a block before the derived ones: its address and its generation.
const HEADER_WORDS: usize = 2;

const WORD_BYTES: usize = 8;

/// A block that is not what was written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The block.
    pub lba: u64,
    /// The generation that was written last.
    pub expected_generation: u32,
    /// Byte of the block from which on it differs.
    pub offset_bytes: usize,
    /// What the block says that it is.
    pub found_lba: u64,
    /// Its generation.
    pub found_generation: u64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { lba, expected_generation, offset_bytes, found_lba, found_generation } = self;
        write!(
            f,
            "block {lba} generation {expected_generation} differs from byte {offset_bytes} on; it \
             says block {found_lba} generation {found_generation}"
        )
    }
}

/// What each place holds.
#[derive(Debug)]
pub struct Verifier {
    extent: Extent,
    block_bytes: u32,
    /// By place: generation written last, zero for never, and whether it is busy.
    generations: Vec<u32>,
    /// Where reading back goes on.
    next: usize,
}

impl Verifier {
    /// Expects nothing yet of any place.
    ///
    /// # Errors
    ///
    /// `Extent` above [`PLACES_MAX`].
    pub fn new(extent: Extent, block_bytes: u32) -> Result<Verifier, RunError> {
        if extent.places > PLACES_MAX {
            let reason = format!(
                "{} places are too many to verify: give a --size of {PLACES_MAX} at most",
                extent.places
            );
            return Err(RunError::Extent { reason });
        }
        let places = usize::try_from(extent.places).expect("the limit fits any address space");
        Ok(Verifier { extent, block_bytes, generations: vec![0; places], next: 0 })
    }

    /// Bytes of a place.
    pub fn place_bytes(&self) -> u32 {
        self.extent.place_blocks * self.block_bytes
    }

    /// Takes a place for one I/O and says which generation it holds; none while it is taken.
    pub fn take(&mut self, place: u64) -> Option<u32> {
        let entry = &mut self.generations[place as usize];
        if *entry & BUSY != 0 {
            return None;
        }
        let generation = *entry;
        *entry |= BUSY;
        // The counter may wrap after 2^31 writes of one place; it stays below the mark.
        Some(if generation == BUSY - 1 { 0 } else { generation })
    }

    /// Gives a place back, with the generation that it holds now.
    pub fn release(&mut self, place: u64, generation: u32) {
        self.generations[place as usize] = generation & !BUSY;
    }

    /// Takes the next place that was ever written; none when all have been taken.
    pub fn take_next_written(&mut self) -> Option<(u64, u32)> {
        while let Some(entry) = self.generations.get(self.next) {
            if *entry & BUSY != 0 {
                // Still being written: the next pass comes back to it.
                return None;
            }
            let (place, generation) = (self.next as u64, *entry);
            self.next += 1;
            if generation > 0 {
                self.generations[place as usize] |= BUSY;
                return Some((place, generation));
            }
        }
        None
    }

    /// Writes the pattern of a place to `bytes`, which may be longer.
    pub fn fill(&self, place: u64, generation: u32, bytes: &mut [u8]) {
        let first = self.extent.lba(place).0;
        let blocks =
            bytes[..self.place_bytes() as usize].chunks_exact_mut(self.block_bytes as usize);
        for (lba, block) in (first..).zip(blocks) {
            for (index, word) in block.as_chunks_mut::<WORD_BYTES>().0.iter_mut().enumerate() {
                *word = pattern_word(lba, generation, index).to_le_bytes();
            }
        }
    }

    /// Compares a place that was read; whatever was never written passes.
    ///
    /// # Errors
    ///
    /// The first block that differs.
    pub fn check(&self, place: u64, generation: u32, bytes: &[u8]) -> Result<(), Mismatch> {
        if generation == 0 {
            return Ok(());
        }
        let first = self.extent.lba(place).0;
        for (lba, block) in (first..).zip(bytes.chunks_exact(self.block_bytes as usize)) {
            let words = block.as_chunks::<WORD_BYTES>().0;
            let differs = |(index, word): (usize, &[u8; WORD_BYTES])| {
                u64::from_le_bytes(*word) != pattern_word(lba, generation, index)
            };
            if let Some(index) = words.iter().enumerate().position(differs) {
                return Err(Mismatch {
                    lba,
                    expected_generation: generation,
                    offset_bytes: index * WORD_BYTES,
                    found_lba: u64::from_le_bytes(words[0]),
                    found_generation: u64::from_le_bytes(words[1]),
                });
            }
        }
        Ok(())
    }
}

/// Word `index` of a block.
#[inline]
fn pattern_word(lba: u64, generation: u32, index: usize) -> u64 {
    match index {
        0 => lba,
        1 => u64::from(generation),
        _ => {
            let seed = (lba ^ u64::from(generation).rotate_left(40)).wrapping_mul(WORD_STEP);
            let mixed = seed ^ (seed >> 29);
            mixed.wrapping_add(((index - HEADER_WORDS) as u64).wrapping_mul(WORD_STEP))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bdev::Lba;
    use proptest::prelude::*;

    const EXTENT: Extent = Extent { first: Lba(8), places: 4, place_blocks: 8 };

    fn verifier() -> Verifier {
        Verifier::new(EXTENT, 512).unwrap()
    }

    fn filled(place: u64, generation: u32) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        verifier().fill(place, generation, &mut bytes);
        bytes
    }

    #[test]
    fn what_was_written_passes_and_anything_else_says_what_it_is() {
        assert_eq!(verifier().check(2, 3, &filled(2, 3)), Ok(()));
        let stale = verifier().check(2, 3, &filled(2, 2)).unwrap_err();
        assert_eq!((stale.lba, stale.offset_bytes, stale.found_generation), (24, 8, 2));
        let misplaced = verifier().check(2, 3, &filled(1, 3)).unwrap_err();
        assert_eq!((misplaced.offset_bytes, misplaced.found_lba), (0, 16));
        let text = stale.to_string();
        assert!(text.contains("block 24 generation 3 differs from byte 8 on"), "{text}");
    }

    #[test]
    fn a_torn_write_shows_at_the_block_where_it_tore() {
        let mut bytes = filled(0, 2);
        bytes[2048..].copy_from_slice(&filled(0, 1)[2048..]);
        assert_eq!(verifier().check(0, 2, &bytes).unwrap_err().lba, 12);
    }

    #[test]
    fn what_was_never_written_passes() {
        assert_eq!(verifier().check(0, 0, &[0; 4096]), Ok(()));
    }

    #[test]
    fn a_place_has_one_io_at_a_time_and_is_read_back_once() {
        let mut verifier = verifier();
        assert_eq!(verifier.take(2), Some(0));
        assert_eq!(verifier.take(2), None);
        assert_eq!(verifier.take_next_written(), None);
        verifier.release(2, 1);
        assert_eq!(verifier.take_next_written(), Some((2, 1)));
        verifier.release(2, 1);
        assert_eq!(verifier.take_next_written(), None);
    }

    #[test]
    fn the_table_has_a_limit() {
        let too_many = Extent { places: PLACES_MAX + 1, ..EXTENT };
        assert!(matches!(Verifier::new(too_many, 512), Err(RunError::Extent { .. })));
        // The largest table is not touched until it is used.
        assert!(Verifier::new(Extent { places: PLACES_MAX, ..EXTENT }, 512).is_ok());
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_found(byte in 0_usize..4096, bit in 0_u8..8, generation in 1_u32..) {
            let generation = generation & !BUSY;
            prop_assume!(generation > 0);
            let mut bytes = filled(1, generation);
            bytes[byte] ^= 1 << bit;
            let found = verifier().check(1, generation, &bytes).unwrap_err();
            let at = (found.lba - 16) as usize * 512 + found.offset_bytes;
            prop_assert_eq!(at, byte / 8 * 8);
        }
    }
}
