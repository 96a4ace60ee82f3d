//! Commands of an admin queue that are about other cores.

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::SglDescriptor;
use reactor::Nanos;

use super::apply_tests::{Connected, namespace, ram, subsystem};
use super::reset_tests::{open, write};

fn connected() -> Connected {
    Connected::to(subsystem(vec![namespace(1, &ram(64))]))
}

/// Reads a log page of `bytes` bytes.
fn log(connected: &mut Connected, page: u32, bytes: u32) -> Vec<u8> {
    let sgl = SglDescriptor::transport_data_block(bytes);
    let mut command = SubmissionEntry::new(0x02, 50, 0xffff_ffff).with_sgl(sgl);
    command.cdw10.set(page | (bytes / 4 - 1) << 16);
    connected.admin.command(&mut connected.harness, command, &[]);
    connected.admin.read_answer(&mut connected.harness).unwrap()
}

/// Identify, list of controllers from `first` on.
fn controllers(connected: &mut Connected, first: u32) -> Vec<u16> {
    let sgl = SglDescriptor::transport_data_block(4096);
    let mut command = SubmissionEntry::new(0x06, 51, 0).with_sgl(sgl);
    command.cdw10.set(0x13 | first << 16);
    connected.admin.command(&mut connected.harness, command, &[]);
    let list = connected.admin.read_answer(&mut connected.harness).unwrap();
    let ids = list.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let ids: Vec<u16> = ids.collect();
    ids[1..=usize::from(ids[0])].to_vec()
}

#[test]
fn the_controllers_of_all_cores_are_listed_and_those_that_are_gone_are_not() {
    let mut connected = connected();
    assert_eq!(controllers(&mut connected, 0), [1]);
    let mut others = [0, 1].map(|core| {
        let mut admin = open(&mut connected.harness, core);
        assert!(admin.connect(&mut connected.harness, 0, 0xffff).status().is_success());
        admin
    });
    assert_eq!(controllers(&mut connected, 0), [1, 2, 3]);
    assert_eq!(controllers(&mut connected, 2), [2, 3]);
    let [gone, _kept] = &mut others;
    gone.end.send(&mut connected.harness, &[0xff; 64]);
    connected.harness.wait(Nanos::from_millis(2000));
    assert_eq!(controllers(&mut connected, 0), [1, 3]);
}

#[test]
fn an_error_on_another_core_is_in_the_error_log_and_counted() {
    let mut connected = connected();
    let refused = Err(Status::LBA_OUT_OF_RANGE.with_do_not_retry());
    assert_eq!(connected.read(0, 1, 64), refused);
    assert_eq!(connected.read(1, 1, 65), refused);
    let page = log(&mut connected, 0x01, 4096);
    let of = |entry: usize| {
        let at = |offset: usize| page[entry * 64 + offset];
        (at(0), at(8), at(16))
    };
    assert_eq!((of(0), of(1), of(2)), ((2, 2, 65), (1, 1, 64), (0, 0, 0)), "count, queue, block");
    assert_eq!(log(&mut connected, 0x02, 512)[176], 2);
}

#[test]
fn more_errors_than_a_core_may_report_are_counted_with_a_later_one() {
    let mut connected = connected();
    for _ in 0..100 {
        connected.read(0, 1, 64).unwrap_err();
    }
    assert_eq!(log(&mut connected, 0x02, 512)[176], 64);
    connected.harness.wait(Nanos::from_millis(300));
    connected.read(0, 1, 64).unwrap_err();
    assert_eq!(log(&mut connected, 0x02, 512)[176], 101);
}

#[test]
fn what_was_moved_on_every_core_is_in_the_smart_log() {
    let mut connected = connected();
    let [first, second] = &mut connected.queues;
    for queue in [first, second] {
        write(&mut connected.harness, queue);
        assert!(queue.completion(&mut connected.harness).status().is_success());
    }
    connected.read(1, 1, 0).unwrap();
    let page = log(&mut connected, 0x02, 512);
    assert_eq!((page[32], page[48]), (1, 1), "thousands of 512 bytes, rounded up");
    assert_eq!((page[64], page[80]), (1, 2), "reads and writes");
}
