//! A line a second about what the target does: what its cores counted since the line before.
//!
//! Pure text here; the main thread decides when a line is due and where it goes.

use std::fmt::Write;
use std::time::Duration;

use reactor::cores::CoreId;
use reactor::counters::CoreCounters;

/// Cores named one by one; of more, the mean and the busiest are.
const CORES_NAMED_MAX: usize = 4;

/// One core, and what it counted.
pub type Sample = (CoreId, CoreCounters);

/// What all cores did between two samples that lie `elapsed` apart.
pub fn line(before: &[Sample], after: &[Sample], elapsed: Duration) -> String {
    let change: Vec<Sample> = before
        .iter()
        .zip(after)
        .map(|((_, before), (core, after))| (*core, after.since(*before)))
        .collect();
    let sum = |of: fn(&CoreCounters) -> u64| change.iter().map(|(_, one)| of(one)).sum::<u64>();
    let seconds = elapsed.as_secs_f64().max(f64::EPSILON);
    let ios = sum(|core| core.ios);
    let iops = ios as f64 / seconds;
    let mebibytes = sum(|core| core.io_bytes) as f64 / seconds / f64::from(1 << 20);
    let mut line = format!("{iops:.0} IOPS  {mebibytes:.1} MiB/s  ");
    let wrote = match sum(|core| core.io_ns).checked_div(ios) {
        Some(_) => {
            let mean_us = sum(|core| core.io_ns) as f64 / ios as f64 / 1000.0;
            write!(line, "mean {mean_us:.1} us  ")
        }
        None => write!(line, "mean - us  "),
    };
    wrote.expect("a string takes everything");
    let connections = sum(|core| core.connections);
    let plural = if connections == 1 { "" } else { "s" };
    write!(line, "{connections} connection{plural}  ").expect("a string takes everything");
    line + &core_use(&change, elapsed)
}

/// How busy each core was. Of the time that passed, not of the time that the core counted: one
/// that sleeps for long counts its sleep when it ends.
fn core_use(change: &[Sample], elapsed: Duration) -> String {
    let nanos = elapsed.as_nanos().max(1) as f64;
    let percent = |counters: &CoreCounters| (counters.busy_ns as f64 / nanos * 100.0).min(100.0);
    if change.len() <= CORES_NAMED_MAX {
        let each = change.iter().map(|(core, one)| format!("core {core} {:.0} %", percent(one)));
        return each.collect::<Vec<_>>().join("  ");
    }
    let shares = change.iter().map(|(core, one)| (percent(one), *core));
    let mean = shares.clone().map(|(share, _)| share).sum::<f64>() / change.len() as f64;
    let busiest = shares.max_by(|one, other| one.0.total_cmp(&other.0));
    let (most, core) = busiest.expect("there are several cores");
    format!("{} cores {mean:.0} %, core {core} {most:.0} %", change.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn samples(counters: &[CoreCounters]) -> Vec<Sample> {
        (0..).map(CoreId).zip(counters.iter().copied()).collect()
    }

    #[test]
    fn a_line_is_about_the_time_since_the_last() {
        let before = CoreCounters { ios: 100, io_ns: 5, connections: 9, ..Default::default() };
        let after = CoreCounters {
            ios: 2100,
            io_bytes: 4 << 20,
            io_ns: 5 + 2000 * 12_500,
            busy_ns: 500_000_000,
            connections: 1,
            ..Default::default()
        };
        assert_eq!(
            line(&samples(&[before]), &samples(&[after]), 2 * SECOND),
            "1000 IOPS  2.0 MiB/s  mean 12.5 us  1 connection  core 0 25 %"
        );
    }

    #[test]
    fn without_io_there_is_no_latency() {
        let idle = samples(&[CoreCounters::default(); 2]);
        assert_eq!(
            line(&idle, &idle, SECOND),
            "0 IOPS  0.0 MiB/s  mean - us  0 connections  core 0 0 %  core 1 0 %"
        );
    }

    #[test]
    fn many_cores_are_summed_up() {
        let busy = |busy_ns| CoreCounters { busy_ns, ..Default::default() };
        let before = samples(&[busy(0); 5]);
        let mut after = samples(&[busy(0); 5]);
        after[3].1 = busy(1_000_000_000);
        assert!(line(&before, &after, SECOND).ends_with("  5 cores 20 %, core 3 100 %"));
    }
}
