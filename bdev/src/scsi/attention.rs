//! The unit attentions that wait for an initiator.
//!
//! One list a nexus, kept by the unit under its lock; the front of it is reported by the next
//! command that reports any. SAM-5 section 5.14, SPC-4 section 6.1 (which commands report none).

use super::sense::{Sense, SenseCode, SenseKey};

/// Conditions that can wait for one nexus. There are fewer kinds, and each waits once.
const WAITING_MAX: usize = 12;

/// What waits for a nexus, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Attentions {
    codes: Vec<SenseCode>,
}

impl Attentions {
    /// Adds a condition. One of power on or reset is the only one: it says that everything which
    /// happened before is of no use any more (SAM-5 section 5.14.2).
    pub fn add(&mut self, code: SenseCode) {
        if code.0 >> 8 == SenseCode::POWER_ON.0 >> 8 {
            self.codes.clear();
        }
        if !self.codes.contains(&code) && self.codes.len() < WAITING_MAX {
            self.codes.push(code);
        }
    }

    /// Takes the oldest.
    pub fn take(&mut self) -> Option<Sense> {
        if self.codes.is_empty() {
            return None;
        }
        Some(Sense::new(SenseKey::UnitAttention, self.codes.remove(0)))
    }

    /// Forgets that the list of units has changed: it was read.
    pub fn forget(&mut self, code: SenseCode) {
        self.codes.retain(|waiting| *waiting != code);
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_waits_once_in_the_order_in_which_they_came() {
        let mut waiting = Attentions::default();
        waiting.add(SenseCode::CAPACITY_CHANGED);
        waiting.add(SenseCode::MODE_PARAMETERS_CHANGED);
        waiting.add(SenseCode::CAPACITY_CHANGED);
        let codes = std::iter::from_fn(|| waiting.take().map(|sense| sense.code));
        let expected = [SenseCode::CAPACITY_CHANGED, SenseCode::MODE_PARAMETERS_CHANGED];
        assert_eq!(codes.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_reset_is_all_that_is_left_to_say() {
        let mut waiting = Attentions::default();
        waiting.add(SenseCode::CAPACITY_CHANGED);
        waiting.add(SenseCode::RESET);
        waiting.add(SenseCode::LUNS_CHANGED);
        waiting.forget(SenseCode::LUNS_CHANGED);
        assert_eq!(waiting.take().map(|sense| sense.code), Some(SenseCode::RESET));
        assert!(waiting.is_empty());
    }
}
