//! The registers of a controller: the first BAR, as memory.
//!
//! Mapped by a platform (over VFIO, or memory of the software controller), used by the supervisor
//! and, for doorbells, by every core. Accesses are volatile and of one width each (NVMe Base 2.0
//! section 3.1.3 wants no other). What the device wrote may change at any time and is copied once.

use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use crate::nvme::register::DOORBELL_OFFSET;

/// What a register of a device reads as that is no longer there.
pub const ALL_ONES: u32 = u32::MAX;

/// A mapped BAR. Copy: the platform that made it keeps it mapped for as long as it lives, and every
/// holder of a copy holds that platform too.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    base: NonNull<u8>,
    len_bytes: u32,
}

// SAFETY: it is an address of device memory; each access is a single volatile load or store, which
// the device orders, and who writes which register is a matter of the protocol, not of memory.
unsafe impl Send for Bar {}
// SAFETY: as above.
unsafe impl Sync for Bar {}

/// Place of a doorbell, checked to be inside its BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell(u32);

impl Bar {
    /// A BAR at `base`.
    ///
    /// # Safety
    /// `len_bytes` from `base` on must be mapped, readable and writable, aligned to 8 bytes, and
    /// stay so for as long as anybody has the value or a copy of it.
    pub const unsafe fn new(base: NonNull<u8>, len_bytes: u32) -> Bar {
        Bar { base, len_bytes }
    }

    /// First byte, for the platform to unmap.
    pub(super) const fn base(self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Its length.
    pub const fn len_bytes(self) -> u32 {
        self.len_bytes
    }

    fn at<T>(self, offset: u32) -> *mut T {
        let width = size_of::<T>();
        let end = (offset as usize).checked_add(width);
        assert!(end.is_some_and(|end| end <= self.len_bytes as usize), "a register is in its BAR");
        assert!((offset as usize).is_multiple_of(width), "a register is aligned");
        // SAFETY: the offset was just checked to be inside the mapping.
        unsafe { self.base.as_ptr().add(offset as usize).cast() }
    }

    /// Reads a register of 4 bytes.
    pub fn read32(self, offset: u32) -> u32 {
        // SAFETY: mapped for as long as the value exists (see `new`), inside, and aligned.
        u32::from_le(unsafe { self.at::<u32>(offset).read_volatile() })
    }

    /// Reads a register of 8 bytes, as two of 4: not every device or emulator likes them wide.
    pub fn read64(self, offset: u32) -> u64 {
        u64::from(self.read32(offset)) | u64::from(self.read32(offset + 4)) << 32
    }

    /// Writes a register of 4 bytes.
    pub fn write32(self, offset: u32, value: u32) {
        // SAFETY: as in `read32`.
        unsafe { self.at::<u32>(offset).write_volatile(value.to_le()) }
    }

    /// Writes a register of 8 bytes, low half first.
    pub fn write64(self, offset: u32, value: u64) {
        self.write32(offset, (value & u64::from(u32::MAX)) as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }

    /// The doorbell at a place in the array of doorbells (two for each queue); nothing when the BAR
    /// is too short to have it.
    pub fn doorbell(self, index: u32, stride_bytes: u32) -> Option<Doorbell> {
        let offset = index.checked_mul(stride_bytes)?.checked_add(DOORBELL_OFFSET)?;
        let fits = offset.checked_add(4)? <= self.len_bytes && offset.is_multiple_of(4);
        fits.then_some(Doorbell(offset))
    }

    /// Rings a doorbell, after everything that was written to memory before.
    #[inline]
    pub fn ring(self, doorbell: Doorbell, value: u32) {
        write_barrier();
        // SAFETY: the doorbell was checked to be inside, and aligned, when it was made.
        unsafe {
            let register = self.base.as_ptr().add(doorbell.0 as usize).cast::<u32>();
            register.write_volatile(value.to_le());
        }
    }
}

/// What was stored before is in memory, for a device to read, before what is stored after.
#[inline]
pub fn write_barrier() {
    // Release, partner: the device's read of the queue after it has seen the doorbell. Of ordinary
    // and of uncached stores alike x86 keeps the order by itself.
    fence(Ordering::Release);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier changes no memory. A device is outside the inner shareable domain, which
    // is all that the fence above covers.
    unsafe {
        std::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
}

/// What is loaded after this is no older than what was loaded before, from a device too.
#[inline]
pub fn read_barrier() {
    // Acquire, partner: the device's store of a completion's phase, after all else that it wrote.
    fence(Ordering::Acquire);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as in `write_barrier`.
    unsafe {
        std::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(memory: &mut [u64]) -> Bar {
        let base = NonNull::new(memory.as_mut_ptr()).unwrap().cast();
        // SAFETY: the test keeps the memory, and looks at it through the BAR only.
        unsafe { Bar::new(base, u32::try_from(size_of_val(memory)).unwrap()) }
    }

    #[test]
    fn a_wide_register_is_two_narrow_ones() {
        let mut memory = [0_u64; 4];
        let bar = bar(&mut memory);
        bar.write64(8, 0x1122_3344_5566_7788);
        assert_eq!((bar.read32(8), bar.read32(12)), (0x5566_7788, 0x1122_3344));
        assert_eq!(bar.read64(8), 0x1122_3344_5566_7788);
    }

    #[test]
    fn a_doorbell_outside_the_bar_is_none() {
        let mut memory = [0_u64; 514];
        let bar = bar(&mut memory);
        assert!(bar.doorbell(3, 4).is_some());
        assert_eq!(bar.doorbell(4, 4), None);
        assert_eq!(bar.doorbell(u32::MAX, 4), None);
        bar.ring(bar.doorbell(3, 4).unwrap(), 9);
        assert_eq!(bar.read32(DOORBELL_OFFSET + 12), 9);
    }

    #[test]
    #[should_panic(expected = "in its BAR")]
    fn a_register_outside_the_bar_is_a_bug() {
        let mut memory = [0_u64; 1];
        bar(&mut memory).read32(8);
    }
}
