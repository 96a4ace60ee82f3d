//! Which sessions there are, over all cores.
//!
//! Asked when a login completes and when a session ends, never for an I/O. A session that an
//! initiator begins anew takes the place of the old one (RFC 7143 section 6.3.5).

use std::sync::{Mutex, MutexGuard, PoisonError};

use reactor::mesh::CoreIndex;
use reactor::slab::SlotId;

/// Sessions that can be at once.
pub const SESSIONS_MAX: usize = 1024;

/// Where a session's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub core: CoreIndex,
    pub connection: SlotId,
}

/// What tells sessions apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionKey {
    pub initiator: String,
    pub isid: [u8; 6],
    /// Nothing for discovery.
    pub target: Option<usize>,
}

#[derive(Debug)]
struct Entry {
    key: SessionKey,
    tsih: u16,
    place: Place,
}

#[derive(Debug, Default)]
struct Register {
    entries: Vec<Entry>,
    last_tsih: u16,
}

/// The sessions of a target.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<Register>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins: its handle, and the place of the one that it replaces. Nothing when there
    /// are too many.
    pub(super) fn open(&self, key: SessionKey, place: Place) -> Option<(u16, Option<Place>)> {
        let mut register = self.lock();
        let old = register.entries.iter().position(|entry| entry.key == key);
        let old = old.map(|at| register.entries.swap_remove(at).place);
        if register.entries.len() >= SESSIONS_MAX {
            return None;
        }
        let is_used =
            |register: &Register, tsih| register.entries.iter().any(|entry| entry.tsih == tsih);
        let mut tsih = register.last_tsih;
        loop {
            tsih = tsih.wrapping_add(1).max(1);
            if !is_used(&register, tsih) {
                break;
            }
        }
        register.last_tsih = tsih;
        register.entries.push(Entry { key, tsih, place });
        Some((tsih, old))
    }

    /// A session has ended.
    pub(super) fn close(&self, place: Place) {
        self.lock().entries.retain(|entry| entry.place != place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> SessionKey {
        SessionKey { initiator: "iqn.a".into(), isid: [0; 6], target: Some(number) }
    }

    fn place(index: u32) -> Place {
        Place { core: CoreIndex(0), connection: SlotId { index, generation: 1 } }
    }

    #[test]
    fn a_session_takes_the_place_of_the_one_before_it() {
        let sessions = Sessions::default();
        let (first, none) = sessions.open(key(0), place(1)).unwrap();
        let (second, old) = sessions.open(key(0), place(2)).unwrap();
        assert_ne!(first, second);
        assert_eq!((none, old), (None, Some(place(1))));
        sessions.close(place(1));
        assert_eq!(sessions.open(key(0), place(3)).unwrap().1, Some(place(2)));
    }

    #[test]
    fn so_many_sessions_fit_and_no_more() {
        let sessions = Sessions::default();
        for number in 0..SESSIONS_MAX {
            assert!(sessions.open(key(number), place(number as u32)).is_some());
        }
        assert!(sessions.open(key(SESSIONS_MAX), place(0)).is_none());
    }
}
