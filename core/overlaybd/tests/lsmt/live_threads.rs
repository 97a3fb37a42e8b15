//! Snapshots while threads write: each write is wholly below the cut or above it, in the order of each writer.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use overlaybd::blob::{Blob, FileBlob};
use overlaybd::device::BlockDevice;
use overlaybd::image::{open, Image, NewUpper};
use overlaybd::lsmt::upper::{create, CreateOptions};
use overlaybd::sys::os::OsDisk;

use crate::support::pair;

const WRITERS: u64 = 3;
const SLOTS: u64 = 16;
/// Bytes of a slot; the writes of one writer go round through its slots. Odd, so that the last writer's slots share
/// sectors.
const SLOT: [u64; WRITERS as usize] = [4096, 5 * 512, 1000];
const SIZE: u64 = 256 << 10;

fn place(writer: u64, write: u64) -> u64 {
    writer * (SIZE / WRITERS / 4096 * 4096) + write % SLOTS * SLOT[writer as usize]
}

/// The bytes of write number `write`, the first is 1.
fn content(writer: u64, write: u64) -> Vec<u8> {
    let word = (writer << 56 | write).to_le_bytes();
    word.iter().copied().cycle().take(SLOT[writer as usize] as usize).collect()
}

/// How many writes of a writer a device has, checked against what it should then hold.
fn writes_in(image: &Image, writer: u64, what: &str) -> u64 {
    let read = |slot: u64| {
        let mut buf = vec![0; SLOT[writer as usize] as usize];
        image.read_at(&mut buf, place(writer, slot)).unwrap();
        buf
    };
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap()) & ((1 << 56) - 1);
    let slots: Vec<Vec<u8>> = (0..SLOTS).map(read).collect();
    let last = slots.iter().map(|bytes| number(bytes)).max().unwrap();
    for write in last.saturating_sub(SLOTS - 1).max(1)..=last {
        assert!(slots[(write % SLOTS) as usize] == content(writer, write), "{what}: write {write} of {writer}");
    }
    last
}

fn open_files(lowers: &[PathBuf], upper: Option<&(PathBuf, PathBuf)>) -> Image {
    let blob = |path: &PathBuf| Arc::new(FileBlob::open(&OsDisk, path).unwrap()) as Arc<dyn Blob>;
    open(&OsDisk, lowers.iter().map(blob).collect(), upper.map(|(data, index)| (&**data, &**index))).unwrap()
}

fn write_through_snapshots(dir: &Path, sparse: bool) {
    let first = pair(dir, "u0");
    create(&OsDisk, &first.0, &first.1, &CreateOptions { size: SIZE, sparse, ..CreateOptions::default() }).unwrap();
    let image = open_files(&[], Some(&first));
    let (begun, done): ([AtomicU64; 3], [AtomicU64; 3]) = Default::default();
    let over = AtomicBool::new(false);
    let mut lowers = vec![];
    let mut upper = first;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (image, begun, done, over) = (&image, &begun[writer as usize], &done[writer as usize], &over);
            scope.spawn(move || {
                for write in 1.. {
                    begun.store(write, Ordering::SeqCst);
                    image.write_at(&content(writer, write), place(writer, write)).unwrap();
                    done.store(write, Ordering::SeqCst);
                    if write.is_multiple_of(64) {
                        image.flush().unwrap();
                    }
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
        for number in 1..12 {
            let what = format!("sparse {sparse}, snapshot {number}");
            while done.iter().any(|done| done.load(Ordering::SeqCst) < number * 20) {
                std::thread::yield_now();
            }
            let new = pair(dir, &format!("u{number}"));
            let acknowledged: Vec<u64> = done.iter().map(|done| done.load(Ordering::SeqCst)).collect();
            let layout = if number % 2 == 0 { sparse } else { !sparse };
            image
                .snapshot(&OsDisk, &NewUpper { data: &new.0, index: &new.1, sparse: layout }, Box::new(|| Ok(())))
                .unwrap();
            let started: Vec<u64> = begun.iter().map(|begun| begun.load(Ordering::SeqCst)).collect();
            lowers.push(std::mem::replace(&mut upper, new).0);
            let frozen = open_files(&lowers, None);
            for writer in 0..WRITERS {
                let below = writes_in(&frozen, writer, &what);
                let range = acknowledged[writer as usize]..=started[writer as usize];
                assert!(range.contains(&below), "{what}: {below} writes of {writer} below the cut, not {range:?}");
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    for writer in 0..WRITERS {
        assert_eq!(writes_in(&image, writer, "at the end"), done[writer as usize].load(Ordering::SeqCst));
    }
    drop(image);
    let image = open_files(&lowers, Some(&upper));
    for writer in 0..WRITERS {
        assert_eq!(writes_in(&image, writer, "opened again"), done[writer as usize].load(Ordering::SeqCst));
    }
}

#[test]
fn a_write_is_wholly_below_the_cut_or_wholly_above() {
    for sparse in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        write_through_snapshots(dir.path(), sparse);
    }
}
