//! What a device must hold, block by block, as far as it is known.

use super::Keeps;

/// The blocks of the device. A block has several possible contents only after a change of it
/// ended badly: it may have been done or not, until a read tells.
#[derive(Debug)]
pub(super) struct Model {
    keeps: Keeps,
    block_bytes: usize,
    blocks: Vec<Vec<Vec<u8>>>,
}

impl Model {
    /// A new device: zeroes.
    pub(super) fn new(keeps: Keeps, blocks: u64, block_bytes: u32) -> Model {
        let block_bytes = block_bytes as usize;
        let count = usize::try_from(blocks).expect("a device under test is small");
        Model { keeps, block_bytes, blocks: vec![vec![vec![0; block_bytes]]; count] }
    }

    /// A change was done: the bytes from block `lba` on.
    pub(super) fn change(&mut self, lba: u64, bytes: &[u8]) {
        for (index, bytes) in self.blocks_of(lba, bytes) {
            if self.keeps == Keeps::Everything {
                self.blocks[index] = vec![bytes.to_vec()];
            }
        }
    }

    /// A change may have been done, in any of its blocks.
    pub(super) fn may_change(&mut self, lba: u64, bytes: &[u8]) {
        for (index, bytes) in self.blocks_of(lba, bytes) {
            let known = self.blocks[index].iter().any(|content| content == bytes);
            if self.keeps == Keeps::Everything && !known {
                self.blocks[index].push(bytes.to_vec());
            }
        }
    }

    /// A read returned these bytes.
    pub(super) fn expect_read(&mut self, lba: u64, bytes: &[u8]) {
        for (index, bytes) in self.blocks_of(lba, bytes) {
            let possible = self.blocks[index].iter().any(|content| content == bytes);
            assert!(possible, "block {index} reads as what nobody wrote: {:02x?}…", &bytes[..16]);
            self.blocks[index] = vec![bytes.to_vec()];
        }
    }

    /// What is in the blocks, as a guess where several contents are possible.
    pub(super) fn guess(&self, lba: u64, blocks: u32) -> Vec<u8> {
        let first = usize::try_from(lba).expect("a device under test is small");
        self.blocks[first..first + blocks as usize].iter().flat_map(|one| one[0].clone()).collect()
    }

    /// Whether a compare with these bytes succeeds; nothing when that is not known.
    pub(super) fn compares(&self, lba: u64, bytes: &[u8]) -> Option<bool> {
        let mut all_known = true;
        for (index, bytes) in self.blocks_of(lba, bytes) {
            let contents = &self.blocks[index];
            if !contents.iter().any(|content| content == bytes) {
                return Some(false);
            }
            all_known &= contents.len() == 1;
        }
        all_known.then_some(true)
    }

    fn blocks_of<'a>(
        &self,
        lba: u64,
        bytes: &'a [u8],
    ) -> impl Iterator<Item = (usize, &'a [u8])> + use<'a> {
        let first = usize::try_from(lba).expect("a device under test is small");
        bytes.chunks_exact(self.block_bytes).enumerate().map(move |(at, bytes)| (first + at, bytes))
    }
}
