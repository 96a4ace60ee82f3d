//! The two rings of a queue pair and their doorbells.
//!
//! Owned by one queue pair; positions are the driver's own, and of what the device says only the
//! phase and the entry itself are used. The doorbell of submissions is rung once a flush, that of
//! completions once a batch. NVMe Base 2.0 sections 3.3.1 and 3.3.3.2; shadow doorbells 5.5.

use std::sync::atomic::{Ordering, fence};

use super::bar::{Bar, Doorbell};
use super::memory::{Entries, View};
use crate::nvme::command::SUBMISSION_ENTRY_BYTES;
use crate::nvme::completion::COMPLETION_ENTRY_BYTES;
use crate::nvme::status::Status;

/// Phase bit in the last dword of a completion entry.
const PHASE: u32 = 1 << 16;

/// Where the rings and doorbells of a queue are.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The memory.
    pub view: View,
    /// Entries of each ring, a power of two.
    pub entries: u16,
    /// First byte of the submission queue.
    pub submissions: usize,
    /// First byte of the completion queue.
    pub completions: usize,
    /// The registers.
    pub bar: Bar,
    /// Tail of the submission queue.
    pub tail_doorbell: Doorbell,
    /// Head of the completion queue.
    pub head_doorbell: Doorbell,
    /// Copies of the doorbells in memory, when the controller looks at those.
    pub shadow: Option<Shadow>,
}

/// Doorbells in memory: the controller says up to where it need not be rung.
#[derive(Clone, Copy, Debug)]
pub struct Shadow {
    /// The page of doorbells, followed by the page in which the controller answers.
    pub view: View,
    /// Place of the tail doorbell, and of its answer.
    pub tail: [usize; 2],
    /// Place of the head doorbell, and of its answer.
    pub head: [usize; 2],
}

/// A completion as the device wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Command identifier.
    pub command_id: u16,
    /// How the command ended.
    pub status: Status,
}

/// The rings.
#[derive(Debug)]
pub struct Ring {
    place: Place,
    submissions: Entries<{ SUBMISSION_ENTRY_BYTES / 8 }>,
    completions: Entries<{ COMPLETION_ENTRY_BYTES / 8 }>,
    mask: u16,
    tail: u16,
    rung_tail: u16,
    head: u16,
    rung_head: u16,
    /// The phase bit of entries that are new.
    phase: u32,
    doorbell_writes: u64,
}

impl Ring {
    /// Empty rings, as a controller that has just made the queues has them.
    pub fn new(place: Place) -> Ring {
        Ring {
            submissions: place.view.entries(place.submissions, place.entries),
            completions: place.view.entries(place.completions, place.entries),
            mask: place.entries - 1,
            place,
            tail: 0,
            rung_tail: 0,
            head: 0,
            rung_head: 0,
            phase: PHASE,
            doorbell_writes: 0,
        }
    }

    /// Goes on where a ring without commands was left.
    pub fn resume(place: Place, position: Position) -> Ring {
        let (tail, head) = (position.tail & (place.entries - 1), position.head);
        let mut ring = Ring::new(place);
        (ring.tail, ring.rung_tail) = (tail, tail);
        (ring.head, ring.rung_head) = (head & ring.mask, head & ring.mask);
        ring.phase = u32::from(position.phase) * PHASE;
        ring
    }

    /// Where a ring without commands is left.
    pub fn position(&self) -> Position {
        let phase = u16::from(self.phase != 0);
        Position { tail: self.tail, head: self.head, phase }
    }

    /// Starts over: the controller has made the queues anew.
    pub fn restart(&mut self) {
        let writes = self.doorbell_writes;
        *self = Ring::new(self.place);
        self.doorbell_writes = writes;
    }

    /// Writes an entry. The caller has fewer commands in the device than there are entries, less
    /// one, and an entry is free once its command has completed.
    #[inline]
    pub fn push(&mut self, entry: [u64; SUBMISSION_ENTRY_BYTES / 8]) {
        self.submissions.store(self.tail, entry);
        self.tail = self.tail.wrapping_add(1) & self.mask;
    }

    /// Whether entries were written that the doorbell was not rung for.
    pub fn has_unrung(&self) -> bool {
        self.tail != self.rung_tail
    }

    /// How many entries were written that the doorbell was not rung for.
    pub fn unrung(&self) -> u32 {
        u32::from(self.tail.wrapping_sub(self.rung_tail) & self.mask)
    }

    /// Tells the controller of new entries, if there are any.
    #[inline]
    pub fn ring_tail(&mut self) {
        if self.tail == self.rung_tail {
            return;
        }
        let shadow = self.place.shadow.map(|shadow| (shadow.view, shadow.tail));
        if is_wanted(shadow, self.rung_tail, self.tail) {
            self.place.bar.ring(self.place.tail_doorbell, u32::from(self.tail));
            self.doorbell_writes += 1;
        }
        self.rung_tail = self.tail;
    }

    /// Whether a completion is there.
    #[inline]
    pub fn has_completion(&self) -> bool {
        self.completions.load_last(self.head) & PHASE == self.phase
    }

    /// Takes the next completion.
    #[inline]
    pub fn pop(&mut self) -> Option<Entry> {
        let last = self.completions.load_last(self.head);
        if last & PHASE != self.phase {
            return None;
        }
        self.head = self.head.wrapping_add(1) & self.mask;
        if self.head == 0 {
            self.phase ^= PHASE;
        }
        Some(Entry {
            command_id: (last & 0xffff) as u16,
            status: Status::from_wire((last >> 16) as u16),
        })
    }

    /// Takes the next completion with its dword 0, which is the result of an admin command.
    pub fn pop_with_result(&mut self) -> Option<(Entry, u32)> {
        let position = self.head;
        let entry = self.pop()?;
        // Loaded after the phase was seen; the device may not write the entry again before it is
        // told that it was taken.
        Some((entry, self.completions.load_first(position)))
    }

    /// Gives the controller back the entries that were taken, if there are any.
    #[inline]
    pub fn ring_head(&mut self) {
        if self.head == self.rung_head {
            return;
        }
        let shadow = self.place.shadow.map(|shadow| (shadow.view, shadow.head));
        if is_wanted(shadow, self.rung_head, self.head) {
            self.place.bar.ring(self.place.head_doorbell, u32::from(self.head));
            self.doorbell_writes += 1;
        }
        self.rung_head = self.head;
    }

    /// Writes to doorbell registers so far.
    pub fn doorbell_writes(&self) -> u64 {
        self.doorbell_writes
    }
}

/// Whether the register must be written for a doorbell that moved on; always without a shadow.
#[inline]
fn is_wanted(shadow: Option<(View, [usize; 2])>, old: u16, new: u16) -> bool {
    let Some((view, [doorbell, answer])) = shadow else { return true };
    view.store_release(doorbell, u32::from(new));
    // SeqCst, partner: the controller's, between its answer and its last look at the doorbell. One
    // of the two sees the other.
    fence(Ordering::SeqCst);
    let event = (view.load_acquire(answer) & 0xffff) as u16;
    // The doorbell passed the value at which the controller wants to be rung.
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Where a ring without commands was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Next submission entry.
    pub tail: u16,
    /// Next completion entry.
    pub head: u16,
    /// Its phase, 0 or 1.
    pub phase: u16,
}

impl Position {
    /// Of queues just made.
    pub const START: Position = Position { tail: 0, head: 0, phase: 1 };

    /// As one word.
    pub fn to_word(self) -> u64 {
        u64::from(self.tail) | u64::from(self.head) << 16 | u64::from(self.phase) << 32
    }

    /// Of one word.
    pub fn from_word(word: u64) -> Position {
        let [a, b, c, d, e, ..] = word.to_le_bytes();
        Position {
            tail: u16::from_le_bytes([a, b]),
            head: u16::from_le_bytes([c, d]),
            phase: u16::from(e & 1),
        }
    }
}
