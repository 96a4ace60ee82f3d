//! What the admin side says of reservations: features 82h and 83h, log page 80h, its event.

use bdev::nvme::reservation::mask;
use bdev::reservation::{Event, PersistenceChange};

use super::*;

fn of_namespace(mut entry: SubmissionEntry, id: u32) -> SubmissionEntry {
    entry.namespace_id = U32::new(id);
    entry
}

fn get(feature: u8, id: u32) -> SubmissionEntry {
    of_namespace(SubmissionEntry::get_feature(1, feature), id)
}

fn set(feature: u8, id: u32, value: u32) -> SubmissionEntry {
    of_namespace(SubmissionEntry::set_feature(1, feature, value), id)
}

/// The log page, read whole: number, type, what waits behind it, namespace.
fn read(host: &mut Host, retain: u32) -> (u8, u8, u8, u8) {
    let mut entry = SubmissionEntry::new(0x02, 1, 0);
    entry.cdw10 = U32::new(0x80 | retain << 15 | 15 << 16);
    let page = host.fetch(entry, 64).unwrap();
    (page[0], page[8], page[9], page[12])
}

#[test]
fn a_mask_is_of_one_namespace_or_of_all() {
    let mut host = Host::ready(io_subsystem());
    assert_eq!(host.run(get(0x82, 1)), Ok(0));
    assert_eq!(host.run(set(0x82, 1, mask::RESERVATION_RELEASED)), Ok(0));
    assert_eq!(host.run(get(0x82, 1)), Ok(4));
    assert_eq!(host.run(get(0x82, 3)), Ok(0));
    assert_eq!(host.run(set(0x82, u32::MAX, mask::ALL)), Ok(0));
    assert_eq!(host.run(get(0x82, 3)), Ok(14));
    assert_eq!(host.run(set(0x82, 1, 1)), Err(Status::INVALID_FIELD));
    let unknown = Err(Status::INVALID_NAMESPACE_OR_FORMAT);
    assert_eq!(host.run(set(0x82, 2, 0)), unknown);
    assert_eq!(host.run(get(0x82, u32::MAX)), unknown);
}

#[test]
fn persistence_is_asked_of_the_keeper() {
    let mut host = Host::ready(io_subsystem());
    let mut ask = |entry: SubmissionEntry| {
        let entry = entry.with_sgl(SglDescriptor::transport_data_block(0));
        host.execute(&entry, &[], &mut [])
    };
    let namespace = NamespaceId(3);
    let asks = |change| AdminOutcome::Persistence { namespace, change };
    assert_eq!(ask(get(0x83, 3)), asks(None));
    assert_eq!(ask(set(0x83, 3, 1)), asks(Some(PersistenceChange::On)));
    assert_eq!(ask(set(0x83, 3, 0)), asks(Some(PersistenceChange::Off)));
    assert_eq!(host.run(set(0x83, 3, 2)), Err(Status::INVALID_FIELD));
    let mut saved = set(0x83, 3, 1);
    saved.cdw10 = U32::new(0x83 | 1 << 31);
    assert_eq!(host.run(saved), Err(Status::FEATURE_NOT_SAVEABLE));
    let mut discovery = Host::ready(discovery_subsystem());
    assert_eq!(discovery.run(get(0x83, 1)), Err(Status::INVALID_FIELD));
}

#[test]
fn notifications_are_told_of_and_read_one_after_the_other() {
    let mut host = Host::ready(io_subsystem());
    (1..4).for_each(|command_id| host.hold(command_id).unwrap());
    host.controller.notice_reservation(NamespaceId(1), Event::RegistrationPreempted);
    host.controller.notice_reservation(NamespaceId(3), Event::ReservationPreempted);
    assert_eq!(host.controller.next_event().unwrap().result, 0x0080_0006);
    assert_eq!(host.controller.next_event(), None, "told once until it is read");
    assert_eq!(read(&mut host, 1), (1, 1, 1, 1));
    assert_eq!(host.controller.next_event(), None, "it was to be retained");
    assert_eq!(read(&mut host, 0), (1, 1, 1, 1));
    assert_eq!(host.controller.next_event().unwrap().result, 0x0080_0006, "another waits");
    assert_eq!(read(&mut host, 0), (2, 3, 0, 3));
    assert_eq!(host.controller.next_event(), None);
    assert_eq!(read(&mut host, 0), (0, 0, 0, 0));
}

#[test]
fn what_is_masked_raises_nothing() {
    let mut host = Host::ready(io_subsystem());
    host.hold(1).unwrap();
    host.run(set(0x82, 1, mask::REGISTRATION_PREEMPTED)).unwrap();
    host.controller.notice_reservation(NamespaceId(1), Event::RegistrationPreempted);
    assert_eq!(host.controller.next_event(), None);
    assert_eq!(read(&mut host, 0), (0, 0, 0, 0));
}

#[test]
fn a_reset_forgets_notifications_and_masks() {
    let mut host = Host::ready(io_subsystem());
    host.run(set(0x82, 1, mask::ALL)).unwrap();
    host.controller.notice_reservation(NamespaceId(3), Event::RegistrationPreempted);
    host.configure(ENABLE & !1).unwrap();
    host.controller.quiesced(host.controller.round(), host.now);
    host.configure(ENABLE).unwrap();
    assert_eq!(host.run(get(0x82, 1)), Ok(0));
    assert_eq!(read(&mut host, 0), (0, 0, 0, 0));
}

#[test]
fn a_namespace_has_all_types_and_persistence_where_the_device_can_keep_it() {
    let mut host = Host::ready(io_subsystem());
    let page = host.fetch(SubmissionEntry::new(0x06, 1, 1), 4096).unwrap();
    assert_eq!((page[30], page[31]), (1, 0b1111_1110), "NMIC and RESCAP");
}
