//! A volume's record that a program keeps: a command reads it and swaps it.
//!
//! Asked on the thread that a volume has for its record, never on a core. The command is given to
//! `/bin/sh -c` in a process group of its own, which is killed when it takes too long. What it must
//! do is docs/FORMATS.md, "Record command". Whatever goes wrong says nothing of the record: a
//! program that fails, or answers with anything but a whole record, is out of reach, never empty.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nexus::truth::names::{RecordId, VoterHalf};
use nexus::truth::record::{RECORD_BYTES, Record, RecordError, RecordPage};
use nexus::truth::tracked::RECORD_TIMEOUT;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long the command may take, each time.
pub const RECORD_COMMAND_TIMEOUT: Duration = Duration::from_secs(4);

// A question to the record takes two runs: it is read, then swapped.
const _: () = assert!(2 * RECORD_COMMAND_TIMEOUT.as_nanos() < RECORD_TIMEOUT.0 as u128);

/// How often it is looked whether the command has ended, once it has said all.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// The exit status with which a swap says that the record has changed.
const CHANGED: i32 = 1;

/// See the module.
#[derive(Debug)]
pub struct CommandRecord {
    command: String,
    page: RecordPage,
    timeout: Duration,
    /// What was read last, as it was and as it is meant.
    last: (Box<[u8; RECORD_BYTES]>, VoterHalf),
}

impl CommandRecord {
    /// The record that `command` keeps; it is not run before it is asked.
    pub fn new(command: &str, page: RecordPage) -> CommandRecord {
        CommandRecord {
            command: command.to_owned(),
            page,
            timeout: RECORD_COMMAND_TIMEOUT,
            last: (Box::new([0; RECORD_BYTES]), VoterHalf::default()),
        }
    }

    fn failed(&self, what: &str) -> RecordError {
        RecordError::Program(format!("the command `{}` {what}", self.command))
    }

    /// Runs the command; what it said, and its exit status.
    fn run(&self, verb: &str, input: Vec<u8>) -> Result<(Vec<u8>, i32), RecordError> {
        let begun = Instant::now();
        let spawned = Command::new("/bin/sh")
            .arg("-c")
            .arg(&self.command)
            .env("MAYASTOR_RECORD", verb)
            .env("MAYASTOR_VOLUME", self.page.nexus().0.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn();
        let mut child = spawned.map_err(|error| self.failed(&format!("cannot be run: {error}")))?;
        let said = talk(&mut child, input);
        let left = || self.timeout.saturating_sub(begun.elapsed());
        let output = said.ok().and_then(|said| said.recv_timeout(left()).ok());
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if output.is_some() && !left().is_zero() => thread::sleep(LOOK_INTERVAL),
                Ok(None) | Err(_) => break None,
            }
        };
        // Whatever it has started goes with it.
        let group = i32::try_from(child.id()).expect("a process has a number");
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        let (Some(output), Some(status)) = (output, status) else {
            let _ = child.wait();
            let within = self.timeout.as_secs_f32();
            return Err(self.failed(&format!("does not answer within {within} s")));
        };
        let code = status.code().ok_or_else(|| self.failed("was killed"))?;
        Ok((output, code))
    }
}

/// Gives a command its input, and hears what it says: both on threads, as pipes have an end.
fn talk(child: &mut Child, input: Vec<u8>) -> std::io::Result<Receiver<Vec<u8>>> {
    let mut stdin = child.stdin.take().expect("it was asked for");
    let stdout = child.stdout.take().expect("it was asked for");
    let (says, said) = channel();
    // One that does not listen says so by its exit status.
    thread::Builder::new().spawn(move || drop(stdin.write_all(&input)))?;
    thread::Builder::new().spawn(move || {
        let mut output = Vec::new();
        // One byte more than there may be shows that there were too many.
        if stdout.take(RECORD_BYTES as u64 + 1).read_to_end(&mut output).is_ok() {
            let _ = says.send(output);
        }
    })?;
    Ok(said)
}

impl Record for CommandRecord {
    fn id(&self) -> RecordId {
        self.page.id()
    }

    fn read(&mut self) -> Result<VoterHalf, RecordError> {
        let (output, code) = self.run("read", Vec::new())?;
        if code != 0 {
            return Err(self.failed(&format!("fails to read it, with status {code}")));
        }
        let len = output.len();
        let whole = Box::<[u8; RECORD_BYTES]>::try_from(output.into_boxed_slice());
        let Ok(bytes) = whole else {
            return Err(self.failed(&format!("says {len} bytes, not {RECORD_BYTES}")));
        };
        let half = self.page.decode(&bytes[..])?;
        self.last = (bytes, half.clone());
        Ok(half)
    }

    fn swap(&mut self, expected: &VoterHalf, new: &VoterHalf) -> Result<(), RecordError> {
        if self.last.1 != *expected {
            return Err(RecordError::Changed);
        }
        let new_bytes = self.page.encode(new);
        let input = [&self.last.0[..], &new_bytes[..]].concat();
        match self.run("swap", input)?.1 {
            0 => {
                self.last = (new_bytes, new.clone());
                Ok(())
            }
            CHANGED => Err(RecordError::Changed),
            code => Err(self.failed(&format!("fails to swap it, with status {code}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use nexus::truth::names::{Generation, NexusId, Promise};
    use nexus::truth::record::claim;
    use uuid::Uuid;

    use super::*;

    fn record(command: &str) -> CommandRecord {
        let (id, nexus) = (RecordId(Uuid::from_u128(1)), NexusId(Uuid::from_u128(2)));
        CommandRecord::new(command, RecordPage::new(id, nexus))
    }

    fn promise(counter: u64) -> Promise {
        let generation = Generation { counter, owner: Uuid::from_u128(7) };
        Promise { generation, host: Uuid::nil() }
    }

    /// A program that keeps the record in a file.
    fn keeper(path: &std::path::Path) -> String {
        let path = path.display();
        format!(
            "case $MAYASTOR_RECORD in \
             read) cat {path};; \
             swap) head -c {RECORD_BYTES} | cmp -s - {path} || exit 1; exit 3;; \
             esac"
        )
    }

    #[test]
    fn a_program_that_fails_is_out_of_reach_and_never_empty() {
        let error = |command: &str| record(command).read().unwrap_err().to_string();
        assert!(error("exit 0").contains("says 0 bytes"), "{}", error("exit 0"));
        assert!(error("head -c 4096 /dev/zero; exit 2").contains("status 2"));
        assert!(error("head -c 4097 /dev/zero").contains("says 4097 bytes"));
        assert!(error("head -c 4096 /dev/zero | tr '\\0' x").contains("damaged"));
        assert!(error("kill -9 $$").contains("was killed"));
        assert!(record("head -c 4096 /dev/zero").read().unwrap().is_empty());
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_all_it_has_started() {
        let mut slow = record("sleep 1000 | cat");
        slow.timeout = Duration::from_millis(50);
        let begun = Instant::now();
        assert!(slow.read().unwrap_err().to_string().contains("does not answer"));
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_swap_carries_what_was_read_and_what_is_to_be() {
        let path = std::env::temp_dir().join(format!("record-command-{}", std::process::id()));
        std::fs::write(&path, [0; RECORD_BYTES]).unwrap();
        let mut record = record(&keeper(&path));
        let error = claim(&mut record, promise(1)).unwrap_err().to_string();
        assert!(error.contains("status 3"), "it has compared well: {error}");
        std::fs::write(&path, [1; RECORD_BYTES]).unwrap();
        let nothing = VoterHalf::default();
        let swapped = record.swap(&nothing, &nothing);
        assert!(matches!(swapped, Err(RecordError::Changed)));
        std::fs::remove_file(&path).unwrap();
    }
}
