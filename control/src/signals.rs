//! SIGTERM and SIGINT as something to wait for, instead of something that interrupts.
//!
//! Blocked in the main thread before any other thread exists, so that all inherit the mask and
//! only the descriptor here ever receives them.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that ask the process to end.
#[derive(Debug)]
pub struct EndSignals {
    descriptor: SignalFd,
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The process is asked to end.
    Asked,
    /// The time has come.
    TimedOut,
}

impl EndSignals {
    /// Blocks the signals in the calling thread, and in all threads that it starts from now on.
    ///
    /// # Errors
    ///
    /// The system has no descriptor for it.
    pub fn block() -> io::Result<EndSignals> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.add(Signal::SIGINT);
        signals.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(EndSignals { descriptor: SignalFd::with_flags(&signals, flags)? })
    }

    /// Blocks the thread until a signal comes, or until `deadline`; forever without one.
    ///
    /// # Errors
    ///
    /// The system cannot wait.
    pub fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Waited> {
        loop {
            if self.descriptor.read_signal()?.is_some() {
                return Ok(Waited::Asked);
            }
            let left = deadline.map(|time| time.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(Waited::TimedOut);
            }
            let timeout = left.map_or(PollTimeout::NONE, in_whole_milliseconds);
            let mut watched = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Rounded up: a wait that ends early would be repeated without pause.
fn in_whole_milliseconds(span: Duration) -> PollTimeout {
    let milliseconds = span.as_micros().div_ceil(1000);
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::pthread::{pthread_kill, pthread_self};

    #[test]
    fn a_signal_ends_the_wait_and_a_deadline_does_too() {
        let mut signals = EndSignals::block().unwrap();
        let soon = || Some(Instant::now() + Duration::from_millis(5));
        assert_eq!(signals.wait(soon()).unwrap(), Waited::TimedOut);
        pthread_kill(pthread_self(), Signal::SIGTERM).unwrap();
        assert_eq!(signals.wait(None).unwrap(), Waited::Asked);
        assert_eq!(signals.wait(soon()).unwrap(), Waited::TimedOut);
    }
}
