//! The data pointer of a command, held to what its plan transfers.
//!
//! A total function, called once a command on the hot path. TCP has two descriptors: an offset
//! into the capsule, and the transport's own (NVMe/TCP Transport 1.0 section 3.3.2, figure 14).
//! SGLS says that a descriptor may be longer than what a command transfers (NVMe Base 2.0 figure
//! 275, bit 18), so only one that is too short is refused.

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::Sgl;

use super::request::{Plan, Transfer};

/// The plan, or one that fails for the data pointer. `capsule_bytes` came with the command.
pub(super) fn checked(plan: Plan, command: &SubmissionEntry, capsule_bytes: u32) -> Plan {
    let sgl = command.sgl().decode();
    let checked = match plan.transfer {
        Transfer::None => Ok(()),
        Transfer::ToHost(len_bytes) => match sgl {
            Sgl::TransportDataBlock { length } if length >= len_bytes => Ok(()),
            Sgl::TransportDataBlock { .. } => Err(Status::DATA_SGL_LENGTH_INVALID),
            // Data to the host is never in a capsule (NVMe/TCP 3.3.2), nor behind an address.
            _ => Err(Status::SGL_DESCRIPTOR_TYPE_INVALID),
        },
        Transfer::FromHost(len_bytes) => match sgl {
            Sgl::InCapsule { offset: 0, length } => {
                let is_there = length >= len_bytes && length == capsule_bytes;
                if is_there { Ok(()) } else { Err(Status::DATA_SGL_LENGTH_INVALID) }
            }
            // ICDOFF is zero: in-capsule data starts where the capsule's header ends.
            Sgl::InCapsule { .. } => Err(Status::SGL_OFFSET_INVALID),
            Sgl::TransportDataBlock { length } if length >= len_bytes && capsule_bytes == 0 => {
                Ok(())
            }
            Sgl::TransportDataBlock { .. } => Err(Status::DATA_SGL_LENGTH_INVALID),
            _ => Err(Status::SGL_DESCRIPTOR_TYPE_INVALID),
        },
    };
    match checked {
        Ok(()) => plan,
        Err(status) => Plan::fail(status.with_do_not_retry()),
    }
}

#[cfg(test)]
mod tests {
    use bdev::nvme::sgl::SglDescriptor;

    use super::*;
    use crate::target::request::Action;

    fn verdict(transfer: Transfer, sgl: SglDescriptor, capsule_bytes: u32) -> Status {
        let command = SubmissionEntry::new(1, 1, 1).with_sgl(sgl);
        let plan = Plan { action: Action::Admin, transfer };
        match checked(plan, &command, capsule_bytes).action {
            Action::Fail(status) => status,
            _ => Status::SUCCESS,
        }
    }

    fn all_kinds(length: u32) -> [(SglDescriptor, bool, bool); 9] {
        let block = SglDescriptor::transport_data_block(length);
        let of_kind = |identifier| SglDescriptor { identifier, ..block };
        [
            (block, true, true),
            (SglDescriptor::in_capsule(0, length), false, true),
            (SglDescriptor::data_block(0, length), false, false),
            (SglDescriptor::last_segment(0, length), false, false),
            (of_kind(0x10), false, false),
            (of_kind(0x20), false, false),
            (of_kind(0x40), false, false),
            (of_kind(0x5b), false, false),
            (of_kind(0xff), false, false),
        ]
    }

    #[test]
    fn only_the_descriptors_of_tcp_are_taken_and_each_in_its_direction() {
        for (sgl, to_host, from_host) in all_kinds(4096) {
            let capsule_bytes = if sgl.identifier == 0x01 { 4096 } else { 0 };
            let found = verdict(Transfer::ToHost(4096), sgl, 0);
            assert_eq!(found.is_success(), to_host, "{sgl:?}");
            let found = verdict(Transfer::FromHost(4096), sgl, capsule_bytes);
            assert_eq!(found.is_success(), from_host, "{sgl:?}");
            if !from_host {
                assert_eq!(found, Status::SGL_DESCRIPTOR_TYPE_INVALID.with_do_not_retry());
            }
            assert!(verdict(Transfer::None, sgl, capsule_bytes).is_success(), "nothing is moved");
        }
    }

    #[test]
    fn a_descriptor_may_be_longer_than_the_transfer_and_not_shorter() {
        let block = SglDescriptor::transport_data_block;
        let length = Status::DATA_SGL_LENGTH_INVALID.with_do_not_retry();
        for transfer in [Transfer::ToHost(4096), Transfer::FromHost(4096)] {
            assert_eq!(verdict(transfer, block(4095), 0), length);
            assert_eq!(verdict(transfer, block(4096), 0), Status::SUCCESS);
            assert_eq!(verdict(transfer, block(u32::MAX), 0), Status::SUCCESS);
        }
        let capsule = |sgl_bytes, capsule_bytes| {
            let sgl = SglDescriptor::in_capsule(0, sgl_bytes);
            verdict(Transfer::FromHost(4096), sgl, capsule_bytes)
        };
        assert_eq!(capsule(4096, 4096), Status::SUCCESS);
        assert_eq!(capsule(8192, 8192), Status::SUCCESS);
        assert_eq!(capsule(4092, 4092), length);
        assert_eq!(capsule(4096, 0), length);
        assert_eq!(capsule(4096, 4092), length);
        assert_eq!(capsule(4096, 8192), length);
    }

    #[test]
    fn data_in_a_capsule_starts_at_its_beginning_and_is_announced() {
        let transfer = Transfer::FromHost(512);
        let offset = Status::SGL_OFFSET_INVALID.with_do_not_retry();
        for at in [1, 4, 512, u64::MAX] {
            assert_eq!(verdict(transfer, SglDescriptor::in_capsule(at, 512), 512), offset);
        }
        let length = Status::DATA_SGL_LENGTH_INVALID.with_do_not_retry();
        assert_eq!(verdict(transfer, SglDescriptor::transport_data_block(512), 512), length);
    }
}
