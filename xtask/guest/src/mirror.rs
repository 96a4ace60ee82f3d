//! A nexus under test: `mayastor target --mirror` over replicas, and a client that looks at it.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::nvme::Endpoint;
use crate::replica::Replica;
use crate::target::Target;

/// Time for what the nexus does on its own: a child that comes back and is rebuilt.
const LIMIT: Duration = Duration::from_secs(60);
/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(50);
/// The name that the nexus gets on the command line.
const NAME: &str = "volume";

/// A process with a nexus, killed when the value is dropped. It can be started again at the same
/// port, and hosts take it for the same volume then.
#[derive(Debug)]
pub struct Mirror {
    client: Client,
    nqn: String,
    port: u16,
    target: Option<Target>,
}

impl Mirror {
    /// Starts a process at a free port of the loopback.
    pub fn start(nqn: &str, replicas: &[&Replica]) -> Result<Mirror> {
        let mut mirror =
            Mirror { client: Client::new(), nqn: nqn.to_owned(), port: 0, target: None };
        mirror.start_again(replicas)?;
        Ok(mirror)
    }

    /// Starts the process again, where it was before, with these replicas.
    pub fn start_again(&mut self, replicas: &[&Replica]) -> Result<()> {
        self.kill();
        let uris: Vec<String> = replicas.iter().map(|replica| replica.uri()).collect();
        let control = self.client.option();
        let mut arguments = vec!["--nqn", &self.nqn, &control, "--mirror-name", NAME, "--mirror"];
        arguments.extend(uris.iter().map(String::as_str));
        let target = Target::start(self.port, &arguments)?;
        self.port = target.endpoint().port;
        self.target = Some(target);
        Ok(())
    }

    /// Kills the process, as a crash would.
    pub fn kill(&mut self) {
        self.target = None;
    }

    /// Asks the process to end, and waits for that.
    pub fn end(mut self) -> Result<()> {
        if let Some(target) = self.target.take() {
            target.terminate()?;
        }
        Ok(())
    }

    /// Where a guest finds it.
    pub fn endpoint(&self) -> &Endpoint {
        self.target().endpoint()
    }

    /// What the process said.
    pub fn log(&self) -> String {
        self.target().log()
    }

    fn target(&self) -> &Target {
        self.target.as_ref().expect("the nexus runs")
    }

    /// The nexus as `mayastor-client nexus list` shows it.
    pub fn look(&self) -> Result<Value> {
        let mut list = self.client.run("nexus list")?;
        let found = list["nexuses"].as_array_mut().and_then(Vec::pop);
        found.ok_or_else(|| unexpected("nexus list", &list))
    }

    /// A replica as the nexus sees it.
    pub fn child(&self, replica: &Replica) -> Result<Value> {
        let nexus = self.look()?;
        let uri = replica.uri();
        let mut children = nexus["children"].as_array().into_iter().flatten();
        let child = children.find(|child| child["uri"] == uri.as_str());
        child.cloned().ok_or_else(|| unexpected(&uri, &nexus))
    }

    /// Waits until a replica is in this state; returns how long that took.
    pub fn wait_for_child(&self, replica: &Replica, state: &str) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            let child = self.child(replica)?;
            if child["state"] == state {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > LIMIT {
                let what = format!("{state}: {}", replica.uri());
                return Err(unexpected(&what, &self.look()?));
            }
            thread::sleep(INTERVAL);
        }
    }

    /// Gives a command for a child, such as `offline`.
    pub fn tell(&self, command: &str, replica: &Replica) -> Result<Value> {
        self.client.run(&format!("nexus {command} {NAME} {}", replica.uri()))
    }

    /// Waits until the volume says why it is not open; what it says.
    pub fn wait_for_refusal(&self) -> Result<String> {
        let begin = Instant::now();
        loop {
            let nexus = self.look()?;
            if let Some(words) = nexus["refusal"].as_str() {
                return Ok(words.to_owned());
            }
            if begin.elapsed() > LIMIT {
                return Err(unexpected("a refusal", &nexus));
            }
            thread::sleep(INTERVAL);
        }
    }

    /// Bytes that hosts have written since the process was started.
    pub fn written_bytes(&self) -> Result<u64> {
        self.client.written_bytes()
    }

    /// What came of the rebuilds so far, oldest first.
    pub fn history(&self) -> Result<Vec<Value>> {
        let mut list = self.client.run(&format!("rebuild list {NAME}"))?;
        match list["history"].take() {
            Value::Array(records) => Ok(records),
            other => Err(unexpected("rebuild list", &other)),
        }
    }
}

fn unexpected(command: &str, value: &Value) -> Error {
    Error::Unexpected { command: command.to_owned(), value: value.to_string() }
}
