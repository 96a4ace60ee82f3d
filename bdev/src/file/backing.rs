//! An open file or block device: exclusive, direct where it can be, its size looked at again.
//!
//! Opened on a control thread, shared by all cores, closed with the last queue pair. Block devices
//! are opened with `O_EXCL`, which the kernel refuses while one is mounted or somebody else has it
//! so; files are locked with `flock`, shared when they can only be read.
//!
//! Direct I/O (`O_DIRECT`) is taken where the kernel offers it for blocks of the size wanted;
//! where not, the page cache carries the I/O and [`Buffered`] says why. Direct is faster, and its
//! errors are those of the I/O that met them; buffered writes may fail as late as at a flush.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};

use super::error::FileError;
use super::ioctl::{self, DirectAlignment};
use super::range::{RangeMode, RangeModes};
use crate::device::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, Geometry, ResizeError};
use crate::io::Operation;
use crate::legality;

/// How often, and how long apart, what is in use is tried again: over 200 ms.
const LET_GO_TRIES: u32 = 20;
const LET_GO_INTERVAL: Duration = Duration::from_millis(10);

/// What may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    ReadWrite,
    /// It could be opened for reading only.
    ReadOnly,
}

/// Why I/O goes through the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffered {
    /// The file system has no direct I/O for the file.
    Unsupported,
    /// Direct I/O needs larger blocks than the device is to have.
    Blocks {
        /// The smallest that would do, in bytes.
        needed_bytes: u32,
    },
}

impl fmt::Display for Buffered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Buffered::Unsupported => formatter.write_str("its file system has no direct I/O"),
            Buffered::Blocks { needed_bytes } => {
                write!(formatter, "direct I/O would need blocks of {needed_bytes} bytes")
            }
        }
    }
}

/// Where a write that has completed may still be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteCache {
    /// In memory of the kernel or of the disk, until a flush.
    Volatile,
    /// Nowhere but on the medium.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    BlockDevice,
}

/// See the module.
#[derive(Debug)]
pub struct Backing {
    path: String,
    file: File,
    kind: Kind,
    access: Access,
    buffered: Option<Buffered>,
    alignment_bytes: u32,
    block_bytes: u32,
    cache: WriteCache,
    /// As last seen.
    blocks: AtomicU64,
    ranges: Option<RangeModes>,
}

impl Backing {
    /// Opens the file at `path`. Its blocks have `block_bytes`, or what suits it best.
    ///
    /// # Errors
    ///
    /// Each by its name in [`FileError`].
    pub fn open(path: &str, block_bytes: Option<u32>) -> Result<Backing, FileError> {
        let (file, mut access) = open_when_let_go(path)?;
        let property =
            |what| move |source| FileError::Property { path: path.to_owned(), what, source };
        let kind = kind_of(&file.metadata().map_err(property("kind"))?);
        let kind = kind.ok_or_else(|| FileError::NotADisk { path: path.to_owned() })?;
        if kind == Kind::BlockDevice
            && ioctl::is_block_device_read_only(&file).map_err(property("access"))?
        {
            access = Access::ReadOnly;
        }
        let logical_bytes = match kind {
            Kind::BlockDevice => {
                ioctl::logical_block_bytes(&file).map_err(property("block size"))?
            }
            Kind::File => BLOCK_BYTES_MIN,
        };
        let direct = direct_alignment(&file, kind, logical_bytes);
        let block_bytes = block_bytes.unwrap_or_else(|| {
            let best = direct.map_or(0, |direct| direct.offset_bytes).max(logical_bytes);
            best.clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX)
        });
        let (buffered, alignment_bytes) = choose_direct(&file, direct, block_bytes);
        let len_bytes = len_bytes(&file, kind).map_err(property("size"))?;
        let geometry = Geometry { block_bytes, blocks: len_bytes / u64::from(block_bytes) };
        legality::check_geometry(geometry)
            .map_err(|source| FileError::Geometry { path: path.to_owned(), source })?;
        let zeroes = access == Access::ReadWrite
            && match kind {
                Kind::BlockDevice => block_bytes.is_multiple_of(logical_bytes),
                Kind::File => can_punch(&file, len_bytes, block_bytes),
            };
        let cache = match (kind, buffered) {
            (Kind::BlockDevice, None) => write_cache(&file),
            _ => WriteCache::Volatile,
        };
        Ok(Backing {
            path: path.to_owned(),
            file,
            kind,
            access,
            buffered,
            alignment_bytes,
            block_bytes,
            cache,
            blocks: AtomicU64::new(geometry.blocks),
            ranges: zeroes.then(RangeModes::default),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What may be done with it.
    pub fn access(&self) -> Access {
        self.access
    }

    /// True for a file, false for a block device.
    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }

    /// True when I/O goes past the page cache.
    pub fn is_direct(&self) -> bool {
        self.buffered.is_none()
    }

    /// Where completed writes may be.
    pub fn write_cache(&self) -> WriteCache {
        self.cache
    }

    /// Why I/O does not go past the page cache, where it does not.
    pub fn buffered(&self) -> Option<Buffered> {
        self.buffered
    }

    /// Alignment of memory, addresses and lengths, in bytes: a power of two up to a block.
    pub fn alignment_bytes(&self) -> u32 {
        self.alignment_bytes
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// The size as it was last seen. For the hot path: no system call.
    #[inline]
    pub fn geometry(&self) -> Geometry {
        // Relaxed: a number by itself; nothing else is published with it.
        let blocks = self.blocks.load(Ordering::Relaxed);
        Geometry { block_bytes: self.block_bytes, blocks }
    }

    /// Asks the system for the size. All queue pairs follow at their next I/O. A file that was cut
    /// off, to nothing even, keeps its place: I/Os past the new end are refused.
    pub fn look_again(&self) -> Geometry {
        // A size that cannot be had (the disk was pulled out) leaves the old one; the I/Os that
        // fail tell the rest.
        if let Ok(len_bytes) = len_bytes(&self.file, self.kind) {
            let blocks = len_bytes / u64::from(self.block_bytes);
            // Relaxed: see `geometry`.
            self.blocks.store(blocks, Ordering::Relaxed);
        }
        self.geometry()
    }

    /// Lets a file grow to so many blocks.
    pub(crate) fn resize(&self, blocks: u64) -> Result<Geometry, ResizeError> {
        let device = || self.path.clone();
        let now = self.look_again();
        let wanted = Geometry { blocks, ..now };
        legality::check_geometry(wanted)
            .map_err(|source| ResizeError::Geometry { device: device(), source })?;
        if self.kind == Kind::BlockDevice {
            return Err(ResizeError::Fixed { device: device() });
        }
        if blocks < now.blocks {
            let (blocks, asked_blocks) = (now.blocks, blocks);
            return Err(ResizeError::Smaller { device: device(), blocks, asked_blocks });
        }
        if blocks > now.blocks {
            let grown = self.file.set_len(wanted.len_bytes());
            grown.map_err(|source| ResizeError::System { device: device(), source })?;
        }
        Ok(self.look_again())
    }

    /// True when ranges can be made to read as zeroes without writing them.
    pub fn has_ranges(&self) -> bool {
        self.ranges.is_some()
    }

    /// How, for an operation without memory that is no flush.
    pub(crate) fn range_mode(&self, operation: Operation) -> RangeMode {
        let ranges = self.ranges.as_ref().expect("the limits leave out what cannot be done");
        ranges.mode_for(operation)
    }

    /// The mode is missing; true when there is another.
    pub(crate) fn note_missing(&self, mode: RangeMode) -> bool {
        self.ranges.as_ref().is_some_and(|ranges| ranges.note_missing(mode))
    }

    /// Makes a range read as zeroes and waits for it.
    pub(crate) fn zero_range(
        &self,
        mode: RangeMode,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(), Errno> {
        let offset = i64::try_from(offset_bytes).map_err(|_| Errno::EFBIG)?;
        let len = i64::try_from(len_bytes).map_err(|_| Errno::EFBIG)?;
        fallocate(&self.file, mode.flags(), offset, len)
    }

    /// Its number, for control blocks.
    pub(crate) fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for Backing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn kind_of(metadata: &Metadata) -> Option<Kind> {
    let kind = metadata.file_type();
    if kind.is_block_device() {
        Some(Kind::BlockDevice)
    } else {
        kind.is_file().then_some(Kind::File)
    }
}

/// Opens and locks; what is in use is tried again for as long as the kernel may need to let go of
/// it. It does so some time after the last I/O, where that ended on another thread.
fn open_when_let_go(path: &str) -> Result<(File, Access), FileError> {
    for _ in 0..LET_GO_TRIES {
        match open_and_lock(path) {
            Err(FileError::InUse { .. }) => std::thread::sleep(LET_GO_INTERVAL),
            ended => return ended,
        }
    }
    open_and_lock(path)
}

fn open_and_lock(path: &str) -> Result<(File, Access), FileError> {
    let (file, access) = open_exclusively(path)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        lock(&file, access, path)?;
    }
    Ok((file, access))
}

/// Opens for writing, or else for reading.
fn open_exclusively(path: &str) -> Result<(File, Access), FileError> {
    let failed = |source: io::Error| match Errno::from_raw(source.raw_os_error().unwrap_or(0)) {
        Errno::EBUSY => FileError::InUse { path: path.to_owned() },
        Errno::EISDIR => FileError::NotADisk { path: path.to_owned() },
        _ => FileError::Open { path: path.to_owned(), source },
    };
    // Looked at before it is opened, since opening some things does something (a tape rewinds);
    // what was opened is looked at again.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    let kind = kind_of(&metadata).ok_or_else(|| FileError::NotADisk { path: path.to_owned() })?;
    // Without O_NONBLOCK a pipe that took the file's place would hold the thread up.
    let flags = match kind {
        Kind::BlockDevice => libc::O_EXCL | libc::O_NONBLOCK,
        Kind::File => libc::O_NONBLOCK,
    };
    match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
        Ok(file) => Ok((file, Access::ReadWrite)),
        Err(error) if is_refusal_to_write(&error) => {
            let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
            Ok((file.map_err(failed)?, Access::ReadOnly))
        }
        Err(error) => Err(failed(error)),
    }
}

fn is_refusal_to_write(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    matches!(errno, Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ETXTBSY)
}

fn lock(file: &File, access: Access, path: &str) -> Result<(), FileError> {
    let locked = match access {
        Access::ReadWrite => file.try_lock(),
        Access::ReadOnly => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(FileError::InUse { path: path.to_owned() }),
        // A file system without locks has nobody who could hold one.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(source)) => {
            Err(FileError::Property { path: path.to_owned(), what: "lock", source })
        }
    }
}

fn len_bytes(file: &File, kind: Kind) -> io::Result<u64> {
    match kind {
        Kind::File => Ok(file.metadata()?.len()),
        Kind::BlockDevice => ioctl::block_device_bytes(file),
    }
}

/// What the block layer knows of a disk's cache; a partition's disk is one folder up. A disk of
/// which nothing is known has one.
fn write_cache(file: &File) -> WriteCache {
    let Ok(metadata) = file.metadata() else { return WriteCache::Volatile };
    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    let folder = format!("/sys/dev/block/{major}:{minor}");
    let read = |queue| std::fs::read_to_string(format!("{folder}/{queue}/write_cache"));
    match read("queue").or_else(|_| read("../queue")) {
        Ok(text) if text.trim() == "write through" => WriteCache::None,
        _ => WriteCache::Volatile,
    }
}

/// What direct I/O needs; none where there is no direct I/O.
fn direct_alignment(file: &File, kind: Kind, logical_bytes: u32) -> Option<DirectAlignment> {
    match ioctl::direct_alignment(file) {
        Ok(Some(
            DirectAlignment { memory_bytes: 0, .. } | DirectAlignment { offset_bytes: 0, .. },
        )) => None,
        Ok(Some(told)) => Some(told),
        // The kernel is too old to tell. A block device wants its blocks, and a file no more than
        // the largest ones.
        Ok(None) | Err(_) => {
            let bytes = match kind {
                Kind::BlockDevice => logical_bytes,
                Kind::File => BLOCK_BYTES_MAX,
            };
            Some(DirectAlignment { memory_bytes: bytes, offset_bytes: bytes })
        }
    }
}

/// Switches direct I/O on where blocks of this size allow it; why not, and the alignment of
/// memory that follows.
fn choose_direct(
    file: &File,
    direct: Option<DirectAlignment>,
    block_bytes: u32,
) -> (Option<Buffered>, u32) {
    let Some(DirectAlignment { memory_bytes, offset_bytes }) = direct else {
        set_flags(file, OFlag::empty());
        return (Some(Buffered::Unsupported), 1);
    };
    let needed_bytes = memory_bytes.max(offset_bytes);
    if !block_bytes.is_multiple_of(offset_bytes) || !block_bytes.is_multiple_of(memory_bytes) {
        set_flags(file, OFlag::empty());
        return (Some(Buffered::Blocks { needed_bytes }), 1);
    }
    if set_flags(file, OFlag::O_DIRECT) {
        return (None, memory_bytes);
    }
    set_flags(file, OFlag::empty());
    (Some(Buffered::Unsupported), 1)
}

/// Replaces the flags, `O_NONBLOCK` among them, which the rings would obey. True when it worked.
fn set_flags(file: &File, flags: OFlag) -> bool {
    fcntl(file, FcntlArg::F_SETFL(flags)).is_ok()
}

/// Whether holes can be punched: asked for a hole past the end, which changes nothing.
fn can_punch(file: &File, len_bytes: u64, block_bytes: u32) -> bool {
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let past_end = len_bytes.checked_next_multiple_of(u64::from(BLOCK_BYTES_MAX));
    let Some(past_end) = past_end.and_then(|offset| i64::try_from(offset).ok()) else {
        return false;
    };
    fallocate(file, mode, past_end, i64::from(block_bytes)).is_ok()
}
