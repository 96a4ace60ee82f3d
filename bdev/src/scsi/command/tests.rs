//! CDBs as the book has them, and at random.

use proptest::prelude::*;

use super::*;
use crate::scsi::opcode::COMMANDS;

fn parse(bytes: &[u8]) -> Result<Command, Sense> {
    let mut cdb = [0; CDB_BYTES];
    cdb[..bytes.len()].copy_from_slice(bytes);
    Command::parse(&cdb)
}

#[test]
fn the_four_lengths_of_a_read_say_the_same() {
    let extent = |flags| Extent { lba: Lba(0x1_2345), blocks: 7, flags };
    let plain = Ok(Command::Read(extent(IoFlags::NONE)));
    let forced = Ok(Command::Read(extent(IoFlags::FUA)));
    assert_eq!(parse(&[0x08, 1, 0x23, 0x45, 7, 0]), plain);
    assert_eq!(parse(&[0x28, 8, 0, 1, 0x23, 0x45, 0, 0, 7, 0]), forced);
    assert_eq!(parse(&[0xa8, 8, 0, 1, 0x23, 0x45, 0, 0, 0, 7, 0, 0]), forced);
    let long = [0x88, 8, 0, 0, 0, 0, 0, 1, 0x23, 0x45, 0, 0, 0, 7, 0, 0];
    assert_eq!(parse(&long), forced);
}

#[test]
fn no_length_is_256_blocks_in_six_bytes_and_none_in_ten() {
    let blocks = |command| match command {
        Ok(Command::Write(extent)) => extent.blocks,
        other => panic!("{other:?}"),
    };
    assert_eq!(blocks(parse(&[0x0a, 0, 0, 0, 0, 0])), 256);
    assert_eq!(blocks(parse(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 0, 0])), 0);
}

#[test]
fn protection_that_is_not_there_is_refused_by_its_byte() {
    assert_eq!(parse(&[0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0]), Err(Sense::invalid_cdb(1)));
    assert_eq!(parse(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 4]), Err(Sense::invalid_cdb(9)));
}

#[test]
fn a_page_without_evpd_and_saved_values_are_refused() {
    assert_eq!(parse(&[0x12, 0, 0x83, 0, 96, 0]), Err(Sense::invalid_cdb(2)));
    let saved = Err(Sense::illegal(SenseCode::SAVING_NOT_SUPPORTED));
    assert_eq!(parse(&[0x1a, 0, 0xff, 0, 96, 0]), saved);
}

#[test]
fn every_command_of_the_table_is_parsed() {
    for command in COMMANDS {
        let mut cdb = [0; CDB_BYTES];
        cdb[0] = command.opcode();
        cdb[1] = command.service_action.unwrap_or(0);
        assert!(Command::parse(&cdb).is_ok(), "{cdb:x?}");
    }
}

proptest! {
    #[test]
    fn what_is_parsed_has_no_bit_outside_the_table(cdb in any::<[u8; CDB_BYTES]>()) {
        let found = op::find(cdb[0], cdb[1] & SERVICE_ACTION_MASK);
        match (found, Command::parse(&cdb)) {
            (Lookup::Found(description), Ok(_)) => {
                prop_assert_eq!(description.stray_byte(&cdb), None);
            }
            (_, parsed) => prop_assert!(parsed.is_err()),
        }
    }

    #[test]
    fn bits_of_the_usage_map_never_make_a_command_unknown(
        index in 0..COMMANDS.len(),
        noise in any::<[u8; CDB_BYTES]>(),
    ) {
        let mut cdb = [0; CDB_BYTES];
        for (at, usage) in COMMANDS[index].usage.iter().enumerate() {
            cdb[at] = noise[at] & usage;
        }
        cdb[0] = COMMANDS[index].opcode();
        cdb[1] |= COMMANDS[index].service_action.unwrap_or(0);
        let parsed = Command::parse(&cdb);
        let code = parsed.err().map(|sense| sense.code);
        let values = [SenseCode::INVALID_FIELD_IN_CDB, SenseCode::SAVING_NOT_SUPPORTED];
        prop_assert!(code.is_none_or(|code| values.contains(&code)));
    }
}
