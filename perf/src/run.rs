//! The command `run`: opens the target, starts the load's cores, and reports.
//!
//! Called by main, on its thread.

use std::sync::Arc;
use std::sync::mpsc;

use bdev::BlockDevice;
use nvmf::initiator::ConnectOptions;
use reactor::Cx;
use reactor::cores::{CoreId, CoreList};
use reactor::counters::SharedCounters;
use reactor::reactor::{Reactor, ReactorConfig, ReactorHandle};

use crate::churn::Churn;
use crate::cycles::TickRate;
use crate::device;
use crate::harness::{self, Collected, RunError};
use crate::load::{Before, Checking, Load, LoadConfig};
use crate::options::RunOptions;
use crate::prefill;
use crate::report::{LatencyUs, Report};
use crate::reporter::{Gate, Reporter};
use crate::serve;
use crate::several::Several;
use crate::source::{Remote, Source};
use crate::workload::Direction;

/// What every core opens for itself.
#[derive(Clone, Debug)]
enum Target {
    Local(Arc<dyn BlockDevice>),
    Remote(Box<ConnectOptions>),
    Several(Vec<ConnectOptions>, u32),
}

impl Target {
    fn remote(mut remote: ConnectOptions, options: &RunOptions) -> Target {
        remote.header_digest = options.header_digest;
        remote.data_digest = options.data_digest;
        Target::Remote(Box::new(remote))
    }

    fn several(remotes: Vec<ConnectOptions>, options: &RunOptions) -> Target {
        let with_digests = |mut remote: ConnectOptions| {
            remote.header_digest = options.header_digest;
            remote.data_digest = options.data_digest;
            remote
        };
        Target::Several(remotes.into_iter().map(with_digests).collect(), options.namespaces)
    }

    fn source(&self) -> Source {
        match self {
            Target::Local(device) => Source::Local(Arc::clone(device)),
            Target::Remote(options) => Source::Remote(Remote::Named(options.clone())),
            Target::Several(all, namespaces) => {
                Source::Several(Several::new(all.clone(), *namespaces))
            }
        }
    }
}

/// Runs the load and reports.
///
/// # Errors
///
/// When the target, a core or memory cannot be had.
pub fn run(options: &RunOptions) -> Result<Report, RunError> {
    options.load.cores.check_within(&CoreList::allowed()?)?;
    let name = options.target.clone().unwrap_or_default();
    let direction = options.load.pattern.direction(options.load.read_percent);
    if options.verify
        && matches!(direction, Direction::Read | Direction::Mixed { read_percent: 100 })
    {
        let reason = "--verify checks what it wrote itself: choose a load with writes".into();
        return Err(RunError::Target { target: name, reason });
    }
    let rate = TickRate::calibrate();
    if let Some(uri) = &options.serve {
        return run_served(options, uri, rate);
    }
    let target = match device::connect_options(&name)? {
        Some(remote) => Target::remote(remote, options),
        None => Target::Local(device::open(&name)?),
    };
    let Collected { measures, faults, server } = load(options, &target, rate, None)?;
    Ok(Report::new(&measures, server, rate, faults))
}

/// Serves a device on a core of its own and loads it over loopback.
fn run_served(options: &RunOptions, uri: &str, rate: TickRate) -> Result<Report, RunError> {
    let engine = Arc::new(serve::start(options, uri)?);
    let address = *engine.local_addresses().first().expect("the target has a portal");
    let mut connect = serve::connect_options_of_all(options, address);
    let subsystem = connect[0].subsystem_nqn.as_str().to_owned();
    let target = match (connect.len(), options.namespaces) {
        (1, 1) => Target::remote(connect.remove(0), options),
        _ => Target::several(connect, options),
    };
    let churn = options.commands.map(|count| Churn::start(Arc::clone(&engine), subsystem, count));
    let churn = churn.transpose()?;
    let counters = engine.cores().zip(engine.shared_counters()).next();
    let result = load(options, &target, rate, counters);
    let churned = churn.map(Churn::end).transpose();
    let service_times = engine.service_times();
    let stopped = serve::stop(&engine);
    let Collected { measures, faults, server } = result?;
    stopped?;
    Ok(Report {
        service_us: service_times?.first().map(LatencyUs::from),
        churn: churned?,
        ..Report::new(&measures, server, rate, faults)
    })
}

fn load(
    options: &RunOptions,
    target: &Target,
    rate: TickRate,
    server: Option<(CoreId, SharedCounters)>,
) -> Result<Collected, RunError> {
    let (events, reports) = mpsc::channel();
    let cores = options.load.cores.as_slice();
    let mut loads: Vec<ReactorHandle<Load>> = Vec::with_capacity(cores.len());
    let gate = Gate::new(cores.len());
    let mut failed = None;
    for (index, core) in cores.iter().enumerate() {
        let config = load_config(options, index, rate);
        // Every connection has one more, to write from.
        let buffers = u64::from(config.connections) * (u64::from(config.depth) + 1);
        let pool = harness::pool_for(buffers, config.block_bytes);
        let reactor = Reactor::new(ReactorConfig {
            core: *core,
            idle: options.load.idle.policy(),
            pool: match config.before {
                Before::AsItIs => pool,
                Before::Filled => prefill::enlarge(pool),
            },
            seed: options.load.seed.wrapping_add(u64::from(core.0)),
        });
        let counters = server.as_ref().map(|(_, counters)| counters.clone());
        let reporter = Reporter::new(events.clone(), gate.clone(), counters);
        let target = target.clone();
        let build =
            move |cx: &mut Cx| Ok::<_, RunError>(Load::new(cx, config, target.source(), reporter));
        let started = reactor.map_err(RunError::from).and_then(|reactor| reactor.start(build));
        match started {
            Ok(load) => loads.push(load),
            Err(error) => failed = Some(error),
        }
    }
    drop(events);
    let (core, lifetime) = (server.map(|(core, _)| core), options.load.window().lifetime());
    let result = match failed {
        Some(error) => Err(error),
        None => harness::collect(&reports, loads.len(), core, lifetime),
    };
    loads.into_iter().for_each(harness::end);
    result
}

/// What the core at `index` of the list is to do.
pub fn load_config(options: &RunOptions, index: usize, rate: TickRate) -> LoadConfig {
    let load = &options.load;
    LoadConfig {
        connections: load.connections_of(index),
        connections_before: (0..index).map(|before| load.connections_of(before)).sum(),
        connections_all: load.connections(),
        core_index: index as u64,
        cores: load.cores.as_slice().len() as u64,
        depth: load.depth,
        block_bytes: load.block_bytes,
        direction: load.pattern.direction(load.read_percent),
        order: load.pattern.order(),
        offset_bytes: options.offset,
        size_bytes: options.size,
        before: if options.prefill { Before::Filled } else { Before::AsItIs },
        checking: if options.verify { Checking::Pattern } else { Checking::Off },
        ios_per_second: load.ios_per_second_of_core(),
        window: load.window(),
        rate,
    }
}
