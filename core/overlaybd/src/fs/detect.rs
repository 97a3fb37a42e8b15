//! Which file system is on a device, by itself or in a partition.

use std::sync::Arc;

use super::device::Device;
use super::partitions::{only_linux, partitions, Part, Partition};
use super::{FileSystem, ReadAt};
use crate::error::{Error, Kind, Result};

/// What people may find instead, by what is written where.
const OTHERS: [(&str, u64, &[u8]); 12] = [
    ("XFS", 0, b"XFSB"),
    ("btrfs", 0x1_0040, b"_BHRfS_M"),
    ("F2FS", 1024, b"\x10\x20\xf5\xf2"),
    ("SquashFS", 0, b"hsqs"),
    ("NTFS", 3, b"NTFS    "),
    ("FAT", 82, b"FAT32"),
    ("FAT", 54, b"FAT"),
    ("ISO 9660", 0x8001, b"CD001"),
    ("encrypted data (LUKS)", 0, b"LUKS\xba\xbe"),
    ("volumes of LVM", 512, b"LABELONE"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("a part of a RAID", 4096, b"\xfc\x4e\x2b\xa9"),
];

/// The error about a device without a file system that can be read.
pub(super) fn unknown(device: &Device) -> Error {
    for (name, at, magic) in OTHERS {
        let mut found = vec![0; magic.len()];
        let there = at + magic.len() as u64 <= device.len();
        if there && device.read(&mut found, at).is_ok() && found == magic {
            return Error::new(Kind::Unsupported, format!("{name}: only ext2, ext3, ext4 and EROFS can be read"));
        }
    }
    Error::new(Kind::Unsupported, "neither ext4 nor EROFS")
}

/// A file system, and the partition that it is in if it is in one.
pub type Found = (FileSystem, Option<Partition>);

/// The file system in partition `number` of `device`; without a number that of the device as a whole, or if it has none
/// that of its only Linux partition.
///
/// # Errors
/// `NotFound` if there is no such partition; `Invalid` if more than one may be meant; those of [`FileSystem::open`] and
/// [`partitions`].
pub fn open_in(device: Arc<dyn ReadAt>, number: Option<u32>) -> Result<Found> {
    let whole = match number {
        None => match FileSystem::open(Arc::clone(&device)) {
            Ok(files) => return Ok((files, None)),
            Err(e) if e.kind() == Kind::Unsupported => Some(e),
            Err(e) => return Err(e),
        },
        Some(_) => None,
    };
    let found = partitions(&*device)?;
    let chosen = match (number, whole) {
        (Some(number), _) => found.iter().find(|partition| partition.number == number),
        (None, Some(e)) if found.is_empty() => return Err(e),
        (None, _) => only_linux(&found),
    };
    let Some(chosen) = chosen else {
        let kind = if number.is_some() { Kind::NotFound } else { Kind::Invalid };
        let what =
            number.map_or("more than one partition may be meant".into(), |n| format!("there is no partition {n}"));
        return Err(Error::new(kind, what).note(describe(&found)));
    };
    let part: Arc<dyn ReadAt> = Arc::new(Part::new(device, chosen));
    let files = FileSystem::open(part).map_err(|e| e.context(format!("partition {}", chosen.number)))?;
    Ok((files, Some(chosen.clone())))
}

/// The partitions in a few words; their names are a stranger's and left out.
fn describe(found: &[Partition]) -> String {
    match found {
        [] => "the device has no partitions".into(),
        _ => {
            let shown = found.iter().take(16).map(|p| format!("{} of {} MiB, type {}", p.number, p.len >> 20, p.kind));
            format!("there are: {}", shown.collect::<Vec<_>>().join("; "))
        }
    }
}
