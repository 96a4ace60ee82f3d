//! The record: a voter without data, for when replicas alone cannot decide.
//!
//! Changed by compare-and-swap, like a Kubernetes object later. Here it is a file, or an operator's
//! word. Called on a control thread, as it may block; the answers go to
//! [`crate::truth::owner::Owner::answered`].

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::label::wire::{PAGE_BYTES, Sight, look};
use super::label::{decode_record, encode_record};
use super::names::{NexusId, Promise, RecordId, VoterHalf};
use super::owner::Answer;

/// Where the voter half of a volume's record is kept.
pub trait Record: Debug {
    /// Which record it is: labels name the one that votes.
    fn id(&self) -> RecordId;

    /// What it says; one that was never written says nothing yet.
    fn read(&mut self) -> Result<VoterHalf, RecordError>;

    /// Makes it say `new`, durably, if it still says `expected`.
    fn swap(&mut self, expected: &VoterHalf, new: &VoterHalf) -> Result<(), RecordError>;
}

/// Why the record does not answer.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It cannot be read or written.
    #[error("the record cannot be reached")]
    Io(#[from] io::Error),
    /// Somebody else has changed it meanwhile.
    #[error("the record was changed by another owner")]
    Changed,
    /// It is damaged, or of another volume.
    #[error("the record is no record of this volume")]
    NotOurs,
    /// A later program has written it.
    #[error("the record has format version {version}, which this program does not know")]
    Newer {
        /// Its version.
        version: u32,
    },
}

/// Has the record promise.
pub fn claim(record: &mut dyn Record, promise: Promise) -> Answer {
    change(record, |half| {
        half.promise(promise)?;
        Ok(Answer::Record(Box::new(half.clone())))
    })
}

/// Has the record accept what an owner writes.
pub fn write(record: &mut dyn Record, written: &VoterHalf) -> Answer {
    change(record, |half| {
        half.accept(written)?;
        Ok(Answer::Written)
    })
}

fn change(
    record: &mut dyn Record,
    decide: impl FnOnce(&mut VoterHalf) -> Result<Answer, super::voter::Overtaken>,
) -> Answer {
    let Ok(old) = record.read() else { return Answer::Lost };
    let mut new = old.clone();
    match decide(&mut new) {
        Err(overtaken) => Answer::Refused(overtaken),
        Ok(Answer::Record(_)) if record.swap(&old, &new).is_ok() => Answer::Record(Box::new(new)),
        Ok(answer) if answer == Answer::Written && record.swap(&old, &new).is_ok() => answer,
        Ok(_) => Answer::Lost,
    }
}

/// A record in a file: docs/FORMATS.md, "Record file". The file is locked while it is open, so that
/// one process at a time changes it.
#[derive(Debug)]
pub struct FileRecord {
    file: File,
    id: RecordId,
    nexus: NexusId,
    sequence: u64,
    next_copy: u64,
}

impl FileRecord {
    /// Opens or creates the record of a volume.
    pub fn open(path: &Path, id: RecordId, nexus: NexusId) -> Result<FileRecord, RecordError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        file.try_lock().map_err(io::Error::from)?;
        let mut record = FileRecord { file, id, nexus, sequence: 0, next_copy: 0 };
        record.read()?;
        Ok(record)
    }

    fn page(&self, copy: u64) -> Result<[u8; PAGE_BYTES], RecordError> {
        let mut page = [0; PAGE_BYTES];
        match self.file.read_exact_at(&mut page, copy * PAGE_BYTES as u64) {
            Ok(()) => Ok(page),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok([0; PAGE_BYTES]),
            Err(error) => Err(error.into()),
        }
    }
}

impl Record for FileRecord {
    fn id(&self) -> RecordId {
        self.id
    }

    fn read(&mut self) -> Result<VoterHalf, RecordError> {
        let pages = [self.page(0)?, self.page(1)?];
        let sights = pages.map(|page| look(&page));
        let mut newest: Option<(u64, u64, &[u8; PAGE_BYTES])> = None;
        for (copy, (page, sight)) in (0..).zip(pages.iter().zip(sights)) {
            match sight {
                Sight::Newer(version) => return Err(RecordError::Newer { version }),
                Sight::Whole(sequence) if Some(sequence) > newest.map(|(known, ..)| known) => {
                    newest = Some((sequence, copy, page));
                }
                _ => {}
            }
        }
        let Some((sequence, copy, page)) = newest else {
            let is_new = sights == [Sight::Blank; 2];
            return if is_new { Ok(VoterHalf::default()) } else { Err(RecordError::NotOurs) };
        };
        let (id, nexus, half) = decode_record(page).map_err(|_| RecordError::NotOurs)?;
        if (id, nexus) != (self.id, self.nexus) {
            return Err(RecordError::NotOurs);
        }
        (self.sequence, self.next_copy) = (sequence, 1 - copy);
        Ok(half)
    }

    fn swap(&mut self, expected: &VoterHalf, new: &VoterHalf) -> Result<(), RecordError> {
        if self.read()? != *expected {
            return Err(RecordError::Changed);
        }
        let page = encode_record(new, self.id, self.nexus, self.sequence + 1);
        // Both, one after the other: a damaged copy takes no promise away.
        for copy in [self.next_copy, 1 - self.next_copy] {
            self.file.write_all_at(&page, copy * PAGE_BYTES as u64)?;
            self.file.sync_all()?;
        }
        Ok(())
    }
}

/// An operator vouches that nobody has gone on with the record's vote (`--record-says-go`): it says
/// nothing, agrees to everything, and forgets it with the process.
#[derive(Debug)]
pub struct VouchedRecord {
    id: RecordId,
    half: VoterHalf,
}

impl VouchedRecord {
    /// Stands for the record that the labels name.
    pub fn new(id: RecordId) -> VouchedRecord {
        VouchedRecord { id, half: VoterHalf::default() }
    }
}

impl Record for VouchedRecord {
    fn id(&self) -> RecordId {
        self.id
    }

    fn read(&mut self) -> Result<VoterHalf, RecordError> {
        Ok(self.half.clone())
    }

    fn swap(&mut self, expected: &VoterHalf, new: &VoterHalf) -> Result<(), RecordError> {
        if self.half != *expected {
            return Err(RecordError::Changed);
        }
        self.half = new.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::names::Generation;
    use super::*;

    fn promise(counter: u64) -> Promise {
        let generation = Generation { counter, owner: Uuid::from_u128(7) };
        Promise { generation, host: Uuid::nil() }
    }

    fn ids() -> (RecordId, NexusId) {
        (RecordId(Uuid::from_u128(1)), NexusId(Uuid::from_u128(2)))
    }

    fn path(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("nexus-record-{name}-{}", std::process::id()))
    }

    #[test]
    fn a_file_remembers_promises_through_a_damaged_copy_and_refuses_older_owners() {
        let (path, (id, nexus)) = (path("promises"), ids());
        let mut record = FileRecord::open(&path, id, nexus).unwrap();
        assert!(matches!(claim(&mut record, promise(2)), Answer::Record(_)));
        assert!(matches!(claim(&mut record, promise(3)), Answer::Record(_)));
        assert!(matches!(claim(&mut record, promise(1)), Answer::Refused(_)));
        let half = VoterHalf { promised: promise(3), settled: true, ..VoterHalf::default() };
        assert_eq!(write(&mut record, &half), Answer::Written);
        for copy in 0..2 {
            record.file.write_all_at(b"x", copy * PAGE_BYTES as u64 + 500).unwrap();
            assert_eq!(record.read().ok(), (copy == 0).then(|| half.clone()));
        }
        assert_eq!(claim(&mut record, promise(4)), Answer::Lost);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_is_of_one_volume_and_open_once() {
        let (path, (id, nexus)) = (path("owner"), ids());
        let mut record = FileRecord::open(&path, id, nexus).unwrap();
        assert!(matches!(FileRecord::open(&path, id, nexus), Err(RecordError::Io(_))));
        assert!(matches!(claim(&mut record, promise(1)), Answer::Record(_)));
        drop(record);
        let other = NexusId(Uuid::from_u128(3));
        assert!(matches!(FileRecord::open(&path, id, other), Err(RecordError::NotOurs)));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_operators_word_stands_for_the_record_until_the_process_ends() {
        let mut record = VouchedRecord::new(ids().0);
        assert!(matches!(claim(&mut record, promise(2)), Answer::Record(_)));
        assert!(matches!(claim(&mut record, promise(1)), Answer::Refused(_)));
        let stale = VoterHalf::default();
        assert!(matches!(record.swap(&stale, &stale), Err(RecordError::Changed)));
    }
}
