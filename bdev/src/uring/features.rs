//! What a ring can have beyond the plain one, each younger than Linux 5.6 and each done without
//! where the kernel refuses it.
//!
//! Read when a core's ring is made. The same struct says what to ask for and what was got; tests
//! ask for less than there is and so stand on an older kernel.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// When the kernel does what follows a completion (waking, filling in the result).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskWork {
    /// When the ring is entered for it, all at once (`DEFER_TASKRUN` with `SINGLE_ISSUER`, 6.1).
    Deferred,
    /// At any system call of the thread (`COOP_TASKRUN`, 5.19).
    Cooperative,
    /// At once, by an interrupt of the thread.
    Interrupting,
}

impl TaskWork {
    fn next_best(self) -> Option<TaskWork> {
        match self {
            TaskWork::Deferred => Some(TaskWork::Cooperative),
            TaskWork::Cooperative => Some(TaskWork::Interrupting),
            TaskWork::Interrupting => None,
        }
    }
}

/// How something is named to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// By its place in a table of the ring: looked up, counted and mapped once.
    Registered,
    /// As any system call has it.
    Plain,
}

/// What a ring has, or is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) task_work: TaskWork,
    /// The ring itself, in each call (5.18).
    pub(crate) ring: Naming,
    /// Files, in each command.
    pub(crate) files: Naming,
    /// The memory of the core's pool: saves finding its pages for each command.
    pub(crate) memory: Naming,
}

impl Features {
    /// All there is.
    pub(crate) const BEST: Features = Features {
        task_work: TaskWork::Deferred,
        ring: Naming::Registered,
        files: Naming::Registered,
        memory: Naming::Registered,
    };
}

/// Entries of a core's ring that wait for one call; with more in line, one more call is made.
const ENTRIES: u32 = 512;

/// Results that lie in the ring; the kernel keeps what is beyond in a list of its own, and says so.
const RESULTS: u32 = 4096;

/// What the kernel must know. `fallocate` is the youngest: Linux 5.6.
const OPERATIONS: [u8; 9] = [
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::Readv::CODE,
    opcode::Writev::CODE,
    opcode::ReadFixed::CODE,
    opcode::WriteFixed::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
    opcode::AsyncCancel::CODE,
];

/// The best ring that the kernel makes, from `wanted` down: a flag that it does not know is
/// `EINVAL`.
pub(super) fn build(wanted: TaskWork) -> io::Result<(IoUring, TaskWork)> {
    let mut task_work = wanted;
    loop {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(RESULTS);
        match task_work {
            TaskWork::Deferred => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag()
            }
            TaskWork::Cooperative => builder.setup_coop_taskrun().setup_taskrun_flag(),
            TaskWork::Interrupting => &mut builder,
        };
        match (builder.build(ENTRIES), task_work.next_best()) {
            (Err(error), Some(next)) if error.raw_os_error() == Some(libc::EINVAL) => {
                task_work = next;
            }
            (built, _) => return built.map(|ring| (ring, task_work)),
        }
    }
}

/// Whether a ring with all that is needed can be had, and how its task work is done.
pub(super) fn probe() -> io::Result<TaskWork> {
    let (ring, task_work) = build(Features::BEST.task_work)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let complete = OPERATIONS.into_iter().all(|code| probe.is_supported(code));
    // Without the first an array of segments would have to outlive its submission, without the
    // second a result could be lost.
    let features = ring.params().is_feature_submit_stable() && ring.params().is_feature_nodrop();
    if complete && features { Ok(task_work) } else { Err(io::ErrorKind::Unsupported.into()) }
}
