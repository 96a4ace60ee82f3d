//! Where an I/O is cut: at the longest piece that the limits allow from a block on.

use crate::device::{Geometry, Limits};
use crate::io::Io;
use crate::parts::parts;

/// Most segments of a piece, where the device would take more. Each slot has room for so many.
pub(super) const PIECE_SEGMENTS_MAX: u32 = 128;

/// How many blocks of `io`, of which `done` are cut off already, the next piece has. Zero when not
/// even one block fits, which [`every_block_fits`] rules out.
pub(super) fn piece_blocks(io: &Io, done: u32, geometry: &Geometry, limits: &Limits) -> u32 {
    let left = io.blocks - done;
    let segments = io.memory.segments();
    if segments.is_empty() {
        return left.min(limits.range_blocks_max);
    }
    let mut blocks = left.min(limits.io_blocks_max);
    let lba = io.lba.0 + u64::from(done);
    if let Some(into) = lba.checked_rem(u64::from(limits.boundary_blocks)) {
        let into = u32::try_from(into).expect("less than the boundary");
        blocks = blocks.min(limits.boundary_blocks - into);
    }
    let most = segments_max(limits);
    if segments.len() <= most {
        return blocks;
    }
    let block_bytes = u64::from(geometry.block_bytes);
    let from = u64::from(done) * block_bytes;
    let len = u64::from(blocks) * block_bytes;
    let bytes: u64 =
        parts(&io.memory, from, len).take(most).map(|part| u64::from(part.len_bytes())).sum();
    u32::try_from(bytes / block_bytes).expect("no more than the I/O has")
}

/// True when the I/O can be cut so that no piece has more segments than the device takes.
pub(super) fn every_block_fits(io: &Io, geometry: &Geometry, limits: &Limits) -> bool {
    let mut done = 0;
    while done < io.blocks {
        match piece_blocks(io, done, geometry, limits) {
            0 => return false,
            blocks => done += blocks,
        }
    }
    true
}

/// Most segments of a piece.
pub(super) fn segments_max(limits: &Limits) -> usize {
    limits.segments_max.min(PIECE_SEGMENTS_MAX) as usize
}
