//! The socket, the TCP address, the file: how a daemon is reached, started and ended.

use std::fs;
use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::daemon::{CONFIG, Daemon, NQN, client, failure, scratch};
use super::host::Host;

#[test]
fn the_socket_is_the_owner_s_alone_and_goes_with_the_daemon() {
    let (mut daemon, _) = Daemon::start(CONFIG, "");
    let path = daemon.directory.join("s.sock");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let begun = Instant::now();
    kill(Pid::from_raw(daemon.pid()), Signal::SIGTERM).unwrap();
    assert_eq!(daemon.wait(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(!path.exists());
    let (code, error) = failure(&daemon.server(), &["device", "list"]);
    assert_eq!((code, error["error"]["kind"].as_str()), (3, Some("unreachable")), "{error}");
}

#[test]
fn the_socket_of_a_dead_daemon_is_taken_over_and_that_of_a_live_one_is_not() {
    let (first, _) = Daemon::start(CONFIG, "");
    let file = first.directory.join("target.toml");
    let second = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mayastor"));
        command.args(["target", "--quiet", "--config"]).arg(&file).stdin(Stdio::null());
        command
    };
    let Output { status, stderr, .. } = second().output().unwrap();
    assert_eq!(status.code(), Some(1));
    let complaint = String::from_utf8(stderr).unwrap();
    assert!(complaint.contains("another process serves on"), "{complaint}");
    kill(Pid::from_raw(first.pid()), Signal::SIGKILL).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    let mut child = loop {
        let mut child = second().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        if line.starts_with("nvme connect") || Instant::now() > until {
            break child;
        }
        child.wait().unwrap();
    };
    let listed = client(&first.server(), &["device", "list"]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
}

#[test]
fn a_tcp_address_serves_as_well_when_asked() {
    let (mut daemon, _) = Daemon::start(CONFIG, "address = \"127.0.0.1:0\"");
    let mut line = String::new();
    while !line.contains("gRPC on ") {
        line.clear();
        assert_ne!(daemon.stderr.read_line(&mut line).unwrap(), 0, "the address is told");
    }
    let address = line.split("gRPC on ").nth(1).unwrap().split(',').next().unwrap();
    let listed = client(&format!("http://{address}"), &["device", "list"]);
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    assert!(daemon.ask(&["device", "list"])["devices"].is_array());
}

#[test]
fn an_ipv6_listener_serves() {
    let (daemon, line) = Daemon::start(&CONFIG.replace("127.0.0.1", "::1"), "");
    assert!(line.contains(" -a ::1 "), "{line}");
    let address = daemon.portal();
    assert!(address.is_ipv6());
    assert!(Host::connect(address, NQN, 1).read().is_success());
    let added = daemon.ask(&["portal", "add", "127.0.0.1:0"]);
    let address = added["portal"]["address"].as_str().unwrap().to_owned();
    assert!(Host::connect(address.parse().unwrap(), NQN, 1).read().is_success());
    daemon.ask(&["portal", "remove", &address]);
    assert!(std::net::TcpStream::connect(&address).is_err(), "nobody listens there");
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let directory = scratch();
    let path = directory.join("mute.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = format!("unix:{}", path.display());
    let (code, error) = failure(&server, &["--timeout", "300ms", "device", "list"]);
    drop(listener);
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(code, 3, "{error}");
}

/// Runs the daemon to its end.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mayastor"));
    let Output { status, stdout, stderr } =
        command.arg("target").args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_file_can_be_checked_without_serving_it() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/target.toml");
    let (code, shown, complaint) = run(&["--config", example, "--check"]);
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    for line in [
        "gRPC on /run/mayastor.sock",
        "portal 0.0.0.0:4420, advertised as 192.0.2.10",
        "device null:///null0?size_mb=4096",
        "subsystem nqn.2019-05.io.openebs:first for every host",
        "  namespace 1: ram0",
        "  namespace 7: null0, read only",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} in {shown}");
    }
}

#[test]
fn a_mistake_in_the_file_is_told_with_its_line_and_key() {
    let directory = scratch();
    let file = directory.join("wrong.toml");
    let path = file.to_str().unwrap();
    let cases = [
        ("[target]\ncoers = \"0\"", "wrong.toml:2: target.coers: unknown field"),
        ("[[devices]]\nuri = \"aio:///no/such/disk\"", "wrong.toml:2: devices.uri: "),
        ("[[portals]]\naddress = \"192.0.2.1\"", "wrong.toml:1: portals: "),
    ];
    for (text, says) in cases {
        fs::write(&file, format!("{text}\n")).unwrap();
        let (code, shown, complaint) = run(&["--config", path]);
        assert_eq!((code, shown.as_str()), (Some(1), ""), "{complaint}");
        assert!(complaint.contains(says), "{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn options_that_the_file_replaces_are_refused_beside_it() {
    for conflict in ["--port=1", "--poll", "--cores=0", "--grpc-socket", "null:///a?size_mb=1"] {
        let (code, _, complaint) = run(&["--config", "target.toml", conflict]);
        assert_eq!(code, Some(2), "{conflict}: {complaint}");
        assert!(complaint.contains("cannot be used with"), "{complaint}");
    }
    assert_eq!(run(&["--check"]).0, Some(2));
}
