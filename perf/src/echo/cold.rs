//! Where the server's payloads come from and go to: one hot buffer, or places all over a memory of
//! a device's size.
//!
//! Owned by the server, on its core's thread. The cold memory has the pages of a malloc device:
//! anonymous, with transparent hugepages (`PagePreference::Ordinary` asks for just that).

use reactor::dma::region::HUGE_PAGE_BYTES;
use reactor::dma::{DmaError, PagePreference, Region};
use reactor::random::Random;

use bdev::Lba;

use crate::workload::{Direction, Extent, Order, Stream};

/// Alignment of a place: a page, as on a malloc device with 4 KiB I/O.
pub const PLACE_BYTES: u32 = 4096;

/// Memory of payloads.
#[derive(Debug)]
pub struct Payloads {
    region: Region,
    places: Stream,
    payload_bytes: u32,
    keeping: Keeping,
}

/// What becomes of a payload that was received together with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    /// Nothing: the ceiling of a device that keeps nothing.
    Dropped,
    /// It is copied to its place, as a memory device would.
    Copied,
}

/// One payload's place: its first byte within the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place(usize);

impl Payloads {
    /// One hot place for payloads of up to `payload_bytes`.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub fn hot(payload_bytes: u32) -> Result<Payloads, DmaError> {
        Self::over(u64::from(payload_bytes), payload_bytes, Order::Sequential, Keeping::Dropped)
    }

    /// Places all over `len_bytes` of memory, in the given order.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub fn cold(len_bytes: u64, payload_bytes: u32, order: Order) -> Result<Payloads, DmaError> {
        Self::over(len_bytes.max(u64::from(payload_bytes)), payload_bytes, order, Keeping::Copied)
    }

    fn over(
        len_bytes: u64,
        payload_bytes: u32,
        order: Order,
        keeping: Keeping,
    ) -> Result<Payloads, DmaError> {
        let whole = len_bytes.next_multiple_of(HUGE_PAGE_BYTES as u64);
        let whole = usize::try_from(whole).unwrap_or(usize::MAX);
        let region = Region::map(whole, PagePreference::Ordinary)?;
        let slack = len_bytes - u64::from(payload_bytes);
        // Random payloads start at any page, sequential ones follow each other.
        let place_bytes = match order {
            Order::Random => PLACE_BYTES,
            Order::Sequential => payload_bytes.next_multiple_of(PLACE_BYTES),
        };
        let places = slack / u64::from(place_bytes) + 1;
        let extent = Extent { first: Lba(0), places, place_blocks: place_bytes };
        let places = Stream::new(Direction::Read, order, extent, 0);
        Ok(Payloads { region, places, payload_bytes, keeping })
    }

    /// The place of the next payload.
    #[inline]
    pub fn next_place(&mut self, random: &mut Random) -> Place {
        let place = self.places.place(random);
        Place((place * u64::from(self.places.extent().place_blocks)) as usize)
    }

    /// Keeps a part of a payload, when payloads are kept.
    #[inline]
    pub fn keep(&mut self, place: Place, offset: usize, from: &[u8]) {
        if self.keeping == Keeping::Copied {
            self.bytes_mut(place, offset, from.len()).copy_from_slice(from);
        }
    }

    /// `len_bytes` from `offset` on of the payload at `place`, to send.
    #[inline]
    pub fn bytes(&self, place: Place, offset: usize, len_bytes: usize) -> &[u8] {
        let start = self.start(place, offset, len_bytes);
        // SAFETY: `start` checked that the range is inside the region, which is mapped, zeroed
        // at mapping, and ours alone; `&self` keeps writers away.
        #[expect(unsafe_code, reason = "a region is raw memory")]
        unsafe {
            std::slice::from_raw_parts(self.region.base().as_ptr().add(start), len_bytes)
        }
    }

    /// The same, to receive into.
    #[inline]
    pub fn bytes_mut(&mut self, place: Place, offset: usize, len_bytes: usize) -> &mut [u8] {
        let start = self.start(place, offset, len_bytes);
        // SAFETY: as in `bytes`; `&mut self` keeps everybody away.
        #[expect(unsafe_code, reason = "a region is raw memory")]
        unsafe {
            std::slice::from_raw_parts_mut(self.region.base().as_ptr().add(start), len_bytes)
        }
    }

    /// Where in the region that is.
    #[inline]
    fn start(&self, place: Place, offset: usize, len_bytes: usize) -> usize {
        assert!(
            offset + len_bytes <= self.payload_bytes as usize
                && place.0 + offset + len_bytes <= self.region.len_bytes(),
            "a payload stays at its place"
        );
        place.0 + offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_payloads_share_one_place() {
        let mut payloads = Payloads::hot(131_072).unwrap();
        let mut random = Random::new(1);
        let first = payloads.next_place(&mut random);
        assert_eq!(payloads.next_place(&mut random), first);
        payloads.bytes_mut(first, 131_071, 1)[0] = 7;
        assert_eq!(payloads.bytes(first, 131_071, 1), [7]);
    }

    #[test]
    fn cold_payloads_spread_over_all_pages_and_stay_inside() {
        let mut payloads = Payloads::cold(4 << 20, 131_072, Order::Random).unwrap();
        let mut random = Random::new(1);
        let mut highest = 0;
        for _ in 0..10_000 {
            let place = payloads.next_place(&mut random);
            assert!(place.0.is_multiple_of(4096));
            assert_eq!(payloads.bytes(place, 0, 131_072).len(), 131_072);
            highest = highest.max(place.0);
        }
        assert_eq!(highest, (4 << 20) - 131_072);
    }

    #[test]
    fn sequential_payloads_follow_each_other() {
        let mut payloads = Payloads::cold(4 << 20, 131_072, Order::Sequential).unwrap();
        let mut random = Random::new(1);
        let places: Vec<_> = (0..33).map(|_| payloads.next_place(&mut random).0).collect();
        assert_eq!((places[1], places[31], places[32]), (131_072, 31 * 131_072, 0));
    }

    #[test]
    #[should_panic(expected = "stays at its place")]
    fn one_byte_past_a_payload_is_refused() {
        let payloads = Payloads::hot(4096).unwrap();
        payloads.bytes(Place(0), 1, 4096);
    }
}
