//! The kernel of the guest: a stock Debian package, fetched with apt and taken apart.
//!
//! The package is the newest stable kernel, not the cloud flavour: that has no 9p, and died at
//! boot in one of five tries under emulation where the ordinary one never did. Only the modules
//! that tests use go into the image, each with those that it needs, unpacked on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::files;

/// Debian's package that depends on the current kernel of the suite.
const META_PACKAGE: &str = "linux-image-amd64";

/// Modules of the guest. A name that ends with `?` may be missing: kernels differ in these.
pub const MODULES: &[&str] = &[
    // The machine, its disks and its shares.
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "virtio_blk",
    "virtio_scsi",
    "virtio-rng?",
    "9p",
    "9pnet_virtio",
    "vfio-pci",
    "vfio_iommu_type1",
    // NVMe and iSCSI, both sides.
    "nvme",
    "nvme-tcp",
    "nvmet",
    "nvmet-tcp",
    "nvme-loop?",
    "iscsi_tcp",
    "sd_mod",
    "sg",
    "scsi_debug",
    "scsi_dh_alua",
    "nbd",
    "null_blk",
    "brd",
    "loop",
    // File systems, and the checksums that they ask for by name.
    "ext4",
    "xfs",
    "btrfs",
    "crc32c_generic?",
    "crc32c-intel?",
    "xxhash_generic?",
    // Layers that tests put over or under a device.
    "dm-mod",
    "dm-multipath",
    "dm-round-robin",
    "dm-service-time",
    "dm-flakey",
    "dm-log-writes",
    "dm-snapshot",
    "dm-thin-pool",
    "sch_netem",
    "tls?",
];

/// A kernel package taken apart on the host.
#[derive(Debug)]
pub struct Kernel {
    version: String,
    modules: PathBuf,
    image: PathBuf,
}

impl Kernel {
    /// Unpacks a kernel package into `directory`.
    pub fn unpack(package: &Path, directory: &Path) -> Result<Kernel> {
        files::output_of(files::program("dpkg-deb").arg("-x").arg(package).arg(directory))?;
        let image = fs::read_dir(directory.join("boot"))
            .map_err(Error::file("list", directory.join("boot")))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().contains("/vmlinuz-"))
            .ok_or_else(|| Error::Kernel { what: String::from("vmlinuz") })?;
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let version = name.trim_start_matches("vmlinuz-").to_owned();
        // Newer suites have /lib as a link to /usr/lib; packages ship either.
        let base = if directory.join("lib/modules").exists() { "" } else { "usr" };
        let modules = directory.join(base).join("lib/modules").join(&version);
        let base = directory.join(base);
        files::output_of(files::program("depmod").arg("-b").arg(&base).arg(&version))?;
        Ok(Kernel { version, modules, image })
    }

    /// The kernel itself.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Copies [`MODULES`] and what they need to `root`, unpacked, with an index of their own.
    pub fn install_modules(&self, root: &Path) -> Result<()> {
        let index = self.modules.join("modules.dep");
        let text = fs::read_to_string(&index).map_err(Error::file("read", &index))?;
        let target = root.join("lib/modules").join(&self.version);
        for file in closure(&text, MODULES)? {
            install_module(&self.modules.join(&file), &target.join(&file))?;
        }
        for name in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
            let (from, to) = (self.modules.join(name), target.join(name));
            fs::copy(&from, to).map_err(Error::file("copy", &from))?;
        }
        files::output_of(files::program("depmod").arg("-b").arg(root).arg(&self.version))?;
        Ok(())
    }
}

/// The kernel package in `directory`, downloaded if there is none yet. A kernel that is there is
/// kept for the life of the cache: tests should not change under a running series.
pub fn package_in(directory: &Path) -> Result<PathBuf> {
    if let Some(package) = newest_package(directory)? {
        return Ok(package);
    }
    if let Err(first) = download(directory) {
        // Fresh containers have no package lists; root can get them, another user cannot.
        let update = files::output_of(Command::new("apt-get").args(["-qq", "update"]));
        if update.is_err() {
            return Err(first);
        }
        download(directory)?;
    }
    let missing = || Error::Kernel { what: format!("file after apt-get download {META_PACKAGE}") };
    newest_package(directory)?.ok_or_else(missing)
}

fn download(directory: &Path) -> Result<()> {
    let depends = files::output_of(Command::new("apt-cache").args(["depends", META_PACKAGE]))?;
    let name = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .ok_or_else(|| Error::Kernel { what: format!("candidate for {META_PACKAGE}") })?;
    let mut command = Command::new("apt-get");
    files::output_of(command.args(["-qq", "download", name]).current_dir(directory))?;
    Ok(())
}

fn newest_package(directory: &Path) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(directory).map_err(Error::file("list", directory))?;
    let packages = entries.flatten().filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("linux-image-") && name.ends_with(".deb")
    });
    Ok(packages
        .max_by_key(|entry| entry.metadata().and_then(|m| m.modified()).ok())
        .map(|e| e.path()))
}

/// Files of the wanted modules and of all that they need, by the text of `modules.dep`.
fn closure(index: &str, wanted: &[&str]) -> Result<BTreeSet<String>> {
    let lines = index.lines().filter_map(|line| line.split_once(':'));
    let by_name: BTreeMap<String, (&str, &str)> =
        lines.map(|(file, needs)| (module_name(file), (file, needs))).collect();
    let mut all = BTreeSet::new();
    for name in wanted {
        let optional = name.ends_with('?');
        let name = name.trim_end_matches('?');
        match by_name.get(&name.replace('-', "_")) {
            // modules.dep lists what a module needs to full depth.
            Some((file, needs)) => {
                all.insert((*file).to_owned());
                all.extend(needs.split_whitespace().map(str::to_owned));
            }
            None if optional => {}
            None => return Err(Error::Kernel { what: format!("module {name}") }),
        }
    }
    Ok(all)
}

/// Modules are named with either dash or underscore; the kernel takes both for the same.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

fn install_module(from: &Path, to: &Path) -> Result<()> {
    let directory = to.parent().expect("a module lies in a directory");
    fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
    let unpacker = match from.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => {
            fs::copy(from, to).map_err(Error::file("copy", from))?;
            return Ok(());
        }
    };
    let plain = to.with_extension("");
    let out = fs::File::create(&plain).map_err(Error::file("create", &plain))?;
    let status = files::program(unpacker).arg("-dcq").arg(from).stdout(out).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        other => Err(Error::Program {
            program: format!("{unpacker} -dcq {}", from.display()),
            detail: format!("{other:?}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko\n\
                         kernel/fs/jbd2/jbd2.ko:\n\
                         kernel/drivers/nvme/host/nvme-tcp.ko.xz: kernel/drivers/nvme/core.ko.xz\n";

    #[test]
    fn a_module_brings_what_it_needs() {
        let files = closure(INDEX, &["ext4", "nvme_tcp"]).unwrap();
        let expected = [
            "kernel/drivers/nvme/core.ko.xz",
            "kernel/drivers/nvme/host/nvme-tcp.ko.xz",
            "kernel/fs/ext4/ext4.ko",
            "kernel/fs/jbd2/jbd2.ko",
            "kernel/lib/crc16.ko",
        ];
        assert_eq!(files.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn only_an_optional_module_may_be_missing() {
        assert!(closure(INDEX, &["absent?"]).unwrap().is_empty());
        let error = closure(INDEX, &["absent"]).unwrap_err();
        assert!(error.to_string().contains("module absent"), "{error}");
    }
}
