//! A Linux kernel stores data on the target and gets it back: raw, and through file systems.
//!
//! Every claim is made of our target and, as a control, of the kernel's own.

#[cfg(test)]
mod real_kernel {
    use std::time::Duration;

    use guest::nvme::{self, Controller, Endpoint};
    use guest::{Cache, Guest, GuestImage, Lease, Result, SharedGuest, Target, kernel_target};

    /// Under emulation a file system of this size is made in seconds; XFS wants 300 MB.
    const SIZE_MIB: u32 = 320;
    const DEVICE: &str = "malloc:///data?size_mb=320";
    const LIMIT: Duration = Duration::from_secs(300);
    /// What fio is always told: real I/O, and a checksum in every block that is read back.
    const FIO: &str = "fio --name=job --ioengine=libaio --direct=1 --thread --gtod_reduce=1 \
        --verify=crc32c --verify_fatal=1 --verify_state_save=0 --do_verify=1";
    /// Block sizes with the amount that is written and read back of each.
    const SIZES: [(&str, &str); 5] =
        [("512", "2m"), ("4k", "8m"), ("20k", "8m"), ("128k", "16m"), ("1m", "32m")];

    static GUEST: SharedGuest = SharedGuest::new(boot);

    fn boot() -> Result<Guest> {
        let image = GuestImage::prepare(&Cache::from_environment())?;
        let builder = Guest::builder(&image).memory_mib(1024).cpus(2);
        builder.kernel_words(kernel_target::KERNEL_WORDS).boot()
    }

    /// Runs a claim against our target.
    fn on_our_target(arguments: &[&str], options: &str, claim: fn(&mut Guest, &str)) {
        let mut target = Target::start(0, arguments).unwrap();
        let mut guest = GUEST.lock().unwrap();
        on(&mut guest, target.endpoint(), options, claim);
        assert!(target.is_alive(), "{}", target.log());
        nothing_was_retried(&mut guest);
    }

    /// Runs a claim against the kernel's own target.
    fn on_the_kernels_target(claim: fn(&mut Guest, &str)) {
        let mut guest = GUEST.lock().unwrap();
        let endpoint = kernel_target::start(&mut guest, SIZE_MIB).unwrap();
        on(&mut guest, &endpoint, "", claim);
        kernel_target::stop(&mut guest).unwrap();
    }

    fn on(guest: &mut Lease, endpoint: &Endpoint, options: &str, claim: fn(&mut Guest, &str)) {
        guest.run_ok("dmesg -c", LIMIT).unwrap();
        let controller: Controller = nvme::connect(guest, endpoint, options).unwrap();
        let device = controller.namespace(guest, 1).unwrap();
        claim(guest, &device);
        controller.disconnect(guest).unwrap();
    }

    /// What the host had to retry or give up is a failure of ours even where no byte is wrong. The
    /// kernel's own target, in one emulated machine with the host, is held to the bytes alone.
    fn nothing_was_retried(guest: &mut Guest) {
        let log = guest.run_ok("dmesg", LIMIT).unwrap();
        let bad = ["I/O error", "timeout", "reset controller", "failed", "corrupt"];
        let complaints = log.lines().filter(|line| line.contains("nvme"));
        let complaints: Vec<&str> =
            complaints.filter(|line| bad.iter().any(|word| line.contains(word))).collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }

    /// What fio writes in blocks of many sizes, at random and many at a time, it reads back.
    fn every_block_comes_back(guest: &mut Guest, device: &str) {
        for (block, amount) in SIZES {
            let job = format!("--rw=randwrite --bs={block} --size={amount} --iodepth=32");
            guest.run_ok(&format!("{FIO} --filename={device} {job}"), LIMIT).unwrap();
        }
        // Small and large, reads among the writes, in one stream.
        let job = "--rw=randrw --rwmixread=40 --bsrange=512-256k --bs_unaligned=0 \
            --blockalign=512 --size=8m --iodepth=16 --offset=64m";
        guest.run_ok(&format!("{FIO} --filename={device} {job}"), LIMIT).unwrap();
    }

    /// Zeroes written without data, and ranges given back, read as zeroes.
    fn zeroed_and_discarded_ranges_read_as_zeroes(guest: &mut Guest, device: &str) {
        let script = format!(
            "set -e
            zeroes() {{ dd if={device} bs=64k skip=$1 count=$2 iflag=direct 2>/dev/null | \
                tr -d '\\0' | wc -c; }}
            tr '\\0' x < /dev/zero | dd of={device} bs=64k count=64 oflag=direct iflag=fullblock
            test $(zeroes 0 64) = 4194304
            blkdiscard --zeroout --offset 65536 --length 1048576 {device}
            test $(zeroes 0 1) = 65536
            test $(zeroes 1 16) = 0
            test $(zeroes 17 47) = 3080192
            blkdiscard --offset 2097152 --length 1048576 {device}
            test $(zeroes 32 16) = 0
            test $(zeroes 48 16) = 1048576"
        );
        guest.run_ok(&script, LIMIT).unwrap();
    }

    fn ext4_keeps_its_files(guest: &mut Guest, device: &str) {
        let make = format!("mkfs.ext4 -q -F {device}");
        a_file_system_keeps_its_files(guest, device, &make, &format!("fsck.ext4 -f -n {device}"));
    }

    fn xfs_keeps_its_files(guest: &mut Guest, device: &str) {
        let make = format!("mkfs.xfs -q -f {device}");
        a_file_system_keeps_its_files(guest, device, &make, &format!("xfs_repair -n {device}"));
    }

    fn a_file_system_keeps_its_files(guest: &mut Guest, device: &str, make: &str, check: &str) {
        guest.run_ok(&format!("modprobe -a ext4 xfs; {make}"), LIMIT).unwrap();
        guest.run_ok(&format!("mkdir -p /mnt/t && mount {device} /mnt/t"), LIMIT).unwrap();
        let job = "--rw=randwrite --bs=4k --size=8m --iodepth=16 --end_fsync=1";
        guest.run_ok(&format!("{FIO} --directory=/mnt/t {job}"), LIMIT).unwrap();
        let fill = "cp -r /bin/busybox /lib /mnt/t && sync && cd /mnt/t && \
            find . -type f -exec md5sum {} + > /tmp/sums && rm /mnt/t/job.*";
        guest.run_ok(fill, LIMIT).unwrap();
        guest.run_ok("cd /; fstrim -v /mnt/t", LIMIT).unwrap();
        // After a mount anew every byte comes from the target and none from the cache.
        guest.run_ok(&format!("umount /mnt/t && {check}"), LIMIT).unwrap();
        let again = "cd /mnt/t && grep -v job /tmp/sums | md5sum -c > /tmp/checked";
        guest.run_ok(&format!("mount {device} /mnt/t && {again}"), LIMIT).unwrap();
        guest.run_ok(&format!("cd / && umount /mnt/t && {check}"), LIMIT).unwrap();
    }

    #[test]
    fn every_block_comes_back_from_our_target() {
        on_our_target(&[DEVICE], "", every_block_comes_back);
    }

    #[test]
    fn every_block_comes_back_from_our_target_with_digests() {
        on_our_target(&[DEVICE], "--hdr-digest --data-digest", every_block_comes_back);
    }

    #[test]
    fn every_block_comes_back_from_our_target_with_blocks_of_4096() {
        on_our_target(&["malloc:///data?size_mb=320&blk_size=4096"], "", |guest, device| {
            for (block, amount) in
                SIZES.iter().filter(|(block, _)| block.len() > 1 && *block != "512")
            {
                let job = format!("--rw=randwrite --bs={block} --size={amount} --iodepth=32");
                guest.run_ok(&format!("{FIO} --filename={device} {job}"), LIMIT).unwrap();
            }
        });
    }

    #[test]
    fn zeroed_and_discarded_ranges_read_as_zeroes_on_our_target() {
        on_our_target(&[DEVICE], "", zeroed_and_discarded_ranges_read_as_zeroes);
    }

    #[test]
    fn ext4_keeps_its_files_on_our_target() {
        on_our_target(&[DEVICE], "", ext4_keeps_its_files);
    }

    #[test]
    fn xfs_keeps_its_files_on_our_target() {
        on_our_target(&[DEVICE], "", xfs_keeps_its_files);
    }

    #[test]
    fn xfs_keeps_its_files_on_our_target_with_digests() {
        on_our_target(&[DEVICE], "--hdr-digest --data-digest", xfs_keeps_its_files);
    }

    #[test]
    fn every_block_comes_back_from_the_kernels_target() {
        on_the_kernels_target(every_block_comes_back);
    }

    #[test]
    fn zeroed_and_discarded_ranges_read_as_zeroes_on_the_kernels_target() {
        on_the_kernels_target(zeroed_and_discarded_ranges_read_as_zeroes);
    }

    #[test]
    fn ext4_keeps_its_files_on_the_kernels_target() {
        on_the_kernels_target(ext4_keeps_its_files);
    }

    #[test]
    fn xfs_keeps_its_files_on_the_kernels_target() {
        on_the_kernels_target(xfs_keeps_its_files);
    }
}
