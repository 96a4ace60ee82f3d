//! `mayastor target`: starts the engine, says how to connect, and waits until it is asked to end.
//!
//! Runs in the main thread, which sleeps but for a line a second.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Command, CommandError, Engine, EngineError, Reply, StopError, TargetConfig};
use reactor::dma::PageKind;
use reactor::dma::region::HUGE_PAGE_BYTES;

use crate::config_file::{ConfigFile, ConfigFileError, Place, Summary};
use crate::drive_events;
use crate::failure;
use crate::grpc::{Doors, DoorsError, Executor, GrpcOptions, Server, ServerError};
use crate::live::{self, Sample};
use crate::open_files;
use crate::options::TargetOptions;
use crate::signals::{EndSignals, Waited};

/// What is in flight when the process is asked to end may take this long. With what stopping takes
/// beside it, the process is gone within a second.
const GRACE: Duration = Duration::from_millis(500);

/// How often there is a line.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Back to the start of the line, and clear it.
const REWRITE: &str = "\r\x1b[K";

/// Why `mayastor target` failed.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The target did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It did not end as it should.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The configuration file cannot be.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// It cannot be controlled as was asked.
    #[error(transparent)]
    Doors(#[from] DoorsError),
    /// The same.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The options contradict each other.
    #[error("{0}")]
    Options(String),
    /// The system refused to tell of signals.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
///
/// What keeps the target from starting, or from ending as it should.
pub fn run(options: &TargetOptions) -> Result<(), TargetError> {
    if let (true, Some(path)) = (options.check, &options.config) {
        return check(path);
    }
    let plan = Plan::of(options)?;
    // Before any thread exists, so that none of them is ever interrupted.
    let mut signals = EndSignals::block().map_err(TargetError::Signals)?;
    if let Err(error) = open_files::raise() {
        eprintln!("mayastor: the limit of open files stays as it is: {error}");
    }
    let doors = plan.grpc.as_ref().map(Doors::open).transpose()?;
    let config = &plan.config;
    drive_events::listen();
    let engine = Arc::new(Engine::start(config).map_err(|error| plan.place(error))?);
    let server = doors.map(|doors| serve(doors, &engine)).transpose()?;
    if let Some(note) = page_note(config, &engine.pages().collect::<Vec<_>>()) {
        eprintln!("mayastor: {note}");
    }
    for note in engine.device_notes() {
        eprintln!("mayastor: {note}");
    }
    for note in engine.nexus_notes() {
        eprintln!("mayastor: {note}");
    }
    let mut output = Output::new();
    for line in engine.connect_lines().into_iter().chain(engine.vhost_lines()) {
        output.write(&format!("{line}\n"));
    }
    let waited = wait(&engine, &mut signals, &mut output, options);
    // Commands that wait are given up, and the server still tells those who sent them.
    let stopped = engine.stop(GRACE);
    drop(server);
    waited.map_err(TargetError::Signals)?;
    Ok(stopped?)
}

/// Checks a file, and prints what it would serve.
fn check(path: &Path) -> Result<(), TargetError> {
    let (file, _) = ConfigFile::read(path)?;
    Output::new().write(&Summary(&file).to_string());
    Ok(())
}

/// What is asked for, by the command line or by a file.
struct Plan {
    config: TargetConfig,
    grpc: Option<GrpcOptions>,
    /// The file, its text, and where in it each command of the setup is.
    file: Option<(PathBuf, String, Vec<usize>)>,
}

impl Plan {
    fn of(options: &TargetOptions) -> Result<Plan, TargetError> {
        let Some(path) = &options.config else {
            options.check().map_err(TargetError::Options)?;
            let (config, grpc) = (options.to_config(), options.to_grpc());
            return Ok(Plan { config, grpc, file: None });
        };
        let (file, text) = ConfigFile::read(path)?;
        let (config, places) = file.to_config();
        Ok(Plan { config, grpc: file.to_grpc(), file: Some((path.clone(), text, places)) })
    }

    /// The error, with its place in the file where it has one.
    fn place(&self, error: EngineError) -> TargetError {
        let (Some((path, text, places)), EngineError::Setup { index, source }) =
            (&self.file, &error)
        else {
            return TargetError::Engine(error);
        };
        let Some(at) = places.get(*index) else { return TargetError::Engine(error) };
        let place = Place::find(text, *at);
        let text = failure::one_line(source);
        TargetError::Config(ConfigFileError::Mistake { path: path.clone(), place, text })
    }
}

/// Lets clients control the engine.
fn serve(doors: Doors, engine: &Arc<Engine>) -> Result<Server, ServerError> {
    if let Some(address) = doors.tcp_address() {
        eprintln!("mayastor: gRPC on {address}, for whoever reaches it");
    }
    let cores: Vec<_> = engine.cores().collect();
    Server::start(doors, Arc::clone(engine) as Arc<dyn Executor>, &cores)
}

impl Executor for Engine {
    fn execute(&self, command: &Command, within: Option<Duration>) -> Result<Reply, CommandError> {
        match within {
            Some(within) => self.execute_within(command, within),
            None => Engine::execute(self, command),
        }
    }
}

fn wait(
    engine: &Engine,
    signals: &mut EndSignals,
    output: &mut Output,
    options: &TargetOptions,
) -> io::Result<()> {
    let sample = || -> Vec<Sample> { engine.cores().zip(engine.counters()).collect() };
    let mut last = (Instant::now(), sample());
    let mut due = last.0 + LINE_INTERVAL;
    loop {
        let has_lines = !options.quiet && output.is_open;
        if signals.wait(has_lines.then_some(due))? == Waited::Asked {
            output.end_line();
            return Ok(());
        }
        let now = (Instant::now(), sample());
        output.live_line(&live::line(&last.1, &now.1, now.0 - last.0));
        // A process that was stopped for a while goes on from now, not with a burst of lines.
        due = (due + LINE_INTERVAL).max(now.0);
        last = now;
    }
}

/// Standard output; a reader that leaves ends the lines, not the target.
#[derive(Debug)]
struct Output {
    is_open: bool,
    is_terminal: bool,
    is_inside_line: bool,
}

impl Output {
    fn new() -> Output {
        let is_terminal = io::stdout().is_terminal();
        Output { is_open: true, is_terminal, is_inside_line: false }
    }

    fn write(&mut self, text: &str) {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        self.is_open &= written.is_ok();
    }

    fn live_line(&mut self, line: &str) {
        if self.is_terminal {
            self.write(&format!("{REWRITE}{line}"));
            self.is_inside_line = true;
        } else {
            self.write(&format!("{line}\n"));
        }
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.is_inside_line) {
            self.write("\n");
        }
    }
}

/// What there is to say about the pages of the cores' DMA memory, if it is not as it could be.
fn page_note(config: &TargetConfig, pages: &[PageKind]) -> Option<String> {
    use reactor::dma::PagePreference;
    let missing = pages.iter().filter(|kind| **kind != PageKind::Huge).count();
    if config.pages == PagePreference::Ordinary || missing == 0 {
        return None;
    }
    let wanted = pages.len() * config.pool().chunks;
    let unlocked = if pages.contains(&PageKind::OrdinaryUnlocked) {
        ", which `ulimit -l` does not let it lock"
    } else {
        ""
    };
    Some(format!(
        "{missing} of {cores} cores without hugepages: DMA memory wants {wanted} free ones of \
         {mib} MiB (sysctl vm.nr_hugepages={wanted}) and uses ordinary pages{unlocked}",
        cores = pages.len(),
        mib = HUGE_PAGE_BYTES >> 20,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reactor::dma::PagePreference;

    fn config(pages: PagePreference) -> TargetConfig {
        TargetConfig { pages, ..TargetConfig::new(Vec::new()) }
    }

    #[test]
    fn missing_hugepages_are_told_with_their_number() {
        let pages = [PageKind::Huge, PageKind::OrdinaryUnlocked];
        assert_eq!(
            page_note(&config(PagePreference::HugeFirst), &pages).unwrap(),
            "1 of 2 cores without hugepages: DMA memory wants 64 free ones of 2 MiB \
             (sysctl vm.nr_hugepages=64) and uses ordinary pages, which `ulimit -l` does not let \
             it lock"
        );
    }

    #[test]
    fn there_is_nothing_to_tell_of_hugepages_that_are_there_or_not_wanted() {
        assert_eq!(page_note(&config(PagePreference::HugeFirst), &[PageKind::Huge]), None);
        let ordinary = [PageKind::OrdinaryLocked];
        assert_eq!(page_note(&config(PagePreference::Ordinary), &ordinary), None);
    }
}
