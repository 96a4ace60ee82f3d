//! The `mayastor` process as its user sees it: first line, connections, signals, exit codes.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a user is promised between the signal and the end.
const END_WITHIN: Duration = Duration::from_secs(1);

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mayastor"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A running target; killed if a test ends early.
struct Target {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Target {
    fn start(arguments: &[&str]) -> Target {
        let base = ["target", "--port", "0", "--dma-mib", "8"];
        let arguments = [&base[..], arguments].concat();
        let mut child =
            command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Target { child, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    /// Sends a signal and waits; the rest of standard output comes back.
    fn end(mut self, signal: Signal) -> (ExitStatus, Duration, String) {
        let begun = Instant::now();
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), begun.elapsed(), rest)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a line of `nvme connect` leads.
fn address_of(line: &str) -> SocketAddr {
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |flag: &str| {
        let at = words.iter().position(|word| *word == flag);
        words[at.unwrap_or_else(|| panic!("{flag} in {line:?}")) + 1]
    };
    assert_eq!(words[..4], ["nvme", "connect", "-t", "tcp"]);
    SocketAddr::new(after("-a").parse().unwrap(), after("-s").parse().unwrap())
}

fn greet(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = [0; 128];
    request[2] = 128;
    request[4] = 128;
    stream.write_all(&request).unwrap();
    let mut response = [0; 128];
    stream.read_exact(&mut response).unwrap();
    assert_eq!(response[0], 1, "an ICResp");
    stream
}

/// Runs a command that is to fail; its exit code and the one line that it leaves behind.
fn failure(arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = command(arguments).output().unwrap();
    let complaint = String::from_utf8(stderr).unwrap();
    assert!(stdout.is_empty(), "nothing on standard output: {stdout:?}");
    assert_eq!(complaint.lines().count(), 1, "one line: {complaint}");
    assert!(complaint.starts_with("mayastor: "), "{complaint}");
    for inside in ["panicked", "Error {", "Some(", "source:"] {
        assert!(!complaint.contains(inside), "{inside} in {complaint}");
    }
    (status.code().unwrap(), complaint)
}

#[test]
fn a_quiet_target_prints_the_connect_line_and_ends_on_either_signal() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut target = Target::start(&["--quiet"]);
        let line = target.line();
        let stream = greet(address_of(&line));
        let (status, took, rest) = target.end(signal);
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(took < END_WITHIN, "{took:?} after {signal}");
        assert_eq!(rest, "", "nothing but the connect line");
        drop(stream);
    }
}

#[test]
fn the_name_of_the_subsystem_can_be_given_and_is_stable_otherwise() {
    let name = |arguments: &[&str]| {
        let mut target = Target::start(arguments);
        let line = target.line();
        target.end(Signal::SIGTERM);
        line.trim_end().rsplit_once(" -n ").unwrap().1.to_owned()
    };
    let given = "nqn.2019-05.io.openebs:mine";
    assert_eq!(name(&["--quiet", "--nqn", given]), given);
    assert_eq!(name(&["--quiet"]), name(&["--quiet"]));
}

#[test]
fn a_piped_target_writes_plain_lines() {
    let mut target = Target::start(&["null:///null0?size_mb=64"]);
    address_of(&target.line());
    let line = target.line();
    assert!(line.starts_with("0 IOPS  0.0 MiB/s  mean - us  0 connections  core "), "{line:?}");
    assert!(!line.contains(['\r', '\u{1b}']), "{line:?}");
    assert_eq!(target.end(Signal::SIGINT).0.code(), Some(0));
}

#[test]
fn a_reader_that_leaves_does_not_end_the_target() {
    let mut target = Target::start(&[]);
    let address = address_of(&target.line());
    // Standard output is closed; the next line, within a second, has no reader.
    let closed = std::mem::replace(&mut target.stdout, BufReader::new(other_pipe()));
    drop(closed);
    std::thread::sleep(Duration::from_millis(1500));
    greet(address);
    assert!(target.child.try_wait().unwrap().is_none(), "it serves on");
}

/// Some process's standard output, which is at its end.
fn other_pipe() -> ChildStdout {
    let mut child = command(&["--version"]).stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    child.wait().unwrap();
    stdout
}

#[test]
fn a_port_in_use_ends_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, line) = failure(&["target", "--port", &port, "--quiet"]);
    assert_eq!(code, 1);
    assert!(line.contains(&format!("port {port} of 127.0.0.1 is in use")), "{line}");
}

#[test]
fn what_cannot_be_ends_in_one_line_that_names_it() {
    let cases: [(&[&str], i32, &str); 10] = [
        (&["malloc:///ram0"], 1, "uri cannot be \"malloc:///ram0\": no size is given"),
        (&["ceph:///a"], 1, "unknown scheme"),
        (&["pcie:///ffff:ff:1f.7"], 1, "there is no PCI device ffff:ff:1f.7"),
        (&["aio:///no/such/disk"], 1, "device aio:///no/such/disk: cannot open"),
        (&["malloc:///a?size_mb=1000000000"], 1, "device malloc:///a?size_mb=1000000000: "),
        (&["--cores", "1023"], 1, "core 1023 is not among the cores this process may use"),
        (&["--addr", "192.0.2.1"], 1, "this machine does not have the address 192.0.2.1"),
        (&["--cores", "x"], 2, "\"x\" is not a core"),
        (&["--queue-size", "1025"], 2, "1025 is not in 2..=1024"),
        (&["--nqn", "name"], 2, "does not start with \"nqn.\""),
    ];
    for (arguments, code, says) in cases {
        let arguments = [&["target", "--port", "0"], arguments].concat();
        let (found, line) = failure(&arguments);
        assert_eq!(found, code, "{line}");
        assert!(line.contains(says), "{line}");
    }
}

#[test]
fn too_little_memory_ends_in_one_line() {
    // The shell's limit on address space is inherited by what it becomes: 1 GiB for 2 GiB wanted.
    let script = "ulimit -v 1048576; exec \"$0\" \"$@\"";
    let arguments = ["target", "--port", "0", "--dma-mib", "2048", "--no-huge"];
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_mayastor")])
        .args(arguments)
        .arg("null:///null0?size_mb=64")
        .output()
        .unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(complaint.contains("memory"), "{complaint}");
}

#[test]
fn more_memory_than_the_machine_has_is_refused_before_it_is_touched() {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let total_kib: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
    let mib = (total_kib / 1024 + 1).next_multiple_of(2).to_string();
    if total_kib / 1024 >= 65536 {
        // More than can be asked for on one core.
        return;
    }
    let (code, line) =
        failure(&["target", "--port", "0", "--no-huge", "--dma-mib", &mib, "null:///n?size_mb=1"]);
    assert_eq!(code, 1);
    assert!(line.contains(&format!("wants {mib} MiB")), "{line}");
}

#[test]
fn the_version_is_told() {
    let output = command(&["--version"]).output().unwrap();
    assert!(output.status.success());
    let version = format!("mayastor {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), version);
}
