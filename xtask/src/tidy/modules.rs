//! Files that no `mod` reaches: they look alive and are never compiled.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::files::TextFile;
use super::source::Source;

/// Finds all sources that no crate's root leads to.
pub fn check<'a>(
    sources: &[Source],
    manifests: impl Iterator<Item = &'a TextFile>,
) -> Vec<Finding> {
    let by_path: BTreeMap<&str, &Source> = sources.iter().map(|s| (s.path.as_str(), s)).collect();
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<String> = manifests.flat_map(|m| roots_of(m, sources)).collect();
    while let Some(path) = open.pop() {
        let Some(source) = by_path.get(path.as_str()) else { continue };
        if reached.insert(path) {
            open.extend(children_of(source));
        }
    }
    let dead = sources.iter().filter(|source| !reached.contains(&source.path));
    dead.map(|source| Finding {
        path: source.path.clone(),
        line: 0,
        message: String::from("no `mod` leads to this file: it is never compiled"),
    })
    .collect()
}

/// Files with which the targets of a package begin: those of cargo's conventions and those that
/// its manifest names.
fn roots_of(manifest: &TextFile, sources: &[Source]) -> Vec<String> {
    let directory = manifest.path.trim_end_matches("Cargo.toml");
    let is_conventional = |path: &str| {
        let Some(own) = path.strip_prefix(directory) else { return false };
        matches!(own, "src/lib.rs" | "src/main.rs" | "build.rs")
            || ["src/bin/", "tests/", "benches/", "examples/"].iter().any(|start| {
                let Some(name) = own.strip_prefix(start) else { return false };
                !name.contains('/') || name.split_once('/').is_some_and(|(_, n)| n == "main.rs")
            })
    };
    let conventional = sources.iter().filter(|s| is_conventional(&s.path)).map(|s| s.path.clone());
    let named = manifest.text.lines().filter_map(|line| {
        let value = line.strip_prefix("path = \"")?.strip_suffix('"')?;
        Some(format!("{directory}{value}"))
    });
    conventional.chain(named).collect()
}

/// Files that the `mod` lines of a source name.
fn children_of(source: &Source) -> Vec<String> {
    let (directory, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let stem = file.trim_end_matches(".rs");
    let is_root_like = matches!(stem, "lib" | "main" | "mod" | "build")
        || ["/bin", "/tests", "/benches", "/examples"].iter().any(|end| directory.ends_with(end))
        || directory == "tests";
    let base = if is_root_like { directory.to_owned() } else { format!("{directory}/{stem}") };
    let mut children = Vec::new();
    let mut named_path = None;
    for line in &source.lines {
        if let Some(path) = attribute_path(&line.text) {
            named_path = Some(path);
        } else if let Some(name) = declared_module(&line.code) {
            match named_path.take() {
                Some(path) => children.push(normal(&format!("{directory}/{path}"))),
                None => {
                    children.push(format!("{base}/{name}.rs"));
                    children.push(format!("{base}/{name}/mod.rs"));
                }
            }
        }
    }
    children
}

/// Path in a `#[path = "…"]`.
fn attribute_path(text: &str) -> Option<&str> {
    text.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]")
}

/// Name in a `mod name;`, whatever its visibility.
fn declared_module(code: &str) -> Option<&str> {
    let declaration = code.trim().strip_suffix(';')?;
    let (before, name) = declaration.rsplit_once("mod ")?;
    let before = before.trim();
    (before.is_empty() || before.starts_with("pub")).then(|| name.trim_start_matches("r#"))
}

/// A path without `..`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(files: &[(&str, &str)], manifest: &str) -> Vec<String> {
        let sources: Vec<Source> = files.iter().map(|(p, t)| Source::parse(p, t)).collect();
        let manifest = TextFile { path: String::from("a/Cargo.toml"), text: manifest.to_owned() };
        check(&sources, [&manifest].into_iter()).into_iter().map(|finding| finding.path).collect()
    }

    #[test]
    fn a_file_without_a_mod_is_dead_and_so_is_all_below_it() {
        let files = [
            ("a/src/lib.rs", "mod b;\npub(crate) mod c;"),
            ("a/src/b.rs", "mod d;"),
            ("a/src/b/d.rs", ""),
            ("a/src/c/mod.rs", "#[path = \"../e.rs\"]\nmod other;"),
            ("a/src/e.rs", ""),
            ("a/src/lost.rs", "mod below;"),
            ("a/src/lost/below.rs", ""),
        ];
        assert_eq!(dead(&files, ""), ["a/src/lost.rs", "a/src/lost/below.rs"]);
    }

    #[test]
    fn every_target_of_a_package_is_a_root() {
        let files = [
            ("a/src/bin/x.rs", ""),
            ("a/src/bin/y/main.rs", "mod z;"),
            ("a/src/bin/y/z.rs", ""),
            ("a/tests/t.rs", "mod help;"),
            ("a/tests/help/mod.rs", ""),
            ("a/fuzz/one.rs", ""),
        ];
        assert_eq!(dead(&files, "[[bin]]\npath = \"fuzz/one.rs\""), Vec::<String>::new());
        assert_eq!(dead(&files, ""), ["a/fuzz/one.rs"]);
    }
}
