//! What holds for block devices, full disks and files that change underneath, whatever carries the
//! I/O.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use reactor::Cx;

use super::loop_device::LoopDevice;
use super::scarce::with_room;
use super::testing::{INTERFACES, TestFile, drain, run};
use super::*;
use crate::device::{BlockDevice, ResizeError};
use crate::io::{IoFlags, Lba, Memory, Token};
use crate::nvme::status::Status;
use crate::{Io, stack};

const BLOCK: u32 = 4096;

fn context() -> Cx {
    reactor::cx::test_context().0
}

fn zero(operation: Operation, lba: u64, blocks: u32) -> Io {
    Io::with_memory(operation, Lba(lba), blocks, Memory::None, Token(99))
}

#[test]
fn a_file_grows_and_never_shrinks_from_here() {
    for make in INTERFACES {
        let file = TestFile::new(8 * u64::from(BLOCK));
        let device = stack::complete(make(file.backing(BLOCK)));
        assert_eq!(device.resize(20).unwrap().blocks, 20);
        assert_eq!(device.geometry().blocks, 20);
        assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 20 * u64::from(BLOCK));
        assert_eq!(device.resize(20).unwrap().blocks, 20);
        assert!(matches!(device.resize(19), Err(ResizeError::Smaller { blocks: 20, .. })));
        assert!(matches!(device.resize(0), Err(ResizeError::Geometry { .. })));
        assert!(matches!(device.resize(u64::MAX), Err(ResizeError::Geometry { .. })));
        assert_eq!(device.geometry().blocks, 20);
        let mut cx = context();
        let mut queue_pair = device.open_queue_pair(&mut cx, 4).unwrap();
        let buffer = cx.dma.take(BLOCK).unwrap();
        let write = Io::write(Lba(19), 1, buffer.segment(BLOCK), Token(1));
        assert_eq!(run(&mut cx, &mut *queue_pair, write), Status::SUCCESS);
        cx.dma.give(buffer);
    }
}

#[test]
fn a_file_is_free_again_once_its_queue_pair_is_dropped() {
    for make in INTERFACES {
        let file = TestFile::new(8 * u64::from(BLOCK));
        let mut cx = context();
        for _ in 0..3 {
            let device = make(file.backing(BLOCK));
            let mut queue_pair = device.open_queue_pair(&mut cx, 4).unwrap();
            assert_eq!(run(&mut cx, &mut *queue_pair, Io::flush(Token(1))), Status::SUCCESS);
        }
    }
}

#[test]
fn several_files_of_a_core_get_their_own_results() {
    for make in INTERFACES {
        let mut cx = context();
        let files: Vec<_> = (1..5).map(|count| TestFile::new(count * u64::from(BLOCK))).collect();
        let open = |file: &TestFile| make(file.backing(BLOCK)).open_queue_pair(&mut cx, 8).unwrap();
        let mut queue_pairs: Vec<_> = files.iter().map(open).collect();
        let buffer = cx.dma.take(BLOCK).unwrap();
        for (index, queue_pair) in queue_pairs.iter_mut().enumerate() {
            // The same tokens everywhere; each file ends one block later than the one before.
            for lba in 0..4 {
                let io = Io::read(Lba(lba), 1, buffer.segment(BLOCK), Token(lba));
                queue_pair.submit(&mut cx, io).unwrap();
            }
            assert_eq!(queue_pair.inflight(), 4, "of file {index}");
            queue_pair.flush(&mut cx);
        }
        // One in the middle goes, with all that it has in flight; the others' results stay.
        drop(queue_pairs.remove(1));
        for (queue_pair, blocks) in queue_pairs.iter_mut().zip([1, 3, 4]) {
            let mut ended = drain(&mut cx, &mut **queue_pair);
            ended.sort_unstable_by_key(|(token, _)| *token);
            for (lba, (token, status)) in (0..4).zip(ended) {
                let fits = if lba < blocks { Status::SUCCESS } else { Status::LBA_OUT_OF_RANGE };
                assert_eq!((token, status), (Token(lba), fits));
            }
        }
        cx.dma.give(buffer);
    }
}

#[test]
fn a_file_cut_off_and_grown_during_io_gives_errors_and_loses_nothing() {
    const BLOCKS: u64 = 64;
    for make in INTERFACES {
        let file = TestFile::new(BLOCKS * u64::from(BLOCK));
        let device = make(file.backing(BLOCK));
        let mut cx = context();
        let mut queue_pair = device.open_queue_pair(&mut cx, 16).unwrap();
        let buffer = cx.dma.take(8 * BLOCK).unwrap();
        let segment = buffer.segment(8 * BLOCK);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Relaxed: it only has to be seen some time.
                for round in (0_u64..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    file.set_len((round * 7 % BLOCKS) * u64::from(BLOCK) + round % 5 * 100);
                    device.geometry();
                    std::thread::yield_now();
                    file.set_len(BLOCKS * u64::from(BLOCK));
                    device.geometry();
                    std::thread::sleep(std::time::Duration::from_micros(300));
                }
            });
            for round in 0..60_u64 {
                for at in 0..16_u64 {
                    let lba = Lba((round * 5 + at * 11) % (BLOCKS - 8));
                    let io = match at % 4 {
                        0 => Io::write(lba, 8, segment, Token(at)),
                        _ => Io::read(lba, 8, segment, Token(at)),
                    };
                    queue_pair.submit(&mut cx, io).unwrap();
                }
                for (token, status) in drain(&mut cx, &mut *queue_pair) {
                    let expected = [Status::SUCCESS, Status::LBA_OUT_OF_RANGE];
                    // Cut off and grown again between the short read and the look at the size.
                    let late = [Status::UNRECOVERED_READ_ERROR, Status::WRITE_FAULT];
                    let fine = expected.contains(&status) || late.contains(&status);
                    assert!(fine, "{token:?} ended with {status:?}");
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        cx.dma.give(buffer);
    }
}

/// Writes of which only some find room; returns how they ended.
fn fill(device: &dyn BlockDevice, blocks: u64) -> Vec<Status> {
    let mut cx = context();
    let mut queue_pair = device.open_queue_pair(&mut cx, 4).unwrap();
    let buffer = cx.dma.take(BLOCK).unwrap();
    let ended = (0..blocks).map(|lba| {
        let write = Io::write(Lba(lba), 1, buffer.segment(BLOCK), Token(lba));
        let durable = Io { flags: IoFlags::FUA, ..write };
        run(&mut cx, &mut *queue_pair, durable)
    });
    let ended = ended.collect();
    cx.dma.give(buffer);
    ended
}

mod real_kernel {
    use super::*;
    use crate::rules::RuleSet;
    use crate::{Delay, Fault, delay, laws, rules};
    use reactor::Nanos;

    const OPTIONS: laws::Options = laws::Options {
        keeps: laws::Keeps::Everything,
        verdict: legality_of_the_kernel,
        depth: 8,
        cases: 8,
        steps_max: 60,
    };

    fn legality_of_the_kernel(
        io: &Io,
        geometry: &crate::Geometry,
        limits: &Limits,
    ) -> Result<(), Status> {
        crate::legality::check(io, geometry, limits)?;
        let low_bits = limits.alignment_bytes - 1;
        match io.memory.segments() {
            many if many.len() > 1 && many.iter().any(|one| one.len_bytes() & low_bits != 0) => {
                Err(Status::SGL_DATA_BLOCK_GRANULARITY_INVALID)
            }
            _ => Ok(()),
        }
    }

    /// The disk, all zeroes again.
    fn blank(disk: &LoopDevice, block_bytes: u32) -> Arc<Backing> {
        let backing = Arc::new(Backing::open(disk.path(), Some(block_bytes)).unwrap());
        let bytes = backing.geometry().len_bytes();
        backing.zero_range(RangeMode::Punch, 0, bytes).unwrap();
        backing
    }

    #[test]
    fn block_devices_keep_the_laws() {
        for (block_bytes, blocks) in [(512_u32, 300_u64), (4096, 60)] {
            let disk = LoopDevice::new(
                blocks * u64::from(block_bytes),
                &["--sector-size", &block_bytes.to_string()],
            );
            for make in INTERFACES {
                laws::check(|_| make(blank(&disk, block_bytes)), OPTIONS);
            }
        }
    }

    #[test]
    fn block_devices_keep_the_laws_below_every_wrapper() {
        let disk = LoopDevice::new(60 * 4096, &["--sector-size", "4096"]);
        let lateness = delay::Lateness::Uniform { least: Nanos(0), most: Nanos::from_millis(2) };
        let meets = rules::Match { probability: 0.5, ..rules::Match::default() };
        for make in INTERFACES {
            let wrapped = |_: &mut Cx| -> Arc<dyn BlockDevice> {
                let rule = rules::Rule { meets: meets.clone(), effect: lateness };
                let late =
                    Delay::new(make(blank(&disk, 4096)), RuleSet { rules: vec![rule], seed: 3 });
                let sound = Fault::new(Arc::new(late), RuleSet::default());
                stack::complete(Arc::new(sound))
            };
            laws::check(wrapped, laws::Options { verdict: crate::legality::check, ..OPTIONS });
        }
    }

    #[test]
    fn a_block_device_says_what_its_blocks_are_and_is_open_once() {
        let disk = LoopDevice::new(1 << 20, &["--sector-size", "4096"]);
        let first = Backing::open(disk.path(), None).unwrap();
        assert_eq!(first.geometry(), crate::Geometry { block_bytes: 4096, blocks: 256 });
        let second = Backing::open(disk.path(), None);
        assert!(matches!(second, Err(FileError::InUse { .. })), "{second:?}");
        drop(first);
        // Blocks that the disk cannot write go through the page cache, and are never zeroed as
        // a range.
        let smaller = Backing::open(disk.path(), Some(512)).unwrap();
        assert_eq!(smaller.buffered(), Some(Buffered::Blocks { needed_bytes: 4096 }));
        assert!(!smaller.has_ranges());
    }

    #[test]
    fn a_block_device_that_changes_its_size_is_followed() {
        let disk = LoopDevice::new(64 * u64::from(BLOCK), &[]);
        for make in INTERFACES {
            disk.set_len(64 * u64::from(BLOCK));
            let backing = Arc::new(Backing::open(disk.path(), Some(BLOCK)).unwrap());
            let device = make(backing);
            let mut cx = context();
            let mut queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
            let buffer = cx.dma.take(BLOCK).unwrap();
            let read = |lba| Io::read(Lba(lba), 1, buffer.segment(BLOCK), Token(lba));
            let write = |lba| Io::write(Lba(lba), 1, buffer.segment(BLOCK), Token(lba));
            disk.set_len(100 * u64::from(BLOCK));
            assert_eq!(device.geometry().blocks, 100);
            assert_eq!(run(&mut cx, &mut *queue_pair, write(99)), Status::SUCCESS);
            assert!(matches!(device.resize(200), Err(ResizeError::Fixed { .. })));
            // Cut off, and nobody asked for the size since.
            for io in [read(60), write(60)] {
                disk.set_len(64 * u64::from(BLOCK));
                device.geometry();
                disk.set_len(32 * u64::from(BLOCK));
                let status = run(&mut cx, &mut *queue_pair, io);
                assert_eq!(status, Status::LBA_OUT_OF_RANGE, "{:?}", io.operation);
                assert_eq!(run(&mut cx, &mut *queue_pair, write(31)), Status::SUCCESS);
            }
            cx.dma.give(buffer);
        }
    }

    #[test]
    fn a_block_device_that_cannot_be_written_is_opened_for_reading() {
        let disk = LoopDevice::new(64 * u64::from(BLOCK), &["--read-only"]);
        for make in INTERFACES {
            let device = make(Arc::new(Backing::open(disk.path(), Some(BLOCK)).unwrap()));
            assert!(device.limits().read_only);
            assert!(device.about().unwrap().ends_with(", read-only"), "{:?}", device.about());
            let mut cx = context();
            let mut queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
            let buffer = cx.dma.take(BLOCK).unwrap();
            let segment = buffer.segment(BLOCK);
            let refused = Status::NAMESPACE_WRITE_PROTECTED;
            let write = Io::write(Lba(1), 1, segment, Token(1));
            assert_eq!(run(&mut cx, &mut *queue_pair, write), refused);
            let read = Io::read(Lba(1), 1, segment, Token(2));
            assert_eq!(run(&mut cx, &mut *queue_pair, read), Status::SUCCESS);
            cx.dma.give(buffer);
        }
    }

    #[test]
    fn what_is_unmapped_on_a_block_device_goes_back_to_what_it_lies_on() {
        use std::os::unix::fs::MetadataExt;
        let disk = LoopDevice::new(256 * u64::from(BLOCK), &[]);
        for make in INTERFACES {
            let device = make(Arc::new(Backing::open(disk.path(), Some(BLOCK)).unwrap()));
            let mut cx = context();
            let mut queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
            let mut buffer = cx.dma.take(32 * BLOCK).unwrap();
            let segment = buffer.segment(32 * BLOCK);
            let space = || std::fs::metadata(disk.file().path()).unwrap().blocks() * 512;
            for operation in [Operation::WriteZeroes, Operation::Unmap] {
                buffer.bytes_mut().fill(7);
                let write = Io::write(Lba(64), 32, segment, Token(1));
                assert_eq!(run(&mut cx, &mut *queue_pair, write), Status::SUCCESS);
                assert_eq!(run(&mut cx, &mut *queue_pair, Io::flush(Token(2))), Status::SUCCESS);
                assert!(space() >= 32 * u64::from(BLOCK));
                let zeroed = run(&mut cx, &mut *queue_pair, zero(operation, 64, 32));
                assert_eq!(zeroed, Status::SUCCESS, "{operation:?}");
                let read = Io::read(Lba(64), 32, segment, Token(4));
                assert_eq!(run(&mut cx, &mut *queue_pair, read), Status::SUCCESS);
                assert!(buffer.bytes(32 * BLOCK).iter().all(|byte| *byte == 0));
            }
            assert_eq!(space(), 0);
            assert_eq!(
                run(&mut cx, &mut *queue_pair, zero(Operation::Unmap, 0, 256)),
                Status::SUCCESS
            );
            let past = run(&mut cx, &mut *queue_pair, zero(Operation::Unmap, 0, 257));
            assert_eq!(past, Status::LBA_OUT_OF_RANGE);
            cx.dma.give(buffer);
        }
    }

    #[test]
    fn flushes_and_durable_writes_reach_the_disk() {
        let disk = LoopDevice::new(64 * u64::from(BLOCK), &[]);
        for make in INTERFACES {
            let device = make(Arc::new(Backing::open(disk.path(), Some(BLOCK)).unwrap()));
            assert!(device.limits().volatile_cache);
            let mut cx = context();
            let mut queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
            let buffer = cx.dma.take(BLOCK).unwrap();
            let write = Io::write(Lba(1), 1, buffer.segment(BLOCK), Token(1));
            for (io, flushes) in
                [(write, 0), (Io { flags: IoFlags::FUA, ..write }, 1), (Io::flush(Token(2)), 1)]
            {
                let before = disk.flushes();
                assert_eq!(run(&mut cx, &mut *queue_pair, io), Status::SUCCESS);
                assert_eq!(disk.flushes() - before, flushes, "{:?} {:?}", io.operation, io.flags);
            }
            cx.dma.give(buffer);
        }
    }

    #[test]
    fn a_disk_that_writes_through_has_no_volatile_cache() {
        let disk = LoopDevice::new(64 * u64::from(BLOCK), &[]);
        let cached = || Backing::open(disk.path(), Some(BLOCK)).unwrap().write_cache();
        assert_eq!(cached(), WriteCache::Volatile);
        disk.set_write_cache("write through");
        assert_eq!(cached(), WriteCache::None);
    }

    #[test]
    fn a_full_disk_ends_writes_with_capacity_exceeded_and_serves_the_rest() {
        with_room(1 << 20, |folder: &Path| {
            for (index, make) in INTERFACES.into_iter().enumerate() {
                let path = folder.join(format!("sparse-{index}"));
                let file = TestFile::at(path, 1024 * u64::from(BLOCK));
                let ended = fill(&*make(file.backing(BLOCK)), 300);
                let written = ended.iter().take_while(|status| status.is_success()).count();
                assert!((100..=256).contains(&written), "{written} blocks found room");
                let full = &ended[written..];
                assert!(full.iter().all(|status| *status == Status::CAPACITY_EXCEEDED), "{full:?}");
            }
        });
    }

    #[test]
    fn a_block_device_without_room_behind_it_ends_writes_with_capacity_exceeded() {
        with_room(1 << 20, |folder: &Path| {
            for (index, make) in INTERFACES.into_iter().enumerate() {
                let path = folder.join(format!("sparse-{index}"));
                let file = TestFile::at(path, 1024 * u64::from(BLOCK));
                let disk = LoopDevice::over(file, &[]);
                let backing = Arc::new(Backing::open(disk.path(), Some(BLOCK)).unwrap());
                let ended = fill(&*make(backing), 300);
                assert!(ended[0].is_success());
                // Older kernels make an error of the medium of it.
                let full = [Status::CAPACITY_EXCEEDED, Status::WRITE_FAULT];
                assert!(full.contains(&ended[299]), "{:?}", ended[299]);
            }
        });
    }
}
