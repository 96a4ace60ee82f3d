//! The text files of the tree, without what is built.

use std::fs;
use std::path::Path;

/// Whether a directory holds no text of the project but what git and cargo keep, or inputs of
/// fuzzers.
fn is_skipped(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    // A module may well be named target; cargo's directories are at the root or below fuzz.
    let is_built = path.starts_with("target") || path == "fuzz/target";
    is_built || name == ".git" || name == "corpus"
}

/// One text file.
#[derive(Clone, Debug)]
pub struct TextFile {
    /// Path from the root, with slashes.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// All text files below `root`, by path. A file that is not UTF-8 is no text.
pub fn list(root: &Path) -> Vec<TextFile> {
    let mut found = Vec::new();
    collect(root, "", &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(directory: &Path, prefix: &str, found: &mut Vec<TextFile>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if !is_skipped(&path) {
                collect(&entry.path(), &path, found);
            }
        } else if kind.is_file()
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            found.push(TextFile { path, text });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_named_target_is_text_and_a_directory_of_cargo_is_not() {
        assert!(!is_skipped("nvmf/src/target") && !is_skipped("xtask/src/tidy"));
        assert!(is_skipped("target") && is_skipped("target-loom") && is_skipped("fuzz/target"));
        assert!(is_skipped(".git") && is_skipped("fuzz/corpus"));
    }

    #[test]
    fn the_project_is_listed_and_what_is_built_is_not() {
        let files = list(&crate::root());
        assert!(files.iter().any(|file| file.path == "xtask/src/tidy/files.rs"));
        assert!(!files.iter().any(|file| file.path.starts_with("target/")));
    }
}
