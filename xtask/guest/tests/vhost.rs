//! A virtual machine has a disk from the target over vhost-user-blk.
//!
//! The guest is the machine: QEMU hands its memory and its rings to the target. Each claim has a
//! guest of its own, as the device is part of the machine.

#[cfg(test)]
mod real_kernel {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use guest::{Cache, Guest, GuestImage, Target};

    const LIMIT: Duration = Duration::from_secs(300);
    const MEMORY_MIB: u32 = 512;
    const DEVICE: &str = "malloc:///data?size_mb=128";
    const FIO: &str = "fio --name=job --ioengine=libaio --direct=1 --thread --gtod_reduce=1 \
        --verify=crc32c --verify_fatal=1 --verify_state_save=0 --do_verify=1";

    /// A path for a socket, short enough for one.
    fn socket(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("mayastor-{name}-{}.sock", std::process::id()))
    }

    /// A target that serves a device to a machine.
    fn target(device: &str, socket: &Path, more: &[&str]) -> Target {
        let path = socket.to_str().unwrap();
        let doors = ["--share", "nvmf", "--share", "vhost", "--vhost-socket", path];
        Target::start(0, &[&[device], &doors[..], more].concat()).unwrap()
    }

    /// Options of QEMU for memory that another process may share.
    fn shared_memory() -> Vec<String> {
        let memory = format!("memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on");
        ["-object", &memory, "-numa", "node,memdev=memory"].map(String::from).to_vec()
    }

    /// Options of QEMU for a disk behind a socket.
    fn disk(number: u32, socket: &Path, queues: u32) -> Vec<String> {
        let path = socket.display();
        let channel = format!("socket,id=vhost{number},path={path},reconnect=1");
        let device = format!("vhost-user-blk-pci,chardev=vhost{number},num-queues={queues}");
        ["-chardev", &channel, "-device", &device].map(String::from).to_vec()
    }

    /// A machine with these disks, which are `/dev/vda` and on.
    fn machine(cpus: u32, disks: &[(&Path, u32)]) -> Guest {
        let image = GuestImage::prepare(&Cache::from_environment()).unwrap();
        let disks =
            (0..).zip(disks).flat_map(|(number, (socket, queues))| disk(number, socket, *queues));
        let builder = Guest::builder(&image).memory_mib(MEMORY_MIB).cpus(cpus);
        let builder = builder.device_args(shared_memory()).device_args(disks);
        builder.modules(["virtio_blk"]).boot().unwrap()
    }

    fn every_block_comes_back(queues: u32, blocks: &str, more: &[&str]) {
        let socket = socket(&format!("q{queues}-{}", more.len() + blocks.len()));
        let device = format!("{DEVICE}{blocks}");
        let mut target = target(&device, &socket, more);
        let mut guest = machine(queues.min(4), &[(&socket, queues)]);
        let look = "ls /sys/block/vda/mq | wc -l";
        assert_eq!(guest.run_ok(look, LIMIT).unwrap().trim(), queues.to_string());
        for (block, size) in [("4k", "8m"), ("20k", "8m"), ("256k", "16m"), ("1m", "16m")] {
            let job = format!("--rw=randwrite --bs={block} --size={size} --iodepth=32");
            let jobs = format!("--filename=/dev/vda --numjobs={queues} --offset_increment=24m");
            guest.run_ok(&format!("{FIO} {job} {jobs}"), LIMIT).unwrap();
        }
        let log = guest.run_ok("dmesg", LIMIT).unwrap();
        assert!(!log.contains("I/O error"), "{log}");
        assert!(target.is_alive(), "{}", target.log());
        drop(guest);
        let (status, _) = target.terminate().unwrap();
        assert!(status.success(), "{status}");
        assert!(!socket.exists(), "the socket goes with the target");
    }

    #[test]
    fn every_block_comes_back_over_one_queue() {
        every_block_comes_back(1, "", &[]);
    }

    #[test]
    fn every_block_comes_back_over_four_queues_on_two_cores() {
        every_block_comes_back(4, "", &["--cores", "0-1"]);
    }

    #[test]
    fn every_block_comes_back_with_blocks_of_4096_from_a_core_that_never_sleeps() {
        every_block_comes_back(1, "&blk_size=4096", &["--poll"]);
    }

    #[test]
    fn a_file_system_keeps_its_files_and_gives_space_back() {
        let socket = socket("files");
        let _target = target(DEVICE, &socket, &[]);
        let mut guest = machine(2, &[(&socket, 2)]);
        let script = "set -e
            modprobe ext4
            mkfs.ext4 -q -F /dev/vda
            mkdir -p /mnt/t; mount /dev/vda /mnt/t
            cp -r /bin/busybox /lib /mnt/t; sync
            cd /mnt/t; find . -type f -exec md5sum {} + > /tmp/sums
            dd if=/dev/zero of=/mnt/t/zeroes bs=1M count=8 2>/dev/null; sync; rm /mnt/t/zeroes
            fstrim -v /mnt/t
            cd /; umount /mnt/t; fsck.ext4 -f -n /dev/vda
            mount /dev/vda /mnt/t; cd /mnt/t; md5sum -c /tmp/sums > /tmp/checked
            cd /; umount /mnt/t; fsck.ext4 -f -n /dev/vda";
        guest.run_ok(script, LIMIT).unwrap();
    }

    #[test]
    fn zeroed_and_discarded_ranges_read_as_zeroes() {
        let socket = socket("zeroes");
        let _target = target(DEVICE, &socket, &[]);
        let mut guest = machine(1, &[(&socket, 1)]);
        let script = "set -e
            zeroes() { dd if=/dev/vda bs=64k skip=$1 count=$2 iflag=direct 2>/dev/null | \
                tr -d '\\0' | wc -c; }
            tr '\\0' x < /dev/zero | dd of=/dev/vda bs=64k count=64 oflag=direct iflag=fullblock
            test $(zeroes 0 64) = 4194304
            blkdiscard --zeroout --offset 65536 --length 1048576 /dev/vda
            test $(zeroes 0 1) = 65536
            test $(zeroes 1 16) = 0
            test $(zeroes 17 47) = 3080192
            blkdiscard --offset 2097152 --length 1048576 /dev/vda
            test $(zeroes 32 16) = 0
            test $(zeroes 48 16) = 1048576";
        guest.run_ok(script, LIMIT).unwrap();
    }

    #[test]
    fn a_disk_says_what_it_is_and_a_read_only_one_takes_no_writes() {
        let socket = socket("config");
        let uuid = "12345678-9abc-4def-8123-456789abcdef";
        let device = format!("{DEVICE}&blk_size=4096&uuid={uuid}");
        let _target = target(&device, &socket, &["--read-only"]);
        let mut guest = machine(1, &[(&socket, 1)]);
        let look = "cd /sys/block/vda
            echo $(cat size) $(cat serial) $(cat ro) $(cat queue/logical_block_size)";
        let said = guest.run_ok(look, LIMIT).unwrap();
        assert_eq!(said.trim(), "262144 123456789abc4def8123 1 4096");
        let write = "dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct";
        assert!(!guest.run(write, LIMIT).unwrap().is_success());
    }

    #[test]
    fn two_disks_of_two_sockets_are_two() {
        let sockets = [socket("a"), socket("b")];
        let [first, second] = &sockets;
        let more = ["malloc:///more?size_mb=64", "--vhost-socket", second.to_str().unwrap()];
        let _target = target(DEVICE, first, &more);
        let mut guest = machine(1, &[(first, 1), (second, 1)]);
        let script = "set -e
            test $(cat /sys/block/vda/size) = 262144
            test $(cat /sys/block/vdb/size) = 131072
            printf first | dd of=/dev/vda bs=512 conv=sync oflag=direct
            printf second | dd of=/dev/vdb bs=512 conv=sync oflag=direct
            dd if=/dev/vda bs=512 count=1 iflag=direct | grep -q first
            dd if=/dev/vdb bs=512 count=1 iflag=direct | grep -q second";
        guest.run_ok(script, LIMIT).unwrap();
    }
}
