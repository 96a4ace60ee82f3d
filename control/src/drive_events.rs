//! What local NVMe drives tell of themselves, as lines for whoever watches the daemon: health
//! warnings, resets, removal.
//!
//! A drive's supervisor calls [`tell`] on its own control thread. A drive that tells without end
//! fills no log: at most [`LINES_MAX`] lines in [`WINDOW`], then the number of those left out.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bdev::pcie::{self, ControllerEvent};

/// Lines of all drives in a window.
const LINES_MAX: u32 = 32;

/// How long a window is.
const WINDOW: Duration = Duration::from_secs(60);

/// Back to the start of the line, and clear it: standard output may be within its line of figures.
const REWRITE: &str = "\r\x1b[K";

/// Has what drives tell written to standard error from now on.
pub fn listen() {
    // The first listener stays; a second call changes nothing.
    let _ = pcie::listen(tell);
}

fn tell(drive: &str, event: &ControllerEvent) {
    static PACE: Mutex<Pace> = Mutex::new(Pace::new());
    let line =
        PACE.lock().unwrap_or_else(PoisonError::into_inner).line(Instant::now(), drive, event);
    if let Some(line) = line {
        let mut stderr = io::stderr().lock();
        let start = if stderr.is_terminal() { REWRITE } else { "" };
        // A reader that has left is no reason to end.
        let _ = stderr.write_all(format!("{start}{line}\n").as_bytes());
    }
}

/// How many lines there may be.
#[derive(Debug)]
struct Pace {
    /// When the window began; none before the first line.
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Pace {
    const fn new() -> Pace {
        Pace { began: None, lines: 0, left_out: 0 }
    }

    /// The line of an event; none when there were too many.
    fn line(&mut self, now: Instant, drive: &str, event: &ControllerEvent) -> Option<String> {
        let is_over = self.began.is_none_or(|began| now.duration_since(began) >= WINDOW);
        if is_over {
            self.began = Some(now);
            self.lines = 0;
        }
        if self.lines == LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        let left_out = match std::mem::take(&mut self.left_out) {
            0 => String::new(),
            count => format!(" ({count} before it were left out)"),
        };
        Some(format!("mayastor: {drive}: {event}{left_out}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVE: &str = "0000:01:00.0";

    #[test]
    fn an_event_is_a_line_that_names_the_drive() {
        let line = Pace::new().line(Instant::now(), DRIVE, &ControllerEvent::Removed);
        assert_eq!(line.unwrap(), "mayastor: 0000:01:00.0: removed");
    }

    #[test]
    fn lines_beyond_the_limit_are_left_out_and_their_number_is_told_in_the_next_window() {
        let mut pace = Pace::new();
        let start = Instant::now();
        let event = ControllerEvent::Recovered;
        for _ in 0..LINES_MAX {
            assert!(pace.line(start, DRIVE, &event).is_some());
        }
        let almost = start + WINDOW - Duration::from_millis(1);
        assert_eq!(pace.line(start, DRIVE, &event), None);
        assert_eq!(pace.line(almost, DRIVE, &event), None);
        let line = pace.line(start + WINDOW, DRIVE, &event).unwrap();
        assert!(line.ends_with("(2 before it were left out)"), "{line}");
        let line = pace.line(start + WINDOW, DRIVE, &event).unwrap();
        assert!(line.ends_with("back after the reset"), "{line}");
    }
}
