//! Abort of I/O commands over two cores: the admin queue on one, the I/O queues on both.

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::SglDescriptor;
use reactor::dma::DmaBuffer;
use reactor::dma::pool::CLASS_BYTES;
use reactor::{Cx, Nanos};

use super::apply_tests::{Connected, described, namespace, ram, slow, subsystem};
use super::harness::Harness;
use super::limits::ABORTS_MAX;
use super::tests::io;

const READ: u8 = 2;
const WRITE: u8 = 1;

fn block() -> SglDescriptor {
    SglDescriptor::transport_data_block(4096)
}

fn abort(id: u16, queue_id: u16, command_id: u16) -> SubmissionEntry {
    let sgl = SglDescriptor::transport_data_block(0);
    let mut command = SubmissionEntry::new(0x08, id, 0).with_sgl(sgl);
    command.cdw10.set(u32::from(command_id) << 16 | u32::from(queue_id));
    command
}

impl Connected {
    fn plain() -> Connected {
        Connected::to(subsystem(vec![namespace(1, &ram(8192))]))
    }

    /// Aborts, and returns dword 0.
    fn abort(&mut self, queue_id: u16, command_id: u16) -> u32 {
        self.admin.command(&mut self.harness, abort(90, queue_id, command_id), &[]);
        let done = self.admin.completion(&mut self.harness);
        assert_eq!((done.command_id.get(), done.status()), (90, Status::SUCCESS));
        done.result()
    }

    /// Sends a command to the queue on `core`.
    fn send(&mut self, core: usize, command: SubmissionEntry, data: &[u8]) {
        self.queues[core].command(&mut self.harness, command, data);
        self.harness.pump();
    }

    /// The next answer of the queue on `core`.
    fn ended(&mut self, core: usize) -> (u16, Status) {
        let done = self.queues[core].completion(&mut self.harness);
        (done.command_id.get(), done.status())
    }
}

fn context(harness: &mut Harness, core: usize) -> &mut Cx {
    match core {
        0 => &mut harness.cx,
        other => &mut harness.others[other - 1].cx,
    }
}

fn take_all(cx: &mut Cx) -> Vec<DmaBuffer> {
    let mut taken = Vec::new();
    for class_bytes in CLASS_BYTES.into_iter().rev() {
        while let Some(buffer) = cx.dma.take(class_bytes) {
            taken.push(buffer);
        }
    }
    taken
}

#[test]
fn a_command_that_waits_is_aborted_on_whichever_core_its_queue_is() {
    let mut connected = Connected::plain();
    for core in [0, 1] {
        let queue_id = core as u16 + 1;
        let buffers = take_all(context(&mut connected.harness, core));
        for (id, opcode) in [(7, READ), (8, WRITE)] {
            connected.send(core, io(opcode, id, 0, 8, block()), &[]);
        }
        assert_eq!(connected.abort(queue_id, 9), 1, "there is none of that name");
        assert_eq!(connected.abort(2 - core as u16, 7), 1, "nor on the other queue");
        assert_eq!(connected.abort(3, 7), 1, "nor is there a third");
        for id in [8, 7] {
            assert_eq!(connected.abort(queue_id, id), 0);
            assert_eq!(connected.ended(core), (id, Status::ABORT_REQUESTED));
            assert_eq!(connected.abort(queue_id, id), 1, "once");
        }
        for buffer in buffers {
            context(&mut connected.harness, core).dma.give(buffer);
        }
    }
    assert_eq!(connected.harness.buffers_taken(), 0);
}

#[test]
fn what_waits_for_its_device_is_aborted_and_what_is_there_ends_there() {
    for core in [0, 1] {
        let (first, second) = (slow(ram(8192)), ram(8192));
        let mut connected = Connected::to(subsystem(vec![namespace(1, &first)]));
        let queue_id = core as u16 + 1;
        let sgl = SglDescriptor::in_capsule(0, 512);
        connected.send(core, io(WRITE, 1, 0, 1, sgl), &[1; 512]);
        // While the device is changed, I/O waits until the old one has done.
        connected.apply(described(subsystem(vec![namespace(1, &second)])));
        let mut ranges = io(0x09, 4, 0, 1, SglDescriptor::in_capsule(0, 16));
        ranges.cdw10.set(0);
        ranges.cdw11.set(4);
        let mut range = [0; 16];
        range[4] = 1;
        connected.send(core, io(WRITE, 2, 1, 1, sgl), &[2; 512]);
        connected.send(core, ranges, &range);
        connected.send(core, io(0x0c, 5, 3, 1, SglDescriptor::transport_data_block(0)), &[]);
        connected.send(core, io(WRITE, 3, 2, 1, sgl), &[3; 512]);
        for id in [4, 2, 5] {
            assert_eq!(connected.abort(queue_id, id), 0, "{id}");
            assert_eq!(connected.ended(core), (id, Status::ABORT_REQUESTED));
        }
        assert_eq!(connected.abort(queue_id, 1), 1, "the device has it");
        connected.harness.wait(Nanos::from_millis(1200));
        assert_eq!(connected.ended(core), (1, Status::SUCCESS));
        assert_eq!(connected.ended(core), (3, Status::SUCCESS));
        assert!(connected.is_settled());
        assert_eq!(connected.read(core, 1, 1).unwrap(), [0; 512], "it was not written");
        assert_eq!(connected.read(core, 1, 2).unwrap(), [3; 512]);
        assert_eq!(connected.harness.buffers_taken(), 0);
    }
}

#[test]
fn as_many_aborts_as_identify_says_are_under_way_at_once_and_one_more_is_refused() {
    let mut connected = Connected::plain();
    let many = u16::from(ABORTS_MAX);
    for count in [many, many + 1] {
        for id in 0..count {
            connected.admin.command(&mut connected.harness, abort(id, 1, 500), &[]);
        }
        let mut refused = 0;
        for _ in 0..count {
            let done = connected.admin.completion(&mut connected.harness);
            if done.status() == Status::ABORT_LIMIT_EXCEEDED {
                assert_eq!(done.command_id.get(), many, "the last");
                refused += 1;
            } else {
                assert_eq!((done.status(), done.result()), (Status::SUCCESS, 1));
            }
        }
        assert_eq!(refused, count - many);
    }
}

#[test]
fn an_abort_is_answered_though_its_queue_or_its_controller_goes_meanwhile() {
    let mut connected = Connected::plain();
    connected.admin.command(&mut connected.harness, abort(1, 1, 7), &[]);
    connected.admin.command(&mut connected.harness, abort(2, 2, 7), &[]);
    let mut reset = SubmissionEntry::new(0x7f, 3, 0);
    reset.flags = 0x40;
    reset.cdw11.set(0x14);
    connected.admin.command(&mut connected.harness, reset, &[]);
    let mut ended = [(); 3].map(|()| {
        let done = connected.admin.completion(&mut connected.harness);
        (done.command_id.get(), done.status(), done.result())
    });
    ended.sort_unstable_by_key(|one| one.0);
    let success = Status::SUCCESS;
    assert_eq!(ended, [(1, success, 1), (2, success, 1), (3, success, 0)]);
    assert_eq!(connected.harness.connections(), 1);
}
