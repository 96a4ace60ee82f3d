//! The Connect command: how a queue comes to be, and why one is refused.
//!
//! The first command of every connection, handled on the core that owns it. NVMe Base 2.0 section
//! 6.3 (Connect command, connect data and connect response); NVMe-oF 1.1 section 3.3, figures 19
//! to 21, has the same layout.

use super::nqn::NQN_FIELD_BYTES;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::completion::CompletionEntry;
use bdev::nvme::opcode;
use bdev::nvme::sgl::SglDescriptor;
use bdev::nvme::status::Status;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Opcode of every fabrics command.
pub const FABRICS_OPCODE: u8 = opcode::FABRICS;
/// Fabrics command type of Connect.
pub const CONNECT_TYPE: u8 = opcode::FabricsType::Connect.value();
/// Length of the connect data.
pub const CONNECT_DATA_BYTES: usize = 1024;
/// The only record format.
pub const CONNECT_RECORD_FORMAT: u16 = 0;
/// Controller identifier with which a host asks for any controller (dynamic controller model).
pub const CONTROLLER_ID_DYNAMIC: u16 = 0xffff;
/// Controller identifier with which a host asks for any static controller.
pub const CONTROLLER_ID_STATIC_ANY: u16 = 0xfffe;
/// Queue identifier of the admin queue.
pub const ADMIN_QUEUE_ID: u16 = 0;

/// Flags byte of a fabrics command: its data pointer is an SGL descriptor.
pub(super) const FABRICS_FLAGS: u8 = 0x40;

/// Bits of [`ConnectCommand::attributes`] (CATTR).
pub mod attribute {
    /// Priority class of the queue, bits 1:0.
    pub const PRIORITY_MASK: u8 = 0b11;
    /// The host ignores submission queue head pointers; completions need not carry them.
    pub const DISABLE_FLOW_CONTROL: u8 = 1 << 2;
    /// The host may delete single I/O queues with Disconnect.
    pub const INDIVIDUAL_DELETION: u8 = 1 << 3;
}

/// A submission queue entry seen as a Connect command.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ConnectCommand {
    /// [`FABRICS_OPCODE`].
    pub opcode: u8,
    /// Data pointer format in bits 7:6.
    pub flags: u8,
    /// Command identifier.
    pub command_id: U16,
    /// [`CONNECT_TYPE`].
    pub fabrics_type: u8,
    /// Reserved.
    pub reserved_5: [u8; 19],
    /// Where the connect data is.
    pub sgl: SglDescriptor,
    /// RECFMT, [`CONNECT_RECORD_FORMAT`].
    pub record_format: U16,
    /// QID, [`ADMIN_QUEUE_ID`] or the I/O queue's.
    pub queue_id: U16,
    /// SQSIZE: entries in the queue, 0's based.
    pub queue_size: U16,
    /// CATTR; see [`attribute`].
    pub attributes: u8,
    /// Reserved.
    pub reserved_47: u8,
    /// KATO in milliseconds, 0 for none. Of the admin queue only.
    pub keep_alive_ms: U32,
    /// Reserved.
    pub reserved_52: [u8; 12],
}

const _: () = assert!(size_of::<ConnectCommand>() == size_of::<SubmissionEntry>());
const _: () = assert!(core::mem::offset_of!(ConnectCommand, record_format) == 40);
const _: () = assert!(core::mem::offset_of!(ConnectCommand, keep_alive_ms) == 48);

/// What an initiator chooses in a Connect command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Queue to connect.
    pub queue_id: u16,
    /// Entries in the queue, 0's based.
    pub queue_size: u16,
    /// Bits of [`attribute`].
    pub attributes: u8,
    /// Keep alive timeout in milliseconds, 0 for none; on an I/O queue always 0.
    pub keep_alive_ms: u32,
}

impl ConnectCommand {
    /// A Connect command whose data is in the capsule, as TCP requires.
    pub fn new(command_id: u16, options: ConnectOptions) -> Self {
        Self {
            opcode: FABRICS_OPCODE,
            flags: FABRICS_FLAGS,
            command_id: U16::new(command_id),
            fabrics_type: CONNECT_TYPE,
            reserved_5: [0; 19],
            sgl: SglDescriptor::in_capsule(0, CONNECT_DATA_BYTES as u32),
            record_format: U16::new(CONNECT_RECORD_FORMAT),
            queue_id: U16::new(options.queue_id),
            queue_size: U16::new(options.queue_size),
            attributes: options.attributes,
            reserved_47: 0,
            keep_alive_ms: U32::new(options.keep_alive_ms),
            reserved_52: [0; 12],
        }
    }

    /// Sees an entry as a Connect command; `None` if it is another command.
    pub fn of(entry: &SubmissionEntry) -> Option<&Self> {
        let command: &Self = zerocopy::transmute_ref!(entry);
        let is_connect = command.opcode == FABRICS_OPCODE && command.fabrics_type == CONNECT_TYPE;
        is_connect.then_some(command)
    }

    /// The command as a submission queue entry.
    pub fn entry(&self) -> SubmissionEntry {
        zerocopy::transmute!(*self)
    }
}

/// The data of a Connect command.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ConnectData {
    /// Host identifier.
    pub host_id: [u8; 16],
    /// Controller to connect to, or one of the two values that leave it open.
    pub controller_id: U16,
    /// Reserved.
    pub reserved_18: [u8; 238],
    /// NQN of the subsystem; read it with `Nqn::from_field`.
    pub subsystem_nqn: [u8; NQN_FIELD_BYTES],
    /// NQN of the host; read it with `Nqn::from_field`.
    pub host_nqn: [u8; NQN_FIELD_BYTES],
    /// Reserved.
    pub reserved_768: [u8; 256],
}

const _: () = assert!(size_of::<ConnectData>() == CONNECT_DATA_BYTES);
const _: () = assert!(core::mem::offset_of!(ConnectData, subsystem_nqn) == 256);

/// A parameter of Connect that was refused, as the response names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectParameter {
    /// QID.
    QueueId,
    /// SQSIZE.
    QueueSize,
    /// CATTR.
    Attributes,
    /// KATO.
    KeepAlive,
    /// HOSTID.
    HostId,
    /// CNTLID.
    ControllerId,
    /// SUBNQN.
    SubsystemNqn,
    /// HOSTNQN.
    HostNqn,
}

/// Bit of IATTR: the offset is into the connect data rather than the command.
const IN_CONNECT_DATA: u32 = 1 << 16;

impl ConnectParameter {
    /// Dword 0 of the response: IPO in bits 15:0, IATTR in bits 23:16.
    pub const fn result(self) -> u32 {
        match self {
            Self::QueueId => 42,
            Self::QueueSize => 44,
            Self::Attributes => 46,
            Self::KeepAlive => 48,
            Self::HostId => IN_CONNECT_DATA,
            Self::ControllerId => IN_CONNECT_DATA | 16,
            Self::SubsystemNqn => IN_CONNECT_DATA | 256,
            Self::HostNqn => IN_CONNECT_DATA | 512,
        }
    }

    /// The parameter that dword 0 of a response names, if it is a known one.
    pub const fn from_result(result: u32) -> Option<Self> {
        Some(match result & 0x0001_ffff {
            42 => Self::QueueId,
            44 => Self::QueueSize,
            46 => Self::Attributes,
            48 => Self::KeepAlive,
            0x1_0000 => Self::HostId,
            0x1_0010 => Self::ControllerId,
            0x1_0100 => Self::SubsystemNqn,
            0x1_0200 => Self::HostNqn,
            _ => return None,
        })
    }

    /// The completion that refuses it. A retry with the same value would fail again.
    pub fn refusal(self, command_id: u16) -> CompletionEntry {
        let status = Status::CONNECT_INVALID_PARAMETERS.with_do_not_retry();
        CompletionEntry::new(command_id, 0, status).with_result(self.result())
    }
}

/// What authentication a controller demands after Connect (AUTHREQ).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// None.
    NotRequired,
    /// In-band authentication before any other command (ATR).
    Required,
    /// As `Required`, over a secure channel that it sets up (ASCR).
    RequiredWithSecureChannel,
}

/// Dword 0 of a Connect that succeeded: the controller's identifier and what it demands next.
pub const fn connect_result(controller_id: u16, authentication: Authentication) -> u32 {
    let required = match authentication {
        Authentication::NotRequired => 0,
        Authentication::Required => 1 << 16,
        Authentication::RequiredWithSecureChannel => 1 << 17,
    };
    controller_id as u32 | required
}

/// Reads dword 0 of a Connect that succeeded.
pub const fn parse_connect_result(result: u32) -> (u16, Authentication) {
    let [low, high, required, _] = result.to_le_bytes();
    let authentication = match required & 0b11 {
        0 => Authentication::NotRequired,
        1 => Authentication::Required,
        _ => Authentication::RequiredWithSecureChannel,
    };
    (u16::from_le_bytes([low, high]), authentication)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bdev::nvme::command::DataPointerFormat;
    use bdev::nvme::sgl::Sgl;
    use core::mem::offset_of;
    use proptest::prelude::*;

    const OPTIONS: ConnectOptions = ConnectOptions {
        queue_id: 3,
        queue_size: 127,
        attributes: attribute::DISABLE_FLOW_CONTROL,
        keep_alive_ms: 15_000,
    };

    #[test]
    fn a_command_is_an_entry_with_its_data_in_the_capsule() {
        let entry = ConnectCommand::new(9, OPTIONS).entry();
        assert_eq!(entry.opcode, FABRICS_OPCODE);
        assert_eq!(entry.fabrics_type(), CONNECT_TYPE);
        assert_eq!(entry.command_id.get(), 9);
        assert_eq!(entry.data_pointer_format(), DataPointerFormat::Sgl);
        assert_eq!(entry.sgl().decode(), Sgl::InCapsule { offset: 0, length: 1024 });
        assert_eq!(entry.cdw10.get(), 3 << 16);
        assert_eq!(entry.cdw11.get(), 0x0004_007f);
        assert_eq!(entry.cdw12.get(), 15_000);
    }

    #[test]
    fn another_command_is_not_seen_as_connect() {
        let mut entry = ConnectCommand::new(9, OPTIONS).entry();
        assert!(ConnectCommand::of(&entry).is_some());
        entry.namespace_id = U32::new(4);
        assert!(ConnectCommand::of(&entry).is_none());
        entry = ConnectCommand::new(9, OPTIONS).entry();
        entry.opcode = 0x06;
        assert!(ConnectCommand::of(&entry).is_none());
    }

    #[test]
    fn refused_parameters_are_named_by_their_offsets() {
        let of_command = [
            (ConnectParameter::QueueId, offset_of!(ConnectCommand, queue_id)),
            (ConnectParameter::QueueSize, offset_of!(ConnectCommand, queue_size)),
            (ConnectParameter::Attributes, offset_of!(ConnectCommand, attributes)),
            (ConnectParameter::KeepAlive, offset_of!(ConnectCommand, keep_alive_ms)),
        ];
        let of_data = [
            (ConnectParameter::HostId, offset_of!(ConnectData, host_id)),
            (ConnectParameter::ControllerId, offset_of!(ConnectData, controller_id)),
            (ConnectParameter::SubsystemNqn, offset_of!(ConnectData, subsystem_nqn)),
            (ConnectParameter::HostNqn, offset_of!(ConnectData, host_nqn)),
        ];
        for (parameter, offset) in of_command {
            assert_eq!(usize::try_from(parameter.result()).unwrap(), offset);
            assert_eq!(ConnectParameter::from_result(parameter.result()), Some(parameter));
        }
        for (parameter, offset) in of_data {
            assert_eq!(usize::try_from(parameter.result()).unwrap(), 1 << 16 | offset);
            assert_eq!(ConnectParameter::from_result(parameter.result()), Some(parameter));
        }
        let refusal = ConnectParameter::HostNqn.refusal(5);
        assert!(refusal.status().has_code(Status::CONNECT_INVALID_PARAMETERS));
        assert!(refusal.status().do_not_retry());
        assert_eq!(refusal.result(), 0x0001_0200);
    }

    #[test]
    fn a_result_carries_controller_and_authentication() {
        for authentication in [
            Authentication::NotRequired,
            Authentication::Required,
            Authentication::RequiredWithSecureChannel,
        ] {
            let result = connect_result(0xfffd, authentication);
            assert_eq!(parse_connect_result(result), (0xfffd, authentication));
        }
        assert_eq!(connect_result(1, Authentication::Required), 0x0001_0001);
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_the_same(command_id: u16, queue_id: u16, queue_size: u16,
                                          attributes: u8, keep_alive_ms: u32) {
            let options = ConnectOptions { queue_id, queue_size, attributes, keep_alive_ms };
            let command = ConnectCommand::new(command_id, options);
            let entry = command.entry();
            prop_assert_eq!(ConnectCommand::of(&entry), Some(&command));
            prop_assert_eq!(command.queue_id.get(), queue_id);
            prop_assert_eq!(command.queue_size.get(), queue_size);
            prop_assert_eq!(command.keep_alive_ms.get(), keep_alive_ms);
        }
    }
}
