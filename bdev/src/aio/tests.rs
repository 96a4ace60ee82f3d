//! The laws over an AIO context.

use super::*;
use crate::device::BlockDevice;
use crate::file::testing::TestFile;
use crate::{laws, stack};

const OPTIONS: laws::Options = laws::Options {
    keeps: laws::Keeps::Everything,
    verdict: crate::legality::check,
    depth: 8,
    cases: 16,
    steps_max: 80,
};

fn device(_: &mut Cx) -> Arc<dyn BlockDevice> {
    // Gone from its folder at once; open, it is a file like any other.
    Arc::new(Aio::new(TestFile::new(300 * 512).backing(512), None).unwrap())
}

#[test]
fn an_aio_context_keeps_the_laws() {
    laws::check(device, OPTIONS);
}

#[test]
fn an_aio_context_that_is_completed_by_emulation_and_splitting_keeps_the_laws() {
    laws::check(|cx| stack::complete(device(cx)), OPTIONS);
}
