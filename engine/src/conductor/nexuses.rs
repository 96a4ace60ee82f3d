//! Commands on nexuses as a whole.
//!
//! A nexus is made on a thread of its own, as its children may take long to open: it is listed as
//! one that comes until then. It is ended like any device, once nothing uses it; the thread that
//! closes it has the home core let go of it first, and then its children are closed the same way.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use bdev::BlockDevice;
use bdev::uri::DeviceUri;
use nexus::rebuild::{VerifyReport, VerifyState};
use nexus::truth::tracked::Tracked;
use nexus::truth::{Truth, Untracked};
use nexus::view::Locality;
use nexus::{ChildConfig, Home, Marking, Nexus, NexusConfig, Standing};
use uuid::{Uuid, uuid};

use super::labels::{self, AskedLabels, Volume};
use super::state::{Deadline, State};
use super::{Guard, Shared, devices};
use crate::command::error::Object;
use crate::command::limits::{CHILDREN_MAX, DEVICES_MAX, NEXUSES_MAX, WITHIN_MAX};
use crate::command::{
    CommandError, CreateNexus, Labels, NexusCommand, NexusInfo, Progress, Reply, field,
};
use crate::export::Export;
use crate::homes::NexusId;
use crate::model::device::{Afterwards, Claim, DeviceEntry, DevicePhase, Outcome, Stack};
use crate::model::nexus::{ChildEntry, NexusEntry};
use crate::model::{Model, draw_uuid};
use crate::registry;
use crate::remote::Host;

/// The name space, in the sense of RFC 4122, of nexuses that are given no identity. Never to be
/// changed: hosts and labels remember what is made of it.
const NEXUS_SPACE: Uuid = uuid!("3f0b1c52-8f5e-4c39-9d4e-1f6a7c2b9d04");

/// How often a home core is asked whether something has come to its end: at first, and at last.
const LOOK_SOON: Duration = Duration::from_micros(200);
const LOOK_LATE: Duration = Duration::from_millis(20);

/// Looks again and again, less and less often.
pub(super) struct Patience(Duration);

impl Patience {
    pub fn new() -> Patience {
        Patience(LOOK_SOON)
    }

    /// Lets some time pass.
    pub fn pass(&mut self) {
        thread::sleep(self.0);
        self.0 = (self.0 * 2).min(LOOK_LATE);
    }
}

/// A child that is asked for, its fields checked.
#[derive(Clone, Debug)]
pub(super) struct WantedChild {
    /// Its URI in its first spelling.
    pub text: String,
    pub uri: DeviceUri,
    /// Name of its device.
    pub device: String,
}

impl WantedChild {
    fn locality(&self) -> Locality {
        match self.uri {
            DeviceUri::Nvmf(_) | DeviceUri::Iscsi(_) => Locality::Remote,
            _ => Locality::Local,
        }
    }

    /// As the nexus is told of it.
    pub fn config(
        &self,
        device: Arc<dyn BlockDevice>,
        standing: Standing,
        labels: Labels,
    ) -> ChildConfig {
        let data_start_blocks = labels::label_blocks(labels, device.geometry().block_bytes);
        ChildConfig {
            name: self.text.clone(),
            device,
            data_start_blocks,
            locality: self.locality(),
            standing,
        }
    }
}

impl Shared {
    /// Carries out what changes a nexus.
    pub(super) fn change_nexus(
        self: &Arc<Shared>,
        command: &NexusCommand,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        match command {
            NexusCommand::List => Ok(self.list_nexuses()),
            NexusCommand::Create(asked) => self.create_nexus(asked, deadline),
            NexusCommand::Destroy { nexus } => self.destroy_nexus(nexus, deadline),
            NexusCommand::Pause { nexus } => self.pause_nexus(nexus, deadline),
            NexusCommand::Resume { nexus } => self.resume_nexus(nexus, deadline),
            NexusCommand::Grow { nexus } => self.grow_nexus(nexus, deadline),
            NexusCommand::Verify { nexus } => self.verify_nexus(nexus, deadline),
            NexusCommand::StopVerify { nexus } => {
                self.ask_nexus(nexus, deadline, |home, _| home.stop_verify())?;
                self.nexus_reply(nexus, deadline)
            }
            NexusCommand::AddChild(asked) => self.add_child(asked, deadline),
            NexusCommand::RemoveChild(asked) => self.remove_child(asked, deadline),
            NexusCommand::OfflineChild(asked) => self.offline_child(asked, deadline),
            NexusCommand::FaultChild(asked) => self.fault_child(asked, deadline),
            NexusCommand::StartRebuild(asked) => self.start_rebuild(asked, deadline),
            NexusCommand::StopRebuild(asked) => {
                self.change_rebuild(asked, deadline, |home, cx, uri| home.stop_rebuild(cx, uri))
            }
            NexusCommand::PauseRebuild(asked) => {
                self.change_rebuild(asked, deadline, |home, _, uri| home.pause_rebuild(uri))
            }
            NexusCommand::ResumeRebuild(asked) => {
                self.change_rebuild(asked, deadline, |home, _, uri| home.resume_rebuild(uri))
            }
        }
    }

    pub(super) fn list_nexuses(&self) -> Reply {
        self.hear_homes();
        let state = self.lock();
        Reply::Nexuses(state.model.nexuses.values().map(|entry| info(&state, entry)).collect())
    }

    /// A child, its fields checked.
    pub(super) fn wanted_child(&self, given: &str) -> Result<WantedChild, CommandError> {
        let uri = field::uri(given)?;
        if !matches!(uri, DeviceUri::Bdev(_) | DeviceUri::Loopback(_)) {
            self.options.registry.check_built(given, &uri).map_err(Arc::new)?;
        }
        let device = registry::device_name(&uri);
        field::device(&device)?;
        Ok(WantedChild { text: uri.to_string(), uri, device })
    }

    fn create_nexus(
        self: &Arc<Shared>,
        asked: &CreateNexus,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let (name, uri) = field::nexus(&asked.nexus)?;
        let own = || Uuid::new_v5(&NEXUS_SPACE, name.as_bytes());
        let given = field::uuid(asked.uuid.as_deref())?;
        let uuid = given.unwrap_or_else(own);
        let labels = asked.labels;
        let len_bytes = field::len_bytes(asked.len_bytes)?;
        field::child_count(asked.children.len())?;
        let children = asked.children.iter().map(|child| self.wanted_child(child));
        let children = children.collect::<Result<Vec<_>, _>>()?;
        check_different(&children)?;
        labels::check_kept(labels, &children)?;
        labels::check_voters(asked)?;
        let texts = children.iter().map(|child| child.text.clone()).collect();
        // The labels may know better.
        let named = given.or((labels == Labels::None).then_some(uuid));
        let uuid_text = named.map(|uuid| uuid.to_string());
        let nexus = name.to_owned();
        let force = asked.force.clone();
        let (policy, record) = (asked.policy, asked.record.clone());
        let (uuid_known, children_known) = (uuid_text, texts);
        let asked = CreateNexus {
            nexus,
            uuid: uuid_known,
            len_bytes,
            labels,
            force,
            policy,
            record,
            children: children_known,
        };
        labels::opening(&asked)?;
        let mut state = self.lock();
        let outcome = match state.model.nexuses.get(name) {
            Some(entry) => {
                check_same(entry, &asked)?;
                match &state.model.devices.get(name).expect("a nexus has a device").phase {
                    DevicePhase::Opening(outcome) => Some(Arc::clone(outcome)),
                    DevicePhase::Present(_) => None,
                    DevicePhase::Going(..) | DevicePhase::Closing => return Err(is_going(name)),
                }
            }
            None => Some(self.begin_creating(&mut state, asked, uuid, uri, children)?),
        };
        if let Some(outcome) = outcome {
            let late = |_: &State| {
                let known = format!("the children of nexus {name} are still being opened");
                deadline.passed(known, Progress::default())
            };
            let (waited, made) = self.wait(state, deadline, |_| outcome.get().cloned(), late)?;
            drop(waited);
            made?;
        } else {
            drop(state);
        }
        self.nexus_reply(name, deadline)
    }

    /// Lists the nexus as one that comes, and has its children opened and the rest done.
    fn begin_creating(
        self: &Arc<Shared>,
        state: &mut Guard<'_>,
        asked: CreateNexus,
        uuid: Uuid,
        uri: DeviceUri,
        children: Vec<WantedChild>,
    ) -> Result<Outcome, CommandError> {
        let name = asked.nexus.clone();
        if let Some(other) = state.model.devices.get(&name) {
            let difference = format!("it is device {}", other.uri);
            return Err(CommandError::AlreadyExists { what: Object::Nexus, name, difference });
        }
        if state.model.nexuses.len() >= NEXUSES_MAX {
            return Err(CommandError::LimitReached { what: Object::Nexus, limit: NEXUSES_MAX });
        }
        if state.model.devices.len() + children.len() >= DEVICES_MAX {
            return Err(CommandError::LimitReached { what: Object::Device, limit: DEVICES_MAX });
        }
        if self.stage.get().is_none() {
            return Err(CommandError::Unsupported {
                what: Object::Nexus,
                name,
                advice: "it lives on a core, and there are none yet",
            });
        }
        let id = state.model.next_nexus_id();
        let mut entry = NexusEntry {
            id,
            uuid,
            asked,
            place: least_loaded(&state.model, self.options.cores),
            nexus: None,
            children: Vec::new(),
            known: None,
        };
        let mut outcomes = Vec::new();
        for child in &children {
            match self.claim_child(state, &name, id, child) {
                Ok(outcome) => outcomes.extend(outcome.map(|one| (child.text.clone(), one))),
                Err(error) => {
                    release_children(state, entry.children);
                    return Err(error);
                }
            }
            let (uri, device) = (child.text.clone(), child.device.clone());
            entry.children.push(ChildEntry::coming(uri, device));
        }
        let outcome: Outcome = Arc::new(OnceLock::new());
        let (told, shared, made) = (Arc::clone(&outcome), Arc::clone(self), name.clone());
        let spawned = devices::spawn(&name, move || {
            let result = shared.finish_creating(&made, id, &children, &outcomes);
            if result.is_err() {
                let mut state = shared.lock();
                state.model.devices.remove(&made);
                forget(&mut state, &made);
            }
            told.set(result).expect("a nexus is made once");
            shared.changed.notify_all();
        });
        if let Err(error) = spawned {
            release_children(state, entry.children);
            return Err(error);
        }
        let device = DeviceEntry::opening(uri, draw_uuid(), Arc::clone(&outcome));
        state.model.devices.insert(name.clone(), device);
        state.model.nexuses.insert(name, entry);
        Ok(outcome)
    }

    /// Waits for the children, and brings the nexus to its home core.
    fn finish_creating(
        self: &Arc<Shared>,
        name: &str,
        id: NexusId,
        children: &[WantedChild],
        outcomes: &[(String, Outcome)],
    ) -> Result<(), CommandError> {
        let deadline = Deadline::after(WITHIN_MAX);
        let mut state = self.await_children(name, deadline, children.len(), outcomes)?;
        let mut handles = Vec::with_capacity(children.len());
        for child in children {
            let entry = state.model.nexuses.get(name).ok_or(CommandError::Stopping)?;
            if entry.child(&child.text).is_none_or(|known| known.absent.is_none()) {
                handles.push((child, hand_out(&mut state, name, child)?));
            }
        }
        let entry = state.model.nexuses.get(name).ok_or(CommandError::Stopping)?;
        let (place, asked, own) = (entry.place, entry.asked.clone(), entry.uuid);
        let absent = |one: &ChildEntry| Some(format!("{}: {}", one.uri, one.absent.as_ref()?));
        let absent: Vec<String> = entry.children.iter().filter_map(absent).collect();
        drop(state);
        let (nexus, volume) =
            self.make_nexus((place, id), deadline, (&asked, own), &handles, &absent)?;
        drop(handles);
        let hosted = Arc::clone(&nexus);
        let opening = labels::opening(&asked)?;
        let record = asked.record.clone();
        self.at_home(place, deadline, move |homes, cx| {
            let truth: Box<dyn Truth> = match volume {
                Some(volume) => {
                    let config = volume.config(opening.clone(), record.as_ref());
                    Box::new(Tracked::new(config))
                }
                None => Box::new(Untracked::default()),
            };
            homes.host(id, Home::new(Arc::clone(&hosted), cx, truth));
        })?;
        if volume.is_some() {
            self.await_assembly((place, id))?;
        }
        let geometry = nexus.geometry();
        let mut state = self.lock();
        let entry = state.model.nexuses.get_mut(name).ok_or(CommandError::Stopping)?;
        entry.nexus = Some(Arc::clone(&nexus));
        entry.uuid = volume.map_or(own, |volume| volume.id.0);
        let device = state.model.devices.get_mut(name).ok_or(CommandError::Stopping)?;
        device.geometry = geometry;
        device.phase = DevicePhase::Present(Stack::new(nexus));
        drop(state);
        if volume.is_some() {
            self.begin_bringing_back(name, id);
        }
        Ok(())
    }

    /// Waits until the devices of new children are open. Replicas whose device cannot be opened are
    /// absent; a volume that is created needs all of them, and so does one without labels.
    fn await_children(
        self: &Arc<Shared>,
        name: &str,
        deadline: Deadline,
        children: usize,
        outcomes: &[(String, Outcome)],
    ) -> Result<Guard<'_>, CommandError> {
        let state = self.lock();
        let entry = state.model.nexuses.get(name).ok_or(CommandError::Stopping)?;
        let needs_all = matches!(entry.asked.labels, Labels::None | Labels::Create);
        let failed = || {
            let failure =
                |(uri, one): &(String, Outcome)| Some((uri.clone(), one.get()?.clone().err()?));
            outcomes.iter().filter_map(failure)
        };
        let look = |_: &mut State| {
            let all = outcomes.iter().all(|(_, one)| one.get().is_some());
            let first = failed().next().map(|(_, error)| error);
            let is_hopeless = all && failed().count() == children;
            match first.filter(|_| needs_all || is_hopeless) {
                Some(error) => Some(Err(error)),
                None => all.then_some(Ok(())),
            }
        };
        let late = |_: &State| deadline.passed(String::from("it has no end"), Progress::default());
        let (mut state, opened) = self.wait(state, deadline, look, late)?;
        opened?;
        let entry = state.model.nexuses.get_mut(name).ok_or(CommandError::Stopping)?;
        for (uri, error) in failed() {
            let known = entry.children.iter_mut().find(|child| child.uri == uri);
            known.into_iter().for_each(|child| child.absent = Some(error.to_string()));
        }
        Ok(state)
    }

    /// Makes a nexus of devices that are open; of labels as well where it is to have them.
    fn make_nexus(
        &self,
        home: (usize, NexusId),
        deadline: Deadline,
        (asked, own): (&CreateNexus, Uuid),
        handles: &[(&WantedChild, Arc<dyn BlockDevice>)],
        absent: &[String],
    ) -> Result<(Arc<Nexus>, Option<Volume>), CommandError> {
        let standing = match asked.labels {
            Labels::None => Standing::Member,
            Labels::Create | Labels::Open | Labels::AsFound => Standing::ByTruth,
        };
        // Devices may take their time to tell their size: without the lock.
        let config = |(child, device): &(&WantedChild, Arc<dyn BlockDevice>)| {
            child.config(Arc::clone(device), standing, asked.labels)
        };
        let configs: Vec<ChildConfig> = handles.iter().map(config).collect();
        let block_bytes = configs.first().map_or(1, |one| one.device.geometry().block_bytes);
        let whole = |len| field::whole_blocks(len, block_bytes);
        let mut blocks = asked.len_bytes.map(whole).transpose()?;
        let mut volume = None;
        let wanted: Vec<WantedChild> = handles.iter().map(|(one, _)| (*one).clone()).collect();
        if asked.labels == Labels::None {
            self.check_unlabelled(home, deadline, &wanted, &configs)?;
        } else {
            let uuid = field::uuid(asked.uuid.as_deref())?;
            let labels = asked.labels;
            let is_forced = asked.force.is_some();
            let (policy, record) = (asked.policy, asked.record.as_ref());
            let children = &wanted;
            let of =
                AskedLabels { labels, uuid, blocks, children, absent, is_forced, policy, record };
            let found = self.find_volume(home, deadline, &of, &configs)?;
            blocks = Some(found.blocks);
            volume = Some(found);
        }
        let (uuid, marking) = match volume {
            Some(volume) => (volume.id.0, Marking::Regions),
            None => (own, Marking::Off),
        };
        let name = asked.nexus.clone();
        let children = configs;
        let config = NexusConfig { name, uuid: Some(uuid), blocks, children, marking };
        let made = Nexus::new(config).map_err(|error| refused(&asked.nexus, "children", &error));
        Ok((made?, volume))
    }

    fn destroy_nexus(
        self: &Arc<Shared>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let (name, _) = field::nexus(name)?;
        let mut state = self.lock();
        let entry = state.model.nexuses.get(name).ok_or_else(|| is_missing(name))?;
        let id = entry.id;
        let phase = &state.model.devices.get(name).expect("a nexus has a device").phase;
        if !matches!(phase, DevicePhase::Going(..) | DevicePhase::Closing) {
            state = self.when_idle(state, name, deadline)?;
            devices::check_unused(&state, name)?;
            self.let_go(&mut state, name);
        }
        let closing = |claim: &Claim| claim.id == id && claim.afterwards == Afterwards::Closes;
        let mine = state.model.devices.iter();
        let mine = mine.filter(|(_, one)| one.claim.as_ref().is_some_and(closing));
        let mine: BTreeSet<Uuid> = mine.map(|(_, one)| one.instance).collect();
        let look = |state: &mut State| {
            let is_gone = state.model.nexuses.get(name).is_none_or(|entry| entry.id != id);
            let are_closed = !state.model.devices.values().any(|one| mine.contains(&one.instance));
            (is_gone && are_closed).then_some(())
        };
        let late = |state: &State| {
            let known = match state.model.nexuses.get(name) {
                Some(_) => format!("nexus {name} takes no more I/O and ends when none is left"),
                None => format!("nexus {name} has ended; its children are being closed"),
            };
            deadline.passed(known, state.progress(state.generation))
        };
        drop(self.wait(state, deadline, look, late)?);
        Ok(Reply::Done)
    }

    /// Has the home core let go of a nexus that nothing uses. On the thread that closes it.
    pub(super) fn close_home(&self, name: &str) {
        let mut state = self.lock();
        let Some(entry) = state.model.nexuses.get_mut(name) else { return };
        let (place, id, nexus) = (entry.place, entry.id, entry.nexus.take());
        let has_labels = entry.asked.labels != Labels::None;
        drop(state);
        if has_labels {
            self.close_volume((place, id));
        }
        // Without an answer the core has ended, and its homes with it.
        let _ =
            self.at_home(place, Deadline::after(WITHIN_MAX), move |homes, cx| homes.close(cx, id));
        drop(nexus);
    }

    fn pause_nexus(
        self: &Arc<Shared>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        self.ask_nexus(name, deadline, |home, _| home.pause())?;
        let mut patience = Patience::new();
        while !self.ask_nexus(name, deadline, |home, _| home.is_paused())? {
            if deadline.left().is_zero() {
                let known = format!("nexus {name} admits no more I/O; some is still in flight");
                return Err(deadline.passed(known, Progress::default()));
            }
            patience.pass();
        }
        self.nexus_reply(name, deadline)
    }

    fn resume_nexus(
        self: &Arc<Shared>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        self.ask_nexus(name, deadline, |home, _| home.resume())?;
        self.nexus_reply(name, deadline)
    }

    /// Begins to compare the members. The same again, while that goes on, changes nothing.
    fn verify_nexus(
        self: &Arc<Shared>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let begun = self.ask_nexus(name, deadline, |home, _| {
            let is_running = |report: &VerifyReport| report.state == VerifyState::Running;
            match home.verification().is_some_and(is_running) {
                true => Ok(()),
                false => home.verify(),
            }
        })?;
        begun.map_err(|error| refused(name, "nexus", &error))?;
        self.nexus_reply(name, deadline)
    }

    fn grow_nexus(
        self: &Arc<Shared>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        self.ask_nexus(name, deadline, |home, _| home.grow())?;
        drop(self.measure(name, None, deadline)?);
        self.nexus_reply(name, deadline)
    }

    /// Has the home of a nexus that is there do something.
    pub(super) fn ask_nexus<R: Send + 'static>(
        self: &Arc<Shared>,
        name: &str,
        deadline: Deadline,
        ask: impl Fn(&mut Home, &mut reactor::Cx) -> R + Send + Sync + 'static,
    ) -> Result<R, CommandError> {
        let (name, _) = field::nexus(name)?;
        let state = self.lock();
        state.model.nexuses.get(name).ok_or_else(|| is_missing(name))?;
        let state = self.when_there(state, name, deadline)?;
        let entry = state.model.nexuses.get(name).ok_or_else(|| is_missing(name))?;
        let home = (entry.place, entry.id);
        drop(state);
        self.with_home(name, home, deadline, ask)?.ok_or_else(|| is_going(name))
    }

    /// The nexus as it is now.
    pub(super) fn nexus_reply(
        self: &Arc<Shared>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        self.ask_nexus(name, deadline, |_, _| ())?;
        let state = self.lock();
        let entry = state.model.nexuses.get(name).ok_or_else(|| is_missing(name))?;
        Ok(Reply::Nexus(info(&state, entry)))
    }

    /// Makes a device a child of a nexus, and opens it where it is not there. The outcome of that
    /// is to be waited for.
    pub(super) fn claim_child(
        self: &Arc<Shared>,
        state: &mut Guard<'_>,
        nexus: &str,
        id: NexusId,
        child: &WantedChild,
    ) -> Result<Option<Outcome>, CommandError> {
        let is_named = matches!(child.uri, DeviceUri::Bdev(_) | DeviceUri::Loopback(_));
        let name = child.device.as_str();
        let claim = |afterwards| Some(Claim { nexus: nexus.to_owned(), id, afterwards });
        let Some(entry) = state.model.devices.get(name) else {
            if is_named {
                return Err(devices::is_missing(name));
            }
            let (text, uri) = (child.text.clone(), child.uri.clone());
            let outcome = self.begin_opening(state, text, uri, (name, Host::Owner(id.0)))?;
            let entry = state.model.devices.get_mut(name).expect("it was just made");
            entry.claim = claim(Afterwards::Closes);
            return Ok(Some(outcome));
        };
        if !is_named && entry.uri != child.uri {
            let (what, name) = (Object::Device, name.to_owned());
            let difference = format!("it is {}", entry.uri);
            return Err(CommandError::AlreadyExists { what, name, difference });
        }
        if state.model.nexuses.contains_key(name) {
            return Err(CommandError::Unsupported {
                what: Object::Device,
                name: name.to_owned(),
                advice: "it is a nexus, which is no child of another",
            });
        }
        if devices::is_orphaned(&state.model, name) {
            return Err(devices::is_going(name));
        }
        devices::check_unused(state, name)?;
        let entry = state.model.devices.get_mut(name).expect("it was just found");
        let outcome = match &entry.phase {
            DevicePhase::Opening(outcome) => Some(Arc::clone(outcome)),
            DevicePhase::Present(_) => None,
            DevicePhase::Going(..) | DevicePhase::Closing => return Err(devices::is_going(name)),
        };
        entry.claim = claim(Afterwards::Stays);
        Ok(outcome)
    }
}

/// Gives a nexus a handle of the device of a child, which is open.
pub(super) fn hand_out(
    state: &mut Guard<'_>,
    name: &str,
    child: &WantedChild,
) -> Result<Arc<dyn BlockDevice>, CommandError> {
    let device = state.model.devices.get(&child.device);
    let stack = device.and_then(|entry| match &entry.phase {
        DevicePhase::Present(stack) => Some(stack),
        _ => None,
    });
    let top = stack.ok_or_else(|| devices::is_missing(&child.device))?.top();
    let handle = Export::new(top);
    let entry = state.model.nexuses.get_mut(name).ok_or(CommandError::Stopping)?;
    let known = entry.children.iter_mut().find(|one| one.uri == child.text);
    let known = known.ok_or_else(|| no_child(name, &child.text))?;
    known.handle = Some(Arc::clone(&handle));
    Ok(handle)
}

/// Forgets a nexus whose device is gone, and lets go of its children.
pub(super) fn forget(state: &mut Guard<'_>, name: &str) {
    if let Some(entry) = state.model.nexuses.remove(name) {
        release_children(state, entry.children);
    }
}

/// Lets go of devices that were children. What was opened for the nexus is closed, as soon as no
/// core has anything of it.
pub(super) fn release_children(state: &mut Guard<'_>, children: Vec<ChildEntry>) {
    let since = state.generation;
    for child in children {
        let Some(entry) = state.model.devices.get_mut(&child.device) else { continue };
        entry.released.extend(child.handle);
        let Some(Claim { afterwards: Afterwards::Closes, .. }) = &entry.claim else {
            entry.claim = None;
            continue;
        };
        // One that is still being opened is closed when it is: see `begin_opening`.
        if matches!(entry.phase, DevicePhase::Present(_)) {
            let phase = std::mem::replace(&mut entry.phase, DevicePhase::Closing);
            let DevicePhase::Present(stack) = phase else { unreachable!("it was just there") };
            entry.phase = DevicePhase::Going(stack, since);
            state.model.going.devices.insert(child.device);
        }
    }
}

/// The place with the fewest homes, the first of them.
fn least_loaded(model: &Model, cores: usize) -> usize {
    let homes = |place: &usize| model.nexuses.values().filter(|one| one.place == *place).count();
    (0..cores).min_by_key(homes).unwrap_or(0)
}

pub(super) fn info(state: &State, entry: &NexusEntry) -> NexusInfo {
    let device = state.model.devices.get(&entry.asked.nexus).expect("a nexus has a device");
    entry.info(device, |place| state.cores.get(place).map(|core| core.core))
}

/// Refuses a device that is there twice.
fn check_different(children: &[WantedChild]) -> Result<(), CommandError> {
    let mut known = BTreeSet::new();
    let twice = children.iter().find(|child| !known.insert(child.device.as_str()));
    let Some(twice) = twice else { return Ok(()) };
    Err(CommandError::Invalid {
        field: "children",
        value: twice.text.clone(),
        advice: String::from("it is there twice: name each device once"),
    })
}

/// Whether the nexus of a name is the one that is asked for.
fn check_same(entry: &NexusEntry, asked: &CreateNexus) -> Result<(), CommandError> {
    let texts: Vec<&String> = entry.children.iter().map(|child| &child.uri).collect();
    let difference = if entry.asked.uuid != asked.uuid {
        format!("its uuid is {}", entry.uuid)
    } else if !texts.iter().copied().eq(&asked.children) {
        let texts: Vec<&str> = texts.iter().map(|text| text.as_str()).collect();
        format!("its children are {}", texts.join(", "))
    } else if entry.asked.labels != asked.labels {
        String::from("other labels were asked for")
    } else if entry.asked.policy != asked.policy || entry.asked.record != asked.record {
        String::from("another policy or another record was asked for")
    } else if asked.force.is_some() && entry.asked.force != asked.force {
        String::from("it is there already, and not opened by force")
    } else if entry.asked.len_bytes != asked.len_bytes {
        String::from("another length was asked for")
    } else {
        return Ok(());
    };
    let (what, name) = (Object::Nexus, asked.nexus.clone());
    Err(CommandError::AlreadyExists { what, name, difference })
}

/// What the nexus says of a command; `field` is the one that it is about.
pub(super) fn refused(
    nexus: &str,
    field: &'static str,
    error: &nexus::ConfigError,
) -> CommandError {
    use nexus::ConfigError;
    let invalid = |value: &str| CommandError::Invalid {
        field,
        value: value.to_owned(),
        advice: error.to_string(),
    };
    match error {
        ConfigError::NoChildren => invalid("empty"),
        ConfigError::NoMembers
        | ConfigError::MixedStandings
        | ConfigError::TooManyChildren { .. } => invalid("so"),
        ConfigError::Duplicate { name, .. }
        | ConfigError::TooSmall { name, .. }
        | ConfigError::BlockSize { name, .. }
        | ConfigError::ReadOnly { name } => invalid(name),
        ConfigError::NoPlace { .. } => {
            CommandError::LimitReached { what: Object::Child, limit: CHILDREN_MAX }
        }
        ConfigError::NoSuchChild { name } => no_child(nexus, name),
        ConfigError::LastMember { name } => CommandError::InUse {
            what: Object::Child,
            name: format!("{name} of {nexus}"),
            user: String::from("the nexus, as the last one that is in sync"),
            advice: "have another child rebuilt first",
        },
        ConfigError::NoRebuild { name } | ConfigError::NotRebuilt { name, .. } => {
            CommandError::Child {
                child: format!("{name} of {nexus}"),
                source: Arc::new(error.clone()),
            }
        }
        ConfigError::Busy => CommandError::InUse {
            what: Object::Nexus,
            name: nexus.to_owned(),
            user: String::from("another change"),
            advice: "give the command again when that is done",
        },
    }
}

pub(super) fn no_child(nexus: &str, uri: &str) -> CommandError {
    CommandError::NotFound { what: Object::Child, name: format!("{uri} of {nexus}") }
}

pub(super) fn is_missing(name: &str) -> CommandError {
    CommandError::NotFound { what: Object::Nexus, name: name.to_owned() }
}

pub(super) fn is_going(name: &str) -> CommandError {
    CommandError::InUse {
        what: Object::Nexus,
        name: name.to_owned(),
        user: String::from("its removal"),
        advice: "wait until it is gone, or give the command to destroy it again",
    }
}
