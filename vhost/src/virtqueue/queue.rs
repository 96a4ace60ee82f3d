//! One split virtqueue, from the side of the device: heads come out, used entries go in.
//!
//! Owned by a ring of [`crate::core`], on its core. Kicks are not wanted while the core polls, and
//! asked for by [`SplitQueue::arm`] before it sleeps; calls are decided once a pass, for all that
//! was published in it. Virtio 1.2 sections 2.7.6 to 2.7.10.

use std::sync::atomic::{Ordering, fence};

use super::access::Ring;
use super::chain::{ChainBuffer, ChainError, Indirect};
use super::inflight::Inflight;
use super::layout::{AVAILABLE_NO_INTERRUPT, USED_NO_NOTIFY};

/// How kicks and calls are suppressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suppression {
    /// By flags.
    Flags,
    /// By event indices (`VIRTIO_F_EVENT_IDX`).
    EventIndex,
}

/// What was negotiated of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFeatures {
    /// Whether buffers may hold descriptors.
    pub indirect: Indirect,
    /// How kicks and calls are suppressed.
    pub suppression: Suppression,
}

/// The driver broke the protocol: the ring is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// More heads than the ring has entries.
    #[error("the index of available heads jumped from {from} to {to} in a ring of {size}")]
    Jump {
        /// The last that was taken.
        from: u16,
        /// What the driver says.
        to: u16,
        /// Entries of the ring.
        size: u16,
    },
    /// A chain is malformed.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// Whether the driver is to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// It is.
    Wanted,
    /// Nothing was published, or the driver does not want to hear of it.
    Unwanted,
}

/// See the module.
#[derive(Debug)]
pub struct SplitQueue {
    ring: Ring,
    features: QueueFeatures,
    /// The next head to take.
    next_available: u16,
    /// The driver's index when it was last looked at.
    seen_available: u16,
    /// The next used entry to fill.
    next_used: u16,
    /// Up to here the driver knows.
    published_used: u16,
    /// Kicks are asked for by the flag.
    is_armed: bool,
    inflight: Option<Inflight>,
    /// Heads that a process before had taken and not given back, and how many of them were taken.
    recovered: Vec<u16>,
    recovered_taken: usize,
}

impl SplitQueue {
    /// A queue that goes on at `next_available`, and behind the used entries that the ring has.
    pub fn new(ring: Ring, features: QueueFeatures, next_available: u16) -> SplitQueue {
        let used = ring.used_index();
        let queue = SplitQueue {
            ring,
            features,
            next_available,
            seen_available: next_available,
            next_used: used,
            published_used: used,
            is_armed: false,
            inflight: None,
            recovered: Vec::new(),
            recovered_taken: 0,
        };
        queue.refuse_kicks();
        queue
    }

    /// Keeps what is under way where it outlives the process. What was under way when one ended
    /// is taken again, before all else.
    #[must_use]
    pub fn with_inflight(mut self, mut inflight: Inflight) -> SplitQueue {
        self.recovered = inflight.recover(self.next_used);
        let count = u16::try_from(self.recovered.len()).expect("no more heads than a ring has");
        // Whatever the front end says: each head that was taken has come back, or is found here.
        self.next_available = self.next_used.wrapping_add(count);
        self.seen_available = self.next_available;
        self.inflight = Some(inflight);
        self.refuse_kicks();
        self
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// The ring.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The next head that would be taken: what the front end is told when the ring stops.
    pub fn next_available(&self) -> u16 {
        self.next_available
    }

    /// How many heads wait, after a look at the driver's index.
    ///
    /// # Errors
    ///
    /// [`QueueError::Jump`].
    #[inline]
    pub fn look(&mut self) -> Result<u16, QueueError> {
        let to = self.ring.available_index();
        let count = to.wrapping_sub(self.next_available);
        if count > self.ring.size() {
            let (from, size) = (self.next_available, self.ring.size());
            return Err(QueueError::Jump { from, to, size });
        }
        self.seen_available = to;
        let recovered = self.recovered.len() - self.recovered_taken;
        Ok(count + u16::try_from(recovered).expect("no more heads than a ring has"))
    }

    /// Takes the next head that [`SplitQueue::look`] has seen, and its chain.
    ///
    /// # Errors
    ///
    /// A malformed chain.
    #[inline]
    pub fn take(&mut self, chain: &mut ChainBuffer) -> Result<Option<u16>, QueueError> {
        if let Some(head) = self.recovered.get(self.recovered_taken) {
            chain.walk(&self.ring, *head, self.features.indirect)?;
            self.recovered_taken += 1;
            return Ok(Some(*head));
        }
        if self.seen_available == self.next_available {
            return Ok(None);
        }
        let head = self.ring.available_entry(self.next_available);
        chain.walk(&self.ring, head, self.features.indirect)?;
        self.next_available = self.next_available.wrapping_add(1);
        if let Some(inflight) = &mut self.inflight {
            inflight.take(head);
        }
        Ok(Some(head))
    }

    /// The last head that was taken was not taken after all: the ring ends with it.
    pub fn untake(&mut self) {
        self.next_available = self.next_available.wrapping_sub(1);
    }

    /// Gives a chain back, with what was written to it. The driver sees it when it is published.
    #[inline]
    pub fn give_back(&mut self, head: u16, written_bytes: u32) {
        if let Some(inflight) = &mut self.inflight {
            inflight.give_back(head);
        }
        self.ring.set_used_entry(self.next_used, head, written_bytes);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// True when something was given back that the driver does not know of.
    #[inline]
    pub fn has_unpublished(&self) -> bool {
        self.next_used != self.published_used
    }

    /// Shows the driver what was given back, and finds out whether it wants a call for it.
    #[inline]
    pub fn publish(&mut self) -> Call {
        if !self.has_unpublished() {
            return Call::Unwanted;
        }
        let before = self.published_used;
        self.ring.publish_used(self.next_used);
        self.published_used = self.next_used;
        if let Some(inflight) = &mut self.inflight {
            inflight.published(self.next_used);
        }
        // Sequentially consistent: pairs with the driver's barrier between asking for calls and
        // its last look at our index. Either it sees the index, or we see that it asks.
        fence(Ordering::SeqCst);
        let wants = match self.features.suppression {
            Suppression::Flags => self.ring.available_flags() & AVAILABLE_NO_INTERRUPT == 0,
            Suppression::EventIndex => passes(self.ring.used_event(), before, self.next_used),
        };
        if wants { Call::Wanted } else { Call::Unwanted }
    }

    /// Asks for a kick with the next head; false when there is one already, or nonsense, and the
    /// core must look.
    pub fn arm(&mut self) -> bool {
        match self.features.suppression {
            Suppression::Flags => self.ring.set_used_flags(0),
            Suppression::EventIndex => self.ring.set_available_event(self.next_available),
        }
        self.is_armed = true;
        // Sequentially consistent: pairs with the driver's barrier between its index and its look
        // at what we ask for. Either we see the head, or it kicks.
        fence(Ordering::SeqCst);
        self.ring.available_index() == self.next_available
            && self.recovered.len() == self.recovered_taken
    }

    /// Kicks are not wanted any more, as the ring is polled again.
    #[inline]
    pub fn disarm(&mut self) {
        if self.is_armed {
            self.is_armed = false;
            self.refuse_kicks();
        }
    }

    fn refuse_kicks(&self) {
        match self.features.suppression {
            Suppression::Flags => self.ring.set_used_flags(USED_NO_NOTIFY),
            // An entry that was passed already is passed again after 2^16 more: a kick too many.
            Suppression::EventIndex => {
                self.ring.set_used_flags(0);
                self.ring.set_available_event(self.next_available.wrapping_sub(1));
            }
        }
    }
}

/// True when an index on its way from `before` to `now` passes the event (section 2.7.10).
#[inline]
fn passes(event: u16, before: u16, now: u16) -> bool {
    now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_passed_by_the_step_that_goes_over_it_and_by_no_other() {
        assert!(passes(5, 5, 6) && passes(5, 3, 9) && passes(u16::MAX, u16::MAX, 0));
        assert!(!passes(5, 6, 7) && !passes(5, 3, 5) && !passes(5, 5, 5));
    }
}
