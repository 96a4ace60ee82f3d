//! How a software controller misbehaves when told to.

use crate::nvme::status::Status;

/// One thing that goes wrong. All but the last five happen to the next I/O command that is fetched,
/// once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The command is never completed, unless it is aborted.
    Stuck,
    /// The command is never completed, aborted or not.
    StuckForGood,
    /// The command does nothing and ends with this.
    Status(Status),
    /// The command is done, and ends with this.
    DoneButStatus(Status),
    /// Its completion has the wrong phase: the driver sees none.
    WrongPhase,
    /// It is completed twice.
    Twice,
    /// A completion of this identifier comes before its own.
    UnknownId(u16),
    /// CSTS.CFS is set from now on, until a reset.
    Fatal,
    /// Every register reads as all ones from now on, and nothing more is done.
    Gone,
    /// It does not become ready again after the next reset.
    NeverReady,
    /// It does not stop when it is disabled, until the function is reset.
    NeverDisabled,
    /// It becomes not ready by itself.
    NotReady,
}
