//! What the host writes into a block, so that what is read says which write it is from.
//!
//! A block repeats two words: the number of the write, and the block's own number mixed with the
//! seed. So data of another block, of another run, and a block of two halves all show.

/// Bytes of a block of every simulated device.
pub const BLOCK_BYTES: u32 = 512;

/// Number of a write, unique in a run. Zero is what no write has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Blocks of zeroes, never written or written as such.
    pub const ZERO: Stamp = Stamp(0);
}

/// A block's content.
pub type Content = [u8; BLOCK_BYTES as usize];

const WORD: usize = size_of::<u64>();

fn own_word(seed: u64, block: u64) -> u64 {
    seed.rotate_left(32) ^ block.wrapping_add(1)
}

/// The content of a block after a write.
pub fn encode(seed: u64, block: u64, stamp: Stamp) -> Content {
    let mut content = [0; BLOCK_BYTES as usize];
    if stamp != Stamp::ZERO {
        for pair in content.chunks_exact_mut(2 * WORD) {
            pair[..WORD].copy_from_slice(&stamp.0.to_le_bytes());
            pair[WORD..].copy_from_slice(&own_word(seed, block).to_le_bytes());
        }
    }
    content
}

/// Which write a block's content is from; nothing when it is from none.
pub fn decode(seed: u64, block: u64, content: &[u8]) -> Option<Stamp> {
    let word: [u8; WORD] = content.get(..WORD)?.try_into().ok()?;
    let stamp = Stamp(u64::from_le_bytes(word));
    (content == encode(seed, block, stamp)).then_some(stamp)
}

/// Which write a block's content is from, whichever block it is; nothing for anything else.
pub fn stamp_of(content: &[u8]) -> Option<Stamp> {
    let (first, rest) = content.split_at_checked(2 * WORD)?;
    let is_repeated = rest.chunks_exact(2 * WORD).all(|pair| pair == first);
    let word: [u8; WORD] = first[..WORD].try_into().ok()?;
    is_repeated.then_some(Stamp(u64::from_le_bytes(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_says_which_write_it_is_from_and_zeroes_are_from_none() {
        let content = encode(7, 3, Stamp(9));
        assert_eq!(decode(7, 3, &content), Some(Stamp(9)));
        assert_eq!(decode(7, 3, &[0; BLOCK_BYTES as usize]), Some(Stamp::ZERO));
    }

    #[test]
    fn another_block_another_run_and_a_torn_block_are_from_nowhere() {
        let content = encode(7, 3, Stamp(9));
        assert_eq!(decode(7, 4, &content), None);
        assert_eq!(decode(8, 3, &content), None);
        let mut torn = content;
        torn[256..].copy_from_slice(&encode(7, 3, Stamp(8))[256..]);
        assert_eq!(decode(7, 3, &torn), None);
        assert_eq!(decode(7, 3, &content[1..]), None);
    }
}
