//! Where the load's queue pairs come from: a device in this process, or a target over NVMe/TCP.
//!
//! Belongs to the load's core. Opening goes on pass by pass, because a connection must not block
//! its core.

use std::sync::Arc;

use bdev::{BlockDevice, Geometry, QueuePair};
use reactor::{Cx, Wake};

use crate::harness::RunError;

/// What to open on the core.
#[derive(Debug)]
pub enum Source {
    /// A device of this process.
    Local(Arc<dyn BlockDevice>),
}

/// What was opened.
#[derive(Debug)]
pub struct Opened {
    /// Size of the device and of its blocks.
    pub geometry: Geometry,
    /// As many as were asked for.
    pub queue_pairs: Vec<Box<dyn QueuePair>>,
}

impl Source {
    /// Goes on with opening; none until it is done.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn poll_open(
        &mut self,
        cx: &mut Cx,
        connections: u32,
        depth: u32,
    ) -> Result<Option<Opened>, RunError> {
        match self {
            Source::Local(device) => {
                let queue_pairs = (0..connections)
                    .map(|_| device.open_queue_pair(cx, depth))
                    .collect::<Result<_, _>>()?;
                Ok(Some(Opened { geometry: device.geometry(), queue_pairs }))
            }
        }
    }

    /// Keeps what is behind the queue pairs alive; once a pass.
    pub fn poll(&mut self, _: &mut Cx) {
        match self {
            Source::Local(_) => {}
        }
    }

    /// When it must be polled next.
    pub fn wake(&self) -> Wake {
        match self {
            Source::Local(_) => Wake::Never,
        }
    }

    /// False when there is something that no poll has seen.
    pub fn arm(&mut self, _: &mut Cx) -> bool {
        match self {
            Source::Local(_) => true,
        }
    }
}
