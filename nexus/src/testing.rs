//! Children and nexuses for the tests of this crate.

use std::sync::Arc;

use bdev::delay::{Delay, Lateness};
use bdev::device::Geometry;
use bdev::fault::{Failure, Fault};
use bdev::rules::{Match, Rule, RuleSet};
use bdev::{BlockDevice, Malloc, OperationSet};
use reactor::Nanos;

use crate::config::{ChildConfig, Marking, NexusConfig, Standing};
use crate::nexus::Nexus;
use crate::one_core::OneCore;
use crate::truth::Untracked;
use crate::view::Locality;

pub(crate) const BLOCK_BYTES: u32 = 512;
pub(crate) const BLOCKS: u64 = 300;

pub(crate) fn disk() -> Arc<dyn BlockDevice> {
    let geometry = Geometry { block_bytes: BLOCK_BYTES, blocks: BLOCKS };
    Arc::new(Malloc::new("malloc", geometry, None).unwrap())
}

pub(crate) fn slow(seed: u64) -> Arc<dyn BlockDevice> {
    let lateness = Lateness::Uniform { least: Nanos(0), most: Nanos::from_millis(5) };
    let meets = Match { probability: 0.7, ..Match::default() };
    Arc::new(Delay::new(disk(), RuleSet { rules: vec![Rule { meets, effect: lateness }], seed }))
}

/// Fails some of `operations`.
pub(crate) fn faulty(
    inner: Arc<dyn BlockDevice>,
    operations: OperationSet,
    probability: f64,
    failure: Failure,
    seed: u64,
) -> Arc<dyn BlockDevice> {
    let meets = Match { probability, operations, ..Match::default() };
    let rules = RuleSet { rules: vec![Rule { meets, effect: failure }], seed };
    Arc::new(Fault::new(inner, rules))
}

pub(crate) fn child(name: impl Into<String>, device: Arc<dyn BlockDevice>) -> ChildConfig {
    ChildConfig {
        name: name.into(),
        device,
        data_start_blocks: 0,
        locality: Locality::Remote,
        standing: Standing::Member,
    }
}

pub(crate) fn config(devices: Vec<Arc<dyn BlockDevice>>) -> NexusConfig {
    let children =
        (0..).zip(devices).map(|(number, device)| child(format!("child{number}"), device));
    NexusConfig {
        name: String::from("nexus0"),
        uuid: None,
        blocks: None,
        children: children.collect(),
        marking: Marking::Off,
    }
}

pub(crate) fn nexus(devices: Vec<Arc<dyn BlockDevice>>) -> Arc<Nexus> {
    Nexus::new(config(devices)).unwrap()
}

/// A nexus without labels, served by one core.
pub(crate) fn one_core(devices: Vec<Arc<dyn BlockDevice>>) -> Arc<dyn BlockDevice> {
    Arc::new(OneCore::new(nexus(devices), Box::new(|| Box::new(Untracked::default()))))
}
