//! Two ends of a stream inside one thread, without a kernel: what tests and the simulator drive.
//!
//! Bytes written at one end can be read at the other at once; how much one call moves, and how
//! much the stream holds, can be limited, so that every split of a message gets exercised.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::rc::Rc;

use super::{Socket, SocketError};

/// Limits of a stream in memory.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// Most bytes that one call receives or sends.
    pub call_bytes: usize,
    /// Most bytes under way in one direction.
    pub stream_bytes: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        MemoryLimits { call_bytes: usize::MAX, stream_bytes: 1 << 20 }
    }
}

#[derive(Debug, Default)]
struct Direction {
    bytes: VecDeque<u8>,
    closed: bool,
}

/// One end; dropping it closes the stream for the other.
#[derive(Debug)]
pub struct MemorySocket {
    incoming: Rc<RefCell<Direction>>,
    outgoing: Rc<RefCell<Direction>>,
    limits: MemoryLimits,
}

impl MemorySocket {
    /// Two connected ends.
    pub fn pair(limits: MemoryLimits) -> (MemorySocket, MemorySocket) {
        let (one, two) = (Rc::<RefCell<Direction>>::default(), Rc::default());
        let first = MemorySocket { incoming: Rc::clone(&one), outgoing: Rc::clone(&two), limits };
        (first, MemorySocket { incoming: two, outgoing: one, limits })
    }
}

impl Socket for MemorySocket {
    fn receive(&mut self, into: &mut [IoSliceMut<'_>]) -> Result<usize, SocketError> {
        let mut incoming = self.incoming.borrow_mut();
        if incoming.bytes.is_empty() {
            return Err(if incoming.closed {
                SocketError::Closed
            } else {
                SocketError::WouldBlock
            });
        }
        let mut moved = 0;
        for slice in into {
            let count = slice.len().min(incoming.bytes.len()).min(self.limits.call_bytes - moved);
            for (place, byte) in slice.iter_mut().zip(incoming.bytes.drain(..count)) {
                *place = byte;
            }
            moved += count;
        }
        Ok(moved)
    }

    fn send(&mut self, from: &[IoSlice<'_>]) -> Result<usize, SocketError> {
        let mut outgoing = self.outgoing.borrow_mut();
        if outgoing.closed {
            return Err(SocketError::Closed);
        }
        let mut moved = 0;
        for slice in from {
            let room = self.limits.stream_bytes.saturating_sub(outgoing.bytes.len());
            let count = slice.len().min(room).min(self.limits.call_bytes - moved);
            outgoing.bytes.extend(&slice[..count]);
            moved += count;
        }
        if moved == 0 { Err(SocketError::WouldBlock) } else { Ok(moved) }
    }

    fn peer(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 2))
    }

    fn local(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    fn connected(&mut self) -> Result<(), SocketError> {
        Ok(())
    }
}

impl Drop for MemorySocket {
    fn drop(&mut self) {
        self.incoming.borrow_mut().closed = true;
        self.outgoing.borrow_mut().closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_within_the_limits() {
        let limits = MemoryLimits { call_bytes: 3, stream_bytes: 4 };
        let (mut one, mut two) = MemorySocket::pair(limits);
        assert_eq!(one.send(&[IoSlice::new(b"abcdef")]), Ok(3));
        assert_eq!(one.send(&[IoSlice::new(b"def")]), Ok(1));
        assert_eq!(one.send(&[IoSlice::new(b"ef")]), Err(SocketError::WouldBlock));
        let mut bytes = [0; 8];
        assert_eq!(two.receive(&mut [IoSliceMut::new(&mut bytes)]), Ok(3));
        assert_eq!(two.receive(&mut [IoSliceMut::new(&mut bytes[3..])]), Ok(1));
        assert_eq!(&bytes[..4], b"abcd");
        let nothing = two.receive(&mut [IoSliceMut::new(&mut bytes)]);
        assert_eq!(nothing, Err(SocketError::WouldBlock));
        drop(one);
        assert_eq!(two.receive(&mut [IoSliceMut::new(&mut bytes)]), Err(SocketError::Closed));
    }
}
