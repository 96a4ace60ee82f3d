//! The PDUs that move data outside a capsule: R2T, H2CData and C2HData.
//!
//! On the hot path of the core that owns the connection. NVMe/TCP Transport 1.0 sections 3.3.2,
//! 3.6.2.8 to 3.6.2.10, figures 26 to 28. What a struct's `check` finds depends on the PDU alone;
//! whether the tag is known and the range continues the transfer is for the request's owner.

use super::framing::Framing;
use super::header::{CommonHeader, PduHeader};
use super::kind::{Flags, PduKind};
use super::terminate::{FatalErrorStatus, TermReason, field};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header of each of these PDUs.
pub const DATA_HEADER_BYTES: usize = 24;

/// What offsets and lengths of a transfer are a multiple of.
pub const DATA_GRANULARITY_BYTES: u32 = 4;

/// A part of a command data buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRange {
    /// First byte, from the start of the command data buffer.
    pub offset: u32,
    /// Length in bytes.
    pub length: u32,
}

impl DataRange {
    /// The byte after the last; `None` past the end of a 32-bit buffer.
    pub const fn end(self) -> Option<u32> {
        self.offset.checked_add(self.length)
    }

    fn check_wire(self) -> Result<(), TermReason> {
        if !self.offset.is_multiple_of(DATA_GRANULARITY_BYTES) {
            return Err(TermReason::invalid_field(field::DATA_OFFSET));
        }
        if !self.length.is_multiple_of(DATA_GRANULARITY_BYTES) || self.length == 0 {
            return Err(TermReason::invalid_field(field::DATA_LENGTH));
        }
        match self.end() {
            Some(_) => Ok(()),
            None => Err(TermReason::new(FatalErrorStatus::DataOutOfRange, 0)),
        }
    }

    /// Of a PDU that carries the data, also that DATAL and PLEN agree.
    fn check_carried(self, parts: &PduHeader) -> Result<(), TermReason> {
        if self.offset.is_multiple_of(DATA_GRANULARITY_BYTES) && self.length != parts.data_bytes {
            return Err(TermReason::invalid_field(field::DATA_LENGTH));
        }
        self.check_wire()
    }
}

/// H2CData: data that an R2T asked for (figure 26).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct H2cData {
    /// Common header.
    pub header: CommonHeader,
    /// CCCID: the command.
    pub command_id: U16,
    /// TTAG: as the R2T gave it.
    pub transfer_tag: U16,
    /// DATAO: first byte, from the start of the command data buffer.
    pub offset: U32,
    /// DATAL: length in bytes.
    pub length: U32,
    /// Reserved.
    pub reserved: [u8; 4],
}

const _: () = assert!(size_of::<H2cData>() == DATA_HEADER_BYTES);

impl H2cData {
    /// The header of `range.length` bytes; `flags` is [`Flags::LAST`] on the last of an R2T.
    pub fn new(
        command_id: u16,
        transfer_tag: u16,
        range: DataRange,
        flags: Flags,
        framing: Framing,
    ) -> Self {
        Self {
            header: data_header(PduKind::H2cData, framing, range.length, flags),
            command_id: U16::new(command_id),
            transfer_tag: U16::new(transfer_tag),
            offset: U32::new(range.offset),
            length: U32::new(range.length),
            reserved: [0; 4],
        }
    }

    /// Which part of the command data buffer follows.
    pub fn range(&self) -> DataRange {
        DataRange { offset: self.offset.get(), length: self.length.get() }
    }

    /// Checks the range against the header and its granularity.
    ///
    /// # Errors
    /// The reason for a termination request.
    pub fn check(&self, parts: &PduHeader) -> Result<DataRange, TermReason> {
        self.range().check_carried(parts)?;
        Ok(self.range())
    }
}

/// C2HData: data that a command asked for (figure 27).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct C2hData {
    /// Common header.
    pub header: CommonHeader,
    /// CCCID: the command.
    pub command_id: U16,
    /// Reserved.
    pub reserved_10: [u8; 2],
    /// DATAO: first byte, from the start of the command data buffer.
    pub offset: U32,
    /// DATAL: length in bytes.
    pub length: U32,
    /// Reserved.
    pub reserved_20: [u8; 4],
}

const _: () = assert!(size_of::<C2hData>() == DATA_HEADER_BYTES);

impl C2hData {
    /// The header of `range.length` bytes; `flags` is [`Flags::LAST`] on the last of a command,
    /// with [`Flags::SUCCESS`] if no response capsule follows.
    pub fn new(command_id: u16, range: DataRange, flags: Flags, framing: Framing) -> Self {
        Self {
            header: data_header(PduKind::C2hData, framing, range.length, flags),
            command_id: U16::new(command_id),
            reserved_10: [0; 2],
            offset: U32::new(range.offset),
            length: U32::new(range.length),
            reserved_20: [0; 4],
        }
    }

    /// Which part of the command data buffer follows.
    pub fn range(&self) -> DataRange {
        DataRange { offset: self.offset.get(), length: self.length.get() }
    }

    /// Checks the range against the header and its granularity.
    ///
    /// # Errors
    /// The reason for a termination request.
    pub fn check(&self, parts: &PduHeader) -> Result<DataRange, TermReason> {
        self.range().check_carried(parts)?;
        Ok(self.range())
    }
}

/// R2T: the controller is ready for a part of a command's data (figure 28).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ReadyToTransfer {
    /// Common header.
    pub header: CommonHeader,
    /// CCCID: the command.
    pub command_id: U16,
    /// TTAG: the controller's choice; comes back in H2CData.
    pub transfer_tag: U16,
    /// R2TO: first byte asked for, from the start of the command data buffer.
    pub offset: U32,
    /// R2TL: length in bytes.
    pub length: U32,
    /// Reserved.
    pub reserved: [u8; 4],
}

const _: () = assert!(size_of::<ReadyToTransfer>() == DATA_HEADER_BYTES);

impl ReadyToTransfer {
    /// Asks for `range` of a command's data.
    pub fn new(command_id: u16, transfer_tag: u16, range: DataRange, framing: Framing) -> Self {
        Self {
            header: CommonHeader::new(PduKind::ReadyToTransfer, framing, 0),
            command_id: U16::new(command_id),
            transfer_tag: U16::new(transfer_tag),
            offset: U32::new(range.offset),
            length: U32::new(range.length),
            reserved: [0; 4],
        }
    }

    /// Which part of the command data buffer is asked for.
    pub fn range(&self) -> DataRange {
        DataRange { offset: self.offset.get(), length: self.length.get() }
    }

    /// Checks the range's granularity.
    ///
    /// # Errors
    /// The reason for a termination request.
    pub fn check(&self) -> Result<DataRange, TermReason> {
        self.range().check_wire()?;
        Ok(self.range())
    }
}

fn data_header(kind: PduKind, framing: Framing, data_bytes: u32, flags: Flags) -> CommonHeader {
    debug_assert!(data_bytes > 0, "a data PDU carries data");
    debug_assert!(kind.flags_allowed().has(flags));
    let mut header = CommonHeader::new(kind, framing, data_bytes);
    header.flags |= flags.0;
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(data_bytes: u32) -> PduHeader {
        PduHeader {
            kind: PduKind::H2cData,
            flags: Flags::LAST,
            header_bytes: 24,
            header_digest_bytes: 0,
            data_offset: 24,
            data_digest_bytes: 0,
            data_bytes,
            pdu_bytes: 24 + data_bytes,
        }
    }

    fn h2c(offset: u32, length: u32) -> H2cData {
        H2cData::new(1, 2, DataRange { offset, length }, Flags::LAST, Framing::default())
    }

    #[test]
    fn fields_are_where_the_specification_puts_them() {
        let expected = [6, 4, 24, 24, 24, 2, 0, 0, 1, 0, 2, 0, 0, 16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0];
        assert_eq!(h2c(4096, 512).as_bytes(), expected);
        let range = DataRange { offset: 4, length: 8 };
        let ready = ReadyToTransfer::new(0x0102, 0x0304, range, Framing::default());
        let expected = [9, 0, 24, 0, 24, 0, 0, 0, 2, 1, 4, 3, 4, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(ready.as_bytes(), expected);
    }

    #[test]
    fn an_offset_that_is_no_dword_is_named_before_the_length() {
        let error = h2c(2, 510).check(&parts(512)).unwrap_err();
        assert_eq!(error, TermReason::invalid_field(field::DATA_OFFSET));
    }

    #[test]
    fn a_length_that_differs_from_the_data_is_refused() {
        assert!(h2c(0, 512).check(&parts(512)).is_ok());
        for other in [508, 516] {
            let error = h2c(0, other).check(&parts(512)).unwrap_err();
            assert_eq!(error, TermReason::invalid_field(field::DATA_LENGTH));
        }
    }

    #[test]
    fn a_length_that_is_no_dword_is_refused() {
        let error = h2c(0, 511).check(&parts(511)).unwrap_err();
        assert_eq!(error, TermReason::invalid_field(field::DATA_LENGTH));
    }

    #[test]
    fn a_range_past_the_end_of_the_address_space_is_refused() {
        let last = u32::MAX - 3;
        assert!(h2c(last - 4, 4).check(&parts(4)).is_ok());
        let error = h2c(last, 4).check(&parts(4)).unwrap_err();
        assert_eq!(error.status, FatalErrorStatus::DataOutOfRange);
    }

    #[test]
    fn an_r2t_for_nothing_is_refused() {
        let range = DataRange { offset: 0, length: 0 };
        let ready = ReadyToTransfer::new(1, 1, range, Framing::default());
        assert_eq!(ready.check(), Err(TermReason::invalid_field(field::DATA_LENGTH)));
    }
}
