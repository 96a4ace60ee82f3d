//! Identify: which data structure is asked for, and the lists.
//!
//! The structures themselves are filled by [`super::identify_controller`] and
//! [`super::identify_namespace`]. NVMe Base 2.0 section 5.17, NVM Command Set 1.0 section 4.1.5.

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::identify::{
    COMMAND_SET_NVM, ControllerList, DescriptorWriter, IDENTIFY_BYTES, IdentifyKind,
    NamespaceIdentity, NamespaceList,
};
use zerocopy::IntoBytes;

use super::{identify_controller, identify_namespace};
use crate::target::limits::NAMESPACES_LIMIT;
use crate::target::namespace::{Namespace, NamespaceId};
use crate::target::subsystem::{Subsystem, SubsystemKind};

/// The last identifier after which a list may be asked for; the two above are reserved.
const LIST_AFTER_MAX: u32 = 0xffff_fffd;
/// CNTID that stands for the controller which is asked (section 5.17.2.19).
const CONTROLLER_ID_ASKED: u16 = 0xffff;

/// What Identify data is made of.
#[derive(Debug)]
pub(super) struct IdentifyContext<'a> {
    pub subsystem: &'a Subsystem,
    pub controller_id: u16,
    /// Controllers of the subsystem, ascending.
    pub controllers: &'a [u16],
}

/// Executes Identify; fills all of `out`.
pub(super) fn identify(
    cx: &IdentifyContext<'_>,
    entry: &SubmissionEntry,
    out: &mut [u8; IDENTIFY_BYTES],
) -> Result<(), Status> {
    let command = entry.identify();
    let kind = IdentifyKind::from_value(command.kind).ok_or(Status::INVALID_FIELD)?;
    if cx.subsystem.kind() == SubsystemKind::Discovery {
        // A discovery controller has no namespaces to ask for (figure 274).
        if kind != IdentifyKind::Controller {
            return Err(Status::INVALID_FIELD);
        }
        identify_controller::fill_discovery(cx, out);
        return Ok(());
    }
    let is_of_command_set = matches!(
        kind,
        IdentifyKind::CommandSetNamespace
            | IdentifyKind::CommandSetController
            | IdentifyKind::CommandSetActiveNamespaces
    );
    if is_of_command_set && command.command_set != COMMAND_SET_NVM {
        return Err(Status::INVALID_FIELD);
    }
    let id = entry.namespace_id.get();
    let controller_id = command.controller_id;
    match kind {
        IdentifyKind::Controller => identify_controller::fill_io(cx, out),
        IdentifyKind::CommandSetController => identify_controller::fill_nvm(out),
        IdentifyKind::ActiveNamespaces
        | IdentifyKind::CommandSetActiveNamespaces
        | IdentifyKind::AllocatedNamespaces => list_namespaces(cx, id, out)?,
        IdentifyKind::NamespaceDescriptors => {
            let namespace = find(cx, id)?.ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)?;
            describe(namespace, out)?;
        }
        IdentifyKind::Namespace
        | IdentifyKind::AllocatedNamespace
        | IdentifyKind::CommandSetNamespace
        | IdentifyKind::IndependentNamespace => fill_namespace(cx, kind, id, out)?,
        IdentifyKind::NamespaceControllers => {
            find(cx, id)?.ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)?;
            list_controllers(cx, controller_id, out);
        }
        IdentifyKind::Controllers => list_controllers(cx, controller_id, out),
        IdentifyKind::CommandSets => {
            if controller_id != CONTROLLER_ID_ASKED && controller_id != cx.controller_id {
                return Err(Status::INVALID_FIELD);
            }
            // One combination, of the NVM command set (bit 0) alone.
            out.fill(0);
            out[0] = 1 << COMMAND_SET_NVM;
        }
    }
    Ok(())
}

/// The namespace called `id`; `None` for one that could be but is not. Namespace management is
/// not offered, so no data is common to all namespaces (FFFFFFFFh).
fn find<'a>(cx: &IdentifyContext<'a>, id: u32) -> Result<Option<&'a Namespace>, Status> {
    if (1..=NAMESPACES_LIMIT).contains(&id) {
        Ok(cx.subsystem.namespace(NamespaceId(id)))
    } else {
        Err(Status::INVALID_NAMESPACE_OR_FORMAT)
    }
}

fn fill_namespace(
    cx: &IdentifyContext<'_>,
    kind: IdentifyKind,
    id: u32,
    out: &mut [u8; IDENTIFY_BYTES],
) -> Result<(), Status> {
    let namespace = find(cx, id)?;
    // Of an inactive namespace everything is zero (section 5.17.2.1).
    out.fill(0);
    let Some(namespace) = namespace else { return Ok(()) };
    match kind {
        IdentifyKind::IndependentNamespace => identify_namespace::fill_independent(namespace, out),
        // Storage tags and protection information: none, which is all zeroes.
        IdentifyKind::CommandSetNamespace => {}
        _ => identify_namespace::fill(cx.subsystem.limits(), namespace, out),
    }
    Ok(())
}

fn list_namespaces(
    cx: &IdentifyContext<'_>,
    after: u32,
    out: &mut [u8; IDENTIFY_BYTES],
) -> Result<(), Status> {
    if after > LIST_AFTER_MAX {
        return Err(Status::INVALID_NAMESPACE_OR_FORMAT);
    }
    let ids = cx.subsystem.namespaces().iter().map(|namespace| namespace.id.0);
    out.copy_from_slice(NamespaceList::above(after, ids).as_bytes());
    Ok(())
}

fn list_controllers(cx: &IdentifyContext<'_>, first: u16, out: &mut [u8; IDENTIFY_BYTES]) {
    let list = ControllerList::from(first, cx.controllers.iter().copied());
    out.copy_from_slice(list.as_bytes());
}

fn describe(namespace: &Namespace, out: &mut [u8; IDENTIFY_BYTES]) -> Result<(), Status> {
    let mut writer = DescriptorWriter::new(out);
    for identity in [
        NamespaceIdentity::Nguid(namespace.nguid()),
        NamespaceIdentity::Uuid(namespace.uuid),
        NamespaceIdentity::CommandSet(COMMAND_SET_NVM),
    ] {
        writer.push(identity).map_err(|_| Status::INTERNAL_ERROR)?;
    }
    Ok(())
}
