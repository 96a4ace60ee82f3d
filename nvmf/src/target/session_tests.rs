//! Whole sessions of a host over two cores, drawn at random, beside a plain model of which answers
//! each command may get.
//!
//! Commands of every kind and size, aborts, resets, lost connections, namespaces that are removed
//! and devices that are replaced, in any order. The model knows of a command what could happen to
//! it while it was out; every command is answered once, or its queue has gone, and nothing stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::SglDescriptor;
use bdev::{BlockDevice, Status};
use proptest::prelude::*;
use reactor::Nanos;
use zerocopy::FromBytes;

use super::apply_tests::{Connected, described, namespace, ram, slow, subsystem};
use super::reset_tests::open;
use crate::pdu::{PduKind, ReadyToTransfer};

const BLOCKS: u32 = 8192;
const BLOCK_BYTES: u32 = 512;
const IN_CAPSULE_BYTES: u32 = 4096;
/// Commands that a queue has out at once at most: it has 32 entries.
const OUT_MAX: usize = 24;
/// Longer than the slow device takes over one I/O.
const LATE: Nanos = Nanos::from_millis(1500);
/// How long the host looks at nothing, at most: half of what the target grants it.
const PATIENCE: Nanos = Nanos::from_millis(5000);
/// Steps of `LATE` within which everything has been answered.
const STEPS_MAX: usize = 60;
const GONE: Status = Status::INVALID_NAMESPACE_OR_FORMAT;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flush = 0x00,
    Write = 0x01,
    Read = 0x02,
    Compare = 0x05,
    WriteZeroes = 0x08,
    Deallocate = 0x09,
    Verify = 0x0c,
    Copy = 0x19,
}

/// Where a command's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Capsule,
    Asked,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    namespace: u32,
    lba: u32,
    blocks: u32,
}

impl Range {
    fn fits(self) -> bool {
        self.lba + self.blocks <= BLOCKS
    }
}

/// A step of a session; `core` names the queue there.
#[derive(Clone, Debug)]
enum Act {
    Send { core: usize, kind: Kind, range: Range, place: Place },
    Pair { core: usize, range: Range, place: Place },
    Abort { core: usize, back: u16 },
    Serve { core: usize },
    Wait { milliseconds: u64 },
    Lose { core: usize },
    Reset,
    Describe { second: Second },
}

/// What namespace 2 is; namespace 1 is always the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Second {
    Slow,
    OtherSlow,
    Fast,
    Absent,
}

/// A command that is out.
#[derive(Debug)]
struct Out {
    data: Vec<u8>,
    namespace: u32,
    /// What it may say if nothing happens to it.
    may: Vec<Status>,
    /// Its namespace was there, or was not, at some time since it was sent.
    was_there: bool,
    was_gone: bool,
    /// An Abort said that it had aborted it.
    aborted: bool,
}

struct Session {
    connected: Connected,
    devices: [Arc<dyn BlockDevice>; 4],
    second: Second,
    out: [BTreeMap<u16, Out>; 2],
    ended: [BTreeMap<u16, Status>; 2],
    next_id: u16,
    /// How long the host has not looked at its queues.
    unserved: Nanos,
}

impl Session {
    fn new() -> Session {
        let blocks = u64::from(BLOCKS);
        let devices = [ram(blocks), slow(ram(blocks)), slow(ram(blocks)), ram(blocks)];
        let both = vec![namespace(1, &devices[0]), namespace(2, &devices[1])];
        Session {
            connected: Connected::to(subsystem(both)),
            devices,
            second: Second::Slow,
            out: Default::default(),
            ended: Default::default(),
            next_id: 0,
            unserved: Nanos(0),
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Send { core, kind, range, place } => self.send(core, kind, range, place),
            Act::Pair { core, range, place } => self.send_pair(core, range, place),
            Act::Abort { core, back } => self.abort(core, back),
            Act::Serve { core } => self.serve(core),
            Act::Wait { milliseconds } => self.idle(Nanos::from_millis(milliseconds)),
            Act::Lose { core } => self.lose(core),
            Act::Reset => self.reset(),
            Act::Describe { second } => self.describe(second),
        }
    }

    fn has_room(&self, core: usize) -> bool {
        self.out[core].len() < OUT_MAX
    }

    fn is_there(&self, namespace: u32) -> bool {
        namespace == 1 || namespace == 2 && self.second != Second::Absent
    }

    fn send(&mut self, core: usize, kind: Kind, range: Range, place: Place) {
        if !self.has_room(core) {
            return;
        }
        let Range { lba, blocks, .. } = range;
        let data = match kind {
            Kind::Write | Kind::Compare => vec![0x5a; (blocks * BLOCK_BYTES) as usize],
            Kind::Deallocate => list(16, &[(4, blocks.to_le_bytes()), (8, lba.to_le_bytes())]),
            Kind::Copy => list(32, &[(8, lba.to_le_bytes()), (16, (blocks - 1).to_le_bytes())]),
            Kind::Flush | Kind::Read | Kind::WriteZeroes | Kind::Verify => Vec::new(),
        };
        let mut command = command(kind as u8, range);
        match kind {
            // Two ranges, the same.
            Kind::Deallocate => {
                command.cdw10.set(1);
                command.cdw11.set(4);
                command.cdw12.set(0);
            }
            Kind::Copy => {
                command.cdw10.set(0);
                command.cdw12.set(1);
            }
            _ => {}
        }
        let mut may = match range.fits() || kind == Kind::Flush {
            true => vec![Status::SUCCESS],
            false => vec![Status::LBA_OUT_OF_RANGE],
        };
        match kind {
            Kind::Compare if range.fits() => may.push(Status::COMPARE_FAILURE),
            // More than fits its buffer; which of both is told is not laid down.
            Kind::Copy if 2 * blocks > 248 => {
                may = vec![Status::COMMAND_SIZE_LIMIT_EXCEEDED, Status::LBA_OUT_OF_RANGE];
            }
            _ => {}
        }
        let read_bytes = if kind == Kind::Read { blocks * BLOCK_BYTES } else { 0 };
        self.start(core, command, (data, read_bytes), may, place);
    }

    fn send_pair(&mut self, core: usize, range: Range, place: Place) {
        // One less than has room: two commands.
        if self.out[core].len() + 1 >= OUT_MAX {
            return;
        }
        let range = Range { blocks: range.blocks.min(8), ..range };
        let data = || vec![0; (range.blocks * BLOCK_BYTES) as usize];
        let (mut compare, mut write) = (command(0x05, range), command(0x01, range));
        compare.flags |= 1;
        write.flags |= 2;
        let outcome = match range.fits() {
            true => vec![Status::SUCCESS, Status::COMPARE_FAILURE],
            false => vec![Status::LBA_OUT_OF_RANGE],
        };
        let of_first = [&outcome[..], &[Status::ABORTED_FAILED_FUSED]].concat();
        let of_second = [&of_first[..], &[Status::ABORTED_MISSING_FUSED]].concat();
        self.start(core, compare, (data(), 0), of_first, place);
        self.start(core, write, (data(), 0), of_second, place);
    }

    /// Sends a command with its data, or with the length of what it reads.
    fn start(
        &mut self,
        core: usize,
        mut command: SubmissionEntry,
        (data, read_bytes): (Vec<u8>, u32),
        may: Vec<Status>,
        place: Place,
    ) {
        let id = self.next_id;
        self.next_id += 1;
        command.command_id.set(id);
        let len_bytes = u32::try_from(data.len()).unwrap().max(read_bytes);
        let is_inside = place == Place::Capsule && data.len() <= IN_CAPSULE_BYTES as usize;
        let is_inside = is_inside && !data.is_empty();
        let sgl = match is_inside {
            true => SglDescriptor::in_capsule(0, len_bytes),
            false => SglDescriptor::transport_data_block(len_bytes),
        };
        let inside = if is_inside { &data[..] } else { &[] };
        let Connected { harness, queues, .. } = &mut self.connected;
        queues[core].command(harness, command.with_sgl(sgl), inside);
        let namespace = command.namespace_id.get();
        let is_there = self.is_there(namespace);
        let (was_there, was_gone) = (is_there, !is_there);
        let out = Out { data, namespace, may, was_there, was_gone, aborted: false };
        self.out[core].insert(id, out);
    }

    /// Takes what the target sends by a queue, and sends what it asks for.
    fn serve(&mut self, core: usize) {
        loop {
            let Connected { harness, queues, .. } = &mut self.connected;
            let queue = &mut queues[core];
            queue.end.exchange(harness);
            assert!(!queue.end.is_closed(), "the target has no reason to close a queue");
            if queue.end.received().is_empty() {
                return;
            }
            let pdu = queue.receive(harness);
            match pdu.parts.kind {
                PduKind::C2hData => {}
                PduKind::ReadyToTransfer => {
                    let ask = ReadyToTransfer::read_from_prefix(&pdu.bytes).unwrap().0;
                    let data = &self.out[core][&ask.command_id.get()].data;
                    queue.give_data(harness, &ask, data, 16384);
                }
                _ => {
                    let end = pdu.completion();
                    self.end(core, end.command_id.get(), end.status());
                }
            }
        }
    }

    fn end(&mut self, core: usize, id: u16, status: Status) {
        let out = self.out[core].remove(&id).expect("a command that is out is answered, once");
        let is_expected = out.was_there && out.may.iter().any(|may| status.has_code(*may))
            || out.was_gone && status.has_code(GONE)
            || status.has_code(Status::ABORTED_FAILED_FUSED) && out.was_gone
            || status.has_code(Status::ABORT_REQUESTED) && out.aborted;
        assert!(is_expected, "{id}: {status}, {out:?}");
        if out.aborted {
            assert_eq!(status, Status::ABORT_REQUESTED, "{id}");
        }
        self.ended[core].insert(id, status);
    }

    /// Aborts the command that was sent so many before the next.
    fn abort(&mut self, core: usize, back: u16) {
        let Some(id) = self.next_id.checked_sub(back + 1) else { return };
        let sgl = SglDescriptor::transport_data_block(0);
        let mut command = SubmissionEntry::new(0x08, 7, 0).with_sgl(sgl);
        command.cdw10.set(u32::from(id) << 16 | (core as u32 + 1));
        let Connected { harness, admin, .. } = &mut self.connected;
        admin.command(harness, command, &[]);
        let done = admin.completion(harness);
        assert_eq!(done.status(), Status::SUCCESS);
        if done.result() == 0 {
            match self.out[core].get_mut(&id) {
                Some(out) => out.aborted = true,
                None => panic!("{id} was answered before"),
            }
        }
    }

    /// Lets time pass, at most until the target would give up a host that owes data.
    fn idle(&mut self, span: Nanos) {
        self.wait(span);
        self.unserved = self.unserved + span;
        if self.unserved > PATIENCE {
            self.serve(0);
            self.serve(1);
            self.unserved = Nanos(0);
        }
    }

    /// Lets everything end that a device has of a queue that is gone.
    fn rest(&mut self, kept: Option<usize>) {
        for _ in 0..3 {
            self.wait(LATE);
            if let Some(core) = kept {
                self.serve(core);
            }
        }
    }

    fn wait(&mut self, span: Nanos) {
        let Connected { harness, admin, .. } = &mut self.connected;
        let sgl = SglDescriptor::transport_data_block(0);
        admin.command(harness, SubmissionEntry::new(0x18, 8, 0).with_sgl(sgl), &[]);
        // Out of sequence while the controller is disabled, and a sign of life all the same.
        admin.completion(harness);
        harness.wait(span);
    }

    /// The host vanishes from a queue, and connects it again.
    fn lose(&mut self, core: usize) {
        let Connected { harness, queues, .. } = &mut self.connected;
        queues[core] = open(harness, core);
        harness.pump();
        self.out[core].clear();
        self.rest(Some(1 - core));
        let Connected { harness, queues, .. } = &mut self.connected;
        queues[core] = open(harness, core);
        let made = queues[core].connect(harness, core as u16 + 1, 1);
        assert!(made.status().is_success(), "{}", made.status());
    }

    fn reset(&mut self) {
        let mut command = SubmissionEntry::new(0x7f, 9, 0);
        command.flags = 0x40;
        command.cdw11.set(0x14);
        let Connected { harness, admin, queues } = &mut self.connected;
        admin.command(harness, command, &[]);
        assert!(admin.completion(harness).status().is_success());
        harness.pump();
        assert!(queues.iter_mut().all(|queue| queue.end.is_closed()));
        self.out = Default::default();
        self.rest(None);
        let Connected { harness, admin, queues } = &mut self.connected;
        admin.enable(harness);
        for core in [0, 1] {
            queues[core] = open(harness, core);
            let made = queues[core].connect(harness, core as u16 + 1, 1);
            assert!(made.status().is_success(), "{}", made.status());
        }
    }

    fn describe(&mut self, second: Second) {
        let device = match second {
            Second::Slow => Some(&self.devices[1]),
            Second::OtherSlow => Some(&self.devices[2]),
            Second::Fast => Some(&self.devices[3]),
            Second::Absent => None,
        };
        let first = namespace(1, &self.devices[0]);
        let namespaces = [Some(first), device.map(|device| namespace(2, device))];
        self.second = second;
        let namespaces = namespaces.into_iter().flatten().collect();
        self.connected.apply(described(subsystem(namespaces)));
        let is_there = second != Second::Absent;
        let all = self.out.iter_mut().flat_map(BTreeMap::values_mut);
        for out in all.filter(|out| out.namespace == 2) {
            out.was_there |= is_there;
            out.was_gone |= !is_there;
        }
    }

    /// Everything is answered, and nothing is left.
    fn finish(mut self) {
        for _ in 0..STEPS_MAX {
            for core in [0, 1] {
                self.serve(core);
            }
            if self.out.iter().all(BTreeMap::is_empty) && self.connected.is_settled() {
                break;
            }
            self.wait(LATE);
        }
        assert!(self.out.iter().all(BTreeMap::is_empty), "{:?}", self.out);
        assert!(self.connected.is_settled());
        assert_eq!(self.connected.harness.buffers_taken(), 0);
        let Connected { mut harness, admin, queues } = self.connected;
        assert_eq!(harness.connections(), 3);
        drop((admin, queues));
        harness.wait(LATE);
        assert_eq!((harness.connections(), harness.buffers_taken()), (0, 0));
    }
}

fn command(opcode: u8, range: Range) -> SubmissionEntry {
    let mut command = SubmissionEntry::new(opcode, 0, range.namespace);
    if opcode != Kind::Flush as u8 {
        command.cdw10.set(range.lba);
        command.cdw12.set(range.blocks - 1);
    }
    command
}

/// Two entries of so many bytes, both the same, with what they have where.
fn list(entry_bytes: usize, parts: &[(usize, [u8; 4])]) -> Vec<u8> {
    let mut entry = vec![0; entry_bytes];
    for (at, part) in parts {
        entry[*at..at + 4].copy_from_slice(part);
    }
    entry.repeat(2)
}

fn ranges() -> impl Strategy<Value = Range> {
    let namespaces = prop_oneof![4 => Just(1_u32), 8 => Just(2), 1 => Just(3)];
    let lbas = prop_oneof![6 => 0_u32..64, 2 => 0..BLOCKS - 256, 1 => BLOCKS - 16..BLOCKS];
    let blocks = prop::sample::select(vec![1_u32, 2, 7, 8, 9, 64, 124, 125, 256]);
    (namespaces, lbas, blocks).prop_map(|(namespace, lba, blocks)| Range { namespace, lba, blocks })
}

fn acts() -> impl Strategy<Value = Act> {
    let kinds = prop::sample::select(vec![
        Kind::Flush,
        Kind::Write,
        Kind::Read,
        Kind::Compare,
        Kind::WriteZeroes,
        Kind::Deallocate,
        Kind::Verify,
        Kind::Copy,
    ]);
    let places = || prop::sample::select(vec![Place::Capsule, Place::Asked]);
    let seconds =
        prop::sample::select(vec![Second::Slow, Second::OtherSlow, Second::Fast, Second::Absent]);
    prop_oneof![
        24 => (0..2_usize, kinds, ranges(), places())
            .prop_map(|(core, kind, range, place)| Act::Send { core, kind, range, place }),
        4 => (0..2_usize, ranges(), places())
            .prop_map(|(core, range, place)| Act::Pair { core, range, place }),
        8 => (0..2_usize, 0..6_u16).prop_map(|(core, back)| Act::Abort { core, back }),
        6 => (0..2_usize).prop_map(|core| Act::Serve { core }),
        4 => (0..700_u64).prop_map(|milliseconds| Act::Wait { milliseconds }),
        1 => (0..2_usize).prop_map(|core| Act::Lose { core }),
        1 => Just(Act::Reset),
        4 => seconds.prop_map(|second| Act::Describe { second }),
    ]
}

proptest! {
    // Each has buffers of its own, which stay mapped.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_session_is_answered_as_its_model_says(acts in prop::collection::vec(acts(), 1..80)) {
        let mut session = Session::new();
        for act in &acts {
            session.act(act);
        }
        session.finish();
    }
}
