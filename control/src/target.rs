//! `mayastor target`: starts the engine, says how to connect, and waits until it is asked to end.
//!
//! Runs in the main thread, which sleeps but for a line a second.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use engine::{Engine, EngineError, StopError, TargetConfig};
use reactor::dma::PageKind;
use reactor::dma::region::HUGE_PAGE_BYTES;

use crate::live::{self, Sample};
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
    // Before any thread exists, so that none of them is ever interrupted.
    let mut signals = EndSignals::block().map_err(TargetError::Signals)?;
    let config = options.to_config();
    let engine = Engine::start(&config)?;
    if let Some(note) = page_note(&config, &engine.pages().collect::<Vec<_>>()) {
        eprintln!("mayastor: {note}");
    }
    for note in engine.device_notes() {
        eprintln!("mayastor: {note}");
    }
    let mut output = Output::new();
    for line in engine.connect_lines() {
        output.write(&format!("{line}\n"));
    }
    let waited = wait(&engine, &mut signals, &mut output, options);
    let stopped = engine.stop(GRACE);
    waited.map_err(TargetError::Signals)?;
    Ok(stopped?)
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
