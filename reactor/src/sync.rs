//! The atomics, cells and shared pointers of the rings: the standard ones, or loom's.
//!
//! Owns nothing. Used by `spsc` and `sleep`, on every thread. Under `--cfg loom` the same code is
//! compiled against loom, which runs a test through every interleaving and every value that the
//! memory model allows a load to return.

#[cfg(loom)]
pub use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
};

#[cfg(not(loom))]
pub use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};

/// The standard cell behind the shape of loom's, whose accesses are closures so that it can see
/// where an access begins and ends.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Hands a pointer for reading to `access`; using it is the caller's unsafe code.
    #[inline]
    pub fn with<R>(&self, access: impl FnOnce(*const T) -> R) -> R {
        access(self.0.get())
    }

    /// Hands a pointer for writing to `access`; using it is the caller's unsafe code.
    #[inline]
    pub fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
        access(self.0.get())
    }
}
