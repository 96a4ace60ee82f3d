//! `mayastor setup`, inside a guest, on emulated NVMe drives behind an emulated IOMMU.

#[cfg(test)]
mod real_kernel {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::OnceLock;
    use std::time::Duration;

    use guest::{Access, Cache, Disk, Guest, GuestImage, Iommu, Output};

    const LIMIT: Duration = Duration::from_secs(120);
    const SIZE_MIB: u64 = 64;
    const FIRST: &str = "0000:00:08.0";
    const SECOND: &str = "0000:00:09.0";

    /// The daemon, built as this test was.
    fn program() -> &'static Path {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        BUILT.get_or_init(|| {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--package", "control", "--bin", "mayastor"]);
            assert!(cargo.status().unwrap().success(), "the daemon is built");
            let tests = std::env::current_exe().unwrap();
            tests.ancestors().nth(2).unwrap().join("mayastor")
        })
    }

    /// A guest with two drives, and what they are kept in.
    fn boot() -> (Guest, [Disk; 2]) {
        let image = GuestImage::prepare(&Cache::from_environment()).unwrap();
        let disk = |part| {
            Disk::create(env!("CARGO_TARGET_TMPDIR"), &format!("setup-{part}"), SIZE_MIB).unwrap()
        };
        let disks = [disk("a"), disk("b")];
        // A folder of its own, since the guest sees all of it.
        let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("setup-program");
        std::fs::create_dir_all(&shared).unwrap();
        std::fs::copy(program(), shared.join("mayastor")).unwrap();
        let mut arguments = Vec::new();
        for (index, (disk, slot)) in disks.iter().zip([8, 9]).enumerate() {
            let path = disk.path().display();
            arguments.push(String::from("-drive"));
            arguments.push(format!("file={path},if=none,id=d{index},format=raw"));
            arguments.push(String::from("-device"));
            arguments.push(format!("nvme,serial=S{index},drive=d{index},addr={slot}"));
        }
        let builder = Guest::builder(&image).iommu(Iommu::Intel).memory_mib(768);
        let builder = builder.share(&shared, "program", Access::ReadOnly);
        (builder.device_args(arguments).boot().unwrap(), disks)
    }

    fn setup(guest: &mut Guest, words: &str) -> Output {
        guest.run(&format!("/host/program/mayastor setup {words}"), LIMIT).unwrap()
    }

    fn driver(guest: &mut Guest, address: &str) -> String {
        let link = format!("readlink /sys/bus/pci/devices/{address}/driver || echo none");
        let link = guest.run_ok(&link, LIMIT).unwrap();
        link.trim().rsplit('/').next().unwrap().to_owned()
    }

    /// The name that the kernel gave to the disk of a drive.
    fn disk(guest: &mut Guest, address: &str) -> String {
        let list = format!("ls /sys/bus/pci/devices/{address}/nvme/*/ | grep -E '^nvme[0-9]+n1$'");
        guest.run_ok(&list, LIMIT).unwrap().trim().to_owned()
    }

    #[test]
    fn drives_are_bound_and_given_back_and_those_in_use_are_left_alone() {
        let (mut machine, _disks) = boot();
        let guest = &mut machine;
        let refused = |output: Output, words: &str| {
            assert!(!output.is_success() && output.stderr.contains(words), "{words}: {output:?}");
        };
        let table = setup(guest, "");
        assert!(table.stdout.contains(&format!("mayastor setup --bind {FIRST}")), "{table:?}");
        assert!(table.stdout.contains("0 free of 0 (2 MiB each)"), "{table:?}");
        assert!(table.stdout.contains("mayastor setup --hugepages"), "{table:?}");
        guest.run_ok("modprobe nvme && modprobe vfio-pci", LIMIT).unwrap();

        // Empty: taken, said so, and given back with its disk.
        let bound = setup(guest, &format!("--bind {FIRST}"));
        assert!(bound.is_success(), "{bound:?}");
        assert_eq!(driver(guest, FIRST), "vfio-pci");
        assert!(setup(guest, "--json").stdout.contains("\"driver\": \"vfio-pci\""));
        let unbound = setup(guest, &format!("--unbind {FIRST}"));
        assert!(unbound.is_success(), "{unbound:?}");
        assert_eq!(driver(guest, FIRST), "nvme");

        // Mounted, then only a file system: the drive stays where it is.
        let disk = disk(guest, SECOND);
        let mount = format!(
            "mkfs.ext4 -q -F /dev/{disk} && mkdir -p /tmp/mounted && \
             mount -t ext4 /dev/{disk} /tmp/mounted"
        );
        guest.run_ok(&mount, LIMIT).unwrap();
        let bind = format!("--bind {SECOND}");
        refused(setup(guest, &bind), "is mounted at /tmp/mounted");
        guest.run_ok("umount /tmp/mounted", LIMIT).unwrap();
        refused(setup(guest, &bind), "holds an ext file system");
        refused(setup(guest, "--bind 00:1f.0"), "is no NVMe controller");
        assert_eq!(driver(guest, SECOND), "nvme");
        assert!(setup(guest, &format!("{bind} --force")).is_success());
        assert_eq!(driver(guest, SECOND), "vfio-pci");

        let pages = setup(guest, "--hugepages 9");
        assert!(pages.is_success(), "{pages:?}");
        let count = guest.run_ok("cat /proc/sys/vm/nr_hugepages", LIMIT).unwrap();
        assert_eq!(count.trim(), "9");
    }
}
