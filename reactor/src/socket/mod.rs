//! Stream sockets behind a trait, one set a core (ARCHITECTURE 5).
//!
//! [`epoll`] is the kernel's TCP, [`memory`] connects two ends inside a test without a kernel. A
//! socket never blocks; its readiness is edge-triggered: [`Ready`] is reported once, and the owner
//! goes on until the socket would block.

use std::fmt::Debug;
use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

pub mod epoll;
pub mod memory;
pub mod readiness;

/// Names a socket within its core; chosen by the owner, given back in [`Ready`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketKey(pub u64);

/// What happened to a socket since the last report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Whose socket.
    pub key: SocketKey,
    /// There may be something to receive (data, the end of the stream, an error, a connection).
    pub readable: bool,
    /// There may be room to send.
    pub writable: bool,
    /// The peer sends no more, or the stream is broken: what is left is to be received until
    /// [`SocketError::Closed`], and no further report may come.
    pub closed: bool,
}

/// Why a socket call moved nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketError {
    /// Nothing to receive, or no room to send: wait for the next [`Ready`].
    WouldBlock,
    /// The peer is gone or the connection is broken: drop the socket.
    Closed,
}

/// One connected stream.
pub trait Socket: Debug {
    /// Receives into the buffers in order. Never returns zero: the end of the stream is
    /// [`SocketError::Closed`]. Fewer bytes than there was room for means that the socket is
    /// empty, and the next bytes will be reported.
    fn receive(&mut self, into: &mut [IoSliceMut<'_>]) -> Result<usize, SocketError>;

    /// Sends from the buffers in order; may send a part.
    fn send(&mut self, from: &[IoSlice<'_>]) -> Result<usize, SocketError>;

    /// Address of the other end.
    fn peer(&self) -> SocketAddr;

    /// Address of this end.
    fn local(&self) -> SocketAddr;

    /// The result of a connection attempt, once the socket was reported writable.
    fn connected(&mut self) -> Result<(), SocketError>;
}

/// A stream that was accepted and belongs to no core yet; can be sent to any.
#[derive(Debug)]
pub struct AcceptedStream {
    /// The kernel's socket, non-blocking.
    pub descriptor: OwnedFd,
    /// Address of the other end.
    pub peer: SocketAddr,
    /// Address of this end.
    pub local: SocketAddr,
}

/// A bound socket that accepts streams.
pub trait Listener: Debug {
    /// The next stream that waits, if there is one.
    fn accept(&mut self) -> Result<AcceptedStream, SocketError>;

    /// The address it is bound to, with the port that it got.
    fn local(&self) -> SocketAddr;
}

/// How long a look at the sockets may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: the core is busy.
    No,
    /// Until something happens, or this long.
    AtMost(Duration),
    /// Until something happens.
    Forever,
}

/// The sockets of one core.
pub trait Network: Debug {
    /// Starts a connection; reported writable when it is made or has failed.
    fn connect(&mut self, to: SocketAddr, key: SocketKey) -> std::io::Result<Box<dyn Socket>>;

    /// Takes over a stream that was accepted on this core or another.
    fn adopt(&mut self, stream: AcceptedStream, key: SocketKey)
    -> std::io::Result<Box<dyn Socket>>;

    /// Takes over a listener; reported readable while streams wait.
    fn listen(&mut self, socket: OwnedFd, key: SocketKey) -> std::io::Result<Box<dyn Listener>>;

    /// Reports a descriptor that is no socket (a device's eventfd) each time that it becomes
    /// readable again, until it is closed. Refused by networks that have no descriptors.
    fn watch(&mut self, _descriptor: BorrowedFd<'_>, _key: SocketKey) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Reports a descriptor of [`Network::watch`] no more. For one that another process has open as
    /// well: closing ours does not end the reports of that.
    fn unwatch(&mut self, _descriptor: BorrowedFd<'_>) {}

    /// Appends what became ready to `ready`, waiting as told.
    fn poll(&mut self, wait: Wait, ready: &mut Vec<Ready>);
}
