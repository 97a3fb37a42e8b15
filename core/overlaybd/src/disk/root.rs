//! The part of a disk that has the root file system of a Linux.

use std::sync::Arc;

use super::{DiskImage, Part};
use crate::error::{Error, Kind, Result};
use crate::fs::partitions::{partitions, Partition};
use crate::fs::ReadAt;

/// File systems that a root can have: name, offset of the magic, magic.
const FILE_SYSTEMS: [(&str, u64, &[u8]); 6] = [
    ("ext4", 1024 + 56, b"\x53\xEF"),
    ("erofs", 1024, b"\xE2\xE1\xF5\xE0"),
    ("xfs", 0, b"XFSB"),
    ("btrfs", 65536 + 64, b"_BHRfS_M"),
    ("squashfs", 0, b"hsqs"),
    ("f2fs", 1024, b"\x10\x20\xF5\xF2"),
];

/// What was chosen.
pub struct Root {
    /// It, as a disk of its own.
    pub disk: Arc<dyn DiskImage>,
    /// The partition that it is; None if it is the whole disk, which has no partitions.
    pub partition: Option<Partition>,
    /// Its file system.
    pub file_system: &'static str,
}

/// The file system that begins a disk, if it is one that a root can have; ext2 and ext3 are ext4 here.
///
/// # Errors
/// Those of reading.
pub fn file_system(disk: &dyn ReadAt) -> Result<Option<&'static str>> {
    for (name, at, magic) in FILE_SYSTEMS {
        let mut there = vec![0; magic.len()];
        if at + magic.len() as u64 > disk.len() {
            continue;
        }
        disk.read_at(&mut there, at)?;
        if there == magic {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Finds the root: of the partitions with a known file system the largest one that its table says to be a root, else
/// the largest one for data of Linux; of a disk without partitions all.
///
/// # Errors
/// `NotFound` if there is none; `Corrupt` for a broken table; those of reading.
pub fn root(disk: Arc<dyn DiskImage>) -> Result<Root> {
    let of_disk = |e: Error| e.in_file(disk.name());
    let found = partitions(&*disk).map_err(of_disk)?;
    if found.is_empty() {
        if let Some(file_system) = file_system(&*disk)? {
            return Ok(Root { disk, partition: None, file_system });
        }
    }
    let mut best: Option<Root> = None;
    let mut said = Vec::new();
    for partition in found {
        let part: Arc<dyn DiskImage> = Arc::new(Part::new(disk.clone(), partition.start, partition.len)?);
        let kind = file_system(&*part)?;
        said.push(format!("{}: type {}, {}", partition.number, partition.kind, kind.unwrap_or("no known file system")));
        let Some(file_system) = kind.filter(|_| partition.kind.is_linux()) else { continue };
        let rank = |of: &Partition| (of.kind.is_linux_root(), of.len);
        let before = best.as_ref().and_then(|best| best.partition.as_ref()).map(rank);
        if before.is_none_or(|before| rank(&partition) > before) {
            best = Some(Root { disk: part, partition: Some(partition), file_system });
        }
    }
    best.ok_or_else(|| {
        let why = if said.is_empty() { "no partitions, no known file system".into() } else { said.join("; ") };
        of_disk(Error::new(Kind::NotFound, format!("no root file system of a Linux is on this disk ({why})")))
    })
}
