//! The laws over a device that can only read, write and flush, and what the laws cannot show.

use reactor::dma::DmaBuffer;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::device::Geometry;
use crate::io::{Completions, Io, Lba, Memory, Token};
use crate::narrow::Narrow;
use crate::nvme::status::Status;
use crate::{Malloc, laws};

const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 300 };

fn basic() -> Limits {
    Limits {
        io_blocks_max: 24,
        atomic_blocks: 8,
        operations: OperationSet::BASIC,
        unmap_zeroes: false,
        ..Limits::default()
    }
}

fn emulated(limits: Limits) -> Arc<dyn BlockDevice> {
    let disk = Arc::new(Malloc::new("malloc0", GEOMETRY, None).unwrap());
    Arc::new(Emulate::new(Arc::new(Narrow::new(disk, limits))))
}

#[test]
fn a_device_of_basic_operations_keeps_the_laws() {
    laws::check(|_| emulated(basic()), laws::Options::default());
}

#[test]
fn a_device_of_basic_operations_with_a_boundary_keeps_the_laws() {
    let limits = Limits { boundary_blocks: 8, io_blocks_max: 5, ..basic() };
    laws::check(|_| emulated(limits), laws::Options::default());
}

#[test]
fn a_device_open_on_many_cores_keeps_the_laws() {
    let limits = Limits { operations: basic().operations.with(Operation::WriteZeroes), ..basic() };
    laws::check(|_| emulated(limits), laws::Options::default());
}

#[test]
fn compare_and_write_is_offered_on_any_number_of_cores() {
    for limits in [basic(), Limits::default()] {
        assert_eq!(emulated(limits).limits().operations, OperationSet::ALL);
    }
}

#[test]
fn so_many_queue_pairs_are_open_at_once_and_no_more() {
    let (mut cx, _) = reactor::cx::test_context();
    let shared = emulated(basic());
    let open = |cx: &mut Cx| shared.open_queue_pair(cx, 1);
    let pairs: Vec<_> = (0..cores::MEMBERS_MAX).map(|_| open(&mut cx).unwrap()).collect();
    assert!(open(&mut cx).is_err(), "one more than there are places");
    drop(pairs);
    assert!(open(&mut cx).is_ok());
}

/// Submits all at once and returns their statuses by token, which count from zero.
fn run(cx: &mut Cx, queue_pair: &mut dyn QueuePair, ios: &[Io]) -> Vec<Status> {
    for (token, io) in ios.iter().enumerate() {
        queue_pair.submit(cx, Io { token: Token(token as u64), ..*io }).unwrap();
    }
    let mut completions = Completions::new();
    while queue_pair.inflight() > 0 {
        queue_pair.flush(cx);
        queue_pair.poll(cx, &mut completions);
    }
    let mut ended: Vec<_> = completions.drain().collect();
    ended.sort_by_key(|completion| completion.token);
    ended.iter().map(|completion| completion.status).collect()
}

#[test]
fn of_compare_and_writes_in_flight_together_one_wins() {
    let (mut cx, _) = reactor::cx::test_context();
    let device = emulated(basic());
    let mut queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
    let buffers: Vec<_> = (1..=4)
        .map(|tag| {
            let mut buffer = cx.dma.take(1024).unwrap();
            buffer.bytes_mut()[..512].fill(0);
            buffer.bytes_mut()[512..1024].fill(tag);
            buffer
        })
        .collect();
    let swaps: Vec<_> = buffers
        .iter()
        .map(|buffer| {
            let memory = Memory::One(buffer.segment(1024));
            Io::with_memory(Operation::CompareAndWrite, Lba(5), 1, memory, Token(0))
        })
        .collect();
    let statuses = run(&mut cx, &mut *queue_pair, &swaps);
    let wins = statuses.iter().filter(|status| status.is_success()).count();
    let losses = statuses.iter().filter(|status| **status == Status::COMPARE_FAILURE).count();
    assert_eq!((wins, losses), (1, 3), "{statuses:?}");
}

#[test]
fn a_write_never_falls_between_the_look_and_the_write_of_a_swap() {
    let (mut cx, _) = reactor::cx::test_context();
    let device = emulated(basic());
    let mut queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
    let mut swapped = cx.dma.take(1024).unwrap();
    swapped.bytes_mut()[..512].fill(0);
    swapped.bytes_mut()[512..1024].fill(1);
    let mut written = cx.dma.take(512).unwrap();
    written.bytes_mut()[..512].fill(2);
    let swap = Memory::One(swapped.segment(1024));
    let swap = Io::with_memory(Operation::CompareAndWrite, Lba(5), 1, swap, Token(0));
    let write = Io::write(Lba(5), 1, written.segment(512), Token(0));
    let both = run(&mut cx, &mut *queue_pair, &[swap, write]);
    assert_eq!(both, [Status::SUCCESS; 2], "the write came after the swap");
    let read = Io { operation: Operation::Read, ..write };
    assert_eq!(run(&mut cx, &mut *queue_pair, &[read]), [Status::SUCCESS]);
    assert_eq!(written.bytes(1), [2], "and was not overwritten by it");
}

#[test]
fn buffers_go_back_to_the_pool() {
    let (mut cx, _) = reactor::cx::test_context();
    let device = emulated(basic());
    let mut queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
    let unmap = Io::with_memory(Operation::Unmap, Lba(0), 300, Memory::None, Token(0));
    assert_eq!(run(&mut cx, &mut *queue_pair, &[unmap; 8]), [Status::SUCCESS; 8]);
    queue_pair.submit(&mut cx, unmap).unwrap();
    queue_pair.abort_all(&mut cx);
    let mut completions = Completions::new();
    while queue_pair.poll(&mut cx, &mut completions) == 0 {}
    assert_eq!(cx.dma.taken(), 0);
}

const SWAP: u32 = 2 * GEOMETRY.block_bytes;
/// What a block of the hammering tests holds, in each of its words: a count below, and above it
/// what a plain write last put there.
const COUNTS: u32 = 32;

fn one(cx: &mut Cx, queue_pair: &mut dyn QueuePair, io: Io) -> Status {
    run(cx, queue_pair, &[io])[0]
}

fn word(buffer: &DmaBuffer) -> u64 {
    let bytes = buffer.bytes(GEOMETRY.block_bytes);
    let word = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(bytes.chunks_exact(8).all(|other| other == word.to_le_bytes()), "a torn block");
    word
}

/// Replaces what the block says by `next` of it, by compare-and-write, until nobody else has come
/// between; returns what it has replaced.
fn swap_in(
    (cx, queue_pair): (&mut Cx, &mut dyn QueuePair),
    lba: Lba,
    next: impl Fn(u64) -> u64,
) -> u64 {
    let half = GEOMETRY.block_bytes;
    let mut buffer = cx.dma.take(SWAP).unwrap();
    let segment = buffer.segment(SWAP);
    let swap = Io::with_memory(Operation::CompareAndWrite, lba, 1, Memory::One(segment), Token(0));
    loop {
        let read = Io::read(lba, 1, segment.part(0, half), Token(0));
        assert!(one(cx, queue_pair, read).is_success());
        let seen = word(&buffer);
        let new = next(seen).to_le_bytes().repeat(half as usize / 8);
        buffer.bytes_mut()[half as usize..SWAP as usize].copy_from_slice(&new);
        match one(cx, queue_pair, swap) {
            status if status.is_success() => {
                cx.dma.give(buffer);
                return seen;
            }
            status => assert!(status.has_code(Status::COMPARE_FAILURE), "{status}"),
        }
    }
}

/// Two cores count in the same blocks by compare-and-write, and each writes plainly beside it, to
/// the same stripe. No increment is lost, and no plain write.
#[test]
fn swaps_of_two_cores_lose_no_increment_with_plain_writes_beside() {
    const COUNT: u64 = 2_000;
    let device = emulated(basic());
    let hammer = |beside: Lba| {
        let (mut cx, _) = reactor::cx::test_context();
        let mut queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
        let mut own = cx.dma.take(512).unwrap();
        for count in 1..=COUNT {
            own.bytes_mut()[..512].copy_from_slice(&count.to_le_bytes().repeat(64));
            let write = Io::write(beside, 1, own.segment(512), Token(0));
            assert!(one(&mut cx, &mut *queue_pair, write).is_success());
            for lba in [Lba(4), Lba(5)] {
                swap_in((&mut cx, &mut *queue_pair), lba, |seen| seen + 1);
            }
            let read = Io { operation: Operation::Read, ..write };
            assert!(one(&mut cx, &mut *queue_pair, read).is_success());
            assert_eq!(word(&own), count);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| hammer(Lba(3)));
        scope.spawn(|| hammer(Lba(6)));
    });
    let (mut cx, _) = reactor::cx::test_context();
    let mut queue_pair = device.open_queue_pair(&mut cx, 1).unwrap();
    for lba in [Lba(4), Lba(5)] {
        let total = swap_in((&mut cx, &mut *queue_pair), lba, |seen| seen);
        assert_eq!(total, 2 * COUNT);
    }
}

/// One core writes the block plainly, the other counts in it. What a plain write has put there is
/// seen by every later read, and never gives way to what was there before it.
#[test]
fn no_swap_of_another_core_undoes_a_plain_write() {
    const WRITES: u64 = 3_000;
    let device = emulated(basic());
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut cx, _) = reactor::cx::test_context();
            let mut queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
            let mut own = cx.dma.take(512).unwrap();
            for tag in 1..=WRITES {
                own.bytes_mut()[..512].copy_from_slice(&(tag << COUNTS).to_le_bytes().repeat(64));
                let write = Io::write(Lba(4), 1, own.segment(512), Token(0));
                assert!(one(&mut cx, &mut *queue_pair, write).is_success());
                let read = Io { operation: Operation::Read, ..write };
                assert!(one(&mut cx, &mut *queue_pair, read).is_success());
                assert_eq!(word(&own) >> COUNTS, tag);
            }
            ended.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            let (mut cx, _) = reactor::cx::test_context();
            let mut queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
            let mut newest = 0;
            while !ended.load(Ordering::Acquire) {
                let seen = swap_in((&mut cx, &mut *queue_pair), Lba(4), |seen| seen + 1);
                assert!(seen >= newest, "{seen:#x} after {newest:#x}");
                newest = seen + 1;
            }
        });
    });
}

/// The same at each place of a swap's way, and with the write begun before it: as the queue pairs
/// are polled here, nothing is left to chance.
#[test]
fn a_write_of_another_core_comes_before_a_swap_or_after_it() {
    for polls in 0..8 {
        for write_first in [false, true] {
            let (mut cx, _) = reactor::cx::test_context();
            let device = emulated(basic());
            let mut pairs = [(); 2].map(|()| device.open_queue_pair(&mut cx, 4).unwrap());
            let mut swapped = cx.dma.take(SWAP).unwrap();
            swapped.bytes_mut()[..512].fill(0);
            swapped.bytes_mut()[512..1024].fill(1);
            let mut written = cx.dma.take(512).unwrap();
            written.bytes_mut()[..512].fill(2);
            let memory = Memory::One(swapped.segment(SWAP));
            let swap = Io::with_memory(Operation::CompareAndWrite, Lba(5), 1, memory, Token(0));
            let write = Io::write(Lba(5), 1, written.segment(512), Token(0));
            let mut ended = [(); 2].map(|()| Completions::new());
            let [swapper, writer] = &mut pairs;
            let [swap_end, write_end] = &mut ended;
            if write_first {
                writer.submit(&mut cx, write).unwrap();
            }
            swapper.submit(&mut cx, swap).unwrap();
            for _ in 0..polls {
                swapper.flush(&mut cx);
                swapper.poll(&mut cx, swap_end);
            }
            if !write_first {
                writer.submit(&mut cx, write).unwrap();
            }
            for _ in 0..8 {
                writer.flush(&mut cx);
                writer.poll(&mut cx, write_end);
            }
            for _ in 0..8 {
                swapper.flush(&mut cx);
                swapper.poll(&mut cx, swap_end);
                writer.flush(&mut cx);
                writer.poll(&mut cx, write_end);
            }
            let status = swap_end.drain().next().unwrap().status;
            assert!(write_end.drain().next().unwrap().status.is_success());
            let read = Io { operation: Operation::Read, ..write };
            assert!(one(&mut cx, &mut **writer, read).is_success());
            let place = format!("{polls} polls, write first: {write_first}, swap: {status}");
            assert!(written.bytes(512).iter().all(|byte| *byte == 2), "{place}");
            assert!(status.is_success() || status.has_code(Status::COMPARE_FAILURE), "{place}");
        }
    }
}

#[test]
fn what_is_aborted_in_line_gives_its_turn_to_another_core() {
    let (mut cx, _) = reactor::cx::test_context();
    let device = emulated(basic());
    let mut pairs = [(); 3].map(|()| device.open_queue_pair(&mut cx, 4).unwrap());
    let buffer = cx.dma.take(SWAP).unwrap();
    buffer.segment(SWAP).fill_zero();
    let memory = Memory::One(buffer.segment(SWAP));
    let swap = Io::with_memory(Operation::CompareAndWrite, Lba(5), 1, memory, Token(0));
    pairs[0].submit(&mut cx, swap).unwrap();
    pairs[1].submit(&mut cx, swap).unwrap();
    pairs[1].abort_all(&mut cx);
    let mut completions = Completions::new();
    assert_eq!(pairs[1].poll(&mut cx, &mut completions), 1);
    assert_eq!(completions.drain().next().unwrap().status, Status::ABORT_REQUESTED);
    while pairs[0].inflight() > 0 {
        pairs[0].poll(&mut cx, &mut completions);
    }
    assert_eq!(one(&mut cx, &mut *pairs[2], swap), Status::SUCCESS);
}

#[test]
fn a_verify_is_made_of_reads_of_all_its_blocks_and_fails_as_they_do() {
    let (mut cx, _) = reactor::cx::test_context();
    let disk = Arc::new(Malloc::new("malloc0", GEOMETRY, None).unwrap());
    let reads = OperationSet::ALL.without(Operation::Read);
    let others = Operation::ALL.into_iter().filter(|one| reads.contains(*one));
    let meets = crate::rules::Match {
        operations: others.fold(OperationSet::ALL, OperationSet::without),
        lbas: 299..300,
        ..Default::default()
    };
    let effect = crate::fault::Failure::Before(Status::UNRECOVERED_READ_ERROR);
    let rules = vec![crate::rules::Rule { meets, effect }];
    let faulty = crate::Fault::new(disk, crate::rules::RuleSet { rules, seed: 0 });
    let device = Emulate::new(Arc::new(Narrow::new(Arc::new(faulty), basic())));
    let mut pair = device.open_queue_pair(&mut cx, 4).unwrap();
    for (token, blocks) in [(0, 299), (1, 300)] {
        let io = Io::with_memory(Operation::Verify, Lba(0), blocks, Memory::None, Token(token));
        pair.submit(&mut cx, io).unwrap();
    }
    let mut completions = Completions::new();
    for _ in 0..100 {
        pair.poll(&mut cx, &mut completions);
    }
    let mut ended: Vec<_> =
        completions.drain().map(|one| (one.token.0, one.status, one.zeroes)).collect();
    ended.sort_unstable_by_key(|one| one.0);
    let failed = Status::UNRECOVERED_READ_ERROR;
    assert_eq!(ended, [(0, Status::SUCCESS, false), (1, failed, false)]);
    assert_eq!(cx.dma.taken(), 0);
}

#[test]
fn verify_alone_is_no_reason_to_stand_above_a_device() {
    let lacks = |operation| {
        is_needed(&Limits { operations: OperationSet::ALL.without(operation), ..Limits::default() })
    };
    assert!(!lacks(Operation::Verify));
    assert!(lacks(Operation::Compare));
}

#[test]
fn a_verify_of_zeroes_says_nothing_of_them() {
    let (mut cx, _) = reactor::cx::test_context();
    let nothing = Arc::new(crate::Null::new("null", GEOMETRY, None).unwrap());
    let device = Emulate::new(Arc::new(Narrow::new(nothing, basic())));
    let mut pair = device.open_queue_pair(&mut cx, 4).unwrap();
    let io = Io::with_memory(Operation::Verify, Lba(0), 300, Memory::None, Token(0));
    pair.submit(&mut cx, io).unwrap();
    let mut completions = Completions::new();
    for _ in 0..100 {
        pair.poll(&mut cx, &mut completions);
    }
    let ended = completions.as_slice();
    assert_eq!(ended, [crate::Completion::new(Token(0), Status::SUCCESS)]);
}
