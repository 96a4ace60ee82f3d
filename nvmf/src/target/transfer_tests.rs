//! The transfer of data as a host sees it: R2Ts, H2CData in any split, alignment and digests.

use bdev::Status;
use bdev::nvme::sgl::SglDescriptor;
use proptest::prelude::*;
use reactor::socket::memory::MemoryLimits;
use zerocopy::{FromBytes, IntoBytes};

use super::harness::Harness;
use super::tests::{Host, connected, connected_by, io};
use crate::pdu::connection::HostParameters;
use crate::pdu::{
    CommandCapsule, DataAlignment, DataRange, Digests, Flags, H2cData, PduKind, ReadyToTransfer,
    crc32c,
};

const BOTH: Digests = Digests { header: true, data: true };

fn block(len_bytes: u32) -> SglDescriptor {
    SglDescriptor::transport_data_block(len_bytes)
}

fn noise(len_bytes: u32, seed: u8) -> Vec<u8> {
    (0..len_bytes).map(|index| (index / 3) as u8 ^ (index / 257) as u8 ^ seed).collect()
}

fn ask(host: &mut Host, harness: &mut Harness) -> ReadyToTransfer {
    let pdu = host.receive(harness);
    assert_eq!(pdu.parts.kind, PduKind::ReadyToTransfer);
    ReadyToTransfer::read_from_prefix(&pdu.bytes).unwrap().0
}

fn read_back(host: &mut Host, harness: &mut Harness, blocks: u32) -> Vec<u8> {
    host.command(harness, io(2, 99, 0, blocks, block(blocks * 512)), &[]);
    let data = host.receive(harness);
    assert_eq!(data.parts.kind, PduKind::C2hData);
    assert_eq!(host.completion(harness).status(), Status::SUCCESS);
    data.data().to_vec()
}

#[test]
fn one_r2t_asks_for_all_of_a_transfer_whatever_maxr2t_a_host_offers() {
    for ready_to_transfer_max in (1..=16).chain([u32::MAX]) {
        let parameters = HostParameters {
            data_alignment: DataAlignment::DWORD,
            digests: Digests::default(),
            ready_to_transfer_max,
        };
        let (mut harness, _admin, mut queue) = connected_by(MemoryLimits::default(), parameters);
        let content = noise(131_072, 5);
        queue.command(&mut harness, io(1, 7, 0, 256, block(131_072)), &[]);
        let ask = ask(&mut queue, &mut harness);
        assert_eq!(ask.range(), DataRange { offset: 0, length: 131_072 });
        assert!(queue.end.received().is_empty(), "one at a time for a command");
        queue.give_data(&mut harness, &ask, &content, 4096);
        assert_eq!(queue.completion(&mut harness).status(), Status::SUCCESS);
        assert_eq!(read_back(&mut queue, &mut harness, 256), content);
    }
}

#[test]
fn r2ts_of_many_commands_are_out_together_and_are_answered_in_any_order() {
    let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), BOTH);
    let content: Vec<Vec<u8>> = (0..8).map(|id| noise(8192, id)).collect();
    let asks: Vec<ReadyToTransfer> = (0..8_u16)
        .map(|id| {
            let lba = u32::from(id) * 16;
            queue.command(&mut harness, io(1, id, lba, 16, block(8192)), &[]);
            ask(&mut queue, &mut harness)
        })
        .collect();
    // A part of each in turn, the last command first.
    for part in 0..4_u32 {
        for ask in asks.iter().rev() {
            let id = ask.command_id.get();
            let range = DataRange { offset: part * 2048, length: 2048 };
            let flags = if part == 3 { Flags::LAST } else { Flags::NONE };
            let header = H2cData::new(id, ask.transfer_tag.get(), range, flags, queue.framing);
            let from = range.offset as usize;
            queue.pdu(&mut harness, &header, &content[usize::from(id)][from..from + 2048]);
        }
    }
    for id in (0..8).rev() {
        let done = queue.completion(&mut harness);
        assert_eq!((done.command_id.get(), done.status()), (id, Status::SUCCESS));
    }
    assert_eq!(read_back(&mut queue, &mut harness, 128), content.concat());
    assert_eq!(harness.cx.dma.taken(), 0);
}

#[test]
fn data_to_the_host_is_aligned_as_it_asked_for_every_alignment() {
    for field in 0..32 {
        for digests in [Digests::default(), BOTH] {
            let parameters = HostParameters {
                data_alignment: DataAlignment::from_field(field).unwrap(),
                digests,
                ready_to_transfer_max: 1,
            };
            let (mut harness, _admin, mut queue) =
                connected_by(MemoryLimits::default(), parameters);
            queue.command(&mut harness, io(2, 3, 0, 8, block(4096)), &[]);
            let data = queue.receive(&mut harness);
            let alignment = parameters.data_alignment.bytes();
            let bare = 24 + if digests.header { 4_u8 } else { 0 };
            assert_eq!(data.parts.data_offset, bare.next_multiple_of(alignment));
            assert_eq!(data.data(), [0; 4096]);
            assert_eq!(queue.completion(&mut harness).status(), Status::SUCCESS);
        }
    }
}

/// A PDU whose data starts at `data_offset` rather than behind its header.
fn padded(mut header: Vec<u8>, data_offset: u8, data: &[u8], digests: Digests) -> Vec<u8> {
    let digest_bytes = if digests.data { 4 } else { 0 };
    let pdu_bytes = u32::from(data_offset) + data.len() as u32 + digest_bytes;
    header[3] = data_offset;
    header[4..8].copy_from_slice(&pdu_bytes.to_le_bytes());
    if digests.header {
        header.extend(crc32c(&header).to_le_bytes());
    }
    // Padding is reserved, so whatever it says.
    header.resize(usize::from(data_offset), 0xaa);
    header.extend_from_slice(data);
    if digests.data {
        header.extend(crc32c(data).to_le_bytes());
    }
    header
}

#[test]
fn data_may_start_at_any_offset_that_the_alignment_allows() {
    for digests in [Digests::default(), BOTH] {
        let digest_bytes = if digests.header { 4 } else { 0 };
        let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), digests);
        for data_offset in (72 + digest_bytes..=252).step_by(4) {
            let content = noise(4096, data_offset);
            let sgl = SglDescriptor::in_capsule(0, 4096);
            let capsule = CommandCapsule::new(io(1, 3, 0, 8, sgl), 4096, queue.framing);
            let bytes = padded(capsule.as_bytes().to_vec(), data_offset, &content, digests);
            assert!(queue.end.send(&mut harness, &bytes));
            assert_eq!(queue.completion(&mut harness).status(), Status::SUCCESS);
            assert_eq!(read_back(&mut queue, &mut harness, 8), content);
        }
        for data_offset in (24 + digest_bytes..=252).step_by(4) {
            let content = noise(4096, data_offset);
            queue.command(&mut harness, io(1, 3, 0, 8, block(4096)), &[]);
            let ask = ask(&mut queue, &mut harness);
            for (offset, flags) in [(0, Flags::NONE), (2048, Flags::LAST)] {
                let range = DataRange { offset, length: 2048 };
                let tag = ask.transfer_tag.get();
                let header = H2cData::new(3, tag, range, flags, queue.framing);
                let part = &content[offset as usize..][..2048];
                let bytes = padded(header.as_bytes().to_vec(), data_offset, part, digests);
                assert!(queue.end.send(&mut harness, &bytes));
            }
            assert_eq!(queue.completion(&mut harness).status(), Status::SUCCESS);
            assert_eq!(read_back(&mut queue, &mut harness, 8), content);
        }
    }
}

#[test]
fn data_that_breaks_the_rules_of_its_transfer_ends_the_connection() {
    let range = |offset, length| DataRange { offset, length };
    for (first, flags) in [
        // Not where the transfer is; past its end; nothing; the last that is not, and the reverse.
        (range(4096, 4096), Flags::LAST),
        (range(0, 8196), Flags::LAST),
        (range(8192, 4), Flags::LAST),
        (range(0, 4096), Flags::LAST),
        (range(0, 8192), Flags::NONE),
        (range(2, 8190), Flags::LAST),
        (range(0, 4094), Flags::NONE),
    ] {
        let (mut harness, _admin, mut queue) =
            connected(MemoryLimits::default(), Digests::default());
        queue.command(&mut harness, io(1, 3, 0, 16, block(8192)), &[]);
        let ask = ask(&mut queue, &mut harness);
        let header = H2cData::new(3, ask.transfer_tag.get(), first, flags, queue.framing);
        queue.pdu(&mut harness, &header, &vec![1; first.length as usize]);
        queue.end.exchange(&mut harness);
        let sent = queue.end.received()[0];
        assert_eq!(sent, PduKind::ControllerTermRequest.pdu_type(), "{first:?}");
        assert!(queue.end.is_closed());
        assert_eq!(harness.cx.dma.taken(), 0);
    }
}

#[test]
fn data_of_no_bytes_is_refused() {
    let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), Digests::default());
    queue.command(&mut harness, io(1, 3, 0, 16, block(8192)), &[]);
    let ask = ask(&mut queue, &mut harness);
    let range = DataRange { offset: 0, length: 4 };
    let tag = ask.transfer_tag.get();
    let header = H2cData::new(3, tag, range, Flags::NONE, queue.framing);
    let mut bytes = header.as_bytes().to_vec();
    bytes[4] = 24;
    bytes[16] = 0;
    assert!(queue.end.send(&mut harness, &bytes));
    queue.end.exchange(&mut harness);
    assert_eq!(queue.end.received()[0], PduKind::ControllerTermRequest.pdu_type());
    assert!(queue.end.is_closed());
}

#[test]
fn a_wrong_digest_fails_its_command_once_all_its_data_is_there() {
    let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), BOTH);
    for wrong in 0..4_u32 {
        queue.command(&mut harness, io(1, 3, 0, 16, block(8192)), &[]);
        let ask = ask(&mut queue, &mut harness);
        for part in 0..4_u32 {
            let range = DataRange { offset: part * 2048, length: 2048 };
            let flags = if part == 3 { Flags::LAST } else { Flags::NONE };
            let tag = ask.transfer_tag.get();
            let header = H2cData::new(3, tag, range, flags, queue.framing);
            let mut bytes = padded(header.as_bytes().to_vec(), 28, &[7; 2048], BOTH);
            if part == wrong {
                *bytes.last_mut().unwrap() ^= 1;
            }
            queue.end.exchange(&mut harness);
            assert!(queue.end.received().is_empty(), "not before the last of its data");
            assert!(queue.end.send(&mut harness, &bytes));
        }
        let status = queue.completion(&mut harness).status();
        assert!(status.has_code(Status::TRANSIENT_TRANSPORT_ERROR), "{status}");
    }
    assert_eq!(read_back(&mut queue, &mut harness, 16), [0; 8192]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn data_comes_in_any_split_of_pdus_and_of_the_stream(
        dwords in proptest::collection::vec(1_u32..2000, 0..20),
        call_bytes in prop_oneof![Just(usize::MAX), 1_usize..200, 200_usize..5000],
        header: bool,
        data: bool,
    ) {
        let limits = MemoryLimits { call_bytes, ..MemoryLimits::default() };
        let (mut harness, _admin, mut queue) = connected(limits, Digests { header, data });
        let content = noise(65536, 1);
        queue.command(&mut harness, io(1, 3, 0, 128, block(65536)), &[]);
        let ask = ask(&mut queue, &mut harness);
        let mut offset = 0;
        let mut sizes = dwords.into_iter();
        while offset < 65536 {
            let left = 65536 - offset;
            let length = sizes.next().map_or(left, |dwords| left.min(dwords * 4));
            let flags = if length == left { Flags::LAST } else { Flags::NONE };
            let range = DataRange { offset, length };
            let header = H2cData::new(3, ask.transfer_tag.get(), range, flags, queue.framing);
            let part = &content[offset as usize..(offset + length) as usize];
            queue.pdu(&mut harness, &header, part);
            offset += length;
        }
        prop_assert_eq!(queue.completion(&mut harness).status(), Status::SUCCESS);
        prop_assert!(read_back(&mut queue, &mut harness, 128) == content);
    }
}
