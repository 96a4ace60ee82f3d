//! The bytes of a label: docs/FORMATS.md, "Replica label", to the offset.
//!
//! All numbers are little-endian. Every page has the same header; its checksum covers the whole
//! page with the checksum itself as zero. Magic, version, checksum and their places stay in every
//! later version, so that an older program can say that a label is newer than itself.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{CONFIGURED_MAX, HINT_BYTES_MAX, MISSING_SLOTS};
use crate::truth::names::{HISTORY_MAX, MEMBERS_MAX};

/// First bytes of every page.
pub const MAGIC: [u8; 8] = *b"MIRLABEL";
/// The only version there has been.
pub const VERSION: u32 = 1;
/// Bytes of a page: what is written at a time.
pub const PAGE_BYTES: usize = 4096;
/// Bits of a map that are on one page; a multiple of 64.
pub const PAGE_REGIONS: u64 = PAYLOAD_BYTES as u64 * 8;
/// Bytes of a page after its header.
pub const PAYLOAD_BYTES: usize = PAGE_BYTES - size_of::<PageHeader>();

/// Header of every page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PageHeader {
    /// 0: [`MAGIC`].
    pub magic: [u8; 8],
    /// 8: [`VERSION`].
    pub version: U32,
    /// 12: CRC32C of the page with this as zero.
    pub checksum: U32,
    /// 16: of the two copies, the one with the higher sequence holds.
    pub sequence: U64,
    /// 24: 1 head, 2 map, 3 the record's head.
    pub kind: u8,
    /// 25: which map: 0 dirty, 1 to 4 the missing slots; 0 on heads.
    pub map: u8,
    /// 26: zero.
    pub reserved: [u8; 2],
    /// 28: which page of its map, from zero.
    pub number: U32,
    /// 32: the replica that this is on; the record's id on a record's head.
    pub replica: [u8; 16],
    /// 48: the volume.
    pub nexus: [u8; 16],
    /// 64: on pages of a missing slot, the absent replica.
    pub slot_replica: [u8; 16],
    /// 80: and the last epoch it was in sync in: a page of an earlier absence is none.
    pub slot_epoch: U64,
    /// 88: zero.
    pub reserved_tail: [u8; 8],
}

/// An owner's generation.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct WireGeneration {
    /// Its counter.
    pub counter: U64,
    /// Its owner.
    pub owner: [u8; 16],
}

/// A change of lineage.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct WireFork {
    /// What it began.
    pub lineage: [u8; 16],
    /// Its first epoch.
    pub epoch: U64,
    /// 1 created, 2 forced.
    pub cause: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// Whose map a missing slot is. A nil replica: the slot is free.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct WireSlot {
    /// The absent replica.
    pub replica: [u8; 16],
    /// The last epoch it was in sync in.
    pub in_sync_epoch: U64,
}

/// A replica that the volume should have.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct WireConfigured {
    /// Which.
    pub replica: [u8; 16],
    /// Bytes of the hint that are used.
    pub hint_bytes: u8,
    /// Zero.
    pub reserved: u8,
    /// Where it was last seen: UTF-8, zeroes after it.
    pub hint: [u8; HINT_BYTES_MAX],
}

/// The head: everything but the maps.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Head {
    /// 0
    pub header: PageHeader,
    /// 96: length of the volume in blocks.
    pub blocks: U64,
    /// 104: bytes of a region.
    pub region_bytes: U64,
    /// 112: bytes of a block.
    pub block_bytes: U32,
    /// 116: 1 member, 2 target, 3 retired; 0 on a record's head.
    pub state: u8,
    /// 117: 1 when no owner is left.
    pub clean: u8,
    /// 118: 1 when the owner has seen the epoch in force.
    pub settled: u8,
    /// 119: 1 majority, 2 record, 3 solo.
    pub policy: u8,
    /// 120: the fence.
    pub promised: WireGeneration,
    /// 144: its owner's host.
    pub promised_host: [u8; 16],
    /// 160: newest epoch accepted.
    pub epoch: U64,
    /// 168: and who wrote it.
    pub epoch_generation: WireGeneration,
    /// 192: the record that votes on what follows the epoch; nil for none.
    pub record: [u8; 16],
    /// 208: and on what followed the epoch before it.
    pub previous_record: [u8; 16],
    /// 224: votes of the record.
    pub record_votes: u8,
    /// 225: votes of the previous record.
    pub previous_record_votes: u8,
    /// 226: how many of `members` are used.
    pub members_count: u8,
    /// 227: how many of `previous_members` are used.
    pub previous_members_count: u8,
    /// 228: how many of `configured` are used.
    pub configured_count: u8,
    /// 229: how many of `history` are used.
    pub history_count: u8,
    /// 230: 1 when the device's cache may lose what no flush covered.
    pub cache_volatile: u8,
    /// 231: zero.
    pub reserved: u8,
    /// 232: lineage of the last epoch in which this copy was in sync.
    pub in_sync_lineage: [u8; 16],
    /// 248: and that epoch; 0 for never.
    pub in_sync_epoch: U64,
    /// 256: the run of the replica's device in which it was opened.
    pub boot: [u8; 16],
    /// 272: the lineage of the epoch.
    pub lineage: [u8; 16],
    /// 288: how it came about, oldest first.
    pub history: [WireFork; HISTORY_MAX],
    /// 544: members of the epoch, in order.
    pub members: [[u8; 16]; MEMBERS_MAX],
    /// 800: members of the epoch before it.
    pub previous_members: [[u8; 16]; MEMBERS_MAX],
    /// 1056: whose the missing maps are.
    pub slots: [WireSlot; MISSING_SLOTS],
    /// 1152: the replicas that the volume should have.
    pub configured: [WireConfigured; CONFIGURED_MAX],
    /// 3968: zero.
    pub reserved_tail: [u8; 128],
}

/// A page of a map.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MapPage {
    /// 0
    pub header: PageHeader,
    /// 96: region `number * 32000 + n` is bit `n % 8` of byte `n / 8`.
    pub bits: [u8; PAYLOAD_BYTES],
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<PageHeader>() == 96);
    assert!(offset_of!(PageHeader, checksum) == 12);
    assert!(offset_of!(PageHeader, sequence) == 16);
    assert!(offset_of!(PageHeader, replica) == 32);
    assert!(offset_of!(PageHeader, slot_epoch) == 80);
    assert!(size_of::<Head>() == PAGE_BYTES);
    assert!(offset_of!(Head, promised) == 120);
    assert!(offset_of!(Head, epoch) == 160);
    assert!(offset_of!(Head, record_votes) == 224);
    assert!(offset_of!(Head, in_sync_lineage) == 232);
    assert!(offset_of!(Head, lineage) == 272);
    assert!(offset_of!(Head, history) == 288);
    assert!(offset_of!(Head, members) == 544);
    assert!(offset_of!(Head, previous_members) == 800);
    assert!(offset_of!(Head, slots) == 1056);
    assert!(offset_of!(Head, configured) == 1152);
    assert!(offset_of!(Head, reserved_tail) == 3968);
    assert!(size_of::<MapPage>() == PAGE_BYTES);
    assert!(PAGE_REGIONS == 32_000 && PAGE_REGIONS.is_multiple_of(64));
};

/// What a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageKind {
    /// Head of a label.
    Head = 1,
    /// Page of a map.
    Map = 2,
    /// Head of a record.
    Record = 3,
}

/// Puts the checksum into a page, which is complete otherwise.
pub fn seal(page: &mut [u8; PAGE_BYTES]) {
    page[CHECKSUM_AT..CHECKSUM_END].fill(0);
    let checksum = crc_fast::crc32_iscsi(page);
    page[CHECKSUM_AT..CHECKSUM_END].copy_from_slice(&checksum.to_le_bytes());
}

const CHECKSUM_AT: usize = 12;
const CHECKSUM_END: usize = CHECKSUM_AT + 4;

fn checksum_of(page: &[u8; PAGE_BYTES]) -> u32 {
    let mut copy = *page;
    copy[CHECKSUM_AT..CHECKSUM_END].fill(0);
    crc_fast::crc32_iscsi(&copy)
}

/// What a page is at first sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A page of this version, whole.
    Whole(u64),
    /// All zeroes: nothing was ever written.
    Blank,
    /// Something else's, as its first bytes say.
    Foreign,
    /// A label's, damaged.
    Damaged,
    /// A label's, whole, of this newer version.
    Newer(u32),
}

/// Looks at a page; its sequence when it is whole.
pub fn look(page: &[u8; PAGE_BYTES]) -> Sight {
    let Ok((header, _)) = PageHeader::read_from_prefix(page) else { return Sight::Damaged };
    if header.magic != MAGIC {
        let blank = page.iter().all(|byte| *byte == 0);
        return if blank { Sight::Blank } else { Sight::Foreign };
    }
    if header.checksum.get() != checksum_of(page) {
        return Sight::Damaged;
    }
    match header.version.get() {
        VERSION => Sight::Whole(header.sequence.get()),
        newer if newer > VERSION => Sight::Newer(newer),
        _ => Sight::Damaged,
    }
}
