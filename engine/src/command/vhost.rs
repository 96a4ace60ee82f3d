//! What can be asked of vhost devices: devices that virtual machines reach over a UNIX socket.
//!
//! A vhost device is named by the path of its socket. Any number of them may serve one device, and
//! namespaces may serve it as well.

use std::time::Duration;

use vhost_blk::session::GuestAccess;

use super::{CHANGE_WITHIN, LIST_WITHIN, REMOVE_WITHIN};

/// Queues of a vhost device unless told: as many as a guest of few processors uses.
pub const VHOST_QUEUES_DEFAULT: u16 = 4;

/// A change to vhost devices, or a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VhostCommand {
    /// Which there are; answered by [`super::Reply::Vhosts`].
    List,
    /// Serves a device on a socket; answered by [`super::Reply::Vhost`].
    Add(AddVhost),
    /// Ends that, and the session with the machine that has it; answered by
    /// [`super::Reply::Done`].
    Remove {
        /// Path of the socket.
        socket: String,
    },
}

/// What a vhost device is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddVhost {
    /// Path of the socket.
    pub socket: String,
    /// Name of the device that holds the blocks.
    pub device: String,
    /// Most queues, 1 to 64; none takes [`VHOST_QUEUES_DEFAULT`].
    pub queues: Option<u16>,
    /// Whether guests may write.
    pub access: GuestAccess,
}

/// A vhost device, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostInfo {
    /// Path of the socket.
    pub socket: String,
    /// Name of its device.
    pub device: String,
    /// Most queues.
    pub queues: u16,
    /// Whether guests may write.
    pub access: GuestAccess,
    /// A machine has it.
    pub is_connected: bool,
    /// What a guest or its machine did wrong last: it cost a queue, or the session.
    pub failure: Option<String>,
}

impl VhostCommand {
    /// How long the command may take, unless its sender says otherwise.
    pub fn within(&self) -> Duration {
        match self {
            VhostCommand::List => LIST_WITHIN,
            VhostCommand::Add(_) => CHANGE_WITHIN,
            VhostCommand::Remove { .. } => REMOVE_WITHIN,
        }
    }

    /// True for what only reads.
    pub fn is_question(&self) -> bool {
        matches!(self, VhostCommand::List)
    }
}
