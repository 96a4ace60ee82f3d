//! A device over a software controller without threads: each poll steps the controller and has the
//! supervisor look first. For the tests of this module.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use reactor::{Cx, Wake};

use super::queue_pair::PcieQueuePair;
use super::software::{Config, SoftwareController};
use super::supervisor::Supervisor;
use super::{Controller, Options, PcieDevice};
use crate::io::{Completion, Completions, Io};
use crate::queue_pair::{Busy, QueuePair};

/// A controller, its driver, and one queue pair.
#[derive(Debug)]
pub(super) struct Stepped {
    pub(super) software: SoftwareController,
    pub(super) controller: Arc<Controller>,
    pub(super) supervisor: Rc<RefCell<Option<Supervisor>>>,
    pub(super) queue_pair: Option<PcieQueuePair>,
}

impl Stepped {
    pub(super) fn open(cx: &mut Cx, config: Config, options: Options, depth: u32) -> Stepped {
        let software = SoftwareController::new(config);
        Stepped::over(cx, software, options, depth)
    }

    pub(super) fn over(
        cx: &mut Cx,
        software: SoftwareController,
        options: Options,
        depth: u32,
    ) -> Stepped {
        let attached = Controller::attach_stepped("software", software.platform(), options);
        let (controller, supervisor) = attached.unwrap();
        let controller = Arc::new(controller);
        let device = PcieDevice::new("software".into(), controller.clone(), 1).unwrap();
        let queue_pair = Some(device.open(cx, depth).unwrap());
        let supervisor = Rc::new(RefCell::new(Some(supervisor)));
        Stepped { software, controller, supervisor, queue_pair }
    }

    pub(super) fn queue_pair(&mut self) -> &mut PcieQueuePair {
        self.queue_pair.as_mut().unwrap()
    }

    /// Steps the controller until it has nothing to do, and has the supervisor look.
    pub(super) fn step(&mut self) {
        self.software.step();
        if let Some(supervisor) = &mut *self.supervisor.borrow_mut() {
            supervisor.serve();
        }
    }

    /// One pass of a core: doorbell, device, completions.
    pub(super) fn pass(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.queue_pair().flush(cx);
        self.step();
        self.queue_pair().poll(cx, completions)
    }

    /// Passes until everything in flight has ended, at most so many.
    pub(super) fn drain(&mut self, cx: &mut Cx, passes: usize) -> Vec<Completion> {
        let mut ended = Vec::new();
        let mut completions = Completions::new();
        for _ in 0..passes {
            if self.queue_pair().inflight() == 0 {
                break;
            }
            self.pass(cx, &mut completions);
            ended.extend(completions.drain());
        }
        ended
    }

    /// Shuts down.
    pub(super) fn finish(&mut self) {
        self.queue_pair = None;
        if let Some(supervisor) = self.supervisor.borrow_mut().take() {
            supervisor.finish();
        }
    }
}

impl QueuePair for Stepped {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        self.queue_pair().submit(cx, io)
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.queue_pair().flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.step();
        self.queue_pair().poll(cx, completions)
    }

    fn credits(&self) -> u32 {
        self.queue_pair.as_ref().unwrap().credits()
    }

    fn inflight(&self) -> u32 {
        self.queue_pair.as_ref().unwrap().inflight()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.queue_pair().abort_all(cx);
    }

    fn wake(&self) -> Wake {
        // The device of this test works only when it is stepped.
        match self.queue_pair.as_ref().unwrap().wake() {
            Wake::Never => Wake::Never,
            _ => Wake::Now,
        }
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.queue_pair().arm(cx)
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        self.finish();
    }
}
