//! The conductor over cores of cardboard, which can be made late and stuck at will.

mod fields;
mod late;
mod limits;
mod nexuses;
mod random;
mod stage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nvmf::target::DigestPolicy;

use super::{Conductor, ConductorOptions};
use crate::command::{
    AddDevice, AddNamespace, AddSubsystem, Command, CommandError, DeviceInfo, Reply, SubsystemInfo,
};
use crate::registry::Registry;
use stage::FakeStage;

/// For what is to be done at once, on a machine that does much else.
const SOON: Duration = Duration::from_secs(20);

/// For what is not to be done in time.
const SHORT: Duration = Duration::from_millis(60);

const NQN: &str = "nqn.2019-05.io.openebs:s";

/// A conductor over so many cores.
fn conducted(cores: usize) -> (Arc<Conductor>, Arc<FakeStage>) {
    conducted_with(cores, Registry::standard())
}

fn conducted_with(cores: usize, registry: Registry) -> (Arc<Conductor>, Arc<FakeStage>) {
    let digests = DigestPolicy::AsAsked;
    let conductor = Conductor::new(ConductorOptions { registry, cores, digests });
    let stage = FakeStage::new(cores);
    conductor.attach(Arc::clone(&stage) as Arc<_>).unwrap();
    conductor.listen(SOON).unwrap();
    (Arc::new(conductor), stage)
}

fn run(conductor: &Conductor, command: Command) -> Reply {
    let begun = Instant::now();
    let result = conductor.execute_within(&command, SOON);
    assert!(begun.elapsed() < SOON / 2, "it is told of the end, not of the deadline: {command:?}");
    result.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn refused(conductor: &Conductor, command: Command) -> CommandError {
    conductor.execute_within(&command, SOON).expect_err(&format!("{command:?}"))
}

/// Not done within a short time.
fn late(conductor: &Conductor, command: Command) -> String {
    let error = conductor.execute_within(&command, SHORT).expect_err(&format!("{command:?}"));
    assert_eq!(error.kind(), crate::command::ErrorKind::Deadline, "{error}");
    error.to_string()
}

fn add_device(uri: &str) -> Command {
    Command::AddDevice(AddDevice { uri: uri.to_owned() })
}

fn remove_device(device: &str) -> Command {
    Command::RemoveDevice { device: device.to_owned() }
}

fn add_subsystem(nqn: &str) -> Command {
    Command::AddSubsystem(AddSubsystem { subsystem: nqn.to_owned(), ..Default::default() })
}

fn add_namespace(nqn: &str, device: &str) -> Command {
    Command::AddNamespace(AddNamespace::new(nqn, device))
}

fn remove_namespace(nqn: &str, namespace: u32) -> Command {
    Command::RemoveNamespace { subsystem: nqn.to_owned(), namespace }
}

fn devices(conductor: &Conductor) -> Vec<DeviceInfo> {
    match run(conductor, Command::ListDevices) {
        Reply::Devices(devices) => devices,
        other => panic!("{other:?}"),
    }
}

fn subsystems(conductor: &Conductor) -> Vec<SubsystemInfo> {
    match run(conductor, Command::ListSubsystems) {
        Reply::Subsystems(subsystems) => subsystems,
        other => panic!("{other:?}"),
    }
}

/// Devices of these names, each a namespace of [`NQN`], numbered from 1.
fn share(conductor: &Conductor, names: &[&str]) {
    run(conductor, add_subsystem(NQN));
    for name in names {
        run(conductor, add_device(&format!("null:///{name}?num_blocks=8")));
        run(conductor, add_namespace(NQN, name));
    }
}
