//! What is served: targets, their units, and who may use them.
//!
//! Made on a control thread, read-only afterwards and shared by all cores. RFC 7143 section 4.2.7,
//! SAM-5 section 4.7 (logical unit numbers).

use std::sync::Arc;

use bdev::scsi::LogicalUnit;

use crate::login::{Credentials, Directory, SessionKind};

/// The one portal group.
pub const PORTAL_GROUP: u16 = 1;
/// Highest number of a unit: what the flat form of a LUN holds.
pub const LUN_MAX: u16 = (1 << 14) - 1;

/// Which initiators may use a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initiators {
    /// All.
    Any,
    /// Those with one of these names.
    Only(Vec<String>),
}

/// A target.
#[derive(Debug)]
pub struct Target {
    /// Its name, an IQN in lower case.
    pub name: String,
    /// Its units by number, at most [`LUN_MAX`].
    pub units: Vec<(u16, Arc<LogicalUnit>)>,
    /// What initiators have to prove; nothing lets everybody in.
    pub credentials: Option<Credentials>,
    /// Who may use it.
    pub initiators: Initiators,
}

/// Everything that is served.
#[derive(Debug)]
pub struct TargetDescription {
    targets: Vec<Target>,
    luns: Vec<Vec<u64>>,
}

impl TargetDescription {
    /// Serves these.
    pub fn new(targets: Vec<Target>) -> TargetDescription {
        let encode = |target: &Target| {
            target.units.iter().map(|(number, _)| encode_lun(*number)).collect::<Vec<u64>>()
        };
        let luns = targets.iter().map(encode).collect();
        TargetDescription { targets, luns }
    }

    /// Its targets.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The units of a target, as REPORT LUNS has them.
    pub(super) fn luns(&self, target: usize) -> &[u64] {
        &self.luns[target]
    }
}

impl Directory for TargetDescription {
    fn find(&self, target: &str) -> Option<usize> {
        self.targets.iter().position(|one| one.name == target)
    }

    fn allows(&self, target: usize, initiator: &str) -> bool {
        match &self.targets[target].initiators {
            Initiators::Any => true,
            Initiators::Only(names) => names.iter().any(|name| name == initiator),
        }
    }

    fn credentials(&self, kind: SessionKind) -> Option<&Credentials> {
        match kind {
            SessionKind::Discovery => None,
            SessionKind::Normal(target) => self.targets[target].credentials.as_ref(),
        }
    }

    fn portal_group(&self) -> u16 {
        PORTAL_GROUP
    }
}

/// A unit's number on the wire: peripheral form up to 255, flat form above.
fn encode_lun(number: u16) -> u64 {
    let flat = if number > 255 { 1 << 14 } else { 0 };
    u64::from(number | flat) << 48
}

/// The number of a LUN on the wire; nothing for a form that no unit here has.
pub(super) fn decode_lun(lun: u64) -> Option<u16> {
    let first = u16::try_from(lun >> 48).expect("16 bits are left");
    let is_single = lun << 16 == 0;
    match first >> 14 {
        0 if is_single && first < 256 => Some(first),
        1 if is_single => Some(first & LUN_MAX),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_units_come_back_and_other_forms_are_none() {
        for number in [0, 1, 255, 256, LUN_MAX] {
            assert_eq!(decode_lun(encode_lun(number)), Some(number));
        }
        assert_eq!(decode_lun(1), None);
        assert_eq!(decode_lun(0x0100 << 48), None);
        assert_eq!(decode_lun(0xc101 << 48), None);
    }
}
