//! From what a controller says of itself and a namespace to the limits of a block device.
//!
//! Called once a connection, on the slow path. Everything said is untrusted: a format that cannot
//! be used is refused, a limit that makes no sense is made smaller. NVM Command Set 1.0 section
//! 4.1.5.1, NVMe Base 2.0 section 5.17.2.1.

use bdev::legality::check_geometry;
use bdev::nvme::identify::{
    IDENTIFY_BYTES, IdentifyController, IdentifyNamespace, NamespaceIdentity, controller_field,
    identities, namespace_field,
};
use bdev::nvme::nvm_command::BLOCKS_MAX;
use bdev::nvme::register::Capabilities;
use bdev::reservation::device::Abilities;
use bdev::{Geometry, Limits, Operation, OperationSet};
use reactor::Nanos;
use uuid::Uuid;

use super::error::ConnectError;
use super::queue_pair::{NamespaceView, UnmapCommand};

/// Bytes of a submission queue entry in a command capsule: what IOCCSZ counts beside the data.
const ENTRY_BYTES: u32 = 64;
/// The unit of IOCCSZ.
const CAPSULE_UNIT_BYTES: u32 = 16;

/// What of Identify Controller is needed later.
#[derive(Clone, Copy, Debug)]
pub(super) struct ControllerFacts {
    transfer_bytes_max: Option<u64>,
    nvm_commands: u16,
    volatile_cache: bool,
    atomic_blocks: u32,
    /// Most in-capsule data of an I/O queue.
    pub capsule_data_bytes_max: u32,
    /// Most commands that a queue should hold; 0 when the controller has no opinion.
    pub commands_max: u32,
    /// Blocks of a fused compare and write that it takes of any namespace; 0 when it takes none.
    fused_blocks: u32,
    /// It tells how good its ways to the namespaces are (ANA).
    pub reports_access: bool,
    /// How long a change of that may take.
    pub access_change: Nanos,
}

impl ControllerFacts {
    pub fn new(capabilities: Capabilities, identify: &IdentifyController) -> Self {
        let shift = u32::from(identify.transfer_size_max);
        let limited = capabilities.page_bytes_min().checked_shl(shift).filter(|_| shift > 0);
        let capsule_bytes = identify.command_capsule_size.get().saturating_mul(CAPSULE_UNIT_BYTES);
        let has_fused = identify.fused_operations.get() & controller_field::COMPARE_AND_WRITE != 0;
        let fused_blocks = u32::from(identify.atomic_compare_write.get()) + 1;
        ControllerFacts {
            fused_blocks: if has_fused { fused_blocks } else { 0 },
            reports_access: identify.multi_path & controller_field::ANA_REPORTING != 0,
            access_change: Nanos::from_secs(identify.ana_transition_seconds.into()),
            // A limit so large that it overflows is none.
            transfer_bytes_max: limited.filter(|bytes| *bytes > 0),
            nvm_commands: identify.nvm_commands.get(),
            volatile_cache: identify.volatile_write_cache & controller_field::WRITE_CACHE_PRESENT
                != 0,
            atomic_blocks: u32::from(identify.atomic_write_power_fail.get()) + 1,
            capsule_data_bytes_max: capsule_bytes.saturating_sub(ENTRY_BYTES),
            commands_max: u32::from(identify.commands_max.get()),
        }
    }

    fn operations(&self) -> OperationSet {
        let has = |bit| self.nvm_commands & bit != 0;
        let mut operations = OperationSet::BASIC;
        if has(controller_field::WRITE_ZEROES) {
            operations = operations.with(Operation::WriteZeroes);
        }
        if has(controller_field::COMPARE) {
            operations = operations.with(Operation::Compare);
        }
        operations
    }
}

/// What a namespace is as a device.
///
/// # Errors
/// [`ConnectError::UnusableFormat`] for metadata, a block size or a size that no device here has.
pub(super) fn view(
    namespace_id: u32,
    controller: &ControllerFacts,
    identify: &IdentifyNamespace,
) -> Result<NamespaceView, ConnectError> {
    let unusable = |reason| ConnectError::UnusableFormat { namespace_id, reason };
    let format = identify.format();
    if format.metadata_bytes.get() != 0 {
        return Err(unusable("its blocks carry metadata"));
    }
    let block_bytes = 1_u32.checked_shl(u32::from(format.data_shift));
    let block_bytes = block_bytes.ok_or(unusable("its block size makes no sense"))?;
    let geometry = Geometry { block_bytes, blocks: identify.size_blocks.get() };
    check_geometry(geometry).map_err(|_| {
        unusable("its blocks are not 512 to 4096 bytes, or its size makes no sense")
    })?;
    let transfer_blocks = controller.transfer_bytes_max.map_or(u64::from(BLOCKS_MAX), |bytes| {
        (bytes / u64::from(block_bytes)).clamp(1, u64::from(BLOCKS_MAX))
    });
    let zeroes = identify.deallocate & 0b111 == namespace_field::DEALLOCATED_READS_ZERO;
    let dealloc_bit = identify.deallocate & namespace_field::WRITE_ZEROES_DEALLOCATES != 0;
    let mut operations = controller.operations();
    let can_zero = operations.contains(Operation::WriteZeroes);
    let unmap = if can_zero && zeroes && dealloc_bit {
        UnmapCommand::WriteZeroes
    } else {
        UnmapCommand::DatasetManagement
    };
    let can_deallocate = controller.nvm_commands & controller_field::DATASET_MANAGEMENT != 0;
    if unmap == UnmapCommand::WriteZeroes || can_deallocate {
        operations = operations.with(Operation::Unmap);
    }
    let own_atomics = identify.features & namespace_field::OWN_ATOMICS != 0;
    let atomic_blocks = if own_atomics {
        u32::from(identify.atomic_write_power_fail.get()) + 1
    } else {
        controller.atomic_blocks
    };
    let fused_blocks = match (controller.fused_blocks, identify.atomic_compare_write.get()) {
        (0, _) => 0,
        (_, own) if own_atomics && own > 0 => u32::from(own) + 1,
        (common, _) => common,
    };
    let limits = Limits {
        io_blocks_max: u32::try_from(transfer_blocks).expect("clamped to 65536"),
        range_blocks_max: BLOCKS_MAX,
        atomic_blocks,
        operations,
        volatile_cache: controller.volatile_cache,
        unmap_zeroes: unmap == UnmapCommand::WriteZeroes,
        read_only: identify.attributes & namespace_field::WRITE_PROTECTED != 0,
        ..Limits::default()
    };
    let has_reservations = controller.nvm_commands & controller_field::RESERVATIONS != 0;
    let reservations = if has_reservations { identify.reservations } else { 0 };
    let reservations = Abilities(reservations);
    Ok(NamespaceView { namespace_id, geometry, limits, unmap, fused_blocks, reservations })
}

/// The UUID among identification descriptors, or else the NGUID taken as one.
pub(super) fn uuid_of(descriptors: &[u8; IDENTIFY_BYTES], nguid: [u8; 16]) -> Option<Uuid> {
    let named = identities(descriptors).find_map(|identity| match identity {
        Ok(NamespaceIdentity::Uuid(uuid)) => Some(uuid),
        _ => None,
    });
    named.or(Some(Uuid::from_bytes(nguid))).filter(|uuid| !uuid.is_nil())
}

/// The text of an ASCII field padded with spaces; anything else in it is replaced.
pub(super) fn text(field: &[u8]) -> String {
    let printable = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { ' ' };
    field.iter().map(printable).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bdev::nvme::identify::LbaFormat;
    use zerocopy::FromZeros;
    use zerocopy::little_endian::{U16, U64};

    fn controller(change: impl FnOnce(&mut IdentifyController)) -> ControllerFacts {
        let mut identify = IdentifyController::new_zeroed();
        change(&mut identify);
        ControllerFacts::new(Capabilities::for_fabrics(127, 500), &identify)
    }

    fn namespace(data_shift: u8) -> IdentifyNamespace {
        let mut identify = IdentifyNamespace::new_zeroed();
        identify.size_blocks = U64::new(1000);
        identify.lba_format[0] = LbaFormat { data_shift, ..LbaFormat::default() };
        identify
    }

    #[test]
    fn only_whole_blocks_of_512_to_4096_bytes_can_be_used() {
        let facts = controller(|_| {});
        for (shift, usable) in [(8, false), (9, true), (12, true), (13, false), (32, false)] {
            assert_eq!(view(1, &facts, &namespace(shift)).is_ok(), usable, "2^{shift}");
        }
        let mut with_metadata = namespace(9);
        with_metadata.lba_format[0].metadata_bytes = U16::new(8);
        assert!(view(1, &facts, &with_metadata).is_err());
        let mut empty = namespace(9);
        empty.size_blocks = U64::new(0);
        assert!(view(1, &facts, &empty).is_err());
    }

    #[test]
    fn the_transfer_limit_is_in_pages_and_never_above_what_a_command_can_name() {
        let limit = |exponent, shift| {
            let facts = controller(|identify| identify.transfer_size_max = exponent);
            view(1, &facts, &namespace(shift)).unwrap().limits.io_blocks_max
        };
        assert_eq!(limit(0, 9), 65536);
        assert_eq!(limit(5, 9), 256);
        assert_eq!(limit(5, 12), 32);
        assert_eq!(limit(51, 9), 65536);
        assert_eq!(limit(52, 9), 65536);
        assert_eq!(limit(255, 9), 65536);
    }

    #[test]
    fn unmap_promises_zeroes_only_where_write_zeroes_deallocates() {
        let facts = controller(|identify| identify.nvm_commands = U16::new(0b1100));
        let mut identify = namespace(9);
        let hint = view(1, &facts, &identify).unwrap();
        assert_eq!(
            (hint.unmap, hint.limits.unmap_zeroes),
            (UnmapCommand::DatasetManagement, false)
        );
        identify.deallocate = 0b1001;
        let promise = view(1, &facts, &identify).unwrap();
        assert_eq!((promise.unmap, promise.limits.unmap_zeroes), (UnmapCommand::WriteZeroes, true));
        assert!(promise.limits.operations.contains(Operation::Unmap));
        assert!(!promise.limits.operations.contains(Operation::Compare));
    }

    #[test]
    fn the_capsule_holds_what_is_left_beside_the_entry() {
        let bytes = |units: u32| {
            controller(|identify| identify.command_capsule_size = units.into())
                .capsule_data_bytes_max
        };
        assert_eq!([bytes(0), bytes(4), bytes(5), bytes(516)], [0, 0, 16, 8192]);
        assert_eq!(bytes(u32::MAX), u32::MAX - 64);
    }

    #[test]
    fn padding_and_control_characters_do_not_reach_a_text() {
        assert_eq!(text(b"abc\x1b d  \0"), "abc  d");
    }
}
