//! Where in a configuration file a mistake is: the line, and the key that people look for.

use std::fmt;

/// Characters of a key that are repeated; a longer one is cut.
const KEY_CHARACTERS_MAX: usize = 80;

/// A line and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line, from one.
    pub line: usize,
    /// The key with the name of its table before it, such as `devices.uri`; empty where there is
    /// none.
    pub key: String,
}

impl Place {
    /// The place of the byte at `offset` of `text`. An offset past the end is its end.
    pub fn find(text: &str, offset: usize) -> Place {
        let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let mut key = "";
        // A value may have begun lines above; the line itself may be cut at any byte.
        for one in text.lines().take(line) {
            key = key_of(one).or_else(|| table_of(one).map(|_| "")).unwrap_or(key);
        }
        let table = text.lines().take(line).filter_map(table_of).last();
        let parts = [table.unwrap_or_default(), key];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let key = parts.join(".").chars().take(KEY_CHARACTERS_MAX).collect();
        Place { line, key }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}", self.line),
            key => write!(f, "{}: {key}", self.line),
        }
    }
}

/// The key of a line that has one before its first `=`.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let is_part = |letter: char| letter.is_alphanumeric() || "_-.\"'".contains(letter);
    (!key.is_empty() && key.chars().all(is_part)).then_some(key)
}

/// The name of the table that begins in a line.
fn table_of(line: &str) -> Option<&str> {
    let line = line.trim();
    let inside = line.strip_prefix("[[").or_else(|| line.strip_prefix('['))?;
    let (name, _) = inside.split_once(']')?;
    let name = name.trim();
    let is_part = |letter: char| letter.is_alphanumeric() || "_-.\"' ".contains(letter);
    (!name.is_empty() && name.chars().all(is_part)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "top = 1\n\n[target]\ncores = \"0\" # a = b\n\n[[devices]]\nlist = [\n  \
                        \"x\",\n]\n[grpc]\n";

    fn found(needle: &str) -> String {
        Place::find(TEXT, TEXT.find(needle).unwrap()).to_string()
    }

    #[test]
    fn a_place_is_a_line_and_a_key_with_its_table() {
        assert_eq!(found("1"), "1: top");
        assert_eq!(found("\"0\""), "4: target.cores");
        assert_eq!(found("\"x\""), "8: devices.list");
        assert_eq!(found("[grpc]"), "10: grpc");
    }

    #[test]
    fn any_offset_has_a_place() {
        for offset in 0..TEXT.len() + 3 {
            assert!((1..=11).contains(&Place::find(TEXT, offset).line));
        }
        assert_eq!(Place::find("", 7).to_string(), "1");
    }
}
