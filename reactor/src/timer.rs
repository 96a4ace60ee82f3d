//! The timers of a core: keep-alives, command deadlines, retries, naps.
//!
//! Owned by whoever needs them (the core's context, the executor) and called on that core's
//! thread. A binary heap whose entries know their place in it, so that a cancelled timer leaves at
//! once: most deadlines are cancelled, and the capacity is fixed. Arming and cancelling cost
//! O(log n), the next deadline is one load.
//!
//! Timers that are due come in order of their deadlines, those of one deadline in the order they
//! were armed in: a run in virtual time replays exactly.

use thiserror::Error;

use crate::clock::Nanos;
use crate::slab::{Slab, SlotId};

/// Every timer is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("every timer is armed")]
pub struct TimersFull;

/// Names one armed timer; once expired or cancelled it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId(SlotId);

/// A node of the heap. Carries its own order, so that sifting does not touch the slab to compare.
#[derive(Clone, Copy, Debug)]
struct Node {
    deadline: Nanos,
    /// Counts the timers armed so far; wraps after five centuries at one a nanosecond.
    sequence: u64,
    id: SlotId,
}

impl Node {
    fn is_before(&self, other: &Node) -> bool {
        (self.deadline, self.sequence) < (other.deadline, other.sequence)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: u64,
    /// Where its node is in the heap.
    place: usize,
}

/// Deadlines with keys.
#[derive(Debug)]
pub struct Timers {
    entries: Slab<Entry>,
    /// A binary heap, soonest first; never above the slab's capacity.
    heap: Vec<Node>,
    next_sequence: u64,
}

impl Timers {
    /// Makes room for `capacity_timers` armed timers. All memory is allocated here.
    ///
    /// # Panics
    ///
    /// When the capacity is above `slab::CAPACITY_SLOTS_MAX`.
    pub fn with_capacity(capacity_timers: u32) -> Self {
        Self {
            entries: Slab::with_capacity(capacity_timers),
            heap: Vec::with_capacity(capacity_timers as usize),
            next_sequence: 0,
        }
    }

    /// Arms a timer. It gives `key` back once `deadline` is reached; a deadline in the past is
    /// reached at the next look.
    ///
    /// # Errors
    ///
    /// `TimersFull` when all are armed.
    pub fn arm(&mut self, deadline: Nanos, key: u64) -> Result<TimerId, TimersFull> {
        let place = self.heap.len();
        let id = self.entries.insert(Entry { key, place }).map_err(|_| TimersFull)?;
        self.heap.push(Node { deadline, sequence: self.next_sequence, id });
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.sift_up(place);
        Ok(TimerId(id))
    }

    /// Disarms a timer and gives its key back. `None` when it has expired or was cancelled.
    pub fn cancel(&mut self, timer: TimerId) -> Option<u64> {
        let place = self.entries.get(timer.0)?.place;
        Some(self.take_out(place))
    }

    /// The soonest deadline of all.
    #[inline]
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.heap.first().map(|node| node.deadline)
    }

    /// Takes the soonest timer that is due at `now` and gives its key. The caller bounds how many
    /// it takes in a pass: a handler that arms a timer in the past would find it here again.
    #[inline]
    pub fn expire_one(&mut self, now: Nanos) -> Option<u64> {
        if self.next_deadline()? > now { None } else { Some(self.take_out(0)) }
    }

    /// Takes up to `limit` timers that are due at `now`, soonest first, and gives their keys. Those
    /// not iterated over stay armed.
    pub fn expire(&mut self, now: Nanos, limit: usize) -> impl Iterator<Item = u64> {
        std::iter::from_fn(move || self.expire_one(now)).take(limit)
    }

    /// How many timers are armed.
    pub fn len(&self) -> u32 {
        self.entries.len()
    }

    /// Whether no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes the node at `place`, and its entry, whose key it returns.
    fn take_out(&mut self, place: usize) -> u64 {
        let node = self.heap.swap_remove(place);
        let entry = self.entries.remove(node.id).expect("every node of the heap has its entry");
        assert_eq!(entry.place, place, "an entry knows the place of its node");
        if place < self.heap.len() {
            // The node that was last sits here now, and may belong on either side.
            self.record_place(place);
            self.sift_down(place);
            self.sift_up(place);
        }
        entry.key
    }

    fn sift_up(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if !self.heap[place].is_before(&self.heap[parent]) {
                return;
            }
            self.swap(place, parent);
            place = parent;
        }
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let left = 2 * place + 1;
            let Some(left_node) = self.heap.get(left) else {
                return;
            };
            let right = left + 1;
            let child = match self.heap.get(right) {
                Some(right_node) if right_node.is_before(left_node) => right,
                _ => left,
            };
            if !self.heap[child].is_before(&self.heap[place]) {
                return;
            }
            self.swap(place, child);
            place = child;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.record_place(one);
        self.record_place(other);
    }

    fn record_place(&mut self, place: usize) {
        let id = self.heap[place].id;
        self.entries.get_mut(id).expect("every node of the heap has its entry").place = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timers_expire_in_order_of_deadline_then_of_arming() {
        let mut timers = Timers::with_capacity(4);
        for (deadline, key) in [(30, 0), (10, 1), (30, 2), (20, 3)] {
            timers.arm(Nanos(deadline), key).unwrap();
        }
        assert_eq!(timers.next_deadline(), Some(Nanos(10)));
        assert_eq!(timers.expire(Nanos(9), 9).next(), None);
        assert_eq!(timers.expire(Nanos(10), 9).collect::<Vec<_>>(), [1]);
        assert_eq!(timers.expire(Nanos(99), 2).collect::<Vec<_>>(), [3, 0]);
        assert_eq!(timers.expire_one(Nanos(99)), Some(2));
        assert_eq!(timers.expire_one(Nanos(99)), None);
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn all_timers_can_be_armed_and_one_more_is_refused() {
        let mut timers = Timers::with_capacity(2);
        let first = timers.arm(Nanos(1), 1).unwrap();
        timers.arm(Nanos(2), 2).unwrap();
        assert_eq!(timers.arm(Nanos(3), 3), Err(TimersFull));
        assert_eq!(timers.cancel(first), Some(1));
        assert!(timers.arm(Nanos(3), 3).is_ok());
        assert_eq!(timers.len(), 2);
    }

    #[test]
    fn an_expired_or_cancelled_timer_cannot_be_cancelled() {
        let mut timers = Timers::with_capacity(1);
        let expired = timers.arm(Nanos(1), 1).unwrap();
        assert_eq!(timers.expire_one(Nanos(1)), Some(1));
        let armed = timers.arm(Nanos(1), 2).unwrap();
        assert_eq!(timers.cancel(expired), None, "its slot has another tenant");
        assert_eq!(timers.cancel(armed), Some(2));
        assert_eq!(timers.cancel(armed), None);
        assert!(timers.is_empty());
    }

    #[test]
    fn what_is_not_iterated_over_stays_armed() {
        let mut timers = Timers::with_capacity(2);
        timers.arm(Nanos(1), 1).unwrap();
        timers.arm(Nanos(1), 2).unwrap();
        assert_eq!(timers.expire(Nanos(1), 2).next(), Some(1));
        assert_eq!(timers.len(), 1);
        assert_eq!(timers.expire(Nanos(1), 0).next(), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arm(u64),
        Cancel(proptest::sample::Index),
        Advance(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u64..50).prop_map(Step::Arm),
            3 => any::<proptest::sample::Index>().prop_map(Step::Cancel),
            2 => (0_u64..20, 0_usize..6).prop_map(|(span, limit)| Step::Advance(span, limit)),
        ]
    }

    proptest! {
        #[test]
        fn any_sequence_of_steps_agrees_with_a_sorted_list(
            capacity in 0_u32..40,
            steps in proptest::collection::vec(step(), 0..300),
        ) {
            let mut timers = Timers::with_capacity(capacity);
            // (deadline, key); keys count up, so sorting also gives the order of arming.
            let mut model: Vec<(u64, u64)> = Vec::new();
            let mut given = Vec::new();
            let mut now = 0;
            for (key, step) in (0_u64..).zip(steps) {
                match step {
                    Step::Arm(span) => match timers.arm(Nanos(now + span), key) {
                        Ok(timer) => {
                            given.push((timer, key));
                            model.push((now + span, key));
                            model.sort_unstable();
                        }
                        Err(TimersFull) => prop_assert_eq!(model.len(), capacity as usize),
                    },
                    Step::Cancel(pick) if !given.is_empty() => {
                        let (timer, key) = given[pick.index(given.len())];
                        let place = model.iter().position(|armed| armed.1 == key);
                        let expected = place.map(|place| model.remove(place).1);
                        prop_assert_eq!(timers.cancel(timer), expected);
                    }
                    Step::Cancel(_) => {}
                    Step::Advance(span, limit) => {
                        now += span;
                        let due = model.iter().take_while(|armed| armed.0 <= now).count();
                        let expected: Vec<_> =
                            model.drain(..due.min(limit)).map(|armed| armed.1).collect();
                        let expired: Vec<_> = timers.expire(Nanos(now), limit).collect();
                        prop_assert_eq!(expired, expected);
                    }
                }
                prop_assert_eq!(timers.len() as usize, model.len());
                let soonest = model.first().map(|armed| Nanos(armed.0));
                prop_assert_eq!(timers.next_deadline(), soonest);
            }
        }
    }
}
