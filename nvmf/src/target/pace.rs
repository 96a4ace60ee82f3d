//! How slow a host may be while it holds what others could use.
//!
//! Called by the core's sweep for each connection that is a queue. The deadlines of a connection
//! are for a host that does nothing at all; this is for one that does just enough to meet them, a
//! byte now and then. A host that is waited for all through a [`WINDOW`] has to move at least
//! [`BYTES_MIN`] in it, and at least so much that what it holds is back after [`WINDOWS_MAX`] of
//! them. The specification leaves it to the controller how long it waits (NVMe/TCP Transport 1.0
//! section 3.5 names only fatal errors), and a Linux host gives a command up after 30 s itself.

use reactor::Nanos;

/// How long a host is watched before it is judged: as long as one that does nothing is let live.
pub(super) const WINDOW: Nanos = Nanos::from_secs(10);

/// What must move within a window, unless all that was waited for is there before: 6.4 KiB/s.
pub(super) const BYTES_MIN: u64 = 64 << 10;

/// Windows after which everything that a connection holds must have moved.
pub(super) const WINDOWS_MAX: u64 = 8;

/// The pace in one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Since when the host has been waited for without having moved enough.
    since: Nanos,
    /// What had moved by then.
    moved_bytes: u64,
}

impl Pace {
    /// Nothing has moved yet.
    pub(super) fn new(now: Nanos) -> Pace {
        Pace { since: now, moved_bytes: 0 }
    }

    /// A look at it: whether the host is `waited_for`, what has moved in all, and how much the
    /// connection holds. True when the host is too slow.
    pub(super) fn is_too_slow(
        &mut self,
        now: Nanos,
        waited_for: bool,
        moved_bytes: u64,
        held_bytes: usize,
    ) -> bool {
        let enough = BYTES_MIN.max(held_bytes as u64 / WINDOWS_MAX);
        if !waited_for || moved_bytes - self.moved_bytes >= enough {
            *self = Pace { since: now, moved_bytes };
            return false;
        }
        now >= self.since + WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Nanos = WINDOW;

    fn judged(waited_for: bool, moved_bytes: u64, held_bytes: u64) -> bool {
        let mut pace = Pace::new(Nanos(0));
        pace.is_too_slow(END, waited_for, moved_bytes, usize::try_from(held_bytes).unwrap())
    }

    #[test]
    fn a_host_that_is_waited_for_has_to_move_so_much_and_no_less() {
        assert!(!judged(true, BYTES_MIN, 0) && judged(true, BYTES_MIN - 1, 0));
        assert!(!judged(false, 0, 0));
    }

    #[test]
    fn who_holds_more_has_to_move_more() {
        let most = WINDOWS_MAX * BYTES_MIN;
        assert!(!judged(true, BYTES_MIN, most) && judged(true, BYTES_MIN, most + WINDOWS_MAX));
        assert!(!judged(true, 8 * BYTES_MIN, 8 * most));
    }

    #[test]
    fn a_window_is_as_long_as_it_says_and_begins_anew_when_enough_has_moved() {
        let mut pace = Pace::new(Nanos(0));
        assert!(!pace.is_too_slow(Nanos(END.0 - 1), true, BYTES_MIN - 1, 0));
        assert!(!pace.is_too_slow(END, true, BYTES_MIN, 0));
        assert!(!pace.is_too_slow(Nanos(2 * END.0 - 1), true, 2 * BYTES_MIN - 1, 0));
        assert!(pace.is_too_slow(Nanos(2 * END.0), true, 2 * BYTES_MIN - 1, 0));
    }
}
