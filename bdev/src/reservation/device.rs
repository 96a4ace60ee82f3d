//! Reservations that a device keeps itself: those of a remote namespace, or of a drive.
//!
//! Off the path of I/O. A device that has them hands them out by
//! [`crate::BlockDevice::reservations`]; whoever wants something of them begins it on any thread,
//! a core's too, and nothing blocks. What is registered and held is so for the device's host: one
//! identifier a device that is open here. The answer comes through a [`Reply`], on a thread of the
//! device's driver; [`Pending`] is the end of one that is polled.

use std::fmt;
use std::sync::mpsc::{Receiver, sync_channel};

use reactor::sleep::Waker;

use super::command::Command;
use super::kind::ReservationType;
use super::registrant::Key;
use crate::nvme::status::Status;

/// Reservations of a device, as its host uses them. See the module.
pub trait DeviceReservations: fmt::Debug + Send + Sync {
    /// What the device can do.
    fn abilities(&self) -> Abilities;

    /// Begins a request. It is answered once, in bounded time: with a path status where the device
    /// cannot be reached, and then it may have been carried out all the same. Several may be begun
    /// at once; they are carried out in order. Where too many wait, the answer is a path status,
    /// at once.
    fn begin(&self, request: Request, reply: Reply);
}

/// What a device can do, as RESCAP of NVMe has it (NVM Command Set 1.0 figure 97, byte 31).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities(pub u8);

impl Abilities {
    /// RESCAP bit 0: registrations and reservation outlive a loss of power, where asked for.
    pub const fn can_persist(self) -> bool {
        self.0 & 1 != 0
    }

    /// RESCAP bits 1 to 6: the type can be acquired.
    pub const fn has(self, kind: ReservationType) -> bool {
        self.0 & (1 << kind.nvme_code()) != 0
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A change, in the name of the device's host here.
    Change(Command),
    /// Who is registered, and who holds it.
    Report,
}

/// The answer to a request.
pub type Outcome = Result<Answer, Status>;

/// What has come of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The change is in force.
    Changed,
    /// How things stand.
    Report(Report),
}

/// Who is registered and who holds the reservation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Counts changes of registrations.
    pub generation: u32,
    /// The type of the reservation; nothing where none is held.
    pub kind: Option<ReservationType>,
    /// All outlives a loss of power.
    pub is_persistent: bool,
    /// An entry for each controller of each registrant.
    pub registrants: Vec<Reported>,
}

/// A registrant as a report has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Its identifier.
    pub host_id: [u8; 16],
    /// Its key.
    pub key: Key,
    /// Whether it holds the reservation.
    pub is_holder: bool,
}

/// Where an answer goes. Dropped without one, it answers with a path status.
pub struct Reply(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl Reply {
    /// Calls `tell` with the answer, once, on a thread of the device's driver: it must not block.
    pub fn new(tell: impl FnOnce(Outcome) + Send + 'static) -> Reply {
        Reply(Some(Box::new(tell)))
    }

    /// Answers.
    pub fn send(mut self, outcome: Outcome) {
        if let Some(tell) = self.0.take() {
            tell(outcome);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell(Err(Status::INTERNAL_PATH_ERROR));
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Reply")
    }
}

/// An answer that is polled for.
#[derive(Debug)]
pub struct Pending(Receiver<Outcome>);

impl Pending {
    /// An answer to be, and where it is to be sent: a core that waits for it is woken by `waker`.
    pub fn new(waker: Option<Waker>) -> (Reply, Pending) {
        let (sender, receiver) = sync_channel(1);
        let reply = Reply::new(move |outcome| {
            // Nobody waits any more when this fails.
            let _ = sender.try_send(outcome);
            if let Some(waker) = waker {
                waker.wake_if_sleeping();
            }
        });
        (reply, Pending(receiver))
    }

    /// The answer, once it has come; then the value is of no use any more.
    pub fn take(&self) -> Option<Outcome> {
        self.0.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_once_and_one_that_was_forgotten_is_a_path_status() {
        let (reply, pending) = Pending::new(None);
        assert_eq!(pending.take(), None);
        reply.send(Ok(Answer::Changed));
        assert_eq!((pending.take(), pending.take()), (Some(Ok(Answer::Changed)), None));
        let (reply, pending) = Pending::new(None);
        drop(reply);
        assert_eq!(pending.take(), Some(Err(Status::INTERNAL_PATH_ERROR)));
    }

    #[test]
    fn abilities_are_read_from_their_bits() {
        let all = Abilities(0x7f);
        assert!(all.can_persist() && ReservationType::ALL.into_iter().all(|kind| all.has(kind)));
        let one = Abilities(1 << 3);
        assert!(one.has(ReservationType::WriteExclusiveRegistrantsOnly) && !one.can_persist());
        assert_eq!(ReservationType::ALL.into_iter().filter(|kind| one.has(*kind)).count(), 1);
    }
}
