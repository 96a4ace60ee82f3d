//! Regions that the queues of detached controllers have left: regions are never unmapped, so the
//! next controller takes them first. Control threads only; the lock is never near an I/O.

use std::sync::{Mutex, PoisonError};

use reactor::dma::Region;

use super::numa::Node;

#[derive(Debug)]
struct Spare {
    region: Region,
    node: Option<Node>,
}

// SAFETY: a region is a name and an address; its memory is reached through `QueueMemory` alone.
unsafe impl Send for Spare {}

static SPARE: Mutex<Vec<Spare>> = Mutex::new(Vec::new());

/// A region that nobody uses any more, taken for a device of the same node.
pub(super) fn take(node: Option<Node>) -> Option<Region> {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    let index = spare.iter().position(|one| one.node == node)?;
    Some(spare.swap_remove(index).region)
}

/// Leaves a region that no device can reach any more.
pub(super) fn give(region: Region, node: Option<Node>) {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(Spare { region, node });
}

#[cfg(test)]
mod tests {
    use reactor::dma::PagePreference;
    use reactor::dma::region::HUGE_PAGE_BYTES;

    use super::*;

    #[test]
    fn a_region_goes_to_a_device_of_its_node_only() {
        let region = Region::map(HUGE_PAGE_BYTES, PagePreference::Ordinary).unwrap();
        // Nodes of no machine, so that no other test takes them.
        let (id, node) = (region.id(), Some(Node(5000)));
        give(region, node);
        assert!(take(Some(Node(5001))).is_none());
        assert_eq!(take(node).map(|region| region.id()), Some(id));
        assert!(take(node).is_none());
    }
}
