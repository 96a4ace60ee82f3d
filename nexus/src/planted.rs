//! Deliberate breaches of single rules of the data path, for the simulator to find.
//!
//! The path asks [`is`] where a rule is obeyed. Without the feature `planted`, which only tests
//! turn on, that is a constant `false` and costs nothing; with it, the thread that simulates says
//! which rule is broken. The rules of labels and owners have their own in [`crate::truth`], which
//! are explored there, one by one; with the feature the simulator may break them too.

#[cfg(feature = "planted")]
pub use crate::truth::planted::{Bug as LabelBug, plant as plant_label};

/// A broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Writes of several cores to one range are not kept apart.
    NoOrderBetweenCores,
    /// A write is acknowledged though a member lacks it that is not out yet.
    AckBeforeOut,
    /// A child that takes no more I/Os for the moment is taken for one that failed.
    BusyIsFailed,
    /// A read may show a write that is in flight.
    ReadInFlight,
    /// A read that failed on one child is not tried on another.
    NotTriedElsewhere,
    /// A child that does not answer is waited for without end.
    NoTimeout,
    /// A rebuild target is read.
    TargetIsRead,
    /// Hosts' writes do not go to a rebuild target.
    TargetIsNotWritten,
    /// Copies of a rebuild and writes to the same range are not kept apart.
    CopyWithoutOrder,
    /// A device that was restarted is used on as if it had lost nothing.
    RestartUnnoticed,
}

/// Every one of them.
#[cfg(feature = "planted")]
pub const ALL: [Bug; 10] = [
    Bug::NoOrderBetweenCores,
    Bug::AckBeforeOut,
    Bug::BusyIsFailed,
    Bug::ReadInFlight,
    Bug::NotTriedElsewhere,
    Bug::NoTimeout,
    Bug::TargetIsRead,
    Bug::TargetIsNotWritten,
    Bug::CopyWithoutOrder,
    Bug::RestartUnnoticed,
];

#[cfg(not(feature = "planted"))]
#[inline(always)]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// True when this rule is broken on purpose.
#[cfg(feature = "planted")]
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Breaks one rule on this thread, or none.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
