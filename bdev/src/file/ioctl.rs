//! What only raw system calls tell of a file: size and block size of a block device, whether it
//! can be written, and the alignment that direct I/O needs.
//!
//! Called when a file is opened and when its size is looked at, on any thread. All the `unsafe` of
//! that is here.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

nix::ioctl_read_bad! {
    /// `BLKGETSIZE64`: size in bytes, a u64, though linux/fs.h counts it as a pointer's length.
    blkgetsize64, nix::request_code_read!(0x12, 114, size_of::<usize>()), u64
}

nix::ioctl_read_bad! {
    /// `BLKSSZGET`: bytes of a logical block (linux/fs.h, a number without size or direction).
    blksszget, libc::BLKSSZGET, libc::c_int
}

nix::ioctl_read_bad! {
    /// `BLKROGET`: not zero when it cannot be written (linux/fs.h, as above).
    blkroget, nix::request_code_none!(0x12, 94), libc::c_int
}

/// Whether a block device is set to be read only: it may be opened for writing all the same.
pub(super) fn is_block_device_read_only(file: &File) -> io::Result<bool> {
    let mut read_only = 0;
    // SAFETY: the kernel fills in an int, which is what is there.
    unsafe { blkroget(file.as_raw_fd(), &mut read_only) }?;
    Ok(read_only != 0)
}

/// Size of a block device, in bytes.
pub(super) fn block_device_bytes(file: &File) -> io::Result<u64> {
    let mut len_bytes = 0;
    // SAFETY: the kernel fills in a u64, which is what is there.
    unsafe { blkgetsize64(file.as_raw_fd(), &mut len_bytes) }?;
    Ok(len_bytes)
}

/// Logical block size of a block device, in bytes.
pub(super) fn logical_block_bytes(file: &File) -> io::Result<u32> {
    let mut block_bytes = 0;
    // SAFETY: the kernel fills in an int, which is what is there.
    unsafe { blksszget(file.as_raw_fd(), &mut block_bytes) }?;
    u32::try_from(block_bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// What direct I/O needs, in bytes. Zeroes: the file has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectAlignment {
    /// Of addresses and lengths of memory.
    pub(super) memory_bytes: u32,
    /// Of offsets in the file.
    pub(super) offset_bytes: u32,
}

/// What the kernel says of direct I/O on the file; nothing where it does not tell (before 6.1).
pub(super) fn direct_alignment(file: &File) -> io::Result<Option<DirectAlignment>> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty string of C, and the kernel fills in a statx, which is there.
    let code = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            answer.as_mut_ptr(),
        )
    };
    Errno::result(code)?;
    // SAFETY: a statx of zeroes is one, whatever of it the kernel filled in.
    let answer = unsafe { answer.assume_init() };
    Ok((answer.stx_mask & libc::STATX_DIOALIGN != 0).then_some(DirectAlignment {
        memory_bytes: answer.stx_dio_mem_align,
        offset_bytes: answer.stx_dio_offset_align,
    }))
}
