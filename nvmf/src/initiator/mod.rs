//! The NVMe/TCP initiator: namespaces of a remote target as queue pairs of this host.
//!
//! [`Connector`] connects to a subsystem without ever blocking its core and ends in a
//! [`RemoteNamespace`]: one [`InitiatorQueuePair`] a connection, and the [`RemoteController`] that
//! keeps the association alive. Everything belongs to the core that started it. Beneath:
//! [`queue`] pairs commands with completions, [`connection`] is one TCP stream, [`outgoing`] and
//! [`incoming`] its two directions. NVMe/TCP Transport 1.0, NVMe Base 2.0.
//!
//! Nothing here knows a kernel's socket. A stream is what the core's network gives for an address
//! ([`reactor::socket::Network::connect`], a `dyn` [`reactor::socket::Socket`] with receive, send
//! and the result of connecting, closed by dropping it), readiness comes through the context's
//! `device_readiness`, time and chance through the context. So the same code runs over a simulated
//! network: give `Cx` another network, note its reports, and poll; of a whole device, the queue
//! pairs on their cores and the supervisor of [`remote::RemoteDevice::open_stepped`] on its own.
//!
//! [`discovery`] finds out at which addresses a subsystem is. Reconnecting, command timeouts and
//! asymmetric access are the business of the layer above, [`remote`], which makes a block device
//! of it all.

mod connect;
mod connection;
mod controller;
pub mod discovery;
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
pub use options::{ConnectOptions, IO_QUEUES_MAX, OptionsError, resolve};
pub use queue_pair::{InitiatorQueuePair, NamespaceView, UnmapCommand};

#[cfg(test)]
mod tests;
