//! What a device says of itself when a namespace is made of it: the reservations that it has kept,
//! and what it knows of its blocks.
//!
//! Reading a record blocks for as long as the file system below does. So it is read on a thread of
//! its own; whoever gave the command waits for the outcome, and leaves at a deadline while the
//! thread goes on. A device is read by one thread at a time, however often it is asked for.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bdev::BlockDevice;
use nvmf::target::allocation::KnownAllocation;
use nvmf::target::reservation::KeptReservations;
use uuid::Uuid;

use super::devices::spawn;
use super::state::{Deadline, State};
use super::{Guard, Shared};
use crate::command::{CommandError, Progress};

/// How long a device is waited for, whatever deadline the command has. A record of reservations is
/// a small file: a file system that takes longer hangs.
const LEARN_WITHIN: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Learnt {
    pub reservations: Arc<KeptReservations>,
    pub allocation: Arc<KnownAllocation>,
}

impl Shared {
    /// Asks the device, without the lock. What the state was must be looked at anew after it.
    pub(super) fn learn<'a>(
        self: &'a Arc<Shared>,
        state: Guard<'a>,
        device: &str,
        (top, uuid): (Arc<dyn BlockDevice>, Uuid),
        deadline: Deadline,
    ) -> Result<(Guard<'a>, Learnt), CommandError> {
        let deadline = deadline.at_most(LEARN_WITHIN);
        let late = |_: &State| {
            let known = format!("what device {device} keeps of reservations is still being read");
            deadline.passed(known, Progress::default())
        };
        let is_free = |state: &mut State| (!state.learning.contains(device)).then_some(());
        let mut state = self.wait(state, deadline, is_free, late)?.0;
        let outcome = Arc::new(OnceLock::new());
        let (shared, told, name) = (Arc::clone(self), Arc::clone(&outcome), device.to_owned());
        spawn(device, move || {
            let learnt = ask(&*top, uuid, &name);
            // Let go of before anybody can look whether the device is in use.
            drop(top);
            let mut state = shared.lock();
            state.learning.remove(&name);
            told.set(learnt).expect("a device is asked once");
            shared.changed.notify_all();
        })?;
        state.learning.insert(device.to_owned());
        let (state, learnt) = self.wait(state, deadline, |_| outcome.get().cloned(), late)?;
        Ok((state, learnt?))
    }
}

/// Blocks.
fn ask(top: &dyn BlockDevice, uuid: Uuid, device: &str) -> Result<Learnt, CommandError> {
    let reservations = KeptReservations::load(top, uuid);
    let reservations = reservations.map_err(|error| CommandError::Invalid {
        field: "device",
        value: device.to_owned(),
        advice: error.to_string(),
    })?;
    let allocation = KnownAllocation::of(top).map_err(|source| CommandError::Thread {
        purpose: format!("device {device}"),
        source: Arc::new(source),
    })?;
    Ok(Learnt { reservations: Arc::new(reservations), allocation: Arc::new(allocation) })
}
