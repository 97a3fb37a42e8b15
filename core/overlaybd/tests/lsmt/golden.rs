//! Reading what upstream made, and making the same files.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use overlaybd::blob::{FileBlob, MemoryBlob};
use overlaybd::lsmt::commit::{commit, merge, CommitOptions};
use overlaybd::lsmt::upper::open_as_layer;
use overlaybd::lsmt::{Header, Layer, Segment, Stack, Upper, Uuid};
use overlaybd::progress::silent;
use overlaybd::sink::MemorySink;
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
        let stack = Stack::new(vec![open_as_layer(&OsDisk, &files.0, &files.1).unwrap().0]).unwrap();
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

/// What an index file says to upstream, which passes over padding and tags.
fn records(index: &[u8]) -> Vec<Segment> {
    let (records, _) = index[4096..].as_chunks();
    let records = records.iter().map(Segment::from_bytes).filter(|record| !record.is_invalid());
    records.map(|record| Segment { tag: 0, ..record }).collect()
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
        assert_eq!(records(&ours), records(&index), "{name}: index");
        assert_eq!(ours[..93], index[..93], "{name}: index header up to the parent's id");
        if !["k", "j257"].contains(&name) {
            let data = fs::read(&files.0).unwrap();
            assert!(data[4096..] == golden(&format!("{name}.data"))[4096..], "{name}: data");
        }
    }
}

/// Commits to memory.
fn committed(layer: &Layer, options: &CommitOptions) -> Vec<u8> {
    let mut sink = MemorySink::default();
    commit(layer, options, &mut sink, &mut silent).unwrap();
    sink.bytes
}

#[test]
fn commits_are_upstreams_byte_by_byte() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c", "d", "l", "m", "big", "i"] {
        let files = golden_pair(dir.path(), name);
        let layer = open_as_layer(&OsDisk, &files.0, &files.1).unwrap().0;
        let ours = committed(&layer, &CommitOptions::default());
        assert!(ours == golden(&format!("{name}.commit")), "{name}");
        // Committing what was committed changes nothing but the entries' tags.
        let again = committed(&golden_layer(&format!("{name}.commit")), &CommitOptions::default());
        assert!(again == ours, "{name}, again");
    }
    // g is b, sealed first: the result is the same but for the id that it was given.
    let uuid = Layer::open(golden_blob("g.commit")).unwrap().trailer().uuid;
    assert!(
        committed(&golden_layer("g.sealed"), &CommitOptions { uuid, ..CommitOptions::default() }) == golden("g.commit")
    );
    assert!(committed(&golden_layer("g.sealed"), &CommitOptions::default()) == golden("b.commit"));
}

#[test]
fn commits_with_ids_and_messages_are_upstreams() {
    let dir = tempfile::tempdir().unwrap();
    let files = golden_pair(dir.path(), "a");
    let layer = open_as_layer(&OsDisk, &files.0, &files.1).unwrap().0;
    let uuid = |text: &str| Uuid::parse(text.as_bytes()).unwrap();
    let options = CommitOptions {
        uuid: uuid("00000001-1111-4222-8333-000000000001"),
        parent_uuid: Some(uuid("00000000-1111-4222-8333-000000000000")),
        tag: b"hello user tag".to_vec(),
    };
    assert!(committed(&layer, &options) == golden("a.uuid.commit"));
    let tagged = |n| CommitOptions { tag: vec![b'T'; n], ..CommitOptions::default() };
    assert!(committed(&layer, &tagged(256)) == golden("a.tag256.commit"));
    let mut sink = MemorySink::default();
    let error = commit(&layer, &tagged(257), &mut sink, &mut silent).unwrap_err();
    assert_eq!((error.kind(), sink.bytes.len()), (Kind::Limit, 0), "refused before anything is written");
}

/// Index entries as the golden descriptions list them.
fn described_entries(description: &str) -> Vec<[u64; 5]> {
    let text = String::from_utf8(golden(description)).unwrap();
    let list = &text[text.find("\"entries(").unwrap()..text.find("\"tags\"").unwrap()];
    let numbers = list.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect::<Vec<u64>>();
    numbers.chunks(5).map(|n| n.try_into().unwrap()).collect()
}

fn entries(segments: &[Segment]) -> Vec<[u64; 5]> {
    segments.iter().map(|s| [s.offset, s.length.into(), s.moffset, s.zeroed.into(), s.tag.into()]).collect()
}

#[test]
fn long_runs_and_full_indexes_are_cut_as_upstream_cuts_them() {
    let dir = tempfile::tempdir().unwrap();
    let upper = new_upper(dir.path(), "k", 128 << 20, false, None);
    apply(&upper, &ops("k"));
    drop(upper);
    let files = pair(dir.path(), "k");
    let bytes = committed(&open_as_layer(&OsDisk, &files.0, &files.1).unwrap().0, &CommitOptions::default());
    let layer = Layer::open(Arc::new(MemoryBlob::new("k", bytes))).unwrap();
    assert_eq!(entries(layer.segments()), described_entries("k.raw-commit.dump.json"));
    for (name, padded) in [("j255", 256), ("j256", 256), ("j257", 512)] {
        let upper = new_upper(dir.path(), name, 1 << 20, false, None);
        apply(&upper, &ops(name));
        drop(upper);
        let files = pair(dir.path(), name);
        let bytes = committed(&open_as_layer(&OsDisk, &files.0, &files.1).unwrap().0, &CommitOptions::default());
        let layer = Layer::open(Arc::new(MemoryBlob::new(name, bytes))).unwrap();
        assert_eq!(layer.trailer().index_entries, padded, "{name}");
        assert_eq!(layer.segments().len(), name[1..].parse::<usize>().unwrap());
    }
}

#[test]
fn merges_are_upstreams_byte_by_byte() {
    let layers = |names: &[&str]| names.iter().map(|n| golden_layer(&format!("{n}.commit"))).collect();
    let mut sink = MemorySink::default();
    merge(layers(&["a", "b", "c"]), &CommitOptions::default(), &mut sink, &mut silent).unwrap();
    assert!(sink.bytes == golden("abc.merged.raw"));
    let theirs = Layer::open(golden_blob("ab.merged.uuid")).unwrap();
    let Header { uuid, parent_uuid, tag, .. } = theirs.trailer().clone();
    let mut sink = MemorySink::default();
    let options = CommitOptions { uuid, parent_uuid: Some(parent_uuid), tag };
    merge(layers(&["a", "b"]), &options, &mut sink, &mut silent).unwrap();
    assert!(sink.bytes == golden("ab.merged.uuid"));
}

#[test]
fn sealing_in_place_is_upstreams_but_for_its_garbage() {
    let dir = tempfile::tempdir().unwrap();
    for (name, sealed) in [("b", "g.sealed"), ("i", "i.sealed")] {
        let files = golden_pair(dir.path(), name);
        let upper = open(&files);
        upper.seal().unwrap();
        let ours = fs::read(&files.0).unwrap();
        let theirs = golden(sealed);
        assert_eq!(ours.len(), theirs.len());
        let end = theirs.len() - 4096;
        let index_end = u64::from_le_bytes(theirs[end + 32..end + 40].try_into().unwrap())
            + 16 * u64::from_le_bytes(theirs[end + 40..end + 48].try_into().unwrap());
        assert!(ours[..index_end as usize] == theirs[..index_end as usize], "{name}: data and index");
        assert!(ours[end..] == theirs[end..], "{name}: trailer");
        let error = upper.write_at(&[1; SECTOR], 0, nothing_below).unwrap_err();
        assert_eq!((error.kind(), upper.discard(0, 512).unwrap_err().kind()), (Kind::ReadOnly, Kind::ReadOnly));
        let layer = Layer::open(Arc::new(FileBlob::open(&OsDisk, &files.0).unwrap())).unwrap();
        let stack = Stack::new(vec![layer]).unwrap();
        assert!(flatten(&stack) == flatten_upper(&upper, None), "reading goes on after sealing");
    }
}

/// The sparse layer h as upstream left it: the room that its data file had is listed beside it.
fn sparse_golden(dir: &std::path::Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let files = pair(dir, "h");
    let bytes = golden("h.data");
    let file = fs::File::create_new(&files.0).unwrap();
    let extents = String::from_utf8(golden("h.data.extents")).unwrap();
    for line in extents.lines() {
        let mut words = line.split(' ');
        let (first, second) = (words.next().unwrap(), words.next().unwrap().parse::<u64>().unwrap());
        match first.parse::<u64>() {
            Ok(at) => file.write_all_at(&bytes[at as usize..(at + second) as usize], at).unwrap(),
            Err(_) => file.set_len(second).unwrap(),
        }
    }
    fs::write(&files.1, b"").unwrap();
    files
}

#[test]
fn sparse_layers_read_commit_and_seal_as_upstreams() {
    let dir = tempfile::tempdir().unwrap();
    let files = sparse_golden(dir.path());
    let layer = open_as_layer(&OsDisk, &files.0, &files.1).unwrap().0;
    assert!(committed(&layer, &CommitOptions::default()) == golden("h.commit"));
    assert_eq!(fs::read(&files.1).unwrap(), b"", "opening to read leaves the index file empty");
    drop(layer);
    let upper = open(&files);
    assert!(upper.is_sparse() && flatten_upper(&upper, None) == golden("h.flat"));
    upper.seal().unwrap();
    let ours = Layer::open(Arc::new(FileBlob::open(&OsDisk, &files.0).unwrap())).unwrap();
    let theirs = golden_layer("h.sealed");
    assert_eq!((ours.segments(), ours.trailer()), (theirs.segments(), theirs.trailer()));
}

#[test]
fn sparse_layers_remember_discards_and_single_sectors() {
    let dir = tempfile::tempdir().unwrap();
    let below = Stack::new(vec![golden_layer("a.commit")]).unwrap();
    let files = pair(dir.path(), "p");
    let upper = new_upper(dir.path(), "p", 1 << 19, true, None);
    apply_on(&upper, &ops("p"), Some(&below));
    let single = [Op::Discard(20, 1), Op::Write(35, vec![3; SECTOR]), Op::Write(900, vec![4; 3 * SECTOR])];
    apply_on(&upper, &single, Some(&below));
    let before = flatten_upper(&upper, Some(&below));
    drop(upper);
    let mut expected = vec![0; 1 << 19];
    for op in ops("p").iter().chain(&single) {
        if let Op::Write(sector, bytes) = op {
            expected[*sector as usize * SECTOR..][..bytes.len()].copy_from_slice(bytes);
        }
    }
    assert!(before == expected, "p begins by discarding all");
    assert!(flatten_upper(&open(&files), Some(&below)) == expected, "and that must hold when opened again");

    // Without the discard the rest of a block shows what is below: also to who only looks at holes, as upstream does.
    let upper = new_upper(dir.path(), "s", 1 << 19, true, None);
    apply_on(&upper, &single, Some(&below));
    let before = flatten_upper(&upper, Some(&below));
    drop(upper);
    let files = pair(dir.path(), "s");
    assert!(flatten_upper(&open(&files), Some(&below)) == before);
    fs::write(&files.1, b"").unwrap();
    let mut forgotten = before;
    below.read_at(&mut forgotten[20 * SECTOR..21 * SECTOR], 20 * SECTOR as u64).unwrap();
    assert!(flatten_upper(&open(&files), Some(&below)) == forgotten, "only the discard is lost without the log");
}

#[test]
fn what_upstream_writes_to_a_sparse_layer_of_ours_counts() {
    let dir = tempfile::tempdir().unwrap();
    let files = pair(dir.path(), "u");
    let upper = new_upper(dir.path(), "u", 1 << 19, true, None);
    apply(
        &upper,
        &[Op::Write(0, vec![1; 4096]), Op::Write(64, vec![2; 8192]), Op::Discard(64, 8), Op::Discard(200, 8)],
    );
    upper.flush().unwrap();
    let mut expected = flatten_upper(&upper, None);
    drop(upper);
    let theirs = fs::OpenOptions::new().write(true).open(&files.0).unwrap();
    for (sector, byte) in [(64, 7), (200, 8), (400, 9)] {
        theirs.write_all_at(&[byte; 4096], 4096 + sector * SECTOR as u64).unwrap();
        expected[sector as usize * SECTOR..][..4096].fill(byte);
    }
    drop(theirs);
    for _ in 0..2 {
        assert!(flatten_upper(&open(&files), None) == expected);
    }
    fs::write(&files.1, golden("a.index")).unwrap();
    let error = Upper::open(&OsDisk, &files.0, &files.1).err().unwrap();
    assert_eq!(error.kind(), Kind::Corrupt, "another layer's index file is not taken for the log");
}
