//! What a run can find.

use bdev::{Operation, Status, Token};
use nexus::ChildState;

use super::content::Stamp;
use super::register::Impossible;

/// A law that a run has broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// What was read from a block cannot have been there.
    #[error("block {block}: {source}")]
    History {
        /// Which.
        block: u64,
        /// Why not.
        source: Impossible,
    },
    /// A read returned what no write has written: another block's data, or parts of two.
    #[error("block {block} was read as what nobody has written")]
    Garbage {
        /// Which.
        block: u64,
    },
    /// A write was acknowledged that a member has not done.
    #[error("block {block}: {stamp:?} was acknowledged, and member {disk} has never had it")]
    NotOnMember {
        /// Which block.
        block: u64,
        /// Which write.
        stamp: Stamp,
        /// Which disk.
        disk: u64,
    },
    /// Members hold different data when nothing is in flight.
    #[error("block {block}: member {disk} holds {found:?} and the host reads {read:?}")]
    Differs {
        /// Which.
        block: u64,
        /// The member.
        disk: u64,
        /// Its data.
        found: Option<Stamp>,
        /// What the host read.
        read: Option<Stamp>,
    },
    /// A completion whose I/O has ended already, or never was.
    #[error("token {0:?} came back, and was not in flight")]
    UnknownToken(Token),
    /// An error that the volume should have kept from the host.
    #[error("{operation:?} failed with {status:?}, and a member without faults was there")]
    HostSawError {
        /// What.
        operation: Operation,
        /// How.
        status: Status,
    },
    /// A child is out that has done nothing wrong.
    #[error("disk {disk} is {state:?}, and nothing was wrong with it")]
    OutWithoutCause {
        /// Which.
        disk: u64,
        /// How it is.
        state: ChildState,
    },
    /// A host waited too long, though a member without faults was there.
    #[error("{operation:?} took {time:?}, and a member without faults was there")]
    TooSlow {
        /// What.
        operation: Operation,
        /// How long.
        time: std::time::Duration,
    },
    /// Something never ends although nothing goes wrong any more.
    #[error("it never ends: {0}")]
    Stuck(String),
    /// Something was not given back.
    #[error("not given back: {0}")]
    Leak(String),
    /// A comparison of the members did not find just what was damaged behind its back.
    #[error("a comparison found {found} different blocks where {damaged:?} was damaged")]
    Compared {
        /// The block, if there was one.
        damaged: Option<u64>,
        /// What it counted.
        found: u64,
    },
    /// The code itself gave up.
    #[error("it panicked: {0}")]
    Panicked(String),
}
