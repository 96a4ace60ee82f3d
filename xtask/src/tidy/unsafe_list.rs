//! The list of files that may hold `unsafe`, `xtask/unsafe-files.txt`: a path and a reason a line.
//!
//! The list is short on purpose, and a file leaves it when its last `unsafe` does.

use std::fs;
use std::path::Path;

use super::Finding;
use super::source::Source;

const LIST: &str = "xtask/unsafe-files.txt";

/// Finds files with `unsafe` that are not on the list, and entries without their file.
pub fn check(sources: &[Source], root: &Path) -> Vec<Finding> {
    let text = fs::read_to_string(root.join(LIST)).unwrap_or_default();
    compare(sources, &text)
}

fn compare(sources: &[Source], list: &str) -> Vec<Finding> {
    let entries = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entries: Vec<(&str, &str)> =
        entries.map(|line| line.split_once(' ').unwrap_or((line, ""))).collect();
    let mut findings = Vec::new();
    for source in sources {
        let is_listed = entries.iter().any(|(path, _)| *path == source.path);
        if let Some(line) = first_unsafe(source)
            && !is_listed
        {
            let message = format!("unsafe in a file that is not in {LIST}");
            findings.push(Finding { path: source.path.clone(), line, message });
        }
    }
    for (path, reason) in entries {
        let has_unsafe = |source: &&Source| source.path == path && first_unsafe(source).is_some();
        let message = if reason.trim().is_empty() {
            format!("{path} has no reason")
        } else if sources.iter().find(has_unsafe).is_none() {
            format!("{path} holds no unsafe")
        } else {
            continue;
        };
        findings.push(Finding { path: LIST.to_owned(), line: 0, message });
    }
    findings
}

/// First line, from one, with the keyword.
fn first_unsafe(source: &Source) -> Option<usize> {
    let is_keyword = |line: &str| {
        let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.into_iter().any(|word| word == "unsafe")
    };
    source.lines.iter().position(|line| is_keyword(&line.code)).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str, list: &str) -> Vec<String> {
        let source = Source::parse("a/src/x.rs", text);
        compare(&[source], list).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn unsafe_is_found_outside_the_list_only() {
        let code = "fn f() {}\nunsafe impl Send for X {}";
        assert_eq!(messages(code, "").len(), 1);
        assert!(messages(code, "# comment\na/src/x.rs it must\n").is_empty());
        assert!(messages("#![deny(unsafe_op_in_unsafe_fn)] // unsafe", "").is_empty());
    }

    #[test]
    fn an_entry_without_use_or_reason_is_found() {
        assert_eq!(messages("fn f() {}", "a/src/x.rs it must\n").len(), 1);
        assert_eq!(messages("unsafe { f() }", "a/src/x.rs\n").len(), 1);
    }
}
