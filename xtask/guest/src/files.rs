//! Small helpers of the image builder: programs of the host, scratch directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};

/// Directories with programs; those of the administrator are not in every user's path.
const PROGRAM_DIRECTORIES: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Beginning of the names of scratch directories.
const SCRATCH_PREFIX: &str = "scratch-";

/// Runs a program of the host and returns its standard output. Fails with its complaints.
pub fn output_of(command: &mut Command) -> Result<String> {
    let text = format!("{command:?}");
    let failed = |detail: String| Error::Program { program: text.clone(), detail };
    let output = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(failed(format!("{}: {complaints}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Finds a program of the host by name.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let own = std::env::var("PATH").unwrap_or_default();
    let directories = own.split(':').chain(PROGRAM_DIRECTORIES.split(':'));
    directories.filter(|d| !d.is_empty()).map(|d| Path::new(d).join(name)).find(|p| p.is_file())
}

/// A command of the host by name, looked for where an ordinary user's path does not lead too.
pub fn program(name: &str) -> Command {
    Command::new(find_program(name).unwrap_or_else(|| PathBuf::from(name)))
}

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::file("read", path))
}

/// Writes a whole file.
pub fn write(path: &Path, data: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, data).map_err(Error::file("write", path))
}

/// A directory that is removed with the value.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new empty directory in `parent`.
    pub fn in_directory(parent: &Path) -> Result<Scratch> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{SCRATCH_PREFIX}{}-{count}", std::process::id()));
        fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
        Ok(Scratch { path })
    }

    /// Removes those that a killed process left behind. Nobody else may be at work in `parent`.
    pub fn remove_all(parent: &Path) {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        for entry in entries {
            if entry.file_name().to_string_lossy().starts_with(SCRATCH_PREFIX) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_reported_with_what_it_said() {
        let error = output_of(Command::new("sh").args(["-c", "echo bad >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("bad"), "{error}");
    }

    #[test]
    fn scratch_directories_left_behind_are_removed_and_nothing_else() {
        let parent = Scratch::in_directory(&std::env::temp_dir()).unwrap();
        std::mem::forget(Scratch::in_directory(parent.path()).unwrap());
        fs::write(parent.path().join("kept"), "x").unwrap();
        Scratch::remove_all(parent.path());
        let left: Vec<_> = fs::read_dir(parent.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].file_name(), "kept");
    }

    #[test]
    fn a_scratch_directory_goes_with_its_owner() {
        let scratch = Scratch::in_directory(&std::env::temp_dir()).unwrap();
        let path = scratch.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
