//! `nexus …`: the command line, the requests that it asks for, and how nexuses are shown.

use api::v1::nexus_service_client::NexusServiceClient;
use api::v1::{self, ErrorDetail, ErrorKind};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tonic::Status;

use super::call::Answer;
use super::options::size;
use super::question::{Server, rpc, sent};
use super::shape::{len_bytes, presence, word};
use super::table;
use crate::options::PolicyOption;

/// `nexus …`
#[derive(Debug, Subcommand)]
pub enum NexusCommand {
    /// Shows all nexuses
    List,
    /// Shows the children of all nexuses, or of one
    Children {
        /// Name of the nexus
        nexus: Option<String>,
    },
    /// Makes a nexus of devices, which are opened for it
    Create(CreateOptions),
    /// Ends a nexus that no namespace uses
    Destroy {
        /// Its name
        nexus: String,
    },
    /// Admits no more I/O: it waits
    Pause {
        /// Its name
        nexus: String,
    },
    /// Ends that
    Resume {
        /// Its name
        nexus: String,
    },
    /// Makes it as long as its shortest child is by now (`device resize` comes first)
    Grow {
        /// Its name
        nexus: String,
    },
    /// Compares all members with each other while I/O goes on; `list -o json` tells what was found
    Verify {
        /// Its name
        nexus: String,
    },
    /// Gives that up
    StopVerify {
        /// Its name
        nexus: String,
    },
    /// Adds a child, out of sync until it has been rebuilt
    Add(OfChild),
    /// Takes a child away
    Remove(OfChild),
    /// Stops using a child until it is taken online
    Offline(OfChild),
    /// Takes a child online again: it is rebuilt
    Online(OfChild),
    /// Says that what a child holds is not to be trusted
    Fault(OfChild),
}

/// `rebuild …`
#[derive(Debug, Subcommand)]
pub enum RebuildCommand {
    /// Shows the rebuilds under way, and those that have ended
    List {
        /// Name of the nexus
        nexus: Option<String>,
    },
    /// Makes a child that is out equal to the others; takes it online
    Start(OfChild),
    /// Gives that up: the child is out of sync as before
    Stop(OfChild),
    /// Copies nothing for a while
    Pause(OfChild),
    /// Ends that
    Resume(OfChild),
}

/// Options of `nexus create`.
#[derive(Debug, Args)]
pub struct CreateOptions {
    /// Its name
    pub nexus: String,
    /// What its children are opened from, 1 to 16; bdev:///NAME for a device that is there
    #[arg(value_name = "URI", required = true)]
    pub children: Vec<String>,
    /// Its identity [default: one made of its name]
    #[arg(long)]
    pub uuid: Option<String>,
    /// Its size in bytes, or with K, M, G or T (powers of 1024) [default: that of its shortest
    /// child]
    #[arg(long, value_parser = size)]
    pub size: Option<u64>,
    /// Whether its children carry labels, with which it outlives its process
    #[arg(long, value_enum, default_value_t = LabelsOption::None)]
    pub labels: LabelsOption,
    /// Who decides about its members; chosen when it is created, and kept in its labels [default:
    /// majority for three children or more or with a record, else solo]
    #[arg(long, value_enum)]
    pub policy: Option<PolicyOption>,
    /// File of its record, on the daemon's machine: one more vote, without data
    #[arg(long, value_name = "FILE")]
    pub record: Option<String>,
    /// Open it by force from this child, which has a label, whatever others hold: what they have
    /// and it lacks is LOST. For when those that a refusal names never come back
    #[arg(long, value_name = "URI")]
    pub force: Option<String>,
    /// Force it also where others are known to have gone on without that child: what was
    /// acknowledged since is lost for certain
    #[arg(long, requires = "force")]
    pub force_left_out: bool,
}

/// Whether children carry labels.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LabelsOption {
    /// They do not: all are taken to hold the same
    None,
    /// All are blank, and get their first
    Create,
    /// All are replicas of one volume, which is opened
    Open,
    /// Whichever of the two they are
    AsFound,
}

impl From<LabelsOption> for v1::Labels {
    fn from(option: LabelsOption) -> v1::Labels {
        match option {
            LabelsOption::None => v1::Labels::None,
            LabelsOption::Create => v1::Labels::Create,
            LabelsOption::Open => v1::Labels::Open,
            LabelsOption::AsFound => v1::Labels::AsFound,
        }
    }
}

impl From<PolicyOption> for v1::Policy {
    fn from(option: PolicyOption) -> v1::Policy {
        match option {
            PolicyOption::Solo => v1::Policy::Solo,
            PolicyOption::Majority => v1::Policy::Majority,
            PolicyOption::Record => v1::Policy::Record,
        }
    }
}

/// A child of a nexus.
#[derive(Debug, Args)]
pub struct OfChild {
    /// Name of the nexus
    pub nexus: String,
    /// URI of the child
    pub uri: String,
}

/// All nexuses, or the one that is asked for.
async fn nexuses(server: &Server, wanted: Option<&String>) -> Result<Vec<v1::Nexus>, Status> {
    let request = v1::ListNexusesRequest {};
    let mut all = rpc!(server, NexusServiceClient.list_nexuses, request).nexuses;
    let Some(wanted) = wanted else { return Ok(all) };
    all.retain(|nexus| nexus.name == *wanted);
    if all.is_empty() {
        let kind = ErrorKind::NotFound.into();
        let detail = ErrorDetail { kind, subject: wanted.clone(), ..ErrorDetail::default() };
        let message = format!("there is no nexus {wanted}");
        return Err(api::refusal::to_status(&message, &detail));
    }
    Ok(all)
}

/// Sends a request with the name of a nexus, or of a nexus and a child; its response's nexus.
macro_rules! changed {
    ($server:expr, $request:ident, $method:ident, $nexus:expr) => {{
        let request = v1::$request { nexus: $nexus.clone() };
        rpc!($server, NexusServiceClient.$method, request).nexus
    }};
    ($server:expr, $request:ident, $method:ident, $nexus:expr, $uri:expr) => {{
        let request = v1::$request { nexus: $nexus.clone(), uri: $uri.clone() };
        rpc!($server, NexusServiceClient.$method, request).nexus
    }};
}

/// Asks what the options say about rebuilds.
pub(super) async fn ask_rebuild(
    server: &Server,
    command: &RebuildCommand,
) -> Result<Answer, Status> {
    let changed = match command {
        RebuildCommand::List { nexus } => {
            return Ok(Answer::Rebuilds(nexuses(server, nexus.as_ref()).await?));
        }
        RebuildCommand::Start(one) => {
            changed!(server, StartRebuildRequest, start_rebuild, one.nexus, one.uri)
        }
        RebuildCommand::Stop(one) => {
            changed!(server, StopRebuildRequest, stop_rebuild, one.nexus, one.uri)
        }
        RebuildCommand::Pause(one) => {
            changed!(server, PauseRebuildRequest, pause_rebuild, one.nexus, one.uri)
        }
        RebuildCommand::Resume(one) => {
            changed!(server, ResumeRebuildRequest, resume_rebuild, one.nexus, one.uri)
        }
    };
    Ok(Answer::Nexus(sent(changed)?))
}

/// Asks what the options say.
pub(super) async fn ask(server: &Server, command: &NexusCommand) -> Result<Answer, Status> {
    match command {
        NexusCommand::List => Ok(Answer::Nexuses(nexuses(server, None).await?)),
        NexusCommand::Children { nexus } => {
            Ok(Answer::Children(nexuses(server, nexus.as_ref()).await?))
        }
        NexusCommand::Create(options) => {
            let request = v1::CreateNexusRequest {
                nexus: options.nexus.clone(),
                uuid: options.uuid.clone(),
                len_bytes: options.size,
                children: options.children.clone(),
                labels: v1::Labels::from(options.labels).into(),
                force: options.force.clone(),
                force_left_out: options.force_left_out,
                policy: options.policy.map_or(v1::Policy::Unspecified, v1::Policy::from).into(),
                record: options.record.clone(),
            };
            let made = rpc!(server, NexusServiceClient.create_nexus, request).nexus;
            Ok(Answer::Nexus(sent(made)?))
        }
        NexusCommand::Destroy { nexus } => {
            let request = v1::DestroyNexusRequest { nexus: nexus.clone() };
            rpc!(server, NexusServiceClient.destroy_nexus, request);
            Ok(Answer::Done)
        }
        NexusCommand::Pause { .. }
        | NexusCommand::Resume { .. }
        | NexusCommand::Grow { .. }
        | NexusCommand::Verify { .. }
        | NexusCommand::StopVerify { .. } => Box::pin(ask_whole(server, command)).await,
        command => Box::pin(ask_child(server, command)).await,
    }
}

/// Asks for a change of a nexus as a whole.
async fn ask_whole(server: &Server, command: &NexusCommand) -> Result<Answer, Status> {
    let changed = match command {
        NexusCommand::Pause { nexus } => changed!(server, PauseNexusRequest, pause_nexus, nexus),
        NexusCommand::Resume { nexus } => {
            changed!(server, ResumeNexusRequest, resume_nexus, nexus)
        }
        NexusCommand::Verify { nexus } => {
            changed!(server, VerifyNexusRequest, verify_nexus, nexus)
        }
        NexusCommand::StopVerify { nexus } => {
            changed!(server, StopVerifyNexusRequest, stop_verify_nexus, nexus)
        }
        NexusCommand::Grow { nexus } => changed!(server, GrowNexusRequest, grow_nexus, nexus),
        _ => unreachable!("asked elsewhere"),
    };
    Ok(Answer::Nexus(sent(changed)?))
}

/// Asks for a change of a child.
async fn ask_child(server: &Server, command: &NexusCommand) -> Result<Answer, Status> {
    let changed = match command {
        NexusCommand::Add(one) => changed!(server, AddChildRequest, add_child, one.nexus, one.uri),
        NexusCommand::Remove(one) => {
            changed!(server, RemoveChildRequest, remove_child, one.nexus, one.uri)
        }
        NexusCommand::Offline(one) => {
            changed!(server, OfflineChildRequest, offline_child, one.nexus, one.uri)
        }
        NexusCommand::Online(one) => {
            changed!(server, StartRebuildRequest, start_rebuild, one.nexus, one.uri)
        }
        NexusCommand::Fault(one) => {
            changed!(server, FaultChildRequest, fault_child, one.nexus, one.uri)
        }
        _ => unreachable!("asked elsewhere"),
    };
    Ok(Answer::Nexus(sent(changed)?))
}

fn state(nexus: &v1::Nexus) -> String {
    word(nexus.state().as_str_name(), "NEXUS_STATE_")
}

fn child_state(child: &v1::NexusChild) -> String {
    word(child.state().as_str_name(), "CHILD_STATE_")
}

fn fault(child: &v1::NexusChild) -> Option<String> {
    reason(child.fault())
}

fn reason(fault: v1::FaultReason) -> Option<String> {
    match fault {
        v1::FaultReason::Unspecified => None,
        fault => Some(word(fault.as_str_name(), "FAULT_REASON_")),
    }
}

/// The JSON of a nexus.
pub(super) fn nexus_json(nexus: &v1::Nexus) -> Value {
    let history = nexus.history.iter().map(|one| record_json(&nexus.name, one));
    json!({
        "name": nexus.name,
        "presence": presence(nexus.presence()),
        "uuid": nexus.uuid,
        "state": state(nexus),
        "paused": nexus.paused,
        "refusal": nexus.refusal,
        "notice": nexus.notice,
        "verification": nexus.verification.as_ref().map(verification_json),
        "block_bytes": nexus.block_bytes,
        "blocks": nexus.blocks,
        "len_bytes": len_bytes(nexus.block_bytes, nexus.blocks),
        "home_core": nexus.home_core,
        "children": nexus.children.iter().map(child_json).collect::<Vec<_>>(),
        "history": history.collect::<Vec<_>>(),
    })
}

fn verification_json(found: &v1::Verification) -> Value {
    let difference = |one: &v1::Difference| {
        json!({
            "uri": one.uri,
            "reference": one.reference,
            "start": one.start,
            "blocks": one.blocks,
        })
    };
    json!({
        "state": word(found.state().as_str_name(), "VERIFY_STATE_"),
        "total_blocks": found.total_blocks,
        "done_blocks": found.done_blocks,
        "different_blocks": found.different_blocks,
        "unread_blocks": found.unread_blocks,
        "differences": found.differences.iter().map(difference).collect::<Vec<_>>(),
    })
}

fn child_json(child: &v1::NexusChild) -> Value {
    json!({
        "uri": child.uri,
        "device": child.device,
        "state": child_state(child),
        "fault": fault(child),
        "words": child.words,
        "errors": child.errors,
        "rebuild": child.rebuild.as_ref().map(progress_json),
    })
}

fn progress_json(rebuild: &v1::RebuildProgress) -> Value {
    json!({
        "state": word(rebuild.state().as_str_name(), "REBUILD_STATE_"),
        "scope": scope(rebuild.scope()),
        "total_blocks": rebuild.total_blocks,
        "done_blocks": rebuild.done_blocks,
        "rate": rebuild.rate,
        "left_ns": rebuild.left_ns,
        "held_back": rebuild.held_back,
    })
}

fn record_json(nexus: &str, record: &v1::RebuildRecord) -> Value {
    json!({
        "nexus": nexus,
        "uri": record.uri,
        "scope": scope(record.scope()),
        "end": end(record),
        "fault": reason(record.fault()),
        "copied_bytes": record.copied_bytes,
        "skipped_bytes": record.skipped_bytes,
        "took_ns": record.took_ns,
    })
}

fn scope(scope: v1::RebuildScope) -> String {
    word(scope.as_str_name(), "REBUILD_SCOPE_")
}

fn end(record: &v1::RebuildRecord) -> String {
    word(record.end().as_str_name(), "REBUILD_END_")
}

/// The JSON of rebuilds, those that have ended and those under way.
pub(super) fn rebuilds_json(all: &[v1::Nexus]) -> Value {
    let ended = all
        .iter()
        .flat_map(|nexus| nexus.history.iter().map(|record| record_json(&nexus.name, record)));
    let under_way = all.iter().flat_map(|nexus| {
        let children = nexus.children.iter().filter(|child| child.rebuild.is_some());
        children.map(|child| {
            json!({
                "nexus": nexus.name,
                "uri": child.uri,
                "progress": child.rebuild.as_ref().map(progress_json),
            })
        })
    });
    json!({
        "rebuilds": under_way.collect::<Vec<_>>(),
        "history": ended.collect::<Vec<_>>(),
    })
}

/// The JSON of the children of a nexus.
pub(super) fn children_json(nexus: &v1::Nexus) -> Value {
    json!({
        "nexus": nexus.name,
        "children": nexus.children.iter().map(child_json).collect::<Vec<_>>(),
    })
}

/// A line a nexus.
pub(super) fn nexuses_table(all: &[v1::Nexus]) -> String {
    let row = |nexus: &v1::Nexus| {
        let open = |child: &&v1::NexusChild| child.state() == v1::ChildState::Open;
        let in_sync = nexus.children.iter().filter(open).count();
        let paused = match (&nexus.refusal, nexus.paused) {
            (Some(words), _) => format!(" ({words})"),
            (None, true) => String::from(" (paused)"),
            (None, false) => String::new(),
        };
        vec![
            nexus.name.clone(),
            presence(nexus.presence()),
            state(nexus) + &paused,
            table::size(nexus.block_bytes, nexus.blocks),
            format!("{in_sync}/{}", nexus.children.len()),
            nexus.home_core.map_or_else(|| String::from("-"), |core| core.to_string()),
            nexus.uuid.clone(),
        ]
    };
    let header = ["name", "presence", "state", "size", "in sync", "home core", "uuid"];
    table::table(&header, all.iter().map(row))
}

/// A line a child.
pub(super) fn children_table(all: &[v1::Nexus]) -> String {
    let rows = all.iter().flat_map(|nexus| {
        nexus.children.iter().map(|child| {
            vec![
                nexus.name.clone(),
                child.uri.clone(),
                child_state(child),
                out(child),
                child.errors.to_string(),
                child.rebuild.as_ref().map_or_else(|| String::from("-"), progress_text),
            ]
        })
    });
    table::table(&["nexus", "child", "state", "reason", "errors", "rebuild"], rows)
}

/// Why a child is out, with what is known of it.
fn out(child: &v1::NexusChild) -> String {
    match (fault(child), &child.words) {
        (Some(fault), Some(words)) => format!("{fault}: {words}"),
        (Some(fault), None) => fault,
        (None, _) => String::from("-"),
    }
}

fn progress_text(rebuild: &v1::RebuildProgress) -> String {
    let percent = rebuild.done_blocks.saturating_mul(100) / rebuild.total_blocks.max(1);
    let state = word(rebuild.state().as_str_name(), "REBUILD_STATE_");
    format!("{percent} % {state}, {} MiB/s", rebuild.rate >> 20)
}

/// A line a rebuild: those under way first, then those that have ended.
pub(super) fn rebuilds_table(all: &[v1::Nexus]) -> String {
    let row =
        |nexus: &v1::Nexus, uri: &String, scope, text: String, bytes: u64, ns: Option<u64>| {
            let time =
                ns.map_or_else(|| String::from("-"), |ns| format!("{:.1} s", ns as f64 / 1e9));
            vec![nexus.name.clone(), uri.clone(), scope, text, table::size(1, bytes), time]
        };
    let under_way = all.iter().flat_map(|nexus| {
        nexus.children.iter().filter_map(move |child| {
            let rebuild = child.rebuild.as_ref()?;
            let done = len_bytes(nexus.block_bytes, rebuild.done_blocks);
            let text = progress_text(rebuild);
            Some(row(nexus, &child.uri, scope(rebuild.scope()), text, done, None))
        })
    });
    let ended = all.iter().flat_map(|nexus| {
        nexus.history.iter().map(move |one| {
            let text = end(one);
            row(nexus, &one.uri, scope(one.scope()), text, one.copied_bytes, Some(one.took_ns))
        })
    });
    let header = ["nexus", "child", "scope", "state", "copied", "took"];
    table::table(&header, under_way.chain(ended))
}
