//! Every field of every command: absent, empty, too long, huge.

use bdev::Status;
use bdev::delay::Lateness;
use bdev::fault::Failure;
use bdev::rules::{Match, Rule, RuleSet};
use reactor::Nanos;

use super::*;
use crate::command::limits::{
    ADDRESS_BYTES_MAX, DELAY_MAX, DEVICE_NAME_BYTES_MAX, NQN_BYTES_MAX, RULES_MAX, URI_BYTES_MAX,
    UUID_BYTES_MAX, WITHIN_MAX,
};
use crate::command::{
    AddPortal, AnaState, ErrorKind, HostChoice, ResizeDevice, SetAnaState, SetDelay, SetFault,
};

/// Texts that nothing is called; the last as long as a message may be.
fn bad_texts(bytes_max: usize) -> Vec<String> {
    vec![String::new(), "x".repeat(bytes_max + 1), "\u{0}\n".to_owned(), "y".repeat(1 << 22)]
}

fn assert_refused(conductor: &Conductor, command: &Command, field: &str) {
    let error = conductor.execute_within(command, SOON).expect_err(field);
    let text = error.to_string();
    assert!(text.len() < 1000, "{field}: the message is {} bytes long", text.len());
    assert_eq!(error.field(), Some(field), "{text}");
    assert!(text.starts_with(&format!("{field} cannot be ")), "{text}");
}

/// Commands with a subsystem's name.
fn with_subsystem(subsystem: &str) -> Vec<Command> {
    let subsystem = || subsystem.to_owned();
    vec![
        add_subsystem(&subsystem()),
        Command::RemoveSubsystem { subsystem: subsystem() },
        add_namespace(&subsystem(), "a"),
        remove_namespace(&subsystem(), 1),
        Command::ResizeNamespace { subsystem: subsystem(), namespace: 1 },
        Command::AddHost { subsystem: subsystem(), host: NQN.to_owned() },
        Command::RemoveHost { subsystem: subsystem(), host: NQN.to_owned() },
        Command::SetHostPolicy { subsystem: subsystem(), policy: HostChoice::Any },
        Command::SetAnaState(SetAnaState {
            subsystem: subsystem(),
            namespace: None,
            state: AnaState::Optimized,
        }),
    ]
}

/// Commands with a device's name.
fn with_device(device: &str) -> Vec<Command> {
    let named = || device.to_owned();
    vec![
        remove_device(device),
        Command::ResizeDevice(ResizeDevice { device: named(), len_bytes: None }),
        Command::SetFault(SetFault { device: named(), rules: faults(1) }),
        Command::ClearFault { device: named() },
        Command::SetDelay(SetDelay { device: named(), rules: delays(Lateness::Fixed(Nanos(1))) }),
        Command::ClearDelay { device: named() },
        add_namespace(NQN, device),
    ]
}

fn faults(count: usize) -> RuleSet<Failure> {
    let effect = Failure::Before(Status::WRITE_FAULT);
    RuleSet { rules: vec![Rule { meets: Match::default(), effect }; count], seed: 0 }
}

fn delays(effect: Lateness) -> RuleSet<Lateness> {
    RuleSet { rules: vec![Rule { meets: Match::default(), effect }], seed: 0 }
}

#[test]
fn names_that_cannot_be_are_refused_by_every_command() {
    let (conductor, _) = conducted(1);
    let discovery = "nqn.2014-08.org.nvmexpress.discovery".to_owned();
    for text in bad_texts(NQN_BYTES_MAX).into_iter().chain([discovery]) {
        for command in with_subsystem(&text) {
            assert_refused(&conductor, &command, "subsystem");
        }
    }
    for text in bad_texts(NQN_BYTES_MAX) {
        let (subsystem, host) = (NQN.to_owned(), text);
        let add = Command::AddHost { subsystem: subsystem.clone(), host: host.clone() };
        assert_refused(&conductor, &add, "host");
        assert_refused(&conductor, &Command::RemoveHost { subsystem, host }, "host");
    }
    for text in bad_texts(DEVICE_NAME_BYTES_MAX).into_iter().filter(|text| text != "\u{0}\n") {
        for command in with_device(&text) {
            assert_refused(&conductor, &command, "device");
        }
    }
}

#[test]
fn what_is_not_there_is_not_found_by_every_command() {
    let (conductor, _) = conducted(1);
    for command in with_subsystem(NQN).into_iter().skip(1).chain(with_device("none")) {
        let error = refused(&conductor, command);
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    run(&conductor, add_subsystem(NQN));
    for command in [
        remove_namespace(NQN, 1),
        Command::ResizeNamespace { subsystem: NQN.to_owned(), namespace: 1 },
        Command::RemoveHost { subsystem: NQN.to_owned(), host: NQN.to_owned() },
        Command::RemovePortal { address: "127.0.0.1:1".to_owned() },
    ] {
        let error = refused(&conductor, command);
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

#[test]
fn uris_and_addresses_that_cannot_be_are_refused() {
    let (conductor, _) = conducted(1);
    for text in bad_texts(URI_BYTES_MAX) {
        assert_refused(&conductor, &add_device(&text), "uri");
    }
    for uri in ["malloc:///a", "null:///a?num_blocks=0", "null:///a?num_blocks=8&blk_size=7"] {
        assert_refused(&conductor, &add_device(uri), "uri");
    }
    let portal = |address: &str, advertise: Option<&str>| {
        let advertise = advertise.map(str::to_owned);
        Command::AddPortal(AddPortal { address: address.to_owned(), advertise })
    };
    let named = ["localhost:1", "10.0.0.1", "10.0.0.1:65536", "::1:80"].map(str::to_owned);
    for text in bad_texts(ADDRESS_BYTES_MAX).into_iter().chain(named) {
        assert_refused(&conductor, &portal(&text, None), "address");
        assert_refused(&conductor, &Command::RemovePortal { address: text }, "address");
    }
    let unusable = ["0.0.0.0", "[::]:1", "224.0.0.1", "10.0.0.1:0"].map(str::to_owned);
    for text in bad_texts(ADDRESS_BYTES_MAX).into_iter().chain(unusable) {
        assert_refused(&conductor, &portal("127.0.0.1:1", Some(&text)), "advertise");
    }
}

#[test]
fn numbers_out_of_range_are_refused_and_those_at_the_ends_are_not() {
    let (conductor, _) = conducted(1);
    share(&conductor, &["a"]);
    let subsystem = |ids, queue_entries| {
        let subsystem = format!("{NQN}:{ids:?}{queue_entries:?}").replace([' ', '"'], "");
        let asked =
            AddSubsystem { subsystem, controller_ids: ids, queue_entries, ..Default::default() };
        Command::AddSubsystem(asked)
    };
    for ids in [(0, 1), (1, 65520), (2, 1), (u32::MAX, u32::MAX), (65537, 65538)] {
        assert_refused(&conductor, &subsystem(Some(ids), None), "controller_ids");
    }
    for entries in [0, 1, 1025, 65538, u32::MAX] {
        assert_refused(&conductor, &subsystem(None, Some(entries)), "queue_entries");
    }
    for legal in [subsystem(Some((1, 65519)), Some(2)), subsystem(Some((7, 7)), Some(1024))] {
        run(&conductor, legal);
    }
    for namespace in [0, 1025, u32::MAX] {
        let add = AddNamespace { namespace: Some(namespace), ..AddNamespace::new(NQN, "a") };
        let (subsystem, state) = (NQN.to_owned(), AnaState::Optimized);
        for command in [
            Command::AddNamespace(add),
            remove_namespace(NQN, namespace),
            Command::ResizeNamespace { subsystem: subsystem.clone(), namespace },
            Command::SetAnaState(SetAnaState { subsystem, namespace: Some(namespace), state }),
        ] {
            assert_refused(&conductor, &command, "namespace");
        }
    }
    let last = AddNamespace { namespace: Some(1024), ..AddNamespace::new(NQN, "a") };
    run(&conductor, Command::AddNamespace(last));
    let nil = uuid::Uuid::nil().to_string();
    for text in bad_texts(UUID_BYTES_MAX).into_iter().chain([nil]) {
        let add = AddNamespace { uuid: Some(text), ..AddNamespace::new(NQN, "a") };
        assert_refused(&conductor, &Command::AddNamespace(add), "uuid");
    }
}

#[test]
fn sizes_rules_and_times_that_cannot_be_are_refused() {
    let (conductor, _) = conducted(1);
    run(&conductor, add_device("null:///a?num_blocks=8"));
    let resize = |len_bytes| {
        Command::ResizeDevice(ResizeDevice { device: "a".to_owned(), len_bytes: Some(len_bytes) })
    };
    for len_bytes in [0, 4095, u64::MAX] {
        assert_refused(&conductor, &resize(len_bytes), "len_bytes");
    }
    run(&conductor, resize(4096));
    assert_eq!(refused(&conductor, resize(8192)).kind(), ErrorKind::Unsupported);
    let fault = |rules| Command::SetFault(SetFault { device: "a".to_owned(), rules });
    let delay = |rules| Command::SetDelay(SetDelay { device: "a".to_owned(), rules });
    assert_refused(&conductor, &fault(RuleSet::default()), "rules");
    assert_refused(&conductor, &delay(RuleSet::default()), "rules");
    run(&conductor, fault(faults(RULES_MAX)));
    assert_eq!(refused(&conductor, fault(faults(RULES_MAX + 1))).kind(), ErrorKind::LimitReached);
    for probability in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let mut rules = faults(1);
        rules.rules[0].meets.probability = probability;
        assert_refused(&conductor, &fault(rules), "rules.probability");
    }
    let mut rules = faults(1);
    rules.rules[0].meets.lbas = 5..5;
    assert_refused(&conductor, &fault(rules.clone()), "rules.lbas");
    rules.rules[0] = Rule { meets: Match::default(), effect: Failure::After(Status::SUCCESS) };
    assert_refused(&conductor, &fault(rules), "rules.effect");
    let longest = Nanos(u64::try_from(DELAY_MAX.as_nanos()).unwrap());
    run(&conductor, delay(delays(Lateness::Fixed(longest))));
    for effect in [
        Lateness::Fixed(Nanos(longest.0 + 1)),
        Lateness::Uniform { least: Nanos(2), most: Nanos(1) },
        Lateness::Uniform { least: Nanos(0), most: Nanos(u64::MAX) },
    ] {
        assert_refused(&conductor, &delay(delays(effect)), "rules.effect");
    }
    for within in [Duration::ZERO, WITHIN_MAX + Duration::from_nanos(1), Duration::MAX] {
        let error = conductor.execute_within(&Command::ListDevices, within).unwrap_err();
        assert_eq!(error.field(), Some("within"));
    }
    assert!(conductor.execute_within(&Command::ListDevices, WITHIN_MAX).is_ok());
}
