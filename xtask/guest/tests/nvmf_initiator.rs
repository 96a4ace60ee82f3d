//! Our initiator and the kernel's NVMe/TCP target, both inside a guest.

#[cfg(test)]
mod real_kernel {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::OnceLock;
    use std::time::Duration;

    use guest::nvme::Endpoint;
    use guest::{Access, Cache, Guest, GuestImage, Result, SharedGuest, kernel_target};

    const LIMIT: Duration = Duration::from_secs(180);
    const SIZE_MIB: u32 = 64;
    const BLOCKS: u64 = 64 << 11;

    static GUEST: SharedGuest = SharedGuest::new(boot);

    /// The program that tries a target, built as this test was.
    fn program() -> &'static Path {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        BUILT.get_or_init(|| {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--package", "perf", "--example", "remote"]);
            assert!(cargo.status().unwrap().success(), "the program is built");
            let tests = std::env::current_exe().unwrap();
            tests.ancestors().nth(2).unwrap().join("examples/remote")
        })
    }

    fn boot() -> Result<Guest> {
        let image = GuestImage::prepare(&Cache::from_environment())?;
        let examples = program().parent().expect("a program is in a folder");
        let builder = Guest::builder(&image).cpus(2).memory_mib(768);
        let builder = builder.share(examples, "examples", Access::ReadOnly);
        builder.kernel_words(kernel_target::KERNEL_WORDS).boot()
    }

    fn uri(endpoint: &Endpoint, query: &str) -> String {
        let Endpoint { address, port, nqn } = endpoint;
        format!("nvmf://{address}:{port}/{nqn}{query}")
    }

    /// Runs the program for so long beside a script, and gives what it said.
    fn beside(guest: &mut Guest, uri: &str, seconds: u32, script: &str) -> String {
        let script = format!(
            "/host/examples/remote '{uri}' 1 {seconds} > /tmp/remote 2>&1 & program=$!
            for i in $(seq 300); do
                grep -q ^verified /tmp/remote && break
                sleep 0.1
            done
            cd /sys/kernel/config/nvmet
            {script}
            wait $program; echo \"code $?\"; cat /tmp/remote"
        );
        let output = guest.run_ok(&script, LIMIT).unwrap();
        assert!(output.contains("code 0"), "{output}");
        output
    }

    /// The number before a word of the program's last line.
    fn number(output: &str, words: &str) -> u64 {
        let last = output.lines().last().unwrap();
        let part = last.split(", ").find(|part| part.contains(words));
        let part = part.unwrap_or_else(|| panic!("{output}"));
        part.replace(words, "").trim().parse().unwrap()
    }

    #[test]
    fn everything_that_a_queue_pair_can_do_is_done_with_and_without_digests() {
        let mut guest = GUEST.lock().unwrap();
        let endpoint = kernel_target::start(&mut guest, SIZE_MIB).unwrap();
        let Endpoint { address, port, nqn } = &endpoint;
        let found = format!("nvme://{nqn}?discovery={address}:{port}");
        let plain = uri(&endpoint, "");
        let queries = ["?hdgst", "?ddgst", "?hdgst&ddgst"].map(|query| uri(&endpoint, query));
        for uri in [plain, found].iter().chain(&queries) {
            let command = format!("/host/examples/remote '{uri}' 4");
            let output = guest.run(&command, LIMIT).unwrap();
            assert!(output.is_success(), "{output:?}");
            for words in ["verified", "WriteZeroes done", "Unmap done", "0 failed", "sessions 1,"] {
                assert!(output.stdout.contains(words), "{words}: {output:?}");
            }
        }
        let wrong = format!("/host/examples/remote '{}-not'", uri(&endpoint, ""));
        let output = guest.run(&wrong, LIMIT).unwrap();
        assert!(!output.is_success() && output.stderr.contains("has no subsystem"), "{output:?}");
        kernel_target::stop(&mut guest).unwrap();
    }

    #[test]
    fn a_target_that_goes_and_comes_back_is_connected_again_and_counts_as_restarted() {
        let mut guest = GUEST.lock().unwrap();
        let endpoint = kernel_target::start(&mut guest, SIZE_MIB).unwrap();
        let nqn = &endpoint.nqn;
        let script = format!(
            "sleep 1; rm ports/1/subsystems/{nqn}; sleep 3
            ln -s /sys/kernel/config/nvmet/subsystems/{nqn} ports/1/subsystems/"
        );
        let output = beside(&mut guest, &uri(&endpoint, "?wait_ms=60000"), 14, &script);
        assert!(output.contains("event: lost"), "{output}");
        assert!(number(&output, "sessions") >= 2, "{output}");
        assert!(number(&output, "restarts") >= 1, "{output}");
        assert!(output.contains("connected to a restarted target"), "{output}");
        kernel_target::stop(&mut guest).unwrap();
    }

    #[test]
    fn a_namespace_that_is_removed_and_attached_again_is_followed() {
        let mut guest = GUEST.lock().unwrap();
        let endpoint = kernel_target::start(&mut guest, SIZE_MIB).unwrap();
        let namespace = format!("subsystems/{}/namespaces/1", endpoint.nqn);
        let script =
            format!("sleep 1; echo 0 > {namespace}/enable; sleep 3; echo 1 > {namespace}/enable");
        let output = beside(&mut guest, &uri(&endpoint, "?wait_ms=60000"), 14, &script);
        assert!(output.contains("event: lost: the namespace was changed"), "{output}");
        assert!(number(&output, "sessions") >= 2, "{output}");
        kernel_target::stop(&mut guest).unwrap();
    }

    #[test]
    fn a_namespace_that_grows_is_seen_and_no_io_fails() {
        let mut guest = GUEST.lock().unwrap();
        let endpoint = kernel_target::start(&mut guest, SIZE_MIB).unwrap();
        let namespace = format!("subsystems/{}/namespaces/1", endpoint.nqn);
        let script = format!(
            "sleep 1; truncate -s {}M /dev/shm/namespace; losetup -c $(cat {namespace}/device_path)
            echo 1 > {namespace}/revalidate_size",
            2 * SIZE_MIB
        );
        let output = beside(&mut guest, &uri(&endpoint, ""), 6, &script);
        assert!(output.contains(&format!("event: has {} blocks now", 2 * BLOCKS)), "{output}");
        assert_eq!(number(&output, "blocks"), 2 * BLOCKS);
        assert_eq!(number(&output, "failed"), 0, "{output}");
        assert_eq!(number(&output, "sessions"), 1, "{output}");
        kernel_target::stop(&mut guest).unwrap();
    }

    #[test]
    fn a_way_that_is_closed_for_a_while_is_not_used_then_and_used_again() {
        let mut guest = GUEST.lock().unwrap();
        let endpoint = kernel_target::start(&mut guest, SIZE_MIB).unwrap();
        let state = "ports/1/ana_groups/1/ana_state";
        let script =
            format!("sleep 1; echo inaccessible > {state}; sleep 2; echo optimized > {state}");
        let output = beside(&mut guest, &uri(&endpoint, "?wait_ms=60000"), 10, &script);
        assert!(output.contains("event: access is Inaccessible"), "{output}");
        assert!(output.contains("event: access is Optimized"), "{output}");
        assert_eq!(number(&output, "sessions"), 1, "{output}");
        kernel_target::stop(&mut guest).unwrap();
    }
}
