//! The home core's own queue pairs on the children, for labels.
//!
//! Apart from those of the data path, so that a label is written when the volume's I/O has taken
//! every credit. A child's is opened when the first label goes there, and closed when none has for
//! a while where the volume's I/O is quicker without it.

use std::collections::VecDeque;
use std::sync::Arc;

use bdev::{BlockDevice, Busy, Completion, Completions, Io, QueuePair, Status};
use reactor::{Cx, Nanos, Wake};

use crate::child::{CHILDREN_MAX, ChildIndex};
use crate::mail::in_words;
use crate::truth::ControlIo;

/// I/Os of labels that a child can have at once.
pub const LABEL_DEPTH: u32 = 32;

/// A queue pair that had nothing for this long is closed, on a device that is best alone
/// ([`BlockDevice::is_best_alone`]): a RAM disk takes 60 instructions more for each write while
/// there is a second one. Rounds of marks are seconds apart.
pub const IDLE_BEFORE_CLOSE: Nanos = Nanos::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(crate) struct Ports {
    devices: [Option<Arc<dyn BlockDevice>>; CHILDREN_MAX],
    open: [Option<Box<dyn QueuePair>>; CHILDREN_MAX],
    /// When each had something last.
    used_at: [Nanos; CHILDREN_MAX],
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
            used_at: [Nanos(0); CHILDREN_MAX],
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
                if closes_at(&self.devices, &self.used_at, child).is_some_and(|at| cx.now() >= at) {
                    self.open[child.get()] = None;
                }
                continue;
            }
            self.used_at[child.get()] = cx.now();
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
        let open = ChildIndex::all().zip(&self.open);
        open.filter_map(|(child, port)| Some((child, port.as_ref()?)))
            .map(|(child, port)| match port.inflight() {
                0 => closes_at(&self.devices, &self.used_at, child).map_or(Wake::Never, Wake::At),
                _ => port.wake(),
            })
            .fold(Wake::Never, Wake::soonest)
    }

    pub(crate) fn arm(&mut self, cx: &mut Cx) -> bool {
        let mut busy = self.open.iter_mut().flatten().filter(|port| port.inflight() > 0);
        self.refused.is_empty() && busy.all(|port| port.arm(cx))
    }
}

/// When a queue pair is closed that has nothing; never where it is not in the way.
fn closes_at(
    devices: &[Option<Arc<dyn BlockDevice>>; CHILDREN_MAX],
    used_at: &[Nanos; CHILDREN_MAX],
    child: ChildIndex,
) -> Option<Nanos> {
    let device = devices[child.get()].as_ref()?;
    device.is_best_alone().then(|| used_at[child.get()] + IDLE_BEFORE_CLOSE)
}

impl ControlIo for Ports {
    fn submit(&mut self, cx: &mut Cx, child: ChildIndex, io: Io) -> Result<(), Busy> {
        self.used_at[child.get()] = cx.now();
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

#[cfg(test)]
mod tests {
    use bdev::{Geometry, Malloc, Token};
    use reactor::cx::test_context;

    use super::*;
    use crate::modest::Modest;

    #[test]
    fn a_queue_pair_that_is_in_the_way_is_closed_when_it_had_nothing_for_a_while() {
        let (mut cx, hand) = test_context();
        let geometry = Geometry { block_bytes: 512, blocks: 8 };
        let disk: Arc<dyn BlockDevice> = Arc::new(Malloc::new("disk", geometry, None).unwrap());
        let patient: Arc<dyn BlockDevice> = Arc::new(Modest::new(disk.clone()).0);
        let mut ports = Ports::new();
        let children = [0, 1].map(|place| ChildIndex::new(place).unwrap());
        for (child, device) in children.into_iter().zip([disk, patient]) {
            ports.place(child, Some(device));
            ports.submit(&mut cx, child, Io::flush(Token(1))).unwrap();
        }
        let is_open = |ports: &Ports| children.map(|child| ports.open[child.get()].is_some());
        let mut ended = 0;
        while ports.poll(&mut cx, |_, _, _| ended += 1) > 0 {}
        assert_eq!((ended, is_open(&ports)), (2, [true, true]));
        assert_eq!(ports.wake(), Wake::At(cx.now() + IDLE_BEFORE_CLOSE));
        hand.advance(Nanos(IDLE_BEFORE_CLOSE.0 - 1));
        cx.advance_clock();
        ports.poll(&mut cx, |_, _, _| unreachable!("nothing is in flight"));
        assert_eq!(is_open(&ports), [true, true]);
        hand.advance(Nanos(1));
        cx.advance_clock();
        ports.poll(&mut cx, |_, _, _| unreachable!("nothing is in flight"));
        assert_eq!(is_open(&ports), [false, true]);
        assert_eq!(ports.wake(), Wake::Never);
        ports.submit(&mut cx, children[0], Io::flush(Token(2))).unwrap();
        assert_eq!(is_open(&ports), [true, true]);
    }
}
