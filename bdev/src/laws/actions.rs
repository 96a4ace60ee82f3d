//! Random steps, in numbers that the harness fits to the device.

use proptest::prelude::*;

use crate::io::Operation;

/// One step of a sequence.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Submit an I/O.
    Submit(Sketch),
    /// Ring the doorbell.
    Flush,
    /// Poll with room for this many completions.
    Poll { room: usize },
    /// Let everything end.
    Drain,
    /// Ask for an end.
    Abort,
}

/// An I/O before it is fitted to a device.
#[derive(Clone, Debug)]
pub(super) struct Sketch {
    pub(super) operation: Operation,
    pub(super) lba: u64,
    /// Lengths are small mostly.
    pub(super) blocks: u32,
    /// Cuts of the memory into segments, anywhere.
    pub(super) cuts: Vec<u32>,
    /// How far the segments are rotated, so that memory does not ascend.
    pub(super) rotate: usize,
    pub(super) fua: bool,
    pub(super) accept_zeroes: bool,
    /// What is written, and by what a compare differs where it is to fail.
    pub(super) seed: u8,
    pub(super) comparing: Comparing,
    pub(super) fault: Fault,
}

/// What a compare is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparing {
    /// What is there.
    Same,
    /// The same but for one byte, somewhere.
    Different,
}

/// What is wrong with an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing; it is made to fit the limits.
    None,
    /// It may exceed the limits of a single I/O.
    LimitsIgnored,
    /// It ends this many blocks past the device.
    PastEnd(u32),
    /// It begins at the last number there is.
    Overflow,
    /// It has no blocks.
    NoBlocks,
    /// Its memory is a block too short, or there where none belongs.
    WrongLength,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => Just(Operation::Read),
        6 => Just(Operation::Write),
        1 => Just(Operation::Flush),
        2 => Just(Operation::WriteZeroes),
        2 => Just(Operation::Unmap),
        2 => Just(Operation::Compare),
        3 => Just(Operation::CompareAndWrite),
        2 => Just(Operation::Verify),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        24 => Just(Fault::None),
        3 => Just(Fault::LimitsIgnored),
        1 => (1_u32..4).prop_map(Fault::PastEnd),
        1 => Just(Fault::Overflow),
        1 => Just(Fault::NoBlocks),
        1 => Just(Fault::WrongLength),
    ]
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let place = (any::<u64>(), prop_oneof![4 => 1_u32..4, 2 => 1_u32..24, 1 => 1_u32..400]);
    let shape = (prop::collection::vec(any::<u32>(), 0..5), 0_usize..4);
    let comparing = prop_oneof![3 => Just(Comparing::Same), 1 => Just(Comparing::Different)];
    let content = (any::<u8>(), comparing, any::<bool>(), any::<bool>());
    (operation(), place, shape, content, fault()).prop_map(
        |(operation, (lba, blocks), (cuts, rotate), content, fault)| {
            let (seed, comparing, fua, accept_zeroes) = content;
            Sketch {
                operation,
                lba,
                blocks,
                cuts,
                rotate,
                fua,
                accept_zeroes,
                seed,
                comparing,
                fault,
            }
        },
    )
}

/// Sequences of up to `steps_max` steps.
pub(super) fn sequence(steps_max: usize) -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        12 => sketch().prop_map(Action::Submit),
        3 => Just(Action::Flush),
        4 => (0_usize..8).prop_map(|room| Action::Poll { room }),
        1 => Just(Action::Drain),
        1 => Just(Action::Abort),
    ];
    prop::collection::vec(action, 1..=steps_max)
}
