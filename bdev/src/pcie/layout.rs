//! Where in the memory of a queue what is: rings, lists of pages, bounce buffers.

use super::memory::QUEUE_MEMORY_BYTES;
use super::options::{ADMIN_ENTRIES, PAGE_BYTES, QUEUE_ENTRIES, TRANSFER_BYTES_MAX};
use super::prp::LIST_BYTES;
use crate::nvme::command::SUBMISSION_ENTRY_BYTES;
use crate::nvme::completion::COMPLETION_ENTRY_BYTES;

const PAGE: usize = PAGE_BYTES as usize;

/// First byte of the submission queue.
pub const SUBMISSIONS: usize = 0;
/// First byte of the completion queue.
pub const COMPLETIONS: usize = SUBMISSIONS + QUEUE_ENTRIES as usize * SUBMISSION_ENTRY_BYTES;
/// First byte after the rings.
pub const RINGS_END: usize = COMPLETIONS + QUEUE_ENTRIES as usize * COMPLETION_ENTRY_BYTES;
/// First byte of the lists of pages, one for each command.
const LISTS: usize = 8 * PAGE;
/// First byte of the bounce buffers.
const BOUNCES: usize = 64 * PAGE;
/// Bounce buffers of a queue: I/Os whose memory cannot be described, and that wait for each other
/// when there are more.
pub const BOUNCE_COUNT: u8 = 7;

/// First byte of the list of a command.
pub const fn list(slot: u8) -> usize {
    LISTS + slot as usize * LIST_BYTES
}

/// First byte of a bounce buffer.
pub const fn bounce(index: u8) -> usize {
    BOUNCES + index as usize * TRANSFER_BYTES_MAX as usize
}

/// First byte of the admin completion queue; its submission queue is at [`SUBMISSIONS`].
pub const ADMIN_COMPLETIONS: usize = PAGE;
/// First byte of the page that admin commands transfer.
pub const ADMIN_DATA: usize = 2 * PAGE;
/// First byte of the page of shadow doorbells.
pub const SHADOW_DOORBELLS: usize = 3 * PAGE;
/// First byte of the page of the controller's answers to them.
pub const SHADOW_ANSWERS: usize = 4 * PAGE;

const _: () = assert!(COMPLETIONS.is_multiple_of(PAGE), "queues begin on a page");
const _: () = assert!(RINGS_END <= LISTS);
const _: () = assert!(list(u8::MAX) + LIST_BYTES <= BOUNCES, "a list for every slot");
const _: () = assert!(bounce(BOUNCE_COUNT) <= QUEUE_MEMORY_BYTES);
const _: () = assert!(ADMIN_ENTRIES as usize * SUBMISSION_ENTRY_BYTES <= PAGE);
