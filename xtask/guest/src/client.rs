//! `mayastor-client` against a target of the harness: JSON in its answers, one process a command.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;
use crate::target;

/// Name of the program; it lies beside the target's.
const PROGRAM: &str = "mayastor-client";

/// A socket through which one target is controlled, removed with the value. The target that is to
/// serve it gets [`Client::option`].
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A socket of its own for a target that is yet to be started. It lies where paths are short:
    /// a socket's has no more than 107 bytes.
    pub fn new() -> Client {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mayastor-test-{}-{number}.sock", std::process::id());
        Client { socket: std::env::temp_dir().join(name) }
    }

    /// What the target is to be told.
    pub fn option(&self) -> String {
        format!("--grpc-socket={}", self.socket.display())
    }

    /// Runs a command, its words separated by blanks, and returns what it printed.
    pub fn run(&self, words: &str) -> Result<Value> {
        let mut command = self.command(words);
        let text = files::output_of(&mut command)?;
        let unexpected = || Error::Unexpected { command: words.to_owned(), value: text.clone() };
        serde_json::from_str(&text).map_err(|_| unexpected())
    }

    /// Runs a command that is to be refused, and returns the kind of the error.
    pub fn refusal_of(&self, words: &str) -> Result<String> {
        let mut command = self.command(words);
        let output = command.output().map_err(Error::file("start", target::sibling(PROGRAM)))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let error: Option<Value> = serde_json::from_str(&said).ok();
        match error.as_ref().and_then(|error| error["error"]["kind"].as_str()) {
            Some(kind) if !output.status.success() => Ok(kind.to_owned()),
            _ => Err(Error::Unexpected { command: words.to_owned(), value: said }),
        }
    }

    /// Bytes that hosts have written to the one namespace of the target since it was started.
    pub fn written_bytes(&self) -> Result<u64> {
        let counters = self.run("counters list")?;
        let written = counters["namespaces"][0]["written_bytes"].as_u64();
        let unexpected = || Error::Unexpected {
            command: String::from("counters list"),
            value: counters.to_string(),
        };
        written.ok_or_else(unexpected)
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(target::sibling(PROGRAM));
        command.args(["--server", &format!("unix:{}", self.socket.display()), "-o", "json"]);
        command.args(words.split_whitespace());
        command
    }
}

impl Default for Client {
    fn default() -> Client {
        Client::new()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A target that was killed leaves its socket behind, and the file that guards it.
        let _ = std::fs::remove_file(&self.socket);
        let mut lock = self.socket.clone().into_os_string();
        lock.push(".lock");
        let _ = std::fs::remove_file(lock);
    }
}
