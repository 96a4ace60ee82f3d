//! A Linux kernel finds the target, connects to it, learns what it is, and comes back to it.

#[cfg(test)]
mod real_kernel {
    use std::time::Duration;

    use guest::nvme::{self, Endpoint};
    use guest::{
        Cache, Guest, GuestImage, HOST_ADDRESS, HOST_NQN, Result, SharedGuest, Target,
        kernel_target,
    };

    const SIZE_MIB: u32 = 64;
    const DEVICE: &str = "malloc:///one?size_mb=64";
    const LIMIT: Duration = Duration::from_secs(60);
    /// A host asks for no more I/O queues than it has processors.
    const CPUS: u32 = 4;
    const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

    static GUEST: SharedGuest = SharedGuest::new(boot);

    fn boot() -> Result<Guest> {
        let image = GuestImage::prepare(&Cache::from_environment())?;
        let builder = Guest::builder(&image).cpus(CPUS);
        builder.kernel_words(kernel_target::KERNEL_WORDS).boot()
    }

    /// Runs a claim against our target and, as a control, against the kernel's own.
    fn on_both_targets(claim: fn(&mut Guest, &Endpoint)) {
        let mut guest = GUEST.lock().unwrap();
        let endpoint = kernel_target::start(&mut guest, SIZE_MIB).unwrap();
        claim(&mut guest, &endpoint);
        kernel_target::stop(&mut guest).unwrap();
        let mut target = Target::start(0, &[DEVICE]).unwrap();
        claim(&mut guest, target.endpoint());
        assert!(target.is_alive(), "{}", target.log());
    }

    /// Writes a pattern, and reads it back from the target rather than from a cache.
    fn a_pattern_comes_back(guest: &mut Guest, device: &str) {
        let script = format!(
            "set -e
            dd if=/dev/urandom of=/tmp/pattern bs=64k count=32
            dd if=/tmp/pattern of={device} bs=64k oflag=direct
            dd if={device} of=/tmp/back bs=128k count=16 iflag=direct
            cmp /tmp/pattern /tmp/back"
        );
        guest.run_ok(&script, LIMIT).unwrap();
    }

    #[test]
    fn discovery_names_the_subsystem_where_the_host_can_reach_it() {
        on_both_targets(|guest, endpoint| {
            let records = nvme::discover(guest, &endpoint.address, endpoint.port).unwrap();
            let is_wanted = |record: &&serde_json::Value| record["subnqn"] == endpoint.nqn.as_str();
            let record = records.iter().find(is_wanted).unwrap();
            assert_eq!(record["trtype"], "tcp");
            assert_eq!(record["traddr"], endpoint.address.as_str());
            assert_eq!(record["trsvcid"].as_str().unwrap().trim(), endpoint.port.to_string());
        });
    }

    #[test]
    fn a_persistent_discovery_controller_stays_connected() {
        on_both_targets(|guest, endpoint| {
            let discovery = Endpoint { nqn: DISCOVERY_NQN.to_owned(), ..endpoint.clone() };
            let controller = nvme::connect(guest, &discovery, "").unwrap();
            // Longer than its keep-alive of 5 s.
            guest.run_ok("sleep 7", LIMIT).unwrap();
            assert_eq!(controller.attribute(guest, "state").unwrap(), "live");
            controller.disconnect(guest).unwrap();
        });
    }

    #[test]
    fn a_host_gets_as_many_queues_as_it_asks_for() {
        on_both_targets(|guest, endpoint| {
            for io_queues in [1, CPUS] {
                let options = format!("--nr-io-queues={io_queues}");
                let controller = nvme::connect(guest, endpoint, &options).unwrap();
                // The kernel counts the admin queue too.
                let count = controller.attribute(guest, "queue_count").unwrap();
                assert_eq!(count, (io_queues + 1).to_string());
                let device = controller.namespace(guest, 1).unwrap();
                a_pattern_comes_back(guest, &device);
                let each_cpu = format!(
                    "for cpu in 0 1 2 3; do taskset -c $cpu dd if={device} of=/dev/null bs=4k \
                     count=16 iflag=direct 2>/dev/null || exit; done"
                );
                guest.run_ok(&each_cpu, LIMIT).unwrap();
                controller.disconnect(guest).unwrap();
            }
        });
    }

    #[test]
    fn queues_are_as_long_as_host_and_target_agree_on() {
        // What the target allows, what the host asks for, what the kernel shows: one less.
        for (allowed, asked, shown) in
            [("128", 16, "15"), ("128", 1024, "127"), ("1024", 1024, "1023")]
        {
            let target = Target::start(0, &[DEVICE, "--queue-size", allowed]).unwrap();
            let mut guest = GUEST.lock().unwrap();
            let options = format!("--nr-io-queues=1 --queue-size={asked}");
            let controller = nvme::connect(&mut guest, target.endpoint(), &options).unwrap();
            assert_eq!(controller.attribute(&mut guest, "sqsize").unwrap(), shown);
            let device = controller.namespace(&mut guest, 1).unwrap();
            a_pattern_comes_back(&mut guest, &device);
            controller.disconnect(&mut guest).unwrap();
        }
    }

    #[test]
    fn digests_of_headers_and_of_data_can_be_had_alone_and_together() {
        on_both_targets(|guest, endpoint| {
            for options in ["--hdr-digest", "--data-digest", "--hdr-digest --data-digest"] {
                let controller = nvme::connect(guest, endpoint, options).unwrap();
                let device = controller.namespace(guest, 1).unwrap();
                a_pattern_comes_back(guest, &device);
                controller.disconnect(guest).unwrap();
            }
        });
    }

    #[test]
    fn the_host_sees_controller_and_namespace_as_they_are() {
        on_both_targets(|guest, endpoint| {
            let controller = nvme::connect(guest, endpoint, "").unwrap();
            let device = controller.namespace(guest, 1).unwrap();
            let about = format!("nvme id-ctrl {} -o json", controller.device());
            let about = nvme::json_of(guest, &about).unwrap();
            assert_eq!(about["subnqn"], endpoint.nqn.as_str());
            assert_eq!((&about["sqes"], &about["cqes"]), (&0x66.into(), &0x44.into()));
            assert!(about["maxcmd"].as_u64().unwrap() >= 128, "{about}");
            let serial = about["sn"].as_str().unwrap().trim().to_owned();
            assert!(!serial.is_empty());

            let about = nvme::json_of(guest, &format!("nvme id-ns {device} -o json")).unwrap();
            let format = &about["lbafs"][about["flbas"].as_u64().unwrap() as usize & 15];
            let block_bytes = 1u64 << format["ds"].as_u64().unwrap();
            let size_bytes = about["nsze"].as_u64().unwrap() * block_bytes;
            assert_eq!(size_bytes, u64::from(SIZE_MIB) << 20);
            let size = guest.run_ok(&format!("blockdev --getsize64 {device}"), LIMIT).unwrap();
            assert_eq!(size.trim(), size_bytes.to_string());

            let list = nvme::json_of(guest, "nvme list -o json").unwrap();
            let devices = list["Devices"].as_array().unwrap();
            let listed = devices.iter().find(|d| d["DevicePath"] == device.as_str()).unwrap();
            assert_eq!(listed["SerialNumber"].as_str().unwrap().trim(), serial);
            assert_eq!(listed["PhysicalSize"], size_bytes);
            for log in ["smart-log", "error-log", "fw-log"] {
                guest.run_ok(&format!("nvme {log} {}", controller.device()), LIMIT).unwrap();
            }
            controller.disconnect(guest).unwrap();
        });
    }

    #[test]
    fn every_uri_is_a_namespace_of_its_own() {
        let mut guest = GUEST.lock().unwrap();
        let devices =
            [DEVICE, "malloc:///two?size_mb=32&blk_size=4096", "null:///three?size_mb=16"];
        let target = Target::start(0, &devices).unwrap();
        let controller = nvme::connect(&mut guest, target.endpoint(), "").unwrap();
        let mut sizes = Vec::new();
        for namespace_id in [1, 2, 3] {
            let device = controller.namespace(&mut guest, namespace_id).unwrap();
            let get = format!("echo $(blockdev --getss --getsize64 {device})");
            sizes.push(guest.run_ok(&get, LIMIT).unwrap().trim().to_owned());
        }
        assert_eq!(sizes, ["512 67108864", "4096 33554432", "512 16777216"]);
        let first = controller.namespace(&mut guest, 1).unwrap();
        let second = controller.namespace(&mut guest, 2).unwrap();
        a_pattern_comes_back(&mut guest, &second);
        let other = format!("dd if={first} bs=64k count=32 2>/dev/null | tr -d '\\0' | wc -c");
        assert_eq!(guest.run_ok(&other, LIMIT).unwrap().trim(), "0");
        controller.disconnect(&mut guest).unwrap();
    }

    #[test]
    fn the_line_that_the_target_prints_connects() {
        let target = Target::start(0, &[DEVICE]).unwrap();
        let mut guest = GUEST.lock().unwrap();
        // The loopback that it names is the host's, which the guest knows by another address.
        let line = target.connect_line().replace("-a 127.0.0.1 ", &format!("-a {HOST_ADDRESS} "));
        guest.run_ok(&format!("modprobe nvme-tcp; {line} -l 20 -k 5"), LIMIT).unwrap();
        nvme::disconnect_all(&mut guest).unwrap();
    }

    #[test]
    fn a_read_only_target_is_read_and_not_written() {
        let target = Target::start(0, &[DEVICE, "--read-only"]).unwrap();
        let mut guest = GUEST.lock().unwrap();
        let controller = nvme::connect(&mut guest, target.endpoint(), "").unwrap();
        let device = controller.namespace(&mut guest, 1).unwrap();
        let read = format!("dd if={device} of=/dev/null bs=64k count=4 iflag=direct");
        guest.run_ok(&read, LIMIT).unwrap();
        let read_only = guest.run_ok(&format!("blockdev --getro {device}"), LIMIT).unwrap();
        assert_eq!(read_only.trim(), "1");
        let write = format!(
            "blockdev --setrw {device}; nvme write {device} --data-size=512 -c 0 < /dev/zero"
        );
        assert!(!guest.run(&write, LIMIT).unwrap().is_success());
        controller.disconnect(&mut guest).unwrap();
    }

    #[test]
    fn only_hosts_on_the_list_are_let_in() {
        let target = Target::start(0, &[DEVICE, "--allow-host", HOST_NQN]).unwrap();
        let mut guest = GUEST.lock().unwrap();
        let controller = nvme::connect(&mut guest, target.endpoint(), "").unwrap();
        controller.disconnect(&mut guest).unwrap();
        let other =
            "--hostnqn=nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000001";
        let refused = nvme::try_connect(&mut guest, target.endpoint(), other).unwrap();
        assert!(!refused.is_success(), "{refused:?}");
        let log = guest.run_ok("dmesg | tail -5", LIMIT).unwrap();
        assert!(log.contains("Connect for subsystem") || log.contains("allow"), "{log}");
    }

    #[test]
    fn a_namespace_is_the_same_after_the_target_was_started_anew() {
        // Unless told, the name of the subsystem depends on the port that was asked for.
        let arguments = [DEVICE, "--nqn", "nqn.2026-01.example:restarted"];
        let target = Target::start(0, &arguments).unwrap();
        let mut guest = GUEST.lock().unwrap();
        let endpoint = target.endpoint().clone();
        let controller = nvme::connect(&mut guest, &endpoint, "").unwrap();
        let device = controller.namespace(&mut guest, 1).unwrap();
        let identity_of = |guest: &mut Guest| {
            let name = device.trim_start_matches("/dev/");
            let files =
                format!("cd /sys/block/{name}; cat wwid uuid nguid nsid; cat device/serial");
            guest.run_ok(&files, LIMIT).unwrap()
        };
        let before = identity_of(&mut guest);
        target.kill();
        controller.wait_for_state(&mut guest, "connecting").unwrap();
        // A read that waits while there is no target must end well when there is one again.
        let read = format!(
            "dd if={device} of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null && \
             echo read > /tmp/read &"
        );
        guest.run_ok(&format!("rm -f /tmp/read; {read}"), LIMIT).unwrap();
        let target = Target::start(endpoint.port, &arguments).unwrap();
        assert_eq!(target.endpoint(), &endpoint);
        controller.wait_for_state(&mut guest, "live").unwrap();
        let seen = "for i in $(seq 100); do test -s /tmp/read && exit; sleep 0.1; done; exit 1";
        guest.run_ok(seen, LIMIT).unwrap();
        assert_eq!(identity_of(&mut guest), before);
        a_pattern_comes_back(&mut guest, &device);
        controller.disconnect(&mut guest).unwrap();
    }

    #[test]
    fn a_target_with_a_connected_host_ends_within_a_second_when_asked() {
        let target = Target::start(0, &[DEVICE]).unwrap();
        let mut guest = GUEST.lock().unwrap();
        let controller = nvme::connect(&mut guest, target.endpoint(), "").unwrap();
        controller.namespace(&mut guest, 1).unwrap();
        let (status, time) = target.terminate().unwrap();
        assert!(status.success(), "{status}");
        assert!(time < Duration::from_secs(1), "{time:?}");
        controller.disconnect(&mut guest).unwrap();
    }
}
