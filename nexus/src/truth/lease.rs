//! The read lease: until when an owner may hand up read data, and how long its successor waits
//! (rule 5).
//!
//! An owner that was cut off must stop reading before the next one lets anybody write. It may read
//! only while a trust quorum has answered requests that were sent less than [`LEASE_US`] ago; any
//! answered command counts. Fed by the home core with a clock that goes on while the machine
//! sleeps; [`crate::truth::owner::Owner::may_read_by_lease`] counts the voters.

use super::quorum::{Voter, Voters};
use crate::child::{CHILDREN_MAX, ChildIndex};

/// How long an answer counts, from when its request was sent. A takeover without all replicas
/// waits so long, well under the host's 30 s.
pub const LEASE_US: u64 = 4_000_000;
/// What a successor waits in addition: clocks of hosts drift apart by less than a tenth.
pub const DRIFT_US: u64 = LEASE_US / 10;
/// A voter that was asked nothing for so long is asked to keep the lease.
pub const KEEP_ALIVE_US: u64 = LEASE_US / 3;

/// When each voter was last asked something that it answered.
#[derive(Clone, Debug)]
pub struct Lease {
    sent_at_us: [Option<u64>; CHILDREN_MAX],
    record_sent_at_us: Option<u64>,
}

impl Default for Lease {
    fn default() -> Lease {
        Lease::new()
    }
}

impl Lease {
    /// Nobody has answered.
    pub fn new() -> Lease {
        Lease { sent_at_us: [None; CHILDREN_MAX], record_sent_at_us: None }
    }

    /// A voter has answered a request that was sent at this time.
    pub fn answered(&mut self, voter: Voter, sent_at_us: u64) {
        let known = match voter {
            Voter::Replica(child) => &mut self.sent_at_us[child.get()],
            Voter::Record => &mut self.record_sent_at_us,
        };
        *known = (*known).max(Some(sent_at_us));
    }

    /// Whose answers count now.
    pub fn fresh(&self, now_us: u64) -> Voters {
        let mut voters = Voters::default();
        for child in ChildIndex::all() {
            if is_fresh(self.sent_at_us[child.get()], now_us, LEASE_US) {
                voters.insert(Voter::Replica(child));
            }
        }
        voters.record = is_fresh(self.record_sent_at_us, now_us, LEASE_US);
        voters
    }

    /// Whether a voter is to be asked something, so that its answer goes on counting.
    pub fn is_due(&self, voter: Voter, now_us: u64) -> bool {
        let known = match voter {
            Voter::Replica(child) => self.sent_at_us[child.get()],
            Voter::Record => self.record_sent_at_us,
        };
        !is_fresh(known, now_us, KEEP_ALIVE_US)
    }
}

fn is_fresh(sent_at_us: Option<u64>, now_us: u64, period_us: u64) -> bool {
    sent_at_us.is_some_and(|sent| now_us.saturating_sub(sent) < period_us)
}

/// When a new owner that must wait may answer its first host: `claimed_at_us` is when its claims
/// had a quorum.
pub const fn may_serve_at_us(claimed_at_us: u64) -> u64 {
    claimed_at_us.saturating_add(LEASE_US + DRIFT_US)
}

const _: () = assert!(LEASE_US + DRIFT_US < 15_000_000, "half of the host's time-out is left");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_from_when_its_request_was_sent() {
        let mut lease = Lease::new();
        let voter = Voter::Replica(ChildIndex::new(2).unwrap());
        assert!(lease.is_due(voter, 0));
        lease.answered(voter, 100);
        lease.answered(voter, 50);
        assert!(lease.fresh(100 + LEASE_US - 1).contains(voter));
        assert!(!lease.fresh(100 + LEASE_US).contains(voter));
        assert!(!lease.is_due(voter, 100 + KEEP_ALIVE_US - 1));
        assert!(lease.is_due(voter, 100 + KEEP_ALIVE_US));
        lease.answered(Voter::Record, 7);
        assert!(lease.fresh(8).record);
    }

    #[test]
    fn a_successor_waits_longer_than_the_last_read_of_its_predecessor() {
        let (cut_off_us, claimed_us) = (1_000, 1_000);
        assert!(may_serve_at_us(claimed_us) >= cut_off_us + LEASE_US + DRIFT_US);
    }
}
