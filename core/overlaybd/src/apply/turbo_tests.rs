//! Layers whose content stays in their archives: what a device shows of them is what they mean, and it is not asked for
//! while they are applied.

use std::sync::Arc;

use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;

use super::apply;
use super::model::{members, Model};
use super::tests::compare;
use crate::device::{BlockDevice, Extent, ExtentKind, MemoryDevice};
use crate::error::{Error, Kind, Result};
use crate::ext4::testing::SIZE;
use crate::ext4::Ext4;
use crate::lsmt::RemoteMap;
use crate::sink::MemorySink;
use crate::tar::testing::{build, Dialect, Member};
use crate::tar::{export, Archive};

const SECTOR: u64 = 512;

/// A disk some of whose sectors are those of an archive, of which nothing can be read.
struct Disk {
    stored: MemoryDevice,
    mapped: Mutex<Vec<Option<u64>>>,
}

impl Disk {
    fn new(bytes: &[u8]) -> Arc<Self> {
        let stored = MemoryDevice::new(SIZE).unwrap();
        for (at, block) in bytes.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0)) {
            stored.write_at(block, at as u64 * 4096).unwrap();
        }
        Arc::new(Disk { stored, mapped: Mutex::new(vec![None; (SIZE / SECTOR) as usize]) })
    }

    fn set(&self, offset: u64, len: u64, target: Option<u64>) {
        for sector in offset / SECTOR..(offset + len).div_ceil(SECTOR) {
            self.mapped.lock()[sector as usize] = target.map(|target| target + sector * SECTOR - offset);
        }
    }

    /// What it shows once the archive can be read.
    fn bytes(&self, archive: &[u8]) -> Vec<u8> {
        let mut bytes = crate::ext4::testing::bytes(&self.stored);
        for (sector, target) in bytes.chunks_mut(SECTOR as usize).zip(&*self.mapped.lock()) {
            if let Some(target) = target {
                sector.copy_from_slice(&archive[*target as usize..][..SECTOR as usize]);
            }
        }
        bytes
    }

    fn mapped(&self) -> usize {
        self.mapped.lock().iter().filter(|target| target.is_some()).count()
    }
}

impl BlockDevice for Disk {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let sectors = offset / SECTOR..(offset + buf.len() as u64).div_ceil(SECTOR);
        if self.mapped.lock()[sectors.start as usize..sectors.end as usize].iter().any(Option::is_some) {
            return Err(Error::new(Kind::Unsupported, "content was read while it was mapped"));
        }
        self.stored.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.set(offset, buf.len() as u64, None);
        self.stored.write_at(buf, offset)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.set(offset, len, None);
        self.stored.discard(offset, len)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>> {
        let sectors = offset / SECTOR..(offset + len).div_ceil(SECTOR);
        if self.mapped.lock()[sectors.start as usize..sectors.end as usize].iter().any(Option::is_some) {
            return Ok(vec![Extent { len, kind: ExtentKind::Data }]);
        }
        self.stored.extents(offset, len, max)
    }

    fn is_ready(&self, _: u64, _: u64) -> bool {
        true
    }
}

/// What maps into a disk.
struct Map(Arc<Disk>);

impl RemoteMap for Map {
    fn map(&mut self, device_offset: u64, len: u64, target_offset: u64) -> Result<()> {
        assert!([device_offset, len, target_offset].iter().all(|n| n.is_multiple_of(SECTOR)) && len > 0);
        self.0.set(device_offset, len, Some(target_offset));
        Ok(())
    }
}

fn run(disk: &Arc<Disk>, archive: &mut Archive<&[u8]>) -> Result<super::Applied> {
    let mut ext4 = Ext4::open(disk.clone())?;
    ext4.map_content(Box::new(Map(disk.clone())))?;
    let done = apply(&mut ext4, archive, &mut |_, _| Ok(()))?;
    ext4.close()?;
    Ok(done)
}

fn empty() -> Vec<u8> {
    let device = Arc::new(MemoryDevice::new(SIZE).unwrap());
    Ext4::create(device.clone()).unwrap().close().unwrap();
    crate::ext4::testing::bytes(&*device)
}

fn shown(bytes: &[u8]) -> MemoryDevice {
    MemoryDevice::read_only(bytes.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn mapped_layers_show_what_the_model_has(layers in vec(members(), 1..4)) {
        let mut device = empty();
        let mut model = Model::default();
        for mut members in layers {
            model.unpacked.clear();
            members.retain(|member| model.take(member));
            let archive = build(&members, Dialect::Pax);
            let disk = Disk::new(&device);
            let done = run(&disk, &mut Archive::new(&archive)).unwrap();
            let whole: u64 = members.iter().map(|member| member.content.len() as u64).sum();
            prop_assert_eq!(done.bytes, whole);

            let mut headers = MemorySink::default();
            export(&mut Archive::new(&archive[..]), &mut headers, &mut |_, _| Ok(())).unwrap();
            let again = Disk::new(&device);
            run(&again, &mut Archive::of_headers(&headers.bytes)).unwrap();

            device = disk.bytes(&archive);
            prop_assert!(again.bytes(&archive) == device, "headers alone gave another file system");
            compare(&shown(&device), &model);
        }
    }
}

#[test]
fn no_content_is_stored_and_what_follows_it_reads_as_zeros() {
    // So that what is behind the end of the new file was something else.
    let mut before = Model::default();
    let old: Vec<Member> =
        (0..200).map(|n| Member { content: vec![7; 4096], ..Member::new(&format!("o{n}"), b'0') }).collect();
    assert!(old.iter().all(|member| before.take(member)));
    let disk = Disk::new(&empty());
    let mut ext4 = Ext4::open(disk.clone()).unwrap();
    apply(&mut ext4, &mut Archive::new(&build(&old, Dialect::Pax)[..]), &mut |_, _| Ok(())).unwrap();
    ext4.close().unwrap();

    let (mut members, mut model) = (Vec::new(), Model::default());
    members.extend(old.iter().map(|old| Member::new(&format!(".wh.{}", String::from_utf8_lossy(&old.path)), b'0')));
    members.push(Member { content: vec![9; 700_001], ..Member::new("new", b'0') });
    assert!(members.iter().all(|member| model.take(member)));
    let archive = build(&members, Dialect::Gnu);
    run(&disk, &mut Archive::new(&archive)).unwrap();
    assert_eq!(disk.mapped() as u64, 700_001u64.div_ceil(SECTOR));
    let bytes = disk.bytes(&archive);
    compare(&shown(&bytes), &model);
    let last = bytes.chunks(4096).filter(|block| block[0] == 9).map(|block| block.iter().filter(|b| **b == 9).count());
    assert_eq!(last.min(), Some(700_001 % 4096));
    assert!(!bytes.chunks(4096).any(|block| block[0] == 9 && block.contains(&7)), "old bytes behind the new file");
}
