//! `mayastor setup`: what the machine has and lacks, and the few changes that a target needs.
//!
//! [`run`] is called by the main thread and does one of two things. The plain form reads, prints a
//! row a thing with the command that mends it, and never changes anything: it has no [`hands`].
//! `--bind`, `--unbind` and `--hugepages` change what they name and say what they did. Reading goes
//! through [`host`], writing through [`hands`], so that both are tried on machines made of files.
//!
//! [`report`] gathers the rows of [`cpu`], [`system`] (kernel, IOMMU, modules, limits), [`nodes`]
//! (hugepages) and [`drive`]; what keeps a drive from being taken is in [`uses`] and [`contents`];
//! [`bind`] moves drives between the kernel and user space.

pub mod bind;
pub mod contents;
pub mod cpu;
pub mod drive;
pub mod error;
#[cfg(test)]
mod fixture;
pub mod hands;
pub mod host;
pub mod nodes;
pub mod options;
pub mod report;
pub mod row;
pub mod system;
#[cfg(test)]
mod tests;
pub mod uses;

use std::io::Write;

use serde::Serialize;

use bind::{Change, Force};
use error::SetupError;
use hands::{Hands, Kernel};
use host::Host;
use nodes::Reserved;
use options::{Form, SetupOptions};
use report::Report;

/// What was done, in the order in which it was.
#[derive(Debug, Default, Serialize)]
struct Done {
    hugepages: Option<Reserved>,
    unbound: Vec<Change>,
    bound: Vec<Change>,
}

/// Does what the options say, and prints it.
///
/// # Errors
///
/// What keeps the machine from being changed. What was changed before that is printed.
pub fn run(options: &SetupOptions) -> Result<(), SetupError> {
    let host = Host::new("/");
    let (text, outcome) = if options.changes() {
        let (done, outcome) = change(&host, &mut Kernel, options);
        (done.text(options.form()), outcome)
    } else {
        let report = Report::of(&host, &options.wish(&host));
        let text = match options.form() {
            Form::Table => report.table(),
            Form::Json => json(&report),
        };
        (text, Ok(()))
    };
    // A reader that has left is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    outcome
}

fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value);
    text.expect("only strings, numbers and lists are made into JSON") + "\n"
}

/// Makes all changes, up to the first that is refused.
fn change(
    host: &Host,
    hands: &mut dyn Hands,
    options: &SetupOptions,
) -> (Done, Result<(), SetupError>) {
    let mut done = Done::default();
    let outcome = change_into(&mut done, host, hands, options);
    (done, outcome)
}

fn change_into(
    done: &mut Done,
    host: &Host,
    hands: &mut dyn Hands,
    options: &SetupOptions,
) -> Result<(), SetupError> {
    let force = if options.force { Force::Yes } else { Force::No };
    if let Some(pages) = options.hugepages {
        done.hugepages = Some(nodes::reserve(host, hands, pages, options.node)?);
    }
    for address in &options.unbind {
        done.unbound.push(bind::unbind(host, hands, &address.to_string(), force)?);
    }
    for address in &options.bind {
        done.bound.push(bind::bind(host, hands, &address.to_string(), force)?);
    }
    Ok(())
}

impl Done {
    /// Empty where nothing was done.
    fn text(&self, form: Form) -> String {
        if self.hugepages.is_none() && self.unbound.is_empty() && self.bound.is_empty() {
            return String::new();
        }
        if form == Form::Json {
            return json(self);
        }
        let mut lines = Vec::new();
        if let Some(reserved) = &self.hugepages {
            let place = reserved.node.map_or(String::new(), |node| format!(" on node {node}"));
            let (before, total) = (reserved.hugepages_before, reserved.hugepages_total);
            lines.push(format!("hugepages{place}: {total} (before: {before})"));
            lines.extend(reserved.notes.iter().map(|note| format!("  {note}")));
        }
        for change in self.unbound.iter().chain(&self.bound) {
            let name = |driver: &Option<String>| driver.clone().unwrap_or("no driver".into());
            let (now, before) = (name(&change.driver), name(&change.driver_before));
            lines.push(format!("{}: {now} (before: {before})", change.address));
            lines.extend(change.notes.iter().map(|note| format!("  {note}")));
        }
        lines.join("\n") + "\n"
    }
}
