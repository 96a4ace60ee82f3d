//! Volumes whose replicas carry labels: what the children hold, their first labels, a clean close.
//!
//! On the thread that makes or closes a nexus. What reads and writes labels runs on the home core
//! ([`Chore`]), and is asked here how far it is.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bdev::uri::DeviceUri;
use nexus::ChildConfig;
use nexus::truth::label::LABEL_BYTES;
use nexus::truth::label::store::LabelError;
use nexus::truth::names::{NexusId as VolumeId, Policy, RecordId};
use nexus::truth::record::{self, FileRecord, Record, RecordPage};
use nexus::truth::tracked::{
    Contents, Finding, Format, FormatError, FormatSpec, Opening, RecordSource, Survey, SurveyError,
    TrackedConfig,
};
use uuid::Uuid;

use super::Shared;
use super::nexuses::{Patience, WantedChild};
use super::state::Deadline;
use crate::command::{CommandError, CreateNexus, Labels, Progress, RecordPlace, field};
use crate::homes::{Chore, ChoreEnd, NexusId};
use crate::model::draw_uuid;
use crate::record_command::CommandRecord;

/// How long making a nexus waits for its volume to be open. It is there afterwards either way:
/// what hosts send waits until then.
const ASSEMBLE_WITHIN: Duration = Duration::from_secs(5);

/// How long ending a nexus waits for its members to say that it was closed. Without that it opens
/// as after a crash.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// Which run of the machine this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Which machine this is.
const MACHINE_ID: &str = "/etc/machine-id";

/// Longest path or command of a record.
pub const RECORD_TEXT_BYTES_MAX: usize = 4096;

/// A volume that can be opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Volume {
    pub id: VolumeId,
    /// Its length.
    pub blocks: u64,
    /// The record that its labels name.
    record: Option<RecordId>,
}

impl Volume {
    /// How its truth is kept.
    pub fn config(self, opening: Opening, record: Option<&RecordPlace>) -> TrackedConfig {
        let record = self.record.zip(record).map(|(id, place)| keeper(place, id, self.id));
        TrackedConfig {
            nexus: self.id,
            host: this_host(),
            boot: this_boot(),
            record: record.map_or(RecordSource::None, RecordSource::Given),
            opening,
            fence: None,
        }
    }
}

/// Who keeps a record; nothing is read yet.
fn keeper(place: &RecordPlace, id: RecordId, volume: VolumeId) -> Box<dyn Record + Send> {
    let page = RecordPage::new(id, volume);
    match place {
        RecordPlace::File(path) => Box::new(FileRecord::new(Path::new(path), page)),
        RecordPlace::Command(command) => Box::new(CommandRecord::new(command, page)),
    }
}

/// Without the kernel's word every start counts as a boot.
fn this_boot() -> Uuid {
    read_uuid(BOOT_ID).unwrap_or_else(draw_uuid)
}

fn this_host() -> Uuid {
    read_uuid(MACHINE_ID).unwrap_or_default()
}

fn read_uuid(path: &str) -> Option<Uuid> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Who decides about the members of a volume unless told: with a record, or with three children or
/// more, a majority. With fewer, losing one would leave none, so the owner decides alone.
fn policy(children: usize, record: Option<&RecordPlace>) -> Policy {
    if children >= 3 || record.is_some() { Policy::Majority } else { Policy::Solo }
}

fn policy_word(policy: Policy) -> &'static str {
    match policy {
        Policy::Majority => "majority",
        Policy::Record => "record",
        Policy::Solo => "solo",
    }
}

fn record_refused(value: &str, advice: impl Into<String>) -> CommandError {
    CommandError::Invalid { field: "record", value: value.to_owned(), advice: advice.into() }
}

/// Refuses a policy and a record that do not go together, or for which there are no labels.
pub(super) fn check_voters(asked: &CreateNexus) -> Result<(), CommandError> {
    let refused = |advice: &str| {
        let value = String::from(asked.policy.map_or("given", policy_word));
        let field = if asked.policy.is_some() { "policy" } else { "record" };
        Err(CommandError::Invalid { field, value, advice: String::from(advice) })
    };
    if asked.labels == Labels::None && (asked.policy.is_some() || asked.record.is_some()) {
        return refused("it is kept in labels: make the nexus with them");
    }
    if asked.policy == Some(Policy::Solo) && asked.record.is_some() {
        return refused("its owner decides alone: choose majority or record, or give no record");
    }
    match &asked.record {
        Some(RecordPlace::File(text) | RecordPlace::Command(text)) if text.is_empty() => {
            Err(record_refused("empty", "give the path of a file, or a command"))
        }
        Some(RecordPlace::File(text) | RecordPlace::Command(text))
            if text.len() > RECORD_TEXT_BYTES_MAX =>
        {
            let advice = format!("give at most {RECORD_TEXT_BYTES_MAX} bytes");
            Err(record_refused("so long", advice))
        }
        _ => Ok(()),
    }
}

/// How a volume is to be opened: from which child of a nexus, if by force.
pub(super) fn opening(asked: &CreateNexus) -> Result<Opening, CommandError> {
    let Some(force) = &asked.force else { return Ok(Opening::Ordinary) };
    let child = field::uri(&force.child)?.to_string();
    let invalid = |advice: &str| CommandError::Invalid {
        field: "force",
        value: child.clone(),
        advice: String::from(advice),
    };
    if !matches!(asked.labels, Labels::Open | Labels::AsFound) {
        return Err(invalid("only replicas with labels are opened by force"));
    }
    if !asked.children.contains(&child) {
        return Err(invalid("it is none of the children"));
    }
    Ok(Opening::Forced { child, left_out: force.left_out })
}

/// Blocks of a child that its label takes.
pub(super) fn label_blocks(labels: Labels, block_bytes: u32) -> u64 {
    match labels {
        Labels::None => 0,
        Labels::Create | Labels::Open | Labels::AsFound => LABEL_BYTES / u64::from(block_bytes),
    }
}

/// Refuses children that cannot keep a label.
pub(super) fn check_kept(labels: Labels, children: &[WantedChild]) -> Result<(), CommandError> {
    let is_null = |child: &&WantedChild| matches!(child.uri, DeviceUri::Null(_));
    match children.iter().find(is_null) {
        Some(null) if labels != Labels::None => Err(CommandError::Invalid {
            field: "children",
            value: null.text.clone(),
            advice: String::from("it keeps nothing, and so no label: make the nexus without"),
        }),
        _ => Ok(()),
    }
}

/// What new children hold: memory reads as zeroes.
fn contents(children: &[WantedChild]) -> Contents {
    let is_zero = |child: &WantedChild| matches!(child.uri, DeviceUri::Malloc(_));
    if children.iter().all(is_zero) { Contents::Equal } else { Contents::Unknown }
}

fn refused(error: &dyn std::error::Error) -> CommandError {
    CommandError::Invalid {
        field: "children",
        value: String::from("so"),
        advice: error.to_string(),
    }
}

/// Makes the file of a record that is to be, and refuses one that is another's.
fn check_blank_record(path: &Path, voter: &mut dyn Record) -> Result<(), CommandError> {
    let made = FileRecord::make_file(path);
    made.map_err(|error| record_refused("so", error.to_string()))?;
    check_empty(voter)
}

fn check_empty(voter: &mut dyn Record) -> Result<(), CommandError> {
    match voter.read() {
        Ok(half) if half.is_empty() => Ok(()),
        Ok(_) => Err(record_refused("so", "it is one already: a new volume needs an empty one")),
        Err(error) => Err(record_refused("so", error.to_string())),
    }
}

/// What is asked of labels.
pub(super) struct AskedLabels<'a> {
    pub labels: Labels,
    /// Identity of the volume; none takes what is found, or draws one.
    pub uuid: Option<Uuid>,
    /// Length of a volume that is created.
    pub blocks: Option<u64>,
    pub children: &'a [WantedChild],
    /// Children that are not there, and why.
    pub absent: &'a [String],
    /// It is to be opened by force, so it is there.
    pub is_forced: bool,
    /// Who is to decide; none takes what the labels say, or what suits.
    pub policy: Option<Policy>,
    /// The record.
    pub record: Option<&'a RecordPlace>,
}

/// Memory is never a replica that somebody else counts on.
fn is_memory(child: &WantedChild) -> bool {
    matches!(child.uri, DeviceUri::Malloc(_) | DeviceUri::Null(_))
}

impl Shared {
    /// Refuses to write over the labels of replicas, where no labels are asked for.
    pub(super) fn check_unlabelled(
        &self,
        home: (usize, NexusId),
        deadline: Deadline,
        children: &[WantedChild],
        configs: &[ChildConfig],
    ) -> Result<(), CommandError> {
        if children.iter().all(is_memory) {
            return Ok(());
        }
        let looked_at = configs.to_vec();
        let survey = move || Ok(Chore::Survey(Box::new(Survey::new(&looked_at))));
        let ChoreEnd::Surveyed(found) = self.do_chore(home, deadline, survey)? else {
            unreachable!("a survey ends as one")
        };
        let holds = match found {
            Ok(Finding::Volume { nexus, .. })
            | Err(SurveyError::Mixed { nexus, .. } | SurveyError::TwoVolumes { nexus, .. }) => {
                format!("a child is a replica of volume {}", nexus.0)
            }
            Err(SurveyError::NotBlank { others }) => {
                // A label all the same: of a newer program, or one that can still be repaired.
                let label = |(name, found): &(String, Option<LabelError>)| {
                    let error = found.as_ref().filter(|error| **error != LabelError::Foreign)?;
                    Some(format!("{name} has a label ({error})"))
                };
                let labels: Vec<String> = others.iter().filter_map(label).collect();
                if labels.is_empty() {
                    return Ok(());
                }
                labels.join("; ")
            }
            Ok(Finding::Blank(_)) => return Ok(()),
        };
        Err(CommandError::Invalid {
            field: "labels",
            value: String::from("none"),
            advice: format!(
                "{holds}, which would be written over: open it with labels, or wipe its first {} \
                 MiB",
                LABEL_BYTES >> 20
            ),
        })
    }

    /// Looks at the children, and formats them where that is asked for.
    pub(super) fn find_volume(
        &self,
        home: (usize, NexusId),
        deadline: Deadline,
        asked: &AskedLabels<'_>,
        configs: &[ChildConfig],
    ) -> Result<Volume, CommandError> {
        let looked_at = configs.to_vec();
        let survey = move || Ok(Chore::Survey(Box::new(Survey::new(&looked_at))));
        let ChoreEnd::Surveyed(found) = self.do_chore(home, deadline, survey)? else {
            unreachable!("a survey ends as one")
        };
        let id = asked.uuid.map(VolumeId);
        match found.map_err(|error| refused(&error))? {
            Finding::Volume { nexus, .. } if id.is_some_and(|id| id != nexus) => {
                Err(asked.refuse(format!("the children are replicas of volume {}", nexus.0)))
            }
            Finding::Volume { nexus, .. } if asked.labels == Labels::Create => {
                Err(asked
                    .refuse(format!("the children are replicas of volume {} already", nexus.0)))
            }
            Finding::Volume { nexus, blocks, policy, record } => {
                asked.check_found(policy, record)?;
                Ok(Volume { id: nexus, blocks, record })
            }
            Finding::Blank(_) if asked.labels == Labels::Open || asked.is_forced => {
                Err(asked.refuse(String::from("none of the children has a label")))
            }
            Finding::Blank(_) if !asked.absent.is_empty() => {
                let absent = asked.absent.join("; ");
                Err(asked
                    .refuse(format!("a volume is created with all of them; missing is {absent}")))
            }
            Finding::Blank(begun) => {
                let id = id.or(begun).unwrap_or_else(|| VolumeId(draw_uuid()));
                self.format_children(home, deadline, asked, (id, configs))
            }
        }
    }

    fn format_children(
        &self,
        home: (usize, NexusId),
        deadline: Deadline,
        asked: &AskedLabels<'_>,
        (id, configs): (VolumeId, &[ChildConfig]),
    ) -> Result<Volume, CommandError> {
        let policy = asked.policy.unwrap_or_else(|| policy(configs.len(), asked.record));
        if policy == Policy::Record && asked.record.is_none() {
            let advice = String::from("it needs a record to decide: say where that is kept");
            let (field, value) = ("policy", String::from(policy_word(policy)));
            return Err(CommandError::Invalid { field, value, advice });
        }
        let record = asked.record.map(|_| RecordId(draw_uuid()));
        let mut voter = record.zip(asked.record).map(|(record, place)| keeper(place, record, id));
        if let (Some(RecordPlace::File(path)), Some(voter)) = (asked.record, &mut voter) {
            check_blank_record(Path::new(path), &mut **voter)?;
        } else if let Some(voter) = &mut voter {
            check_empty(&mut **voter)?;
        }
        let spec = FormatSpec {
            nexus: id,
            policy,
            record,
            blocks: asked.blocks,
            contents: contents(asked.children),
            host: this_host(),
            boot: this_boot(),
        };
        // What cannot be is found out here; it is made anew on the core.
        let blocks = Format::new(spec, configs).map_err(|error| refused(&error))?.blocks();
        let formatted = configs.to_vec();
        let format = move || Format::new(spec, &formatted).map(|one| Chore::Format(Box::new(one)));
        let ChoreEnd::Formatted(done) = self.do_chore(home, deadline, format)? else {
            unreachable!("a format ends as one")
        };
        let first = done.map_err(|error| refused(&error))?;
        if let Some(mut voter) = voter {
            // Should it fail: with all its replicas the volume is opened, and the record written.
            record::begin(&mut *voter, &first)
                .map_err(|error| record_refused("so", error.to_string()))?;
        }
        Ok(Volume { id, blocks, record })
    }

    /// Has a home core do a chore, and waits for its end.
    fn do_chore(
        &self,
        (place, id): (usize, NexusId),
        deadline: Deadline,
        make: impl Fn() -> Result<Chore, FormatError> + Send + Sync + 'static,
    ) -> Result<ChoreEnd, CommandError> {
        self.at_home(place, deadline, move |homes, _| homes.begin_chore(id, &make))?
            .map_err(|error| refused(&error))?;
        let mut patience = Patience::new();
        loop {
            if let Some(end) = self.at_home(place, deadline, move |homes, _| homes.chore_end(id))? {
                self.at_home(place, deadline, move |homes, cx| homes.end_chore(cx, id))?;
                return Ok(end);
            }
            if deadline.left().is_zero() {
                // Nobody waits for it any more.
                let _ = self.at_home(place, deadline, move |homes, cx| homes.end_chore(cx, id));
                let known = String::from("the labels of the children are still being read");
                return Err(deadline.passed(known, Progress::default()));
            }
            patience.pass();
        }
    }

    /// Waits until a volume is open, or says why it is not.
    pub(super) fn await_assembly(&self, (place, id): (usize, NexusId)) -> Result<(), CommandError> {
        self.await_home((place, id), Deadline::after(ASSEMBLE_WITHIN), |home| {
            home.is_assembled() || home.refusal().is_some()
        })
    }

    /// Looks at a home until it is as it should be, or the time is over.
    fn await_home(
        &self,
        (place, id): (usize, NexusId),
        deadline: Deadline,
        look: fn(&nexus::Home) -> bool,
    ) -> Result<(), CommandError> {
        let mut patience = Patience::new();
        while !deadline.left().is_zero() {
            let is_so = move |homes: &mut crate::homes::Homes, _: &mut reactor::Cx| {
                homes.get(id).is_none_or(|home| look(home))
            };
            if self.at_home(place, deadline, is_so)? {
                return Ok(());
            }
            patience.pass();
        }
        Ok(())
    }

    /// Has the members of a volume say that it was closed.
    pub(super) fn close_volume(&self, home: (usize, NexusId)) {
        let (place, id) = home;
        let deadline = Deadline::after(CLOSE_WITHIN);
        let begin = move |homes: &mut crate::homes::Homes, _: &mut reactor::Cx| {
            homes.get(id).into_iter().for_each(nexus::Home::close);
        };
        // What cannot be said is found out when it is opened.
        let begun = self.at_home(place, deadline, begin);
        let _ = begun.and_then(|()| self.await_home(home, deadline, nexus::Home::is_closed));
    }

    /// Closes all volumes that have labels, as far as there is time for it.
    pub(super) fn close_volumes(self: &Arc<Shared>, within: Duration) {
        let deadline = Deadline::after(within);
        let state = self.lock();
        let labelled = state
            .model
            .nexuses
            .values()
            .filter(|entry| entry.nexus.is_some() && entry.asked.labels != Labels::None);
        let homes: Vec<_> = labelled.map(|entry| (entry.place, entry.id)).collect();
        drop(state);
        for (place, id) in &homes {
            let id = *id;
            let begin = move |homes: &mut crate::homes::Homes, _: &mut reactor::Cx| {
                homes.get(id).into_iter().for_each(nexus::Home::close);
            };
            let _ = self.at_home(*place, deadline, begin);
        }
        for home in homes {
            let _ = self.await_home(home, deadline, nexus::Home::is_closed);
        }
    }
}

impl AskedLabels<'_> {
    /// Refuses to open a volume as it is not: who decides was chosen when it was created.
    fn check_found(&self, policy: Policy, record: Option<RecordId>) -> Result<(), CommandError> {
        if let Some(asked) = self.policy.filter(|asked| *asked != policy) {
            return Err(CommandError::Invalid {
                field: "policy",
                value: String::from(policy_word(asked)),
                advice: format!(
                    "the volume was created with {}, which stays: leave it out",
                    policy_word(policy)
                ),
            });
        }
        match (record, self.record) {
            (Some(_), None) if !self.is_forced => Err(record_refused(
                "left out",
                "the volume has one, which votes on who its members are: say where it is kept, or \
                 if it is lost for good, give an empty file",
            )),
            (None, Some(_)) => {
                Err(record_refused("given", "the volume was created without one: leave it out"))
            }
            _ => Ok(()),
        }
    }

    fn refuse(&self, advice: String) -> CommandError {
        let (field, value) = match self.uuid {
            Some(uuid) if self.labels != Labels::Create => ("uuid", uuid.to_string()),
            _ => ("children", String::from("so")),
        };
        CommandError::Invalid { field, value, advice }
    }
}
