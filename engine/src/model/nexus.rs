//! A nexus of the model: what was asked for, how far it is, its children, and what its home core
//! has last told of it.

use std::sync::Arc;
use std::time::Duration;

use bdev::BlockDevice;
use nexus::home::ChildReport;
use nexus::rebuild::{Difference, RebuildProgress, RebuildRecord, VerifyReport};
use nexus::view::Mode;
use nexus::{ChildState, FaultReason, Nexus};
use reactor::cores::CoreId;
use uuid::Uuid;

use super::device::{DeviceEntry, DevicePhase};
use crate::command::{
    ChildInfo, CreateNexus, DifferenceInfo, NexusInfo, NexusState, Presence, ProgressInfo,
    RebuildInfo, VerifyInfo,
};
use crate::export::Export;
use crate::homes::NexusId;

/// A child of a nexus of the model.
#[derive(Debug)]
pub(crate) struct ChildEntry {
    /// Its URI in its first spelling, by which the home core knows it.
    pub uri: String,
    /// Name of its device.
    pub device: String,
    /// What the nexus has of the device; nothing while it is being opened.
    pub handle: Option<Arc<Export>>,
    /// Why the nexus does without it: its device cannot be opened.
    pub absent: Option<String>,
}

impl ChildEntry {
    /// A child whose device is to be opened.
    pub fn coming(uri: String, device: String) -> ChildEntry {
        ChildEntry { uri, device, handle: None, absent: None }
    }
}

/// A nexus of the model; its device's entry says whether it is there.
#[derive(Debug)]
pub(crate) struct NexusEntry {
    pub id: NexusId,
    pub uuid: Uuid,
    /// As it was asked for.
    pub asked: CreateNexus,
    /// The place of its home core.
    pub place: usize,
    /// Nothing while its children are being opened.
    pub nexus: Option<Arc<Nexus>>,
    pub children: Vec<ChildEntry>,
    /// What its home core has last told.
    pub known: Option<NexusReport>,
}

/// What the home core of a nexus tells of it.
#[derive(Clone, Debug)]
pub(crate) struct NexusReport {
    pub children: Vec<ChildReport>,
    pub mode: Mode,
    pub is_paused: bool,
    pub refusal: Option<String>,
    pub notice: Option<String>,
    pub verification: Option<VerifyReport>,
    pub rebuild: Option<RebuildProgress>,
    pub history: Vec<RebuildRecord>,
}

impl NexusEntry {
    /// The child of a URI in its first spelling.
    pub fn child(&self, uri: &str) -> Option<&ChildEntry> {
        self.children.iter().find(|child| child.uri == uri)
    }

    /// What a listing shows; `device` is the nexus's own.
    pub fn info(&self, device: &DeviceEntry, cores: impl Fn(usize) -> Option<CoreId>) -> NexusInfo {
        let geometry = self.nexus.as_ref().map(|nexus| nexus.geometry());
        let children: Vec<ChildInfo> =
            self.children.iter().map(|child| self.child_info(child)).collect();
        NexusInfo {
            name: self.asked.nexus.clone(),
            presence: match device.phase {
                DevicePhase::Opening(_) => Presence::Coming,
                DevicePhase::Present(_) => Presence::Present,
                DevicePhase::Going(..) | DevicePhase::Closing => Presence::Going,
            },
            uuid: self.uuid,
            state: self.state(&children),
            is_paused: self.known.as_ref().is_some_and(|known| known.is_paused),
            refusal: self.known.as_ref().and_then(|known| known.refusal.clone()),
            notice: self.known.as_ref().and_then(|known| known.notice.clone()),
            block_bytes: geometry.map_or(0, |geometry| geometry.block_bytes),
            blocks: geometry.map_or(0, |geometry| geometry.blocks),
            home: cores(self.place),
            children,
            history: self.history(),
            verification: self.verification(),
        }
    }

    fn verification(&self) -> Option<VerifyInfo> {
        let known = self.known.as_ref()?;
        let report = known.verification.as_ref()?;
        let uri = |index| {
            let child = known.children.iter().find(|child| child.index == index);
            child.map(|child| child.name.clone()).unwrap_or_default()
        };
        let difference = |one: &Difference| DifferenceInfo {
            uri: uri(one.child),
            reference: uri(one.reference),
            start: one.start,
            blocks: one.blocks,
        };
        Some(VerifyInfo {
            state: report.state,
            total_blocks: report.total_blocks,
            done_blocks: report.done_blocks,
            different_blocks: report.different_blocks,
            unread_blocks: report.unread_blocks,
            differences: report.differences.iter().map(difference).collect(),
        })
    }

    fn history(&self) -> Vec<RebuildInfo> {
        let records = self.known.iter().flat_map(|known| &known.history);
        let info = |record: &RebuildRecord| RebuildInfo {
            uri: record.name.clone(),
            scope: record.scope,
            end: record.end,
            copied_bytes: record.moved.copied_bytes,
            skipped_bytes: record.moved.skipped_bytes,
            took: Duration::from(record.ended_at.since(record.started_at)),
        };
        records.map(info).collect()
    }

    fn child_info(&self, child: &ChildEntry) -> ChildInfo {
        let reports = self.known.iter().flat_map(|known| &known.children);
        let report = reports.into_iter().find(|report| report.name == child.uri);
        let rebuild = self.known.as_ref().and_then(|known| known.rebuild.as_ref());
        let rebuild = rebuild.filter(|rebuild| rebuild.name == child.uri);
        let unknown = match &child.absent {
            Some(_) => ChildState::Faulted(FaultReason::CantOpen),
            None => ChildState::Init,
        };
        let words = report.and_then(|report| report.words.clone());
        ChildInfo {
            uri: child.uri.clone(),
            device: child.device.clone(),
            state: report.map_or(unknown, |report| report.state),
            words: words.or_else(|| child.absent.clone()),
            errors: report.map_or(0, |report| report.errors as u64),
            rebuild: rebuild.map(progress),
        }
    }

    fn state(&self, children: &[ChildInfo]) -> NexusState {
        let Some(known) = &self.known else { return NexusState::Unknown };
        let in_sync = children.iter().filter(|child| child.state == ChildState::Open).count();
        match known.mode {
            Mode::Ended => NexusState::Faulted,
            _ if in_sync == 0 => NexusState::Faulted,
            _ if in_sync == children.len() => NexusState::Online,
            _ => NexusState::Degraded,
        }
    }
}

fn progress(rebuild: &RebuildProgress) -> ProgressInfo {
    ProgressInfo {
        state: rebuild.state,
        scope: rebuild.scope,
        total_blocks: rebuild.total_blocks,
        done_blocks: rebuild.done_blocks,
        rate: rebuild.rate,
        left: rebuild.left.map(Duration::from),
        is_held_back: rebuild.is_held_back,
    }
}
