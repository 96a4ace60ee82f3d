//! The command line, spelled as fio spells it where fio has the same thing.
//!
//! Owns parsing and the checks that need no device. Called by main, once.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use reactor::clock::Nanos;
use reactor::cores::CoreList;
use reactor::reactor::IdlePolicy;

use crate::compare::Metric;
use crate::meter::Window;
use crate::size::{parse_size, parse_span};
use crate::workload::Pattern;

/// Most I/Os in flight on one connection.
pub const DEPTH_MAX: u32 = 1024;
/// Most connections of one run.
pub const CONNECTIONS_MAX: u32 = 1024;
/// Largest block of a load: the largest DMA buffer, and with it the largest I/O of a front door.
pub const BLOCK_BYTES_MAX: u64 = reactor::dma::pool::LARGEST_BUFFER_BYTES as u64;
/// Most subsystems that --serve makes.
pub const SUBSYSTEMS_MAX: u32 = 64;
/// Most namespaces of each.
pub const NAMESPACES_MAX: u32 = 64;
/// Most copies of a mirror.
const COPIES_MAX: i64 = nexus::child::CHILDREN_MAX as i64;
/// Most rounds of a comparison.
pub const ROUNDS_MAX: u32 = 10_000;

/// Measures block devices, NVMe/TCP targets and the machine itself.
#[derive(Debug, Parser)]
#[command(name = "mayastor-perf", version, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Loads a device in this process, or a target over NVMe/TCP.
    #[command(args_override_self = true)]
    Run(RunOptions),
    /// Measures the ceiling: a server that only answers, over loopback, in this process.
    #[command(args_override_self = true)]
    Echo(EchoOptions),
    /// Runs operands in turns and prints the ratio of each to the last.
    Compare(CompareOptions),
    /// Kills a process that writes to a mirror of sparse files, and measures how long it takes
    /// until they are equal again.
    Resync(ResyncOptions),
}

/// What `resync` does.
#[derive(Clone, Debug, Args)]
pub struct ResyncOptions {
    /// Where the files are made; with room for 4 GiB.
    pub directory: PathBuf,
    /// Length of each.
    #[arg(long = "size", value_parser = parse_size, default_value = "100g")]
    pub size_bytes: u64,
    /// Be the process that is killed.
    #[arg(long, hide = true)]
    pub writer: bool,
}

/// What the load is like.
#[derive(Clone, Debug, Args)]
pub struct LoadOptions {
    /// Kind of load.
    #[arg(long = "rw", alias = "readwrite", value_enum, default_value = "randread")]
    pub pattern: Pattern,
    /// Size of an I/O.
    #[arg(long = "bs", alias = "blocksize", value_parser = parse_block, default_value = "4k")]
    pub block_bytes: u32,
    /// I/Os in flight on EACH connection: 16 connections at depth 8 have 128 in flight.
    #[arg(long = "iodepth", default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(DEPTH_MAX)))]
    pub depth: u32,
    /// Connections (queue pairs) over all cores, dealt to the cores in turn; one a core by default.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    pub connections: Option<u32>,
    /// Reads among a hundred I/Os of a mixed load.
    #[arg(long = "rwmixread", default_value_t = 50,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    pub read_percent: u8,
    /// Length of the measurement.
    #[arg(long, value_parser = parse_span, default_value = "5")]
    pub runtime: Duration,
    /// Load before the measurement that does not count.
    #[arg(long = "ramp_time", alias = "ramp-time", value_parser = parse_span, default_value = "1")]
    pub ramp_time: Duration,
    /// End after this many I/Os on each core, or after the runtime.
    #[arg(long = "number_ios", alias = "number-ios")]
    pub ios_max: Option<u64>,
    /// Cores that make the load: a list such as 1 or 2-3.
    #[arg(long, default_value = "1")]
    pub cores: CoreList,
    /// Open load: I/Os a second over all cores, each timed from when it was due.
    #[arg(long)]
    pub rate: Option<u64>,
    /// What the load's own cores do while they wait.
    #[arg(long, value_enum, default_value = "spin")]
    pub idle: Idle,
    /// Seed of the random numbers; the same seed makes the same load.
    #[arg(long = "randseed", default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl LoadOptions {
    /// Connections over all cores.
    pub fn connections(&self) -> u32 {
        let cores = u32::try_from(self.cores.as_slice().len()).unwrap_or(CONNECTIONS_MAX);
        self.connections.unwrap_or(cores).max(cores)
    }

    /// Connections of the core at `index` of the list.
    pub fn connections_of(&self, index: usize) -> u32 {
        let cores = self.cores.as_slice().len();
        let all = self.connections() as usize;
        u32::try_from(all / cores + usize::from(index < all % cores)).unwrap_or(CONNECTIONS_MAX)
    }

    /// I/Os a second of each core, when the load is open.
    pub fn ios_per_second_of_core(&self) -> Option<f64> {
        self.rate.map(|rate| rate as f64 / self.cores.as_slice().len() as f64)
    }

    /// When to measure.
    pub fn window(&self) -> Window {
        Window {
            ramp: Nanos::from(self.ramp_time),
            runtime: Nanos::from(self.runtime),
            ios_max: self.ios_max.unwrap_or(u64::MAX),
        }
    }
}

/// What a core does while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Idle {
    /// Never sleeps.
    Spin,
    /// Sleeps after a short spin, as the daemon does.
    Sleep,
}

impl Idle {
    /// The reactor's policy.
    pub fn policy(self) -> IdlePolicy {
        match self {
            Idle::Spin => IdlePolicy::Poll,
            Idle::Sleep => IdlePolicy::default(),
        }
    }
}

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// A device in this process (null:///n0?size_mb=512, malloc:///m0?size_mb=512, uring:///path,
    /// aio:///path), or a target (nvmf://host:port/nqn).
    #[arg(required_unless_present = "serve", conflicts_with = "serve")]
    pub target: Option<String>,
    /// Serve this device by our own NVMe/TCP target in this process, and load it over loopback.
    #[arg(long, value_name = "URI")]
    pub serve: Option<String>,
    /// Subsystems that --serve makes; connections are dealt to them in turn.
    #[arg(long, default_value_t = 1, conflicts_with = "target",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(SUBSYSTEMS_MAX)))]
    pub subsystems: u32,
    /// Namespaces of each subsystem, each with a device of its own; I/Os go to them in turn.
    #[arg(long, default_value_t = 1, conflicts_with = "target",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(NAMESPACES_MAX)))]
    pub namespaces: u32,
    /// Give the target that --serve starts so many commands meanwhile: a device added, shared,
    /// unshared and removed, again and again.
    #[arg(long, conflicts_with = "target")]
    pub commands: Option<u64>,
    /// Core of the target that --serve starts.
    #[arg(long = "target-core", default_value = "0")]
    pub target_core: CoreList,
    /// What that core does when it is idle.
    #[arg(long = "target-idle", value_enum, default_value = "spin")]
    pub target_idle: Idle,
    /// The load.
    #[command(flatten)]
    pub load: LoadOptions,
    /// Part of the device to use, from the offset on; all by default.
    #[arg(long, value_parser = parse_size)]
    pub size: Option<u64>,
    /// First byte to use.
    #[arg(long, value_parser = parse_size, default_value = "0")]
    pub offset: u64,
    /// Write the whole range once before the ramp, 128 KiB at a time: a RAM disk that was never
    /// written reads a single page of zeroes.
    #[arg(long)]
    pub prefill: bool,
    /// Write a pattern made of place and generation, check every read, and read all back.
    #[arg(long)]
    pub verify: bool,
    /// NVMe/TCP header digests.
    #[arg(long = "header-digest", alias = "header_digest")]
    pub header_digest: bool,
    /// NVMe/TCP data digests.
    #[arg(long = "data-digest", alias = "data_digest")]
    pub data_digest: bool,
}

/// Options of `echo`.
#[derive(Clone, Debug, Args)]
pub struct EchoOptions {
    /// The load.
    #[command(flatten)]
    pub load: LoadOptions,
    /// Core of the server.
    #[arg(long = "server-core", default_value = "0")]
    pub server_core: CoreList,
    /// What that core does when it is idle.
    #[arg(long = "server-idle", value_enum, default_value = "spin")]
    pub server_idle: Idle,
    /// Take payloads from, and copy them into, places all over a memory of a device's size.
    #[arg(long)]
    pub cold: bool,
    /// Size of that memory.
    #[arg(long, value_parser = parse_size, default_value = "512m")]
    pub size: u64,
}

/// Options of `compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareOptions {
    /// Operands, each one quoted string: "run …", "echo …", "fio OPTIONS …" (io_uring, direct,
    /// 4 KiB unless they say otherwise), or "exec COMMAND …" whose output has a JSON object with
    /// `iops`, or is fio's. The last one is the reference.
    #[arg(required = true, num_args = 1.., value_name = "OPERAND")]
    pub operands: Vec<String>,
    /// Rounds.
    #[arg(long, default_value_t = 9,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(ROUNDS_MAX)))]
    pub rounds: u32,
    /// Runtime of each operand in a round, unless the operand says its own.
    #[arg(long = "round-time", alias = "round_time", value_parser = parse_span,
        default_value = "1")]
    pub round_time: Duration,
    /// Ramp before each runtime, unless the operand says its own.
    #[arg(long = "round-ramp", alias = "round_ramp", value_parser = parse_span,
        default_value = "200ms")]
    pub round_ramp: Duration,
    /// What is compared.
    #[arg(long, value_enum, default_value = "iops")]
    pub metric: Metric,
    /// The first operand is a mirror of this many copies, the second one copy on the same path, the
    /// third one copy in process: print the ratio of the mirror to what it could be at best, when
    /// each further copy took as long as an I/O of the third.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=COPIES_MAX))]
    pub copies: Option<u32>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// A block size: a multiple of 512 bytes up to [`BLOCK_BYTES_MAX`].
fn parse_block(text: &str) -> Result<u32, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    if bytes == 0 || bytes > BLOCK_BYTES_MAX || !bytes.is_multiple_of(512) {
        return Err(format!("a block is a multiple of 512 bytes up to {BLOCK_BYTES_MAX}"));
    }
    u32::try_from(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let words = std::iter::once("mayastor-perf").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.command)
    }

    fn run(line: &str) -> RunOptions {
        match parse(line) {
            Ok(Command::Run(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_spelled_as_fio_spells_them() {
        let options = run("run null:///n0 --rw=randrw --bs=8k --iodepth=32 --rwmixread=70 \
             --runtime=2 --ramp_time=0.5 --size=1m --offset=64k");
        assert_eq!(options.target.as_deref(), Some("null:///n0"));
        assert_eq!(options.load.pattern, Pattern::RandomMixed);
        assert_eq!((options.load.block_bytes, options.load.depth), (8192, 32));
        assert_eq!(options.load.read_percent, 70);
        assert_eq!(options.load.window().runtime, Nanos::from_secs(2));
        assert_eq!(options.load.window().ramp, Nanos::from_millis(500));
        assert_eq!((options.size, options.offset), (Some(1 << 20), 1 << 16));
    }

    #[test]
    fn limits_hold_at_their_edge_and_not_beyond() {
        assert!(parse(&format!("run null:///n0 --iodepth {DEPTH_MAX}")).is_ok());
        assert!(parse(&format!("run null:///n0 --iodepth {}", DEPTH_MAX + 1)).is_err());
        assert!(parse(&format!("run null:///n0 --connections {CONNECTIONS_MAX}")).is_ok());
        assert!(parse(&format!("run null:///n0 --connections {}", CONNECTIONS_MAX + 1)).is_err());
        assert!(parse(&format!("echo --bs {BLOCK_BYTES_MAX}")).is_ok());
        assert!(parse(&format!("echo --bs {}", BLOCK_BYTES_MAX + 512)).is_err());
        assert!(parse(&format!("compare echo --rounds {ROUNDS_MAX}")).is_ok());
        assert!(parse(&format!("compare echo --rounds {}", ROUNDS_MAX + 1)).is_err());
        let serve = |option: &str, value: u32| {
            parse(&format!("run --serve null:///n0 {option} {value}")).is_ok()
        };
        assert!(
            serve("--subsystems", SUBSYSTEMS_MAX) && !serve("--subsystems", SUBSYSTEMS_MAX + 1)
        );
        assert!(
            serve("--namespaces", NAMESPACES_MAX) && !serve("--namespaces", NAMESPACES_MAX + 1)
        );
        assert!(parse("run null:///n0 --subsystems 2").is_err());
        assert!(parse("run null:///n0 --commands 2").is_err());
        assert!(parse("echo --bs 0").is_err());
        assert!(parse("echo --bs 1000").is_err());
        assert!(parse("run null:///n0 --rwmixread 101").is_err());
    }

    #[test]
    fn a_later_option_overrides_an_earlier_one() {
        assert_eq!(
            run("run --runtime 1 null:///n0 --runtime 3").load.window().runtime.0,
            3e9 as u64
        );
    }

    #[test]
    fn a_run_has_a_target_or_serves_one() {
        assert!(parse("run").is_err());
        assert!(parse("run null:///n0 --serve null:///n1").is_err());
        assert_eq!(run("run --serve null:///n1").serve.as_deref(), Some("null:///n1"));
    }

    #[test]
    fn connections_are_dealt_to_the_cores_in_turn() {
        let load = run("run null:///n0 --cores 0-1 --connections 5").load;
        assert_eq!((load.connections_of(0), load.connections_of(1)), (3, 2));
        let load = run("run null:///n0 --cores 0-1").load;
        assert_eq!((load.connections_of(0), load.connections_of(1)), (1, 1));
    }

    /// Words as a shell makes them, as far as the document goes: single quotes and blanks.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (index, part) in line.split('\'').enumerate() {
            match index % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(part.to_owned()),
            }
        }
        let end = words.iter().position(|word| word == "&" || word == ";");
        words.truncate(end.unwrap_or(words.len()));
        words
    }

    #[test]
    fn every_command_that_the_document_of_figures_gives_is_one() {
        const DOCUMENT: &str = include_str!("../../docs/PERFORMANCE.md");
        let whole = DOCUMENT.replace("\\\n", " ");
        let in_blocks = whole.lines().filter(|line| line.starts_with("    "));
        let commands =
            in_blocks.filter_map(|line| line.find("mayastor-perf ").map(|at| &line[at..]));
        let mut operands = 0;
        for command in commands {
            let parsed = Cli::try_parse_from(words(command)).map(|cli| cli.command);
            let Command::Compare(compared) = parsed.unwrap_or_else(|e| panic!("{command}: {e}"))
            else {
                continue;
            };
            for operand in &compared.operands {
                let is_foreign = operand.starts_with("fio ") || operand.starts_with("exec ");
                assert!(is_foreign || parse(operand).is_ok(), "{operand}");
                operands += 1;
            }
        }
        assert!(operands > 20, "{operands}");
    }
}
