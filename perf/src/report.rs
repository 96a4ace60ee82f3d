//! What a run found, for people and as one JSON object.
//!
//! Built by the main thread from what the cores measured. Cycles an I/O are the rate of the
//! time-stamp counter times the time a core was busy (passes of its loop that found work), over
//! the I/Os of the window.

use std::fmt;

use reactor::cores::CoreId;
use reactor::counters::CoreCounters;
use reactor::histogram::Histogram;
use serde::Serialize;

use crate::churn::ChurnReport;
use crate::cycles::TickRate;
use crate::meter::CoreMeasure;

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LatencyUs {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 99 of a hundred are no greater.
    pub p99: f64,
    /// 999 of a thousand.
    pub p99_9: f64,
    /// 9 999 of ten thousand.
    pub p99_99: f64,
}

impl From<&Histogram> for LatencyUs {
    fn from(histogram: &Histogram) -> LatencyUs {
        let quantile = |share| histogram.quantile(share) as f64 / 1e3;
        LatencyUs {
            mean: histogram.mean() / 1e3,
            p50: quantile(0.5),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            p99_99: quantile(0.9999),
        }
    }
}

/// What a core was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It made the load.
    Load,
    /// It served it.
    Serve,
}

/// One core in the window.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CoreReport {
    /// Its number.
    pub core: u32,
    /// What it was for.
    pub role: Role,
    /// Share of the time in passes that found work, 0 to 1.
    pub busy_share: f64,
    /// Share of the time not asleep, 0 to 1.
    pub used_share: f64,
    /// Busy cycles an I/O of this core.
    pub cycles_per_io: f64,
}

/// What can go wrong with single I/Os, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// I/Os that completed with an error.
    pub errors: u64,
    /// Blocks that were not what had been written.
    pub mismatches: u64,
    /// The first of either, in words.
    pub first: Option<String>,
}

impl Faults {
    /// True when there were none.
    pub fn is_empty(&self) -> bool {
        self.errors == 0 && self.mismatches == 0
    }

    /// Adds those of another core.
    pub fn merge(&mut self, other: &Faults) {
        self.errors += other.errors;
        self.mismatches += other.mismatches;
        if self.first.is_none() {
            self.first.clone_from(&other.first);
        }
    }
}

/// A serving core of this process, over the same window.
#[derive(Clone, Copy, Debug)]
pub struct ServerMeasure {
    /// The core.
    pub core: CoreId,
    /// What it counted in the window.
    pub counters: CoreCounters,
}

/// A finished run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// I/Os a second.
    pub iops: f64,
    /// Bytes a second, reads and writes together.
    pub bytes_per_second: f64,
    /// Latencies.
    pub latency_us: LatencyUs,
    /// What the serving core took, from the parse of a command to the reply handed to the socket,
    /// since it was started; of a target in this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_us: Option<LatencyUs>,
    /// Commands to the target meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub churn: Option<ChurnReport>,
    /// Every core that took part.
    pub cores: Vec<CoreReport>,
    /// Cycles an I/O: of the serving core where it is in this process, otherwise of the load's.
    pub cycles_per_io: f64,
    /// I/Os counted.
    pub ios: u64,
    /// What went wrong.
    #[serde(flatten)]
    pub faults: Faults,
}

impl Report {
    /// Puts together what the cores found.
    pub fn new(
        measures: &[CoreMeasure],
        server: Option<ServerMeasure>,
        rate: TickRate,
        faults: Faults,
    ) -> Report {
        let mut all = Histogram::new();
        let (mut iops, mut bytes_per_second, mut busy_ns) = (0.0, 0.0, 0);
        for measure in measures {
            all.merge(&measure.histogram);
            let seconds = measure.elapsed.0 as f64 / 1e9;
            iops += ratio(measure.histogram.count() as f64, seconds);
            bytes_per_second += ratio(measure.bytes as f64, seconds);
            busy_ns += measure.counters.busy_ns;
        }
        let cycles =
            |busy_ns: u64, ios: u64| ratio(busy_ns as f64 * rate.hertz() / 1e9, ios as f64);
        let report = |core: CoreId, role, counters: &CoreCounters, ios| CoreReport {
            core: core.0,
            role,
            busy_share: counters.busy_share(),
            used_share: counters.used_share(),
            cycles_per_io: cycles(counters.busy_ns, ios),
        };
        let mut cores: Vec<_> = measures
            .iter()
            .map(|m| report(m.core, Role::Load, &m.counters, m.histogram.count()))
            .collect();
        let mut cycles_per_io = cycles(busy_ns, all.count());
        if let Some(ServerMeasure { core, counters }) = server {
            let serving = report(core, Role::Serve, &counters, counters.ios);
            cycles_per_io = serving.cycles_per_io;
            cores.push(serving);
        }
        Report {
            iops,
            bytes_per_second,
            latency_us: LatencyUs::from(&all),
            service_us: None,
            churn: None,
            cores,
            cycles_per_io,
            ios: all.count(),
            faults,
        }
    }
}

/// A quotient that is zero where there is nothing to divide by.
fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator > 0.0 { numerator / denominator } else { 0.0 }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LatencyUs { mean, p50, p99, p99_9, p99_99 } = self.latency_us;
        let mebibytes = self.bytes_per_second / f64::from(1 << 20);
        writeln!(f, "{:.0} IOPS, {mebibytes:.1} MiB/s, {} I/Os", self.iops, self.ios)?;
        writeln!(
            f,
            "latency us: mean {mean:.2}, p50 {p50:.2}, p99 {p99:.2}, p99.9 {p99_9:.2}, \
             p99.99 {p99_99:.2}"
        )?;
        if let Some(LatencyUs { mean, p50, p99, p99_9, .. }) = self.service_us {
            writeln!(
                f,
                "service us: mean {mean:.2}, p50 {p50:.2}, p99 {p99:.2}, p99.9 {p99_9:.2}"
            )?;
        }
        if let Some(ChurnReport { commands, commands_per_second }) = self.churn {
            writeln!(f, "{commands} commands, {commands_per_second:.0} a second")?;
        }
        for core in &self.cores {
            let role = match core.role {
                Role::Load => "load",
                Role::Serve => "serve",
            };
            writeln!(
                f,
                "core {} ({role}): busy {:.1} %, used {:.1} %, {:.0} cycles an I/O",
                core.core,
                core.busy_share * 100.0,
                core.used_share * 100.0,
                core.cycles_per_io
            )?;
        }
        if !self.faults.is_empty() {
            let first = self.faults.first.as_deref().unwrap_or("not recorded");
            let Faults { errors, mismatches, .. } = self.faults;
            writeln!(f, "{errors} errors, {mismatches} mismatches; the first: {first}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reactor::clock::Nanos;

    fn measure() -> CoreMeasure {
        let mut histogram = Histogram::new();
        for _ in 0..1_000 {
            histogram.record(50_000);
        }
        let counters =
            CoreCounters { busy_ns: 250_000_000, spin_ns: 250_000_000, ..Default::default() };
        let elapsed = Nanos::from_millis(500);
        CoreMeasure { core: CoreId(1), histogram, bytes: 4_096_000, elapsed, counters }
    }

    #[test]
    fn rates_are_per_second_of_the_window_and_add_up_over_cores() {
        let rate = TickRate::calibrate();
        let report = Report::new(&[measure(), measure()], None, rate, Faults::default());
        assert!((report.iops - 4_000.0).abs() < 1e-6);
        assert!((report.bytes_per_second - 16_384_000.0).abs() < 1e-3);
        assert!((report.latency_us.mean - 50.0).abs() < 1e-9);
        assert!((report.cores[0].busy_share - 0.5).abs() < 1e-9);
        assert!((report.cycles_per_io / rate.hertz() - 0.25 / 1_000.0).abs() < 1e-9);
    }

    #[test]
    fn json_is_one_object_with_the_promised_fields() {
        let counters = CoreCounters { busy_ns: 1, ios: 1, ..Default::default() };
        let server = ServerMeasure { core: CoreId(0), counters };
        let rate = TickRate::calibrate();
        let report = Report::new(&[measure()], Some(server), rate, Faults::default());
        let json = serde_json::to_value(&report).unwrap();
        for field in ["iops", "bytes_per_second", "cycles_per_io", "errors", "mismatches"] {
            assert!(json[field].is_number(), "{field}");
        }
        for field in ["mean", "p50", "p99", "p99_9", "p99_99"] {
            assert!(json["latency_us"][field].is_number(), "{field}");
        }
        assert_eq!(json["cores"][1]["role"], "serve");
    }

    #[test]
    fn an_empty_window_is_zero_and_not_infinite() {
        let report = Report::new(&[], None, TickRate::calibrate(), Faults::default());
        assert_eq!((report.iops, report.cycles_per_io), (0.0, 0.0));
    }
}
