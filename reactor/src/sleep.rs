//! The sleep/wake pair of a core: how it goes to sleep without missing a message.
//!
//! Owns a core's sleeping flag and its eventfd. The `Sleeper` belongs to the core's reactor; any
//! thread may hold a `Waker` (ARCHITECTURE.md section 4, "Idle"). The protocol is a store and a
//! load on each side with a full fence between them:
//!
//! | core that goes to sleep | sender                               |
//! |-------------------------|--------------------------------------|
//! | sets the flag           | publishes its batch                  |
//! | full fence              | full fence                           |
//! | looks at its rings      | reads the flag, rings the bell if set |
//!
//! The fences have one order. If the sleeper's is first, the sender sees the flag; if the
//! sender's is first, the sleeper sees the batch. So a message can be missed by neither; loom goes
//! through every execution below. While the core is busy a sender pays a fence and a load.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use thiserror::Error;

use crate::sync::{Arc, AtomicBool, Ordering, fence};

/// The eventfd of a core could not be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("cannot create the eventfd that wakes a core: check the limit of open files")]
pub struct SleepError(#[from] Errno);

/// What a waker rings to end a core's sleep.
pub trait Bell: Send + Sync {
    /// Ends the sleep, or the next one if it has not begun yet.
    fn ring(&self);

    /// Takes back all rings so far.
    fn quiet(&self);
}

/// The bell that epoll hears.
#[derive(Debug)]
pub struct EventBell(EventFd);

impl EventBell {
    fn new() -> Result<Self, SleepError> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(EventFd::from_value_and_flags(0, flags)?))
    }
}

impl Bell for EventBell {
    fn ring(&self) {
        match self.0.write(1) {
            // EAGAIN: the counter is full, so the descriptor is readable already.
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(errno) => unreachable!("write to an open eventfd: {errno}"),
        }
    }

    fn quiet(&self) {
        match self.0.read() {
            // EAGAIN: nobody rang; another descriptor or the timeout ended the sleep.
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(errno) => unreachable!("read from an open eventfd: {errno}"),
        }
    }
}

struct Shared<B> {
    sleeping: SleepFlag,
    bell: B,
}

/// Set while the core sleeps or is about to. On cache lines of its own: senders read it, only the
/// core writes it, and that seldom.
#[repr(align(128))]
struct SleepFlag(AtomicBool);

/// Makes the pair of one core, with an eventfd for a bell.
///
/// # Errors
///
/// When the process may not open another file.
pub fn pair() -> Result<(Sleeper, Waker), SleepError> {
    Ok(pair_with(EventBell::new()?))
}

/// Makes the pair of one core with another bell: a simulator's, or a model's.
pub fn pair_with<B: Bell>(bell: B) -> (Sleeper<B>, Waker<B>) {
    let shared = Arc::new(Shared { sleeping: SleepFlag(AtomicBool::new(false)), bell });
    (Sleeper { shared: Arc::clone(&shared) }, Waker { shared })
}

/// The side of the core that sleeps.
///
/// One sleep is `prepare`, a last look at everything a sender may have published to, then either
/// `cancel` or blocking on the descriptor and `awake`.
pub struct Sleeper<B: Bell = EventBell> {
    shared: Arc<Shared<B>>,
}

impl<B: Bell> Sleeper<B> {
    /// Announces the sleep. The caller then looks once more at its inbox, rings and leaves.
    pub fn prepare(&mut self) {
        // Relaxed: the fence below orders it before the caller's last look.
        self.shared.sleeping.0.store(true, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `Waker::wake_if_sleeping`. Of any two such fences one
        // comes first, and what was stored before it is seen after the other.
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back: the last look found something. A bell that rang meanwhile
    /// stays rung and makes the next sleep a short one, no worse.
    pub fn cancel(&mut self) {
        // Relaxed: a sender that still reads the flag as set rings once too often, no worse.
        self.shared.sleeping.0.store(false, Ordering::Relaxed);
    }

    /// Ends the sleep and quiets the bell. Call it after blocking and before looking at the
    /// rings: a ring that this takes back belongs to a batch that the next look sees.
    pub fn awake(&mut self) {
        // Relaxed: as in `cancel`. The batch itself is acquired through its ring's own index.
        self.shared.sleeping.0.store(false, Ordering::Relaxed);
        self.shared.bell.quiet();
    }
}

impl AsFd for Sleeper<EventBell> {
    /// The descriptor to block on: readable, level-triggered, from a ring until `awake`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.bell.0.as_fd()
    }
}

impl<B: Bell> fmt::Debug for Sleeper<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sleeper").finish_non_exhaustive()
    }
}

/// The side of everyone who sends to that core.
pub struct Waker<B: Bell = EventBell> {
    shared: Arc<Shared<B>>,
}

impl<B: Bell> Waker<B> {
    /// Wakes the core if it sleeps or is about to. Call it once a batch, after publishing.
    #[inline]
    pub fn wake_if_sleeping(&self) -> WakeOutcome {
        // SeqCst: pairs with the fence in `Sleeper::prepare`.
        fence(Ordering::SeqCst);
        // Relaxed: the fence above orders it after the caller's publishing store.
        if self.shared.sleeping.0.load(Ordering::Relaxed) {
            self.shared.bell.ring();
            WakeOutcome::Sent
        } else {
            WakeOutcome::Suppressed
        }
    }
}

impl<B: Bell> Clone for Waker<B> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<B: Bell> fmt::Debug for Waker<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Waker").finish_non_exhaustive()
    }
}

/// What a call of `wake_if_sleeping` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeOutcome {
    /// The bell was rung: one system call.
    Sent,
    /// The core was awake, and will see the batch by itself.
    Suppressed,
}

/// How often one sender had to ring. Plain numbers, owned by the sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WakeCounters {
    /// Bells rung.
    pub sent: u64,
    /// Bells saved because the core was awake.
    pub suppressed: u64,
}

impl WakeCounters {
    /// Counts one outcome.
    #[inline]
    pub fn record(&mut self, outcome: WakeOutcome) {
        match outcome {
            WakeOutcome::Sent => self.sent += 1,
            WakeOutcome::Suppressed => self.suppressed += 1,
        }
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::spsc;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn is_rung(sleeper: &Sleeper) -> bool {
        let mut descriptors = [PollFd::new(sleeper.as_fd(), PollFlags::POLLIN)];
        poll(&mut descriptors, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_core_that_is_awake_is_not_rung() {
        let (mut sleeper, waker) = pair().unwrap();
        assert_eq!(waker.wake_if_sleeping(), WakeOutcome::Suppressed);
        sleeper.prepare();
        sleeper.cancel();
        assert_eq!(waker.wake_if_sleeping(), WakeOutcome::Suppressed);
        assert!(!is_rung(&sleeper));
    }

    #[test]
    fn a_core_that_sleeps_is_rung_until_it_is_awake() {
        let (mut sleeper, waker) = pair().unwrap();
        sleeper.prepare();
        assert_eq!(waker.wake_if_sleeping(), WakeOutcome::Sent);
        assert_eq!(waker.clone().wake_if_sleeping(), WakeOutcome::Sent);
        assert!(is_rung(&sleeper));
        sleeper.awake();
        assert!(!is_rung(&sleeper));
        assert_eq!(waker.wake_if_sleeping(), WakeOutcome::Suppressed);
    }

    #[test]
    fn waking_without_a_ring_is_harmless() {
        let (mut sleeper, _waker) = pair().unwrap();
        sleeper.prepare();
        sleeper.awake();
        assert!(!is_rung(&sleeper));
    }

    #[test]
    fn a_full_eventfd_still_wakes() {
        let (mut sleeper, waker) = pair().unwrap();
        sleeper.shared.bell.0.write(u64::MAX - 1).unwrap();
        sleeper.prepare();
        assert_eq!(waker.wake_if_sleeping(), WakeOutcome::Sent);
        assert!(is_rung(&sleeper));
        sleeper.awake();
        assert!(!is_rung(&sleeper));
    }

    #[test]
    fn counters_tell_rings_from_savings() {
        let mut counters = WakeCounters::default();
        counters.record(WakeOutcome::Sent);
        counters.record(WakeOutcome::Suppressed);
        counters.record(WakeOutcome::Suppressed);
        assert_eq!(counters, WakeCounters { sent: 1, suppressed: 2 });
    }

    #[test]
    fn a_core_that_sleeps_after_every_batch_gets_every_item() {
        const ITEMS: u32 = 2_000;
        let (mut sleeper, waker) = pair().unwrap();
        let (mut producer, mut consumer) = spsc::ring(16);
        let sender = std::thread::spawn(move || {
            for item in 0..ITEMS {
                while producer.push(item).is_err() {
                    std::thread::yield_now();
                }
                producer.publish();
                waker.wake_if_sleeping();
            }
        });
        let mut expected = 0;
        while expected < ITEMS {
            while let Some(item) = consumer.pop() {
                assert_eq!(item, expected);
                expected += 1;
            }
            if expected == ITEMS {
                break;
            }
            sleeper.prepare();
            if consumer.is_empty() {
                let mut descriptors = [PollFd::new(sleeper.as_fd(), PollFlags::POLLIN)];
                let rung = poll(&mut descriptors, 10_000_u16).unwrap();
                assert_eq!(rung, 1, "a wake was missed after {expected} items");
                sleeper.awake();
            } else {
                sleeper.cancel();
            }
        }
        sender.join().unwrap();
    }
}

#[cfg(loom)]
#[cfg(test)]
mod loom_tests {
    use super::*;
    use crate::spsc;
    use loom::sync::{Condvar, Mutex};
    use loom::thread;

    /// Stands for the eventfd: loom reports a core that waits for ever as a deadlock.
    struct ModelBell {
        rung: Mutex<bool>,
        changed: Condvar,
    }

    impl ModelBell {
        fn new() -> Self {
            Self { rung: Mutex::new(false), changed: Condvar::new() }
        }

        fn wait(&self) {
            let mut rung = self.rung.lock().unwrap();
            while !*rung {
                rung = self.changed.wait(rung).unwrap();
            }
        }
    }

    impl Bell for ModelBell {
        fn ring(&self) {
            *self.rung.lock().unwrap() = true;
            self.changed.notify_one();
        }

        fn quiet(&self) {
            *self.rung.lock().unwrap() = false;
        }
    }

    /// The core's loop: take what is there, sleep when there is nothing, until `count` came.
    fn receive(
        sleeper: &mut Sleeper<ModelBell>,
        consumers: &mut [spsc::Consumer<usize>],
        count: usize,
    ) {
        let mut received = 0;
        loop {
            for consumer in consumers.iter_mut() {
                while consumer.pop().is_some() {
                    received += 1;
                }
            }
            if received == count {
                return;
            }
            sleeper.prepare();
            if consumers.iter().all(spsc::Consumer::is_empty) {
                sleeper.shared.bell.wait();
                sleeper.awake();
            } else {
                sleeper.cancel();
            }
        }
    }

    /// One sender sends `count` messages, each with its own wake.
    fn send_and_receive(count: usize) {
        let (mut sleeper, waker) = pair_with(ModelBell::new());
        let (mut producer, consumer) = spsc::ring(2);
        let sender = thread::spawn(move || {
            for item in 0..count {
                producer.push(item).unwrap();
                producer.publish();
                waker.wake_if_sleeping();
            }
        });
        receive(&mut sleeper, &mut [consumer], count);
        sender.join().unwrap();
    }

    /// Every execution there is.
    #[test]
    fn loom_a_core_that_goes_to_sleep_misses_no_message() {
        loom::model(|| send_and_receive(1));
    }

    /// Every execution with up to three forced switches: all of them take half a minute.
    #[test]
    fn loom_a_core_that_sleeps_again_misses_no_message() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| send_and_receive(2));
    }

    #[test]
    fn loom_two_senders_wake_one_core() {
        let mut model = loom::model::Builder::new();
        // Every execution with up to three forced switches: the whole space takes too long.
        model.preemption_bound = Some(3);
        model.check(|| {
            let (mut sleeper, waker) = pair_with(ModelBell::new());
            let (mut consumers, senders): (Vec<_>, Vec<_>) = (0..2)
                .map(|item| {
                    let (mut producer, consumer) = spsc::ring(1);
                    let waker = waker.clone();
                    let sender = thread::spawn(move || {
                        producer.push(item).unwrap();
                        producer.publish();
                        waker.wake_if_sleeping();
                    });
                    (consumer, sender)
                })
                .unzip();
            receive(&mut sleeper, &mut consumers, 2);
            for sender in senders {
                sender.join().unwrap();
            }
        });
    }
}
