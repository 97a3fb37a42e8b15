//! What format a disk image has, by its first bytes.

use crate::error::{Error, Kind, Result};
use crate::qcow2;
use crate::sys::{read_exact, File};

/// Formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The bytes of the disk as they are.
    Raw,
    /// That of QEMU.
    Qcow2,
}

impl Format {
    /// Its name: `raw` or `qcow2`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }

    /// The format of that name.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "raw" => Ok(Format::Raw),
            "qcow2" => Ok(Format::Qcow2),
            _ => Err(Error::new(Kind::Invalid, format!("no disk format is named {name:?}: raw or qcow2"))),
        }
    }
}

/// Formats that are not read: name, offset (from the end if negative), magic.
const FOREIGN: [(&str, i64, &[u8]); 10] = [
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc (VHD)", 0, b"conectix"),
    ("vpc (VHD)", -512, b"conectix"),
    ("vdi", 64, &[0x7F, 0x10, 0xDA, 0xBE]),
    ("qed", 0, b"QED\0"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
];

/// Compressed files, which only somebody who knows what is in them would give for a disk.
const COMPRESSED: [(&str, &[u8]); 4] =
    [("gzip", &[0x1F, 0x8B, 8]), ("xz", b"\xFD7zXZ\0"), ("zstd", &[0x28, 0xB5, 0x2F, 0xFD]), ("bzip2", b"BZh9")];

/// Bytes looked at.
const HEAD: usize = 512;

/// The format of the image in `file`: raw if there is no sign of another one.
///
/// # Errors
/// `Unsupported`, with what helps, for the formats of other programs and for compressed files; those of reading.
pub fn recognize(file: &dyn File) -> Result<Format> {
    let len = file.len().map_err(|e| Error::io("length", e).in_file(file.path()))?;
    let mut head = vec![0; len.min(HEAD as u64) as usize];
    read_exact(file, &mut head, 0)?;
    if head.starts_with(qcow2::MAGIC) {
        return Ok(Format::Qcow2);
    }
    let refuse = |what: String| Err(Error::new(Kind::Unsupported, what).in_file(file.path()));
    for (name, offset, magic) in FOREIGN {
        let at = if offset < 0 { len.saturating_sub(offset.unsigned_abs()) } else { offset.unsigned_abs() };
        let mut there = vec![0; magic.len().min(len.saturating_sub(at) as usize)];
        read_exact(file, &mut there, at)?;
        if there == magic {
            return refuse(format!(
                "a disk image of format {name}: `qemu-img convert -O qcow2` makes one to read of it"
            ));
        }
    }
    let bootable = head.len() == HEAD && head[HEAD - 2..] == [0x55, 0xAA];
    for (name, magic) in COMPRESSED {
        if head.starts_with(magic) && !bootable {
            return refuse(format!("compressed with {name}: unpack it first"));
        }
    }
    Ok(Format::Raw)
}
