//! One mapping of DMA memory: 2 MiB hugepages, or ordinary locked pages when there are none.
//!
//! Called at start, on the thread of the core that will own the region. Memory is zero when the
//! region is handed out, and resident, so that nothing faults later. Hugepages come from a memfd
//! with `MFD_HUGETLB` and are touched with `MADV_POPULATE_WRITE`, which reports a lack (or a pod's
//! limit) as an error; `MAP_POPULATE` would hide it until a later SIGBUS.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{
    MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, mmap_anonymous, munlock, munmap,
};

/// Size of the hugepages used, and the unit in which regions are allocated: 2 MiB.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// `MADV_POPULATE_WRITE` (Linux 5.14); libc knows it, nix does not.
const POPULATE_WRITE: i32 = libc::MADV_POPULATE_WRITE;

/// Names a region within the process, so that a device can find its I/O address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionId(pub u32);

impl RegionId {
    /// A name that no other memory of the process ever had: for memory that is not mapped here, a
    /// guest's.
    pub fn unique() -> RegionId {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        // Relaxed: the number only has to be unique, nothing is published through it.
        RegionId(NEXT_ID.fetch_add(1, Ordering::Relaxed))
    }
}

/// Which pages back a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// 2 MiB pages of hugetlbfs.
    Huge,
    /// Ordinary pages, locked.
    OrdinaryLocked,
    /// Ordinary pages that the limit on locked memory did not let us lock.
    OrdinaryUnlocked,
}

/// Which pages to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagePreference {
    /// Hugepages when there are enough, ordinary pages otherwise.
    HugeFirst,
    /// Ordinary pages only (`--no-huge`).
    Ordinary,
}

/// Why a region could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// The system has too little memory.
    #[error(
        "cannot allocate {len_bytes} bytes of DMA memory: give the process more memory, \
         or ask for smaller pools or fewer cores"
    )]
    OutOfMemory {
        /// What was asked for.
        len_bytes: usize,
        /// The system's answer.
        #[source]
        source: nix::Error,
    },
    /// A length of zero, or not a multiple of 2 MiB.
    #[error("a DMA region of {len_bytes} bytes is not a positive multiple of 2 MiB")]
    BadLength {
        /// What was asked for.
        len_bytes: usize,
    },
}

/// A mapping of DMA memory, alive until the process ends.
#[derive(Debug)]
pub struct Region {
    id: RegionId,
    base: NonNull<u8>,
    len_bytes: usize,
    pages: PageKind,
}

impl Region {
    /// Maps `len_bytes` (a multiple of 2 MiB), zeroed and resident.
    pub fn map(len_bytes: usize, preference: PagePreference) -> Result<Region, DmaError> {
        let length = NonZeroUsize::new(len_bytes)
            .filter(|length| length.get().is_multiple_of(HUGE_PAGE_BYTES))
            .ok_or(DmaError::BadLength { len_bytes })?;
        let huge = match preference {
            PagePreference::HugeFirst => map_huge(length).ok(),
            PagePreference::Ordinary => None,
        };
        let (base, pages) = match huge {
            Some(base) => (base, PageKind::Huge),
            None => map_ordinary(length)
                .map_err(|source| DmaError::OutOfMemory { len_bytes, source })?,
        };
        Ok(Region { id: RegionId::unique(), base, len_bytes, pages })
    }

    /// The region's name.
    pub fn id(&self) -> RegionId {
        self.id
    }

    /// First byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Which pages back it.
    pub fn pages(&self) -> PageKind {
        self.pages
    }

    /// Gives ordinary pages back to the system; the addresses stay mapped, and read as zeroes.
    /// For whoever owns all buffers of the region and will use none again.
    pub(super) fn give_back(&self) {
        if self.pages == PageKind::Huge {
            return;
        }
        // Refusals only mean that the pages stay until the process ends.
        // SAFETY: the range is a mapping of this region alone; no buffer of it is in use.
        let _ = unsafe { munlock(self.base.cast(), self.len_bytes) };
        // SAFETY: as above.
        let _ = unsafe { madvise(self.base.cast(), self.len_bytes, MmapAdvise::MADV_DONTNEED) };
    }
}

fn map_huge(length: NonZeroUsize) -> nix::Result<NonNull<u8>> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    let file: OwnedFd = memfd_create("mayastor-dma", flags)?;
    let size = i64::try_from(length.get()).map_err(|_| nix::Error::EINVAL)?;
    nix::unistd::ftruncate(&file, size)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
    let base = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0)? };
    populate(base, length)?;
    Ok(base.cast())
}

fn map_ordinary(length: NonZeroUsize) -> nix::Result<(NonNull<u8>, PageKind)> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let padded = length.checked_add(HUGE_PAGE_BYTES).ok_or(nix::Error::EINVAL)?;
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
    let start = unsafe { mmap_anonymous(None, padded, protection, MapFlags::MAP_PRIVATE)? };
    // Aligned to 2 MiB, so that transparent hugepages can back it; the slack is never touched.
    let skip_bytes = start.as_ptr().cast::<u8>().align_offset(HUGE_PAGE_BYTES);
    // SAFETY: the mapping is 2 MiB longer than `length`, and the offset is below 2 MiB.
    let base = unsafe { start.cast::<u8>().add(skip_bytes) };
    // SAFETY: the range is inside the mapping just made; the advice changes no contents.
    // Refusal only means that there are no transparent hugepages.
    let _ = unsafe { madvise(base.cast(), length.get(), MmapAdvise::MADV_HUGEPAGE) };
    populate(base.cast(), length)?;
    // SAFETY: the range is inside the mapping just made.
    let locked = unsafe { mlock(base.cast(), length.get()) };
    Ok((base, if locked.is_ok() { PageKind::OrdinaryLocked } else { PageKind::OrdinaryUnlocked }))
}

/// Makes every page resident, or unmaps and says why not.
fn populate(base: NonNull<libc::c_void>, length: NonZeroUsize) -> nix::Result<()> {
    // SAFETY: the range is inside a mapping made by the caller and used by nobody yet.
    let code = unsafe { libc::madvise(base.as_ptr(), length.get(), POPULATE_WRITE) };
    let Err(error) = nix::errno::Errno::result(code) else { return Ok(()) };
    if error == nix::Error::EINVAL {
        // A kernel before 5.14 lacks the advice: touch the pages instead.
        // SAFETY: as above; the mapping is writable over its whole length.
        unsafe { base.cast::<u8>().as_ptr().write_bytes(0, length.get()) };
        return Ok(());
    }
    // SAFETY: nobody has been given the mapping.
    unsafe { munmap(base, length.get())? };
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_region_is_aligned_zero_and_writable() {
        let region = Region::map(HUGE_PAGE_BYTES, PagePreference::Ordinary).unwrap();
        assert_ne!(region.pages(), PageKind::Huge);
        assert!(region.base().as_ptr().addr().is_multiple_of(HUGE_PAGE_BYTES));
        // SAFETY: the region is ours and this long.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(region.base().as_ptr(), region.len_bytes()) };
        assert!(bytes.iter().all(|byte| *byte == 0));
        bytes[HUGE_PAGE_BYTES - 1] = 7;
    }

    #[test]
    fn what_was_given_back_is_zeroes() {
        let region = Region::map(HUGE_PAGE_BYTES, PagePreference::Ordinary).unwrap();
        // SAFETY: the region is ours and this long, and nothing else looks at it.
        unsafe { region.base().write_volatile(7) };
        region.give_back();
        // SAFETY: as above.
        assert_eq!(unsafe { region.base().read_volatile() }, 0);
    }

    #[test]
    fn a_length_that_is_no_multiple_of_a_hugepage_is_refused() {
        for len_bytes in [0, 1, HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES + 1] {
            let refused = Region::map(len_bytes, PagePreference::Ordinary);
            assert!(matches!(refused, Err(DmaError::BadLength { .. })), "{len_bytes}");
        }
    }

    #[test]
    fn too_much_memory_is_an_error_and_not_a_crash() {
        let too_much = HUGE_PAGE_BYTES << 24;
        assert!(matches!(
            Region::map(too_much, PagePreference::HugeFirst),
            Err(DmaError::OutOfMemory { .. })
        ));
    }
}
