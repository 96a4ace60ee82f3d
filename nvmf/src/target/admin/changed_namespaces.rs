//! Which namespaces changed since the host last looked: the contents of log page 04h.
//!
//! NVMe Base 2.0 section 5.16.1.5.

use std::collections::BTreeSet;

use bdev::nvme::log_page::{CHANGED_NAMESPACES_MAX, CHANGED_NAMESPACES_OVERFLOW};

use crate::target::namespace::NamespaceId;

/// Identifiers in ascending order, at most [`CHANGED_NAMESPACES_MAX`].
#[derive(Debug, Default)]
pub(super) struct ChangedNamespaces(BTreeSet<NamespaceId>);

impl ChangedNamespaces {
    /// Adds a namespace; one too many makes the list say "more than fit".
    pub fn add(&mut self, id: NamespaceId) {
        let overflow = NamespaceId(CHANGED_NAMESPACES_OVERFLOW);
        if self.0.contains(&overflow) {
            return;
        }
        self.0.insert(id);
        if self.0.len() > CHANGED_NAMESPACES_MAX {
            self.0 = BTreeSet::from([overflow]);
        }
    }

    /// The host has looked.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|id| id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_ascend_and_are_there_once() {
        let mut changed = ChangedNamespaces::default();
        for id in [3, 1, 3] {
            changed.add(NamespaceId(id));
        }
        assert_eq!(changed.iter().collect::<Vec<_>>(), [1, 3]);
        changed.clear();
        assert_eq!(changed.iter().count(), 0);
    }

    #[test]
    fn a_full_list_is_kept_and_one_more_is_more_than_fit() {
        let mut changed = ChangedNamespaces::default();
        for id in 1..=1024 {
            changed.add(NamespaceId(id));
        }
        assert_eq!(changed.iter().count(), CHANGED_NAMESPACES_MAX);
        changed.add(NamespaceId(1025));
        assert_eq!(changed.iter().collect::<Vec<_>>(), [CHANGED_NAMESPACES_OVERFLOW]);
        changed.add(NamespaceId(5));
        assert_eq!(changed.iter().collect::<Vec<_>>(), [CHANGED_NAMESPACES_OVERFLOW]);
    }
}
