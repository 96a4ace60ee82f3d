//! What the guest's kernel and QEMU itself say, kept for the error messages.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Lines of the log that an error shows: those of a kernel panic.
const TAIL_LINES: usize = 60;
/// Text kept; what comes later is dropped, because a kernel in trouble repeats itself.
const KEPT_BYTES: usize = 4 << 20;

/// How long the last words of a process that ended may take to arrive.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);

/// Text that grows while the guest runs.
#[derive(Clone, Debug, Default)]
pub struct Console {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Sources that have not ended.
    open_count: Arc<AtomicUsize>,
}

impl Console {
    /// Keeps reading `source` until it ends, on a thread of its own.
    pub fn follow(&self, mut source: impl Read + Send + 'static) {
        let bytes = Arc::clone(&self.bytes);
        let open_count = Arc::clone(&self.open_count);
        open_count.fetch_add(1, Ordering::SeqCst);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(len @ 1..) = source.read(&mut chunk) {
                let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                let room = KEPT_BYTES - bytes.len();
                bytes.extend_from_slice(&chunk[..len.min(room)]);
            }
            open_count.fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// Waits, for a second at most, until every source has ended; for when the process has.
    pub fn settle(&self) {
        let deadline = Instant::now() + SETTLE_LIMIT;
        while self.open_count.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// All of it.
    pub fn text(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines.
    pub fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(TAIL_LINES);
        lines[first..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_sixty_lines() {
        let console = Console::default();
        let text: String = (0..100).map(|line| format!("line {line}\n")).collect();
        console.follow(std::io::Cursor::new(text));
        console.settle();
        assert!(console.tail().starts_with("line 40\n") && console.tail().ends_with("line 99"));
    }
}
