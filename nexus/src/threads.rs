//! Two threads, each with a core's queue pair of one nexus, write over each other.
//!
//! The children know nothing of each other: only the mirror's order between cores keeps them equal.
//! Each watches that no two writes to one of its blocks are with it together.

use std::sync::Arc;

use bdev::{BlockDevice, Completions, Io, Lba, Token};
use reactor::cx::test_context;

use crate::home::Home;
use crate::nexus::Nexus;
use crate::testing::{BLOCK_BYTES, disk, nexus};
use crate::truth::Untracked;
use crate::watch::Watch;

const DEPTH: u32 = 16;
const WRITES: u64 = 3_000;
const THREADS: usize = 2;

/// Writes blocks around the border of two stripes, each write with bytes of its own.
fn write(nexus: &Nexus, thread: usize) {
    let (mut cx, _) = test_context();
    let mut queue_pair = nexus.open_queue_pair(&mut cx, DEPTH).unwrap();
    let buffers: Vec<_> = (0..DEPTH).map(|_| cx.dma.take(4 * BLOCK_BYTES).unwrap()).collect();
    let mut free: Vec<usize> = (0..buffers.len()).collect();
    let mut completions = Completions::new();
    let (mut sent, mut back) = (0, 0);
    while back < WRITES {
        while let Some(index) = free.pop().filter(|_| sent < WRITES) {
            sent += 1;
            let blocks = 1 + cx.random.below(4) as u32;
            let segment = buffers[index].segment(blocks * BLOCK_BYTES);
            let stamp = (sent * THREADS as u64 + thread as u64).to_le_bytes();
            segment.write(0, &stamp.repeat((blocks * BLOCK_BYTES) as usize / stamp.len()));
            let lba = Lba(124 + cx.random.below(8));
            let io = Io::write(lba, blocks, segment, Token(index as u64));
            queue_pair.submit(&mut cx, io).unwrap();
        }
        queue_pair.flush(&mut cx);
        queue_pair.poll(&mut cx, &mut completions);
        for completion in completions.drain() {
            assert!(completion.status.is_success());
            free.push(completion.token.0 as usize);
            back += 1;
        }
        std::thread::yield_now();
    }
}

fn content(disk: &dyn BlockDevice) -> Vec<u8> {
    let (mut cx, _) = test_context();
    let mut queue_pair = disk.open_queue_pair(&mut cx, 1).unwrap();
    let buffer = cx.dma.take(16 * BLOCK_BYTES).unwrap();
    let segment = buffer.segment(16 * BLOCK_BYTES);
    queue_pair.submit(&mut cx, Io::read(Lba(120), 16, segment, Token(0))).unwrap();
    let mut completions = Completions::new();
    while queue_pair.poll(&mut cx, &mut completions) == 0 {}
    assert!(completions.drain().all(|completion| completion.status.is_success()));
    buffer.bytes(16 * BLOCK_BYTES).to_vec()
}

#[test]
fn two_threads_write_over_each_other_and_the_children_stay_equal() {
    let disks: Vec<_> = (0..3).map(|_| disk()).collect();
    let watched = disks.iter().map(|disk| {
        let watch: Arc<dyn BlockDevice> = Arc::new(Watch::new(disk.clone()).0);
        watch
    });
    let nexus = nexus(watched.collect());
    std::thread::scope(|scope| {
        let nexus = &nexus;
        let start = |thread| scope.spawn(move || write(nexus, thread));
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        let (mut cx, _) = test_context();
        let mut home = Home::new(nexus.clone(), &mut cx, Box::new(Untracked::default()));
        while threads.iter().any(|thread| !thread.is_finished()) {
            home.poll(&mut cx);
            std::thread::yield_now();
        }
    });
    let first = content(&*disks[0]);
    assert!(first.iter().any(|byte| *byte != 0));
    for disk in &disks[1..] {
        assert!(content(&**disk) == first, "the children differ");
    }
}
