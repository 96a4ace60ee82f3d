//! The target is changed while a host is connected and under load: namespaces come, grow and go,
//! the path gets worse and better, devices fail and stall, subsystems and portals come and go.

#[cfg(test)]
mod real_kernel {
    use std::time::{Duration, Instant};

    use guest::nvme::{self, Controller, Endpoint};
    use guest::{
        Cache, Client, Disk, Guest, GuestImage, HOST_ADDRESS, Lease, Load, Result, SharedGuest,
        Target,
    };

    const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");
    const NQN: &str = "nqn.2026-01.example:changes";
    const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";
    const DEVICE: &str = "malloc:///one?size_mb=64";
    const LIMIT: Duration = Duration::from_secs(120);
    const LOAD_MIB: u32 = 4;
    /// What must move before the load counts as going on, in KiB.
    const SOME_KIB: u64 = 1024;

    static GUEST: SharedGuest = SharedGuest::new(boot);

    fn boot() -> Result<Guest> {
        let image = GuestImage::prepare(&Cache::from_environment())?;
        Guest::builder(&image).cpus(2).modules(["nvme-tcp"]).boot()
    }

    /// A target that can be changed, and a host with a load on the first namespace.
    struct Scene {
        guest: Lease<'static>,
        target: Target,
        client: Client,
        controller: Controller,
        load: Load,
    }

    impl Scene {
        fn begin(device: &str) -> Scene {
            let client = Client::new();
            let target = Target::start(0, &[device, "--nqn", NQN, &client.option()]).unwrap();
            let mut guest = GUEST.lock().unwrap();
            guest.run_ok("dmesg -c", LIMIT).unwrap();
            let controller = nvme::connect(&mut guest, target.endpoint(), "").unwrap();
            let device = controller.namespace(&mut guest, 1).unwrap();
            let load = Load::start(&mut guest, &device, LOAD_MIB).unwrap();
            load.wait_for(&mut guest, SOME_KIB).unwrap();
            Scene { guest, target, client, controller, load }
        }

        fn change(&self, words: &str) {
            self.client.run(words).unwrap();
        }

        fn load_goes_on(&mut self) {
            self.load.wait_for(&mut self.guest, SOME_KIB).unwrap();
        }

        /// Everything that the load wrote came back, and the kernel had nothing to retry.
        fn end(mut self) {
            self.load_goes_on();
            self.load.stop(&mut self.guest).unwrap();
            let log = self.guest.run_ok("dmesg", LIMIT).unwrap();
            for word in ["reset controller", "Reconnecting", "timeout"] {
                assert!(!log.contains(word), "{word} in {log}");
            }
            self.controller.disconnect(&mut self.guest).unwrap();
            assert!(self.target.is_alive(), "{}", self.target.log());
        }
    }

    #[test]
    fn a_namespace_comes_and_goes_beside_one_under_load() {
        let mut scene = Scene::begin(DEVICE);
        scene.change("device add malloc:///late?size_mb=32");
        scene.change(&format!("namespace add {NQN} late --nsid 7"));
        // The host is told, and looks by itself.
        let late = scene.controller.namespace(&mut scene.guest, 7).unwrap();
        let second = Load::start(&mut scene.guest, &late, LOAD_MIB).unwrap();
        second.wait_for(&mut scene.guest, SOME_KIB).unwrap();
        assert_eq!(scene.client.refusal_of("device remove late").unwrap(), "in_use");
        scene.change(&format!("namespace remove {NQN} 7"));
        scene.controller.wait_for_removal(&mut scene.guest, &late).unwrap();
        assert!(second.stop_with_errors(&mut scene.guest).unwrap());
        scene.change("device remove late");
        scene.load_goes_on();
        // The number is free again, for another device.
        scene.change("device add malloc:///later?size_mb=16");
        scene.change(&format!("namespace add {NQN} later --nsid 7"));
        let later = scene.controller.namespace(&mut scene.guest, 7).unwrap();
        let size = format!("blockdev --getsize64 {later}");
        let size = scene.guest.run_ok(&size, LIMIT).unwrap();
        assert_eq!(size.trim(), (16 << 20).to_string());
        scene.end();
    }

    #[test]
    fn a_namespace_under_load_grows_with_its_file() {
        let disk = Disk::create(DIRECTORY, "grows", 32).unwrap();
        let mut scene = Scene::begin(&disk.uri("uring"));
        let device = scene.controller.namespace(&mut scene.guest, 1).unwrap();
        disk.resize(48).unwrap();
        scene.change(&format!("namespace resize {NQN} 1"));
        let size = format!("blockdev --getsize64 {device}");
        let grown = (48_u64 << 20).to_string();
        nvme::poll(&mut scene.guest, &size, |text| text.trim() == grown).unwrap();
        let use_it = format!(
            "set -e
            head -c 65536 /dev/urandom > /tmp/end
            dd if=/tmp/end of={device} bs=64k seek=767 oflag=direct
            dd if={device} of=/tmp/back bs=64k skip=767 count=1 iflag=direct
            cmp /tmp/end /tmp/back"
        );
        scene.guest.run_ok(&use_it, LIMIT).unwrap();
        scene.end();
    }

    #[test]
    fn io_waits_while_the_only_path_is_inaccessible_and_sees_no_error() {
        let mut scene = Scene::begin(DEVICE);
        let ana = |scene: &mut Scene, state: &str| {
            scene.change(&format!("ana set {NQN} {state}"));
            scene.controller.wait_for_ana_state(&mut scene.guest, 1, state).unwrap();
        };
        ana(&mut scene, "inaccessible");
        let moved = "cat /sys/block/nvme*c*n1/stat | awk '{ print $3 + $7 }'; sleep 1; \
            cat /sys/block/nvme*c*n1/stat | awk '{ print $3 + $7 }'";
        let moved = scene.guest.run_ok(moved, LIMIT).unwrap();
        let (before, after) = moved.trim().split_once('\n').unwrap();
        assert_eq!(before, after, "nothing goes over a path that is inaccessible");
        ana(&mut scene, "optimized");
        scene.load_goes_on();
        ana(&mut scene, "non-optimized");
        scene.load_goes_on();
        // Less than the time within which the host expects a transition to end.
        ana(&mut scene, "change");
        ana(&mut scene, "optimized");
        scene.end();
    }

    /// One of two namespaces is moved away: the other's I/O takes no notice.
    #[test]
    fn the_state_of_a_namespace_is_its_own() {
        let mut scene = Scene::begin(DEVICE);
        scene.change("device add malloc:///two?size_mb=16");
        scene.change(&format!("namespace add {NQN} two --nsid 2"));
        scene.controller.namespace(&mut scene.guest, 2).unwrap();
        scene.change(&format!("ana set {NQN} inaccessible --nsid 2"));
        let controller = scene.controller.clone();
        controller.wait_for_ana_state(&mut scene.guest, 2, "inaccessible").unwrap();
        controller.wait_for_ana_state(&mut scene.guest, 1, "optimized").unwrap();
        scene.load_goes_on();
        scene.change(&format!("ana set {NQN} optimized --nsid 2"));
        controller.wait_for_ana_state(&mut scene.guest, 2, "optimized").unwrap();
        scene.end();
    }

    #[test]
    fn a_device_that_stalls_or_fails_does_it_alone() {
        let mut scene = Scene::begin(DEVICE);
        scene.change("device add malloc:///bad?size_mb=16");
        scene.change(&format!("namespace add {NQN} bad --nsid 2"));
        let bad = scene.controller.namespace(&mut scene.guest, 2).unwrap();
        let read = format!("dd if={bad} of=/dev/null bs=4k count=1 iflag=direct");
        scene.guest.run_ok(&read, LIMIT).unwrap();
        scene.change("fault set bad --status 0x281 --operation read");
        assert!(!scene.guest.run(&read, LIMIT).unwrap().is_success());
        scene.change("fault clear bad");
        scene.guest.run_ok(&read, LIMIT).unwrap();
        scene.change("delay set bad 5s");
        scene
            .guest
            .run_ok(&format!("rm -f /tmp/stalled; ({read}; echo $? > /tmp/stalled) &"), LIMIT)
            .unwrap();
        let begin = Instant::now();
        scene.client.run("device list").unwrap();
        scene.client.run("subsystem list").unwrap();
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
        scene.load_goes_on();
        scene.change("delay clear bad");
        let ended = "cat /tmp/stalled";
        nvme::poll(&mut scene.guest, ended, |text| text.trim() == "0").unwrap();
        scene.end();
    }

    #[test]
    fn a_subsystem_that_is_added_shows_at_a_discovery_controller_that_was_there_before() {
        let client = Client::new();
        let target = Target::start(0, &[DEVICE, "--nqn", NQN, &client.option()]).unwrap();
        let mut guest = GUEST.lock().unwrap();
        let endpoint = target.endpoint().clone();
        let discovery = Endpoint { nqn: DISCOVERY_NQN.to_owned(), ..endpoint.clone() };
        let controller = nvme::connect(&mut guest, &discovery, "").unwrap();
        // The kernel passes the event on to user space.
        let watch = "rm -f /tmp/events; (uevent env >> /tmp/events 2>&1 & echo $! > /tmp/watch)";
        guest.run_ok(watch, LIMIT).unwrap();
        guest.run_ok("sleep 1", LIMIT).unwrap();
        let listed = |guest: &mut Guest| {
            let log = format!("nvme discover -d {} -o json", controller.name());
            nvme::json_of(guest, &log).unwrap()
        };
        let before = listed(&mut guest);
        assert_eq!(before["records"].as_array().unwrap().len(), 1);
        let other = "nqn.2026-01.example:added";
        client.run(&format!("subsystem add {other}")).unwrap();
        let event = "grep -a NVME_AEN /tmp/events | tail -1";
        nvme::poll(&mut guest, event, |text| text.trim() == "NVME_AEN=0x70f002").unwrap();
        let after = listed(&mut guest);
        assert!(after["genctr"].as_u64() > before["genctr"].as_u64(), "{before} {after}");
        assert!(after.to_string().contains(other), "{after}");
        // A subsystem without namespaces can be connected to, and gets its first later.
        let added = Endpoint { nqn: other.to_owned(), ..endpoint };
        let connected = nvme::connect(&mut guest, &added, "").unwrap();
        client.run("device add malloc:///first?size_mb=16").unwrap();
        client.run(&format!("namespace add {other} first")).unwrap();
        connected.namespace(&mut guest, 1).unwrap();
        connected.disconnect(&mut guest).unwrap();
        client.run(&format!("subsystem remove {other}")).unwrap();
        let gone = |text: &str| !text.contains(other);
        let log = format!("nvme discover -d {} -o json", controller.name());
        nvme::poll(&mut guest, &log, gone).unwrap();
        guest.run_ok("kill $(cat /tmp/watch)", LIMIT).unwrap();
        controller.disconnect(&mut guest).unwrap();
    }

    #[test]
    fn a_subsystem_that_is_removed_under_load_ends_for_its_hosts_alone() {
        let mut scene = Scene::begin(DEVICE);
        let other = "nqn.2026-01.example:short";
        scene.change(&format!("subsystem add {other}"));
        scene.change("device add malloc:///short?size_mb=16");
        scene.change(&format!("namespace add {other} short"));
        let endpoint = Endpoint { nqn: other.to_owned(), ..scene.target.endpoint().clone() };
        let short = nvme::connect(&mut scene.guest, &endpoint, "").unwrap();
        let device = short.namespace(&mut scene.guest, 1).unwrap();
        let load = Load::start(&mut scene.guest, &device, LOAD_MIB).unwrap();
        load.wait_for(&mut scene.guest, SOME_KIB).unwrap();
        scene.guest.run_ok("dmesg -c", LIMIT).unwrap();
        scene.change(&format!("subsystem remove {other}"));
        // The host tries to come back, is told that there is nothing, and gives up.
        short.wait_for_removal(&mut scene.guest, &short.device()).unwrap();
        assert!(load.stop_with_errors(&mut scene.guest).unwrap());
        scene.change("device remove short");
        scene.guest.run_ok("dmesg -c", LIMIT).unwrap();
        scene.end();
    }

    /// Two portals are two paths. The one that is closed keeps its connections, and lets no new
    /// ones in.
    #[test]
    fn a_portal_is_a_second_path_and_can_be_closed_under_load() {
        let mut scene = Scene::begin(DEVICE);
        let added = scene
            .client
            .run(&format!("portal add 127.0.0.1:0 --advertise {HOST_ADDRESS}"))
            .unwrap();
        let address = added["portal"]["address"].as_str().unwrap().to_owned();
        let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
        let records = nvme::discover(&mut scene.guest, HOST_ADDRESS, port).unwrap();
        let is_there = |port: u16| {
            records.iter().any(|record| {
                record["subnqn"] == NQN
                    && record["trsvcid"].as_str().unwrap().trim() == port.to_string()
            })
        };
        assert!(is_there(port) && is_there(scene.target.endpoint().port), "{records:?}");
        let endpoint = Endpoint { port, ..scene.target.endpoint().clone() };
        let second = nvme::connect(&mut scene.guest, &endpoint, "").unwrap();
        let set = "for policy in /sys/class/nvme-subsystem/*/iopolicy; do
            echo round-robin > $policy; done";
        scene.guest.run_ok(set, LIMIT).unwrap();
        scene.load_goes_on();
        scene.change(&format!("portal remove {address}"));
        scene.load_goes_on();
        assert_eq!(second.attribute(&mut scene.guest, "state").unwrap(), "live");
        assert!(nvme::discover(&mut scene.guest, HOST_ADDRESS, port).is_err());
        second.disconnect(&mut scene.guest).unwrap();
        scene.end();
    }
}
