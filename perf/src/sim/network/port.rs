//! The fabric as one core sees it: its network, and its sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use reactor::socket::{
    AcceptedStream, Listener, Network, Ready, Socket, SocketError, SocketKey, Wait,
};

use super::fabric::{Fabric, FabricSocket, Owner};

/// NVMe/TCP's port, which all targets listen at.
const PORT: u16 = 4420;

/// The address of a target.
pub fn address(link: usize) -> SocketAddr {
    let last = u8::try_from(link + 1).expect("a run has few targets");
    SocketAddr::from(([10, 0, 0, last], PORT))
}

fn link_of(address: SocketAddr) -> Option<usize> {
    match address {
        SocketAddr::V4(address) => usize::from(address.ip().octets()[3]).checked_sub(1),
        SocketAddr::V6(_) => None,
    }
}

/// A core's place on the fabric.
#[derive(Clone, Debug)]
pub struct Port {
    fabric: Fabric,
    owner: Owner,
    /// The target that it is, if it is one.
    link: Option<usize>,
}

impl Port {
    /// Of a core of hosts.
    pub fn of_host(fabric: &Fabric, owner: Owner) -> Port {
        Port { fabric: fabric.clone(), owner, link: None }
    }

    /// Of the core of a target.
    pub fn of_target(fabric: &Fabric, owner: Owner, link: usize) -> Port {
        Port { fabric: fabric.clone(), owner, link: Some(link) }
    }

    /// True when there is something to look at: what would end the sleep of a real core.
    pub fn has_news(&self) -> bool {
        self.fabric.has_news(self.owner, self.link)
    }

    /// The next stream that has arrived here.
    pub fn accept(&self) -> Option<PortSocket> {
        let inner = self.fabric.accept(self.link?)?;
        Some(PortSocket { inner, owner: self.owner })
    }
}

impl Network for Port {
    fn connect(&mut self, to: SocketAddr, key: SocketKey) -> io::Result<Box<dyn Socket>> {
        let link = link_of(to).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let inner = self.fabric.connect(link, (self.owner, key));
        Ok(Box::new(PortSocket { inner, owner: self.owner }))
    }

    fn adopt(&mut self, _: AcceptedStream, _: SocketKey) -> io::Result<Box<dyn Socket>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn listen(&mut self, _: OwnedFd, _: SocketKey) -> io::Result<Box<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn poll(&mut self, _: Wait, ready: &mut Vec<Ready>) {
        self.fabric.report(self.owner, ready);
    }
}

/// One end of a stream.
#[derive(Debug)]
pub struct PortSocket {
    inner: FabricSocket,
    owner: Owner,
}

impl PortSocket {
    /// Under the key that its core gives it.
    pub fn keyed(self, key: SocketKey) -> PortSocket {
        self.inner.set_user(self.owner, key);
        self
    }
}

impl Socket for PortSocket {
    fn receive(&mut self, into: &mut [IoSliceMut<'_>]) -> Result<usize, SocketError> {
        self.inner.take(into)
    }

    fn send(&mut self, from: &[IoSlice<'_>]) -> Result<usize, SocketError> {
        self.inner.put(from)
    }

    fn peer(&self) -> SocketAddr {
        address(0)
    }

    fn local(&self) -> SocketAddr {
        address(0)
    }

    fn connected(&mut self) -> Result<(), SocketError> {
        self.inner.handshake()
    }
}
