//! One guest for all tests of a file.
//!
//! A boot takes seconds and most tests leave a guest as they found it, so they take turns with
//! one. A test that fails leaves nothing to trust: its guest is ended, and the next test boots
//! another.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::machine::Guest;

/// A place for a guest, to be a `static` of the file.
#[derive(Debug)]
pub struct SharedGuest {
    boot: fn() -> Result<Guest>,
    guest: Mutex<Option<Guest>>,
}

impl SharedGuest {
    /// An empty place; `boot` makes the guest when the first test wants it.
    pub const fn new(boot: fn() -> Result<Guest>) -> SharedGuest {
        SharedGuest { boot, guest: Mutex::new(None) }
    }

    /// Waits for the guest to be free, and boots it where there is none.
    pub fn lock(&self) -> Result<Lease<'_>> {
        let mut guest = self.guest.lock().unwrap_or_else(PoisonError::into_inner);
        if !guest.as_mut().is_some_and(Guest::is_alive) {
            *guest = None;
            *guest = Some((self.boot)()?);
        }
        Ok(Lease { guest })
    }
}

/// The right to use the guest, for the length of a test.
#[derive(Debug)]
pub struct Lease<'a> {
    guest: MutexGuard<'a, Option<Guest>>,
}

impl Deref for Lease<'_> {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        self.guest.as_ref().expect("a lease is made with a guest in place")
    }
}

impl DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut Guest {
        self.guest.as_mut().expect("a lease is made with a guest in place")
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *self.guest = None;
        }
    }
}
