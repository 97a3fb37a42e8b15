//! What lies around a blob passes on what it is told: hints, fetches and doubts reach the bytes that they are about.

use std::sync::Arc;

use super::testing::Asked;
use super::*;
use crate::sys::os::OsDisk;
use crate::trace::Recorder;

fn asked() -> Arc<Asked> {
    Arc::new(Asked::new((0..1000u32).map(|i| (i * 7 % 251) as u8).collect()))
}

#[test]
fn wrappers_of_a_whole_blob_ask_it_for_the_same() {
    let inner = asked();
    let blob = || Arc::clone(&inner) as Arc<dyn Blob>;
    let wrappers: [(&str, Arc<dyn Blob>); 4] = [
        ("slice", Arc::new(SliceBlob::new(blob(), 0, 1000).unwrap())),
        ("sparing", Arc::new(SparingBlob::new(blob()))),
        ("switch", Arc::new(SwitchBlob::new(blob()))),
        ("tap", Recorder::new(1).tap(0, blob())),
    ];
    for (name, wrapper) in wrappers {
        assert_eq!((wrapper.name(), wrapper.len(), wrapper.is_empty()), ("asked", 1000, false), "{name}");
        assert_eq!(wrapper.prefetch(10, 20).unwrap(), 20, "{name}");
        assert_eq!(wrapper.prefetch(990, 20).unwrap_err().kind(), Kind::OutOfBounds, "{name}");
        assert_eq!((wrapper.is_ready(699, 1), wrapper.is_ready(700, 1)), (false, true), "{name}");
        assert!(wrapper.distrust(499, 1).unwrap(), "{name}");
        assert!(!wrapper.distrust(500, 2).unwrap(), "{name}");
        let expected = [("prefetch", 10, 20), ("distrust", 499, 1), ("distrust", 500, 2)];
        assert_eq!(inner.take(), expected, "{name}");
        let mut copy = [0; 30];
        wrapper.copy_at(&mut copy, 40).unwrap();
        assert_eq!(copy, inner.bytes[40..70], "{name}");
        if matches!(name, "sparing" | "switch") {
            assert_eq!(inner.take(), [("copy", 40, 30)], "{name} keeps what was to be copied");
        }
        inner.take();
    }
}

#[test]
fn a_slice_asks_for_what_is_in_it() {
    let inner = asked();
    let slice = SliceBlob::new(inner.clone(), 600, 300).unwrap();
    assert_eq!(slice.prefetch(10, 20).unwrap(), 20);
    assert_eq!(slice.prefetch(290, 20).unwrap_err().kind(), Kind::OutOfBounds, "it is not in the slice");
    assert_eq!((slice.is_ready(99, 1), slice.is_ready(100, 1)), (false, true));
    assert!(!slice.distrust(5, 6).unwrap());
    assert_eq!(inner.take(), [("prefetch", 610, 20), ("distrust", 605, 6)]);
    let empty = SliceBlob::new(inner.clone(), 1000, 0).unwrap();
    assert!(empty.is_empty());
    assert!(SliceBlob::new(inner, 1000, 1).is_err());
}

#[test]
fn only_slices_of_files_are_in_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    std::fs::write(&path, [7; 1000]).unwrap();
    let file: Arc<dyn Blob> = Arc::new(FileBlob::open(&OsDisk, &path).unwrap());
    let (whole, at) = file.as_file().unwrap();
    assert_eq!((whole.path(), at), (path.as_path(), 0));
    let outer: Arc<dyn Blob> = Arc::new(SliceBlob::new(file, 100, 800).unwrap());
    let slice = SliceBlob::new(outer, 30, 40).unwrap();
    let (found, at) = slice.as_file().unwrap();
    assert_eq!((found.path(), at), (path.as_path(), 130));
    assert_eq!((slice.is_ready(0, 1), slice.prefetch(0, 1).unwrap(), slice.distrust(0, 1).unwrap()), (true, 0, false));
    assert!(SliceBlob::new(asked(), 0, 10).unwrap().as_file().is_none());
}
