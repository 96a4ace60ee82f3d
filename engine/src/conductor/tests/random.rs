//! Random commands against a plain model: listings always equal it, every command ends in time, and
//! in the end no device is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use bdev::device::OpenError;
use bdev::uri::{DeviceUri, Scheme};
use bdev::{BlockDevice, Geometry, Limits, Null, QueuePair};
use proptest::prelude::*;
use reactor::Cx;
use uuid::Uuid;

use super::*;
use crate::command::{AnaState, ErrorKind, SetAnaState, SetFault};
use crate::registry::DeviceError;
use bdev::fault::Failure;
use bdev::rules::{Match, Rule, RuleSet};

/// Devices of this test that are open.
static OPEN: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
struct Counted(Null);

impl Drop for Counted {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::SeqCst);
    }
}

impl BlockDevice for Counted {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.0.uuid()
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        self.0.open_queue_pair(cx, depth)
    }
}

fn open(uri: &DeviceUri) -> Result<Arc<dyn BlockDevice>, DeviceError> {
    let DeviceUri::Null(memory) = uri else { unreachable!("registered for null only") };
    let device = Null::new(memory.name.clone(), memory.geometry(), memory.uuid)?;
    OPEN.fetch_add(1, Ordering::SeqCst);
    Ok(Arc::new(Counted(device)))
}

/// What a command is about, by small numbers.
#[derive(Clone, Copy, Debug)]
enum Step {
    AddDevice(u8, u8),
    RemoveDevice(u8),
    AddSubsystem(u8),
    RemoveSubsystem(u8),
    AddNamespace(u8, u8, Option<u32>),
    RemoveNamespace(u8, u32),
    AddHost(u8, u8),
    RemoveHost(u8, u8),
    SetAna(u8, Option<u32>),
    SetFault(u8),
    ClearFault(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let few = || 0..3u8;
    let step = prop_oneof![
        (few(), 1..3u8).prop_map(|(device, size)| Step::AddDevice(device, size)),
        few().prop_map(Step::RemoveDevice),
        few().prop_map(Step::AddSubsystem),
        few().prop_map(Step::RemoveSubsystem),
        (few(), few(), proptest::option::of(1..4u32))
            .prop_map(|(subsystem, device, id)| Step::AddNamespace(subsystem, device, id)),
        (few(), 1..4u32).prop_map(|(subsystem, id)| Step::RemoveNamespace(subsystem, id)),
        (few(), few()).prop_map(|(subsystem, host)| Step::AddHost(subsystem, host)),
        (few(), few()).prop_map(|(subsystem, host)| Step::RemoveHost(subsystem, host)),
        (few(), proptest::option::of(1..4u32)).prop_map(|(one, id)| Step::SetAna(one, id)),
        few().prop_map(Step::SetFault),
        few().prop_map(Step::ClearFault),
    ];
    proptest::collection::vec(step, 1..60)
}

fn nqn(number: u8) -> String {
    format!("{NQN}{number}")
}

impl Step {
    fn command(self) -> Command {
        let device = |number: u8| number.to_string();
        match self {
            Step::AddDevice(number, blocks) => {
                add_device(&format!("null:///{number}?num_blocks={blocks}"))
            }
            Step::RemoveDevice(number) => remove_device(&device(number)),
            Step::AddSubsystem(number) => add_subsystem(&nqn(number)),
            Step::RemoveSubsystem(number) => Command::RemoveSubsystem { subsystem: nqn(number) },
            Step::AddNamespace(subsystem, number, namespace) => {
                let asked = AddNamespace::new(nqn(subsystem), device(number));
                Command::AddNamespace(AddNamespace { namespace, ..asked })
            }
            Step::RemoveNamespace(subsystem, id) => remove_namespace(&nqn(subsystem), id),
            Step::AddHost(subsystem, host) => {
                Command::AddHost { subsystem: nqn(subsystem), host: nqn(host) }
            }
            Step::RemoveHost(subsystem, host) => {
                Command::RemoveHost { subsystem: nqn(subsystem), host: nqn(host) }
            }
            Step::SetAna(subsystem, namespace) => Command::SetAnaState(SetAnaState {
                subsystem: nqn(subsystem),
                namespace,
                state: AnaState::Inaccessible,
            }),
            Step::SetFault(number) => {
                let effect = Failure::Before(bdev::Status::WRITE_FAULT);
                let rules = vec![Rule { meets: Match::default(), effect }];
                let rules = RuleSet { rules, seed: 0 };
                Command::SetFault(SetFault { device: device(number), rules })
            }
            Step::ClearFault(number) => Command::ClearFault { device: device(number) },
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct PlainSubsystem {
    /// By identifier: the device, and whether it is accessible.
    namespaces: BTreeMap<u32, (u8, bool)>,
    hosts: BTreeSet<u8>,
    is_inaccessible: bool,
}

/// What there should be.
#[derive(Debug, Default, PartialEq)]
struct Plain {
    /// By name: blocks, and whether there is a fault.
    devices: BTreeMap<u8, (u8, bool)>,
    subsystems: BTreeMap<u8, PlainSubsystem>,
}

impl Plain {
    /// Carries the step out, or says how it is refused.
    fn step(&mut self, step: Step) -> Result<(), ErrorKind> {
        let missing = ErrorKind::NotFound;
        match step {
            Step::AddDevice(number, blocks) => {
                let known = self.devices.entry(number).or_insert((blocks, false));
                return if known.0 == blocks { Ok(()) } else { Err(ErrorKind::AlreadyExists) };
            }
            Step::RemoveDevice(number) => {
                self.devices.get(&number).ok_or(missing)?;
                let mut all = self.subsystems.values().flat_map(|one| one.namespaces.values());
                if all.any(|(device, _)| *device == number) {
                    return Err(ErrorKind::InUse);
                }
                self.devices.remove(&number);
            }
            Step::AddSubsystem(number) => {
                self.subsystems.entry(number).or_default();
            }
            Step::RemoveSubsystem(number) => {
                self.subsystems.remove(&number).ok_or(missing)?;
            }
            Step::AddNamespace(subsystem, device, id) => {
                let one = self.subsystems.get_mut(&subsystem).ok_or(missing)?;
                self.devices.get(&device).ok_or(missing)?;
                let free = (1..).find(|id| !one.namespaces.contains_key(id)).unwrap();
                let same = one.namespaces.iter().find(|(_, known)| known.0 == device);
                let id = id.unwrap_or_else(|| same.map_or(free, |(id, _)| *id));
                let new = (device, !one.is_inaccessible);
                let known = one.namespaces.entry(id).or_insert(new);
                return if known.0 == device { Ok(()) } else { Err(ErrorKind::AlreadyExists) };
            }
            Step::RemoveNamespace(subsystem, id) => {
                let one = self.subsystems.get_mut(&subsystem).ok_or(missing)?;
                one.namespaces.remove(&id).ok_or(missing)?;
            }
            Step::AddHost(subsystem, host) => {
                self.subsystems.get_mut(&subsystem).ok_or(missing)?.hosts.insert(host);
            }
            Step::RemoveHost(subsystem, host) => {
                let one = self.subsystems.get_mut(&subsystem).ok_or(missing)?;
                return if one.hosts.remove(&host) { Ok(()) } else { Err(missing) };
            }
            Step::SetAna(subsystem, id) => {
                let one = self.subsystems.get_mut(&subsystem).ok_or(missing)?;
                match id {
                    Some(id) => one.namespaces.get_mut(&id).ok_or(missing)?.1 = false,
                    None => {
                        one.is_inaccessible = true;
                        one.namespaces.values_mut().for_each(|known| known.1 = false);
                    }
                }
            }
            Step::SetFault(number) => self.devices.get_mut(&number).ok_or(missing)?.1 = true,
            Step::ClearFault(number) => self.devices.get_mut(&number).ok_or(missing)?.1 = false,
        }
        Ok(())
    }

    /// What the engine lists.
    fn listed(conductor: &Conductor) -> Plain {
        let number = |text: &str| text.trim_start_matches(NQN).parse::<u8>().unwrap();
        let device = |one: DeviceInfo| {
            (number(&one.name), (u8::try_from(one.blocks).unwrap(), one.fault.is_some()))
        };
        let subsystem = |one: SubsystemInfo| {
            let namespaces = one.namespaces.iter().map(|namespace| {
                let is_accessible = namespace.ana == AnaState::Optimized;
                (namespace.namespace, (number(&namespace.device), is_accessible))
            });
            let plain = PlainSubsystem {
                namespaces: namespaces.collect(),
                hosts: one.hosts.named.iter().map(|host| number(host)).collect(),
                is_inaccessible: false,
            };
            (number(&one.nqn), plain)
        };
        Plain {
            devices: devices(conductor).into_iter().map(device).collect(),
            subsystems: subsystems(conductor).into_iter().map(subsystem).collect(),
        }
    }

    /// Without what is not listed.
    fn shown(&self) -> Plain {
        let subsystem = |(number, one): (&u8, &PlainSubsystem)| {
            let (namespaces, hosts) = (one.namespaces.clone(), one.hosts.clone());
            (*number, PlainSubsystem { namespaces, hosts, is_inaccessible: false })
        };
        Plain {
            devices: self.devices.clone(),
            subsystems: self.subsystems.iter().map(subsystem).collect(),
        }
    }

    /// What cores are to serve.
    fn served(&self) -> Vec<(String, u32)> {
        let all = self.subsystems.iter();
        all.flat_map(|(number, one)| one.namespaces.keys().map(|id| (nqn(*number), *id))).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn listings_equal_a_plain_model_and_no_device_is_left(steps in steps()) {
        let registry = Registry::of(vec![(Scheme::Null, open)]);
        let (conductor, stage) = conducted_with(2, registry);
        let mut plain = Plain::default();
        for step in &steps {
            let begun = Instant::now();
            let result = conductor.execute_within(&step.command(), SOON);
            prop_assert!(begun.elapsed() < SOON, "{step:?}");
            let kind = result.map(|_| ()).map_err(|error| error.kind());
            prop_assert_eq!(kind, plain.step(*step), "{:?}", step);
            prop_assert_eq!(Plain::listed(&conductor), plain.shown(), "{:?}", step);
            for place in 0..2 {
                let mut served = stage.served(place);
                served.sort();
                prop_assert_eq!(served, plain.served(), "{:?}", step);
            }
        }
        for number in plain.subsystems.keys() {
            run(&conductor, Command::RemoveSubsystem { subsystem: nqn(*number) });
        }
        for number in plain.devices.keys() {
            run(&conductor, remove_device(&number.to_string()));
        }
        prop_assert_eq!(OPEN.load(Ordering::SeqCst), 0);
    }
}
