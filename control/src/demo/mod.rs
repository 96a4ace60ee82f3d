//! `mayastor demo`: a mirror loses a replica under load, takes it back, and loses no write.
//!
//! Three replicas are served over NVMe/TCP on loopback by one process, a nexus is laid over them
//! and served too, and a host of it writes and reads while one replica is cut off, comes back, and
//! is rebuilt. At the end everything that was written is read from the nexus and from each replica.
//! The main thread directs; the load has a thread of its own. On a terminal there is a live line.
//! The exit status is zero only if every acknowledged write was found everywhere.

mod ledger;
mod load;
mod report;
mod scene;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;
use engine::command::{NexusState, RebuildEnd};
use engine::registry::RegistryError;
use engine::{CommandError, EngineError};
use reactor::dma::DmaError;

use crate::signals::{EndSignals, Waited};
use ledger::Ledger;
use load::{Link, Load, Told};
use report::Outcome;
use scene::{REPLICAS, Scene};

/// How long the load runs before the cut, and after the rebuild.
const CALM: Duration = Duration::from_secs(3);

/// How long the replica is cut off.
const CUT: Duration = Duration::from_secs(2);

/// How long it may take from then on until it is in sync again.
const REBUILT_WITHIN: Duration = Duration::from_secs(14);

/// How often a rebuild that could not begin is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// How often there is a line: on a terminal, and elsewhere.
const LIVE_INTERVAL: Duration = Duration::from_millis(250);
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Back to the start of the line, and clear it.
const REWRITE: &str = "\r\x1b[K";

/// Options of `mayastor demo`.
#[derive(Clone, Copy, Debug, Args)]
pub struct DemoOptions {
    /// Size of each replica in MiB; there are three
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 32,
        value_parser = clap::value_parser!(u32).range(4..=1024),
    )]
    pub size_mib: u32,
    /// Overwrite a block behind the demo's back, to see that it is found
    #[arg(long, hide = true)]
    pub plant_loss: bool,
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The target did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A command was refused.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The nexus or a replica could not be connected to.
    #[error(transparent)]
    Open(#[from] RegistryError),
    /// The same.
    #[error(transparent)]
    QueuePair(#[from] bdev::OpenError),
    /// There is no memory for the host.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// The same.
    #[error("the host of the demo has too little memory")]
    Memory,
    /// There is no epoll set for it.
    #[error("cannot make an epoll set")]
    Network(#[source] io::Error),
    /// The system refused a thread, or to tell of signals.
    #[error("the system refuses a thread or a descriptor")]
    System(#[source] io::Error),
    /// The nexus is gone.
    #[error("the nexus is not there any more")]
    NoNexus,
    /// An I/O did not come back.
    #[error("an I/O was not answered within 30 s")]
    Stuck,
    /// The replica did not come in sync again in time.
    #[error("the replica that was cut off was not rebuilt in time: {state}")]
    NotRebuilt {
        /// The state of its child.
        state: String,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// The load ended in a panic.
    #[error("the load of the demo ended in a panic")]
    Panicked,
    /// What it all is about.
    #[error("{lost} acknowledged writes are lost")]
    Lost {
        /// How many were not found where they must be.
        lost: u64,
    },
}

/// Plays the demo.
///
/// # Errors
///
/// What kept it from its end, or that something was lost.
pub fn run(options: &DemoOptions) -> Result<(), DemoError> {
    let mut stage = Direction {
        signals: EndSignals::block().map_err(DemoError::System)?,
        link: Arc::new(Link::default()),
        scene: Scene::set(options.size_mib)?,
        is_terminal: io::stdout().is_terminal(),
        last: (Instant::now(), Told::default()),
    };
    stage.say(&format!(
        "a nexus over {REPLICAS} replicas of {} MiB, each over NVMe/TCP; the load begins",
        options.size_mib
    ));
    let device = stage.scene.open_nexus()?;
    let load = load::spawn(device, Arc::clone(&stage.link)).map_err(DemoError::System)?;
    let played = stage.play();
    stage.link.end();
    let ledger = load_ended(load);
    let (away, rebuilt) = played?;
    let outcome = stage.check(ledger?, options, away, rebuilt)?;
    let lost = outcome.tally.lost;
    print(&report::table(&outcome));
    stage.scene.end();
    if lost == 0 { Ok(()) } else { Err(DemoError::Lost { lost }) }
}

fn load_ended(load: JoinHandle<Result<Ledger, DemoError>>) -> Result<Ledger, DemoError> {
    load.join().map_err(|_| DemoError::Panicked)?
}

/// Standard output; a reader that has left is no failure.
fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// What the main thread has in its hands.
struct Direction {
    signals: EndSignals,
    link: Arc<Link>,
    scene: Scene,
    is_terminal: bool,
    /// When there was a line, and what it was made of.
    last: (Instant, Told),
}

impl Direction {
    /// Calm, cut, rebuild, calm; how long the replica was away, and how long its rebuild took.
    fn play(&mut self) -> Result<(Duration, Duration), DemoError> {
        self.watch(CALM)?;
        self.link.enter(1);
        let cut_at = Instant::now();
        self.scene.cut()?;
        self.say("one replica is cut off");
        self.watch(CUT)?;
        self.scene.mend()?;
        self.say("it is back");
        let until = Instant::now() + REBUILT_WITHIN;
        let mut begun_at = Instant::now();
        loop {
            let nexus = self.scene.nexus()?;
            if nexus.state == NexusState::Online {
                break;
            }
            let victim = &nexus.children[scene::VICTIM];
            if victim.rebuild.is_none() {
                // It fails until the connection is there again.
                begun_at = Instant::now();
                let begun = self.scene.rebuild();
                if Instant::now() >= until {
                    begun?;
                    let state = format!("{:?}", victim.state);
                    return Err(DemoError::NotRebuilt { state });
                }
            }
            self.watch(RETRY)?;
        }
        let rebuilt = begun_at.elapsed();
        self.say("it is rebuilt and in sync");
        self.link.enter(2);
        self.watch(CALM)?;
        Ok((begun_at.saturating_duration_since(cut_at), rebuilt))
    }

    /// Lets the load run for a while, and shows how it goes.
    fn watch(&mut self, time: Duration) -> Result<(), DemoError> {
        let until = Instant::now() + time;
        let interval = if self.is_terminal { LIVE_INTERVAL } else { LINE_INTERVAL };
        while Instant::now() < until {
            let wake = until.min(self.last.0 + interval);
            if self.signals.wait(Some(wake)).map_err(DemoError::System)? == Waited::Asked {
                return Err(DemoError::Interrupted);
            }
            let now = Instant::now();
            if now < self.last.0 + interval {
                continue;
            }
            let told = self.link.told();
            let nexus = self.scene.nexus()?;
            let line = report::line(&self.last.1, &told, now - self.last.0, &nexus);
            let rewrite = if self.is_terminal { REWRITE } else { "" };
            let end = if self.is_terminal { "" } else { "\n" };
            print(&format!("{rewrite}{line}{end}"));
            self.last = (now, told);
        }
        Ok(())
    }

    /// A line that stays.
    fn say(&self, text: &str) {
        let rewrite = if self.is_terminal { REWRITE } else { "" };
        print(&format!("{rewrite}{text}\n"));
    }

    /// Reads everything that was written from the nexus and from each replica.
    fn check(
        &mut self,
        ledger: Ledger,
        options: &DemoOptions,
        away: Duration,
        rebuilt: Duration,
    ) -> Result<Outcome, DemoError> {
        self.say("everything that was written is read, from the nexus and from each replica");
        let mut load = Load::new(self.scene.open_nexus()?, Some(ledger))?;
        if options.plant_loss {
            load.plant_loss()?;
        }
        load.check_all()?;
        let mut ledger = load.ledger;
        for replica in 0..REPLICAS {
            let device = self.scene.open_replica(replica)?;
            let mut load = Load::new(device, Some(ledger))?;
            load.check_all()?;
            ledger = load.ledger;
        }
        let history = self.scene.nexus()?.history;
        let last = history.iter().rfind(|record| record.end == RebuildEnd::Completed);
        Ok(Outcome {
            told: self.link.told(),
            tally: ledger.tally(),
            away,
            rebuilt,
            copied_bytes: last.map_or(0, |record| record.copied_bytes),
        })
    }
}
