//! A failure in one line: what went wrong, down to its cause, and nothing of the program's insides.

use std::error::Error;

/// What the parser of options writes before it repeats how the command is used.
const USAGE_MARK: &str = "Usage:";

/// An error and its causes, outermost first, on one line.
pub fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some errors repeat their cause in their own words.
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    join_lines(line.lines())
}

/// The complaint of the parser of options on one line, and where to read more.
pub fn usage_line(complaint: &str) -> String {
    let lines = complaint.lines().take_while(|line| !line.starts_with(USAGE_MARK));
    let line = join_lines(lines.filter(|line| !line.starts_with("For more information")));
    format!("{} (--help says more)", line.strip_prefix("error: ").unwrap_or(&line))
}

fn join_lines<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let parts: Vec<&str> = lines.map(str::trim).filter(|part| !part.is_empty()).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        #[source]
        source: Option<Box<Layer>>,
    }

    fn layers(texts: &[&'static str]) -> Layer {
        let (first, rest) = texts.split_first().unwrap();
        let source = (!rest.is_empty()).then(|| Box::new(layers(rest)));
        Layer { text: first, source }
    }

    #[test]
    fn causes_follow_what_they_caused() {
        assert_eq!(one_line(&layers(&["cannot listen", "refused"])), "cannot listen: refused");
        assert_eq!(one_line(&layers(&["alone"])), "alone");
    }

    #[test]
    fn a_cause_already_told_is_not_told_twice() {
        assert_eq!(one_line(&layers(&["open: no", "no", "why"])), "open: no: why");
    }

    #[test]
    fn several_lines_become_one() {
        assert_eq!(one_line(&layers(&["a\n  b\n\nc"])), "a b c");
    }

    #[test]
    fn a_complaint_loses_the_usage() {
        let complaint = "error: unexpected argument '--prot' found\n\n  tip: a similar argument \
                         exists: '--port'\n\nUsage: mayastor target\n\nFor more information, try";
        assert_eq!(
            usage_line(complaint),
            "unexpected argument '--prot' found tip: a similar argument exists: '--port' \
             (--help says more)"
        );
    }
}
