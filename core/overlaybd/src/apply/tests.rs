//! Random layers on top of one another against a plain model; and members that mean harm.

use std::collections::HashSet;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::model::{members, members_of_all_kinds, Model};
use super::{apply, Applied, Layer};
use crate::device::{BlockDevice, MemoryDevice};
use crate::error::{Kind, Result};
use crate::ext4::testing::{bytes, check, SIZE};
use crate::ext4::{Ext4, DIR, ROOT};
use crate::fs::FileSystem;
use crate::limits::MAX_APPLY_LISTED;
use crate::tar::testing::{build, Dialect, Member};
use crate::tar::Archive;

/// Applies an archive.
fn run(device: &Arc<MemoryDevice>, archive: &[u8]) -> Result<super::Applied> {
    let mut ext4 = Ext4::open(device.clone())?;
    let done = apply(&mut ext4, &mut Archive::new(archive), &mut |_, _| Ok(()))?;
    ext4.close()?;
    Ok(done)
}

fn new() -> Arc<MemoryDevice> {
    let device = Arc::new(MemoryDevice::new(SIZE).unwrap());
    Ext4::create(device.clone()).unwrap().close().unwrap();
    device
}

/// Compares a file system with the model, and asks e2fsck.
pub(super) fn compare(device: &MemoryDevice, model: &Model) {
    check(device);
    super::model::compare(&FileSystem::open(Arc::new(bytes(device))).unwrap(), model);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn layers_make_what_the_model_makes(layers in vec(members(), 1..4)) {
        let (device, again) = (new(), new());
        let mut model = Model::default();
        for mut members in layers {
            model.unpacked.clear();
            members.retain(|member| model.take(member));
            let archive = build(&members, Dialect::Pax);
            run(&device, &archive).unwrap();
            compare(&device, &model);
            run(&again, &archive).unwrap();
            prop_assert!(bytes(&*device) == bytes(&*again), "the same layer gave other bytes");
        }
    }
}

#[test]
fn what_means_harm_is_refused_or_harmless() {
    let apply = |members: &[Member]| {
        let device = new();
        let result = run(&device, &build(members, Dialect::Pax)).map(drop).map_err(|e| e.kind());
        check(&*device);
        (result, device)
    };
    let link = |path: &str, kind, target: &str| Member { link: target.into(), ..Member::new(path, kind) };
    // Links out of the root lead back into it.
    let members = [link("up", b'2', "../../.."), Member::new("up/etc/f", b'0'), Member::new("../../g", b'0')];
    let (result, device) = apply(&members);
    assert_eq!(result, Ok(()));
    let files = FileSystem::open(Arc::new(bytes(&*device))).unwrap();
    assert!(files.resolve(b"etc/f").is_ok() && files.resolve(b"g").is_ok());

    let refused = [
        (vec![link("a", b'2', "b"), link("b", b'2', "a"), Member::new("a/f", b'0')], Kind::Invalid),
        (vec![link("h", b'1', "nothing")], Kind::NotFound),
        (vec![Member::new("d", b'5'), link("h", b'1', "d")], Kind::Invalid),
        (vec![link("h", b'1', "/")], Kind::NotFound),
        (vec![Member::new("f", b'0'), Member::new("f/g", b'0')], Kind::Invalid),
        (vec![Member::new(&"x".repeat(256), b'0')], Kind::Invalid),
        (vec![Member::new(".", b'0')], Kind::Invalid),
        (vec![link("s", b'2', "")], Kind::Invalid),
        (vec![link("s", b'2', &"x".repeat(4096))], Kind::Invalid),
        (vec![Member::new(".wh.", b'0')], Kind::Invalid),
        (vec![Member::new("d/.wh...", b'0')], Kind::Invalid),
        (vec![Member { xattrs: vec![("user.big".into(), vec![1; 9000])], ..Member::new("f", b'0') }], Kind::NoSpace),
        (vec![Member { content: vec![1; SIZE as usize], ..Member::new("f", b'0') }], Kind::NoSpace),
    ];
    for (members, kind) in refused {
        assert_eq!(apply(&members).0, Err(kind), "{:?}", members.last().map(|member| &member.path));
    }
}

#[test]
fn a_tree_as_deep_as_names_allow_can_be_hidden() {
    let device = new();
    let deep = "d/".repeat(1000) + "f";
    run(&device, &build(&[Member::new(&deep, b'0')], Dialect::Gnu)).unwrap();
    run(&device, &build(&[Member::new(".wh.d", b'0')], Dialect::Gnu)).unwrap();
    compare(&device, &Model::default());
}

#[test]
fn hiding_what_stays_over_and_over_has_a_bound() {
    for hide in [Member::new("d/.wh..wh..opq", b'0'), Member::new(".wh.d", b'0')] {
        let mut ext4 = Ext4::open(new()).unwrap();
        let mut layer = Layer {
            target: &mut ext4,
            unpacked: HashSet::new(),
            last_parent: None,
            listed: MAX_APPLY_LISTED - 5,
            done: Applied::default(),
        };
        let mut take = |member: Member| {
            let tar = build(&[member], Dialect::Pax);
            let mut archive = Archive::new(&tar[..]);
            let entry = archive.next_entry().unwrap().unwrap();
            layer.take(&entry, &mut archive, &mut []).map_err(|e| e.kind())
        };
        for member in [Member::new("d", b'5'), Member::new("d/a", b'0'), Member::new("d/b", b'0')] {
            take(member).unwrap();
        }
        assert_eq!([take(hide.clone()), take(hide.clone()), take(hide)], [Ok(()), Ok(()), Err(Kind::Limit)]);
    }
}

#[test]
fn what_layers_have_put_into_lost_and_found_can_be_hidden() {
    let below = |device: &Arc<MemoryDevice>| {
        let files = FileSystem::open(Arc::new(bytes(&**device))).unwrap();
        let mut names = Vec::new();
        let directory = files.resolve(b"/lost+found").unwrap();
        let name = |name: &[u8], _| {
            names.push(String::from_utf8(name.to_vec()).unwrap());
            true
        };
        files.entries(&directory, name).unwrap();
        names.sort();
        (names, files.resolve(b"/d").unwrap().links)
    };
    let link = Member { link: b"d".to_vec(), ..Member::new("lost+found/link", b'1') };
    let first = [Member::new("d", b'0'), link, Member::new("lost+found/e/f", b'0')];
    for (hides, links) in [("lost+found/.wh.e", 2), (".wh.lost+found", 1), (".wh..wh..opq", 1)] {
        let device = new();
        run(&device, &build(&first, Dialect::Pax)).unwrap();
        assert_eq!(below(&device), (vec!["e".into(), "link".into()], 2));
        // Whatever this layer has of its own stays.
        let second = [Member::new("d", b'0'), Member::new("lost+found/new", b'0'), Member::new(hides, b'0')];
        let second = if links == 2 { &second[1..] } else { &second };
        run(&device, &build(second, Dialect::Pax)).unwrap();
        check(&*device);
        let names = if links == 2 { vec!["link".into(), "new".into()] } else { vec!["new".into()] };
        assert_eq!(below(&device), (names, links), "{hides}");
    }
}

#[test]
fn directories_that_lead_in_circles_are_refused() {
    for from_root in [false, true] {
        let device = new();
        let mut ext4 = Ext4::open(device.clone()).unwrap();
        let (above, _) = ext4.make_directory(ROOT, b"d", 0o755).unwrap();
        let (below, _) = ext4.make_directory(above, b"e", 0o755).unwrap();
        ext4.add_name(below, b"up", if from_root { ROOT } else { above }, DIR).unwrap();
        ext4.close().unwrap();
        for layer in [Member::new(".wh.d", b'0'), Member::new("d/.wh..wh..opq", b'0'), Member::new("d", b'0')] {
            assert_eq!(run(&device, &build(&[layer], Dialect::Pax)).map_err(|e| e.kind()).unwrap_err(), Kind::Corrupt);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// A file system below may be anything: an error, or a result, but no harm.
    #[test]
    fn a_damaged_file_system_does_no_harm(
        layer in members(),
        damage in vec((0..512u64, 0..4096u64, any::<u64>(), any::<bool>()), 1..12),
    ) {
        let device = new();
        let mut model = Model::default();
        let mut below = members_of_all_kinds();
        below.retain(|member| model.take(member));
        run(&device, &build(&below, Dialect::Pax)).unwrap();
        let stored: Vec<u64> = (0..SIZE / 4096).filter(|block| !is_zero(&device, *block)).collect();
        for (block, at, value, whole) in damage {
            let block = stored[(block % stored.len() as u64) as usize] * 4096;
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

fn is_zero(device: &MemoryDevice, block: u64) -> bool {
    let mut bytes = [0; 4096];
    device.read_at(&mut bytes, block * 4096).unwrap();
    bytes.iter().all(|b| *b == 0)
}
