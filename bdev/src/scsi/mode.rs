//! Mode pages: caching, control, informational exceptions.
//!
//! MODE SENSE tells them, MODE SELECT changes two bits of the control page: the format of sense
//! data and the software write protection. They are the same for all initiators (the policy of
//! SPC-4 section 6.11.1) and are not saved. SPC-4 sections 6.9 to 6.12 and 7.5, SBC-3 section 6.5.

use super::command::{BlockDescriptor, Form, ModeSense, PageControl};
use super::reply::Reply;
use super::sense::{Sense, SenseCode, SenseFormat};
use super::unit::Capabilities;

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const EXCEPTIONS: u8 = 0x1c;
const ALL_PAGES: u8 = 0x3f;
const ALL_SUBPAGES: u8 = 0xff;

const PAGES: [u8; 3] = [CACHING, CONTROL, EXCEPTIONS];

/// D_SENSE and SWP in the bytes of the control page.
const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;
/// WCE of the caching page.
const WCE: u8 = 0x04;
/// WP and DPOFUA of the device-specific parameter (SBC-3 table 180).
const WRITE_PROTECTED: u8 = 0x80;
const DPO_FUA: u8 = 0x10;

/// What can be changed, and is as it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Modes {
    /// D_SENSE.
    pub format: SenseFormat,
    /// SWP.
    pub write_protected: bool,
}

impl Modes {
    fn page(self, page: u8, control: PageControl, capabilities: &Capabilities) -> Vec<u8> {
        let is_mask = control == PageControl::Changeable;
        let now = if control == PageControl::Default { Modes::default() } else { self };
        let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        let mut bytes = match page {
            CACHING => {
                let mut bytes = vec![0; 20];
                bytes[2] = bit(capabilities.volatile_cache && !is_mask, WCE);
                bytes
            }
            CONTROL => {
                let mut bytes = vec![0; 12];
                let has_descriptors = now.format == SenseFormat::Descriptor;
                bytes[2] = bit(is_mask || has_descriptors, D_SENSE);
                // Commands may be reordered as the unit likes (QUEUE ALGORITHM MODIFIER 1).
                bytes[3] = bit(!is_mask, 0x10);
                bytes[4] = bit(is_mask || now.write_protected, SWP);
                bytes
            }
            _ => vec![0; 12],
        };
        bytes[0] = page;
        bytes[1] = u8::try_from(bytes.len() - 2).expect("a page is short");
        bytes
    }

    /// MODE SENSE. `read_only` says that the device refuses writes.
    pub fn sense(
        self,
        asked: &ModeSense,
        capabilities: &Capabilities,
        read_only: bool,
    ) -> Result<Reply, Sense> {
        if ![0, ALL_SUBPAGES].contains(&asked.subpage) {
            return Err(Sense::invalid_cdb(3));
        }
        let wanted: Vec<u8> = match asked.page {
            ALL_PAGES => PAGES.to_vec(),
            page if PAGES.contains(&page) => vec![page],
            _ => return Err(Sense::invalid_cdb(2)),
        };
        let protected = if self.write_protected || read_only { WRITE_PROTECTED } else { 0 };
        let descriptor = block_descriptor(asked, capabilities);
        let is_long = descriptor.len() == 16;
        let mut reply = Reply::new();
        match asked.form {
            Form::Six => {
                let len = u8::try_from(descriptor.len()).expect("a descriptor is short");
                reply.bytes(&[0, 0, protected | DPO_FUA, len]);
            }
            Form::Ten => {
                reply.word(0).bytes(&[0, protected | DPO_FUA, u8::from(is_long), 0]);
                reply.word(u16::try_from(descriptor.len()).expect("a descriptor is short"));
            }
        }
        reply.bytes(&descriptor);
        for page in wanted {
            reply.bytes(&self.page(page, asked.control, capabilities));
        }
        if asked.form == Form::Ten {
            reply.set_word_length(0);
            return Ok(reply);
        }
        let mut bytes = reply.finish(u32::MAX);
        bytes[0] = u8::try_from(bytes.len() - 1).expect("all pages have fewer than 256 bytes");
        reply.bytes(&bytes);
        Ok(reply)
    }

    /// MODE SELECT: the modes as the parameters want them.
    pub fn select(
        self,
        form: Form,
        parameters: &[u8],
        capabilities: &Capabilities,
    ) -> Result<Modes, Sense> {
        const TOO_SHORT: Sense = Sense::illegal(SenseCode::PARAMETER_LIST_LENGTH);
        if parameters.is_empty() {
            return Ok(self);
        }
        let (header, descriptor) = match form {
            Form::Six => (4, parameters.get(3).map(|len| u16::from(*len))),
            Form::Ten => {
                let len = parameters.get(6..8).map(|len| u16::from_be_bytes([len[0], len[1]]));
                (8, len)
            }
        };
        let start = header + usize::from(descriptor.ok_or(TOO_SHORT)?);
        let mut rest = parameters.get(start..).ok_or(TOO_SHORT)?;
        let mut changed = self;
        let mut at = start;
        while !rest.is_empty() {
            let [page, len, ..] = *rest else { return Err(TOO_SHORT) };
            let whole = rest.get(..usize::from(len) + 2).ok_or(TOO_SHORT)?;
            // PS is reserved here, so only the code counts.
            let page = page & 0x3f;
            let place = |offset: usize| u16::try_from(at + offset).unwrap_or(u16::MAX);
            if !PAGES.contains(&page) {
                return Err(Sense::invalid_parameter(place(0)));
            }
            let current = self.page(page, PageControl::Current, capabilities);
            let mask = self.page(page, PageControl::Changeable, capabilities);
            if whole.len() != current.len() {
                return Err(Sense::invalid_parameter(place(1)));
            }
            for offset in 2..whole.len() {
                if (whole[offset] ^ current[offset]) & !mask[offset] != 0 {
                    return Err(Sense::invalid_parameter(place(offset)));
                }
            }
            if page == CONTROL {
                changed = modes_of(whole);
            }
            at += whole.len();
            rest = &rest[whole.len()..];
        }
        Ok(changed)
    }
}

fn modes_of(control: &[u8]) -> Modes {
    let has_descriptors = control[2] & D_SENSE != 0;
    Modes {
        format: if has_descriptors { SenseFormat::Descriptor } else { SenseFormat::Fixed },
        write_protected: control[4] & SWP != 0,
    }
}

/// SBC-3 tables 181 and 182.
fn block_descriptor(asked: &ModeSense, capabilities: &Capabilities) -> Vec<u8> {
    let geometry = capabilities.geometry;
    let mut reply = Reply::new();
    match (asked.descriptor, u32::try_from(geometry.blocks)) {
        (BlockDescriptor::None, _) => &mut reply,
        (BlockDescriptor::Long, Err(_)) => {
            reply.quad(geometry.blocks).zeroes(4).long(geometry.block_bytes)
        }
        (_, blocks) => reply.long(blocks.unwrap_or(u32::MAX)).long(geometry.block_bytes),
    };
    reply.finish(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Geometry;

    const CAPABILITIES: Capabilities = Capabilities {
        geometry: Geometry { block_bytes: 512, blocks: 1 << 33 },
        transfer_blocks_max: 256,
        compare_and_write_blocks_max: 1,
        atomic_blocks_max: 1,
        volatile_cache: true,
    };

    fn ask(form: Form, descriptor: BlockDescriptor, page: u8) -> Vec<u8> {
        let control = PageControl::Current;
        let asked = ModeSense { form, descriptor, control, page, subpage: 0, allocation: 255 };
        Modes::default().sense(&asked, &CAPABILITIES, true).unwrap().finish(u32::MAX)
    }

    #[test]
    fn headers_say_their_lengths_and_what_is_protected() {
        let six = ask(Form::Six, BlockDescriptor::Short, ALL_PAGES);
        assert_eq!(six[..4], [u8::try_from(six.len() - 1).unwrap(), 0, 0x90, 8]);
        assert_eq!(six[4..8], [0xff; 4]);
        let ten = ask(Form::Ten, BlockDescriptor::Long, CACHING);
        assert_eq!(ten[..8], [0, 42, 0, 0x90, 1, 0, 0, 16]);
        assert_eq!(ten[24..27], [CACHING, 18, WCE]);
    }

    #[test]
    fn only_what_may_be_changed_is_changed() {
        let select = |bytes: &[u8]| Modes::default().select(Form::Six, bytes, &CAPABILITIES);
        let mut list = vec![0, 0, 0, 0, CONTROL, 10, D_SENSE, 0x10, SWP, 0, 0, 0, 0, 0, 0, 0];
        let changed = Modes { format: SenseFormat::Descriptor, write_protected: true };
        assert_eq!(select(&list), Ok(changed));
        list[7] = 0;
        assert_eq!(select(&list), Err(Sense::invalid_parameter(7)));
        assert_eq!(select(&[]), Ok(Modes::default()));
        let short = Err(Sense::illegal(SenseCode::PARAMETER_LIST_LENGTH));
        assert_eq!(select(&list[..15]), short);
        assert_eq!(select(&[0, 0, 0]), short);
        assert_eq!(select(&[0, 0, 0, 0, 0x1f, 0]), Err(Sense::invalid_parameter(4)));
    }
}
