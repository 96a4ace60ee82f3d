//! A virtio block request: from the chain of a driver to what is asked of the device.
//!
//! Virtio 1.2 section 5.2.6. Called on the ring's core. The header is copied once and judged;
//! data stays where it is in the guest's memory and travels as segments. What is wrong with a
//! request is answered by its status byte; only a chain without one is a broken ring.

use bdev::{Geometry, Io, IoFlags, Lba, Memory, Operation, Status, Token};
use reactor::dma::Segment;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::feature::Features;
use crate::virtqueue::ChainBuffer;

/// A sector: the unit of places and lengths in requests, whatever the block size.
pub const SECTOR_BYTES: u64 = 512;
/// Most ranges of one discard or write zeroes.
pub const RANGES_MAX: usize = 16;
/// Bytes of the answer to a question for the serial number.
pub const SERIAL_BYTES: usize = 20;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;

/// `unmap` of a range (`virtio_blk_discard_write_zeroes.flags`).
const RANGE_UNMAP: u32 = 1;

/// How a request ended, as the driver reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BlockStatus {
    /// `VIRTIO_BLK_S_OK`.
    Ok = 0,
    /// `VIRTIO_BLK_S_IOERR`.
    IoError = 1,
    /// `VIRTIO_BLK_S_UNSUPP`.
    Unsupported = 2,
}

impl From<Status> for BlockStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::SUCCESS => BlockStatus::Ok,
            Status::INVALID_OPCODE => BlockStatus::Unsupported,
            _ => BlockStatus::IoError,
        }
    }
}

/// The header of a request, section 5.2.6.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    kind: U32,
    reserved: U32,
    sector: U64,
}

/// `struct virtio_blk_discard_write_zeroes`, section 5.2.6.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RangeFields {
    sector: U64,
    sectors: U32,
    flags: U32,
}

const _: () = assert!(size_of::<Header>() == 16);
const _: () = assert!(size_of::<RangeFields>() == 16);

/// Blocks to be zeroed or given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockRange {
    /// The first.
    pub lba: u64,
    /// How many, at least 1.
    pub blocks: u32,
    /// Give their space back.
    pub is_unmap: bool,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// One I/O over the data segments.
    Transfer {
        /// Read or write.
        operation: Operation,
        /// First block.
        lba: Lba,
        /// How many.
        blocks: u32,
    },
    /// A flush.
    Flush,
    /// The ranges of the request, one I/O each.
    Ranges,
    /// Nothing of the device: this is the end.
    Ended(BlockStatus),
}

/// The driver left no room for a status: the ring is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request has no byte for its status")]
pub struct NoStatus;

/// What a request is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Size of the device and its blocks.
    pub geometry: Geometry,
    /// What was negotiated.
    pub features: Features,
    /// Writes are refused.
    pub is_read_only: bool,
    /// What a driver is told for the serial number, filled up with zeroes.
    pub serial: [u8; SERIAL_BYTES],
}

/// A request on its way: filled by [`Request::parse`], kept in its slot until it is answered.
#[derive(Debug, Default)]
pub struct Request {
    /// Data, in the guest's memory.
    data: Vec<Segment>,
    /// The last byte of what may be written.
    status: Option<Segment>,
    ranges: [BlockRange; RANGES_MAX],
    ranges_count: usize,
    /// Bytes that are written when it succeeds, the status aside.
    reply_bytes: u32,
}

impl Request {
    /// A request with room for the data of the longest chain.
    pub fn with_room() -> Request {
        let data = Vec::with_capacity(crate::virtqueue::chain::CHAIN_SEGMENTS_MAX);
        Request { data, ..Request::default() }
    }

    /// Takes a chain apart and judges it.
    ///
    /// # Errors
    ///
    /// [`NoStatus`].
    pub fn parse(&mut self, chain: &ChainBuffer, rules: &Rules) -> Result<Plan, NoStatus> {
        self.data.clear();
        (self.ranges_count, self.reply_bytes) = (0, 0);
        // Empty buffers make no segments, so the last one has a last byte.
        let last = chain.writable().last().ok_or(NoStatus)?;
        self.status = Some(last.part(last.len_bytes() - 1, 1));
        let mut header = Header::default();
        if !gather(chain.readable(), 0, header.as_mut_bytes()) {
            return Ok(Plan::Ended(BlockStatus::IoError));
        }
        Ok(match header.kind.get() {
            TYPE_IN => self.transfer(chain, Operation::Read, header.sector.get(), rules),
            TYPE_OUT if rules.is_read_only => Plan::Ended(BlockStatus::IoError),
            TYPE_OUT => self.transfer(chain, Operation::Write, header.sector.get(), rules),
            TYPE_FLUSH => Plan::Flush,
            TYPE_GET_ID => self.tell_serial(chain, rules),
            kind @ (TYPE_DISCARD | TYPE_WRITE_ZEROES) => self.take_ranges(chain, kind, rules),
            _ => Plan::Ended(BlockStatus::Unsupported),
        })
    }

    /// The I/O of the plan; `index` is the number of the range.
    pub fn io(&self, plan: Plan, index: usize, token: Token, flags: IoFlags) -> Option<Io> {
        let bare =
            |operation, lba, blocks| Io::with_memory(operation, lba, blocks, Memory::None, token);
        let io = match plan {
            Plan::Ended(_) => return None,
            Plan::Flush => Io::flush(token),
            Plan::Transfer { operation, lba, blocks } => {
                let flags = if operation == Operation::Write { flags } else { IoFlags::NONE };
                let memory = super::memory::of(&self.data);
                Io { flags, ..Io::with_memory(operation, lba, blocks, memory, token) }
            }
            Plan::Ranges => {
                let range = self.ranges[..self.ranges_count].get(index)?;
                let operation = match range.is_unmap {
                    true => Operation::Unmap,
                    false => Operation::WriteZeroes,
                };
                Io { flags, ..bare(operation, Lba(range.lba), range.blocks) }
            }
        };
        Some(io)
    }

    /// Ranges of a [`Plan::Ranges`].
    pub fn ranges(&self) -> &[BlockRange] {
        &self.ranges[..self.ranges_count]
    }

    /// Writes the status; how many bytes of the chain have been written in all.
    pub fn finish(&mut self, status: BlockStatus) -> u32 {
        let place = self.status.take().expect("a request is answered once");
        place.write(0, &[status as u8]);
        // Of a read that failed nobody knows how much came: only the status is promised.
        if status == BlockStatus::Ok { self.reply_bytes.saturating_add(1) } else { 1 }
    }

    fn transfer(
        &mut self,
        chain: &ChainBuffer,
        operation: Operation,
        sector: u64,
        rules: &Rules,
    ) -> Plan {
        let len_bytes = match operation {
            Operation::Read => {
                self.data.extend_from_slice(chain.writable());
                let status = self.data.pop().expect("a chain has a byte for the status");
                if status.len_bytes() > 1 {
                    self.data.push(status.part(0, status.len_bytes() - 1));
                }
                chain.writable_bytes() - 1
            }
            _ => {
                let mut skip = size_of::<Header>() as u32;
                for segment in chain.readable() {
                    let gone = skip.min(segment.len_bytes());
                    skip -= gone;
                    if gone < segment.len_bytes() {
                        self.data.push(segment.part(gone, segment.len_bytes() - gone));
                    }
                }
                chain.readable_bytes() - size_of::<Header>() as u64
            }
        };
        if len_bytes == 0 || !len_bytes.is_multiple_of(SECTOR_BYTES) {
            return Plan::Ended(BlockStatus::IoError);
        }
        match to_blocks(sector, len_bytes / SECTOR_BYTES, rules.geometry) {
            Some((lba, blocks)) => {
                if operation == Operation::Read {
                    self.reply_bytes =
                        u32::try_from(len_bytes).expect("a chain has less than 2^32 bytes");
                }
                Plan::Transfer { operation, lba: Lba(lba), blocks }
            }
            None => Plan::Ended(BlockStatus::IoError),
        }
    }

    fn tell_serial(&mut self, chain: &ChainBuffer, rules: &Rules) -> Plan {
        if chain.writable_bytes() != SERIAL_BYTES as u64 + 1 {
            return Plan::Ended(BlockStatus::IoError);
        }
        let mut rest = &rules.serial[..];
        for segment in chain.writable() {
            let len = rest.len().min(segment.len_bytes() as usize);
            segment.write(0, &rest[..len]);
            rest = &rest[len..];
        }
        self.reply_bytes = SERIAL_BYTES as u32;
        Plan::Ended(BlockStatus::Ok)
    }

    fn take_ranges(&mut self, chain: &ChainBuffer, kind: u32, rules: &Rules) -> Plan {
        let feature = match kind {
            TYPE_DISCARD => Features::DISCARD,
            _ => Features::WRITE_ZEROES,
        };
        if !rules.features.contains(feature) {
            return Plan::Ended(BlockStatus::Unsupported);
        }
        let len_bytes = chain.readable_bytes() - size_of::<Header>() as u64;
        let one_bytes = size_of::<RangeFields>() as u64;
        let count = usize::try_from(len_bytes / one_bytes).unwrap_or(usize::MAX);
        let is_whole = len_bytes.is_multiple_of(one_bytes);
        if rules.is_read_only || !is_whole || !(1..=RANGES_MAX).contains(&count) {
            return Plan::Ended(BlockStatus::IoError);
        }
        for index in 0..count {
            let mut fields = RangeFields::default();
            let offset = size_of::<Header>() + index * size_of::<RangeFields>();
            if !gather(chain.readable(), offset as u32, fields.as_mut_bytes()) {
                return Plan::Ended(BlockStatus::IoError);
            }
            match range(fields, kind, rules.geometry) {
                Ok(range) => self.ranges[index] = range,
                Err(status) => return Plan::Ended(status),
            }
        }
        self.ranges_count = count;
        Plan::Ranges
    }
}

/// Judges a range. Flags that nobody knows make the request unsupported; a discard has none.
fn range(fields: RangeFields, kind: u32, geometry: Geometry) -> Result<BlockRange, BlockStatus> {
    let flags = fields.flags.get();
    let known = if kind == TYPE_WRITE_ZEROES { RANGE_UNMAP } else { 0 };
    if flags & !known != 0 {
        return Err(BlockStatus::Unsupported);
    }
    let sectors = u64::from(fields.sectors.get());
    let (lba, blocks) =
        to_blocks(fields.sector.get(), sectors, geometry).ok_or(BlockStatus::IoError)?;
    let is_unmap = kind == TYPE_DISCARD || flags & RANGE_UNMAP != 0;
    Ok(BlockRange { lba, blocks, is_unmap })
}

/// Sectors as blocks of the device: whole ones, at least one, all of them on the device.
fn to_blocks(sector: u64, sectors: u64, geometry: Geometry) -> Option<(u64, u32)> {
    let block_sectors = u64::from(geometry.block_bytes) / SECTOR_BYTES;
    let is_whole = sector.is_multiple_of(block_sectors) && sectors.is_multiple_of(block_sectors);
    let (lba, blocks) = (sector / block_sectors, sectors / block_sectors);
    let end = lba.checked_add(blocks)?;
    if !is_whole || blocks == 0 || end > geometry.blocks {
        return None;
    }
    Some((lba, u32::try_from(blocks).ok()?))
}

/// Copies bytes out of segments, from `offset_bytes` on; false when there are fewer.
fn gather(segments: &[Segment], offset_bytes: u32, into: &mut [u8]) -> bool {
    let mut skip = offset_bytes;
    let mut rest = into;
    for segment in segments {
        if rest.is_empty() {
            break;
        }
        let gone = skip.min(segment.len_bytes());
        skip -= gone;
        let len = rest.len().min((segment.len_bytes() - gone) as usize);
        let (now, later) = rest.split_at_mut(len);
        segment.read(gone, now);
        rest = later;
    }
    rest.is_empty()
}
