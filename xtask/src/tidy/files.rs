//! The text files of the tree, without what is built.

use std::fs;
use std::path::Path;

/// Directories that are not the project's own text.
const SKIPPED: &[&str] = &["target", ".git", "corpus"];

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
        if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
            collect(&entry.path(), &path, found);
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
    fn the_project_is_listed_and_what_is_built_is_not() {
        let files = list(&crate::root());
        assert!(files.iter().any(|file| file.path == "xtask/src/tidy/files.rs"));
        assert!(!files.iter().any(|file| file.path.starts_with("target/")));
    }
}
