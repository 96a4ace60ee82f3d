//! The procedures of a core: connect, log in, rebuild, discover.
//!
//! Owns the core's tasks, `!Send` futures in a slab of fixed capacity. The reactor runs it in its
//! last phase with a budget (ARCHITECTURE.md section 4); I/O never comes through here, so a task
//! may cost an allocation. Ready tasks run first in, first out, each at most once for every time
//! it was woken, and time comes in through `advance`: a run in virtual time replays exactly.
//!
//! The standard `Waker` may travel to any thread, so the list of ready tasks is a thread-safe
//! queue of slot numbers, and a task woken from elsewhere rings the core's bell.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crossbeam_queue::ArrayQueue;

use crate::clock::Nanos;
use crate::slab::{Full, Slab, SlotId};
use crate::sleep;
use crate::timer_driver::TimerDriver;

/// The most tasks that an executor may be made for.
pub const CAPACITY_TASKS_MAX: u32 = 1 << 16;

/// Sleeps for each task: its own, a deadline around it, and one in each of two branches.
const SLEEPS_PER_TASK: u32 = 4;

/// Names one task; once it has ended or was cancelled it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskId(SlotId);

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The slots of the tasks that want to run.
struct Ready {
    queue: ArrayQueue<u32>,
    /// For each slot, whether it is in the queue: so it is there at most once, and a queue of one
    /// place a slot cannot overflow, whatever wakers outlive their tasks.
    queued: Box<[AtomicBool]>,
    bell: Option<sleep::Waker>,
}

impl Ready {
    fn enqueue(&self, index: u32) {
        // AcqRel: release pairs with the swap in `dequeue`, so that the task, when it runs, sees
        // what its waker did before waking it; acquire with the same swap, so that a slot found
        // out of the queue has left it.
        if !self.queued[index as usize].swap(true, Ordering::AcqRel) {
            self.queue.push(index).expect("the queue has a place for each slot");
            if let Some(bell) = &self.bell {
                bell.wake_if_sleeping();
            }
        }
    }

    fn dequeue(&self) -> Option<u32> {
        let index = self.queue.pop()?;
        // AcqRel: pairs with the swap in `enqueue`. Before the task runs: what wakes it from now
        // on queues it again.
        self.queued[index as usize].swap(false, Ordering::AcqRel);
        Some(index)
    }
}

/// What the standard `Waker` of a slot points to. Made once; when it outlives a task it may run
/// the slot's next tenant once for nothing, which every future must bear.
struct SlotWaker {
    ready: Arc<Ready>,
    index: u32,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.enqueue(self.index);
    }
}

/// The tasks of one core.
pub struct Executor {
    tasks: Slab<Task>,
    wakers: Box<[Waker]>,
    ready: Arc<Ready>,
    timers: TimerDriver,
}

impl Executor {
    /// Makes an executor for `capacity_tasks` tasks that are woken by their own core only: by
    /// local channels, timers and each other.
    ///
    /// # Panics
    ///
    /// When the capacity is zero or above `CAPACITY_TASKS_MAX`.
    pub fn with_capacity(capacity_tasks: u32) -> Self {
        Self::build(capacity_tasks, None)
    }

    /// Makes an executor whose tasks may be woken from other threads while the core sleeps.
    ///
    /// # Panics
    ///
    /// When the capacity is zero or above `CAPACITY_TASKS_MAX`.
    pub fn with_bell(capacity_tasks: u32, bell: sleep::Waker) -> Self {
        Self::build(capacity_tasks, Some(bell))
    }

    fn build(capacity_tasks: u32, bell: Option<sleep::Waker>) -> Self {
        assert!(
            (1..=CAPACITY_TASKS_MAX).contains(&capacity_tasks),
            "capacity {capacity_tasks} is not from 1 to {CAPACITY_TASKS_MAX}"
        );
        let ready = Arc::new(Ready {
            queue: ArrayQueue::new(capacity_tasks as usize),
            queued: (0..capacity_tasks).map(|_| AtomicBool::new(false)).collect(),
            bell,
        });
        let wakers = (0..capacity_tasks)
            .map(|index| Waker::from(Arc::new(SlotWaker { ready: Arc::clone(&ready), index })))
            .collect();
        Self {
            tasks: Slab::with_capacity(capacity_tasks),
            wakers,
            ready,
            timers: TimerDriver::with_capacity(capacity_tasks * SLEEPS_PER_TASK),
        }
    }

    /// Adds a task, ready to run.
    ///
    /// # Errors
    ///
    /// `Full` when there are as many tasks as there can be; the future is dropped.
    pub fn spawn(&mut self, future: impl Future<Output = ()> + 'static) -> Result<TaskId, Full> {
        let id = self.tasks.insert(Box::pin(future))?;
        self.ready.enqueue(id.index);
        Ok(TaskId(id))
    }

    /// Drops a task's future. False when it has ended or was cancelled before.
    pub fn cancel(&mut self, task: TaskId) -> bool {
        // Its slot may stay in the queue: it is skipped, or runs the next tenant early.
        self.tasks.remove(task.0).is_some()
    }

    /// Runs ready tasks, `limit` at most, and returns how many ran. Tasks that are woken
    /// meanwhile run after those that were ready before.
    pub fn run(&mut self, limit: usize) -> usize {
        self.run_while(limit, || true)
    }

    /// Runs ready tasks, `limit` at most, for as long as `go_on` says so before each; returns how
    /// many ran.
    pub fn run_while(&mut self, limit: usize, mut go_on: impl FnMut() -> bool) -> usize {
        let mut ran = 0;
        while ran < limit && !self.ready.queue.is_empty() && go_on() {
            let Some(index) = self.ready.dequeue() else {
                break;
            };
            ran += usize::from(self.run_slot(index));
        }
        ran
    }

    /// Polls the task in a slot. False when it has none.
    fn run_slot(&mut self, index: u32) -> bool {
        let Some(id) = self.tasks.id_at(index) else {
            return false;
        };
        let task = self.tasks.get_mut(id).expect("the slot was seen taken");
        let mut context = Context::from_waker(&self.wakers[index as usize]);
        if let Poll::Ready(()) = task.as_mut().poll(&mut context) {
            self.tasks.remove(id);
        }
        true
    }

    /// Moves time on and readies the tasks whose deadlines are reached, soonest first. Once a
    /// pass, before `run`.
    pub fn advance(&mut self, now: Nanos) {
        self.timers.advance(now);
    }

    /// When the next sleeping task must be readied. Bounds the core's own sleep.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.timers.next_deadline()
    }

    /// The handle by which tasks sleep. Clone it into the future.
    pub fn timers(&self) -> &TimerDriver {
        &self.timers
    }

    /// Whether a task wants to run. Part of a core's last look before it sleeps.
    #[inline]
    pub fn has_ready(&self) -> bool {
        !self.ready.queue.is_empty()
    }

    /// Whether a task has neither ended nor been cancelled.
    pub fn is_alive(&self, task: TaskId) -> bool {
        self.tasks.get(task.0).is_some()
    }

    /// How many tasks there are.
    pub fn len(&self) -> u32 {
        self.tasks.len()
    }

    /// Whether there are no tasks.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Executor")
            .field("tasks", &self.tasks.len())
            .field("ready", &self.ready.queue.len())
            .field("timers", &self.timers)
            .finish()
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::local_channel;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    type Log = Rc<RefCell<Vec<(u64, u32)>>>;

    /// Gives the other tasks a turn.
    async fn turn() {
        let mut waited = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Runs in virtual time until every task has ended; the time at the end.
    fn run_to_end(executor: &mut Executor) -> Nanos {
        while !executor.is_empty() {
            if executor.run(usize::MAX) == 0 {
                let next = executor.next_deadline().expect("every task waits for ever");
                executor.advance(next);
            }
        }
        executor.timers().now()
    }

    #[test]
    fn ready_tasks_take_turns_in_order() {
        let log = Log::default();
        let mut executor = Executor::with_capacity(3);
        for task in 0..3 {
            let log = Rc::clone(&log);
            let spawned = executor.spawn(async move {
                for round in 0..2 {
                    log.borrow_mut().push((round, task));
                    turn().await;
                }
            });
            spawned.unwrap();
        }
        run_to_end(&mut executor);
        assert_eq!(*log.borrow(), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
    }

    #[test]
    fn an_executor_takes_its_capacity_and_refuses_one_more() {
        let mut executor = Executor::with_capacity(2);
        let first = executor.spawn(std::future::pending()).unwrap();
        executor.spawn(async {}).unwrap();
        assert_eq!(executor.spawn(async {}), Err(Full));
        assert!(executor.cancel(first));
        assert!(executor.spawn(async {}).is_ok());
        assert_eq!(executor.len(), 2);
        run_to_end(&mut executor);
    }

    #[test]
    fn the_largest_executor_can_be_made() {
        Executor::with_capacity(CAPACITY_TASKS_MAX);
    }

    #[test]
    #[should_panic(expected = "is not from 1 to")]
    fn an_executor_above_the_largest_is_refused() {
        Executor::with_capacity(CAPACITY_TASKS_MAX + 1);
    }

    #[test]
    #[should_panic(expected = "is not from 1 to")]
    fn an_executor_of_none_is_refused() {
        Executor::with_capacity(0);
    }

    #[test]
    fn a_run_keeps_to_its_budget() {
        let mut executor = Executor::with_capacity(4);
        for _ in 0..4 {
            executor.spawn(async {}).unwrap();
        }
        assert_eq!(executor.run(1), 1);
        let mut asked = 0;
        let ran = executor.run_while(9, || {
            asked += 1;
            asked <= 2
        });
        assert_eq!(ran, 2);
        assert!(executor.has_ready());
        assert_eq!(executor.run(9), 1);
        assert!(!executor.has_ready());
        assert_eq!(executor.run(9), 0);
    }

    #[test]
    fn a_task_that_keeps_waking_itself_is_bounded_by_the_budget() {
        let mut executor = Executor::with_capacity(1);
        executor
            .spawn(async {
                loop {
                    turn().await;
                }
            })
            .unwrap();
        assert_eq!(executor.run(100), 100);
    }

    #[test]
    fn cancelling_drops_the_future_and_what_it_holds() {
        let mut executor = Executor::with_capacity(1);
        let timers = executor.timers().clone();
        let witness = Rc::new(());
        let held = Rc::clone(&witness);
        let task = executor
            .spawn(async move {
                let _held = held;
                timers.sleep_until(Nanos(10)).unwrap().await;
            })
            .unwrap();
        executor.run(1);
        assert_eq!(executor.next_deadline(), Some(Nanos(10)));
        assert!(executor.is_alive(task));
        assert!(executor.cancel(task));
        assert_eq!(Rc::strong_count(&witness), 1);
        assert_eq!(executor.next_deadline(), None);
        assert!(!executor.cancel(task), "a double cancel is caught");
        assert!(!executor.is_alive(task));
    }

    #[test]
    fn a_late_identifier_does_not_cancel_the_next_task() {
        let mut executor = Executor::with_capacity(1);
        let ended = executor.spawn(async {}).unwrap();
        run_to_end(&mut executor);
        let next = executor.spawn(std::future::pending()).unwrap();
        assert!(!executor.cancel(ended));
        assert!(executor.is_alive(next));
    }

    #[test]
    fn slots_reused_while_queued_do_not_overflow_the_queue() {
        let mut executor = Executor::with_capacity(1);
        for _ in 0..3 {
            let task = executor.spawn(std::future::pending()).unwrap();
            assert!(executor.cancel(task));
        }
        assert_eq!(executor.run(9), 0);
        executor.spawn(async {}).unwrap();
        assert_eq!(executor.run(9), 1);
    }

    #[test]
    fn sleeping_tasks_wake_in_virtual_time() {
        let log = Log::default();
        let mut executor = Executor::with_capacity(3);
        for (task, span) in [(0, 300), (1, 100), (2, 100)] {
            let (log, timers) = (Rc::clone(&log), executor.timers().clone());
            let spawned = executor.spawn(async move {
                for _ in 0..2 {
                    let deadline = Nanos(timers.now().0 + span);
                    timers.sleep_until(deadline).unwrap().await;
                    log.borrow_mut().push((timers.now().0, task));
                }
            });
            spawned.unwrap();
        }
        assert_eq!(run_to_end(&mut executor), Nanos(600));
        let expected = [(100, 1), (100, 2), (200, 1), (200, 2), (300, 0), (600, 0)];
        assert_eq!(*log.borrow(), expected);
    }

    #[test]
    fn a_task_and_the_loop_talk_through_local_queues() {
        let mut executor = Executor::with_capacity(1);
        let (mut requests, mut taken) = local_channel::queue(1);
        let (mut completed, mut completions) = local_channel::queue(1);
        let (result_out, mut result) = local_channel::oneshot();
        executor
            .spawn(async move {
                let mut sum = 0;
                for request in 0..3_u32 {
                    requests.send(request).await.unwrap();
                    sum += completions.recv().await.unwrap();
                }
                result_out.send(sum).unwrap();
            })
            .unwrap();
        let mut passes = 0;
        while !executor.is_empty() {
            executor.run(9);
            if let Some(request) = taken.try_recv() {
                completed.try_send(request * 10).unwrap();
            }
            passes += 1;
            assert!(passes < 10);
        }
        assert_eq!(result.try_recv(), Some(30));
    }

    #[test]
    fn a_task_woken_from_another_thread_rings_the_sleeping_core() {
        let (mut sleeper, bell) = sleep::pair().unwrap();
        let mut executor = Executor::with_bell(1, bell);
        let slot: Arc<std::sync::Mutex<Option<Waker>>> = Arc::default();
        let shown = Arc::clone(&slot);
        executor
            .spawn(std::future::poll_fn(move |context| {
                match shown.lock().unwrap().replace(context.waker().clone()) {
                    None => Poll::Pending,
                    Some(_) => Poll::Ready(()),
                }
            }))
            .unwrap();
        executor.run(1);
        sleeper.prepare();
        assert!(!executor.has_ready());
        let other = std::thread::spawn(move || slot.lock().unwrap().clone().unwrap().wake());
        other.join().unwrap();
        let mut descriptors = [nix::poll::PollFd::new(
            std::os::fd::AsFd::as_fd(&sleeper),
            nix::poll::PollFlags::POLLIN,
        )];
        assert_eq!(nix::poll::poll(&mut descriptors, nix::poll::PollTimeout::ZERO), Ok(1));
        sleeper.awake();
        assert_eq!(executor.run(1), 1);
        assert!(executor.is_empty());
    }

    #[test]
    fn a_waker_that_outlives_the_executor_is_harmless() {
        let kept: Rc<RefCell<Option<Waker>>> = Rc::default();
        let mut executor = Executor::with_capacity(1);
        let shown = Rc::clone(&kept);
        executor
            .spawn(std::future::poll_fn(move |context| {
                *shown.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }))
            .unwrap();
        executor.run(1);
        drop(executor);
        kept.borrow_mut().take().unwrap().wake();
    }

    proptest! {
        #[test]
        fn every_task_wakes_at_each_of_its_deadlines(
            plans in proptest::collection::vec(proptest::collection::vec(0_u64..20, 0..5), 1..8),
        ) {
            let log = Log::default();
            let mut executor = Executor::with_capacity(8);
            let mut expected = Vec::new();
            for (task, plan) in (0_u32..).zip(plans) {
                let mut time = 0;
                for span in &plan {
                    time += span;
                    expected.push((time, task));
                }
                let (log, timers) = (Rc::clone(&log), executor.timers().clone());
                executor.spawn(async move {
                    for span in plan {
                        timers.sleep_until(Nanos(timers.now().0 + span)).unwrap().await;
                        log.borrow_mut().push((timers.now().0, task));
                    }
                }).unwrap();
            }
            run_to_end(&mut executor);
            prop_assert!(log.borrow().is_sorted_by_key(|entry| entry.0));
            log.borrow_mut().sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(&*log.borrow(), &expected);
        }
    }
}
