//! Fences: what a core waits for before it says that a new access table is in force.
//!
//! On each core, beside its copy of the tables. A core that is given a table notes which of the
//! I/Os at the device the table forbids, and reports once the last of them has come back. Plain
//! data; the hot path asks [`Fences::is_open`] and nothing more while there is none.

use uuid::Uuid;

use crate::io::Token;

/// A round of the keeper that this core has not finished.
#[derive(Debug)]
struct Fence {
    namespace: Uuid,
    round: u64,
    /// I/Os at the device, in no order.
    awaited: Vec<Token>,
}

/// All fences of a core.
#[derive(Debug, Default)]
pub struct Fences {
    open: Vec<Fence>,
}

impl Fences {
    /// Begins to wait for these I/Os, or for none.
    pub fn begin(&mut self, namespace: Uuid, round: u64, awaited: Vec<Token>) {
        self.open.push(Fence { namespace, round, awaited });
    }

    /// True while there is something to wait for, or to report.
    #[inline]
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// An I/O has come back.
    #[cold]
    pub fn completed(&mut self, token: Token) {
        for fence in &mut self.open {
            fence.awaited.retain(|awaited| *awaited != token);
        }
    }

    /// Takes a round that is finished: namespace and round.
    pub fn take_finished(&mut self) -> Option<(Uuid, u64)> {
        let index = self.open.iter().position(|fence| fence.awaited.is_empty())?;
        let fence = self.open.swap_remove(index);
        Some((fence.namespace, fence.round))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: Uuid = Uuid::from_u128(1);

    #[test]
    fn a_round_is_finished_when_its_last_io_is_back() {
        let mut fences = Fences::default();
        assert!(!fences.is_open());
        fences.begin(NAMESPACE, 7, vec![Token(1), Token(2)]);
        fences.completed(Token(1));
        fences.completed(Token(3));
        assert_eq!(fences.take_finished(), None);
        fences.completed(Token(2));
        assert_eq!(fences.take_finished(), Some((NAMESPACE, 7)));
        assert!(!fences.is_open());
    }

    #[test]
    fn a_round_without_ios_is_finished_at_once_and_others_wait_on() {
        let mut fences = Fences::default();
        fences.begin(NAMESPACE, 1, vec![Token(1)]);
        fences.begin(Uuid::from_u128(2), 2, Vec::new());
        assert_eq!(fences.take_finished(), Some((Uuid::from_u128(2), 2)));
        assert_eq!(fences.take_finished(), None);
        assert!(fences.is_open());
    }

    #[test]
    fn two_rounds_may_wait_for_the_same_io() {
        let mut fences = Fences::default();
        fences.begin(NAMESPACE, 1, vec![Token(5)]);
        fences.begin(NAMESPACE, 2, vec![Token(5)]);
        fences.completed(Token(5));
        assert!(fences.take_finished().is_some() && fences.take_finished().is_some());
    }
}
