//! What the server listens on: opened by main before the engine starts.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::socket::{BoundSocket, SocketError};

/// Where to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcOptions {
    /// Path of the UNIX socket.
    pub socket: PathBuf,
    /// TCP address as well; port 0 takes a free one.
    pub address: Option<SocketAddr>,
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum DoorsError {
    /// On its UNIX socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// On its TCP address.
    #[error("cannot serve gRPC on {address}: choose another address with --grpc-address")]
    Address {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What is listened on.
#[derive(Debug)]
pub struct Doors {
    pub(super) socket: BoundSocket,
    pub(super) unix: UnixListener,
    pub(super) tcp: Option<TcpListener>,
}

impl Doors {
    /// Listens; who connects waits until a server is started.
    ///
    /// # Errors
    ///
    /// A path or an address that is taken or refused.
    pub fn open(options: &GrpcOptions) -> Result<Doors, DoorsError> {
        let (socket, unix) = BoundSocket::bind(&options.socket)?;
        let listen = |address: SocketAddr| {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let refuse = |address| move |source| DoorsError::Address { address, source };
        let tcp = options.address.map(|address| listen(address).map_err(refuse(address)));
        Ok(Doors { socket, unix, tcp: tcp.transpose()? })
    }

    /// Where it listens on TCP, with the port that it really has.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}
