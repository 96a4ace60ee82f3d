//! What was written and acknowledged, and whether a block that was read is what it must be.
//!
//! Plain data, owned by the load. Each block carries its own number and the number of the write
//! that wrote it, all over: a block of another place, of an older write, or torn, is told from the
//! right one. A write that failed may have happened or not, so either is right until a later write
//! to the block is acknowledged.

/// Bytes of a block of the load.
pub(super) const BLOCK_BYTES: u32 = 4096;

/// Bytes of what a block says of itself: its number, and that of the write.
const STAMP_BYTES: usize = 16;

/// What is known of one block.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// The last write that was acknowledged; 0 for none.
    acknowledged: u64,
    /// Writes after it that failed.
    uncertain: Vec<u64>,
    /// An I/O to it is in flight.
    is_busy: bool,
}

/// Numbers of the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Writes that were sent.
    pub written: u64,
    /// Of them, those that were acknowledged.
    pub acknowledged: u64,
    /// Of them, those that failed.
    pub failed: u64,
    /// Blocks that were read back and looked at.
    pub checked: u64,
    /// Of them, those that do not hold what was acknowledged.
    pub lost: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    entries: Vec<Entry>,
    next_write: u64,
    tally: Tally,
}

impl Ledger {
    /// Of so many blocks, all zeroes.
    pub fn new(blocks: u64) -> Ledger {
        let count = usize::try_from(blocks).expect("a demo is small");
        Ledger { entries: vec![Entry::default(); count], next_write: 1, tally: Tally::default() }
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u64 {
        self.entries.len() as u64
    }

    /// What was counted.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Takes a block for an I/O, unless it has one.
    pub fn take(&mut self, block: u64) -> bool {
        let entry = self.entry(block);
        !std::mem::replace(&mut entry.is_busy, true)
    }

    /// A block's I/O is over, however it went.
    pub fn give_back(&mut self, block: u64) {
        self.entry(block).is_busy = false;
    }

    /// True for a block that was ever written.
    pub fn is_written(&self, block: u64) -> bool {
        let entry = &self.entries[block as usize];
        entry.acknowledged != 0 || !entry.uncertain.is_empty()
    }

    /// Begins a write: its number, and what the block is to hold.
    pub fn begin_write(&mut self, block: u64) -> (u64, Vec<u8>) {
        let write = self.next_write;
        self.next_write += 1;
        self.tally.written += 1;
        (write, content(block, write))
    }

    /// A write was acknowledged.
    pub fn acknowledge(&mut self, block: u64, write: u64) {
        self.tally.acknowledged += 1;
        let entry = self.entry(block);
        entry.acknowledged = write;
        entry.uncertain.clear();
    }

    /// A write failed: it may have happened all the same.
    pub fn fail(&mut self, block: u64, write: u64) {
        self.tally.failed += 1;
        self.entry(block).uncertain.push(write);
    }

    /// Looks at a block that was read while nothing wrote it; false if it is not what it must be.
    pub fn check(&mut self, block: u64, found: &[u8]) -> bool {
        self.tally.checked += 1;
        let entry = &self.entries[block as usize];
        let is = |write: u64| found == content(block, write);
        let is_right = is(entry.acknowledged) || entry.uncertain.iter().any(|write| is(*write));
        self.tally.lost += u64::from(!is_right);
        is_right
    }

    fn entry(&mut self, block: u64) -> &mut Entry {
        &mut self.entries[block as usize]
    }
}

/// What a block holds after a write; zeroes before the first.
fn content(block: u64, write: u64) -> Vec<u8> {
    if write == 0 {
        return vec![0; BLOCK_BYTES as usize];
    }
    let stamp = [block.to_le_bytes(), write.to_le_bytes()].concat();
    stamp.repeat(BLOCK_BYTES as usize / STAMP_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger with block 3 written twice, and what the two writes wrote.
    fn written() -> (Ledger, Vec<u8>, Vec<u8>) {
        let mut ledger = Ledger::new(8);
        let mut write = || {
            let (number, bytes) = ledger.begin_write(3);
            ledger.acknowledge(3, number);
            bytes
        };
        let (first, second) = (write(), write());
        (ledger, first, second)
    }

    #[test]
    fn the_last_acknowledged_write_is_right_and_the_one_before_is_lost() {
        let (mut ledger, first, second) = written();
        assert!(ledger.check(3, &second));
        assert_eq!(ledger.tally().lost, 0);
        assert!(!ledger.check(3, &first));
        assert_eq!(
            ledger.tally(),
            Tally { written: 2, acknowledged: 2, failed: 0, checked: 2, lost: 1 }
        );
    }

    #[test]
    fn a_torn_block_a_block_of_another_place_and_zeroes_are_lost() {
        let (mut ledger, first, second) = written();
        let torn = [&first[..512], &second[512..]].concat();
        assert!(!ledger.check(3, &torn));
        assert!(!ledger.check(4, &second));
        assert!(!ledger.check(3, &[0; BLOCK_BYTES as usize]));
        assert!(ledger.check(4, &[0; BLOCK_BYTES as usize]), "never written");
    }

    #[test]
    fn a_failed_write_may_have_happened_until_a_later_one_is_acknowledged() {
        let (mut ledger, first, second) = written();
        let (number, third) = ledger.begin_write(3);
        ledger.fail(3, number);
        assert!(ledger.check(3, &second) && ledger.check(3, &third));
        assert!(!ledger.check(3, &first));
        let (number, fourth) = ledger.begin_write(3);
        ledger.acknowledge(3, number);
        assert!(ledger.check(3, &fourth) && !ledger.check(3, &third));
    }

    #[test]
    fn a_block_has_one_io_at_a_time() {
        let mut ledger = Ledger::new(2);
        assert!(ledger.take(1) && !ledger.take(1) && ledger.take(0));
        ledger.give_back(1);
        assert!(ledger.take(1));
    }
}
