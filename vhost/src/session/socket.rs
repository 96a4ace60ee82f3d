//! The UNIX socket of a device: made where nothing or a dead socket is, removed with the device.
//!
//! On control threads. Whoever may connect gets the whole volume, so only the owner may.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Longest path of a socket, in bytes: what `sockaddr_un` holds.
pub const PATH_BYTES_MAX: usize = 107;

/// Only the owner may connect.
const SOCKET_MODE: u32 = 0o600;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit.
    #[error("the path of a socket has 1 to {PATH_BYTES_MAX} bytes, not {}", .0.display())]
    Length(PathBuf),
    /// Somebody serves there.
    #[error("another process serves on {}: stop it, or choose another path", .0.display())]
    Live(PathBuf),
    /// Something is there that is no socket.
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
pub(super) struct BoundSocket {
    path: PathBuf,
    inode: u64,
}

impl BoundSocket {
    /// Takes the path, and listens there.
    pub fn bind(path: &Path) -> Result<(BoundSocket, UnixListener), SocketError> {
        if !(1..=PATH_BYTES_MAX).contains(&path.as_os_str().len()) {
            return Err(SocketError::Length(path.to_owned()));
        }
        let system = |source| SocketError::System { path: path.to_owned(), source };
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(system)?;
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(system)?;
        listener.set_nonblocking(true).map_err(system)?;
        let inode = fs::symlink_metadata(path).map_err(system)?.ino();
        Ok((BoundSocket { path: path.to_owned(), inode }, listener))
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
