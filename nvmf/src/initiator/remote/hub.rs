//! The control thread of the process on which the supervisors of all remote devices run.
//!
//! Started when the first device is opened, and there for good: its memory could not be unmapped
//! anyway. It sleeps in its epoll set until a socket, a timer or a note has something for it.

use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use reactor::cores::CoreId;
use reactor::dma::{DmaPool, PagePreference, PoolConfig};
use reactor::sleep::{self, Sleeper, Waker};
use reactor::socket::epoll::EpollNetwork;
use reactor::socket::{SocketKey, Wait};
use reactor::{Clock, Cx, Nanos, Wake};

use super::supervisor::Supervisor;

/// Devices that may wait to be taken over.
const JOBS_MAX: usize = 256;
/// Longest that the thread sleeps.
const LONGEST_SLEEP: Nanos = Nanos::from_secs(60);
/// Key of the descriptor that ends its sleep; sockets have others.
const WAKE_KEY: SocketKey = SocketKey(0);

/// Why the thread could not be started, or is not there.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HubError {
    /// The system refused something that it needs.
    #[error("cannot start the thread for remote devices: {0}")]
    System(Arc<io::Error>),
    /// Too many devices are being opened at once.
    #[error("{JOBS_MAX} remote devices are being opened: try again")]
    Busy,
}

impl From<io::Error> for HubError {
    fn from(error: io::Error) -> HubError {
        HubError::System(Arc::new(error))
    }
}

/// Makes a supervisor, on the thread.
type Job = Box<dyn FnOnce() -> Supervisor + Send>;

/// The way to the thread.
#[derive(Clone)]
pub(super) struct Hub {
    jobs: SyncSender<Job>,
    waker: Waker,
}

static HUB: OnceLock<Result<Hub, HubError>> = OnceLock::new();

/// The way to the thread, started now if it was not.
///
/// # Errors
/// It could not be started; then it never is.
pub(super) fn get() -> Result<Hub, HubError> {
    HUB.get_or_init(Hub::start).clone()
}

impl Hub {
    fn start() -> Result<Hub, HubError> {
        let (sleeper, waker) = sleep::pair().map_err(io::Error::other)?;
        let (jobs, received) = sync_channel(JOBS_MAX);
        let (ready, started) = sync_channel(1);
        thread::Builder::new().name(String::from("nvmf-admin")).spawn(move || {
            match Thread::new(sleeper, received) {
                Ok(thread) => {
                    // Whoever waits for it is there: it waits without a limit.
                    let _ = ready.send(Ok(()));
                    thread.run();
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
        started.recv().map_err(io::Error::other)??;
        Ok(Hub { jobs, waker })
    }

    /// What wakes it.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Hands it a supervisor.
    ///
    /// # Errors
    /// Too many wait.
    pub fn add(&self, job: Job) -> Result<(), HubError> {
        self.jobs.try_send(job).map_err(|_| HubError::Busy)?;
        self.waker.wake_if_sleeping();
        Ok(())
    }
}

/// What the thread has.
struct Thread {
    cx: Cx,
    sleeper: Sleeper,
    jobs: Receiver<Job>,
    supervisors: Vec<Supervisor>,
}

impl Thread {
    fn new(sleeper: Sleeper, jobs: Receiver<Job>) -> io::Result<Thread> {
        let network = EpollNetwork::new()?;
        network.watch_level(sleeper.as_fd(), WAKE_KEY)?;
        let pool = PoolConfig { chunks: 0, pages: PagePreference::Ordinary };
        let dma = DmaPool::new(pool).map_err(io::Error::other)?;
        let seed = RandomState::new().hash_one(0);
        // It is no core of the engine's; nothing asks for its name.
        let cx = Cx::new(CoreId(u32::MAX), Clock::real(), dma, Box::new(network), seed);
        Ok(Thread { cx, sleeper, jobs, supervisors: Vec::new() })
    }

    fn run(mut self) {
        let mut ready = Vec::new();
        loop {
            // Announced before looking: who sends something after the look ends the sleep.
            self.sleeper.prepare();
            self.supervisors.extend(self.jobs.try_iter().map(|make| make()));
            let wait = self.pass();
            self.cx.network.poll(wait, &mut ready);
            self.sleeper.awake();
            for event in ready.drain(..) {
                self.cx.device_readiness.note(event);
            }
            self.cx.advance_clock();
        }
    }

    /// Polls all; returns how long it may sleep.
    fn pass(&mut self) -> Wait {
        let Thread { cx, supervisors, .. } = self;
        for supervisor in supervisors.iter_mut() {
            supervisor.poll(cx);
        }
        supervisors.retain(|supervisor| !supervisor.is_ended());
        let all = supervisors.iter().map(Supervisor::wake);
        let until = match all.fold(Wake::Never, Wake::soonest) {
            Wake::Now => return Wait::No,
            Wake::At(time) => time.since(cx.now()),
            Wake::Descriptor | Wake::Never => LONGEST_SLEEP,
        };
        match until {
            Nanos(0) => Wait::No,
            until => Wait::AtMost(Duration::from(until.min(LONGEST_SLEEP))),
        }
    }
}
