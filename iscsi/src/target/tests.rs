//! The target as an initiator sees it, over sockets in memory and a virtual clock.

mod initiator;

use bdev::scsi::ScsiStatus;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use reactor::Nanos;
use reactor::socket::memory::MemoryLimits;

use super::connection::{LOGIN_TIMEOUT, WINDOW};
use crate::pdu::{TargetOpcode, flag};
use initiator::{BLOCK, Initiator, World};

fn limits() -> MemoryLimits {
    MemoryLimits::default()
}

fn pattern(blocks: usize) -> Vec<u8> {
    (0..blocks * BLOCK).map(|at| (at / 7 % 251) as u8).collect()
}

#[test]
fn who_logs_in_writes_and_reads_what_it_wrote() {
    for keys in [
        &[][..],
        &[("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")],
        &[("InitialR2T", "No"), ("ImmediateData", "No"), ("MaxBurstLength", "4096")],
        &[("ImmediateData", "No"), ("MaxRecvDataSegmentLength", "512")],
        &[("InitialR2T", "No"), ("FirstBurstLength", "1024")],
    ] {
        let mut world = World::new();
        let mut initiator = Initiator::login(&mut world, limits(), keys);
        for blocks in [1, 3, 300, 2048] {
            let data = pattern(blocks);
            assert_eq!(initiator.write(&mut world, 5, &data), ScsiStatus::Good as u8);
            assert_eq!(initiator.read(&mut world, 5, blocks), data);
        }
        assert_eq!(world.cx.dma.taken(), 0);
    }
}

#[test]
fn a_stream_may_be_cut_anywhere() {
    for call_bytes in [1, 7, 47, 1000] {
        let mut world = World::new();
        let limits = MemoryLimits { call_bytes, stream_bytes: 3000 };
        let keys = [("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")];
        let mut initiator = Initiator::login(&mut world, limits, &keys);
        let data = pattern(20);
        assert_eq!(initiator.write(&mut world, 0, &data), ScsiStatus::Good as u8);
        assert_eq!(initiator.read(&mut world, 0, 20), data);
    }
}

#[test]
fn a_wrong_data_digest_fails_the_command_and_nothing_else() {
    let mut world = World::new();
    let mut initiator = Initiator::login(&mut world, limits(), &[("DataDigest", "CRC32C")]);
    initiator.spoil_next_digest = true;
    let data = pattern(1);
    assert_eq!(initiator.write(&mut world, 0, &data), ScsiStatus::CheckCondition as u8);
    assert_eq!(initiator.read(&mut world, 0, 1), vec![0; BLOCK]);
    assert_eq!(initiator.write(&mut world, 0, &data), ScsiStatus::Good as u8);
}

#[test]
fn residuals_say_what_was_too_much_and_what_too_little() {
    let mut world = World::new();
    let mut initiator = Initiator::login(&mut world, limits(), &[]);
    let residual = |answer: &[u8]| {
        let count = u32::from_be_bytes(answer[44..48].try_into().unwrap());
        (answer[1] & (flag::OVERFLOW | flag::UNDERFLOW), count)
    };
    let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    let more = initiator.command(&mut world, &read, flag::READ, 3 * BLOCK as u32, &[]);
    assert_eq!(residual(&more), (flag::UNDERFLOW, BLOCK as u32));
    let less = initiator.command(&mut world, &read, flag::READ, BLOCK as u32, &[]);
    assert_eq!(residual(&less), (flag::OVERFLOW, BLOCK as u32));
    assert_eq!(less[5..8], (BLOCK as u32).to_be_bytes()[1..]);
}

#[test]
fn commands_out_of_order_or_beyond_the_window_are_not_answered() {
    let mut world = World::new();
    let mut initiator = Initiator::login(&mut world, limits(), &[]);
    let expected = initiator.command_sn;
    for wrong in [expected.wrapping_sub(1), expected + 1, expected + WINDOW] {
        initiator.command_sn = wrong;
        initiator.begin(&mut world, &[0], 0, 0, &[]);
        assert!(initiator.next_pdu(&mut world).is_none());
    }
    initiator.command_sn = expected;
    let answer = initiator.command(&mut world, &[0], 0, 0, &[]);
    assert_eq!(answer[3], ScsiStatus::Good as u8);
}

#[test]
fn as_many_commands_as_the_window_holds_are_answered_and_open_it_again() {
    let mut world = World::new();
    let mut initiator = Initiator::login(&mut world, limits(), &[]);
    for _ in 0..2 {
        for _ in 0..WINDOW {
            initiator.begin(&mut world, &[0], flag::FINAL, 0, &[]);
        }
        let answers: Vec<Vec<u8>> = std::iter::from_fn(|| initiator.next_pdu(&mut world)).collect();
        assert_eq!(answers.len(), WINDOW as usize);
        let last = answers.last().unwrap();
        let max = u32::from_be_bytes(last[32..36].try_into().unwrap());
        assert_eq!(max, initiator.command_sn + WINDOW - 1);
    }
}

#[test]
fn data_beyond_what_was_announced_ends_that_session_only() {
    let mut world = World::new();
    let mut good = Initiator::login(&mut world, limits(), &[]);
    let mut bad = Initiator::login(&mut world, limits(), &[("InitiatorName", "iqn.bad")]);
    bad.begin(&mut world, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], flag::WRITE, 512, &[0; 1024]);
    assert!(bad.is_closed(&mut world));
    assert_eq!(good.read(&mut world, 0, 1).len(), BLOCK);
    assert!(world.cx.counters.protocol_errors > 0);
    assert_eq!(world.cx.dma.taken(), 0);
}

#[test]
fn an_aborted_write_is_never_answered_and_its_buffer_is_free() {
    let mut world = World::new();
    let mut initiator = Initiator::login(&mut world, limits(), &[]);
    let tag = initiator.begin(&mut world, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0], 0xa0, 4096, &[]);
    let asked = initiator.next_pdu(&mut world).unwrap();
    assert_eq!(asked[0], TargetOpcode::ReadyToTransfer as u8);
    assert!(world.cx.dma.taken() > 0);
    assert_eq!(initiator.manage(&mut world, 1, tag), 0);
    assert_eq!(initiator.manage(&mut world, 1, tag), 1);
    assert_eq!(world.cx.dma.taken(), 0);
    assert!(initiator.next_pdu(&mut world).is_none());
}

#[test]
fn a_reset_of_the_unit_is_told_with_the_next_command() {
    let mut world = World::new();
    let mut initiator = Initiator::login(&mut world, limits(), &[]);
    assert_eq!(initiator.manage(&mut world, 5, 0), 0);
    let answer = initiator.command(&mut world, &[0], 0, 0, &[]);
    assert_eq!(answer[3], ScsiStatus::CheckCondition as u8);
    assert_eq!((answer[48 + 4], answer[48 + 14..48 + 16].to_vec()), (6, vec![0x29, 3]));
}

#[test]
fn a_ping_comes_back_and_logout_closes() {
    let mut world = World::new();
    let mut initiator = Initiator::login(&mut world, limits(), &[]);
    let pong = initiator.ping(&mut world, b"hello");
    assert_eq!((pong[0], &pong[48..53]), (TargetOpcode::NopIn as u8, &b"hello"[..]));
    initiator.logout(&mut world);
    assert!(initiator.is_closed(&mut world));
    assert_eq!(world.cx.counters.connections, 0);
}

#[test]
fn a_session_that_is_begun_anew_takes_the_place_of_the_old_one() {
    let mut world = World::new();
    let mut old = Initiator::login(&mut world, limits(), &[]);
    let mut new = Initiator::login(&mut world, limits(), &[]);
    assert!(old.is_closed(&mut world));
    assert_eq!(new.read(&mut world, 0, 1).len(), BLOCK);
}

#[test]
fn a_login_that_is_never_finished_ends() {
    let mut world = World::new();
    let mut silent = Initiator::connect(&mut world, limits());
    world.wait(Nanos(LOGIN_TIMEOUT.0 - 1_000_000_000));
    assert!(!silent.is_closed(&mut world));
    world.wait(Nanos::from_secs(2));
    assert!(silent.is_closed(&mut world));
}

#[test]
fn discovery_tells_the_targets_and_takes_no_commands() {
    let mut world = World::new();
    let mut initiator = Initiator::discover(&mut world, limits());
    let text = initiator.text(&mut world, b"SendTargets=All\0");
    let expected = "TargetName=iqn.2019-05.io.openebs:ram\0TargetAddress=127.0.0.1:1,1\0";
    assert_eq!(text, expected.as_bytes());
    initiator.begin(&mut world, &[0], 0, 0, &[]);
    assert!(initiator.is_closed(&mut world));
}

#[test]
fn no_bytes_bring_the_target_down() {
    let world = std::cell::RefCell::new(World::new());
    let strategy = (any::<bool>(), proptest::collection::vec(any::<[u8; 48]>(), 1..8));
    TestRunner::default()
        .run(&strategy, |(is_logged_in, mut pdus)| {
            let world = &mut *world.borrow_mut();
            let mut initiator = match is_logged_in {
                true => Initiator::login(world, limits(), &[]),
                false => Initiator::connect(world, limits()),
            };
            for (index, pdu) in pdus.iter_mut().enumerate() {
                // Opcodes that there are, and lengths that end some time.
                pdu[0] = (pdu[0] & 0x40) | (pdu[0] % 7);
                pdu[4] = 0;
                pdu[5..7].fill(0);
                let next = initiator.command_sn + u32::try_from(index).unwrap();
                pdu[24..28].copy_from_slice(&next.to_be_bytes());
                initiator.send(world, &pdu[..]);
                initiator.send(world, &vec![0; usize::from(pdu[7]).next_multiple_of(4)]);
            }
            drop(initiator);
            world.pump();
            prop_assert_eq!(world.cx.dma.taken(), 0);
            Ok(())
        })
        .unwrap();
}
