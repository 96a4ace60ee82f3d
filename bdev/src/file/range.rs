//! How a range is made to read as zeroes: the two modes of `fallocate`, and which of them work.
//!
//! Both keep the size and both promise zeroes, on files and, since Linux 4.9, on block devices:
//! there punching is what `BLKZEROOUT` does with the disk's own command for it (and with its
//! unmapping), refused where the disk has none, and zeroing falls back to writing. `BLKDISCARD`
//! promises nothing of what is read afterwards and is not used.
//!
//! A mode may turn out to be missing at its first use only; all cores remember it.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::FallocateFlags;

use crate::io::Operation;

/// A mode of `fallocate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeMode {
    /// `FALLOC_FL_ZERO_RANGE`: the space stays taken.
    Zero,
    /// `FALLOC_FL_PUNCH_HOLE`: the space is given back.
    Punch,
}

impl RangeMode {
    /// As `fallocate` takes it.
    pub(crate) fn flags(self) -> FallocateFlags {
        let mode = match self {
            RangeMode::Zero => FallocateFlags::FALLOC_FL_ZERO_RANGE,
            RangeMode::Punch => FallocateFlags::FALLOC_FL_PUNCH_HOLE,
        };
        mode | FallocateFlags::FALLOC_FL_KEEP_SIZE
    }

    fn other(self) -> RangeMode {
        match self {
            RangeMode::Zero => RangeMode::Punch,
            RangeMode::Punch => RangeMode::Zero,
        }
    }
}

/// What was found missing.
#[derive(Debug, Default)]
pub(crate) struct RangeModes {
    no_zero: AtomicBool,
    no_punch: AtomicBool,
}

impl RangeModes {
    fn missing(&self, mode: RangeMode) -> &AtomicBool {
        match mode {
            RangeMode::Zero => &self.no_zero,
            RangeMode::Punch => &self.no_punch,
        }
    }

    /// The mode for an operation: the one that fits it best, of those that work.
    pub(crate) fn mode_for(&self, operation: Operation) -> RangeMode {
        let best = match operation {
            Operation::Unmap => RangeMode::Punch,
            _ => RangeMode::Zero,
        };
        // Relaxed: a core that does not see it yet finds out for itself.
        match self.missing(best).load(Ordering::Relaxed) {
            true => best.other(),
            false => best,
        }
    }

    /// The kernel does not have this mode here. True when the other may still do.
    pub(crate) fn note_missing(&self, mode: RangeMode) -> bool {
        // Relaxed: see `mode_for`.
        self.missing(mode).store(true, Ordering::Relaxed);
        !self.missing(mode.other()).load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_mode_stands_in_for_the_one_that_is_missing() {
        let modes = RangeModes::default();
        assert_eq!(modes.mode_for(Operation::Unmap), RangeMode::Punch);
        assert_eq!(modes.mode_for(Operation::WriteZeroes), RangeMode::Zero);
        assert!(modes.note_missing(RangeMode::Punch));
        assert_eq!(modes.mode_for(Operation::Unmap), RangeMode::Zero);
        assert!(!modes.note_missing(RangeMode::Zero), "nothing is left");
    }
}
