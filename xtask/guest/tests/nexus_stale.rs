//! A replica that missed writes, and was up when the one that has them was not: whichever of the
//! two comes first after everything was down, a host never reads what was overwritten.

#[cfg(test)]
mod real_kernel {
    use std::time::Duration;

    use guest::nvme::{self, Controller};
    use guest::{Cache, Guest, GuestImage, Lease, Mirror, Replica, Result, SharedGuest};

    const LIMIT: Duration = Duration::from_secs(120);
    const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");
    const SIZE_MIB: u64 = 16;
    const NQN: &str = "nqn.2026-01.example:stale";

    static GUEST: SharedGuest = SharedGuest::new(boot);

    fn boot() -> Result<Guest> {
        let image = GuestImage::prepare(&Cache::from_environment())?;
        Guest::builder(&image).modules(["nvme-tcp"]).boot()
    }

    /// A volume of two replicas, a host that stays connected, and what is on the volume.
    struct Scene {
        guest: Lease<'static>,
        replicas: [Replica; 2],
        mirror: Mirror,
        controller: Controller,
        device: String,
    }

    impl Scene {
        /// Both replicas have `A`; the second missed `B`; everything is down, the nexus and the
        /// first replica by a crash.
        fn begin(name: &str) -> Scene {
            let replicas = [1, 2].map(|number| {
                Replica::start(DIRECTORY, &format!("{name}-{number}"), SIZE_MIB, 0).unwrap()
            });
            let mirror = Mirror::start(NQN, &[&replicas[0], &replicas[1]]).unwrap();
            let mut guest = GUEST.lock().unwrap();
            let patience = "--ctrl-loss-tmo=120";
            let controller = nvme::connect(&mut guest, mirror.endpoint(), patience).unwrap();
            let device = controller.namespace(&mut guest, 1).unwrap();
            let mut scene = Scene { guest, replicas, mirror, controller, device };
            scene.write('A');
            scene.replicas[1].kill();
            scene.write('B');
            scene.mirror.wait_for_child(&scene.replicas[1], "faulted").unwrap();
            scene.mirror.kill();
            scene.replicas[0].kill();
            scene.controller.wait_for_state(&mut scene.guest, "connecting").unwrap();
            scene
        }

        fn write(&mut self, letter: char) {
            let Scene { guest, device, .. } = self;
            let write = format!(
                "head -c 65536 /dev/zero | tr '\\0' {letter} |
                 dd of={device} bs=64k iflag=fullblock oflag=direct conv=fsync 2>/dev/null"
            );
            guest.run_ok(&write, LIMIT).unwrap();
        }

        /// Begins to read, and does not wait.
        fn begin_read(&mut self) {
            let Scene { guest, device, .. } = self;
            let read = format!(
                "rm -f /tmp/read; (dd if={device} bs=4k count=1 iflag=direct 2>/tmp/said |
                 head -c 1 > /tmp/read; echo >> /tmp/read) &"
            );
            guest.run_ok(&read, LIMIT).unwrap();
        }

        /// Whether the read has ended, whatever it brought.
        fn has_read(&mut self) -> bool {
            self.guest.run_ok("wc -l < /tmp/read", LIMIT).unwrap().trim() != "0"
        }

        /// The read ends, with this letter.
        fn reads(&mut self, letter: char) {
            let wait = "for i in $(seq 600); do
                [ $(wc -l < /tmp/read) = 0 ] || break; sleep 0.1; done; cat /tmp/read /tmp/said";
            let said = self.guest.run_ok(wait, LIMIT).unwrap();
            let volume = self.mirror.look().unwrap();
            assert!(said.starts_with(letter), "{said:?}, {volume}, {}", self.mirror.log());
        }

        /// Both replicas are in sync and hold the same.
        fn end(self) {
            let Scene { mut guest, mut replicas, mirror, controller, .. } = self;
            for replica in &replicas {
                mirror.wait_for_child(replica, "open").unwrap();
            }
            controller.disconnect(&mut guest).unwrap();
            mirror.end().unwrap();
            replicas.iter_mut().for_each(Replica::kill);
            assert_eq!(replicas[0].difference(&replicas[1]).unwrap(), None);
        }
    }

    #[test]
    fn a_stale_replica_that_comes_first_serves_nothing_until_the_other_is_there() {
        let mut scene = Scene::begin("stale-first");
        scene.begin_read();
        scene.replicas[1].start_again().unwrap();
        scene.mirror.start_again(&[&scene.replicas[1]]).unwrap();
        let words = scene.mirror.wait_for_refusal().unwrap();
        assert!(words.contains(&scene.replicas[0].uri()), "{words}");
        scene.controller.wait_for_state(&mut scene.guest, "live").unwrap();
        assert_eq!(scene.mirror.wait_for_refusal().unwrap(), words);
        assert!(!scene.has_read(), "{words}");
        scene.replicas[0].start_again().unwrap();
        scene.mirror.tell("add", &scene.replicas[0]).unwrap();
        scene.reads('B');
        scene.end();
    }

    #[test]
    fn a_replica_that_has_everything_serves_when_it_comes_first_and_the_stale_one_is_rebuilt() {
        let mut scene = Scene::begin("good-first");
        scene.begin_read();
        scene.replicas[0].start_again().unwrap();
        scene.mirror.start_again(&[&scene.replicas[0]]).unwrap();
        scene.reads('B');
        scene.replicas[1].start_again().unwrap();
        scene.mirror.tell("add", &scene.replicas[1]).unwrap();
        scene.mirror.tell("online", &scene.replicas[1]).unwrap();
        scene.end();
    }
}
