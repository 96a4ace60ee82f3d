//! `mayastor target --config` and `mayastor-client` as their users see them: both are started as
//! processes, and talk over the UNIX socket or TCP.

#![allow(clippy::unwrap_used, reason = "tests")]

mod changes;
mod daemon;
mod faces;
mod host;
mod labels;
mod nexuses;
mod wrong_input;
