//! Which address a supervisor tries next: one for good, or each that discovery controllers name.
//!
//! Owned by the supervisor. Addresses that were found are tried in turn, the one of the last
//! session first; only when all have failed are they found anew, so that a target stays reachable
//! while those who tell of it are not.

use std::net::SocketAddr;

use super::options::RemoteOptions;

/// Where the subsystem is.
#[derive(Debug)]
pub(super) enum Route {
    /// At the address of the options.
    Fixed,
    /// Where these discovery controllers say.
    Discovered {
        controllers: Vec<SocketAddr>,
        /// What was found last, in order.
        portals: Vec<SocketAddr>,
        /// How many of them were not tried since; the others come first.
        untried: usize,
    },
}

impl Route {
    /// The one that options say.
    pub fn of(options: &RemoteOptions) -> Route {
        match options.discovery.as_slice() {
            [] => Route::Fixed,
            controllers => Route::Discovered {
                controllers: controllers.to_vec(),
                portals: Vec::new(),
                untried: 0,
            },
        }
    }

    /// Takes the next address to try; none when there are only tried ones.
    pub fn take(&mut self, fixed: SocketAddr) -> Option<SocketAddr> {
        match self {
            Route::Fixed => Some(fixed),
            Route::Discovered { portals, untried, .. } => {
                let next = portals.len() - *untried;
                *untried = untried.checked_sub(1)?;
                Some(portals[next])
            }
        }
    }

    /// All that are known may be tried again, first this one.
    pub fn again(&mut self, first: SocketAddr) {
        let Route::Discovered { portals, untried, .. } = self else { return };
        if let Some(index) = portals.iter().position(|portal| *portal == first) {
            portals.rotate_left(index);
        }
        *untried = portals.len();
    }

    /// Whether there is one to try at once.
    pub fn has_untried(&self) -> bool {
        matches!(self, Route::Discovered { untried: 1.., .. })
    }

    /// Found anew.
    pub fn set(&mut self, found: Vec<SocketAddr>) {
        if let Route::Discovered { portals, untried, .. } = self {
            *untried = found.len();
            *portals = found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_fixed_address_is_always_tried_again_after_a_while() {
        let mut route = Route::Fixed;
        for _ in 0..3 {
            assert_eq!(route.take(address(1)), Some(address(1)));
            assert!(!route.has_untried());
        }
    }

    #[test]
    fn what_was_found_is_tried_in_turn_and_the_last_good_one_first() {
        let controllers = vec![address(9)];
        let mut route = Route::Discovered { controllers, portals: Vec::new(), untried: 0 };
        assert_eq!(route.take(address(0)), None);
        route.set((1..=3).map(address).collect());
        assert!(route.has_untried());
        assert_eq!(route.take(address(0)), Some(address(1)));
        assert_eq!(route.take(address(0)), Some(address(2)));
        // A session began there, and was lost.
        route.again(address(2));
        let order: Vec<_> = std::iter::from_fn(|| route.take(address(0))).collect();
        assert_eq!(order, [address(2), address(3), address(1)]);
        assert!(!route.has_untried());
    }
}
