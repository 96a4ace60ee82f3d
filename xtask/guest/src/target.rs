//! The target under test: `mayastor target`, started on the host as a user would start it.
//!
//! A test knows it by its command line and its first line of output, the `nvme connect` command
//! ready to paste, and by nothing else.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::HOST_ADDRESS;
use crate::console::Console;
use crate::error::{Error, Result};
use crate::nvme::Endpoint;
use crate::process;

/// Environment variable that names another binary.
const BINARY_VARIABLE: &str = "MAYASTOR_BINARY";
/// Time for the first line. The promise is 0.3 s; this is for a machine with other work.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Time for the end after a request. The promise is a second; a test that checks it measures.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A running target, killed when the value is dropped.
#[derive(Debug)]
pub struct Target {
    child: Child,
    command: String,
    connect_line: String,
    endpoint: Endpoint,
    log: Console,
}

impl Target {
    /// Starts a target on the host's loopback with the given port, zero for a free one, and waits
    /// until it accepts connections. `arguments` are further ones of `mayastor target`.
    pub fn start(port: u16, arguments: &[&str]) -> Result<Target> {
        Target::launch(Command::new(binary()), port, arguments)
    }

    /// The same, in surroundings that a shell script prepares: the script runs first, in a file
    /// system name space of its own, and then becomes the target.
    pub fn start_after(script: &str, port: u16, arguments: &[&str]) -> Result<Target> {
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let script = format!("set -e; {script}; exec \"$0\" \"$@\"");
        command.args(["--mount", "sh", "-c", &script]).arg(binary());
        Target::launch(command, port, arguments)
    }

    fn launch(mut command: Command, port: u16, arguments: &[&str]) -> Result<Target> {
        command.args(["target", "--addr", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--advertise", HOST_ADDRESS, "--quiet"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let text = format!("{command:?}");
        let log = Console::default();
        let failed = |reason: String, log: &Console| Error::Target {
            command: text.clone(),
            reason,
            log: log.tail(),
        };
        let mut child = process::spawn(command, Vec::new())
            .map_err(|error| failed(format!("{error}; build it with --release first"), &log))?;
        if let Some(messages) = child.stderr.take() {
            log.follow(messages);
        }
        let line = first_line(&mut child, &log).and_then(|line| match parse(&line) {
            Some(endpoint) => Ok((line, endpoint)),
            None => Err(format!("its first line is `{line}`")),
        });
        match line {
            Ok((connect_line, endpoint)) => {
                Ok(Target { child, command: text, connect_line, endpoint, log })
            }
            Err(reason) => {
                let _ = child.kill();
                let _ = child.wait();
                log.settle();
                Err(failed(reason, &log))
            }
        }
    }

    /// Where a guest finds it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What it printed first.
    pub fn connect_line(&self) -> &str {
        &self.connect_line
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything else that it printed.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end with SIGTERM; returns its exit status and how long that took.
    pub fn terminate(mut self) -> Result<(ExitStatus, Duration)> {
        let begin = Instant::now();
        let pid = i32::try_from(self.child.id()).expect("a process id fits");
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        while begin.elapsed() < END_LIMIT {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Ok((status, begin.elapsed()));
            }
            thread::sleep(Duration::from_millis(1));
        }
        let reason = format!("no end within {END_LIMIT:?} of SIGTERM");
        Err(Error::Target { command: self.command.clone(), reason, log: self.log.tail() })
    }

    /// Kills it, as a crash would.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The release build of this workspace, unless [`BINARY_VARIABLE`] names another. Tests lie in
/// `target/PROFILE/deps`.
fn binary() -> PathBuf {
    if let Some(path) = env::var_os(BINARY_VARIABLE) {
        return PathBuf::from(path);
    }
    let own = env::current_exe().unwrap_or_default();
    own.ancestors().nth(3).unwrap_or(&own).join("release/mayastor")
}

/// Another program of the same build.
pub(crate) fn sibling(name: &str) -> PathBuf {
    binary().with_file_name(name)
}

/// Reads the first line of standard output; what follows goes to the log.
fn first_line(child: &mut Child, log: &Console) -> std::result::Result<String, String> {
    let stdout = child.stdout.take().expect("the output is a pipe");
    let (sender, line) = mpsc::channel();
    let log = log.clone();
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        let _ = reader.read_line(&mut line);
        let _ = sender.send(line);
        log.follow(reader);
    });
    match line.recv_timeout(READY_LIMIT) {
        Ok(line) if line.is_empty() => Err(match child.wait() {
            Ok(status) => format!("it ended at once: {status}"),
            Err(error) => error.to_string(),
        }),
        Ok(line) => Ok(line.trim_end().to_owned()),
        Err(_) => Err(format!("nothing printed within {READY_LIMIT:?}")),
    }
}

/// Takes port and name out of `nvme connect -t tcp -a ADDRESS -s PORT -n NQN`.
fn parse(line: &str) -> Option<Endpoint> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if words.first_chunk() != Some(&["nvme", "connect", "-t", "tcp"]) {
        return None;
    }
    let value_of = |option: &str| {
        let at = words.iter().position(|word| *word == option)?;
        words.get(at + 1).copied()
    };
    value_of("-a")?;
    Some(Endpoint {
        address: HOST_ADDRESS.to_owned(),
        port: value_of("-s")?.parse().ok()?,
        nqn: value_of("-n")?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_port_and_subsystem() {
        let endpoint = parse("nvme connect -t tcp -a 127.0.0.1 -s 4420 -n nqn.x:y").unwrap();
        assert_eq!((endpoint.port, endpoint.nqn.as_str()), (4420, "nqn.x:y"));
        assert_eq!(endpoint.address, HOST_ADDRESS);
    }

    #[test]
    fn any_other_first_line_is_refused() {
        for line in ["", "listening", "nvme connect -t tcp -a 1.2.3.4 -s many -n x", "nvme connect"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
