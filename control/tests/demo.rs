//! `mayastor demo` without a terminal: it ends by itself, and says what is true.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What is promised to whoever starts it without a terminal, on a machine that does little else.
const END_WITHIN: Duration = Duration::from_secs(30);

/// Room for a machine that does much else.
const SLACK: u32 = 4;

fn demo(arguments: &[&str]) -> (Option<i32>, String, String) {
    let begun = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_mayastor"))
        .args(["demo", "--size-mib", "8"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(begun.elapsed() < END_WITHIN * SLACK, "{:?}", begun.elapsed());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn nothing_is_lost_when_a_replica_is_cut_off_and_rebuilt() {
    let (code, shown, complaint) = demo(&[]);
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{shown}");
    assert!(shown.lines().any(|line| line == "lost 0"), "{shown}");
    assert!(shown.contains("one replica was cut off"), "{shown}");
    assert!(!shown.contains(['\r', '\u{1b}']), "{shown}");
}

#[test]
fn a_loss_that_is_planted_is_found_and_told() {
    let (code, shown, complaint) = demo(&["--plant-loss"]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(complaint.contains("acknowledged writes are lost"), "{complaint}");
    // By the nexus, and by each of its replicas.
    assert!(shown.lines().any(|line| line == "lost 4"), "{shown}");
}
