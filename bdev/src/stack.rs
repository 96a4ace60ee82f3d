//! Puts above a device what it needs to be like every other: emulation, then splitting.
//!
//! Called by whoever opens devices (crate `engine`), once a device, on a control thread. A device
//! that lacks nothing is returned as it is, and costs nothing.

use std::sync::Arc;

use reactor::Cx;

use crate::device::{BlockDevice, OpenError};
use crate::emulate::{self, Emulate};
use crate::queue_pair::QueuePair;
use crate::split::{self, Split};

/// The device with every operation but, maybe, verify, for I/Os of any size.
pub fn complete(device: Arc<dyn BlockDevice>) -> Arc<dyn BlockDevice> {
    let device: Arc<dyn BlockDevice> = match emulate::is_needed(&device.limits()) {
        true => Arc::new(Emulate::new(device)),
        false => device,
    };
    match split::is_needed(&device.limits()) {
        true => Arc::new(Split::new(device)),
        false => device,
    }
}

/// Opens the one queue pair of a device that is used on this core only.
pub fn open(
    device: Arc<dyn BlockDevice>,
    cx: &mut Cx,
    depth: u32,
) -> Result<Box<dyn QueuePair>, OpenError> {
    complete(device).open_queue_pair(cx, depth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Geometry, Limits, OperationSet};
    use crate::io::Operation;
    use crate::narrow::Narrow;
    use crate::{Malloc, laws};

    fn disk() -> Arc<dyn BlockDevice> {
        let geometry = Geometry { block_bytes: 512, blocks: 300 };
        Arc::new(Malloc::new("malloc0", geometry, None).unwrap())
    }

    fn poor() -> Limits {
        Limits {
            io_blocks_max: 3,
            range_blocks_max: 7,
            boundary_blocks: 4,
            operations: OperationSet::BASIC.with(Operation::Unmap),
            unmap_zeroes: false,
            ..Limits::default()
        }
    }

    #[test]
    fn a_device_that_lacks_nothing_is_left_alone() {
        let device = disk();
        assert!(Arc::ptr_eq(&complete(device.clone()), &device));
    }

    #[test]
    fn a_device_that_lacks_everything_keeps_the_laws_when_completed() {
        let make = |_: &mut Cx| complete(Arc::new(Narrow::new(disk(), poor())));
        let device = make(&mut reactor::cx::test_context().0);
        let limits = device.limits();
        assert_eq!(limits.operations, OperationSet::ALL);
        assert_eq!(limits.io_blocks_max, u32::MAX);
        laws::check(make, laws::Options::default());
    }

    #[test]
    fn a_device_of_one_core_is_opened_with_all_it_needs() {
        let (mut cx, _) = reactor::cx::test_context();
        let narrow = Arc::new(Narrow::new(disk(), poor()));
        assert_eq!(open(narrow, &mut cx, 4).unwrap().credits(), 4);
    }
}
