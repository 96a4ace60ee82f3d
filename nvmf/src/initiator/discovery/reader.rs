//! One discovery controller: connected, enabled, its log read from end to end.
//!
//! The log is read in pages of four records, which every controller can send. It may change
//! meanwhile: when its generation at the end is not that of the beginning, it is read again
//! (NVMe Base 2.0 section 5.16.1.23).

use std::net::SocketAddr;
use std::task::Poll;

use bdev::Memory;
use bdev::nvme::admin_command::GetLogPage;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::log_page::DISCOVERY;
use bdev::nvme::register::{ControllerStatus, STATUS_OFFSET};
use reactor::dma::DmaBuffer;
use reactor::{Cx, Nanos, Wake};
use zerocopy::FromBytes;

use super::super::connect::{ADMIN_DEPTH, READY_INTERVAL, enable, property_get};
use super::super::error::ConnectError;
use super::super::join::{Association, Join, QueueIdentity};
use super::super::queue::{Command, CommandData, Ended, Queue};
use super::{READS_MAX, RECORDS_MAX};
use crate::fabrics::command::PropertySize;
use crate::fabrics::connect::{ADMIN_QUEUE_ID, CONTROLLER_ID_DYNAMIC};
use crate::fabrics::discovery::{
    DISCOVERY_ENTRY_BYTES, DISCOVERY_HEADER_BYTES, DiscoveryEntry, DiscoveryHeader,
};

const HEADER_BYTES: u64 = DISCOVERY_HEADER_BYTES as u64;
const RECORD_BYTES: u64 = DISCOVERY_ENTRY_BYTES as u64;
/// Records of one read.
const RECORDS_PER_READ: u64 = 4;
const PAGE_BYTES: u32 = (RECORDS_PER_READ * RECORD_BYTES) as u32;

/// The commands of the procedure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Enable,
    Ready,
    /// The header, before the records.
    Header,
    /// Records from this one on.
    Records {
        first: u64,
    },
    /// The header once more.
    Check,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Enable => "enabling the discovery controller",
            Step::Ready => "waiting for the discovery controller to be ready",
            Step::Header | Step::Records { .. } | Step::Check => "reading the discovery log",
        }
    }
}

#[derive(Debug)]
enum Stage {
    Joining(Box<Join>),
    /// The step's command is to be sent at this time.
    Sending(Step, Nanos),
    /// Its answer is due.
    Waiting(Step),
}

/// What a log said of itself when it was begun.
#[derive(Clone, Copy, Debug, Default)]
struct Log {
    generation: u64,
    records: u64,
}

/// One controller whose log is being read.
#[derive(Debug)]
pub(super) struct Reader {
    address: SocketAddr,
    queue: Queue,
    stage: Stage,
    data: Option<DmaBuffer>,
    log: Log,
    reads: u32,
}

/// What becomes of the records of a log.
pub(super) trait Records {
    /// A log is begun, perhaps anew: what was taken of this one before is to be forgotten.
    fn begin(&mut self);
    /// The next record.
    fn take(&mut self, record: &DiscoveryEntry);
}

impl Reader {
    /// Starts to connect to what `association` names.
    ///
    /// # Errors
    /// No socket or memory is to be had.
    pub fn start(cx: &mut Cx, association: &Association) -> Result<Reader, ConnectError> {
        let identity = QueueIdentity {
            queue_id: ADMIN_QUEUE_ID,
            controller_id: CONTROLLER_ID_DYNAMIC,
            depth: ADMIN_DEPTH,
            keep_alive_ms: 0,
        };
        let data = cx.dma.take(PAGE_BYTES).ok_or(ConnectError::OutOfMemory)?;
        let (join, queue) = match Join::start(cx, association, identity) {
            Ok(started) => started,
            Err(error) => {
                cx.dma.give(data);
                return Err(error);
            }
        };
        Ok(Reader {
            address: association.address,
            queue,
            stage: Stage::Joining(Box::new(join)),
            data: Some(data),
            log: Log::default(),
            reads: 0,
        })
    }

    /// What is being done, for an error to say.
    pub fn step(&self) -> &'static str {
        match &self.stage {
            Stage::Joining(join) => join.step(),
            Stage::Sending(step, _) | Stage::Waiting(step) => step.name(),
        }
    }

    /// Goes on as far as it can without waiting; ready once the whole log was taken.
    ///
    /// # Errors
    /// Why the log cannot be had. In either case the reader is to be closed.
    pub fn poll(
        &mut self,
        cx: &mut Cx,
        records: &mut impl Records,
    ) -> Poll<Result<(), ConnectError>> {
        loop {
            match self.advance(cx, records) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(Some(stage))) => self.stage = stage,
                Ok(Poll::Ready(None)) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn advance(
        &mut self,
        cx: &mut Cx,
        records: &mut impl Records,
    ) -> Result<Poll<Option<Stage>>, ConnectError> {
        if let Stage::Joining(join) = &mut self.stage {
            return match join.poll(cx, &mut self.queue) {
                Poll::Pending => Ok(Poll::Pending),
                Poll::Ready(Ok(_)) => Ok(Poll::Ready(Some(Stage::Sending(Step::Enable, cx.now())))),
                Poll::Ready(Err(error)) => Err(error),
            };
        }
        self.queue.poll(cx);
        if let Some(source) = self.queue.failure() {
            let (address, step) = (self.address, self.step());
            return Err(ConnectError::Connection { address, step, source });
        }
        match self.stage {
            Stage::Sending(step, time) if time <= cx.now() => {
                let accepted = self.queue.submit(self.command(step), cx.now());
                assert!(accepted, "one command at a time fits the admin queue");
                self.queue.flush(cx);
                Ok(Poll::Ready(Some(Stage::Waiting(step))))
            }
            Stage::Waiting(step) => match self.queue.take_ended() {
                Some(ended) => {
                    let next = self.answer(step, ended, records)?;
                    let again = next == Some(Step::Ready) && step == Step::Ready;
                    let when = if again { cx.now() + READY_INTERVAL } else { cx.now() };
                    Ok(Poll::Ready(next.map(|next| Stage::Sending(next, when))))
                }
                None => Ok(Poll::Pending),
            },
            Stage::Joining(_) | Stage::Sending(..) => Ok(Poll::Pending),
        }
    }

    fn command(&self, step: Step) -> Command {
        let (entry, len_bytes) = match step {
            Step::Enable => (enable(), 0),
            Step::Ready => (property_get(STATUS_OFFSET, PropertySize::Four), 0),
            Step::Header | Step::Check => read_log(0, HEADER_BYTES),
            Step::Records { first } => {
                let count = (self.log.records - first).min(RECORDS_PER_READ);
                read_log(HEADER_BYTES + first * RECORD_BYTES, count * RECORD_BYTES)
            }
        };
        let data = match len_bytes {
            0 => CommandData::Nothing,
            _ => {
                let buffer = self.data.as_ref().expect("kept until the reader is closed");
                CommandData::ToHost(Memory::One(buffer.segment(len_bytes)))
            }
        };
        Command { entry, data, token: 0 }
    }

    /// Takes the answer to a step in; gives the step to take next, or none after the last.
    fn answer(
        &mut self,
        step: Step,
        ended: Ended,
        records: &mut impl Records,
    ) -> Result<Option<Step>, ConnectError> {
        if !ended.status.is_success() {
            return Err(ConnectError::Refused { step: step.name(), status: ended.status });
        }
        match step {
            Step::Enable => Ok(Some(Step::Ready)),
            Step::Ready => {
                let status = ControllerStatus(ended.result_dword());
                if status.is_fatal() {
                    return Err(ConnectError::ControllerFatal);
                }
                Ok(Some(if status.is_ready() { Step::Header } else { Step::Ready }))
            }
            Step::Header => {
                let header = self.header()?;
                self.begin(header, records)
            }
            Step::Records { first } => {
                let count = (self.log.records - first).min(RECORDS_PER_READ);
                let bytes = self.bytes();
                for record in bytes.chunks_exact(DISCOVERY_ENTRY_BYTES).take(count as usize) {
                    let record = DiscoveryEntry::ref_from_bytes(record);
                    records.take(record.expect("a chunk has the length of a record"));
                }
                let next = first + count;
                let is_last = next == self.log.records;
                Ok(Some(if is_last { Step::Check } else { Step::Records { first: next } }))
            }
            Step::Check => {
                let header = self.header()?;
                if header.generation.get() == self.log.generation {
                    return Ok(None);
                }
                self.begin(header, records)
            }
        }
    }

    /// Begins to read the records that a header announces.
    fn begin(
        &mut self,
        header: DiscoveryHeader,
        records: &mut impl Records,
    ) -> Result<Option<Step>, ConnectError> {
        if self.reads == READS_MAX {
            return Err(self.unreadable("it changes faster than it can be read"));
        }
        self.reads += 1;
        self.log = Log { generation: header.generation.get(), records: header.entries.get() };
        if self.log.records > RECORDS_MAX {
            return Err(self.unreadable("it has more than 4096 records"));
        }
        records.begin();
        let is_empty = self.log.records == 0;
        Ok(if is_empty { None } else { Some(Step::Records { first: 0 }) })
    }

    fn header(&self) -> Result<DiscoveryHeader, ConnectError> {
        let (header, _) =
            DiscoveryHeader::read_from_prefix(self.bytes()).expect("a page is longer");
        if header.record_format.get() == 0 {
            Ok(header)
        } else {
            Err(self.unreadable("its records have a format of the future"))
        }
    }

    fn unreadable(&self, reason: &'static str) -> ConnectError {
        ConnectError::UnreadableLog { address: self.address, reason }
    }

    fn bytes(&self) -> &[u8] {
        self.data.as_ref().expect("kept until the reader is closed").bytes(PAGE_BYTES)
    }

    /// When it must be polled next, beside a report of its socket.
    pub fn wake(&self) -> Wake {
        match self.stage {
            Stage::Sending(_, time) => Wake::At(time),
            _ if self.queue.has_work() => Wake::Now,
            _ => Wake::Descriptor,
        }
    }

    /// Closes the connection and gives the memory back.
    pub fn close(mut self, cx: &mut Cx) {
        self.queue.abort(cx);
        if let Stage::Joining(join) = &mut self.stage {
            join.release(cx);
        }
        if let Some(data) = self.data.take() {
            cx.dma.give(data);
        }
    }
}

/// Reads a part of the log.
fn read_log(offset: u64, bytes: u64) -> (SubmissionEntry, u32) {
    let page = GetLogPage {
        log_page: DISCOVERY,
        specific: 0,
        retain_event: false,
        bytes,
        offset,
        is_index: false,
    };
    let len_bytes = u32::try_from(bytes).expect("at most a page");
    (SubmissionEntry::for_log_page(0, 0, page), len_bytes)
}
