//! A volume of three replicas under load, while they are killed, paused and come back: the host
//! sees no error, everything that it wrote comes back, and in the end the replicas are equal.

#[cfg(test)]
mod real_kernel {
    use std::time::{Duration, Instant};

    use guest::nvme::{self, Controller};
    use guest::{Cache, Guest, GuestImage, Lease, Load, Mirror, Replica, Result, SharedGuest};

    const LIMIT: Duration = Duration::from_secs(120);
    const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");
    const SIZE_MIB: u64 = 64;
    /// What the load writes before it reads it back.
    const LOAD_MIB: u32 = 8;
    /// What must move before the load counts as going on, in KiB.
    const SOME_KIB: u64 = 1024;
    const NQN: &str = "nqn.2026-01.example:volume";
    /// A child that does not answer is out after 6 s; a machine with other work takes longer.
    const SILENT_MAX: Duration = Duration::from_secs(15);

    static GUEST: SharedGuest = SharedGuest::new(boot);

    fn boot() -> Result<Guest> {
        let image = GuestImage::prepare(&Cache::from_environment())?;
        Guest::builder(&image).cpus(2).modules(["nvme-tcp"]).boot()
    }

    /// New replicas are made equal by copies.
    fn wait_until_equal(replicas: &[Replica], mirror: &Mirror) {
        let begin = Instant::now();
        let differs = |other: &Replica| replicas[0].difference(other).unwrap().is_some();
        while replicas[1..].iter().any(differs) {
            assert!(begin.elapsed() < LIMIT, "{:?}", mirror.look().unwrap());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A volume, and a host with a load on it.
    struct Scene {
        guest: Lease<'static>,
        replicas: Vec<Replica>,
        mirror: Mirror,
        controller: Controller,
        load: Option<Load>,
    }

    impl Scene {
        fn begin(name: &str) -> Scene {
            let replica = |number| {
                Replica::start(DIRECTORY, &format!("{name}-{number}"), SIZE_MIB, number).unwrap()
            };
            let replicas: Vec<Replica> = (1..=3).map(replica).collect();
            let all: Vec<&Replica> = replicas.iter().collect();
            let mirror = Mirror::start(NQN, &all).unwrap();
            wait_until_equal(&replicas, &mirror);
            // A clean end: only then is it for sure in the labels that all regions are equal.
            mirror.end().unwrap();
            let mirror = Mirror::start(NQN, &all).unwrap();
            let mut guest = GUEST.lock().unwrap();
            guest.run_ok("dmesg -c", LIMIT).unwrap();
            // A host that has lost the volume tries for as long as this test may take.
            let patience = "--ctrl-loss-tmo=120";
            let controller = nvme::connect(&mut guest, mirror.endpoint(), patience).unwrap();
            let device = controller.namespace(&mut guest, 1).unwrap();
            let mut scene = Scene { guest, replicas, mirror, controller, load: None };
            scene.load = Some(Load::start(&mut scene.guest, &device, LOAD_MIB).unwrap());
            scene
        }

        fn load_goes_on(&mut self) {
            let load = self.load.as_ref().expect("there is a load");
            load.wait_for(&mut self.guest, SOME_KIB).unwrap();
        }

        /// Ends the load, which must have seen nothing wrong.
        fn stop_load(&mut self) {
            let load = self.load.take().expect("there is a load");
            load.stop(&mut self.guest).unwrap();
            let said = self.guest.run_ok("dmesg", LIMIT).unwrap();
            assert!(!said.contains("I/O error"), "{said}");
        }

        /// Closes the volume, and compares the replicas.
        fn end(self) {
            let Scene { mut guest, mut replicas, mirror, controller, .. } = self;
            controller.disconnect(&mut guest).unwrap();
            drop(guest);
            mirror.end().unwrap();
            replicas.iter_mut().for_each(Replica::kill);
            for other in &replicas[1..] {
                assert_eq!(replicas[0].difference(other).unwrap(), None);
            }
        }
    }

    #[test]
    fn a_verify_goes_on_while_one_replica_after_the_other_is_killed_and_comes_back() {
        let mut scene = Scene::begin("killed");
        for place in 0..3 {
            scene.load_goes_on();
            scene.replicas[place].kill();
            scene.mirror.wait_for_child(&scene.replicas[place], "faulted").unwrap();
            scene.load_goes_on();
            scene.replicas[place].start_again().unwrap();
            let back = scene.mirror.wait_for_child(&scene.replicas[place], "open").unwrap();
            println!("replica {place} is in sync again after {back:.1?}");
        }
        scene.load_goes_on();
        let rebuilds = scene.mirror.history().unwrap();
        let last = rebuilds.last().expect("there were three");
        println!("of the last one {} bytes were copied", last["copied_bytes"]);
        assert_eq!(last["scope"], "partial", "{rebuilds:?}");
        scene.stop_load();
        scene.end();
    }

    /// What is written to a replica beyond what hosts write is copies and labels.
    #[test]
    fn a_verify_goes_on_over_a_killed_nexus_and_only_what_was_being_written_is_copied() {
        let mut scene = Scene::begin("crash");
        scene.load_goes_on();
        scene.mirror.kill();
        let written = |scene: &Scene| -> Vec<u64> {
            scene.replicas.iter().map(|replica| replica.written_bytes().unwrap()).collect()
        };
        let before = written(&scene);
        scene.controller.wait_for_state(&mut scene.guest, "connecting").unwrap();
        let all: Vec<&Replica> = scene.replicas.iter().collect();
        let begin = Instant::now();
        scene.mirror.start_again(&all).unwrap();
        println!("{:.1?} until it is open", begin.elapsed());
        scene.controller.wait_for_state(&mut scene.guest, "live").unwrap();
        scene.load_goes_on();
        scene.stop_load();
        let by_hosts = scene.mirror.written_bytes().unwrap();
        wait_until_equal(&scene.replicas, &scene.mirror);
        for (place, (after, before)) in written(&scene).into_iter().zip(before).enumerate() {
            let copied = (after - before).saturating_sub(by_hosts);
            println!("replica {place}: {} KiB of copies and labels", copied >> 10);
            assert!(copied < SIZE_MIB << 20 >> 1, "replica {place}: {copied} of {SIZE_MIB} MiB");
        }
        scene.end();
    }

    #[test]
    fn a_replica_that_falls_silent_is_left_out_while_io_waits() {
        let mut scene = Scene::begin("silent");
        scene.load_goes_on();
        scene.replicas[1].pause();
        let begin = Instant::now();
        scene.mirror.wait_for_child(&scene.replicas[1], "faulted").unwrap();
        let silent = begin.elapsed();
        assert!(silent < SILENT_MAX, "{silent:?}");
        scene.load_goes_on();
        scene.replicas[1].resume();
        scene.mirror.wait_for_child(&scene.replicas[1], "open").unwrap();
        scene.load_goes_on();
        scene.stop_load();
        scene.end();
    }
}
