//! PERSISTENT RESERVE IN and OUT, as words for and from [`crate::reservation`].
//!
//! Called by [`super::unit`] under its lock. What SCSI says otherwise than NVMe is in the comment
//! of that module. SPC-4 sections 5.13, 6.15 and 6.16.

use super::command::ReserveInAction;
use super::reply::Reply;
use super::sense::{Sense, SenseCode};
use super::status::{ScsiStatus, Verdict};
use crate::reservation::{
    Command, Event, Holder, Key, KeyCheck, Outcome, PersistenceChange, PreemptMode, Refusal,
    Registrant, ReservationType, Reservations,
};

/// Bytes of the parameters of every service action that is supported (SPC-4 table 219).
pub(super) const PARAMETER_BYTES: u32 = 24;

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;

/// SPEC_I_PT and ALL_TG_PT, which are not supported, and APTPL.
const OTHER_PORTS: u8 = 0x0c;
const THROUGH_POWER_LOSS: u8 = 0x01;
const OPTIONS_BYTE: u16 = 20;

/// The unit attention that tells of an event.
pub(super) fn code_of(event: Event) -> SenseCode {
    match event {
        Event::RegistrationPreempted => SenseCode::REGISTRATIONS_PREEMPTED,
        Event::ReservationReleased => SenseCode::RESERVATIONS_RELEASED,
        Event::ReservationPreempted => SenseCode::RESERVATIONS_PREEMPTED,
    }
}

/// PERSISTENT RESERVE IN.
pub(super) fn report(state: &Reservations, action: ReserveInAction) -> Reply {
    let mut reply = Reply::new();
    match action {
        ReserveInAction::Keys => {
            reply.long(state.generation()).long(0);
            for registration in state.registrations() {
                reply.quad(registration.key.0);
            }
            reply.set_long_length(4);
        }
        ReserveInAction::Reservation => {
            reply.long(state.generation()).long(0);
            if let Some(held) = state.reservation() {
                // Zero where all registrants hold it (SPC-4 section 6.15.3.2).
                let key = match held.holder {
                    Holder::One(id) => state.registration(&id).map_or(0, |one| one.key.0),
                    Holder::AllRegistrants => 0,
                };
                reply.quad(key).long(0).byte(0).byte(held.kind.scsi_code()).word(0);
            }
            reply.set_long_length(4);
        }
        ReserveInAction::Capabilities => {
            // None of the options; the mask of types is valid and has all six.
            reply.bytes(&[0, 8, 0, 0x80, 0xea, 0x01, 0, 0]);
        }
        ReserveInAction::FullStatus => full_status(state, &mut reply),
    }
    reply
}

fn full_status(state: &Reservations, reply: &mut Reply) {
    reply.long(state.generation()).long(0);
    for registration in state.registrations() {
        let held = state.reservation().filter(|_| state.is_holder(&registration.registrant.id));
        reply.quad(registration.key.0).zeroes(4);
        reply.byte(u8::from(held.is_some())).byte(held.map_or(0, |held| held.kind.scsi_code()));
        // The name is the relative target port, then the TransportID.
        let name = registration.registrant.name.as_bytes();
        let (port, transport) = name.split_at(name.len().min(2));
        reply.zeroes(4).bytes(port).zeroes(2 - port.len());
        reply.long(u32::try_from(transport.len()).expect("a name is short")).bytes(transport);
    }
    reply.set_long_length(4);
}

/// PERSISTENT RESERVE OUT: applies it, or says why not.
pub(super) fn change(
    state: &mut Reservations,
    from: &Registrant,
    action: u8,
    kind: u8,
    parameters: &[u8],
) -> Result<Outcome, Verdict> {
    let Some(fields) = parameters.first_chunk::<{ PARAMETER_BYTES as usize }>() else {
        return Err(Sense::illegal(SenseCode::PARAMETER_LIST_LENGTH).into());
    };
    let key_at = |at: usize| {
        let bytes = fields[at..at + 8].try_into().expect("eight bytes were taken");
        Key(u64::from_be_bytes(bytes))
    };
    let (current, service) = (key_at(0), key_at(8));
    let options = fields[usize::from(OPTIONS_BYTE)];
    if matches!(action, REGISTER | REGISTER_AND_IGNORE) && options & OTHER_PORTS != 0 {
        return Err(Sense::invalid_parameter(OPTIONS_BYTE).into());
    }
    // A device that keeps nothing has nothing to turn off either.
    let persistence = match options & THROUGH_POWER_LOSS {
        0 => PersistenceChange::Keep,
        _ => PersistenceChange::On,
    };
    let reservation_type = || {
        let known = if kind >> 4 == 0 { ReservationType::from_scsi_code(kind & 0xf) } else { None };
        known.ok_or(Verdict::from(Sense::invalid_cdb(2)))
    };
    let is_registered = state.registration(&from.id).is_some();
    let command = match action {
        REGISTER if !is_registered && !current.is_zero() => {
            return Err(Verdict::of(ScsiStatus::ReservationConflict));
        }
        REGISTER | REGISTER_AND_IGNORE if !is_registered && service.is_zero() => {
            return Ok(Outcome::default());
        }
        REGISTER if !is_registered => Command::Register { key: service, persistence },
        REGISTER | REGISTER_AND_IGNORE => {
            let ignores = action == REGISTER_AND_IGNORE;
            let current = if ignores { KeyCheck::Ignore } else { KeyCheck::Is(current) };
            match service.is_zero() {
                true => Command::Unregister { current, persistence },
                false => Command::Replace { current, key: service, persistence },
            }
        }
        RESERVE => Command::Acquire { current, kind: reservation_type()? },
        RELEASE => Command::Release { current, kind: reservation_type()? },
        CLEAR => Command::Clear { current },
        PREEMPT | PREEMPT_AND_ABORT => {
            let mode = match action {
                PREEMPT => PreemptMode::Finish,
                _ => PreemptMode::Abort,
            };
            Command::Preempt { current, target: service, kind: reservation_type()?, mode }
        }
        _ => return Err(Sense::invalid_cdb(1).into()),
    };
    state.apply(from, command).map_err(verdict_of_refusal)
}

fn verdict_of_refusal(refusal: Refusal) -> Verdict {
    match refusal {
        Refusal::Conflict => Verdict::of(ScsiStatus::ReservationConflict),
        Refusal::ZeroKey | Refusal::ZeroPreemptKey => Sense::invalid_parameter(8).into(),
        Refusal::ReleaseType => Sense::illegal(SenseCode::INVALID_RELEASE).into(),
        Refusal::TooManyRegistrants => Sense::illegal(SenseCode::INSUFFICIENT_REGISTRATIONS).into(),
        Refusal::PersistenceUnsupported => Sense::invalid_parameter(OPTIONS_BYTE).into(),
    }
}
