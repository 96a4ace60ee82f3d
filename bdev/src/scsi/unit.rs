//! A logical unit: a device as SCSI initiators see it, shared by all cores.
//!
//! What several nexuses share (reservations, mode pages, who is to be told what) is behind a lock
//! that is taken for commands about it, and by a core that sees another version than the one it
//! has seen; a command on the blocks reads one word. Whoever changes something gives it the next
//! version before the command that did it is answered, so a command that comes after that answer,
//! on any core, meets the change. SAM-5 sections 4.8 and 5.14, SPC-4 section 5.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::attention::Attentions;
use super::command::{ByteCheck, Command, Extent, Form, ReserveInAction, Same};
use super::identity::Identity;
use super::inquiry::{self, ABSENT, WRITE_SAME_BLOCKS_MAX};
use super::mode::Modes;
use super::opcode::{self, CDB_BYTES};
use super::persistent;
use super::reply::Reply;
use super::sense::{Sense, SenseCode, SenseFormat, SenseKey};
use super::status::{ScsiStatus, Verdict};
use super::supported;
use super::task::{Kind, Medium, PIECE_BYTES, SCRATCH_BYTES, TRANSFER_BYTES_MAX};
use super::unmap::LIST_BYTES_MAX;
use crate::allocation::Pace;
use crate::device::{BlockDevice, Geometry};
use crate::io::{IoFlags, Lba, Operation};
use crate::reservation::{
    Access, AccessClass, AccessTable, Grant, Outcome, Persistence, Registrant, RegistrantId,
    Reservations,
};

/// Extents that one GET LBA STATUS looks for.
const STATUS_EXTENTS_MAX: usize = 64;

/// Blocks of a COMPARE AND WRITE at most: its field has a byte.
const COMPARE_BLOCKS_MAX: u32 = 255;

/// What a unit can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub geometry: Geometry,
    pub transfer_blocks_max: u32,
    pub compare_and_write_blocks_max: u32,
    pub atomic_blocks_max: u32,
    pub volatile_cache: bool,
}

impl Capabilities {
    /// Blocks of a physical block: the device does not say, so one.
    pub fn physical_blocks(&self) -> u32 {
        1
    }
}

/// Something that a nexus may find pending, and what it holds.
#[derive(Debug)]
struct Known {
    registrant: Registrant,
    attentions: Attentions,
    /// Sessions that use it.
    users: u32,
}

#[derive(Debug)]
struct Shared {
    geometry: Geometry,
    modes: Modes,
    reservations: Reservations,
    table: AccessTable,
    /// Who holds the unit by RESERVE.
    reserved_by: Option<RegistrantId>,
    nexuses: Vec<Known>,
}

impl Shared {
    fn tell(&mut self, code: SenseCode, is_told: impl Fn(&RegistrantId) -> bool) {
        for known in self.nexuses.iter_mut().filter(|known| is_told(&known.registrant.id)) {
            known.attentions.add(code);
        }
    }

    fn known(&mut self, id: &RegistrantId) -> Option<&mut Known> {
        self.nexuses.iter_mut().find(|known| known.registrant.id == *id)
    }
}

/// A logical unit.
#[derive(Debug)]
pub struct LogicalUnit {
    device: Arc<dyn BlockDevice>,
    identity: Identity,
    read_only: bool,
    volatile_cache: bool,
    atomic_blocks: u32,
    /// The device verifies by itself.
    verifies: bool,
    version: AtomicU64,
    shared: Mutex<Shared>,
}

/// A unit as one nexus sees it, on one core: a copy that is brought up to date when the unit's
/// version is another.
#[derive(Debug)]
pub struct Nexus {
    registrant: Registrant,
    seen: u64,
    grant: Grant,
    geometry: Geometry,
    format: SenseFormat,
    write_protected: bool,
    is_reserved_elsewhere: bool,
    has_attention: bool,
}

impl Nexus {
    /// The format of sense data that the initiator is to get.
    pub fn sense_format(&self) -> SenseFormat {
        self.format
    }
}

/// Parameters that have to come from the initiator before a command can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    command: Command,
    /// Their length.
    pub len_bytes: u32,
}

/// How a command begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It is over, and nothing is transferred.
    Answer(Verdict),
    /// It has succeeded, with this for the initiator.
    Reply(Vec<u8>),
    /// [`LogicalUnit::take_parameters`] wants them.
    Parameters(Parameters),
    /// Work on the blocks.
    Medium(Medium),
}

impl From<Sense> for Begin {
    fn from(sense: Sense) -> Begin {
        Begin::Answer(sense.into())
    }
}

const GOOD: Begin = Begin::Answer(Verdict::GOOD);

impl LogicalUnit {
    /// A unit over a device that has every operation, if not verify, for I/Os of any size
    /// ([`crate::stack::complete`]).
    pub fn new(device: Arc<dyn BlockDevice>, identity: Identity) -> LogicalUnit {
        let limits = device.limits();
        let reservations = Reservations::new(Persistence::Unsupported);
        LogicalUnit {
            read_only: limits.read_only,
            volatile_cache: limits.volatile_cache,
            atomic_blocks: limits.atomic_blocks,
            verifies: limits.operations.contains(Operation::Verify),
            version: AtomicU64::new(1),
            shared: Mutex::new(Shared {
                geometry: device.geometry(),
                modes: Modes::default(),
                table: reservations.access_table(),
                reservations,
                reserved_by: None,
                nexuses: Vec::new(),
            }),
            device,
            identity,
        }
    }

    /// Its device.
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// Its names.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing that holds it can be left half done by a panic: each change is one assignment.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock: what was changed is seen by every nexus.
    fn publish(&self) {
        // Relaxed: only the holder of the lock writes. Release, partner: the acquire in `begin`.
        self.version.store(self.version.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// A session of an initiator begins to use the unit. Told with the next command: power on, as
    /// nothing is known of what it saw before.
    pub fn attach(&self, registrant: Registrant) -> Nexus {
        let mut shared = self.lock();
        match shared.known(&registrant.id) {
            Some(known) => {
                known.users += 1;
                known.attentions.add(SenseCode::NEXUS_LOSS);
            }
            None => {
                let mut attentions = Attentions::default();
                attentions.add(SenseCode::POWER_ON);
                shared.nexuses.push(Known { registrant: registrant.clone(), attentions, users: 1 });
            }
        }
        self.publish();
        let mut nexus = Nexus {
            registrant,
            seen: 0,
            grant: AccessTable::open().grant_of_nobody(),
            geometry: shared.geometry,
            format: SenseFormat::Fixed,
            write_protected: false,
            is_reserved_elsewhere: false,
            has_attention: true,
        };
        self.refresh(&mut shared, &mut nexus);
        nexus
    }

    /// A session is over: an I_T nexus loss, which ends what RESERVE holds (SAM-5 section 6.3.4).
    pub fn detach(&self, nexus: &Nexus) {
        let mut shared = self.lock();
        let id = nexus.registrant.id;
        let is_last = shared.known(&id).is_none_or(|known| {
            known.users -= 1;
            known.users == 0
        });
        if !is_last {
            return;
        }
        shared.nexuses.retain(|known| known.registrant.id != id);
        if shared.reserved_by == Some(id) {
            shared.reserved_by = None;
        }
        self.publish();
    }

    /// LOGICAL UNIT RESET, and what a target reset does to each unit (SAM-5 section 6.3.3). The
    /// commands under way are the front door's to abort.
    pub fn reset(&self) {
        let mut shared = self.lock();
        shared.reserved_by = None;
        shared.modes = Modes::default();
        shared.tell(SenseCode::RESET, |_| true);
        self.publish();
    }

    /// Looks at the device's size again; initiators are told when it is another. Control threads.
    pub fn follow_size(&self) {
        let geometry = self.device.geometry();
        let mut shared = self.lock();
        if shared.geometry != geometry {
            shared.geometry = geometry;
            shared.tell(SenseCode::CAPACITY_CHANGED, |_| true);
            self.publish();
        }
    }

    /// The units of the target have changed.
    pub fn tell_units_changed(&self) {
        let mut shared = self.lock();
        shared.tell(SenseCode::LUNS_CHANGED, |_| true);
        self.publish();
    }

    #[cold]
    fn refresh(&self, shared: &mut Shared, nexus: &mut Nexus) {
        nexus.seen = self.version.load(Ordering::Relaxed);
        let id = nexus.registrant.id;
        nexus.grant = shared.table.grant(&id);
        nexus.geometry = shared.geometry;
        nexus.format = shared.modes.format;
        nexus.write_protected = shared.modes.write_protected || self.read_only;
        nexus.is_reserved_elsewhere = shared.reserved_by.is_some_and(|holder| holder != id);
        nexus.has_attention = shared.known(&id).is_some_and(|known| !known.attentions.is_empty());
    }

    fn capabilities(&self, nexus: &Nexus) -> Capabilities {
        let block_bytes = nexus.geometry.block_bytes;
        let transfer_blocks_max = TRANSFER_BYTES_MAX / block_bytes;
        let compare_max = (SCRATCH_BYTES / block_bytes).min(COMPARE_BLOCKS_MAX);
        Capabilities {
            geometry: nexus.geometry,
            transfer_blocks_max,
            compare_and_write_blocks_max: compare_max.min(self.atomic_blocks),
            atomic_blocks_max: (PIECE_BYTES / block_bytes).min(self.atomic_blocks),
            volatile_cache: self.volatile_cache,
        }
    }

    /// A command arrives. `luns` are the units of the target, as REPORT LUNS says them.
    pub fn begin(&self, nexus: &mut Nexus, cdb: &[u8; CDB_BYTES], luns: &[u64]) -> Begin {
        // Acquire, partner: the release in `publish`.
        if self.version.load(Ordering::Acquire) != nexus.seen {
            self.refresh(&mut self.lock(), nexus);
        }
        if nexus.has_attention
            && !matches!(cdb[0], opcode::INQUIRY | opcode::REPORT_LUNS | opcode::REQUEST_SENSE)
            && let Some(sense) = self.take_attention(nexus)
        {
            return sense.into();
        }
        let command = match Command::parse(cdb) {
            Ok(command) => command,
            Err(sense) => return sense.into(),
        };
        if let Some(verdict) = self.conflict(nexus, &command) {
            return Begin::Answer(verdict);
        }
        match self.medium(nexus, &command) {
            Some(Ok(medium)) => Begin::Medium(medium),
            Some(Err(sense)) => sense.into(),
            None => self.begin_other(nexus, command, luns).unwrap_or_else(Begin::from),
        }
    }

    #[cold]
    fn take_attention(&self, nexus: &mut Nexus) -> Option<Sense> {
        let mut shared = self.lock();
        let sense = shared.known(&nexus.registrant.id).and_then(|known| known.attentions.take());
        self.refresh(&mut shared, nexus);
        sense
    }

    /// Whether a reservation is in the way (SPC-4 tables 65 and 66, SBC-3 table 13).
    fn conflict(&self, nexus: &Nexus, command: &Command) -> Option<Verdict> {
        if !nexus.is_reserved_elsewhere && nexus.grant.is_unlimited() {
            return None;
        }
        let class = match command {
            Command::Inquiry { .. } | Command::ReportLuns { .. } | Command::RequestSense { .. } => {
                return None;
            }
            Command::Release => return None,
            _ if nexus.is_reserved_elsewhere => {
                return Some(Verdict::of(ScsiStatus::ReservationConflict));
            }
            Command::Read(_)
            | Command::Verify { .. }
            | Command::Prefetch(_)
            | Command::GetLbaStatus { .. }
            | Command::ReadDefectData { .. }
            | Command::ModeSense(_) => AccessClass::Read,
            Command::Write(_)
            | Command::WriteAtomic(_)
            | Command::WriteAndVerify { .. }
            | Command::WriteSame { .. }
            | Command::CompareAndWrite(_)
            | Command::OrWrite(_)
            | Command::Unmap { .. }
            | Command::SynchronizeCache(_)
            | Command::ModeSelect { .. }
            | Command::SendDiagnostic => AccessClass::Write,
            Command::StartStopUnit { start, power_condition, .. } => {
                if *start && *power_condition == 0 {
                    return None;
                }
                AccessClass::Write
            }
            _ => return None,
        };
        let conflicts = nexus.grant.access(class) == Access::Conflict;
        conflicts.then_some(Verdict::of(ScsiStatus::ReservationConflict))
    }

    /// The work on blocks that a command is, if it is any.
    #[inline]
    fn medium(&self, nexus: &Nexus, command: &Command) -> Option<Result<Medium, Sense>> {
        let block_bytes = nexus.geometry.block_bytes;
        let none = Extent { lba: Lba(0), blocks: 0, flags: IoFlags::NONE };
        let (kind, extent, data_blocks) = match *command {
            Command::Read(extent) => (Kind::Read, extent, extent.blocks),
            Command::Write(extent) | Command::WriteAtomic(extent) => {
                (Kind::Write, extent, extent.blocks)
            }
            Command::Verify { extent, check } => {
                let data_blocks = match check {
                    ByteCheck::Medium => 0,
                    ByteCheck::Each => extent.blocks,
                    ByteCheck::One => 1,
                };
                let kind = match check {
                    ByteCheck::Medium if self.verifies => Kind::VerifyByDevice,
                    _ => Kind::Verify(check),
                };
                (kind, extent, data_blocks)
            }
            Command::WriteAndVerify { extent, .. } => (Kind::WriteAndVerify, extent, extent.blocks),
            Command::WriteSame { extent, same, space } => {
                (Kind::WriteSame(same, space), extent, u32::from(same == Same::Block))
            }
            Command::CompareAndWrite(extent) => (Kind::CompareAndWrite, extent, 2 * extent.blocks),
            Command::OrWrite(extent) => (Kind::OrWrite, extent, extent.blocks),
            Command::SynchronizeCache(extent) => (Kind::Flush, extent, 0),
            Command::Prefetch(extent) => (Kind::Nothing, extent, 0),
            Command::Unmap { .. } => (Kind::Unmap, none, 0),
            _ => return None,
        };
        let data_bytes = match *command {
            Command::Unmap { length } => Some(length),
            _ => data_blocks.checked_mul(block_bytes),
        };
        let medium = Medium {
            kind,
            lba: extent.lba,
            blocks: u64::from(extent.blocks),
            flags: extent.flags,
            block_bytes,
            device_blocks: nexus.geometry.blocks,
            atomic_blocks: self.atomic_blocks,
            data_bytes: data_bytes.unwrap_or(u32::MAX),
        };
        Some(self.check_medium(nexus, command, medium))
    }

    #[inline]
    fn check_medium(
        &self,
        nexus: &Nexus,
        command: &Command,
        mut medium: Medium,
    ) -> Result<Medium, Sense> {
        let device_blocks = nexus.geometry.blocks;
        let end = medium.lba.0.checked_add(medium.blocks);
        if end.is_none_or(|end| end > device_blocks) {
            let sense = Sense::illegal(SenseCode::LBA_OUT_OF_RANGE);
            return Err(sense.with_information(medium.lba.0.max(device_blocks)));
        }
        let writes = !matches!(
            medium.kind,
            Kind::Read | Kind::Verify(_) | Kind::VerifyByDevice | Kind::Nothing | Kind::Flush
        );
        if writes && nexus.write_protected {
            let code = match self.read_only {
                true => SenseCode::WRITE_PROTECTED,
                false => SenseCode::SOFTWARE_WRITE_PROTECTED,
            };
            return Err(Sense::new(SenseKey::DataProtect, code));
        }
        let limit = match command {
            Command::CompareAndWrite(_) => self.capabilities(nexus).compare_and_write_blocks_max,
            Command::WriteAtomic(_) => self.capabilities(nexus).atomic_blocks_max,
            Command::WriteSame { .. } => WRITE_SAME_BLOCKS_MAX,
            _ => u32::MAX,
        };
        if medium.blocks > u64::from(limit) || medium.data_bytes > TRANSFER_BYTES_MAX {
            return Err(Sense::invalid_cdb(length_byte(command)));
        }
        match medium.kind {
            Kind::WriteSame(..) if medium.blocks == 0 => {
                Err(Sense::invalid_cdb(length_byte(command)))
            }
            Kind::Unmap if medium.data_bytes > LIST_BYTES_MAX => Err(Sense::invalid_cdb(7)),
            Kind::Verify(ByteCheck::One) if medium.blocks == 0 => {
                medium.data_bytes = 0;
                Ok(medium)
            }
            _ => Ok(medium),
        }
    }

    fn begin_other(
        &self,
        nexus: &mut Nexus,
        command: Command,
        luns: &[u64],
    ) -> Result<Begin, Sense> {
        let (mut reply, allocation) = match command {
            Command::TestUnitReady | Command::SendDiagnostic | Command::PreventAllow => {
                return Ok(GOOD);
            }
            Command::StartStopUnit { eject, .. } => {
                // Nothing here can be taken out.
                return if eject { Err(Sense::invalid_cdb(4)) } else { Ok(GOOD) };
            }
            Command::RequestSense { format, allocation } => {
                (self.request_sense(nexus, format), allocation)
            }
            Command::Inquiry { page, allocation } => {
                let reply = match page {
                    None => inquiry::standard_of_disk(),
                    Some(page) => inquiry::page(page, &self.identity, &self.capabilities(nexus))?,
                };
                (reply, allocation)
            }
            Command::ModeSense(asked) => {
                let modes = self.lock().modes;
                let capabilities = self.capabilities(nexus);
                (modes.sense(&asked, &capabilities, self.read_only)?, asked.allocation)
            }
            Command::ReadCapacity10 => (self.capacity_10(nexus), 8),
            Command::ReadCapacity16 { allocation } => (self.capacity_16(nexus), allocation),
            Command::GetLbaStatus { lba, allocation } => {
                (self.lba_status(nexus, lba, allocation)?, allocation)
            }
            Command::ReportLuns { select, allocation } => {
                if let Some(known) = self.lock().known(&nexus.registrant.id) {
                    known.attentions.forget(SenseCode::LUNS_CHANGED);
                }
                (report_luns(select, luns, allocation)?, allocation)
            }
            Command::ReportOpcodes(asked) => (supported::opcodes(&asked)?, asked.allocation),
            Command::ReportFunctions { is_extended, allocation } => {
                (supported::functions(is_extended), allocation)
            }
            Command::ReadDefectData { form, lists, allocation } => {
                (defect_lists(form, lists), allocation)
            }
            Command::ReserveIn { action, allocation } => (self.reserve_in(action)?, allocation),
            Command::Reserve => return Ok(Begin::Answer(self.reserve(nexus))),
            Command::Release => return Ok(Begin::Answer(self.release(nexus))),
            Command::ModeSelect { length, .. } | Command::ReserveOut { length, .. } => {
                return self.begin_parameters(command, length);
            }
            _ => return Err(Sense::illegal(SenseCode::INVALID_OPCODE)),
        };
        Ok(Begin::Reply(reply.finish(allocation)))
    }

    fn begin_parameters(&self, command: Command, len_bytes: u32) -> Result<Begin, Sense> {
        match command {
            Command::ModeSelect { save: true, .. } => return Err(Sense::invalid_cdb(1)),
            Command::ModeSelect { is_page_format: false, .. } => return Err(Sense::invalid_cdb(1)),
            Command::ReserveOut { .. } if len_bytes != persistent::PARAMETER_BYTES => {
                return Err(Sense::illegal(SenseCode::PARAMETER_LIST_LENGTH));
            }
            _ => {}
        }
        Ok(Begin::Parameters(Parameters { command, len_bytes }))
    }

    /// The parameters of a command have come: it is done now.
    pub fn take_parameters(
        &self,
        nexus: &mut Nexus,
        parameters: Parameters,
        bytes: &[u8],
    ) -> Verdict {
        match parameters.command {
            Command::ModeSelect { form, .. } => self.mode_select(nexus, form, bytes),
            Command::ReserveOut { action, kind, .. } => {
                self.reserve_out(nexus, action, kind, bytes)
            }
            _ => Sense::illegal(SenseCode::INVALID_OPCODE).into(),
        }
    }

    fn mode_select(&self, nexus: &mut Nexus, form: Form, bytes: &[u8]) -> Verdict {
        let mut shared = self.lock();
        let id = nexus.registrant.id;
        match shared.modes.select(form, bytes, &self.capabilities(nexus)) {
            Err(sense) => return sense.into(),
            Ok(modes) if modes == shared.modes => {}
            Ok(modes) => {
                shared.modes = modes;
                shared.tell(SenseCode::MODE_PARAMETERS_CHANGED, |other| *other != id);
                self.publish();
            }
        }
        Verdict::GOOD
    }

    fn reserve_in(&self, action: ReserveInAction) -> Result<Reply, Sense> {
        Ok(persistent::report(&self.lock().reservations, action))
    }

    fn reserve_out(&self, nexus: &Nexus, action: u8, kind: u8, bytes: &[u8]) -> Verdict {
        let mut shared = self.lock();
        if shared.reserved_by.is_some() {
            return Verdict::of(ScsiStatus::ReservationConflict);
        }
        let from = &nexus.registrant;
        let outcome = persistent::change(&mut shared.reservations, from, action, kind, bytes);
        match outcome {
            Err(verdict) => verdict,
            Ok(outcome) => {
                self.spread(&mut shared, &outcome);
                Verdict::GOOD
            }
        }
    }

    fn spread(&self, shared: &mut Shared, outcome: &Outcome) {
        shared.table = shared.reservations.access_table();
        for notification in &outcome.notifications {
            let code = persistent::code_of(notification.event);
            shared.tell(code, |id| *id == notification.to);
        }
        self.publish();
    }

    /// RESERVE: the older kind of reservation, of the whole unit (SPC-2 section 7.21). Nothing is
    /// reserved in this way where somebody is registered in the other (SPC-4 section 5.13.3).
    fn reserve(&self, nexus: &Nexus) -> Verdict {
        let mut shared = self.lock();
        let id = nexus.registrant.id;
        let is_taken = shared.reserved_by.is_some_and(|holder| holder != id);
        if is_taken || !shared.reservations.registrations().is_empty() {
            return Verdict::of(ScsiStatus::ReservationConflict);
        }
        shared.reserved_by = Some(id);
        self.publish();
        Verdict::GOOD
    }

    fn release(&self, nexus: &Nexus) -> Verdict {
        let mut shared = self.lock();
        if !shared.reservations.registrations().is_empty() {
            return Verdict::of(ScsiStatus::ReservationConflict);
        }
        if shared.reserved_by == Some(nexus.registrant.id) {
            shared.reserved_by = None;
            self.publish();
        }
        Verdict::GOOD
    }

    /// REQUEST SENSE tells, and takes, the oldest unit attention (SPC-4 section 6.39).
    fn request_sense(&self, nexus: &mut Nexus, format: SenseFormat) -> Reply {
        let sense = match nexus.has_attention {
            true => self.take_attention(nexus),
            false => None,
        };
        let (bytes, len) =
            sense.unwrap_or(Sense::new(SenseKey::NoSense, SenseCode::NONE)).encode(format);
        let mut reply = Reply::new();
        reply.bytes(&bytes[..len]);
        reply
    }

    fn capacity_10(&self, nexus: &Nexus) -> Reply {
        let mut reply = Reply::new();
        let last = u32::try_from(nexus.geometry.blocks - 1).unwrap_or(u32::MAX);
        reply.long(last).long(nexus.geometry.block_bytes);
        reply
    }

    /// SBC-3 table 77.
    fn capacity_16(&self, nexus: &Nexus) -> Reply {
        let mut reply = Reply::new();
        reply.quad(nexus.geometry.blocks - 1).long(nexus.geometry.block_bytes);
        // No protection; one block a physical block; LBPME and LBPRZ.
        reply.byte(0).byte(0).word(0xc000).zeroes(16);
        reply
    }

    /// SBC-3 section 5.8. A device that cannot say at once holds everything.
    fn lba_status(&self, nexus: &Nexus, lba: Lba, allocation: u32) -> Result<Reply, Sense> {
        const MAPPED: u8 = 0;
        const DEALLOCATED: u8 = 1;
        let device_blocks = nexus.geometry.blocks;
        if lba.0 >= device_blocks {
            return Err(Sense::illegal(SenseCode::LBA_OUT_OF_RANGE).with_information(lba.0));
        }
        let room = (allocation.saturating_sub(8) / 16).max(1) as usize;
        let mut reply = Reply::new();
        reply.long(0).long(0);
        let mut at = lba.0;
        let mut describe = |reply: &mut Reply, end: u64, status: u8| {
            while at < end && reply.len() < 8 + room * 16 {
                let blocks = u32::try_from(end - at).unwrap_or(u32::MAX);
                reply.quad(at).long(blocks).byte(status).zeroes(3);
                at += u64::from(blocks);
            }
        };
        let query = self.device.allocation().filter(|query| query.pace() == Pace::AtOnce);
        let range = lba..Lba(device_blocks);
        match query.and_then(|query| query.look(range, STATUS_EXTENTS_MAX.min(room)).ok()) {
            None => describe(&mut reply, device_blocks, MAPPED),
            Some(found) => {
                for extent in &found.extents {
                    describe(&mut reply, extent.lba.0, DEALLOCATED);
                    describe(&mut reply, extent.end().0, MAPPED);
                }
                describe(&mut reply, found.looked_to.0, DEALLOCATED);
            }
        }
        reply.set_long_length(0);
        Ok(reply)
    }
}

/// The first byte of the length of a command on blocks.
fn length_byte(command: &Command) -> u16 {
    match command {
        Command::CompareAndWrite(_) => 13,
        Command::WriteAtomic(_) => 12,
        _ => 10,
    }
}

/// REPORT LUNS (SPC-4 section 6.33). There are no well known units.
fn report_luns(select: u8, luns: &[u64], allocation: u32) -> Result<Reply, Sense> {
    if allocation < 16 {
        return Err(Sense::invalid_cdb(6));
    }
    let listed = match select {
        0 | 2 => luns,
        1 => &[],
        _ => return Err(Sense::invalid_cdb(2)),
    };
    let mut reply = Reply::new();
    reply.long(0).long(0);
    listed.iter().for_each(|lun| {
        reply.quad(*lun);
    });
    let len = u32::try_from(listed.len() * 8).unwrap_or(u32::MAX);
    let mut bytes = reply.finish(u32::MAX);
    bytes[..4].copy_from_slice(&len.to_be_bytes());
    reply.bytes(&bytes);
    Ok(reply)
}

/// READ DEFECT DATA: lists of nothing (SBC-3 sections 5.17 and 5.18).
fn defect_lists(form: Form, lists: u8) -> Reply {
    let mut reply = Reply::new();
    reply.byte(0).byte(lists);
    match form {
        Form::Six => reply.word(0),
        Form::Ten => reply.word(0).long(0),
    };
    reply
}

/// A command for a unit that is not there (SPC-4 section 4.4 and 6.6.2).
pub fn absent_unit(cdb: &[u8; CDB_BYTES], luns: &[u64]) -> Begin {
    let missing = Sense::illegal(SenseCode::UNIT_NOT_SUPPORTED);
    match Command::parse(cdb) {
        Ok(Command::Inquiry { page: None, allocation }) => {
            Begin::Reply(inquiry::standard(ABSENT).finish(allocation))
        }
        Ok(Command::ReportLuns { select, allocation }) => {
            match report_luns(select, luns, allocation) {
                Ok(mut reply) => Begin::Reply(reply.finish(allocation)),
                Err(sense) => sense.into(),
            }
        }
        Ok(Command::RequestSense { format, allocation }) => {
            let (bytes, len) = missing.encode(format);
            let mut reply = Reply::new();
            Begin::Reply(reply.bytes(&bytes[..len]).finish(allocation))
        }
        _ => missing.into(),
    }
}
