//! The host's memory as the device reaches it.
//!
//! An address of the device is looked up among the regions that were mapped, like an IOMMU does;
//! what is in none of them is refused and counted. Addresses begin far from those of the process,
//! so that one passed by mistake is found out. Used under the controller's lock.

use std::ptr::NonNull;

use reactor::dma::Region;

use crate::pcie::platform::Mapping;

/// Address of the first region; 2 MiB and more lie between regions, mapped to nothing.
const FIRST_ADDRESS: u64 = 1 << 40;
const GAP_BYTES: u64 = 2 << 20;

/// No mapping has the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unmapped;

#[derive(Debug)]
struct Window {
    mapping: Mapping,
    base: NonNull<u8>,
}

/// What is mapped.
#[derive(Debug, Default)]
pub(super) struct Host {
    windows: Vec<Window>,
    next: u64,
}

// SAFETY: regions stay mapped in the process whatever thread looks; the lock of the controller
// around it keeps two of its own accesses apart, the protocol of queues those of the driver.
unsafe impl Send for Host {}

impl Host {
    pub(super) fn map(&mut self, region: &Region) -> Mapping {
        let address = self.next.max(FIRST_ADDRESS);
        let len_bytes = region.len_bytes();
        self.next = address + len_bytes as u64 + GAP_BYTES;
        let mapping = Mapping { address, len_bytes };
        self.windows.push(Window { mapping, base: region.base() });
        mapping
    }

    pub(super) fn unmap(&mut self, mapping: Mapping) {
        self.windows.retain(|window| window.mapping != mapping);
    }

    pub(super) fn unmap_all(&mut self) {
        self.windows.clear();
    }

    pub(super) fn count(&self) -> usize {
        self.windows.len()
    }

    fn at(&self, address: u64, len_bytes: usize) -> Result<*mut u8, Unmapped> {
        for Window { mapping, base } in &self.windows {
            let Some(offset) = address.checked_sub(mapping.address) else { continue };
            let Ok(offset) = usize::try_from(offset) else { continue };
            if offset.checked_add(len_bytes).is_some_and(|end| end <= mapping.len_bytes) {
                // SAFETY: inside the region.
                return Ok(unsafe { base.as_ptr().add(offset) });
            }
        }
        Err(Unmapped)
    }

    pub(super) fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unmapped> {
        let source = self.at(address, into.len())?;
        // SAFETY: inside a region; `into` is a reference and so not part of it.
        unsafe { into.as_mut_ptr().copy_from_nonoverlapping(source, into.len()) };
        Ok(())
    }

    pub(super) fn write(&self, address: u64, from: &[u8]) -> Result<(), Unmapped> {
        let target = self.at(address, from.len())?;
        // SAFETY: as in `read`.
        unsafe { target.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    }

    pub(super) fn read32(&self, address: u64) -> Result<u32, Unmapped> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Stores 4 bytes after everything that was stored before.
    pub(super) fn publish32(&self, address: u64, value: u32) -> Result<(), Unmapped> {
        let target = self.at(address, 4)?;
        if !target.addr().is_multiple_of(4) {
            return Err(Unmapped);
        }
        let target = target.cast::<std::sync::atomic::AtomicU32>();
        // SAFETY: inside a region and aligned; shared with the driver as an atomic.
        // Release, partner: the driver's acquire of a phase.
        unsafe { (*target).store(value.to_le(), std::sync::atomic::Ordering::Release) };
        Ok(())
    }
}
