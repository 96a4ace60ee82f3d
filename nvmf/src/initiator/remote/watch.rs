//! The admin conversation of a live session: keep alives, events and what they are about, aborts.
//!
//! Polled by the supervisor. One command with data is in flight at a time, so one page of memory
//! serves all; what is wanted meanwhile is remembered. Everything said is untrusted, and a log that
//! makes no sense says nothing. NVMe Base 2.0 sections 5.2 (events), 5.16.1.5 (changed namespaces),
//! 5.16.1.13 (ANA).

use bdev::Memory;
use bdev::nvme::admin_command::GetLogPage;
use bdev::nvme::async_event::AsyncEvent;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::identify::{IDENTIFY_BYTES, IdentifyKind, IdentifyNamespace};
use bdev::nvme::log_page::{
    self, ANA_GROUPS_ONLY, AnaGroup, AnaHeader, AnaState, CHANGED_NAMESPACES_OVERFLOW,
    ChangedNamespaceLog,
};
use bdev::nvme::opcode::AdminOpcode;
use reactor::dma::DmaBuffer;
use reactor::{Cx, Nanos, Wake};
use uuid::Uuid;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::super::connect::{RemoteNamespace, view_of};
use super::super::controller::RemoteController;
use super::super::error::{ConnectError, ConnectionError};
use super::super::namespace::{ControllerFacts, uuid_of, view};
use super::super::queue::{Command, CommandData, Ended};
use super::super::queue_pair::NamespaceView;
use super::options::{ABORTS_MAX, ACCESS_INTERVAL, ADMIN_TIMEOUT};

/// Bytes of one command with data.
const PAGE_BYTES: u32 = IDENTIFY_BYTES as u32;
/// Group descriptors that are read at once.
const GROUPS_PER_READ: u64 = (PAGE_BYTES as u64 - ANA_HEADER_BYTES) / ANA_GROUP_BYTES;
const ANA_HEADER_BYTES: u64 = size_of::<AnaHeader>() as u64;
const ANA_GROUP_BYTES: u64 = size_of::<AnaGroup>() as u64;

const EVENT_TOKEN: u64 = 1;
const DATA_TOKEN: u64 = 2;
const ABORT_TOKEN: u64 = 3;

/// What a poll finds.
#[derive(Debug)]
pub(super) enum Finding {
    /// How good this way to the namespace is.
    Access(AnaState),
    /// What the namespace is now.
    Namespace(NamespaceView, Option<Uuid>),
    /// The namespace is gone, or has become something that cannot be used.
    Gone,
    /// The target does not answer, though it keeps the connection alive.
    Stuck,
    /// The admin connection has ended.
    Ended(ConnectionError),
}

/// A command with data that is in flight.
#[derive(Clone, Copy, Debug)]
enum Asking {
    /// Groups of the ANA log, from this one on.
    Access {
        first: u64,
    },
    Changed,
    Namespace,
    Identity,
}

/// Whether an event request is with the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EventRequest {
    ToBeSent,
    Sent,
    /// The target takes none.
    Refused,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    admin: RemoteController,
    data: Option<DmaBuffer>,
    facts: ControllerFacts,
    namespace_id: u32,
    nguid: [u8; 16],
    changed_view: Option<NamespaceView>,
    group: Option<u32>,
    /// What is in flight, and since when.
    asking: Option<(Asking, Nanos)>,
    /// When the access is to be looked at.
    access_at: Option<Nanos>,
    /// The changed namespaces are to be looked at.
    wants_changed: bool,
    event: EventRequest,
    aborts: u32,
}

impl Watch {
    /// Takes over the admin connection of a namespace.
    ///
    /// # Errors
    /// The thread has no memory left.
    pub fn new(cx: &mut Cx, remote: RemoteNamespace) -> Result<Watch, ConnectError> {
        let RemoteNamespace { mut admin, namespace_id, facts, access_group, .. } = remote;
        let Some(data) = cx.dma.take(PAGE_BYTES) else {
            admin.close(cx);
            return Err(ConnectError::OutOfMemory);
        };
        Ok(Watch {
            admin,
            data: Some(data),
            facts,
            namespace_id,
            nguid: [0; 16],
            changed_view: None,
            group: access_group,
            asking: None,
            access_at: access_group.map(|_| cx.now()),
            wants_changed: false,
            event: EventRequest::ToBeSent,
            aborts: 0,
        })
    }

    /// Whether the target reports access, so that a finding of it will come.
    pub fn reports_access(&self) -> bool {
        self.group.is_some()
    }

    /// Sends what is due and takes what came. To be called again until it finds nothing.
    pub fn poll(&mut self, cx: &mut Cx) -> Option<Finding> {
        self.admin.poll(cx);
        while let Some(ended) = self.admin.take_answer() {
            if let Some(finding) = self.answer(cx, ended) {
                return Some(finding);
            }
        }
        if let Some(error) = self.admin.failure() {
            return Some(Finding::Ended(error));
        }
        if let Some((_, since)) = self.asking
            && cx.now().since(since) >= ADMIN_TIMEOUT
        {
            return Some(Finding::Stuck);
        }
        self.send(cx);
        None
    }

    fn send(&mut self, cx: &mut Cx) {
        if self.event == EventRequest::ToBeSent {
            let entry = SubmissionEntry::async_event_request(0);
            let data = CommandData::Nothing;
            if self.admin.ask(cx, Command { entry, data, token: EVENT_TOKEN }) {
                self.event = EventRequest::Sent;
            }
        }
        if self.asking.is_some() {
            return;
        }
        if self.wants_changed {
            self.wants_changed = false;
            self.ask(cx, Asking::Changed);
        } else if self.group.is_some() && self.access_at.is_some_and(|time| time <= cx.now()) {
            self.access_at = None;
            self.ask(cx, Asking::Access { first: 0 });
        }
    }

    /// Looks at the access soon.
    pub fn look_at_access(&mut self, cx: &Cx) {
        let soon = cx.now() + ACCESS_INTERVAL;
        self.access_at = Some(self.access_at.map_or(soon, |time| time.min(soon)));
    }

    /// Asks the target to abort a command; false when too many are being aborted.
    pub fn abort(&mut self, cx: &mut Cx, queue_id: u16, command_id: u16) -> bool {
        if self.aborts >= ABORTS_MAX {
            return false;
        }
        let mut entry = SubmissionEntry::new(AdminOpcode::Abort.value(), 0, 0);
        entry.cdw10 = U32::new(u32::from(command_id) << 16 | u32::from(queue_id));
        let data = CommandData::Nothing;
        let sent = self.admin.ask(cx, Command { entry, data, token: ABORT_TOKEN });
        self.aborts += u32::from(sent);
        sent
    }

    fn ask(&mut self, cx: &mut Cx, asking: Asking) {
        let log = |log_page, specific, offset, bytes| {
            let page = GetLogPage {
                log_page,
                specific,
                retain_event: false,
                bytes,
                offset,
                is_index: false,
            };
            SubmissionEntry::for_log_page(0, u32::MAX, page)
        };
        let identify = |kind| SubmissionEntry::for_identify(0, self.namespace_id, kind);
        let all = u64::from(PAGE_BYTES);
        let (entry, len_bytes) = match asking {
            Asking::Access { first: 0 } => (log(log_page::ANA, ANA_GROUPS_ONLY, 0, all), all),
            Asking::Access { first } => {
                let offset = ANA_HEADER_BYTES + first * ANA_GROUP_BYTES;
                let bytes = GROUPS_PER_READ * ANA_GROUP_BYTES;
                (log(log_page::ANA, ANA_GROUPS_ONLY, offset, bytes), bytes)
            }
            Asking::Changed => (log(log_page::CHANGED_NAMESPACES, 0, 0, all), all),
            Asking::Namespace => (identify(IdentifyKind::Namespace), all),
            Asking::Identity => (identify(IdentifyKind::NamespaceDescriptors), all),
        };
        let buffer = self.data.as_mut().expect("kept until the watch is closed");
        // What the target does not send reads as zeroes, not as what was asked before.
        buffer.bytes_mut()[..PAGE_BYTES as usize].fill(0);
        let len_bytes = u32::try_from(len_bytes).expect("at most a page");
        let data = CommandData::ToHost(Memory::One(buffer.segment(len_bytes)));
        if self.admin.ask(cx, Command { entry, data, token: DATA_TOKEN }) {
            self.asking = Some((asking, cx.now()));
        }
    }

    fn answer(&mut self, cx: &mut Cx, ended: Ended) -> Option<Finding> {
        let is_success = ended.status.is_success();
        match ended.token {
            EVENT_TOKEN if is_success => {
                self.event = EventRequest::ToBeSent;
                self.event(cx, AsyncEvent::from_result(ended.result_dword()));
                None
            }
            EVENT_TOKEN => {
                self.event = EventRequest::Refused;
                None
            }
            ABORT_TOKEN => {
                self.aborts -= 1;
                None
            }
            _ => {
                let (asked, _) = self.asking.take()?;
                if is_success { self.learn(cx, asked) } else { self.refused(asked) }
            }
        }
    }

    fn event(&mut self, cx: &Cx, event: AsyncEvent) {
        match event {
            AsyncEvent::AnaChanged => self.access_at = Some(cx.now()),
            AsyncEvent::NamespaceChanged => self.wants_changed = true,
            _ => {}
        }
    }

    /// What it means that a command with data failed.
    fn refused(&mut self, asked: Asking) -> Option<Finding> {
        match asked {
            // Without the log the I/O itself will tell.
            Asking::Access { .. } => Some(Finding::Access(AnaState::Optimized)),
            Asking::Changed => None,
            Asking::Namespace => Some(Finding::Gone),
            Asking::Identity => {
                let uuid = uuid_of(&[0; IDENTIFY_BYTES], self.nguid);
                self.changed_view.take().map(|view| Finding::Namespace(view, uuid))
            }
        }
    }

    fn bytes(&self) -> &[u8; IDENTIFY_BYTES] {
        let buffer = self.data.as_ref().expect("kept until the watch is closed");
        buffer.bytes(PAGE_BYTES).first_chunk().expect("a slice of this length")
    }

    fn learn(&mut self, cx: &mut Cx, asked: Asking) -> Option<Finding> {
        match asked {
            Asking::Access { first } => self.learn_access(cx, first),
            Asking::Changed => {
                let log = view_of::<ChangedNamespaceLog>(self.bytes());
                let concerns =
                    |id: u32| id == self.namespace_id || id == CHANGED_NAMESPACES_OVERFLOW;
                if log.ids.iter().any(|id| concerns(id.get())) {
                    self.ask(cx, Asking::Namespace);
                }
                None
            }
            Asking::Namespace => {
                let identify = view_of::<IdentifyNamespace>(self.bytes());
                let nguid = identify.nguid;
                // A namespace that is not there is all zeroes.
                let Ok(view) = view(self.namespace_id, &self.facts, identify) else {
                    return Some(Finding::Gone);
                };
                self.nguid = nguid;
                self.changed_view = Some(view);
                self.ask(cx, Asking::Identity);
                None
            }
            Asking::Identity => {
                let uuid = uuid_of(self.bytes(), self.nguid);
                self.changed_view.take().map(|view| Finding::Namespace(view, uuid))
            }
        }
    }

    fn learn_access(&mut self, cx: &mut Cx, first: u64) -> Option<Finding> {
        let group = self.group?;
        let bytes = self.bytes();
        let (header, rest) = match first {
            0 => {
                let (header, rest) = AnaHeader::read_from_prefix(bytes).expect("a page is longer");
                (Some(header), rest)
            }
            _ => (None, &bytes[..]),
        };
        let mut found = None;
        for descriptor in rest.chunks_exact(size_of::<AnaGroup>()) {
            let descriptor = AnaGroup::read_from_bytes(descriptor).expect("a chunk of its length");
            if descriptor.id.get() == group {
                found = AnaState::from_value(descriptor.state);
                break;
            }
        }
        if let Some(state) = found {
            if state == AnaState::Change {
                // Told again when it is over; asked again should that be lost.
                let longest = self.facts.access_change.max(ACCESS_INTERVAL);
                self.access_at = Some(cx.now() + longest);
            }
            return Some(Finding::Access(state));
        }
        // The number of groups is in the header only; a log ends by itself with zeroes.
        let is_full = rest[..(GROUPS_PER_READ * ANA_GROUP_BYTES) as usize]
            .chunks_exact(size_of::<AnaGroup>())
            .next_back()
            .is_some_and(|last| last[..4] != [0; 4]);
        let next = first + GROUPS_PER_READ;
        let more = header.is_none_or(|header| u64::from(header.groups.get()) > next);
        if is_full && more && next < u64::from(u16::MAX) {
            self.ask(cx, Asking::Access { first: next });
            return None;
        }
        // It says nothing of this group: the I/O itself will tell.
        Some(Finding::Access(AnaState::Optimized))
    }

    /// When it must be polled next, beside a report of its socket.
    pub fn wake(&self) -> Wake {
        let access = match (self.asking, self.access_at) {
            (Some((_, since)), _) => Wake::At(since + ADMIN_TIMEOUT),
            (None, Some(time)) => Wake::At(time),
            (None, None) => Wake::Never,
        };
        self.admin.wake().soonest(access)
    }

    /// Closes the admin connection and gives the memory back.
    pub fn close(mut self, cx: &mut Cx) {
        self.admin.close(cx);
        if let Some(data) = self.data.take() {
            cx.dma.give(data);
        }
    }
}
