//! The laws over a device that can only read, write and flush, and what the laws cannot show.

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

fn emulated(limits: Limits, sharing: Sharing) -> Arc<dyn BlockDevice> {
    let disk = Arc::new(Malloc::new("malloc0", GEOMETRY, None).unwrap());
    Arc::new(Emulate::new(Arc::new(Narrow::new(disk, limits)), sharing))
}

#[test]
fn a_device_of_basic_operations_keeps_the_laws() {
    laws::check(|_| emulated(basic(), Sharing::OneCore), laws::Options::default());
}

#[test]
fn a_device_of_basic_operations_with_a_boundary_keeps_the_laws() {
    let limits = Limits { boundary_blocks: 8, io_blocks_max: 5, ..basic() };
    laws::check(|_| emulated(limits, Sharing::OneCore), laws::Options::default());
}

#[test]
fn a_device_open_on_many_cores_keeps_the_laws_without_compare_and_write() {
    let limits = Limits { operations: basic().operations.with(Operation::WriteZeroes), ..basic() };
    laws::check(|_| emulated(limits, Sharing::ManyCores), laws::Options::default());
}

#[test]
fn compare_and_write_is_offered_only_where_it_can_be_kept() {
    let offers =
        |device: &dyn BlockDevice| device.limits().operations.contains(Operation::CompareAndWrite);
    assert!(offers(&*emulated(basic(), Sharing::OneCore)));
    assert!(!offers(&*emulated(basic(), Sharing::ManyCores)));
    assert!(offers(&*emulated(Limits::default(), Sharing::ManyCores)));
}

#[test]
fn a_second_core_is_refused_until_the_first_has_closed() {
    let (mut cx, _) = reactor::cx::test_context();
    let device = emulated(basic(), Sharing::OneCore);
    let first = device.open_queue_pair(&mut cx, 1).unwrap();
    assert!(device.open_queue_pair(&mut cx, 1).is_err());
    drop(first);
    assert!(device.open_queue_pair(&mut cx, 1).is_ok());
    let shared = emulated(basic(), Sharing::ManyCores);
    let pairs = [(); 2].map(|()| shared.open_queue_pair(&mut cx, 1));
    assert!(pairs.iter().all(Result::is_ok));
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
    let device = emulated(basic(), Sharing::OneCore);
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
    let device = emulated(basic(), Sharing::OneCore);
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
    let device = emulated(basic(), Sharing::OneCore);
    let mut queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
    let unmap = Io::with_memory(Operation::Unmap, Lba(0), 300, Memory::None, Token(0));
    assert_eq!(run(&mut cx, &mut *queue_pair, &[unmap; 8]), [Status::SUCCESS; 8]);
    queue_pair.submit(&mut cx, unmap).unwrap();
    queue_pair.abort_all(&mut cx);
    let mut completions = Completions::new();
    while queue_pair.poll(&mut cx, &mut completions) == 0 {}
    assert_eq!(cx.dma.taken(), 0);
}
