//! The NVMe/TCP initiator: namespaces of a remote target as queue pairs of this host.
//!
//! [`Connector`] connects to a subsystem without ever blocking its core and ends in a
//! [`RemoteNamespace`]: one [`InitiatorQueuePair`] a connection, and the [`RemoteController`] that
//! keeps the association alive. Everything belongs to the core that started it. Beneath:
//! [`queue`] pairs commands with completions, [`connection`] is one TCP stream, [`outgoing`] and
//! [`incoming`] its two directions. NVMe/TCP Transport 1.0, NVMe Base 2.0.
//!
//! Reconnecting, command timeouts and asymmetric access are the business of the layer above,
//! [`remote`], which makes a block device of it all.

mod connect;
mod connection;
mod controller;
mod error;
mod incoming;
mod join;
mod namespace;
mod options;
mod outgoing;
mod queue;
mod queue_pair;
pub mod remote;
mod request;
mod segments;

pub use connect::{Connector, Progress, RemoteNamespace};
pub use controller::{ControllerIdentity, INSTANCE_BYTES, Instance, RemoteController};
pub use error::{ConnectError, ConnectionError};
pub use options::{ConnectOptions, IO_QUEUES_MAX, OptionsError};
pub use queue_pair::{InitiatorQueuePair, NamespaceView, UnmapCommand};

#[cfg(test)]
mod tests;
