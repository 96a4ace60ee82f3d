//! The UNIX socket of the server: one daemon a path, mode 0600 from its first moment.
//!
//! Called by main before anything is served. Who holds the lock of `PATH.lock` owns the path, for
//! as long as the process lives, however it ends; so the socket of a dead process is known and
//! replaced, and that of a live one is left alone. A new socket is bound in a directory that only
//! this user can enter, given its mode there, and then moved into place: there is no moment at
//! which another user could connect.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Only the owner may connect.
const SOCKET_MODE: u32 = 0o600;

/// Only the owner may enter.
const DIRECTORY_MODE: u32 = 0o700;

/// Longest path of a socket in bytes: what `sockaddr_un` holds, less what the name of the private
/// directory takes.
pub const PATH_BYTES_MAX: usize = 90;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit.
    #[error("the path of a socket has at most {PATH_BYTES_MAX} bytes, {} is longer", .0.display())]
    TooLong(PathBuf),
    /// Another daemon serves there.
    #[error(
        "another process serves on {}: stop it, or choose another path with --grpc-socket",
        .0.display()
    )]
    Live(PathBuf),
    /// Something is there that was not made by a daemon.
    #[error("{} is there and is no socket: remove it, or choose another path", .0.display())]
    NoSocket(PathBuf),
    /// The system refused.
    #[error("cannot serve on {}", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A socket that is listened on; its path goes when this is dropped.
#[derive(Debug)]
pub struct BoundSocket {
    path: PathBuf,
    inode: u64,
    /// Held for its lock. The file stays: a lock whose file others may remove holds nobody off.
    _lock: File,
}

impl BoundSocket {
    /// Takes the path, and listens there.
    ///
    /// # Errors
    ///
    /// A path that is taken, or that the system refuses.
    pub fn bind(path: &Path) -> Result<(BoundSocket, UnixListener), SocketError> {
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        let system = |source| SocketError::System { path: path.to_owned(), source };
        let lock = lock(path)?;
        remove_stale(path)?;
        let listener = bind_private(path).map_err(system)?;
        let inode = fs::symlink_metadata(path).map_err(system)?.ino();
        Ok((BoundSocket { path: path.to_owned(), inode, _lock: lock }, listener))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // What somebody has put in its place since is not ours to remove.
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The path with something after it.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn lock(path: &Path) -> Result<File, SocketError> {
    let system = |source| SocketError::System { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(SOCKET_MODE);
    let file = options.open(beside(path, ".lock")).map_err(system)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SocketError::Live(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(system(source)),
    }
}

/// Removes the socket of a process that is gone. The lock is held, so a socket that still answers
/// belongs to something that is no daemon of this kind.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let system = |source| SocketError::System { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(system)
        }
        Ok(_) => Err(SocketError::Live(path.to_owned())),
        Err(error) => Err(system(error)),
    }
}

/// Binds a socket where nobody else can reach it, and moves it to its path.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let directory = beside(path, &format!(".{}", std::process::id()));
    let inside = directory.join("s");
    // A process of this number may have died half-way here; what another user put there stays.
    let _ = fs::remove_file(&inside);
    let _ = fs::remove_dir(&directory);
    DirBuilder::new().mode(DIRECTORY_MODE).create(&directory)?;
    let bound = UnixListener::bind(&inside).and_then(|listener| {
        fs::set_permissions(&inside, Permissions::from_mode(SOCKET_MODE))?;
        listener.set_nonblocking(true)?;
        fs::rename(&inside, path)?;
        Ok(listener)
    });
    // Left over only if something failed on the way.
    let _ = fs::remove_file(&inside);
    let _ = fs::remove_dir(&directory);
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own, gone at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let name = format!("mayastor-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("s.sock")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_the_owner_may_connect_and_nothing_else_is_left() {
        let scratch = Scratch::new("mode");
        let path = scratch.socket();
        let (socket, _listener) = BoundSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, SOCKET_MODE);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        let left: Vec<_> = fs::read_dir(&scratch.0).unwrap().collect();
        assert_eq!(left.len(), 1, "the lock alone: {left:?}");
    }

    #[test]
    fn the_socket_of_the_living_is_refused_and_that_of_the_dead_replaced() {
        let scratch = Scratch::new("stale");
        let path = scratch.socket();
        drop(UnixListener::bind(&path).unwrap());
        let (socket, listener) = BoundSocket::bind(&path).unwrap();
        assert!(matches!(BoundSocket::bind(&path), Err(SocketError::Live(_))));
        drop((socket, listener));
        assert!(BoundSocket::bind(&path).is_ok());
    }

    #[test]
    fn what_is_not_ours_stays() {
        let scratch = Scratch::new("foreign");
        let path = scratch.socket();
        fs::write(&path, "mine").unwrap();
        assert!(matches!(BoundSocket::bind(&path), Err(SocketError::NoSocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
        let foreign = UnixListener::bind(&path).unwrap();
        assert!(matches!(BoundSocket::bind(&path), Err(SocketError::Live(_))));
        drop(foreign);
        let (socket, _listener) = BoundSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        drop(socket);
        assert!(path.exists(), "what took its place is not removed");
    }

    #[test]
    fn the_longest_path_is_bound_and_a_longer_one_refused() {
        let scratch = Scratch::new("long");
        let fill = PATH_BYTES_MAX - scratch.0.as_os_str().len() - 1;
        assert!(BoundSocket::bind(&scratch.0.join("s".repeat(fill))).is_ok());
        let longer = scratch.0.join("s".repeat(fill + 1));
        assert!(matches!(BoundSocket::bind(&longer), Err(SocketError::TooLong(_))));
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = BoundSocket::bind(Path::new("/no/such/s.sock")).unwrap_err();
        assert!(matches!(error, SocketError::System { .. }));
        assert_eq!(error.to_string(), "cannot serve on /no/such/s.sock");
    }
}
