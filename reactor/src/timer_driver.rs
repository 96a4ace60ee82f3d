//! Sleeps and deadlines for the procedures of a core.
//!
//! Owned by the core's executor, which advances it once a pass with the time of the pass; tasks
//! hold clones of the handle. Nothing here reads a clock, so the same procedures run in virtual
//! time. The number of sleeps is fixed, and a sleep takes its place when it is made: a task learns
//! at once that there is none, rather than never waking.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use thiserror::Error;

use crate::clock::Nanos;
use crate::slab::{Slab, SlotId};
use crate::timer::{TimerId, Timers, TimersFull};

/// Why `within` has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WithinError {
    /// The deadline was reached first; the future was dropped.
    #[error("the deadline was reached")]
    Elapsed,
    /// No timer was free; the future was dropped without being polled.
    #[error(transparent)]
    TimersFull(#[from] TimersFull),
}

#[derive(Debug)]
struct Sleep {
    /// None once the timer has expired.
    timer: Option<TimerId>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct State {
    now: Nanos,
    timers: Timers,
    sleeps: Slab<Sleep>,
}

/// A handle to the timers of a core's procedures.
#[derive(Clone)]
pub struct TimerDriver {
    state: Rc<RefCell<State>>,
}

impl TimerDriver {
    /// Makes room for `capacity_sleeps` at a time.
    ///
    /// # Panics
    ///
    /// When the capacity is above `slab::CAPACITY_SLOTS_MAX`.
    pub fn with_capacity(capacity_sleeps: u32) -> Self {
        let state = State {
            now: Nanos(0),
            timers: Timers::with_capacity(capacity_sleeps),
            sleeps: Slab::with_capacity(capacity_sleeps),
        };
        Self { state: Rc::new(RefCell::new(state)) }
    }

    /// The time of the current pass.
    pub fn now(&self) -> Nanos {
        self.state.borrow().now
    }

    /// A future that is ready once `deadline` is reached.
    ///
    /// # Errors
    ///
    /// When no timer is free.
    pub fn sleep_until(&self, deadline: Nanos) -> Result<SleepUntil, TimersFull> {
        let mut state = self.state.borrow_mut();
        let sleep = Sleep { timer: None, waker: None };
        let id = state.sleeps.insert(sleep).map_err(|_| TimersFull)?;
        let timer = state.timers.arm(deadline, id.to_token());
        let timer = timer.expect("there are as many timers as sleeps");
        state.sleeps.get_mut(id).expect("it was just inserted").timer = Some(timer);
        drop(state);
        Ok(SleepUntil { driver: self.clone(), id })
    }

    /// Runs a future to its end or to `deadline`, whichever is first; the end wins a tie.
    ///
    /// # Errors
    ///
    /// `Elapsed` at the deadline, `TimersFull` when no timer is free.
    pub async fn within<F: Future>(
        &self,
        deadline: Nanos,
        future: F,
    ) -> Result<F::Output, WithinError> {
        let mut sleep = self.sleep_until(deadline)?;
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(move |context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            Pin::new(&mut sleep).poll(context).map(|()| Err(WithinError::Elapsed))
        })
        .await
    }

    /// Moves time on and wakes the tasks whose deadlines are reached, soonest first. Time never
    /// runs backward. Ends in one pass: a woken task arms its next timer only when it runs.
    pub(crate) fn advance(&self, now: Nanos) {
        {
            let mut state = self.state.borrow_mut();
            state.now = state.now.max(now);
        }
        while let Some(waker) = self.expire_one() {
            waker.wake();
        }
    }

    /// The soonest deadline of all sleeps.
    pub(crate) fn next_deadline(&self) -> Option<Nanos> {
        self.state.borrow().timers.next_deadline()
    }

    /// The waker of the next sleep that is over and has been polled before.
    fn expire_one(&self) -> Option<Waker> {
        let state = &mut *self.state.borrow_mut();
        while let Some(token) = state.timers.expire_one(state.now) {
            let sleep = state.sleeps.get_mut(SlotId::from_token(token));
            let sleep = sleep.expect("a dropped sleep cancels its timer");
            sleep.timer = None;
            if let Some(waker) = sleep.waker.take() {
                return Some(waker);
            }
        }
        None
    }
}

impl fmt::Debug for TimerDriver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TimerDriver")
            .field("now", &self.now())
            .field("next_deadline", &self.next_deadline())
            .finish_non_exhaustive()
    }
}

/// A sleep; dropping it frees its timer.
#[derive(Debug)]
pub struct SleepUntil {
    driver: TimerDriver,
    id: SlotId,
}

impl Future for SleepUntil {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.driver.state.borrow_mut();
        let sleep = state.sleeps.get_mut(self.id).expect("a sleep keeps its slot until dropped");
        if sleep.timer.is_none() {
            return Poll::Ready(());
        }
        sleep.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for SleepUntil {
    fn drop(&mut self) {
        let state = &mut *self.driver.state.borrow_mut();
        let sleep = state.sleeps.remove(self.id).expect("a sleep keeps its slot until dropped");
        if let Some(timer) = sleep.timer {
            state.timers.cancel(timer).expect("an expired timer is marked so");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_sleep_ends_at_its_deadline_and_not_before() {
        let driver = TimerDriver::with_capacity(1);
        let mut sleep = driver.sleep_until(Nanos(10)).unwrap();
        assert_eq!(driver.next_deadline(), Some(Nanos(10)));
        assert_eq!(poll(Pin::new(&mut sleep)), Poll::Pending);
        driver.advance(Nanos(9));
        assert_eq!(poll(Pin::new(&mut sleep)), Poll::Pending);
        driver.advance(Nanos(10));
        assert_eq!(poll(Pin::new(&mut sleep)), Poll::Ready(()));
        assert_eq!(driver.next_deadline(), None);
    }

    #[test]
    fn time_does_not_run_backward() {
        let driver = TimerDriver::with_capacity(1);
        driver.advance(Nanos(10));
        driver.advance(Nanos(5));
        assert_eq!(driver.now(), Nanos(10));
    }

    #[test]
    fn as_many_sleeps_as_promised_can_be_had_and_no_more() {
        let driver = TimerDriver::with_capacity(2);
        let first = driver.sleep_until(Nanos(1)).unwrap();
        let _second = driver.sleep_until(Nanos(2)).unwrap();
        assert!(matches!(driver.sleep_until(Nanos(3)), Err(TimersFull)));
        drop(first);
        assert_eq!(driver.next_deadline(), Some(Nanos(2)));
        let expired = driver.sleep_until(Nanos(1)).unwrap();
        driver.advance(Nanos(1));
        assert!(driver.sleep_until(Nanos(3)).is_err(), "an expired sleep keeps its place");
        drop(expired);
        assert!(driver.sleep_until(Nanos(3)).is_ok());
    }

    #[test]
    fn what_ends_within_its_deadline_gives_its_result() {
        let driver = TimerDriver::with_capacity(2);
        let mut quick = pin!(driver.within(Nanos(5), async { 7 }));
        assert_eq!(poll(quick.as_mut()), Poll::Ready(Ok(7)));
        let mut slow = pin!(driver.within(Nanos(5), std::future::pending::<()>()));
        assert_eq!(poll(slow.as_mut()), Poll::Pending);
        driver.advance(Nanos(5));
        assert_eq!(poll(slow.as_mut()), Poll::Ready(Err(WithinError::Elapsed)));
    }

    #[test]
    fn a_deadline_without_a_timer_is_an_error() {
        let driver = TimerDriver::with_capacity(0);
        let mut work = pin!(driver.within(Nanos(5), async {}));
        assert_eq!(poll(work.as_mut()), Poll::Ready(Err(TimersFull.into())));
    }
}
