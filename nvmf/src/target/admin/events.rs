//! Asynchronous events: the requests that a host leaves here, and what they are answered with.
//!
//! An event is told once, then masked until the host reads its log page. NVMe Base 2.0 section
//! 5.2.

use std::collections::VecDeque;

use bdev::Status;
use bdev::nvme::async_event::AsyncEvent;
use bdev::nvme::identify::controller_field;

use super::controller::HeldCompletion;
use crate::target::limits::ASYNC_EVENTS_MAX;
use crate::target::subsystem::SubsystemKind;

/// What a host can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// A namespace came, went, or changed its size.
    Namespace,
    /// The ANA log changed.
    Ana,
    /// The discovery log changed.
    Discovery,
    /// A notification of reservations is in the log.
    Reservation,
}

impl Notice {
    const ALL: [Self; 4] = [Self::Namespace, Self::Ana, Self::Discovery, Self::Reservation];

    const fn event(self) -> AsyncEvent {
        match self {
            Self::Namespace => AsyncEvent::NamespaceChanged,
            Self::Ana => AsyncEvent::AnaChanged,
            Self::Discovery => AsyncEvent::DiscoveryChanged,
            Self::Reservation => AsyncEvent::ReservationNotification,
        }
    }

    /// Its bit in OAES of Identify Controller and in the Asynchronous Event Configuration.
    /// Notifications of reservations have none: feature 82h masks them.
    pub(super) const fn mask(self) -> u32 {
        match self {
            Self::Namespace => controller_field::EVENT_NAMESPACE,
            Self::Ana => controller_field::EVENT_ANA,
            Self::Discovery => controller_field::EVENT_DISCOVERY,
            Self::Reservation => 0,
        }
    }

    /// The log page that says more, and that unmasks the event when it is read.
    const fn log_page(self) -> u8 {
        self.event().log_page()
    }
}

/// The events that controllers of a kind can tell of, as OAES bits.
pub(super) const fn supported_mask(kind: SubsystemKind) -> u32 {
    match kind {
        SubsystemKind::Discovery => Notice::Discovery.mask(),
        SubsystemKind::Nvm => Notice::Namespace.mask() | Notice::Ana.mask(),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EventState {
    /// Nothing to tell.
    #[default]
    Quiet,
    /// To be told with the next request.
    Pending,
    /// Told; masked until the log page is read.
    Told,
}

/// Requests held and events pending, of one controller.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// At most [`ASYNC_EVENTS_MAX`], oldest first.
    held: VecDeque<u16>,
    /// Requests that end with an abort, at most as many.
    aborted: VecDeque<(u16, Status)>,
    states: [EventState; Notice::ALL.len()],
}

impl Events {
    /// Holds a request, or refuses one too many. Requests whose abort is yet to be answered still
    /// count.
    pub fn hold(&mut self, command_id: u16) -> Result<(), Status> {
        if self.held.len() + self.aborted.len() >= usize::from(ASYNC_EVENTS_MAX) {
            return Err(Status::ASYNC_EVENT_LIMIT_EXCEEDED);
        }
        self.held.push_back(command_id);
        Ok(())
    }

    /// Notes an event. What the host has not enabled, or was told of and has not looked at, stays
    /// silent: the log page will show it.
    pub fn raise(&mut self, event: Notice, enabled_mask: u32) {
        let state = &mut self.states[event as usize];
        let is_enabled = event.mask() == 0 || enabled_mask & event.mask() != 0;
        if *state == EventState::Quiet && is_enabled {
            *state = EventState::Pending;
        }
    }

    /// The host has read a log page: its event may be told again.
    pub fn unmask(&mut self, log_page: u8) {
        for event in Notice::ALL {
            if event.log_page() == log_page {
                self.states[event as usize] = EventState::Quiet;
            }
        }
    }

    /// Ends a held request with `status`; false when there is none of that name.
    pub fn abort(&mut self, command_id: u16, status: Status) -> bool {
        let Some(index) = self.held.iter().position(|held| *held == command_id) else {
            return false;
        };
        self.held.remove(index);
        self.aborted.push_back((command_id, status));
        true
    }

    /// Ends every held request with `status` and forgets every event.
    pub fn reset(&mut self, status: Status) {
        self.aborted.extend(self.held.drain(..).map(|command_id| (command_id, status)));
        self.states = Default::default();
    }

    /// The next request to answer, if there is one.
    pub fn next(&mut self) -> Option<HeldCompletion> {
        if let Some((command_id, status)) = self.aborted.pop_front() {
            return Some(HeldCompletion { command_id, status, result: 0 });
        }
        let is_pending = |event: &Notice| self.states[*event as usize] == EventState::Pending;
        let event = Notice::ALL.into_iter().find(is_pending)?;
        let command_id = self.held.pop_front()?;
        self.states[event as usize] = EventState::Told;
        Some(HeldCompletion { command_id, status: Status::SUCCESS, result: event.event().result() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_ENABLED: u32 = u32::MAX;

    fn answer(events: &mut Events) -> Option<(u16, u32)> {
        events.next().map(|completion| (completion.command_id, completion.result))
    }

    #[test]
    fn the_last_request_is_held_and_one_more_is_refused() {
        let mut events = Events::default();
        for command_id in 0..u16::from(ASYNC_EVENTS_MAX) {
            assert_eq!(events.hold(command_id), Ok(()));
        }
        assert_eq!(events.hold(99), Err(Status::ASYNC_EVENT_LIMIT_EXCEEDED));
        events.raise(Notice::Ana, ALL_ENABLED);
        assert!(events.next().is_some());
        assert_eq!(events.hold(99), Ok(()));
    }

    #[test]
    fn an_event_is_told_once_until_its_log_page_is_read() {
        let mut events = Events::default();
        events.hold(1).unwrap();
        events.hold(2).unwrap();
        events.raise(Notice::Namespace, ALL_ENABLED);
        assert_eq!(answer(&mut events), Some((1, 0x0004_0002)));
        events.raise(Notice::Namespace, ALL_ENABLED);
        assert_eq!(answer(&mut events), None);
        events.unmask(0x0c);
        events.raise(Notice::Namespace, ALL_ENABLED);
        assert_eq!(answer(&mut events), None);
        events.unmask(0x04);
        events.raise(Notice::Namespace, ALL_ENABLED);
        assert_eq!(answer(&mut events), Some((2, 0x0004_0002)));
    }

    #[test]
    fn an_event_waits_for_a_request() {
        let mut events = Events::default();
        events.raise(Notice::Ana, ALL_ENABLED);
        assert_eq!(answer(&mut events), None);
        events.hold(5).unwrap();
        assert_eq!(answer(&mut events), Some((5, 0x000c_0302)));
    }

    #[test]
    fn an_event_that_is_not_enabled_stays_silent() {
        let mut events = Events::default();
        events.hold(5).unwrap();
        events.raise(Notice::Ana, Notice::Namespace.mask());
        assert_eq!(answer(&mut events), None);
    }

    #[test]
    fn a_notification_of_reservations_needs_no_enabling() {
        let mut events = Events::default();
        events.hold(5).unwrap();
        events.raise(Notice::Reservation, 0);
        assert_eq!(answer(&mut events), Some((5, 0x0080_0006)));
    }

    #[test]
    fn an_aborted_request_ends_once_with_its_status() {
        let mut events = Events::default();
        events.hold(5).unwrap();
        assert!(!events.abort(6, Status::ABORT_REQUESTED));
        assert!(events.abort(5, Status::ABORT_REQUESTED));
        assert!(!events.abort(5, Status::ABORT_REQUESTED));
        let completion = events.next().unwrap();
        assert_eq!((completion.command_id, completion.status), (5, Status::ABORT_REQUESTED));
        assert_eq!(events.next(), None);
    }

    #[test]
    fn aborted_requests_count_until_they_are_answered() {
        let mut events = Events::default();
        for command_id in 0..u16::from(ASYNC_EVENTS_MAX) {
            events.hold(command_id).unwrap();
        }
        events.abort(0, Status::ABORT_REQUESTED);
        assert_eq!(events.hold(9), Err(Status::ASYNC_EVENT_LIMIT_EXCEEDED));
        events.next().unwrap();
        assert_eq!(events.hold(9), Ok(()));
    }

    #[test]
    fn a_reset_ends_every_request_and_forgets_events() {
        let mut events = Events::default();
        events.hold(1).unwrap();
        events.hold(2).unwrap();
        events.raise(Notice::Ana, ALL_ENABLED);
        events.reset(Status::ABORTED_SQ_DELETION);
        let ended: Vec<u16> = std::iter::from_fn(|| events.next())
            .inspect(|completion| assert_eq!(completion.status, Status::ABORTED_SQ_DELETION))
            .map(|completion| completion.command_id)
            .collect();
        assert_eq!(ended, [1, 2]);
        events.hold(3).unwrap();
        assert_eq!(events.next(), None);
    }
}
