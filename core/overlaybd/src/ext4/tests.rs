//! File systems made here, read back by the reader of `crate::fs`, which shares no code with this; and by e2fsck.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::content::Content;
use super::testing::{bytes, check, program, SIZE};
use super::{Ext4, FILE, LOST_AND_FOUND, ROOT};
use crate::apply::Target;
use crate::device::{BlockDevice, ExtentKind, MemoryDevice};
use crate::error::Kind;
use crate::fs::FileSystem;

fn new(size: u64) -> Arc<MemoryDevice> {
    let device = Arc::new(MemoryDevice::new(size).unwrap());
    Ext4::create(device.clone()).unwrap().close().unwrap();
    device
}

/// A file system that mke2fs has made.
fn foreign(options: &[&str]) -> Arc<MemoryDevice> {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(SIZE).unwrap();
    let mut command = Command::new(program("mke2fs"));
    command.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal"]).args(options).arg(image.path());
    assert!(command.status().unwrap().success());
    let device = Arc::new(MemoryDevice::new(SIZE).unwrap());
    device.write_at(&std::fs::read(image.path()).unwrap(), 0).unwrap();
    device
}

fn stored(device: &dyn BlockDevice) -> u64 {
    let runs = device.extents(0, device.size(), usize::MAX).unwrap();
    runs.iter().filter(|run| run.kind == ExtentKind::Data).map(|run| run.len).sum()
}

/// Names and inodes in a directory, as the other reader sees them.
fn listed(device: &dyn BlockDevice, path: &[u8]) -> BTreeMap<Vec<u8>, u64> {
    let files = FileSystem::open(Arc::new(bytes(device))).unwrap();
    let mut found = BTreeMap::new();
    files
        .entries(&files.resolve(path).unwrap(), |name, number| {
            assert!(found.insert(name.to_vec(), number).is_none(), "{name:?} twice");
            true
        })
        .unwrap();
    found
}

#[test]
fn a_new_one_is_clean_small_and_always_the_same() {
    for size in [2 << 20, SIZE, 130 << 20, (130 << 20) + 12_800] {
        let device = new(size);
        check(&*device);
        assert_eq!(listed(&*device, b"/"), [(b"lost+found".to_vec(), u64::from(LOST_AND_FOUND))].into());
        assert!(bytes(&*device) == bytes(&*new(size)));
        assert!(stored(&*device) < 128 << 10, "{} of {size}", stored(&*device));
    }
    let small = Arc::new(MemoryDevice::new(1 << 20).unwrap());
    assert_eq!(Ext4::create(small).map(drop).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn what_does_not_change_is_not_written() {
    let device = new(SIZE);
    let before = bytes(&*device);
    let copy = Arc::new(MemoryDevice::new(SIZE).unwrap());
    copy.write_at(&before, 0).unwrap();
    Ext4::open(copy.clone()).unwrap().close().unwrap();
    assert!(bytes(&*copy) == before);
    // A device that refuses all writes is not even asked.
    let frozen = Arc::new(Frozen(before));
    Ext4::open(frozen).unwrap().close().unwrap();
}

#[test]
fn what_bitmaps_call_free_although_it_holds_the_file_system_is_not_written_over() {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    for device in [new(SIZE), foreign(&["-b", "1024"]), foreign(&["-O", "metadata_csum,64bit,flex_bg"])] {
        Ext4::open(device.clone()).unwrap().close().unwrap();
        let good = bytes(&*device);
        let block_bytes = 1024 << word(&good, 1024 + 0x18);
        let first = word(&good, 1024 + 0x14);
        let descriptor = (first + 1) * block_bytes;
        let map = word(&good, descriptor) * block_bytes;
        let places =
            [first, first + 1, word(&good, descriptor), word(&good, descriptor + 4), word(&good, descriptor + 8)];
        for place in places {
            let (byte, bit) = ((place - first) / 8, 1 << ((place - first) % 8));
            assert!(good[map + byte] & bit != 0);
            device.write_at(&[good[map + byte] & !bit], (map + byte) as u64).unwrap();
            assert_eq!(Ext4::open(device.clone()).map(drop).unwrap_err().kind(), Kind::Corrupt, "block {place}");
            device.write_at(&good[map..map + block_bytes], map as u64).unwrap();
        }
    }
    let device = new(SIZE);
    device.write_at(&[2], 1024 + 0x54).unwrap();
    assert_eq!(Ext4::open(device).map(drop).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn metadata_in_the_place_of_other_metadata_is_refused() {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    for device in [new(SIZE), foreign(&["-b", "1024"]), foreign(&["-O", "^metadata_csum,^uninit_bg"])] {
        let good = bytes(&*device);
        let block_bytes = 1024 << word(&good, 1024 + 0x18);
        let first = word(&good, 1024 + 0x14);
        let descriptor = (first as usize + 1) * block_bytes;
        let [blocks, inodes, table] = [0, 4, 8].map(|at| word(&good, descriptor + at));
        for (at, place) in
            [(0, inodes), (4, blocks), (4, table), (4, table + 3), (8, blocks), (0, first), (4, first + 1)]
        {
            device.write_at(&place.to_le_bytes(), (descriptor + at) as u64).unwrap();
            let refused = Ext4::open(device.clone()).map(drop).unwrap_err();
            assert_eq!(refused.kind(), Kind::Corrupt, "{at} {place}");
            device.write_at(&good[descriptor..descriptor + 64], descriptor as u64).unwrap();
        }
        Ext4::open(device).unwrap().close().unwrap();
    }
}

#[test]
fn sizes_and_counts_that_do_not_go_together_are_refused() {
    for (device, block_bytes) in [(new(SIZE), 4096), (foreign(&["-b", "1024", "-O", "^metadata_csum"]), 1024)] {
        let good = bytes(&*device);
        let blocks = SIZE as u32 / block_bytes;
        // Where a number is, its bytes, and what it must not be.
        let bad: [(usize, usize, &[u32]); 11] = [
            (0x14, 4, &[2, 0x54, blocks - 1, u32::MAX]),
            (0x18, 4, &[3, 16, 32, u32::MAX]),
            (0x1C, 4, &[4, 31, u32::MAX]),
            (0x20, 4, &[0, 1, 7, 8 * block_bytes + 8, u32::MAX]),
            (0x24, 4, &[0, 1, u32::MAX]),
            (0x28, 4, &[0, 1, 8, 8 * block_bytes + 8, u32::MAX]),
            (0x00, 4, &[0, 1, 11, u32::MAX]),
            (0x04, 4, &[0, 1, blocks + 1, u32::MAX]),
            (0x58, 2, &[0, 1, 64, 129, 384, 8192, 0xFFFF]),
            (0xCE, 2, &[block_bytes / 4 + 1, 0xFFFF]),
            (0x174, 1, &[32, 255]),
        ];
        for (at, len, values) in bad {
            for value in values {
                device.write_at(&value.to_le_bytes()[..len], 1024 + at as u64).unwrap();
                let refused = Ext4::open(device.clone()).map(drop).unwrap_err();
                assert!(matches!(refused.kind(), Kind::Corrupt | Kind::Unsupported), "{at:#x} {value}: {refused}");
                device.write_at(&good[1024..2048], 1024).unwrap();
                // And the next is not taken for the one before.
                Ext4::open(device.clone()).unwrap().close().unwrap();
            }
        }
    }
}

#[test]
fn a_directory_with_a_hole_is_refused() {
    let device = new(SIZE);
    let mut ext4 = Ext4::open(device.clone()).unwrap();
    let mut inode = ext4.inode(ROOT).unwrap();
    inode.set_size(1 << 20);
    ext4.handle.write_inode(ROOT, &mut inode).unwrap();
    let refused = ext4.lookup(ROOT, b"a").map(drop).unwrap_err();
    assert_eq!(refused.kind(), Kind::Corrupt, "{refused}");
}

/// A device that takes no writes although it says so.
struct Frozen(Vec<u8>);

impl BlockDevice for Frozen {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> crate::Result<()> {
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }
    fn write_at(&self, _: &[u8], offset: u64) -> crate::Result<()> {
        Err(crate::Error::new(Kind::ReadOnly, "frozen").at(offset))
    }
    fn discard(&self, offset: u64, _: u64) -> crate::Result<()> {
        Err(crate::Error::new(Kind::ReadOnly, "frozen").at(offset))
    }
    fn flush(&self) -> crate::Result<()> {
        Ok(())
    }
    fn extents(&self, _: u64, len: u64, _: usize) -> crate::Result<Vec<crate::device::Extent>> {
        Ok(vec![crate::device::Extent { len, kind: ExtentKind::Data }])
    }
    fn is_ready(&self, _: u64, _: u64) -> bool {
        true
    }
}

#[test]
fn an_error_of_the_device_is_told() {
    let mut ext4 = Ext4::open(Arc::new(Frozen(bytes(&*new(SIZE))))).unwrap();
    ext4.make_directory(ROOT, b"d", 0o755).unwrap();
    let error = ext4.close().unwrap_err();
    assert_eq!((error.kind(), error.what().contains("frozen")), (Kind::ReadOnly, true), "{error}");
    let nothing = Arc::new(MemoryDevice::new(SIZE).unwrap());
    let error = Ext4::open(nothing).map(drop).unwrap_err();
    assert!(error.to_string().contains("make one first"), "{error}");
}

#[test]
fn what_a_super_block_claims_is_bounded() {
    let device = new(SIZE);
    let mut block = [0; 1024];
    device.read_at(&mut block, 1024).unwrap();
    // Groups of 32 blocks: 2^25 of them, which would take 2 GiB of memory.
    for (at, value) in [(0x4, 1 << 30), (0x20, 32), (0x24, 32), (0x28, 8), (0, 1 << 28)] {
        block[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
    assert_eq!(super::accept::geometry(&block, 4096 << 30).unwrap_err().kind(), Kind::Limit);
    device.write_at(&block, 1024).unwrap();
    assert_eq!(Ext4::open(device).map(drop).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_full_one_says_so() {
    let mut ext4 = Ext4::open(new(2 << 20)).unwrap();
    let mut content = Content::default();
    let result = (0..9).try_for_each(|piece| content.add(&mut ext4, &vec![1; 1 << 20], piece << 20));
    assert_eq!(result.unwrap_err().kind(), Kind::NoSpace);
}

/// A file with content at these places.
fn write(ext4: &mut Ext4, name: &[u8], pieces: &[(u64, Vec<u8>)], size: u64) {
    let (number, mut inode) = ext4.new_inode(FILE | 0o644).unwrap();
    ext4.add_name(ROOT, name, number, FILE).unwrap();
    let mut content = Content::default();
    for (offset, bytes) in pieces {
        content.add(ext4, bytes, *offset).unwrap();
    }
    content.finish(ext4, number, &mut inode, size).unwrap();
}

#[test]
fn files_with_many_holes_and_room_that_is_used_again() {
    let device = new(SIZE);
    let piece = |n: u64| (n * 30_000 + n % 7, vec![n as u8 + 1; 2000 + n as usize * 13 % 9000]);
    let pieces: Vec<_> = (0..60).map(piece).collect();
    for round in 0..3 {
        let mut ext4 = Ext4::open(device.clone()).unwrap();
        if let Some((number, _)) = ext4.lookup(ROOT, b"holes").unwrap() {
            ext4.remove_name(ROOT, b"holes").unwrap();
            ext4.release(number).unwrap();
        }
        write(&mut ext4, b"holes", &pieces, 1_900_000);
        write(&mut ext4, format!("zeros{round}").as_bytes(), &[(0, vec![0; 300_000])], 300_000);
        ext4.close().unwrap();
        check(&*device);
    }
    let files = FileSystem::open(Arc::new(bytes(&*device))).unwrap();
    let mut wanted = vec![0; 1_900_000];
    for (offset, bytes) in &pieces {
        wanted[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    let mut found = vec![1; wanted.len()];
    files.read_at(&files.resolve(b"holes").unwrap(), &mut found, 0).unwrap();
    assert!(found == wanted);
    let mut found = vec![1; 300_000];
    files.read_at(&files.resolve(b"zeros2").unwrap(), &mut found, 0).unwrap();
    assert!(found.iter().all(|b| *b == 0));
}

#[test]
fn attributes_that_are_not_wanted_any_more_go() {
    let device = new(SIZE);
    // Some fit into the inode, some do not.
    let all = [("user.a", 1), ("user.b", 900), ("trusted.c", 30), ("user.d", 500)]
        .map(|(name, len)| (name.as_bytes().to_vec(), vec![7u8; len]));
    let mut ext4 = Ext4::open(device.clone()).unwrap();
    ext4.set_attributes(LOST_AND_FOUND, &all).unwrap();
    ext4.clear_attributes(LOST_AND_FOUND, &all[1..3]).unwrap();
    ext4.clear_attributes(ROOT, &[]).unwrap();
    ext4.close().unwrap();
    check(&*device);
    let files = FileSystem::open(Arc::new(bytes(&*device))).unwrap();
    let mut found = files.attributes(&files.resolve(b"/lost+found").unwrap()).unwrap();
    found.sort();
    assert_eq!(found, [all[2].clone(), all[1].clone()]);
}

#[test]
fn a_directory_of_two_levels_and_one_that_shrank() {
    let device = new(SIZE * 4);
    let names: Vec<Vec<u8>> = (0..40_000).map(|n| format!("{n:0>60}").into_bytes()).collect();
    let mut ext4 = Ext4::open(device.clone()).unwrap();
    let (number, mut inode) = ext4.new_inode(FILE | 0o644).unwrap();
    inode.set_links(40_000);
    ext4.set_inode(number, &mut inode).unwrap();
    let (directory, mut inode) = ext4.make_directory(ROOT, b"d", 0o755).unwrap();
    ext4.set_inode(directory, &mut inode).unwrap();
    names.iter().try_for_each(|name| ext4.add_name(directory, name, number, FILE)).unwrap();
    ext4.close().unwrap();
    check(&*device);
    assert!(listed(&*device, b"d").into_keys().eq(names.iter().cloned()));

    let mut ext4 = Ext4::open(device.clone()).unwrap();
    for name in &names[1..] {
        assert!(ext4.lookup(directory, name).unwrap().is_some());
        ext4.remove_name(directory, name).unwrap();
        ext4.release(number).unwrap();
    }
    ext4.close().unwrap();
    check(&*device);
    assert_eq!(listed(&*device, b"d"), [(names[0].clone(), number.into())].into());
}

/// e2fsck holds the order of a tree to what the super block says of characters.
#[test]
fn names_are_hashed_as_the_kernel_will() {
    let names: Vec<Vec<u8>> = (0..2000).map(|n| format!("{n:05}-é").into_bytes()).collect();
    for (flags, then, version) in [(1, 1, 1), (2, 2, 4), (0, 1, 1)] {
        let device = new(SIZE);
        assert_eq!(bytes(&*device)[1024 + 0x160], 1, "a new one is the same whatever machine makes it");
        device.write_at(&[flags], 1024 + 0x160).unwrap();
        let mut ext4 = Ext4::open(device.clone()).unwrap();
        let (directory, mut inode) = ext4.make_directory(ROOT, b"d", 0o755).unwrap();
        ext4.set_inode(directory, &mut inode).unwrap();
        let (number, mut inode) = ext4.new_inode(FILE | 0o644).unwrap();
        inode.set_links(2000);
        ext4.set_inode(number, &mut inode).unwrap();
        names.iter().try_for_each(|name| ext4.add_name(directory, name, number, FILE)).unwrap();
        ext4.close().unwrap();
        check(&*device);
        assert_eq!(bytes(&*device)[1024 + 0x160], then);

        let mut ext4 = Ext4::open(device.clone()).unwrap();
        assert!(names.iter().all(|name| ext4.lookup(directory, name).unwrap().is_some()));
        let there = &ext4.directories[&directory].directory;
        assert_eq!((there.hash_version(), there.is_dirty()), (version, false), "it is as it was stored");
        let mut inode = ext4.inode(directory).unwrap();
        let place = ext4.handle.block_of(directory, &mut inode, 0).unwrap() * 4096;
        assert_eq!(bytes(&*device)[place as usize + 0x1C], 1, "half MD4, whatever characters are");

        // What earlier versions of this program have said of unsigned ones, for which the kernel takes no tree.
        device.write_at(&[4], place + 0x1C).unwrap();
        let mut ext4 = Ext4::open(device.clone()).unwrap();
        ext4.lookup(directory, b"nothing").unwrap();
        ext4.close().unwrap();
        check(&*device);
        assert_eq!(bytes(&*device)[place as usize + 0x1C], 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Names come and go, in directories of any size; what is there is what a map says.
    #[test]
    fn a_directory_is_a_map(
        rounds in vec((vec((0..700u16, any::<bool>()), 0..500), 20..200usize), 1..4),
        maker in 0..3usize,
    ) {
        let others = [&["-O", "metadata_csum"][..], &["-b", "1024", "-O", "metadata_csum,^64bit"]];
        let device = if maker == 0 { new(SIZE) } else { foreign(others[maker - 1]) };
        let mut model = BTreeMap::new();
        let mut directory = 0;
        for (changes, len) in rounds {
            let mut ext4 = Ext4::open(device.clone()).unwrap();
            if directory == 0 {
                let (number, mut inode) = ext4.make_directory(ROOT, b"d", 0o755).unwrap();
                ext4.set_inode(number, &mut inode).unwrap();
                directory = number;
            }
            for (number, add) in changes {
                let name = format!("{number:x>len$}").into_bytes();
                let there = ext4.lookup(directory, &name).unwrap().map(|(inode, _)| inode);
                prop_assert_eq!(there, model.get(&name).copied());
                if add && there.is_none() {
                    let (file, mut inode) = ext4.new_inode(FILE | 0o600).unwrap();
                    ext4.set_inode(file, &mut inode).unwrap();
                    ext4.add_name(directory, &name, file, FILE).unwrap();
                    model.insert(name, file);
                } else if let (false, Some(file)) = (add, there) {
                    ext4.remove_name(directory, &name).unwrap();
                    ext4.release(file).unwrap();
                    model.remove(&name);
                }
            }
            ext4.close().unwrap();
            check(&*device);
            let found = listed(&*device, b"d");
            prop_assert!(found.into_iter().map(|(name, inode)| (name, inode as u32)).eq(model.clone()));
        }
    }
}
