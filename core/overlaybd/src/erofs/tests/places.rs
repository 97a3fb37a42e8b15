//! Where things go: inodes, content and its holes, numbers of devices, and what is too much.

use std::sync::Arc;

use super::{check, new, run};
use crate::apply::{apply, Content, Target};
use crate::device::{BlockDevice, Extent, MemoryDevice};
use crate::erofs::format::{self, FIRST_END, SLOT};
use crate::erofs::lower::Lower;
use crate::erofs::{Erofs, Held};
use crate::error::{Kind, Result};
use crate::ext4::testing::{bytes, SIZE};
use crate::ext4::DIR;
use crate::limits::{MAX_DIR_BYTES, MAX_EROFS_HELD_BYTES};
use crate::tar::testing::{build, Dialect, Member};
use crate::tar::{Archive, Entry, EntryKind};

#[test]
fn a_root_behind_the_end_is_told_of_as_such() {
    let device = new();
    run(&device, &build(&[Member::new("a", b'0')], Dialect::Pax)).unwrap();
    let mut block = Lower::open(device.clone()).unwrap().unwrap().block;
    let end = 3 * 4096;
    block.set_blocks(3);
    for (root, behind) in [(end / SLOT - 1, false), (end / SLOT, true), (u64::from(u16::MAX), true)] {
        block.0[14..16].copy_from_slice(&(root as u16).to_le_bytes());
        device.write_at(&block.0, format::SUPER_AT).unwrap();
        let refused = Lower::open(device.clone()).err().unwrap();
        assert_eq!((refused.kind(), refused.what().contains("super block")), (Kind::Corrupt, behind), "{refused}");
    }
}

#[test]
fn a_device_has_to_have_room_for_an_empty_file_system() {
    let open = |bytes| Erofs::open(Arc::new(MemoryDevice::new(bytes).unwrap())).map(|erofs| erofs.capacity());
    assert_eq!(open(FIRST_END - 4096).unwrap_err().kind(), Kind::NoSpace);
    assert_eq!(open(FIRST_END - 512).unwrap_err().kind(), Kind::NoSpace);
    assert_eq!(open(FIRST_END).unwrap(), FIRST_END);
}

#[test]
fn inodes_lie_one_after_the_other_and_none_in_two_blocks() {
    // With their attributes, so long that some fill a block and some do not.
    for (value, len) in [(943, 1024), (944, 1056), (1967, 2048), (1968, 2080), (4015, 4096)] {
        let xattrs = vec![("user.x".to_owned(), vec![b'v'; value])];
        let named = |n| Member { xattrs: xattrs.clone(), ..Member::new(&format!("{n:02}"), b'0') };
        let device = new();
        run(&device, &build(&(0..12).map(named).collect::<Vec<_>>(), Dialect::Pax)).unwrap();
        check(&device);
        let lower = Lower::open(device.clone()).unwrap().unwrap();
        let root = lower.directory(lower.block.root()).unwrap();
        let places = root.entries.values().map(|(number, _)| lower.inode(*number).unwrap().1.at);
        let in_block = 4096 / len;
        let expected = (0..12).map(|n| FIRST_END + n / in_block * 4096 + n % in_block * len);
        assert_eq!(places.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "inodes of {len} bytes");
    }
}

#[test]
fn what_a_layer_replaces_itself_leaves_no_inode() {
    let (once, twice) = (new(), new());
    let xattrs = vec![("user.x".to_owned(), vec![b'v'; 900])];
    let [first, last] = [Member { xattrs, ..Member::new("f", b'6') }, Member::new("f", b'0')];
    run(&once, &build(std::slice::from_ref(&last), Dialect::Pax)).unwrap();
    run(&twice, &build(&[first, last], Dialect::Pax)).unwrap();
    assert!(bytes(&*once) == bytes(&*twice));
}

/// The content of a file in pieces.
struct Pieces(std::slice::Iter<'static, (u64, &'static [u8])>);

impl Pieces {
    fn of(pieces: &'static [(u64, &'static [u8])]) -> Self {
        Pieces(pieces.iter())
    }
}

impl Content for Pieces {
    fn next(&mut self) -> Result<Option<(u64, &[u8])>> {
        Ok(self.0.next().copied())
    }

    fn take_place(&mut self) -> Option<u64> {
        None
    }
}

#[test]
fn content_with_holes_has_zeros_there_whatever_the_device_had() {
    let device = new();
    // Behind where a new file system looks for another.
    device.write_at(&vec![0xEE; 1 << 20], FIRST_END).unwrap();
    let mut erofs = Erofs::open(device.clone()).unwrap();
    let root = erofs.root();
    let entry = Entry { size: 300_000, ..Entry::default() };
    let mut pieces = Pieces::of(&[(12_000, &[1; 3000]), (200_001, &[2; 7])]);
    erofs.create(root, b"f", &entry, &mut pieces).unwrap();
    erofs.create(root, b"g", &Entry { size: 5, ..entry }, &mut Pieces::of(&[(0, &[3; 5])])).unwrap();
    erofs.close().unwrap();
    check(&device);
    let lower = Lower::open(device.clone()).unwrap().unwrap();
    let root = lower.directory(lower.block.root()).unwrap();
    let mut expected = vec![0; 300_000];
    expected[12_000..15_000].fill(1);
    expected[200_001..200_008].fill(2);
    for (name, content) in [(b"f", expected), (b"g", vec![3; 5])] {
        let mut read = vec![0xAA; content.len()];
        lower.read_file(root.entries[&name[..]].0, &mut read, 0).unwrap();
        assert!(read == content, "{name:?}");
    }
}

#[test]
fn devices_have_their_numbers() {
    let device = new();
    let mut erofs = Erofs::open(device.clone()).unwrap();
    let root = erofs.root();
    let nodes: [(&[u8], _, _); 3] = [
        (b"c", EntryKind::CharDevice, (1, 3)),
        (b"b", EntryKind::BlockDevice, (259, 300)),
        (b"p", EntryKind::Fifo, (0, 0)),
    ];
    for (name, kind, device) in nodes {
        erofs.create(root, name, &Entry { kind, device, ..Entry::default() }, &mut Pieces::of(&[])).unwrap();
    }
    let none = Entry { kind: EntryKind::CharDevice, device: (4096, 0), ..Entry::default() };
    let refused = erofs.create(root, b"n", &none, &mut Pieces::of(&[])).unwrap_err();
    assert!(refused.kind() == Kind::Invalid && refused.what().contains("4096:0"), "{refused}");
    erofs.close().unwrap();
    check(&device);
    let lower = Lower::open(device).unwrap().unwrap();
    let root = lower.directory(lower.block.root()).unwrap();
    for (name, _, (major, minor)) in nodes {
        let place = lower.inode(root.entries[name].0).unwrap().0.place;
        assert_eq!(place, format::device_number(major, minor).unwrap());
    }
}

#[test]
fn attributes_of_a_file_come_together_also_if_they_come_one_by_one() {
    let device = new();
    let with = |name: &str| vec![(name.as_bytes().to_vec(), vec![b'v'; 9])];
    let mut erofs = Erofs::open(device.clone()).unwrap();
    let root = erofs.root();
    let number = erofs.create(root, b"f", &Entry::default(), &mut Pieces::of(&[])).unwrap();
    erofs.set_attributes(number, &with("user.new")).unwrap();
    erofs.set_attributes(number, &with("user.newer")).unwrap();
    erofs.close().unwrap();
    let mut erofs = Erofs::open(device.clone()).unwrap();
    let number = erofs.lookup(root, b"f").unwrap().unwrap().0;
    erofs.set_attributes(number, &with("trusted.a")).unwrap();
    erofs.set_attributes(number, &with("trusted.b")).unwrap();
    erofs.clear_attributes(number, &[with("user.new"), with("trusted.b"), with("trusted.a")].concat()).unwrap();
    erofs.set_attributes(number, &with("trusted.c")).unwrap();
    erofs.close().unwrap();
    check(&device);
    let lower = Lower::open(device).unwrap().unwrap();
    let number = lower.directory(root).unwrap().entries[&b"f"[..]].0;
    let found: Vec<_> =
        lower.attributes(number).unwrap().into_keys().map(|(space, name)| (space, name.to_vec())).collect();
    assert_eq!(found, [(1, b"new".to_vec()), (4, b"a".to_vec()), (4, b"b".to_vec()), (4, b"c".to_vec())]);
}

#[test]
fn what_is_held_in_memory_may_reach_its_bound_and_not_pass_it() {
    let mut held = Held::default();
    held.change(0, MAX_EROFS_HELD_BYTES).unwrap();
    held.change(7, 7).unwrap();
    assert_eq!(held.change(7, 8).unwrap_err().kind(), Kind::Limit);
}

#[test]
fn a_directory_that_no_reader_would_take_is_refused() {
    let mut erofs = Erofs::open(Arc::new(MemoryDevice::new(256 << 20).unwrap())).unwrap();
    let root = erofs.root();
    // 15 entries of so long names fill a block.
    let most = MAX_DIR_BYTES / 4096 * 15;
    for n in 0..=most {
        erofs.put_name(root, format!("{n:0255}").as_bytes(), root, DIR).unwrap();
    }
    assert_eq!(erofs.close().unwrap_err().kind(), Kind::Limit);
}

/// A device that takes whole blocks only where a file system was before.
struct Whole(MemoryDevice, u64);

impl BlockDevice for Whole {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        assert!(offset >= self.1 || offset.is_multiple_of(4096) && buf.len() == 4096, "{} at {offset}", buf.len());
        self.0.write_at(buf, offset)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.0.discard(offset, len)
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>> {
        self.0.extents(offset, len, max)
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        self.0.is_ready(offset, len)
    }
}

#[test]
fn what_was_there_is_changed_in_whole_blocks() {
    let device = new();
    let files = |mode| (0..300).map(|n| Member { mode, ..Member::new(&format!("d/{n}"), b'0') }).collect::<Vec<_>>();
    run(&device, &build(&files(0o600), Dialect::Pax)).unwrap();
    let end = Lower::open(device.clone()).unwrap().unwrap().block.end();
    let whole = Arc::new(Whole(MemoryDevice::new(SIZE).unwrap(), end));
    whole.0.write_at(&bytes(&*device), 0).unwrap();
    let links = (0..300).map(|n| Member { link: format!("d/{n}").into(), ..Member::new(&format!("e/{n}"), b'1') });
    let layer = build(&links.collect::<Vec<_>>(), Dialect::Pax);
    let mut erofs = Erofs::open(whole.clone()).unwrap();
    apply(&mut erofs, &mut Archive::new(&layer[..]), &mut |_, _| Ok(())).unwrap();
    erofs.close().unwrap();
    run(&device, &layer).unwrap();
    check(&device);
    assert!(bytes(&*device) == bytes(&*whole));
}

#[test]
fn a_file_system_may_fill_its_device_to_the_last_block() {
    let members = ["a", "b/c"].map(|path| Member { content: vec![1; 5000], ..Member::new(path, b'0') });
    let archive = build(&members, Dialect::Pax);
    let device = new();
    run(&device, &archive).unwrap();
    let end = Lower::open(device).unwrap().unwrap().block.end();
    let device = Arc::new(MemoryDevice::new(end).unwrap());
    run(&device, &archive).unwrap();
    check(&device);
    let device = Arc::new(MemoryDevice::new(end - 4096).unwrap());
    assert_eq!(run(&device, &archive).unwrap_err().kind(), Kind::NoSpace);
}
