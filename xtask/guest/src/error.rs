//! What can go wrong with a guest; one error type for the whole crate.
//!
//! Whoever reads one of these sits before a failed test run, so each says what was tried and shows
//! what the guest said last.

use std::path::PathBuf;
use std::time::Duration;

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure to build, boot or talk to a guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the host could not be read or written.
    #[error("{action} {path}: {source}", path = path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// A program of the host could not be started or failed.
    #[error("{program} failed: {detail}")]
    Program {
        /// Its command line.
        program: String,
        /// Its exit status and output.
        detail: String,
    },
    /// Something that the guest is made of is not on this machine.
    #[error("{what} is not here; it comes with the package {package}")]
    Missing {
        /// A program or a file.
        what: String,
        /// Debian package that has it.
        package: String,
    },
    /// The kernel package lacks something that the guest needs.
    #[error("the kernel package has no {what}")]
    Kernel {
        /// A file or a module.
        what: String,
    },
    /// The guest ended or fell silent before its agent said hello.
    #[error("the guest did not boot: {reason}\n{log}")]
    Boot {
        /// Ended, or silent for how long.
        reason: String,
        /// Tail of console and of QEMU's messages.
        log: String,
    },
    /// The guest is gone.
    #[error("the guest died while `{doing}`\n{log}")]
    Died {
        /// Command that ran.
        doing: String,
        /// Tail of console and of QEMU's messages.
        log: String,
    },
    /// A command did not end in time; it was killed.
    #[error("no end of `{command}` within {limit:?}\nstdout: {stdout}\nstderr: {stderr}\n{log}")]
    Timeout {
        /// Command that ran.
        command: String,
        /// Time it was given.
        limit: Duration,
        /// What it had written.
        stdout: String,
        /// What it had complained about.
        stderr: String,
        /// Tail of console and of QEMU's messages.
        log: String,
    },
    /// A command failed that must not.
    #[error("`{command}` ended with {code}\nstdout: {stdout}\nstderr: {stderr}\n{log}")]
    Command {
        /// Command that ran.
        command: String,
        /// Its exit code, or 128 and the signal.
        code: i32,
        /// Its output.
        stdout: String,
        /// Its complaints.
        stderr: String,
        /// Tail of console and of QEMU's messages.
        log: String,
    },
    /// A command succeeded and said something that it should not.
    #[error("`{command}` gave {value}")]
    Unexpected {
        /// Command that ran.
        command: String,
        /// What it printed.
        value: String,
    },
    /// The target did not start, or not as it should.
    #[error("`{command}`: {reason}\n{log}")]
    Target {
        /// Its command line.
        command: String,
        /// What is wrong.
        reason: String,
        /// What it printed.
        log: String,
    },
    /// QEMU closed its control socket, which it does only when it ends.
    #[error("QMP {request}: QEMU is gone")]
    QmpClosed {
        /// The request, or the event waited for.
        request: String,
    },
    /// QEMU refused a request over its control socket, or did not answer.
    #[error("QMP {request}: {reason}")]
    Qmp {
        /// The request.
        request: String,
        /// What came back.
        reason: String,
    },
}

impl Error {
    /// Whether QEMU hung up.
    pub(crate) fn is_closed_socket(&self) -> bool {
        matches!(self, Error::QmpClosed { .. })
    }

    /// For `map_err` on file operations.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { action, path, source }
    }
}
