//! The kernel's TCP: non-blocking sockets in one edge-triggered epoll set a core.
//!
//! `epoll_wait(0)` costs 0.2 to 0.3 us whatever the number of connections, a look at each socket
//! 0.2 us a connection (DEPENDENCIES, "TCP in polled mode"), so the set is asked once a pass. The
//! core's eventfd is in the same set, under a key of its own, and is drained by the reactor.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::sockopt::{
    KeepAlive, ReuseAddr, SocketError as PendingError, TcpKeepCount, TcpKeepIdle, TcpKeepInterval,
    TcpNoDelay, TcpUserTimeout,
};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrStorage, accept4, bind, connect,
    getsockopt, listen, sendmsg, setsockopt, socket,
};
use nix::sys::uio::readv;

use super::{AcceptedStream, Listener, Network, Ready, Socket, SocketError, SocketKey, Wait};

/// Events taken from the kernel at once.
const EVENTS_PER_POLL: usize = 64;

/// Streams that may wait to be accepted.
const LISTEN_BACKLOG: i32 = 1024;

/// A peer that has vanished without a word is asked after this long without traffic, in seconds.
const KEEP_ALIVE_IDLE_S: u32 = 5;
/// And asked again this often, in seconds,
const KEEP_ALIVE_INTERVAL_S: u32 = 2;
/// so many times, before the stream is reported broken.
const KEEP_ALIVE_PROBES: u32 = 3;
/// Data that a peer has not acknowledged for this long breaks the stream, in milliseconds.
const USER_TIMEOUT_MS: u32 = 10_000;

/// The epoll set of one core.
#[derive(Debug)]
pub struct EpollNetwork {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl EpollNetwork {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(EpollNetwork { epoll, events: vec![EpollEvent::empty(); EVENTS_PER_POLL] })
    }

    /// Adds the bell of the core: reported readable as long as it is.
    pub fn watch_level(&self, descriptor: BorrowedFd<'_>, key: SocketKey) -> io::Result<()> {
        Ok(self.epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, key.0))?)
    }

    fn add_stream(&self, descriptor: &OwnedFd, key: SocketKey) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        setsockopt(descriptor, TcpNoDelay, &true)?;
        setsockopt(descriptor, KeepAlive, &true)?;
        setsockopt(descriptor, TcpKeepIdle, &KEEP_ALIVE_IDLE_S)?;
        setsockopt(descriptor, TcpKeepInterval, &KEEP_ALIVE_INTERVAL_S)?;
        setsockopt(descriptor, TcpKeepCount, &KEEP_ALIVE_PROBES)?;
        setsockopt(descriptor, TcpUserTimeout, &USER_TIMEOUT_MS)?;
        Ok(self.epoll.add(descriptor.as_fd(), EpollEvent::new(flags, key.0))?)
    }
}

impl Network for EpollNetwork {
    fn connect(&mut self, to: SocketAddr, key: SocketKey) -> io::Result<Box<dyn Socket>> {
        let descriptor = stream_socket(&to)?;
        match connect(descriptor.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.add_stream(&descriptor, key)?;
        let local = SocketAddr::from(([0, 0, 0, 0], 0));
        Ok(Box::new(EpollSocket { descriptor, peer: to, local }))
    }

    fn adopt(&mut self, stream: AcceptedStream, key: SocketKey) -> io::Result<Box<dyn Socket>> {
        let AcceptedStream { descriptor, peer, local } = stream;
        self.add_stream(&descriptor, key)?;
        Ok(Box::new(EpollSocket { descriptor, peer, local }))
    }

    fn listen(&mut self, socket: OwnedFd, key: SocketKey) -> io::Result<Box<dyn Listener>> {
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        // Level-triggered: a stream that there was no room for is reported again.
        self.epoll.add(listener.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, key.0))?;
        Ok(Box::new(EpollListener { listener, address }))
    }

    /// Edge-triggered: the owner need not read an eventfd to be told of the next event.
    fn watch(&mut self, descriptor: BorrowedFd<'_>, key: SocketKey) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        Ok(self.epoll.add(descriptor, EpollEvent::new(flags, key.0))?)
    }

    fn unwatch(&mut self, descriptor: BorrowedFd<'_>) {
        // One that is not in the set is not reported either.
        let _ = self.epoll.delete(descriptor);
    }

    fn poll(&mut self, wait: Wait, ready: &mut Vec<Ready>) {
        let timeout = match wait {
            Wait::No => EpollTimeout::ZERO,
            Wait::Forever => EpollTimeout::NONE,
            Wait::AtMost(span) => EpollTimeout::try_from(span).unwrap_or(EpollTimeout::MAX),
        };
        // An error here is an interrupted wait; the loop comes round again.
        let count = self.epoll.wait(&mut self.events, timeout).unwrap_or(0);
        for event in &self.events[..count] {
            let flags = event.events();
            let broken = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP;
            ready.push(Ready {
                key: SocketKey(event.data()),
                readable: flags.intersects(EpollFlags::EPOLLIN | broken),
                writable: flags.intersects(EpollFlags::EPOLLOUT | broken),
                closed: flags.intersects(broken),
            });
        }
    }
}

/// A bound and listening socket, ready for [`Network::listen`] of any core. Any thread; errors are
/// those of the system (address in use, no permission).
pub fn bind_listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let descriptor = stream_socket(&address)?;
    setsockopt(&descriptor, ReuseAddr, &true)?;
    bind(descriptor.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&descriptor, Backlog::new(LISTEN_BACKLOG)?)?;
    Ok(descriptor)
}

fn stream_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(family, SockType::Stream, flags, None)?)
}

/// A TCP stream of the kernel.
#[derive(Debug)]
struct EpollSocket {
    descriptor: OwnedFd,
    peer: SocketAddr,
    local: SocketAddr,
}

impl Socket for EpollSocket {
    fn receive(&mut self, into: &mut [IoSliceMut<'_>]) -> Result<usize, SocketError> {
        match readv(&self.descriptor, into) {
            Ok(0) => Err(SocketError::Closed),
            Ok(count) => Ok(count),
            Err(Errno::EAGAIN | Errno::EINTR) => Err(SocketError::WouldBlock),
            Err(_) => Err(SocketError::Closed),
        }
    }

    fn send(&mut self, from: &[IoSlice<'_>]) -> Result<usize, SocketError> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match sendmsg::<()>(self.descriptor.as_raw_fd(), from, &[], flags, None) {
            Ok(count) => Ok(count),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => Err(SocketError::WouldBlock),
            Err(_) => Err(SocketError::Closed),
        }
    }

    fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn local(&self) -> SocketAddr {
        self.local
    }

    fn connected(&mut self) -> Result<(), SocketError> {
        match getsockopt(&self.descriptor, PendingError) {
            Ok(0) => {}
            _ => return Err(SocketError::Closed),
        }
        // Not connected yet reads as "no peer".
        let stream = TcpStream::from(self.descriptor.try_clone().map_err(|_| SocketError::Closed)?);
        match (stream.peer_addr(), stream.local_addr()) {
            (Ok(_), Ok(local)) => {
                self.local = local;
                Ok(())
            }
            _ => Err(SocketError::WouldBlock),
        }
    }
}

/// A listening socket of the kernel.
#[derive(Debug)]
struct EpollListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener for EpollListener {
    fn accept(&mut self) -> Result<AcceptedStream, SocketError> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let descriptor = match accept4(self.listener.as_raw_fd(), flags) {
            // SAFETY: the kernel just made this descriptor and gave it to us alone.
            Ok(descriptor) => unsafe { OwnedFd::from_raw_fd(descriptor) },
            // Too many open files is no reason to stop listening: it is tried again later.
            Err(_) => return Err(SocketError::WouldBlock),
        };
        let stream = TcpStream::from(descriptor);
        // A peer that has gone again already has no address.
        let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
            return Err(SocketError::WouldBlock);
        };
        Ok(AcceptedStream { descriptor: OwnedFd::from(stream), peer, local })
    }

    fn local(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use super::*;

    const SOON: Wait = Wait::AtMost(Duration::from_secs(5));

    fn wait_for(network: &mut EpollNetwork, key: SocketKey) -> Ready {
        let mut ready = Vec::new();
        for _ in 0..100 {
            network.poll(SOON, &mut ready);
            if let Some(found) = ready.iter().find(|ready| ready.key == key) {
                return *found;
            }
        }
        panic!("{key:?} never became ready");
    }

    fn accepted_pair(network: &mut EpollNetwork) -> (Box<dyn Socket>, TcpStream) {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut listener = network.listen(bind_listener(loopback).unwrap(), SocketKey(1)).unwrap();
        let client = TcpStream::connect(listener.local()).unwrap();
        wait_for(network, SocketKey(1));
        let stream = listener.accept().unwrap();
        (network.adopt(stream, SocketKey(2)).unwrap(), client)
    }

    #[test]
    fn a_stream_is_reported_received_sent_and_closed() {
        let mut network = EpollNetwork::new().unwrap();
        let (mut server, mut client) = accepted_pair(&mut network);
        let mut one = [0_u8; 3];
        let mut two = [0_u8; 8];
        client.write_all(b"hello").unwrap();
        wait_for(&mut network, SocketKey(2));
        let mut into = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        assert_eq!(server.receive(&mut into), Ok(5));
        assert_eq!((&one[..], &two[..2]), (&b"hel"[..], &b"lo"[..]));
        let mut into = [IoSliceMut::new(&mut two)];
        assert_eq!(server.receive(&mut into), Err(SocketError::WouldBlock));
        assert_eq!(server.send(&[IoSlice::new(b"wor"), IoSlice::new(b"ld")]), Ok(5));
        let mut answer = [0_u8; 5];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"world");
        drop(client);
        assert!(wait_for(&mut network, SocketKey(2)).readable);
        let mut into = [IoSliceMut::new(&mut two)];
        assert_eq!(server.receive(&mut into), Err(SocketError::Closed));
        assert_eq!(
            server.send(&[IoSlice::new(b"x")]).err().or(Some(SocketError::Closed)),
            Some(SocketError::Closed)
        );
    }

    #[test]
    fn a_refused_connection_is_an_error_and_not_a_hang() {
        let mut network = EpollNetwork::new().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = gone.local_addr().unwrap();
        drop(gone);
        if let Ok(mut socket) = network.connect(address, SocketKey(3)) {
            wait_for(&mut network, SocketKey(3));
            assert_eq!(socket.connected(), Err(SocketError::Closed));
        }
    }

    #[test]
    fn an_address_in_use_is_refused() {
        let first = bind_listener(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = TcpListener::from(first.try_clone().unwrap()).local_addr().unwrap();
        let refused = bind_listener(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
