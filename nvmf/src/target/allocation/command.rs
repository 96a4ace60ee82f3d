//! What Get LBA Status asks, and the list that it is answered with.
//!
//! Plain total functions, called by the controller and by the connection. NVM Command Set 1.0
//! section 4.2.1.

use bdev::allocation::{Allocation, EXTENTS_MAX, Extent};
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::lba_status::{LbaStatusDescriptor, LbaStatusHeader, action, completion_condition};
use bdev::nvme::opcode::AdminOpcode;
use bdev::{Lba, Status};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use crate::target::limits::{NAMESPACES_LIMIT, TargetLimits};
use crate::target::namespace::NamespaceId;
use crate::target::subsystem::Subsystem;

/// What a command asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Which of these blocks are allocated; there is one at least.
    Allocated(NamespaceId, Extent),
    /// Something of which there is nothing to tell, and how far that goes (CMPC).
    Nothing(u8),
}

/// Refuses the command where it is not announced, whatever else it says.
pub fn check_announced(subsystem: &Subsystem, entry: &SubmissionEntry) -> Result<(), Status> {
    let is_it = entry.opcode == AdminOpcode::GetLbaStatus.value();
    if is_it && !subsystem.knows_allocation() { Err(Status::INVALID_OPCODE) } else { Ok(()) }
}

/// How much data a command takes at most. That its host has room for it is looked at with that of
/// every other command.
pub fn requested_bytes(entry: &SubmissionEntry, limits: &TargetLimits) -> Result<u32, Status> {
    let bytes = u32::try_from(entry.get_lba_status().bytes).ok();
    bytes.filter(|bytes| *bytes <= limits.transfer_bytes_max).ok_or(Status::INVALID_FIELD)
}

/// What a command that is announced asks of a subsystem. Of unrecoverable blocks none is tracked:
/// devices tell of them when they are read. A scan for them is not made, and so its answer does not
/// claim to be complete.
pub fn asked(subsystem: &Subsystem, entry: &SubmissionEntry) -> Result<Asked, Status> {
    let id = NamespaceId(entry.namespace_id.get());
    let is_legal = (1..=NAMESPACES_LIMIT).contains(&id.0);
    let namespace = subsystem.namespace(id).filter(|_| is_legal);
    let blocks = namespace.ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)?.geometry.blocks;
    let command = entry.get_lba_status();
    let left = blocks.checked_sub(command.lba).filter(|left| *left > 0);
    let left = left.ok_or(Status::LBA_OUT_OF_RANGE)?;
    let wanted = match u64::from(command.blocks) {
        0 => left,
        some if some <= left => some,
        _ => return Err(Status::LBA_OUT_OF_RANGE),
    };
    match command.action {
        action::ALLOCATED => {
            Ok(Asked::Allocated(id, Extent { lba: Lba(command.lba), blocks: wanted }))
        }
        action::TRACKED => Ok(Asked::Nothing(completion_condition::COMPLETE)),
        action::SCAN => Ok(Asked::Nothing(completion_condition::UNKNOWN)),
        _ => Err(Status::INVALID_FIELD),
    }
}

/// How many extents there is room for in so many bytes.
pub fn extents_max(len_bytes: usize) -> usize {
    let room = len_bytes.saturating_sub(size_of::<LbaStatusHeader>());
    (room / size_of::<LbaStatusDescriptor>()).min(EXTENTS_MAX)
}

/// Fills `out` with a list that has nothing to tell.
pub fn write_nothing(condition: u8, out: &mut [u8]) {
    write(condition, &[], out);
}

/// Fills `out` with what was found of a range that ends before `end`. An extent that is longer than
/// a descriptor can say has several.
pub fn write_list(found: &Allocation, end: Lba, out: &mut [u8]) {
    let room = extents_max(out.len());
    let descriptors: Vec<_> =
        found.extents.iter().flat_map(descriptors_of).take(room + 1).collect();
    let is_whole = descriptors.len() <= room && found.looked_to >= end;
    let condition =
        if is_whole { completion_condition::COMPLETE } else { completion_condition::INCOMPLETE };
    write(condition, &descriptors[..descriptors.len().min(room)], out);
}

fn descriptors_of(extent: &Extent) -> impl Iterator<Item = LbaStatusDescriptor> + use<> {
    let Extent { mut lba, mut blocks } = *extent;
    std::iter::from_fn(move || {
        let part = u32::try_from(blocks).unwrap_or(u32::MAX);
        let mut descriptor = LbaStatusDescriptor::new_zeroed();
        descriptor.lba = U64::new(lba.0);
        descriptor.blocks = U32::new(part);
        lba = Lba(lba.0 + u64::from(part));
        blocks -= u64::from(part);
        (part > 0).then_some(descriptor)
    })
}

/// As much of it as there is room for; what follows is zeroes.
fn write(condition: u8, descriptors: &[LbaStatusDescriptor], out: &mut [u8]) {
    let mut header = LbaStatusHeader::new_zeroed();
    header.descriptors =
        U32::new(u32::try_from(descriptors.len()).expect("as many as are looked for"));
    header.completion_condition = condition;
    let bytes = header.as_bytes().iter().chain(descriptors.as_bytes());
    out.fill(0);
    for (place, byte) in out.iter_mut().zip(bytes) {
        *place = *byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(extents: &[(u64, u64)], looked_to: u64) -> Allocation {
        let extents =
            extents.iter().map(|(lba, blocks)| Extent { lba: Lba(*lba), blocks: *blocks });
        Allocation { extents: extents.collect(), looked_to: Lba(looked_to) }
    }

    fn list(found: &Allocation, len_bytes: usize) -> (u32, u8, Vec<(u64, u32)>) {
        let mut out = vec![0xff; len_bytes];
        write_list(found, Lba(1 << 40), &mut out);
        let count = u32::from_le_bytes(out[..4].try_into().unwrap());
        let each = out[8..].chunks_exact(16).take(count as usize).map(|one| {
            let lba = u64::from_le_bytes(one[..8].try_into().unwrap());
            (lba, u32::from_le_bytes(one[8..12].try_into().unwrap()))
        });
        (count, out[4], each.collect())
    }

    #[test]
    fn a_list_is_complete_when_all_was_looked_at_and_all_fits() {
        let all = found(&[(0, 8), (100, 1)], 1 << 40);
        assert_eq!(list(&all, 40), (2, 2, vec![(0, 8), (100, 1)]));
        assert_eq!(list(&all, 39), (1, 1, vec![(0, 8)]));
        let part = found(&[(0, 8), (100, 1)], 101);
        assert_eq!(list(&part, 4096), (2, 1, vec![(0, 8), (100, 1)]));
        assert_eq!(list(&found(&[], 1 << 40), 8), (0, 2, vec![]));
    }

    #[test]
    fn an_extent_longer_than_a_descriptor_can_say_has_several() {
        let most = u64::from(u32::MAX);
        let long = found(&[(5, most + 3)], 1 << 40);
        assert_eq!(list(&long, 40), (2, 2, vec![(5, u32::MAX), (5 + most, 3)]));
        assert_eq!(list(&long, 24), (1, 1, vec![(5, u32::MAX)]));
        assert_eq!(list(&found(&[(5, most)], 1 << 40), 40), (1, 2, vec![(5, u32::MAX)]));
    }

    #[test]
    fn a_header_may_be_cut_off() {
        let mut out = [0xff; 4];
        write_list(&found(&[(0, 1)], 1 << 40), Lba(1 << 40), &mut out);
        assert_eq!(out, [0; 4]);
        assert_eq!(extents_max(8 + 16 * EXTENTS_MAX), EXTENTS_MAX);
        assert_eq!(extents_max(8 + 16 * (EXTENTS_MAX + 1)), EXTENTS_MAX);
        assert_eq!((extents_max(23), extents_max(24), extents_max(4)), (0, 1, 0));
    }
}
