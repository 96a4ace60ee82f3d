//! Verify, Copy and Dataset Management as a host sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bdev::fault::Failure;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::SglDescriptor;
use bdev::rules::{Match, Rule, RuleSet};
use bdev::{
    BlockDevice, Fault, Geometry, Limits, Malloc, OpenError, Operation, OperationSet, QueuePair,
    Status,
};
use proptest::prelude::*;
use reactor::Cx;
use reactor::socket::memory::MemoryLimits;
use uuid::Uuid;

use super::harness::Harness;
use super::tests::{Host, connected, connected_in, description_of, io};
use crate::pdu::Digests;

const BLOCK_BYTES: u32 = 512;
const DISK_BLOCKS: u32 = 8192;
/// MCL and MSSRL in blocks: 124 KiB.
const COPY_BLOCKS_MAX: u32 = 248;

struct Disk {
    harness: Harness,
    _admin: Host,
    queue: Host,
}

impl Disk {
    fn new() -> Disk {
        let (harness, _admin, queue) = connected(MemoryLimits::default(), Digests::default());
        Disk { harness, _admin, queue }
    }

    fn over(device: Arc<dyn BlockDevice>) -> Disk {
        let harness = Harness::new(description_of(device));
        let (harness, _admin, queue) =
            connected_in(harness, MemoryLimits::default(), Digests::default());
        Disk { harness, _admin, queue }
    }

    fn run(&mut self, command: SubmissionEntry, data: &[u8]) -> Status {
        let is_inside = command.sgl().identifier == 0x01;
        self.queue.command(&mut self.harness, command, if is_inside { data } else { &[] });
        let data = BTreeMap::from([(command.command_id.get(), data.to_vec())]);
        let ended = self.queue.serve(&mut self.harness, &data, 1 << 20);
        assert_eq!(ended.len(), 1, "{ended:?}");
        ended[0].1
    }

    fn write(&mut self, lba: u32, content: &[u8]) {
        for (part, lba) in content.chunks(65536).zip((lba..).step_by(128)) {
            let blocks = u32::try_from(part.len()).unwrap() / BLOCK_BYTES;
            let sgl = SglDescriptor::transport_data_block(blocks * BLOCK_BYTES);
            assert_eq!(self.run(io(1, 1, lba, blocks, sgl), part), Status::SUCCESS);
        }
    }

    fn holds(&mut self, lba: u32, content: &[u8]) -> bool {
        content.chunks(65536).zip((lba..).step_by(128)).all(|(part, lba)| {
            let blocks = u32::try_from(part.len()).unwrap() / BLOCK_BYTES;
            let sgl = SglDescriptor::transport_data_block(blocks * BLOCK_BYTES);
            self.run(io(5, 1, lba, blocks, sgl), part).is_success()
        })
    }

    fn copy(&mut self, format: Format, to: u32, ranges: &[(u64, u32)]) -> Status {
        let list = format.list(ranges);
        let sgl = SglDescriptor::transport_data_block(u32::try_from(list.len()).unwrap());
        let sgl = match list.len() <= 4096 && ranges.len().is_multiple_of(2) {
            true => SglDescriptor::in_capsule(0, sgl.length.get()),
            false => sgl,
        };
        let mut command = io(0x19, 2, to, 1, sgl);
        command.cdw12.set((format as u32) << 8 | u32::try_from(ranges.len() - 1).unwrap());
        self.run(command, &list)
    }
}

/// Format of the descriptors of source ranges.
#[derive(Clone, Copy, Debug)]
enum Format {
    Zero = 0,
    One = 1,
}

impl Format {
    /// A list of ranges; what says nothing of a range is noise.
    fn list(self, ranges: &[(u64, u32)]) -> Vec<u8> {
        let range_bytes = [32, 40][self as usize];
        let mut list = vec![0x77; ranges.len() * range_bytes];
        for (bytes, (lba, blocks)) in list.chunks_mut(range_bytes).zip(ranges) {
            bytes[8..16].copy_from_slice(&lba.to_le_bytes());
            bytes[16..18].copy_from_slice(&u16::try_from(blocks - 1).unwrap().to_le_bytes());
        }
        list
    }
}

/// Blocks that all differ.
fn pattern(blocks: u32) -> Vec<u8> {
    (0..blocks).flat_map(|block| block.to_le_bytes().repeat(BLOCK_BYTES as usize / 4)).collect()
}

fn failing(operation: Operation, count: bdev::rules::Count) -> Disk {
    Disk::over(faulty(operation, count))
}

fn faulty(operation: Operation, count: bdev::rules::Count) -> Arc<dyn BlockDevice> {
    let geometry = Geometry { block_bytes: BLOCK_BYTES, blocks: DISK_BLOCKS.into() };
    let inner: Arc<dyn BlockDevice> = Arc::new(Malloc::new("ram", geometry, None).unwrap());
    let others = Operation::ALL.into_iter().filter(|one| *one != operation);
    let operations = others.fold(OperationSet::ALL, OperationSet::without);
    let meets = Match { operations, count, ..Match::default() };
    let effect = Failure::Before(Status::UNRECOVERED_READ_ERROR);
    let rules = RuleSet { rules: vec![Rule { meets, effect }], seed: 0 };
    Arc::new(Fault::new(inner, rules))
}

/// A device that has no verify of its own.
#[derive(Debug)]
struct Unverified(Arc<dyn BlockDevice>);

impl BlockDevice for Unverified {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn limits(&self) -> Limits {
        let inner = self.0.limits();
        Limits { operations: inner.operations.without(Operation::Verify), ..inner }
    }

    fn uuid(&self) -> Option<Uuid> {
        self.0.uuid()
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        self.0.open_queue_pair(cx, depth)
    }
}

#[test]
fn a_copy_gathers_its_ranges_in_order_in_both_formats() {
    let content = pattern(64);
    let block = |index: usize| &content[index * 512..(index + 1) * 512];
    for format in [Format::Zero, Format::One] {
        let mut disk = Disk::new();
        disk.write(0, &content);
        assert_eq!(disk.copy(format, 1000, &[(5, 1), (0, 2), (63, 1)]), Status::SUCCESS);
        assert!(disk.holds(1000, &[block(5), block(0), block(1), block(63)].concat()));
        assert!(disk.holds(1004, &[0; 512]), "and no more");
        assert_eq!(disk.copy(format, 1000, &[(1, 1), (5, 1)]), Status::SUCCESS);
        assert!(disk.holds(1000, &[block(1), block(5), block(1), block(63)].concat()));
        assert_eq!(disk.harness.cx.dma.taken(), 0);
    }
}

#[test]
fn a_copy_is_as_large_as_is_announced_and_no_larger() {
    let mut disk = Disk::new();
    let content = pattern(COPY_BLOCKS_MAX);
    disk.write(0, &content);
    let whole = [(0, COPY_BLOCKS_MAX)];
    assert_eq!(disk.copy(Format::Zero, 1000, &whole), Status::SUCCESS);
    assert!(disk.holds(1000, &content));
    let too_large = Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_do_not_retry();
    assert_eq!(disk.copy(Format::Zero, 2000, &[(0, COPY_BLOCKS_MAX + 1)]), too_large);
    assert_eq!(disk.copy(Format::Zero, 2000, &[(0, COPY_BLOCKS_MAX), (0, 1)]), too_large);
    assert_eq!(disk.copy(Format::One, 2000, &[(0, 1 << 16); 64]), too_large);
    assert_eq!(disk.copy(Format::One, 2000, &[(0, 3); 64]), Status::SUCCESS);
    assert_eq!(disk.copy(Format::Zero, 4000, &[(0, 1); 65]), too_large);
    assert!(disk.holds(4000, &[0; 65536]), "nothing was written");
    assert_eq!(disk.harness.cx.dma.taken(), 0);
}

#[test]
fn a_copy_from_or_to_outside_writes_nothing() {
    let mut disk = Disk::new();
    disk.write(0, &pattern(8));
    let end = u64::from(DISK_BLOCKS);
    let outside = Status::LBA_OUT_OF_RANGE.with_do_not_retry();
    for far in [(end, 1), (end - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 2)] {
        assert_eq!(disk.copy(Format::Zero, 100, &[(0, 8), far]), outside, "{far:?}");
        assert_eq!(disk.copy(Format::Zero, 100, &[far]), outside, "{far:?}");
    }
    assert_eq!(disk.copy(Format::Zero, DISK_BLOCKS - 1, &[(0, 2)]), outside);
    assert_eq!(disk.copy(Format::Zero, DISK_BLOCKS - 1, &[(0, 1)]), Status::SUCCESS);
    assert!(disk.holds(100, &[0; 4096]));
    assert_eq!(disk.harness.cx.dma.taken(), 0);
}

#[test]
fn a_copy_whose_reads_or_write_fail_says_so() {
    for (operation, count) in [
        (Operation::Read, bdev::rules::Count::Every(2)),
        (Operation::Write, bdev::rules::Count::First(1)),
    ] {
        let mut disk = failing(operation, count);
        let status = disk.copy(Format::Zero, 100, &[(0, 1), (8, 1)]);
        assert_eq!(status, Status::UNRECOVERED_READ_ERROR, "{operation:?}");
        assert!(disk.holds(100, &[0; 1024]));
        assert_eq!(disk.harness.cx.dma.taken(), 0);
    }
}

#[test]
fn verify_is_the_devices_or_reads_all_of_its_blocks_and_sends_none() {
    let none = SglDescriptor::transport_data_block(0);
    let faulty = |operation, count| faulty(operation, bdev::rules::Count::Every(count));
    let unread = faulty(Operation::Read, 1);
    let unverified = Arc::new(Unverified(faulty(Operation::Verify, 1)));
    for mut disk in [Disk::over(unread), Disk::over(unverified)] {
        for (lba, blocks) in [(0, 1), (0, 256), (7, 257), (0, DISK_BLOCKS)] {
            assert_eq!(disk.run(io(0x0c, 3, lba, blocks, none), &[]), Status::SUCCESS);
        }
        let outside = Status::LBA_OUT_OF_RANGE.with_do_not_retry();
        assert_eq!(disk.run(io(0x0c, 3, 1, DISK_BLOCKS, none), &[]), outside);
        assert_eq!(disk.harness.cx.dma.taken(), 0);
    }
    let mut disk = Disk::over(faulty(Operation::Verify, 1));
    let failed = Status::UNRECOVERED_READ_ERROR;
    assert_eq!(disk.run(io(0x0c, 3, 0, 512, none), &[]), failed);
    // The third piece of 128 KiB cannot be read.
    let mut disk = Disk::over(Arc::new(Unverified(faulty(Operation::Read, 3))));
    assert_eq!(disk.run(io(0x0c, 3, 0, 512, none), &[]), Status::SUCCESS);
    assert_eq!(disk.run(io(0x0c, 3, 0, 512, none), &[]), failed);
    assert_eq!(disk.harness.cx.dma.taken(), 0);
}

#[test]
fn all_256_ranges_of_a_deallocate_are_zeroed_and_nothing_between_them() {
    let mut disk = Disk::new();
    let mut content = pattern(1024);
    disk.write(0, &content);
    let mut list = vec![0; 4096];
    for (index, range) in list.chunks_mut(16).enumerate() {
        let lba = index * 4;
        // Every third range has no block.
        let blocks = if index % 3 == 0 { 0 } else { 2 };
        range[4] = blocks;
        range[8..16].copy_from_slice(&(lba as u64).to_le_bytes());
        content[lba * 512..(lba + usize::from(blocks)) * 512].fill(0);
    }
    let mut command = SubmissionEntry::new(9, 4, 1).with_sgl(SglDescriptor::in_capsule(0, 4096));
    command.cdw10.set(255);
    // Hints alone change nothing.
    command.cdw11.set(0b011);
    assert_eq!(disk.run(command, &list), Status::SUCCESS);
    assert!(disk.holds(0, &pattern(1024)));
    command.cdw11.set(0b100);
    assert_eq!(disk.run(command, &list), Status::SUCCESS);
    assert!(disk.holds(0, &content));
    list[15 * 16 + 15] = 0xff;
    list[15 * 16 + 4] = 1;
    let outside = Status::LBA_OUT_OF_RANGE.with_do_not_retry();
    assert_eq!(disk.run(command, &list), outside);
    assert_eq!(disk.harness.cx.dma.taken(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn whatever_overlaps_a_copy_takes_what_was_there_before(
        ranges in proptest::collection::vec((0_u64..60, 1_u32..5), 1..12),
        to in 0_u32..60,
        is_one: bool,
    ) {
        let mut disk = Disk::new();
        let mut content = pattern(128);
        disk.write(0, &content);
        let copied: Vec<u8> = ranges
            .iter()
            .flat_map(|(lba, blocks)| {
                let start = *lba as usize * 512;
                content[start..start + *blocks as usize * 512].to_vec()
            })
            .collect();
        let start = to as usize * 512;
        content[start..start + copied.len()].copy_from_slice(&copied);
        let format = if is_one { Format::One } else { Format::Zero };
        prop_assert_eq!(disk.copy(format, to, &ranges), Status::SUCCESS);
        prop_assert!(disk.holds(0, &content));
        prop_assert_eq!(disk.harness.cx.dma.taken(), 0);
    }
}
