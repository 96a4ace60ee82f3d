//! Asynchronous events: what happened, and which log page has more about it.
//!
//! Dword 0 of the completion of an Asynchronous Event Request, written by the target's admin queue
//! and read by hosts. NVMe Base 2.0 section 5.2.

use super::log_page;

/// Types of events (bits 2:0).
mod event_type {
    pub const ERROR: u8 = 0;
    pub const SMART: u8 = 1;
    pub const NOTICE: u8 = 2;
    pub const COMMAND_SET: u8 = 6;
    pub const VENDOR: u8 = 7;
}

/// An asynchronous event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AsyncEvent {
    /// An error that no completion could carry; the information of the specification's table.
    Error(u8),
    /// Reliability, temperature or spare: the information of the specification's table.
    Smart(u8),
    /// Namespaces were attached, detached or changed: log page 04h.
    NamespaceChanged,
    /// A firmware activation starts: log page 03h.
    FirmwareActivation,
    /// Asymmetric access of a group changed: log page 0Ch.
    AnaChanged,
    /// The discovery log changed: log page 70h.
    DiscoveryChanged,
    /// A reservation notification: log page 80h.
    ReservationNotification,
    /// Another event, as it came.
    Other {
        /// Type, bits 2:0.
        event_type: u8,
        /// Information, bits 15:8.
        information: u8,
        /// Log page, bits 23:16.
        log_page: u8,
    },
}

impl AsyncEvent {
    /// An I/O queue was written with an invalid doorbell register (of [`AsyncEvent::Error`]).
    pub const INVALID_DOORBELL: Self = Self::Error(0);
    /// Persistent internal error (of [`AsyncEvent::Error`]).
    pub const PERSISTENT_INTERNAL_ERROR: Self = Self::Error(3);

    const fn parts(self) -> (u8, u8, u8) {
        match self {
            Self::Error(information) => (event_type::ERROR, information, log_page::ERROR),
            Self::Smart(information) => (event_type::SMART, information, log_page::SMART),
            Self::NamespaceChanged => (event_type::NOTICE, 0x00, log_page::CHANGED_NAMESPACES),
            Self::FirmwareActivation => (event_type::NOTICE, 0x01, log_page::FIRMWARE_SLOT),
            Self::AnaChanged => (event_type::NOTICE, 0x03, log_page::ANA),
            Self::DiscoveryChanged => (event_type::NOTICE, 0xf0, log_page::DISCOVERY),
            Self::ReservationNotification => {
                (event_type::COMMAND_SET, 0x00, log_page::RESERVATION_NOTIFICATION)
            }
            Self::Other { event_type, information, log_page } => {
                (event_type, information, log_page)
            }
        }
    }

    /// Dword 0 of the completion.
    pub const fn result(self) -> u32 {
        let (event_type, information, log_page) = self.parts();
        u32::from_le_bytes([event_type & 0b111, information, log_page, 0])
    }

    /// Reads dword 0 of a completion.
    pub const fn from_result(result: u32) -> Self {
        let [low, information, log_page, _] = result.to_le_bytes();
        let event_type = low & 0b111;
        match (event_type, information, log_page) {
            (event_type::ERROR, _, log_page::ERROR) => Self::Error(information),
            (event_type::SMART, _, log_page::SMART) => Self::Smart(information),
            (event_type::NOTICE, 0x00, log_page::CHANGED_NAMESPACES) => Self::NamespaceChanged,
            (event_type::NOTICE, 0x01, log_page::FIRMWARE_SLOT) => Self::FirmwareActivation,
            (event_type::NOTICE, 0x03, log_page::ANA) => Self::AnaChanged,
            (event_type::NOTICE, 0xf0, log_page::DISCOVERY) => Self::DiscoveryChanged,
            (event_type::COMMAND_SET, 0x00, log_page::RESERVATION_NOTIFICATION) => {
                Self::ReservationNotification
            }
            _ => Self::Other { event_type, information, log_page },
        }
    }

    /// Whether it is one of a vendor's own.
    pub const fn is_vendor_specific(self) -> bool {
        self.parts().0 == event_type::VENDOR
    }

    /// The log page that has more about it; reading it makes room for the next event of the type.
    pub const fn log_page(self) -> u8 {
        self.parts().2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn results_are_those_of_the_specification() {
        assert_eq!(AsyncEvent::NamespaceChanged.result(), 0x0004_0002);
        assert_eq!(AsyncEvent::AnaChanged.result(), 0x000c_0302);
        assert_eq!(AsyncEvent::DiscoveryChanged.result(), 0x0070_f002);
        assert_eq!(AsyncEvent::ReservationNotification.result(), 0x0080_0006);
        assert_eq!(AsyncEvent::PERSISTENT_INTERNAL_ERROR.result(), 0x0001_0300);
    }

    proptest! {
        #[test]
        fn every_result_survives_but_for_reserved_bits(result: u32) {
            let event = AsyncEvent::from_result(result);
            prop_assert_eq!(event.result(), result & 0x00ff_ff07);
            prop_assert_eq!(AsyncEvent::from_result(event.result()), event);
        }
    }
}
