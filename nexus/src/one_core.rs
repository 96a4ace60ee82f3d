//! A nexus served by a single core, with its home in its only queue pair.
//!
//! For the standalone target on one core, for the load generator, and for tests: nobody has to poll
//! [`Home`], as it is polled with the I/O. What happens while there is none waits for the next.

use std::sync::{Arc, Mutex, PoisonError};

use bdev::device::{BlockDevice, Geometry, Limits, OpenError};
use bdev::{Busy, Completions, Io, QueuePair};
use reactor::{Cx, Wake};
use uuid::Uuid;

use crate::home::Home;
use crate::nexus::Nexus;
use crate::truth::Truth;

/// Makes the truth of a nexus, on its home core.
pub type MakeTruth = Box<dyn FnOnce() -> Box<dyn Truth> + Send>;

/// See the module.
pub struct OneCore {
    nexus: Arc<Nexus>,
    /// Taken by the queue pair.
    truth: Mutex<Option<MakeTruth>>,
}

impl std::fmt::Debug for OneCore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OneCore").field("nexus", &self.nexus).finish_non_exhaustive()
    }
}

impl OneCore {
    /// Serves a nexus from the one core that opens it.
    pub fn new(nexus: Arc<Nexus>, truth: MakeTruth) -> OneCore {
        OneCore { nexus, truth: Mutex::new(Some(truth)) }
    }
}

impl BlockDevice for OneCore {
    fn name(&self) -> &str {
        self.nexus.name()
    }

    fn geometry(&self) -> Geometry {
        self.nexus.geometry()
    }

    fn limits(&self) -> Limits {
        self.nexus.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.nexus.uuid()
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let truth = self.truth.lock().unwrap_or_else(PoisonError::into_inner).take();
        let truth = truth.ok_or_else(|| OpenError::System {
            device: self.name().to_owned(),
            source: std::io::Error::new(
                std::io::ErrorKind::ResourceBusy,
                "it was opened already, and is for one core",
            ),
        })?;
        let mirror = self.nexus.open_queue_pair(cx, depth)?;
        let home = Home::new(self.nexus.clone(), cx, truth());
        Ok(Box::new(HostedMirror { home, mirror }))
    }
}

/// A mirror that polls its home.
#[derive(Debug)]
struct HostedMirror {
    home: Home,
    mirror: Box<dyn QueuePair>,
}

impl QueuePair for HostedMirror {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        self.mirror.submit(cx, io)
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.mirror.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        let count = self.mirror.poll(cx, completions);
        self.home.poll(cx);
        count
    }

    fn credits(&self) -> u32 {
        self.mirror.credits()
    }

    fn inflight(&self) -> u32 {
        self.mirror.inflight()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.mirror.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        match self.mirror.inflight() {
            0 => Wake::Never,
            _ => self.mirror.wake().soonest(self.home.wake()),
        }
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.mirror.arm(cx) && self.home.arm(cx)
    }
}
