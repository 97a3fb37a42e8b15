//! Fuzzes what layers do to file systems: archives of any members (names, links, whiteouts, attributes), applied to
//! EROFS in two layers; the same on ext4 must give the same tree.
#![no_main]

#[path = "device.rs"]
mod device;
#[allow(dead_code)]
#[path = "input.rs"]
mod input;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use device::Device;
use input::Input;
use libfuzzer_sys::fuzz_target;
use overlaybd::apply::apply;
use overlaybd::device::BlockDevice;
use overlaybd::erofs::Erofs;
use overlaybd::ext4::Ext4;
use overlaybd::fs::{FileSystem, Node, Type};
use overlaybd::tar::Archive;
use overlaybd::Result;

const EROFS_BYTES: u64 = 256 << 10;
const EXT4_BYTES: u64 = 2 << 20;
const MEMBERS: usize = 24;
/// Names are made of these, so that members meet.
const PARTS: [&str; 16] = [
    "a",
    "b",
    "c",
    "d",
    "a/b",
    "a/b/c",
    "b/a",
    ".wh.a",
    ".wh.b",
    ".wh..wh..opq",
    "..",
    ".",
    "",
    "lost+found",
    ".wh.",
    "é",
];
const KINDS: [u8; 8] = [b'0', b'5', b'2', b'1', b'6', b'3', b'0', b'5'];
/// Files looked at.
const FILES: usize = 200;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mode = input.byte();
    let layers: Vec<Vec<u8>> = (0..1 + mode % 2).map(|_| archive(&mut input)).collect();
    let erofs = on_erofs(&layers);
    // It takes a hundred times as long.
    if mode & 0xe0 == 0xe0 {
        let (Ok(erofs), Ok(ext4)) = (erofs, on_ext4(&layers)) else { return };
        assert_eq!(erofs, ext4, "EROFS has the first, ext4 the second");
    }
});

/// An archive of what the input says, with changes to its headers now and then.
fn archive(input: &mut Input) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..MEMBERS {
        let how = input.byte();
        if !input.is_left() || how == 0 {
            break;
        }
        let kind = KINDS[usize::from(how % 8)];
        let (path, link) = (name(input), if matches!(kind, b'1' | b'2') { name(input) } else { String::new() });
        let mut records = Vec::new();
        if how & 0x10 != 0 {
            records.extend(record("SCHILY.xattr.user.x", input.bytes(usize::from(how >> 5) * 3)));
        }
        if how & 0x20 != 0 {
            records.extend(record("SCHILY.xattr.security.capability", &[1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]));
        }
        if how & 0x40 != 0 {
            records.extend(record("mtime", format!("{}.{}", input.word(), input.byte()).as_bytes()));
        }
        if input.byte() & 0xf0 == 0xf0 {
            // Records of any kind, good or not.
            records.extend(input.bytes(24));
        }
        if !records.is_empty() {
            out.extend(header("pax", b'x', records.len(), "", 0o644));
            push(&mut out, &records);
        }
        let size = if kind == b'0' { usize::from(input.byte()) * 29 } else { 0 };
        let mut block = header(&path, kind, size, &link, u32::from(input.word() & 0o7777));
        if how & 0x80 != 0 {
            input.change(&mut block[..], 1);
            sum(&mut block);
        }
        out.extend(block);
        push(&mut out, &vec![how; size]);
    }
    out.extend([0; 1024]);
    out
}

fn name(input: &mut Input) -> String {
    let (first, second) = (input.byte(), input.byte());
    let part = |byte: u8| PARTS[usize::from(byte % 16)];
    match second >> 4 {
        0 => format!("/{}", part(first)),
        1 => format!("{}/", part(first)),
        2 => "n".repeat(usize::from(first)),
        3..=7 => part(first).into(),
        _ => format!("{}/{}", part(first), part(second)),
    }
}

fn header(path: &str, kind: u8, size: usize, link: &str, mode: u32) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, text: &[u8], most: usize| {
        block[at..][..text.len().min(most)].copy_from_slice(&text[..text.len().min(most)])
    };
    put(0, path.as_bytes(), 100);
    put(100, format!("{mode:07o}").as_bytes(), 7);
    put(124, format!("{size:011o}").as_bytes(), 11);
    put(156, &[kind], 1);
    put(157, link.as_bytes(), 100);
    put(257, b"ustar\x0000", 8);
    put(329, b"0000001", 7);
    put(337, b"0000003", 7);
    sum(&mut block);
    block
}

fn sum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut len = rest.len() + 1;
    while len != rest.len() + len.to_string().len() {
        len += 1;
    }
    [len.to_string().as_bytes(), &rest].concat()
}

fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
}

type Tree = BTreeMap<Vec<u8>, File>;

/// What a user sees of a file.
#[derive(Debug, PartialEq)]
struct File {
    mode: u16,
    owner: (u32, u32),
    device: (u32, u32),
    mtime: Option<(i64, u32)>,
    content: Vec<u8>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    links: Option<u32>,
}

fn on_erofs(layers: &[Vec<u8>]) -> Result<Tree> {
    let device = Device::new(&[], EROFS_BYTES);
    for layer in layers {
        let mut erofs = Erofs::open(Arc::new(device.clone()))?;
        apply(&mut erofs, &mut Archive::new(&layer[..]), &mut |_, _| Ok(()))?;
        erofs.close()?;
    }
    Ok(tree(&device))
}

fn on_ext4(layers: &[Vec<u8>]) -> Result<Tree> {
    // Always the same, as a test of the core has it.
    static EMPTY: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let device = Device::new(&[], EXT4_BYTES);
        Ext4::create(Arc::new(device.clone())).and_then(Ext4::close).expect("libext2fs");
        let mut bytes = vec![0; EXT4_BYTES as usize];
        BlockDevice::read_at(&device, &mut bytes, 0).expect("memory");
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        bytes
    });
    let device = Device::new(&EMPTY, EXT4_BYTES);
    for layer in layers {
        let mut ext4 = Ext4::open(Arc::new(device.clone()))?;
        apply(&mut ext4, &mut Archive::new(&layer[..]), &mut |_, _| Ok(()))?;
        ext4.close()?;
    }
    Ok(tree(&device))
}

/// All that is there: what was written must be readable.
fn tree(device: &Device) -> Tree {
    let files = FileSystem::open(Arc::new(device.clone())).expect("what was written can be opened");
    let root = files.root().expect("a root");
    let (mut tree, mut left) = (Tree::new(), vec![(Vec::new(), root)]);
    while let Some((path, node)) = left.pop() {
        if node.kind() == Type::Directory {
            let mut found = Vec::new();
            files
                .entries(&node, |name, number| {
                    found.push((name.to_vec(), number));
                    true
                })
                .expect("a directory of our own");
            for (name, number) in found {
                let below = [&path[..], b"/", &name].concat();
                if below != b"/lost+found" {
                    left.push((below, files.node(number).expect("a file of our own")));
                }
            }
        }
        assert!(tree.len() < FILES, "more files than members");
        tree.insert(path, look(&files, &node));
    }
    tree
}

fn look(files: &FileSystem, node: &Node) -> File {
    let content = match node.kind() {
        Type::File => {
            let mut content = vec![0; node.size as usize];
            files.read_at(node, &mut content, 0).expect("a file of our own");
            content
        }
        Type::Link => files.read_link(node).expect("a link of our own"),
        _ => Vec::new(),
    };
    let attributes = files.attributes(node).expect("attributes of our own").into_iter().collect();
    let directory = node.kind() == Type::Directory;
    // Of directories that no member names each has its own ways; ext4 has the nearest to what it cannot say.
    let seconds = node.mtime.seconds.clamp(-(1 << 31), (7 << 31) - 1);
    let nanos = if seconds == node.mtime.seconds { node.mtime.nanos } else { 0 };
    let mtime = (!directory).then_some((seconds, nanos));
    let (mode, owner, links) = (node.mode, (node.uid, node.gid), (!directory).then_some(node.links));
    File { mode, owner, device: node.device, mtime, content, attributes, links }
}
