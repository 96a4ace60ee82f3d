//! A daemon with a directory of its own, and clients of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

pub const NQN: &str = "nqn.2019-05.io.openebs:grpc";

/// What a test's daemon serves: a RAM disk on both loopback addresses.
pub const CONFIG: &str = r#"
[[portals]]
address = "127.0.0.1"
port = 0
[[devices]]
uri = "malloc:///ram0?size_mb=8"
[[subsystems]]
nqn = "nqn.2019-05.io.openebs:grpc"
[[subsystems.namespaces]]
device = "ram0"
"#;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A running `mayastor target --config`; killed, and its directory removed, at the end.
pub struct Daemon {
    child: Child,
    /// Kept open for the lines that follow.
    _stdout: BufReader<ChildStdout>,
    pub stderr: BufReader<ChildStderr>,
    pub directory: PathBuf,
}

/// A directory of its own for each caller.
pub fn scratch() -> PathBuf {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("mayastor-grpc-{}-{number}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

impl Daemon {
    /// Starts a daemon of this file, with `grpc` in its table for that, and waits for the line to
    /// connect with.
    pub fn start(config: &str, grpc: &str) -> (Daemon, String) {
        let directory = scratch();
        let file = directory.join("target.toml");
        let socket = directory.join("s.sock");
        let head = "[target]\ndma_mib = 8\npages = \"ordinary\"\n[grpc]\n";
        let text = format!("{head}socket = \"{}\"\n{grpc}\n{config}", socket.display());
        fs::write(&file, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_mayastor"))
            .args(["target", "--quiet", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        (Daemon { child, _stdout: stdout, stderr, directory }, line)
    }

    pub fn server(&self) -> String {
        format!("unix:{}", self.directory.join("s.sock").display())
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Runs a client with `-o json`; its answer.
    pub fn ask(&self, words: &[&str]) -> Value {
        let Output { status, stdout, stderr } = client(&self.server(), words);
        let complaint = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(0), "{words:?}: {complaint}");
        serde_json::from_slice(&stdout).unwrap()
    }

    /// Runs a client that is refused; kind and message.
    pub fn refused(&self, words: &[&str]) -> (String, String) {
        let (code, error) = failure(&self.server(), words);
        assert_eq!(code, 1, "{words:?}: {error}");
        let text = |key: &str| error["error"][key].as_str().unwrap().to_owned();
        (text("kind"), text("message"))
    }

    /// Where the first portal is.
    pub fn portal(&self) -> SocketAddr {
        let answer = self.ask(&["portal", "list"]);
        answer["portals"][0]["address"].as_str().unwrap().parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Runs a client to its end.
pub fn client(server: &str, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mayastor-client"))
        .args(["--server", server, "-o", "json"])
        .args(words)
        .env_remove("MAYASTOR_SERVER")
        .env_remove("MAYASTOR_TIMEOUT")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Exit code and error of a client that fails.
pub fn failure(server: &str, words: &[&str]) -> (i32, Value) {
    let Output { status, stdout, stderr } = client(server, words);
    let complaint = String::from_utf8(stderr).unwrap();
    assert!(stdout.is_empty(), "{words:?} on standard output: {stdout:?}");
    assert_eq!(complaint.lines().count(), 1, "one line: {complaint}");
    let error = serde_json::from_str(&complaint).unwrap_or(Value::String(complaint));
    (status.code().unwrap(), error)
}
