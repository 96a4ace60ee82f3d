//! How a remote device behaves when its target is slow, or gone.

use std::net::SocketAddr;
use std::time::Duration;

use reactor::Nanos;

use super::super::discovery::CONTROLLERS_MAX;
use super::super::options::{ConnectOptions, OptionsError};

/// How long an I/O may take before it is aborted, unless told otherwise. With
/// [`ABORT_GRACE`] well under the 30 s after which hosts give up.
pub const IO_TIMEOUT_DEFAULT: Duration = Duration::from_secs(8);
/// Shortest time-out of an I/O.
pub const IO_TIMEOUT_MIN: Duration = Duration::from_millis(10);
/// Longest time-out of an I/O.
pub const IO_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// How long an I/O that is being aborted may take to end before its controller is reset.
pub const ABORT_GRACE: Nanos = Nanos::from_secs(2);
/// How often a queue with I/O in flight is looked over for late I/O: this part of the time-out.
pub const LOOKS_PER_TIMEOUT: u64 = 8;
/// How long an I/O queue may take to join its controller, and an I/O wait for that.
pub const JOIN_TIMEOUT: Nanos = Nanos::from_secs(3);
/// Longest that new I/O may wait for a lost target.
pub const WAIT_MAX: Duration = Duration::from_secs(600);
/// First wait before a lost controller is connected again...
pub const RECONNECT_FIRST: Nanos = Nanos::from_millis(100);
/// ...which doubles with each attempt, up to this. What is waited is drawn from its upper half, so
/// that the hosts of a target that comes back do not come all at once.
pub const RECONNECT_LONGEST: Nanos = Nanos::from_secs(5);
/// A controller that stood for so long is connected anew as soon as the first time.
pub const STABLE_AFTER: Nanos = RECONNECT_LONGEST;
/// How long until access is asked for again while the target changes it and does not say how long
/// that takes, and the shortest interval between two looks.
pub const ACCESS_INTERVAL: Nanos = Nanos::from_millis(500);
/// How long an admin command may take that is answered from what the target knows.
pub const ADMIN_TIMEOUT: Nanos = Nanos::from_secs(5);
/// Abort commands in flight at once.
pub const ABORTS_MAX: u32 = 4;
/// Requests of queue pairs that wait for the supervisor; what finds no room is asked again.
pub const NOTES_MAX: usize = 1024;
/// Events that wait to be taken; older ones give way.
pub const EVENTS_MAX: usize = 64;

/// What happens to new I/O while the target cannot be reached. What is in flight when it is lost
/// always ends, with a path status: only the layer above knows whether to try elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenLost {
    /// It ends with a path status at once: for a mirror, which goes on without this child.
    Fail,
    /// It waits for so long before it does, at most [`WAIT_MAX`].
    Wait(Duration),
}

/// What a remote device is and how it behaves.
#[derive(Clone, Debug)]
pub struct RemoteOptions {
    /// Where it is. The depth of queues is that of the queue pairs opened later, and at most this.
    pub connect: ConnectOptions,
    /// Discovery controllers to ask where it is, at most [`CONTROLLERS_MAX`]; the address of
    /// `connect` is not used then. None: it is at that address.
    pub discovery: Vec<SocketAddr>,
    /// What new I/O does while it is lost.
    pub when_lost: WhenLost,
    /// How long an I/O may take, [`IO_TIMEOUT_MIN`] to [`IO_TIMEOUT_MAX`].
    pub io_timeout: Duration,
}

impl RemoteOptions {
    /// Default behaviour: new I/O fails at once while the target is lost.
    pub fn new(connect: ConnectOptions) -> RemoteOptions {
        RemoteOptions {
            connect,
            discovery: Vec::new(),
            when_lost: WhenLost::Fail,
            io_timeout: IO_TIMEOUT_DEFAULT,
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn check(&self) -> Result<(), OptionsError> {
        self.connect.check()?;
        let most = u32::try_from(CONTROLLERS_MAX).expect("a small number");
        if self.discovery.len() > CONTROLLERS_MAX {
            let name = "the number of discovery controllers";
            return Err(OptionsError::OutOfRange { name, least: 0, most });
        }
        let timeout = (IO_TIMEOUT_MIN..=IO_TIMEOUT_MAX).contains(&self.io_timeout);
        if !timeout {
            return Err(OptionsError::BadTime {
                name: "the time-out of an I/O",
                least: IO_TIMEOUT_MIN,
                most: IO_TIMEOUT_MAX,
            });
        }
        match self.when_lost {
            WhenLost::Wait(bound) if bound > WAIT_MAX => Err(OptionsError::BadTime {
                name: "the wait for a lost target",
                least: Duration::ZERO,
                most: WAIT_MAX,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn options_are_taken_at_their_limits_and_refused_past_them() {
        let address = SocketAddr::from(([127, 0, 0, 1], 4420));
        let nqn = "nqn.2019-05.io.openebs:n1".parse().unwrap();
        let connect = ConnectOptions::new(address, nqn, Uuid::from_u128(7));
        let mut options = RemoteOptions::new(connect);
        let step = Duration::from_millis(1);
        for (timeout, legal) in [
            (IO_TIMEOUT_MIN, true),
            (IO_TIMEOUT_MIN - step, false),
            (IO_TIMEOUT_MAX, true),
            (IO_TIMEOUT_MAX + step, false),
        ] {
            options.io_timeout = timeout;
            assert_eq!(options.check().is_ok(), legal, "{timeout:?}");
        }
        options.io_timeout = IO_TIMEOUT_DEFAULT;
        for (count, legal) in [(CONTROLLERS_MAX, true), (CONTROLLERS_MAX + 1, false)] {
            options.discovery = vec![address; count];
            assert_eq!(options.check().is_ok(), legal, "{count}");
        }
        options.discovery.clear();
        for (wait, legal) in [(Duration::ZERO, true), (WAIT_MAX, true), (WAIT_MAX + step, false)] {
            options.when_lost = WhenLost::Wait(wait);
            assert_eq!(options.check().is_ok(), legal, "{wait:?}");
        }
    }
}
