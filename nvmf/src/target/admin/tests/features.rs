//! Get Features and Set Features.

use bdev::Limits;

use super::*;
use crate::target::testing::{TestDevice, config_of};

fn ready() -> Host {
    Host::ready(io_subsystem())
}

fn set(feature: u8, value: u32) -> SubmissionEntry {
    SubmissionEntry::set_feature(1, feature, value)
}

fn get(feature: u8) -> SubmissionEntry {
    SubmissionEntry::get_feature(1, feature)
}

fn select(feature: u8, select: u32) -> SubmissionEntry {
    let mut entry = get(feature);
    entry.cdw10 = U32::new(u32::from(feature) | select << 8);
    entry
}

fn of_namespace(mut entry: SubmissionEntry, id: u32) -> SubmissionEntry {
    entry.namespace_id = U32::new(id);
    entry
}

#[test]
fn queues_are_granted_up_to_the_limit() {
    let mut host = ready();
    assert_eq!(host.run(set(0x07, 3 | 7 << 16)), Ok(3 | 7 << 16));
    assert_eq!(host.controller.io_queues_granted(), 4);
    assert_eq!(host.run(get(0x07)), Ok(3 | 7 << 16));
    assert_eq!(host.run(set(0x07, 127 | 127 << 16)), Ok(127 | 127 << 16));
    assert_eq!(host.run(set(0x07, 128 | 65534 << 16)), Ok(127 | 127 << 16));
    assert_eq!(host.controller.io_queues_granted(), 128);
}

#[test]
fn a_reserved_number_of_queues_is_refused() {
    for value in [0xffff, 0xffff_0000, 0xffff_ffff] {
        assert_eq!(ready().run(set(0x07, value)), Err(Status::INVALID_FIELD));
    }
}

#[test]
fn the_number_of_queues_is_fixed_while_one_is_connected() {
    let mut host = ready();
    host.open_io_queues = 1;
    assert_eq!(host.run(set(0x07, 0)), Err(Status::COMMAND_SEQUENCE_ERROR));
}

#[test]
fn only_events_that_are_offered_can_be_enabled() {
    let mut host = ready();
    let all = 1 << 8 | 1 << 11 | 0xff;
    assert_eq!(host.run(set(0x0b, all)), Ok(0));
    assert_eq!(host.run(get(0x0b)), Ok(u64::from(all)));
    for bit in [9, 10, 12, 14, 31] {
        assert_eq!(host.run(set(0x0b, 1 << bit)), Err(Status::INVALID_FIELD), "bit {bit}");
    }
    assert_eq!(host.run(get(0x0b)), Ok(u64::from(all)));
    let mut discovery = Host::ready(discovery_subsystem());
    assert_eq!(discovery.run(set(0x0b, 1 << 31)), Ok(0));
    assert_eq!(discovery.run(set(0x0b, 1 << 8)), Err(Status::INVALID_FIELD));
}

#[test]
fn the_keep_alive_timer_is_changed_and_turned_off() {
    let mut host = ready();
    assert_eq!(host.run(get(0x0f)), Ok(5000));
    assert_eq!(host.run(set(0x0f, 10_000)), Ok(0));
    assert_eq!(host.controller.deadline(), Some(START + Nanos::from_secs(10)));
    assert_eq!(host.run(set(0x0f, 0)), Ok(0));
    assert_eq!(host.controller.deadline(), None);
}

#[test]
fn a_write_cache_is_a_feature_only_where_there_is_one() {
    assert_eq!(ready().run(get(0x06)), Err(Status::INVALID_FIELD));
    assert_eq!(ready().run(set(0x06, 1)), Err(Status::INVALID_FIELD));
    let limits = Limits { volatile_cache: true, ..Limits::default() };
    let device = TestDevice { limits, ..TestDevice::default() };
    let mut host = Host::ready(Subsystem::new(config_of(vec![(1, device)])).unwrap());
    assert_eq!(host.run(get(0x06)), Ok(1));
    assert_eq!(host.run(set(0x06, 1)), Ok(0));
    assert_eq!(host.run(set(0x06, 0)), Err(Status::FEATURE_NOT_CHANGEABLE));
    assert_eq!(host.run(get(0x06)), Ok(1));
}

#[test]
fn error_recovery_is_kept_by_namespace_without_deallocated_errors() {
    let mut host = ready();
    assert_eq!(host.run(of_namespace(set(0x05, 50), 1)), Ok(0));
    assert_eq!(host.run(of_namespace(get(0x05), 1)), Ok(50));
    assert_eq!(host.run(of_namespace(get(0x05), 3)), Ok(0));
    assert_eq!(host.run(of_namespace(set(0x05, 0xffff), 0xffff_ffff)), Ok(0));
    assert_eq!(host.run(of_namespace(get(0x05), 3)), Ok(0xffff));
    let refused = host.run(of_namespace(set(0x05, 1 << 16), 1));
    assert_eq!(refused, Err(Status::INVALID_FIELD));
    for id in [0, 2, 1025] {
        let unknown = Err(Status::INVALID_NAMESPACE_OR_FORMAT);
        assert_eq!(host.run(of_namespace(set(0x05, 1), id)), unknown);
        assert_eq!(host.run(of_namespace(get(0x05), id)), unknown);
    }
}

#[test]
fn a_feature_of_the_controller_is_not_set_by_namespace() {
    let refused = ready().run(of_namespace(set(0x0b, 0), 1));
    assert_eq!(refused, Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC));
    assert_eq!(ready().run(of_namespace(set(0x0b, 0), 0xffff_ffff)), Ok(0));
}

#[test]
fn temperature_thresholds_are_of_the_composite_sensor() {
    let mut host = ready();
    assert_eq!(host.run(set(0x04, 350)), Ok(0));
    assert_eq!(host.run(set(0x04, 280 | 1 << 20)), Ok(0));
    let at = |kind: u32, sensor: u32| {
        let mut entry = get(0x04);
        entry.cdw11 = U32::new(sensor << 16 | kind << 20);
        entry
    };
    assert_eq!(host.run(at(0, 0)), Ok(350));
    assert_eq!(host.run(at(1, 0)), Ok(280));
    assert_eq!(host.run(at(0, 1)), Err(Status::INVALID_FIELD));
    assert_eq!(host.run(at(2, 0)), Err(Status::INVALID_FIELD));
    assert_eq!(host.run(set(0x04, 300 | 0xf << 16)), Ok(0));
    assert_eq!(host.run(at(0, 0)), Ok(300));
    assert_eq!(host.run(set(0x04, 300 | 1 << 16)), Err(Status::INVALID_FIELD));
}

#[test]
fn power_arbitration_and_atomicity_keep_what_they_are_given() {
    let mut host = ready();
    assert_eq!(host.run(set(0x02, 0b010_00000)), Ok(0));
    assert_eq!(host.run(get(0x02)), Ok(0b010_00000));
    assert_eq!(host.run(set(0x02, 1)), Err(Status::INVALID_FIELD));
    assert_eq!(host.run(get(0x01)), Ok(7));
    assert_eq!(host.run(set(0x01, 0x0102_0303)), Ok(0));
    assert_eq!(host.run(get(0x01)), Ok(0x0102_0303));
    assert_eq!(host.run(set(0x0a, 1)), Ok(0));
    assert_eq!(host.run(get(0x0a)), Ok(1));
}

#[test]
fn host_behavior_is_given_and_read_back() {
    let mut host = ready();
    let mut data = [0; 512];
    data[..3].copy_from_slice(&[1, 0, 1]);
    assert_eq!(host.give(set(0x16, 0), &data), Ok(0));
    assert_eq!(host.fetch(get(0x16), 512).unwrap(), data);
    data[1] = 2;
    assert_eq!(host.give(set(0x16, 0), &data), Err(Status::INVALID_FIELD));
    assert_eq!(host.give(set(0x16, 0), &data[..511]), Err(Status::DATA_SGL_LENGTH_INVALID));
    assert_eq!(host.fetch(get(0x16), 511), Err(Status::DATA_SGL_LENGTH_INVALID));
}

#[test]
fn a_timestamp_runs_on_from_what_was_set() {
    let mut host = ready();
    host.now = START + Nanos::from_millis(20);
    assert_eq!(host.fetch(get(0x0e), 8).unwrap(), [20, 0, 0, 0, 0, 0, 0, 0]);
    host.give(set(0x0e, 0), &[0, 1, 0, 0, 0, 1, 0xff, 0xff]).unwrap();
    host.now = START + Nanos::from_millis(25);
    assert_eq!(host.fetch(get(0x0e), 8).unwrap(), [5, 1, 0, 0, 0, 1, 2, 0]);
}

#[test]
fn the_host_identifier_is_read_whole_and_never_set() {
    let mut host = ready();
    let mut entry = get(0x81);
    assert_eq!(host.fetch(entry, 8), Err(Status::INVALID_FIELD));
    entry.cdw11 = U32::new(1);
    assert_eq!(host.fetch(entry, 16).unwrap(), [9; 16]);
    assert_eq!(host.give(set(0x81, 1), &[1; 16]), Err(Status::COMMAND_SEQUENCE_ERROR));
}

#[test]
fn selected_values_are_current_default_and_capabilities() {
    let mut host = ready();
    host.run(set(0x0b, 1 << 8)).unwrap();
    assert_eq!(host.run(select(0x0b, 0)), Ok(1 << 8));
    assert_eq!(host.run(select(0x0b, 1)), Ok(0));
    assert_eq!(host.run(select(0x0b, 2)), Ok(0));
    assert_eq!(host.run(select(0x0b, 3)), Ok(0b100));
    assert_eq!(host.run(select(0x05, 3)), Ok(0b110));
    assert_eq!(host.run(select(0x16, 3)), Ok(0b100));
    assert_eq!(host.run(select(0x81, 3)), Ok(0));
    for reserved in 4..8 {
        assert_eq!(host.run(select(0x0b, reserved)), Err(Status::INVALID_FIELD));
    }
}

#[test]
fn nothing_can_be_saved() {
    let mut entry = set(0x0b, 0);
    entry.cdw10 = U32::new(0x0b | 1 << 31);
    assert_eq!(ready().run(entry), Err(Status::FEATURE_NOT_SAVEABLE));
}

#[test]
fn features_that_are_not_offered_are_refused() {
    let offered = [0x01, 0x02, 0x04, 0x05, 0x07, 0x0a, 0x0b, 0x0e, 0x0f, 0x16, 0x81, 0x82, 0x83];
    for feature in (0..=0xff).filter(|feature| !offered.contains(feature)) {
        assert_eq!(ready().run(get(feature)), Err(Status::INVALID_FIELD), "{feature:#x}");
        assert_eq!(ready().run(set(feature, 0)), Err(Status::INVALID_FIELD), "{feature:#x}");
    }
    let mut discovery = Host::ready(discovery_subsystem());
    for feature in [0x01, 0x05, 0x07] {
        assert_eq!(discovery.run(get(feature)), Err(Status::INVALID_FIELD));
    }
}
