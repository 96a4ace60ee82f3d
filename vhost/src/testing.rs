//! A guest for tests: its memory, and the driver's side of a ring, written through the file.
//!
//! Test code. The memory is two neighbouring regions and one apart, so that buffers can run from
//! one into the next and out of all of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::memory::{FrontendAddress, GuestAddress, GuestRegion, MemoryMap, RegionPlace};
use crate::virtqueue::layout::{available_bytes, used_bytes};
use crate::virtqueue::{Ring, RingAddresses};

/// A file of zeroes in memory.
pub(crate) fn memory_file(len_bytes: u64) -> File {
    let file = File::from(memfd_create("test-guest", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(len_bytes).unwrap();
    file
}

/// Guest addresses and lengths of the regions; in the file they follow each other.
pub(crate) const REGIONS: [(u64, u64); 3] =
    [(0x10_0000, 0x10_0000), (0x20_0000, 0x10_0000), (0x80_0000, 0x10_0000)];
/// How far the front end's addresses are from the guest's.
pub(crate) const FRONTEND_OFFSET: u64 = 0x7f00_0000_0000;
/// Where rings are put, one for each queue.
const RING_START: u64 = 0x10_0000;
const RING_STRIDE: u64 = 0x1_0000;
/// Where buffers begin.
pub(crate) const BUFFERS_START: u64 = 0x18_0000;

/// Where a region of [`REGIONS`] is, and its offset in the file.
pub(crate) fn region_place(index: usize) -> (RegionPlace, u64) {
    let offset = REGIONS[..index].iter().map(|(_, len)| len).sum();
    let (start, len_bytes) = REGIONS[index];
    let frontend = FrontendAddress(start + FRONTEND_OFFSET);
    (RegionPlace { guest: GuestAddress(start), frontend, len_bytes }, offset)
}

/// See the module.
#[derive(Debug)]
pub(crate) struct TestGuest {
    pub file: File,
    pub memory: Arc<MemoryMap>,
}

impl TestGuest {
    pub fn new() -> TestGuest {
        let file = memory_file(REGIONS.iter().map(|(_, len)| len).sum());
        let regions = (0..REGIONS.len()).map(|index| {
            let (place, offset) = region_place(index);
            GuestRegion::map(place, &file, offset).unwrap()
        });
        let memory = Arc::new(MemoryMap::new(regions.collect()).unwrap());
        TestGuest { file, memory }
    }

    fn offset(address: u64) -> u64 {
        let found = (0..REGIONS.len()).find_map(|index| {
            let (place, offset) = region_place(index);
            let within = address.checked_sub(place.guest.0)?;
            (within < place.len_bytes).then_some(offset + within)
        });
        found.unwrap_or_else(|| panic!("{address:#x} is outside of the guest"))
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, TestGuest::offset(address)).unwrap();
    }

    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, TestGuest::offset(address)).unwrap();
        bytes
    }
}

/// A descriptor as a driver writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

impl Entry {
    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// The driver's side of a ring.
#[derive(Debug)]
pub(crate) struct Driver {
    pub queue: u16,
    pub size: u16,
    pub available: u16,
    seen_used: u16,
}

impl Driver {
    pub fn new(queue: u16, size: u16) -> Driver {
        Driver { queue, size, available: 0, seen_used: 0 }
    }

    fn start(&self) -> u64 {
        RING_START + u64::from(self.queue) * RING_STRIDE
    }

    pub fn descriptors(&self) -> u64 {
        self.start()
    }

    pub fn available_ring(&self) -> u64 {
        self.start() + 16 * u64::from(self.size)
    }

    pub fn used_ring(&self) -> u64 {
        (self.available_ring() + available_bytes(self.size)).next_multiple_of(4)
    }

    pub fn addresses(&self) -> RingAddresses {
        assert!(self.used_ring() + used_bytes(self.size) <= self.start() + RING_STRIDE);
        let of = |address| FrontendAddress(address + FRONTEND_OFFSET);
        RingAddresses {
            descriptors: of(self.descriptors()),
            available: of(self.available_ring()),
            used: of(self.used_ring()),
        }
    }

    pub fn ring(&self, guest: &TestGuest) -> Ring {
        Ring::new(Arc::clone(&guest.memory), u32::from(self.size), self.addresses()).unwrap()
    }

    pub fn set_descriptor(&self, guest: &TestGuest, index: u16, entry: Entry) {
        guest.write(self.descriptors() + 16 * u64::from(index), &entry.bytes());
    }

    /// Writes a chain of buffers (address, length, flags) from descriptor `first` on.
    pub fn set_chain(&self, guest: &TestGuest, first: u16, buffers: &[(u64, u32, u16)]) {
        for (place, (address, len, flags)) in (0..).zip(buffers) {
            let is_last = usize::from(place) + 1 == buffers.len();
            let flags = flags | u16::from(!is_last);
            let next = first + place + 1;
            let entry = Entry { address: *address, len: *len, flags, next };
            self.set_descriptor(guest, first + place, entry);
        }
    }

    /// Makes a head available.
    pub fn offer(&mut self, guest: &TestGuest, head: u16) {
        let slot = u64::from(self.available % self.size);
        guest.write(self.available_ring() + 4 + 2 * slot, &head.to_le_bytes());
        self.set_available(guest, self.available.wrapping_add(1));
    }

    pub fn set_available(&mut self, guest: &TestGuest, index: u16) {
        self.available = index;
        guest.write(self.available_ring() + 2, &index.to_le_bytes());
    }

    pub fn set_flags(&self, guest: &TestGuest, flags: u16) {
        guest.write(self.available_ring(), &flags.to_le_bytes());
    }

    pub fn set_used_event(&self, guest: &TestGuest, event: u16) {
        let at = self.available_ring() + 4 + 2 * u64::from(self.size);
        guest.write(at, &event.to_le_bytes());
    }

    fn half(guest: &TestGuest, address: u64) -> u16 {
        u16::from_le_bytes(guest.read(address, 2).try_into().unwrap())
    }

    pub fn used_flags(&self, guest: &TestGuest) -> u16 {
        Driver::half(guest, self.used_ring())
    }

    pub fn available_event(&self, guest: &TestGuest) -> u16 {
        Driver::half(guest, self.used_ring() + 4 + 8 * u64::from(self.size))
    }

    /// Heads and lengths that came back since the last call.
    pub fn used(&mut self, guest: &TestGuest) -> Vec<(u32, u32)> {
        let index = Driver::half(guest, self.used_ring() + 2);
        let mut found = Vec::new();
        while self.seen_used != index {
            let slot = u64::from(self.seen_used % self.size);
            let bytes = guest.read(self.used_ring() + 4 + 8 * slot, 8);
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            found.push((word(0), word(4)));
            self.seen_used = self.seen_used.wrapping_add(1);
        }
        found
    }
}
