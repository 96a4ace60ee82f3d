//! What a namespace was when it was opened, and whether what answers later is still that.

use bdev::OperationSet;
use uuid::Uuid;

use super::super::connect::RemoteNamespace;
use super::super::controller::{ControllerIdentity, Instance};
use super::super::queue_pair::NamespaceView;
use super::event::Mismatch;

/// What is known of an open namespace.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// As queue pairs see it; blocks are added when it grows.
    pub view: NamespaceView,
    /// Its identity, if it has one.
    pub uuid: Option<Uuid>,
    /// Its controller when it was first connected.
    pub identity: ControllerIdentity,
    /// The run of the target at the last session.
    pub instance: Instance,
}

impl Known {
    /// What the first session found.
    pub fn of(remote: &RemoteNamespace) -> Known {
        let identity = remote.admin.identity().clone();
        let instance = identity.instance;
        Known { view: remote.view, uuid: remote.uuid, identity, instance }
    }

    /// Compares with what is there now.
    ///
    /// # Errors
    /// What is another, or less than queue pairs that are open rely on.
    pub fn check(&self, now: &NamespaceView, uuid: Option<Uuid>) -> Result<(), Mismatch> {
        if self.uuid != uuid || self.view.namespace_id != now.namespace_id {
            return Err(Mismatch::Identity);
        }
        if self.view.geometry.block_bytes != now.geometry.block_bytes {
            return Err(Mismatch::BlockSize);
        }
        if self.view.geometry.blocks > now.geometry.blocks {
            return Err(Mismatch::Smaller);
        }
        if is_covered(&self.view, now) { Ok(()) } else { Err(Mismatch::Limits) }
    }
}

/// Whether everything that the one takes, and promises, holds for the other.
fn is_covered(before: &NamespaceView, now: &NamespaceView) -> bool {
    let (old, new) = (&before.limits, &now.limits);
    new.io_blocks_max >= old.io_blocks_max
        && new.range_blocks_max >= old.range_blocks_max
        && new.atomic_blocks >= old.atomic_blocks
        && has_all(new.operations, old.operations)
        && (old.volatile_cache || !new.volatile_cache)
        && now.unmap == before.unmap
        && now.fused_blocks >= before.fused_blocks
}

fn has_all(new: OperationSet, old: OperationSet) -> bool {
    bdev::Operation::ALL.into_iter().all(|one| new.contains(one) || !old.contains(one))
}

#[cfg(test)]
mod tests {
    use bdev::{Geometry, Limits, Operation};

    use super::super::super::queue_pair::UnmapCommand;
    use super::*;

    fn known() -> Known {
        let view = NamespaceView {
            namespace_id: 1,
            geometry: Geometry { block_bytes: 512, blocks: 100 },
            limits: Limits { atomic_blocks: 8, volatile_cache: false, ..Limits::default() },
            unmap: UnmapCommand::WriteZeroes,
            fused_blocks: 8,
            reservations: Default::default(),
        };
        let identity = ControllerIdentity::default();
        let uuid = Some(Uuid::from_u128(7));
        Known { view, uuid, identity, instance: Instance::Foreign }
    }

    #[test]
    fn what_is_the_same_or_has_grown_is_taken() {
        let known = known();
        assert_eq!(known.check(&known.view, known.uuid), Ok(()));
        let mut grown = known.view;
        grown.geometry.blocks += 1;
        grown.limits.atomic_blocks += 1;
        assert_eq!(known.check(&grown, known.uuid), Ok(()));
    }

    #[test]
    fn another_namespace_and_a_lesser_one_are_refused_each_by_its_name() {
        let known = known();
        let mut changed = [known.view; 8];
        changed[0].geometry.blocks -= 1;
        changed[1].geometry.block_bytes = 4096;
        changed[2].limits.atomic_blocks = 7;
        changed[3].limits.operations = OperationSet::ALL.without(Operation::Compare);
        changed[4].limits.volatile_cache = true;
        changed[5].unmap = UnmapCommand::DatasetManagement;
        changed[6].fused_blocks = 7;
        changed[7].namespace_id = 2;
        let found = changed.map(|view| known.check(&view, known.uuid).unwrap_err());
        let limits = Mismatch::Limits;
        let first = [Mismatch::Smaller, Mismatch::BlockSize, limits, limits];
        assert_eq!(found[..4], first);
        assert_eq!(found[4..], [limits, limits, limits, Mismatch::Identity]);
        for other in [None, Some(Uuid::from_u128(8))] {
            assert_eq!(known.check(&known.view, other), Err(Mismatch::Identity));
        }
    }
}
