//! Messages between cores: a single-producer ring for every ordered pair of cores.
//!
//! Built once by whoever starts the reactors; each core's service owns its [`Peers`]. What is sent
//! in a pass is published, and sleeping receivers are woken, once at its end. A full ring is told
//! to the sender, who keeps the message: nothing waits and nothing is lost.

use std::collections::VecDeque;

use crate::sleep::Waker;
use crate::spsc::{Consumer, Producer, ring};

/// Messages that a core can have under way to one other core.
pub const MESSAGES_PER_PAIR: usize = 1024;

/// Index of a core among those that were started together, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoreIndex(pub u16);

/// The ring to, and the waker of, another core.
#[derive(Debug)]
struct Outgoing<M> {
    ring: Producer<M>,
    waker: Waker,
    unpublished: bool,
}

/// One core's ends of all its rings.
#[derive(Debug)]
pub struct Peers<M> {
    own: CoreIndex,
    outgoing: Vec<Option<Outgoing<M>>>,
    incoming: Vec<Option<Consumer<M>>>,
    /// Messages of the core to itself, so that callers need not tell the cases apart.
    local: VecDeque<M>,
    next: usize,
}

/// Connects as many cores as there are wakers, each with each.
pub fn connect<M: Send>(wakers: &[Waker]) -> Vec<Peers<M>> {
    let count = wakers.len();
    let mut peers: Vec<Peers<M>> = (0..count)
        .map(|own| Peers {
            own: CoreIndex(u16::try_from(own).expect("a machine has fewer than 65536 cores")),
            outgoing: (0..count).map(|_| None).collect(),
            incoming: (0..count).map(|_| None).collect(),
            local: VecDeque::with_capacity(MESSAGES_PER_PAIR),
            next: 0,
        })
        .collect();
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            let (producer, consumer) = ring(MESSAGES_PER_PAIR);
            let waker = wakers[to].clone();
            peers[from].outgoing[to] = Some(Outgoing { ring: producer, waker, unpublished: false });
            peers[to].incoming[from] = Some(consumer);
        }
    }
    peers
}

impl<M: Send> Peers<M> {
    /// This core.
    pub fn own(&self) -> CoreIndex {
        self.own
    }

    /// Number of cores.
    pub fn count(&self) -> usize {
        self.outgoing.len()
    }

    /// Sends to a core (or to this one); gives the message back when the ring is full.
    pub fn send(&mut self, to: CoreIndex, message: M) -> Result<(), M> {
        match &mut self.outgoing[usize::from(to.0)] {
            Some(outgoing) => {
                outgoing.ring.push(message)?;
                outgoing.unpublished = true;
                Ok(())
            }
            None if self.local.len() < MESSAGES_PER_PAIR => {
                self.local.push_back(message);
                Ok(())
            }
            None => Err(message),
        }
    }

    /// Makes visible what was sent, and wakes receivers that sleep. Once a pass.
    pub fn publish(&mut self) {
        for outgoing in self.outgoing.iter_mut().flatten().filter(|ring| ring.unpublished) {
            outgoing.ring.publish();
            outgoing.waker.wake_if_sleeping();
            outgoing.unpublished = false;
        }
    }

    /// The next message, the cores taking turns.
    pub fn receive(&mut self) -> Option<(CoreIndex, M)> {
        if let Some(message) = self.local.pop_front() {
            return Some((self.own, message));
        }
        for _ in 0..self.incoming.len() {
            let from = self.next;
            self.next = (self.next + 1) % self.incoming.len();
            let Some(ring) = &mut self.incoming[from] else { continue };
            if let Some(message) = ring.pop() {
                // Messages are rare: give the slot back at once.
                ring.release();
                let index = u16::try_from(from).expect("a machine has fewer than 65536 cores");
                return Some((CoreIndex(index), message));
            }
        }
        None
    }

    /// True when a message waits: looked at once more before the core sleeps.
    pub fn has_incoming(&self) -> bool {
        !self.local.is_empty() || self.incoming.iter().flatten().any(|ring| !ring.is_empty())
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::sleep;

    fn three() -> Vec<Peers<u32>> {
        let pairs: Vec<_> = (0..3).map(|_| sleep::pair().unwrap()).collect();
        let wakers: Vec<_> = pairs.iter().map(|(_, waker)| waker.clone()).collect();
        connect(&wakers)
    }

    #[test]
    fn a_message_reaches_the_core_it_was_sent_to_once_published() {
        let mut peers = three();
        peers[0].send(CoreIndex(2), 7).unwrap();
        assert!(!peers[2].has_incoming());
        peers[0].publish();
        assert!(peers[2].has_incoming());
        assert_eq!(peers[2].receive(), Some((CoreIndex(0), 7)));
        assert_eq!(peers[2].receive(), None);
        assert_eq!(peers[1].receive(), None);
    }

    #[test]
    fn a_core_can_send_to_itself() {
        let mut peers = three();
        peers[1].send(CoreIndex(1), 5).unwrap();
        assert_eq!(peers[1].receive(), Some((CoreIndex(1), 5)));
    }

    #[test]
    fn a_full_ring_gives_the_message_back() {
        let mut peers = three();
        for message in 0..MESSAGES_PER_PAIR as u32 {
            peers[0].send(CoreIndex(1), message).unwrap();
            peers[0].send(CoreIndex(0), message).unwrap();
        }
        assert_eq!(peers[0].send(CoreIndex(1), 99), Err(99));
        assert_eq!(peers[0].send(CoreIndex(0), 98), Err(98));
        peers[0].publish();
        assert_eq!(peers[1].receive(), Some((CoreIndex(0), 0)));
    }
}
