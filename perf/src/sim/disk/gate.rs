//! Who may use a disk's blocks: what a reservation under the newest owner's key does
//! (replica-truth rules 1 and 4, section 5).
//!
//! A process that was started later has it from its first command on, as one that preempts before
//! it reads the label. What others have under way ends without effect then, and of them nothing is
//! taken any more but reads of the label.

use bdev::Operation;
use nexus::truth::label::LABEL_BYTES;

use crate::sim::content::BLOCK_BYTES;

/// A process that has the disk open: the higher, the later it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Party(pub u64);

/// What a disk checks of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Everything that the rules ask for.
    All,
    /// Nothing is checked: a broken rule.
    Nothing,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Gate {
    check: Check,
    holder: Party,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It is done.
    Free,
    /// It is refused.
    Barred,
    /// It is done, and nothing of anybody else's any more.
    Claim,
}

const LABEL_BLOCKS: u64 = LABEL_BYTES / BLOCK_BYTES as u64;

impl Gate {
    /// Of a disk that nobody has claimed.
    pub fn new(check: Check) -> Gate {
        Gate { check, holder: Party::default() }
    }

    /// Whether a command is done.
    pub fn pass(&mut self, party: Party, operation: Operation, start: u64) -> Passage {
        if party > self.holder {
            self.holder = party;
            return Passage::Claim;
        }
        let is_of_label = start < LABEL_BLOCKS && operation == Operation::Read;
        match is_of_label || !self.bars(party) || operation == Operation::Flush {
            true => Passage::Free,
            false => Passage::Barred,
        }
    }

    /// Whether the disk is somebody else's than `other`'s.
    pub fn bars(&self, other: Party) -> bool {
        self.check != Check::Nothing && self.holder != other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_came_last_has_the_disk_and_others_see_its_label() {
        let mut gate = Gate::new(Check::All);
        let (older, younger) = (Party(1), Party(2));
        assert_eq!(gate.pass(older, Operation::Read, 0), Passage::Claim);
        assert_eq!(gate.pass(older, Operation::Write, LABEL_BLOCKS), Passage::Free);
        assert_eq!(gate.pass(younger, Operation::Read, 0), Passage::Claim);
        assert_eq!(gate.pass(older, Operation::Write, 0), Passage::Barred);
        assert_eq!(gate.pass(older, Operation::Read, LABEL_BLOCKS), Passage::Barred);
        assert_eq!(gate.pass(older, Operation::Read, LABEL_BLOCKS - 1), Passage::Free);
        assert!(gate.bars(older) && !gate.bars(younger));
        assert!(!Gate::new(Check::Nothing).bars(younger));
    }
}
