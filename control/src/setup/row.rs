//! What is said of one thing that was looked at.

use serde::Serialize;

/// How a thing is, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be, or none of our business.
    Ok,
    /// It works without, but worse.
    Warning,
    /// Something will not work.
    Missing,
}

impl State {
    /// As tables and JSON say it.
    pub fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Missing => "missing",
        }
    }
}

/// A row of the table. The keys of its JSON, and those of the rows, stay what they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What was looked at: the part of the machine, a dot, and which one.
    pub key: String,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// The command that mends it, ready to paste; or, where nothing needs mending, one that makes
    /// more of it.
    pub fix: Option<String>,
}

impl Row {
    /// A row without a command.
    pub fn new(key: impl Into<String>, state: State, found: impl Into<String>) -> Row {
        Row { key: key.into(), state, found: found.into(), fix: None }
    }

    /// The same with a command.
    pub fn with_fix(self, fix: impl Into<String>) -> Row {
        Row { fix: Some(fix.into()), ..self }
    }
}
