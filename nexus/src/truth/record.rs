//! The record: a voter without data, for when replicas alone cannot decide.
//!
//! Changed by compare-and-swap, like a Kubernetes object later. Here it is a file, or whatever a
//! program keeps ([`Record`] is the seam). Called on a thread of its own, as it may block; what
//! cannot be read is out of reach, and never taken for empty. An empty one has no vote
//! ([`VoterHalf::accept_at_record`]). The page is docs/FORMATS.md, "Record".

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use reactor::Nanos;

use super::label::wire::{PAGE_BYTES, Sight, look};
use super::label::{decode_record, encode_record};
use super::names::{NexusId, Promise, RecordId, VoterHalf};
use super::owner::Answer;
use super::voter::NotTaken;

/// Bytes of a record, wherever it is kept. As many zeroes stand for one that is empty.
pub const RECORD_BYTES: usize = PAGE_BYTES;

/// Where the voter half of a volume's record is kept.
pub trait Record: Debug {
    /// Which record it is: labels name the one that votes.
    fn id(&self) -> RecordId;

    /// What it says; one that is empty says nothing yet.
    fn read(&mut self) -> Result<VoterHalf, RecordError>;

    /// Makes it say `new`, durably, if it still says `expected`.
    fn swap(&mut self, expected: &VoterHalf, new: &VoterHalf) -> Result<(), RecordError>;

    /// For a record that never blocks, which the simulator has: after how long the next question
    /// is answered, on the home core. All others are asked on a thread of their own.
    fn answers_after(&mut self) -> Option<Nanos> {
        None
    }
}

/// Why the record does not answer.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It cannot be read or written.
    #[error("{place} cannot be used: {source}")]
    Io {
        /// Where it is kept.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// It is not where it should be, which says nothing of what it said.
    #[error("{place} is not there: bring it back, or if it is lost for good, make an empty file")]
    Missing {
        /// Where it should be.
        place: String,
    },
    /// The program that keeps it does not do so.
    #[error("{0}")]
    Program(String),
    /// Another process has it.
    #[error("{place} is in use by another process")]
    Locked {
        /// Where it is kept.
        place: String,
    },
    /// Somebody else has changed it meanwhile.
    #[error("it was changed by another owner")]
    Changed,
    /// It is damaged.
    #[error("it is damaged, or no record")]
    Damaged,
    /// It is of another volume.
    #[error("it is the record of volume {}", nexus.0)]
    NotOurs {
        /// Whose.
        nexus: NexusId,
    },
    /// It was given to another use of the same volume.
    #[error("it is record {} of the volume, whose labels name another one", id.0)]
    Other {
        /// Which.
        id: RecordId,
    },
    /// A later program has written it.
    #[error("it has format version {version}, which this program does not know")]
    Newer {
        /// Its version.
        version: u32,
    },
    /// It does not know of this owner.
    #[error(transparent)]
    Emptied(NotTaken),
}

/// Has the record promise.
pub fn claim(record: &mut dyn Record, promise: Promise) -> Result<Answer, RecordError> {
    let old = record.read()?;
    let mut new = old.clone();
    if let Err(overtaken) = new.promise(promise) {
        return Ok(Answer::Refused(overtaken));
    }
    record.swap(&old, &new)?;
    Ok(Answer::Record(Box::new(new)))
}

/// Has the record accept what an owner writes.
pub fn write(record: &mut dyn Record, written: &VoterHalf) -> Result<Answer, RecordError> {
    let old = record.read()?;
    let mut new = old.clone();
    match new.accept_at_record(written) {
        Ok(()) => {}
        Err(NotTaken::Overtaken(overtaken)) => return Ok(Answer::Refused(overtaken)),
        Err(emptied) => return Err(RecordError::Emptied(emptied)),
    }
    record.swap(&old, &new)?;
    Ok(Answer::Written)
}

/// Makes an empty record that of a volume that was just created.
pub fn begin(record: &mut dyn Record, first: &VoterHalf) -> Result<(), RecordError> {
    if !record.read()?.is_empty() {
        return Err(RecordError::Changed);
    }
    record.swap(&VoterHalf::default(), first)
}

/// Reads and writes the bytes of a record, and keeps count of its writes.
#[derive(Debug)]
pub struct RecordPage {
    id: RecordId,
    nexus: NexusId,
    sequence: u64,
}

impl RecordPage {
    /// For the record `id` of a volume.
    pub fn new(id: RecordId, nexus: NexusId) -> RecordPage {
        RecordPage { id, nexus, sequence: 0 }
    }

    /// Which record it is.
    pub fn id(&self) -> RecordId {
        self.id
    }

    /// Of which volume.
    pub fn nexus(&self) -> NexusId {
        self.nexus
    }

    /// What the bytes say.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<VoterHalf, RecordError> {
        let page: &[u8; PAGE_BYTES] = bytes.try_into().map_err(|_| RecordError::Damaged)?;
        match look(page) {
            Sight::Newer(version) => return Err(RecordError::Newer { version }),
            Sight::Blank => {
                self.sequence = 0;
                return Ok(VoterHalf::default());
            }
            Sight::Whole(sequence) => self.sequence = sequence,
            _ => return Err(RecordError::Damaged),
        }
        let (id, nexus, half) = decode_record(page).map_err(|_| RecordError::Damaged)?;
        if nexus != self.nexus {
            return Err(RecordError::NotOurs { nexus });
        }
        if id != self.id {
            return Err(RecordError::Other { id });
        }
        Ok(half)
    }

    /// The bytes that say so, next after those that were decoded last.
    pub fn encode(&self, half: &VoterHalf) -> Box<[u8; RECORD_BYTES]> {
        Box::new(encode_record(half, self.id, self.nexus, self.sequence + 1))
    }
}

/// A record in a file, replaced as a whole by one beside it (`FILE.new`), so that it is the old or
/// the new one whatever happens. As long as this lives, a lock beside it (`FILE.lock`) keeps other
/// processes away.
#[derive(Debug)]
pub struct FileRecord {
    path: PathBuf,
    page: RecordPage,
    lock: Option<File>,
}

impl FileRecord {
    /// The record at `path`; nothing is opened before it is asked.
    pub fn new(path: &Path, page: RecordPage) -> FileRecord {
        FileRecord { path: path.to_owned(), page, lock: None }
    }

    /// Makes an empty file where there is none: for a volume that is being created.
    pub fn make_file(path: &Path) -> Result<(), RecordError> {
        let made = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        made.and_then(|file| file.sync_all())
            .and_then(|()| sync_directory(path))
            .map_err(failed(path))
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(ending);
        PathBuf::from(name)
    }

    /// Keeps other processes away. The lock is of a file that is never replaced.
    fn lock(&mut self) -> Result<(), RecordError> {
        if self.lock.is_some() {
            return Ok(());
        }
        let path = self.beside(".lock");
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(failed(&self.path))?;
        match file.try_lock() {
            Ok(()) => self.lock = Some(file),
            Err(fs::TryLockError::WouldBlock) => {
                return Err(RecordError::Locked { place: self.path.display().to_string() });
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed(&self.path)(error)),
        }
        Ok(())
    }

    fn replace(&self, page: &[u8]) -> io::Result<()> {
        let path = self.beside(".new");
        let mut file = File::create(&path)?;
        file.write_all(page)?;
        file.sync_all()?;
        fs::rename(&path, &self.path)?;
        sync_directory(&self.path)
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> RecordError + use<> {
    let place = path.display().to_string();
    move |source| RecordError::Io { place: place.clone(), source }
}

/// Makes the names in the directory of a file durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

impl Record for FileRecord {
    fn id(&self) -> RecordId {
        self.page.id()
    }

    fn read(&mut self) -> Result<VoterHalf, RecordError> {
        self.lock()?;
        match fs::read(&self.path) {
            Ok(bytes) if bytes.is_empty() => self.page.decode(&[0; RECORD_BYTES]),
            Ok(bytes) => self.page.decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(RecordError::Missing { place: self.path.display().to_string() })
            }
            Err(error) => Err(failed(&self.path)(error)),
        }
    }

    fn swap(&mut self, expected: &VoterHalf, new: &VoterHalf) -> Result<(), RecordError> {
        if self.read()? != *expected {
            return Err(RecordError::Changed);
        }
        let page = self.page.encode(new);
        self.replace(&page[..]).map_err(failed(&self.path))
    }
}

/// An operator vouches that nobody has gone on with the record's vote (`--record-says-go`): it says
/// what the newest label says, agrees to everything, and forgets it with the process.
#[derive(Debug)]
pub struct VouchedRecord {
    id: RecordId,
    half: VoterHalf,
}

impl VouchedRecord {
    /// Stands for the record that the labels name; `newest` is what the newest of them says.
    pub fn new(id: RecordId, newest: VoterHalf) -> VouchedRecord {
        VouchedRecord { id, half: newest }
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

    use super::super::names::{Ballot, Epoch, Generation};
    use super::*;

    fn promise(counter: u64) -> Promise {
        let generation = Generation { counter, owner: Uuid::from_u128(7) };
        Promise { generation, host: Uuid::nil() }
    }

    fn half(counter: u64) -> VoterHalf {
        let generation = promise(counter).generation;
        let ballot = Ballot { epoch: Epoch(1), generation };
        VoterHalf { promised: promise(counter), ballot, settled: true, ..VoterHalf::default() }
    }

    fn page(nexus: u128) -> RecordPage {
        RecordPage::new(RecordId(Uuid::from_u128(1)), NexusId(Uuid::from_u128(nexus)))
    }

    /// A file of a record in a directory of its own, removed at the end.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let name = format!("nexus-record-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Place(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("record")
        }

        fn open(&self) -> FileRecord {
            FileRecord::new(&self.file(), page(2))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_remembers_promises_and_refuses_older_owners() {
        let place = Place::new("promises");
        FileRecord::make_file(&place.file()).unwrap();
        let mut record = place.open();
        begin(&mut record, &half(1)).unwrap();
        assert!(begin(&mut record, &half(1)).is_err(), "it is one already");
        assert!(matches!(claim(&mut record, promise(3)), Ok(Answer::Record(_))));
        assert!(matches!(claim(&mut record, promise(2)), Ok(Answer::Refused(_))));
        assert!(matches!(write(&mut record, &half(2)), Ok(Answer::Refused(_))));
        assert!(matches!(write(&mut record, &half(3)), Ok(Answer::Written)));
        drop(record);
        assert_eq!(place.open().read().unwrap(), half(3));
    }

    #[test]
    fn a_file_that_is_gone_or_damaged_is_out_of_reach_and_not_empty() {
        let place = Place::new("gone");
        let mut record = place.open();
        assert!(matches!(claim(&mut record, promise(1)), Err(RecordError::Missing { .. })));
        assert!(!place.file().exists(), "nobody makes it by opening a volume");
        for bytes in [&b"x"[..], &[7; RECORD_BYTES], &[0; RECORD_BYTES + 1]] {
            fs::write(place.file(), bytes).unwrap();
            assert!(matches!(record.read(), Err(RecordError::Damaged)), "{}", bytes.len());
        }
        for bytes in [&[][..], &[0; RECORD_BYTES]] {
            fs::write(place.file(), bytes).unwrap();
            assert!(record.read().unwrap().is_empty());
        }
    }

    #[test]
    fn a_file_is_of_one_volume_and_open_once() {
        let place = Place::new("owner");
        FileRecord::make_file(&place.file()).unwrap();
        let mut record = place.open();
        begin(&mut record, &half(1)).unwrap();
        let mut second = place.open();
        assert!(matches!(second.read(), Err(RecordError::Locked { .. })));
        drop(record);
        assert!(second.read().is_ok(), "it has come free");
        drop(second);
        let mut other = FileRecord::new(&place.file(), page(3));
        assert!(matches!(other.read(), Err(RecordError::NotOurs { .. })));
        drop(other);
        let id = RecordId(Uuid::from_u128(9));
        let renamed = RecordPage::new(id, NexusId(Uuid::from_u128(2)));
        let mut other = FileRecord::new(&place.file(), renamed);
        assert!(matches!(other.read(), Err(RecordError::Other { .. })));
    }

    #[test]
    fn a_write_that_was_cut_short_leaves_the_old_record() {
        let place = Place::new("cut");
        FileRecord::make_file(&place.file()).unwrap();
        let mut record = place.open();
        begin(&mut record, &half(1)).unwrap();
        fs::write(record.beside(".new"), &record.page.encode(&half(5))[..100]).unwrap();
        assert_eq!(record.read().unwrap(), half(1));
        assert!(matches!(claim(&mut record, promise(2)), Ok(Answer::Record(_))));
        assert!(matches!(record.swap(&half(1), &half(3)), Err(RecordError::Changed)));
    }

    #[test]
    fn an_operators_word_stands_for_the_record_until_the_process_ends() {
        let mut record = VouchedRecord::new(RecordId(Uuid::from_u128(1)), half(1));
        assert!(matches!(claim(&mut record, promise(2)), Ok(Answer::Record(_))));
        assert!(matches!(claim(&mut record, promise(1)), Ok(Answer::Refused(_))));
        let stale = VoterHalf::default();
        assert!(matches!(record.swap(&stale, &stale), Err(RecordError::Changed)));
    }
}
