//! What a command is known by between the ring and the port that pushed it: 64 bits for both.
//!
//! Made and read on the core's thread.

use reactor::slab::{CAPACITY_SLOTS_MAX, SlotId};

/// Bits of a slot's index: a slab has no more slots.
const INDEX_BITS: u32 = CAPACITY_SLOTS_MAX.trailing_zeros();

/// Bits of a slot's generation.
const GENERATION_BITS: u32 = u32::BITS;

/// Ports that one ring can have open: what numbers are left, but for one.
pub(super) const PORTS_MAX: u16 = (1 << (u64::BITS - INDEX_BITS - GENERATION_BITS)) - 1;

const _: () = assert!(CAPACITY_SLOTS_MAX.is_power_of_two() && PORTS_MAX == 4095);

/// What the results of cancelling are known by, and then ignored: no port has its number.
pub(super) const CANCEL: u64 = u64::MAX;

/// Packs the two.
#[inline]
pub(super) fn pack(port: u16, id: SlotId) -> u64 {
    debug_assert!(port < PORTS_MAX && id.index < CAPACITY_SLOTS_MAX);
    let port = u64::from(port) << (INDEX_BITS + GENERATION_BITS);
    port | u64::from(id.generation) << INDEX_BITS | u64::from(id.index)
}

/// Unpacks them.
#[inline]
pub(super) fn unpack(key: u64) -> (u16, SlotId) {
    let index = key as u32 & (CAPACITY_SLOTS_MAX - 1);
    let generation = (key >> INDEX_BITS) as u32;
    ((key >> (INDEX_BITS + GENERATION_BITS)) as u16, SlotId { index, generation })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_come_back_at_their_limits() {
        for port in [0, 1, PORTS_MAX - 1] {
            for index in [0, 1, CAPACITY_SLOTS_MAX - 1] {
                for generation in [1, u32::MAX] {
                    let id = SlotId { index, generation };
                    let key = pack(port, id);
                    assert_eq!(unpack(key), (port, id));
                    assert_ne!(key, CANCEL);
                }
            }
        }
        assert_eq!(unpack(CANCEL).0, PORTS_MAX, "one past the last port");
    }
}
