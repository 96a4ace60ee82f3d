//! A Rust source cut into lines, each split into code and comment.
//!
//! The split is lexical: strings and characters are blanked, comments are set aside. That is
//! enough for rules about words and layout, and it cannot be misled by a string.

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The line as it is.
    pub text: String,
    /// Code, with the content of strings and characters left out.
    pub code: String,
    /// Text of comments, with their slashes.
    pub comment: String,
    /// Whether it lies in a module of tests.
    pub is_test: bool,
}

/// A source file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path from the root.
    pub path: String,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// What the lexer is inside of, from one character to the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Code,
    LineComment,
    BlockComment { depth: u32 },
    Text,
    RawText { hashes: usize },
}

impl Source {
    /// Splits a text.
    pub fn parse(path: &str, text: &str) -> Source {
        let mut lines: Vec<Line> = Vec::new();
        let mut inside = Inside::Code;
        for raw in text.lines() {
            if inside == Inside::LineComment {
                inside = Inside::Code;
            }
            let mut line = Line { text: raw.to_owned(), ..Line::default() };
            inside = split(raw, inside, &mut line);
            lines.push(line);
        }
        mark_tests(&mut lines);
        // Files of integration tests and benches are tests from end to end.
        if path.contains("/tests/") || path.contains("/benches/") {
            lines.iter_mut().for_each(|line| line.is_test = true);
        }
        Source { path: path.to_owned(), lines }
    }

    /// The crate's directory: the path up to `/src/`, `/tests/` and the like.
    pub fn crate_directory(&self) -> &str {
        let ends = ["/src/", "/tests/", "/benches/", "/examples/"];
        ends.iter().find_map(|end| self.path.split_once(end)).map_or("", |(before, _)| before)
    }
}

/// Splits one line and says what its end is inside of.
fn split(raw: &str, mut inside: Inside, line: &mut Line) -> Inside {
    let characters: Vec<char> = raw.chars().collect();
    let mut at = 0;
    while at < characters.len() {
        let rest = &characters[at..];
        let (taken, next) = match inside {
            Inside::Code => code_step(rest, line),
            Inside::LineComment => (rest.len(), inside),
            Inside::BlockComment { depth } => block_comment_step(rest, depth),
            Inside::Text if rest[0] == '\\' => (2, inside),
            Inside::Text if rest[0] == '"' => (1, Inside::Code),
            Inside::RawText { hashes } if closes_raw(rest, hashes) => (1 + hashes, Inside::Code),
            Inside::Text | Inside::RawText { .. } => (1, inside),
        };
        let taken = taken.min(rest.len());
        let is_comment = |state| matches!(state, Inside::LineComment | Inside::BlockComment { .. });
        if is_comment(inside) || is_comment(next) {
            line.comment.extend(&rest[..taken]);
        }
        at += taken;
        inside = next;
    }
    inside
}

/// One step in code: what was taken, and what comes after it.
fn code_step(rest: &[char], line: &mut Line) -> (usize, Inside) {
    match rest {
        ['/', '/', ..] => (rest.len(), Inside::LineComment),
        ['/', '*', ..] => (2, Inside::BlockComment { depth: 1 }),
        ['"', ..] => {
            line.code.push('"');
            (1, Inside::Text)
        }
        ['r', after @ ..] if !ends_in_word(&line.code) && raw_hashes(after).is_some() => {
            let hashes = raw_hashes(after).unwrap_or_default();
            line.code.push('"');
            (2 + hashes, Inside::RawText { hashes })
        }
        ['\'', '\\', ..] => {
            // An escaped character: to the next quote that is not the escaped one.
            let close = rest.iter().skip(3).position(|c| *c == '\'').map_or(rest.len(), |p| p + 4);
            (close, Inside::Code)
        }
        ['\'', _, '\'', ..] => (3, Inside::Code),
        [c, ..] => {
            line.code.push(*c);
            (1, Inside::Code)
        }
        [] => (1, Inside::Code),
    }
}

fn block_comment_step(rest: &[char], depth: u32) -> (usize, Inside) {
    match rest {
        ['*', '/', ..] if depth == 1 => (2, Inside::Code),
        ['*', '/', ..] => (2, Inside::BlockComment { depth: depth - 1 }),
        ['/', '*', ..] => (2, Inside::BlockComment { depth: depth + 1 }),
        _ => (1, Inside::BlockComment { depth }),
    }
}

fn ends_in_word(code: &str) -> bool {
    // `br"…"` is a raw string too.
    let code = code.strip_suffix('b').unwrap_or(code);
    code.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Number of hashes when a raw string starts after an `r`.
fn raw_hashes(after: &[char]) -> Option<usize> {
    let hashes = after.iter().take_while(|c| **c == '#').count();
    (after.get(hashes) == Some(&'"')).then_some(hashes)
}

fn closes_raw(rest: &[char], hashes: usize) -> bool {
    rest[0] == '"' && rest.len() > hashes && rest[1..=hashes].iter().all(|c| *c == '#')
}

/// Marks modules of tests: from a `#[cfg(test)]` or `#[cfg(loom)]` before a `mod` to the brace that
/// closes it, which rustfmt puts under its first letter.
fn mark_tests(lines: &mut [Line]) {
    let mut at = 0;
    while at < lines.len() {
        let code = lines[at].code.trim();
        if !matches!(code, "#[cfg(test)]" | "#[cfg(loom)]") {
            at += 1;
            continue;
        }
        let mut header = at;
        while header + 1 < lines.len() && lines[header].code.trim().starts_with("#[") {
            header += 1;
        }
        let close = closing_line(lines, header);
        lines[at..=close].iter_mut().for_each(|line| line.is_test = true);
        at = close + 1;
    }
}

/// Line of the brace that closes the item whose header begins at `header`; the header's own line
/// when the item has no body.
pub fn closing_line(lines: &[Line], header: usize) -> usize {
    let indent = indent_of(&lines[header].text);
    let mut opened = false;
    for (index, line) in lines.iter().enumerate().skip(header) {
        let code = line.code.trim_end();
        let at_indent = indent_of(&line.text) == indent && !code.trim().is_empty();
        if opened && at_indent && code.trim_start().starts_with('}') {
            return index;
        }
        if !opened && code.contains('{') {
            if code.ends_with('}') {
                return index;
            }
            opened = true;
        } else if !opened && code.ends_with(';') {
            return index;
        }
    }
    lines.len() - 1
}

/// Blanks before the first character.
pub fn indent_of(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(text: &str) -> Vec<String> {
        Source::parse("x/src/x.rs", text).lines.into_iter().map(|line| line.code).collect()
    }

    #[test]
    fn strings_characters_and_comments_are_no_code() {
        assert_eq!(code_of(r#"let a = "unsafe \" {"; b"#), [r#"let a = ""#.to_owned() + "; b"]);
        assert_eq!(code_of(r###"f(r#"un"safe"#, 'x', '\'', b'\\')"###), ["f(\", , , b)"]);
        assert_eq!(code_of("a // unsafe"), ["a "]);
        assert_eq!(code_of("a /* x\n /* y */ unsafe\n */ b"), ["a ", "", " b"]);
        assert_eq!(code_of("\"one\ntwo\" + three"), ["\"", " + three"]);
    }

    #[test]
    fn lifetimes_are_code() {
        assert_eq!(code_of("fn f<'a>(x: &'a str) {}"), ["fn f<'a>(x: &'a str) {}"]);
    }

    #[test]
    fn comments_are_kept_aside() {
        let source = Source::parse("x/src/x.rs", "a(); // why\n/// doc");
        assert_eq!(source.lines[0].comment, "// why");
        assert_eq!(source.lines[1].comment, "/// doc");
    }

    #[test]
    fn a_module_of_tests_ends_at_its_brace() {
        let text =
            "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}";
        let source = Source::parse("x/src/x.rs", text);
        let marks: Vec<bool> = source.lines.iter().map(|line| line.is_test).collect();
        assert_eq!(marks, [false, true, true, true, true, true, true, false]);
    }

    #[test]
    fn a_test_only_import_marks_itself_alone() {
        let source = Source::parse("x/src/x.rs", "#[cfg(test)]\nuse a::b;\nfn c() {}");
        let marks: Vec<bool> = source.lines.iter().map(|line| line.is_test).collect();
        assert_eq!(marks, [true, true, false]);
    }
}
