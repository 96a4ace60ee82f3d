//! How much data an admin command carries, which way, and where the host has put it.
//!
//! Asked by the connection before a command is executed, so that it can receive the data or size
//! the buffer; every length is checked here. NVMe Base 2.0 sections 3.3.3.1 and 4.1.2; NVMe/TCP
//! Transport 1.0 section 3.3.2 for the descriptors that TCP allows.

use bdev::Status;
use bdev::nvme::command::{DataPointerFormat, Fuse, SubmissionEntry};
use bdev::nvme::identify::IDENTIFY_BYTES;
use bdev::nvme::opcode::{AdminOpcode, FabricsType};
use bdev::nvme::sgl::Sgl;

use super::{features, log_page};
use crate::target::allocation::command as allocation;
use crate::target::limits::{ADMIN_IN_CAPSULE_BYTES, TargetLimits};

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// In the capsule, or asked for with an R2T.
    HostToController,
    /// In C2HData PDUs.
    ControllerToHost,
}

/// Where the data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In the command capsule, from its first data byte on. Only from the host.
    InCapsule,
    /// Moved by the transport: R2T and H2CData, or C2HData.
    Transport,
}

/// What data a command carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// None.
    None,
    /// Exactly `len_bytes`, at least 1 and at most `TargetLimits::transfer_bytes_max`.
    Data {
        /// Which way.
        direction: Direction,
        /// How much.
        len_bytes: u32,
        /// From where.
        placement: Placement,
    },
}

/// The data of a command on an admin queue that is connected already; an error is the command's
/// status, and nothing is to be transferred.
pub fn transfer_of(entry: &SubmissionEntry, limits: &TargetLimits) -> Result<Transfer, Status> {
    check_flags(entry)?;
    let opcode = AdminOpcode::try_from(entry.opcode).map_err(|_| Status::INVALID_OPCODE)?;
    let to_host = |len_bytes| (Direction::ControllerToHost, len_bytes);
    let from_host = |len_bytes| (Direction::HostToController, len_bytes);
    let needed = match opcode {
        AdminOpcode::Fabrics => return fabrics_transfer(entry),
        AdminOpcode::Identify => Some(to_host(IDENTIFY_BYTES as u32)),
        AdminOpcode::GetLogPage => Some(to_host(log_page::requested_bytes(entry, limits)?)),
        AdminOpcode::GetLbaStatus => Some(to_host(allocation::requested_bytes(entry, limits)?)),
        AdminOpcode::GetFeatures => features::get_bytes(entry)?.map(to_host),
        AdminOpcode::SetFeatures => features::set_bytes(entry)?.map(from_host),
        AdminOpcode::Abort | AdminOpcode::AsyncEventRequest | AdminOpcode::KeepAlive => None,
        _ => return Err(Status::INVALID_OPCODE),
    };
    match needed {
        None => Ok(Transfer::None),
        Some((direction, len_bytes)) => described(entry, direction, len_bytes),
    }
}

/// The data that the descriptor of a command stands for, which must be at least `len_bytes`: SGLS
/// says that it may be longer (NVMe Base 2.0 figure 275, bit 18).
pub(super) fn described(
    entry: &SubmissionEntry,
    direction: Direction,
    len_bytes: u32,
) -> Result<Transfer, Status> {
    let (found_bytes, placement) = match entry.sgl().decode() {
        Sgl::TransportDataBlock { length } => (length, Placement::Transport),
        Sgl::InCapsule { offset, length } => {
            if direction == Direction::ControllerToHost {
                return Err(Status::SGL_DESCRIPTOR_TYPE_INVALID);
            }
            // ICDOFF is 0: in-capsule data follows the command at once.
            if offset != 0 {
                return Err(Status::SGL_OFFSET_INVALID);
            }
            if length > ADMIN_IN_CAPSULE_BYTES {
                return Err(Status::DATA_SGL_LENGTH_INVALID);
            }
            (length, Placement::InCapsule)
        }
        _ => return Err(Status::SGL_DESCRIPTOR_TYPE_INVALID),
    };
    if found_bytes < len_bytes {
        return Err(Status::DATA_SGL_LENGTH_INVALID);
    }
    Ok(Transfer::Data { direction, len_bytes, placement })
}

/// Over fabrics every command has an SGL. Admin commands are never fused (section 3.3.3.1).
pub(super) fn check_flags(entry: &SubmissionEntry) -> Result<(), Status> {
    let has_sgl = entry.data_pointer_format() == DataPointerFormat::Sgl;
    if has_sgl && entry.fuse() == Fuse::Normal { Ok(()) } else { Err(Status::INVALID_FIELD) }
}

fn fabrics_transfer(entry: &SubmissionEntry) -> Result<Transfer, Status> {
    match FabricsType::try_from(entry.fabrics_type()) {
        Ok(FabricsType::PropertyGet | FabricsType::PropertySet) => Ok(Transfer::None),
        // A queue is connected once (section 6.3).
        Ok(FabricsType::Connect) => Err(Status::COMMAND_SEQUENCE_ERROR),
        // Only I/O queues can be disconnected (section 6.4).
        Ok(FabricsType::Disconnect) => Err(Status::INVALID_QUEUE_TYPE),
        _ => Err(Status::INVALID_OPCODE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bdev::nvme::sgl::SglDescriptor;
    use zerocopy::little_endian::U32;

    fn transfer(entry: &SubmissionEntry) -> Result<Transfer, Status> {
        transfer_of(entry, &TargetLimits::default())
    }

    fn command(opcode: u8, descriptor: SglDescriptor) -> SubmissionEntry {
        SubmissionEntry::new(opcode, 1, 0).with_sgl(descriptor)
    }

    fn to_host(len_bytes: u32) -> Transfer {
        let direction = Direction::ControllerToHost;
        Transfer::Data { direction, len_bytes, placement: Placement::Transport }
    }

    #[test]
    fn identify_carries_a_page_to_the_host() {
        let with = |len| transfer(&command(0x06, SglDescriptor::transport_data_block(len)));
        assert_eq!(with(4096), Ok(to_host(4096)));
        assert_eq!(with(4095), Err(Status::DATA_SGL_LENGTH_INVALID));
        assert_eq!(with(4097), Ok(to_host(4096)));
        assert_eq!(with(0), Err(Status::DATA_SGL_LENGTH_INVALID));
    }

    #[test]
    fn a_log_page_is_as_long_as_asked_up_to_the_largest_transfer() {
        let with = |dwords: u32| {
            let sgl = SglDescriptor::transport_data_block(dwords.saturating_mul(4));
            let mut entry = command(0x02, sgl);
            entry.cdw10 = U32::new((dwords - 1) << 16);
            entry.cdw11 = U32::new((dwords - 1) >> 16);
            transfer(&entry)
        };
        assert_eq!(with(1), Ok(to_host(4)));
        assert_eq!(with(32768), Ok(to_host(131_072)));
        assert_eq!(with(32769), Err(Status::INVALID_FIELD));
        assert_eq!(with(u32::MAX), Err(Status::INVALID_FIELD));
    }

    #[test]
    fn data_from_the_host_may_be_in_the_capsule_or_fetched() {
        let with = |sgl| {
            let mut entry = command(0x09, sgl);
            entry.cdw10 = U32::new(0x16);
            transfer(&entry)
        };
        let from_host = |placement| {
            let direction = Direction::HostToController;
            Ok(Transfer::Data { direction, len_bytes: 512, placement })
        };
        let in_capsule = SglDescriptor::in_capsule;
        assert_eq!(with(in_capsule(0, 512)), from_host(Placement::InCapsule));
        let fetched = SglDescriptor::transport_data_block(512);
        assert_eq!(with(fetched), from_host(Placement::Transport));
        assert_eq!(with(in_capsule(8, 512)), Err(Status::SGL_OFFSET_INVALID));
        assert_eq!(with(in_capsule(0, 511)), Err(Status::DATA_SGL_LENGTH_INVALID));
        assert_eq!(with(in_capsule(0, 8193)), Err(Status::DATA_SGL_LENGTH_INVALID));
    }

    #[test]
    fn descriptors_that_tcp_does_not_have_are_refused() {
        for sgl in [
            SglDescriptor::data_block(0, 4096),
            SglDescriptor::last_segment(0, 4096),
            SglDescriptor::in_capsule(0, 4096),
        ] {
            let answer = transfer(&command(0x06, sgl));
            assert_eq!(answer, Err(Status::SGL_DESCRIPTOR_TYPE_INVALID));
        }
    }

    #[test]
    fn prps_and_fused_commands_are_refused() {
        let mut entry = command(0x18, SglDescriptor::default());
        assert_eq!(transfer(&entry), Ok(Transfer::None));
        for flags in [0x00, 0x80, 0xc0, 0x41, 0x42, 0x43] {
            entry.flags = flags;
            assert_eq!(transfer(&entry), Err(Status::INVALID_FIELD), "flags {flags:#x}");
        }
    }

    #[test]
    fn unknown_commands_are_refused() {
        for opcode in [0x00, 0x01, 0x04, 0x05, 0x0d, 0x10, 0x14, 0x80, 0x81, 0x84, 0xff] {
            let answer = transfer(&command(opcode, SglDescriptor::default()));
            assert_eq!(answer, Err(Status::INVALID_OPCODE), "opcode {opcode:#x}");
        }
    }

    #[test]
    fn fabrics_commands_on_a_connected_admin_queue_are_told_apart() {
        let with = |fabrics_type: u32| {
            let mut entry = command(0x7f, SglDescriptor::default());
            entry.namespace_id = U32::new(fabrics_type);
            transfer(&entry)
        };
        assert_eq!(with(0x00), Ok(Transfer::None));
        assert_eq!(with(0x04), Ok(Transfer::None));
        assert_eq!(with(0x01), Err(Status::COMMAND_SEQUENCE_ERROR));
        assert_eq!(with(0x08), Err(Status::INVALID_QUEUE_TYPE));
        assert_eq!(with(0x05), Err(Status::INVALID_OPCODE));
        assert_eq!(with(0x06), Err(Status::INVALID_OPCODE));
    }
}
