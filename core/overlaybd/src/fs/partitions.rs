//! The partition table of a whole disk: MBR with its chain of logical partitions, or GPT.
//!
//! Tables are made by strangers: every number is checked against the disk, every chain has an end.

use std::fmt;
use std::sync::Arc;

use crc_fast::{checksum, CrcAlgorithm};

use super::bytes::{u16_at, u32_at, u64_at};
use super::ReadAt;
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_PARTITIONS, SECTOR};
use crate::lsmt::Uuid;

/// Sector sizes that disks have: addresses in tables count those.
const SECTORS: [u64; 2] = [SECTOR, 4096];

/// Types in an MBR.
const EXTENDED: [u8; 3] = [0x05, 0x0F, 0x85];
const PROTECTIVE: u8 = 0xEE;
const LINUX: u8 = 0x83;

const GPT_MAGIC: &[u8; 8] = b"EFI PART";
/// Bytes of a GPT header; larger ones are of a future that is not here.
const GPT_HEADER: usize = 92;
const GPT_ENTRY: usize = 128;
/// Bytes of an entry that some table may have; those that are usual are 128.
const MAX_ENTRY: usize = 4096;

/// Types of GPT: data of Linux, and its root for one machine or another (x86-64, x86, arm64, arm, riscv64, ppc64le,
/// s390x, loongarch64).
const LINUX_DATA: &[u8; 36] = b"0FC63DAF-8483-4772-8E79-3D69D8477DE4";
const LINUX_ROOTS: [&[u8; 36]; 8] = [
    b"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    b"44479540-F297-41B2-9AF7-D131D5F0458A",
    b"B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
    b"69DAD710-2CE4-4E3C-B16C-21A1D49ABED3",
    b"72EC70A6-CF74-40E6-BD49-4BDA08E8F224",
    b"C31C45E6-3F39-412E-80FB-4809C4980599",
    b"5EEAD9A9-FE09-4A1E-A1D7-520D00531306",
    b"77055800-792C-4F94-B39A-98C91B762BB6",
];

/// What a partition is for, as its table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionType {
    /// A byte of an MBR.
    Mbr(u8),
    /// A GUID of a GPT, in the order in which it is written as text.
    Gpt(Uuid),
}

impl fmt::Display for PartitionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartitionType::Mbr(byte) => write!(f, "{byte:02x}"),
            PartitionType::Gpt(guid) => write!(f, "{guid}"),
        }
    }
}

impl PartitionType {
    /// Whether it is data of Linux.
    pub fn is_linux(self) -> bool {
        match self {
            PartitionType::Mbr(byte) => byte == LINUX,
            PartitionType::Gpt(guid) => Uuid::parse(LINUX_DATA) == Some(guid) || self.is_linux_root(),
        }
    }

    /// Whether it says that it is the root file system of a Linux.
    pub fn is_linux_root(self) -> bool {
        match self {
            PartitionType::Mbr(_) => false,
            PartitionType::Gpt(guid) => LINUX_ROOTS.iter().any(|root| Uuid::parse(*root) == Some(guid)),
        }
    }
}

/// A partition: a part of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as in the names of devices: from 1 on, logical ones of an MBR from 5 on.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// What it is for.
    pub kind: PartitionType,
    /// Its name in a GPT; empty in an MBR.
    pub label: String,
}

/// The partitions of a disk, in the order of their numbers; none if there is no table.
///
/// # Errors
/// `Corrupt` for a table whose numbers make no sense or whose checksums are wrong, in both its copies; `Limit` for one
/// of too many partitions; those of reading.
pub fn partitions(disk: &dyn ReadAt) -> Result<Vec<Partition>> {
    let mut mbr = [0; SECTOR as usize];
    if disk.len() < SECTOR {
        return Ok(Vec::new());
    }
    disk.read_at(&mut mbr, 0)?;
    // What begins a FAT has the same signature: there, a byte that tells what to boot from means nothing.
    let flags_right = entries(&mbr).all(|entry| matches!(entry[0], 0 | 0x80));
    if !is_signed(&mbr) || !flags_right {
        return Ok(Vec::new());
    }
    if entries(&mbr).any(|entry| entry[4] == PROTECTIVE) {
        return gpt(disk);
    }
    logical(disk, &mbr)
}

/// The partition that holds the root file system of a Linux, if that can be told: the only one that says so, else the
/// only one with data of Linux.
pub fn only_linux(partitions: &[Partition]) -> Option<&Partition> {
    let only = |fits: fn(PartitionType) -> bool| {
        let mut fitting = partitions.iter().filter(|partition| fits(partition.kind));
        fitting.next().filter(|_| fitting.next().is_none())
    };
    only(PartitionType::is_linux_root).or_else(|| only(PartitionType::is_linux))
}

fn is_signed(sector: &[u8]) -> bool {
    sector[510..512] == [0x55, 0xAA]
}

fn entries(sector: &[u8]) -> impl Iterator<Item = &[u8]> {
    sector[446..510].chunks_exact(16)
}

/// An entry of an MBR: first sector and sectors.
fn place(entry: &[u8]) -> (u64, u64) {
    (u32_at(entry, 8).into(), u32_at(entry, 12).into())
}

/// A partition of `sectors` sectors of `sector` bytes, if it lies on the disk.
fn checked(
    disk: &dyn ReadAt,
    number: u32,
    (start, sectors): (u64, u64),
    sector: u64,
    kind: PartitionType,
) -> Result<Partition> {
    let end = start.checked_add(sectors).and_then(|end| end.checked_mul(sector));
    if start == 0 || sectors == 0 || end.is_none_or(|end| end > disk.len()) {
        let what = format!("partition {number}: {sectors} sectors from {start} on, on a disk of {} bytes", disk.len());
        return Err(Error::corrupt(what));
    }
    Ok(Partition { number, start: start * sector, len: sectors * sector, kind, label: String::new() })
}

/// Primary partitions, and the chain of logical ones: each link says where its partition is, and the next link.
fn logical(disk: &dyn ReadAt, mbr: &[u8]) -> Result<Vec<Partition>> {
    let mut found = Vec::new();
    let mut chain = None;
    for (number, entry) in (1..).zip(entries(mbr)) {
        match entry[4] {
            0 => {}
            kind if EXTENDED.contains(&kind) => chain = chain.or(Some(place(entry).0)),
            kind => found.push(checked(disk, number, place(entry), SECTOR, PartitionType::Mbr(kind))?),
        }
    }
    let Some(first) = chain else { return Ok(found) };
    let (mut link, mut number) = (first, 4);
    for _ in 0..MAX_PARTITIONS {
        let mut sector = [0; SECTOR as usize];
        let at = link * SECTOR;
        if at == 0 || at.checked_add(SECTOR).is_none_or(|end| end > disk.len()) {
            return Err(Error::corrupt("a logical partition that should lie beyond the end of the disk").at(at));
        }
        disk.read_at(&mut sector, at)?;
        if !is_signed(&sector) {
            return Err(Error::corrupt("a link in the chain of logical partitions that is none").at(at));
        }
        let mut next = None;
        for entry in entries(&sector).take(2) {
            let (start, sectors) = place(entry);
            match entry[4] {
                0 => {}
                kind if EXTENDED.contains(&kind) => next = Some(first + start),
                kind => {
                    number += 1;
                    found.push(checked(disk, number, (link + start, sectors), SECTOR, PartitionType::Mbr(kind))?);
                }
            }
        }
        match next {
            Some(next) => link = next,
            None => return Ok(found),
        }
    }
    Err(Error::new(Kind::Limit, "a chain of too many logical partitions, or one in a circle"))
}

/// The table of a GPT: the one at the start, or if that is damaged the one at the end.
fn gpt(disk: &dyn ReadAt) -> Result<Vec<Partition>> {
    let mut first = None;
    for sector in SECTORS {
        let places = [Some(sector), disk.len().checked_sub(sector).filter(|at| at.is_multiple_of(sector))];
        for at in places.into_iter().flatten() {
            match table(disk, sector, at) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(e) => first = first.or(Some(e)),
            }
        }
    }
    Err(first.unwrap_or_else(|| Error::corrupt("the disk says that it has a GPT, but there is none")))
}

/// The table whose header is at byte `at`, if there is one.
fn table(disk: &dyn ReadAt, sector: u64, at: u64) -> Result<Option<Vec<Partition>>> {
    let mut header = vec![0; sector as usize];
    if at.checked_add(sector).is_none_or(|end| end > disk.len()) {
        return Ok(None);
    }
    disk.read_at(&mut header, at)?;
    if header[..8] != *GPT_MAGIC {
        return Ok(None);
    }
    let wrong = |what: &str| Error::corrupt(format!("the GPT of a disk: {what}")).at(at);
    let bytes = u32_at(&header, 12) as usize;
    if !(GPT_HEADER..=header.len()).contains(&bytes) {
        return Err(wrong("a header of a size that makes no sense"));
    }
    let sum = u32_at(&header, 16);
    header[16..20].fill(0);
    if crc(&header[..bytes]) != sum || u64_at(&header, 24) != at / sector {
        return Err(wrong("the checksum or the place of its header is not right"));
    }
    let (count, entry_bytes) = (u32_at(&header, 80) as usize, u32_at(&header, 84) as usize);
    if count > MAX_PARTITIONS {
        return Err(Error::new(Kind::Limit, format!("a GPT with room for {count} partitions")).at(at));
    }
    if !(GPT_ENTRY..=MAX_ENTRY).contains(&entry_bytes) || !entry_bytes.is_multiple_of(GPT_ENTRY) {
        return Err(wrong("entries of a size that makes no sense"));
    }
    let mut list = vec![0; count * entry_bytes];
    let start = u64_at(&header, 72)
        .checked_mul(sector)
        .filter(|start| start.checked_add(list.len() as u64).is_some_and(|end| end <= disk.len()));
    disk.read_at(&mut list, start.ok_or_else(|| wrong("entries that should lie beyond the end"))?)?;
    if crc(&list) != u32_at(&header, 88) {
        return Err(wrong("the checksum of its entries is not right"));
    }
    let mut found = Vec::new();
    for (number, entry) in (1..).zip(list.chunks_exact(entry_bytes)) {
        let Some(kind) = guid(&entry[..16]).filter(|kind| !kind.is_null()) else { continue };
        let (start, last) = (u64_at(entry, 32), u64_at(entry, 40));
        let sectors = last.checked_sub(start).and_then(|less| less.checked_add(1)).unwrap_or(0);
        let mut partition = checked(disk, number, (start, sectors), sector, PartitionType::Gpt(kind))?;
        let units = (56..128).step_by(2).map(|at| u16_at(entry, at)).take_while(|unit| *unit != 0);
        partition.label = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        found.push(partition);
    }
    Ok(Some(found))
}

/// A GUID as it lies on disk, its first three parts with their last byte first.
fn guid(raw: &[u8]) -> Option<Uuid> {
    let mut bytes: [u8; 16] = raw.try_into().ok()?;
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(Uuid(bytes))
}

fn crc(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}

/// A part of a device, as a device of its own.
pub struct Part {
    device: Arc<dyn ReadAt>,
    start: u64,
    len: u64,
}

impl Part {
    /// `partition` of `device`, on which it was found.
    pub fn new(device: Arc<dyn ReadAt>, partition: &Partition) -> Part {
        Part { device, start: partition.start, len: partition.len }
    }
}

impl ReadAt for Part {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(Error::new(Kind::OutOfBounds, format!("beyond a partition of {} bytes", self.len)).at(offset));
        }
        self.device.read_at(buf, self.start + offset)
    }
}
