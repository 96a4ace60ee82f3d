//! The agent: the only program of ours that is always in the guest.
//!
//! It is started by the guest's init, says hello over the virtio-serial port named `agent`, and
//! runs the commands that come in there, one at a time, with `/bin/sh -c`. It uses nothing but
//! std, because the image builder compiles it, static, with rustc alone.

mod wire;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use wire::Kind;

/// Name that the host gives the port.
const PORT_NAME: &str = "agent";
/// How often, and how long, the port is looked for: the driver may still be probing.
const PORT_TRIES: u32 = 500;
const PORT_PAUSE: Duration = Duration::from_millis(10);
/// A command's output counts as complete when its pipes are closed, or, where a process that it
/// left behind keeps them open, when nothing has come for this long after its end.
const QUIET: Duration = Duration::from_millis(100);
/// Exit code of a command that could not be started, as in a shell.
const CODE_NOT_STARTED: i32 = 127;
/// Exit code of a command ended by a signal: this plus the signal, as in a shell.
const CODE_SIGNAL_BASE: i32 = 128;

fn main() -> io::Result<()> {
    let mut port = open_port()?;
    let sender = Arc::new(Mutex::new(port.try_clone()?));
    emit(&sender, 0, Kind::Hello, &[]);
    let mut pending = Vec::new();
    // Process group of the command that runs, kept so that it can be killed. Zero: none.
    let group = Arc::new(AtomicU64::new(0));
    loop {
        let frame = match wire::receive(&mut port, &mut pending) {
            Ok(frame) => frame,
            // A port reads as ended while nobody on the host holds its other side.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                thread::sleep(PORT_PAUSE);
                continue;
            }
            Err(error) => return Err(error),
        };
        match frame.kind {
            Kind::Run => {
                let text = String::from_utf8_lossy(&frame.payload).into_owned();
                let (sender, group) = (Arc::clone(&sender), Arc::clone(&group));
                thread::spawn(move || run(&sender, &group, frame.command, &text));
            }
            Kind::Kill => kill_group(group.load(Ordering::SeqCst)),
            Kind::Hello | Kind::Stdout | Kind::Stderr | Kind::Exit => {}
        }
    }
}

/// Opens the port by its name; devtmpfs only has it by number.
fn open_port() -> io::Result<File> {
    for _ in 0..PORT_TRIES {
        if let Some(path) = find_port() {
            return OpenOptions::new().read(true).write(true).open(path);
        }
        thread::sleep(PORT_PAUSE);
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no virtio-serial port for the agent"))
}

fn find_port() -> Option<PathBuf> {
    let mut ports = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
    let entry = ports.find(|entry| {
        let name = fs::read_to_string(entry.path().join("name"));
        name.is_ok_and(|name| name.trim() == PORT_NAME)
    })?;
    let device = PathBuf::from("/dev").join(entry.file_name());
    device.exists().then_some(device)
}

/// Sends a frame. When the host is gone there is nobody left to tell.
fn emit(sender: &Mutex<File>, command: u32, kind: Kind, payload: &[u8]) {
    if let Ok(mut port) = sender.lock() {
        let _ = wire::send(&mut *port, command, kind, payload);
    }
}

fn run(sender: &Arc<Mutex<File>>, group: &AtomicU64, command: u32, text: &str) {
    let code = match start(text) {
        Ok(child) => follow(sender, group, command, child),
        Err(error) => {
            let message = format!("agent: cannot start a shell: {error}\n");
            emit(sender, command, Kind::Stderr, message.as_bytes());
            CODE_NOT_STARTED
        }
    };
    emit(sender, command, Kind::Exit, &code.to_le_bytes());
}

fn start(text: &str) -> io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", text])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// Passes on what the command writes until it has ended and its output is through.
fn follow(sender: &Arc<Mutex<File>>, group: &AtomicU64, command: u32, mut child: Child) -> i32 {
    group.store(u64::from(child.id()), Ordering::SeqCst);
    let (done_sender, done) = mpsc::channel();
    let passed_bytes = Arc::new(AtomicU64::new(0));
    let mut open = 0;
    let stdout = child.stdout.take().map(|pipe| (Kind::Stdout, Box::new(pipe) as Box<_>));
    let stderr = child.stderr.take().map(|pipe| (Kind::Stderr, Box::new(pipe) as Box<_>));
    for (kind, pipe) in [stdout, stderr].into_iter().flatten() {
        let (sender, done, passed) =
            (Arc::clone(sender), done_sender.clone(), passed_bytes.clone());
        thread::spawn(move || {
            forward(&sender, command, kind, pipe, &passed);
            let _ = done.send(());
        });
        open += 1;
    }
    let status = child.wait();
    group.store(0, Ordering::SeqCst);
    let mut seen_bytes = passed_bytes.load(Ordering::SeqCst);
    while open > 0 {
        if done.recv_timeout(QUIET).is_ok() {
            open -= 1;
            continue;
        }
        let now_bytes = passed_bytes.load(Ordering::SeqCst);
        if now_bytes == seen_bytes {
            break;
        }
        seen_bytes = now_bytes;
    }
    status.map_or(CODE_NOT_STARTED, code_of)
}

fn forward(
    sender: &Mutex<File>,
    command: u32,
    kind: Kind,
    mut pipe: Box<dyn Read + Send>,
    passed_bytes: &AtomicU64,
) {
    let mut chunk = [0; 32 * 1024];
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return,
            Ok(len) => {
                emit(sender, command, kind, &chunk[..len]);
                passed_bytes.fetch_add(len as u64, Ordering::SeqCst);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn code_of(status: ExitStatus) -> i32 {
    let by_signal = || status.signal().map_or(CODE_NOT_STARTED, |signal| CODE_SIGNAL_BASE + signal);
    status.code().unwrap_or_else(by_signal)
}

/// Kills a process group through busybox: std has no call for it.
fn kill_group(group: u64) {
    if group != 0 {
        let target = format!("-{group}");
        let _ = Command::new("/bin/busybox").args(["kill", "-9", "--", &target]).status();
    }
}
