//! The six types of reservation, and their codes.
//!
//! NVMe Base 2.0 section 7.2 (figure of reservation types), SPC-4 section 6.13.3.4 (persistent
//! reservation type codes).

/// A type of reservation: what is exclusive, and who shares it with the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReservationType {
    /// Only the holder writes.
    WriteExclusive,
    /// Only the holder reads and writes.
    ExclusiveAccess,
    /// Only registrants write.
    WriteExclusiveRegistrantsOnly,
    /// Only registrants read and write.
    ExclusiveAccessRegistrantsOnly,
    /// Only registrants write, and all of them hold it.
    WriteExclusiveAllRegistrants,
    /// Only registrants read and write, and all of them hold it.
    ExclusiveAccessAllRegistrants,
}

impl ReservationType {
    /// All of them, in the order of NVMe's codes.
    pub const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    /// RTYPE of NVMe, 1 to 6.
    pub const fn nvme_code(self) -> u8 {
        match self {
            Self::WriteExclusive => 1,
            Self::ExclusiveAccess => 2,
            Self::WriteExclusiveRegistrantsOnly => 3,
            Self::ExclusiveAccessRegistrantsOnly => 4,
            Self::WriteExclusiveAllRegistrants => 5,
            Self::ExclusiveAccessAllRegistrants => 6,
        }
    }

    /// The type of an RTYPE of NVMe; `None` for one that is reserved.
    pub fn from_nvme_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.nvme_code() == code)
    }

    /// TYPE of SCSI, 1 to 8 with gaps.
    pub const fn scsi_code(self) -> u8 {
        match self {
            Self::WriteExclusive => 1,
            Self::ExclusiveAccess => 3,
            Self::WriteExclusiveRegistrantsOnly => 5,
            Self::ExclusiveAccessRegistrantsOnly => 6,
            Self::WriteExclusiveAllRegistrants => 7,
            Self::ExclusiveAccessAllRegistrants => 8,
        }
    }

    /// The type of a TYPE of SCSI; `None` for one that is reserved or obsolete.
    pub fn from_scsi_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.scsi_code() == code)
    }

    /// Whether every registrant holds it, rather than the one that acquired it.
    pub const fn is_held_by_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }

    /// Whether a registrant that does not hold it may do what the holder may.
    pub const fn is_shared_with_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether anyone may read.
    pub const fn is_open_to_reads(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive
                | Self::WriteExclusiveRegistrantsOnly
                | Self::WriteExclusiveAllRegistrants
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_six_codes_of_nvme_are_types_and_no_others() {
        for code in 0..=u8::MAX {
            let kind = ReservationType::from_nvme_code(code);
            assert_eq!(kind.is_some(), (1..=6).contains(&code));
            assert!(kind.is_none_or(|kind| kind.nvme_code() == code));
        }
    }

    #[test]
    fn the_six_codes_of_scsi_are_types_and_no_others() {
        for code in 0..=u8::MAX {
            let kind = ReservationType::from_scsi_code(code);
            assert_eq!(kind.is_some(), [1, 3, 5, 6, 7, 8].contains(&code));
            assert!(kind.is_none_or(|kind| kind.scsi_code() == code));
        }
    }
}
