//! The loop: one pinned thread a core that runs a [`Service`] through its phases and sleeps when
//! every layer allows it (ARCHITECTURE 4).
//!
//! Control threads talk to a core through its [`ReactorHandle`]: closures into a bounded inbox,
//! counters read from a published copy. The pass order is fixed: inbox, messages, sockets,
//! receive, devices, send, timers. One clock read a pass.
//!
//! Idle policy: after [`IdlePolicy::Adaptive`]'s window without work the core arms every layer,
//! sets its sleeping flag, looks once more, and blocks in epoll until a socket, the eventfd, or
//! the soonest timer. A window longer than a round trip keeps a closed loop at depth 1 spinning.

use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock::{Clock, Nanos};
use crate::cores::{CoreId, pin_current_thread};
use crate::counters::{CoreCounters, PUBLISH_INTERVAL, SharedCounters};
use crate::cx::Cx;
use crate::dma::{DmaPool, PageKind, PoolConfig};
use crate::inbox::{self, CallError, Inbox, Sender};
use crate::service::Service;
use crate::sleep::{self, Sleeper, Waker};
use crate::socket::epoll::EpollNetwork;
use crate::socket::{Ready, SocketKey, Wait};
use crate::wake::Wake;

/// The key of the core's own eventfd in its epoll set; no service may use it.
const WAKE_KEY: SocketKey = SocketKey(u64::MAX);

/// Closures taken from the inbox in one pass.
const INBOX_PER_PASS: usize = 16;

/// Closures that control threads can have waiting for a core.
pub const INBOX_CAPACITY: usize = 256;

/// Timers that run out in one pass.
const TIMERS_PER_PASS: usize = 64;

/// Longest sleep; bounds the harm of a clock that jumps.
const LONGEST_SLEEP: Nanos = Nanos::from_secs(10);

/// What a core does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Spin this long after the last work, then sleep.
    Adaptive {
        /// Length of the window.
        spin: Nanos,
    },
    /// Never sleep.
    Poll,
}

impl Default for IdlePolicy {
    /// 100 us: some ten loopback round trips.
    fn default() -> Self {
        IdlePolicy::Adaptive { spin: Nanos::from_micros(100) }
    }
}

/// How to start a core.
#[derive(Clone, Copy, Debug)]
pub struct ReactorConfig {
    /// The core to pin the thread to.
    pub core: CoreId,
    /// What it does when idle.
    pub idle: IdlePolicy,
    /// Its DMA memory.
    pub pool: PoolConfig,
    /// Seed of its random numbers.
    pub seed: u64,
}

/// Why a core could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The thread could not be pinned.
    #[error(transparent)]
    Cores(#[from] crate::cores::CoresError),
    /// There is no eventfd for it.
    #[error(transparent)]
    Sleep(#[from] crate::sleep::SleepError),
    /// There is no DMA memory.
    #[error(transparent)]
    Dma(#[from] crate::dma::DmaError),
    /// The system refused a thread, an epoll set or an eventfd.
    #[error("cannot start the reactor of core {core}: the system refused a thread or a descriptor")]
    System {
        /// The core.
        core: CoreId,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// A core's service and context, as closures from control threads see them.
#[derive(Debug)]
pub struct Core<S> {
    /// What runs on the core.
    pub service: S,
    /// The core's context.
    pub cx: Cx,
    stopping: bool,
}

impl<S: Service> Core<S> {
    /// Tells the service to end within `grace`; the loop ends when it has.
    pub fn stop(&mut self, grace: Nanos) {
        if !self.stopping {
            self.stopping = true;
            let deadline = self.cx.now() + grace;
            self.service.stop(&mut self.cx, deadline);
        }
    }
}

/// A core that is set up and not running yet: its waker exists, so that cores can be connected.
#[derive(Debug)]
pub struct Reactor {
    config: ReactorConfig,
    sleeper: Sleeper,
    waker: Waker,
}

/// A running core, as control threads see it.
#[derive(Debug)]
pub struct ReactorHandle<S: Service> {
    core: CoreId,
    pages: PageKind,
    inbox: Sender<Core<S>>,
    counters: SharedCounters,
    thread: JoinHandle<()>,
}

impl Reactor {
    /// Prepares a core.
    pub fn new(config: ReactorConfig) -> Result<Reactor, StartError> {
        let (sleeper, waker) = sleep::pair()?;
        Ok(Reactor { config, sleeper, waker })
    }

    /// Wakes the core when it sleeps.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Starts the thread, pins it, maps its memory, builds the service there, and runs it. Returns
    /// once the service is built, or with the reason why it could not be.
    pub fn start<S, E>(
        self,
        build: impl FnOnce(&mut Cx) -> Result<S, E> + Send + 'static,
    ) -> Result<ReactorHandle<S>, E>
    where
        S: Service,
        E: From<StartError> + Send + 'static,
    {
        let core = self.config.core;
        let (sender, inbox) = inbox::inbox(INBOX_CAPACITY, self.waker.clone());
        let counters = SharedCounters::default();
        let shared = counters.clone();
        let (report, started) = std::sync::mpsc::channel::<Result<PageKind, E>>();
        let body = move || {
            let built = context(&self).map_err(E::from).and_then(|mut cx| {
                let service = build(&mut cx)?;
                Ok(Core { service, cx, stopping: false })
            });
            match built {
                Ok(core) => {
                    let _ = report.send(Ok(core.cx.dma.pages()));
                    drop(report);
                    Loop { core, inbox, shared, sleeper: self.sleeper, idle: self.config.idle }
                        .run();
                }
                Err(error) => {
                    let _ = report.send(Err(error));
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("reactor-{}", core.0))
            .spawn(body)
            .map_err(|source| StartError::System { core, source })?;
        let pages = started.recv().expect("a reactor reports before it ends")?;
        Ok(ReactorHandle { core, pages, inbox: sender, counters, thread })
    }
}

impl<S: Service> ReactorHandle<S> {
    /// The core.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Which pages back its DMA memory.
    pub fn pages(&self) -> PageKind {
        self.pages
    }

    /// Runs a closure on the core and waits for its result, at most `within`. Control
    /// threads only.
    pub fn call<R: Send + 'static>(
        &self,
        within: Duration,
        closure: impl FnOnce(&mut Core<S>) -> R + Send + 'static,
    ) -> Result<R, CallError> {
        self.inbox.call(Instant::now() + within, closure)
    }

    /// The counters last published.
    pub fn counters(&self) -> CoreCounters {
        self.counters.read()
    }

    /// A reader of the counters for another thread.
    pub fn shared_counters(&self) -> SharedCounters {
        self.counters.clone()
    }

    /// Asks the core to end within `grace`; [`ReactorHandle::join`] waits for it. False when the
    /// core cannot be asked: its inbox is full, or it has ended already.
    pub fn stop(&self, grace: Nanos) -> bool {
        self.inbox.send(Box::new(move |core: &mut Core<S>| core.stop(grace))).is_ok()
    }

    /// True once the core's thread has ended, so that [`ReactorHandle::join`] does not wait.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the core to end.
    pub fn join(self) -> std::thread::Result<()> {
        self.thread.join()
    }
}

fn context(reactor: &Reactor) -> Result<Cx, StartError> {
    let ReactorConfig { core, pool, seed, .. } = reactor.config;
    pin_current_thread(core)?;
    let dma = DmaPool::new(pool)?;
    let system = |source| StartError::System { core, source };
    let network = EpollNetwork::new().map_err(system)?;
    network.watch_level(reactor.sleeper.as_fd(), WAKE_KEY).map_err(system)?;
    let mut cx = Cx::new(core, Clock::real(), dma, Box::new(network), seed);
    cx.waker = Some(reactor.waker.clone());
    Ok(cx)
}

/// The running loop and what only it touches.
struct Loop<S: Service> {
    core: Core<S>,
    inbox: Inbox<Core<S>>,
    shared: SharedCounters,
    sleeper: Sleeper,
    idle: IdlePolicy,
}

impl<S: Service> Loop<S> {
    fn run(mut self) {
        let mut ready: Vec<Ready> = Vec::with_capacity(64);
        let mut last_work = self.core.cx.advance_clock();
        let mut last_publish = last_work;
        let mut pass_start = last_work;
        loop {
            let work = self.pass(&mut ready);
            let now = self.core.cx.advance_clock();
            let counters = &mut self.core.cx.counters;
            counters.passes += 1;
            if work > 0 {
                counters.busy_passes += 1;
                counters.busy_ns += now.since(pass_start).0;
                last_work = now;
            } else {
                counters.spin_ns += now.since(pass_start).0;
            }
            pass_start = now;
            if now.since(last_publish) >= PUBLISH_INTERVAL {
                self.shared.publish(counters);
                last_publish = now;
            }
            if self.core.service.stopped() {
                self.shared.publish(&self.core.cx.counters);
                return;
            }
            if let IdlePolicy::Adaptive { spin } = self.idle
                && now.since(last_work) >= spin
            {
                self.sleep(&mut ready);
                pass_start = self.core.cx.now();
            }
        }
    }

    /// One pass through the phases; returns how much work there was.
    fn pass(&mut self, ready: &mut Vec<Ready>) -> usize {
        let mut work = self.take_closures();
        let Core { service, cx, .. } = &mut self.core;
        work += service.take_messages(cx);
        cx.network.poll(Wait::No, ready);
        work += dispatch(service, cx, &mut self.sleeper, ready);
        work += service.receive(cx);
        work += service.poll_devices(cx);
        work += service.send(cx);
        for _ in 0..TIMERS_PER_PASS {
            let Some(key) = cx.timers.expire_one(cx.now()) else { break };
            service.timer(cx, key);
            work += 1;
        }
        work
    }

    fn take_closures(&mut self) -> usize {
        let mut taken = 0;
        for closure in self.inbox.poll(INBOX_PER_PASS) {
            closure(&mut self.core);
            taken += 1;
        }
        taken
    }

    /// Blocks until something happens, unless a layer has work.
    fn sleep(&mut self, ready: &mut Vec<Ready>) {
        let Core { service, cx, .. } = &mut self.core;
        let now = cx.now();
        let mut until = now + LONGEST_SLEEP;
        match service.wake(cx) {
            Wake::Now => return,
            Wake::At(time) => until = until.min(time),
            Wake::Descriptor | Wake::Never => {}
        }
        if let Some(deadline) = cx.timers.next_deadline() {
            until = until.min(deadline);
        }
        if until <= now {
            return;
        }
        self.sleeper.prepare();
        if !self.inbox.is_empty() || !service.arm(cx) {
            self.sleeper.cancel();
            return;
        }
        self.shared.publish(&cx.counters);
        cx.network.poll(Wait::AtMost(until.since(now).into()), ready);
        self.sleeper.awake();
        let woken = cx.advance_clock();
        cx.counters.sleep_ns += woken.since(now).0;
        cx.counters.sleeps += 1;
        dispatch(service, cx, &mut self.sleeper, ready);
    }
}

fn dispatch<S: Service>(
    service: &mut S,
    cx: &mut Cx,
    sleeper: &mut Sleeper,
    ready: &mut Vec<Ready>,
) -> usize {
    let mut count = 0;
    for event in ready.drain(..) {
        if event.key == WAKE_KEY {
            sleeper.awake();
        } else if cx.device_readiness.note(event) {
            count += 1;
        } else {
            service.socket_ready(cx, event);
            count += 1;
        }
    }
    count
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::PagePreference;

    const SOON: Duration = Duration::from_secs(10);

    /// Counts what it is told; ends at once when asked to.
    #[derive(Debug, Default)]
    struct Counting {
        timers: u64,
        stopping: bool,
    }

    impl Service for Counting {
        fn take_messages(&mut self, _: &mut Cx) -> usize {
            0
        }

        fn socket_ready(&mut self, _: &mut Cx, _: Ready) {}

        fn receive(&mut self, _: &mut Cx) -> usize {
            0
        }

        fn poll_devices(&mut self, _: &mut Cx) -> usize {
            0
        }

        fn send(&mut self, _: &mut Cx) -> usize {
            0
        }

        fn timer(&mut self, _: &mut Cx, key: u64) {
            self.timers += key;
        }

        fn wake(&self, _: &Cx) -> Wake {
            Wake::Never
        }

        fn arm(&mut self, _: &mut Cx) -> bool {
            true
        }

        fn stop(&mut self, _: &mut Cx, _: Nanos) {
            self.stopping = true;
        }

        fn stopped(&self) -> bool {
            self.stopping
        }
    }

    fn start(idle: IdlePolicy) -> ReactorHandle<Counting> {
        let core = crate::cores::CoreList::allowed().unwrap().as_slice()[0];
        let pool = PoolConfig { chunks: 4, pages: PagePreference::Ordinary };
        let reactor = Reactor::new(ReactorConfig { core, idle, pool, seed: 1 }).unwrap();
        reactor.start(|_: &mut Cx| Ok::<_, StartError>(Counting::default())).unwrap()
    }

    #[test]
    fn an_idle_core_sleeps_and_wakes_for_a_closure_and_a_timer() {
        let handle = start(IdlePolicy::default());
        std::thread::sleep(Duration::from_millis(100));
        let before = handle.counters();
        std::thread::sleep(Duration::from_millis(200));
        let idle = handle.counters().since(before);
        assert!(idle.passes < 100_000, "an idle core does not spin: {idle:?}");
        handle
            .call(SOON, |core| {
                let soon = core.cx.now() + Nanos::from_millis(5);
                core.cx.timers.arm(soon, 7).unwrap();
            })
            .unwrap();
        let started = Instant::now();
        while handle.call(SOON, |core| core.service.timers).unwrap() != 7 {
            assert!(started.elapsed() < SOON, "the timer never ran out");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(handle.stop(Nanos::from_secs(1)));
        handle.join().unwrap();
    }

    #[test]
    fn a_polling_core_never_sleeps_and_answers() {
        let handle = start(IdlePolicy::Poll);
        assert_eq!(handle.call(SOON, |core| core.service.timers).unwrap(), 0);
        handle.stop(Nanos::from_secs(1));
        let shared = handle.shared_counters();
        handle.join().unwrap();
        assert_eq!(shared.read().sleeps, 0);
        assert!(shared.read().passes > 0);
    }

    #[test]
    fn a_service_that_has_nothing_left_to_do_ends_its_core_unasked() {
        let handle = start(IdlePolicy::Poll);
        handle.call(SOON, |core| core.service.stopping = true).unwrap();
        let started = Instant::now();
        while !handle.is_finished() {
            assert!(started.elapsed() < SOON, "the core goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!handle.stop(Nanos(0)), "it cannot be asked any more");
        handle.join().unwrap();
    }

    #[test]
    fn a_service_that_cannot_be_built_says_why() {
        let core = crate::cores::CoreList::allowed().unwrap().as_slice()[0];
        let pool = PoolConfig { chunks: 4, pages: PagePreference::Ordinary };
        let config = ReactorConfig { core, idle: IdlePolicy::Poll, pool, seed: 1 };
        let failed = Reactor::new(config).unwrap().start(|_: &mut Cx| {
            let source = std::io::Error::other("no");
            Err::<Counting, _>(StartError::System { core: CoreId(0), source })
        });
        assert!(matches!(failed, Err(StartError::System { .. })));
    }
}
