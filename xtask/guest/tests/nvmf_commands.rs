//! What nvme-cli can ask of the target, as it prints the answers: commands of the NVM command set
//! beyond read and write, log pages, features, and the Identify pages that go with them.

#[cfg(test)]
mod real_kernel {
    use std::time::Duration;

    use guest::nvme::{self, Controller};
    use guest::{Cache, Disk, Guest, GuestImage, HOST_ID, Output, Result, SharedGuest, Target};
    use serde_json::Value;

    const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");
    /// Two namespaces, of blocks of 512 and of 4096 bytes.
    const DEVICES: [&str; 2] =
        ["malloc:///one?size_mb=64", "malloc:///two?size_mb=32&blk_size=4096"];
    const LIMIT: Duration = Duration::from_secs(120);
    const CPUS: u32 = 2;

    static GUEST: SharedGuest = SharedGuest::new(boot);

    fn boot() -> Result<Guest> {
        let image = GuestImage::prepare(&Cache::from_environment())?;
        Guest::builder(&image).cpus(CPUS).boot()
    }

    /// Runs a claim about a new target, given the controller and its first namespace's device.
    fn on_our_target(claim: fn(&mut Guest, &Controller, &str)) {
        let mut target = Target::start(0, &DEVICES).unwrap();
        let mut guest = GUEST.lock().unwrap();
        let controller = nvme::connect(&mut guest, target.endpoint(), "").unwrap();
        let device = controller.namespace(&mut guest, 1).unwrap();
        claim(&mut guest, &controller, &device);
        controller.disconnect(&mut guest).unwrap();
        assert!(target.is_alive(), "{}", target.log());
    }

    fn run(guest: &mut Guest, command: &str) -> String {
        guest.run_ok(command, LIMIT).unwrap()
    }

    fn json(guest: &mut Guest, command: &str) -> Value {
        nvme::json_of(guest, &format!("{command} -o json")).unwrap()
    }

    /// A command that must fail with this status, as nvme-cli prints it: type and code, and maybe
    /// the bit against trying again.
    fn fails_with(guest: &mut Guest, command: &str, status: u16) {
        const DO_NOT_RETRY: u16 = 0x4000;
        let Output { code, stdout, stderr } = guest.run(command, LIMIT).unwrap();
        let said = format!("{stdout}{stderr}");
        let is_named = [status, status | DO_NOT_RETRY]
            .iter()
            .any(|status| said.contains(&format!("({status:#x})")));
        assert!(code != 0 && is_named, "`{command}` ended with {code}: {said}");
    }

    /// What a command prints as raw bytes.
    fn bytes_of(guest: &mut Guest, command: &str) -> Vec<u8> {
        let text = run(guest, &format!("{command} | od -An -v -t x1"));
        text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    }

    /// Double word of a log page.
    fn dword_at(page: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(*page[offset..].first_chunk().unwrap())
    }

    #[test]
    fn compare_tells_equal_data_from_different_data() {
        on_our_target(|guest, _, device| {
            let script = format!(
                "set -e
                head -c 65536 /dev/urandom > /tmp/data
                (head -c 65535 /tmp/data; printf '\\377\\376' | head -c 1) > /tmp/other
                cmp -s /tmp/data /tmp/other && printf '\\001' | \
                    dd of=/tmp/other bs=1 seek=65535 conv=notrunc 2>/dev/null
                nvme write {device} -s 40 -c 127 -z 65536 -d /tmp/data
                nvme compare {device} -s 40 -c 127 -z 65536 -d /tmp/data
                nvme compare {device} -s 40 -c 7 -z 4096 -d /tmp/data"
            );
            run(guest, &script);
            // The last byte of 128 blocks differs; then a place off by one block.
            let differs = format!("nvme compare {device} -s 40 -c 127 -z 65536 -d /tmp/other");
            fails_with(guest, &differs, 0x285);
            let shifted = format!("nvme compare {device} -s 41 -c 7 -z 4096 -d /tmp/data");
            fails_with(guest, &shifted, 0x285);
            let outside = format!("nvme compare {device} -s 131072 -c 0 -z 512 -d /tmp/data");
            fails_with(guest, &outside, 0x80);
        });
    }

    #[test]
    fn zeroes_written_without_data_leave_their_neighbours_alone() {
        on_our_target(|guest, _, device| {
            let script = format!(
                "set -e
                tr '\\0' x < /dev/zero | dd of={device} bs=64k count=2 oflag=direct iflag=fullblock
                nvme write-zeroes {device} -s 9 -c 0
                nvme write-zeroes {device} -s 20 -c 19 --deac
                dd if={device} of=/tmp/back bs=64k count=2 iflag=direct
                blocks() {{ dd if=/tmp/back bs=512 skip=$1 count=$2 2>/dev/null | \
                    tr -d '\\0' | wc -c; }}
                test $(blocks 0 9) = 4608
                test $(blocks 9 1) = 0
                test $(blocks 10 10) = 5120
                test $(blocks 20 20) = 0
                test $(blocks 40 216) = 110592"
            );
            run(guest, &script);
            fails_with(guest, &format!("nvme write-zeroes {device} -s 131071 -c 1"), 0x80);
        });
    }

    /// Blocks 0, 16, 32 and so on are given back, one in each of 256 ranges, the most there can be.
    #[test]
    fn as_many_ranges_as_a_command_can_name_are_given_back_and_read_as_zeroes() {
        on_our_target(|guest, _, device| {
            let script = format!(
                "set -e
                tr '\\0' x < /dev/zero | dd of={device} bs=64k count=32 oflag=direct iflag=fullblock
                nvme dsm {device} --ad -s $(seq -s, 0 16 4080) -b $(yes 1 | head -256 | paste -sd,)
                dd if={device} of=/tmp/back bs=64k count=32 iflag=direct
                # A block of 512 bytes is a line of od where lines are of 512 bytes.
                od -An -v -t x1 -w512 /tmp/back | awk '
                    {{ zero = ($0 !~ /[1-9a-f]/); wanted = ((NR - 1) % 16 == 0) }}
                    zero != wanted {{ print \"block\", NR - 1; exit 1 }}
                    END {{ if (NR != 4096) exit 1 }}'
                nvme dsm {device} --ad -s 4000,200000 -b 8,8 && exit 1
                nvme dsm {device} --idr -s 1 -b 8"
            );
            run(guest, &script);
        });
    }

    /// Two ranges one behind the other, then as many of a block each as the namespace allows.
    #[test]
    fn copied_ranges_lie_one_behind_the_other_at_the_destination() {
        on_our_target(|guest, controller, device| {
            let about = json(guest, &format!("nvme id-ns {device}"));
            let limit = |name: &str| about[name].as_u64().unwrap();
            let ranges = limit("msrc") + 1;
            assert!(limit("mssrl") >= 8 && limit("mcl") >= 16, "{about}");
            assert!(ranges >= 2 && limit("mcl") >= ranges, "{about}");
            let script = format!(
                "set -e
                head -c 1048576 /dev/urandom > /tmp/data
                dd if=/tmp/data of={device} bs=64k oflag=direct iflag=fullblock
                nvme copy {device} -d 8192 -s 3,100 -b 7,6
                nvme copy {device} -d 9000 -s $(seq -s, 0 2 {}) -b $(yes 0 | head -{ranges} | \
                    paste -sd,)
                read_back() {{ dd if={device} bs=512 skip=$1 count=$2 iflag=direct 2>/dev/null; }}
                stored() {{ dd if=/tmp/data bs=512 skip=$1 count=$2 2>/dev/null; }}
                read_back 8192 15 > /tmp/back; (stored 3 8; stored 100 7) | cmp - /tmp/back
                read_back 9000 {ranges} > /tmp/back
                for n in $(seq 0 2 {}); do stored $n 1; done | cmp - /tmp/back
                read_back 0 2048 | cmp - /tmp/data",
                2 * ranges - 1,
                2 * ranges - 1,
            );
            run(guest, &script);
            fails_with(guest, &format!("nvme copy {device} -d 131068 -s 0 -b 7"), 0x80);
            fails_with(guest, &format!("nvme copy {device} -d 0 -s 131068 -b 7"), 0x80);
            // Copy (bit 8) and Verify (bit 7) are announced where they can be had.
            let about = json(guest, &format!("nvme id-ctrl {}", controller.device()));
            assert_eq!(about["oncs"].as_u64().unwrap() & 0x180, 0x180);
            assert_eq!(about["fuses"], 1, "compare and write, fused");
        });
    }

    #[test]
    fn verify_passes_on_what_can_be_read_and_on_nothing_else() {
        on_our_target(|guest, _, device| {
            run(
                guest,
                &format!("nvme verify {device} -s 0 -c 255 && nvme verify {device} -s 131071"),
            );
            fails_with(guest, &format!("nvme verify {device} -s 131071 -c 1"), 0x80);
        });
    }

    #[test]
    fn a_command_that_is_not_there_is_refused_and_the_queue_goes_on() {
        on_our_target(|guest, controller, device| {
            let controller = controller.device();
            fails_with(guest, &format!("nvme io-passthru {device} -n 1 -o 0x99"), 0x1);
            fails_with(guest, &format!("nvme io-passthru {device} -n 1 -o 0x04"), 0x1);
            fails_with(guest, &format!("nvme admin-passthru {controller} -o 0xc1"), 0x1);
            fails_with(guest, &format!("nvme admin-passthru {controller} -o 0x80"), 0x1);
            fails_with(guest, &format!("nvme get-log {controller} -i 0xee -l 512"), 0x109);
            run(guest, &format!("nvme flush {device} && nvme id-ctrl {controller}"));
        });
    }

    #[test]
    fn every_log_page_can_be_read() {
        on_our_target(|guest, controller, device| {
            let of = |log: &str| format!("nvme {log} {}", controller.device());
            let before = json(guest, &of("smart-log"));
            let some_io = format!(
                "dd if=/dev/zero of={device} bs=64k count=32 oflag=direct && \
                 dd if={device} of=/dev/null bs=64k count=16 iflag=direct"
            );
            run(guest, &some_io);
            // A core makes known what it has counted now and then.
            run(guest, "sleep 1");
            let after = json(guest, &of("smart-log"));
            assert_eq!(after["critical_warning"], 0);
            assert_eq!((&after["avail_spare"], &after["percent_used"]), (&100.into(), &0.into()));
            // 2 MiB written and 1 MiB read, in units of 512 000 bytes, rounded up.
            let grown = |name: &str| -> u64 {
                let count = |log: &Value| -> u64 { log[name].as_str().unwrap().parse().unwrap() };
                count(&after) - count(&before)
            };
            assert!(grown("data_units_written") >= 4 && grown("data_units_read") >= 2, "{after}");
            assert!(grown("host_write_commands") >= 32, "{before} {after}");
            assert!(grown("host_read_commands") >= 16, "{before} {after}");
            // What was refused is in the error log, newest first.
            fails_with(guest, &format!("nvme io-passthru {device} -n 1 -o 0x99"), 0x1);
            let newest = json(guest, &of("error-log"))["errors"][0].take();
            assert!(newest["error_count"].as_u64().unwrap() > 0, "{newest}");
            assert!(newest["sqid"].as_u64().unwrap() > 0, "{newest}");
            assert_eq!(newest["status_field"].as_u64().unwrap() & 0x7ff, 1, "{newest}");
            let about = json(guest, &of("id-ctrl"));
            let revision = about["fr"].as_str().unwrap().trim().to_owned();
            let firmware = json(guest, &of("fw-log")).to_string();
            assert!(firmware.contains(&revision), "{firmware}");
            run(guest, &of("changed-ns-list-log"));
            // Effects: Identify (06h) and Read (02h of the second half) can be had, 99h cannot.
            let effects = bytes_of(guest, &(of("get-log") + " -i 5 -l 4096 -b"));
            let is_there = |offset: usize| dword_at(&effects, offset) & 1 == 1;
            assert!(is_there(4 * 0x06) && is_there(1024 + 4 * 0x02) && !is_there(1024 + 4 * 0x99));
            // The log that says which logs there are, each of which can be read.
            let supported = bytes_of(guest, &(of("get-log") + " -i 0 -l 1024 -b"));
            let ids = (0..0x80).filter(|id| dword_at(&supported, 4 * id) & 1 == 1);
            let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
            assert!(ids.len() >= 6, "{ids:?}");
            let each = format!(
                "for id in {}; do {} -i $id -l 64 || exit; done",
                ids.join(" "),
                of("get-log")
            );
            run(guest, &each);
        });
    }

    /// nvme-cli asks for too little of this log to show the namespaces, so it is read as bytes.
    #[test]
    fn every_namespace_is_in_an_optimized_group_of_the_ana_log() {
        on_our_target(|guest, controller, _| {
            let log = format!("nvme get-log {} -i 12 -l 4096 -b", controller.device());
            let log = bytes_of(guest, &log);
            let mut namespaces = Vec::new();
            let mut at = 16;
            for _ in 0..u16::from_le_bytes([log[8], log[9]]) {
                let count = dword_at(&log, at + 4) as usize;
                assert_eq!(log[at + 16] & 15, 1, "optimized");
                namespaces.extend((0..count).map(|index| dword_at(&log, at + 32 + 4 * index)));
                at += 32 + 4 * count;
            }
            namespaces.sort_unstable();
            assert_eq!(namespaces, [1, 2]);
            let states = run(guest, "cat /sys/class/nvme/nvme*/nvme*c*n*/ana_state");
            assert_eq!(states.split_whitespace().collect::<Vec<_>>(), ["optimized"; 2]);
        });
    }

    #[test]
    fn features_keep_what_is_set_until_a_reset() {
        on_our_target(|guest, controller, device| {
            let controller = controller.device();
            let get = |guest: &mut Guest, arguments: &str| {
                let text = run(guest, &format!("nvme get-feature {controller} {arguments}"));
                text.trim().rsplit(':').next().unwrap().trim_start_matches("0x").to_owned()
            };
            // Temperature threshold and error recovery, the second for each namespace.
            run(guest, &format!("nvme set-feature {controller} -f 4 -v 0x150"));
            run(guest, &format!("nvme set-feature {controller} -n 2 -f 5 -v 7"));
            assert_eq!(get(guest, "-f 4"), "00000150");
            assert_eq!(
                (get(guest, "-f 5 -n 1"), get(guest, "-f 5 -n 2")),
                (String::from("00000000"), String::from("00000007"),)
            );
            assert_eq!(get(guest, "-f 4 --sel=1"), "0000ffff", "the default");
            // What the kernel asked for: two queues of each kind, keep alive after 5 s.
            assert_eq!(get(guest, "-f 7"), "00010001");
            assert_eq!(get(guest, "-f 15"), "00001388");
            let host = run(
                guest,
                &format!(
                    "nvme get-feature {controller} -f 0x81 -l 16 -c 1 -b | \
                od -An -v -t x1 | tr -d ' \\n'"
                ),
            );
            assert_eq!(host, HOST_ID.replace('-', ""));
            // Nothing can be saved, the queues are fixed, and what is not there is no feature.
            fails_with(guest, &format!("nvme set-feature {controller} -f 4 -v 1 --save"), 0x10d);
            fails_with(guest, &format!("nvme set-feature {controller} -f 7 -v 0x10001"), 0x0c);
            fails_with(guest, &format!("nvme get-feature {controller} -f 0x70"), 0x02);
            run(guest, &format!("nvme reset {controller}"));
            assert_eq!(get(guest, "-f 4"), "0000ffff");
            run(guest, &format!("dd if={device} of=/dev/null bs=64k count=4 iflag=direct"));
        });
    }

    #[test]
    fn what_identify_says_agrees_with_itself_and_with_the_kernel() {
        on_our_target(|guest, controller, device| {
            let of = |page: &str| format!("nvme {page} {}", controller.device());
            let listed = json(guest, &of("list-ns"));
            let id = |entry: &Value| entry["nsid"].as_u64().unwrap();
            let listed: Vec<u64> = listed["nsid_list"].as_array().unwrap().iter().map(id).collect();
            assert_eq!(listed, [1, 2]);
            let about = json(guest, &of("id-ctrl"));
            let own = controller.attribute(guest, "cntlid").unwrap();
            assert_eq!(about["cntlid"].to_string(), own);
            let listed = json(guest, &of("list-ctrl"));
            assert_eq!(listed["ctrl_list"][0]["ctrl_id"].to_string(), own);
            for (id, block_bits, blocks) in [(1, 9, 131_072), (2, 12, 8192)] {
                let about = json(guest, &(of("id-ns") + &format!(" -n {id}")));
                assert_eq!((&about["nsze"], &about["ncap"]), (&blocks.into(), &blocks.into()));
                assert_eq!(about["lbafs"][0]["ds"], block_bits);
                let descriptors = json(guest, &(of("ns-descs") + &format!(" -n {id}")));
                let descriptors = descriptors["ns-descs"].as_array().unwrap();
                let uuid = descriptors.iter().find(|d| d["type"] == "uuid").unwrap();
                let uuid = uuid["uuid"].as_str().unwrap();
                let device = controller.namespace(guest, id).unwrap();
                let device = device.trim_start_matches("/dev/");
                assert_eq!(run(guest, &format!("cat /sys/block/{device}/uuid")).trim(), uuid);
            }
            let beyond = run(guest, &(of("id-ns") + " -n 1024 -b | tr -d '\\0' | wc -c"));
            assert_eq!(beyond.trim(), "0", "a namespace that is not there is all zeroes");
            fails_with(guest, &(of("id-ns") + " -n 1025"), 0x0b);
            run(guest, &(of("cmdset-ind-id-ns") + " -n 1"));
            run(guest, &of("nvm-id-ctrl"));
            let limits = run(
                guest,
                &format!(
                    "cat /sys/block/{}/queue/write_zeroes_max_bytes",
                    device.trim_start_matches("/dev/")
                ),
            );
            assert_ne!(limits.trim(), "0");
        });
    }

    /// Answer of Get LBA Status for allocated blocks from a block on: whether it is all there is,
    /// and the pieces.
    fn allocated(
        guest: &mut Guest,
        controller: &Controller,
        lba: u64,
        dwords: u32,
    ) -> (bool, Vec<(u64, u32)>) {
        const COMPLETE: u8 = 2;
        let name = controller.device();
        // As such: what `nvme get-lba-status` of nvme-cli 2.3 sends has a data pointer that is not
        // as long as the command asks for, which the target refuses.
        let words = format!(
            "{name} --opcode=0x86 --namespace-id=1 --cdw10={lba} --cdw12={} --cdw13=0x02000000 \
             --data-len={} --read --raw-binary",
            dwords - 1,
            4 * dwords
        );
        run(guest, &format!("nvme admin-passthru {words} > /tmp/list"));
        let bytes = bytes_of(guest, "cat /tmp/list");
        let piece = |number: usize| {
            let at = 8 + 16 * number;
            let lba = u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
            (lba, dword_at(&bytes, at + 8))
        };
        (bytes[4] == COMPLETE, (0..dword_at(&bytes, 0) as usize).map(piece).collect())
    }

    /// On two cores, of which neither could compare and write alone.
    #[test]
    fn a_sparse_file_tells_which_blocks_are_allocated_and_has_every_operation() {
        let disk = Disk::create(DIRECTORY, "sparse", 64).unwrap();
        let mut target = Target::start(0, &[&disk.uri("uring"), "--cores", "0-1"]).unwrap();
        let mut guest = GUEST.lock().unwrap();
        let guest = &mut *guest;
        let controller = nvme::connect(guest, target.endpoint(), "").unwrap();
        let device = controller.namespace(guest, 1).unwrap();
        assert_eq!(allocated(guest, &controller, 0, 1024), (true, vec![]));
        let write = format!(
            "set -e
            dd if=/dev/zero of={device} bs=64k seek=128 count=16 oflag=direct
            dd if=/dev/zero of={device} bs=64k seek=512 count=1 oflag=direct"
        );
        run(guest, &write);
        let both = vec![(16_384, 2048), (65_536, 128)];
        assert_eq!(allocated(guest, &controller, 0, 1024), (true, both.clone()));
        // Room for one piece and a half; and from within it on.
        assert_eq!(allocated(guest, &controller, 0, 7), (false, both[..1].to_vec()));
        let rest = vec![(17_000, 1432), (65_536, 128)];
        assert_eq!(allocated(guest, &controller, 17_000, 1024), (true, rest));
        run(guest, &format!("nvme dsm {device} --ad -s 16384 -b 1024"));
        let holed = vec![(17_408, 1024), (65_536, 128)];
        assert_eq!(allocated(guest, &controller, 0, 1024), (true, holed));
        let about = json(guest, &format!("nvme id-ctrl {}", controller.device()));
        assert_eq!(about["fuses"], 1, "compare and write, fused");
        controller.disconnect(guest).unwrap();
        assert!(target.is_alive(), "{}", target.log());
    }
}
