//! Every opcode on either kind of queue, in each state of the controller.

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::SglDescriptor;
use reactor::socket::memory::MemoryLimits;
use zerocopy::IntoBytes;

use crate::pdu::{Digests, PduKind};
use crate::target::harness::Harness;
use crate::target::tests::{Host, connected, description};

/// How a command is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// By a completion with this code.
    Ends(u16),
    /// By data and success.
    Data,
    /// By an R2T.
    Asks,
    /// Not yet.
    Held,
}

const fn ends(status: Status) -> Answer {
    Answer::Ends(status.code())
}

/// A command with nothing set but a descriptor that is long enough for all.
fn command(opcode: u8) -> SubmissionEntry {
    SubmissionEntry::new(opcode, 3, 1).with_sgl(SglDescriptor::transport_data_block(131_072))
}

fn answer(host: &mut Host, harness: &mut Harness, opcode: u8) -> Answer {
    host.command(harness, command(opcode), &[]);
    host.end.exchange(harness);
    assert!(!host.end.is_closed(), "opcode {opcode:#x}");
    if host.end.received().is_empty() {
        return Answer::Held;
    }
    let pdu = host.receive(harness);
    match pdu.parts.kind {
        PduKind::ReadyToTransfer => Answer::Asks,
        PduKind::C2hData => {
            assert!(host.completion(harness).status().is_success());
            Answer::Data
        }
        _ => {
            let status = pdu.completion().status();
            let is_final = status.is_success() || status.do_not_retry();
            assert!(is_final, "opcode {opcode:#x}: {status} is no matter of time");
            Answer::Ends(status.code())
        }
    }
}

fn property_set(value: u32) -> SubmissionEntry {
    let mut command = SubmissionEntry::new(0x7f, 2, 0);
    command.flags = 0x40;
    command.cdw11.set(0x14);
    command.cdw12.set(value);
    command
}

/// What an I/O command comes to on a queue of an enabled controller.
fn io_answer(opcode: u8) -> Answer {
    match opcode {
        0x00 | 0x08 | 0x0c => ends(Status::SUCCESS),
        // The reservation commands that bring keys among them.
        0x01 | 0x05 | 0x09 | 0x0d | 0x11 | 0x15 | 0x19 => Answer::Asks,
        0x02 => Answer::Data,
        // Reservation Report in the compact form, which is not for identifiers of 128 bits.
        0x0e => ends(Status::HOST_ID_INCONSISTENT_FORMAT),
        // Fabrics command 01h: Connect.
        0x7f => ends(Status::COMMAND_SEQUENCE_ERROR),
        _ => ends(Status::INVALID_OPCODE),
    }
}

/// What an admin command comes to while the controller is enabled.
fn admin_answer(opcode: u8) -> Answer {
    match opcode {
        0x06 => Answer::Data,
        0x08 | 0x18 => ends(Status::SUCCESS),
        // Logs are of the controller, not of namespace 1, and feature 0 is none.
        0x02 | 0x09 | 0x0a => ends(Status::INVALID_FIELD),
        // Action 0 is none; the device knows what is allocated.
        0x86 => ends(Status::INVALID_FIELD),
        0x0c => Answer::Held,
        0x7f => ends(Status::COMMAND_SEQUENCE_ERROR),
        _ => ends(Status::INVALID_OPCODE),
    }
}

/// The same while it is not: the opcode and the descriptor are judged, and then the state.
fn idle_answer(opcode: u8) -> Answer {
    match opcode {
        0x02 | 0x06 | 0x08 | 0x09 | 0x0a | 0x0c | 0x18 | 0x86 => {
            ends(Status::COMMAND_SEQUENCE_ERROR)
        }
        _ => admin_answer(opcode),
    }
}

#[test]
fn before_connect_every_opcode_is_out_of_sequence() {
    let mut harness = Harness::new(description());
    let mut host = Host::initialize(&mut harness, MemoryLimits::default(), Digests::default());
    for opcode in 0..=u8::MAX {
        // Fabrics command 00h rather than 01h, which is Connect.
        let mut entry = command(opcode);
        entry.namespace_id.set(0);
        host.command(&mut harness, entry, &[]);
        let status = host.completion(&mut harness).status();
        assert!(status.has_code(Status::COMMAND_SEQUENCE_ERROR), "{opcode:#x}: {status}");
        assert!(status.do_not_retry());
    }
}

#[test]
fn every_opcode_is_answered_on_an_enabled_controller() {
    for opcode in 0..=u8::MAX {
        let (mut harness, mut admin, mut queue) =
            connected(MemoryLimits::default(), Digests::default());
        assert_eq!(answer(&mut queue, &mut harness, opcode), io_answer(opcode), "I/O {opcode:#x}");
        let found = answer(&mut admin, &mut harness, opcode);
        assert_eq!(found, admin_answer(opcode), "admin {opcode:#x}");
    }
}

#[test]
fn every_admin_opcode_is_answered_before_it_is_enabled_and_after_it_is_shut_down() {
    let mut harness = Harness::new(description());
    let limits = MemoryLimits::default();
    let mut admin = Host::initialize(&mut harness, limits, Digests::default());
    assert!(admin.connect(&mut harness, 0, 0xffff).status().is_success());
    // Disabled; enabled and shut down; disabled again; shut down abruptly.
    let rows: [&[u32]; 4] = [&[], &[0x0046_0001, 0x0046_4001], &[0], &[0x0046_0001, 0x0046_8001]];
    for row in rows {
        for value in row {
            admin.command(&mut harness, property_set(*value), &[]);
            assert!(admin.completion(&mut harness).status().is_success());
            harness.pump();
        }
        for opcode in 0..=u8::MAX {
            let found = answer(&mut admin, &mut harness, opcode);
            assert_eq!(found, idle_answer(opcode), "opcode {opcode:#x} after {row:x?}");
        }
    }
    assert_eq!(harness.cx.dma.taken(), 0);
}

#[test]
fn an_io_queue_ends_with_a_reset_or_shutdown_whatever_it_says_then() {
    for value in [0x0046_0000, 0x0046_4001, 0x0046_8001] {
        for opcode in [0x00, 0x01, 0x02, 0x05, 0x08, 0x09, 0x0c, 0x19, 0x7f, 0xff] {
            let (mut harness, mut admin, mut queue) =
                connected(MemoryLimits::default(), Digests::default());
            admin.command(&mut harness, property_set(value), &[]);
            queue.command(&mut harness, command(opcode), &[]);
            queue.end.exchange(&mut harness);
            assert!(queue.end.is_closed(), "opcode {opcode:#x}");
            assert!(admin.completion(&mut harness).status().is_success());
            assert_eq!(harness.cx.dma.taken(), 0);
        }
    }
}

#[test]
fn every_value_of_every_field_of_an_io_command_is_answered() {
    const VALUES: [u32; 9] = [0, 1, 7, 0xff, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), Digests::default());
    let none = SglDescriptor::transport_data_block(0);
    for opcode in [0x00, 0x08, 0x0c] {
        for value in VALUES {
            // Namespace, two words that are reserved, and command dwords 10 to 15.
            for at in [4, 8, 12, 40, 44, 48, 52, 56, 60] {
                let mut command = SubmissionEntry::new(opcode, 3, 1).with_sgl(none);
                command.as_mut_bytes()[at..at + 4].copy_from_slice(&value.to_le_bytes());
                queue.command(&mut harness, command, &[]);
                let status = queue.completion(&mut harness).status();
                let has_range = opcode != 0x00;
                let expected = match at {
                    4 if value != 1 => Status::INVALID_NAMESPACE_OR_FORMAT,
                    40 if has_range && value >= 8192 => Status::LBA_OUT_OF_RANGE,
                    44 if has_range && value > 0 => Status::LBA_OUT_OF_RANGE,
                    48 if has_range && value & 0xffff >= 8192 => Status::LBA_OUT_OF_RANGE,
                    _ => Status::SUCCESS,
                };
                let what = format!("opcode {opcode:#x}, byte {at}: {value:#x}");
                assert!(status.has_code(expected), "{what}: {status}");
            }
        }
    }
}
