//! A thread that may not make rings, for tests: as a container's filter of system calls has it.
//!
//! All the `unsafe` of the tests of rings is here.

use nix::errno::Errno;

/// `BPF_LD | BPF_W | BPF_ABS`: load the word at an offset.
const LOAD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`: skip as many as told when equal, or else.
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// Runs a test on a thread for which `io_uring_setup` ends with `EPERM`.
pub(super) fn without_rings(test: fn()) {
    let body = move || {
        forbid(libc::SYS_io_uring_setup);
        test();
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Forbids the calling thread a system call, for good.
fn forbid(call: libc::c_long) {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let call = u32::try_from(call).unwrap();
    let mut program = [
        // The number of the call comes first in what the filter is shown.
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, call),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: a number only; the thread gives up rights that it never uses.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).unwrap();
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the kernel copies the program, which is as long as it says, during the call.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) }).unwrap();
}
