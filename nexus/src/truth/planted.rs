//! Deliberate breaches of single rules, for the tests that show that each is needed.
//!
//! A rule asks [`is`] where it is obeyed. Outside tests that is a constant `false`; in tests, and
//! with the feature `planted`, the thread that explores or simulates says which rule is broken.

/// A broken rule, named as in the explicit-state model that the rules come from.
///
/// Three of the model's variants cannot be planted: a label is always written as a whole from what
/// the owner knows, so it cannot carry a part of the maps, a copy without its mark, or data of an
/// epoch that it does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, feature = "planted")),
    expect(dead_code, reason = "asked about by name, planted in tests only")
)]
pub enum Bug {
    /// Held writes are acknowledged before the epoch is in force (rule 8).
    AckBeforeEpoch,
    /// An epoch counts once the survivors have it (rule 8).
    SurvivorsOnly,
    /// A tie is broken without the record, which is told later (rule 10).
    RecordAsync,
    /// A label that names only its holder is enough, though never settled (rule 14).
    SelfSetEnough,
    /// The newest label is taken without asking a quorum of the set before it (rule 2).
    NoPreviousQuorum,
    /// Replicas do not check the generation on writes (rule 1).
    NoGenerationCheck,
    /// Claiming one replica is enough (rule 2).
    LoneClaim,
    /// The new owner does not wait for the old one to stop reading (rule 5).
    NoLease,
    /// Replicas do not check the generation on reads, and there is no lease (rule 4).
    NoReadGeneration,
    /// Reads may overlap a write in flight (rule 21).
    ReadInFlight,
    /// After takeover a dirty region is read from any member (rule 23).
    ReadBeforeEqual,
    /// Readable once the differing member is given up, epoch not in force (rule 23).
    ReadEarlyShrink,
    /// No mark before data (rule 18).
    NoMark,
    /// The mark is kept on the first member only (rule 18).
    MarkOne,
    /// The mark is cleared while a write is in flight (rule 19).
    ClearEarly,
    /// The mark is cleared without a flush on every member (rule 19).
    ClearUnflushed,
    /// The missing map starts empty, not as a copy of the dirty map (rule 13).
    MissingEmpty,
    /// Rebuild ignores the returning replica's own dirty bits (rule 27).
    OwnDirtyIgnored,
    /// The target is labelled a member when rebuild starts (rule 26).
    MemberAtStart,
    /// Host writes are not sent to the target (rule 28).
    NoForward,
    /// Commands of the old session survive into the rebuild (rule 26).
    LateCommand,
    /// A failed growth falls back to the old epoch (rule 11).
    EpochWithdrawn,
    /// A cleanly closed lone replica is taken as current (rule 15).
    CleanIsCurrent,
    /// A replica that lost power may be the source (rule 25).
    AnySource,
    /// A child that restarted is taken back in the same epoch (rule 25).
    SilentRejoin,
    /// Those left out hear of an epoch before any new member (rule 9).
    OutsidersFirst,
    /// Survivors do not flush before they take an epoch (rule 9).
    NoFlushAtChange,
    /// A record that was emptied counts as one that knows of nothing newer (rules 2 and 16).
    EmptyRecordVotes,
    /// A record that was emptied accepts from whomever (rules 2 and 16).
    EmptyRecordAccepts,
}

#[cfg(not(any(test, feature = "planted")))]
pub(super) const fn is(_bug: Bug) -> bool {
    false
}

#[cfg(any(test, feature = "planted"))]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// True when this rule is broken on purpose.
#[cfg(any(test, feature = "planted"))]
pub(super) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Breaks one rule on this thread, or none.
#[cfg(any(test, feature = "planted"))]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// True when any rule is broken.
#[cfg(test)]
pub(super) fn any() -> bool {
    PLANTED.get().is_some()
}
