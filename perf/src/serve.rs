//! Our own NVMe/TCP target in this process: `run --serve URI` loads it over loopback.
//!
//! The assembly is the engine's: one core, one subsystem, one namespace, on a port of the system's
//! choice. Called by main, before and after the run.

use std::net::SocketAddr;
use std::time::Duration;

use engine::command::Command;
use engine::{Engine, OneSubsystem, TargetConfig};
use nvmf::fabrics::Nqn;
use nvmf::initiator::ConnectOptions;
use nvmf::target::limits::{QUEUE_ENTRIES_DEFAULT, QUEUE_ENTRIES_LIMIT};
use reactor::cores::CoreList;

use crate::device;
use crate::harness::{self, RunError};
use crate::options::RunOptions;

/// The subsystem's name.
const SUBSYSTEM: &str = "nqn.2019-05.io.openebs:mayastor-perf";

/// How long connections may take to end.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The target that serves one device, unless told otherwise as the engine has it by default.
pub fn subsystem(uri: &str) -> OneSubsystem {
    let name: Nqn = SUBSYSTEM.parse().expect("the name is an NQN");
    OneSubsystem { port: 0, ..OneSubsystem::new(name, vec![device::with_size(uri)]) }
}

/// How a host connects to [`subsystem`].
pub fn connect_options(address: SocketAddr) -> ConnectOptions {
    let name: Nqn = SUBSYSTEM.parse().expect("the name is an NQN");
    ConnectOptions::new(address, name, device::host_id())
}

/// Name of a subsystem by its number from 0: the first is that of [`subsystem`].
fn name(number: u32) -> Nqn {
    let name = match number {
        0 => String::from(SUBSYSTEM),
        _ => format!("{SUBSYSTEM}-{number}"),
    };
    name.parse().expect("the name is an NQN")
}

/// How hosts connect to all subsystems that the options ask for.
pub fn connect_options_of_all(options: &RunOptions, address: SocketAddr) -> Vec<ConnectOptions> {
    let connect = |number| ConnectOptions::new(address, name(number), device::host_id());
    (0..options.subsystems).map(connect).collect()
}

/// The commands that make all subsystems and namespaces, each with a device of its own.
fn setup(options: &RunOptions, uri: &str) -> Result<Vec<Command>, RunError> {
    let mut setup = Vec::new();
    for number in 0..options.subsystems {
        let devices = (0..options.namespaces)
            .map(|place| device::numbered(uri, number * options.namespaces + place));
        let devices = devices.collect::<Result<_, _>>()?;
        let one = OneSubsystem {
            port: 0,
            queue_entries: queue_entries(options.load.depth),
            ..OneSubsystem::new(name(number), devices)
        };
        // One portal serves all.
        let portals = usize::from(number > 0);
        setup.extend(one.setup().into_iter().skip(portals));
    }
    Ok(setup)
}

/// Starts a target for the device as the options say.
///
/// # Errors
///
/// When its core is also the load's, or the engine cannot start.
pub fn start(options: &RunOptions, uri: &str) -> Result<Engine, RunError> {
    options.target_core.check_within(&CoreList::allowed()?)?;
    harness::single_core(&options.target_core, &options.load.cores)?;
    Ok(Engine::start(&TargetConfig {
        cores: Some(options.target_core.clone()),
        idle: options.target_idle.policy(),
        ..TargetConfig::new(setup(options, uri)?)
    })?)
}

/// Ends it.
///
/// # Errors
///
/// When its core did not end as it should.
pub fn stop(engine: &Engine) -> Result<(), RunError> {
    Ok(engine.stop(STOP_GRACE)?)
}

/// A queue holds one entry less than it has (NVMe Base 2.0 section 3.3.1.4).
fn queue_entries(depth: u32) -> u16 {
    let entries = u16::try_from(depth.saturating_add(1)).unwrap_or(QUEUE_ENTRIES_LIMIT);
    entries.clamp(QUEUE_ENTRIES_DEFAULT, QUEUE_ENTRIES_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_depth_of_the_load_fits_a_queue_up_to_its_limit() {
        let entries = [1, 127, 128, 1023, 1024, u32::MAX].map(queue_entries);
        assert_eq!(entries, [128, 128, 129, 1024, 1024, 1024]);
    }
}
