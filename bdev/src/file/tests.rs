//! What holds for files whatever carries the I/O.

use super::testing::{INTERFACES, LOST_AFTER, TestFile, drain, run};
use super::*;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use reactor::Cx;
use reactor::Wake;
use reactor::socket::Wait;
use reactor::socket::readiness::DESCRIPTOR_KEY;

use crate::io::{Io, Lba, Memory, Token};
use crate::legality::GeometryError;
use crate::nvme::status::Status;
use crate::{Completions, QueuePair};

const BLOCK: u32 = 4096;

fn context() -> Cx {
    reactor::cx::test_context().0
}

#[test]
fn a_file_is_open_once() {
    let file = TestFile::new(8 * u64::from(BLOCK));
    let first = file.backing(BLOCK);
    let second = Backing::open(file.path(), None);
    assert!(matches!(second, Err(FileError::InUse { .. })), "{second:?}");
    drop(first);
    assert!(Backing::open(file.path(), None).is_ok());
}

#[test]
fn what_is_no_disk_is_refused_by_what_it_is() {
    let open = |path: &str| Backing::open(path, None).unwrap_err();
    assert!(matches!(open("/"), FileError::NotADisk { .. }));
    assert!(matches!(open("/dev/null"), FileError::NotADisk { .. }));
    assert!(matches!(open("/nowhere/at/all"), FileError::Open { .. }));
    let empty = TestFile::new(511);
    let error = open(empty.path());
    assert!(matches!(error, FileError::Geometry { source: GeometryError::Empty, .. }), "{error}");
    empty.set_len(512);
    assert_eq!(Backing::open(empty.path(), None).unwrap().geometry().blocks, 1);
}

#[test]
fn what_cannot_be_written_is_opened_for_reading() {
    // A program that runs cannot be written, whoever asks.
    let program = std::env::current_exe().unwrap();
    let backing = Backing::open(program.to_str().unwrap(), None).unwrap();
    assert_eq!(backing.access(), Access::ReadOnly);
    let limits = limits(&backing);
    assert!(limits.read_only && !limits.operations.contains(Operation::Unmap));
}

#[test]
fn direct_io_is_used_or_its_absence_explained() {
    let file = TestFile::new(1 << 20);
    let backing = file.backing(BLOCK);
    assert_eq!(backing.is_direct(), backing.buffered().is_none());
    assert!(backing.alignment_bytes().is_power_of_two());
    assert!(backing.alignment_bytes() <= BLOCK);
    let reason = Buffered::Blocks { needed_bytes: 4096 };
    assert_eq!(reason.to_string(), "direct I/O would need blocks of 4096 bytes");
}

#[test]
fn growing_is_seen_when_the_size_is_asked_for() {
    let file = TestFile::new(8 * u64::from(BLOCK));
    for make in INTERFACES {
        file.set_len(8 * u64::from(BLOCK));
        let device = make(file.backing(BLOCK));
        let mut cx = context();
        let mut queue_pair = device.open_queue_pair(&mut cx, 4).unwrap();
        let buffer = cx.dma.take(BLOCK).unwrap();
        let write = Io::write(Lba(8), 1, buffer.segment(BLOCK), Token(1));
        assert_eq!(run(&mut cx, &mut *queue_pair, write), Status::LBA_OUT_OF_RANGE);
        file.set_len(9 * u64::from(BLOCK) + 17);
        assert_eq!(device.geometry().blocks, 9);
        assert_eq!(run(&mut cx, &mut *queue_pair, write), Status::SUCCESS);
        cx.dma.give(buffer);
    }
}

#[test]
fn a_file_that_is_cut_off_underneath_gives_errors() {
    for make in INTERFACES {
        let file = TestFile::new(64 * u64::from(BLOCK));
        let device = make(file.backing(BLOCK));
        let mut cx = context();
        let mut queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
        let buffer = cx.dma.take(4 * BLOCK).unwrap();
        let segment = buffer.segment(4 * BLOCK);
        let read = |lba| Io::read(Lba(lba), 4, segment, Token(lba));
        assert_eq!(run(&mut cx, &mut *queue_pair, read(60)), Status::SUCCESS);
        // In the middle of a block, in the middle of the last I/O that still fits.
        file.set_len(10 * u64::from(BLOCK) + 100);
        assert_eq!(run(&mut cx, &mut *queue_pair, read(8)), Status::LBA_OUT_OF_RANGE);
        assert_eq!(run(&mut cx, &mut *queue_pair, read(60)), Status::LBA_OUT_OF_RANGE);
        assert_eq!(run(&mut cx, &mut *queue_pair, read(6)), Status::SUCCESS);
        let write = Io::write(Lba(60), 4, segment, Token(1));
        assert_eq!(run(&mut cx, &mut *queue_pair, write), Status::LBA_OUT_OF_RANGE);
        file.set_len(0);
        assert_eq!(run(&mut cx, &mut *queue_pair, read(0)), Status::LBA_OUT_OF_RANGE);
        assert_eq!(device.geometry().blocks, 0);
        cx.dma.give(buffer);
    }
}

#[test]
fn what_is_unmapped_reads_as_zeroes_and_takes_no_space() {
    for make in INTERFACES {
        let file = TestFile::new(256 * u64::from(BLOCK));
        let device = make(file.backing(BLOCK));
        if !device.limits().operations.contains(Operation::Unmap) {
            // A file system without holes; emulation has tests of its own.
            continue;
        }
        let mut cx = context();
        let mut queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
        let mut buffer = cx.dma.take(32 * BLOCK).unwrap();
        buffer.bytes_mut().fill(7);
        let segment = buffer.segment(32 * BLOCK);
        for operation in [Operation::WriteZeroes, Operation::Unmap] {
            buffer.bytes_mut().fill(7);
            let write = Io::write(Lba(64), 32, segment, Token(1));
            assert_eq!(run(&mut cx, &mut *queue_pair, write), Status::SUCCESS);
            assert_eq!(run(&mut cx, &mut *queue_pair, Io::flush(Token(2))), Status::SUCCESS);
            assert!(space_bytes(&file) >= 32 * u64::from(BLOCK));
            let zero = Io::with_memory(operation, Lba(64), 32, Memory::None, Token(3));
            assert_eq!(run(&mut cx, &mut *queue_pair, zero), Status::SUCCESS, "{operation:?}");
            let read = Io::read(Lba(64), 32, segment, Token(4));
            assert_eq!(run(&mut cx, &mut *queue_pair, read), Status::SUCCESS);
            assert!(buffer.bytes(32 * BLOCK).iter().all(|byte| *byte == 0));
        }
        assert_eq!(space_bytes(&file), 0, "a hole takes no space");
        assert_eq!(device.geometry().blocks, 256, "and the size stays");
        cx.dma.give(buffer);
    }
}

fn space_bytes(file: &TestFile) -> u64 {
    std::fs::metadata(file.path()).unwrap().blocks() * 512
}

#[test]
fn more_than_the_kernel_takes_at_once_waits_for_its_turn() {
    const DEPTH: u32 = KERNEL_DEPTH_MAX * 2 + 3;
    for make in INTERFACES {
        let file = TestFile::new(u64::from(DEPTH) * u64::from(BLOCK));
        let device = make(file.backing(BLOCK));
        let mut cx = context();
        let mut queue_pair = device.open_queue_pair(&mut cx, DEPTH).unwrap();
        let buffer = cx.dma.take(BLOCK).unwrap();
        for lba in 0..u64::from(DEPTH) {
            let write = Io::write(Lba(lba), 1, buffer.segment(BLOCK), Token(lba));
            queue_pair.submit(&mut cx, write).unwrap();
        }
        assert!(queue_pair.submit(&mut cx, Io::flush(Token(9))).is_err(), "no credit is left");
        let mut ended = drain(&mut cx, &mut *queue_pair);
        ended.sort_unstable_by_key(|(token, _)| *token);
        assert_eq!(ended.len(), DEPTH as usize);
        for (lba, (token, status)) in ended.into_iter().enumerate() {
            assert_eq!((token, status), (Token(lba as u64), Status::SUCCESS));
        }
        cx.dma.give(buffer);
    }
}

#[test]
fn a_core_that_sleeps_is_woken_by_each_result() {
    for make in INTERFACES {
        let file = TestFile::new(8 * u64::from(BLOCK));
        let device = make(file.backing(BLOCK));
        let mut cx = context();
        let mut queue_pair = device.open_queue_pair(&mut cx, 4).unwrap();
        let buffer = cx.dma.take(BLOCK).unwrap();
        let mut completions = Completions::new();
        assert_eq!(queue_pair.wake(), Wake::Never);
        for round in 0..20 {
            let io = match round % 4 {
                0 => Io::flush(Token(round)),
                1 if device.limits().operations.contains(Operation::Unmap) => {
                    Io::with_memory(Operation::Unmap, Lba(0), 8, Memory::None, Token(round))
                }
                _ => Io::write(Lba(1), 1, buffer.segment(BLOCK), Token(round)),
            };
            queue_pair.submit(&mut cx, io).unwrap();
            assert_eq!(queue_pair.wake(), Wake::Now, "what is in line must be flushed");
            queue_pair.flush(&mut cx);
            while queue_pair.poll(&mut cx, &mut completions) == 0 {
                assert_eq!(queue_pair.wake(), Wake::Descriptor);
                if queue_pair.arm(&mut cx) {
                    sleep(&mut cx, &mut *queue_pair, &mut completions);
                }
                if !completions.as_slice().is_empty() {
                    break;
                }
            }
            assert_eq!(completions.drain().next().unwrap().token, Token(round));
        }
        cx.dma.give(buffer);
    }
}

/// Sleeps until the descriptor fires. A disk may be slow, and what is slow is not lost: a result
/// that is there after a sleep that nothing ended, and of which nothing tells, is.
fn sleep(cx: &mut Cx, queue_pair: &mut dyn QueuePair, completions: &mut Completions) {
    const LOOK_AFTER: Duration = Duration::from_secs(2);
    let started = Instant::now();
    loop {
        let mut ready = Vec::new();
        cx.network.poll(Wait::AtMost(LOOK_AFTER), &mut ready);
        if let Some(ready) = ready.first() {
            assert_eq!(ready.key, DESCRIPTOR_KEY);
            assert!(cx.device_readiness.note(*ready));
            return;
        }
        if queue_pair.poll(cx, completions) > 0 {
            cx.network.poll(Wait::No, &mut ready);
            assert_eq!(ready.len(), 1, "a result came and woke nobody");
            return;
        }
        // It was awake to look, and goes to sleep as it did before.
        if !queue_pair.arm(cx) {
            return;
        }
        assert!(started.elapsed() < LOST_AFTER, "no result came");
    }
}

#[test]
fn a_queue_pair_dropped_with_reads_in_flight_touches_memory_no_more() {
    for make in INTERFACES {
        let file = TestFile::new(1 << 20);
        let device = make(file.backing(BLOCK));
        let mut cx = context();
        let mut queue_pair = device.open_queue_pair(&mut cx, 64).unwrap();
        let mut buffer = cx.dma.take(32 * BLOCK).unwrap();
        for lba in 0..32 {
            let part = buffer.segment(32 * BLOCK).part(lba * BLOCK, BLOCK);
            let read = Io::read(Lba(u64::from(lba)), 1, part, Token(u64::from(lba)));
            queue_pair.submit(&mut cx, read).unwrap();
        }
        queue_pair.flush(&mut cx);
        drop(queue_pair);
        buffer.bytes_mut().fill(9);
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(buffer.bytes(32 * BLOCK).iter().all(|byte| *byte == 9));
        cx.dma.give(buffer);
    }
}
