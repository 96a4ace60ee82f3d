//! Our driver, inside a guest, on emulated NVMe drives behind an emulated IOMMU.

#[cfg(test)]
mod real_kernel {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::OnceLock;
    use std::time::Duration;

    use guest::{Access, Cache, Disk, Guest, GuestImage, Iommu, Result};

    const LIMIT: Duration = Duration::from_secs(120);
    const SIZE_MIB: u64 = 64;
    const BLOCKS_4_KIB: &str = "logical_block_size=4096,physical_block_size=4096";
    const FIRST: &str = "0000:00:08.0";
    const SECOND: &str = "0000:00:09.0";

    const TWIN: &str = "0000:00:0a.0";
    const OTHER_TWIN: &str = "0000:00:0a.1";
    /// Two drives in one device, which no IOMMU keeps apart.
    const TWINS: &str = "-blockdev driver=null-co,node-name=c,size=67108864 \
        -device nvme,serial=C,drive=c,addr=a.0,multifunction=on \
        -blockdev driver=null-co,node-name=d,size=67108864 -device nvme,serial=D,drive=d,addr=a.1";

    /// The program that tries a drive, built as this test was.
    fn program() -> &'static Path {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        BUILT.get_or_init(|| {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--package", "perf", "--example", "drive"]);
            assert!(cargo.status().unwrap().success(), "the program is built");
            let tests = std::env::current_exe().unwrap();
            tests.ancestors().nth(2).unwrap().join("examples/drive")
        })
    }

    struct Machine {
        guest: Guest,
        _disks: [Disk; 2],
    }

    /// A guest with two drives; `throttle` is how the first is held back, and `more` what else
    /// the machine has.
    fn boot(name: &str, throttle: &str, more: &str) -> Result<Machine> {
        let image = GuestImage::prepare(&Cache::from_environment())?;
        let disk = |part| {
            Disk::create(env!("CARGO_TARGET_TMPDIR"), &format!("pcie-{name}-{part}"), SIZE_MIB)
        };
        let disks = [disk("a")?, disk("b")?];
        let drive = |id: &str, disk: &Disk, more: &str| {
            format!("file={},if=none,id={id},format=raw{more}", disk.path().display())
        };
        let arguments = [
            String::from("-drive"),
            drive("a", &disks[0], throttle),
            String::from("-device"),
            String::from("nvme,id=first,serial=A,drive=a,addr=8"),
            String::from("-drive"),
            drive("b", &disks[1], ""),
            String::from("-device"),
            String::from("nvme,id=second,serial=B,addr=9"),
            String::from("-device"),
            format!("nvme-ns,bus=second,drive=b,nsid=2,{BLOCKS_4_KIB}"),
        ];
        let examples = program().parent().expect("a program is in a folder");
        let builder = Guest::builder(&image).iommu(Iommu::Intel).memory_mib(768);
        let builder = builder.share(examples, "examples", Access::ReadOnly);
        let builder = builder.device_args(arguments).device_args(more.split_whitespace());
        let mut guest = builder.boot()?;
        guest.run_ok("modprobe vfio-pci", LIMIT)?;
        Ok(Machine { guest, _disks: disks })
    }

    fn bind(guest: &mut Guest, address: &str) {
        let script = format!(
            "cd /sys/bus/pci; device=devices/{address}; \
             echo vfio-pci > $device/driver_override; \
             [ ! -e $device/driver ] || echo {address} > $device/driver/unbind; \
             echo {address} > drivers_probe"
        );
        guest.run_ok(&script, LIMIT).unwrap();
    }

    fn drive(guest: &mut Guest, uri: &str, mib: u32) -> guest::Output {
        guest.run(&format!("/host/examples/drive '{uri}' {mib}"), LIMIT).unwrap()
    }

    #[test]
    fn both_block_sizes_are_written_read_and_verified_and_no_address_is_wrong() {
        let mut machine = boot("verify", "", "").unwrap();
        let guest = &mut machine.guest;
        for (address, query) in [(FIRST, ""), (SECOND, "?namespace=2")] {
            bind(guest, address);
            for _ in 0..2 {
                let output = drive(guest, &format!("pcie:///{address}{query}"), 8);
                assert!(output.is_success(), "{output:?}");
                assert!(output.stdout.contains("verified"), "{output:?}");
                assert!(!output.stdout.contains("event:"), "{output:?}");
            }
        }
        let faults = guest.run_ok("dmesg", LIMIT).unwrap();
        assert!(!faults.contains("DMAR: [DMA"), "{faults}");
    }

    #[test]
    fn a_slow_drive_lets_the_core_sleep_and_each_completion_wakes_it() {
        let mut machine = boot("sleep", ",throttling.iops-total=20", "").unwrap();
        bind(&mut machine.guest, FIRST);
        let output = drive(&mut machine.guest, &format!("pcie:///{FIRST}"), 2);
        assert!(output.is_success(), "{output:?}");
        let sleeps = output.stdout.split("verified, ").nth(1).unwrap();
        let sleeps: u32 = sleeps.split(' ').next().unwrap().parse().unwrap();
        assert!(sleeps >= 20, "{output:?}");
    }

    #[test]
    fn each_obstacle_has_a_line_that_says_what_to_do() {
        let mut machine = boot("obstacles", "", TWINS).unwrap();
        let guest = &mut machine.guest;
        let mut refusal = |uri: &str| {
            let output = drive(guest, uri, 1);
            assert!(!output.is_success(), "{output:?}");
            output.stderr
        };
        assert!(refusal("pcie:///0000:00:1f.0").contains("is no NVMe controller"));
        assert!(refusal("pcie:///0000:00:10.0").contains("there is no PCI device"));
        assert!(refusal(&format!("pcie:///{FIRST}")).contains("mayastor setup --bind"));
        bind(guest, SECOND);
        let error = drive(guest, &format!("pcie:///{SECOND}"), 1).stderr;
        assert!(error.contains("there is no namespace 1; there are 2"), "{error}");
        // Somebody who may not open the group.
        let script = format!(
            "echo nobody:x:65534:65534::/:/bin/sh >> /etc/passwd; \
             busybox su -s /bin/sh nobody -c '/host/examples/drive pcie:///{SECOND}?namespace=2 1'"
        );
        let error = guest.run(&script, LIMIT).unwrap().stderr;
        assert!(error.contains("/dev/vfio/") && error.contains("run as root"), "{error}");
        // The other function of a device, in the hands of the kernel.
        bind(guest, TWIN);
        guest.run_ok("modprobe nvme", LIMIT).unwrap();
        let error = drive(guest, &format!("pcie:///{TWIN}"), 1).stderr;
        assert!(error.contains(&format!("has {OTHER_TWIN} (nvme) too: bind them")), "{error}");
    }

    #[test]
    fn a_machine_without_an_iommu_is_told_how_to_get_one() {
        let image = GuestImage::prepare(&Cache::from_environment()).unwrap();
        let examples = program().parent().expect("a program is in a folder");
        let builder = Guest::builder(&image).memory_mib(512);
        let builder = builder.share(examples, "examples", Access::ReadOnly);
        let node = "-blockdev driver=null-co,node-name=a,size=67108864";
        let device = format!("{node} -device nvme,serial=A,drive=a,addr=8");
        let mut guest = builder.device_args(device.split_whitespace()).boot().unwrap();
        let output = drive(&mut guest, &format!("pcie:///{FIRST}"), 1);
        assert!(!output.is_success(), "{output:?}");
        assert!(output.stderr.contains("is behind no IOMMU: enable VT-d"), "{output:?}");
    }

    #[test]
    fn a_drive_that_is_pulled_out_under_load_ends_its_io_and_not_the_process() {
        let mut machine = boot("removal", ",throttling.iops-total=20", "").unwrap();
        bind(&mut machine.guest, FIRST);
        // Memory decode taken away: registers answer with SIGBUS from then on.
        let script = format!(
            "/host/examples/drive pcie:///{FIRST} 8 > /tmp/out 2>&1 & sleep 4; \
             setpci -s {FIRST} COMMAND=0 2>/dev/null || \
             printf '\\000\\000' | dd of=/sys/bus/pci/devices/{FIRST}/config bs=1 seek=4 \
             conv=notrunc 2>/dev/null; wait $!; echo \"code $?\"; cat /tmp/out"
        );
        let output = machine.guest.run_ok(&script, LIMIT).unwrap();
        assert!(output.contains("code 1"), "{output}");
        assert!(output.contains("Internal Path Error"), "{output}");
    }
}
