//! Puts devices, reactors and front doors together: the only crate that knows them all.
//!
//! [`registry`] opens a device by its URI, [`config`] says what a target is to be, [`assembly`]
//! describes it, [`memory`] sees whether there is enough, [`engine`] starts and stops it.
//! Everything here runs on control threads and may allocate and wait; nothing prints, and nothing
//! is global to the process, so that the daemon, the load generator and tests use it alike.

#![forbid(unsafe_code)]

pub mod assembly;
pub mod command;
pub mod config;
pub mod engine;
pub mod memory;
pub mod portal;
pub mod registry;

pub use command::{Command, CommandError, ErrorKind, Reply};
pub use config::{ConfigError, TargetConfig};
pub use engine::{Engine, EngineError, StopError};
