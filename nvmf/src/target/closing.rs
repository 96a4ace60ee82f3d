//! The controllers whose I/O queues are being closed on a core.
//!
//! The home core asks every core to close them and waits until each has said that nothing is left:
//! no connection, and no I/O at a device. Used by `core`, off the path of I/O.

use super::message::ControllerKey;

/// Controllers, and the round of closing that the home core waits for.
#[derive(Debug, Default)]
pub(super) struct Closing {
    list: Vec<(ControllerKey, u32)>,
    /// A connection has ended, or a controller come, since the list was last looked at.
    changed: bool,
}

impl Closing {
    /// The home core wants to know when this controller's queues are gone.
    pub fn begin(&mut self, controller: ControllerKey, round: u32) {
        // A later round takes the place of the one before, which nobody waits for any more.
        self.list.retain(|(known, _)| *known != controller);
        self.list.push((controller, round));
        self.changed = true;
    }

    /// A connection is over.
    pub fn look_again(&mut self) {
        self.changed = true;
    }

    /// True when there may be something to report.
    pub fn is_to_be_looked_at(&self) -> bool {
        self.changed && !self.list.is_empty()
    }

    /// Takes out the controllers of which nothing is left.
    pub fn take_closed(
        &mut self,
        is_gone: impl Fn(ControllerKey) -> bool,
    ) -> Vec<(ControllerKey, u32)> {
        self.changed = false;
        self.list.extract_if(.., |(controller, _)| is_gone(*controller)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::description::SubsystemId;

    fn key(id: u16) -> ControllerKey {
        ControllerKey { subsystem: SubsystemId(0), id, usage: 1 }
    }

    #[test]
    fn a_controller_is_reported_once_and_in_its_last_round() {
        let mut closing = Closing::default();
        closing.look_again();
        assert!(!closing.is_to_be_looked_at(), "nobody asks");
        closing.begin(key(1), 4);
        closing.begin(key(2), 7);
        closing.begin(key(1), 5);
        assert!(closing.is_to_be_looked_at());
        assert_eq!(closing.take_closed(|one| one == key(1)), [(key(1), 5)]);
        assert!(!closing.is_to_be_looked_at(), "not before a connection is over");
        closing.look_again();
        assert_eq!(closing.take_closed(|_| true), [(key(2), 7)]);
        assert!(!closing.is_to_be_looked_at());
    }
}
