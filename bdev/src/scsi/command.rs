//! A command, parsed from its CDB.
//!
//! [`Command::parse`] refuses what the table in [`super::opcode`] does not have, so that a later
//! step never meets a bit which it does not know. No device is looked at here. SPC-4 section 6,
//! SBC-3 section 5.

use zerocopy::FromBytes;

use super::cdb::{
    FUA, Inquiry, Mode6, Mode10, Report12, ReserveOut, Transfer6, Transfer10, Transfer12,
    Transfer16, WRITE_SAME_NO_DATA, WRITE_SAME_UNMAP,
};
use super::opcode::{self as op, CDB_BYTES, Lookup, SERVICE_ACTION_MASK};
use super::sense::{FieldPointer, Sense, SenseCode, SenseFormat};
use crate::io::{IoFlags, Lba};

/// A range of blocks and how to treat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block.
    pub lba: Lba,
    /// Number of blocks.
    pub blocks: u32,
    /// Force unit access or nothing.
    pub flags: IoFlags,
}

/// What a verification compares (BYTCHK, SBC-3 table 85).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteCheck {
    /// Nothing: that the blocks can be read.
    Medium,
    /// Each block with one of the data.
    Each,
    /// Every block with the one block of the data.
    One,
}

/// What a WRITE SAME writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Same {
    /// The block of the data.
    Block,
    /// Zeroes (NDOB).
    Zeroes,
}

/// What is to become of the space of a WRITE SAME of zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// It stays.
    Keep,
    /// It may be given back (UNMAP).
    GiveBack,
}

/// Which values of mode pages are asked for (PC, SPC-4 table 188).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageControl {
    /// Those in force.
    Current,
    /// A mask of what can be changed.
    Changeable,
    /// Those of the beginning.
    Default,
}

/// Short or long form of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Of a CDB of 6 bytes.
    Six,
    /// Of a CDB of 10 bytes.
    Ten,
}

/// Which block descriptor a MODE SENSE wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockDescriptor {
    /// None (DBD).
    None,
    /// That of 8 bytes.
    Short,
    /// That of 16 bytes, if it takes so many (LLBAA).
    Long,
}

/// A MODE SENSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeSense {
    /// Length of CDB and header.
    pub form: Form,
    /// The block descriptor.
    pub descriptor: BlockDescriptor,
    /// Which values.
    pub control: PageControl,
    /// Page code, 3fh for all.
    pub page: u8,
    /// Subpage code, ffh for all.
    pub subpage: u8,
    /// Bytes that the initiator takes.
    pub allocation: u32,
}

/// A REPORT SUPPORTED OPERATION CODES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportOpcodes {
    /// Whether command timeouts are to be told (RCTD).
    pub timeouts: bool,
    /// REPORTING OPTIONS.
    pub options: u8,
    /// The code asked for.
    pub opcode: u8,
    /// The service action asked for.
    pub service_action: u16,
    /// Bytes that the initiator takes.
    pub allocation: u32,
}

/// Service actions of PERSISTENT RESERVE IN (SPC-4 table 201).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveInAction {
    /// READ KEYS.
    Keys,
    /// READ RESERVATION.
    Reservation,
    /// REPORT CAPABILITIES.
    Capabilities,
    /// READ FULL STATUS.
    FullStatus,
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in the specification, lengths in bytes")]
pub enum Command {
    TestUnitReady,
    SendDiagnostic,
    StartStopUnit { start: bool, power_condition: u8, eject: bool },
    PreventAllow,
    RequestSense { format: SenseFormat, allocation: u32 },
    Inquiry { page: Option<u8>, allocation: u32 },
    ModeSense(ModeSense),
    ModeSelect { form: Form, is_page_format: bool, save: bool, length: u32 },
    ReadCapacity10,
    ReadCapacity16 { allocation: u32 },
    GetLbaStatus { lba: Lba, allocation: u32 },
    ReportLuns { select: u8, allocation: u32 },
    ReportOpcodes(ReportOpcodes),
    ReportFunctions { is_extended: bool, allocation: u32 },
    ReadDefectData { form: Form, lists: u8, allocation: u32 },
    ReserveIn { action: ReserveInAction, allocation: u32 },
    ReserveOut { action: u8, kind: u8, length: u32 },
    Reserve,
    Release,
    Read(Extent),
    Write(Extent),
    WriteAtomic(Extent),
    Verify { extent: Extent, check: ByteCheck },
    WriteAndVerify { extent: Extent, check: ByteCheck },
    WriteSame { extent: Extent, same: Same, space: Space },
    CompareAndWrite(Extent),
    OrWrite(Extent),
    Unmap { length: u32 },
    SynchronizeCache(Extent),
    Prefetch(Extent),
}

impl Command {
    /// Parses a CDB; shorter ones are followed by anything.
    ///
    /// # Errors
    ///
    /// What CHECK CONDITION is to say of it.
    pub fn parse(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
        let action = cdb[1] & SERVICE_ACTION_MASK;
        let description = match op::find(cdb[0], action) {
            Lookup::Found(description) => description,
            Lookup::NoServiceAction => {
                let field = Some(FieldPointer::Cdb { byte: 1, bit: Some(4) });
                return Err(Sense { field, ..Sense::illegal(SenseCode::INVALID_FIELD_IN_CDB) });
            }
            Lookup::NoOpcode => return Err(Sense::illegal(SenseCode::INVALID_OPCODE)),
        };
        if let Some(byte) = description.stray_byte(cdb) {
            return Err(Sense::invalid_cdb(u16::try_from(byte).expect("a CDB has 16 bytes")));
        }
        match cdb[0] {
            op::READ_6 | op::READ_10 | op::READ_12 | op::READ_16 => {
                Ok(Command::Read(extent(cdb, FUA)))
            }
            op::WRITE_6 | op::WRITE_10 | op::WRITE_12 | op::WRITE_16 => {
                Ok(Command::Write(extent(cdb, FUA)))
            }
            op::VERIFY_10 | op::VERIFY_12 | op::VERIFY_16 => {
                Ok(Command::Verify { extent: extent(cdb, 0), check: byte_check(cdb)? })
            }
            op::WRITE_AND_VERIFY_10 | op::WRITE_AND_VERIFY_12 | op::WRITE_AND_VERIFY_16 => {
                let check = byte_check(cdb)?;
                if check == ByteCheck::One {
                    return Err(Sense::invalid_cdb(1));
                }
                Ok(Command::WriteAndVerify { extent: extent(cdb, 0), check })
            }
            op::PREFETCH_10 | op::PREFETCH_16 => Ok(Command::Prefetch(extent(cdb, 0))),
            op::SYNCHRONIZE_CACHE_10 | op::SYNCHRONIZE_CACHE_16 => {
                Ok(Command::SynchronizeCache(extent(cdb, 0)))
            }
            op::WRITE_SAME_10 | op::WRITE_SAME_16 => Ok(write_same(cdb)),
            op::COMPARE_AND_WRITE => Ok(Command::CompareAndWrite(Extent {
                blocks: u32::from(cdb[13]),
                ..extent(cdb, FUA)
            })),
            op::ORWRITE_16 => Ok(Command::OrWrite(extent(cdb, FUA))),
            op::WRITE_ATOMIC_16 => Ok(Command::WriteAtomic(Extent {
                blocks: u32::from(u16::from_be_bytes([cdb[12], cdb[13]])),
                ..extent(cdb, FUA)
            })),
            _ => parse_other(cdb),
        }
    }
}

fn view<T: FromBytes>(cdb: &[u8; CDB_BYTES]) -> T {
    T::read_from_prefix(cdb).expect("no layout is longer than a CDB").0
}

/// The blocks of a command whose CDB is like that of READ; `fua` is the bit for it, or none.
#[inline]
fn extent(cdb: &[u8; CDB_BYTES], fua: u8) -> Extent {
    let flags = match cdb[1] & fua {
        0 => IoFlags::NONE,
        _ => IoFlags::FUA,
    };
    let (lba, blocks, flags) = match cdb[0] >> 5 {
        0 => {
            let short: Transfer6 = view(cdb);
            let lba = u64::from(short.lba_high & 0x1f) << 16 | u64::from(short.lba.get());
            // A length of zero means 256 here (SBC-3 section 5.7).
            let blocks = if short.length == 0 { 256 } else { u32::from(short.length) };
            (lba, blocks, IoFlags::NONE)
        }
        1 | 2 => {
            let ten: Transfer10 = view(cdb);
            (u64::from(ten.lba.get()), u32::from(ten.length.get()), flags)
        }
        5 => {
            let twelve: Transfer12 = view(cdb);
            (u64::from(twelve.lba.get()), twelve.length.get(), flags)
        }
        _ => {
            let sixteen: Transfer16 = view(cdb);
            (sixteen.lba.get(), sixteen.length.get(), flags)
        }
    };
    Extent { lba: Lba(lba), blocks, flags }
}

fn byte_check(cdb: &[u8; CDB_BYTES]) -> Result<ByteCheck, Sense> {
    match cdb[1] >> 1 & 3 {
        0 => Ok(ByteCheck::Medium),
        1 => Ok(ByteCheck::Each),
        3 => Ok(ByteCheck::One),
        _ => Err(Sense::invalid_cdb(1)),
    }
}

fn write_same(cdb: &[u8; CDB_BYTES]) -> Command {
    let no_data = cdb[0] == op::WRITE_SAME_16 && cdb[1] & WRITE_SAME_NO_DATA != 0;
    let space = if cdb[1] & WRITE_SAME_UNMAP != 0 { Space::GiveBack } else { Space::Keep };
    let same = if no_data { Same::Zeroes } else { Same::Block };
    Command::WriteSame { extent: extent(cdb, 0), same, space }
}

fn parse_other(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let short = |at: usize| u32::from(u16::from_be_bytes([cdb[at], cdb[at + 1]]));
    let long = |at: usize| u32::from_be_bytes([cdb[at], cdb[at + 1], cdb[at + 2], cdb[at + 3]]);
    Ok(match cdb[0] {
        op::TEST_UNIT_READY => Command::TestUnitReady,
        op::SEND_DIAGNOSTIC => Command::SendDiagnostic,
        op::START_STOP_UNIT => Command::StartStopUnit {
            start: cdb[4] & 1 != 0,
            power_condition: cdb[4] >> 4,
            eject: cdb[4] & 2 != 0,
        },
        op::PREVENT_ALLOW => Command::PreventAllow,
        op::REQUEST_SENSE => {
            let format = if cdb[1] & 1 == 0 { SenseFormat::Fixed } else { SenseFormat::Descriptor };
            Command::RequestSense { format, allocation: u32::from(cdb[4]) }
        }
        op::INQUIRY => {
            let inquiry: Inquiry = view(cdb);
            let page = (inquiry.flags & 1 != 0).then_some(inquiry.page);
            if page.is_none() && inquiry.page != 0 {
                return Err(Sense::invalid_cdb(2));
            }
            Command::Inquiry { page, allocation: u32::from(inquiry.allocation.get()) }
        }
        op::MODE_SENSE_6 | op::MODE_SENSE_10 => Command::ModeSense(mode_sense(cdb)?),
        op::MODE_SELECT_6 | op::MODE_SELECT_10 => mode_select(cdb),
        op::READ_CAPACITY_10 => Command::ReadCapacity10,
        op::SERVICE_ACTION_IN_16 if cdb[1] == op::READ_CAPACITY_16 => {
            Command::ReadCapacity16 { allocation: long(10) }
        }
        op::SERVICE_ACTION_IN_16 => {
            Command::GetLbaStatus { lba: extent(cdb, 0).lba, allocation: long(10) }
        }
        op::REPORT_LUNS => Command::ReportLuns { select: cdb[2], allocation: long(6) },
        op::MAINTENANCE_IN => report(cdb),
        op::READ_DEFECT_DATA_10 => {
            Command::ReadDefectData { form: Form::Six, lists: cdb[2] & 0x1f, allocation: short(7) }
        }
        op::READ_DEFECT_DATA_12 => {
            Command::ReadDefectData { form: Form::Ten, lists: cdb[1] & 0x1f, allocation: long(6) }
        }
        op::PERSISTENT_RESERVE_IN => {
            let action = match cdb[1] & SERVICE_ACTION_MASK {
                0 => ReserveInAction::Keys,
                1 => ReserveInAction::Reservation,
                2 => ReserveInAction::Capabilities,
                _ => ReserveInAction::FullStatus,
            };
            Command::ReserveIn { action, allocation: short(7) }
        }
        op::PERSISTENT_RESERVE_OUT => {
            let out: ReserveOut = view(cdb);
            let action = out.action & SERVICE_ACTION_MASK;
            Command::ReserveOut { action, kind: out.kind, length: out.length.get() }
        }
        op::RESERVE_6 | op::RESERVE_10 => Command::Reserve,
        op::RELEASE_6 | op::RELEASE_10 => Command::Release,
        op::UNMAP => Command::Unmap { length: short(7) },
        _ => return Err(Sense::illegal(SenseCode::INVALID_OPCODE)),
    })
}

fn mode_sense(cdb: &[u8; CDB_BYTES]) -> Result<ModeSense, Sense> {
    let six: Mode6 = view(cdb);
    let control = match six.page >> 6 {
        0 => PageControl::Current,
        1 => PageControl::Changeable,
        2 => PageControl::Default,
        // SPC-4 section 6.11.5: without saving, saved values cannot be asked for.
        _ => return Err(Sense::illegal(SenseCode::SAVING_NOT_SUPPORTED)),
    };
    let (form, allocation) = match cdb[0] {
        op::MODE_SENSE_6 => (Form::Six, u32::from(six.length)),
        _ => (Form::Ten, u32::from(view::<Mode10>(cdb).length.get())),
    };
    let descriptor = match six.flags & 0x18 {
        0x00 => BlockDescriptor::Short,
        0x10 => BlockDescriptor::Long,
        _ => BlockDescriptor::None,
    };
    let (page, subpage) = (six.page & 0x3f, six.subpage);
    Ok(ModeSense { form, descriptor, control, page, subpage, allocation })
}

fn mode_select(cdb: &[u8; CDB_BYTES]) -> Command {
    let six: Mode6 = view(cdb);
    let (form, length) = match cdb[0] {
        op::MODE_SELECT_6 => (Form::Six, u32::from(six.length)),
        _ => (Form::Ten, u32::from(view::<Mode10>(cdb).length.get())),
    };
    let (is_page_format, save) = (six.flags & 0x10 != 0, six.flags & 1 != 0);
    Command::ModeSelect { form, is_page_format, save, length }
}

fn report(cdb: &[u8; CDB_BYTES]) -> Command {
    let report: Report12 = view(cdb);
    let (is_set, allocation) = (report.options & 0x80 != 0, report.allocation.get());
    match report.action & SERVICE_ACTION_MASK {
        op::REPORT_SUPPORTED_OPCODES => Command::ReportOpcodes(ReportOpcodes {
            timeouts: is_set,
            options: report.options & 7,
            opcode: report.wanted_opcode,
            service_action: report.wanted_action.get(),
            allocation,
        }),
        _ => Command::ReportFunctions { is_extended: is_set, allocation },
    }
}

#[cfg(test)]
mod tests;
