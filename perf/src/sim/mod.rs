//! The simulator: the real mirror over simulated disks, driven by a seed, with everything that may
//! fail failing; and checkers that say what a history breaks.
//!
//! One thread and a virtual clock. [`plan`] draws from the seed what a run is made of, [`world`]
//! runs it, [`volume`] and [`register`] judge what the hosts saw. A run that breaks a law is
//! repeated exactly by its seed ([`run`]); [`trace`] hashes every event, so that this is checked.

pub mod command;
pub mod content;
pub mod contexts;
pub mod disk;
pub mod network;
pub mod plan;
pub mod process;
pub mod record;
pub mod register;
pub mod run;
pub mod server;
pub mod trace;
pub mod violation;
pub mod volume;
pub mod world;

pub use contexts::Contexts;
pub use disk::Check;
pub use plan::{Mode, Ownership, Truthfulness, Wiring};
pub use run::{Outcome, run_seed};
pub use trace::Lines;
pub use violation::Violation;
