//! What a log-structured layer shows under another boot of the system: what was flushed, and no more.

use std::path::{Path, PathBuf};

use overlaybd::lsmt::upper::{create, open_as_layer, CreateOptions};
use overlaybd::lsmt::{Segment, Stack, Upper};
use overlaybd::sys::fault::{Fault, FaultDisk};
use overlaybd::sys::os::ScratchDisk;
use overlaybd::sys::Disk;

use crate::disk::MemDisk;
use crate::support::*;

const PAGE: usize = 4096;

fn files() -> (PathBuf, PathBuf) {
    pair(Path::new("/"), "upper")
}

fn reopen(disk: &dyn Disk) -> Upper {
    Upper::open(disk, &files().0, &files().1).unwrap()
}

fn write(upper: &Upper, page: u64, value: u8) {
    upper.write_at(&[value; PAGE], page * PAGE as u64, nothing_below).unwrap();
}

/// The first byte of each page.
fn pages(upper: &Upper) -> Vec<u8> {
    flatten_upper(upper, None).chunks(PAGE).map(|page| page[0]).collect()
}

/// A disk with a layer of three pages, of which two were written and flushed, and one of them overwritten since.
fn overwritten() -> MemDisk {
    let disk = MemDisk::default();
    let options = CreateOptions { size: 3 * PAGE as u64, ..CreateOptions::default() };
    create(&disk, &files().0, &files().1, &options).unwrap();
    let upper = reopen(&disk);
    write(&upper, 0, 1);
    write(&upper, 1, 2);
    upper.flush().unwrap();
    write(&upper, 0, 3);
    disk
}

#[test]
fn what_was_not_flushed_is_there_as_long_as_the_system_runs() {
    let disk = overwritten();
    let upper = reopen(&disk);
    assert_eq!((pages(&upper), upper.cut_records()), (vec![3, 2, 0], 0));
}

#[test]
fn an_overwrite_whose_bytes_never_arrived_leaves_what_was_flushed() {
    let disk = overwritten();
    let (mut data, index) = (disk.content(&files().0), disk.content(&files().1));
    let last = data.len() - PAGE;
    // Whatever the disk had there before: zeros, or what another file or an earlier life left.
    for left in [0, 9] {
        data[last..].fill(left);
        disk.put(&files().0, &data);
        disk.put(&files().1, &index);
        disk.reboot();
        let (layer, cut) = open_as_layer(&disk, &files().0, &files().1).unwrap();
        assert_eq!((flatten(&Stack::new(vec![layer]).unwrap())[0], cut), (1, 1), "for a commit too");
        assert_eq!(pages(&reopen(&disk)), [1, 2, 0]);
    }
}

#[test]
fn what_was_cut_off_does_not_come_back() {
    let disk = overwritten();
    disk.reboot();
    let upper = reopen(&disk);
    assert_eq!((pages(&upper), upper.cut_records()), (vec![1, 2, 0], 1));
    write(&upper, 2, 4);
    drop(upper);
    assert_eq!(pages(&reopen(&disk)), [1, 2, 4], "in the same boot");
    disk.reboot();
    let upper = reopen(&disk);
    assert_eq!(pages(&upper), [1, 2, 0]);
    write(&upper, 2, 5);
    upper.flush().unwrap();
    drop(upper);
    disk.reboot();
    assert_eq!(pages(&reopen(&disk)), [1, 2, 5]);
}

#[test]
fn what_is_flushed_needs_no_write_after_it() {
    let disk = overwritten();
    reopen(&disk).flush().unwrap();
    disk.reboot();
    assert_eq!(pages(&reopen(&disk)), [3, 2, 0]);
    let index = disk.content(&files().1);
    reopen(&disk).flush().unwrap();
    assert_eq!(disk.content(&files().1), index, "a flush of nothing adds nothing");
}

#[test]
fn the_note_of_a_flush_has_its_room_already() {
    let disk = overwritten();
    let upper = reopen(&disk);
    write(&upper, 2, 4);
    let length = disk.content(&files().1).len();
    upper.flush().unwrap();
    assert_eq!(disk.content(&files().1).len(), length, "so that it cannot fail on a full disk");
}

#[test]
fn a_sealed_layer_opens_as_an_upper_that_holds_the_same() {
    let disk = overwritten();
    reopen(&disk).seal().unwrap();
    disk.reboot();
    assert_eq!(pages(&reopen(&disk)), [3, 2, 0]);
}

#[test]
fn what_another_tool_went_on_with_counts() {
    let disk = overwritten();
    let (data, mut index) = (disk.content(&files().0), disk.content(&files().1));
    // A page of its own, and the record that upstream writes for it.
    let record = Segment { offset: 16, length: 8, moffset: data.len() as u64 / 512, zeroed: false, tag: 2 };
    index.extend(record.to_bytes());
    disk.put(&files().0, &[data, vec![7; PAGE]].concat());
    disk.put(&files().1, &index);
    disk.reboot();
    assert_eq!(pages(&reopen(&disk)), [3, 2, 7], "so does all that it found there");
    let upper = reopen(&disk);
    write(&upper, 1, 8);
    drop(upper);
    disk.reboot();
    assert_eq!(pages(&reopen(&disk)), [3, 2, 7], "what came after it does not");
}

#[test]
fn on_a_system_that_cannot_tell_everything_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (data, index) = pair(dir.path(), "upper");
    let options = CreateOptions { size: 3 * PAGE as u64, ..CreateOptions::default() };
    create(&ScratchDisk, &data, &index, &options).unwrap();
    write(&Upper::open(&ScratchDisk, &data, &index).unwrap(), 1, 6);
    assert_eq!(pages(&Upper::open(&ScratchDisk, &data, &index).unwrap()), [0, 6, 0]);
    let records = std::fs::read(&index).unwrap().len() - PAGE;
    assert_eq!(records, 16, "and nothing is noted");
}

#[test]
fn what_was_cut_off_does_not_come_back_if_the_power_fails_in_the_next_flush() {
    // The log crosses from one page of the index file to the next here, and the two are written in any order.
    const RECORDS: u64 = PAGE as u64 / 16;
    let overwritten = MemDisk::default();
    let options = CreateOptions { size: 3 * PAGE as u64, ..CreateOptions::default() };
    create(&overwritten, &files().0, &files().1, &options).unwrap();
    let upper = reopen(&overwritten);
    (0..RECORDS - 10).for_each(|_| write(&upper, 0, 1));
    upper.flush().unwrap();
    (0..32).for_each(|_| write(&upper, 0, 2));
    drop(upper);
    // All of that reaches the disk but what was written to page 0.
    let (mut data, index) = (overwritten.content(&files().0), overwritten.content(&files().1));
    let flushed = data.len() - 32 * PAGE;
    data[flushed..].fill(9);
    for at in 0..48 {
        let disk = MemDisk::default();
        disk.put(&files().0, &data);
        disk.put(&files().1, &index);
        disk.reboot();
        let faults = FaultDisk::new(std::sync::Arc::new(disk.clone()), at, Fault::Errno(libc::EIO));
        if let Ok(upper) = Upper::open(&faults, &files().0, &files().1) {
            (0..16).for_each(|_| drop(upper.write_at(&[3; PAGE], PAGE as u64, nothing_below)));
            drop(upper.flush());
        }
        disk.crash_without(&files().1, 1);
        let now = pages(&reopen(&disk));
        assert!(now == [1, 0, 0] || now == [1, 3, 0], "fault {at}: {now:?}");
    }
}
