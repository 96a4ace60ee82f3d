//! A disk with little room, for tests: a small tmpfs that only the test's thread can see.
//!
//! The thread has a mount namespace of its own, so that the mount ends with it, whatever becomes
//! of the test.

use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs a test in a folder of `room_bytes`. Panics, saying why, where nothing may be mounted.
pub(crate) fn with_room(room_bytes: u64, test: fn(&Path)) {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("this test mounts a tmpfs, and must be root's");
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).expect("the namespace is the thread's own");
        let folder = PathBuf::from("/mnt");
        let size = format!("size={room_bytes}");
        mount(Some("scarce"), &folder, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .expect("a tmpfs can be mounted");
        test(&folder);
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}
