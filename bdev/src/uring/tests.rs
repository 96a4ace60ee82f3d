//! The laws over a core's ring, as each kernel would make it.

use super::*;
use crate::device::BlockDevice;
use crate::file::testing::{TestFile, drain, run};
use crate::io::{Completions, Io, Lba, Token};
use crate::queue_pair::QueuePair;
use crate::{laws, stack};
use core_ring::ENTRIES_PER_CALL;
use features::Naming;

const OPTIONS: laws::Options = laws::Options {
    keeps: laws::Keeps::Everything,
    verdict: crate::legality::check,
    depth: 8,
    cases: 16,
    steps_max: 80,
};

fn device(_: &mut Cx) -> Arc<dyn BlockDevice> {
    // Gone from its folder at once; open, it is a file like any other.
    Arc::new(Uring::new(TestFile::new(300 * 512).backing(512), None).unwrap())
}

#[test]
fn a_ring_keeps_the_laws() {
    laws::check(device, OPTIONS);
}

#[test]
fn a_ring_that_is_completed_by_emulation_and_splitting_keeps_the_laws() {
    laws::check(|cx| stack::complete(device(cx)), OPTIONS);
}

/// Stands on a kernel that has no more than `wanted`.
fn check_older(wanted: Features) {
    let (mut cx, _) = reactor::cx::test_context();
    let ring = core_ring::of_core(&mut cx, wanted).unwrap();
    assert_eq!(ring.borrow().had(), wanted, "this kernel has all that was asked for, and no more");
    let make = |_: &mut Cx| -> Arc<dyn BlockDevice> {
        Arc::new(Uring::with_features(TestFile::new(300 * 512).backing(512), wanted))
    };
    laws::check(make, laws::Options { cases: 8, ..OPTIONS });
}

#[test]
fn this_kernel_has_everything() {
    check_older(Features::BEST);
}

#[test]
fn without_deferred_task_work_a_ring_keeps_the_laws() {
    check_older(Features { task_work: TaskWork::Cooperative, ..Features::BEST });
}

#[test]
fn with_a_core_that_is_interrupted_a_ring_keeps_the_laws() {
    check_older(Features { task_work: TaskWork::Interrupting, ..Features::BEST });
}

#[test]
fn without_registered_files_a_ring_keeps_the_laws() {
    check_older(Features { files: Naming::Plain, ..Features::BEST });
}

#[test]
fn without_registered_memory_a_ring_keeps_the_laws() {
    check_older(Features { memory: Naming::Plain, ..Features::BEST });
}

#[test]
fn without_a_registered_ring_a_ring_keeps_the_laws() {
    check_older(Features { ring: Naming::Plain, ..Features::BEST });
}

#[test]
fn an_operator_is_told_of_an_older_kernel() {
    let about = |task_work| {
        let features = Features { task_work, ..Features::BEST };
        let device = Uring::with_features(TestFile::new(512).backing(512), features);
        device.about().unwrap()
    };
    assert!(about(TaskWork::Deferred).starts_with("io_uring, "));
    assert!(about(TaskWork::Cooperative).starts_with("io_uring (a kernel without deferred"));
    assert!(about(TaskWork::Interrupting).starts_with("io_uring (a kernel that interrupts"));
}

#[test]
fn a_core_has_one_ring() {
    let (mut cx, _) = reactor::cx::test_context();
    let one = core_ring::of_core(&mut cx, Features::BEST).unwrap();
    let two = core_ring::of_core(&mut cx, Features::BEST).unwrap();
    assert!(std::rc::Rc::ptr_eq(&one, &two));
}

/// Passes of a core over its files as a reactor makes them: submissions, then a flush and a poll of
/// each. Returns how many I/Os have ended.
fn passes(cx: &mut Cx, pairs: &mut [Box<dyn QueuePair>], count: u32) -> usize {
    let ring = core_ring::of_core(cx, Features::BEST).unwrap();
    let buffer = cx.dma.take(512).unwrap();
    let mut completions = Completions::new();
    let mut ended = 0;
    for pass in 0..count {
        let before = ring.borrow().entered();
        for queue_pair in &mut *pairs {
            while queue_pair.credits() > 0 {
                let read = Io::read(Lba(pass.into()), 1, buffer.segment(512), Token(0));
                queue_pair.submit(cx, read).unwrap();
            }
        }
        for queue_pair in &mut *pairs {
            queue_pair.flush(cx);
        }
        for queue_pair in &mut *pairs {
            ended += queue_pair.poll(cx, &mut completions);
            assert!(completions.drain().all(|one| one.status.is_success()));
        }
        let after = ring.borrow().entered();
        let submissions = after.submissions - before.submissions;
        let full = (after.entries - before.entries).div_ceil(ENTRIES_PER_CALL.into());
        assert_eq!(submissions, full, "no call hands over less than it may: {before:?}, {after:?}");
        // Beside them one a file, for what was deferred.
        let others = after.calls - before.calls - submissions;
        assert!(others <= pairs.len() as u64, "{before:?}, {after:?}");
    }
    for queue_pair in &mut *pairs {
        ended += drain(cx, &mut **queue_pair).len();
    }
    cx.dma.give(buffer);
    ended
}

#[test]
fn a_pass_under_load_enters_the_kernel_as_seldom_as_it_can() {
    let (mut cx, _) = reactor::cx::test_context();
    let file = device(&mut cx);
    let mut pairs = [file.open_queue_pair(&mut cx, 32).unwrap()];
    let ended = passes(&mut cx, &mut pairs, 300);
    assert!(ended >= 300, "{ended}");
}

#[test]
fn a_pass_over_several_files_hands_over_for_all_at_once() {
    let (mut cx, _) = reactor::cx::test_context();
    let files = [(); 3].map(|()| device(&mut cx));
    let mut pairs = files.map(|file| file.open_queue_pair(&mut cx, 8).unwrap());
    let ended = passes(&mut cx, &mut pairs, 300);
    assert!(ended >= 300, "{ended}");
}

#[test]
fn a_core_without_work_does_not_enter_the_kernel() {
    let (mut cx, _) = reactor::cx::test_context();
    let file = device(&mut cx);
    let mut queue_pair = file.open_queue_pair(&mut cx, 8).unwrap();
    assert!(run(&mut cx, &mut *queue_pair, Io::flush(Token(1))).is_success());
    let ring = core_ring::of_core(&mut cx, Features::BEST).unwrap();
    let before = ring.borrow().entered();
    assert!(before.calls > 0 && before.submissions == 1, "{before:?}");
    let mut completions = Completions::new();
    for _ in 0..1000 {
        queue_pair.flush(&mut cx);
        assert_eq!(queue_pair.poll(&mut cx, &mut completions), 0);
        ring.borrow_mut().turn();
    }
    assert_eq!(ring.borrow().entered(), before);
}

#[test]
fn where_rings_are_forbidden_aio_serves_and_says_why() {
    forbidden::without_rings(|| {
        let file = TestFile::new(8 * 512);
        let refused = Uring::probe().unwrap_err();
        assert!(Uring::new(file.backing(512), None).is_err());
        let device = crate::Aio::instead(&refused, file.backing(512)).unwrap();
        let about = device.about().unwrap();
        let why =
            "Linux AIO (the kernel offers no io_uring to this process: Operation not permitted";
        assert!(about.starts_with(why), "{about}");
        let (mut cx, _) = reactor::cx::test_context();
        let mut queue_pair = device.open_queue_pair(&mut cx, 4).unwrap();
        let flush = crate::Io::flush(crate::Token(1));
        assert!(run(&mut cx, &mut *queue_pair, flush).is_success());
    });
}
