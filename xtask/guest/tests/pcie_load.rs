//! Our driver under load inside a guest, on emulated NVMe drives behind an emulated IOMMU: several
//! queues, resets, errors of the medium, a drive that is unplugged, and the whole path from the
//! guest's own NVMe/TCP host through our target to the drive.

#[cfg(test)]
mod real_kernel {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::OnceLock;
    use std::time::Duration;

    use guest::nvme::{self, Endpoint};
    use guest::{Access, Cache, Disk, Guest, GuestImage, Iommu};
    use serde_json::json;

    const LIMIT: Duration = Duration::from_secs(180);
    const SIZE_MIB: u64 = 64;
    const BLOCKS_4_KIB: &str = "logical_block_size=4096,physical_block_size=4096";

    const NQN: &str = "nqn.2026-01.example:local";
    const PORT: u16 = 4420;
    const FIO: &str = "fio --name=job --ioengine=libaio --direct=1 --thread --gtod_reduce=1 \
        --verify=crc32c --verify_fatal=1 --verify_state_save=0 --do_verify=1 --iodepth=16";

    /// A program that the guest runs, built as this test was, in a folder of its own.
    fn program(build: &[&str], name: &str) -> PathBuf {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package"]).args(build);
        assert!(cargo.status().unwrap().success(), "{name} is built");
        let tests = std::env::current_exe().unwrap();
        let built = tests.ancestors().nth(2).unwrap().join(name);
        let name = built.file_name().unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pcie").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(&built, folder.join(name)).unwrap();
        folder
    }

    /// The folder of the program that loads a drive.
    fn load() -> &'static Path {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        BUILT.get_or_init(|| program(&["perf", "--example", "drive_load"], "examples/drive_load"))
    }

    /// The folder of the daemon.
    fn daemon() -> &'static Path {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        BUILT.get_or_init(|| program(&["control", "--bin", "mayastor"], "mayastor"))
    }

    struct Machine {
        guest: Guest,
        address: String,
        _disk: Disk,
    }

    /// A guest of two cores whose one drive is bound to vfio-pci. `node` puts a block device
    /// `drive` over the file `FILE`; `device` says what the drive is like.
    fn boot(name: &str, programs: &Path, node: &str, device: &str) -> Machine {
        let image = GuestImage::prepare(&Cache::from_environment()).unwrap();
        let folder = env!("CARGO_TARGET_TMPDIR");
        let disk = Disk::create(folder, &format!("pcie-load-{name}"), SIZE_MIB).unwrap();
        let node = node.replace("FILE", &disk.path().display().to_string());
        let mut builder = Guest::builder(&image).iommu(Iommu::Intel).memory_mib(1024).cpus(2);
        builder = builder.share(programs, "programs", Access::ReadOnly).hotplug_slots(1);
        for node in node.split_whitespace() {
            builder = builder.device_args(["-blockdev", node]);
        }
        builder = builder.device_args(device.split_whitespace());
        let mut guest = builder.boot().unwrap();
        let script = "modprobe -a vfio-pci pciehp 2>/dev/null || modprobe vfio-pci; \
             cd /sys/bus/pci; \
             address=$(basename $(dirname $(grep -l 0x010802 devices/*/class))); \
             echo vfio-pci > devices/$address/driver_override; \
             [ ! -e devices/$address/driver ] || echo $address > devices/$address/driver/unbind; \
             echo $address > drivers_probe; echo $address";
        let address = guest.run_ok(script, LIMIT).unwrap().trim().to_owned();
        Machine { guest, address, _disk: disk }
    }

    const PLAIN: &str = "driver=file,filename=FILE,node-name=drive";
    const DRIVE: &str = "-device nvme,id=first,serial=A,drive=drive,bus=slot0";

    impl Machine {
        fn load(&mut self, query: &str, words: &str) -> guest::Output {
            let uri = format!("pcie:///{}{query}", self.address);
            let command = format!("/host/programs/drive_load '{uri}' {words}");
            self.guest.run(&command, LIMIT).unwrap()
        }

        /// Asks for the drive to be unplugged, as its owner would who presses the button.
        fn unplug(&mut self) {
            self.guest.qmp("device_del", &json!({ "id": "first" })).unwrap();
        }

        fn wait_until_gone(&mut self) {
            self.guest.wait_event("DEVICE_DELETED", Duration::from_secs(90)).unwrap();
        }

        /// The daemon takes next to no processor time while nobody asks anything of it; a core that
        /// spins would take 300 ticks.
        fn daemon_sleeps_while_idle(&mut self) {
            let script = "ticks() { cut -d' ' -f14,15 /proc/$(cat /tmp/pid)/stat | tr ' ' +; }; \
                          sleep 1; before=$(ticks); sleep 3; echo $(( $(ticks) - ($before) ))";
            let ticks = self.guest.run_ok(script, LIMIT).unwrap();
            assert!(ticks.trim().parse::<u32>().unwrap() < 60, "{ticks} ticks in 3 s");
        }

        /// No address was given to the drive that was not its own.
        fn no_address_was_wrong(&mut self) {
            let log = self.guest.run_ok("dmesg", LIMIT).unwrap();
            assert!(!log.contains("DMAR: [DMA"), "{log}");
        }
    }

    fn count(output: &str, word: &str) -> usize {
        output.matches(word).count()
    }

    #[test]
    fn every_core_has_its_queue_and_takes_no_interrupt_while_it_polls() {
        let namespace = format!("-device nvme-ns,bus=first,drive=drive,nsid=3,{BLOCKS_4_KIB}");
        let device = format!("-device nvme,id=first,serial=A,bus=slot0 {namespace}");
        let mut machine = boot("queues", load(), PLAIN, &device);
        let output = machine.load("?namespace=3", "cores=2 seconds=6");
        assert!(output.is_success() && output.stdout.contains("verified"), "{output:?}");
        assert!(output.stdout.contains("2 queues"), "{output:?}");
        assert_eq!(count(&output.stdout, "interrupts_while_polling: 0,"), 2, "{output:?}");
        assert_eq!(count(&output.stdout, " 0 errors"), 2, "{output:?}");
        assert!(!output.stdout.contains(": 0 ios"), "{output:?}");
        assert!(!output.stdout.contains("event:"), "{output:?}");
        machine.no_address_was_wrong();
    }

    #[test]
    fn resets_under_load_lose_no_io_and_no_byte() {
        let mut machine = boot("reset", load(), PLAIN, DRIVE);
        let output = machine.load("", "cores=2 seconds=8 reset_ms=500");
        assert!(output.is_success() && output.stdout.contains("verified"), "{output:?}");
        assert_eq!(count(&output.stdout, " 0 errors"), 2, "{output:?}");
        assert!(count(&output.stdout, "event: back after the reset") >= 3, "{output:?}");
        let retried = output.stdout.matches("retried: ").count()
            - output.stdout.matches("retried: 0,").count();
        assert!(retried > 0, "some I/O was in flight at a reset: {output:?}");
        machine.no_address_was_wrong();
    }

    #[test]
    fn errors_of_the_medium_go_up_as_they_are_and_reset_nothing() {
        // The first sector can be written and never read.
        let faulty = [
            json!({ "driver": "file", "filename": "FILE", "node-name": "file" }),
            json!({
                "driver": "blkdebug",
                "node-name": "faulty",
                "image": "file",
                "inject-error": [
                    { "event": "read_aio", "iotype": "read", "errno": 5, "sector": 0 },
                ],
            }),
            json!({ "driver": "raw", "node-name": "drive", "file": "faulty" }),
        ];
        let faulty = faulty.map(|node| node.to_string()).join(" ");
        let mut machine = boot("errors", load(), &faulty, DRIVE);
        let output = machine.load("", "cores=2 seconds=5 errors=count");
        assert!(output.is_success() && output.stdout.contains("verified"), "{output:?}");
        assert!(output.stdout.contains("core 1: ") && !output.stdout.contains("core 0: 0 ios"));
        let first = output.stdout.lines().find(|line| line.starts_with("core 0:")).unwrap();
        assert!(!first.contains(" 0 errors"), "{output:?}");
        assert!(!output.stdout.contains("event:"), "{output:?}");
        let output = machine.load("", "cores=1 seconds=5");
        assert!(!output.is_success(), "{output:?}");
        assert!(output.stderr.contains("Unrecovered Read Error"), "{output:?}");
    }

    #[test]
    fn a_drive_that_is_unplugged_under_load_is_given_back_and_the_process_lives() {
        let mut machine = boot("unplug", load(), PLAIN, DRIVE);
        let uri = format!("pcie:///{}", machine.address);
        let start = format!(
            "(/host/programs/drive_load {uri} cores=2 seconds=120 errors=count; echo code $?) \
             > /tmp/out 2>&1 < /dev/null & sleep 3"
        );
        machine.guest.run_ok(&start, LIMIT).unwrap();
        machine.unplug();
        machine.wait_until_gone();
        let script = "for i in $(seq 300); do grep -q code /tmp/out && break; sleep 0.1; done; \
                      cat /tmp/out";
        let output = machine.guest.run_ok(script, LIMIT).unwrap();
        assert!(output.contains("gone\ncode 0"), "{output}");
        assert!(output.contains("event: wanted back by the system"), "{output}");
        machine.no_address_was_wrong();
    }

    #[test]
    fn the_kernels_host_reaches_the_drive_through_our_target_and_outlives_it() {
        let mut machine = boot("path", daemon(), PLAIN, DRIVE);
        let start = format!(
            "/host/programs/mayastor target pcie:///{} 'malloc:///ram?size_mb=32' --nqn {NQN} \
             --port {PORT} --cores 0,1 --dma-mib 64 > /tmp/out 2>&1 < /dev/null & \
             echo $! > /tmp/pid; for i in $(seq 200); do \
             grep -q 'nvme connect' /tmp/out && exit; sleep 0.1; done; cat /tmp/out; exit 1",
            machine.address
        );
        machine.guest.run_ok(&start, LIMIT).unwrap();
        let told = machine.guest.run_ok("cat /tmp/out", LIMIT).unwrap();
        assert!(told.contains("without hugepages: DMA memory wants 64 free ones"), "{told}");
        let address = String::from("127.0.0.1");
        let endpoint = Endpoint { address, port: PORT, nqn: NQN.to_owned() };
        let controller = nvme::connect(&mut machine.guest, &endpoint, "").unwrap();
        let drive = controller.namespace(&mut machine.guest, 1).unwrap();
        let ram = controller.namespace(&mut machine.guest, 2).unwrap();
        for (block, amount) in [("4k", "4m"), ("20k", "4m"), ("128k", "8m")] {
            let job = format!("--rw=randwrite --bs={block} --size={amount}");
            machine.guest.run_ok(&format!("{FIO} --filename={drive} {job}"), LIMIT).unwrap();
        }
        machine.daemon_sleeps_while_idle();
        // A warning of the drive's health is a line of the daemon's.
        let warning = json!({
            "path": "/machine/peripheral/first",
            "property": "smart_critical_warning",
            "value": 4,
        });
        machine.guest.qmp("qom-set", &warning).unwrap();
        let warned = |text: &str| text.contains("health warning: reliability degraded by errors");
        nvme::poll(&mut machine.guest, "cat /tmp/out", warned).unwrap();
        let start = format!(
            "({FIO} --filename={drive} --rw=randrw --bs=4k --size=16m --time_based --runtime=90; \
             echo code $?) > /tmp/fio 2>&1 < /dev/null & sleep 2"
        );
        machine.guest.run_ok(&start, LIMIT).unwrap();
        machine.unplug();
        machine.wait_until_gone();
        let told = machine.guest.run_ok("cat /tmp/out", LIMIT).unwrap();
        assert!(
            told.contains(&format!("{}: wanted back by the system", machine.address)),
            "{told}"
        );
        // The host's I/O ends with an error, the target lives, and its other namespace serves on.
        let script = "for i in $(seq 900); do grep -q code /tmp/fio && break; sleep 0.1; done; \
                      cat /tmp/fio";
        let output = machine.guest.run_ok(script, LIMIT).unwrap();
        assert!(output.contains("code ") && !output.contains("code 0"), "{output}");
        let job = "--rw=randwrite --bs=4k --size=4m";
        machine.guest.run_ok(&format!("{FIO} --filename={ram} {job}"), LIMIT).unwrap();
        machine.guest.run_ok("kill -0 $(cat /tmp/pid)", LIMIT).unwrap();
        controller.disconnect(&mut machine.guest).unwrap();
        machine.guest.run_ok("kill $(cat /tmp/pid)", LIMIT).unwrap();
        machine.no_address_was_wrong();
    }
}
