//! Changes of a running engine, as a host on the other side of a socket sees them.

#![allow(clippy::unwrap_used)]

mod host;

use std::time::{Duration, Instant};

use bdev::delay::Lateness;
use bdev::fault::Failure;
use bdev::rules::{Match, Rule, RuleSet};
use bdev::{Operation, Status};
use engine::command::{
    AddDevice, AddNamespace, AddPortal, AddSubsystem, AnaState, HostChoice, ResizeDevice,
    SetAnaState, SetDelay, SetFault,
};
use engine::config::DMA_MIB_MIN;
use engine::{Command, Engine, ErrorKind, Reply, TargetConfig};
use nvmf::target::statistics::IoStatistics;
use reactor::Nanos;
use reactor::cores::CoreList;
use reactor::dma::PagePreference;

use host::{Host, NQN_A, NQN_B};

const SOON: Duration = Duration::from_secs(20);

fn portal(address: &str) -> Command {
    Command::AddPortal(AddPortal { address: address.to_owned(), advertise: None })
}

fn device(uri: &str) -> Command {
    Command::AddDevice(AddDevice { uri: uri.to_owned() })
}

fn subsystem(nqn: &str) -> Command {
    Command::AddSubsystem(AddSubsystem { subsystem: nqn.to_owned(), ..Default::default() })
}

fn namespace(nqn: &str, device: &str) -> Command {
    Command::AddNamespace(AddNamespace::new(nqn, device))
}

fn remove_namespace(nqn: &str, namespace: u32) -> Command {
    Command::RemoveNamespace { subsystem: nqn.to_owned(), namespace }
}

/// An engine on all cores, with a port, that serves RAM disk `a` as the one namespace of one
/// subsystem.
fn started() -> Engine {
    let setup = vec![
        portal("127.0.0.1:0"),
        device("malloc:///a?size_mb=1"),
        subsystem(NQN_A),
        namespace(NQN_A, "a"),
    ];
    Engine::start(&TargetConfig {
        pages: PagePreference::Ordinary,
        dma_mib: DMA_MIB_MIN,
        cores: Some(CoreList::allowed().unwrap()),
        ..TargetConfig::new(setup)
    })
    .unwrap()
}

fn run(engine: &Engine, command: Command) -> Reply {
    let begun = Instant::now();
    let result = engine.execute_within(&command, SOON);
    assert!(begun.elapsed() < SOON / 2, "it is told of the end, not of the deadline: {command:?}");
    result.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

#[test]
fn subsystems_devices_and_portals_come_and_go_while_hosts_are_connected() {
    let engine = started();
    let mut first = Host::connect(engine.local_addresses()[0], NQN_A, 1).unwrap();
    assert_eq!(first.run(Operation::Write), Status::SUCCESS);
    let Reply::Portal(second_portal) = run(&engine, portal("127.0.0.1:0")) else { panic!() };
    run(&engine, device("malloc:///b?size_mb=2"));
    run(&engine, subsystem(NQN_B));
    run(&engine, namespace(NQN_B, "b"));
    let mut second = Host::connect(second_portal.address, NQN_B, 1).unwrap();
    assert_eq!(second.blocks(), 4096);
    assert_eq!(second.run(Operation::Read), Status::SUCCESS);
    assert_eq!(engine.connect_lines().len(), 4, "two subsystems at two portals");
    run(&engine, Command::RemovePortal { address: second_portal.address.to_string() });
    assert!(Host::connect(second_portal.address, NQN_B, 1).is_err());
    assert_eq!(second.run(Operation::Read), Status::SUCCESS, "who came by it stays");
    run(&engine, Command::RemoveSubsystem { subsystem: NQN_B.to_owned() });
    run(&engine, Command::RemoveDevice { device: "b".to_owned() });
    assert_ne!(second.run(Operation::Read), Status::SUCCESS);
    assert_eq!(first.run(Operation::Read), Status::SUCCESS);
    assert!(Host::connect(engine.local_addresses()[0], NQN_B, 1).is_err());
    drop((first, second));
    engine.stop(Duration::from_millis(500)).unwrap();
    assert_eq!(engine.execute(&subsystem(NQN_B)).unwrap_err().kind(), ErrorKind::Stopping);
}

#[test]
fn what_hosts_move_through_a_namespace_is_counted() {
    let engine = started();
    run(&engine, device("malloc:///b?size_mb=1"));
    run(&engine, namespace(NQN_A, "b"));
    let mut host = Host::connect(engine.local_addresses()[0], NQN_A, 2).unwrap();
    for operation in [Operation::Write, Operation::Write, Operation::Read] {
        assert_eq!(host.run(operation), Status::SUCCESS);
    }
    let counters = || {
        let Reply::Counters(counters) = run(&engine, Command::ReadCounters) else { panic!() };
        counters.namespaces
    };
    // A core tells when it has nothing more to do for the namespace, at the latest a sweep later.
    let begun = Instant::now();
    while counters()[1].moved.read_commands == 0 {
        assert!(begun.elapsed() < SOON, "never told");
        std::thread::sleep(Duration::from_millis(10));
    }
    let [first, second] = &counters()[..] else { panic!() };
    assert_eq!((first.namespace, second.namespace), (1, 2));
    assert_eq!(second.subsystem, NQN_A);
    assert_eq!(first.moved, IoStatistics::default());
    let IoStatistics { read_bytes, written_bytes, read_commands, write_commands } = second.moved;
    assert_eq!((read_commands, write_commands), (1, 2));
    assert!(read_bytes > 0);
    assert_eq!(written_bytes, 2 * read_bytes);
}

#[test]
fn hosts_and_states_hold_from_the_next_command() {
    let engine = started();
    let address = engine.local_addresses()[0];
    let mut host = Host::connect(address, NQN_A, 1).unwrap();
    let state = |state| {
        let subsystem = NQN_A.to_owned();
        run(&engine, Command::SetAnaState(SetAnaState { subsystem, namespace: Some(1), state }));
    };
    state(AnaState::Inaccessible);
    assert_eq!(host.run(Operation::Read).status_code(), Status::ANA_INACCESSIBLE.status_code());
    state(AnaState::NonOptimized);
    assert_eq!(host.run(Operation::Read), Status::SUCCESS);
    let policy = |policy| {
        run(&engine, Command::SetHostPolicy { subsystem: NQN_A.to_owned(), policy });
    };
    policy(HostChoice::Named);
    // Its I/O queue, on another core than its admin queue, is closed a moment later.
    let until = Instant::now() + SOON;
    while host.run(Operation::Read) == Status::SUCCESS {
        assert!(Instant::now() < until, "it is not named");
    }
    assert!(Host::connect(address, NQN_A, 1).is_err());
    let named = Host::nqn().to_string();
    run(&engine, Command::AddHost { subsystem: NQN_A.to_owned(), host: named });
    assert_eq!(Host::connect(address, NQN_A, 1).unwrap().run(Operation::Read), Status::SUCCESS);
}

#[test]
fn faults_are_in_force_once_they_are_set_and_gone_once_they_are_cleared() {
    let engine = started();
    let mut host = Host::connect(engine.local_addresses()[0], NQN_A, 1).unwrap();
    assert_eq!(host.run(Operation::Read), Status::SUCCESS);
    for _ in 0..20 {
        let effect = Failure::Before(Status::UNRECOVERED_READ_ERROR);
        let rules = RuleSet { rules: vec![Rule { meets: Match::default(), effect }], seed: 0 };
        run(&engine, Command::SetFault(SetFault { device: "a".to_owned(), rules }));
        assert_eq!(host.run(Operation::Read).code(), Status::UNRECOVERED_READ_ERROR.code());
        run(&engine, Command::ClearFault { device: "a".to_owned() });
        assert_eq!(host.run(Operation::Read), Status::SUCCESS);
    }
}

#[test]
fn a_device_whose_io_does_not_come_back_holds_up_its_own_removal_only() {
    let engine = started();
    run(&engine, device("malloc:///b?size_mb=1"));
    run(&engine, subsystem(NQN_B));
    run(&engine, namespace(NQN_B, "b"));
    let address = engine.local_addresses()[0];
    let mut other = Host::connect(address, NQN_B, 1).unwrap();
    let mut host = Host::connect(address, NQN_A, 1).unwrap();
    let effect = Lateness::Fixed(Nanos::from_secs(2));
    let rules = RuleSet { rules: vec![Rule { meets: Match::default(), effect }], seed: 0 };
    run(&engine, Command::SetDelay(SetDelay { device: "a".to_owned(), rules }));
    host.submit(Operation::Write);
    host.pass_for(Duration::from_millis(100));
    let begun = Instant::now();
    let within = Duration::from_millis(200);
    let late = engine.execute_within(&remove_namespace(NQN_A, 1), within).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Deadline, "{late}");
    assert!(late.to_string().contains("I/O is still at the device on core"), "{late}");
    assert!(begun.elapsed() < Duration::from_secs(1), "it ends at its deadline");
    // Listing and another device of the same cores go on.
    let Reply::Devices(devices) = run(&engine, Command::ListDevices) else { panic!() };
    assert_eq!(devices.len(), 2);
    assert_eq!(other.run(Operation::Read), Status::SUCCESS);
    run(&engine, remove_namespace(NQN_B, 1));
    run(&engine, Command::RemoveDevice { device: "b".to_owned() });
    assert!(begun.elapsed() < Duration::from_secs(2), "the I/O is still held");
    // The command again waits until the I/O is back.
    run(&engine, remove_namespace(NQN_A, 1));
    run(&engine, Command::RemoveDevice { device: "a".to_owned() });
    assert!(begun.elapsed() > Duration::from_millis(1500));
}

#[test]
fn a_file_grows_under_its_namespace_and_is_free_again_once_it_is_removed() {
    let engine = started();
    let name = format!("commands-{}.disk", std::process::id());
    let path = std::env::current_exe().unwrap().with_file_name(name);
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let path = path.to_str().unwrap().to_owned();
    run(&engine, device(&path));
    run(&engine, namespace(NQN_A, &path));
    let mut host = Host::connect(engine.local_addresses()[0], NQN_A, 2).unwrap();
    let resize =
        |len_bytes| Command::ResizeDevice(ResizeDevice { device: path.clone(), len_bytes });
    let Reply::Device(grown) = run(&engine, resize(Some(2 << 20))) else { panic!() };
    assert_eq!(grown.blocks * u64::from(grown.block_bytes), 2 << 20);
    assert_eq!(host.run(Operation::Write), Status::SUCCESS);
    let smaller = engine.execute(&resize(Some(1 << 20))).unwrap_err();
    assert_eq!(smaller.field(), Some("len_bytes"), "{smaller}");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(3 << 20).unwrap();
    let again = Command::ResizeNamespace { subsystem: NQN_A.to_owned(), namespace: 2 };
    let Reply::Namespace(seen) = run(&engine, again) else { panic!() };
    assert_eq!(seen.blocks * u64::from(seen.block_bytes), 3 << 20);
    let taken = std::fs::File::open(&path).unwrap();
    assert!(taken.try_lock().is_err(), "the device has the file to itself");
    run(&engine, remove_namespace(NQN_A, 2));
    run(&engine, Command::RemoveDevice { device: path.clone() });
    taken.try_lock().unwrap();
    std::fs::remove_file(&path).unwrap();
}
