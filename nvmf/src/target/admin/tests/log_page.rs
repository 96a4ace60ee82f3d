//! Get Log Page.

use bdev::nvme::log_page::AnaState;

use super::*;
use crate::target::allocation::command::check_announced;
use crate::target::testing::{TestDevice, config_of};

fn log(page: u32, len: u32, offset: u64) -> SubmissionEntry {
    let mut entry = SubmissionEntry::new(0x02, 1, 0xffff_ffff);
    entry.cdw10 = U32::new(page | (len / 4 - 1) << 16);
    let [low, high]: [U32; 2] = zerocopy::transmute!(offset.to_le_bytes());
    (entry.cdw12, entry.cdw13) = (low, high);
    entry
}

fn read(host: &mut Host, page: u32, len: u32) -> Vec<u8> {
    host.fetch(log(page, len, 0), len).unwrap()
}

fn u32_at(page: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(*page[offset..].first_chunk().unwrap())
}

/// Identifiers whose descriptor in a table of four-byte descriptors is not zero.
fn listed(page: &[u8]) -> Vec<usize> {
    (0..256).filter(|identifier| u32_at(page, identifier * 4) != 0).collect()
}

#[test]
fn the_pages_that_are_listed_are_those_that_can_be_read() {
    for subsystem in [io_subsystem, discovery_subsystem] {
        let mut host = Host::ready(subsystem());
        let listed = listed(&read(&mut host, 0, 1024));
        for page in 0..256 {
            let answer = host.fetch(log(page, 4, 0), 4);
            let is_listed = listed.contains(&usize::try_from(page).unwrap());
            let expected = if is_listed { None } else { Some(Status::INVALID_LOG_PAGE) };
            assert_eq!(answer.err(), expected, "page {page:#x}");
        }
    }
}

#[test]
fn the_features_that_are_listed_are_those_that_can_be_read() {
    let mut host = Host::ready(io_subsystem());
    let table = read(&mut host, 0x12, 1024);
    assert_eq!(
        listed(&table),
        [0x01, 0x02, 0x04, 0x05, 0x07, 0x0a, 0x0b, 0x0e, 0x0f, 0x16, 0x81, 0x82, 0x83]
    );
    assert_eq!(u32_at(&table, 5 * 4), 1 | 1 << 20);
    assert_eq!(u32_at(&table, 7 * 4), 1 | 1 << 21);
}

#[test]
fn the_smart_log_counts_in_thousands_of_sectors() {
    let mut host = Host::ready(io_subsystem());
    host.statistics = IoStatistics {
        read_bytes: 512_001,
        written_bytes: 512_000,
        read_commands: 7,
        write_commands: 8,
    };
    let page = read(&mut host, 0x02, 512);
    assert_eq!(page[..6], [0, 0, 0, 100, 10, 0]);
    for (offset, count) in [(32, 2), (48, 1), (64, 7), (80, 8), (96, 0)] {
        assert_eq!(u32_at(&page, offset), count, "offset {offset}");
    }
}

#[test]
fn controller_pages_are_refused_by_namespace() {
    let mut host = Host::ready(io_subsystem());
    for (id, is_good) in [(0, true), (0xffff_ffff, true), (1, false), (5, false)] {
        let mut entry = log(0x02, 512, 0);
        entry.namespace_id = U32::new(id);
        let expected = (!is_good).then_some(Status::INVALID_FIELD);
        assert_eq!(host.fetch(entry, 512).err(), expected);
    }
}

#[test]
fn the_firmware_is_in_slot_one() {
    let page = read(&mut Host::ready(io_subsystem()), 0x03, 512);
    assert_eq!(page[0], 1);
    assert!(page[8..16].starts_with(env!("CARGO_PKG_VERSION").as_bytes()));
    assert_eq!(page[16..24], [0; 8]);
}

#[test]
fn every_namespace_is_a_group_of_its_own_with_its_state() {
    let mut config = config_of(vec![(1, TestDevice::default()), (3, TestDevice::default())]);
    config.namespaces[1].ana = AnaState::Inaccessible;
    let mut host = Host::ready(Subsystem::new(config).unwrap());
    host.controller.notice_ana_change();
    let page = read(&mut host, 0x0c, 4144);
    assert_eq!((u32_at(&page, 0), page[8]), (1, 2), "change count and groups");
    assert_eq!((u32_at(&page, 16), u32_at(&page, 20)), (1, 1), "group and its size");
    assert_eq!((u32_at(&page, 24), page[32]), (1, 1), "change count and state");
    assert_eq!(u32_at(&page, 48), 1, "its namespace");
    assert_eq!((u32_at(&page, 52), u32_at(&page, 56), page[68]), (3, 1, 3));
    assert_eq!((u32_at(&page, 84), u32_at(&page, 88)), (3, 0), "the last, and the end");
    let mut entry = log(0x0c, 4144, 0);
    entry.cdw10 = U32::new(entry.cdw10.get() | 1 << 8);
    let page = host.fetch(entry, 4144).unwrap();
    assert_eq!((u32_at(&page, 16), u32_at(&page, 20)), (1, 0));
    assert_eq!((u32_at(&page, 48), u32_at(&page, 52), page[64]), (3, 0, 3));
}

#[test]
fn the_commands_that_are_listed_are_those_that_are_executed() {
    let mut host = Host::ready(io_subsystem());
    let page = read(&mut host, 0x05, 4096);
    let admin = listed(&page[..1024]);
    for opcode in (0..=0xff).filter(|opcode| *opcode != 0x7f) {
        let entry = SubmissionEntry::new(opcode, 1, 0);
        let entry = entry.with_sgl(SglDescriptor::transport_data_block(0));
        let limits = *host.subsystem.limits();
        let is_announced = check_announced(&host.subsystem, &entry).is_ok();
        let is_known = is_announced && transfer_of(&entry, &limits) != Err(Status::INVALID_OPCODE);
        assert_eq!(is_known, admin.contains(&usize::from(opcode)), "opcode {opcode:#x}");
    }
    let io = [0, 1, 2, 5, 8, 9, 0x0c, 0x0d, 0x0e, 0x11, 0x15, 0x19];
    assert_eq!(listed(&page[1024..2048]), io);
    assert_eq!((u32_at(&page, 1024 + 4), u32_at(&page, 1024 + 8)), (3, 1));
    let mut entry = log(0x05, 4096, 0);
    entry.cdw14 = U32::new(2 << 24);
    assert_eq!(host.fetch(entry, 4096), Err(Status::INVALID_FIELD));
}

#[test]
fn a_part_of_a_page_is_read_and_zeroes_follow_its_end() {
    let mut host = Host::ready(io_subsystem());
    let whole = read(&mut host, 0x0c, 88);
    let part = host.fetch(log(0x0c, 16, 76), 16).unwrap();
    assert_eq!(part[..12], whole[76..]);
    assert_eq!(part[12..], [0; 4]);
    assert_eq!(host.fetch(log(0x0c, 4, 88), 4).unwrap(), [0; 4]);
    for offset in [92, 1 << 32, u64::MAX - 3] {
        assert_eq!(host.fetch(log(0x0c, 4, offset), 4), Err(Status::INVALID_FIELD));
    }
}

#[test]
fn offsets_that_are_not_whole_dwords_or_are_indices_are_refused() {
    let mut host = Host::ready(io_subsystem());
    for offset in [1, 2, 3] {
        assert_eq!(host.fetch(log(0x02, 4, offset), 4), Err(Status::INVALID_FIELD));
    }
    let mut entry = log(0x02, 4, 0);
    entry.cdw14 = U32::new(1 << 23);
    assert_eq!(host.fetch(entry, 4), Err(Status::INVALID_FIELD));
}

#[test]
fn the_discovery_log_is_read_through_the_controller() {
    let mut host = Host::ready(discovery_subsystem());
    let config = config_of(vec![(1, TestDevice::default())]);
    let entry = DirectoryEntry {
        subsystem: std::sync::Arc::new(Subsystem::new(config).unwrap()),
        address: "10.0.0.1:4420".parse().unwrap(),
        port_id: 1,
    };
    host.directory = Directory::new(9, vec![entry]).unwrap();
    let header = read(&mut host, 0x70, 1024);
    assert_eq!((u32_at(&header, 0), u32_at(&header, 8)), (9, 1));
    let record = host.fetch(log(0x70, 1024, 1024), 1024).unwrap();
    assert_eq!(&record[256..283], b"nqn.2019-05.io.openebs:test");
    assert_eq!(&record[512..520], b"10.0.0.1");
}
