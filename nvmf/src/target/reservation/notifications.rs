//! Log page 80h of one controller: what its host is told of reservations, and its masks.
//!
//! Owned by the admin controller. NVMe Base 2.0 section 5.16.1 (reservation notification) and
//! 5.27.1 (feature 82h).

use std::collections::{BTreeMap, VecDeque};

use bdev::Status;
use bdev::nvme::command::NAMESPACE_ID_ALL;
use bdev::nvme::reservation::{NotificationLog, mask, notification_type};
use bdev::reservation::Event;
use zerocopy::little_endian::{U32, U64};

use crate::target::namespace::NamespaceId;
use crate::target::subsystem::Subsystem;

/// Notifications that wait to be read. One more is lost, and its number missing tells the host so.
pub const NOTIFICATIONS_MAX: usize = 64;

/// The notifications of a controller.
#[derive(Debug, Default)]
pub struct Notifications {
    /// Number of the last one, lost ones included; never zero again after the first.
    count: u64,
    /// Oldest first: number, event and namespace.
    waiting: VecDeque<(u64, Event, NamespaceId)>,
    /// What the host does not want to hear of, at most one entry a namespace.
    masks: BTreeMap<NamespaceId, u32>,
}

impl Notifications {
    /// Something happened. True if the host is to be told of it.
    pub fn add(&mut self, namespace: NamespaceId, event: Event) -> bool {
        if event.is_masked_by(self.mask(namespace)) {
            return false;
        }
        self.count = self.count.checked_add(1).unwrap_or(1);
        if self.waiting.len() < NOTIFICATIONS_MAX {
            self.waiting.push_back((self.count, event, namespace));
        }
        true
    }

    /// The log page of the oldest that waits, or an empty one.
    pub fn page(&self) -> NotificationLog {
        match self.waiting.front() {
            Some((count, event, namespace)) => {
                event.log_page(*count, self.waiting.len() - 1, namespace.0)
            }
            None => NotificationLog {
                count: U64::ZERO,
                notification: notification_type::EMPTY,
                available: 0,
                reserved_10: [0; 2],
                namespace_id: U32::ZERO,
                reserved_16: [0; 48],
            },
        }
    }

    /// The host has read the page. True if another waits.
    pub fn was_read(&mut self) -> bool {
        self.waiting.pop_front();
        !self.waiting.is_empty()
    }

    /// What a host does not want to hear of a namespace.
    pub fn mask(&self, namespace: NamespaceId) -> u32 {
        self.masks.get(&namespace).copied().unwrap_or(0)
    }

    /// Sets what a host does not want to hear of a namespace, or of all there are.
    pub fn set_mask(
        &mut self,
        subsystem: &Subsystem,
        namespace_id: u32,
        value: u32,
    ) -> Result<(), Status> {
        if value & !mask::ALL != 0 {
            return Err(Status::INVALID_FIELD);
        }
        if namespace_id == NAMESPACE_ID_ALL {
            let all = subsystem.namespaces().iter().map(|namespace| (namespace.id, value));
            self.masks = all.collect();
            return Ok(());
        }
        let id = NamespaceId(namespace_id);
        subsystem.namespace(id).ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)?;
        self.masks.insert(id, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::testing::io_subsystem;

    const ONE: NamespaceId = NamespaceId(1);
    const THREE: NamespaceId = NamespaceId(3);

    fn shown(notifications: &Notifications) -> (u64, u8, u8, u32) {
        let page = notifications.page();
        (page.count.get(), page.notification, page.available, page.namespace_id.get())
    }

    #[test]
    fn notifications_are_read_in_order_and_then_there_are_none() {
        let mut log = Notifications::default();
        assert_eq!(shown(&log), (0, 0, 0, 0));
        assert!(log.add(ONE, Event::RegistrationPreempted));
        assert!(log.add(THREE, Event::ReservationReleased));
        assert_eq!(shown(&log), (1, 1, 1, 1));
        assert!(log.was_read());
        assert_eq!(shown(&log), (2, 2, 0, 3));
        assert!(!log.was_read());
        assert_eq!(shown(&log), (0, 0, 0, 0));
        assert!(!log.was_read());
    }

    #[test]
    fn the_last_that_fits_waits_and_one_more_is_lost_but_counted() {
        let mut log = Notifications::default();
        for _ in 0..=NOTIFICATIONS_MAX {
            log.add(ONE, Event::ReservationPreempted);
        }
        assert_eq!(shown(&log).2, 63);
        for _ in 0..NOTIFICATIONS_MAX {
            log.was_read();
        }
        log.add(ONE, Event::ReservationPreempted);
        assert_eq!(shown(&log).0, 66, "number 65 is missing");
    }

    #[test]
    fn the_count_wraps_past_zero() {
        let mut log = Notifications { count: u64::MAX, ..Notifications::default() };
        log.add(ONE, Event::ReservationPreempted);
        assert_eq!(shown(&log).0, 1);
    }

    #[test]
    fn what_is_masked_is_neither_told_nor_counted() {
        let subsystem = io_subsystem();
        let mut log = Notifications::default();
        log.set_mask(&subsystem, 1, mask::RESERVATION_RELEASED).unwrap();
        assert!(!log.add(ONE, Event::ReservationReleased));
        assert!(log.add(ONE, Event::ReservationPreempted));
        assert!(log.add(THREE, Event::ReservationReleased));
        assert_eq!(shown(&log).0, 1);
        log.set_mask(&subsystem, NAMESPACE_ID_ALL, mask::ALL).unwrap();
        assert!(!log.add(THREE, Event::ReservationReleased));
        assert_eq!((log.mask(ONE), log.mask(THREE)), (mask::ALL, mask::ALL));
    }

    #[test]
    fn masks_of_no_meaning_and_of_no_namespace_are_refused() {
        let subsystem = io_subsystem();
        let mut log = Notifications::default();
        for bad in [1, mask::ALL + 1, 16] {
            assert_eq!(log.set_mask(&subsystem, 1, bad), Err(Status::INVALID_FIELD));
        }
        let unknown = Err(Status::INVALID_NAMESPACE_OR_FORMAT);
        assert_eq!(log.set_mask(&subsystem, 2, 0), unknown);
        assert_eq!(log.set_mask(&subsystem, 0, 0), unknown);
    }
}
