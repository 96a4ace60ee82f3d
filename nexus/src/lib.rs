//! The mirror: one volume over 1 to 16 devices, every acknowledged write on each member of it.
//!
//! # Parts, and who runs where
//!
//! * [`Nexus`] is a [`bdev::BlockDevice`], shared by the cores through an `Arc`. Front doors open a
//!   queue pair a core on it and need to know nothing else.
//! * [`MirrorQueuePair`] is the path of an I/O on one core: it owns a queue pair of each child and
//!   a fixed slab of I/Os in flight. It decides nothing about who is a member; it follows the
//!   [`view::View`] that the home core publishes.
//! * [`Home`] is what there is one of: child states, error counts, changes of members, rebuilds.
//!   The service of the volume's home core polls it in every pass, beside its queue pairs. With
//!   one core, [`OneCore`] polls it from the queue pair instead.
//! * [`truth::Truth`] is what decides who may be trusted: labels on the replicas, the control
//!   plane's record. [`Home`] asks it for changes, and lets nothing be acknowledged before it says
//!   that they are in force. [`truth::Untracked`] keeps no labels.
//!
//! # Between cores
//!
//! The home core publishes a new view under a version number; a core reads the number with a plain
//! load at each submit and poll and follows at once. It tells in its [`cell::Cell`] what it has
//! followed, and whether anything is in flight: an idle core needs not be asked, as it looks before
//! its next I/O. So a change reaches every core in two steps (stop using the child, then
//! acknowledge without it) and neither can be refused for want of room. What cores tell the home
//! core (a child that failed, an error) goes through [`mail::Mailbox`].
//!
//! # Laws of the mirror
//!
//! * A host's I/O completes only when no child can touch its memory any more: all of its tokens
//!   are back. A child that hangs is aborted, and releases: over a network by closing the
//!   connection, on a controller by a reset. Nothing is copied for that.
//! * A write that did not reach a member is held until that member is out, by the word of
//!   [`truth::Truth`]; then it is acknowledged, or sent to whoever is a member instead.
//! * Overlapping writes go one after the other, over all cores ([`range_table`] within a core,
//!   [`bdev::stripe_lock`] between cores). The answer of a read waits for every write that is in
//!   flight to its blocks when its data is there, so no block reads new and then old
//!   (replica-truth 21).
//! * A child that refuses an I/O without effect (range, reservation, capacity, comparison) must
//!   have changed nothing; that all of them refuse it is the host's affair and faults nobody.

mod cell;
pub mod child;
#[cfg(test)]
mod cluster;
pub mod config;
pub mod errors;
pub mod home;
pub mod intent;
mod mail;
mod meter;
pub mod mirror;
#[cfg(test)]
mod modest;
pub mod nexus;
pub mod one_core;
#[cfg(feature = "planted")]
pub mod planted;
#[cfg(not(feature = "planted"))]
mod planted;
mod published;
mod range_table;
pub mod rebuild;
#[cfg(test)]
mod reserved_disk;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod threads;
pub mod truth;
pub mod view;
#[cfg(test)]
mod volatile_disk;
#[cfg(test)]
mod watch;

pub use child::{ChildIndex, ChildSet, ChildState, FaultReason};
pub use config::{ChildConfig, ConfigError, Marking, NexusConfig, Standing};
pub use home::Home;
pub use mirror::MirrorQueuePair;
pub use nexus::Nexus;
pub use one_core::OneCore;
