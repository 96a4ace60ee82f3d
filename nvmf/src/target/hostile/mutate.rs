//! Commands that a host may send, and what can be done to a PDU.

use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::lba_status::GetLbaStatus;
use bdev::nvme::sgl::SglDescriptor;
use reactor::random::Random;

use super::host::io;
use super::round::DISK_BLOCKS;
use crate::pdu::{Digests, crc32c};

/// Values at which fields change their meaning.
const EXTREMES: [u32; 12] = [0, 1, 2, 3, 71, 72, 127, 128, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff];

fn sgl_of(opcode: u8, bytes: u32, random: &mut Random) -> (SglDescriptor, usize) {
    let to_controller = opcode & 3 == 1;
    if to_controller && bytes <= 4096 && random.chance(0.6) {
        return (SglDescriptor::in_capsule(0, bytes), bytes as usize);
    }
    (SglDescriptor::transport_data_block(bytes), 0)
}

/// A valid I/O command and the length of its in-capsule data.
pub(super) fn io_command(command_id: u16, random: &mut Random) -> (SubmissionEntry, usize) {
    if random.chance(0.15) {
        return reservation(command_id, random);
    }
    const OPCODES: [u8; 10] = [0x00, 0x01, 0x01, 0x02, 0x02, 0x05, 0x08, 0x09, 0x0c, 0x19];
    let opcode = OPCODES[random.below(OPCODES.len() as u64) as usize];
    let blocks_max = if random.chance(0.3) { 256 } else { 16 };
    let blocks = 1 + random.below(blocks_max) as u32;
    let lba = random.below(DISK_BLOCKS - u64::from(blocks)) as u32;
    match opcode {
        0x00 => {
            let sgl = SglDescriptor::transport_data_block(0);
            (SubmissionEntry::new(0, command_id, 1).with_sgl(sgl), 0)
        }
        0x08 | 0x0c => {
            (io(opcode, command_id, lba, blocks, SglDescriptor::transport_data_block(0)), 0)
        }
        0x19 => {
            // Its ranges are whatever the data happens to be.
            let format = random.below(2) as u32;
            let ranges = 1 + random.below(64) as u32;
            let (sgl, data_bytes) = sgl_of(opcode, ranges * [32, 40][format as usize], random);
            let mut command = io(opcode, command_id, lba, 1, sgl);
            command.cdw12.set(format << 8 | (ranges - 1));
            (command, data_bytes)
        }
        0x09 => {
            let ranges = 1 + random.below(256) as u32;
            let (sgl, data_bytes) = sgl_of(9, ranges * 16, random);
            let mut command = SubmissionEntry::new(9, command_id, 1).with_sgl(sgl);
            command.cdw10.set(ranges - 1);
            command.cdw11.set(if random.chance(0.8) { 4 } else { 0 });
            (command, data_bytes)
        }
        _ => {
            let bytes = blocks * 512;
            let (sgl, data_bytes) = sgl_of(opcode, bytes, random);
            (io(opcode, command_id, lba, blocks, sgl), data_bytes)
        }
    }
}

/// A reservation command, of which most are refused: its keys are whatever the data happens to be.
fn reservation(command_id: u16, random: &mut Random) -> (SubmissionEntry, usize) {
    const OPCODES: [u8; 4] = [0x0d, 0x0e, 0x11, 0x15];
    let opcode = OPCODES[random.below(OPCODES.len() as u64) as usize];
    let bytes = match opcode {
        0x0e => 4 * (1 + random.below(256) as u32),
        0x15 => 8,
        _ => 16,
    };
    let (sgl, data_bytes) = sgl_of(opcode, bytes, random);
    let mut command = SubmissionEntry::new(opcode, command_id, 1).with_sgl(sgl);
    let action = random.below(4) as u32;
    let ignores_key = u32::from(random.chance(0.7)) << 3;
    let kind = random.below(8) as u32;
    match opcode {
        0x0e => {
            command.cdw10.set(bytes / 4 - 1);
            command.cdw11.set(u32::from(random.chance(0.8)));
        }
        0x0d => command.cdw10.set(action | ignores_key | kind << 29),
        _ => command.cdw10.set(action | ignores_key | kind << 8),
    }
    (command, data_bytes)
}

/// Both halves of a fused compare and write, and the lengths of their in-capsule data.
pub(super) fn fused_pair(first_id: u16, random: &mut Random) -> [(SubmissionEntry, usize); 2] {
    let blocks = 1 + random.below(8) as u32;
    let lba = random.below(DISK_BLOCKS - u64::from(blocks)) as u32;
    [(0x05, 1), (0x01, 2)].map(|(opcode, fuse)| {
        let (sgl, data_bytes) = sgl_of(opcode, blocks * 512, random);
        let id = first_id.wrapping_add(u16::from(fuse == 2));
        let mut command = io(opcode, id, lba, blocks, sgl);
        command.flags |= fuse;
        (command, data_bytes)
    })
}

/// A valid admin command and the length of its in-capsule data.
pub(super) fn admin_command(command_id: u16, random: &mut Random) -> (SubmissionEntry, usize) {
    let block = SglDescriptor::transport_data_block;
    let new = |opcode, namespace_id, bytes| {
        SubmissionEntry::new(opcode, command_id, namespace_id).with_sgl(block(bytes))
    };
    let mut command = match random.below(11) {
        10 => return (lba_status(command_id, random), 0),
        9 => {
            // Number of queues.
            let mut command = new(0x09, 0, 0);
            command.cdw10.set(0x07);
            command.cdw11.set(extreme(random));
            return (command, 0);
        }
        8 => return (configuration(command_id, random), 0),
        0 => new(0x06, 1, 4096),
        1 => new(0x02, 0xffff_ffff, 512),
        2 => new(0x0a, 0, 0),
        3 => new(0x0c, 0, 0),
        4 => new(0x08, 0, 0),
        5 => new(0x18, 0, 0),
        6 => new(0x7f, 0x04, 0),
        _ => {
            let (sgl, data_bytes) = sgl_of(9, 512, random);
            let mut command = SubmissionEntry::new(9, command_id, 0).with_sgl(sgl);
            command.cdw10.set(0x16);
            return (command, data_bytes);
        }
    };
    let value = match command.opcode {
        0x06 => random.below(4) as u32,
        0x02 => (127 << 16) | (1 + random.below(5) as u32),
        0x0a => 1 + random.below(15) as u32,
        0x08 => u32::from(command_id.wrapping_sub(1)) << 16,
        _ => 0,
    };
    command.cdw10.set(value);
    if command.opcode == 0x7f {
        command.cdw10.set(1);
        command.cdw11.set([0x00, 0x08, 0x14, 0x1c][random.below(4) as usize]);
        if command.cdw11.get() == 0x14 || command.cdw11.get() == 0x1c {
            command.cdw10.set(0);
        }
    }
    (command, 0)
}

/// A Get LBA Status.
fn lba_status(command_id: u16, random: &mut Random) -> SubmissionEntry {
    const ACTIONS: [u8; 5] = [0x02, 0x02, 0x10, 0x11, 0x00];
    let asked = GetLbaStatus {
        lba: random.below(DISK_BLOCKS + 8),
        blocks: random.below(16) as u16,
        action: ACTIONS[random.below(ACTIONS.len() as u64) as usize],
        bytes: 4 * (1 + random.below(1024)),
    };
    let sgl = SglDescriptor::transport_data_block(4096);
    SubmissionEntry::for_lba_status(command_id, 1, asked).with_sgl(sgl)
}

/// A Property Set of CC: enable, reset, shutdown, or both of these.
pub(super) fn configuration(command_id: u16, random: &mut Random) -> SubmissionEntry {
    const VALUES: [u32; 5] = [0x0046_0001, 0x0046_0000, 0x0046_4001, 0x4000, 0];
    let sgl = SglDescriptor::transport_data_block(0);
    let mut command = SubmissionEntry::new(0x7f, command_id, 0).with_sgl(sgl);
    command.cdw11.set(0x14);
    command.cdw12.set(VALUES[random.below(VALUES.len() as u64) as usize]);
    command
}

/// Does something to a PDU that no host should.
pub(super) fn mutate(bytes: &mut Vec<u8>, digests: Digests, random: &mut Random) {
    if bytes.is_empty() {
        bytes.extend((0..random.below(300)).map(|_| random.next_u64() as u8));
        return;
    }
    let header_bytes = bytes.len().min(72) as u64;
    match random.below(11) {
        0 => bytes.truncate(random.below(bytes.len() as u64) as usize),
        1 => bytes[random.below(header_bytes) as usize] ^= 1 << random.below(8),
        2 => bytes[random.below(8.min(header_bytes)) as usize] = random.next_u64() as u8,
        3 => set_word(bytes, 4, extreme(random)),
        4 => set_word(bytes, 4 * random.below(18) as usize, extreme(random)),
        5 => bytes.extend_from_within(..),
        6 => bytes.extend((0..random.below(300)).map(|_| random.next_u64() as u8)),
        7 => *bytes = (0..1 + random.below(300)).map(|_| random.next_u64() as u8).collect(),
        8 => set_byte(bytes, 8, random.next_u64() as u8),
        9 => set_byte(bytes, 47, random.next_u64() as u8),
        _ => {
            let half = bytes.len() / 2;
            bytes.rotate_left(half);
        }
    }
    // Most mutations are to be seen behind the digest.
    if digests.header && random.chance(0.8) {
        repair_header_digest(bytes);
    }
}

fn extreme(random: &mut Random) -> u32 {
    EXTREMES[random.below(EXTREMES.len() as u64) as usize]
}

fn set_byte(bytes: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = value;
    }
}

fn set_word(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(word) = bytes.get_mut(at..at + 4) {
        word.copy_from_slice(&value.to_le_bytes());
    }
}

fn repair_header_digest(bytes: &mut [u8]) {
    let Some(header_bytes) = bytes.get(2).map(|length| usize::from(*length)) else { return };
    if bytes.len() >= header_bytes + 4 {
        let digest = crc32c(&bytes[..header_bytes]).to_le_bytes();
        bytes[header_bytes..header_bytes + 4].copy_from_slice(&digest);
    }
}
