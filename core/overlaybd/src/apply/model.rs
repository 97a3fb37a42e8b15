//! What layers mean, said once more in the plainest way, for tests: a tree in memory, random layers, and comparing.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::fs::{FileSystem, Node as Found, Type};
use crate::tar::testing::Member;

/// A file of the model. Those of one number are one file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct File {
    pub number: usize,
    pub kind: u8,
    pub mode: u32,
    pub content: Vec<u8>,
}

/// What a file system holds, by path.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub files: BTreeMap<String, File>,
    pub unpacked: BTreeSet<String>,
    next: usize,
}

impl Model {
    /// Applies a member; false if it cannot be, and nothing was changed.
    pub fn take(&mut self, member: &Member) -> bool {
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

/// Compares a file system with the model.
pub(crate) fn compare(files: &FileSystem, model: &Model) {
    let mut seen = BTreeMap::new();
    let mut numbers: BTreeMap<usize, u64> = BTreeMap::new();
    walk(files, "", &files.root().unwrap(), &mut seen);
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

/// The members of a random layer.
pub(crate) fn members() -> impl Strategy<Value = Vec<Member>> {
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

/// Something of everything that a file system has structures for.
pub(crate) fn members_of_all_kinds() -> Vec<Member> {
    let xattrs = vec![("user.big".to_string(), vec![7; 3000]), ("user.small".into(), vec![1])];
    let mut members: Vec<Member> = (0..300).map(|n| Member::new(&format!("a/{n:0>50}"), b'0')).collect();
    members.push(Member { content: vec![1; 70_000], xattrs, ..Member::new("b", b'0') });
    members.push(Member { link: vec![b'x'; 200], ..Member::new("link", b'2') });
    members.push(Member::new("d/e/f", b'5'));
    members
}
