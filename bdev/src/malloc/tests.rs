//! What only the RAM disk promises: memory given back, and atomicity between cores.

use std::sync::atomic::{AtomicBool, Ordering};

use reactor::dma::{DmaBuffer, Segment};

use super::*;
use crate::allocation::testing::look_through;
use crate::io::{Completion, Completions, Io, Lba, Memory, Operation, Token};
use crate::laws;
use crate::nvme::status::Status;

const BLOCK_BYTES: u32 = 4096;

fn disk(blocks: u64) -> Malloc {
    Malloc::new("malloc0", Geometry { block_bytes: BLOCK_BYTES, blocks }, None).unwrap()
}

/// Runs one I/O to its end.
fn run(cx: &mut Cx, queue_pair: &mut dyn QueuePair, io: Io) -> Status {
    queue_pair.submit(cx, io).unwrap();
    let mut completions = Completions::new();
    loop {
        queue_pair.poll(cx, &mut completions);
        if let Some(Completion { status, .. }) = completions.drain().next() {
            return status;
        }
        std::thread::yield_now();
    }
}

fn swap(segment: Segment) -> Io {
    Io::with_memory(Operation::CompareAndWrite, Lba(0), 1, Memory::One(segment), Token(0))
}

fn counter_of(buffer: &DmaBuffer) -> u64 {
    u64::from_le_bytes(buffer.bytes(8).try_into().unwrap())
}

/// Adds one to every 8 bytes of the first block, `count` times, by compare-and-write.
fn count_up(disk: &Malloc, count: u32) {
    let (mut cx, _) = reactor::cx::test_context();
    let mut queue_pair = disk.open_queue_pair(&mut cx, 4).unwrap();
    let mut buffer = cx.dma.take(2 * BLOCK_BYTES).unwrap();
    let segment = buffer.segment(2 * BLOCK_BYTES);
    for _ in 0..count {
        loop {
            let read = Io::read(Lba(0), 1, segment.part(0, BLOCK_BYTES), Token(1));
            assert!(run(&mut cx, &mut *queue_pair, read).is_success());
            let next = (counter_of(&buffer) + 1).to_le_bytes();
            let half = BLOCK_BYTES as usize;
            buffer.bytes_mut()[half..2 * half].copy_from_slice(&next.repeat(half / 8));
            if run(&mut cx, &mut *queue_pair, swap(segment)).is_success() {
                break;
            }
        }
    }
    cx.dma.give(buffer);
}

#[test]
fn compare_and_write_on_two_cores_loses_no_increment() {
    const COUNT: u32 = 3_000;
    let disk = disk(16);
    std::thread::scope(|scope| {
        scope.spawn(|| count_up(&disk, COUNT));
        scope.spawn(|| count_up(&disk, COUNT));
    });
    let (mut cx, _) = reactor::cx::test_context();
    let mut queue_pair = disk.open_queue_pair(&mut cx, 1).unwrap();
    let buffer = cx.dma.take(BLOCK_BYTES).unwrap();
    let read = Io::read(Lba(0), 1, buffer.segment(BLOCK_BYTES), Token(1));
    assert!(run(&mut cx, &mut *queue_pair, read).is_success());
    assert_eq!(counter_of(&buffer), u64::from(2 * COUNT));
}

/// Each plain write fills the block with one tag; the swapper replaces what it read by another.
/// A swap that succeeded on a block that was overwritten in between, or a read of two tags at
/// once, would show.
#[test]
fn plain_writes_and_swaps_and_reads_see_whole_blocks_in_one_order() {
    const WRITES: u64 = 3_000;
    let disk = disk(16);
    let ended = AtomicBool::new(false);
    let fill = |buffer: &mut DmaBuffer, from: usize, tag: u64| {
        let half = BLOCK_BYTES as usize;
        let bytes = tag.to_le_bytes().repeat(half / 8);
        buffer.bytes_mut()[from..from + half].copy_from_slice(&bytes);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut cx, _) = reactor::cx::test_context();
            let mut queue_pair = disk.open_queue_pair(&mut cx, 4).unwrap();
            let mut buffer = cx.dma.take(BLOCK_BYTES).unwrap();
            for tag in 1..=WRITES {
                fill(&mut buffer, 0, tag << 32);
                let segment = buffer.segment(BLOCK_BYTES);
                let write = Io::write(Lba(0), 1, segment, Token(tag));
                assert!(run(&mut cx, &mut *queue_pair, write).is_success());
                // No swap may bring back what was there before the write.
                let read = Io::read(Lba(0), 1, segment, Token(tag));
                assert!(run(&mut cx, &mut *queue_pair, read).is_success());
                assert_eq!(counter_of(&buffer) >> 32, tag);
            }
            ended.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            let (mut cx, _) = reactor::cx::test_context();
            let mut queue_pair = disk.open_queue_pair(&mut cx, 4).unwrap();
            let mut buffer = cx.dma.take(2 * BLOCK_BYTES).unwrap();
            let segment = buffer.segment(2 * BLOCK_BYTES);
            let mut newest = 0;
            while !ended.load(Ordering::Acquire) {
                let read = Io::read(Lba(0), 1, segment.part(0, BLOCK_BYTES), Token(1));
                assert!(run(&mut cx, &mut *queue_pair, read).is_success());
                let tag = counter_of(&buffer);
                let words = buffer.bytes(BLOCK_BYTES).chunks_exact(8);
                assert!(words.into_iter().all(|word| word == tag.to_le_bytes()));
                // The low half counts the swaps since a write, and only this thread swaps: a
                // write, once seen, never gives way to an older one.
                assert!(tag >= newest, "{tag:#x} after {newest:#x}");
                newest = tag;
                fill(&mut buffer, BLOCK_BYTES as usize, tag + 1);
                if run(&mut cx, &mut *queue_pair, swap(segment)).is_success() {
                    newest = tag + 1;
                }
            }
        });
    });
}

#[test]
fn unmapped_space_goes_back_to_the_system_in_bounded_steps() {
    const BLOCKS: u64 = 4096;
    let (mut cx, _) = reactor::cx::test_context();
    let disk = disk(BLOCKS);
    let mut queue_pair = disk.open_queue_pair(&mut cx, 1).unwrap();
    let buffer = cx.dma.take(128 << 10).unwrap();
    buffer.segment(128 << 10).write(0, &[1; 128 << 10]);
    for lba in (0..BLOCKS).step_by(32) {
        let write = Io::write(Lba(lba), 32, buffer.segment(128 << 10), Token(0));
        assert!(run(&mut cx, &mut *queue_pair, write).is_success());
    }
    assert_eq!(disk.shared.memory.resident_bytes(), disk.geometry().len_bytes());
    let blocks = u32::try_from(BLOCKS).unwrap();
    let unmap = Io::with_memory(Operation::Unmap, Lba(0), blocks, Memory::None, Token(0));
    queue_pair.submit(&mut cx, unmap).unwrap();
    let mut completions = Completions::new();
    assert_eq!(queue_pair.poll(&mut cx, &mut completions), 0, "16 MiB are not done in one step");
    while queue_pair.poll(&mut cx, &mut completions) == 0 {}
    assert!(completions.as_slice()[0].status.is_success());
    assert_eq!(disk.shared.memory.resident_bytes(), 0);
}

fn check_laws(block_bytes: u32) {
    let make = |_: &mut Cx| -> Arc<dyn BlockDevice> {
        Arc::new(Malloc::new("malloc0", Geometry { block_bytes, blocks: 300 }, None).unwrap())
    };
    laws::check(make, laws::Options::default());
}

#[test]
fn the_ram_disk_keeps_the_laws_with_blocks_of_512_bytes() {
    check_laws(512);
}

#[test]
fn the_ram_disk_keeps_the_laws_with_blocks_of_4_kib() {
    check_laws(4096);
}

#[test]
fn an_aborted_io_still_completes_once_and_does_nothing() {
    let (mut cx, _) = reactor::cx::test_context();
    let disk = disk(16);
    let mut queue_pair = disk.open_queue_pair(&mut cx, 2).unwrap();
    let buffer = cx.dma.take(BLOCK_BYTES).unwrap();
    buffer.segment(BLOCK_BYTES).write(0, &[1; 4096]);
    let write = Io::write(Lba(0), 1, buffer.segment(BLOCK_BYTES), Token(5));
    queue_pair.submit(&mut cx, write).unwrap();
    queue_pair.abort_all(&mut cx);
    let mut completions = Completions::new();
    assert_eq!(queue_pair.poll(&mut cx, &mut completions), 1);
    let expected = Completion::new(Token(5), Status::ABORT_REQUESTED);
    assert_eq!(completions.as_slice(), [expected]);
    assert_eq!(disk.shared.memory.resident_bytes(), 0);
}

#[test]
fn every_way_to_write_is_known_and_every_way_to_zero_too() {
    let (mut cx, _) = reactor::cx::test_context();
    let disk = disk(64);
    let query = disk.allocation().unwrap();
    assert_eq!(query.pace(), Pace::AtOnce);
    let mut queue_pair = disk.open_queue_pair(&mut cx, 1).unwrap();
    let buffer = cx.dma.take(2 * BLOCK_BYTES).unwrap();
    let segment = buffer.segment(2 * BLOCK_BYTES);
    segment.write(0, &[0; 8192]);
    let written = |query: &dyn AllocationQuery| {
        let ranges = look_through(query, 64, 1).into_iter();
        ranges.map(|one| (one.start, one.end)).collect::<Vec<_>>()
    };
    assert_eq!(written(&*query), []);
    let read = Io::read(Lba(0), 1, segment.part(0, BLOCK_BYTES), Token(1));
    assert!(run(&mut cx, &mut *queue_pair, read).is_success());
    assert_eq!(written(&*query), [], "a read writes nothing");
    let write = Io::write(Lba(40), 1, segment.part(0, BLOCK_BYTES), Token(1));
    assert!(run(&mut cx, &mut *queue_pair, write).is_success());
    assert!(run(&mut cx, &mut *queue_pair, swap(segment)).is_success());
    assert_eq!(written(&*query), [(0, 16), (32, 48)]);
    let zeroes = |operation, lba, blocks| {
        Io::with_memory(operation, Lba(lba), blocks, Memory::None, Token(2))
    };
    let partly = zeroes(Operation::Unmap, 1, 47);
    assert!(run(&mut cx, &mut *queue_pair, partly).is_success());
    assert_eq!(written(&*query), [(0, 16)]);
    let rest = zeroes(Operation::WriteZeroes, 0, 16);
    assert!(run(&mut cx, &mut *queue_pair, rest).is_success());
    assert_eq!(written(&*query), []);
    cx.dma.give(buffer);
}

#[test]
fn a_decorated_disk_tells_what_the_disk_below_knows() {
    let plain: Arc<dyn BlockDevice> = Arc::new(disk(64));
    let stack = crate::Split::new(Arc::new(crate::Fault::new(plain, Default::default())));
    assert!(stack.allocation().is_some());
    let geometry = Geometry { block_bytes: BLOCK_BYTES, blocks: 64 };
    assert!(crate::Null::new("null", geometry, None).unwrap().allocation().is_none());
}
