//! What a layer tells the reactor about when it must be looked at again (ARCHITECTURE 3 and 4).

use crate::clock::Nanos;

/// When a queue pair, or a service, next needs the core. A parent returns its children's soonest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// It is polled and has work in flight: the core must not sleep.
    Now,
    /// Nothing can happen before this time.
    At(Nanos),
    /// A descriptor in the core's epoll set will fire once the layer is armed.
    Descriptor,
    /// Nothing in flight; only a submission can change that.
    Never,
}

impl Wake {
    /// The more urgent of two.
    #[must_use]
    pub fn soonest(self, other: Wake) -> Wake {
        match (self, other) {
            (Wake::Now, _) | (_, Wake::Now) => Wake::Now,
            (Wake::At(one), Wake::At(two)) => Wake::At(one.min(two)),
            (Wake::At(time), _) | (_, Wake::At(time)) => Wake::At(time),
            (Wake::Descriptor, _) | (_, Wake::Descriptor) => Wake::Descriptor,
            (Wake::Never, Wake::Never) => Wake::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soonest_wake_wins() {
        let at = |time| Wake::At(Nanos(time));
        assert_eq!(Wake::Never.soonest(Wake::Descriptor), Wake::Descriptor);
        assert_eq!(Wake::Descriptor.soonest(at(5)), at(5));
        assert_eq!(at(5).soonest(at(3)), at(3));
        assert_eq!(at(0).soonest(Wake::Now), Wake::Now);
        assert_eq!(Wake::Never.soonest(Wake::Never), Wake::Never);
    }
}
