//! What tests of file systems need: the bytes of a device, and e2fsck's word on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::device::BlockDevice;

/// Bytes of a device for tests.
pub(crate) const SIZE: u64 = 16 << 20;

/// All bytes of a device.
pub(crate) fn bytes(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; device.size() as usize];
    device.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// What e2fsck finds wrong, which must be nothing.
pub(crate) fn check(device: &dyn BlockDevice) {
    let image = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(image.path(), bytes(device)).unwrap();
    let done = Command::new(program("e2fsck")).arg("-fn").arg(image.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

/// Where a program of e2fsprogs is.
pub(crate) fn program(name: &str) -> PathBuf {
    let places = ["/sbin", "/usr/sbin", "/usr/local/sbin"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed"))
}
