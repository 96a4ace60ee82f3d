//! What happens to a remote device beside its I/O, for the engine to take and an operator to read.

use std::fmt;

use bdev::nvme::log_page::AnaState;
use bdev::session::Continuity;

use super::super::error::{ConnectError, ConnectionError};

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// The admin connection ended.
    Admin(ConnectionError),
    /// The connection of an I/O queue ended.
    Io(ConnectionError),
    /// An I/O queue could not join the controller.
    Join,
    /// An I/O did not end in time, nor when it was aborted.
    IoTimeout,
    /// The layer above gave up its I/O.
    Aborted,
    /// The namespace was changed; what it is now is found out by connecting anew.
    NamespaceChanged,
    /// The admin queue did not do what every controller does.
    Misbehaved,
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LossReason::Admin(error) => write!(f, "admin queue: {error}"),
            LossReason::Io(error) => write!(f, "I/O queue: {error}"),
            LossReason::Join => f.write_str("an I/O queue could not join the controller"),
            LossReason::IoTimeout => f.write_str("an I/O did not end in time"),
            LossReason::Aborted => f.write_str("I/O was given up by this host"),
            LossReason::NamespaceChanged => f.write_str("the namespace was changed"),
            LossReason::Misbehaved => f.write_str("the target lost a command"),
        }
    }
}

/// Why what answers is not the device that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Its UUID or NGUID is another.
    Identity,
    /// Its blocks have another size.
    BlockSize,
    /// It has fewer blocks.
    Smaller,
    /// It takes less in one command, or fewer commands.
    Limits,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mismatch::Identity => "another namespace answers under this name",
            Mismatch::BlockSize => "its blocks have another size",
            Mismatch::Smaller => "it has fewer blocks than before",
            Mismatch::Limits => "it takes less in one command than before",
        })
    }
}

/// Something that happened to a remote device.
#[derive(Debug)]
pub enum RemoteEvent {
    /// It is connected, under this number of session.
    Connected {
        /// The session.
        session: u64,
        /// Whether what was not flushed may be lost.
        continuity: Continuity,
    },
    /// Its session has ended.
    Lost(LossReason),
    /// An attempt to connect anew failed; there will be another.
    Failed(ConnectError),
    /// What answers is not what was opened; there will be another attempt.
    Refused(Mismatch),
    /// The target says how good this way to it is.
    Access(AnaState),
    /// It has grown.
    Resized {
        /// To so many blocks.
        blocks: u64,
    },
    /// An I/O is late, and was aborted.
    Aborted {
        /// On which queue.
        queue_id: u16,
    },
}

impl fmt::Display for RemoteEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RemoteEvent::Connected { session, continuity: Continuity::Kept } => {
                write!(f, "connected, session {session}")
            }
            RemoteEvent::Connected { session, continuity: Continuity::Restarted } => {
                write!(f, "connected to a restarted target, session {session}")
            }
            RemoteEvent::Lost(reason) => write!(f, "lost: {reason}"),
            RemoteEvent::Failed(error) => write!(f, "cannot connect: {error}"),
            RemoteEvent::Refused(mismatch) => write!(f, "refused: {mismatch}"),
            RemoteEvent::Access(state) => write!(f, "access is {state:?}"),
            RemoteEvent::Resized { blocks } => write!(f, "has {blocks} blocks now"),
            RemoteEvent::Aborted { queue_id } => write!(f, "aborted a late I/O, queue {queue_id}"),
        }
    }
}
