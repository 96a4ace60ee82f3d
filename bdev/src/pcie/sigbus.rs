//! Survives the registers of a device that is no longer there.
//!
//! The kernel answers an access to a BAR whose device was removed, or does not decode memory, with
//! SIGBUS rather than with all ones as the bus would. The handler puts a page of all ones in the
//! place of the registers and lets the access happen again; the supervisor then reads that the
//! device is gone. Any other SIGBUS goes where it went before. BARs are registered on control
//! threads; the handler, on whatever thread, loads a few words and makes one system call.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{c_int, c_void, siginfo_t};

/// BARs that can be guarded at once.
pub const GUARDS_MAX: usize = 64;

/// The page that is put in the place of a register's.
const PAGE_BYTES: usize = 4096;

/// A guarded range; a length of zero is none.
struct Range {
    start: AtomicUsize,
    len_bytes: AtomicUsize,
}

static RANGES: [Range; GUARDS_MAX] =
    [const { Range { start: AtomicUsize::new(0), len_bytes: AtomicUsize::new(0) } }; GUARDS_MAX];

/// The handler that was there before; none when it could not be set.
static PREVIOUS: OnceLock<Option<libc::sigaction>> = OnceLock::new();

/// A mapped BAR whose loss the process survives. Ends with the value.
#[derive(Debug)]
pub struct Guard(usize);

impl Guard {
    /// Guards a mapping, page by page.
    ///
    /// # Errors
    ///
    /// The handler cannot be set, or [`GUARDS_MAX`] ranges are guarded.
    pub fn new(start: usize, len_bytes: usize) -> io::Result<Guard> {
        if PREVIOUS.get_or_init(install).is_none() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        for (index, range) in RANGES.iter().enumerate() {
            // Relaxed: the claim is unique whatever else is seen; the length publishes it below.
            let free = range.start.compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed);
            if free.is_ok() {
                // Release, partner: the acquire in `handle`.
                range.len_bytes.store(len_bytes, Ordering::Release);
                return Ok(Guard(index));
            }
        }
        Err(io::ErrorKind::QuotaExceeded.into())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let range = &RANGES[self.0];
        range.len_bytes.store(0, Ordering::Release);
        // Release: whoever claims it next comes after the length above.
        range.start.store(0, Ordering::Release);
    }
}

fn install() -> Option<libc::sigaction> {
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = handle;
    // SAFETY: all zeroes is a valid sigaction; the handler does only what a handler may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut previous: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        let done = libc::sigaction(libc::SIGBUS, &action, &raw mut previous);
        (done == 0).then_some(previous)
    }
}

extern "C" fn handle(_signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a valid structure to a handler set with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() }.addr();
    let guarded = RANGES.iter().any(|range| {
        // Acquire, partner: the release in `new`.
        let len_bytes = range.len_bytes.load(Ordering::Acquire);
        let start = range.start.load(Ordering::Relaxed);
        address.wrapping_sub(start) < len_bytes
    });
    if guarded && replace(address & !(PAGE_BYTES - 1)) {
        return;
    }
    if let Some(Some(previous)) = PREVIOUS.get() {
        // SAFETY: the action that was in force before; the access happens again and meets it.
        unsafe { libc::sigaction(libc::SIGBUS, previous, std::ptr::null_mut()) };
    } else {
        // SAFETY: resets to what ends the process, when the access happens again.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
}

/// Puts a page of all ones in the place of a page of registers.
fn replace(page: usize) -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: the page is of a guarded BAR, which is accessed through raw pointers only and stays
    // mapped, by this page now; mmap is a plain system call and may be made in a handler.
    unsafe {
        let errno = *libc::__errno_location();
        let wanted = std::ptr::without_provenance_mut::<c_void>(page);
        let got = libc::mmap(wanted, PAGE_BYTES, protection, flags, -1, 0);
        *libc::__errno_location() = errno;
        if got == libc::MAP_FAILED {
            return false;
        }
        got.cast::<u8>().write_bytes(0xff, PAGE_BYTES);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::ptr::NonNull;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

    use super::*;
    use crate::pcie::bar::{ALL_ONES, Bar};

    #[test]
    fn registers_that_vanish_read_as_all_ones_and_can_be_written() {
        let file = memfd_create("registers", MFdFlags::MFD_CLOEXEC).unwrap();
        let len = NonZeroUsize::new(2 * PAGE_BYTES).unwrap();
        nix::unistd::ftruncate(&file, 2 * PAGE_BYTES as i64).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, &file, 0) }.unwrap();
        let guard = Guard::new(base.as_ptr().addr(), len.get()).unwrap();
        let base = base.cast::<u8>();
        // SAFETY: mapped until the end of the test.
        let bar = unsafe { Bar::new(NonNull::new(base.as_ptr()).unwrap(), 2 * 4096) };
        bar.write32(0x1c, 1);
        assert_eq!(bar.read32(0x1c), 1);
        nix::unistd::ftruncate(&file, 0).unwrap();
        assert_eq!(bar.read32(0x1c), ALL_ONES);
        let doorbell = bar.doorbell(0, 4).unwrap();
        bar.ring(doorbell, 7);
        assert_eq!(bar.read32(0x1004), ALL_ONES);
        drop(guard);
        // SAFETY: nobody uses it any more.
        unsafe { munmap(base.cast(), len.get()) }.unwrap();
    }
}
