//! What the demo shows: a line while it runs, and a table at the end. Pure text.

use std::fmt::Write;
use std::time::Duration;

use engine::command::{ChildInfo, ChildState, NexusInfo};
use reactor::histogram::Histogram;

use super::ledger::Tally;
use super::load::{PHASES, Told};

/// What the columns of latencies are called.
const PHASE_NAMES: [&str; PHASES] = ["before", "while cut off", "after"];

/// What there is to say at the end.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub told: Told,
    /// What the check of everything at the end counted, on the nexus and on each replica.
    pub tally: Tally,
    /// How long the replica was away, until its rebuild began.
    pub away: Duration,
    /// How long its rebuild took, and what it copied.
    pub rebuilt: Duration,
    pub copied_bytes: u64,
}

fn child(number: usize, info: &ChildInfo) -> String {
    let state = match info.state {
        ChildState::Open => String::from("in sync"),
        ChildState::Rebuilding => match &info.rebuild {
            Some(rebuild) => {
                let done = rebuild.done_blocks.saturating_mul(100) / rebuild.total_blocks.max(1);
                format!("rebuilding {done} %")
            }
            None => String::from("rebuilding"),
        },
        ChildState::Faulted(reason) => format!("out: {reason}"),
        other => format!("{other:?}").to_lowercase(),
    };
    format!("replica {number} {state}")
}

/// What happened since the line before.
pub(super) fn line(before: &Told, now: &Told, elapsed: Duration, nexus: &NexusInfo) -> String {
    let ios = |told: &Told| told.latencies.iter().map(Histogram::count).sum::<u64>();
    let rate = (ios(now).saturating_sub(ios(before))) as f64 / elapsed.as_secs_f64().max(1e-3);
    let mut recent = Histogram::new();
    for (now, before) in now.latencies.iter().zip(&before.latencies) {
        recent.merge(&now.since(before));
    }
    let children = nexus.children.iter().enumerate();
    let children: Vec<String> = children.map(|(number, info)| child(number, info)).collect();
    format!(
        "{rate:.0} IOPS  median {} us  p99 {} us  {}  lost {}",
        recent.quantile(0.5) / 1000,
        recent.quantile(0.99) / 1000,
        children.join("  "),
        now.tally.lost,
    )
}

/// The table of the end; its line `lost N` is for whoever looks with a program.
pub(super) fn table(outcome: &Outcome) -> String {
    let Outcome { told, tally, away, rebuilt, copied_bytes } = outcome;
    let mut text = String::new();
    let mut row = |cells: [String; PHASES + 1]| {
        let [name, rest @ ..] = cells;
        let rest: Vec<String> = rest.iter().map(|cell| format!("{cell:>14}")).collect();
        writeln!(text, "{name:<18}{}", rest.concat()).expect("a string takes everything");
    };
    row(["latency".into(), PHASE_NAMES[0].into(), PHASE_NAMES[1].into(), PHASE_NAMES[2].into()]);
    for (name, quantile) in [("median", 0.5), ("99 in 100", 0.99), ("slowest", 1.0)] {
        let of = |phase: usize| format!("{} us", told.latencies[phase].quantile(quantile) / 1000);
        row([name.into(), of(0), of(1), of(2)]);
    }
    let numbers = [
        ("I/Os", told.latencies.iter().map(Histogram::count).sum()),
        ("written", tally.written),
        ("acknowledged", tally.acknowledged),
        ("failed", tally.failed),
        ("read and checked", tally.checked),
    ];
    for (name, number) in numbers {
        writeln!(text, "{name:<18}{number:>14}").expect("a string takes everything");
    }
    writeln!(
        text,
        "one replica was cut off for {:.1} s and rebuilt in {:.1} s ({} MiB copied)",
        away.as_secs_f64(),
        rebuilt.as_secs_f64(),
        copied_bytes >> 20,
    )
    .expect("a string takes everything");
    writeln!(text, "lost {}", tally.lost).expect("a string takes everything");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lost: u64) -> Outcome {
        Outcome {
            told: Told::default(),
            tally: Tally { written: 10, acknowledged: 9, failed: 1, checked: 5, lost },
            away: Duration::from_millis(2500),
            rebuilt: Duration::from_millis(700),
            copied_bytes: 64 << 20,
        }
    }

    #[test]
    fn the_table_ends_with_what_was_lost() {
        assert!(table(&outcome(0)).ends_with("(64 MiB copied)\nlost 0\n"));
        assert!(table(&outcome(7)).ends_with("\nlost 7\n"));
    }
}
