//! One core's way to a simulated disk. Nothing begins before the doorbell rings.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use bdev::device::{Geometry, Limits};
use bdev::parts::parts;
use bdev::{Busy, Completion, Completions, Io, Operation, QueuePair, Status, legality};
use reactor::{Cx, Wake};

use super::gate::Party;
use super::image::Order;
use super::platter::{Answer, Command, Platter, QueueNumber, SharedPlatter};

/// An I/O that the disk has.
#[derive(Debug)]
struct Begun {
    io: Io,
    /// What was sent of it.
    sent: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct DiskQueuePair {
    platter: SharedPlatter,
    queue: QueueNumber,
    geometry: Geometry,
    limits: Limits,
    depth: u32,
    inflight: u32,
    names: u64,
    begun: BTreeMap<u64, Begun>,
    /// Submitted since the last doorbell.
    waiting: Vec<(Io, Order)>,
    /// Never begun: they were illegal, or aborted first.
    refused: Vec<Completion>,
}

impl DiskQueuePair {
    pub(super) fn open(
        (platter, party): (SharedPlatter, Party),
        geometry: Geometry,
        limits: Limits,
        depth: u32,
    ) -> DiskQueuePair {
        let queue = lock(&platter).open(party);
        let (waiting, refused) = (Vec::new(), Vec::new());
        let (inflight, names, begun) = (0, 0, BTreeMap::new());
        DiskQueuePair {
            platter,
            queue,
            geometry,
            limits,
            depth,
            inflight,
            names,
            begun,
            waiting,
            refused,
        }
    }

    fn end(&mut self, answer: Answer) -> Completion {
        let Begun { io, sent } = self.begun.remove(&answer.name).expect("it was begun here");
        assert!(content(&io) == sent, "memory has changed while the device had it: {io:?}");
        if !answer.data.is_empty() {
            put(&io, &answer.data);
        }
        Completion::new(io.token, answer.status)
    }
}

/// What an I/O's memory holds, where it is for the device to read.
fn content(io: &Io) -> Vec<u8> {
    let mut content = Vec::new();
    if io.operation != Operation::Read {
        for part in parts(&io.memory, 0, io.memory.len_bytes()) {
            let from = content.len();
            content.resize(from + part.len_bytes() as usize, 0);
            part.read(0, &mut content[from..]);
        }
    }
    content
}

fn put(io: &Io, data: &[u8]) {
    let mut from = 0;
    for part in parts(&io.memory, 0, data.len() as u64) {
        let len = part.len_bytes() as usize;
        part.write(0, &data[from..from + len]);
        from += len;
    }
}

pub(super) fn lock(platter: &SharedPlatter) -> MutexGuard<'_, Platter> {
    platter.lock().unwrap_or_else(PoisonError::into_inner)
}

impl QueuePair for DiskQueuePair {
    fn submit(&mut self, _: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.credits() == 0 {
            return Err(Busy);
        }
        self.inflight += 1;
        match legality::check(&io, &self.geometry, &self.limits) {
            Ok(()) => self.waiting.push((io, lock(&self.platter).order())),
            Err(status) => self.refused.push(Completion::new(io.token, status)),
        }
        Ok(())
    }

    fn flush(&mut self, _: &mut Cx) {
        if self.waiting.is_empty() {
            return;
        }
        let mut platter = lock(&self.platter);
        for (io, order) in self.waiting.drain(..) {
            self.names += 1;
            let (name, data) = (self.names, content(&io));
            let Io { operation, flags, blocks, lba, .. } = io;
            let (start, sent) = (lba.0, data.clone());
            self.begun.insert(name, Begun { io, sent });
            let command = Command { name, operation, flags, start, blocks, data, order };
            platter.begin(command, self.queue);
        }
    }

    fn poll(&mut self, _: &mut Cx, completions: &mut Completions) -> usize {
        let mut count = 0;
        while completions.room() > 0
            && let Some(completion) = self.refused.pop()
        {
            completions.push(completion);
            count += 1;
        }
        while completions.room() > 0 {
            let Some(answer) = lock(&self.platter).take_ended(self.queue) else { break };
            completions.push(self.end(answer));
            count += 1;
        }
        self.inflight -= u32::try_from(count).expect("no more than there are");
        count
    }

    fn credits(&self) -> u32 {
        self.depth - self.inflight
    }

    fn inflight(&self) -> u32 {
        self.inflight
    }

    fn abort_all(&mut self, _: &mut Cx) {
        let aborted = self.waiting.drain(..);
        let completion = |(io, _): (Io, Order)| Completion::new(io.token, Status::ABORT_REQUESTED);
        self.refused.extend(aborted.map(completion));
        lock(&self.platter).abort(self.queue);
    }

    fn wake(&self) -> Wake {
        let platter = lock(&self.platter);
        if !self.waiting.is_empty() || !self.refused.is_empty() || platter.has_ended(self.queue) {
            return Wake::Now;
        }
        platter.due(self.queue).map_or(Wake::Never, Wake::At)
    }

    fn arm(&mut self, _: &mut Cx) -> bool {
        self.refused.is_empty() && !lock(&self.platter).has_ended(self.queue)
    }
}

impl Drop for DiskQueuePair {
    fn drop(&mut self) {
        lock(&self.platter).close(self.queue);
    }
}
