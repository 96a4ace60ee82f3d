//! Files of the host that a target serves.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A sparse file of its own for a test, removed with this value.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Makes the file in `directory`, which for a test is `CARGO_TARGET_TMPDIR`; a name is good
    /// for one process.
    pub fn create(directory: &str, name: &str, size_mib: u64) -> Result<Disk> {
        let path = Path::new(directory).join(format!("{name}-{}", std::process::id()));
        let disk = Disk { path };
        File::create(&disk.path).map_err(Error::file("create", &disk.path))?;
        disk.resize(size_mib)?;
        Ok(disk)
    }

    /// Makes the file longer or shorter underneath whoever serves it.
    pub fn resize(&self, size_mib: u64) -> Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path);
        let resized = file.and_then(|file| file.set_len(size_mib << 20));
        resized.map_err(Error::file("resize", &self.path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The device that a target makes of it: the scheme is `uring` or `aio`.
    pub fn uri(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.path.display())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        // Where a target keeps the reservations of a file.
        let mut beside = self.path.clone().into_os_string();
        beside.push(".reservations");
        let _ = fs::remove_file(beside);
    }
}
