//! The options of `mayastor`, and the target that they ask for.
//!
//! Read once, by main. What clap cannot know (whether a core is there, whether a URI can be opened)
//! is left to the engine.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use engine::command::limits::CHILDREN_MAX;
use engine::command::{CreateNexus, Force, Labels, LeftOut, Policy, RecordPlace};
use engine::config::{DMA_MIB_DEFAULT, DMA_MIB_MAX, DMA_MIB_MIN, PORT_DEFAULT};
use engine::{OneSubsystem, TargetConfig};
use nvmf::fabrics::Nqn;
use nvmf::target::DigestPolicy;
use nvmf::target::limits::{QUEUE_ENTRIES_DEFAULT, QUEUE_ENTRIES_LIMIT, QUEUE_ENTRIES_MIN};
use nvmf::target::namespace::Access;
use reactor::cores::CoreList;
use reactor::dma::PagePreference;
use reactor::reactor::IdlePolicy;

use crate::demo::DemoOptions;
use crate::grpc::GrpcOptions;
use crate::identity;
use crate::setup::options::SetupOptions;

/// What is served when no device is named.
pub const DEVICE_DEFAULT: &str = "malloc:///ram0?size_mb=1024";

/// What the nexus of `--mirror` is called unless told.
pub const MIRROR_DEFAULT: &str = "nexus0";

/// Block storage over NVMe/TCP.
#[derive(Debug, Parser)]
#[command(name = "mayastor", version, about, subcommand_required = true)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `mayastor` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves devices to NVMe/TCP hosts until it is asked to end (SIGTERM, SIGINT)
    Target(Box<TargetOptions>),
    /// Says what this machine has and lacks for that; changes only what the options name
    Setup(SetupOptions),
    /// Shows on loopback that a mirror loses a replica under load and no acknowledged write
    Demo(DemoOptions),
}

/// Options of `mayastor target`.
#[derive(Clone, Debug, Args)]
pub struct TargetOptions {
    /// File that says what to serve, in place of the options below (docs/target.toml shows one)
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "devices", "mirror", "mirror_name", "labels", "no_labels", "force", "force_left_out",
        "policy", "record", "record_command", "addr", "port", "advertise", "nqn", "allow_hosts",
        "cores", "queue_size", "no_digest",
        "read_only", "poll", "no_huge", "dma_mib", "grpc_socket", "grpc_address", "share",
        "vhost_sockets",
    ])]
    pub config: Option<PathBuf>,
    /// Check the file, print what would be served, and end
    #[arg(long, requires = "config")]
    pub check: bool,
    /// Device to serve, one namespace each: malloc:///NAME?size_mb=N, null:///NAME?size_mb=N
    /// (also num_blocks, blk_size, uuid) [default: malloc:///ram0?size_mb=1024]
    #[arg(value_name = "URI")]
    pub devices: Vec<String>,
    /// Devices to keep equal and to serve as one namespace, the first: 1 to 16 URIs
    #[arg(long, value_name = "URI", num_args = 1..=CHILDREN_MAX)]
    pub mirror: Vec<String>,
    /// Name of that mirror
    #[arg(long, value_name = "NAME", default_value = MIRROR_DEFAULT, requires = "mirror")]
    pub mirror_name: String,
    /// Keep on each device of the mirror who has every write, in its first 2 MiB, so that it can be
    /// opened again: blank devices become a new mirror, those of one mirror are opened [default:
    /// unless all are malloc: or null:]
    #[arg(long, requires = "mirror", conflicts_with = "no_labels")]
    pub labels: bool,
    /// Keep nothing: the devices are taken to hold the same, and the mirror ends with the process
    #[arg(long, requires = "mirror")]
    pub no_labels: bool,
    /// Who decides which devices of the mirror have every write; chosen when it is made, and kept
    /// in its labels [default: majority for three devices or more or with a record, else solo]
    #[arg(long, value_enum, requires = "mirror", conflicts_with = "no_labels")]
    pub policy: Option<PolicyOption>,
    /// File of the mirror's record: one more vote, without data, best kept where it is not lost
    /// together with a device
    #[arg(
        long,
        value_name = "FILE",
        requires = "mirror",
        conflicts_with_all = ["no_labels", "record_command"],
    )]
    pub record: Option<String>,
    /// The same, kept by a command, which reads and swaps it (docs/FORMATS.md)
    #[arg(long, value_name = "COMMAND", requires = "mirror", conflicts_with = "no_labels")]
    pub record_command: Option<String>,
    /// Who is served: hosts over NVMe/TCP, virtual machines over vhost-user; repeat for both
    #[arg(long, value_name = "DOOR", value_enum, default_value = "nvmf")]
    pub share: Vec<Share>,
    /// Socket of the first device for a virtual machine; repeat for those after it
    #[arg(
        long = "vhost-socket",
        value_name = "PATH",
        required_if_eq("share", "vhost"),
        value_parser = absolute,
    )]
    pub vhost_sockets: Vec<String>,
    /// Open the mirror by force from this device of it, which has a label, whatever others hold:
    /// what they have and it lacks is LOST. For one start, when those that a refusal names never
    /// come back
    #[arg(long, value_name = "URI", requires = "mirror", conflicts_with = "no_labels")]
    pub force: Option<String>,
    /// Force it also where others are known to have gone on without that device: what was
    /// acknowledged since is lost for certain
    #[arg(long, requires = "force")]
    pub force_left_out: bool,
    /// Address to listen on, IPv4 or IPv6; 0.0.0.0 or :: for all
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1", value_parser = address)]
    pub addr: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = PORT_DEFAULT)]
    pub port: u16,
    /// Address that discovery names, instead of the one that the host came to
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub advertise: Option<IpAddr>,
    /// Name of the subsystem [default: one made of the machine's identity and the port]
    #[arg(long)]
    pub nqn: Option<Nqn>,
    /// Host that may connect; repeat for more [default: every host]
    #[arg(long = "allow-host", value_name = "NQN")]
    pub allow_hosts: Vec<Nqn>,
    /// Cores to run on: a list like 0,2-3 or a mask like 0x5 [default: the first allowed one]
    #[arg(long)]
    pub cores: Option<CoreList>,
    /// Most entries of an I/O queue
    #[arg(
        long,
        value_name = "ENTRIES",
        default_value_t = QUEUE_ENTRIES_DEFAULT,
        value_parser = clap::value_parser!(u16)
            .range(i64::from(QUEUE_ENTRIES_MIN)..=i64::from(QUEUE_ENTRIES_LIMIT)),
    )]
    pub queue_size: u16,
    /// Refuse header and data digests
    #[arg(long)]
    pub no_digest: bool,
    /// Refuse writes
    #[arg(long)]
    pub read_only: bool,
    /// Never sleep: lowest latency, and every core at 100 %
    #[arg(long)]
    pub poll: bool,
    /// Use ordinary pages even where there are hugepages
    #[arg(long)]
    pub no_huge: bool,
    /// DMA memory of each core in MiB
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = DMA_MIB_DEFAULT,
        value_parser = clap::value_parser!(u32)
            .range(i64::from(DMA_MIB_MIN)..=i64::from(DMA_MIB_MAX)),
    )]
    pub dma_mib: u32,
    /// Let mayastor-client change what is served, through this UNIX socket
    #[arg(
        long,
        value_name = "PATH",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = api::SOCKET_DEFAULT,
    )]
    pub grpc_socket: Option<PathBuf>,
    /// The same through a TCP address as well; whoever reaches it may do everything
    #[arg(long, value_name = "ADDR:PORT")]
    pub grpc_address: Option<SocketAddr>,
    /// Print the line to connect with, and nothing after it
    #[arg(long)]
    pub quiet: bool,
}

/// A front door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Share {
    /// NVMe over TCP.
    Nvmf,
    /// vhost-user-blk.
    Vhost,
}

/// Who decides about the members of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PolicyOption {
    /// Whoever runs it, alone; to open it again takes all devices in sync
    Solo,
    /// More than half of the devices, and a record among an even number of them
    Majority,
    /// The record and any one device, or all devices
    Record,
}

impl From<PolicyOption> for Policy {
    fn from(option: PolicyOption) -> Policy {
        match option {
            PolicyOption::Solo => Policy::Solo,
            PolicyOption::Majority => Policy::Majority,
            PolicyOption::Record => Policy::Record,
        }
    }
}

impl TargetOptions {
    /// The target that is asked for.
    pub fn to_config(&self) -> TargetConfig {
        TargetConfig {
            cores: self.cores.clone(),
            digests: if self.no_digest { DigestPolicy::Never } else { DigestPolicy::AsAsked },
            idle: if self.poll { IdlePolicy::Poll } else { IdlePolicy::default() },
            pages: if self.no_huge { PagePreference::Ordinary } else { PagePreference::HugeFirst },
            dma_mib: self.dma_mib,
            ..TargetConfig::new(self.setup())
        }
    }

    /// What makes the devices and the doors to them.
    fn setup(&self) -> Vec<engine::Command> {
        let subsystem = self.to_subsystem();
        let mut setup = Vec::new();
        if self.share.contains(&Share::Nvmf) {
            setup = subsystem.setup();
        }
        if self.share.contains(&Share::Vhost) {
            setup.extend(subsystem.vhost_setup(&self.vhost_sockets));
        }
        setup
    }

    /// Options that contradict each other in a way that the parser does not see.
    ///
    /// # Errors
    ///
    /// More sockets than devices, or sockets without the door that they are for.
    pub fn check(&self) -> Result<(), String> {
        let subsystem = self.to_subsystem();
        let devices = subsystem.devices.len() + usize::from(subsystem.mirror.is_some());
        let sockets = self.vhost_sockets.len();
        if sockets > 0 && !self.share.contains(&Share::Vhost) {
            return Err(String::from("--vhost-socket is for --share vhost"));
        }
        if sockets > devices {
            return Err(format!("{sockets} sockets are more than there are devices: {devices}"));
        }
        Ok(())
    }

    /// Where it is controlled while it runs, if it is. The socket comes with the address.
    pub fn to_grpc(&self) -> Option<GrpcOptions> {
        let default = || self.grpc_address.map(|_| PathBuf::from(api::SOCKET_DEFAULT));
        let socket = self.grpc_socket.clone().or_else(default)?;
        Some(GrpcOptions { socket, address: self.grpc_address })
    }

    /// Labels are for devices that outlive the process.
    fn mirror_labels(&self) -> Labels {
        match (self.labels, self.no_labels) {
            (true, _) => Labels::AsFound,
            (_, true) => Labels::None,
            _ => Labels::for_devices(self.mirror.iter().map(String::as_str)),
        }
    }

    fn mirror_force(&self) -> Option<Force> {
        let left_out = match self.force_left_out {
            true => LeftOut::Accepted,
            false => LeftOut::Refused,
        };
        self.force.clone().map(|child| Force { child, left_out })
    }

    fn mirror_record(&self) -> Option<RecordPlace> {
        let file = self.record.clone().map(RecordPlace::File);
        file.or_else(|| self.record_command.clone().map(RecordPlace::Command))
    }

    /// Its subsystem, with the port to listen on.
    fn to_subsystem(&self) -> OneSubsystem {
        let made = || identity::default_nqn(&identity::machine(), self.port);
        let nqn = self.nqn.unwrap_or_else(made);
        let devices = match (self.devices.as_slice(), self.mirror.as_slice()) {
            ([], []) => vec![String::from(DEVICE_DEFAULT)],
            (devices, _) => devices.to_vec(),
        };
        let mirror = CreateNexus {
            nexus: self.mirror_name.clone(),
            labels: self.mirror_labels(),
            force: self.mirror_force(),
            policy: self.policy.map(Policy::from),
            record: self.mirror_record(),
            children: self.mirror.clone(),
            ..CreateNexus::default()
        };
        OneSubsystem {
            mirror: (!self.mirror.is_empty()).then_some(mirror),
            address: self.addr,
            port: self.port,
            advertise: self.advertise,
            allow_hosts: self.allow_hosts.clone(),
            access: if self.read_only { Access::ReadOnly } else { Access::ReadWrite },
            queue_entries: self.queue_size,
            ..OneSubsystem::new(nqn, devices)
        }
    }
}

/// A path that does not depend on where the daemon is started.
fn absolute(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err(String::from("not a path that begins with a slash")),
    }
}

/// An address, an IPv6 one with or without the brackets that it has in a URI.
pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| String::from("not an IPv4 or IPv6 address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use engine::command::VhostCommand;

    fn parse(words: &str) -> Result<TargetOptions, clap::Error> {
        let words = format!("mayastor target {words}");
        match Options::try_parse_from(words.split_whitespace())?.command {
            Command::Target(target) => Ok(*target),
            Command::Setup(_) | Command::Demo(_) => panic!("another command"),
        }
    }

    fn config(words: &str) -> (TargetConfig, OneSubsystem) {
        let options = parse(words).unwrap_or_else(|error| panic!("{words}: {error}"));
        (options.to_config(), options.to_subsystem())
    }

    #[test]
    fn the_options_are_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn without_options_a_ram_disk_is_served_on_the_loopback_address() {
        let (config, subsystem) = config("");
        assert_eq!(subsystem.devices, [DEVICE_DEFAULT]);
        assert_eq!(subsystem.listen_address(), "127.0.0.1:4420".parse().unwrap());
        assert!(subsystem.nqn.as_str().starts_with("nqn.2019-05.io.openebs:"));
        assert_eq!((subsystem.queue_entries, subsystem.access), (128, Access::ReadWrite));
        assert_eq!(config.digests, DigestPolicy::AsAsked);
        assert_eq!(config.pages, PagePreference::HugeFirst);
        assert_eq!(config.setup, subsystem.setup());
        assert!(config.check().is_ok());
    }

    #[test]
    fn every_option_reaches_the_target() {
        let (config, subsystem) = config(
            "null:///a?size_mb=1 malloc:///b?size_mb=1 --addr :: --port 0 --advertise [fd00::1] \
             --nqn nqn.2019-05.io.openebs:t --allow-host nqn.2019-05.io.openebs:h1 \
             --allow-host nqn.2019-05.io.openebs:h2 --cores 0x3 --queue-size 1024 --no-digest \
             --read-only --poll --no-huge --dma-mib 8 --quiet",
        );
        assert_eq!(subsystem.devices, ["null:///a?size_mb=1", "malloc:///b?size_mb=1"]);
        assert_eq!(subsystem.listen_address(), "[::]:0".parse().unwrap());
        assert_eq!(subsystem.advertise, Some("fd00::1".parse().unwrap()));
        assert_eq!(subsystem.nqn.as_str(), "nqn.2019-05.io.openebs:t");
        assert_eq!(subsystem.allow_hosts.len(), 2);
        assert_eq!(config.cores.unwrap().to_string(), "0-1");
        assert_eq!((subsystem.queue_entries, config.dma_mib), (1024, 8));
        assert_eq!((config.digests, subsystem.access), (DigestPolicy::Never, Access::ReadOnly));
        assert_eq!((config.idle, config.pages), (IdlePolicy::Poll, PagePreference::Ordinary));
    }

    #[test]
    fn a_mirror_of_what_outlives_the_process_has_labels_unless_told() {
        let labels = |line: &str| config(line).1.mirror.unwrap().labels;
        assert_eq!(labels("--mirror malloc:///a?size_mb=64 null:///b?size_mb=64"), Labels::None);
        assert_eq!(labels("--mirror malloc:///a?size_mb=64 /b"), Labels::AsFound);
        assert_eq!(labels("--no-labels --mirror /a /b"), Labels::None);
        assert_eq!(labels("--labels --mirror malloc:///a?size_mb=64"), Labels::AsFound);
        assert!(parse("--labels --no-labels --mirror /a").is_err());
        assert!(parse("--labels").is_err());
    }

    #[test]
    fn a_mirror_has_the_policy_and_the_record_that_are_asked_for() {
        let mirror = |line: &str| config(line).1.mirror.unwrap();
        let plain = mirror("--mirror /a /b");
        assert_eq!((plain.policy, plain.record), (None, None));
        let filed = mirror("--policy record --record /r --mirror /a /b");
        assert_eq!(filed.policy, Some(Policy::Record));
        assert_eq!(filed.record, Some(RecordPlace::File("/r".to_owned())));
        let kept = mirror("--policy majority --record-command keep --mirror /a /b");
        assert_eq!(kept.record, Some(RecordPlace::Command("keep".to_owned())));
        assert!(parse("--record /r --record-command keep --mirror /a /b").is_err());
        assert!(parse("--policy most --mirror /a /b").is_err());
        assert!(parse("--no-labels --policy solo --mirror /a /b").is_err());
        assert!(parse("--record /r").is_err());
    }

    #[test]
    fn a_mirror_is_the_first_namespace() {
        let (_, subsystem) = config("--mirror malloc:///a?size_mb=1 malloc:///b?size_mb=1");
        let mirror = subsystem.mirror.unwrap();
        assert_eq!((mirror.nexus.as_str(), mirror.children.len()), (MIRROR_DEFAULT, 2));
        assert_eq!(subsystem.devices, [""; 0]);
        let (_, subsystem) =
            config("null:///c?size_mb=1 --mirror null:///a?size_mb=1 --mirror-name m");
        assert_eq!(subsystem.mirror.unwrap().nexus, "m");
        assert_eq!(subsystem.devices, ["null:///c?size_mb=1"]);
        assert!(parse(&format!("--mirror {}", "null:///a ".repeat(CHILDREN_MAX))).is_ok());
        assert!(parse("--mirror").is_err());
        assert!(parse("--mirror-name m").is_err());
    }

    #[test]
    fn virtual_machines_get_the_first_devices_by_sockets_and_hosts_only_if_asked_for() {
        let vhosts = |config: &TargetConfig| -> Vec<(String, String)> {
            let added = config.setup.iter().filter_map(|command| match command {
                engine::Command::Vhost(VhostCommand::Add(asked)) => {
                    Some((asked.socket.clone(), asked.device.clone()))
                }
                _ => None,
            });
            added.collect()
        };
        let two = "null:///a?size_mb=1 null:///b?size_mb=1";
        let has_portal = |config: &TargetConfig| {
            config.setup.iter().any(|command| matches!(command, engine::Command::AddPortal(_)))
        };
        let (alone, _) = config(&format!("{two} --share vhost --vhost-socket /s"));
        assert_eq!(vhosts(&alone), [("/s".to_owned(), "a".to_owned())]);
        assert!(!has_portal(&alone));
        let words = "--share vhost --share nvmf --vhost-socket /s --vhost-socket /t";
        let (both, _) = config(&format!("{two} {words}"));
        assert_eq!(vhosts(&both).len(), 2);
        assert!(has_portal(&both));
        assert!(parse("--share vhost").is_err() && parse("--share nbd").is_err());
        assert!(parse("--share vhost --vhost-socket s").is_err());
        let refused = |words: &str| parse(words).unwrap().check().is_err();
        assert!(refused("--vhost-socket /s"));
        assert!(refused("--share vhost --vhost-socket /s --vhost-socket /t"));
        assert!(!refused("--share vhost --vhost-socket /s") && !refused(""));
    }

    #[test]
    fn values_out_of_range_are_refused_and_those_at_the_ends_are_not() {
        for legal in ["--queue-size 2", "--queue-size 1024", "--dma-mib 8", "--dma-mib 65536"] {
            assert!(parse(legal).is_ok(), "{legal}");
        }
        for illegal in [
            "--queue-size 1",
            "--queue-size 1025",
            "--dma-mib 7",
            "--dma-mib 65537",
            "--port 65536",
            "--addr localhost",
            "--cores 3-1",
            "--nqn name",
            "--allow-host name",
        ] {
            assert!(parse(illegal).is_err(), "{illegal}");
        }
    }
}
