//! A running guest: boot, commands, end.
//!
//! One thread at a time uses a guest. Commands run one after another, each with a limit of its
//! own; a command that does not end is killed, and if not even that helps, so is the guest.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::builder::{Builder, Channels};
use crate::console::Console;
use crate::error::{Error, Result};
use crate::files;
use crate::image::GuestImage;
use crate::process;
use crate::qmp::Qmp;
use crate::wire::{self, Frame, Kind, PAYLOAD_MAX_BYTES};

/// Time for the agent to say hello: 5 s on an idle host, and tests share theirs.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// A guest that dies before the agent's hello is started again, as emulation has its accidents; one
/// that has begun with a test never is.
const BOOT_TRIES: u32 = 2;
/// Time for a command to die once it is killed.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Debian's package with the emulator.
const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");

/// What a command in the guest left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code, or 128 and the number of the signal that ended it.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the command says that it succeeded.
    pub fn is_success(&self) -> bool {
        self.code == 0
    }
}

/// A machine that runs until this value is dropped or this process ends.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    agent: UnixStream,
    /// Bytes from the agent that are no whole frame yet.
    pending: Vec<u8>,
    qmp: Qmp,
    console: Console,
    commands: u32,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Alive,
    /// It died, or was killed because it no longer answered.
    Dead,
}

/// How waiting for the agent can end without a frame.
enum Silence {
    Closed,
    TimeOut,
}

impl Guest {
    /// Describes a machine with the given image.
    pub fn builder(image: &GuestImage) -> Builder {
        Builder::new(image)
    }

    pub(crate) fn boot(builder: &Builder) -> Result<Guest> {
        let mut tries_left = BOOT_TRIES;
        loop {
            tries_left -= 1;
            match Guest::start(builder).and_then(Guest::wait_for_hello) {
                Err(Error::Boot { .. }) if tries_left > 0 => {}
                result => return result,
            }
        }
    }

    fn start(builder: &Builder) -> Result<Guest> {
        let (qemu, package) = QEMU;
        let program = files::find_program(qemu)
            .ok_or_else(|| Error::Missing { what: qemu.to_owned(), package: package.to_owned() })?;
        let socket = Error::file("open a socket for", &program);
        let pairs = || -> io::Result<[(UnixStream, UnixStream); 3]> {
            Ok([UnixStream::pair()?, UnixStream::pair()?, UnixStream::pair()?])
        };
        let [(agent, agent_end), (qmp, qmp_end), (serial, serial_end)] = pairs().map_err(socket)?;
        let ends = [agent_end, qmp_end, serial_end].map(OwnedFd::from);
        let [agent_number, qmp_number, console_number] =
            [0, 1, 2].map(|index| process::number_of(&ends[index]));
        let channels = Channels { agent: agent_number, qmp: qmp_number, console: console_number };
        let mut command = Command::new(&program);
        command.args(builder.arguments(channels));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child =
            process::spawn(command, Vec::from(ends)).map_err(Error::file("start", &program))?;
        let console = Console::default();
        console.follow(serial);
        if let Some(messages) = child.stderr.take() {
            console.follow(messages);
        }
        let qmp = Qmp::new(qmp);
        let state = State::Alive;
        Ok(Guest { child, agent, pending: Vec::new(), qmp, console, commands: 0, state })
    }

    fn wait_for_hello(mut self) -> Result<Guest> {
        let deadline = Instant::now() + BOOT_LIMIT;
        let reason = match self.next_frame(deadline) {
            Ok(Frame { kind: Kind::Hello, .. }) => return Ok(self),
            Ok(frame) => format!("its agent began with {:?}", frame.kind),
            Err(Silence::Closed) => format!("QEMU ended ({})", self.end()),
            Err(Silence::TimeOut) => format!("no word from its agent within {BOOT_LIMIT:?}"),
        };
        Err(Error::Boot { reason, log: self.console.tail() })
    }

    /// Runs `command` with `/bin/sh -c`, as root, without standard input, and waits for its end.
    /// A command that takes longer than `limit` is killed, and is an error with what it wrote.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Output> {
        assert!(command.len() <= PAYLOAD_MAX_BYTES, "a command of {} bytes", command.len());
        if self.state == State::Dead {
            return Err(self.died(command));
        }
        self.commands += 1;
        let number = self.commands;
        if wire::send(&mut self.agent, number, Kind::Run, command.as_bytes()).is_err() {
            return Err(self.died(command));
        }
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let ended = self.collect(number, Instant::now() + limit, &mut stdout, &mut stderr);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match ended {
            Ok(code) => Ok(Output { code, stdout: text(&stdout), stderr: text(&stderr) }),
            Err(Silence::Closed) => Err(self.died(command)),
            Err(Silence::TimeOut) => {
                self.kill_command(number, &mut stdout, &mut stderr);
                Err(Error::Timeout {
                    command: command.to_owned(),
                    limit,
                    stdout: text(&stdout),
                    stderr: text(&stderr),
                    log: self.console.tail(),
                })
            }
        }
    }

    /// Runs a command that must succeed, and returns its standard output.
    pub fn run_ok(&mut self, command: &str, limit: Duration) -> Result<String> {
        let output = self.run(command, limit)?;
        if output.is_success() {
            return Ok(output.stdout);
        }
        let Output { code, stdout, stderr } = output;
        let log = self.console.tail();
        Err(Error::Command { command: command.to_owned(), code, stdout, stderr, log })
    }

    /// Everything that kernel and emulator have said.
    pub fn console(&self) -> String {
        self.console.text()
    }

    /// Sends QEMU one request, `device_add` for example, and returns its answer.
    pub fn qmp(&mut self, request: &str, arguments: &Value) -> Result<Value> {
        let answer = self.qmp.request(request, arguments);
        self.unless_dead(request, answer)
    }

    /// Waits for an event of QEMU, `DEVICE_DELETED` for example.
    pub fn wait_event(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let event = self.qmp.wait_event(name, limit);
        self.unless_dead(name, event)
    }

    /// Whether it still takes commands.
    pub fn is_alive(&mut self) -> bool {
        self.state == State::Alive && matches!(self.child.try_wait(), Ok(None))
    }

    /// Process id of QEMU.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn collect(
        &mut self,
        number: u32,
        deadline: Instant,
        stdout: &mut Vec<u8>,
        stderr: &mut Vec<u8>,
    ) -> std::result::Result<i32, Silence> {
        loop {
            let frame = self.next_frame(deadline)?;
            if frame.command != number {
                continue;
            }
            match frame.kind {
                Kind::Stdout => stdout.extend_from_slice(&frame.payload),
                Kind::Stderr => stderr.extend_from_slice(&frame.payload),
                Kind::Exit => {
                    let code = frame.payload.try_into().map_or(-1, i32::from_le_bytes);
                    return Ok(code);
                }
                Kind::Hello | Kind::Run | Kind::Kill => {}
            }
        }
    }

    fn kill_command(&mut self, number: u32, stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) {
        let sent = wire::send(&mut self.agent, number, Kind::Kill, &[]).is_ok();
        let deadline = Instant::now() + KILL_LIMIT;
        if !sent || self.collect(number, deadline, stdout, stderr).is_err() {
            // Stuck in the kernel: nothing that this guest does from here on can be trusted.
            self.end();
        }
    }

    fn next_frame(&mut self, deadline: Instant) -> std::result::Result<Frame, Silence> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Silence::TimeOut);
            }
            self.agent.set_read_timeout(Some(left)).map_err(|_| Silence::Closed)?;
            match wire::receive(&mut self.agent, &mut self.pending) {
                Ok(frame) => return Ok(frame),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Silence::Closed),
            }
        }
    }

    /// A request that QEMU itself did not survive is reported with its last words.
    fn unless_dead(&mut self, doing: &str, result: Result<Value>) -> Result<Value> {
        match result {
            Err(error) if error.is_closed_socket() => Err(self.died(doing)),
            other => other,
        }
    }

    fn died(&mut self, doing: &str) -> Error {
        let status = self.end();
        let log = format!("{}\nQEMU: {status}", self.console.tail());
        Error::Died { doing: doing.to_owned(), log }
    }

    /// Kills QEMU, if it is still there, and says how it ended.
    fn end(&mut self) -> String {
        self.state = State::Dead;
        let _ = self.agent.shutdown(Shutdown::Both);
        // Signals go to a child that was not waited for yet, so the id cannot be another's.
        let _ = self.child.kill();
        let status = self.child.wait();
        self.console.settle();
        status.map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
    }
}
