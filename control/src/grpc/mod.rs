//! The gRPC face of a running engine: package `mayastor.v1` on a UNIX socket and, when asked, a TCP
//! address.
//!
//! Main opens the [`Doors`] before anything else, so that a path or an address in use costs
//! nothing, and starts the [`Server`] when the engine runs. It has a tokio runtime of its own,
//! whose threads keep off the cores of the reactors where there are others. A request becomes one
//! [`engine::command::Command`]; whatever a field may be is decided there.
//!
//! There is no authentication: whoever may open the socket, or reach the TCP address, may do
//! everything.

mod connection;
mod deadline;
mod desk;
mod doors;
mod nexus;
mod refusal;
mod request;
mod response;
mod rule;
mod server;
mod services;
pub mod socket;

pub use connection::CONNECTIONS_MAX;
pub use desk::{CHANGES_MAX, Executor, QUESTIONS_MAX};
pub use doors::{Doors, DoorsError, GrpcOptions};
pub use server::{Server, ServerError};
