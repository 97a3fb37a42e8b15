//! Random layers on top of one another against a plain model; and members that mean harm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::apply;
use crate::device::{BlockDevice, MemoryDevice};
use crate::error::{Kind, Result};
use crate::ext4::testing::{bytes, check, SIZE};
use crate::ext4::{Ext4, DIR, ROOT};
use crate::fs::{FileSystem, Node as Found, Type};
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

/// A file of the model. Those of one number are one file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct File {
    number: usize,
    kind: u8,
    mode: u32,
    content: Vec<u8>,
}

/// What a file system holds, by path.
#[derive(Clone, Default)]
pub(super) struct Model {
    files: BTreeMap<String, File>,
    pub(super) unpacked: BTreeSet<String>,
    next: usize,
}

impl Model {
    /// Applies a member; false if it cannot be, and nothing was changed.
    pub(super) fn take(&mut self, member: &Member) -> bool {
        let path = String::from_utf8(member.path.clone()).unwrap();
        let parts: Vec<&str> = path.split('/').collect();
        let parents: Vec<String> = (1..parts.len()).map(|n| parts[..n].join("/")).collect();
        if parents.iter().any(|parent| self.files.get(parent).is_some_and(|file| file.kind != b'5')) {
            return false;
        }
        let link = String::from_utf8(member.link.clone()).unwrap();
        let target = self.files.get(&link).cloned();
        if member.kind == b'1' && target.as_ref().is_none_or(|file| file.kind == b'5') {
            return false;
        }
        for parent in parents {
            if !self.files.contains_key(&parent) {
                self.put(&parent, b'5', 0o755, Vec::new());
            }
        }
        let directory = parts[..parts.len() - 1].join("/");
        let below = |name: &str| if directory.is_empty() { name.to_string() } else { format!("{directory}/{name}") };
        let name = parts[parts.len() - 1];
        if name == ".wh..wh..opq" {
            let hidden = below("");
            self.remove(|path| path.starts_with(&hidden), true);
        } else if let Some(name) = name.strip_prefix(".wh.") {
            let hidden = below(name);
            self.remove(|path| path == hidden || path.starts_with(&format!("{hidden}/")), true);
        } else {
            let there = self.files.get(&path);
            if member.kind == b'5' && there.is_some_and(|file| file.kind == b'5') {
                self.files.get_mut(&path).unwrap().mode = member.mode;
            } else if member.kind == b'1' {
                let target = target.unwrap();
                if there.is_none_or(|file| file.number != target.number) {
                    self.remove(|other| other == path || other.starts_with(&format!("{path}/")), false);
                    self.files.insert(path.clone(), target.clone());
                }
                if target.kind != b'2' {
                    let same = self.files.values_mut().filter(|file| file.number == target.number);
                    same.for_each(|file| file.mode = member.mode);
                }
            } else {
                self.remove(|other| other == path || other.starts_with(&format!("{path}/")), false);
                let content = if member.kind == b'2' { &member.link } else { &member.content };
                let mode = if member.kind == b'2' { 0o777 } else { member.mode };
                self.put(&path, member.kind, mode, content.clone());
            }
            self.unpacked.insert(path);
        }
        true
    }

    fn put(&mut self, path: &str, kind: u8, mode: u32, content: Vec<u8>) {
        self.next += 1;
        self.files.insert(path.into(), File { number: self.next, kind, mode, content });
    }

    fn remove(&mut self, hidden: impl Fn(&str) -> bool, keep: bool) {
        let unpacked = self.unpacked.clone();
        let stays = |path: &String| {
            let holds = |other: &String| other == path || other.starts_with(&format!("{path}/"));
            !hidden(path) || (keep && unpacked.iter().any(holds))
        };
        self.files.retain(|path, _| stays(path));
        let files = &self.files;
        self.unpacked.retain(|path| files.contains_key(path));
    }
}

/// Compares a file system with the model, and asks e2fsck.
pub(super) fn compare(device: &MemoryDevice, model: &Model) {
    check(device);
    let files = FileSystem::open(Arc::new(bytes(device))).unwrap();
    let mut seen = BTreeMap::new();
    let mut numbers: BTreeMap<usize, u64> = BTreeMap::new();
    walk(&files, "", &files.root().unwrap(), &mut seen);
    assert_eq!(seen.keys().collect::<Vec<_>>(), model.files.keys().collect::<Vec<_>>());
    for (path, wanted) in &model.files {
        let node = &seen[path];
        let mut content = vec![0; if node.kind() == Type::Directory { 0 } else { node.size as usize }];
        files.read_at(node, &mut content, 0).unwrap();
        let kind = match node.mode & 0xF000 {
            0x8000 => b'0',
            0xA000 => b'2',
            0x4000 => b'5',
            _ => b'6',
        };
        assert_eq!(
            (kind, u32::from(node.mode & 0o7777), &content),
            (wanted.kind, wanted.mode, &wanted.content),
            "{path}"
        );
        assert_eq!(*numbers.entry(wanted.number).or_insert(node.number), node.number, "{path}: one file");
    }
    let distinct: BTreeSet<u64> = numbers.values().copied().collect();
    assert_eq!(distinct.len(), numbers.len(), "two files became one");
}

fn walk(files: &FileSystem, path: &str, directory: &Found, seen: &mut BTreeMap<String, Found>) {
    let mut below = Vec::new();
    files
        .entries(directory, |name, number| {
            below.push((String::from_utf8(name.to_vec()).unwrap(), number));
            true
        })
        .unwrap();
    for (name, number) in below {
        let full = if path.is_empty() { name } else { format!("{path}/{name}") };
        let node = files.node(number).unwrap();
        if node.kind() == Type::Directory && full != "lost+found" {
            walk(files, &full, &node, seen);
        }
        if full != "lost+found" {
            seen.insert(full, node);
        }
    }
}

pub(super) fn members() -> impl Strategy<Value = Vec<Member>> {
    let name = "[ab](/[ab]){0,2}";
    let whiteout = "([ab]/){0,2}\\.wh\\.([ab]|\\.wh\\.\\.opq)";
    let content = vec(any::<u8>(), 0..9000);
    let member = prop_oneof![
        3 => (name, content).prop_map(|(path, content)| Member { content, ..Member::new(&path, b'0') }),
        3 => name.prop_map(|path| Member::new(&path, b'5')),
        1 => (name, "x{1,150}").prop_map(|(path, link)| Member { link: link.into(), ..Member::new(&path, b'2') }),
        2 => (name, name).prop_map(|(path, link)| Member { link: link.into(), ..Member::new(&path, b'1') }),
        1 => name.prop_map(|path| Member::new(&path, b'6')),
        3 => whiteout.prop_map(|path| Member::new(&path, b'0')),
    ];
    vec((member, 0..0o1000u32).prop_map(|(member, mode)| Member { mode, ..member }), 0..30)
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

/// Something of everything that a file system has structures for.
fn members_of_all_kinds() -> Vec<Member> {
    let xattrs = vec![("user.big".to_string(), vec![7; 3000]), ("user.small".into(), vec![1])];
    let mut members: Vec<Member> = (0..300).map(|n| Member::new(&format!("a/{n:0>50}"), b'0')).collect();
    members.push(Member { content: vec![1; 70_000], xattrs, ..Member::new("b", b'0') });
    members.push(Member { link: vec![b'x'; 200], ..Member::new("link", b'2') });
    members.push(Member::new("d/e/f", b'5'));
    members
}
