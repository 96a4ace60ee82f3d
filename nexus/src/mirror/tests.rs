//! The laws of queue pairs over mirrors of every kind.

use std::sync::Arc;

use bdev::fault::Failure;
use bdev::laws::{self, Options};
use bdev::{BlockDevice, Operation, OperationSet, Status};

use crate::testing::{disk, faulty, one_core, slow};

fn check(cases: u32, make: impl Fn() -> Vec<Arc<dyn BlockDevice>>) {
    laws::check(|_| one_core(make()), Options { cases, ..Options::default() });
}

#[test]
fn mirrors_of_one_two_three_and_sixteen_keep_the_laws() {
    for count in [1, 2, 3] {
        check(48, || (0..count).map(|_| disk()).collect());
    }
    check(12, || (0..16).map(|_| disk()).collect());
}

#[test]
fn a_mirror_of_children_that_answer_at_different_times_keeps_the_laws() {
    check(48, || vec![disk(), slow(1), slow(2)]);
}

#[test]
fn a_mirror_whose_children_fail_but_for_one_keeps_the_laws() {
    let broken = |seed, operations, failure| faulty(slow(seed), operations, 0.2, failure, seed);
    check(64, || {
        let fault = Status::INTERNAL_PATH_ERROR;
        vec![
            broken(1, OperationSet::ALL, Failure::Before(fault)),
            disk(),
            broken(2, OperationSet::ALL, Failure::After(fault)),
        ]
    });
}

#[test]
fn a_mirror_with_reads_that_fail_here_and_there_keeps_the_laws() {
    let reads = OperationSet::ALL
        .without(Operation::Write)
        .without(Operation::Flush)
        .without(Operation::WriteZeroes)
        .without(Operation::Unmap);
    let fault = Failure::Before(Status::UNRECOVERED_READ_ERROR);
    check(48, || vec![faulty(disk(), reads, 0.3, fault, 3), disk()]);
}

#[test]
fn a_mirror_in_which_one_child_refuses_what_the_others_do_keeps_the_laws() {
    let refusal = Failure::Before(Status::CAPACITY_EXCEEDED);
    check(48, || vec![disk(), faulty(slow(4), OperationSet::ALL, 0.1, refusal, 4), disk()]);
}
