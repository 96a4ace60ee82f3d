//! A part of a guest's memory, mapped into this process.
//!
//! Made on a control thread from the descriptor that the front end sent, unmapped when the last
//! owner lets go of it, which is after every ring that could name it was drained. The guest goes on
//! to write here at any time, so nobody ever makes a reference into it.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::MemoryError;

/// Bytes of the address space that are this file's, from its offset on.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len_bytes: NonZeroUsize,
}

// SAFETY: the mapping is a range of addresses, which belongs to the process and not to a thread;
// whoever looks at what is there does so by volatile or atomic access, or gives it to a device.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`; the value itself never changes.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len_bytes` of a file from `offset_bytes` on. The file must have them: a page beyond
    /// its end would end the process at the first touch.
    ///
    /// # Errors
    ///
    /// The file is shorter, the length is zero, or the system refuses.
    pub fn new(file: &File, offset_bytes: u64, len_bytes: u64) -> Result<Mapping, MemoryError> {
        let end = offset_bytes.checked_add(len_bytes).ok_or(MemoryError::Range)?;
        let file_bytes = file.metadata().map_err(MemoryError::System)?.len();
        if end > file_bytes {
            return Err(MemoryError::Short { file_bytes, needed_bytes: end });
        }
        let len_bytes = usize::try_from(len_bytes).map_err(|_| MemoryError::Range)?;
        let len_bytes = NonZeroUsize::new(len_bytes).ok_or(MemoryError::Range)?;
        let offset = libc::off_t::try_from(offset_bytes).map_err(|_| MemoryError::Range)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours.
        let base = unsafe { mmap(None, len_bytes, protection, MapFlags::MAP_SHARED, file, offset) };
        let base = base.map_err(|error| MemoryError::System(error.into()))?;
        Ok(Mapping { base: base.cast(), len_bytes })
    }

    /// First byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes.get() as u64
    }

    /// The address of `offset_bytes`, when `len_bytes` from there on are mapped.
    pub fn at(&self, offset_bytes: u64, len_bytes: u64) -> Option<NonNull<u8>> {
        let end = offset_bytes.checked_add(len_bytes)?;
        if end > self.len_bytes() {
            return None;
        }
        let offset = usize::try_from(offset_bytes).ok()?;
        // SAFETY: the offset is within the mapping, or just behind its last byte.
        Some(unsafe { self.base.add(offset) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and whoever had an address of it had this value.
        let unmapped = unsafe { munmap(self.base.cast(), self.len_bytes.get()) };
        debug_assert!(unmapped.is_ok(), "what was mapped can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory_file;

    #[test]
    fn a_file_is_mapped_up_to_its_end_and_not_a_byte_further() {
        let file = memory_file(8192);
        let mapping = Mapping::new(&file, 4096, 4096).unwrap();
        assert_eq!(mapping.len_bytes(), 4096);
        assert!(mapping.at(4095, 1).is_some() && mapping.at(4096, 0).is_some());
        assert!(mapping.at(4096, 1).is_none() && mapping.at(u64::MAX, 1).is_none());
        assert!(matches!(Mapping::new(&file, 4096, 4097), Err(MemoryError::Short { .. })));
        assert!(matches!(Mapping::new(&file, 0, 0), Err(MemoryError::Range)));
        assert!(matches!(Mapping::new(&file, u64::MAX, 2), Err(MemoryError::Range)));
        assert!(matches!(Mapping::new(&file, 1, 4096), Err(MemoryError::System(_))));
    }
}
