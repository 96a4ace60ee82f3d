//! The command line of `mayastor-client`.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::nexus::{NexusCommand, RebuildCommand};
use super::rules::{DelayOptions, FaultOptions};

/// Shows and changes what a running mayastor serves.
#[derive(Debug, Parser)]
#[command(
    name = "mayastor-client",
    version,
    about,
    subcommand_required = true,
    after_help = "Exit codes: 0 done, 1 refused by the server, 2 usage, 3 no server or no answer"
)]
pub struct ClientOptions {
    /// Where the daemon serves gRPC: unix:PATH or http://HOST:PORT
    #[arg(
        long,
        global = true,
        env = "MAYASTOR_SERVER",
        default_value_t = format!("unix:{}", api::SOCKET_DEFAULT),
    )]
    pub server: String,
    /// Longest time to wait, such as 500ms, 10s or 2m [default: what the server takes for each]
    #[arg(long, global = true, env = "MAYASTOR_TIMEOUT", value_name = "TIME", value_parser = time)]
    pub timeout: Option<Duration>,
    /// A table for people, or JSON for scripts
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// What to show or change.
    #[command(subcommand)]
    pub what: What,
}

/// How answers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table.
    Table,
    /// JSON.
    Json,
}

/// What is shown or changed.
#[derive(Debug, Subcommand)]
pub enum What {
    /// What holds blocks
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Devices that are kept equal, and serve as one
    #[command(subcommand)]
    Nexus(NexusCommand),
    /// Children of a nexus that are made equal to the others
    #[command(subcommand)]
    Rebuild(RebuildCommand),
    /// What hosts connect to
    #[command(subcommand)]
    Subsystem(SubsystemCommand),
    /// Devices under the numbers of a subsystem
    #[command(subcommand)]
    Namespace(NamespaceCommand),
    /// Which hosts may connect
    #[command(subcommand)]
    Host(HostCommand),
    /// Where hosts connect
    #[command(subcommand)]
    Portal(PortalCommand),
    /// How good the path to namespaces is, for multipath
    #[command(subcommand)]
    Ana(AnaCommand),
    /// I/Os that fail by rule, for tests
    #[command(subcommand)]
    Fault(FaultCommand),
    /// I/Os that are late by rule, for tests
    #[command(subcommand)]
    Delay(DelayCommand),
    /// What each core has done
    #[command(subcommand)]
    Counters(CountersCommand),
}

/// `device …`
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Shows all devices
    List,
    /// Opens a device: malloc:///NAME?size_mb=N, null:///NAME?size_mb=N, or a path
    Add {
        /// What to open
        uri: String,
    },
    /// Closes a device that no namespace uses
    Remove {
        /// Its name
        device: String,
    },
    /// Changes the size of a device, or takes up the size that it has by now
    Resize {
        /// Its name
        device: String,
        /// The new size in bytes, or with K, M, G or T (powers of 1024)
        #[arg(value_parser = size)]
        size: Option<u64>,
    },
}

/// `subsystem …`
#[derive(Debug, Subcommand)]
pub enum SubsystemCommand {
    /// Shows all subsystems
    List,
    /// Serves one more subsystem, without namespaces at first
    Add(AddSubsystemOptions),
    /// Serves a subsystem no more: connections close, devices stay
    Remove {
        /// NQN of the subsystem
        subsystem: String,
    },
}

/// Options of `subsystem add`.
#[derive(Debug, Args)]
pub struct AddSubsystemOptions {
    /// NQN of the subsystem
    pub subsystem: String,
    /// Host that may connect; repeat for more [default: every host]
    #[arg(long = "host", value_name = "NQN")]
    pub hosts: Vec<String>,
    /// First and last controller identifier, such as 1-1000 [default: all]
    #[arg(long, value_name = "FIRST-LAST", value_parser = range)]
    pub controller_ids: Option<(u32, u32)>,
    /// Most entries of an I/O queue
    #[arg(long, value_name = "ENTRIES")]
    pub queue_entries: Option<u32>,
}

/// `namespace …`
#[derive(Debug, Subcommand)]
pub enum NamespaceCommand {
    /// Shows the namespaces of all subsystems, or of one
    List {
        /// NQN of the subsystem
        subsystem: Option<String>,
    },
    /// Puts a device under a number of a subsystem
    Add {
        /// NQN of the subsystem
        subsystem: String,
        /// Name of the device
        device: String,
        /// The number [default: the lowest free one]
        #[arg(long)]
        nsid: Option<u32>,
        /// Its identity [default: the device's own, or one made of the names]
        #[arg(long)]
        uuid: Option<String>,
        /// Refuse writes
        #[arg(long)]
        read_only: bool,
    },
    /// Takes a namespace away; its device stays
    Remove {
        /// NQN of the subsystem
        subsystem: String,
        /// The number
        nsid: u32,
    },
    /// Looks at the size of its device and tells hosts when it has changed
    Resize {
        /// NQN of the subsystem
        subsystem: String,
        /// The number
        nsid: u32,
    },
}

/// `host …`
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Shows which hosts may connect
    List {
        /// NQN of the subsystem
        subsystem: Option<String>,
    },
    /// Names one more host that may connect
    Add {
        /// NQN of the subsystem
        subsystem: String,
        /// NQN of the host
        host: String,
    },
    /// Takes that back
    Remove {
        /// NQN of the subsystem
        subsystem: String,
        /// NQN of the host
        host: String,
    },
    /// Lets every host connect, or only those that are named
    Allow {
        /// NQN of the subsystem
        subsystem: String,
        /// Which hosts
        policy: Policy,
    },
}

/// Which hosts may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// Every host
    Any,
    /// Only those that are named
    Named,
}

/// `portal …`
#[derive(Debug, Subcommand)]
pub enum PortalCommand {
    /// Shows all portals
    List,
    /// Listens on one more address
    Add {
        /// IP address and port, such as 10.0.0.1:4420 or [::]:4420; port 0 takes a free one
        address: String,
        /// Address that discovery names instead
        #[arg(long, value_name = "ADDR")]
        advertise: Option<String>,
    },
    /// Listens there no more
    Remove {
        /// As it is listed
        address: String,
    },
}

/// `ana …`
#[derive(Debug, Subcommand)]
pub enum AnaCommand {
    /// Shows the state of all namespaces, or of those of one subsystem
    List {
        /// NQN of the subsystem
        subsystem: Option<String>,
    },
    /// Sets the state of one namespace, or of all of a subsystem
    Set {
        /// NQN of the subsystem
        subsystem: String,
        /// The state
        state: Ana,
        /// The number of the namespace [default: all, and those that will be added]
        #[arg(long)]
        nsid: Option<u32>,
    },
}

/// How good the path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ana {
    /// The best path
    Optimized,
    /// A path that works
    NonOptimized,
    /// No path for now
    Inaccessible,
    /// No path ever again
    PersistentLoss,
    /// In transition
    Change,
}

/// `fault …`
#[derive(Debug, Subcommand)]
pub enum FaultCommand {
    /// Shows the rules of all devices
    List,
    /// Makes I/Os of a device fail, in place of what was set before
    Set(FaultOptions),
    /// Ends that
    #[command(visible_alias = "remove")]
    Clear {
        /// Name of the device
        device: String,
    },
}

/// `delay …`
#[derive(Debug, Subcommand)]
pub enum DelayCommand {
    /// Shows the rules of all devices
    List,
    /// Makes I/Os of a device late, in place of what was set before
    Set(DelayOptions),
    /// Ends that; what is held back stays so until its time
    #[command(visible_alias = "remove")]
    Clear {
        /// Name of the device
        device: String,
    },
}

/// `counters …`
#[derive(Debug, Subcommand)]
pub enum CountersCommand {
    /// Shows what each core has counted since the daemon started
    List,
}

/// A number and a unit: ns, us, ms, s, m or h.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let advice = || String::from("a time is a number with ns, us, ms, s, m or h: 500ms, 10s, 2m");
    let end = text.find(|one: char| !one.is_ascii_digit()).ok_or_else(advice)?;
    let (digits, unit) = text.split_at(end);
    let number: u64 = digits.parse().map_err(|_| advice())?;
    let minutes = |minutes: u64| minutes.checked_mul(60).map(Duration::from_secs);
    let time = match unit {
        "ns" => Some(Duration::from_nanos(number)),
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => minutes(number),
        "h" => number.checked_mul(60).and_then(minutes),
        _ => None,
    };
    time.ok_or_else(advice)
}

/// A number of bytes, or of a power of 1024 of them.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let advice = || String::from("a size is a number of bytes, or one with K, M, G or T");
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'K')) => (&text[..at], 10),
        Some((at, 'M')) => (&text[..at], 20),
        Some((at, 'G')) => (&text[..at], 30),
        Some((at, 'T')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| advice())?;
    number.checked_mul(1 << shift).ok_or_else(advice)
}

/// Two numbers with a dash between them.
fn range(text: &str) -> Result<(u32, u32), String> {
    let numbers = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    numbers.ok_or_else(|| String::from("a range is two numbers, such as 1-1000"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use proptest::prelude::*;

    #[test]
    fn the_options_are_consistent() {
        ClientOptions::command().debug_assert();
    }

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(time("1h"), Ok(Duration::from_secs(3600)));
        for text in ["", "5", "s", "-1s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("3G"), Ok(3 << 30));
        for text in ["", "G", "1X", "1.5G", "16777216T", "-1"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(range("1-1000"), Ok((1, 1000)));
        assert!(range("1").is_err() && range("a-b").is_err() && range("-").is_err());
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in "\\PC{0,12}") {
            let _ = (time(&text), size(&text), range(&text));
        }
    }
}
