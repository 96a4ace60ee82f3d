//! What can go wrong between this host and a target, in words that say what to do about it.
//!
//! [`ConnectionError`] ends one TCP connection, [`ConnectError`] the attempt to connect to a
//! subsystem. Neither is ever a status of an I/O: what was in flight completes with a path status.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bdev::Status;

use super::options::OptionsError;
use crate::pdu::TermReason;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The attempt to connect failed, or nobody listens.
    #[error("connection refused: check that the target runs and listens on this port")]
    Refused,
    /// The stream ended, or broke.
    #[error("the target closed the connection")]
    Closed,
    /// The target sent a termination request.
    #[error("the target found a fault in what this host sent: {0}")]
    Terminated(TermReason),
    /// The target sent something that the specification forbids; it was told.
    #[error("the target broke the NVMe/TCP protocol: {0}")]
    Protocol(TermReason),
    /// A malformed termination request.
    #[error("the target sent a malformed termination request")]
    MalformedTermination,
    /// The digest over the data of a command is wrong.
    #[error("the data digest of command {command_id:#06x} is wrong: the network corrupts data")]
    DataDigest {
        /// The command's identifier.
        command_id: u16,
    },
    /// A PDU names a command that is not in flight: late, doubled or made up.
    #[error("the target named command {command_id:#06x}, which is not in flight")]
    UnknownCommand {
        /// The identifier.
        command_id: u16,
    },
    /// A PDU moves data that its command did not ask to be moved this way.
    #[error("the target sent a data PDU for command {command_id:#06x} out of its turn")]
    UnexpectedData {
        /// The command's identifier.
        command_id: u16,
    },
    /// A read was said to have succeeded and did not bring all of its data.
    #[error("command {command_id:#06x} succeeded without all of its data")]
    MissingData {
        /// The command's identifier.
        command_id: u16,
    },
    /// A keep alive was not answered.
    #[error("the target no longer answers keep alives")]
    TimedOut,
    /// The host itself closed it.
    #[error("closed by this host")]
    Aborted,
}

/// Why a subsystem could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The options make no sense.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The core has no more sockets for devices.
    #[error("this core has as many device sockets open as it can")]
    TooManySockets,
    /// The core has no DMA memory for the replies.
    #[error("no DMA memory left for connecting: give the core a larger pool")]
    OutOfMemory,
    /// The system refused to start a connection.
    #[error("cannot start a connection to {address}")]
    Socket {
        /// Where to.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A connection ended while the subsystem was being connected.
    #[error("connecting to {address} failed while {step}")]
    Connection {
        /// Where to.
        address: SocketAddr,
        /// What was being done.
        step: &'static str,
        /// What happened.
        #[source]
        source: ConnectionError,
    },
    /// The target has no subsystem of this name.
    #[error("{address} has no subsystem {subsystem_nqn}: check the NQN")]
    UnknownSubsystem {
        /// Where to.
        address: SocketAddr,
        /// The name asked for.
        subsystem_nqn: String,
    },
    /// The subsystem does not let this host in.
    #[error("{subsystem_nqn} does not allow host {host_nqn}: add it to the target's allow-list")]
    HostNotAllowed {
        /// The name asked for.
        subsystem_nqn: String,
        /// This host's name.
        host_nqn: String,
    },
    /// The target wants authentication, which is not built.
    #[error("the target asks for authentication, which this initiator does not do")]
    AuthenticationRequired,
    /// A command of the procedure was refused.
    #[error("the target refused {step}: {status}")]
    Refused {
        /// What was being done.
        step: &'static str,
        /// Its answer.
        status: Status,
    },
    /// The target took too long.
    #[error("no answer from {address} within {timeout:?} while {step}: is it reachable?")]
    TimedOut {
        /// Where to.
        address: SocketAddr,
        /// What was being done.
        step: &'static str,
        /// The limit.
        timeout: Duration,
    },
    /// The controller reports a fatal error in its status.
    #[error("the controller reports a fatal status (CSTS.CFS): restart the target")]
    ControllerFatal,
    /// The subsystem has no namespace that can be used.
    #[error("{subsystem_nqn} has no active namespace: add one at the target")]
    NoNamespace {
        /// The name asked for.
        subsystem_nqn: String,
    },
    /// No discovery controller that was asked knows the subsystem.
    #[error(
        "none of {asked} discovery controllers knows {subsystem_nqn}, or how to reach it by TCP"
    )]
    NotDiscovered {
        /// The name asked for.
        subsystem_nqn: String,
        /// How many answered.
        asked: usize,
    },
    /// A discovery log changed each time while it was read, or makes no sense.
    #[error("the discovery log of {address} cannot be read: {reason}")]
    UnreadableLog {
        /// Whose.
        address: SocketAddr,
        /// Why not.
        reason: &'static str,
    },
    /// The namespace's format is not one that this initiator can use.
    #[error("namespace {namespace_id} has a format that cannot be used: {reason}")]
    UnusableFormat {
        /// Which.
        namespace_id: u32,
        /// Why not.
        reason: &'static str,
    },
}
