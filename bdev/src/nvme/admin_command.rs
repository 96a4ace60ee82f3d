//! Admin commands: typed views of a submission entry, and its construction.
//!
//! Read by the target's admin queue, built by initiators and the PCIe driver; never on the path of
//! an I/O. NVMe Base 2.0 sections 5.1 (Abort), 5.15 and 5.27 (features), 5.16 (Get Log Page), 5.17
//! (Identify) and 5.18 (Keep Alive).

use super::command::SubmissionEntry;
use super::identify::IdentifyKind;
use super::opcode::AdminOpcode;
use zerocopy::little_endian::U32;

/// The unit of log page lengths.
const DWORD_BYTES: u64 = 4;
/// Largest length of a Get Log Page, in bytes: a 32-bit count of dwords, 0's based.
pub const LOG_PAGE_BYTES_MAX: u64 = (1 << 32) * DWORD_BYTES;

/// An Identify command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identify {
    /// CNS, as it came: see [`IdentifyKind::from_value`].
    pub kind: u8,
    /// CNTID: controller to start from.
    pub controller_id: u16,
    /// CSI: command set.
    pub command_set: u8,
}

/// A Get Log Page command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetLogPage {
    /// LID: which log.
    pub log_page: u8,
    /// LSP: log specific, 7 bits.
    pub specific: u8,
    /// RAE: the log's events stay masked.
    pub retain_event: bool,
    /// Length in bytes, a multiple of 4, 4 to [`LOG_PAGE_BYTES_MAX`].
    pub bytes: u64,
    /// LPO: where to start; an offset in bytes, to be a multiple of 4, unless `is_index`.
    pub offset: u64,
    /// OT: the offset counts entries instead of bytes.
    pub is_index: bool,
}

/// Which value of a feature is asked for (SEL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureSelect {
    /// In force.
    Current,
    /// Of the factory.
    Default,
    /// Kept over resets.
    Saved,
    /// What can be done with it.
    Supported,
    /// A reserved value.
    Reserved,
}

/// A Get Features or Set Features command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureCommand {
    /// FID.
    pub feature: u8,
    /// SEL of Get Features.
    pub select: FeatureSelect,
    /// SV of Set Features: keep over resets.
    pub save: bool,
    /// Command dword 11: the value to set.
    pub value: u32,
}

impl SubmissionEntry {
    /// Reads an Identify command.
    pub fn identify(&self) -> Identify {
        let [kind, _, low, high] = self.cdw10.get().to_le_bytes();
        let [_, _, _, command_set] = self.cdw11.get().to_le_bytes();
        Identify { kind, controller_id: u16::from_le_bytes([low, high]), command_set }
    }

    /// Reads a Get Log Page command.
    pub fn get_log_page(&self) -> GetLogPage {
        let [log_page, specific, low0, low1] = self.cdw10.get().to_le_bytes();
        let [high0, high1, _, _] = self.cdw11.get().to_le_bytes();
        let last_dword = u32::from_le_bytes([low0, low1, high0, high1]);
        GetLogPage {
            log_page,
            specific: specific & 0x7f,
            retain_event: specific & 0x80 != 0,
            bytes: (u64::from(last_dword) + 1) * DWORD_BYTES,
            offset: u64::from(self.cdw13.get()) << 32 | u64::from(self.cdw12.get()),
            is_index: self.cdw14.get() & 1 << 23 != 0,
        }
    }

    /// Reads a Get Features or Set Features command.
    pub fn feature(&self) -> FeatureCommand {
        let [feature, select, _, save] = self.cdw10.get().to_le_bytes();
        FeatureCommand {
            feature,
            select: match select & 0b111 {
                0 => FeatureSelect::Current,
                1 => FeatureSelect::Default,
                2 => FeatureSelect::Saved,
                3 => FeatureSelect::Supported,
                _ => FeatureSelect::Reserved,
            },
            save: save & 0x80 != 0,
            value: self.cdw11.get(),
        }
    }

    /// Reads an Abort command: submission queue and command identifier to abort.
    pub fn abort(&self) -> (u16, u16) {
        let [queue0, queue1, command0, command1] = self.cdw10.get().to_le_bytes();
        (u16::from_le_bytes([queue0, queue1]), u16::from_le_bytes([command0, command1]))
    }

    /// Builds an Identify command. Its data, 4096 bytes, is still to be described.
    pub fn for_identify(command_id: u16, namespace_id: u32, kind: IdentifyKind) -> Self {
        let mut entry = Self::new(AdminOpcode::Identify.value(), command_id, namespace_id);
        entry.cdw10 = U32::new(u32::from(kind.value()));
        entry
    }

    /// Builds a Get Log Page command. Its data is still to be described.
    ///
    /// # Panics
    /// If the length is no multiple of 4, is 0 or exceeds [`LOG_PAGE_BYTES_MAX`].
    pub fn for_log_page(command_id: u16, namespace_id: u32, page: GetLogPage) -> Self {
        assert!(page.bytes.is_multiple_of(DWORD_BYTES), "a log page is read in dwords");
        let last_dword = (page.bytes / DWORD_BYTES).checked_sub(1);
        let last_dword = last_dword.and_then(|last| u32::try_from(last).ok());
        let last_dword = last_dword.expect("a length of 4 bytes to 16 GiB");
        let [low0, low1, high0, high1] = last_dword.to_le_bytes();
        let specific = page.specific & 0x7f | u8::from(page.retain_event) << 7;
        let mut entry = Self::new(AdminOpcode::GetLogPage.value(), command_id, namespace_id);
        entry.cdw10 = U32::from_bytes([page.log_page, specific, low0, low1]);
        entry.cdw11 = U32::from_bytes([high0, high1, 0, 0]);
        let offset = page.offset.to_le_bytes();
        [entry.cdw12, entry.cdw13] = zerocopy::transmute!(offset);
        entry.cdw14 = U32::new(u32::from(page.is_index) << 23);
        entry
    }

    /// Builds a Set Features command without data.
    pub fn set_feature(command_id: u16, feature: u8, value: u32) -> Self {
        let mut entry = Self::new(AdminOpcode::SetFeatures.value(), command_id, 0);
        entry.cdw10 = U32::new(u32::from(feature));
        entry.cdw11 = U32::new(value);
        entry
    }

    /// Builds a Get Features command for the current value, without data.
    pub fn get_feature(command_id: u16, feature: u8) -> Self {
        let mut entry = Self::new(AdminOpcode::GetFeatures.value(), command_id, 0);
        entry.cdw10 = U32::new(u32::from(feature));
        entry
    }

    /// Builds a Keep Alive command.
    pub fn keep_alive(command_id: u16) -> Self {
        Self::new(AdminOpcode::KeepAlive.value(), command_id, 0)
    }

    /// Builds an Asynchronous Event Request.
    pub fn async_event_request(command_id: u16) -> Self {
        Self::new(AdminOpcode::AsyncEventRequest.value(), command_id, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: GetLogPage = GetLogPage {
        log_page: 0x70,
        specific: 0x01,
        retain_event: true,
        bytes: 1024,
        offset: 0x1_0000_0400,
        is_index: false,
    };

    #[test]
    fn dwords_are_those_of_the_specification() {
        let entry = SubmissionEntry::for_log_page(1, 0, PAGE);
        assert_eq!(entry.cdw10.get(), 0x00ff_8170);
        assert_eq!(entry.cdw11.get(), 0);
        assert_eq!((entry.cdw12.get(), entry.cdw13.get()), (0x400, 1));
        let mut entry = SubmissionEntry::for_identify(1, 1, IdentifyKind::Controller);
        assert_eq!(entry.cdw10.get(), 1);
        entry.cdw10 = U32::new(0x0005_0013);
        entry.cdw11 = U32::new(0x0200_0000);
        let expected = Identify { kind: 0x13, controller_id: 5, command_set: 2 };
        assert_eq!(entry.identify(), expected);
        entry.cdw10 = U32::new(0x0007_0003);
        assert_eq!(entry.abort(), (3, 7));
    }

    #[test]
    fn a_feature_command_has_select_save_and_value() {
        let entry = SubmissionEntry::set_feature(1, 0x0f, 15_000);
        assert_eq!((entry.feature().feature, entry.feature().value), (0x0f, 15_000));
        let mut entry = SubmissionEntry::get_feature(1, 0x07);
        assert_eq!(entry.feature().select, FeatureSelect::Current);
        entry.cdw10 = U32::new(0x8000_0307);
        assert_eq!(entry.feature().select, FeatureSelect::Supported);
        assert!(entry.feature().save);
    }

    #[test]
    fn the_longest_log_page_fits() {
        let page = GetLogPage { bytes: LOG_PAGE_BYTES_MAX, ..PAGE };
        assert_eq!(SubmissionEntry::for_log_page(1, 0, page).get_log_page(), page);
    }

    #[test]
    #[should_panic(expected = "4 bytes to 16 GiB")]
    fn a_longer_log_page_is_refused() {
        let page = GetLogPage { bytes: LOG_PAGE_BYTES_MAX + 4, ..PAGE };
        let _ = SubmissionEntry::for_log_page(1, 0, page);
    }

    proptest! {
        #[test]
        fn a_log_page_reads_as_it_was_asked_for(
            log_page: u8,
            specific in 0u8..=0x7f,
            retain_event: bool,
            dwords in 1u64..=1 << 32,
            offset: u64,
            is_index: bool,
        ) {
            let bytes = dwords * DWORD_BYTES;
            let page = GetLogPage { log_page, specific, retain_event, bytes, offset, is_index };
            prop_assert_eq!(SubmissionEntry::for_log_page(1, 0, page).get_log_page(), page);
        }
    }
}
