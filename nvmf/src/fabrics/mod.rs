//! What exists only over fabrics: its commands, NVMe qualified names and the discovery log.
//!
//! Used by target and initiator on the core of the connection, at connection set-up and on the
//! admin queue, never on the path of an I/O. Plain data without allocation. Governed by NVMe Base
//! Specification 2.0, chapter 6 (fabrics command set), section 4.5 (names), section 5.16.1.23
//! (discovery log).

pub mod command;
pub mod connect;
pub mod discovery;
pub mod nqn;

pub use command::{DisconnectCommand, PropertyCommand, PropertySize};
pub use connect::{ConnectCommand, ConnectData};
pub use discovery::{DiscoveryEntry, DiscoveryHeader};
pub use nqn::{Nqn, NqnError};
