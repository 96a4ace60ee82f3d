//! A device of the model: what was asked for, how far it is, and what decorates it.

use std::sync::{Arc, OnceLock};

use bdev::delay::Lateness;
use bdev::fault::Failure;
use bdev::rules::RuleSet;
use bdev::uri::DeviceUri;
use bdev::{BlockDevice, Delay, Fault, Geometry};
use uuid::Uuid;

use super::Generation;
use crate::command::{CommandError, DeviceInfo, Presence};
use crate::export::Export;
use crate::homes::NexusId;

/// How the work of a device's own thread ended, for everyone who waits for it.
pub(crate) type Outcome = Arc<OnceLock<Result<(), CommandError>>>;

/// How far a device is.
#[derive(Debug)]
pub(crate) enum DevicePhase {
    /// A thread opens it.
    Opening(Outcome),
    /// It is there.
    Present(Stack),
    /// It was removed; cores may still use it.
    Going(Stack, Generation),
    /// A thread closes it.
    Closing,
}

/// A handle that a namespace had of a device before the device was decorated otherwise.
#[derive(Debug)]
pub(crate) struct Retired {
    pub export: Arc<Export>,
    /// The first description without it.
    pub since: Generation,
}

/// A device of the model.
#[derive(Debug)]
pub(crate) struct DeviceEntry {
    pub uri: DeviceUri,
    /// Random at each start of the device.
    pub instance: Uuid,
    pub phase: DevicePhase,
    /// As last looked at; nothing while it is being opened.
    pub geometry: Geometry,
    /// A thread is at work on it.
    pub is_busy: bool,
    /// Namespaces that have it, those that are going included.
    pub users: usize,
    pub retired: Vec<Retired>,
    /// The nexus that has it as a child.
    pub claim: Option<Claim>,
    /// Handles that nexuses had of it.
    pub released: Vec<Arc<Export>>,
}

/// A device is a child of a nexus, and of nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Name of the nexus.
    pub nexus: String,
    /// Its number.
    pub id: NexusId,
    /// What becomes of the device when the nexus lets go of it.
    pub afterwards: Afterwards,
}

/// What becomes of a device that is no child any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// It was there before the nexus, and stays.
    Stays,
    /// It was opened for the nexus, and is closed.
    Closes,
}

impl DeviceEntry {
    /// A device that is being opened.
    pub fn opening(uri: DeviceUri, instance: Uuid, outcome: Outcome) -> DeviceEntry {
        DeviceEntry {
            uri,
            instance,
            phase: DevicePhase::Opening(outcome),
            geometry: Geometry { block_bytes: 0, blocks: 0 },
            is_busy: false,
            users: 0,
            retired: Vec::new(),
            claim: None,
            released: Vec::new(),
        }
    }

    /// The device and its decorations, while there are any.
    pub fn stack(&self) -> Option<&Stack> {
        match &self.phase {
            DevicePhase::Present(stack) | DevicePhase::Going(stack, _) => Some(stack),
            DevicePhase::Opening(_) | DevicePhase::Closing => None,
        }
    }

    /// What a listing shows.
    pub fn info(&self, name: &str) -> DeviceInfo {
        let stack = self.stack();
        DeviceInfo {
            name: name.to_owned(),
            uri: self.uri.to_string(),
            presence: match self.phase {
                DevicePhase::Opening(_) => Presence::Coming,
                DevicePhase::Present(_) => Presence::Present,
                DevicePhase::Going(..) | DevicePhase::Closing => Presence::Going,
            },
            block_bytes: self.geometry.block_bytes,
            blocks: self.geometry.blocks,
            uuid: stack.map_or(self.uri.uuid(), |stack| stack.base.uuid()),
            about: stack.and_then(|stack| stack.base.about()),
            instance: self.instance,
            fault: stack.and_then(|stack| stack.fault.as_ref()).map(|(_, rules)| rules.clone()),
            delay: stack.and_then(|stack| stack.delay.as_ref()).map(|(_, rules)| rules.clone()),
        }
    }
}

/// What a change of the decorations came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StackChange {
    /// Nothing, or other rules for a decoration that is there: followed at the next I/O.
    InPlace,
    /// The namespaces need another device.
    Exchanged,
}

/// A device with its decorations: delays outside, so that what fails is late as well.
#[derive(Debug)]
pub(crate) struct Stack {
    pub base: Arc<dyn BlockDevice>,
    fault: Option<(Arc<Fault>, RuleSet<Failure>)>,
    delay: Option<(Arc<Delay>, RuleSet<Lateness>)>,
}

impl Stack {
    /// A device without decorations.
    pub fn new(base: Arc<dyn BlockDevice>) -> Stack {
        Stack { base, fault: None, delay: None }
    }

    /// What namespaces are to have.
    pub fn top(&self) -> Arc<dyn BlockDevice> {
        match (&self.delay, &self.fault) {
            (Some((delay, _)), _) => Arc::clone(delay) as Arc<dyn BlockDevice>,
            (None, Some((fault, _))) => Arc::clone(fault) as Arc<dyn BlockDevice>,
            (None, None) => Arc::clone(&self.base),
        }
    }

    /// Makes I/Os fail as `rules` say, or none.
    pub fn set_fault(&mut self, rules: Option<RuleSet<Failure>>) -> StackChange {
        match (&mut self.fault, rules) {
            (None, None) => return StackChange::InPlace,
            (Some((fault, known)), Some(rules)) => {
                if *known != rules {
                    fault.set_rules(rules.clone());
                    *known = rules;
                }
                return StackChange::InPlace;
            }
            (Some((fault, _)), None) => {
                // In force at once; the decoration goes when its last I/O is back.
                fault.set_rules(RuleSet::default());
                self.fault = None;
            }
            (None, Some(rules)) => {
                let fault = Fault::new(Arc::clone(&self.base), rules.clone());
                self.fault = Some((Arc::new(fault), rules));
            }
        }
        // The delays are put above what is there now.
        if let Some((_, rules)) = self.delay.take() {
            self.put_delay(rules);
        }
        StackChange::Exchanged
    }

    /// Makes I/Os late as `rules` say, or none.
    pub fn set_delay(&mut self, rules: Option<RuleSet<Lateness>>) -> StackChange {
        match (&mut self.delay, rules) {
            (None, None) => StackChange::InPlace,
            (Some((delay, known)), Some(rules)) => {
                if *known != rules {
                    delay.set_rules(rules.clone());
                    *known = rules;
                }
                StackChange::InPlace
            }
            (Some((delay, _)), None) => {
                delay.set_rules(RuleSet::default());
                self.delay = None;
                StackChange::Exchanged
            }
            (None, Some(rules)) => {
                self.put_delay(rules);
                StackChange::Exchanged
            }
        }
    }

    fn put_delay(&mut self, rules: RuleSet<Lateness>) {
        let below = self.top();
        self.delay = Some((Arc::new(Delay::new(below, rules.clone())), rules));
    }
}
