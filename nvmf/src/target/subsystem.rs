//! A subsystem: what a host connects to, as every core sees it.
//!
//! Put together on a control thread from a [`SubsystemConfig`], then immutable and shared as
//! `Arc<Subsystem>`; a change makes a new one. NVMe Base 2.0 section 1.4 and Fabrics sections
//! 2.2 and 3.1.

use std::ops::RangeInclusive;

use super::limits::{LimitError, NAMESPACES_LIMIT, TargetLimits};
use super::namespace::{Namespace, NamespaceId, derived_serial};
use super::statistics::IoStatistics;
use crate::fabrics::Nqn;

/// Model number that Identify Controller shows.
pub const MODEL: &str = "Mayastor NVMe controller";
/// Firmware revision that Identify Controller shows, eight bytes: the crate's version.
pub const FIRMWARE: &str = env!("CARGO_PKG_VERSION");
/// Lowest controller identifier that may be given out; 0 is kept free, as hosts print it for
/// "none".
pub const CONTROLLER_ID_MIN: u16 = 1;
/// Highest controller identifier (NVMe Base 2.0 section 3.1.2: FFF0h to FFFFh are reserved).
pub const CONTROLLER_ID_MAX: u16 = 0xffef;

/// What kind of controllers a subsystem has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubsystemKind {
    /// Discovery controllers: a log of what else there is, no namespaces.
    Discovery,
    /// I/O controllers with the NVM command set.
    Nvm,
}

/// Which hosts may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPolicy {
    /// Every host.
    Any,
    /// Only those named.
    Only(Vec<Nqn>),
}

impl HostPolicy {
    /// Whether `host` may connect.
    pub fn allows(&self, host: &Nqn) -> bool {
        match self {
            Self::Any => true,
            Self::Only(hosts) => hosts.contains(host),
        }
    }
}

/// What a subsystem is made from.
#[derive(Clone, Debug)]
pub struct SubsystemConfig {
    /// Its name.
    pub nqn: Nqn,
    /// What kind of controllers it has.
    pub kind: SubsystemKind,
    /// Which hosts may connect.
    pub hosts: HostPolicy,
    /// Its namespaces, in any order; none for a discovery subsystem.
    pub namespaces: Vec<Namespace>,
    /// The identifiers of its controllers, within [`CONTROLLER_ID_MIN`] to [`CONTROLLER_ID_MAX`].
    pub controller_ids: RangeInclusive<u16>,
    /// What hosts may have.
    pub limits: TargetLimits,
    /// Drawn at random when the process starts, so that a host on the same machine can tell its
    /// own controllers; vendor specific bytes of Identify Controller.
    pub instance: [u8; 16],
}

impl SubsystemConfig {
    /// A subsystem with defaults: any host, no namespaces, all controller identifiers.
    pub fn new(nqn: Nqn, kind: SubsystemKind, instance: [u8; 16]) -> Self {
        Self {
            nqn,
            kind,
            hosts: HostPolicy::Any,
            namespaces: Vec::new(),
            controller_ids: CONTROLLER_ID_MIN..=CONTROLLER_ID_MAX,
            limits: TargetLimits::default(),
            instance,
        }
    }
}

/// Why a subsystem cannot be made; the caller knows its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubsystemError {
    /// A limit is out of its range.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A namespace identifier is 0 or past [`NAMESPACES_LIMIT`].
    #[error("namespace {0} is not 1 to {NAMESPACES_LIMIT}")]
    NamespaceId(u32),
    /// Two namespaces have one identifier.
    #[error("namespace {0} is there twice")]
    NamespaceTwice(u32),
    /// A discovery subsystem has no namespaces.
    #[error("a discovery subsystem cannot have namespaces")]
    DiscoveryWithNamespaces,
    /// The range of controller identifiers is empty or out of bounds.
    #[error("controller identifiers {first} to {last} are not a range within 1 to 65519")]
    ControllerIds {
        /// First of the range.
        first: u16,
        /// Last of the range.
        last: u16,
    },
}

/// What a host connects to. Immutable.
#[derive(Clone, Debug)]
pub struct Subsystem {
    config: SubsystemConfig,
    serial: [u8; 20],
}

impl Subsystem {
    /// Checks a configuration and makes a subsystem of it.
    pub fn new(mut config: SubsystemConfig) -> Result<Self, SubsystemError> {
        config.limits.check()?;
        let (first, last) = (*config.controller_ids.start(), *config.controller_ids.end());
        if first < CONTROLLER_ID_MIN || last > CONTROLLER_ID_MAX || first > last {
            return Err(SubsystemError::ControllerIds { first, last });
        }
        if config.kind == SubsystemKind::Discovery && !config.namespaces.is_empty() {
            return Err(SubsystemError::DiscoveryWithNamespaces);
        }
        config.namespaces.sort_by_key(|namespace| namespace.id);
        for namespace in &config.namespaces {
            if !(1..=NAMESPACES_LIMIT).contains(&namespace.id.0) {
                return Err(SubsystemError::NamespaceId(namespace.id.0));
            }
        }
        for pair in config.namespaces.windows(2) {
            if pair[0].id == pair[1].id {
                return Err(SubsystemError::NamespaceTwice(pair[0].id.0));
            }
        }
        let serial = derived_serial(&config.nqn);
        Ok(Self { config, serial })
    }

    /// Its name.
    pub fn nqn(&self) -> &Nqn {
        &self.config.nqn
    }

    /// What kind of controllers it has.
    pub fn kind(&self) -> SubsystemKind {
        self.config.kind
    }

    /// Which hosts may connect.
    pub fn hosts(&self) -> &HostPolicy {
        &self.config.hosts
    }

    /// Its namespaces by ascending identifier.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.config.namespaces
    }

    /// The namespace called `id`.
    pub fn namespace(&self, id: NamespaceId) -> Option<&Namespace> {
        let all = &self.config.namespaces;
        let index = all.binary_search_by_key(&id, |namespace| namespace.id).ok()?;
        all.get(index)
    }

    /// Whether a namespace may lose completed writes with power until a flush.
    pub fn has_volatile_cache(&self) -> bool {
        self.namespaces().iter().any(|namespace| namespace.limits().volatile_cache)
    }

    /// Whether the device of every namespace knows which of its blocks are allocated, so that hosts
    /// may ask. They are told so of the controller, not of each namespace.
    pub fn knows_allocation(&self) -> bool {
        let mut namespaces = self.namespaces().iter();
        !self.namespaces().is_empty() && namespaces.all(|one| one.allocation.is_known())
    }

    /// What hosts have moved through its namespaces.
    pub fn statistics(&self) -> IoStatistics {
        let each = self.namespaces().iter().map(|namespace| namespace.statistics.total());
        each.fold(IoStatistics::default(), IoStatistics::with)
    }

    /// The identifiers of its controllers.
    pub fn controller_ids(&self) -> RangeInclusive<u16> {
        self.config.controller_ids.clone()
    }

    /// What hosts may have.
    pub fn limits(&self) -> &TargetLimits {
        &self.config.limits
    }

    /// Serial number: 20 ASCII characters, the same over restarts.
    pub fn serial(&self) -> &[u8; 20] {
        &self.serial
    }

    /// Drawn at random when the process started.
    pub fn instance(&self) -> &[u8; 16] {
        &self.config.instance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::testing::{TestDevice, config_of};

    fn config(ids: &[u32]) -> SubsystemConfig {
        config_of(ids.iter().map(|id| (*id, TestDevice::default())).collect())
    }

    #[test]
    fn namespaces_are_found_by_identifier_whatever_their_order() {
        let subsystem = Subsystem::new(config(&[7, 1, 3])).unwrap();
        let ids: Vec<u32> = subsystem.namespaces().iter().map(|one| one.id.0).collect();
        assert_eq!(ids, [1, 3, 7]);
        assert_eq!(subsystem.namespace(NamespaceId(3)).unwrap().id, NamespaceId(3));
        assert!(subsystem.namespace(NamespaceId(2)).is_none());
    }

    #[test]
    fn the_last_namespace_identifier_is_accepted_and_one_past_is_refused() {
        assert!(Subsystem::new(config(&[NAMESPACES_LIMIT])).is_ok());
        for id in [0, NAMESPACES_LIMIT + 1] {
            let error = Subsystem::new(config(&[id])).unwrap_err();
            assert_eq!(error, SubsystemError::NamespaceId(id));
        }
    }

    #[test]
    fn two_namespaces_with_one_identifier_are_refused() {
        let error = Subsystem::new(config(&[4, 4])).unwrap_err();
        assert_eq!(error, SubsystemError::NamespaceTwice(4));
    }

    #[test]
    fn a_discovery_subsystem_with_namespaces_is_refused() {
        let config = SubsystemConfig { kind: SubsystemKind::Discovery, ..config(&[1]) };
        let error = Subsystem::new(config).unwrap_err();
        assert_eq!(error, SubsystemError::DiscoveryWithNamespaces);
    }

    #[test]
    fn controller_identifiers_are_legal_up_to_both_ends() {
        let with = |controller_ids| {
            Subsystem::new(SubsystemConfig { controller_ids, ..config(&[1]) }).is_ok()
        };
        assert!(with(CONTROLLER_ID_MIN..=CONTROLLER_ID_MAX));
        assert!(with(5..=5));
        assert!(!with(0..=5));
        assert!(!with(5..=CONTROLLER_ID_MAX + 1));
        assert!(!with(RangeInclusive::new(6, 5)));
    }

    #[test]
    fn a_limit_out_of_range_is_named() {
        let mut config = config(&[1]);
        config.limits.io_queues_max = 0;
        let error = Subsystem::new(config).unwrap_err();
        assert_eq!(error, SubsystemError::Limit(LimitError::IoQueues(0)));
    }

    #[test]
    fn only_named_hosts_are_allowed() {
        let host: Nqn = "nqn.2019-05.io.openebs:host-a".parse().unwrap();
        let other: Nqn = "nqn.2019-05.io.openebs:host-b".parse().unwrap();
        assert!(HostPolicy::Any.allows(&host));
        assert!(HostPolicy::Only(vec![host]).allows(&host));
        assert!(!HostPolicy::Only(vec![host]).allows(&other));
    }
}
