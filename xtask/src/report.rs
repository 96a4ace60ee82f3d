//! What a stage of the test run leaves behind, and how it is shown.
//!
//! Success is one line; a failure shows the part of its output that says what went wrong.

use std::fmt;
use std::time::Duration;

/// Lines shown of the end of a failed stage's output.
const TAIL_LINES: usize = 80;
/// Lines shown of the failures that test binaries list.
const FAILURE_LINES: usize = 300;

/// Why a stage failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    reason: String,
}

impl Failure {
    /// A failure with everything that should be shown of it.
    pub fn new(reason: impl Into<String>) -> Failure {
        Failure { reason: reason.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Tests counted in the output of `cargo test`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
}

impl Tally {
    /// Adds one line of output if it is a summary of a test binary. Says whether it was one, of at
    /// least one test.
    pub fn add_line(&mut self, line: &str) -> bool {
        let Some(summary) = line.trim().strip_prefix("test result: ") else { return false };
        let passed = count_before(summary, " passed;");
        let failed = count_before(summary, " failed;");
        self.passed += passed;
        self.failed += failed;
        passed + failed > 0
    }
}

/// The number right before `word`.
fn count_before(text: &str, word: &str) -> u64 {
    let before = text.split_once(word).map_or("", |(before, _)| before);
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    digits.parse().unwrap_or(0)
}

/// The part of a failed stage's output that says what went wrong: the lists of failures that test
/// binaries print, or else the end.
pub fn excerpt(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let mut chosen: Vec<&str> = Vec::new();
    let mut in_failures = false;
    for line in &lines {
        in_failures |= line.trim() == "failures:";
        if in_failures {
            chosen.push(line);
        }
        in_failures &= !line.starts_with("test result:");
    }
    if chosen.is_empty() {
        chosen = lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec();
    } else if chosen.len() > FAILURE_LINES {
        chosen.truncate(FAILURE_LINES);
        chosen.push("(more failures are left out)");
    }
    chosen.join("\n")
}

/// Time in seconds with one digit behind the point, right-aligned for a column.
pub fn seconds(time: Duration) -> String {
    format!("{:6.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_test_binaries_add_up() {
        let mut tally = Tally::default();
        assert!(tally.add_line("test result: ok. 12 passed; 0 failed; 0 ignored; 3 filtered out"));
        assert!(tally.add_line("test result: FAILED. 1 passed; 2 failed; 0 ignored"));
        assert!(!tally.add_line("test result: ok. 0 passed; 0 failed; 0 ignored; 9 filtered out"));
        assert!(!tally.add_line("test reactor::ring ... ok"));
        assert_eq!(tally, Tally { passed: 13, failed: 2 });
    }

    #[test]
    fn an_excerpt_is_the_failures_of_every_binary() {
        let output = "noise\nfailures:\n---- a stdout ----\npanicked\n\nfailures:\n    a\n\n\
            test result: FAILED. 0 passed; 1 failed;\nmore noise\nfailures:\n    b\n\
            test result: FAILED. 0 passed; 1 failed;\nend\n";
        let text = excerpt(output);
        assert!(text.contains("panicked") && text.contains("    b"), "{text}");
        assert!(!text.contains("noise") && !text.contains("end"), "{text}");
    }

    #[test]
    fn an_excerpt_without_test_failures_is_the_end() {
        let output: String = (0..200).map(|line| format!("line {line}\n")).collect();
        assert!(excerpt(&output).starts_with("line 120\n"));
        assert!(excerpt(&output).ends_with("line 199"));
    }
}
