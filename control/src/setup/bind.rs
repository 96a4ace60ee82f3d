//! Gives a drive to user space, and back to the kernel.
//!
//! Binding wishes a driver (`driver_override`), takes the drive from the one that it has, and has
//! the kernel look for one again; when that is not the one wished for, all is put back. A drive
//! that somebody uses is refused. Who uses it is looked up first; then its disks are opened
//! exclusively, which finds the mounts of other namespaces and keeps new ones away meanwhile.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use bdev::pcie::PcieError;
use nix::fcntl::OFlag;
use serde::Serialize;

use super::drive::{CLASS_NVME, DEVICES, Drive, VFIO, class, driver};
use super::error::SetupError;
use super::hands::Hands;
use super::host::Host;
use super::uses::{Use, UseKind};

/// Where the kernel is asked to look for a driver.
const PROBE: &str = "sys/bus/pci/drivers_probe";

/// How long the kernel may take to give a device to a driver. That of NVMe drives is tried beside
/// other work: the write that asks for it returns before it has the device.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);

/// How often it is looked whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// What takes a wish for a driver back: an empty line, since an empty write is none.
const NO_WISH: &str = "\n";
/// Text for the absence of a driver.
const NO_DRIVER: &str = "no driver";

/// Whether a drive is taken from those who use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It is refused.
    No,
    /// It is taken, and what they had on it is theirs no more.
    Yes,
}

/// What a change came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The drive.
    pub address: String,
    /// The driver that it had.
    pub driver_before: Option<String>,
    /// The driver that it has.
    pub driver: Option<String>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// Binds a drive to vfio-pci.
///
/// # Errors
///
/// There is no such drive, no IOMMU, no driver; it is in use; the kernel refuses.
pub fn bind(
    host: &Host,
    hands: &mut dyn Hands,
    address: &str,
    force: Force,
) -> Result<Change, SetupError> {
    check_class(host, address)?;
    let drive = Drive::read(host, address);
    if drive.group.is_none() {
        return Err(PcieError::NoIommu { address: address.to_owned() }.into());
    }
    if !host.has(format!("sys/bus/pci/drivers/{VFIO}")) {
        return Err(SetupError::NoDriver { driver: VFIO });
    }
    let told = |other: &super::drive::Neighbour| {
        let (there, driver, fix) = (&other.address, &other.driver, other.fix());
        format!("{there} ({driver}) is in the same IOMMU group and must be bound too: {fix}")
    };
    let mut notes: Vec<String> = drive.neighbours.iter().map(told).collect();
    let was = drive.driver.clone();
    if drive.is_bound() {
        let address = address.to_owned();
        return Ok(Change { address, driver_before: was.clone(), driver: was, notes });
    }
    let mut uses = drive.uses;
    // Held until the kernel's driver is gone.
    let claims: Vec<io::Result<File>> = drive.disks.iter().map(|disk| claim(host, disk)).collect();
    for (disk, claim) in drive.disks.iter().zip(&claims) {
        let is_busy = claim.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy);
        let is_told = |one: &Use| one.on.starts_with(disk.as_str()) && one.kind <= UseKind::Holder;
        if is_busy && !uses.iter().any(is_told) {
            let detail = "is in use by a process, or mounted in another namespace";
            uses.push(Use::new(UseKind::Claimed, disk, detail));
        }
    }
    if force == Force::No && !uses.is_empty() {
        let uses: Vec<String> = uses.iter().map(Use::to_string).collect();
        let address = address.to_owned();
        return Err(SetupError::InUse { address, uses: uses.join(", ") });
    }
    change(host, hands, address, VFIO)?;
    drop(claims);
    let driver = driver(host, address);
    if driver.as_deref() != Some(VFIO) {
        // What the kernel had, it has again.
        write(host, hands, &wish_path(address), NO_WISH)?;
        write(host, hands, PROBE, address)?;
        let now = driver_now(host, address);
        return Err(SetupError::NotTaken { address: address.to_owned(), driver: VFIO, now });
    }
    notes.push(String::from("the kernel has it again after a restart of the machine"));
    Ok(Change { address: address.to_owned(), driver_before: was, driver, notes })
}

/// Gives a drive back to the kernel.
///
/// # Errors
///
/// It is no drive, or not bound to vfio-pci; a process uses it; the kernel refuses.
pub fn unbind(
    host: &Host,
    hands: &mut dyn Hands,
    address: &str,
    force: Force,
) -> Result<Change, SetupError> {
    check_class(host, address)?;
    let drive = Drive::read(host, address);
    let address = address.to_owned();
    if let Some(driver) = drive.driver.clone().filter(|driver| driver != VFIO) {
        return Err(SetupError::NotBound { address, driver });
    }
    let users = users(host, &drive);
    if force == Force::No && !users.is_empty() {
        return Err(SetupError::InUse { address, uses: users.join(", ") });
    }
    change(host, hands, &address, NO_WISH)?;
    let driver = wait_for_driver(host, &address);
    if driver.as_deref() == Some(VFIO) {
        return Err(SetupError::NotTaken { address, driver: "nvme", now: VFIO.to_owned() });
    }
    let mut notes = Vec::new();
    if driver.is_none() {
        notes.push(format!("no driver took it: run `modprobe nvme && echo {address} > /{PROBE}`"));
    }
    Ok(Change { address, driver_before: drive.driver, driver, notes })
}

fn check_class(host: &Host, address: &str) -> Result<(), PcieError> {
    let address = || address.to_owned();
    match class(host, &address()) {
        None => Err(PcieError::NoDevice { address: address() }),
        Some(class) if class != CLASS_NVME => Err(PcieError::NotNvme { address: address(), class }),
        Some(_) => Ok(()),
    }
}

fn wish_path(address: &str) -> String {
    format!("{DEVICES}/{address}/driver_override")
}

/// The driver that takes a device within [`TAKEN_WITHIN`].
fn wait_for_driver(host: &Host, address: &str) -> Option<String> {
    let deadline = Instant::now() + TAKEN_WITHIN;
    loop {
        let found = driver(host, address);
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

fn driver_now(host: &Host, address: &str) -> String {
    driver(host, address).unwrap_or_else(|| String::from(NO_DRIVER))
}

/// Wishes a driver, takes the device from the one that has it, and has one looked for.
fn change(host: &Host, hands: &mut dyn Hands, address: &str, wish: &str) -> Result<(), SetupError> {
    write(host, hands, &wish_path(address), wish)?;
    if driver(host, address).is_some() {
        let path = format!("{DEVICES}/{address}/driver/unbind");
        if let Err(error) = write(host, hands, &path, address) {
            // A wish that stays would give it away at the next look; the first error is told.
            let _ = write(host, hands, &wish_path(address), NO_WISH);
            return Err(error);
        }
    }
    write(host, hands, PROBE, address)
}

/// Writes a value to a file of the machine.
pub(super) fn write(
    host: &Host,
    hands: &mut dyn Hands,
    relative: &str,
    text: &str,
) -> Result<(), SetupError> {
    let path = host.path(relative);
    hands.write(&path, text).map_err(|source| {
        let path = path.display().to_string();
        match source.kind() {
            io::ErrorKind::PermissionDenied => SetupError::Permission { path, source },
            _ => SetupError::Write { path, text: text.trim().to_owned(), source },
        }
    })
}

/// Opens a disk so that nobody else may have it for themselves (open(2), `O_EXCL` without
/// `O_CREAT`); changes nothing of it.
fn claim(host: &Host, disk: &str) -> io::Result<File> {
    let path = host.path(format!("dev/{disk}"));
    OpenOptions::new().read(true).custom_flags(OFlag::O_EXCL.bits()).open(path)
}

/// Processes that have a drive open through VFIO, by its group or by its own file.
fn users(host: &Host, drive: &Drive) -> Vec<String> {
    let device = format!("{DEVICES}/{}", drive.address);
    let group = drive.group.iter().map(|group| format!("/dev/vfio/{group}"));
    let own = host.names(format!("{device}/vfio-dev")).into_iter();
    let files: Vec<String> =
        group.chain(own.map(|name| format!("/dev/vfio/devices/{name}"))).collect();
    let mut users = Vec::new();
    for process in host.names("proc") {
        if !process.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let folder = format!("proc/{process}/fd");
        let has = |fd: &String| {
            let link = std::fs::read_link(host.path(format!("{folder}/{fd}")));
            link.is_ok_and(|link| files.iter().any(|file| link.as_os_str() == file.as_str()))
        };
        if host.names(&folder).iter().any(has) {
            let name = host.text(format!("proc/{process}/comm")).unwrap_or_default();
            users.push(format!("process {process} ({name}) drives it"));
        }
    }
    users
}
