//! Blocks of a software controller that somebody else keeps, and is in no hurry about.
//!
//! The simulator's disks are such: the controller takes commands from its queues, gives them on,
//! and completes them when the medium has ended them. Used under the controller's lock.

use std::fmt::Debug;

use zerocopy::IntoBytes;

use super::core::{Command, Core};
use super::faults::Fault;
use crate::io::{IoFlags, Operation};
use crate::nvme::nvm_command::TransferFlags;
use crate::nvme::opcode::NvmOpcode;
use crate::nvme::status::Status;

/// A command as a medium has it: without the host's memory, which is the controller's affair.
#[derive(Clone, Debug)]
pub struct MediumCommand {
    /// By which the controller knows it.
    pub name: u64,
    /// What to do.
    pub operation: Operation,
    /// How.
    pub flags: IoFlags,
    /// First block.
    pub lba: u64,
    /// Number of blocks.
    pub blocks: u32,
    /// What is written, or compared.
    pub data: Vec<u8>,
}

/// The end of a command.
#[derive(Clone, Debug)]
pub struct MediumEnd {
    /// [`MediumCommand::name`].
    pub name: u64,
    /// How it ended.
    pub status: Status,
    /// What was read.
    pub data: Vec<u8>,
}

/// Keeps the blocks of a controller's only namespace.
pub trait Medium: Debug + Send {
    /// Begins a command that is within the namespace and the controller's limits.
    fn begin(&mut self, command: MediumCommand);

    /// The next command that has ended, if there is one.
    fn take_ended(&mut self) -> Option<MediumEnd>;

    /// Nobody waits for this command any more; it has its effect before this returns, or never.
    fn abandon(&mut self, name: u64);
}

impl Core {
    /// Gives a command to the medium.
    pub(super) fn begin_at_medium(&mut self, command: &Command) {
        match self.decode(command) {
            Ok(begun) => {
                self.at_medium.insert(begun.name, command.clone());
                let medium = self.medium.as_mut();
                medium.expect("it was looked for by the caller").begin(begun);
            }
            Err(status) => self.end(command, status, 0),
        }
    }

    fn decode(&mut self, command: &Command) -> Result<MediumCommand, Status> {
        let entry = &command.entry;
        let opcode = NvmOpcode::try_from(entry.opcode).map_err(|_| Status::INVALID_OPCODE)?;
        let namespace = self.namespace_index(entry.namespace_id.get())?;
        let flags = entry.transfer_flags();
        let operation = match opcode {
            NvmOpcode::Read => Operation::Read,
            NvmOpcode::Write => Operation::Write,
            NvmOpcode::Flush => Operation::Flush,
            NvmOpcode::Compare => Operation::Compare,
            NvmOpcode::Verify => Operation::Verify,
            NvmOpcode::WriteZeroes if flags.has(TransferFlags::DEALLOCATE) => Operation::Unmap,
            NvmOpcode::WriteZeroes => Operation::WriteZeroes,
            _ => return Err(Status::INVALID_OPCODE),
        };
        let (lba, blocks) = match operation {
            Operation::Flush => (0, 0),
            _ => (entry.starting_lba(), entry.block_count()),
        };
        let (_, len) = self.bytes(namespace, lba, u64::from(blocks))?;
        let data = match operation {
            Operation::Write | Operation::Compare => {
                self.transfer_limit(len)?;
                self.read_host(entry.prp(), len)?
            }
            Operation::Read => {
                self.transfer_limit(len)?;
                Vec::new()
            }
            _ => Vec::new(),
        };
        let is_forced = flags.has(TransferFlags::FORCE_UNIT_ACCESS);
        let flags = if is_forced { IoFlags::FUA } else { IoFlags::NONE };
        self.names += 1;
        Ok(MediumCommand { name: self.names, operation, flags, lba, blocks, data })
    }

    /// Completes what the medium has ended; true when there was something.
    pub(super) fn take_from_medium(&mut self) -> bool {
        let mut busy = false;
        while let Some(end) = self.medium.as_mut().and_then(|medium| medium.take_ended()) {
            busy = true;
            let Some(command) = self.at_medium.remove(&end.name) else { continue };
            let mut status = end.status;
            if status.is_success()
                && command.entry.opcode == NvmOpcode::Read.value()
                && let Err(refused) = self.write_host(command.entry.prp(), end.data.as_bytes())
            {
                status = refused;
            }
            if let Some(Fault::DoneButStatus(other)) = command.fault {
                status = other;
            }
            self.end(&command, status, 0);
        }
        busy
    }

    /// Takes back from the medium what is of a queue, or of all of them.
    pub(super) fn abandon(&mut self, queue: Option<u16>) {
        let Some(medium) = &mut self.medium else { return };
        self.at_medium.retain(|name, command| {
            let is_kept = queue.is_some_and(|queue| command.queue != queue);
            if !is_kept {
                medium.abandon(*name);
            }
            is_kept
        });
    }

    /// Takes back a command that is to be aborted, if the medium has it.
    pub(super) fn abandon_one(&mut self, queue: u16, id: u16) -> Option<Command> {
        let is_it =
            |command: &Command| command.queue == queue && command.entry.command_id.get() == id;
        let found = self.at_medium.iter().find(|(_, command)| is_it(command));
        let name = found.map(|(name, _)| *name)?;
        self.medium.as_mut()?.abandon(name);
        self.at_medium.remove(&name)
    }
}
