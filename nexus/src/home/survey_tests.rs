//! What children are found to be, wherever a creation or a rebuild was cut short.

use std::sync::Arc;

use reactor::cx::test_context;
use reactor::random::Random;
use reactor::{Cx, Nanos};
use uuid::Uuid;

use super::tracked_tests::{
    NEXUS, Process, REGION_BLOCKS, child_config, disks, format, format_with, spec,
};
use crate::config::ChildConfig;
use crate::truth::Discard;
use crate::truth::names::NexusId;
use crate::truth::tracked::{Finding, Format, FormatSpec, Survey, SurveyError};
use crate::volatile_disk::{Mood, VolatileDisk};

/// More passes than a creation takes.
const PASSES_MAX: usize = 60;

const OTHER: NexusId = NexusId(Uuid::from_u128(0xdef));

fn children(disks: &[&Arc<VolatileDisk>]) -> Vec<ChildConfig> {
    disks.iter().enumerate().map(|(number, disk)| child_config(number, disk)).collect()
}

fn survey(disks: &[&Arc<VolatileDisk>]) -> Result<Finding, SurveyError> {
    let (mut cx, hand) = test_context();
    let mut survey = Survey::new(&children(disks));
    for _ in 0..100 {
        if let Some(found) = survey.poll(&mut cx) {
            assert!(survey.is_still());
            return found;
        }
        hand.advance(Nanos::from_secs(1));
        cx.advance_clock();
    }
    panic!("it never ends: {survey:?}");
}

fn context(seed: u64) -> Cx {
    let (mut cx, _) = test_context();
    cx.random = Random::new(seed);
    cx
}

/// Three disks whose creation ended after some passes; true when that was all of it.
fn cut_short(passes: usize, seed: u64) -> (Vec<Arc<VolatileDisk>>, bool) {
    let disks = disks(3);
    let all: Vec<_> = disks.iter().collect();
    let mut cx = context(seed);
    let mut format = Format::new(spec(), &children(&all)).unwrap();
    for _ in 0..passes {
        if format.poll(&mut cx).is_some() {
            return (disks, true);
        }
    }
    format.give_up(&mut cx);
    while !format.is_still() {
        assert_eq!(format.poll(&mut cx), None);
    }
    (disks, false)
}

#[test]
fn a_creation_that_was_cut_short_anywhere_is_done_again_or_opened() {
    let (mut was_begun, mut was_whole) = (false, false);
    for passes in 0..PASSES_MAX {
        // Whom an attempt has promised must not matter to the next one.
        let (disks, is_whole) = cut_short(passes, 100 + passes as u64);
        let all: Vec<_> = disks.iter().collect();
        match survey(&all) {
            Ok(Finding::Blank(begun)) => {
                assert!(!is_whole && begun.is_none_or(|begun| begun == NEXUS));
                was_begun |= begun.is_some();
                format_with(spec(), &children(&all)).unwrap();
            }
            Ok(Finding::Volume { nexus, .. }) => assert_eq!(nexus, NEXUS),
            other => panic!("after {passes} passes: {other:?}"),
        }
        let mut process = Process::start(&disks);
        process.open();
        process.write(REGION_BLOCKS, 7);
        assert_eq!(process.read(REGION_BLOCKS), 7);
        was_whole |= is_whole;
    }
    assert!(was_begun && was_whole, "it was cut short in the middle, and it ended");
}

#[test]
fn a_creation_cut_short_while_it_made_members_is_opened_from_those() {
    let disks = disks(3);
    format(&disks[..1]);
    let all: Vec<_> = disks.iter().collect();
    // Two have promised only: found by hand, as all of them are written in the same passes.
    let mut cx = context(7);
    let mut attempt = Format::new(spec(), &children(&all[1..])).unwrap();
    while !matches!(survey(&all[1..]), Ok(Finding::Blank(Some(_)))) {
        assert_eq!(attempt.poll(&mut cx), None);
    }
    attempt.give_up(&mut cx);
    let found = survey(&all);
    assert!(matches!(found, Ok(Finding::Volume { nexus: NEXUS, .. })), "{found:?}");
}

#[test]
fn a_rebuild_target_is_never_taken_for_a_blank_one() {
    let disks = disks(4);
    format(&disks[..3]);
    let mut process = Process::start(&disks[..3]);
    process.open();
    process.write(REGION_BLOCKS, 1);
    process.home.add(child_config(3, &disks[3])).unwrap();
    assert_eq!(survey(&[&disks[3]]), Ok(Finding::Blank(None)));
    process.home.begin_target(&mut process.cx, "child3", Discard::No).unwrap();
    let mut has_label = false;
    for _ in 0..PASSES_MAX {
        process.pass();
        let found = survey(&[&disks[3]]);
        has_label |= found != Ok(Finding::Blank(None));
        let is_of_volume = matches!(found, Ok(Finding::Volume { nexus: NEXUS, .. }));
        assert!(!has_label || is_of_volume, "{found:?}");
    }
    assert!(has_label);
}

#[test]
fn what_does_not_belong_together_is_said_and_what_is_damaged_is_left_to_the_volume() {
    let disks = disks(6);
    let [one, two, other, blank, bad, empty] = &disks[..] else { unreachable!() };
    format(&[one.clone(), two.clone()]);
    let spec = FormatSpec { nexus: OTHER, ..spec() };
    format_with(spec, &children(&[other])).unwrap();
    let mixed = survey(&[one, blank]);
    assert!(matches!(mixed, Err(SurveyError::Mixed { .. })), "{mixed:?}");
    let both = survey(&[one, other]);
    assert!(matches!(both, Err(SurveyError::TwoVolumes { .. })), "{both:?}");
    bad.state().spoil(0);
    bad.state().spoil(1);
    let damaged = survey(&[bad, blank]);
    assert!(matches!(damaged, Err(SurveyError::NotBlank { .. })), "{damaged:?}");
    // Something else's beside it hides nothing.
    blank.state().spoil(0);
    let words = survey(&[blank, bad]).unwrap_err().to_string();
    assert!(words.contains("; ") && words.matches("is no replica and not blank").count() == 2);
    let beside = survey(&[one, bad, two]);
    assert!(matches!(beside, Ok(Finding::Volume { nexus: NEXUS, .. })), "{beside:?}");
    for mood in [Mood::Gone, Mood::Hung] {
        two.set(mood);
        let silent = survey(&[two, empty]);
        assert!(matches!(silent, Err(SurveyError::NotBlank { .. })), "{silent:?}");
        let rest = survey(&[two, one]);
        assert!(matches!(rest, Ok(Finding::Volume { nexus: NEXUS, .. })), "{rest:?}");
    }
}
