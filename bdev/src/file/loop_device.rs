//! Loop devices for tests: block devices of any size and block size, over files.
//!
//! Made with `losetup`, by tests that stand in modules `real_kernel`, since they need root and a
//! kernel with loop devices; without either they fail, and say so.

use std::path::PathBuf;
use std::process::Command;

use super::testing::TestFile;

/// A loop device of its own, detached when dropped.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    path: String,
    file: TestFile,
}

impl LoopDevice {
    /// A device of so many bytes, with options of `losetup`.
    pub(crate) fn new(len_bytes: u64, options: &[&str]) -> LoopDevice {
        LoopDevice::over(TestFile::new(len_bytes), options)
    }

    /// A device over a file.
    pub(crate) fn over(file: TestFile, options: &[&str]) -> LoopDevice {
        let arguments = [&["--find", "--show"], options, &[file.path()]].concat();
        let path = losetup(&arguments).trim().to_owned();
        let disk = LoopDevice { path, file };
        // It keeps what its number's last device was set to.
        disk.set_write_cache("write back");
        disk
    }

    /// Says what its cache is like.
    pub(crate) fn set_write_cache(&self, kind: &str) {
        std::fs::write(self.sysfs().join("queue/write_cache"), kind).unwrap();
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// What it lies on.
    pub(crate) fn file(&self) -> &TestFile {
        &self.file
    }

    /// Grows it, or cuts it off.
    pub(crate) fn set_len(&self, len_bytes: u64) {
        self.file.set_len(len_bytes);
        losetup(&["--set-capacity", &self.path]);
    }

    /// Its folder in sysfs.
    pub(crate) fn sysfs(&self) -> PathBuf {
        PathBuf::from("/sys/block").join(self.path.trim_start_matches("/dev/"))
    }

    /// Flushes that reached it: the sixteenth number of its statistics.
    pub(crate) fn flushes(&self) -> u64 {
        let text = std::fs::read_to_string(self.sysfs().join("stat")).unwrap();
        text.split_whitespace().nth(15).expect("the kernel counts flushes").parse().unwrap()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::fs::write(self.sysfs().join("queue/write_cache"), "write back");
        let _ = Command::new("losetup").args(["--detach", &self.path]).status();
    }
}

fn losetup(arguments: &[&str]) -> String {
    let output = Command::new("losetup").args(arguments).output();
    let output = output.expect("this test needs loop devices, made with losetup");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "this test needs loop devices, and root: {why}");
    String::from_utf8(output.stdout).unwrap()
}
