//! The virtio block device: features, configuration, requests (virtio 1.2 section 5.2).
//!
//! Plain judgement over numbers and segments; rings and sockets are elsewhere.

pub mod config;
pub mod feature;
mod memory;
pub mod request;

pub use config::{BlockConfig, CacheMode};
pub use feature::Features;
pub use request::{BlockStatus, NoStatus, Plan, Request, Rules};
