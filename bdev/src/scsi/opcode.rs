//! The table of commands: what there is, how long its CDB is, which of its bits mean something.
//!
//! One table serves parsing, which refuses every bit that it does not have, and REPORT SUPPORTED
//! OPERATION CODES, which tells it. SPC-4 annex E (codes), section 6.35 (usage maps), SBC-3
//! section 5 (CDBs).

/// Longest CDB that is taken: all commands here have 16 bytes at most.
pub const CDB_BYTES: usize = 16;

/// Bits of the second byte that hold a service action.
pub const SERVICE_ACTION_MASK: u8 = 0x1f;

macro_rules! opcodes {
    ($($name:ident = $code:literal;)*) => {
        $(
            #[doc = concat!("Operation code ", stringify!($code), ".")]
            pub const $name: u8 = $code;
        )*
    };
}

opcodes! {
    TEST_UNIT_READY = 0x00;
    REQUEST_SENSE = 0x03;
    READ_6 = 0x08;
    WRITE_6 = 0x0a;
    INQUIRY = 0x12;
    MODE_SELECT_6 = 0x15;
    RESERVE_6 = 0x16;
    RELEASE_6 = 0x17;
    MODE_SENSE_6 = 0x1a;
    START_STOP_UNIT = 0x1b;
    SEND_DIAGNOSTIC = 0x1d;
    PREVENT_ALLOW = 0x1e;
    READ_CAPACITY_10 = 0x25;
    READ_10 = 0x28;
    WRITE_10 = 0x2a;
    WRITE_AND_VERIFY_10 = 0x2e;
    VERIFY_10 = 0x2f;
    PREFETCH_10 = 0x34;
    SYNCHRONIZE_CACHE_10 = 0x35;
    READ_DEFECT_DATA_10 = 0x37;
    WRITE_SAME_10 = 0x41;
    UNMAP = 0x42;
    MODE_SELECT_10 = 0x55;
    RESERVE_10 = 0x56;
    RELEASE_10 = 0x57;
    MODE_SENSE_10 = 0x5a;
    PERSISTENT_RESERVE_IN = 0x5e;
    PERSISTENT_RESERVE_OUT = 0x5f;
    READ_16 = 0x88;
    COMPARE_AND_WRITE = 0x89;
    WRITE_16 = 0x8a;
    ORWRITE_16 = 0x8b;
    WRITE_AND_VERIFY_16 = 0x8e;
    VERIFY_16 = 0x8f;
    PREFETCH_16 = 0x90;
    SYNCHRONIZE_CACHE_16 = 0x91;
    WRITE_SAME_16 = 0x93;
    WRITE_ATOMIC_16 = 0x9c;
    SERVICE_ACTION_IN_16 = 0x9e;
    REPORT_LUNS = 0xa0;
    MAINTENANCE_IN = 0xa3;
    READ_12 = 0xa8;
    WRITE_12 = 0xaa;
    WRITE_AND_VERIFY_12 = 0xae;
    VERIFY_12 = 0xaf;
    READ_DEFECT_DATA_12 = 0xb7;
}

/// READ CAPACITY (16), a service action of [`SERVICE_ACTION_IN_16`].
pub const READ_CAPACITY_16: u8 = 0x10;
/// GET LBA STATUS, likewise.
pub const GET_LBA_STATUS: u8 = 0x12;
/// REPORT SUPPORTED OPERATION CODES, a service action of [`MAINTENANCE_IN`].
pub const REPORT_SUPPORTED_OPCODES: u8 = 0x0c;
/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS, likewise.
pub const REPORT_SUPPORTED_FUNCTIONS: u8 = 0x0d;

/// A command that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its service action, if its code has several.
    pub service_action: Option<u8>,
    /// Its CDB with every bit set that is looked at; code and service action as they are.
    pub usage: &'static [u8],
}

impl Description {
    /// Its operation code.
    pub const fn opcode(&self) -> u8 {
        self.usage[0]
    }

    /// The first byte of `cdb` that has a bit which nothing here knows.
    pub fn stray_byte(&self, cdb: &[u8]) -> Option<usize> {
        let bytes = self.usage.iter().zip(cdb).enumerate().skip(1);
        bytes.into_iter().find_map(|(at, (usage, byte))| {
            let known = match (at, self.service_action) {
                (1, Some(_)) => usage | SERVICE_ACTION_MASK,
                _ => *usage,
            };
            (byte & !known != 0).then_some(at)
        })
    }
}

const fn plain(usage: &'static [u8]) -> Description {
    Description { service_action: None, usage }
}

const fn action(usage: &'static [u8]) -> Description {
    Description { service_action: Some(usage[1] & SERVICE_ACTION_MASK), usage }
}

const F: u8 = 0xff;
/// GROUP NUMBER, taken and without effect.
const G: u8 = 0x1f;

/// Every command, by ascending code and service action.
pub const COMMANDS: &[Description] = &[
    plain(&[TEST_UNIT_READY, 0, 0, 0, 0, 0]),
    plain(&[REQUEST_SENSE, 1, 0, 0, F, 0]),
    plain(&[READ_6, 0x1f, F, F, F, 0]),
    plain(&[WRITE_6, 0x1f, F, F, F, 0]),
    plain(&[INQUIRY, 1, F, F, F, 0]),
    plain(&[MODE_SELECT_6, 0x11, 0, 0, F, 0]),
    plain(&[RESERVE_6, 0, 0, 0, 0, 0]),
    plain(&[RELEASE_6, 0, 0, 0, 0, 0]),
    plain(&[MODE_SENSE_6, 0x08, F, F, F, 0]),
    plain(&[START_STOP_UNIT, 1, 0, 0x0f, 0xf7, 0]),
    plain(&[SEND_DIAGNOSTIC, 0x04, 0, 0, 0, 0]),
    plain(&[PREVENT_ALLOW, 0, 0, 0, 0x03, 0]),
    plain(&[READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    plain(&[READ_10, 0x18, F, F, F, F, G, F, F, 0]),
    plain(&[WRITE_10, 0x18, F, F, F, F, G, F, F, 0]),
    plain(&[WRITE_AND_VERIFY_10, 0x16, F, F, F, F, G, F, F, 0]),
    plain(&[VERIFY_10, 0x16, F, F, F, F, G, F, F, 0]),
    plain(&[PREFETCH_10, 0x02, F, F, F, F, G, F, F, 0]),
    plain(&[SYNCHRONIZE_CACHE_10, 0x06, F, F, F, F, G, F, F, 0]),
    plain(&[READ_DEFECT_DATA_10, 0, 0x1f, 0, 0, 0, 0, F, F, 0]),
    plain(&[WRITE_SAME_10, 0x08, F, F, F, F, G, F, F, 0]),
    plain(&[UNMAP, 0, 0, 0, 0, 0, G, F, F, 0]),
    plain(&[MODE_SELECT_10, 0x11, 0, 0, 0, 0, 0, F, F, 0]),
    plain(&[RESERVE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    plain(&[RELEASE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    plain(&[MODE_SENSE_10, 0x18, F, F, 0, 0, 0, F, F, 0]),
    action(&[PERSISTENT_RESERVE_IN, 0, 0, 0, 0, 0, 0, F, F, 0]),
    action(&[PERSISTENT_RESERVE_IN, 1, 0, 0, 0, 0, 0, F, F, 0]),
    action(&[PERSISTENT_RESERVE_IN, 2, 0, 0, 0, 0, 0, F, F, 0]),
    action(&[PERSISTENT_RESERVE_IN, 3, 0, 0, 0, 0, 0, F, F, 0]),
    action(&[PERSISTENT_RESERVE_OUT, 0, F, 0, 0, F, F, F, F, 0]),
    action(&[PERSISTENT_RESERVE_OUT, 1, F, 0, 0, F, F, F, F, 0]),
    action(&[PERSISTENT_RESERVE_OUT, 2, F, 0, 0, F, F, F, F, 0]),
    action(&[PERSISTENT_RESERVE_OUT, 3, F, 0, 0, F, F, F, F, 0]),
    action(&[PERSISTENT_RESERVE_OUT, 4, F, 0, 0, F, F, F, F, 0]),
    action(&[PERSISTENT_RESERVE_OUT, 5, F, 0, 0, F, F, F, F, 0]),
    action(&[PERSISTENT_RESERVE_OUT, 6, F, 0, 0, F, F, F, F, 0]),
    plain(&[READ_16, 0x18, F, F, F, F, F, F, F, F, F, F, F, F, G, 0]),
    plain(&[COMPARE_AND_WRITE, 0x18, F, F, F, F, F, F, F, F, 0, 0, 0, F, G, 0]),
    plain(&[WRITE_16, 0x18, F, F, F, F, F, F, F, F, F, F, F, F, G, 0]),
    plain(&[ORWRITE_16, 0x18, F, F, F, F, F, F, F, F, F, F, F, F, G, 0]),
    plain(&[WRITE_AND_VERIFY_16, 0x16, F, F, F, F, F, F, F, F, F, F, F, F, G, 0]),
    plain(&[VERIFY_16, 0x16, F, F, F, F, F, F, F, F, F, F, F, F, G, 0]),
    plain(&[PREFETCH_16, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, G, 0]),
    plain(&[SYNCHRONIZE_CACHE_16, 0x06, F, F, F, F, F, F, F, F, F, F, F, F, G, 0]),
    plain(&[WRITE_SAME_16, 0x09, F, F, F, F, F, F, F, F, F, F, F, F, G, 0]),
    plain(&[WRITE_ATOMIC_16, 0x18, F, F, F, F, F, F, F, F, 0, 0, F, F, G, 0]),
    action(&[SERVICE_ACTION_IN_16, READ_CAPACITY_16, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0]),
    action(&[SERVICE_ACTION_IN_16, GET_LBA_STATUS, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0]),
    plain(&[REPORT_LUNS, 0, F, 0, 0, 0, F, F, F, F, 0, 0]),
    action(&[MAINTENANCE_IN, REPORT_SUPPORTED_OPCODES, 0x87, F, F, F, F, F, F, F, 0, 0]),
    action(&[MAINTENANCE_IN, REPORT_SUPPORTED_FUNCTIONS, 0x80, 0, 0, 0, F, F, F, F, 0, 0]),
    plain(&[READ_12, 0x18, F, F, F, F, F, F, F, F, G, 0]),
    plain(&[WRITE_12, 0x18, F, F, F, F, F, F, F, F, G, 0]),
    plain(&[WRITE_AND_VERIFY_12, 0x16, F, F, F, F, F, F, F, F, G, 0]),
    plain(&[VERIFY_12, 0x16, F, F, F, F, F, F, F, F, G, 0]),
    plain(&[READ_DEFECT_DATA_12, 0x1f, 0, 0, 0, 0, F, F, F, F, 0, 0]),
];

/// What a lookup of a CDB finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The command.
    Found(&'static Description),
    /// The code has service actions, and this is none of them.
    NoServiceAction,
    /// There is no such code.
    NoOpcode,
}

/// Where the commands of a code begin in [`COMMANDS`]; their number if there are none.
const FIRST: [u8; 256] = {
    assert!(COMMANDS.len() < 256);
    let mut first = [COMMANDS.len() as u8; 256];
    let mut at = COMMANDS.len();
    while at > 0 {
        at -= 1;
        first[COMMANDS[at].opcode() as usize] = at as u8;
    }
    first
};

/// The command of a code and, where it has them, of a service action.
#[inline]
pub fn find(opcode: u8, service_action: u8) -> Lookup {
    let from = usize::from(FIRST[usize::from(opcode)]);
    let Some(first) = COMMANDS.get(from) else { return Lookup::NoOpcode };
    if first.service_action.is_none() {
        return Lookup::Found(first);
    }
    let same = COMMANDS[from..].iter().take_while(|one| one.opcode() == opcode);
    let mut same = same.filter(|one| one.service_action == Some(service_action));
    same.next().map_or(Lookup::NoServiceAction, Lookup::Found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_its_lengths_are_those_of_the_code_groups() {
        let key = |one: &Description| (one.opcode(), one.service_action);
        assert!(COMMANDS.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])));
        for command in COMMANDS {
            // The group is in the upper three bits of the code (SPC-4 section 4.2.5.1).
            let expected = [6, 10, 10, 0, 16, 12][usize::from(command.opcode() >> 5)];
            assert_eq!(command.usage.len(), expected, "{:#x}", command.opcode());
            assert_eq!(find(command.opcode(), command.usage[1] & 0x1f), Lookup::Found(command));
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_not_found() {
        assert_eq!(find(0xff, 0), Lookup::NoOpcode);
        assert_eq!(find(SERVICE_ACTION_IN_16, 0), Lookup::NoServiceAction);
    }

    #[test]
    fn every_bit_outside_the_usage_map_is_stray_and_none_inside() {
        for command in COMMANDS {
            for bit in 8..command.usage.len() * 8 {
                let (at, mask) = (bit / 8, 1 << (bit % 8));
                let is_action = at == 1 && command.service_action.is_some() && mask < 0x20;
                let mut cdb = [0; CDB_BYTES];
                cdb[at] = mask;
                let is_known = is_action || command.usage[at] & mask != 0;
                assert_eq!(command.stray_byte(&cdb), (!is_known).then_some(at));
            }
        }
    }
}
