//! The parameter list of UNMAP: which blocks.
//!
//! Read in place by [`super::task`], a descriptor at a time. SBC-3 section 5.28, tables 87 and 88.

use super::inquiry::UNMAP_DESCRIPTORS_MAX;
use super::sense::{Sense, SenseCode};
use crate::io::Lba;

const HEADER_BYTES: usize = 8;
const DESCRIPTOR_BYTES: usize = 16;

/// Bytes of the longest list that is taken.
pub(super) const LIST_BYTES_MAX: u32 =
    HEADER_BYTES as u32 + UNMAP_DESCRIPTORS_MAX * DESCRIPTOR_BYTES as u32;

/// Blocks of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub lba: Lba,
    pub blocks: u32,
}

/// How many whole descriptors the list has; every one is within a device of `device_blocks`.
pub(super) fn check(list: &[u8], device_blocks: u64) -> Result<u16, Sense> {
    const TOO_SHORT: Sense = Sense::illegal(SenseCode::PARAMETER_LIST_LENGTH);
    if list.is_empty() {
        return Ok(0);
    }
    let header = list.first_chunk::<HEADER_BYTES>().ok_or(TOO_SHORT)?;
    // What is not whole is not looked at (SBC-3 section 5.28.2).
    let told = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let count = told.min(list.len() - HEADER_BYTES) / DESCRIPTOR_BYTES;
    let count = u16::try_from(count).map_err(|_| Sense::invalid_parameter(2))?;
    if u32::from(count) > UNMAP_DESCRIPTORS_MAX {
        return Err(Sense::invalid_parameter(2));
    }
    for index in 0..count {
        let range = range_at(list, index);
        let end = range.lba.0.checked_add(u64::from(range.blocks));
        if end.is_none_or(|end| end > device_blocks) {
            return Err(Sense::illegal(SenseCode::LBA_OUT_OF_RANGE).with_information(range.lba.0));
        }
    }
    Ok(count)
}

/// A descriptor of a list that [`check`] has found whole.
pub(super) fn range_at(list: &[u8], index: u16) -> Range {
    let at = HEADER_BYTES + usize::from(index) * DESCRIPTOR_BYTES;
    let lba = list[at..at + 8].try_into().expect("eight bytes were taken");
    let blocks = list[at + 8..at + 12].try_into().expect("four bytes were taken");
    Range { lba: Lba(u64::from_be_bytes(lba)), blocks: u32::from_be_bytes(blocks) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ranges: &[(u64, u32)]) -> Vec<u8> {
        let len = u16::try_from(ranges.len() * DESCRIPTOR_BYTES).unwrap();
        let mut bytes = [(len + 6).to_be_bytes(), len.to_be_bytes(), [0; 2], [0; 2]].concat();
        for (lba, blocks) in ranges {
            bytes.extend(lba.to_be_bytes());
            bytes.extend(blocks.to_be_bytes());
            bytes.extend([0; 4]);
        }
        bytes
    }

    #[test]
    fn ranges_end_with_the_device_and_not_one_block_later() {
        let bytes = list(&[(0, 1), (90, 10)]);
        assert_eq!(check(&bytes, 100), Ok(2));
        assert_eq!(range_at(&bytes, 1), Range { lba: Lba(90), blocks: 10 });
        let sense = check(&bytes, 99).unwrap_err();
        assert_eq!((sense.code, sense.information), (SenseCode::LBA_OUT_OF_RANGE, Some(90)));
        assert!(check(&list(&[(u64::MAX, 1)]), u64::MAX).is_err());
    }

    #[test]
    fn a_list_has_as_many_descriptors_as_are_told_and_no_more() {
        let most = vec![(0, 1); UNMAP_DESCRIPTORS_MAX as usize];
        assert_eq!(list(&most).len(), LIST_BYTES_MAX as usize);
        assert_eq!(check(&list(&most), 100), Ok(256));
        assert!(check(&list(&[&most[..], &[(0, 1)]].concat()), 100).is_err());
        assert_eq!(check(&list(&[(0, 1)])[..23], 100), Ok(0));
        assert!(check(&[0; 7], 100).is_err());
        assert_eq!(check(&[], 100), Ok(0));
    }
}
