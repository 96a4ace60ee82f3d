//! INQUIRY: the standard data and the pages of vital product data.
//!
//! Called by [`super::unit`] with what the unit is. SPC-4 sections 6.6 and 7.8, SBC-3 section 6.6.

use super::identity::{Identity, PRODUCT, REVISION, VENDOR};
use super::reply::Reply;
use super::sense::Sense;
use super::unit::Capabilities;

/// Peripheral device type of a disk, connected.
const DISK: u8 = 0x00;
/// No unit here, and none can be: qualifier 3, type 1fh (SPC-4 table 174).
pub(super) const ABSENT: u8 = 0x7f;

const SUPPORTED_PAGES: u8 = 0x00;
const SERIAL_NUMBER: u8 = 0x80;
const IDENTIFICATION: u8 = 0x83;
const BLOCK_LIMITS: u8 = 0xb0;
const CHARACTERISTICS: u8 = 0xb1;
const PROVISIONING: u8 = 0xb2;

const PAGES: [u8; 6] =
    [SUPPORTED_PAGES, SERIAL_NUMBER, IDENTIFICATION, BLOCK_LIMITS, CHARACTERISTICS, PROVISIONING];

/// SAM-5, SPC-4, SBC-3 and iSCSI without a version (SPC-4 annex E.9).
const VERSIONS: [u16; 4] = [0x00a0, 0x0460, 0x04c0, 0x0960];

/// UNMAP descriptors of one command: what fits the largest parameter list that is taken.
pub(super) const UNMAP_DESCRIPTORS_MAX: u32 = 256;

/// Blocks of one WRITE SAME: what its form of ten bytes can say. Bounds how long one command may
/// keep a device busy.
pub(super) const WRITE_SAME_BLOCKS_MAX: u32 = 65535;

/// Standard data; `peripheral` is the first byte.
pub(super) fn standard(peripheral: u8) -> Reply {
    let mut reply = Reply::new();
    // Version 6 is SPC-4; response format 2 with HISUP; then additional length.
    reply.bytes(&[peripheral, 0, 0x06, 0x12, 0]);
    // Nothing of SCCS to PROTECT; MULTIP not set; CMDQUE.
    reply.bytes(&[0, 0, 0x02]);
    reply.text(VENDOR, 8).text(PRODUCT, 16).text(REVISION, 4).zeroes(22);
    for version in VERSIONS {
        reply.word(version);
    }
    reply.zeroes(96 - reply.len());
    let additional = u8::try_from(reply.len() - 5).expect("standard data has 96 bytes");
    let mut bytes = reply.finish(u32::MAX);
    bytes[4] = additional;
    reply.bytes(&bytes);
    reply
}

/// Standard data of a unit that is there.
pub(super) fn standard_of_disk() -> Reply {
    standard(DISK)
}

/// A page of vital product data.
pub(super) fn page(
    page: u8,
    identity: &Identity,
    capabilities: &Capabilities,
) -> Result<Reply, Sense> {
    let mut reply = Reply::new();
    reply.bytes(&[DISK, page, 0, 0]);
    match page {
        SUPPORTED_PAGES => {
            reply.bytes(&PAGES);
        }
        SERIAL_NUMBER => {
            reply.bytes(identity.serial().as_bytes());
        }
        IDENTIFICATION => designators(&mut reply, identity),
        BLOCK_LIMITS => block_limits(&mut reply, capabilities),
        CHARACTERISTICS => {
            // It does not rotate (SBC-3 table 193).
            reply.word(1).zeroes(58);
        }
        PROVISIONING => {
            // LBPU, LBPWS, LBPWS10; LBPRZ: unmapped blocks read as zeroes. Thin (2).
            reply.bytes(&[0, 0xe4, 0x02, 0]);
        }
        _ => return Err(Sense::invalid_cdb(2)),
    }
    reply.set_word_length(2);
    Ok(reply)
}

/// One designation descriptor (SPC-4 table 470): code set, association and type, then the name.
fn designator(reply: &mut Reply, code_set: u8, kind: u8, name: &[u8]) {
    // Protocol 5 is iSCSI; PIV says so where the association is a port or the device.
    let is_of_unit = kind & 0x30 == 0;
    let (protocol, valid) = if is_of_unit { (0, 0) } else { (0x50, 0x80) };
    let padded = name.len().next_multiple_of(if kind & 0x0f == 8 { 4 } else { 1 });
    let len = u8::try_from(padded).unwrap_or(u8::MAX);
    reply.bytes(&[protocol | code_set, valid | kind, 0, len]);
    reply.bytes(&name[..name.len().min(usize::from(len))]);
    reply.zeroes(usize::from(len).saturating_sub(name.len()));
}

fn designators(reply: &mut Reply, identity: &Identity) {
    const BINARY: u8 = 1;
    const ASCII: u8 = 2;
    const UTF8: u8 = 3;
    const OF_PORT: u8 = 0x10;
    const OF_DEVICE: u8 = 0x20;
    designator(reply, BINARY, 3, &identity.naa());
    let mut vendor_name = Reply::new();
    vendor_name.text(VENDOR, 8).bytes(identity.serial().as_bytes());
    designator(reply, ASCII, 1, &vendor_name.finish(u32::MAX));
    let port = identity.port.to_be_bytes();
    designator(reply, BINARY, OF_PORT | 4, &[0, 0, port[0], port[1]]);
    designator(reply, BINARY, OF_PORT | 5, &[0, 0, port[0], port[1]]);
    let terminated = |name: &str| [name.as_bytes(), &[0]].concat();
    designator(reply, UTF8, OF_PORT | 8, &terminated(&identity.port_name));
    designator(reply, UTF8, OF_DEVICE | 8, &terminated(&identity.device_name));
}

/// SBC-3 table 192.
fn block_limits(reply: &mut Reply, capabilities: &Capabilities) {
    let compare_max = u8::try_from(capabilities.compare_and_write_blocks_max).unwrap_or(u8::MAX);
    // WSNZ: a WRITE SAME of no blocks is refused.
    reply.byte(1).byte(compare_max);
    let granularity = capabilities.physical_blocks();
    reply.word(u16::try_from(granularity).unwrap_or(u16::MAX));
    reply.long(capabilities.transfer_blocks_max).long(capabilities.transfer_blocks_max);
    // Longest prefetch: no limit told.
    reply.long(0);
    reply.long(u32::MAX).long(UNMAP_DESCRIPTORS_MAX);
    // Unmap granularity, and that its alignment is valid and zero.
    reply.long(granularity).long(0x8000_0000);
    reply.quad(u64::from(WRITE_SAME_BLOCKS_MAX));
    reply.long(capabilities.atomic_blocks_max).long(0).long(0);
    // Of atomic writes across boundaries: none.
    reply.long(0).long(0);
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::device::Geometry;

    fn identity() -> Identity {
        Identity {
            uuid: Uuid::from_u128(0x1234_5678_9abc_def0_1122_3344_5566_7788),
            device_name: "iqn.2019-05.io.openebs:a".into(),
            port_name: "iqn.2019-05.io.openebs:a,t,0x0001".into(),
            port: 1,
        }
    }

    fn capabilities() -> Capabilities {
        Capabilities {
            geometry: Geometry { block_bytes: 512, blocks: 100 },
            transfer_blocks_max: 256,
            compare_and_write_blocks_max: 128,
            atomic_blocks_max: 128,
            volatile_cache: false,
        }
    }

    fn bytes(code: u8) -> Vec<u8> {
        page(code, &identity(), &capabilities()).unwrap().finish(u32::MAX)
    }

    #[test]
    fn every_page_that_is_listed_is_there_and_says_its_length() {
        assert_eq!(bytes(SUPPORTED_PAGES)[4..], PAGES);
        for code in 0..=u8::MAX {
            let made = page(code, &identity(), &capabilities());
            assert_eq!(made.is_ok(), PAGES.contains(&code));
            let Ok(mut made) = made else { continue };
            let made = made.finish(u32::MAX);
            assert_eq!(made[1], code);
            assert_eq!(usize::from(u16::from_be_bytes([made[2], made[3]])) + 4, made.len());
        }
        assert_eq!((bytes(BLOCK_LIMITS).len(), bytes(CHARACTERISTICS).len()), (64, 64));
        assert_eq!(bytes(PROVISIONING).len(), 8);
    }

    #[test]
    fn standard_data_says_spc_4_and_its_own_length() {
        let bytes = standard_of_disk().finish(u32::MAX);
        assert_eq!((bytes.len(), bytes[4], bytes[2]), (96, 91, 6));
        assert_eq!(&bytes[8..16], b"OPENEBS ");
        assert_eq!(standard(ABSENT).finish(36)[0], 0x7f);
    }

    #[test]
    fn designators_follow_one_another_to_the_end() {
        let bytes = bytes(IDENTIFICATION);
        let mut at = 4;
        let mut kinds = Vec::new();
        while at < bytes.len() {
            kinds.push(bytes[at + 1] & 0x3f);
            at += 4 + usize::from(bytes[at + 3]);
        }
        assert_eq!((at, kinds), (bytes.len(), vec![3, 1, 0x14, 0x15, 0x18, 0x28]));
        assert_eq!((bytes[7], bytes[8] >> 4), (8, 3));
    }
}
