//! A connection of a client: counted while it is open, and closed when it has nothing to say.
//!
//! On tokio's threads. The transport pings a peer that has fallen silent; one that never began to
//! speak HTTP/2 is seen here, so that nobody keeps others out by connecting alone.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// Most connections of a listener; one more is closed at once.
pub const CONNECTIONS_MAX: usize = 256;

/// How long a connection may take until the client has said that it speaks HTTP/2.
const PREFACE_WITHIN: Duration = Duration::from_secs(5);

/// Bytes with which a client says so (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;

/// How long to wait when no connection can be accepted, for want of descriptors mostly.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Where connections come from.
pub(super) trait Door: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Door for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        UnixListener::accept(self).await.map(|(stream, _)| stream)
    }
}

impl Door for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A counted connection.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    /// Until the preface has been read: when the connection is closed, and what is missing.
    preface: Option<(Pin<Box<Sleep>>, usize)>,
    _permit: OwnedSemaphorePermit,
}

/// Accepts until nobody takes connections any more.
pub(super) async fn accept<D: Door>(
    door: D,
    connections: mpsc::Sender<io::Result<Connection<D::Stream>>>,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = door.accept() => accepted,
            () = connections.closed() => return,
        };
        let Ok(stream) = accepted else {
            tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            continue;
        };
        // Without a permit the stream is dropped, and so closed.
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let preface = Some((Box::pin(tokio::time::sleep(PREFACE_WITHIN)), PREFACE_BYTES));
        if connections.send(Ok(Connection { stream, preface, _permit: permit })).await.is_err() {
            return;
        }
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let Some((sleep, missing)) = &mut this.preface else { return polled };
        if polled.is_pending() {
            return sleep.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        *missing = missing.saturating_sub(buffer.filled().len() - filled);
        if *missing == 0 {
            this.preface = None;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
