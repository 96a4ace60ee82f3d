//! What children can say of, and do with, blocks of zeroes.

use std::ops::Range;
use std::sync::Arc;

use bdev::allocation::{AllocationQuery, Pace};
use bdev::{Lba, Operation};

use crate::child::{CHILDREN_MAX, ChildIndex};
use crate::view::View;

/// What is known of a child.
#[derive(Debug)]
struct Known {
    incarnation: u32,
    /// Asked on this core: only one that answers at once.
    query: Option<Arc<dyn AllocationQuery>>,
    zeroing: Option<Operation>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Holes {
    known: [Option<Known>; CHILDREN_MAX],
}

impl Default for Holes {
    fn default() -> Holes {
        Holes { known: [const { None }; CHILDREN_MAX] }
    }
}

impl Holes {
    fn known(&mut self, view: &View, child: ChildIndex) -> &Known {
        let incarnation = view.incarnations[child.get()];
        let place = &mut self.known[child.get()];
        if place.as_ref().is_some_and(|known| known.incarnation != incarnation) {
            *place = None;
        }
        place.get_or_insert_with(|| {
            let device = &view.device(child).device;
            let query = device.allocation().filter(|query| query.pace() == Pace::AtOnce);
            let limits = device.limits();
            let zeroing = [Operation::Unmap, Operation::WriteZeroes];
            let zeroing = zeroing.into_iter().find(|way| limits.operations.contains(*way));
            Known { incarnation, query, zeroing }
        })
    }

    /// True when a child in use says that a range of the volume, which nobody writes meanwhile,
    /// reads as zeroes there.
    pub(super) fn is_hole(&mut self, view: &View, child: ChildIndex, range: Range<u64>) -> bool {
        let first = view.device(child).data_start_blocks;
        let Some(query) = &self.known(view, child).query else { return false };
        let range = Lba(range.start + first)..Lba(range.end + first);
        let end = range.end;
        query.look(range, 1).is_ok_and(|found| found.extents.is_empty() && found.looked_to >= end)
    }

    /// How a child is given zeroes at less cost than data, if it can.
    pub(super) fn zeroing(&mut self, view: &View, child: ChildIndex) -> Option<Operation> {
        self.known(view, child).zeroing
    }
}
