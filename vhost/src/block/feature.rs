//! The features that the device offers, and what of them was taken.
//!
//! Virtio 1.2 sections 2.2, 5.2.3 and 6; bit 30 is vhost-user's own.

use bdev::{Limits, Operation};

use crate::virtqueue::{Indirect, QueueFeatures, Suppression};

/// Feature bits, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// `seg_max` of the configuration is told.
    pub const SEGMENTS_MAX: Features = Features(1 << 2);
    /// The device is read-only.
    pub const READ_ONLY: Features = Features(1 << 5);
    /// `blk_size` is told.
    pub const BLOCK_SIZE: Features = Features(1 << 6);
    /// There is a flush command.
    pub const FLUSH: Features = Features(1 << 9);
    /// `topology` is told.
    pub const TOPOLOGY: Features = Features(1 << 10);
    /// The driver may turn the write cache on and off.
    pub const CONFIG_WRITE_BACK: Features = Features(1 << 11);
    /// Several queues.
    pub const SEVERAL_QUEUES: Features = Features(1 << 12);
    /// There is a discard command.
    pub const DISCARD: Features = Features(1 << 13);
    /// There is a command that writes zeroes.
    pub const WRITE_ZEROES: Features = Features(1 << 14);
    /// Indirect descriptors.
    pub const INDIRECT: Features = Features(1 << 28);
    /// Event indices.
    pub const EVENT_INDEX: Features = Features(1 << 29);
    /// vhost-user's protocol features.
    pub const PROTOCOL: Features = Features(1 << 30);
    /// Virtio 1.0 or later.
    pub const VERSION_1: Features = Features(1 << 32);

    /// What is offered for a device of these limits.
    pub fn offered(limits: &Limits, queues: u16) -> Features {
        let always = Features::SEGMENTS_MAX.0
            | Features::BLOCK_SIZE.0
            | Features::FLUSH.0
            | Features::TOPOLOGY.0
            | Features::CONFIG_WRITE_BACK.0
            | Features::INDIRECT.0
            | Features::EVENT_INDEX.0
            | Features::PROTOCOL.0
            | Features::VERSION_1.0;
        let if_so = |condition: bool, feature: Features| if condition { feature.0 } else { 0 };
        let can = |operation| limits.operations.contains(operation) && !limits.read_only;
        Features(
            always
                | if_so(limits.read_only, Features::READ_ONLY)
                | if_so(queues > 1, Features::SEVERAL_QUEUES)
                | if_so(can(Operation::Unmap), Features::DISCARD)
                | if_so(can(Operation::WriteZeroes), Features::WRITE_ZEROES),
        )
    }

    /// True when all of `other` is set.
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// What of them concerns the rings.
    pub fn of_queue(self) -> QueueFeatures {
        QueueFeatures {
            indirect: match self.contains(Features::INDIRECT) {
                true => Indirect::Allowed,
                false => Indirect::Refused,
            },
            suppression: match self.contains(Features::EVENT_INDEX) {
                true => Suppression::EventIndex,
                false => Suppression::Flags,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bdev::OperationSet;

    #[test]
    fn what_a_device_cannot_do_is_not_offered() {
        let limits = Limits::default();
        let all = Features::offered(&limits, 4);
        assert!(all.contains(Features::DISCARD) && all.contains(Features::WRITE_ZEROES));
        assert!(all.contains(Features::SEVERAL_QUEUES) && !all.contains(Features::READ_ONLY));
        let basic = Limits { operations: OperationSet::BASIC, ..limits };
        let few = Features::offered(&basic, 1);
        assert!(!few.contains(Features::DISCARD) && !few.contains(Features::WRITE_ZEROES));
        assert!(!few.contains(Features::SEVERAL_QUEUES));
        let fixed = Features::offered(&Limits { read_only: true, ..limits }, 1);
        assert!(fixed.contains(Features::READ_ONLY) && !fixed.contains(Features::DISCARD));
    }
}
