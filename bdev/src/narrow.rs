//! A device that takes less than the one inside, for the tests of what makes up for that.
//!
//! Test code: it states other limits and refuses what is beyond them.

use std::sync::Arc;

use reactor::{Cx, Wake};

use crate::below::Below;
use crate::device::{BlockDevice, Geometry, Limits, OpenError};
use crate::io::{Completion, Completions, Io};
use crate::legality;
use crate::queue_pair::{Busy, QueuePair};
use crate::wrapper::Wrapper;

/// A device with limits put upon it.
#[derive(Debug)]
pub(crate) struct Narrow {
    inner: Arc<dyn BlockDevice>,
    limits: Limits,
}

impl Narrow {
    /// Wraps a device without limits of its own.
    pub(crate) fn new(inner: Arc<dyn BlockDevice>, limits: Limits) -> Narrow {
        Narrow { inner, limits }
    }
}

impl Wrapper for Narrow {
    fn inner(&self) -> &dyn BlockDevice {
        &*self.inner
    }

    fn outer_limits(&self) -> Limits {
        self.limits
    }

    fn open_wrapped(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let below = Below::new(self.inner.open_queue_pair(cx, depth)?, depth);
        let (geometry, limits) = (self.geometry(), self.limits);
        Ok(Box::new(NarrowQueuePair { below, geometry, limits }))
    }
}

#[derive(Debug)]
struct NarrowQueuePair {
    below: Below,
    geometry: Geometry,
    limits: Limits,
}

impl QueuePair for NarrowQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.credits() == 0 {
            return Err(Busy);
        }
        match legality::check(&io, &self.geometry, &self.limits) {
            Ok(()) => self.below.queue_pair.submit(cx, io),
            Err(status) => {
                self.below.push(Completion::new(io.token, status));
                Ok(())
            }
        }
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.below.queue_pair.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.below.poll(cx);
        while let Some(completion) = self.below.next_polled() {
            self.below.push(completion);
        }
        self.below.hand_up(completions)
    }

    fn credits(&self) -> u32 {
        self.below.queue_pair.credits().saturating_sub(self.below.ready())
    }

    fn inflight(&self) -> u32 {
        self.below.queue_pair.inflight() + self.below.ready()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.below.queue_pair.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        self.below.wake()
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.below.arm(cx)
    }
}
