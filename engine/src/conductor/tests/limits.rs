//! What there may be at most: the limit, and one past it. And what is the same, or is not.

use super::*;
use crate::command::limits::{
    COMMANDS_IN_FLIGHT_MAX, DEVICES_MAX, HOSTS_MAX, NAMESPACES_MAX, PORTALS_MAX, SUBSYSTEMS_MAX,
};
use crate::command::{Access, AddPortal, ErrorKind, HostChoice};
use std::thread;

fn assert_limited(conductor: &Conductor, command: Command, limit: usize) {
    let error = refused(conductor, command);
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    assert!(error.to_string().contains(&format!("there are {limit} ")), "{error}");
}

#[test]
fn there_are_so_many_devices_subsystems_and_hosts_and_no_more() {
    let (conductor, _) = conducted(1);
    for number in 0..DEVICES_MAX {
        run(&conductor, add_device(&format!("null:///{number}?num_blocks=8")));
    }
    assert_limited(&conductor, add_device("null:///more?num_blocks=8"), DEVICES_MAX);
    run(&conductor, add_device("null:///0?num_blocks=8"));
    run(&conductor, remove_device("0"));
    run(&conductor, add_device("null:///more?num_blocks=8"));
    for number in 0..SUBSYSTEMS_MAX {
        run(&conductor, add_subsystem(&format!("{NQN}{number}")));
    }
    assert_limited(&conductor, add_subsystem(NQN), SUBSYSTEMS_MAX);
    let add_host = |number: usize| Command::AddHost {
        subsystem: format!("{NQN}0"),
        host: format!("{NQN}{number}"),
    };
    for number in 0..HOSTS_MAX {
        run(&conductor, add_host(number));
    }
    assert_limited(&conductor, add_host(HOSTS_MAX), HOSTS_MAX);
    run(&conductor, add_host(0));
}

#[test]
fn a_subsystem_has_so_many_namespaces_and_no_more() {
    let (conductor, _) = conducted(1);
    share(&conductor, &["a"]);
    let add = |namespace| {
        let namespace = Some(u32::try_from(namespace).unwrap());
        Command::AddNamespace(AddNamespace { namespace, ..AddNamespace::new(NQN, "a") })
    };
    for number in 2..=NAMESPACES_MAX {
        run(&conductor, add(number));
    }
    run(&conductor, add_device("null:///b?num_blocks=8"));
    assert_limited(&conductor, add_namespace(NQN, "b"), NAMESPACES_MAX);
}

#[test]
fn there_are_so_many_portals_and_no_more() {
    let (conductor, stage) = conducted(1);
    let free = || Command::AddPortal(AddPortal { address: "127.0.0.1:0".into(), advertise: None });
    let mut addresses = Vec::new();
    for _ in 0..PORTALS_MAX {
        let Reply::Portal(portal) = run(&conductor, free()) else { panic!("a portal") };
        addresses.push(portal.address.to_string());
    }
    assert_limited(&conductor, free(), PORTALS_MAX);
    assert_eq!(stage.listening().len(), PORTALS_MAX);
    let add = |advertise: Option<&str>| {
        let advertise = advertise.map(str::to_owned);
        Command::AddPortal(AddPortal { address: addresses[3].clone(), advertise })
    };
    let Reply::Portal(same) = run(&conductor, add(None)) else { panic!("a portal") };
    assert_eq!((same.id, same.address.to_string()), (4, addresses[3].clone()));
    assert_eq!(refused(&conductor, add(Some("10.0.0.1"))).kind(), ErrorKind::AlreadyExists);
    run(&conductor, Command::RemovePortal { address: addresses[3].clone() });
    assert_eq!(conductor.description().portals.len(), PORTALS_MAX - 1);
    let Reply::Portal(again) = run(&conductor, add(Some("10.0.0.1"))) else { panic!("a portal") };
    let port = again.address.port();
    assert_eq!(again.advertised, Some(format!("10.0.0.1:{port}").parse().unwrap()));
}

#[test]
fn so_many_changes_are_under_way_at_once_and_questions_are_not_counted() {
    let (conductor, stage) = conducted(1);
    stage.set_saturated(&[0]);
    let change = |number: usize| {
        let conductor = Arc::clone(&conductor);
        let command = add_subsystem(&format!("{NQN}{number}"));
        thread::spawn(move || conductor.execute_within(&command, SOON))
    };
    let changes: Vec<_> = (0..COMMANDS_IN_FLIGHT_MAX).map(change).collect();
    while subsystems(&conductor).len() < COMMANDS_IN_FLIGHT_MAX {
        thread::sleep(Duration::from_millis(1));
    }
    assert_limited(&conductor, add_subsystem(NQN), COMMANDS_IN_FLIGHT_MAX);
    stage.set_saturated(&[]);
    for change in changes {
        change.join().unwrap().unwrap();
    }
    run(&conductor, add_subsystem(NQN));
}

#[test]
fn the_same_again_is_the_same_and_another_under_its_name_is_refused() {
    let (conductor, _) = conducted(1);
    let twice = |command: Command| {
        assert_eq!(run(&conductor, command.clone()), run(&conductor, command));
    };
    let differs = |command: Command, words: &str| {
        let error = refused(&conductor, command);
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    twice(add_device("null:///a?num_blocks=8"));
    differs(add_device("null:///a?num_blocks=9"), "it is null:///a?num_blocks=8");
    differs(add_device("malloc:///a?num_blocks=8"), "it is null:///a?num_blocks=8");
    twice(add_subsystem(NQN));
    let named =
        AddSubsystem { subsystem: NQN.to_owned(), hosts: HostChoice::Named, ..Default::default() };
    differs(Command::AddSubsystem(named), "lets other hosts connect");
    twice(add_namespace(NQN, "a"));
    let read_only = AddNamespace {
        namespace: Some(1),
        access: Access::ReadOnly,
        ..AddNamespace::new(NQN, "a")
    };
    differs(Command::AddNamespace(read_only), "for reading and writing");
    let uuid = "6a1e0f4d-0d51-4a1c-8b5b-7d4d4a8f9f10";
    for name in ["b", "c"] {
        run(&conductor, add_device(&format!("null:///{name}?num_blocks=8&uuid={uuid}")));
    }
    run(&conductor, add_namespace(NQN, "b"));
    differs(add_namespace(NQN, "c"), "device b has the same uuid");
    let used = refused(&conductor, remove_device("b"));
    assert_eq!(
        used.to_string(),
        format!("device b is in use by namespace 2 of {NQN}: remove the namespace first")
    );
}
