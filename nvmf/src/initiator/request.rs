//! The commands in flight on one queue, and the identifiers that name them on the wire.
//!
//! A command identifier is a slot's index in its lower bits and the low bits of the slot's
//! generation above, so that a late or double completion names nothing (or, after 64 tenants of the
//! same slot, is taken for its next tenant's: 16 bits cannot tell more).

use bdev::nvme::completion::CompletionEntry;
use bdev::{Memory, Status};
use reactor::Nanos;
use reactor::slab::{Slab, SlotId};

const INDEX_BITS: u32 = 10;
const INDEX_MASK: u16 = (1 << INDEX_BITS) - 1;

/// Which way a command's data goes outside its capsule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// It has no data, or all of it is in the capsule.
    Nothing,
    /// C2HData brings it.
    ToHost,
    /// R2T asks for it.
    ToController,
}

/// One command in flight.
#[derive(Debug)]
pub(super) struct Request {
    /// The submitter's name for it.
    pub token: u64,
    /// Its data, or where it goes.
    pub memory: Memory,
    /// Length of the command data buffer.
    pub len_bytes: u32,
    /// Which way the data goes.
    pub transfer: Transfer,
    /// Bytes received so far, or asked for by R2T so far.
    pub moved_bytes: u32,
    /// PDUs of it that are not sent yet: the memory is in use until they are.
    pub sends: u32,
    /// Its completion, when that came before its PDUs were sent.
    pub ended: Option<CompletionEntry>,
    /// Where its data begins in `memory`: the halves of a fused pair share one.
    pub start_bytes: u32,
    /// The other half, for one of a fused pair.
    pub fused: Option<FusedHalf>,
    /// When it was submitted.
    pub submitted: Nanos,
    /// Its Abort was asked for.
    pub abort: AbortState,
}

/// What half of a fused pair knows of the other half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FusedHalf {
    /// It is in flight too.
    InFlight(SlotId),
    /// It has ended with this status.
    Ended(Status),
}

/// Whether somebody was told that a command is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AbortState {
    /// Nobody was.
    NotAsked,
    /// The admin queue was asked to abort it.
    Asked,
}

/// The status of a fused pair whose halves ended like this. A half that only says that the other
/// failed says less than the other does.
pub(super) fn fused_status(one: Status, other: Status) -> Status {
    let rank = |status: Status| match status {
        status if status.is_success() => 0,
        status if status.has_code(Status::ABORTED_FAILED_FUSED) => 1,
        status if status.has_code(Status::ABORTED_MISSING_FUSED) => 2,
        // A miscompare is an answer; anything else leaves it open whether the write was done.
        status if status.has_code(Status::COMPARE_FAILURE) => 3,
        _ => 4,
    };
    if rank(one) >= rank(other) { one } else { other }
}

/// The identifier of a slot's tenant on the wire.
pub(super) fn command_id(id: SlotId) -> u16 {
    let index = u16::try_from(id.index).expect("a queue has at most 1023 slots");
    debug_assert!(index < INDEX_MASK, "a queue has at most 1023 slots");
    let [low, high, ..] = (id.generation << INDEX_BITS).to_le_bytes();
    index | u16::from_le_bytes([low, high]) & !INDEX_MASK
}

/// The slot that an identifier from the wire names, if it is in flight.
pub(super) fn find(requests: &Slab<Request>, wire: u16) -> Option<SlotId> {
    let id = requests.id_at(u32::from(wire & INDEX_MASK))?;
    (command_id(id) == wire).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            token: 0,
            memory: Memory::None,
            len_bytes: 0,
            transfer: Transfer::Nothing,
            moved_bytes: 0,
            sends: 0,
            ended: None,
            start_bytes: 0,
            fused: None,
            submitted: Nanos(0),
            abort: AbortState::NotAsked,
        }
    }

    #[test]
    fn an_identifier_names_its_tenant_and_not_the_next_63() {
        let mut requests = Slab::with_capacity(super::super::options::QUEUE_DEPTH_MAX);
        let first = requests.insert(request()).unwrap();
        let wire = command_id(first);
        assert_eq!(find(&requests, wire), Some(first));
        requests.remove(first).unwrap();
        assert_eq!(find(&requests, wire), None);
        for _ in 0..63 {
            let next = requests.insert(request()).unwrap();
            assert_eq!(next.index, first.index);
            assert_eq!(find(&requests, wire), None);
            assert_eq!(find(&requests, command_id(next)), Some(next));
            requests.remove(next).unwrap();
        }
    }

    #[test]
    fn the_last_slot_of_the_deepest_queue_never_has_the_reserved_identifier() {
        for generation in 0..64 {
            assert_ne!(command_id(SlotId { index: 1022, generation }), 0xffff);
        }
    }
}
