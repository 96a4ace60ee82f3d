//! The rules of style that a machine can check, as a unit test and as `cargo xtask tidy`.
//!
//! What clippy or rustfmt checks is left to them. A rule here is a plain function from a source to
//! its findings, and has a test with a snippet that breaks it.

mod files;
mod modules;
mod rules;
mod source;
mod unsafe_list;

use std::fmt;
use std::path::Path;

use source::Source;

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Path from the root of the workspace.
    pub path: String,
    /// Line, from one; zero for the file as a whole.
    pub line: usize,
    /// What is wrong, and what the rule is.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Checks everything below `root`.
pub fn check(root: &Path) -> Vec<Finding> {
    let files = files::list(root);
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    for file in &files {
        findings.extend(rules::check_text(&file.path, &file.text));
        if file.path.ends_with(".rs") {
            sources.push(Source::parse(&file.path, &file.text));
        }
    }
    for source in &sources {
        findings.extend(rules::check_source(source));
    }
    let manifests = files.iter().filter(|file| file.path.ends_with("Cargo.toml"));
    findings.extend(modules::check(&sources, manifests));
    findings.extend(unsafe_list::check(&sources, root));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let findings = check(&crate::root());
        let text: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert!(text.is_empty(), "\n{}", text.join("\n"));
    }
}
