//! Commands to the target while it is under load: devices added, shared, unshared and removed.
//!
//! For `run --serve --commands N`. On a thread of its own, from the first I/O of the load on, one
//! command after the other as fast as the engine carries them out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use engine::Engine;
use engine::command::{AddDevice, AddNamespace, Command};
use reactor::cores::keep_off;
use serde::Serialize;

use crate::harness::RunError;

/// The device that comes and goes.
const DEVICE: &str = "null:///churn?size_mb=64";
const DEVICE_NAME: &str = "churn";

/// The namespace that it comes and goes as: past those that are loaded.
const NAMESPACE: u32 = 1024;

/// What the commands took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ChurnReport {
    /// Commands carried out.
    pub commands: u64,
    /// Commands a second.
    pub commands_per_second: f64,
}

/// A thread that gives commands.
#[derive(Debug)]
pub struct Churn {
    thread: JoinHandle<Result<ChurnReport, engine::CommandError>>,
    over: Arc<AtomicBool>,
}

impl Churn {
    /// Begins to give `count` commands about the subsystem called `subsystem`.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub fn start(engine: Arc<Engine>, subsystem: String, count: u64) -> Result<Churn, RunError> {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = thread::Builder::new().name(String::from("churn")).spawn(move || {
            keep_off(&engine.cores().collect::<Vec<_>>());
            churn(&engine, &subsystem, count, &told)
        })?;
        Ok(Churn { thread, over })
    }

    /// Ends it, whether it is done or not.
    ///
    /// # Errors
    ///
    /// A command that was refused.
    pub fn end(self) -> Result<ChurnReport, RunError> {
        // Relaxed: nothing is read on the strength of it.
        self.over.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(RunError::Lost),
        }
    }
}

fn churn(
    engine: &Engine,
    subsystem: &str,
    count: u64,
    over: &AtomicBool,
) -> Result<ChurnReport, engine::CommandError> {
    let (subsystem, started) = (subsystem.to_owned(), Instant::now());
    let share = AddNamespace {
        namespace: Some(NAMESPACE),
        ..AddNamespace::new(subsystem.clone(), DEVICE_NAME)
    };
    let round = [
        Command::AddDevice(AddDevice { uri: String::from(DEVICE) }),
        Command::AddNamespace(share),
        Command::RemoveNamespace { subsystem, namespace: NAMESPACE },
        Command::RemoveDevice { device: String::from(DEVICE_NAME) },
    ];
    let mut commands = 0;
    for command in round.iter().cycle() {
        // A round is given whole, so that nothing is left behind.
        let is_between = commands % round.len() as u64 == 0;
        if is_between && (commands >= count || over.load(Ordering::Relaxed)) {
            break;
        }
        engine.execute(command)?;
        commands += 1;
    }
    let seconds = started.elapsed().max(Duration::from_nanos(1)).as_secs_f64();
    Ok(ChurnReport { commands, commands_per_second: commands as f64 / seconds })
}
