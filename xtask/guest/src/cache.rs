//! Where the guest image is kept.
//!
//! Building the image takes seconds to minutes, so it is kept in a directory that all crates of
//! the workspace share: `target/guest`, or what [`CACHE_VARIABLE`] names.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Environment variable that names another directory for the image.
pub const CACHE_VARIABLE: &str = "MAYASTOR_GUEST_CACHE";

/// A directory for the guest image.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The directory that [`CACHE_VARIABLE`] names, else `target/guest` of this workspace.
    pub fn from_environment() -> Cache {
        match std::env::var_os(CACHE_VARIABLE) {
            Some(directory) => Cache::at(directory),
            None => Cache::at(workspace_root().join("target/guest")),
        }
    }

    /// Any directory; it is created when first needed.
    pub fn at(directory: impl Into<PathBuf>) -> Cache {
        Cache { directory: directory.into() }
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Keeps every other process out of the directory until the file is dropped.
    pub(crate) fn lock(&self) -> Result<File> {
        fs::create_dir_all(&self.directory).map_err(Error::file("create", &self.directory))?;
        let path = self.directory.join("lock");
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        file.lock().map_err(Error::file("lock", &path))?;
        Ok(file)
    }
}

/// This crate lies two levels below the root of the workspace.
fn workspace_root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).expect("the crate lies two levels below the root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_directory_lies_in_the_target_folder_of_the_workspace() {
        assert!(workspace_root().join("Cargo.lock").exists());
    }
}
