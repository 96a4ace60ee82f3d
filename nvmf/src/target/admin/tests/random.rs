//! Random commands in every state: always an answer, never a panic, and never more data than the
//! descriptor stands for.

use bdev::nvme::sgl::Sgl;
use proptest::prelude::*;

use super::*;
use crate::target::allocation::command::check_announced;

#[derive(Clone, Copy, Debug)]
enum Step {
    Command(SubmissionEntry),
    Configure(u32),
    AnaChange,
    NamespaceChange(u32),
    DiscoveryChange,
    Later(u64),
}

/// Log pages, features and structures that there are, beside any small number.
fn identifier() -> impl Strategy<Value = u32> {
    let known = vec![
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x0a, 0x0b, 0x0c, 0x0e, 0x0f, 0x12,
        0x13, 0x16, 0x1c, 0x70, 0x81,
    ];
    prop_oneof![8 => proptest::sample::select(known), 1 => 0u32..0x100]
}

/// The length that a command of such an opcode and identifier has when it is good.
fn fitting_len(opcode: u8, identifier: u32, count: u32) -> u32 {
    match (opcode, identifier) {
        (0x06, _) => 4096,
        (0x02, _) => (count + 1) * 4,
        (0x09 | 0x0a, 0x0e) => 8,
        (0x09 | 0x0a, 0x16) => 512,
        (0x0a, 0x81) => 16,
        _ => 0,
    }
}

/// Entries that are near to good ones: known opcodes, small fields, mostly fitting descriptors.
fn entry() -> impl Strategy<Value = SubmissionEntry> {
    let opcode = prop_oneof![
        12 => proptest::sample::select(vec![0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18, 0x7f]),
        1 => any::<u8>(),
    ];
    let namespace = proptest::sample::select(vec![0u32, 1, 2, 3, 4, 1025, 0xffff_ffff]);
    let small = || prop_oneof![4 => 0u32..4, 1 => any::<u32>(), 1 => Just(0xffff_ffff)];
    let dwords = (small(), prop_oneof![4 => Just(0u32), 1 => any::<u32>()], small());
    // The upper half of dword 10: a length of a log page, mostly without its top bits.
    let count = prop_oneof![8 => 0u32..2048, 1 => 0u32..0x1_0000];
    let len = prop_oneof![6 => Just(None), 1 => any::<u32>().prop_map(Some)];
    let parts = (opcode, namespace, identifier(), 0u32..16, count, dwords, len, 0u8..16);
    parts.prop_map(|(opcode, namespace_id, identifier, specific, count, dwords, len, form)| {
        let len = len.unwrap_or(fitting_len(opcode, identifier, count));
        let is_from_host = opcode & 0b11 == 0b01;
        let sgl = match form {
            0 => SglDescriptor::in_capsule(4, len),
            1 => SglDescriptor::data_block(0, len),
            2..8 if is_from_host => SglDescriptor::in_capsule(0, len),
            _ => SglDescriptor::transport_data_block(len),
        };
        let mut entry = SubmissionEntry::new(opcode, 1, namespace_id).with_sgl(sgl);
        entry.cdw10 = U32::new(identifier | (specific / 8) << 8 | count << 16);
        if opcode != 0x02 {
            entry.cdw10 = U32::new(identifier | (specific / 4) << 8);
        }
        entry.cdw11 = U32::new(if form > 2 && opcode == 0x02 { 0 } else { dwords.0 });
        entry.cdw12 = U32::new(if form < 8 { dwords.1 } else { dwords.1 & 0x1ffc });
        entry.cdw13 = U32::new(if form < 8 { dwords.2 } else { 0 });
        entry.cdw14 = U32::new(if form < 4 { dwords.2 } else { 0 });
        entry
    })
}

fn step() -> impl Strategy<Value = Step> {
    let configuration =
        prop_oneof![4 => Just(ENABLE), 1 => Just(SHUTDOWN), 1 => Just(0), 1 => any::<u32>()];
    let raw = any::<[u8; 64]>().prop_map(|bytes| Step::Command(zerocopy::transmute!(bytes)));
    prop_oneof![
        12 => entry().prop_map(Step::Command),
        2 => raw,
        2 => configuration.prop_map(Step::Configure),
        1 => Just(Step::AnaChange),
        1 => any::<u32>().prop_map(Step::NamespaceChange),
        1 => Just(Step::DiscoveryChange),
        1 => prop_oneof![4 => 0u64..1000, 1 => 0u64..10_000].prop_map(Step::Later),
    ]
}

fn check_command(host: &mut Host, entry: &SubmissionEntry) -> Result<bool, TestCaseError> {
    const GUARD: u8 = 0x5a;
    let limits = *host.subsystem.limits();
    let announced = check_announced(&host.subsystem, entry);
    let transfer = announced.and_then(|()| transfer_of(entry, &limits));
    let (len_in, len_out) = match transfer {
        Ok(Transfer::Data { direction: Direction::HostToController, len_bytes, .. }) => {
            (len_bytes, 0)
        }
        Ok(Transfer::Data { direction: Direction::ControllerToHost, len_bytes, .. }) => {
            (0, len_bytes)
        }
        _ => (0, 0),
    };
    prop_assert!(len_in.max(len_out) <= limits.transfer_bytes_max);
    let described = match entry.sgl().decode() {
        Sgl::InCapsule { length, .. } | Sgl::TransportDataBlock { length } => length,
        _ => 0,
    };
    prop_assert!(len_in + len_out <= described);
    let data_in = vec![1; usize::try_from(len_in).unwrap()];
    let len_out = usize::try_from(len_out).unwrap();
    let mut out = vec![GUARD; len_out + 16];
    let outcome = host.execute(entry, &data_in, &mut out);
    prop_assert_eq!(&out[len_out..], [GUARD; 16]);
    match outcome {
        AdminOutcome::Data { len_bytes, .. } => {
            prop_assert_eq!(usize::try_from(len_bytes).unwrap(), len_out);
        }
        AdminOutcome::Complete { status, .. } => {
            prop_assert!(!status.is_success() || len_out == 0);
            if let Err(expected) = transfer {
                prop_assert!(status.has_code(expected));
            }
        }
        AdminOutcome::Held | AdminOutcome::Persistence { .. } | AdminOutcome::Allocation { .. } => {
        }
    }
    Ok(outcome == AdminOutcome::Held)
}

proptest! {
    #[test]
    fn any_sequence_of_commands_is_answered(
        is_discovery: bool,
        is_enabled: bool,
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let subsystem = if is_discovery { discovery_subsystem() } else { io_subsystem() };
        let mut host = Host::connected(subsystem);
        if is_enabled {
            host.configure(ENABLE).unwrap();
        }
        let mut held = 0;
        for step in steps {
            match step {
                Step::Command(entry) => held += u32::from(check_command(&mut host, &entry)?),
                Step::Configure(value) => {
                    let _ = host.configure(value);
                }
                Step::AnaChange => host.controller.notice_ana_change(),
                Step::NamespaceChange(id) => {
                    host.controller.notice_namespace_change(NamespaceId(id));
                }
                Step::DiscoveryChange => host.controller.notice_discovery_change(),
                Step::Later(millis) => {
                    host.now = host.now + Nanos::from_millis(millis);
                    host.controller.expire(host.now);
                    host.controller.quiesced(host.controller.round(), host.now);
                }
            }
            while host.controller.next_event().is_some() {
                held -= 1;
            }
            prop_assert!(held <= 4);
            prop_assert!(held == 0 || host.effect != Effect::Reset);
        }
    }
}
