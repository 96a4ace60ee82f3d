//! Which blocks of a file hold data, as its file system says (`SEEK_DATA` and `SEEK_HOLE`).
//!
//! Files only: of a block device the kernel says that all of it is data. A file system that keeps
//! no account says so of its files too, which is true as far as it goes. Called on control threads,
//! while queue pairs are at work: they name their own offsets and do not use the file's position,
//! which is moved here. The file is not kept open for it.

use std::ops::Range;
use std::sync::Weak;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::Backing;
use crate::allocation::{
    Allocation, AllocationError, AllocationQuery, Finder, LOOK_TIME_MAX, Pace,
};
use crate::io::Lba;

/// See the module.
#[derive(Debug)]
pub(super) struct FileAllocation {
    backing: Weak<Backing>,
    look_time_max: Duration,
}

impl FileAllocation {
    /// That of an open file.
    pub(super) fn of(backing: Weak<Backing>) -> FileAllocation {
        FileAllocation { backing, look_time_max: LOOK_TIME_MAX }
    }
}

/// The first offset from this one on that is data or a hole; `None` when there is none up to the
/// end of the file.
fn seek(backing: &Backing, offset: u64, whence: Whence) -> Result<Option<u64>, AllocationError> {
    let Ok(offset) = i64::try_from(offset) else { return Ok(None) };
    match lseek(backing, offset, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(AllocationError::System(errno.into())),
    }
}

impl AllocationQuery for FileAllocation {
    fn pace(&self) -> Pace {
        Pace::Blocks
    }

    fn look(&self, range: Range<Lba>, extents_max: usize) -> Result<Allocation, AllocationError> {
        let backing = self.backing.upgrade().ok_or(AllocationError::Closed)?;
        let started = Instant::now();
        let block_bytes = u64::from(backing.block_bytes());
        let end_bytes = range.end.0.saturating_mul(block_bytes);
        let mut at = range.start.0 * block_bytes;
        let mut finder = Finder::new(range.clone(), extents_max);
        while at < end_bytes {
            let data = seek(&backing, at, Whence::SeekData)?.filter(|data| *data < end_bytes);
            let Some(data) = data else { break };
            // Cut off meanwhile: what is left of it reads as nothing at all.
            let Some(hole) = seek(&backing, data, Whence::SeekHole)? else { break };
            // A block with some data is data. What is not looked at yet begins with a whole one.
            let (first, end) = (Lba(data / block_bytes), Lba(hole.div_ceil(block_bytes)));
            if !finder.add(first..end) {
                return Ok(finder.done(first));
            }
            at = end.0.saturating_mul(block_bytes);
            if started.elapsed() >= self.look_time_max {
                return Ok(finder.done(end));
            }
        }
        Ok(finder.done(range.end))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use super::super::testing::TestFile;
    use super::*;
    use crate::allocation::testing::look_through;

    const MIB: u64 = 1 << 20;
    const BLOCKS: u64 = 16 * MIB / 512;

    /// A file of 16 MiB with data in each of these bytes.
    fn with_data(offsets: &[u64]) -> (TestFile, Arc<Backing>) {
        let file = TestFile::new(16 * MIB);
        let writer = std::fs::OpenOptions::new().write(true).open(file.path()).unwrap();
        for offset in offsets {
            writer.write_all_at(&[1], *offset).unwrap();
        }
        writer.sync_all().unwrap();
        let backing = file.backing(512);
        (file, backing)
    }

    /// Whether the file system keeps an account of holes.
    fn has_holes(backing: &Backing) -> bool {
        seek(backing, 0, Whence::SeekHole).unwrap() == Some(0)
    }

    #[test]
    fn what_was_written_is_found_in_parts_of_any_size() {
        let offsets = [MIB + 700, 5 * MIB, 5 * MIB + 4096, 16 * MIB - 1];
        let (_file, backing) = with_data(&offsets);
        let query = FileAllocation::of(Arc::downgrade(&backing));
        let whole = look_through(&query, BLOCKS, 8);
        for offset in offsets {
            let block = offset / 512;
            assert!(whole.iter().any(|one| one.contains(&block)), "{block} in {whole:?}");
        }
        assert_eq!(look_through(&query, BLOCKS, 1), whole);
        if has_holes(&backing) {
            let found: u64 = whole.iter().map(|one| one.end - one.start).sum();
            assert!(found <= 3 * MIB / 512, "{whole:?}");
        }
        let hurried = FileAllocation { look_time_max: Duration::ZERO, ..query };
        assert_eq!(look_through(&hurried, BLOCKS, 8), whole, "a look without time goes on too");
    }

    #[test]
    fn a_file_without_data_or_cut_off_has_nothing() {
        let (file, backing) = with_data(&[]);
        let query = FileAllocation::of(Arc::downgrade(&backing));
        if has_holes(&backing) {
            assert_eq!(look_through(&query, BLOCKS, 8), []);
        }
        file.set_len(4096);
        let past = query.look(Lba(64)..Lba(BLOCKS), 8).unwrap();
        assert_eq!((past.extents.as_slice(), past.looked_to), (&[][..], Lba(BLOCKS)));
    }

    #[test]
    fn a_query_does_not_keep_its_file_open() {
        let (_file, backing) = with_data(&[0]);
        let query = FileAllocation::of(Arc::downgrade(&backing));
        drop(backing);
        let ended = query.look(Lba(0)..Lba(1), 1);
        assert!(matches!(ended, Err(AllocationError::Closed)), "{ended:?}");
    }
}
