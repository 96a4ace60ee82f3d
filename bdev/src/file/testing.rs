//! Files for tests, in the build's own folder, and single I/Os.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use reactor::Cx;

use super::Backing;
use crate::device::BlockDevice;
use crate::io::{Completions, Io, Token};
use crate::nvme::status::Status;
use crate::queue_pair::QueuePair;
use crate::uring::features::{Features, Naming, TaskWork};

/// Real time after which an I/O is taken to be lost.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(300);

/// A file that is gone when the value is.
#[derive(Debug)]
pub(crate) struct TestFile(PathBuf);

impl TestFile {
    /// A file of zeroes, beside the test that runs: on the disk that holds the build.
    pub(crate) fn new(len_bytes: u64) -> TestFile {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("file-{}-{number}.disk", std::process::id());
        let path = std::env::current_exe().unwrap().with_file_name(name);
        TestFile::at(path, len_bytes)
    }

    /// A file of zeroes at a path.
    pub(crate) fn at(path: PathBuf, len_bytes: u64) -> TestFile {
        OpenOptions::new().create_new(true).write(true).open(&path).unwrap();
        let file = TestFile(path);
        file.set_len(len_bytes);
        file
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// Grows it, or cuts it off.
    pub(crate) fn set_len(&self, len_bytes: u64) {
        OpenOptions::new().write(true).open(&self.0).unwrap().set_len(len_bytes).unwrap();
    }

    pub(crate) fn backing(&self, block_bytes: u32) -> Arc<Backing> {
        Arc::new(Backing::open(self.path(), Some(block_bytes)).unwrap())
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const LINUX_5_19: Features = Features { task_work: TaskWork::Cooperative, ..Features::BEST };

/// As it is, too, where limits let nothing be registered.
const LINUX_5_6: Features = Features {
    task_work: TaskWork::Interrupting,
    ring: Naming::Plain,
    files: Naming::Plain,
    memory: Naming::Plain,
};

/// Makes a device of a backing.
pub(crate) type Make = fn(Arc<Backing>) -> Arc<dyn BlockDevice>;

/// Both interfaces, and rings as older kernels have them, for what is to hold for each.
pub(crate) const INTERFACES: [Make; 4] = [
    |backing| Arc::new(crate::Uring::new(backing, None).unwrap()),
    |backing| Arc::new(crate::Uring::with_features(backing, LINUX_5_19)),
    |backing| Arc::new(crate::Uring::with_features(backing, LINUX_5_6)),
    |backing| Arc::new(crate::Aio::new(backing, None).unwrap()),
];

/// Submits one I/O and waits for its end.
pub(crate) fn run(cx: &mut Cx, queue_pair: &mut dyn QueuePair, io: Io) -> Status {
    queue_pair.submit(cx, io).unwrap();
    let ended = drain(cx, queue_pair);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].0, io.token);
    ended[0].1
}

/// Waits for the end of everything in flight.
pub(crate) fn drain(cx: &mut Cx, queue_pair: &mut dyn QueuePair) -> Vec<(Token, Status)> {
    let started = Instant::now();
    let mut completions = Completions::new();
    let mut ended = Vec::new();
    while queue_pair.inflight() > 0 {
        queue_pair.flush(cx);
        queue_pair.poll(cx, &mut completions);
        ended.extend(completions.drain().map(|one| (one.token, one.status)));
        assert!(started.elapsed() < LOST_AFTER, "{} never completed", queue_pair.inflight());
        std::thread::yield_now();
    }
    ended
}
