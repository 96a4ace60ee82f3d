//! Readiness of sockets that a device owns: queue pairs are polled, not told, so the loop notes
//! here what epoll reported and the queue pair looks when it is polled.
//!
//! Keys with [`DEVICE_KEY_BIT`] belong to this table; all others are the service's own and go to
//! [`crate::Service::socket_ready`].

use super::{Ready, SocketKey};

/// Set in every key that [`DeviceReadiness::allocate`] hands out; services keep it clear.
pub const DEVICE_KEY_BIT: u64 = 1 << 62;

/// Key of descriptors that end a core's sleep and mean nothing more: who owns one is polled in any
/// case. All of them share it; it names no slot of the table.
pub const DESCRIPTOR_KEY: SocketKey = SocketKey(DEVICE_KEY_BIT | (DEVICE_KEY_BIT - 1));

/// Sockets that the devices of one core can have open.
pub const DEVICE_SOCKETS_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    used: bool,
    readable: bool,
    writable: bool,
    closed: bool,
}

/// What was reported of device sockets and not looked at yet.
#[derive(Debug, Default)]
pub struct DeviceReadiness {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

impl DeviceReadiness {
    /// A key for a new socket; none when all are in use. Slow path.
    pub fn allocate(&mut self) -> Option<SocketKey> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < DEVICE_SOCKETS_MAX => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
            None => return None,
        };
        self.slots[index] = Slot { used: true, ..Slot::default() };
        Some(SocketKey(DEVICE_KEY_BIT | index as u64))
    }

    /// Gives a key back once its socket is closed.
    pub fn release(&mut self, key: SocketKey) {
        if let Some(slot) = self.slots.get_mut(index_of(key))
            && slot.used
        {
            *slot = Slot::default();
            self.free.push(index_of(key));
        }
    }

    /// Notes a report; false when the key is not a device's. Called by the loop.
    pub fn note(&mut self, ready: Ready) -> bool {
        if ready.key.0 & DEVICE_KEY_BIT == 0 {
            return false;
        }
        // A report of a socket that was closed in the same pass finds its slot unused.
        if let Some(slot) = self.slots.get_mut(index_of(ready.key)) {
            slot.readable |= ready.readable;
            slot.writable |= ready.writable;
            slot.closed |= ready.closed;
        }
        true
    }

    /// What was reported since the last look.
    pub fn take(&mut self, key: SocketKey) -> Ready {
        let Some(slot) = self.slots.get_mut(index_of(key)) else {
            return Ready { key, readable: false, writable: false, closed: false };
        };
        let Slot { readable, writable, closed, .. } = *slot;
        let ready = Ready { key, readable, writable, closed };
        slot.readable = false;
        slot.writable = false;
        slot.closed = false;
        ready
    }

    /// True when something was reported and not looked at.
    pub fn is_pending(&self, key: SocketKey) -> bool {
        self.slots.get(index_of(key)).is_some_and(|slot| slot.readable || slot.writable)
    }
}

fn index_of(key: SocketKey) -> usize {
    usize::try_from(key.0 & !DEVICE_KEY_BIT).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_seen_once_and_only_under_its_own_key() {
        let mut table = DeviceReadiness::default();
        let (one, two) = (table.allocate().unwrap(), table.allocate().unwrap());
        assert!(table.note(Ready { key: one, readable: true, writable: false, closed: false }));
        assert!(table.is_pending(one) && !table.is_pending(two));
        assert_eq!(
            table.take(one),
            Ready { key: one, readable: true, writable: false, closed: false }
        );
        assert!(!table.take(one).readable);
        assert!(!table.note(Ready {
            key: SocketKey(3),
            readable: true,
            writable: true,
            closed: false
        }));
    }

    #[test]
    fn a_key_given_back_is_used_again_without_its_old_reports() {
        let mut table = DeviceReadiness::default();
        let one = table.allocate().unwrap();
        table.note(Ready { key: one, readable: true, writable: true, closed: true });
        table.release(one);
        assert_eq!(table.allocate(), Some(one));
        assert!(!table.is_pending(one));
    }

    #[test]
    fn there_is_a_limit() {
        let mut table = DeviceReadiness::default();
        for _ in 0..DEVICE_SOCKETS_MAX {
            table.allocate().unwrap();
        }
        assert_eq!(table.allocate(), None);
    }
}
