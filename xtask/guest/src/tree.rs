//! The files of the guest before they become an archive.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cpio::Archive;
use crate::error::{Error, Result};
use crate::files;

#[derive(Debug)]
enum Node {
    Directory,
    Link(String),
    Text(u32, String),
    Copy(u32, PathBuf),
}

/// Files by their name in the guest, without a leading slash. A later file of the same name
/// replaces an earlier one; parents appear by themselves.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// A directory.
    pub fn directory(&mut self, name: &str) {
        self.add(name, Node::Directory);
    }

    /// A symbolic link.
    pub fn link(&mut self, name: &str, target: &str) {
        self.add(name, Node::Link(target.to_owned()));
    }

    /// A file with the given text.
    pub fn text(&mut self, name: &str, permissions: u32, text: &str) {
        self.add(name, Node::Text(permissions, text.to_owned()));
    }

    /// A file of the host.
    pub fn copy(&mut self, name: &str, permissions: u32, from: impl Into<PathBuf>) {
        self.add(name, Node::Copy(permissions, from.into()));
    }

    /// All regular files below a directory of the host.
    pub fn copy_all(&mut self, name: &str, permissions: u32, from: &Path) -> Result<()> {
        for entry in fs::read_dir(from).map_err(Error::file("list", from))?.flatten() {
            let own = entry.file_name().to_string_lossy().into_owned();
            let place = if name.is_empty() { own } else { format!("{name}/{own}") };
            if entry.path().is_dir() {
                self.copy_all(&place, permissions, &entry.path())?;
            } else {
                self.copy(&place, permissions, entry.path());
            }
        }
        Ok(())
    }

    /// Writes all of it, parents first: a name sorts after every name that it starts with.
    pub fn write<W: Write>(&self, archive: &mut Archive<W>) -> Result<()> {
        for (name, node) in &self.nodes {
            let written = match node {
                Node::Directory => archive.directory(name),
                Node::Link(target) => archive.symlink(name, target),
                Node::Text(permissions, text) => archive.file(name, *permissions, text.as_bytes()),
                Node::Copy(permissions, from) => {
                    archive.file(name, *permissions, &files::read(from)?)
                }
            };
            written.map_err(Error::file("archive", name))?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, node: Node) {
        for (at, _) in name.match_indices('/') {
            self.nodes.entry(name[..at].to_owned()).or_insert(Node::Directory);
        }
        self.nodes.insert(name.to_owned(), node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_their_children_and_a_later_file_wins() {
        let mut tree = Tree::default();
        tree.link("bin/mount", "busybox");
        tree.text("bin/mount", 0o755, "real");
        tree.text("a/b/c", 0o644, "deep");
        let mut archive = Archive::new(Vec::new());
        tree.write(&mut archive).unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let at = |needle: &str| text.find(needle).unwrap();
        assert!(at("a\0") < at("a/b\0") && at("a/b\0") < at("a/b/c\0"));
        assert!(text.contains("real") && !text.contains("busybox"));
    }
}
