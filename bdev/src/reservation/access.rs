//! Who may do what: the table that every core keeps a copy of.
//!
//! Taken from [`super::Reservations`] on its home core after each change, handed to the other cores
//! as a message, and read there before submission: no lock, no allocation, no reference count. A
//! connection keeps a [`Grant`] so that a command costs a comparison of versions and a test of a
//! bit. NVMe Base 2.0 section 8.19 (figure of command behavior in the presence of a reservation),
//! SPC-4 section 5.13.1 and SBC-3 section 4.17 (tables of commands allowed).

use std::sync::Arc;

use super::kind::ReservationType;
use super::registrant::RegistrantId;
use super::state::{Holder, Reservation};
use crate::io::Operation;

/// What commands do, as far as a reservation cares. A command of neither class is always allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AccessClass {
    /// Learns what the namespace holds: read, compare, verify.
    Read = 1,
    /// Changes the namespace, its content or its durability: write, flush, write zeroes, dataset
    /// management, copy, write uncorrectable; format and sanitize.
    Write = 2,
}

impl AccessClass {
    /// The class of an operation.
    pub const fn of(operation: Operation) -> Self {
        match operation {
            Operation::Read | Operation::Compare | Operation::Verify => Self::Read,
            Operation::Write
            | Operation::Flush
            | Operation::WriteZeroes
            | Operation::Unmap
            | Operation::CompareAndWrite => Self::Write,
        }
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Go on.
    Allowed,
    /// The command fails with a reservation conflict.
    Conflict,
}

/// What somebody is to the reservation that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Not registered.
    Stranger,
    /// Registered, but not a holder.
    Registrant,
    /// A holder.
    Holder,
}

impl Role {
    /// The cell of the specification's table.
    pub const fn access(self, kind: ReservationType, class: AccessClass) -> Access {
        let is_allowed = match (self, class) {
            (Self::Holder, _) => true,
            (Self::Registrant, _) if kind.is_shared_with_registrants() => true,
            (Self::Registrant | Self::Stranger, AccessClass::Read) => kind.is_open_to_reads(),
            (Self::Registrant | Self::Stranger, AccessClass::Write) => false,
        };
        if is_allowed { Access::Allowed } else { Access::Conflict }
    }
}

/// What one registrant may do as of one version of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    version: u64,
    classes: u8,
}

impl Grant {
    /// Whether the table is still the one that it was taken from.
    pub const fn is_of(&self, table: &AccessTable) -> bool {
        self.version == table.version
    }

    /// Whether everything may go on.
    pub const fn is_unlimited(&self) -> bool {
        self.classes == AccessClass::Read as u8 | AccessClass::Write as u8
    }

    /// Whether a command of a class may go on.
    #[inline]
    pub const fn access(&self, class: AccessClass) -> Access {
        if self.classes & class as u8 != 0 { Access::Allowed } else { Access::Conflict }
    }
}

/// The reservation that is held, and who is what to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    reservation: Reservation,
    registrants: Arc<[RegistrantId]>,
}

/// Who may do what, as of one version. Versions of one [`super::Reservations`] only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessTable {
    version: u64,
    rule: Option<Rule>,
}

impl AccessTable {
    /// A table without a reservation, of version 0: that of a namespace that never had one.
    pub const fn open() -> Self {
        Self { version: 0, rule: None }
    }

    pub(super) fn new(
        version: u64,
        reservation: Option<Reservation>,
        registrants: impl Iterator<Item = RegistrantId>,
    ) -> Self {
        let rule =
            reservation.map(|reservation| Rule { reservation, registrants: registrants.collect() });
        Self { version, rule }
    }

    /// Changes with every change of what the table says.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// What somebody is to the reservation; `None` if there is no reservation.
    pub fn role(&self, id: &RegistrantId) -> Option<Role> {
        let rule = self.rule.as_ref()?;
        Some(if !rule.registrants.contains(id) {
            Role::Stranger
        } else if rule.reservation.holder.includes(id) {
            Role::Holder
        } else {
            Role::Registrant
        })
    }

    /// What somebody may do, to be kept until the version changes.
    pub fn grant(&self, id: &RegistrantId) -> Grant {
        self.grant_if(|class| self.class(id, class))
    }

    /// What one may do who cannot be told from others: a stranger to every reservation.
    pub fn grant_of_nobody(&self) -> Grant {
        self.grant_if(|class| match &self.rule {
            Some(rule) => Role::Stranger.access(rule.reservation.kind, class),
            None => Access::Allowed,
        })
    }

    fn grant_if(&self, access: impl Fn(AccessClass) -> Access) -> Grant {
        let classes = [AccessClass::Read, AccessClass::Write];
        let allowed = classes.into_iter().filter(|class| access(*class) == Access::Allowed);
        let classes = allowed.fold(0, |bits, class| bits | class as u8);
        Grant { version: self.version, classes }
    }

    /// Whether somebody's operation may go on.
    pub fn access(&self, id: &RegistrantId, operation: Operation) -> Access {
        self.class(id, AccessClass::of(operation))
    }

    fn class(&self, id: &RegistrantId, class: AccessClass) -> Access {
        match (&self.rule, self.role(id)) {
            (Some(rule), Some(role)) => role.access(rule.reservation.kind, class),
            _ => Access::Allowed,
        }
    }
}

impl Holder {
    /// Whether a registrant holds it.
    pub fn includes(&self, registrant: &RegistrantId) -> bool {
        match self {
            Self::One(holder) => holder == registrant,
            Self::AllRegistrants => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u8) -> RegistrantId {
        RegistrantId::nvme([number; 16]).unwrap()
    }

    /// The specification's table: type, then read and write of a stranger, of a registrant and of a
    /// holder. `c` is a conflict.
    const CELLS: [(ReservationType, &str); 6] = [
        (ReservationType::WriteExclusive, "ac ac aa"),
        (ReservationType::ExclusiveAccess, "cc cc aa"),
        (ReservationType::WriteExclusiveRegistrantsOnly, "ac aa aa"),
        (ReservationType::ExclusiveAccessRegistrantsOnly, "cc aa aa"),
        (ReservationType::WriteExclusiveAllRegistrants, "ac aa aa"),
        (ReservationType::ExclusiveAccessAllRegistrants, "cc aa aa"),
    ];

    #[test]
    fn every_cell_is_that_of_the_specification() {
        let roles = [Role::Stranger, Role::Registrant, Role::Holder];
        let classes = [AccessClass::Read, AccessClass::Write];
        let mut cells = 0;
        for (kind, row) in CELLS {
            for (role, pair) in roles.into_iter().zip(row.split(' ')) {
                for (class, cell) in classes.into_iter().zip(pair.chars()) {
                    let expected = if cell == 'a' { Access::Allowed } else { Access::Conflict };
                    assert_eq!(role.access(kind, class), expected, "{kind:?} {role:?} {class:?}");
                    cells += 1;
                }
            }
        }
        assert_eq!(cells, 36);
    }

    #[test]
    fn every_operation_is_judged_by_its_class() {
        for (kind, row) in CELLS {
            let holder = match kind.is_held_by_all() {
                true => Holder::AllRegistrants,
                false => Holder::One(host(1)),
            };
            let reservation = Reservation { kind, holder };
            let table = AccessTable::new(1, Some(reservation), [host(1), host(2)].into_iter());
            for (number, pair) in [3, 2, 1].into_iter().zip(row.split(' ')) {
                let id = host(number);
                for operation in Operation::ALL {
                    let reads = !operation.changes_blocks() && operation != Operation::Flush;
                    let cell = pair.as_bytes()[usize::from(!reads)];
                    let expected = if cell == b'a' { Access::Allowed } else { Access::Conflict };
                    assert_eq!(table.access(&id, operation), expected, "{kind:?} {operation:?}");
                    let grant = table.grant(&id);
                    assert_eq!(grant.access(AccessClass::of(operation)), expected);
                    assert_eq!(grant.is_unlimited(), pair == "aa");
                    if number == 3 {
                        assert_eq!(table.grant_of_nobody(), grant);
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_reservation_everything_is_allowed() {
        let table = AccessTable::open();
        assert_eq!(table.role(&host(1)), None);
        for operation in Operation::ALL {
            assert_eq!(table.access(&host(1), operation), Access::Allowed);
        }
    }

    #[test]
    fn a_grant_is_of_the_version_that_it_was_taken_from() {
        let table = AccessTable::open();
        assert!(table.grant_of_nobody().is_unlimited());
        let grant = table.grant(&host(1));
        assert!(grant.is_of(&table));
        assert!(!grant.is_of(&AccessTable::new(1, None, [].into_iter())));
    }
}
