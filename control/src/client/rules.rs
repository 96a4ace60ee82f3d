//! The options of `fault set` and `delay set`: one rule each, which is what tests want; several are
//! for programs, by gRPC.

use std::time::Duration;

use api::v1;
use clap::{Args, ValueEnum};

use super::options::time;

/// Which I/Os a rule meets.
#[derive(Clone, Debug, Args)]
pub struct MatchOptions {
    /// Operation; repeat for more [default: all]
    #[arg(long = "operation", value_name = "OPERATION")]
    operations: Vec<OperationName>,
    /// First block of the range that the I/O must touch
    #[arg(long, value_name = "BLOCK", default_value_t = 0)]
    first_block: u64,
    /// Blocks of that range [default: all that follow]
    #[arg(long, value_name = "COUNT")]
    blocks: Option<u64>,
    /// Only the first so many on each core's queue pair
    #[arg(long, value_name = "COUNT", conflicts_with = "every")]
    first: Option<u64>,
    /// Only every so-manieth on each core's queue pair
    #[arg(long, value_name = "COUNT")]
    every: Option<u64>,
    /// Chance of each of those, 0.0 to 1.0 [default: 1.0]
    #[arg(long, value_name = "CHANCE")]
    probability: Option<f64>,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Options of `fault set`.
#[derive(Clone, Debug, Args)]
pub struct FaultOptions {
    /// Name of the device
    pub device: String,
    /// NVMe status, type and code in hexadecimal such as 0x281 (unrecovered read error)
    #[arg(long, value_parser = status, default_value = "0x006")]
    status: u16,
    /// Whether the device does the I/O that is said to have failed
    #[arg(long, value_enum, default_value_t = Moment::Before)]
    moment: Moment,
    #[command(flatten)]
    meets: MatchOptions,
}

/// Options of `delay set`.
#[derive(Clone, Debug, Args)]
pub struct DelayOptions {
    /// Name of the device
    pub device: String,
    /// How late, such as 5ms
    #[arg(value_parser = time)]
    least: Duration,
    /// How late at most; any time between is as likely [default: the same]
    #[arg(long, value_name = "TIME", value_parser = time)]
    most: Option<Duration>,
    #[command(flatten)]
    meets: MatchOptions,
}

/// An operation of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OperationName {
    Read,
    Write,
    Flush,
    WriteZeroes,
    Unmap,
    Compare,
    CompareAndWrite,
    Verify,
}

/// When an I/O fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Moment {
    /// The device never sees it
    Before,
    /// The device does it, and it is then said to have failed
    After,
}

impl MatchOptions {
    fn message(&self) -> v1::Match {
        let operation = |name: &OperationName| -> i32 {
            let operation = match name {
                OperationName::Read => v1::Operation::Read,
                OperationName::Write => v1::Operation::Write,
                OperationName::Flush => v1::Operation::Flush,
                OperationName::WriteZeroes => v1::Operation::WriteZeroes,
                OperationName::Unmap => v1::Operation::Unmap,
                OperationName::Compare => v1::Operation::Compare,
                OperationName::CompareAndWrite => v1::Operation::CompareAndWrite,
                OperationName::Verify => v1::Operation::Verify,
            };
            operation.into()
        };
        let first = self.first.map(v1::r#match::Count::First);
        v1::Match {
            operations: self.operations.iter().map(operation).collect(),
            first_block: self.first_block,
            blocks: self.blocks,
            count: first.or(self.every.map(v1::r#match::Count::Every)),
            probability: self.probability,
        }
    }
}

impl FaultOptions {
    pub(super) fn rules(&self) -> v1::FaultRules {
        let moment = match self.moment {
            Moment::Before => v1::FaultMoment::Before,
            Moment::After => v1::FaultMoment::After,
        };
        let [code_type, code] = self.status.to_be_bytes();
        let rule = v1::FaultRule {
            meets: Some(self.meets.message()),
            moment: moment.into(),
            status_code_type: code_type.into(),
            status_code: code.into(),
        };
        v1::FaultRules { rules: vec![rule], seed: self.meets.seed }
    }
}

impl DelayOptions {
    pub(super) fn rules(&self) -> v1::DelayRules {
        // What does not fit is past any delay that the server takes.
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let rule = v1::DelayRule {
            meets: Some(self.meets.message()),
            least_ns: nanos(self.least),
            most_ns: nanos(self.most.unwrap_or(self.least)),
        };
        v1::DelayRules { rules: vec![rule], seed: self.meets.seed }
    }
}

/// A status as nvme-cli prints it: type and code in hexadecimal.
fn status(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let advice = "a status is a type and a code in hexadecimal, such as 0x281";
    u16::from_str_radix(digits, 16).map_err(|_| String::from(advice))
}
