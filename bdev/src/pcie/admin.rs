//! The admin queue: one command at a time, waited for with a deadline.
//!
//! Owned by the supervisor and used on its thread, or on the one that attaches. Asynchronous event
//! requests wait in the controller beside the one command; their completions are kept until asked
//! for. NVMe Base 2.0 section 5.

use reactor::Nanos;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::bar::{ALL_ONES, Bar};
use super::encode;
use super::error::PcieError;
use super::layout;
use super::memory::{QueueMemory, View};
use super::options::{ADMIN_ENTRIES, EVENT_REQUESTS_MAX, PAGE_BYTES};
use super::platform::Platform;
use super::ring::{Place, Ring};
use crate::nvme::async_event::AsyncEvent;
use crate::nvme::command::SubmissionEntry;
use crate::nvme::identify::{IDENTIFY_BYTES, IdentifyKind};
use crate::nvme::opcode::AdminOpcode;
use crate::nvme::register::{
    ADMIN_COMPLETION_QUEUE_OFFSET, ADMIN_QUEUE_ATTRIBUTES_OFFSET, ADMIN_SUBMISSION_QUEUE_OFFSET,
    ControllerStatus, STATUS_OFFSET,
};
use crate::nvme::status::Status;

/// Bit of the identifiers of event requests.
const EVENT_BIT: u16 = 1 << 15;

/// The admin queue of a controller.
#[derive(Debug)]
pub struct AdminQueue {
    memory: QueueMemory,
    ring: Ring,
    bar: Bar,
    timeout: Nanos,
    next_id: u16,
    /// Bit by bit: event requests that wait in the controller.
    waiting_events: u8,
    /// Results of event requests that were not taken yet.
    events: Vec<AsyncEvent>,
}

impl AdminQueue {
    /// A queue in this memory.
    ///
    /// # Errors
    ///
    /// The BAR is too short for its doorbells.
    pub fn new(
        memory: QueueMemory,
        bar: Bar,
        stride_bytes: u32,
        timeout: Nanos,
    ) -> Result<AdminQueue, PcieError> {
        let doorbell = |index| {
            let found = bar.doorbell(index, stride_bytes);
            found.ok_or(PcieError::Unsupported("its BAR is too short for its doorbells"))
        };
        let place = Place {
            view: memory.view(),
            entries: ADMIN_ENTRIES,
            submissions: layout::SUBMISSIONS,
            completions: layout::ADMIN_COMPLETIONS,
            bar,
            tail_doorbell: doorbell(0)?,
            head_doorbell: doorbell(1)?,
            shadow: None,
        };
        let ring = Ring::new(place);
        Ok(AdminQueue {
            memory,
            ring,
            bar,
            timeout,
            next_id: 0,
            waiting_events: 0,
            events: Vec::with_capacity(usize::from(EVENT_REQUESTS_MAX)),
        })
    }

    /// Its memory.
    pub fn view(&self) -> View {
        self.memory.view()
    }

    /// Gives its memory back. Once the controller cannot reach it.
    pub fn into_memory(self) -> QueueMemory {
        self.memory
    }

    /// Empties the queue and tells a disabled controller where it is.
    pub fn restart(&mut self) {
        self.ring.restart();
        self.waiting_events = 0;
        let view = self.memory.view();
        view.zero(0, layout::SHADOW_ANSWERS + PAGE_BYTES as usize);
        let last = u32::from(ADMIN_ENTRIES - 1);
        self.bar.write32(ADMIN_QUEUE_ATTRIBUTES_OFFSET, last << 16 | last);
        self.bar.write64(ADMIN_SUBMISSION_QUEUE_OFFSET, view.address(layout::SUBMISSIONS));
        self.bar.write64(ADMIN_COMPLETION_QUEUE_OFFSET, view.address(layout::ADMIN_COMPLETIONS));
    }

    /// Sends a command and waits for its end.
    ///
    /// # Errors
    ///
    /// It failed, or did not end in time; or the controller is gone, has a fatal error, or
    /// completed something else.
    pub fn execute(
        &mut self,
        platform: &dyn Platform,
        opcode: AdminOpcode,
        mut entry: SubmissionEntry,
    ) -> Result<u32, PcieError> {
        let command = opcode.name();
        let id = self.next_id;
        self.next_id = (self.next_id + 1) & (EVENT_BIT - 1);
        entry.command_id.set(id);
        self.ring.push(encode::entry(entry));
        self.ring.ring_tail();
        let deadline = platform.now() + self.timeout;
        loop {
            if let Some((status, result)) = self.take(Some(id))? {
                if status.is_success() {
                    return Ok(result);
                }
                return Err(PcieError::Admin { command, status });
            }
            check_alive(self.bar)?;
            if platform.now() >= deadline {
                return Err(PcieError::AdminTimeout {
                    command,
                    waited_ms: self.timeout.0 / 1_000_000,
                });
            }
            platform.pause();
        }
    }

    /// Takes completions; ends with that of the command `id`.
    fn take(&mut self, id: Option<u16>) -> Result<Option<(Status, u32)>, PcieError> {
        let mut found = None;
        while found.is_none()
            && let Some((entry, result)) = self.ring.pop_with_result()
        {
            let event = entry.command_id & !EVENT_BIT;
            if Some(entry.command_id) == id {
                found = Some((entry.status, result));
            } else if entry.command_id & EVENT_BIT != 0
                && event < u16::from(EVENT_REQUESTS_MAX)
                && self.waiting_events & 1 << event != 0
            {
                self.waiting_events &= !(1 << event);
                if entry.status.is_success() {
                    self.events.push(AsyncEvent::from_result(result));
                }
            } else {
                return Err(PcieError::Protocol);
            }
        }
        self.ring.ring_head();
        Ok(found)
    }

    /// Events that came since the last time.
    ///
    /// # Errors
    ///
    /// The controller completed something else.
    pub fn take_events(&mut self) -> Result<Vec<AsyncEvent>, PcieError> {
        self.take(None)?;
        Ok(std::mem::take(&mut self.events))
    }

    /// Has `count` event requests wait in the controller.
    pub fn request_events(&mut self, count: u8) {
        for index in 0..count.min(EVENT_REQUESTS_MAX) {
            if self.waiting_events & 1 << index == 0 {
                self.waiting_events |= 1 << index;
                let id = EVENT_BIT | u16::from(index);
                self.ring.push(encode::entry(SubmissionEntry::async_event_request(id)));
            }
        }
        self.ring.ring_tail();
    }

    /// Whether a completion is there.
    pub fn has_completion(&self) -> bool {
        self.ring.has_completion()
    }

    /// Sends a command that has the controller fill a structure of at most a page.
    ///
    /// # Errors
    ///
    /// As [`AdminQueue::execute`].
    pub fn fetch<T: FromZeros + FromBytes + IntoBytes>(
        &mut self,
        platform: &dyn Platform,
        opcode: AdminOpcode,
        entry: SubmissionEntry,
    ) -> Result<Box<T>, PcieError> {
        let view = self.memory.view();
        view.zero(layout::ADMIN_DATA, IDENTIFY_BYTES);
        let entry = entry.with_prp([view.address(layout::ADMIN_DATA), 0]);
        self.execute(platform, opcode, entry)?;
        let mut data = Box::new(T::new_zeroed());
        let bytes = data.as_mut_bytes();
        assert!(bytes.len() <= IDENTIFY_BYTES, "an admin command fills at most a page");
        view.read(layout::ADMIN_DATA, bytes);
        Ok(data)
    }

    /// Sends an Identify command.
    ///
    /// # Errors
    ///
    /// As [`AdminQueue::execute`].
    pub fn identify<T: FromZeros + FromBytes + IntoBytes>(
        &mut self,
        platform: &dyn Platform,
        kind: IdentifyKind,
        namespace: u32,
    ) -> Result<Box<T>, PcieError> {
        let entry = SubmissionEntry::for_identify(0, namespace, kind);
        self.fetch(platform, AdminOpcode::Identify, entry)
    }
}

/// The controller is there and has no fatal error.
///
/// # Errors
///
/// It is gone, or has one.
pub fn check_alive(bar: Bar) -> Result<ControllerStatus, PcieError> {
    let status = bar.read32(STATUS_OFFSET);
    if status == ALL_ONES {
        return Err(PcieError::Gone);
    }
    let status = ControllerStatus(status);
    if status.is_fatal() { Err(PcieError::Fatal) } else { Ok(status) }
}
