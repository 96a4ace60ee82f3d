//! Rules about one file at a time.

use super::Finding;
use super::source::{Line, Source, closing_line};

/// A file with more lines wants to be two.
const FILE_LINES_MAX: usize = 800;
/// A function with more lines does not fit a screen.
const FUNCTION_LINES_MAX: usize = 70;
/// Width of a line, in characters.
const COLUMNS_MAX: usize = 100;
/// A crate's own documentation has at least this many lines.
const CRATE_DOC_LINES_MIN: usize = 3;

/// Words that mark unfinished work. Cut in two, so that this file does not break its own rule.
const UNFINISHED: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];

/// Macros that no code has, tests included.
const BANNED_CODE: &[&str] = &["dbg!", "todo!", "unimplemented!", "#[ignore"];

/// Crates on the I/O path: their code never prints.
const DATA_PLANE: &[&str] = &["reactor", "bdev", "nvmf", "iscsi", "vhost", "nexus", "engine"];
const PRINTING: &[&str] = &["println!", "eprintln!", "print!", "eprint!"];

/// Crates whose code runs for every I/O: it takes no lock.
const LOCK_FREE: &[&str] = &["reactor", "bdev", "nvmf", "nexus", "vhost"];
const LOCKS: &[&str] = &["Mutex", "RwLock", "Condvar"];
/// Where a lock is allowed all the same: taken by control threads, and by a core only when it sees
/// that there is something new.
const LOCKS_ALLOWED: &[&str] = &[
    "bdev/src/pcie/attached.rs",
    "bdev/src/pcie/software/platform.rs",
    "bdev/src/pcie/spare.rs",
    "bdev/src/pcie/vfio.rs",
    "bdev/src/rules.rs",
    "bdev/src/scsi/unit.rs",
    "nexus/src/mail.rs",
    "nexus/src/nexus.rs",
    "nexus/src/one_core.rs",
    "nexus/src/published.rs",
    // Children and cores of its tests.
    "nexus/src/cluster.rs",
    "nexus/src/reserved_disk.rs",
    "nexus/src/volatile_disk.rs",
    "nexus/src/watch.rs",
    // Of control threads: what the thread of a session and those that list and end it share.
    "vhost/src/session/mod.rs",
    "vhost/src/session/rings.rs",
    // Cores of its tests.
    "vhost/src/session/tests.rs",
];

/// What changes a word that cores share. On the path of an I/O through the mirror it stands in
/// `bdev::stripe_lock` and `nexus::intent`, and nowhere else.
const SHARED_CHANGES: &[&str] = &[
    "fetch_add",
    "fetch_sub",
    "fetch_or",
    "fetch_and",
    "fetch_update",
    "compare_exchange",
    "compare_exchange_weak",
];
const UNSHARED: &[&str] = &["nexus/src/mirror/", "nexus/src/range_table.rs"];

/// Beginnings of paths that mean one machine and no other; cut in two for the same reason.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/var/fol", "ders/"),
];

/// The only registry that packages come from, as the lock file and cargo's settings name it.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Rules for every text file.
pub fn check_text(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut found = |message: String| findings.push(finding(path, index + 1, message));
        for word in UNFINISHED.iter().filter(|word| has_word(line, word)) {
            found(format!("{word}: work is finished before it is committed"));
        }
        for start in MACHINE_PATHS.iter().filter(|start| line.contains(**start)) {
            found(format!("{start} is a path of one machine"));
        }
        if names_foreign_registry(path, line) {
            found(String::from("packages come from crates.io and nowhere else"));
        }
    }
    findings
}

/// Rules for Rust.
pub fn check_source(source: &Source) -> Vec<Finding> {
    let rules: [fn(&Source) -> Vec<Finding>; 9] = [
        file_length,
        function_length,
        columns,
        module_comment,
        safety_comments,
        banned_code,
        printing,
        locks,
        shared_changes,
    ];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

fn finding(path: &str, line: usize, message: impl Into<String>) -> Finding {
    Finding { path: path.to_owned(), line, message: message.into() }
}

/// Whether `word` stands in `line` with no letter or digit on either side.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part)
    })
}

fn names_foreign_registry(path: &str, line: &str) -> bool {
    let line = line.trim();
    let is_foreign_lock =
        path.ends_with("Cargo.lock") && line.starts_with("source = ") && !line.contains(REGISTRY);
    let is_setting = path.contains(".cargo/config")
        && ["[source", "[registr", "replace-with"].iter().any(|start| line.starts_with(start));
    is_foreign_lock || is_setting
}

fn file_length(source: &Source) -> Vec<Finding> {
    let count = source.lines.len();
    if count <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![finding(&source.path, 0, format!("{count} lines; at most {FILE_LINES_MAX}"))]
}

fn function_length(source: &Source) -> Vec<Finding> {
    let headers = source.lines.iter().enumerate().filter(|(_, line)| is_function_header(line));
    let lengths = headers.map(|(at, _)| (at, closing_line(&source.lines, at) - at + 1));
    let long = lengths.filter(|(_, length)| *length > FUNCTION_LINES_MAX);
    long.map(|(at, length)| {
        let message = format!("a function of {length} lines; at most {FUNCTION_LINES_MAX}");
        finding(&source.path, at + 1, message)
    })
    .collect()
}

/// rustfmt puts `fn` on the line on which an item begins, after its qualifiers.
fn is_function_header(line: &Line) -> bool {
    let mut words = line.code.split_whitespace();
    let is_qualifier = |word: &str| {
        matches!(word, "const" | "async" | "unsafe" | "extern" | "\"")
            || word == "pub"
            || word.starts_with("pub(")
            || word.ends_with(')') && !word.contains('(')
    };
    words.find(|word| !is_qualifier(word)) == Some("fn")
}

/// A method of a trait has its terms where the trait is declared, and no `pub`.
fn is_public_function(line: &Line) -> bool {
    is_function_header(line) && line.code.trim_start().starts_with("pub")
}

fn columns(source: &Source) -> Vec<Finding> {
    let numbered = source.lines.iter().enumerate();
    let wide = numbered.filter(|(_, line)| line.text.chars().count() > COLUMNS_MAX);
    wide.map(|(at, _)| finding(&source.path, at + 1, format!("wider than {COLUMNS_MAX} columns")))
        .collect()
}

/// The first comment of a file says what it owns; that of a crate's root is its documentation.
fn module_comment(source: &Source) -> Vec<Finding> {
    let is_comment = |line: &&Line| line.comment.starts_with("//!");
    let is_prelude = |line: &&Line| line.text.trim().is_empty() || line.text.starts_with("#!");
    let count = source.lines.iter().skip_while(is_prelude).take_while(is_comment).count();
    let is_root = source.path.ends_with("/src/lib.rs") || source.path.ends_with("/src/main.rs");
    if count == 0 {
        vec![finding(&source.path, 1, "no module comment: what is this, who uses it?")]
    } else if is_root && count < CRATE_DOC_LINES_MIN {
        let message = format!("a crate needs {CRATE_DOC_LINES_MIN} lines on what it is for");
        vec![finding(&source.path, 1, message)]
    } else {
        Vec::new()
    }
}

/// clippy asks for the comment where a block begins; here also where a trait is implemented and
/// where a public function is unsafe to call.
fn safety_comments(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in source.lines.iter().enumerate() {
        let code = line.code.as_str();
        let (wanted, what) = if code.contains("unsafe {") || code.contains("unsafe impl") {
            ("SAFETY:", "unsafe without a SAFETY comment")
        } else if is_public_function(line) && has_word(code, "unsafe") {
            ("# Safety", "an unsafe function without a Safety section")
        } else {
            continue;
        };
        if !line.comment.contains(wanted) && !comment_above(&source.lines, at).contains(wanted) {
            findings.push(finding(&source.path, at + 1, what));
        }
    }
    findings
}

/// Comments directly above a line: those above its attributes, and above the statement that it is
/// a later line of.
fn comment_above(lines: &[Line], at: usize) -> String {
    let mut text = String::new();
    let mut may_be_statement = true;
    for line in lines[..at].iter().rev() {
        let code = line.code.trim();
        if !line.comment.is_empty() && code.is_empty() {
            text.insert_str(0, &line.comment);
            may_be_statement = false;
        } else if code.starts_with("#[") {
            may_be_statement = false;
        } else if !may_be_statement || code.is_empty() || code.ends_with([';', '{', '}']) {
            break;
        }
    }
    text
}

fn banned_code(source: &Source) -> Vec<Finding> {
    contains_any(source, BANNED_CODE, |_| true, "has no place in committed code")
}

fn printing(source: &Source) -> Vec<Finding> {
    if !DATA_PLANE.contains(&source.crate_directory()) {
        return Vec::new();
    }
    contains_any(source, PRINTING, |line| !line.is_test, "a crate of the I/O path never prints")
}

fn locks(source: &Source) -> Vec<Finding> {
    let path = source.path.as_str();
    if !LOCK_FREE.contains(&source.crate_directory()) || LOCKS_ALLOWED.contains(&path) {
        return Vec::new();
    }
    contains_any(source, LOCKS, |line| !line.is_test, "the path of an I/O takes no lock")
}

fn shared_changes(source: &Source) -> Vec<Finding> {
    if !UNSHARED.iter().any(|start| source.path.starts_with(start)) {
        return Vec::new();
    }
    let why = "the mirror changes no word that cores share";
    contains_any(source, SHARED_CHANGES, |line| !line.is_test, why)
}

fn contains_any(
    source: &Source,
    needles: &[&str],
    applies: fn(&Line) -> bool,
    why: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in source.lines.iter().enumerate().filter(|(_, line)| applies(line)) {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        for needle in needles {
            let mut places = line.code.match_indices(needle);
            if places.any(|(at, _)| !line.code[..at].ends_with(is_part)) {
                findings.push(finding(&source.path, at + 1, format!("{needle}: {why}")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        let source = Source::parse(path, text);
        check_source(&source).into_iter().map(|finding| finding.message).collect()
    }

    /// Findings of a module with a comment and the given code.
    fn found_in(code: &str) -> Vec<String> {
        messages("bdev/src/x.rs", &format!("//! A module.\n{code}"))
    }

    fn function_of(lines: usize) -> String {
        let body = "    step();\n".repeat(lines - 2);
        format!("pub(crate) unsafe fn f(\n{body}}}\n").replacen("(\n", "() {\n", 1)
    }

    #[test]
    fn a_file_of_800_lines_passes_and_one_of_801_does_not() {
        assert!(found_in(&"\n".repeat(799)).is_empty());
        assert_eq!(found_in(&"\n".repeat(800)), ["801 lines; at most 800"]);
    }

    #[test]
    fn a_function_of_70_lines_passes_and_one_of_71_does_not() {
        let found = |lines| found_in(&format!("/// # Safety\n{}", function_of(lines)));
        assert!(found(70).is_empty(), "{:?}", found(70));
        assert_eq!(found(71), ["a function of 71 lines; at most 70"]);
    }

    #[test]
    fn a_line_of_100_columns_passes_and_one_of_101_does_not() {
        assert!(found_in(&format!("//{}", "é".repeat(98))).is_empty());
        assert_eq!(found_in(&format!("//{}", "é".repeat(99))), ["wider than 100 columns"]);
    }

    #[test]
    fn a_module_without_a_comment_is_found() {
        assert_eq!(messages("bdev/src/x.rs", "fn f() {}").len(), 1);
        assert_eq!(messages("bdev/src/lib.rs", "//! Short.\n//! Still.\n").len(), 1);
        assert!(messages("bdev/src/lib.rs", "//! One.\n//! Two.\n//! Three.\n").is_empty());
    }

    #[test]
    fn unsafe_without_a_reason_is_found() {
        assert_eq!(found_in("unsafe impl Send for X {}").len(), 1);
        assert_eq!(found_in("fn f() {\n    let x =\n        unsafe { g() };\n}").len(), 1);
        assert_eq!(found_in("pub unsafe fn f() {}").len(), 1);
        let good = "fn f() {\n    // SAFETY: always.\n    let x =\n        unsafe { g() };\n}\n\
            /// Does.\n/// # Safety\n/// Never.\n#[inline]\npub unsafe fn h() {}";
        assert!(found_in(good).is_empty(), "{:?}", found_in(good));
        let elsewhere = "// SAFETY: of another.\nlet y = unsafe { g() };\nlet x = unsafe { g() };";
        assert_eq!(found_in(elsewhere).len(), 1);
    }

    #[test]
    fn unfinished_work_is_found_in_any_text() {
        let note = format!("# {} later", UNFINISHED[0]);
        assert_eq!(check_text("README.md", &note).len(), 1);
        assert!(check_text("README.md", &format!("# {}S", UNFINISHED[0])).is_empty());
    }

    #[test]
    fn debugging_macros_are_found_and_their_names_in_strings_are_not() {
        assert_eq!(found_in("dbg!(x);").len(), 1);
        assert_eq!(found_in("#[ignore]\nfn f() {}").len(), 1);
        assert!(found_in("let x = \"dbg!\"; // dbg!").is_empty());
    }

    #[test]
    fn printing_is_found_in_the_data_plane_outside_tests() {
        assert_eq!(found_in("fn f() { println!(); }").len(), 1);
        assert!(found_in("#[cfg(test)]\nmod tests {\n    fn f() { println!(); }\n}").is_empty());
        assert!(messages("perf/src/x.rs", "//! A module.\nfn f() { println!(); }").is_empty());
    }

    #[test]
    fn locks_are_found_on_the_path_of_an_io_outside_tests() {
        let locked = "//! A module.\nuse std::sync::Mutex;";
        assert_eq!(messages("nvmf/src/x.rs", locked).len(), 1);
        assert!(messages("control/src/x.rs", locked).is_empty());
        assert!(messages("bdev/src/rules.rs", locked).is_empty());
        assert!(found_in("#[cfg(test)]\nmod tests {\n    use std::sync::Mutex;\n}").is_empty());
    }

    #[test]
    fn changes_of_shared_words_are_found_in_the_mirror_outside_tests() {
        let change = "//! A module.\nfn f() { word.fetch_add(1, Ordering::Relaxed); }";
        assert_eq!(messages("nexus/src/mirror/start.rs", change).len(), 1);
        assert_eq!(messages("nexus/src/range_table.rs", change).len(), 1);
        assert!(messages("nexus/src/intent.rs", change).is_empty());
        let tested = "//! A module.\n#[cfg(test)]\nmod tests {\n    fn f() { w.fetch_or(1); }\n}";
        assert!(messages("nexus/src/mirror/slot.rs", tested).is_empty());
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let text = format!("see {}someone/file", MACHINE_PATHS[1]);
        assert_eq!(check_text("docs/X.md", &text).len(), 1);
    }

    #[test]
    fn another_registry_is_found() {
        let own = format!("source = \"{REGISTRY}\"");
        assert!(check_text("Cargo.lock", &own).is_empty());
        assert_eq!(check_text("Cargo.lock", "source = \"git+https://example.org/x\"").len(), 1);
        assert_eq!(check_text(".cargo/config.toml", "[source.mirror]").len(), 1);
    }
}
