//! How many files and sockets the process may have open.
//!
//! A system gives a process 1024 unless it asks for more, which a thousand connections use up. The
//! process may raise the soft limit to the hard one by itself. Called once, before the engine is
//! started.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit as far as the process may; returns what it is then.
///
/// # Errors
///
/// The system does not tell the limit, or refuses the one that it has told.
pub fn raise() -> Result<u64, Errno> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_hard_one_afterwards() {
        let hard = raise().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
