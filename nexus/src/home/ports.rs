//! The home core's own queue pairs on the children, for labels.
//!
//! Apart from those of the data path, so that a label is written when the volume's I/O has taken
//! every credit. A child's is opened when the first label goes there.

use std::collections::VecDeque;
use std::sync::Arc;

use bdev::{BlockDevice, Busy, Completion, Completions, Io, QueuePair, Status};
use reactor::{Cx, Wake};

use crate::child::{CHILDREN_MAX, ChildIndex};
use crate::mail::in_words;
use crate::truth::ControlIo;

/// I/Os of labels that a child can have at once.
pub const LABEL_DEPTH: u32 = 32;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ports {
    devices: [Option<Arc<dyn BlockDevice>>; CHILDREN_MAX],
    open: [Option<Box<dyn QueuePair>>; CHILDREN_MAX],
    /// What devices said that could not be opened.
    words: [Option<String>; CHILDREN_MAX],
    /// Refused because the child is not there, or cannot be opened.
    refused: VecDeque<(ChildIndex, Completion)>,
    polled: Completions,
}

impl Ports {
    pub(crate) fn new() -> Ports {
        Ports {
            devices: [const { None }; CHILDREN_MAX],
            open: [const { None }; CHILDREN_MAX],
            words: [const { None }; CHILDREN_MAX],
            refused: VecDeque::with_capacity(LABEL_DEPTH as usize),
            polled: Completions::new(),
        }
    }

    /// Puts a child's device, label area included, into its place, or takes it away. What is in
    /// flight at the one before has ended.
    pub(crate) fn place(&mut self, child: ChildIndex, device: Option<Arc<dyn BlockDevice>>) {
        self.devices[child.get()] = device;
        self.open[child.get()] = None;
        self.words[child.get()] = None;
    }

    /// What a child's device said when it could not be opened.
    pub(super) fn words(&self, child: ChildIndex) -> Option<&String> {
        self.words[child.get()].as_ref()
    }

    /// True when nothing of a child's is in flight here.
    pub(super) fn is_still(&self, child: ChildIndex) -> bool {
        self.open[child.get()].as_ref().is_none_or(|port| port.inflight() == 0)
    }

    /// Hands up what has ended; returns how much that was.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Cx,
        mut each: impl FnMut(&mut Cx, ChildIndex, Completion),
    ) -> usize {
        let mut count = 0;
        while let Some((child, completion)) = self.refused.pop_front() {
            each(cx, child, completion);
            count += 1;
        }
        for child in ChildIndex::all() {
            let Some(port) = &mut self.open[child.get()] else { continue };
            port.flush(cx);
            if port.inflight() == 0 {
                continue;
            }
            port.poll(cx, &mut self.polled);
            for completion in self.polled.drain() {
                each(cx, child, completion);
                count += 1;
            }
        }
        count
    }

    pub(crate) fn wake(&self) -> Wake {
        if !self.refused.is_empty() {
            return Wake::Now;
        }
        let busy = self.open.iter().flatten().filter(|port| port.inflight() > 0);
        busy.fold(Wake::Never, |wake, port| wake.soonest(port.wake()))
    }

    pub(crate) fn arm(&mut self, cx: &mut Cx) -> bool {
        let mut busy = self.open.iter_mut().flatten().filter(|port| port.inflight() > 0);
        self.refused.is_empty() && busy.all(|port| port.arm(cx))
    }
}

impl ControlIo for Ports {
    fn submit(&mut self, cx: &mut Cx, child: ChildIndex, io: Io) -> Result<(), Busy> {
        let open = &mut self.open[child.get()];
        if let (None, Some(device)) = (&open, &self.devices[child.get()]) {
            let opened = device.open_queue_pair(cx, LABEL_DEPTH);
            self.words[child.get()] = opened.as_ref().err().map(in_words);
            *open = opened.ok();
        }
        match open {
            Some(port) => port.submit(cx, io),
            None if self.refused.len() < LABEL_DEPTH as usize => {
                let status = Status::INTERNAL_PATH_ERROR;
                self.refused.push_back((child, Completion::new(io.token, status)));
                Ok(())
            }
            None => Err(Busy),
        }
    }

    fn abort(&mut self, cx: &mut Cx, child: ChildIndex) {
        if let Some(port) = &mut self.open[child.get()] {
            port.abort_all(cx);
        }
    }
}
