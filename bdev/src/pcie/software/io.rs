//! The NVM command set of a software controller.

use zerocopy::{FromBytes, IntoBytes};

use super::core::Core;
use super::host::Unmapped;
use crate::nvme::command::{Fuse, SubmissionEntry};
use crate::nvme::nvm_command::{DATASET_RANGE_BYTES, DatasetRange, TransferFlags};
use crate::nvme::opcode::NvmOpcode;
use crate::nvme::status::Status;

const PAGE: u64 = 4096;

/// Holds bytes to a limit that is a shift of pages, and none when it is 0.
fn within(len: usize, shift: u8) -> Result<(), Status> {
    let over = shift != 0 && len as u64 > PAGE << shift;
    if over { Err(Status::INVALID_FIELD) } else { Ok(()) }
}

/// A command's end.
type Ended = (Status, u32);

impl Core {
    /// Executes an I/O command.
    pub(super) fn io(&mut self, entry: &SubmissionEntry) -> Ended {
        match self.try_io(entry) {
            Ok(()) => (Status::SUCCESS, 0),
            Err(status) => (status, 0),
        }
    }

    fn try_io(&mut self, entry: &SubmissionEntry) -> Result<(), Status> {
        let opcode = NvmOpcode::try_from(entry.opcode).map_err(|_| Status::INVALID_OPCODE)?;
        if entry.fuse() != Fuse::Normal {
            return Err(Status::INVALID_FIELD);
        }
        let optional = self.config.optional_commands == super::Feature::Present;
        let namespace = self.namespace_index(entry.namespace_id.get())?;
        self.may(opcode)?;
        match opcode {
            NvmOpcode::Flush => {
                self.counts.flushes += 1;
                Ok(())
            }
            NvmOpcode::Read => {
                let (start, len) = self.range(namespace, entry)?;
                let data = self.namespaces[namespace].data[start..start + len].to_vec();
                self.transfer_limit(len)?;
                self.write_host(entry.prp(), &data)
            }
            NvmOpcode::Write => {
                let (start, len) = self.range(namespace, entry)?;
                self.transfer_limit(len)?;
                let data = self.read_host(entry.prp(), len)?;
                self.namespaces[namespace].data[start..start + len].copy_from_slice(&data);
                if entry.transfer_flags().has(TransferFlags::FORCE_UNIT_ACCESS) {
                    self.counts.forced += 1;
                }
                Ok(())
            }
            NvmOpcode::Compare if optional => {
                let (start, len) = self.range(namespace, entry)?;
                self.transfer_limit(len)?;
                let data = self.read_host(entry.prp(), len)?;
                let same = self.namespaces[namespace].data[start..start + len] == data;
                if same { Ok(()) } else { Err(Status::COMPARE_FAILURE) }
            }
            NvmOpcode::WriteZeroes if optional => {
                let (start, len) = self.range(namespace, entry)?;
                self.namespaces[namespace].data[start..start + len].fill(0);
                Ok(())
            }
            NvmOpcode::Verify if optional => {
                self.counts.verifies += 1;
                let (_, len) = self.range(namespace, entry)?;
                within(len, self.config.verify_shift)
            }
            NvmOpcode::DatasetManagement if optional => self.deallocate(namespace, entry),
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    fn deallocate(&mut self, namespace: usize, entry: &SubmissionEntry) -> Result<(), Status> {
        self.counts.hints += 1;
        let count = entry.dataset_range_count();
        let data = self.read_host(entry.prp(), count * DATASET_RANGE_BYTES)?;
        for range in data.chunks_exact(DATASET_RANGE_BYTES) {
            let range = DatasetRange::read_from_bytes(range).map_err(|_| Status::INTERNAL_ERROR)?;
            let (lba, blocks) = (range.starting_lba.get(), range.blocks.get());
            let (start, len) = self.bytes(namespace, lba, u64::from(blocks))?;
            self.namespaces[namespace].data[start..start + len].fill(0);
        }
        Ok(())
    }

    /// Index of a namespace.
    pub(super) fn namespace_index(&self, id: u32) -> Result<usize, Status> {
        let index = (id as usize).checked_sub(1);
        let index = index.filter(|index| *index < self.namespaces.len());
        index.ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)
    }

    fn range(&self, namespace: usize, entry: &SubmissionEntry) -> Result<(usize, usize), Status> {
        self.bytes(namespace, entry.starting_lba(), u64::from(entry.block_count()))
    }

    pub(super) fn bytes(
        &self,
        namespace: usize,
        lba: u64,
        blocks: u64,
    ) -> Result<(usize, usize), Status> {
        let config = &self.namespaces[namespace].config;
        let end = lba.checked_add(blocks).ok_or(Status::LBA_OUT_OF_RANGE)?;
        if end > config.blocks {
            return Err(Status::LBA_OUT_OF_RANGE);
        }
        let size = config.block_bytes as usize;
        Ok((lba as usize * size, blocks as usize * size))
    }

    pub(super) fn transfer_limit(&self, len: usize) -> Result<(), Status> {
        within(len, self.config.transfer_shift)
    }

    /// Pieces of the host's memory that two PRP entries describe, over `len` bytes.
    fn pieces(&mut self, prp: [u64; 2], len: usize) -> Result<Vec<(u64, usize)>, Status> {
        if !prp[0].is_multiple_of(4) {
            self.violation(format!("PRP1 {:#x} is not aligned", prp[0]));
            return Err(Status::PRP_OFFSET_INVALID);
        }
        let first = ((PAGE - prp[0] % PAGE) as usize).min(len);
        let mut pieces = vec![(prp[0], first)];
        let mut left = len - first;
        let pages = left.div_ceil(PAGE as usize);
        let mut list = prp[1];
        for page in 0..pages {
            let address = if pages == 1 {
                prp[1]
            } else {
                let mut entry = self.read64(list)?;
                list += 8;
                // The last entry of a page of a list that goes on is a pointer to the next.
                if list.is_multiple_of(PAGE) && page + 1 < pages {
                    list = entry;
                    entry = self.read64(list)?;
                    list += 8;
                }
                entry
            };
            if !address.is_multiple_of(PAGE) {
                self.violation(format!("PRP {address:#x} is not of a page"));
                return Err(Status::PRP_OFFSET_INVALID);
            }
            let piece = left.min(PAGE as usize);
            pieces.push((address, piece));
            left -= piece;
        }
        Ok(pieces)
    }

    fn read64(&mut self, address: u64) -> Result<u64, Status> {
        let mut bytes = [0; 8];
        match self.host.read(address, &mut bytes) {
            Ok(()) => Ok(u64::from_le_bytes(bytes)),
            Err(Unmapped) => Err(self.unmapped(address)),
        }
    }

    fn unmapped(&mut self, address: u64) -> Status {
        self.violation(format!("address {address:#x} is not mapped"));
        Status::DATA_TRANSFER_ERROR
    }

    /// Copies to the host.
    pub(super) fn write_host(&mut self, prp: [u64; 2], data: &[u8]) -> Result<(), Status> {
        let mut at = 0;
        for (address, len) in self.pieces(prp, data.len())? {
            if self.host.write(address, &data[at..at + len]).is_err() {
                return Err(self.unmapped(address));
            }
            at += len;
        }
        Ok(())
    }

    /// Copies from the host.
    pub(super) fn read_host(&mut self, prp: [u64; 2], len: usize) -> Result<Vec<u8>, Status> {
        let mut data = vec![0; len];
        let mut at = 0;
        for (address, piece) in self.pieces(prp, len)? {
            if self.host.read(address, data[at..at + piece].as_mut_bytes()).is_err() {
                return Err(self.unmapped(address));
            }
            at += piece;
        }
        Ok(data)
    }
}
