//! An eventfd by which another process is told something.
//!
//! Checked on the control thread, written on a core, at most once a ring and pass.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// What the kernel calls an eventfd.
const EVENTFD_LINK: &str = "anon_inode:[eventfd]";

/// See the module.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Takes a descriptor that must be an eventfd, so that a write to it is short, and makes it one
    /// that never blocks.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn new(file: File) -> io::Result<EventFd> {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        if link.as_os_str() != EVENTFD_LINK {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = OFlag::from_bits_retain(fcntl(file.as_fd(), FcntlArg::F_GETFL)?);
        fcntl(file.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(EventFd(file.into()))
    }

    /// Tells. One that is full already has been told.
    pub fn signal(&self) {
        let _ = nix::unistd::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// The descriptor.
    pub fn into_descriptor(self) -> OwnedFd {
        self.0
    }
}
