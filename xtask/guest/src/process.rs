//! Starting QEMU so that it cannot outlive the test that wants it.
//!
//! The kernel is asked to kill the child when its parent ends, however it ends. That request is
//! tied to the thread that forked, and test threads come and go, so one thread of this process
//! does all the forking and stays to the end.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl;
use nix::sys::signal::Signal;

struct Request {
    command: Command,
    answer: Sender<io::Result<Child>>,
}

/// Starts `command` with the descriptors of `inherited` open under their present numbers. The
/// child is killed when this process ends.
pub fn spawn(mut command: Command, inherited: Vec<OwnedFd>) -> io::Result<Child> {
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are
    // allowed: it makes two plain system calls and neither allocates nor takes a lock. The
    // descriptors stay open for its whole life because the closure owns them.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            for descriptor in &inherited {
                fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            Ok(())
        });
    }
    let (answer, answered) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    let spawner = spawner().lock().unwrap_or_else(PoisonError::into_inner);
    spawner.send(Request { command, answer }).map_err(|_| gone())?;
    drop(spawner);
    answered.recv().map_err(|_| gone())?
}

/// Number under which an inherited descriptor is known to the child.
pub fn number_of(descriptor: &OwnedFd) -> i32 {
    descriptor.as_raw_fd()
}

fn spawner() -> &'static Mutex<Sender<Request>> {
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for mut request in requests {
                let child = request.command.spawn();
                // The command owns the inherited descriptors; here is where they are closed.
                drop(request.command);
                let _ = request.answer.send(child);
            }
        });
        Mutex::new(sender)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_child_survives_the_thread_that_asked_for_it_and_sees_its_descriptor() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        let mut command = Command::new("sh");
        let script = format!("sleep 0.2; echo alive >&{}", number_of(&theirs));
        command.args(["-c", &script]);
        let mut child =
            thread::spawn(move || spawn(command, vec![theirs]).unwrap()).join().unwrap();
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "alive\n");
        assert!(child.wait().unwrap().success());
    }
}
