//! The admin commands of a software controller.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::Feature;
use super::core::{Command, CompletionQueue, Core, Mutator, SubmissionQueue};
use super::faults::Fault;
use crate::nvme::command::SubmissionEntry;
use crate::nvme::feature;
use crate::nvme::identify::{
    DescriptorWriter, IDENTIFY_BYTES, IdentifyController, IdentifyKind, IdentifyNamespace,
    LbaFormat, NamespaceIdentity, NamespaceList, NvmIdentifyController, controller_field,
    namespace_field,
};
use crate::nvme::log_page::{self, AnaGroup, AnaHeader, SmartLog};
use crate::nvme::opcode::AdminOpcode;
use crate::nvme::register::Version;
use crate::nvme::status::Status;

/// OACS: Doorbell Buffer Config.
const SHADOW_DOORBELLS: u16 = 1 << 8;
/// CTRATT: host identifiers of 128 bits.
const LONG_HOST_IDS: u32 = 1;
/// Event requests that may wait, 0's based.
const EVENT_LIMIT: u8 = 3;

impl Core {
    pub(super) fn execute_admin(&mut self, command: &Command) {
        let entry = &command.entry;
        if entry.opcode == AdminOpcode::AsyncEventRequest.value() {
            if self.event_requests.len() > usize::from(EVENT_LIMIT) {
                self.end(command, Status::ASYNC_EVENT_LIMIT_EXCEEDED, 0);
            } else {
                self.event_requests.push(entry.command_id.get());
            }
            return;
        }
        match self.admin(entry) {
            Ok(result) => self.end(command, Status::SUCCESS, result),
            Err(status) => self.end(command, status, 0),
        }
    }

    fn admin(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let opcode = AdminOpcode::try_from(entry.opcode).map_err(|_| Status::INVALID_OPCODE)?;
        match opcode {
            AdminOpcode::Identify => self.identify(entry),
            AdminOpcode::SetFeatures => self.set_features(entry),
            AdminOpcode::CreateCompletionQueue => self.create_completion(entry),
            AdminOpcode::CreateSubmissionQueue => self.create_submission(entry),
            AdminOpcode::DeleteSubmissionQueue => self.delete_submission(entry),
            AdminOpcode::DeleteCompletionQueue => self.delete_completion(entry),
            AdminOpcode::Abort => Ok(self.abort(entry)),
            AdminOpcode::GetLogPage => self.log_page(entry),
            AdminOpcode::DoorbellBufferConfig
                if self.config.shadow_doorbells == Feature::Present =>
            {
                self.shadow = Some(entry.prp());
                Ok(0)
            }
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    fn identify(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let kind = IdentifyKind::from_value(entry.identify().kind).ok_or(Status::INVALID_FIELD)?;
        let id = entry.namespace_id.get();
        let mut data = [0_u8; IDENTIFY_BYTES];
        match kind {
            IdentifyKind::Controller => {
                data.copy_from_slice(self.identify_controller().as_bytes());
            }
            IdentifyKind::CommandSetController => {
                let mut commands = NvmIdentifyController::new_zeroed();
                commands.write_zeroes_size_max = self.config.transfer_shift;
                commands.verify_size_max = self.config.verify_shift;
                data.copy_from_slice(commands.as_bytes());
            }
            IdentifyKind::ActiveNamespaces => {
                let last = u32::try_from(self.namespaces.len()).expect("few namespaces");
                data.copy_from_slice(NamespaceList::above(id, 1..=last).as_bytes());
            }
            IdentifyKind::Namespace => {
                let index = self.namespace_index(id)?;
                data.copy_from_slice(self.identify_namespace(index).as_bytes());
            }
            IdentifyKind::NamespaceDescriptors => {
                let index = self.namespace_index(id)?;
                if let Some(uuid) = self.namespaces[index].config.uuid {
                    let mut writer = DescriptorWriter::new(&mut data);
                    let identity = NamespaceIdentity::Uuid(uuid);
                    writer.push(identity).map_err(|_| Status::INTERNAL_ERROR)?;
                }
            }
            _ => return Err(Status::INVALID_FIELD),
        }
        if let Some(Mutator { random, probability }) = &mut self.mutator
            && random.chance(*probability)
        {
            for _ in 0..1 + random.below(8) {
                // Mostly where it matters.
                let bound = if random.chance(0.5) { 600 } else { 4096 };
                let at = random.below(bound) as usize;
                data[at] = random.below(256) as u8;
            }
        }
        self.write_host(entry.prp(), &data)?;
        Ok(0)
    }

    fn identify_controller(&self) -> IdentifyController {
        let mut data = IdentifyController::new_zeroed();
        data.serial_number = *b"SOFTWARE0001        ";
        data.model_number = *b"Software NVMe controller                ";
        data.firmware_revision = *b"1.0     ";
        data.version = U32::new(Version::V2_0.0);
        data.controller_type = controller_field::TYPE_IO;
        data.transfer_size_max = self.config.transfer_shift;
        data.submission_entry_sizes = 0x66;
        data.completion_entry_sizes = 0x44;
        data.async_event_limit = EVENT_LIMIT;
        data.async_events = U32::new(controller_field::EVENT_NAMESPACE);
        if !self.access.is_empty() {
            data.multi_path = controller_field::ANA_REPORTING;
            data.async_events =
                U32::new(controller_field::EVENT_NAMESPACE | controller_field::EVENT_ANA);
        }
        data.namespace_count = U32::new(self.namespaces.len() as u32);
        if self.config.shadow_doorbells == Feature::Present {
            data.admin_commands = U16::new(SHADOW_DOORBELLS);
        }
        if self.config.optional_commands == Feature::Present {
            data.nvm_commands = U16::new(
                controller_field::COMPARE
                    | controller_field::WRITE_ZEROES
                    | controller_field::VERIFY
                    | controller_field::DATASET_MANAGEMENT,
            );
        }
        if self.config.reservations == Feature::Present {
            let commands = data.nvm_commands.get() | controller_field::RESERVATIONS;
            data.nvm_commands = U16::new(commands);
            data.attributes = U32::new(LONG_HOST_IDS);
        }
        if self.config.write_cache == Feature::Present {
            data.volatile_write_cache = controller_field::WRITE_CACHE_PRESENT;
        }
        data
    }

    fn identify_namespace(&self, index: usize) -> IdentifyNamespace {
        let config = &self.namespaces[index].config;
        let mut data = IdentifyNamespace::new_zeroed();
        data.size_blocks = U64::new(config.blocks);
        data.capacity_blocks = U64::new(config.blocks);
        data.used_blocks = U64::new(config.blocks);
        if self.config.zeroing_unmap == Feature::Present {
            data.deallocate =
                namespace_field::DEALLOCATED_READS_ZERO | namespace_field::WRITE_ZEROES_DEALLOCATES;
        }
        if self.config.reservations == Feature::Present {
            data.reservations = namespace_field::ALL_RESERVATION_TYPES;
        }
        data.lba_format[0] = LbaFormat {
            data_shift: config.block_bytes.trailing_zeros() as u8,
            ..LbaFormat::default()
        };
        data
    }

    fn set_features(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let command = entry.feature();
        match command.feature {
            feature::NUMBER_OF_QUEUES => {
                let granted = u32::from(self.config.queues - 1);
                Ok(granted | granted << 16)
            }
            feature::ASYNC_EVENT_CONFIGURATION => Ok(0),
            feature::HOST_IDENTIFIER if self.config.reservations == Feature::Present => {
                let id = self.read_host(entry.prp(), 16)?;
                self.host_id.copy_from_slice(&id);
                Ok(0)
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn queue_shape(&mut self, entry: &SubmissionEntry) -> Result<(u16, u16, u64), Status> {
        let [id0, id1, size0, size1] = entry.cdw10.get().to_le_bytes();
        let queue = u16::from_le_bytes([id0, id1]);
        let last = u16::from_le_bytes([size0, size1]);
        if queue == 0 || queue > self.config.queues {
            return Err(Status::INVALID_QUEUE_ID);
        }
        if last == 0 || last >= self.config.queue_entries_max {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        let address = entry.prp()[0];
        if !address.is_multiple_of(4096) || entry.cdw11.get() & 1 == 0 {
            return Err(Status::INVALID_FIELD);
        }
        Ok((queue, last + 1, address))
    }

    fn create_completion(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let (queue, entries, address) = self.queue_shape(entry)?;
        if self.completion.contains_key(&queue) {
            return Err(Status::INVALID_QUEUE_ID);
        }
        let [flags, _, vector0, vector1] = entry.cdw11.get().to_le_bytes();
        let vector = u16::from_le_bytes([vector0, vector1]);
        let vector = (flags & 0b10 != 0).then_some(vector);
        if vector.is_some_and(|vector| vector >= self.config.vectors) {
            return Err(Status::INVALID_INTERRUPT_VECTOR);
        }
        let created = CompletionQueue { address, entries, tail: 0, phase: true, vector };
        self.completion.insert(queue, created);
        Ok(0)
    }

    fn create_submission(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let (queue, entries, address) = self.queue_shape(entry)?;
        let completion_queue = (entry.cdw11.get() >> 16) as u16;
        if !self.completion.contains_key(&completion_queue) || completion_queue == 0 {
            return Err(Status::COMPLETION_QUEUE_INVALID);
        }
        if self.submission.contains_key(&queue) {
            return Err(Status::INVALID_QUEUE_ID);
        }
        let created = SubmissionQueue { address, entries, head: 0, completion_queue };
        self.submission.insert(queue, created);
        Ok(0)
    }

    fn delete_submission(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let queue = (entry.cdw10.get() & 0xffff) as u16;
        if queue == 0 || self.submission.remove(&queue).is_none() {
            return Err(Status::INVALID_QUEUE_ID);
        }
        self.commands.retain(|command| command.queue != queue);
        self.abandon(Some(queue));
        self.ended.retain(|ended| ended.queue != queue);
        self.clear_doorbell(2 * u32::from(queue));
        Ok(0)
    }

    fn delete_completion(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let queue = (entry.cdw10.get() & 0xffff) as u16;
        if self.submission.values().any(|one| one.completion_queue == queue) {
            return Err(Status::INVALID_QUEUE_DELETION);
        }
        if queue == 0 || self.completion.remove(&queue).is_none() {
            return Err(Status::INVALID_QUEUE_ID);
        }
        self.clear_doorbell(2 * u32::from(queue) + 1);
        Ok(0)
    }

    /// Result bit 0: the command was not aborted.
    fn abort(&mut self, entry: &SubmissionEntry) -> u32 {
        let (queue, id) = entry.abort();
        let found = self.commands.iter().position(|one| {
            let named = one.queue == queue && one.entry.command_id.get() == id;
            named && one.fault != Some(Fault::StuckForGood)
        });
        let taken = match found {
            Some(index) => Some(self.commands.remove(index)),
            None => self.abandon_one(queue, id),
        };
        let Some(mut command) = taken else { return 1 };
        command.fault = None;
        self.counts.aborted += 1;
        self.end(&command, Status::ABORT_REQUESTED, 0);
        0
    }

    fn log_page(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let page = entry.get_log_page();
        let len = usize::try_from(page.bytes.min(4096)).expect("at most a page");
        let mut data = vec![0; len];
        if page.log_page == log_page::SMART {
            let mut log = SmartLog::new_zeroed();
            log.critical_warning = self.critical_warning;
            log.temperature_kelvin = U16::new(310);
            log.spare_percent = 100;
            let bytes = log.as_bytes();
            let copied = len.min(bytes.len());
            data[..copied].copy_from_slice(&bytes[..copied]);
        }
        if page.log_page == log_page::ANA {
            let header = AnaHeader {
                change_count: U64::new(0),
                groups: U16::new(self.access.len() as u16),
                reserved: [0; 6],
            };
            let mut bytes = header.as_bytes().to_vec();
            for (id, state) in &self.access {
                let group = AnaGroup {
                    id: U32::new(*id),
                    namespaces: U32::new(0),
                    change_count: U64::new(0),
                    state: state.value(),
                    reserved: [0; 15],
                };
                bytes.extend_from_slice(group.as_bytes());
            }
            let copied = len.min(bytes.len());
            data[..copied].copy_from_slice(&bytes[..copied]);
        }
        self.write_host(entry.prp(), &data)?;
        Ok(0)
    }
}
