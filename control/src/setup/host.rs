//! The machine as its files tell of it: everything that is read is read through here.
//!
//! A [`Host`] is the root of a file system: `/`, or a tree that a test has made. Every path is
//! relative to it. What is not there, or may not be read, is nothing; whoever must know why asks
//! with [`Host::head`]. Reading changes nothing: devices are opened for reading only.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Most bytes of a text that are looked at: a list of mounts has a few hundred a mount.
pub const TEXT_BYTES_MAX: u64 = 16 << 20;

/// A machine. See the module.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The machine whose file system has this root.
    pub fn new(root: impl Into<PathBuf>) -> Host {
        Host { root: root.into() }
    }

    /// Where a file of it is.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// A file's text without the space around it; nothing where it is longer than the limit.
    pub fn text(&self, relative: impl AsRef<Path>) -> Option<String> {
        let bytes = self.head(relative, TEXT_BYTES_MAX + 1).ok()?;
        let is_whole = u64::try_from(bytes.len()).is_ok_and(|len| len <= TEXT_BYTES_MAX);
        is_whole.then(|| String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file that holds one value.
    pub fn value<T: FromStr>(&self, relative: impl AsRef<Path>) -> Option<T> {
        self.text(relative)?.parse().ok()
    }

    /// Names in a folder, sorted.
    pub fn names(&self, relative: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(relative)) else { return Vec::new() };
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.flatten().map(name).collect();
        names.sort();
        names
    }

    /// Last part of what a link points to: how sysfs says driver and group.
    pub fn link_name(&self, relative: impl AsRef<Path>) -> Option<String> {
        let link = fs::read_link(self.path(relative)).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether there is such a file or folder.
    pub fn has(&self, relative: impl AsRef<Path>) -> bool {
        self.path(relative).exists()
    }

    /// The first bytes of a file or device, fewer where it is shorter.
    ///
    /// # Errors
    ///
    /// It cannot be opened or read.
    pub fn head(&self, relative: impl AsRef<Path>, len_bytes: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path(relative))?.take(len_bytes).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// The value of a `Name: value` line.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::fixture::Machine;

    #[test]
    fn a_text_is_read_up_to_its_limit_and_one_byte_more_is_nothing() {
        let machine = Machine::new("text-limit");
        let limit = usize::try_from(TEXT_BYTES_MAX).unwrap();
        machine.file("proc/at", &"x".repeat(limit));
        machine.file("proc/past", &"x".repeat(limit + 1));
        assert_eq!(machine.host().text("proc/at").unwrap().len(), limit);
        assert_eq!(machine.host().text("proc/past"), None);
        assert_eq!(machine.host().text("proc/none"), None);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "flags_x\t: no\nflags\t\t: sse avx\nempty:";
        assert_eq!(field(text, "flags"), Some("sse avx"));
        assert_eq!(field(text, "empty"), Some(""));
        assert_eq!(field(text, "flag"), None);
    }
}
