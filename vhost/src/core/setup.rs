//! What a session tells a core of a ring, and what the core tells of it in the end.
//!
//! Plain values that cross from the session's control thread to the core and back.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use bdev::{BlockDevice, OpenError};

use super::signal::EventFd;
use crate::block::{CacheMode, Features, Rules};
use crate::virtqueue::{Inflight, QueueError, Ring};

/// Rings that a core can have.
pub const RINGS_PER_CORE_MAX: usize = 1024;

/// A number that no other vhost device of the process ever had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceKey(pub u64);

/// Names a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingKey {
    /// Its device.
    pub device: DeviceKey,
    /// Its number there.
    pub queue: u16,
}

/// A ring that is to be served.
#[derive(Debug)]
pub struct RingSetup {
    /// Its parts in memory.
    pub ring: Ring,
    /// Where it goes on.
    pub next_available: u16,
    /// Where it is kept what is under way, if the front end has a place for that.
    pub inflight: Option<Inflight>,
    /// What holds its blocks.
    pub device: Arc<dyn BlockDevice>,
    /// What requests are judged by.
    pub rules: Rules,
    /// Whether writes may wait for a flush.
    pub cache: Arc<CacheMode>,
    /// Fires when the driver kicks; without one the core never sleeps.
    pub kick: Option<OwnedFd>,
    /// Calls the driver.
    pub call: Option<EventFd>,
    /// Told when the driver breaks the protocol.
    pub error: Option<EventFd>,
}

impl RingSetup {
    /// What was negotiated.
    pub fn features(&self) -> Features {
        self.rules.features
    }
}

/// Why a ring could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The device refused.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The core has too many.
    #[error("a core serves at most {RINGS_PER_CORE_MAX} rings")]
    TooMany,
    /// The system does not watch its kicks.
    #[error("cannot watch the kicks of a ring")]
    Watch(#[source] std::io::Error),
    /// The ring is still there from before: its requests do not come back from the device.
    #[error("requests of the ring have not come back from its device")]
    Stuck,
    /// The core is ending.
    #[error("the core is ending")]
    Ending,
}

/// How far a ring came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The ring.
    pub key: RingKey,
    /// Where it would go on.
    pub next_available: u16,
    /// What the driver did wrong, if it did.
    pub failure: Option<RingFailure>,
}

/// Why a ring was given up: the driver broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFailure {
    /// The ring itself.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A request in it.
    #[error(transparent)]
    Request(#[from] crate::block::NoStatus),
}

/// Where a core tells that a ring has stopped.
pub type StoppedSender = Sender<Stopped>;
