//! Puts devices, reactors and front doors together: the only crate that knows them all.
//!
//! [`registry`] opens a device by its URI, [`config`] says what a target is to be, [`command`] is
//! every change that can be made to it, [`conductor`] carries those out, [`portal`] binds
//! addresses, [`memory`] sees whether there is enough, [`engine`] starts and stops it all.
//! Everything here runs on control threads and may allocate and wait; nothing prints, and nothing
//! is global to the process, so that the daemon, the load generator and tests use it alike.

#![forbid(unsafe_code)]

pub mod command;
pub mod conductor;
pub mod config;
mod core;
pub mod discovery_config;
pub mod engine;
mod export;
mod homes;
pub mod memory;
mod model;
mod numa;
pub mod portal;
pub mod record_command;
pub mod registry;
pub mod remote;

pub use command::{Command, CommandError, ErrorKind, Reply};
pub use conductor::{Conductor, ConductorOptions};
pub use config::{ConfigError, OneSubsystem, TargetConfig};
pub use engine::{Engine, EngineError, StopError};
