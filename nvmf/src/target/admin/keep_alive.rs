//! The keep alive timer of a controller, and the time that a host has to enable one.
//!
//! Only commands of the admin queue restart it (command based keep alive: CTRATT.TBKAS is 0), so
//! no core has to tell another about its I/O. NVMe Base 2.0 section 3.9.

use reactor::Nanos;

use super::properties::ControllerState;
use crate::target::limits::KEEP_ALIVE_GRANULARITY;

/// Time that a connected host has to enable its controller, first or after a reset or shutdown:
/// two minutes, after which the association may be ended (NVMe Base 2.0 section 3.3.2.2).
pub(super) const ENABLE_TIMEOUT: Nanos = Nanos::from_secs(120);

/// Unit of the timer in milliseconds.
const GRANULARITY_MS: u32 = KEEP_ALIVE_GRANULARITY as u32 * 100;

/// When a host was last heard of, and how long it may be silent.
#[derive(Debug)]
pub(super) struct KeepAlive {
    timeout_ms: u32,
    since: Nanos,
}

impl KeepAlive {
    pub fn new(timeout_ms: u32, now: Nanos) -> Self {
        Self { timeout_ms, since: now }
    }

    /// The timeout as the host gave it, in milliseconds; 0 for none.
    pub fn timeout_ms(&self) -> u32 {
        self.timeout_ms
    }

    pub fn set_timeout_ms(&mut self, timeout_ms: u32) {
        self.timeout_ms = timeout_ms;
    }

    /// The host gave a sign of life.
    pub fn restart(&mut self, now: Nanos) {
        self.since = now;
    }

    /// When the host is to be given up; `None` for never. The timeout is rounded up to the
    /// granularity.
    pub fn deadline(&self, state: ControllerState) -> Option<Nanos> {
        match state {
            ControllerState::Ready if self.timeout_ms == 0 => None,
            ControllerState::Ready => {
                let units = u64::from(self.timeout_ms.div_ceil(GRANULARITY_MS));
                Some(self.since + Nanos::from_millis(units * u64::from(GRANULARITY_MS)))
            }
            // A host has as long to read that the controller failed.
            ControllerState::Disabled | ControllerState::ShutDown | ControllerState::Failed => {
                Some(self.since + ENABLE_TIMEOUT)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Nanos = Nanos::from_secs(7);

    fn deadline(timeout_ms: u32, state: ControllerState) -> Option<Nanos> {
        KeepAlive::new(timeout_ms, START).deadline(state)
    }

    #[test]
    fn a_timeout_is_rounded_up_to_whole_units() {
        for (timeout_ms, seconds) in [(1, 1), (1000, 1), (1001, 2), (5000, 5), (u32::MAX, 4294968)]
        {
            let expected = START + Nanos::from_secs(seconds);
            assert_eq!(deadline(timeout_ms, ControllerState::Ready), Some(expected));
        }
    }

    #[test]
    fn a_timeout_of_zero_never_expires_while_ready() {
        assert_eq!(deadline(0, ControllerState::Ready), None);
    }

    #[test]
    fn a_controller_that_is_not_enabled_is_given_up_whatever_its_timeout() {
        for state in [ControllerState::Disabled, ControllerState::ShutDown] {
            assert_eq!(deadline(0, state), Some(START + ENABLE_TIMEOUT));
            assert_eq!(deadline(5000, state), Some(START + ENABLE_TIMEOUT));
        }
    }

    #[test]
    fn a_sign_of_life_restarts_the_timer() {
        let mut timer = KeepAlive::new(5000, START);
        timer.restart(START + Nanos::from_secs(4));
        let expected = START + Nanos::from_secs(9);
        assert_eq!(timer.deadline(ControllerState::Ready), Some(expected));
    }
}
