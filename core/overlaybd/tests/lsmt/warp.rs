//! Layers of turboOCI against files that upstream made, and what is refused of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd::blob::{Blob, MemoryBlob};
use overlaybd::inspect;
use overlaybd::lsmt::commit::{commit_meta, CommitOptions};
use overlaybd::lsmt::info::FileKind;
use overlaybd::lsmt::segment::ENTRY_BYTES;
use overlaybd::lsmt::upper::{create, open_as_meta, CreateOptions};
use overlaybd::lsmt::warp::{self, Meta, META, REMOTE};
use overlaybd::lsmt::{Layer, Segment, Stack, Upper};
use overlaybd::progress::silent;
use overlaybd::sink::MemorySink;
use overlaybd::sys::os::OsDisk;
use overlaybd::Kind;

use crate::support::{flatten_upper, nothing_below, pair, SECTOR};

const ALL: [&str; 9] = [
    "plain.ext4",
    "lower.ext4",
    "xattr.ext4",
    "gz.ext4",
    "upper.ext4",
    "eplain.erofs",
    "elower.erofs",
    "exattr.erofs",
    "egz.erofs",
];

fn read(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The metadata of a golden layer, out of its zfile.
fn golden(name: &str) -> Arc<dyn Blob> {
    let stored = Arc::new(MemoryBlob::new(name, read(&format!("turbo/{name}.fs.meta"))));
    overlaybd::layer::unwrap(stored).unwrap()
}

fn bytes(blob: &Arc<dyn Blob>) -> Vec<u8> {
    let mut bytes = vec![0; blob.len() as usize];
    blob.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn blob(bytes: Vec<u8>) -> Arc<dyn Blob> {
    Arc::new(MemoryBlob::new("memory", bytes))
}

pub fn committed(meta: &Meta) -> Vec<u8> {
    let mut sink = MemorySink::default();
    commit_meta(meta, &CommitOptions::default(), &mut sink, &mut silent).unwrap();
    sink.bytes
}

fn new_pair(dir: &Path, size: u64) -> (PathBuf, PathBuf) {
    let files = pair(dir, "top");
    let options = CreateOptions { size, warp: true, sparse: true, ..CreateOptions::default() };
    create(&OsDisk, &files.0, &files.1, &options).unwrap();
    files
}

fn open(files: &(PathBuf, PathBuf), target: Option<Arc<dyn Blob>>) -> Upper {
    Upper::open_warp(&OsDisk, &files.0, &files.1, target, 0).unwrap()
}

#[test]
fn what_a_golden_layer_holds_is_committed_to_the_same_bytes() {
    for name in ALL {
        let golden = golden(name);
        let meta = Meta::open(golden.clone()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let files = new_pair(dir.path(), meta.trailer().virtual_size);
        let upper = open(&files, None);
        // Backwards, and in pieces: it is the commit that sorts and joins.
        for segment in meta.segments().iter().rev() {
            for at in (0..segment.length).step_by(3) {
                let part =
                    segment.clip(segment.offset + u64::from(at), segment.end().min(segment.offset + u64::from(at) + 3));
                let (offset, len) = (part.offset * SECTOR as u64, part.length as usize * SECTOR);
                if part.tag == REMOTE {
                    upper.map_remote(offset, len as u64, part.moffset * SECTOR as u64).unwrap();
                } else {
                    let mut content = vec![0; len];
                    golden.read_at(&mut content, part.moffset * SECTOR as u64).unwrap();
                    upper.write_at(&content, offset, nothing_below).unwrap();
                }
            }
        }
        upper.flush().unwrap();
        drop(upper);
        let again = committed(&open_as_meta(&OsDisk, &files.0, &files.1).unwrap().0);
        assert!(again == bytes(&golden), "{name}");
        assert!(committed(&Meta::open(golden.clone()).unwrap()) == again, "{name}: of a finished layer");
    }
}

#[test]
fn a_layer_of_turbo_oci_is_never_read_without_its_target() {
    for name in ALL {
        let error = Layer::open(golden(name)).err().unwrap();
        assert_eq!(error.kind(), Kind::Unsupported, "{name}: {error}");
        assert!(error.to_string().contains("target"), "{error}");
        let description = inspect::describe(&golden(name)).unwrap();
        let info = description.lsmt.unwrap();
        assert_eq!(info.kind, FileKind::Turbo, "{name}");
        let remote = Meta::open(golden(name)).unwrap();
        let sectors = |tag| remote.segments().iter().filter(|s| s.tag == tag).map(|s| u64::from(s.length)).sum::<u64>();
        let index = info.index.unwrap();
        assert_eq!((index.mapped_bytes / 512, index.remote_bytes / 512), (sectors(META), sectors(REMOTE)));
        assert!(index.remote_bytes > 0);
    }
}

/// Metadata in sector 0, the target's sectors 1 and 2 in sectors 4 and 5.
fn small() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let files = new_pair(dir.path(), 4096);
    let upper = open(&files, None);
    upper.write_at(&[1; 512], 0, nothing_below).unwrap();
    upper.map_remote(2048, 1024, 512).unwrap();
    drop(upper);
    committed(&open_as_meta(&OsDisk, &files.0, &files.1).unwrap().0)
}

fn open_small(meta: Vec<u8>, target: usize) -> overlaybd::Result<Stack> {
    let target = blob((0..target).map(|at| 100 + (at / 512) as u8).collect());
    Stack::new(vec![warp::open(blob(meta), target, |joined| joined)?])
}

#[test]
fn the_end_of_the_target_is_the_end() {
    let mut device = vec![0xee; 4096];
    open_small(small(), 1536).unwrap().read_at(&mut device, 0).unwrap();
    let expected: Vec<u8> = [1, 0, 0, 0, 101, 102, 0, 0].into_iter().flat_map(|byte| [byte; 512]).collect();
    assert_eq!(device, expected);
    // A tar may end in the middle of a sector; what is missing of it is padding.
    open_small(small(), 1025).unwrap().read_at(&mut device, 0).unwrap();
    assert_eq!((device[2560], &device[2561..3072]), (102, &[0; 511][..]));
    for short in [0, 512, 1024] {
        let error = open_small(small(), short).err().unwrap();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains("the target's end"), "{error}");
    }
}

#[test]
fn wrong_entries_are_refused() {
    let good = small();
    let at = good.len() - 4096 - 2 * ENTRY_BYTES;
    let entry = |number: usize| {
        let from = at + number * ENTRY_BYTES;
        Segment::from_bytes(good[from..from + ENTRY_BYTES].try_into().unwrap())
    };
    let (own, remote) = (entry(0), entry(1));
    assert_eq!((own.tag, remote.tag, remote.moffset), (META, REMOTE, 1));
    let cases = [
        (0, Segment { tag: 2, ..own }, "of a type"),
        (1, Segment { tag: 255, ..remote }, "of a type"),
        (0, Segment { moffset: 7, ..own }, "out of the metadata"),
        (0, Segment { moffset: 9, ..own }, "out of the metadata"),
        (0, Segment { length: 5, ..own }, "begins before"),
        (1, Segment { moffset: 2, ..remote }, "the target's end"),
        (1, Segment { moffset: (1 << 55) - 1, ..remote }, "the target's end"),
        (1, Segment { offset: (1 << 50) - 2, ..remote }, "beyond the last legal sector"),
    ];
    for (number, wrong, why) in cases {
        let mut bytes = good.clone();
        let from = at + number * ENTRY_BYTES;
        bytes[from..from + ENTRY_BYTES].copy_from_slice(&wrong.to_bytes());
        let error = open_small(bytes, 1536).err().unwrap_or_else(|| panic!("{wrong:?}"));
        assert_eq!(error.kind(), Kind::Corrupt, "{wrong:?}: {error}");
        assert!(error.to_string().contains(why), "{wrong:?}: {error}");
    }
    open_small(good, 1536).unwrap();
}

#[test]
fn maps_and_what_the_layer_is_not_for() {
    let dir = tempfile::tempdir().unwrap();
    let files = new_pair(dir.path(), 1 << 20);
    assert_eq!(fs::metadata(&files.0).unwrap().len(), 1 << 20, "no header, as long as the device");
    let upper = open(&files, Some(blob(vec![7; 1024])));
    for (offset, len, at) in
        [(1, 512, 0), (0, 511, 0), (0, 512, 1), ((1 << 20) - 512, 1024, 0), (0, 512, u64::MAX - 511)]
    {
        assert_eq!(upper.map_remote(offset, len, at).unwrap_err().kind(), Kind::OutOfBounds, "{offset} {len} {at}");
    }
    upper.map_remote(0, 2048, 0).unwrap();
    let mut sectors = [0; 2048];
    upper.read_at(&mut sectors[..1024], 0, nothing_below).unwrap();
    assert_eq!(sectors[..1024], [7; 1024]);
    let error = upper.read_at(&mut sectors, 0, nothing_below).unwrap_err();
    assert_eq!(error.kind(), Kind::OutOfBounds, "{error}");
    assert_eq!(upper.seal().unwrap_err().kind(), Kind::Unsupported);
    drop(upper);
    let upper = open(&files, None);
    assert_eq!(upper.read_at(&mut sectors, 0, nothing_below).unwrap_err().kind(), Kind::Unsupported);
    upper.write_at(&[9; 2048], 0, nothing_below).unwrap();
    assert_eq!(flatten_upper(&upper, None)[..2048], [9; 2048]);
    drop(upper);

    // One kind's files are not opened as the other's.
    assert_eq!(Upper::open(&OsDisk, &files.0, &files.1).err().unwrap().kind(), Kind::Corrupt);
    let other = pair(dir.path(), "other");
    create(&OsDisk, &other.0, &other.1, &CreateOptions { size: 4096, ..CreateOptions::default() }).unwrap();
    assert_eq!(Upper::open_warp(&OsDisk, &other.0, &other.1, None, 0).err().unwrap().kind(), Kind::Invalid);
    let plain = Upper::open(&OsDisk, &other.0, &other.1).unwrap();
    assert_eq!(plain.map_remote(0, 512, 0).unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn a_data_file_that_lost_its_end_is_not_read_on_in_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let files = new_pair(dir.path(), 1 << 20);
    let upper = open(&files, None);
    upper.write_at(&[1; 1024], 4096, nothing_below).unwrap();
    drop(upper);
    let data = fs::OpenOptions::new().write(true).open(&files.0).unwrap();
    for (len, lost) in [(5120, false), (4608, true), (0, true)] {
        data.set_len(len).unwrap();
        let (meta, _) = open_as_meta(&OsDisk, &files.0, &files.1).unwrap();
        match meta.with_target(blob(vec![7; 1 << 20])) {
            Ok(_) => assert!(!lost, "{len} bytes"),
            Err(e) => assert_eq!((lost, e.kind()), (true, Kind::Corrupt), "{e}"),
        }
    }
}

#[test]
fn tags_in_the_log_follow_the_number_of_lowers() {
    let dir = tempfile::tempdir().unwrap();
    let files = new_pair(dir.path(), 1 << 20);
    let tags = || {
        let index = fs::read(&files.1).unwrap();
        let records = index[4096..].chunks(16).map(|raw| Segment::from_bytes(raw.try_into().unwrap()));
        records.filter(|s| !s.is_invalid()).map(|s| (s.length, s.tag)).collect::<Vec<_>>()
    };
    let upper = Upper::open_warp(&OsDisk, &files.0, &files.1, None, 3).unwrap();
    upper.map_remote(0, 512, 0).unwrap();
    drop(upper);
    // A reader takes the smallest tag to be metadata: an entry of no sectors says which that is.
    assert_eq!(tags(), [(0, 3), (1, 4)]);
    let upper = Upper::open_warp(&OsDisk, &files.0, &files.1, None, 5).unwrap();
    upper.write_at(&[1; 512], 4096, nothing_below).unwrap();
    upper.map_remote(512, 512, 512).unwrap();
    drop(upper);
    assert_eq!(tags(), [(0, 3), (1, 4), (1, 3), (1, 4)]);
    let (meta, _) = open_as_meta(&OsDisk, &files.0, &files.1).unwrap();
    assert_eq!(meta.segments().iter().map(|s| s.tag).collect::<Vec<_>>(), [REMOTE, REMOTE, META]);
    let mut index = fs::read(&files.1).unwrap();
    let last = index.len() - 1;
    index[last] = 5;
    fs::write(&files.1, index).unwrap();
    assert_eq!(open_as_meta(&OsDisk, &files.0, &files.1).err().unwrap().kind(), Kind::Corrupt);
}

#[test]
fn maps_do_not_become_metadata_when_a_torn_end_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let files = new_pair(dir.path(), 1 << 20);
    let record = |offset, tag| Segment { offset, length: 1, moffset: offset, zeroed: false, tag }.to_bytes();
    // A log of another writer, which begins with a map; a record that a crash has left as zeros; metadata behind it.
    let mut index = fs::read(&files.1).unwrap();
    index.extend([record(8, 4), [0; 16], record(16, 3)].concat());
    fs::write(&files.1, &index).unwrap();
    for _ in 0..2 {
        assert_eq!(open_as_meta(&OsDisk, &files.0, &files.1).err().unwrap().kind(), Kind::Corrupt);
        let opened = Upper::open_warp(&OsDisk, &files.0, &files.1, None, 3);
        assert_eq!(opened.err().unwrap().kind(), Kind::Corrupt);
    }
    assert_eq!(fs::read(&files.1).unwrap(), index, "nothing is cut off");
}
