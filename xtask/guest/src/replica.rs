//! A replica of a nexus under test: a target of its own that serves a file of the host.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::Client;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::target::Target;

/// What the label takes, before the data.
const LABEL_BYTES: u64 = 2 << 20;
/// Bytes of a file that are written or compared at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A file, and the process that serves it. It is killed when the value is dropped, and the file
/// goes as well.
#[derive(Debug)]
pub struct Replica {
    disk: Disk,
    nqn: String,
    port: u16,
    client: Client,
    target: Option<Target>,
}

impl Replica {
    /// Makes a file in `directory`, which for a test is `CARGO_TARGET_TMPDIR`, and serves it at a
    /// free port of the loopback. Room for a label is blank, and after it come `size_mib` full of
    /// one byte. The name is good for one process.
    pub fn start(directory: &str, name: &str, size_mib: u64, fill: u8) -> Result<Replica> {
        let disk = Disk::create(directory, name, LABEL_BYTES / CHUNK_BYTES as u64 + size_mib)?;
        if fill != 0 {
            let write = |file: File| {
                let chunk = vec![fill; CHUNK_BYTES];
                let chunks = (0..size_mib).map(|number| LABEL_BYTES + number * (1 << 20));
                chunks.into_iter().try_for_each(|at| file.write_all_at(&chunk, at))
            };
            let written = File::options().write(true).open(disk.path()).and_then(write);
            written.map_err(Error::file("write", disk.path()))?;
        }
        let nqn = format!("nqn.2026-01.example:replica-{name}");
        let mut replica = Replica { disk, nqn, port: 0, client: Client::new(), target: None };
        replica.start_again()?;
        Ok(replica)
    }

    /// Serves the file again, where it was served before.
    pub fn start_again(&mut self) -> Result<()> {
        self.kill();
        let (disk, control) = (self.disk.uri("uring"), self.client.option());
        let target = Target::start(self.port, &[&disk, "--nqn", &self.nqn, &control])?;
        self.port = target.endpoint().port;
        self.target = Some(target);
        Ok(())
    }

    /// What a nexus is told of it.
    pub fn uri(&self) -> String {
        format!("nvmf://127.0.0.1:{}/{}", self.port, self.nqn)
    }

    /// Kills the process, as a crash would.
    pub fn kill(&mut self) {
        self.target = None;
    }

    /// Stops the process where it is: it answers nothing, and its connections stay.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets the process go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let target = self.target.as_ref().expect("it is served");
        let pid = i32::try_from(target.pid()).expect("a process id fits");
        kill(Pid::from_raw(pid), signal).expect("the process is ours and not waited for yet");
    }

    /// Bytes written to it since the process was started.
    pub fn written_bytes(&self) -> Result<u64> {
        self.client.written_bytes()
    }

    /// The first byte of the file, if any, in which this one and another hold other data. Their
    /// labels are not compared: those differ.
    pub fn difference(&self, other: &Replica) -> Result<Option<u64>> {
        difference(self.disk.path(), other.disk.path(), LABEL_BYTES)
    }
}

/// The first byte at or after `from` that two files do not have in common; their ends count.
fn difference(one: &Path, other: &Path, from: u64) -> Result<Option<u64>> {
    let mut chunks = [vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]];
    let files = [open(one)?, open(other)?];
    let mut at = from;
    loop {
        let mut lens = [0; 2];
        for (place, path) in [one, other].into_iter().enumerate() {
            let read = read_up_to(&files[place], &mut chunks[place], at);
            lens[place] = read.map_err(Error::file("read", path))?;
        }
        let common = lens[0].min(lens[1]);
        let mut pairs = chunks[0][..common].iter().zip(&chunks[1][..common]);
        if let Some(place) = pairs.position(|(one, other)| one != other) {
            return Ok(Some(at + place as u64));
        }
        if lens[0] != lens[1] {
            return Ok(Some(at + common as u64));
        }
        if common == 0 {
            return Ok(None);
        }
        at += common as u64;
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(Error::file("open", path))
}

/// Fills the chunk as far as the file goes.
fn read_up_to(file: &File, chunk: &mut [u8], at: u64) -> std::io::Result<usize> {
    let mut len = 0;
    while len < chunk.len() {
        match file.read_at(&mut chunk[len..], at + len as u64)? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_differs_is_found_wherever_it_is() {
        let directory = std::env::temp_dir();
        let directory = directory.to_str().unwrap();
        let [one, other] = ["difference-one", "difference-other"]
            .map(|name| Disk::create(directory, name, 3).unwrap());
        let found = |from| difference(one.path(), other.path(), from).unwrap();
        assert_eq!(found(0), None);
        let at = (2 << 20) + 17;
        let file = File::options().write(true).open(other.path()).unwrap();
        file.write_all_at(&[1], at).unwrap();
        assert_eq!((found(0), found(at), found(at + 1)), (Some(at), Some(at), None));
        file.set_len(at).unwrap();
        assert_eq!(found(0), Some(at));
    }
}
