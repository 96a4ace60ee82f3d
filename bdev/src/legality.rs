//! The one check of an I/O against a device's geometry and limits.
//!
//! Called by every device and wrapper in `submit`, on the core's thread: an I/O that fails it is
//! accepted, does nothing, and completes with the status returned here (see [`crate::QueuePair`]).
//! The statuses are those that NVMe Base 2.0 section 3.3.3.2.1 names for each mistake.

use crate::device::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, Geometry, Limits};
use crate::io::{Io, Memory, Operation};
use crate::nvme::status::Status;

/// Why a device cannot have a geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// A block size that is not a power of two from 512 to 4096.
    #[error("a block of {block_bytes} bytes is not a power of two from 512 to 4096")]
    BlockBytes {
        /// What was asked for.
        block_bytes: u32,
    },
    /// No blocks at all.
    #[error("a device must have at least one block")]
    Empty,
    /// More bytes than can be counted.
    #[error("{blocks} blocks of {block_bytes} bytes are more than 2^63 bytes")]
    TooLong {
        /// Number of blocks asked for.
        blocks: u64,
        /// Size of each, in bytes.
        block_bytes: u32,
    },
}

/// Most bytes of a device, so that any byte offset fits a signed file offset.
pub const DEVICE_BYTES_MAX: u64 = i64::MAX as u64;

/// Checks that a device can have this geometry.
pub fn check_geometry(geometry: Geometry) -> Result<(), GeometryError> {
    let Geometry { block_bytes, blocks } = geometry;
    let sized = (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block_bytes);
    if !sized || !block_bytes.is_power_of_two() {
        return Err(GeometryError::BlockBytes { block_bytes });
    }
    if blocks == 0 {
        return Err(GeometryError::Empty);
    }
    if blocks > DEVICE_BYTES_MAX / u64::from(block_bytes) {
        return Err(GeometryError::TooLong { blocks, block_bytes });
    }
    Ok(())
}

/// What is wrong with the I/O wherever on whatever device of this geometry: its range and the
/// length of its memory.
#[inline]
pub fn check_shape(io: &Io, geometry: &Geometry) -> Result<(), Status> {
    if io.operation == Operation::Flush {
        let bare = io.blocks == 0 && matches!(io.memory, Memory::None);
        return if bare { Ok(()) } else { Err(Status::INVALID_FIELD) };
    }
    if io.blocks == 0 {
        return Err(Status::INVALID_FIELD);
    }
    if !io.fits(geometry.blocks) {
        return Err(Status::LBA_OUT_OF_RANGE);
    }
    if io.memory.len_bytes() != io.operation.memory_bytes(io.blocks, geometry.block_bytes) {
        return Err(Status::DATA_SGL_LENGTH_INVALID);
    }
    Ok(())
}

/// The check of one device, with what it needs worked out once. Where it is a good part of what an
/// I/O costs: 20 instructions for a plain one, two thirds of those of [`check`].
#[derive(Clone, Copy, Debug)]
pub struct Legality {
    geometry: Geometry,
    limits: Limits,
    /// By operation: it is of [`PLAIN`], the device does it, and its limits on segments are simple
    /// ones. No set of bits: for that the operation would be loaded together with the flags beside
    /// it, which costs more than all the rest when they have just been stored apart.
    plain: [bool; Operation::ALL.len()],
    block_shift: u32,
    /// Bits that an address must not have.
    low_bits: usize,
}

/// Operations of one piece of memory, as long as the blocks.
const PLAIN: [Operation; 3] = [Operation::Read, Operation::Write, Operation::Compare];

impl Legality {
    /// The check for a device.
    pub fn new(geometry: Geometry, limits: Limits) -> Legality {
        let is_simple = limits.boundary_blocks == 0 && limits.segments_max != 0;
        let is_plain = |operation: &Operation| {
            let is_written = limits.read_only && *operation == Operation::Write;
            let is_one_way = PLAIN.contains(operation);
            is_simple && is_one_way && limits.operations.contains(*operation) && !is_written
        };
        Legality {
            geometry,
            limits,
            plain: Operation::ALL.map(|operation| is_plain(&operation)),
            block_shift: geometry.block_bytes.trailing_zeros(),
            low_bits: limits.alignment_bytes as usize - 1,
        }
    }

    /// The device's geometry.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The device's limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What [`check`] says.
    #[inline]
    pub fn check(&self, io: &Io) -> Result<(), Status> {
        match self.is_plain(io) {
            true => Ok(()),
            false => check_with_care(io, &self.geometry, &self.limits),
        }
    }

    /// True for what nearly every I/O is: a read, write or compare of one segment that is within
    /// all limits.
    #[inline]
    pub fn is_plain(&self, io: &Io) -> bool {
        let Memory::One(segment) = io.memory else { return false };
        self.plain[io.operation as usize]
            // Zero blocks become very many.
            && io.blocks.wrapping_sub(1) < self.limits.io_blocks_max
            && io.fits(self.geometry.blocks)
            && u64::from(segment.len_bytes()) == u64::from(io.blocks) << self.block_shift
            && segment.address().as_ptr().addr() & self.low_bits == 0
    }
}

/// Everything: shape, operation, and the limits on a single I/O.
#[inline]
pub fn check(io: &Io, geometry: &Geometry, limits: &Limits) -> Result<(), Status> {
    match is_plain(io, geometry, limits) {
        true => Ok(()),
        false => check_with_care(io, geometry, limits),
    }
}

/// True for what nearly every I/O is: a read, write or compare of one segment that is within all
/// limits. A third of the instructions of the check that says what is wrong.
#[inline]
fn is_plain(io: &Io, geometry: &Geometry, limits: &Limits) -> bool {
    let Memory::One(segment) = io.memory else { return false };
    let one_way = matches!(io.operation, Operation::Read | Operation::Write | Operation::Compare);
    let low_bits = limits.alignment_bytes as usize - 1;
    one_way
        && io.blocks != 0
        && io.fits(geometry.blocks)
        && u64::from(segment.len_bytes()) == u64::from(io.blocks) * u64::from(geometry.block_bytes)
        && limits.operations.contains(io.operation)
        && !(limits.read_only && io.operation == Operation::Write)
        && io.blocks <= limits.io_blocks_max
        && limits.boundary_blocks == 0
        && limits.segments_max != 0
        && segment.address().as_ptr().addr() & low_bits == 0
}

#[cold]
fn check_with_care(io: &Io, geometry: &Geometry, limits: &Limits) -> Result<(), Status> {
    check_shape(io, geometry)?;
    if !limits.operations.contains(io.operation) {
        return Err(Status::INVALID_OPCODE);
    }
    if io.operation.changes_blocks() && limits.read_only {
        return Err(Status::NAMESPACE_WRITE_PROTECTED);
    }
    if io.operation == Operation::CompareAndWrite && io.blocks > limits.atomic_blocks {
        return Err(Status::ATOMIC_WRITE_UNIT_EXCEEDED);
    }
    let segments = io.memory.segments();
    if segments.is_empty() {
        return if io.blocks > limits.range_blocks_max {
            Err(Status::INVALID_FIELD)
        } else {
            Ok(())
        };
    }
    if io.blocks > limits.io_blocks_max || crosses(io, limits.boundary_blocks) {
        return Err(Status::INVALID_FIELD);
    }
    if segments.len() > limits.segments_max as usize {
        return Err(Status::INVALID_SGL_DESCRIPTOR_COUNT);
    }
    let low_bits = limits.alignment_bytes as usize - 1;
    if low_bits != 0
        && segments.iter().any(|segment| segment.address().as_ptr().addr() & low_bits != 0)
    {
        return Err(Status::SGL_OFFSET_INVALID);
    }
    Ok(())
}

/// True when the I/O has blocks on both sides of a multiple of `boundary_blocks`.
#[inline]
fn crosses(io: &Io, boundary_blocks: u32) -> bool {
    if boundary_blocks == 0 || io.blocks == 0 {
        return false;
    }
    let boundary = u64::from(boundary_blocks);
    io.lba.0 / boundary != (io.lba.0 + u64::from(io.blocks) - 1) / boundary
}

#[cfg(test)]
mod tests {
    use reactor::Cx;
    use reactor::dma::Segment;

    use super::*;
    use crate::device::OperationSet;
    use crate::io::{Lba, Token};
    use crate::segment_list::SegmentList;

    const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 100 };

    fn limits() -> Limits {
        Limits {
            io_blocks_max: 8,
            range_blocks_max: 32,
            segments_max: 2,
            boundary_blocks: 16,
            alignment_bytes: 512,
            atomic_blocks: 2,
            ..Limits::default()
        }
    }

    fn segment(cx: &mut Cx, len_bytes: u32) -> Segment {
        let buffer = cx.dma.take(len_bytes).unwrap();
        let segment = buffer.segment(len_bytes);
        cx.dma.give(buffer);
        segment
    }

    fn verdict(operation: Operation, lba: u64, blocks: u32, segments: &[Segment]) -> Status {
        let mut list = SegmentList::default();
        list.fill(segments.iter().copied());
        let io = Io::with_memory(operation, Lba(lba), blocks, list.memory(), Token(0));
        check(&io, &GEOMETRY, &limits()).err().unwrap_or(Status::SUCCESS)
    }

    #[test]
    fn every_limit_holds_at_the_limit_and_fails_one_past_it() {
        let (mut cx, _) = reactor::cx::test_context();
        let mut data = |blocks: u32| [segment(&mut cx, blocks * 512)];
        let read = Operation::Read;
        assert_eq!(verdict(read, 0, 8, &data(8)), Status::SUCCESS);
        assert_eq!(verdict(read, 0, 9, &data(9)), Status::INVALID_FIELD);
        assert_eq!(verdict(read, 8, 8, &data(8)), Status::SUCCESS);
        assert_eq!(verdict(read, 9, 8, &data(8)), Status::INVALID_FIELD);
        assert_eq!(verdict(read, 99, 1, &data(1)), Status::SUCCESS);
        assert_eq!(verdict(read, 99, 2, &data(2)), Status::LBA_OUT_OF_RANGE);
        assert_eq!(verdict(read, u64::MAX, 1, &data(1)), Status::LBA_OUT_OF_RANGE);
        assert_eq!(verdict(read, 0, 0, &[]), Status::INVALID_FIELD);
        assert_eq!(verdict(read, 0, 2, &data(1)), Status::DATA_SGL_LENGTH_INVALID);
        assert_eq!(verdict(read, 0, 1, &[]), Status::DATA_SGL_LENGTH_INVALID);
        assert_eq!(verdict(Operation::Unmap, 0, 32, &[]), Status::SUCCESS);
        assert_eq!(verdict(Operation::Unmap, 0, 33, &[]), Status::INVALID_FIELD);
        assert_eq!(verdict(Operation::Unmap, 0, 1, &data(1)), Status::DATA_SGL_LENGTH_INVALID);
        let swap = Operation::CompareAndWrite;
        assert_eq!(verdict(swap, 0, 2, &data(4)), Status::SUCCESS);
        assert_eq!(verdict(swap, 0, 3, &data(6)), Status::ATOMIC_WRITE_UNIT_EXCEEDED);
        assert_eq!(verdict(Operation::Flush, 0, 0, &[]), Status::SUCCESS);
        assert_eq!(verdict(Operation::Flush, 0, 1, &[]), Status::INVALID_FIELD);
    }

    #[test]
    fn what_is_plain_passes_the_careful_check_too() {
        let (mut cx, _) = reactor::cx::test_context();
        let limits = Limits { boundary_blocks: 0, ..limits() };
        let fixed = Limits { read_only: true, ..limits };
        let pieceless = Limits { segments_max: 0, ..limits };
        let whole = segment(&mut cx, 16 * 512);
        let mut plain = 0;
        for operation in Operation::ALL {
            for (lba, blocks, len) in (90..102).flat_map(|lba| {
                (0..12).flat_map(move |blocks| (0..12).map(move |len| (lba, blocks, len)))
            }) {
                let memory =
                    Memory::One(whole.part(u32::from(len % 4 == 3) * 256, (len + 1) * 256));
                let io = Io::with_memory(operation, Lba(lba), blocks, memory, Token(0));
                for limits in [limits, fixed, pieceless] {
                    let is_plain = is_plain(&io, &GEOMETRY, &limits);
                    assert_eq!(Legality::new(GEOMETRY, limits).is_plain(&io), is_plain);
                    if is_plain {
                        plain += 1;
                        assert_eq!(check_with_care(&io, &GEOMETRY, &limits), Ok(()));
                    }
                }
            }
        }
        assert!(plain > 0);
        let simple = Legality::new(GEOMETRY, limits);
        assert_eq!((simple.geometry(), simple.limits()), (GEOMETRY, limits));
        assert!(!Legality::new(GEOMETRY, super::tests::limits()).plain.contains(&true));
    }

    #[test]
    fn segments_are_counted_and_must_be_aligned() {
        let (mut cx, _) = reactor::cx::test_context();
        let one = segment(&mut cx, 512);
        assert_eq!(verdict(Operation::Write, 0, 2, &[one; 2]), Status::SUCCESS);
        let three = verdict(Operation::Write, 0, 3, &[one; 3]);
        assert_eq!(three, Status::INVALID_SGL_DESCRIPTOR_COUNT);
        let odd = verdict(Operation::Write, 0, 1, &[segment(&mut cx, 1024).part(256, 512)]);
        assert_eq!(odd, Status::SGL_OFFSET_INVALID);
    }

    #[test]
    fn what_the_device_does_not_do_is_refused() {
        let io = Io::with_memory(Operation::Unmap, Lba(0), 1, Memory::None, Token(0));
        let basic = Limits { operations: OperationSet::BASIC, ..Limits::default() };
        assert_eq!(check(&io, &GEOMETRY, &basic), Err(Status::INVALID_OPCODE));
        let fixed = Limits { read_only: true, ..Limits::default() };
        assert_eq!(check(&io, &GEOMETRY, &fixed), Err(Status::NAMESPACE_WRITE_PROTECTED));
    }

    #[test]
    fn a_geometry_is_checked_at_each_of_its_limits() {
        let verdict = |block_bytes, blocks| check_geometry(Geometry { block_bytes, blocks });
        assert_eq!(verdict(512, 1), Ok(()));
        assert_eq!(verdict(4096, DEVICE_BYTES_MAX / 4096), Ok(()));
        assert_eq!(verdict(256, 1), Err(GeometryError::BlockBytes { block_bytes: 256 }));
        assert_eq!(verdict(8192, 1), Err(GeometryError::BlockBytes { block_bytes: 8192 }));
        assert_eq!(verdict(1536, 1), Err(GeometryError::BlockBytes { block_bytes: 1536 }));
        assert_eq!(verdict(512, 0), Err(GeometryError::Empty));
        let blocks = DEVICE_BYTES_MAX / 4096 + 1;
        assert_eq!(
            verdict(4096, blocks),
            Err(GeometryError::TooLong { blocks, block_bytes: 4096 })
        );
    }
}
