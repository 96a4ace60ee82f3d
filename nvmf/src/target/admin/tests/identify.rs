//! Identify, at the offsets of NVMe Base 2.0 figure 275 and NVM Command Set 1.0 figure 97.

use std::sync::Arc;

use bdev::{Geometry, Limits, Operation, OperationSet};

use super::*;
use crate::target::namespace::Access;
use crate::target::subsystem::{SubsystemConfig, SubsystemKind};
use crate::target::testing::{INSTANCE, TestDevice, config_of};

fn identify(cns: u32, namespace_id: u32) -> SubmissionEntry {
    let mut entry = SubmissionEntry::new(0x06, 1, namespace_id);
    entry.cdw10 = U32::new(cns);
    entry
}

fn page(host: &mut Host, cns: u32, namespace_id: u32) -> Result<Vec<u8>, Status> {
    host.fetch(identify(cns, namespace_id), 4096)
}

fn u16_at(page: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(*page[offset..].first_chunk().unwrap())
}

fn u32_at(page: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(*page[offset..].first_chunk().unwrap())
}

fn u64_at(page: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(*page[offset..].first_chunk().unwrap())
}

fn host_of(device: TestDevice) -> Host {
    Host::ready(Subsystem::new(config_of(vec![(1, device)])).unwrap())
}

#[test]
fn an_io_controller_is_what_a_linux_host_needs() {
    let page = page(&mut Host::ready(io_subsystem()), 1, 0).unwrap();
    assert_eq!(&page[4..24], io_subsystem().serial());
    assert_eq!(&page[24..64], b"Mayastor NVMe controller                ");
    assert!(page[64..72].iter().all(u8::is_ascii_graphic) || page[71] == b' ');
    assert_eq!(page[76], 0b1011, "CMIC: ports, controllers, ANA");
    assert_eq!(page[77], 5, "MDTS: 32 pages");
    assert_eq!(u16_at(&page, 78), 7, "CNTLID");
    assert_eq!(u32_at(&page, 80), 0x2_0000, "VER");
    assert_eq!(u32_at(&page, 92), 1 << 8 | 1 << 11, "OAES");
    assert_eq!(u32_at(&page, 96), 1, "CTRATT");
    assert_eq!(page[111], 1, "CNTRLTYPE");
    assert_eq!(u16_at(&page, 256), 0, "OACS");
    assert_eq!(page[259], 3, "AERL");
    assert_eq!(page[260], 3, "FRMW");
    assert_eq!(page[261], 0b10_0110, "LPA");
    assert_eq!(u16_at(&page, 320), 10, "KAS");
    assert_eq!((page[342], page[343]), (10, 0x5f), "ANATT and ANACAP");
    assert_eq!((u32_at(&page, 344), u32_at(&page, 348)), (1024, 1024), "ANAGRPMAX and NANAGRPID");
    assert_eq!((page[512], page[513]), (0x66, 0x44), "SQES and CQES");
    assert_eq!(u16_at(&page, 514), 128, "MAXCMD");
    assert_eq!((u32_at(&page, 516), u32_at(&page, 540)), (1024, 1024), "NN and MNAN");
    assert_eq!(u16_at(&page, 520), 0b1_1111_1101, "ONCS");
    assert_eq!((u16_at(&page, 522), u16_at(&page, 532)), (1, 0), "FUSES and ACWU");
    assert_eq!(u16_at(&page, 534), 0b11, "CDFS");
    assert_eq!(page[525], 0b100, "VWC");
    assert_eq!(u32_at(&page, 536), 1 | 1 << 18 | 1 << 20 | 1 << 21, "SGLS");
    assert_eq!(&page[768..796], b"nqn.2019-05.io.openebs:test\0");
    assert_eq!(u32_at(&page, 1792), (64 + 4096) / 16, "IOCCSZ");
    assert_eq!(u32_at(&page, 1796), 1, "IORCSZ");
    assert_eq!(u16_at(&page, 1800), 0, "ICDOFF");
    assert_eq!((page[1802], page[1803]), (0, 1), "FCATT and MSDBD");
    assert_eq!(u16_at(&page, 1804), 1, "OFCS");
    assert_eq!(page[3072..3088], INSTANCE);
}

#[test]
fn limits_show_in_the_controller() {
    let mut config = config_of(vec![]);
    config.limits.queue_entries_max = 1024;
    config.limits.transfer_bytes_max = 1 << 16;
    config.limits.in_capsule_bytes = 8192;
    let page = page(&mut Host::ready(Subsystem::new(config).unwrap()), 1, 0).unwrap();
    assert_eq!(page[77], 4);
    assert_eq!(u16_at(&page, 514), 1024);
    assert_eq!(u32_at(&page, 1792), 516);
}

#[test]
fn a_write_cache_is_present_where_a_device_has_one() {
    let limits = Limits { volatile_cache: true, ..Limits::default() };
    let mut host = host_of(TestDevice { limits, ..TestDevice::default() });
    assert_eq!(page(&mut host, 1, 0).unwrap()[525], 0b101);
}

#[test]
fn compare_and_write_is_announced_where_every_namespace_that_is_written_has_it() {
    let device = |atomic_blocks, operations, read_only| {
        let limits = Limits { atomic_blocks, operations, read_only, ..Limits::default() };
        TestDevice { limits, ..TestDevice::default() }
    };
    let without = OperationSet::ALL.without(Operation::CompareAndWrite);
    let announced = |devices: Vec<TestDevice>| {
        let devices = (1..).zip(devices).collect();
        let mut host = Host::ready(Subsystem::new(config_of(devices)).unwrap());
        let data = page(&mut host, 1, 0).unwrap();
        (u16_at(&data, 522), u16_at(&data, 532))
    };
    let all = OperationSet::ALL;
    assert_eq!(announced(vec![device(8, all, false), device(4, all, false)]), (1, 3));
    assert_eq!(announced(vec![device(8, all, false), device(8, without, false)]), (0, 0));
    assert_eq!(announced(vec![device(8, all, false), device(8, without, true)]), (1, 7));
    assert_eq!(announced(vec![device(8, all, true)]), (0, 0));
    assert_eq!(announced(vec![]), (0, 0));
    // Half of the largest buffer, in blocks of 512 bytes.
    assert_eq!(announced(vec![device(1000, all, false)]), (1, 127));
}

#[test]
fn a_discovery_controller_has_a_controller_to_identify_and_nothing_else() {
    let mut host = Host::ready(discovery_subsystem());
    let data = page(&mut host, 1, 0).unwrap();
    assert_eq!(data[111], 2);
    assert_eq!(u32_at(&data, 92), 1 << 31);
    assert_eq!(u32_at(&data, 516), 0);
    assert_eq!(&data[768..804], b"nqn.2014-08.org.nvmexpress.discovery");
    for cns in (0..=0xff).filter(|cns| *cns != 1) {
        assert_eq!(page(&mut host, cns, 1), Err(Status::INVALID_FIELD), "CNS {cns:#x}");
    }
}

#[test]
fn a_namespace_of_512_byte_blocks_is_described() {
    let limits = Limits { atomic_blocks: 8, boundary_blocks: 256, ..Limits::default() };
    let mut host = host_of(TestDevice { limits, ..TestDevice::default() });
    let uuid = host.subsystem.namespaces()[0].uuid;
    let data = page(&mut host, 0, 1).unwrap();
    for offset in [0, 8, 16] {
        assert_eq!(u64_at(&data, offset), 2048, "NSZE, NCAP, NUSE");
    }
    assert_eq!(data[24], 0b1_1010, "NSFEAT");
    assert_eq!((data[25], data[26]), (0, 0), "NLBAF and FLBAS");
    assert_eq!(data[30], 1, "NMIC");
    assert_eq!(data[33], 0b1001, "DLFEAT");
    assert_eq!((u16_at(&data, 34), u16_at(&data, 36)), (7, 7), "NAWUN and NAWUPF");
    assert_eq!(u16_at(&data, 38), 7, "NACWU");
    assert_eq!(u16_at(&data, 46), 256, "NOIOB");
    assert_eq!(u64_at(&data, 48), 1 << 20, "NVMCAP");
    for offset in [64, 66, 68, 70] {
        assert_eq!(u16_at(&data, offset), 7, "NPWG, NPWA, NPDG, NPDA");
    }
    assert_eq!(u16_at(&data, 72), 255, "NOWS");
    assert_eq!((u16_at(&data, 74), u32_at(&data, 76), data[80]), (248, 248, 63), "copy limits");
    assert_eq!(u32_at(&data, 92), 1, "ANAGRPID");
    assert_eq!(data[99], 0, "NSATTR");
    assert_eq!(&data[104..120], uuid.as_bytes());
    assert_eq!(&data[128..132], [0, 0, 9, 0], "LBAF0");
    assert_eq!(u16_at(&page(&mut host, 1, 0).unwrap(), 528), 7, "AWUPF");
}

#[test]
fn a_namespace_of_4096_byte_blocks_is_described() {
    let geometry = Geometry { block_bytes: 4096, blocks: 1 << 40 };
    let mut host = host_of(TestDevice { geometry, ..TestDevice::default() });
    let data = page(&mut host, 0, 1).unwrap();
    assert_eq!(u64_at(&data, 0), 1 << 40);
    assert_eq!(u64_at(&data, 48), 1 << 52);
    assert_eq!(data[24], 0b1_1000);
    assert_eq!(u16_at(&data, 64), 0);
    assert_eq!(u16_at(&data, 72), 31);
    assert_eq!(data[130], 12);
}

#[test]
fn a_read_only_namespace_is_write_protected() {
    let mut config: SubsystemConfig = config_of(vec![(1, TestDevice::default())]);
    config.namespaces[0].access = Access::ReadOnly;
    let mut host = Host::ready(Subsystem::new(config).unwrap());
    assert_eq!(page(&mut host, 0, 1).unwrap()[99], 1);
    assert_eq!(page(&mut host, 8, 1).unwrap()[8], 1);
}

#[test]
fn a_namespace_that_could_be_is_zero_and_one_that_cannot_is_refused() {
    let mut host = Host::ready(io_subsystem());
    for cns in [0x00, 0x05, 0x08, 0x11] {
        for id in [2, 1024] {
            assert_eq!(page(&mut host, cns, id), Ok(vec![0; 4096]), "CNS {cns:#x}");
        }
        for id in [0, 1025, 0xffff_fffe, 0xffff_ffff] {
            let answer = page(&mut host, cns, id);
            assert_eq!(answer, Err(Status::INVALID_NAMESPACE_OR_FORMAT), "CNS {cns:#x} {id}");
        }
    }
}

#[test]
fn namespace_lists_go_on_after_the_given_identifier() {
    let mut host = Host::ready(io_subsystem());
    for cns in [0x02, 0x07, 0x10] {
        let mut ids = |after| {
            let list = page(&mut host, cns, after).unwrap();
            [u32_at(&list, 0), u32_at(&list, 4), u32_at(&list, 8)]
        };
        assert_eq!(ids(0), [1, 3, 0]);
        assert_eq!(ids(1), [3, 0, 0]);
        assert_eq!(ids(3), [0, 0, 0]);
        assert_eq!(ids(0xffff_fffd), [0, 0, 0]);
        for after in [0xffff_fffe, 0xffff_ffff] {
            let answer = page(&mut host, cns, after);
            assert_eq!(answer, Err(Status::INVALID_NAMESPACE_OR_FORMAT));
        }
    }
}

#[test]
fn descriptors_name_nguid_uuid_and_command_set() {
    let mut host = Host::ready(io_subsystem());
    let uuid = host.subsystem.namespaces()[1].uuid.into_bytes();
    let data = page(&mut host, 3, 3).unwrap();
    let mut expected = vec![2, 16, 0, 0];
    expected.extend(uuid);
    expected.extend([3, 16, 0, 0]);
    expected.extend(uuid);
    expected.extend([4, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(data[..expected.len()], expected);
    for id in [0, 2, 1025, 0xffff_ffff] {
        assert_eq!(page(&mut host, 3, id), Err(Status::INVALID_NAMESPACE_OR_FORMAT));
    }
}

#[test]
fn only_the_nvm_command_set_is_known() {
    let mut host = Host::ready(io_subsystem());
    for cns in [0x05, 0x06, 0x07] {
        let mut entry = identify(cns, 1);
        assert!(host.fetch(entry, 4096).is_ok());
        entry.cdw11 = U32::new(2 << 24);
        assert_eq!(host.fetch(entry, 4096), Err(Status::INVALID_FIELD), "CNS {cns:#x}");
    }
    assert_eq!(
        page(&mut host, 6, 0).unwrap()[..16],
        [13, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
}

#[test]
fn command_set_combinations_are_those_of_this_controller() {
    let mut host = Host::ready(io_subsystem());
    for controller in [7, 0xffff] {
        let data = page(&mut host, 0x1c | controller << 16, 0).unwrap();
        assert_eq!((u64_at(&data, 0), u64_at(&data, 8)), (1, 0));
    }
    assert_eq!(page(&mut host, 0x1c | 3 << 16, 0), Err(Status::INVALID_FIELD));
}

#[test]
fn controllers_are_listed_from_the_given_one() {
    let mut host = Host::ready(io_subsystem());
    let mut list = |cns, first: u32, id| {
        let list = page(&mut host, cns | first << 16, id)?;
        Ok([u16_at(&list, 0), u16_at(&list, 2), u16_at(&list, 4)])
    };
    assert_eq!(list(0x13, 0, 0), Ok([2, 3, 7]));
    assert_eq!(list(0x13, 4, 0), Ok([1, 7, 0]));
    assert_eq!(list(0x12, 8, 1), Ok([0, 0, 0]));
    assert_eq!(list(0x12, 0, 2), Err(Status::INVALID_NAMESPACE_OR_FORMAT));
}

#[test]
fn an_independent_namespace_is_ready() {
    let data = page(&mut Host::ready(io_subsystem()), 8, 1).unwrap();
    assert_eq!((data[0], data[1]), (1 << 3, 1));
    assert_eq!(u32_at(&data, 4), 1);
    assert_eq!(data[14], 1);
}

#[test]
fn structures_that_are_not_offered_are_refused() {
    let mut host = Host::ready(io_subsystem());
    let offered = [0, 1, 2, 3, 5, 6, 7, 8, 0x10, 0x11, 0x12, 0x13, 0x1c];
    for cns in (0..=0xff).filter(|cns| !offered.contains(cns)) {
        assert_eq!(page(&mut host, cns, 1), Err(Status::INVALID_FIELD), "CNS {cns:#x}");
    }
}

#[test]
fn the_largest_number_of_namespaces_is_listed_whole() {
    let device = Arc::new(TestDevice::default());
    let nqn = *io_subsystem().nqn();
    let namespaces = (1..=1024)
        .map(|id| {
            crate::target::namespace::Namespace::new(
                &nqn,
                NamespaceId(id),
                Arc::clone(&device) as Arc<dyn bdev::BlockDevice>,
                Access::ReadWrite,
            )
        })
        .collect();
    let config = SubsystemConfig::new(nqn, SubsystemKind::Nvm, INSTANCE);
    let config = SubsystemConfig { namespaces, ..config };
    let mut host = Host::ready(Subsystem::new(config).unwrap());
    let list = page(&mut host, 2, 0).unwrap();
    assert_eq!(u32_at(&list, 4092), 1024);
}
