//! `nexus …`: the command line, the requests that it asks for, and how nexuses are shown.

use api::v1::nexus_service_client::NexusServiceClient;
use api::v1::{self, ErrorDetail, ErrorKind};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tonic::Status;

use super::call::Answer;
use super::options::size;
use super::question::{Server, rpc, sent};
use super::shape::{len_bytes, presence, word};
use super::table;

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
    /// Adds a child, out of sync until it has been rebuilt
    Add(OfChild),
    /// Takes a child away
    Remove(OfChild),
    /// Stops using a child until it is taken online
    Offline(OfChild),
    /// Says that what a child holds is not to be trusted
    Fault(OfChild),
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
            };
            let made = rpc!(server, NexusServiceClient.create_nexus, request).nexus;
            Ok(Answer::Nexus(sent(made)?))
        }
        NexusCommand::Destroy { nexus } => {
            let request = v1::DestroyNexusRequest { nexus: nexus.clone() };
            rpc!(server, NexusServiceClient.destroy_nexus, request);
            Ok(Answer::Done)
        }
        NexusCommand::Pause { .. } | NexusCommand::Resume { .. } | NexusCommand::Grow { .. } => {
            Box::pin(ask_whole(server, command)).await
        }
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
    match child.fault() {
        v1::FaultReason::Unspecified => None,
        fault => Some(word(fault.as_str_name(), "FAULT_REASON_")),
    }
}

/// The JSON of a nexus.
pub(super) fn nexus_json(nexus: &v1::Nexus) -> Value {
    json!({
        "name": nexus.name,
        "presence": presence(nexus.presence()),
        "uuid": nexus.uuid,
        "state": state(nexus),
        "paused": nexus.paused,
        "block_bytes": nexus.block_bytes,
        "blocks": nexus.blocks,
        "len_bytes": len_bytes(nexus.block_bytes, nexus.blocks),
        "home_core": nexus.home_core,
        "children": nexus.children.iter().map(child_json).collect::<Vec<_>>(),
    })
}

fn child_json(child: &v1::NexusChild) -> Value {
    json!({
        "uri": child.uri,
        "device": child.device,
        "state": child_state(child),
        "fault": fault(child),
        "errors": child.errors,
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
        let paused = if nexus.paused { " (paused)" } else { "" };
        vec![
            nexus.name.clone(),
            presence(nexus.presence()),
            state(nexus) + paused,
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
                fault(child).unwrap_or_else(|| String::from("-")),
                child.errors.to_string(),
            ]
        })
    });
    table::table(&["nexus", "child", "state", "reason", "errors"], rows)
}
