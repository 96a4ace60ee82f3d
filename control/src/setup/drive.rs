//! NVMe drives on the PCI bus: who drives them, where they are, and what keeps them.

use serde::Serialize;

use super::host::Host;
use super::row::{Row, State};
use super::uses::{self, Use, UseKind};

/// Where sysfs lists PCI devices.
pub const DEVICES: &str = "sys/bus/pci/devices";
/// Class of an NVMe controller with I/O, as sysfs writes it.
pub const CLASS_NVME: &str = "0x010802";
/// The driver that gives devices to user space.
pub const VFIO: &str = "vfio-pci";
/// The kernel's own driver of drives.
const NVME: &str = "nvme";
/// Drivers of others in a group that are no obstacle: a bridge moves no data of its own.
const HARMLESS: [&str; 2] = [VFIO, "pcieport"];

/// Another device of an IOMMU group, that a kernel driver has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Neighbour {
    /// Its address.
    pub address: String,
    /// Its driver.
    pub driver: String,
    /// Its class, as sysfs writes it.
    pub class: String,
}

impl Neighbour {
    /// The command that gives it to user space.
    pub fn fix(&self) -> String {
        let Neighbour { address, driver, .. } = self;
        if self.class == CLASS_NVME {
            return format!("mayastor setup --bind {address}");
        }
        format!(
            "echo {VFIO} > /{DEVICES}/{address}/driver_override && \
             echo {address} > /sys/bus/pci/drivers/{driver}/unbind && \
             echo {address} > /sys/bus/pci/drivers_probe"
        )
    }
}

/// A drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// Its address.
    pub address: String,
    /// Its driver, if any.
    pub driver: Option<String>,
    /// Its NUMA node, where the machine says.
    pub node: Option<u32>,
    /// Its IOMMU group, if there is an IOMMU.
    pub group: Option<String>,
    /// What else is in the group and with a driver of the kernel's.
    pub neighbours: Vec<Neighbour>,
    /// What it calls itself; only the kernel's driver tells.
    pub model: Option<String>,
    /// Its disks; while the kernel drives it.
    pub disks: Vec<String>,
    /// What keeps it from being taken.
    pub uses: Vec<Use>,
}

impl Drive {
    /// All drives, by address.
    pub fn all(host: &Host) -> Vec<Drive> {
        let addresses = host.names(DEVICES);
        let is_drive = |address: &&String| class(host, address).as_deref() == Some(CLASS_NVME);
        addresses.iter().filter(is_drive).map(|address| Drive::read(host, address)).collect()
    }

    /// The drive at an address that has one.
    pub fn read(host: &Host, address: &str) -> Drive {
        let device = format!("{DEVICES}/{address}");
        let driver = driver(host, address);
        let controllers = host.names(format!("{device}/nvme"));
        let controller = controllers.first().map(|name| format!("{device}/nvme/{name}"));
        let model = controller.as_ref().and_then(|folder| host.text(format!("{folder}/model")));
        let names = controller.map(|folder| host.names(folder)).unwrap_or_default();
        let mut disks: Vec<String> = names.iter().filter_map(|name| disk_name(name)).collect();
        disks.dedup();
        let mut uses: Vec<Use> = disks.iter().flat_map(|disk| uses::of_disk(host, disk)).collect();
        if let Some(other) = driver.as_deref().filter(|name| ![NVME, VFIO].contains(name)) {
            uses.push(Use::new(UseKind::Driver, address, format!("is given to {other}")));
        }
        Drive {
            address: address.to_owned(),
            node: host.value(format!("{device}/numa_node")),
            group: host.link_name(format!("{device}/iommu_group")),
            neighbours: neighbours(host, address),
            model,
            disks,
            uses,
            driver,
        }
    }

    /// Whether it is given to user space.
    pub fn is_bound(&self) -> bool {
        self.driver.as_deref() == Some(VFIO)
    }

    /// Its row.
    pub fn row(&self) -> Row {
        let key = format!("nvme.{}", self.address);
        let bind = || format!("mayastor setup --bind {}", self.address);
        let unread = self.uses.iter().any(|one| one.kind == UseKind::Unread);
        let found = self.found();
        if self.is_bound() {
            return match self.neighbours.first() {
                _ if self.group.is_none() => Row::new(key, State::Missing, found),
                Some(other) => Row::new(key, State::Missing, found).with_fix(other.fix()),
                None => Row::new(key, State::Ok, found),
            };
        }
        match self.uses.as_slice() {
            [] if self.group.is_none() => Row::new(key, State::Warning, found),
            [] => Row::new(key, State::Ok, found).with_fix(bind()),
            _ if unread => Row::new(key, State::Warning, found).with_fix("sudo mayastor setup"),
            _ => Row::new(key, State::Ok, found),
        }
    }

    fn found(&self) -> String {
        let driver = self.driver.as_deref().unwrap_or("no driver");
        let mut parts = vec![format!("driver {driver}")];
        parts.extend(self.model.clone());
        parts.extend(self.node.map(|node| format!("node {node}")));
        parts.push(match &self.group {
            Some(group) => format!("IOMMU group {group}"),
            None => String::from("behind no IOMMU"),
        });
        let told = |other: &Neighbour| {
            let Neighbour { address, driver, .. } = other;
            format!("{address} ({driver}) is in its group")
        };
        parts.extend(self.neighbours.iter().map(told));
        if self.uses.is_empty() && !self.disks.is_empty() {
            parts.push(String::from("empty"));
        }
        parts.extend(self.uses.iter().map(Use::to_string));
        parts.join(", ")
    }
}

/// Class of a device, as sysfs writes it.
pub fn class(host: &Host, address: &str) -> Option<String> {
    host.text(format!("{DEVICES}/{address}/class"))
}

/// Name of the driver that a device is bound to.
pub fn driver(host: &Host, address: &str) -> Option<String> {
    host.link_name(format!("{DEVICES}/{address}/driver"))
}

fn neighbours(host: &Host, address: &str) -> Vec<Neighbour> {
    let mut others = host.names(format!("{DEVICES}/{address}/iommu_group/devices"));
    others.retain(|other| other != address);
    let neighbour = |address: String| {
        let driver = driver(host, &address).filter(|name| !HARMLESS.contains(&name.as_str()))?;
        let class = class(host, &address).unwrap_or_default();
        Some(Neighbour { address, driver, class })
    };
    others.into_iter().filter_map(neighbour).collect()
}

/// The disk of an entry in a controller's folder: `nvme0n1`, or, where the kernel joins the paths
/// of a namespace, `nvme0c1n1` for the disk `nvme0n1`.
fn disk_name(entry: &str) -> Option<String> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (front, namespace) = entry.strip_prefix("nvme")?.split_once('n')?;
    let subsystem = front.split_once('c').map_or(front, |(subsystem, _)| subsystem);
    let is_disk = number(namespace) && number(subsystem);
    is_disk.then(|| format!("nvme{subsystem}n{namespace}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::fixture::{DriveParts, Machine, drive};

    const ADDRESS: &str = "0000:01:00.0";

    fn row(machine: &Machine) -> Row {
        Drive::read(&machine.host(), ADDRESS).row()
    }

    #[test]
    fn names_of_disks_are_told_from_other_entries() {
        assert_eq!(disk_name("nvme0n1").as_deref(), Some("nvme0n1"));
        assert_eq!(disk_name("nvme3c11n12").as_deref(), Some("nvme3n12"));
        for other in ["nvme0", "numa_node", "hwmon0", "ng0n1", "nvme0n1p1", "nvmen1", "nvmecn1"] {
            assert_eq!(disk_name(other), None, "{other}");
        }
    }

    #[test]
    fn an_empty_drive_of_the_kernel_is_offered() {
        let machine = Machine::good("drive-empty");
        machine.drive(drive(ADDRESS));
        machine.namespace(ADDRESS, "nvme0n1", "259:0", &[0; 512]);
        let row = row(&machine);
        assert_eq!((row.key.as_str(), row.state), ("nvme.0000:01:00.0", State::Ok));
        assert_eq!(row.found, "driver nvme, A Drive, node 0, IOMMU group 7, empty");
        assert_eq!(row.fix.unwrap(), "mayastor setup --bind 0000:01:00.0");
    }

    #[test]
    fn a_drive_in_use_is_the_kernels_and_is_not_offered() {
        let machine = Machine::good("drive-used");
        machine.drive(drive(ADDRESS));
        machine.namespace(ADDRESS, "nvme0c0n1", "259:9", &[0; 512]);
        machine.block("nvme0n1", "259:0");
        machine.bytes("dev/nvme0n1", &[0; 512]);
        machine.file("proc/self/mountinfo", "29 1 259:0 / / rw - xfs /dev/nvme0n1 rw\n");
        let row = row(&machine);
        assert_eq!((row.state, row.fix), (State::Ok, None));
        assert!(row.found.ends_with("nvme0n1 is mounted at /"), "{}", row.found);
    }

    #[test]
    fn a_bound_drive_is_ready_alone_and_not_with_others_in_its_group() {
        let machine = Machine::good("drive-bound");
        machine.drive(DriveParts { driver: Some(VFIO), ..drive(ADDRESS) });
        machine
            .device("0x060400", DriveParts { driver: Some("pcieport"), ..drive("0000:00:01.0") });
        assert_eq!((row(&machine).state, row(&machine).fix), (State::Ok, None));
        let network = DriveParts { driver: Some("e1000e"), ..drive("0000:01:00.1") };
        machine.device("0x020000", network);
        let row = row(&machine);
        assert_eq!(row.state, State::Missing);
        assert!(row.found.contains("0000:01:00.1 (e1000e) is in its group"), "{}", row.found);
        assert!(row.fix.unwrap().contains("/sys/bus/pci/drivers/e1000e/unbind"));
    }

    #[test]
    fn a_drive_without_iommu_or_node_says_so() {
        let machine = Machine::good("drive-bare");
        machine.drive(DriveParts { group: None, node: -1, ..drive(ADDRESS) });
        let row = row(&machine);
        assert_eq!((row.state, row.fix), (State::Warning, None));
        assert_eq!(row.found, "driver nvme, behind no IOMMU");
    }

    #[test]
    fn a_drive_that_another_driver_has_is_in_use() {
        let machine = Machine::good("drive-other");
        machine.drive(DriveParts { driver: Some("pciback"), ..drive(ADDRESS) });
        let drive = Drive::read(&machine.host(), ADDRESS);
        assert_eq!(drive.uses[0].kind, UseKind::Driver);
    }
}
