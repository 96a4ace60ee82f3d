//! The list of what an image was made of, to see in no time whether it is still current.
//!
//! A file counts as unchanged while its length and its modification time are; a library that a
//! package upgrade replaced is therefore noticed, and no content is read for it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Collects the inputs of an image while it is built.
#[derive(Debug, Default)]
pub struct Inputs {
    paths: Vec<PathBuf>,
}

impl Inputs {
    /// Notes one file of the host that went into the image.
    pub fn add(&mut self, path: impl Into<PathBuf>) {
        self.paths.push(path.into());
    }

    /// Writes the list; `recipe` is everything that went in without being a file of the host.
    pub fn save(mut self, stamp: &Path, recipe: u64) -> Result<()> {
        self.paths.sort();
        self.paths.dedup();
        let mut text = format!("{recipe:016x}\n");
        for path in &self.paths {
            let state = state_of(path).unwrap_or_default();
            writeln!(text, "{state} {}", path.display()).expect("a String takes every write");
        }
        fs::write(stamp, text).map_err(Error::file("write", stamp))
    }
}

/// Whether the list in `stamp` was made with this recipe and every file in it is as it was.
pub fn are_current(stamp: &Path, recipe: u64) -> bool {
    let Ok(text) = fs::read_to_string(stamp) else { return false };
    let mut lines = text.lines();
    let same_recipe = lines.next() == Some(format!("{recipe:016x}").as_str());
    same_recipe
        && lines.all(|line| match line.split_once(' ') {
            Some((state, path)) => state_of(Path::new(path)).is_some_and(|now| now == state),
            None => false,
        })
}

fn state_of(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    Some(format!("{}:{}.{}", metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

/// A number for texts that changes when one of them does (FNV-1a, 64 bits; not against intent).
pub fn fingerprint<'a>(texts: impl IntoIterator<Item = &'a str>) -> u64 {
    let bytes = texts.into_iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Scratch;

    #[test]
    fn a_list_is_current_until_a_file_or_the_recipe_changes() {
        let scratch = Scratch::in_directory(&std::env::temp_dir()).unwrap();
        let (input, stamp) = (scratch.path().join("input"), scratch.path().join("stamp"));
        fs::write(&input, "one").unwrap();
        let mut inputs = Inputs::default();
        inputs.add(&input);
        inputs.save(&stamp, 5).unwrap();
        assert!(are_current(&stamp, 5));
        assert!(!are_current(&stamp, 6));
        fs::write(&input, "three").unwrap();
        assert!(!are_current(&stamp, 5));
        fs::remove_file(&input).unwrap();
        assert!(!are_current(&stamp, 5));
    }

    #[test]
    fn a_missing_list_is_not_current() {
        assert!(!are_current(Path::new("/nowhere/stamp"), 0));
    }

    #[test]
    fn fingerprints_tell_where_one_text_ends() {
        assert_ne!(fingerprint(["ab", "c"]), fingerprint(["a", "bc"]));
    }
}
