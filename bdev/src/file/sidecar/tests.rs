//! What a record beside a file survives, and what is refused.

use super::*;
use crate::file::testing::TestFile;

const NAMESPACE: Uuid = Uuid::from_u128(0x1234);

/// A place for a record, of a disk that is not there; gone with the value.
struct Place(TestFile, Sidecar);

impl Place {
    fn new() -> Self {
        let file = TestFile::new(4096);
        let sidecar = Sidecar::beside(file.path());
        Self(file, sidecar)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for path in [&self.1.path, &with_suffix(&self.1.path, ".new")] {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[test]
fn there_is_no_record_until_one_is_saved_and_then_the_last_one() {
    let Place(file, sidecar) = &Place::new();
    assert!(sidecar.load(NAMESPACE).unwrap().is_none());
    for record in [&b"first"[..], b"", &[7; RECORD_BYTES_MAX]] {
        sidecar.save(NAMESPACE, record).unwrap();
        assert_eq!(sidecar.load(NAMESPACE).unwrap().unwrap(), record);
    }
    assert_eq!(sidecar.place(), format!("{}.reservations", file.path()));
    assert!(!with_suffix(&sidecar.path, ".new").exists());
}

#[test]
fn a_link_to_a_disk_leads_to_the_record_of_the_disk() {
    let Place(file, sidecar) = &Place::new();
    let link = format!("{}.link", file.path());
    std::os::unix::fs::symlink(file.path(), &link).unwrap();
    let by_link = Sidecar::beside(&link);
    std::fs::remove_file(&link).unwrap();
    assert_eq!(by_link.path, sidecar.path);
}

#[test]
fn a_write_that_was_cut_off_leaves_the_record_before_it() {
    let place = Place::new();
    let sidecar = &place.1;
    sidecar.save(NAMESPACE, b"good").unwrap();
    std::fs::write(with_suffix(&sidecar.path, ".new"), b"half of a").unwrap();
    assert_eq!(sidecar.load(NAMESPACE).unwrap().unwrap(), b"good");
    sidecar.save(NAMESPACE, b"next").unwrap();
    assert_eq!(sidecar.load(NAMESPACE).unwrap().unwrap(), b"next");
}

#[test]
fn the_record_of_another_namespace_is_refused_by_both_names() {
    let place = Place::new();
    place.1.save(NAMESPACE, b"record").unwrap();
    let error = place.1.load(Uuid::from_u128(5)).unwrap_err().to_string();
    assert!(error.contains("00001234") && error.contains("00000005"), "{error}");
}

#[test]
fn every_byte_of_the_header_counts() {
    let place = Place::new();
    place.1.save(NAMESPACE, b"record").unwrap();
    let good = std::fs::read(&place.1.path).unwrap();
    for index in 0..HEADER_BYTES {
        let mut bad = good.clone();
        bad[index] ^= 0x40;
        std::fs::write(&place.1.path, &bad).unwrap();
        assert!(place.1.load(NAMESPACE).is_err(), "byte {index}");
    }
    for len in 0..HEADER_BYTES {
        std::fs::write(&place.1.path, &good[..len]).unwrap();
        assert!(matches!(place.1.load(NAMESPACE), Err(StoreError::Damaged { .. })), "{len} bytes");
    }
}

#[test]
fn a_file_that_is_too_long_is_refused() {
    let place = Place::new();
    for (len, is_good) in [(FILE_BYTES_MAX, true), (FILE_BYTES_MAX + 1, false)] {
        let mut bytes = Header::of(NAMESPACE).as_bytes().to_vec();
        bytes.resize(len, 0);
        std::fs::write(&place.1.path, &bytes).unwrap();
        let loaded = place.1.load(NAMESPACE);
        assert_eq!(loaded.is_ok(), is_good, "{loaded:?}");
        assert!(is_good || matches!(loaded, Err(StoreError::TooLong { .. })));
    }
}

#[test]
fn a_link_where_the_new_record_would_be_is_not_followed() {
    let place = Place::new();
    let victim = TestFile::new(10);
    let new = with_suffix(&place.1.path, ".new");
    std::os::unix::fs::symlink(victim.path(), new).unwrap();
    assert!(matches!(place.1.save(NAMESPACE, b"record"), Err(StoreError::System { .. })));
    assert_eq!(std::fs::metadata(victim.path()).unwrap().len(), 10);
}
