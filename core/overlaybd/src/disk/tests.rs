//! Disks recognized, walked, copied; roots found.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::device::{BlockDevice, ExtentKind, MemoryDevice};
use crate::error::Kind;
use crate::progress::silent;
use crate::sys::os::OsFile;

/// A disk in memory that says of each sector what it is.
#[derive(Debug)]
struct Told {
    bytes: Vec<u8>,
    kinds: Vec<ExtentKind>,
    most: u64,
}

impl ReadAt for Told {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
        Ok(())
    }
}

impl DiskImage for Told {
    fn name(&self) -> &str {
        "told"
    }

    fn extent(&self, offset: u64) -> Result<Extent> {
        let from = (offset / 512) as usize;
        let kind = self.kinds[from];
        let len = self.kinds[from..].iter().take_while(|other| **other == kind).count() as u64 * 512;
        Ok(Extent { len: len.min(self.most), kind })
    }
}

/// Runs of sectors: what they are said to be, and their byte where they are data.
fn disks() -> impl Strategy<Value = Told> {
    let kind = prop_oneof![Just(ExtentKind::Hole), Just(ExtentKind::Zero), Just(ExtentKind::Data)];
    let run = (kind, prop_oneof![Just(0u8), any::<u8>()], 1..40usize);
    (proptest::collection::vec(run, 1..30), 1..30u64).prop_map(|(runs, most)| {
        let (mut bytes, mut kinds) = (Vec::new(), Vec::new());
        for (kind, byte, sectors) in runs {
            bytes.resize(bytes.len() + sectors * 512, if kind == ExtentKind::Data { byte } else { 0 });
            kinds.resize(kinds.len() + sectors, kind);
        }
        Told { bytes, kinds, most: most * 512 }
    })
}

proptest! {
    #[test]
    fn runs_depend_on_what_a_disk_reads_as_alone(disk in disks()) {
        let runs = |disk: &dyn DiskImage| {
            let mut found: Vec<(u64, Vec<u8>)> = Vec::new();
            let mut each = |at: u64, run: Run<'_>| {
                let Run::Data(bytes) = run else { panic!("{run:?}") };
                match found.last_mut() {
                    Some((last, all)) if *last + all.len() as u64 == at => all.extend(bytes),
                    _ => found.push((at, bytes.to_vec())),
                }
                Ok(())
            };
            walk(disk, Holes::Zeros, &mut each, &mut silent).unwrap();
            found
        };
        let kinds = vec![ExtentKind::Data; disk.kinds.len()];
        let all_data = Told { bytes: disk.bytes.clone(), kinds, most: u64::MAX };
        let found = runs(&disk);
        prop_assert!(found == runs(&all_data));
        let mut back = vec![0; disk.bytes.len()];
        for (at, bytes) in found {
            back[at as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        prop_assert!(back == disk.bytes);
    }

    #[test]
    fn a_copy_leaves_what_is_not_allocated(disk in disks()) {
        let device = MemoryDevice::new(disk.len() + 1024).unwrap();
        device.write_at(&vec![0xAA; device.size() as usize], 0).unwrap();
        let done = copy(&disk, &device, &mut silent).unwrap();
        prop_assert_eq!(done.written + done.zeros + done.skipped, disk.len());
        let mut after = vec![0; device.size() as usize];
        device.read_at(&mut after, 0).unwrap();
        for (sector, bytes) in after.chunks(512).enumerate() {
            let wanted = match disk.kinds.get(sector) {
                Some(ExtentKind::Data | ExtentKind::Zero) => &disk.bytes[sector * 512..][..512],
                Some(ExtentKind::Hole) | None => &[0xAA; 512],
            };
            prop_assert!(bytes == wanted, "sector {}", sector);
        }
    }
}

fn file(bytes: &[u8]) -> Arc<dyn File> {
    let file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut &file, bytes).unwrap();
    Arc::new(OsFile::new(file, "disk.img"))
}

#[test]
fn a_device_too_small_is_left_alone() {
    let disk = Told { bytes: vec![1; 2048], kinds: vec![ExtentKind::Data; 4], most: 512 };
    let device = MemoryDevice::new(1536).unwrap();
    let e = copy(&disk, &device, &mut silent).unwrap_err();
    assert!(e.kind() == Kind::NoSpace && e.to_string().contains("2048 bytes does not fit on a device of 1536"), "{e}");
    assert_eq!(device.extents(0, 1536, 9).unwrap(), [Extent { len: 1536, kind: ExtentKind::Hole }]);
}

#[test]
fn formats_are_told_by_their_first_bytes_or_the_last() {
    let at = |offset: usize, magic: &[u8]| {
        let mut bytes = vec![0; 4096];
        bytes[offset..offset + magic.len()].copy_from_slice(magic);
        recognize(&*file(&bytes)).map_err(|e| e.to_string())
    };
    assert_eq!(at(0, b"QFI\xFB"), Ok(Format::Qcow2));
    assert_eq!(at(510, b"\x55\xAA"), Ok(Format::Raw));
    assert_eq!(recognize(&*file(b"short")).unwrap(), Format::Raw);
    for (offset, magic) in [(0, &b"KDMV"[..]), (0, b"vhdxfile"), (64, b"\x7F\x10\xDA\xBE"), (3584, b"conectix")] {
        let said = at(offset, magic).unwrap_err();
        assert!(said.contains("unsupported: disk.img: ") && said.contains("`qemu-img convert -O qcow2`"), "{said}");
    }
    assert!(at(0, b"\xFD7zXZ\0").unwrap_err().contains("compressed with xz: unpack it first"));
}

#[test]
fn a_raw_disk_has_whole_sectors() {
    let disk = Raw::new(file(&[7; 700])).unwrap();
    assert_eq!((disk.len(), disk.extent(512).unwrap()), (1024, Extent { len: 512, kind: ExtentKind::Data }));
    let mut buf = [1; 1024];
    disk.read_at(&mut buf, 0).unwrap();
    assert!(buf[..700] == [7; 700] && buf[700..] == [0; 324]);
    assert_eq!(Raw::new(file(&[])).err().unwrap().kind(), Kind::Invalid);
}

/// A disk with partitions in an MBR: type, first sector, sectors, and whether there is an ext4 file system.
fn disk_of(partitions: &[(u8, u32, u32, bool)]) -> Arc<dyn DiskImage> {
    let mut bytes = vec![0; 64 * 512];
    for (number, (kind, start, sectors, ext4)) in partitions.iter().enumerate() {
        let entry = &mut bytes[446 + 16 * number..][..16];
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..16].copy_from_slice(&sectors.to_le_bytes());
        if *ext4 {
            bytes[*start as usize * 512 + 1080..][..2].copy_from_slice(b"\x53\xEF");
        }
    }
    if !partitions.is_empty() {
        bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
    }
    Arc::new(Raw::new(file(&bytes)).unwrap())
}

#[test]
fn the_root_is_the_largest_of_linux_with_a_file_system() {
    let disk = disk_of(&[(0xEF, 1, 30, true), (0x83, 31, 6, true), (0x83, 37, 8, true), (0x83, 45, 19, false)]);
    let found = root(disk).unwrap();
    assert_eq!((found.partition.unwrap().number, found.disk.len(), found.file_system), (3, 8 * 512, "ext4"));
    let said = root(disk_of(&[(0x83, 1, 8, false), (7, 9, 8, false)])).err().unwrap().to_string();
    assert!(said.contains("not-found: disk.img: ") && said.contains("1: type 83, no known file system; 2: "), "{said}");
    assert_eq!(root(disk_of(&[])).err().unwrap().kind(), Kind::NotFound);
}

#[test]
fn a_disk_without_partitions_may_be_a_root_itself() {
    let mut bytes = vec![0; 8192];
    bytes[1080..1082].copy_from_slice(b"\x53\xEF");
    let found = root(Arc::new(Raw::new(file(&bytes)).unwrap())).unwrap();
    assert!(found.partition.is_none() && found.disk.len() == 8192);
}
