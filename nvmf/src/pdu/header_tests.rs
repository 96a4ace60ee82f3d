//! Tests of the common header: one for every way in which it can be wrong.

use super::*;
use crate::pdu::framing::{DataAlignment, Digests};
use proptest::prelude::*;

const CAPSULE_DATA_BYTES_MAX: u32 = 8192;
const DATA_BYTES_MAX: u32 = 131_072;

fn framing(header: bool, data: bool, alignment_field: u8) -> Framing {
    Framing {
        digests: Digests { header, data },
        data_alignment: DataAlignment::from_field(alignment_field).unwrap(),
    }
}

fn rules(receiver: Role, framing: Framing) -> Rules {
    Rules {
        receiver,
        phase: Phase::Connected,
        framing,
        capsule_data_bytes_max: CAPSULE_DATA_BYTES_MAX,
        data_bytes_max: DATA_BYTES_MAX,
    }
}

/// Type, flags, HLEN, PDO and PLEN against a connection without digests.
fn plain(pdu: (u8, u8, u8, u8, u32)) -> Result<PduHeader, HeaderError> {
    let receiver = if pdu.0 & 1 == 0 { Role::Controller } else { Role::Host };
    with(pdu, &rules(receiver, Framing::default()))
}

fn with(pdu: (u8, u8, u8, u8, u32), rules: &Rules) -> Result<PduHeader, HeaderError> {
    let [a, b, c, d] = pdu.4.to_le_bytes();
    decode(&[pdu.0, pdu.1, pdu.2, pdu.3, a, b, c, d], rules)
}

fn terminated(status: FatalErrorStatus) -> HeaderError {
    HeaderError::Terminate(TermReason::new(status, 0))
}

#[test]
fn a_capsule_with_data_is_described_to_the_byte() {
    let rules = rules(Role::Controller, framing(true, true, 31));
    let parts = with((4, 3, 72, 128, 128 + 512 + 4), &rules).unwrap();
    let expected = PduHeader {
        kind: PduKind::CommandCapsule,
        flags: Flags(3),
        header_bytes: 72,
        header_digest_bytes: 4,
        data_offset: 128,
        data_digest_bytes: 4,
        data_bytes: 512,
        pdu_bytes: 644,
    };
    assert_eq!(parts, expected);
}

#[test]
fn reserved_types_and_wrong_directions_are_invalid_at_offset_0() {
    for pdu_type in (0..=u8::MAX).filter(|t| PduKind::from_type(*t).is_none()) {
        assert_eq!(plain((pdu_type, 0, 24, 0, 24)), Err(invalid(0)));
    }
    for kind in PduKind::ALL {
        let wrong = if kind.receiver() == Role::Host { Role::Controller } else { Role::Host };
        let bytes = kind.header_bytes();
        let pdu = (kind.pdu_type(), 0, bytes, bytes, u32::from(bytes));
        assert_eq!(with(pdu, &rules(wrong, Framing::default())), Err(invalid(0)));
    }
}

#[test]
fn kinds_out_of_sequence_are_sequence_errors() {
    let sequence = terminated(FatalErrorStatus::SequenceError);
    assert_eq!(plain((0, 0, 128, 0, 128)), Err(sequence));
    assert_eq!(plain((1, 0, 128, 0, 128)), Err(sequence));
    let mut early = rules(Role::Controller, Framing::default());
    early.phase = Phase::Initializing;
    assert_eq!(with((4, 0, 72, 0, 72), &early), Err(sequence));
    assert!(with((0, 0, 128, 0, 128), &early).is_ok());
    assert!(with((2, 0, 24, 0, 24), &early).is_ok());
}

#[test]
fn reserved_flags_are_invalid_at_offset_1() {
    for kind in PduKind::ALL.into_iter().filter(|kind| !kind.is_term_request()) {
        let bytes = kind.header_bytes();
        let mut rules = rules(kind.receiver(), Framing::default());
        if kind.is_initialize() {
            rules.phase = Phase::Initializing;
        }
        let plen = u32::from(bytes) + if kind.has_data() { 4 } else { 0 };
        for bit in 0..8 {
            let flags = 1 << bit;
            let allowed = matches!((kind, flags), (PduKind::H2cData | PduKind::C2hData, 4));
            let result = with((kind.pdu_type(), flags, bytes, bytes, plen), &rules);
            assert_eq!(result.is_ok(), allowed, "{kind:?} {flags:#x}");
            assert!(allowed || result == Err(invalid(1)), "{kind:?} {flags:#x}");
        }
    }
}

#[test]
fn digest_flags_must_be_what_was_negotiated() {
    let header = rules(Role::Controller, framing(true, false, 0));
    assert_eq!(with((4, 0, 72, 0, 72), &header), Err(invalid(1)));
    assert!(with((4, 1, 72, 0, 76), &header).is_ok());
    assert_eq!(with((4, 3, 72, 76, 80), &header), Err(invalid(1)));
    let data = rules(Role::Controller, framing(false, true, 0));
    assert_eq!(with((4, 0, 72, 72, 80), &data), Err(invalid(1)));
    assert!(with((4, 2, 72, 72, 80), &data).is_ok());
    assert_eq!(with((6, 4, 24, 24, 32), &data), Err(invalid(1)));
    assert!(with((6, 6, 24, 24, 32), &data).is_ok());
    let host = rules(Role::Host, framing(true, true, 0));
    assert_eq!(with((5, 0, 24, 0, 24), &host), Err(invalid(1)));
    assert!(with((5, 1, 24, 0, 28), &host).is_ok());
    assert_eq!(with((5, 3, 24, 0, 28), &host), Err(invalid(1)));
}

#[test]
fn a_capsule_without_data_may_leave_the_data_digest_flag() {
    let data = rules(Role::Controller, framing(false, true, 0));
    for flags in [0, 2] {
        let parts = with((4, flags, 72, 0, 72), &data).unwrap();
        assert_eq!((parts.data_bytes, parts.data_digest_bytes), (0, 0));
    }
}

#[test]
fn success_before_the_last_pdu_is_invalid_at_offset_1() {
    assert_eq!(plain((7, 8, 24, 24, 32)), Err(invalid(1)));
    assert!(plain((7, 12, 24, 24, 32)).is_ok());
}

#[test]
fn a_header_length_one_off_is_invalid_at_offset_2() {
    for kind in PduKind::ALL.into_iter().filter(|kind| !kind.is_term_request()) {
        let bytes = kind.header_bytes();
        let mut rules = rules(kind.receiver(), Framing::default());
        if kind.is_initialize() {
            rules.phase = Phase::Initializing;
        }
        let plen = u32::from(bytes) + if kind.has_data() { 4 } else { 0 };
        assert!(with((kind.pdu_type(), 0, bytes, bytes, plen), &rules).is_ok());
        for wrong in [0, bytes - 1, bytes + 1, u8::MAX] {
            let result = with((kind.pdu_type(), 0, wrong, bytes, plen), &rules);
            assert_eq!(result, Err(invalid(2)), "{kind:?}");
        }
    }
}

#[test]
fn a_data_offset_misaligned_or_inside_the_header_is_invalid_at_offset_3() {
    for wrong in [0, 68, 71, 73, 74, 75] {
        assert_eq!(plain((4, 0, 72, wrong, 584)), Err(invalid(3)), "{wrong}");
    }
    let aligned = rules(Role::Controller, framing(true, false, 15));
    for (offset, is_good) in [(64, false), (76, false), (124, false), (128, true), (192, true)] {
        let result = with((4, 1, 72, offset, 1000), &aligned);
        assert_eq!(result.is_ok(), is_good, "{offset}");
        assert!(is_good || result == Err(invalid(3)), "{offset}");
    }
}

#[test]
fn a_data_offset_of_a_pdu_without_data_is_ignored() {
    assert!(plain((4, 0, 72, 0xff, 72)).is_ok());
    assert!(plain((5, 0, 24, 0xff, 24)).is_ok());
}

#[test]
fn lengths_one_off_are_invalid_at_offset_4() {
    for plen in [0, 8, 23, 25, u32::MAX] {
        assert_eq!(plain((5, 0, 24, 0, plen)), Err(invalid(4)));
        assert_eq!(plain((9, 0, 24, 0, plen)), Err(invalid(4)));
    }
    for plen in [0, 23, 24] {
        assert_eq!(plain((6, 0, 24, 24, plen)), Err(invalid(4)), "{plen}");
    }
    assert_eq!(plain((4, 0, 72, 72, 71)), Err(invalid(4)));
    let data = rules(Role::Controller, framing(false, true, 0));
    assert_eq!(with((6, 6, 24, 24, 28), &data), Err(invalid(4)));
    assert_eq!(with((6, 6, 24, 24, 29), &data).unwrap().data_bytes, 1);
}

#[test]
fn in_capsule_data_has_a_largest_length() {
    let plen = 72 + CAPSULE_DATA_BYTES_MAX;
    assert_eq!(plain((4, 0, 72, 72, plen)).unwrap().data_bytes, CAPSULE_DATA_BYTES_MAX);
    assert_eq!(plain((4, 0, 72, 72, plen + 1)), Err(invalid(4)));
    assert_eq!(plain((4, 0, 72, 72, u32::MAX)), Err(invalid(4)));
}

#[test]
fn data_pdus_have_a_largest_length() {
    let plen = 24 + DATA_BYTES_MAX;
    assert_eq!(plain((6, 0, 24, 24, plen)).unwrap().data_bytes, DATA_BYTES_MAX);
    let limit = terminated(FatalErrorStatus::DataLimitExceeded);
    assert_eq!(plain((6, 0, 24, 24, plen + 1)), Err(limit));
    assert_eq!(plain((7, 0, 24, 24, plen)).unwrap().data_bytes, DATA_BYTES_MAX);
    let range = terminated(FatalErrorStatus::DataOutOfRange);
    assert_eq!(plain((7, 0, 24, 24, plen + 1)), Err(range));
}

#[test]
fn a_malformed_termination_request_closes_without_an_answer() {
    for kind in [2, 3] {
        assert!(plain((kind, 0, 24, 0, 24)).is_ok());
        assert_eq!(plain((kind, 0, 24, 0, 152)).unwrap().data_bytes, 128);
        for plen in [0, 23, 153, u32::MAX] {
            assert_eq!(plain((kind, 0, 24, 0, plen)), Err(HeaderError::Close));
        }
        assert_eq!(plain((kind, 0, 25, 0, 24)), Err(HeaderError::Close));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_described_within_their_length_or_refused(
        bytes: [u8; 8],
        type_in_range in 0u8..10,
        small_plen: u16,
        header: bool,
        data: bool,
        alignment_field in 0u8..=31,
        is_host: bool,
        is_connected: bool,
    ) {
        let receiver = if is_host { Role::Host } else { Role::Controller };
        let mut rules = rules(receiver, framing(header, data, alignment_field));
        if !is_connected {
            rules.phase = Phase::Initializing;
        }
        let mut likely = bytes;
        likely[0] = type_in_range;
        if let Some(kind) = PduKind::from_type(type_in_range) {
            likely[1] &= kind.flags_allowed().0;
            likely[2] = kind.header_bytes();
        }
        likely[4..].copy_from_slice(&u32::from(small_plen).to_le_bytes());
        for candidate in [bytes, likely] {
            let Ok(parts) = decode(&candidate, &rules) else { continue };
            let before = u32::from(parts.data_offset);
            let after = u32::from(parts.data_digest_bytes);
            prop_assert_eq!(before + parts.data_bytes + after, parts.pdu_bytes);
            prop_assert!(parts.data_offset >= parts.header_bytes + parts.header_digest_bytes);
            prop_assert!(
                parts.data_bytes <= CAPSULE_DATA_BYTES_MAX.max(DATA_BYTES_MAX)
            );
            prop_assert_eq!(parts.kind.receiver(), receiver);
        }
    }
}
