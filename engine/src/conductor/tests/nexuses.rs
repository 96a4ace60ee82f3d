//! Nexuses over cores of cardboard, whose homes are real.

use nexus::{ChildState, FaultReason};

use super::*;
use crate::command::limits::{CHILDREN_MAX, NEXUS_NAME_BYTES_MAX};
use crate::command::{
    ChildInfo, CreateNexus, ErrorKind, NexusCommand, NexusInfo, NexusState, OfChild, Presence,
    RebuildEnd,
};

const A: &str = "malloc:///a?size_mb=1";
const B: &str = "malloc:///b?size_mb=1";
const C: &str = "malloc:///c?size_mb=2";

fn wanted(children: &[&str]) -> CreateNexus {
    let children = children.iter().map(|uri| String::from(*uri)).collect();
    CreateNexus { nexus: String::from("n"), children, ..CreateNexus::default() }
}

fn create(children: &[&str]) -> Command {
    Command::Nexus(NexusCommand::Create(wanted(children)))
}

fn destroy() -> Command {
    Command::Nexus(NexusCommand::Destroy { nexus: String::from("n") })
}

fn child(uri: &str) -> OfChild {
    OfChild { nexus: String::from("n"), uri: String::from(uri) }
}

fn of(reply: Reply) -> NexusInfo {
    match reply {
        Reply::Nexus(nexus) => nexus,
        other => panic!("{other:?}"),
    }
}

fn change(conductor: &Conductor, command: NexusCommand) -> NexusInfo {
    of(run(conductor, Command::Nexus(command)))
}

fn list(conductor: &Conductor) -> Vec<NexusInfo> {
    match run(conductor, Command::Nexus(NexusCommand::List)) {
        Reply::Nexuses(nexuses) => nexuses,
        other => panic!("{other:?}"),
    }
}

fn states(nexus: &NexusInfo) -> Vec<ChildState> {
    nexus.children.iter().map(|child| child.state).collect()
}

fn names(conductor: &Conductor) -> Vec<String> {
    devices(conductor).into_iter().map(|device| device.name).collect()
}

/// Waits until no device is left.
fn wait_for_none(conductor: &Conductor) {
    let until = Instant::now() + SOON;
    while !names(conductor).is_empty() {
        assert!(Instant::now() < until, "{:?} stays", names(conductor));
    }
}

#[test]
fn a_nexus_is_made_listed_served_and_destroyed() {
    let (conductor, stage) = conducted(2);
    let made = of(run(&conductor, create(&[A, B, C])));
    assert_eq!((made.state, made.presence), (NexusState::Online, Presence::Present));
    assert_eq!(made.blocks, 2048, "as long as its shortest child");
    assert_eq!(states(&made), [ChildState::Open; 3]);
    assert_eq!(of(run(&conductor, create(&[A, B, C]))), made, "the same again is the same");
    assert_eq!(names(&conductor), ["a", "b", "c", "n"]);
    assert_eq!(list(&conductor), [made]);
    run(&conductor, add_subsystem(NQN));
    run(&conductor, add_namespace(NQN, "n"));
    assert_eq!(stage.served(0), [(String::from(NQN), 1)]);
    assert_eq!(refused(&conductor, destroy()).kind(), ErrorKind::InUse);
    run(&conductor, remove_namespace(NQN, 1));
    run(&conductor, destroy());
    assert_eq!(names(&conductor), [""; 0]);
    assert_eq!(list(&conductor), []);
    assert_eq!(refused(&conductor, destroy()).kind(), ErrorKind::NotFound);
}

#[test]
fn a_device_that_was_there_stays_and_is_nothing_else_meanwhile() {
    let (conductor, _) = conducted(1);
    run(&conductor, add_device(A));
    run(&conductor, add_subsystem(NQN));
    run(&conductor, create(&["bdev:///a", B]));
    for command in [remove_device("a"), add_namespace(NQN, "a"), remove_device("b")] {
        assert_eq!(refused(&conductor, command).kind(), ErrorKind::InUse);
    }
    assert_eq!(refused(&conductor, remove_device("n")).kind(), ErrorKind::Unsupported);
    let twice = CreateNexus { nexus: String::from("m"), ..wanted(&["bdev:///a"]) };
    let twice = Command::Nexus(NexusCommand::Create(twice));
    assert_eq!(refused(&conductor, twice).kind(), ErrorKind::InUse);
    run(&conductor, destroy());
    assert_eq!(names(&conductor), ["a"]);
    run(&conductor, add_namespace(NQN, "a"));
    assert_eq!(refused(&conductor, create(&["bdev:///a"])).kind(), ErrorKind::InUse);
}

#[test]
fn children_come_and_go() {
    let (conductor, _) = conducted(1);
    run(&conductor, create(&[A, B]));
    let nexus = change(&conductor, NexusCommand::OfflineChild(child(B)));
    assert_eq!(states(&nexus), [ChildState::Open, ChildState::Closed]);
    assert_eq!(nexus.state, NexusState::Degraded);
    let last = Command::Nexus(NexusCommand::OfflineChild(child(A)));
    assert_eq!(refused(&conductor, last).kind(), ErrorKind::InUse);
    let nexus = change(&conductor, NexusCommand::RemoveChild(child(B)));
    assert_eq!((states(&nexus), nexus.state), (vec![ChildState::Open], NexusState::Online));
    let nexus = change(&conductor, NexusCommand::AddChild(child(C)));
    let out = ChildState::Faulted(FaultReason::OutOfSync);
    assert_eq!(states(&nexus), [ChildState::Open, out]);
    let again = change(&conductor, NexusCommand::AddChild(child(C)));
    assert_eq!(again.children, nexus.children);
    let gone = Command::Nexus(NexusCommand::RemoveChild(child(B)));
    assert_eq!(refused(&conductor, gone).kind(), ErrorKind::NotFound);
    let until = Instant::now() + SOON;
    while names(&conductor).contains(&String::from("b")) {
        assert!(Instant::now() < until, "what left is closed");
    }
}

#[test]
fn a_faulted_child_says_so() {
    let (conductor, _) = conducted(1);
    run(&conductor, create(&[A, B]));
    let nexus = change(&conductor, NexusCommand::FaultChild(child(A)));
    let ChildInfo { state, .. } = nexus.children[0];
    assert_eq!(state, ChildState::Faulted(FaultReason::Rpc));
}

#[test]
fn a_child_that_was_out_is_rebuilt_and_that_is_remembered() {
    let (conductor, _) = conducted(1);
    run(&conductor, create(&[A, B]));
    change(&conductor, NexusCommand::OfflineChild(child(B)));
    change(&conductor, NexusCommand::StartRebuild(child(B)));
    let until = Instant::now() + SOON;
    let nexus = loop {
        let nexus = list(&conductor).remove(0);
        if nexus.state == NexusState::Online {
            break nexus;
        }
        assert!(Instant::now() < until, "{nexus:?}");
    };
    let [record] = nexus.history.as_slice() else { panic!("one rebuild: {nexus:?}") };
    assert_eq!((record.uri.as_str(), record.end), (B, RebuildEnd::Completed));
    assert_eq!(nexus.children[1].rebuild, None);
    for command in [
        NexusCommand::StartRebuild(child(B)),
        NexusCommand::StopRebuild(child(B)),
        NexusCommand::PauseRebuild(child(B)),
        NexusCommand::ResumeRebuild(child(B)),
    ] {
        let error = refused(&conductor, Command::Nexus(command.clone()));
        assert_eq!(error.kind(), ErrorKind::Device, "{command:?}: {error}");
    }
}

#[test]
fn a_paused_nexus_says_so_until_it_is_resumed() {
    let (conductor, _) = conducted(1);
    run(&conductor, create(&[A]));
    let nexus = || String::from("n");
    assert!(change(&conductor, NexusCommand::Pause { nexus: nexus() }).is_paused);
    assert!(list(&conductor)[0].is_paused);
    assert!(!change(&conductor, NexusCommand::Resume { nexus: nexus() }).is_paused);
}

#[test]
fn a_nexus_grows_with_its_children() {
    let (conductor, _) = conducted(1);
    let file = format!("grows-{}.disk", std::process::id());
    let path = std::env::current_exe().unwrap().with_file_name(file);
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let path = path.to_str().unwrap();
    run(&conductor, create(&[&format!("aio://{path}"), C]));
    let device = path.to_owned();
    let resize = crate::command::ResizeDevice { device, len_bytes: Some(4 << 20) };
    run(&conductor, Command::ResizeDevice(resize));
    let grown = change(&conductor, NexusCommand::Grow { nexus: String::from("n") });
    assert_eq!(grown.blocks, 4096, "as long as its shortest child is now");
    let device = devices(&conductor).into_iter().find(|device| device.name == "n").unwrap();
    assert_eq!(device.blocks, 4096);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_cannot_be_a_nexus_is_refused_and_leaves_nothing() {
    let (conductor, _) = conducted(1);
    let other_blocks = "malloc:///d?size_mb=1&blk_size=4096";
    let cases: [(&[&str], ErrorKind, Option<&str>); 8] = [
        (&[], ErrorKind::Invalid, Some("children")),
        (&[""], ErrorKind::Invalid, Some("uri")),
        (&["ceph:///a"], ErrorKind::Invalid, Some("uri")),
        (&["bdev:///none"], ErrorKind::NotFound, None),
        (&["/no/such/disk"], ErrorKind::Device, None),
        (&[A, A], ErrorKind::Invalid, Some("children")),
        (&[A, other_blocks], ErrorKind::Invalid, Some("children")),
        (&[A, "iscsi://127.0.0.1/iqn.2019-05.io:a"], ErrorKind::Device, None),
    ];
    for (children, kind, field) in cases {
        let error = refused(&conductor, create(children));
        assert_eq!((error.kind(), error.field()), (kind, field), "{children:?}: {error}");
        wait_for_none(&conductor);
    }
    let many: Vec<String> =
        (0..=CHILDREN_MAX).map(|number| format!("null:///x{number}?size_mb=1")).collect();
    let texts: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(refused(&conductor, create(&texts)).field(), Some("children"));
    let longer = CreateNexus { len_bytes: Some(2 << 20), ..wanted(&[A]) };
    let longer = Command::Nexus(NexusCommand::Create(longer));
    assert_eq!(refused(&conductor, longer).field(), Some("children"));
    wait_for_none(&conductor);
    let uneven = CreateNexus { len_bytes: Some(1000), ..wanted(&[A]) };
    let uneven = Command::Nexus(NexusCommand::Create(uneven));
    assert_eq!(refused(&conductor, uneven).field(), Some("len_bytes"));
    wait_for_none(&conductor);
    run(&conductor, create(&texts[..CHILDREN_MAX]));
    let more = Command::Nexus(NexusCommand::AddChild(child(A)));
    assert_eq!(refused(&conductor, more).kind(), ErrorKind::LimitReached);
}

#[test]
fn a_name_has_a_length_and_a_form() {
    let (conductor, _) = conducted(1);
    let named = |nexus: &str| {
        Command::Nexus(NexusCommand::Create(CreateNexus {
            nexus: nexus.to_owned(),
            ..wanted(&[A])
        }))
    };
    for name in ["", "a?b", "a b", &"x".repeat(NEXUS_NAME_BYTES_MAX + 1)] {
        assert_eq!(refused(&conductor, named(name)).field(), Some("nexus"), "{name:?}");
    }
    run(&conductor, named(&"x".repeat(NEXUS_NAME_BYTES_MAX)));
    let uuid = CreateNexus { uuid: Some(String::from("x")), ..wanted(&[B]) };
    let uuid = Command::Nexus(NexusCommand::Create(uuid));
    assert_eq!(refused(&conductor, uuid).field(), Some("uuid"));
}

#[test]
fn a_nexus_that_is_not_there_is_not_found_by_any_command() {
    let (conductor, _) = conducted(1);
    let nexus = || String::from("n");
    for command in [
        NexusCommand::Destroy { nexus: nexus() },
        NexusCommand::Pause { nexus: nexus() },
        NexusCommand::Resume { nexus: nexus() },
        NexusCommand::Grow { nexus: nexus() },
        NexusCommand::Verify { nexus: nexus() },
        NexusCommand::StopVerify { nexus: nexus() },
        NexusCommand::AddChild(child(A)),
        NexusCommand::RemoveChild(child(A)),
        NexusCommand::OfflineChild(child(A)),
        NexusCommand::FaultChild(child(A)),
        NexusCommand::StartRebuild(child(A)),
        NexusCommand::StopRebuild(child(A)),
        NexusCommand::PauseRebuild(child(A)),
        NexusCommand::ResumeRebuild(child(A)),
    ] {
        let error = refused(&conductor, Command::Nexus(command.clone()));
        assert_eq!(error.kind(), ErrorKind::NotFound, "{command:?}: {error}");
    }
}

#[test]
fn homes_are_spread_over_the_cores() {
    let (conductor, _) = conducted(2);
    for (name, uri) in [("m", A), ("n", B), ("o", C)] {
        let asked = CreateNexus { nexus: name.to_owned(), ..wanted(&[uri]) };
        run(&conductor, Command::Nexus(NexusCommand::Create(asked)));
    }
    let homes: Vec<_> = list(&conductor).iter().map(|nexus| nexus.home.unwrap().0).collect();
    assert_eq!(homes, [0, 1, 0]);
}

#[test]
fn a_home_core_that_does_not_answer_does_not_hold_up_listing() {
    let (conductor, stage) = conducted(2);
    run(&conductor, create(&[A, B]));
    stage.set_saturated(&[0]);
    assert_eq!(list(&conductor)[0].state, NexusState::Online, "as it was last known");
    let pause = Command::Nexus(NexusCommand::Pause { nexus: String::from("n") });
    let known = late(&conductor, pause);
    assert!(known.contains("home core") && known.contains("core 0"), "{known}");
    stage.set_saturated(&[]);
}
