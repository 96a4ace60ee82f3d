//! What an operand's process printed: our own JSON, that of fio, or any object with `iops`.
//!
//! Foreign output is untrusted: a missing or odd field is a missing metric, never a panic.

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

/// What can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Metric {
    /// I/Os a second.
    Iops,
    /// Mean latency, in microseconds.
    MeanLatency,
    /// 99th percentile of the latency, in microseconds.
    P99,
    /// 99th percentile of what the serving core took, in microseconds.
    ServiceP99,
    /// Bytes a second.
    BytesPerSecond,
    /// Cycles an I/O.
    CyclesPerIo,
}

impl Metric {
    /// Its name on the command line and in the output.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Iops => "iops",
            Metric::MeanLatency => "mean_latency",
            Metric::P99 => "p99",
            Metric::ServiceP99 => "service_p99",
            Metric::BytesPerSecond => "bytes_per_second",
            Metric::CyclesPerIo => "cycles_per_io",
        }
    }
}

/// The JSON object that a process printed.
#[derive(Clone, Debug)]
pub struct RunOutcome(Value);

impl RunOutcome {
    /// Finds the object in the output, which may have lines of text before and after it.
    pub fn parse(output: &str) -> Option<RunOutcome> {
        output.match_indices('{').find_map(|(start, _)| {
            let mut stream = serde_json::Deserializer::from_str(&output[start..]).into_iter();
            let value: Value = stream.next()?.ok()?;
            value.is_object().then_some(RunOutcome(value))
        })
    }

    /// A metric, when the object has it and it is a number above zero.
    pub fn metric(&self, metric: Metric) -> Option<f64> {
        let value = match self.0.get("jobs").and_then(Value::as_array) {
            Some(jobs) => fio_metric(jobs, metric),
            None => self.own_metric(metric),
        };
        value.filter(|value| value.is_finite() && *value > 0.0)
    }

    fn own_metric(&self, metric: Metric) -> Option<f64> {
        let pointer = match metric {
            Metric::Iops => "/iops",
            Metric::MeanLatency => "/latency_us/mean",
            Metric::P99 => "/latency_us/p99",
            Metric::ServiceP99 => "/service_us/p99",
            Metric::BytesPerSecond => "/bytes_per_second",
            Metric::CyclesPerIo => "/cycles_per_io",
        };
        self.0.pointer(pointer)?.as_f64()
    }
}

/// A metric over the reads and writes of fio's jobs: sums of rates, the mean weighted by I/Os, the
/// greatest of the percentiles.
fn fio_metric(jobs: &[Value], metric: Metric) -> Option<f64> {
    let sides: Vec<&Value> =
        jobs.iter().flat_map(|job| [job.get("read"), job.get("write")]).flatten().collect();
    let number = |side: &Value, pointer: &str| side.pointer(pointer).and_then(Value::as_f64);
    let sum = |pointer: &str| sides.iter().filter_map(|side| number(side, pointer)).sum::<f64>();
    match metric {
        Metric::Iops => Some(sum("/iops")),
        Metric::BytesPerSecond => Some(sum("/bw_bytes")),
        Metric::MeanLatency => {
            let weighted = |side: &&Value| {
                Some(number(side, "/lat_ns/mean")? * number(side, "/total_ios")? / 1e3)
            };
            Some(sides.iter().filter_map(weighted).sum::<f64>() / sum("/total_ios"))
        }
        Metric::P99 => {
            let p99 = |side: &&Value| number(side, "/clat_ns/percentile/99.000000");
            sides.iter().filter_map(p99).map(|ns| ns / 1e3).reduce(f64::max)
        }
        Metric::ServiceP99 | Metric::CyclesPerIo => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_object_has_every_metric() {
        let text = r#"{"iops": 10.5, "bytes_per_second": 20, "cycles_per_io": 30,
            "latency_us": {"mean": 40.25, "p99": 50}}"#;
        let outcome = RunOutcome::parse(text).unwrap();
        for (metric, expected) in [
            (Metric::Iops, 10.5),
            (Metric::BytesPerSecond, 20.0),
            (Metric::CyclesPerIo, 30.0),
            (Metric::MeanLatency, 40.25),
            (Metric::P99, 50.0),
        ] {
            assert_eq!(outcome.metric(metric), Some(expected), "{}", metric.name());
        }
    }

    #[test]
    fn the_sides_and_jobs_of_fio_add_up() {
        let text = r#"fio: note {of something}
            {"fio version": "fio-3.36", "jobs": [
              {"read": {"iops": 70.0, "bw_bytes": 700, "total_ios": 3,
                        "lat_ns": {"mean": 2000.0},
                        "clat_ns": {"percentile": {"99.000000": 9000}}},
               "write": {"iops": 30.0, "bw_bytes": 300, "total_ios": 1,
                        "lat_ns": {"mean": 6000.0},
                        "clat_ns": {"percentile": {"99.000000": 8000}}}},
              {"read": {"iops": 1.0, "bw_bytes": 10, "total_ios": 0,
                        "lat_ns": {"mean": 0.0}, "clat_ns": {"mean": 0.0}}}]}
            done"#;
        let outcome = RunOutcome::parse(text).unwrap();
        assert_eq!(outcome.metric(Metric::Iops), Some(101.0));
        assert_eq!(outcome.metric(Metric::BytesPerSecond), Some(1010.0));
        assert_eq!(outcome.metric(Metric::MeanLatency), Some(3.0));
        assert_eq!(outcome.metric(Metric::P99), Some(9.0));
        assert_eq!(outcome.metric(Metric::CyclesPerIo), None);
    }

    #[test]
    fn what_is_no_result_has_no_metric() {
        assert!(RunOutcome::parse("no object here").is_none());
        assert!(RunOutcome::parse("{broken").is_none());
        for text in ["{}", r#"{"iops": "fast"}"#, r#"{"iops": 0}"#, r#"{"jobs": []}"#] {
            assert_eq!(RunOutcome::parse(text).unwrap().metric(Metric::Iops), None, "{text}");
        }
    }
}
