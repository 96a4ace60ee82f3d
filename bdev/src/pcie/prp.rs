//! Where the memory of a command is, as the controller wants to be told: pages.
//!
//! Two entries are in the command; when there are more than two pages the second points to a list.
//! Only the first page may begin, and only the last end, within the page: memory that is cut
//! otherwise does not fit and is copied by the caller. NVMe Base 2.0 section 4.1.1.
//!
//! Used by a queue pair on its core; plain arithmetic on addresses.

use super::memory::View;
use super::options::{PAGE_BYTES, TRANSFER_BYTES_MAX};

/// Entries of a list: all pages of the longest transfer but the first, which may be a part.
pub const LIST_ENTRIES: usize = (TRANSFER_BYTES_MAX / PAGE_BYTES) as usize;
/// Length of a list.
pub const LIST_BYTES: usize = LIST_ENTRIES * 8;

const PAGE: u64 = PAGE_BYTES as u64;

// A list must not cross a page, or its last entry would be a pointer to the next list.
const _: () = assert!((PAGE_BYTES as usize).is_multiple_of(LIST_BYTES));

/// The memory cannot be described by pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit;

/// Where the list of a command goes.
#[derive(Clone, Copy, Debug)]
pub struct List {
    /// Memory of the queue.
    pub view: View,
    /// Its first byte, a multiple of [`LIST_BYTES`].
    pub offset_bytes: usize,
}

/// The two entries of a command over one piece that lies in two pages at most; none for any other.
#[inline]
pub fn describe_short(address: u64, len_bytes: u32) -> Option<[u64; 2]> {
    let offset = address & (PAGE - 1);
    let end = offset + u64::from(len_bytes);
    if address & 0b11 != 0 || end > 2 * PAGE {
        return None;
    }
    let second = if end > PAGE { address - offset + PAGE } else { 0 };
    Some([address, second])
}

/// The two entries of a command over pieces of memory: device address and length of each, in order.
#[inline]
pub fn describe(
    pieces: impl Iterator<Item = Option<(u64, u32)>>,
    list: List,
) -> Result<[u64; 2], Unfit> {
    let mut prp = [0; 2];
    let mut pages = 0_usize;
    let mut end = 0;
    for piece in pieces {
        let (address, len_bytes) = piece.ok_or(Unfit)?;
        if len_bytes == 0 {
            continue;
        }
        let mut page = match pages {
            // The controller takes addresses of whole dwords.
            0 if address & 0b11 == 0 => {
                prp[0] = address;
                pages = 1;
                (address & !(PAGE - 1)).wrapping_add(PAGE)
            }
            0 => return Err(Unfit),
            _ if address & (PAGE - 1) != 0 || end & (PAGE - 1) != 0 => return Err(Unfit),
            _ => address,
        };
        end = address.checked_add(u64::from(len_bytes)).ok_or(Unfit)?;
        while page < end {
            match pages {
                1 => prp[1] = page,
                more => {
                    if more > LIST_ENTRIES {
                        return Err(Unfit);
                    }
                    if more == 2 {
                        list.view.store(list.offset_bytes, [prp[1]]);
                        prp[1] = list.view.address(list.offset_bytes);
                    }
                    list.view.store(list.offset_bytes + (more - 1) * 8, [page]);
                }
            }
            pages += 1;
            page += PAGE;
        }
    }
    Ok(prp)
}
