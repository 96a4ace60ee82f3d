//! What the first bytes of a disk say that is on it.
//!
//! Signatures are those of each format's own documents; only their places and bytes are looked at,
//! so that what is damaged is taken for something rather than for nothing.

/// Bytes that are looked at: btrfs has its superblock at 64 KiB, the furthest of all.
pub const HEAD_BYTES: u64 = 128 << 10;

/// What was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// A partition table, of this kind.
    Table(&'static str),
    /// What this project, or an older Mayastor, keeps about its data.
    Ours(&'static str),
    /// Somebody else's data.
    Foreign(&'static str),
}

/// First bytes of a page of a replica label (docs/FORMATS.md).
const LABEL: &[u8] = b"MIRLABEL";
/// Labels are written by the page.
const LABEL_PAGE_BYTES: usize = 4096;

/// Signatures at one place each.
const SIGNATURES: &[(usize, &[u8], Contents)] = &[
    (0, b"SPDKBLOB", Contents::Ours("a pool of Mayastor's SPDK releases")),
    (512, b"EFI PART", Contents::Table("GPT")),
    (4096, b"EFI PART", Contents::Table("GPT")),
    (0, b"XFSB", Contents::Foreign("an XFS file system")),
    (1080, b"\x53\xef", Contents::Foreign("an ext file system")),
    (65_600, b"_BHRfS_M", Contents::Foreign("a btrfs file system")),
    (3, b"NTFS    ", Contents::Foreign("an NTFS file system")),
    (54, b"FAT", Contents::Foreign("a FAT file system")),
    (82, b"FAT32", Contents::Foreign("a FAT file system")),
    (0, b"LUKS\xba\xbe", Contents::Foreign("a LUKS volume")),
    (0, b"LABELONE", Contents::Foreign("an LVM physical volume")),
    (512, b"LABELONE", Contents::Foreign("an LVM physical volume")),
    (1024, b"LABELONE", Contents::Foreign("an LVM physical volume")),
    (1536, b"LABELONE", Contents::Foreign("an LVM physical volume")),
    (0, b"\xfc\x4e\x2b\xa9", Contents::Foreign("a member of a Linux RAID")),
    (4096, b"\xfc\x4e\x2b\xa9", Contents::Foreign("a member of a Linux RAID")),
    (4086, b"SWAPSPACE2", Contents::Foreign("swap space")),
    (65_526, b"SWAPSPACE2", Contents::Foreign("swap space")),
    (0, b"bluestore block device", Contents::Foreign("a Ceph OSD")),
];

/// The end of a boot record; file systems have it too, so it is looked for last.
const BOOT_RECORD: (usize, &[u8]) = (510, b"\x55\xaa");

/// What is recognised in the first bytes of a disk.
pub fn recognise(head: &[u8]) -> Option<Contents> {
    let has = |at: usize, bytes: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(bytes));
    if head.chunks(LABEL_PAGE_BYTES).any(|page| page.starts_with(LABEL)) {
        return Some(Contents::Ours("a label of a mirrored volume"));
    }
    let found = SIGNATURES.iter().find(|(at, bytes, _)| has(*at, bytes));
    let table = || has(BOOT_RECORD.0, BOOT_RECORD.1).then_some(Contents::Table("MBR"));
    found.map(|(_, _, contents)| *contents).or_else(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut head = vec![0; usize::try_from(HEAD_BYTES).unwrap()];
        head[at..at + bytes.len()].copy_from_slice(bytes);
        head
    }

    #[test]
    fn every_signature_is_recognised_at_its_place_and_not_beside_it() {
        for (at, bytes, contents) in SIGNATURES {
            assert_eq!(recognise(&with(*at, bytes)), Some(*contents), "{contents:?} at {at}");
            let beside = recognise(&with(*at + 7, bytes));
            assert_ne!(beside, Some(*contents), "{contents:?} beside {at}");
        }
        assert_eq!(recognise(&with(510, b"\x55\xaa")), Some(Contents::Table("MBR")));
    }

    #[test]
    fn a_label_is_recognised_on_any_of_the_first_pages() {
        for at in [0, 4096, 126_976] {
            assert!(matches!(recognise(&with(at, LABEL)), Some(Contents::Ours(_))), "{at}");
        }
    }

    #[test]
    fn signatures_are_all_inside_of_what_is_read() {
        for (at, bytes, _) in SIGNATURES {
            assert!((at + bytes.len()) as u64 <= HEAD_BYTES);
        }
    }

    #[test]
    fn an_empty_disk_holds_nothing_and_a_short_one_is_no_trouble() {
        assert_eq!(recognise(&with(0, b"")), None);
        assert_eq!(recognise(&[]), None);
        assert_eq!(recognise(b"EFI"), None);
    }

    #[test]
    fn a_file_system_that_ends_its_first_sector_as_a_boot_record_is_no_table() {
        let mut head = with(510, b"\x55\xaa");
        head[82..87].copy_from_slice(b"FAT32");
        assert_eq!(recognise(&head), Some(Contents::Foreign("a FAT file system")));
    }
}
