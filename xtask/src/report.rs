//! What a stage of the test run leaves behind, and how it is shown.
//!
//! Success is one line; a failure shows the part of its output that says what went wrong.

use std::fmt;
use std::time::Duration;

/// Lines shown of the end of a failed stage's output.
const TAIL_LINES: usize = 80;
/// Lines shown of what failed tests printed.
const FAILURE_LINES: usize = 200;

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

/// The part of a failed stage's output that says what went wrong: the names of the tests that
/// failed and what they printed, or else the end.
pub fn excerpt(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let is_failed = |line: &&str| line.starts_with("test ") && line.ends_with("... FAILED");
    let names: Vec<&str> = lines.iter().copied().filter(is_failed).collect();
    if names.is_empty() {
        return lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    }
    let mut printed: Vec<&str> = Vec::new();
    let mut in_failures = false;
    for line in lines {
        in_failures |= line == "failures:";
        in_failures &= !line.starts_with("test result:");
        if in_failures && !line.trim().is_empty() {
            printed.push(line);
        }
    }
    // The first and the last words of a failure tell most: the claim that broke, and, of a
    // property test, the smallest input that breaks it.
    if printed.len() > FAILURE_LINES {
        let left_out = printed.len() - FAILURE_LINES;
        printed.drain(FAILURE_LINES / 2..FAILURE_LINES / 2 + left_out);
        printed.insert(FAILURE_LINES / 2, "(lines are left out here)");
    }
    [names.join("\n"), printed.join("\n")].join("\n")
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
    fn an_excerpt_names_the_failed_tests_and_shows_what_they_printed() {
        let output = "test a ... ok\ntest b ... FAILED\nnoise\nfailures:\n---- b stdout ----\n\
            panicked\n\nfailures:\n    b\n\ntest result: FAILED. 0 passed; 1 failed;\nnoise\n";
        let expected =
            "test b ... FAILED\nfailures:\n---- b stdout ----\npanicked\nfailures:\n    b";
        assert_eq!(excerpt(output), expected);
    }

    #[test]
    fn a_long_excerpt_keeps_its_beginning_and_its_end() {
        let middle = "line\n".repeat(1000);
        let output = format!("test b ... FAILED\nfailures:\nfirst\n{middle}last\ntest result: F");
        let text = excerpt(&output);
        assert!(text.contains("first") && text.ends_with("last"), "{text}");
        assert_eq!(text.lines().count(), 1 + FAILURE_LINES + 1);
    }

    #[test]
    fn an_excerpt_without_test_failures_is_the_end() {
        let output: String = (0..200).map(|line| format!("line {line}\n")).collect();
        assert!(excerpt(&output).starts_with("line 120\n"));
        assert!(excerpt(&output).ends_with("line 199"));
    }
}
