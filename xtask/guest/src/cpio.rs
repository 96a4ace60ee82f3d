//! Writer of the archive that the kernel unpacks as its first root file system.
//!
//! The format is cpio "newc", as the kernel's initramfs buffer format document describes it: for
//! each entry a header of a six-byte magic and thirteen numbers of eight hexadecimal digits, the
//! name with its closing zero, and the data, both padded to four bytes. The archive is not
//! compressed: an emulated processor takes longer to unpack than the host to read.

use std::io::{self, Write};

const MAGIC: &str = "070701";
const END_NAME: &str = "TRAILER!!!";
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;

/// Writes entries one after another; all belong to root and carry no time, so that the same
/// content gives the same archive.
#[derive(Debug)]
pub struct Archive<W: Write> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(out: W) -> Archive<W> {
        Archive { out, inode: 0 }
    }

    /// A directory; its parents must be there already.
    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, TYPE_DIRECTORY | 0o755, &[])
    }

    /// A regular file with the given permission bits.
    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) -> io::Result<()> {
        self.entry(name, TYPE_FILE | permissions, data)
    }

    /// A symbolic link.
    pub fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, TYPE_SYMLINK | 0o777, target.as_bytes())
    }

    /// Closes the archive and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(END_NAME, 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        let len = u32::try_from(data.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let name_len = name.len() as u32 + 1;
        self.inode += 1;
        // inode, mode, uid, gid, links, time, length, device (two), special device (two), length
        // of the name, checksum (unused in this variant).
        let fields = [self.inode, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len, 0];
        let mut header = String::from(MAGIC);
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(header.len() + name.len() + 1)?;
        self.out.write_all(data)?;
        self.pad(data.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        let zeroes = [0; 3];
        self.out.write_all(&zeroes[..(4 - written % 4) % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_starts_at_a_multiple_of_four() {
        for name_len in 1..9 {
            for data_len in 0..9 {
                let mut archive = Archive::new(Vec::new());
                archive.file(&"n".repeat(name_len), 0o644, &vec![7; data_len]).unwrap();
                let bytes = archive.finish().unwrap();
                assert_eq!(bytes.len() % 4, 0);
                let data_at = (110 + name_len + 1).next_multiple_of(4);
                assert_eq!(&bytes[data_at..data_at + data_len], vec![7; data_len]);
                let next_at = (data_at + data_len).next_multiple_of(4);
                assert_eq!(&bytes[next_at..next_at + 6], MAGIC.as_bytes());
            }
        }
    }

    #[test]
    fn a_header_states_type_permissions_and_length() {
        let mut archive = Archive::new(Vec::new());
        archive.symlink("bin", "usr/bin").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes[..110]).into_owned();
        assert_eq!(&text[14..22], "0000a1ff");
        assert_eq!(&text[54..62], "00000007");
    }
}
