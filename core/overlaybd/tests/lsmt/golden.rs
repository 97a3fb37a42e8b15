//! Reading what upstream made, and making the same files.

use std::fs;

use overlaybd::lsmt::upper::open_as_layer;
use overlaybd::lsmt::{Stack, Upper};
use overlaybd::sys::os::OsDisk;
use overlaybd::Kind;

use crate::support::*;

#[test]
fn committed_layers_read_as_upstream_made_them() {
    for name in ["a", "b", "c", "m"] {
        let stack = Stack::new(vec![golden_layer(&format!("{name}.commit"))]).unwrap();
        assert!(flatten(&stack) == golden(&format!("{name}.flat")), "{name}");
    }
    for (name, flat) in [("g.sealed", "b"), ("h.sealed", "h"), ("h.commit", "h"), ("abc.merged.raw", "abc")] {
        let stack = Stack::new(vec![golden_layer(name)]).unwrap();
        assert!(flatten(&stack) == golden(&format!("{flat}.flat")), "{name}");
    }
}

#[test]
fn stacks_read_as_one_device_and_merge_as_upstream_merges() {
    let layers = |names: &[&str]| names.iter().map(|n| golden_layer(&format!("{n}.commit"))).collect();
    let abc = Stack::new(layers(&["a", "b", "c"])).unwrap();
    assert!(flatten(&abc) == golden("abc.flat"));
    assert!(flatten(&Stack::new(layers(&["a", "b", "d"])).unwrap()) == golden("abd.flat"));
    let entries: String = abc
        .index()
        .iter()
        .map(|s| format!("{} {} {} {} {}\n", s.offset, s.length, s.moffset, u8::from(s.zeroed), s.tag))
        .collect();
    let theirs = String::from_utf8(golden("abc.mergedindex.txt")).unwrap();
    let theirs: String = theirs.lines().filter(|l| !l.contains('|')).map(|l| format!("{l}\n")).collect();
    assert_eq!(entries, theirs);
}

#[test]
fn writable_layers_read_as_upstream_left_them() {
    let dir = tempfile::tempdir().unwrap();
    for (name, flat) in [("a", "a"), ("b", "b"), ("c", "c"), ("e", "b"), ("f", "a"), ("m", "m")] {
        let files = golden_pair(dir.path(), name);
        let before = fs::read(&files.1).unwrap();
        let stack = Stack::new(vec![open_as_layer(&OsDisk, &files.0, &files.1).unwrap()]).unwrap();
        assert!(flatten(&stack) == golden(&format!("{flat}.flat")), "{name}");
        let in_use = Upper::open(&OsDisk, &files.0, &files.1).err().unwrap();
        assert_eq!((in_use.kind(), in_use.errno()), (Kind::Denied, libc::EBUSY));
        drop(stack);
        let upper = open(&files);
        assert!(flatten_upper(&upper, None) == golden(&format!("{flat}.flat")), "{name}");
        drop(upper);
        assert_eq!(fs::read(&files.1).unwrap(), before, "opening must not change a sound index file");
    }
}

#[test]
fn writable_layer_on_a_stack() {
    let dir = tempfile::tempdir().unwrap();
    let below = Stack::new(vec![golden_layer("a.commit"), golden_layer("b.commit")]).unwrap();
    let d = open(&golden_pair(dir.path(), "d"));
    assert!(flatten_upper(&d, Some(&below)) == golden("abd.flat"));

    // Upstream's files after it had opened the layer, created with size 0, on a lower one.
    let files = golden_pair(dir.path(), "n");
    for (path, name) in [(&files.0, "n.data"), (&files.1, "n.index")] {
        let mut bytes = golden(name);
        bytes[48..56].fill(0);
        fs::write(path, bytes).unwrap();
    }
    let n = open(&files);
    assert_eq!(n.virtual_size(), 0);
    n.inherit_size(below.virtual_size()).unwrap();
    assert_eq!(n.virtual_size(), below.virtual_size());
    drop(n);
    assert_eq!(fs::read(&files.0).unwrap(), golden("n.data"));
    assert_eq!(fs::read(&files.1).unwrap(), golden("n.index"));
}

#[test]
fn sectors_beyond_two_to_the_32() {
    let stack = Stack::new(vec![golden_layer("big.commit")]).unwrap();
    assert_eq!(stack.virtual_size(), 4 << 40);
    let mut sector = [0; SECTOR];
    for (at, byte) in [(0, 1), (4294967288, 7), (4294967296, 2), (4294967400, 3), (4294967500, 0), (77, 0)] {
        stack.read_at(&mut sector, at * SECTOR as u64).unwrap();
        assert_eq!(sector, [byte; SECTOR], "sector {at}");
    }
}

#[test]
fn what_we_write_is_what_upstream_writes() {
    let dir = tempfile::tempdir().unwrap();
    for (name, size) in
        [("a", 1 << 19), ("b", 1 << 19), ("c", 1 << 19), ("m", 1 << 20), ("k", 128 << 20), ("j257", 1 << 20)]
    {
        let index = golden(&format!("{name}.index"));
        let uuid = String::from_utf8(index[56..92].to_vec()).unwrap();
        let files = pair(dir.path(), name);
        let upper = new_upper(dir.path(), name, size, false, Some(&uuid));
        apply(&upper, &ops(name));
        drop(upper);
        let ours = fs::read(&files.1).unwrap();
        assert_eq!(ours[4096..], index[4096..], "{name}: index");
        assert_eq!(ours[..93], index[..93], "{name}: index header up to the parent's id");
        if !["k", "j257"].contains(&name) {
            let data = fs::read(&files.0).unwrap();
            assert!(data[4096..] == golden(&format!("{name}.data"))[4096..], "{name}: data");
        }
    }
}
