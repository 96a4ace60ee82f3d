//! Who waits for whom where compare-and-write is emulated: the range lock of a single core.
//!
//! A compare-and-write and another change of one of its blocks must not be in flight together,
//! whichever came first. An I/O of the queue pair is in line, or in flight; it starts when none in
//! flight, and none before it in line, is in its way.

use crate::io::{Io, Operation};

/// True when one of the two must wait for the other.
pub(super) fn conflict(one: &Io, other: &Io) -> bool {
    let swaps = |io: &Io| io.operation == Operation::CompareAndWrite;
    let changes = one.operation.changes_blocks() && other.operation.changes_blocks();
    changes && (swaps(one) || swaps(other)) && overlap(one, other)
}

fn overlap(one: &Io, other: &Io) -> bool {
    // Legal I/Os end on their device, so the ends do not overflow.
    let end = |io: &Io| io.lba.0 + u64::from(io.blocks);
    one.lba.0 < end(other) && other.lba.0 < end(one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Lba, Memory, Token};

    #[test]
    fn only_changes_that_meet_a_swap_wait() {
        let io = |operation, lba, blocks| {
            Io::with_memory(operation, Lba(lba), blocks, Memory::None, Token(0))
        };
        let swap = io(Operation::CompareAndWrite, 4, 2);
        assert!(conflict(&swap, &io(Operation::Write, 5, 1)));
        assert!(conflict(&io(Operation::Unmap, 0, 5), &swap));
        assert!(conflict(&swap, &swap));
        assert!(!conflict(&swap, &io(Operation::Write, 6, 1)));
        assert!(!conflict(&swap, &io(Operation::Read, 4, 2)));
        assert!(!conflict(&io(Operation::Write, 4, 2), &io(Operation::Write, 4, 2)));
    }
}
