//! Asymmetric namespace access: which groups of namespaces a controller of several can reach now.
//!
//! The supervisor reads the log when the controller is brought up and when it tells of a change,
//! and tells of every group whose state is another. I/O needs none of it: a command to a group that
//! cannot be reached fails with a path error, which goes up as it is. NVMe Base 2.0 section 2.4.1,
//! and section 5.16.1.13 for the log.

use zerocopy::FromBytes;

use super::options::PAGE_BYTES;
use crate::nvme::log_page::{AnaGroup, AnaHeader, AnaState};

/// Bytes of the log that are read: as much as an admin command transfers.
pub const LOG_BYTES: usize = PAGE_BYTES as usize;

/// Groups that are looked at: as many as fit.
pub const GROUPS_MAX: usize = (LOG_BYTES - size_of::<AnaHeader>()) / size_of::<AnaGroup>();

/// A state, as a sentence has it.
pub fn words(state: AnaState) -> &'static str {
    match state {
        AnaState::Optimized => "reached at its best",
        AnaState::NonOptimized => "reached with a cost",
        AnaState::Inaccessible => "not reached at present",
        AnaState::PersistentLoss => "lost for this controller",
        AnaState::Change => "between two states",
    }
}

/// The states that are known.
#[derive(Debug, Default)]
pub struct Groups(Vec<(u32, AnaState)>);

impl Groups {
    /// Takes a log without namespaces, and returns the groups that it says something new of. One
    /// that was never heard of is taken to have been reached at its best. Nothing of the log is
    /// trusted: states that there are not are left out, and what does not fit is not looked at.
    pub fn take(&mut self, log: &[u8; LOG_BYTES]) -> Vec<(u32, AnaState)> {
        let Ok((header, mut rest)) = AnaHeader::read_from_prefix(log) else { return Vec::new() };
        let mut news = Vec::new();
        for _ in 0..usize::from(header.groups.get()).min(GROUPS_MAX) {
            let Ok((group, after)) = AnaGroup::read_from_prefix(rest) else { break };
            rest = after;
            if let Some(state) = AnaState::from_value(group.state)
                && self.set(group.id.get(), state)
            {
                news.push((group.id.get(), state));
            }
        }
        news
    }

    /// True when it was another, and there is room to know it.
    fn set(&mut self, id: u32, state: AnaState) -> bool {
        if let Some((_, known)) = self.0.iter_mut().find(|(known, _)| *known == id) {
            return std::mem::replace(known, state) != state;
        }
        let is_news = state != AnaState::Optimized && self.0.len() < GROUPS_MAX;
        if is_news {
            self.0.push((id, state));
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;

    fn log(groups: &[(u32, u8)]) -> [u8; LOG_BYTES] {
        let mut log = [0; LOG_BYTES];
        log[8..10].copy_from_slice(&u16::try_from(groups.len()).unwrap().to_le_bytes());
        for (index, (id, state)) in groups.iter().enumerate() {
            let group = AnaGroup {
                id: (*id).into(),
                namespaces: 0.into(),
                change_count: 0.into(),
                state: *state,
                reserved: [0; 15],
            };
            let start = size_of::<AnaHeader>() + index * size_of::<AnaGroup>();
            log[start..start + size_of::<AnaGroup>()].copy_from_slice(group.as_bytes());
        }
        log
    }

    #[test]
    fn only_what_is_new_is_told() {
        let mut groups = Groups::default();
        assert_eq!(groups.take(&log(&[(1, 1), (2, 3)])), [(2, AnaState::Inaccessible)]);
        assert_eq!(groups.take(&log(&[(1, 1), (2, 3)])), []);
        let back = [(1, AnaState::NonOptimized), (2, AnaState::Optimized)];
        assert_eq!(groups.take(&log(&[(1, 2), (2, 1)])), back);
        assert_eq!(groups.take(&log(&[(1, 7)])), [], "no state has this number");
    }

    #[test]
    fn as_many_groups_as_fit_are_looked_at_and_no_more() {
        let all: Vec<(u32, u8)> =
            (0..u32::try_from(GROUPS_MAX).unwrap()).map(|id| (id, 3)).collect();
        let mut whole = log(&all);
        assert_eq!(Groups::default().take(&whole).len(), GROUPS_MAX);
        whole[8..10].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(Groups::default().take(&whole).len(), GROUPS_MAX);
        let mut groups = Groups::default();
        groups.take(&whole);
        assert_eq!(groups.take(&log(&[(u32::MAX, 3)])), [], "no room for another");
    }

    proptest! {
        #[test]
        fn a_log_of_any_bytes_is_survived(
            bytes in prop::collection::vec(any::<u8>(), LOG_BYTES),
        ) {
            let log: [u8; LOG_BYTES] = bytes.try_into().unwrap();
            prop_assert!(Groups::default().take(&log).len() <= GROUPS_MAX);
        }
    }
}
