//! Random layers against a plain model: stored and mapped, on nothing and on what mkfs.erofs makes; and damage.

mod places;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;

use super::format::{ROOT_AT, SLOT};
use super::lower::Lower;
use super::Erofs;
use crate::apply::model::{compare, members, members_of_all_kinds, Model};
use crate::apply::{apply, Target};
use crate::device::{BlockDevice, MemoryDevice};
use crate::error::{Kind, Result};
use crate::ext4::testing::{bytes, SIZE};
use crate::ext4::DIR;
use crate::fs::FileSystem;
use crate::lsmt::RemoteMap;
use crate::tar::testing::{build, Dialect, Member};
use crate::tar::Archive;

fn new() -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(SIZE).unwrap())
}

fn run(device: &Arc<MemoryDevice>, archive: &[u8]) -> Result<crate::apply::Applied> {
    let mut erofs = Erofs::open(device.clone())?;
    let done = apply(&mut erofs, &mut Archive::new(archive), &mut |_, _| Ok(()))?;
    erofs.close()?;
    Ok(done)
}

/// What was mapped: place on the device, length, place in the archive.
#[derive(Clone, Default)]
struct Maps(Arc<Mutex<Vec<(u64, u64, u64)>>>);

impl RemoteMap for Maps {
    fn map(&mut self, device_offset: u64, len: u64, target_offset: u64) -> Result<()> {
        assert!(device_offset.is_multiple_of(4096) && (len | target_offset).is_multiple_of(512));
        self.0.lock().push((device_offset, len, target_offset));
        Ok(())
    }
}

/// Applies an archive without its content, and then puts the content where it was mapped. How many files that was.
fn run_turbo(device: &Arc<MemoryDevice>, archive: &[u8]) -> usize {
    let maps = Maps::default();
    let mut erofs = Erofs::open(device.clone()).unwrap();
    erofs.map_content(Box::new(maps.clone()));
    apply(&mut erofs, &mut Archive::new(archive), &mut |_, _| Ok(())).unwrap();
    erofs.close().unwrap();
    for (at, len, target) in &*maps.0.lock() {
        let mut there = vec![0; len.next_multiple_of(4096) as usize];
        device.read_at(&mut there, *at).unwrap();
        assert!(there.iter().all(|b| *b == 0), "content was written");
        device.write_at(&archive[*target as usize..][..*len as usize], *at).unwrap();
    }
    let mapped = maps.0.lock().len();
    mapped
}

/// Asks fsck.erofs, and looks at what it does not: numbers of links and inodes, and parents.
fn check(device: &Arc<MemoryDevice>) {
    let image = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(image.path(), bytes(&**device)).unwrap();
    let done = Command::new("/usr/bin/fsck.erofs").arg(image.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    let lower = Lower::open(device.clone()).unwrap().unwrap();
    let root = lower.block.root();
    let mut links = BTreeMap::from([(root, 0)]);
    let mut left = vec![(root, root)];
    while let Some((number, parent)) = left.pop() {
        let directory = lower.directory(number).unwrap();
        assert_eq!(directory.parent, parent);
        for (child, kind) in directory.entries.values() {
            *links.entry(*child).or_insert(0) += 1;
            assert_eq!(lower.inode(*child).unwrap().0.kind(), *kind);
            if *kind == DIR {
                left.push((*child, number));
                *links.get_mut(&number).unwrap() += 1;
            }
        }
    }
    for (number, count) in &links {
        let inode = lower.inode(*number).unwrap().0;
        let own = if *number == root { 2 } else { u32::from(inode.kind() == DIR) };
        assert_eq!(inode.links, count + own, "inode {number}");
    }
    assert_eq!(lower.block.inodes(), links.len() as u64);
}

fn compare_and_check(device: &Arc<MemoryDevice>, model: &Model) {
    check(device);
    compare(&FileSystem::open(Arc::new(bytes(&**device))).unwrap(), model);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn layers_make_what_the_model_makes(layers in vec(members(), 1..4)) {
        let (device, again, turbo) = (new(), new(), new());
        let mut model = Model::default();
        for mut members in layers {
            model.unpacked.clear();
            members.retain(|member| model.take(member));
            let archive = build(&members, Dialect::Pax);
            run(&device, &archive).unwrap();
            compare_and_check(&device, &model);
            run(&again, &archive).unwrap();
            prop_assert!(bytes(&*device) == bytes(&*again), "the same layer gave other bytes");
            let files = members.iter().filter(|member| member.kind == b'0' && !member.content.is_empty()).count();
            prop_assert_eq!(run_turbo(&turbo, &archive), files);
            prop_assert!(bytes(&*device) == bytes(&*turbo), "mapped content is elsewhere than stored");
        }
    }
}

/// A tree, as mkfs.erofs stores it in different ways.
fn foreign() -> &'static (Model, Vec<Vec<u8>>) {
    static MADE: OnceLock<(Model, Vec<Vec<u8>>)> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut members: Vec<Member> = Vec::new();
        for top in ["a", "b", "a/a", "a/b", "b/b"] {
            members.push(Member { mode: 0o755, ..Member::new(top, b'5') });
        }
        for (path, len) in [("b/a", 5), ("a/a/a", 70_000), ("a/a/b", 4096), ("a/b/a", 0), ("b/b/b", 9000)] {
            let content = (0..len).map(|n: u32| (n / 3) as u8).collect();
            members.push(Member { content, ..Member::new(path, b'0') });
        }
        members.push(Member { link: b"xxx/yyy".to_vec(), ..Member::new("a/b/b", b'2') });
        members.push(Member { link: b"a/a/a".to_vec(), ..Member::new("b/b/a", b'1') });
        let mut model = Model::default();
        assert!(members.iter().all(|member| model.take(member)));
        let home = tempfile::tempdir().unwrap();
        let (top, image) = (home.path().join("top"), home.path().join("image"));
        std::fs::create_dir(&top).unwrap();
        for member in &members {
            grow(&top, member);
        }
        let ways = ["-T0", "-T7 -Eforce-inode-extended", "-T0 --chunksize=65536", "-T0 -Enoinline_data"];
        let images = ways.map(|options| {
            let _ = std::fs::remove_file(&image);
            let done = Command::new("/usr/bin/mkfs.erofs").args(options.split(' ')).arg(&image).arg(&top).output();
            assert!(done.unwrap().status.success());
            let mut bytes = std::fs::read(&image).unwrap();
            bytes.resize(SIZE as usize, 0);
            bytes
        });
        (model, images.to_vec())
    })
}

fn grow(top: &Path, member: &Member) {
    use std::os::unix::fs::{symlink, PermissionsExt};
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let path = top.join(text(&member.path));
    match member.kind {
        b'5' => std::fs::create_dir(&path).unwrap(),
        b'2' => return symlink(text(&member.link), &path).unwrap(),
        b'1' => return std::fs::hard_link(top.join(text(&member.link)), &path).unwrap(),
        _ => std::fs::write(&path, &member.content).unwrap(),
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(member.mode)).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// With compact inodes, content behind inodes, and chunks below: much moves.
    #[test]
    fn layers_on_what_mkfs_makes(
        which in 0..4usize,
        layers in vec(members(), 1..3),
        value in vec(any::<u8>(), 0..200),
    ) {
        let (model, images) = foreign();
        let mut model = model.clone();
        let device = new();
        device.write_at(&images[which], 0).unwrap();
        for mut members in layers {
            model.unpacked.clear();
            members.retain(|member| model.take(member));
            for member in members.iter_mut().filter(|member| matches!(member.kind, b'1' | b'5')) {
                member.xattrs = vec![("trusted.t".into(), value.clone())];
            }
            run(&device, &build(&members, Dialect::Pax)).unwrap();
            compare_and_check(&device, &model);
        }
    }
}

#[test]
fn attributes_large_and_later() {
    let device = new();
    let with = |path: &str, kind, xattrs: &[(&str, usize)]| Member {
        xattrs: xattrs.iter().map(|(name, len)| (name.to_string(), vec![b'v'; *len])).collect(),
        ..Member::new(path, kind)
    };
    let first =
        [with("d", b'5', &[]), with("f", b'0', &[("user.large", 60_000), ("trusted.x", 1)]), with("g", b'0', &[])];
    run(&device, &build(&first, Dialect::Pax)).unwrap();
    check(&device);
    let link = Member { link: b"g".to_vec(), ..with("d/again", b'1', &[("security.s", 5000)]) };
    let second = [
        with(".", b'5', &[("user.root", 16_000)]),
        with("d", b'5', &[("system.posix_acl_default", 44), ("user.d", 9)]),
        link,
    ];
    run(&device, &build(&second, Dialect::Pax)).unwrap();
    check(&device);
    let lower = Lower::open(device.clone()).unwrap().unwrap();
    let all = |number| {
        let found = lower.attributes(number).unwrap();
        found.into_iter().map(|((space, name), value)| (space, name.to_vec(), value.len())).collect::<Vec<_>>()
    };
    let root = lower.directory(lower.block.root()).unwrap();
    let number = |name: &[u8]| root.entries[name].0;
    assert_eq!(all(lower.block.root()), [(1, b"root".to_vec(), 16_000)]);
    assert_eq!(all(number(b"f")), [(1, b"large".to_vec(), 60_000), (4, b"x".to_vec(), 1)]);
    assert_eq!(all(number(b"d")), [(1, b"d".to_vec(), 9), (3, Vec::new(), 44)]);
    assert_eq!(all(number(b"g")), [(6, b"s".to_vec(), 5000)]);
    assert_eq!(lower.directory(number(b"d")).unwrap().entries[&b"again"[..]].0, number(b"g"));
    // What is set already is not written again.
    let before = bytes(&*device);
    run(&device, &build(&second, Dialect::Pax)).unwrap();
    assert!(before == bytes(&*device));
}

#[test]
fn a_small_change_is_a_small_layer() {
    let device = new();
    let members: Vec<Member> = (0..2000).map(|n| Member::new(&format!("d{}/{n:0>50}", n % 20), b'0')).collect();
    run(&device, &build(&members, Dialect::Pax)).unwrap();
    let before = bytes(&*device);
    run(&device, &build(&[Member { content: vec![1; 5000], ..Member::new("d7/new", b'0') }], Dialect::Pax)).unwrap();
    check(&device);
    let after = bytes(&*device);
    let changed = before.chunks(4096).zip(after.chunks(4096)).filter(|(a, b)| a != b).count();
    // Content, the new inode, the directory of 100 names; its inode and the super block.
    assert_eq!(changed, 2 + 1 + 2 + 2);
}

#[test]
fn what_has_no_room_is_refused_and_nothing_happened() {
    let refused = [
        (Member { content: vec![1; SIZE as usize], ..Member::new("f", b'0') }, Kind::NoSpace),
        (Member { xattrs: vec![("user.big".into(), vec![1; 65536])], ..Member::new("f", b'0') }, Kind::Limit),
        (Member { xattrs: vec![("user.root".into(), vec![1; 17_000])], ..Member::new(".", b'5') }, Kind::Limit),
    ];
    for (member, kind) in refused {
        let device = new();
        run(&device, &build(&[Member::new("there", b'0')], Dialect::Pax)).unwrap();
        let end = Lower::open(device.clone()).unwrap().unwrap().block.end() as usize;
        let before = bytes(&*device);
        assert_eq!(run(&device, &build(&[member], Dialect::Pax)).unwrap_err().kind(), kind);
        assert!(before[..end] == bytes(&*device)[..end]);
    }
    assert_eq!(Erofs::open(Arc::new(MemoryDevice::read_only(vec![0; 1 << 20]))).err().unwrap().kind(), Kind::ReadOnly);
}

#[test]
fn directories_that_lead_in_circles_are_refused() {
    let device = new();
    run(&device, &build(&[Member::new("d/e/f", b'5')], Dialect::Pax)).unwrap();
    let mut erofs = Erofs::open(device.clone()).unwrap();
    let root = erofs.block.root();
    let above = erofs.directory(root).unwrap().entries[&b"d"[..]].0;
    let below = erofs.directory(above).unwrap().entries[&b"e"[..]].0;
    erofs.put_name(below, b"up", above, DIR).unwrap();
    erofs.close().unwrap();
    for layer in [Member::new(".wh.d", b'0'), Member::new("d/.wh..wh..opq", b'0'), Member::new("d", b'0')] {
        assert_eq!(run(&device, &build(&[layer], Dialect::Pax)).unwrap_err().kind(), Kind::Corrupt);
    }
}

#[test]
fn numbers_from_below_are_not_taken_for_new_files() {
    let device = new();
    run(&device, &build(&[Member::new("a", b'0')], Dialect::Pax)).unwrap();
    let mut image = bytes(&*device);
    let number = Erofs::open(device.clone()).unwrap().lookup(ROOT_AT / SLOT, b"a").unwrap().unwrap().0;
    let entry = image.windows(8).rposition(|raw| raw == number.to_le_bytes()).unwrap();
    image[entry..entry + 8].copy_from_slice(&super::tree::NEW.to_le_bytes());
    device.write_at(&image, 0).unwrap();
    let layer = build(&[Member::new("b", b'0'), Member::new(".wh.a", b'0')], Dialect::Pax);
    assert_eq!(run(&device, &layer).unwrap_err().kind(), Kind::Corrupt);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A file system below may be anything: an error, or a result, but no harm.
    #[test]
    fn a_damaged_file_system_does_no_harm(
        layer in members(),
        damage in vec((0..512usize, 0..4096u64, any::<u64>(), any::<bool>()), 1..12),
    ) {
        let device = new();
        let mut model = Model::default();
        let mut below = members_of_all_kinds();
        below.retain(|member| model.take(member));
        run(&device, &build(&below, Dialect::Pax)).unwrap();
        let all = bytes(&*device);
        let stored: Vec<usize> =
            (0..all.len() / 4096).filter(|block| all[block * 4096..][..4096].iter().any(|b| *b != 0)).collect();
        for (block, at, value, whole) in damage {
            let block = stored[block % stored.len()] as u64 * 4096;
            let bytes = value.to_le_bytes();
            device.write_at(if whole { &bytes } else { &bytes[..1] }, block + at.min(4088)).unwrap();
        }
        let mut layer = layer;
        layer.extend(below.iter().filter(|member| member.kind == b'0').map(|member| Member {
            path: [b".wh.".as_slice(), &member.path].concat(),
            ..Member::new("", b'0')
        }));
        for member in layer {
            let _ = run(&device, &build(&[member], Dialect::Pax));
        }
    }
}

/// What has a place below, as mkfs.erofs lays it out, moves when it gets attributes, with its content.
#[test]
fn what_moves_takes_its_content_along() {
    let (model, images) = foreign();
    let value = vec![b'v'; 300];
    for image in images {
        for path in model.files.keys() {
            let mut model = model.clone();
            let device = new();
            device.write_at(image, 0).unwrap();
            let kind = model.files[path].kind;
            let mut member = Member { mode: 0o711, ..Member::new(path, b'5') };
            if kind != b'5' {
                member = Member { link: path.as_bytes().to_vec(), ..Member::new("b/again", b'1') };
            }
            member.xattrs = vec![("trusted.t".into(), value.clone())];
            assert!(model.take(&member));
            run(&device, &build(&[member], Dialect::Pax)).unwrap();
            compare_and_check(&device, &model);
        }
    }
}

/// Only a damaged inode of a device says that content follows it; who moves it must not keep room for that, or what
/// comes behind is not where its inode says.
#[test]
fn a_device_that_moves_has_no_content_whatever_its_inode_says() {
    let device = new();
    run(&device, &build(&[Member::new("null", b'3')], Dialect::Pax)).unwrap();
    let lower = Lower::open(device.clone()).unwrap().unwrap();
    let number = lower.directory(lower.block.root()).unwrap().entries[&b"null"[..]].0;
    let (inode, slot) = lower.inode(number).unwrap();
    let damaged = super::format::Inode { layout: super::format::INLINE, size: 6000, ..inode };
    device.write_at(&damaged.encode(true, number, slot.attributes), slot.at).unwrap();

    let xattrs = vec![("trusted.moves".to_owned(), vec![b'v'; 300])];
    let mut layer = vec![Member { link: b"null".to_vec(), xattrs, ..Member::new("again", b'1') }];
    layer.extend((0..500).map(|i| Member::new(&format!("many/{i:030}"), b'0')));
    run(&device, &build(&layer, Dialect::Pax)).unwrap();
    check(&device);
    let lower = Lower::open(device.clone()).unwrap().unwrap();
    let root = lower.directory(lower.block.root()).unwrap();
    assert_eq!(lower.directory(root.entries[&b"many"[..]].0).unwrap().entries.len(), 500);
    assert_eq!(lower.inode(root.entries[&b"null"[..]].0).unwrap().0.size, 0);
}

#[test]
fn small_content_lies_behind_its_inode_and_the_end_behind_that() {
    let target = vec![b't'; 3900];
    let links = [
        Member { link: b"there".to_vec(), ..Member::new("short", b'2') },
        Member { link: target.clone(), ..Member::new("long", b'2') },
    ];
    let device = new();
    run(&device, &build(&links, Dialect::Pax)).unwrap();
    check(&device);
    let lower = Lower::open(device.clone()).unwrap().unwrap();
    let root = lower.directory(lower.block.root()).unwrap();
    let of = |name: &[u8]| root.entries[name].0;
    assert_eq!(lower.inode(of(b"short")).unwrap().0.layout, super::format::INLINE);
    assert!(lower.link(of(b"long")).unwrap() == target);
    assert!(lower.block.end() >= lower.inode(of(b"long")).unwrap().1.at + 64 + 3900, "what is there lies inside");
    let mut erofs = Erofs::open(device).unwrap();
    assert!(erofs.read_link(of(b"long")).unwrap() == target);
    assert_eq!(erofs.read_link(of(b"short")).unwrap(), b"there");
}

#[test]
fn types_that_a_directory_does_not_say_are_looked_up() {
    let device = new();
    let below =
        [Member::new("a", b'0'), Member::new("b", b'5'), Member { link: b"a".to_vec(), ..Member::new("c", b'2') }];
    run(&device, &build(&below, Dialect::Pax)).unwrap();
    let mut erofs = Erofs::open(device.clone()).unwrap();
    let root = erofs.block.root();
    let told = erofs.list(root).unwrap();
    let mut image = bytes(&*device);
    for (_, number, _) in &told {
        let entry = image.windows(8).rposition(|raw| raw == number.to_le_bytes()).unwrap();
        assert!(std::mem::take(&mut image[entry + 10]) != 0);
    }
    device.write_at(&image, 0).unwrap();
    let mut erofs = Erofs::open(device.clone()).unwrap();
    assert_eq!(erofs.list(root).unwrap(), told);
    for (name, number, kind) in told {
        assert_eq!(erofs.lookup(root, &name).unwrap(), Some((number, kind)));
    }
}

#[test]
fn directories_that_did_not_change_make_room_for_others() {
    use crate::limits::MAX_EROFS_ENTRIES;

    let device = new();
    let below: Vec<Member> = ["a/1", "a/2", "b/1", "b/2"].map(|path| Member::new(path, b'0')).to_vec();
    run(&device, &build(&below, Dialect::Pax)).unwrap();
    let mut erofs = Erofs::open(device).unwrap();
    let root = erofs.block.root();
    let [a, b] = [b"a", b"b"].map(|name| erofs.lookup(root, name).unwrap().unwrap().0);
    erofs.directory(b).unwrap();
    erofs.drop_name(a, b"1").unwrap();
    let counted = |erofs: &Erofs| erofs.directories.values().map(|kept| kept.entries.len() + 4).sum::<usize>();
    assert_eq!((erofs.entries, erofs.directories.len()), (counted(&erofs), 3));
    erofs.drop_name(a, b"1").unwrap();
    assert_eq!(erofs.entries, counted(&erofs), "what is not there cannot go");
    erofs.make_room(MAX_EROFS_ENTRIES - erofs.entries).unwrap();
    assert_eq!(erofs.directories.len(), 3, "there was room");
    erofs.make_room(MAX_EROFS_ENTRIES - erofs.entries + 1).unwrap();
    assert_eq!((erofs.directories.keys().copied().collect::<Vec<_>>(), erofs.entries), (vec![a], 5));
    erofs.make_room(MAX_EROFS_ENTRIES - 5).unwrap();
    assert_eq!(erofs.make_room(MAX_EROFS_ENTRIES - 4).unwrap_err().kind(), Kind::Limit);
    // Removing all of it leaves nothing in the account.
    erofs.release(a).unwrap();
    assert_eq!((erofs.entries, erofs.directories.len()), (0, 0));
}

#[test]
fn attributes_and_links_have_a_bound_in_memory() {
    use crate::limits::MAX_EROFS_HELD_BYTES;

    let layer = |xattrs: usize, link: usize| {
        let xattrs = vec![("user.x".to_owned(), vec![b'v'; xattrs])];
        let files =
            [Member { xattrs, ..Member::new("f", b'0') }, Member { link: vec![b'x'; link], ..Member::new("l", b'2') }];
        build(&files, Dialect::Pax)
    };
    let apply = |erofs: &mut Erofs, layer: Vec<u8>| {
        apply(erofs, &mut Archive::new(&layer[..]), &mut |_, _| Ok(())).map(drop).map_err(|e| e.kind())
    };
    let mut erofs = Erofs::open(new()).unwrap();
    // The same once more takes the place of the first.
    for _ in 0..2 {
        apply(&mut erofs, layer(1000, 500)).unwrap();
        assert!((1500..3000).contains(&erofs.held.0), "{}", erofs.held.0);
    }
    for (xattrs, link) in [(1000, 1), (1, 1000)] {
        let mut erofs = Erofs::open(new()).unwrap();
        erofs.held.0 = MAX_EROFS_HELD_BYTES - 1000;
        assert_eq!(apply(&mut erofs, layer(1, 1)), Ok(()));
        assert_eq!(apply(&mut erofs, layer(xattrs, link)), Err(Kind::Limit));
    }
    let gone = ["f", "l"].map(|name| Member::new(name, b'5'));
    apply(&mut erofs, build(&gone, Dialect::Pax)).unwrap();
    assert_eq!(erofs.held.0, 0);
}

/// It cannot move to where there would be room for one of its own: all layers have its number.
#[test]
fn a_compact_root_keeps_the_time_of_its_file_system() {
    let device = new();
    device.write_at(&foreign().1[0], 0).unwrap();
    let lower = Lower::open(device.clone()).unwrap().unwrap();
    let (before, slot) = lower.inode(lower.block.root()).unwrap();
    assert!(!slot.extended);
    let root = |uid| Member { mode: 0o711, uid, ..Member::new("./", b'5') };
    run(&device, &build(&[root(7)], Dialect::Pax)).unwrap();
    check(&device);
    let after = Lower::open(device.clone()).unwrap().unwrap().inode(lower.block.root()).unwrap().0;
    assert_eq!((after.mode, after.uid, after.mtime), (DIR | 0o711, 7, before.mtime));

    let xattrs = vec![("user.x".to_owned(), vec![1; 100])];
    for (root, why) in [(root(70_000), "owner"), (Member { xattrs, ..root(7) }, "attributes")] {
        let refused = run(&device, &build(&[root], Dialect::Pax)).unwrap_err();
        assert!(refused.kind() == Kind::Limit && refused.what().contains(why), "{refused}");
    }
}

#[test]
fn names_that_no_file_can_have_are_refused() {
    let mut erofs = Erofs::open(new()).unwrap();
    let root = erofs.block.root();
    for bad in [&b""[..], b"a/b", b"a\0b", &[b'n'; 256]] {
        assert_eq!(erofs.put_name(root, bad, root, DIR).unwrap_err().kind(), Kind::Invalid, "{bad:?}");
    }
    erofs.put_name(root, &[b'n'; 255], root, DIR).unwrap();
    let parse = |name: &[u8]| {
        // One entry of 12 bytes, and its name.
        let block = [&[0; 8][..], &12u16.to_le_bytes(), &[0; 2], name].concat();
        let refused = super::directory::Directory::parse(&block).map(drop).unwrap_err();
        assert_eq!(refused.kind(), Kind::Corrupt);
        refused.to_string()
    };
    // Without "." and ".." it is no directory in any case, so those are looked at for why.
    for bad in [&b""[..], b"\0a", b"a/b", &[b'n'; 256]] {
        assert!(parse(bad).contains("which is no name"), "{bad:?}: {}", parse(bad));
    }
    assert!(parse(&[b'n'; 255]).contains("nowhere"));
}

#[test]
fn file_systems_to_which_nothing_can_be_added_are_refused() {
    let device = new();
    run(&device, &build(&[Member::new("a", b'0')], Dialect::Pax)).unwrap();
    let (image, block) = (bytes(&*device), Lower::open(device).unwrap().unwrap().block);
    let open = |blocks: u32, at: usize, value: u8| {
        let mut image = image.clone();
        let mut block = block.clone();
        block.set_blocks(blocks);
        block.0[at] = value;
        image[super::format::SUPER_AT as usize..][..block.0.len()].copy_from_slice(&block.0);
        let device = Arc::new(MemoryDevice::new(SIZE).unwrap());
        device.write_at(&image, 0).unwrap();
        Lower::open(device).map(|lower| lower.is_some()).map_err(|e| e.kind())
    };
    let (all, same) = ((SIZE / 4096) as u32, (12, 12));
    assert_eq!(open(all, same.0, same.1), Ok(true), "all of the device");
    assert_eq!(open(all + 1, same.0, same.1), Err(Kind::Corrupt), "more than the device");
    assert_eq!(open(0, same.0, same.1), Err(Kind::Corrupt), "an end before its root");
    assert_eq!(open(all, 12, 13), Err(Kind::Unsupported), "other blocks");
    assert_eq!(open(all, 86, 1), Err(Kind::Unsupported), "other devices");
}
