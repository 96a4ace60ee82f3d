//! A device behind a socket: accepts a front end, speaks the protocol with it, begins anew.
//!
//! [`VhostDevice`] owns a control thread. One front end at a time: another one that connects waits
//! until the first is gone. What goes wrong between a front end and its device ends that session
//! and nothing else.

pub mod cores;
mod handler;
mod rings;
pub mod socket;
#[cfg(test)]
mod tests;

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use bdev::BlockDevice;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use vhost::vhost_user::{BackendReqHandler, Error as MessageError};

use crate::block::CacheMode;
use crate::block::request::SERIAL_BYTES;
use crate::core::setup::DeviceKey;
use cores::Cores;
use handler::Handler;
use rings::Served;
use socket::{BoundSocket, SocketError};

/// Most queues of a device.
pub const QUEUES_MAX: u16 = 64;

/// Whether guests may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestAccess {
    /// As the device allows.
    #[default]
    ReadWrite,
    /// Writes are refused whatever the device allows.
    ReadOnly,
}

/// What is served, and how.
#[derive(Clone, Debug)]
pub struct VhostOptions {
    /// Where front ends connect.
    pub socket: PathBuf,
    /// A number that no other vhost device of the process ever had.
    pub key: DeviceKey,
    /// What holds the blocks.
    pub device: Arc<dyn BlockDevice>,
    /// Queues that a guest may have, 1 to [`QUEUES_MAX`].
    pub queues: u16,
    /// Whether guests may write.
    pub access: GuestAccess,
    /// What guests are told for the serial number: at most 20 bytes of it.
    pub serial: String,
    /// The core of the first queue; the others follow in turn.
    pub first_core: usize,
}

/// Why a device could not be put behind a socket.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A number of queues that cannot be.
    #[error("a device has 1 to {QUEUES_MAX} queues, not {queues}")]
    Queues {
        /// What was asked for.
        queues: u16,
    },
    /// The system gives no thread or descriptor.
    #[error("cannot start the thread of a vhost device")]
    Thread(#[source] io::Error),
}

/// What two threads share: the one that serves and the one that ends it.
#[derive(Debug, Default)]
struct Ending {
    is_ending: bool,
    /// The front end that is connected.
    front_end: Option<UnixStream>,
}

#[derive(Debug)]
struct Shared {
    ending: Mutex<Ending>,
    stop: EventFd,
    served: Arc<Served>,
}

impl Shared {
    fn ending(&self) -> MutexGuard<'_, Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device behind a socket; dropping it ends the session and waits for that.
#[derive(Debug)]
pub struct VhostDevice {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
}

impl VhostDevice {
    /// Listens, and serves whoever connects.
    ///
    /// # Errors
    ///
    /// Each by its name in [`ServeError`].
    pub fn start(options: VhostOptions, cores: Arc<dyn Cores>) -> Result<VhostDevice, ServeError> {
        let VhostOptions { socket, key, device, queues, access, serial, first_core } = options;
        if !(1..=QUEUES_MAX).contains(&queues) {
            return Err(ServeError::Queues { queues });
        }
        let (bound, listener) = BoundSocket::bind(&socket)?;
        let served = Arc::new(Served {
            key,
            device,
            cores,
            cache: Arc::new(CacheMode::default()),
            first_core,
            failure: Mutex::default(),
            is_ending: AtomicBool::new(false),
        });
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stop = EventFd::from_flags(flags).map_err(|error| ServeError::Thread(error.into()))?;
        let shared = Arc::new(Shared { ending: Mutex::default(), stop, served });
        let serving = Arc::clone(&shared);
        let is_read_only = access == GuestAccess::ReadOnly;
        let serial = serial_bytes(&serial);
        let thread = thread::Builder::new().name(String::from("vhost")).spawn(move || {
            // Removed when nobody is served any more.
            let _bound = bound;
            while let Some(front_end) = accept(&serving, &listener) {
                let served = Arc::clone(&serving.served);
                let handler = Handler::new(served, (is_read_only, queues), serial);
                serve(&serving, front_end, handler);
            }
        });
        let thread = Some(thread.map_err(ServeError::Thread)?);
        Ok(VhostDevice { shared, thread, socket })
    }

    /// Where front ends connect.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// True while a front end is connected.
    pub fn is_connected(&self) -> bool {
        self.shared.ending().front_end.is_some()
    }

    /// What a guest or its front end did wrong last: it cost a ring, or the session.
    pub fn failure(&self) -> Option<String> {
        self.shared.served.failure()
    }

    /// Asks the session to end; the drop waits for it.
    pub fn begin_to_end(&self) {
        let mut ending = self.shared.ending();
        ending.is_ending = true;
        self.shared.served.begin_to_end();
        // An eventfd that is full was told already; a socket that is broken ends by itself.
        let _ = self.shared.stop.write(1);
        if let Some(front_end) = &ending.front_end {
            let _ = front_end.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for VhostDevice {
    fn drop(&mut self) {
        self.begin_to_end();
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing more to tell.
            let _ = thread.join();
        }
    }
}

/// The next front end; none when the device ends.
fn accept(shared: &Shared, listener: &UnixListener) -> Option<UnixStream> {
    loop {
        if shared.ending().is_ending {
            return None;
        }
        if let Ok((front_end, _)) = listener.accept() {
            // What was accepted blocks: the thread has nothing else to do.
            if front_end.set_nonblocking(false).is_ok() {
                return Some(front_end);
            }
        }
        let readable = PollFlags::POLLIN;
        let mut waited =
            [PollFd::new(listener.as_fd(), readable), PollFd::new(shared.stop.as_fd(), readable)];
        // An interrupted wait looks again.
        let _ = poll(&mut waited, PollTimeout::NONE);
    }
}

/// Serves a front end until it goes, breaks the protocol, or the device ends.
fn serve(shared: &Shared, front_end: UnixStream, handler: Handler) {
    let Ok(known) = front_end.try_clone() else { return };
    {
        let mut ending = shared.ending();
        if ending.is_ending {
            return;
        }
        ending.front_end = Some(known);
    }
    let handler = Arc::new(Mutex::new(handler));
    let mut messages = BackendReqHandler::from_stream(front_end, Arc::clone(&handler));
    let end = loop {
        if let Err(error) = messages.handle_request() {
            break error;
        }
    };
    if !matches!(end, MessageError::Disconnected | MessageError::SocketBroken(_)) {
        shared.served.set_failure(end.to_string());
    }
    handler.lock().unwrap_or_else(PoisonError::into_inner).end();
    shared.ending().front_end = None;
}

/// The serial number as guests read it: filled up with zeroes, or cut.
fn serial_bytes(serial: &str) -> [u8; SERIAL_BYTES] {
    let mut bytes = [0; SERIAL_BYTES];
    for (to, from) in bytes.iter_mut().zip(serial.bytes()) {
        *to = from;
    }
    bytes
}
