//! Growth that is refused, interrupted or asked for again: the device has one size, wherever one looks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd::blob::{Blob, FileBlob};
use overlaybd::device::BlockDevice;
use overlaybd::image::{open, Image, NewUpper};
use overlaybd::lsmt::header::VIRTUAL_SIZE_AT;
use overlaybd::lsmt::upper::{create, open_as_layer, CreateOptions};
use overlaybd::lsmt::Upper;
use overlaybd::sys::fault::FaultDisk;
use overlaybd::sys::{Disk, Mode};
use overlaybd::Kind;

use crate::disk::{MemDisk, Random};
use crate::support::pair;

const SIZE: u64 = 1 << 20;

fn files(name: &str) -> (PathBuf, PathBuf) {
    pair(Path::new("/"), name)
}

fn new_pair(disk: &dyn Disk, name: &str, size: u64, sparse: bool) {
    let options = CreateOptions { size, sparse, ..CreateOptions::default() };
    create(disk, &files(name).0, &files(name).1, &options).unwrap();
}

/// An image of the upper `u0` on lowers that are the data files of sealed uppers.
fn try_image(disk: &dyn Disk, lowers: &[&str]) -> overlaybd::Result<Image> {
    let lower = |name: &&str| Arc::new(FileBlob::open(disk, &files(name).0).unwrap()) as Arc<dyn Blob>;
    let (data, index) = files("u0");
    open(disk, lowers.iter().map(lower).collect(), Some((&data, &index)))
}

fn image(disk: &dyn Disk, lowers: &[&str]) -> Image {
    try_image(disk, lowers).unwrap()
}

/// A lower of so many bytes, none of which is 0.
fn lower(disk: &MemDisk, name: &str, size: u64) {
    new_pair(disk, name, size, false);
    let upper = Upper::open(disk, &files(name).0, &files(name).1).unwrap();
    upper.write_at(&vec![9; size as usize], 0, |_, _| Ok(())).unwrap();
    upper.seal().unwrap();
}

fn snapshot(image: &Image, disk: &dyn Disk, sparse: bool) -> overlaybd::Result<()> {
    let (data, index) = files("u1");
    image.snapshot(disk, &NewUpper { data: &data, index: &index, sparse }, Box::new(|| Ok(()))).map(drop)
}

#[test]
fn a_growth_that_the_file_system_refuses_leaves_the_device_as_it_was() {
    let disk = MemDisk::default();
    new_pair(&disk, "u0", SIZE, true);
    let small = FaultDisk::with_longest_file(Arc::new(disk), 1 << 40);
    for size in [20 << 40, 1 << 58] {
        let present = image(&small, &[]);
        present.write_at(&[7; 4096], 0).unwrap();
        assert_eq!(present.resize(size).unwrap_err().kind(), Kind::Io);
        assert_eq!(present.size(), SIZE);
        drop(present);
        assert_eq!(image(&small, &[]).size(), SIZE, "after a restart");
    }
    snapshot(&image(&small, &[]), &small, true).unwrap();
}

#[test]
fn a_size_that_the_file_system_refuses_is_not_taken_from_below() {
    let disk = MemDisk::default();
    lower(&disk, "base", SIZE);
    new_pair(&disk, "u0", 0, true);
    let small = FaultDisk::with_longest_file(Arc::new(disk.clone()), SIZE);
    for _ in 0..2 {
        assert_eq!(try_image(&small, &["base"]).err().unwrap().kind(), Kind::Io);
    }
    assert_eq!(image(&disk, &["base"]).size(), SIZE);
}

#[test]
fn a_sparse_upper_for_whose_index_its_file_has_no_room_is_refused_before_the_cut() {
    let disk = MemDisk::default();
    new_pair(&disk, "u0", SIZE, true);
    let small = FaultDisk::with_longest_file(Arc::new(disk.clone()), SIZE + 4096);
    let image = image(&small, &[]);
    image.write_at(&[7; 4096], 0).unwrap();
    assert_eq!(snapshot(&image, &small, false).unwrap_err().kind(), Kind::Io);
    image.write_at(&[8; 4096], 4096).unwrap();
    image.flush().unwrap();
    assert!(disk.open(&files("u1").0, Mode::Read).is_err(), "no new upper is left behind");
}

#[test]
fn a_log_structured_upper_has_the_size_of_its_log_wherever_power_failed_while_it_grew() {
    for (name, said, size) in [("grew", SIZE, 2 * SIZE), ("did not", 2 * SIZE, SIZE), ("inherited", 0, SIZE)] {
        let disk = MemDisk::default();
        new_pair(&disk, "u0", size, false);
        let data = disk.open(&files("u0").0, Mode::Write).unwrap();
        data.write_at(&said.to_le_bytes(), VIRTUAL_SIZE_AT as u64).unwrap();
        let as_layer = || open_as_layer(&disk, &files("u0").0, &files("u0").1).unwrap().0;
        assert_eq!(as_layer().header().virtual_size, size, "{name}: of a commit");
        assert_eq!(image(&disk, &[]).size(), size, "{name}");
        let head = &disk.content(&files("u0").0)[VIRTUAL_SIZE_AT..][..8];
        assert_eq!(head, size.to_le_bytes(), "{name}: of a commit once it is sealed");
    }
}

#[test]
fn growth_to_the_present_size_is_durable_too() {
    for sparse in [false, true] {
        let disk = MemDisk::default();
        new_pair(&disk, "u0", SIZE, sparse);
        let present = image(&disk, &[]);
        present.flush().unwrap();
        // As a process leaves it that was killed before its growth was durable.
        for path in [files("u0").0, files("u0").1] {
            let file = disk.open(&path, Mode::Write).unwrap();
            file.write_at(&(2 * SIZE).to_le_bytes(), VIRTUAL_SIZE_AT as u64).unwrap();
        }
        drop(present);
        image(&disk, &[]).resize(2 * SIZE).unwrap();
        disk.lose_writes();
        disk.crash(&mut Random(1));
        assert_eq!(image(&disk, &[]).size(), 2 * SIZE, "sparse: {sparse}");
    }
}

#[test]
fn a_sparse_upper_does_not_grow_over_what_it_would_hide_when_it_is_opened_again() {
    let disk = MemDisk::default();
    lower(&disk, "base", 24 * 512);
    new_pair(&disk, "u0", 10 * 512, true);
    let present = image(&disk, &["base"]);
    present.write_at(&[7; 512], 9 * 512).unwrap();
    for size in [11, 24] {
        assert_eq!(present.resize(size * 512).unwrap_err().kind(), Kind::Unsupported, "{size} sectors");
    }
    assert_eq!(present.size(), 10 * 512);
    snapshot(&present, &disk, false).unwrap();
    present.resize(24 * 512).unwrap();
    let read = |image: &Image| {
        let mut device = [0; 24 * 512];
        image.read_at(&mut device, 0).unwrap();
        device.chunks(512).map(|sector| sector[0]).collect::<Vec<u8>>()
    };
    let expected: Vec<u8> = (0..24).map(|sector| if sector == 9 { 7 } else { 9 }).collect();
    assert_eq!(read(&present), expected);
    drop(present);
    let lowers = ["base", "u0"].map(|name| Arc::new(FileBlob::open(&disk, &files(name).0).unwrap()) as Arc<dyn Blob>);
    let (data, index) = files("u1");
    assert_eq!(read(&open(&disk, lowers.into(), Some((&data, &index))).unwrap()), expected, "after a restart");
}

#[test]
fn a_sparse_upper_that_fills_its_last_block_grows_over_a_larger_lower() {
    let disk = MemDisk::default();
    lower(&disk, "base", 24 * 512);
    new_pair(&disk, "u0", 8 * 512, true);
    let present = image(&disk, &["base"]);
    present.write_at(&[7; 8 * 512], 0).unwrap();
    present.resize(24 * 512).unwrap();
    drop(present);
    let mut behind = [0; 16 * 512];
    image(&disk, &["base"]).read_at(&mut behind, 8 * 512).unwrap();
    assert!(behind == [9; 16 * 512]);
}
