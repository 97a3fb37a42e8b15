//! Power failures and failing disks: nothing that was acknowledged and flushed is lost or misread.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd::blob::MemoryBlob;
use overlaybd::lsmt::upper::{create, open_as_layer, CreateOptions};
use overlaybd::lsmt::{Layer, Stack, Upper};
use overlaybd::sys::fault::{Fault, FaultDisk};
use overlaybd::sys::Disk;
use overlaybd::Kind;

use crate::disk::{MemDisk, Random};
use crate::support::*;

/// Sectors of the devices here: small, so that operations meet.
pub const SECTORS: u64 = 160;

fn files() -> (PathBuf, PathBuf) {
    pair(Path::new("/"), "upper")
}

/// What each sector may read as: one value for each state since the last flush. A sector is told by
/// its first byte, of which it consists.
pub struct Expected(pub Vec<Vec<u8>>);

impl Expected {
    /// Only the newest value counts from now on.
    pub fn settle(&mut self) {
        for values in &mut self.0 {
            values.drain(..values.len() - 1);
        }
    }

    /// Sectors were written, or discarded as 0.
    pub fn set(&mut self, sector: u64, count: u64, value: u8) {
        for values in &mut self.0[sector as usize..(sector + count) as usize] {
            values.push(value);
        }
    }

    /// An operation failed: old or new, nobody knows.
    pub fn maybe(&mut self, sector: u64, count: u64, value: u8) {
        for values in &mut self.0[sector as usize..(sector + count) as usize] {
            values.insert(0, value);
        }
    }

    /// Holds a device to it.
    pub fn check(&self, device: &[u8], what: &str) {
        for (number, (sector, values)) in device.chunks(SECTOR).zip(&self.0).enumerate() {
            let wrong = sector.iter().find(|b| !values.contains(b));
            assert_eq!(wrong, None, "{what}: in sector {number}, where one of {values:?} is expected");
        }
    }
}

/// A lower layer in which every sector has its own byte, never 0.
fn lower() -> Stack {
    let disk = MemDisk::default();
    let files = pair(Path::new("/"), "lower");
    let options = CreateOptions { size: SECTORS * 512, ..CreateOptions::default() };
    create(&disk, &files.0, &files.1, &options).unwrap();
    let upper = Upper::open(&disk, &files.0, &files.1).unwrap();
    for sector in 0..SECTORS {
        upper.write_at(&[200 + (sector % 50) as u8; SECTOR], sector * 512, nothing_below).unwrap();
    }
    upper.seal().unwrap();
    let layer = Layer::open(Arc::new(MemoryBlob::new("lower", disk.content(&files.0)))).unwrap();
    Stack::new(vec![layer]).unwrap()
}

fn new_pair(disk: &dyn Disk, sparse: bool) {
    let options = CreateOptions { size: SECTORS * 512, sparse, ..CreateOptions::default() };
    create(disk, &files().0, &files().1, &options).unwrap();
}

fn reopen(disk: &dyn Disk) -> Upper {
    Upper::open(disk, &files().0, &files().1).unwrap()
}

/// A random operation: None to flush, else sector, count, and the byte to write, 0 to discard. Sparse
/// layers also write zeros; values from 200 on are the lower layer's.
pub fn random_op(random: &mut Random, round: u64) -> Option<(u64, u64, u8, bool)> {
    let kind = random.below(10);
    if kind == 0 {
        return None;
    }
    let count = [1, 2, 3, 8, 8, 16, 40][random.below(7) as usize];
    let align = if random.below(2) == 0 { 8 } else { 1 };
    let sector = random.below((SECTORS - count) / align + 1) * align;
    let value = if kind < 4 { 0 } else { 1 + (round % 199) as u8 };
    Some((sector, count, value, kind < 3))
}

fn perform(
    upper: &Upper,
    below: Option<&Stack>,
    (sector, count, value, discard): (u64, u64, u8, bool),
) -> overlaybd::Result<()> {
    match discard {
        true => upper.discard(sector * 512, count * 512),
        false => {
            let bytes = vec![value; count as usize * SECTOR];
            upper.write_at(&bytes, sector * 512, |part, at| fill_below(part, at, below))
        }
    }
}

/// Runs, loses power, opens again, many times over on the same files.
fn survive_power_failures(sparse: bool, seed: u64) {
    let below = lower();
    let mut random = Random(seed);
    let disk = MemDisk::default();
    new_pair(&disk, sparse);
    let mut expected = Expected(flatten(&below).chunks(SECTOR).map(|s| vec![s[0]]).collect());
    for life in 0..12 {
        let upper = reopen(&disk);
        let device = flatten_upper(&upper, Some(&below));
        expected.check(&device, &format!("sparse {sparse}, seed {seed}, life {life}"));
        expected = Expected(device.chunks(SECTOR).map(|s| vec![s[0]]).collect());
        upper.flush().unwrap();
        for round in 0..random.below(40) {
            match random_op(&mut random, life * 40 + round) {
                None => {
                    upper.flush().unwrap();
                    expected.settle();
                }
                Some(op) => {
                    perform(&upper, Some(&below), op).unwrap();
                    expected.set(op.0, op.1, op.2);
                }
            }
        }
        let device = flatten_upper(&upper, Some(&below));
        for (sector, values) in device.chunks(SECTOR).zip(&expected.0) {
            assert_eq!(Some(&sector[0]), values.last(), "what was acknowledged is read at once");
        }
        drop(upper);
        if random.below(3) == 0 {
            // Closed without a flush, but power stays: all is there.
            expected.settle();
        } else {
            disk.crash(&mut random);
        }
    }
}

#[test]
fn append_layers_survive_power_failures() {
    (1..150).for_each(|seed| survive_power_failures(false, seed * 0x9e37_79b9));
}

#[test]
fn sparse_layers_survive_power_failures() {
    (1..150).for_each(|seed| survive_power_failures(true, seed * 0x9e37_79b9));
}

#[test]
fn what_is_flushed_after_a_flush_that_failed_survives() {
    for (sparse, seed) in (1..40).flat_map(|seed| [(false, seed), (true, seed)]) {
        let disk = MemDisk::default();
        new_pair(&disk, sparse);
        let mut random = Random(seed);
        let life = |values: std::ops::Range<u8>| {
            let upper = reopen(&disk);
            for value in values {
                let op = (u64::from(value) * 8, 8, value, false);
                perform(&upper, None, op).unwrap();
            }
            upper
        };
        life(1..8).flush().unwrap();
        drop(life(8..9 + random.below(4) as u8));
        disk.lose_writes();
        life(13..14 + random.below(6) as u8).flush().unwrap();
        disk.crash(&mut random);
        let device = flatten_upper(&reopen(&disk), None);
        for value in (1..8).chain([13]) {
            let at = usize::from(value) * 8 * SECTOR;
            assert!(
                device[at..at + 8 * SECTOR] == [value; 8 * SECTOR],
                "{value} is lost: sparse {sparse}, seed {seed}"
            );
        }
    }
}

#[test]
fn what_shares_a_block_with_what_a_failed_flush_lost_survives() {
    let (below, disk) = (lower(), MemDisk::default());
    new_pair(&disk, true);
    perform(&reopen(&disk), Some(&below), (20, 1, 9, false)).unwrap();
    disk.lose_writes();
    let upper = reopen(&disk);
    perform(&upper, Some(&below), (100, 1, 7, false)).unwrap();
    upper.flush().unwrap();
    drop(upper);
    disk.crash(&mut Random(1));
    let device = flatten_upper(&reopen(&disk), Some(&below));
    for sector in (16..24).filter(|sector| *sector != 20) {
        assert_eq!(device[sector * SECTOR], 200 + (sector % 50) as u8, "sector {sector}, which nobody wrote to");
    }
}

#[test]
fn an_append_layer_goes_back_to_a_state_that_it_was_in() {
    for seed in 1..80 {
        let mut random = Random(seed * 0x51ed_270b);
        let disk = MemDisk::default();
        new_pair(&disk, false);
        let upper = reopen(&disk);
        let mut states = vec![flatten_upper(&upper, None)];
        for round in 0..30 {
            match random_op(&mut random, round) {
                None => {
                    upper.flush().unwrap();
                    states.drain(..states.len() - 1);
                }
                Some(op) => {
                    perform(&upper, None, op).unwrap();
                    states.push(flatten_upper(&upper, None));
                }
            }
        }
        drop(upper);
        disk.crash(&mut random);
        let device = flatten_upper(&reopen(&disk), None);
        assert!(states.contains(&device), "seed {seed}: no state since the last flush");
    }
}

#[test]
fn either_file_cut_anywhere_opens_to_a_state_that_existed() {
    let disk = MemDisk::default();
    new_pair(&disk, false);
    let upper = reopen(&disk);
    let mut states = vec![flatten_upper(&upper, None)];
    let mut random = Random(77);
    while states.len() < 14 {
        if let Some(op) = random_op(&mut random, states.len() as u64) {
            perform(&upper, None, op).unwrap();
            states.push(flatten_upper(&upper, None));
        }
    }
    drop(upper);
    let (data, index) = (disk.content(&files().0), disk.content(&files().1));
    let cuts =
        (4096..=index.len()).map(|n| (data.len(), n)).chain((4096..=data.len()).step_by(37).map(|n| (n, index.len())));
    for (data_len, index_len) in cuts {
        let disk = MemDisk::default();
        disk.put(&files().0, &data[..data_len]);
        disk.put(&files().1, &index[..index_len]);
        let layer = open_as_layer(&disk, &files().0, &files().1).unwrap().0;
        let read_only = flatten(&Stack::new(vec![layer]).unwrap());
        assert_eq!(disk.content(&files().1).len(), index_len, "opening to read changes nothing");
        let upper = reopen(&disk);
        assert_eq!(disk.content(&files().0).len(), data_len / 512 * 512, "what is no whole sector goes");
        let device = flatten_upper(&upper, None);
        assert!(device == read_only && states.contains(&device), "cut to {data_len} and {index_len} bytes");
        // And what is written afterwards is found again.
        upper.write_at(&[9; 512], 512, nothing_below).unwrap();
        upper.discard(1024, 512).unwrap();
        let after = flatten_upper(&upper, None);
        drop(upper);
        assert!(flatten_upper(&reopen(&disk), None) == after, "cut to {data_len} and {index_len} bytes, then written");
    }
}

#[test]
fn damage_before_a_flush_is_refused_not_cut() {
    let disk = MemDisk::default();
    new_pair(&disk, false);
    let upper = reopen(&disk);
    upper.write_at(&[1; 4096], 0, nothing_below).unwrap();
    upper.write_at(&[2; 4096], 4096, nothing_below).unwrap();
    upper.flush().unwrap();
    upper.write_at(&[3; 4096], 8192, nothing_below).unwrap();
    drop(upper);
    let index = disk.content(&files().1);
    // Behind the note of the boot.
    let first = 4096 + 16;
    let open = |disk: &MemDisk| Upper::open(disk, &files().0, &files().1);
    let mut zeroed = index.clone();
    zeroed[first..first + 16].fill(0);
    disk.put(&files().1, &zeroed);
    assert_eq!(open(&disk).err().unwrap().kind(), Kind::Corrupt, "a flushed record is gone");
    let mut zeroed = index.clone();
    let last = index.len() - 32;
    zeroed[last..last + 16].fill(0); // and behind it is room for one more
    disk.put(&files().1, &zeroed);
    assert_eq!(open(&disk).unwrap().cut_records(), 1, "one that was not flushed may go");
    let mut strange = index;
    strange[first + 8..first + 16].copy_from_slice(&3u64.to_le_bytes());
    disk.put(&files().1, &strange);
    assert_eq!(open(&disk).err().unwrap().kind(), Kind::Corrupt, "no crash maps into the header");
}

/// Every operation fails once, in each way; the layer goes on (or says that it cannot), and what it
/// acknowledged is there.
fn survive_faults(sparse: bool, fault: Fault) {
    let below = lower();
    for at in 0.. {
        let disk = MemDisk::default();
        new_pair(&disk, sparse);
        let faulty = FaultDisk::new(Arc::new(disk.clone()), at, fault);
        let mut expected = Expected(flatten(&below).chunks(SECTOR).map(|s| vec![s[0]]).collect());
        let Ok(upper) = Upper::open(&faulty, &files().0, &files().1) else {
            reopen(&disk);
            continue;
        };
        let mut random = Random(4711);
        let mut flush_failed = false;
        for round in 0..40 {
            let result = match random_op(&mut random, round) {
                None => upper.flush(),
                Some(op) => {
                    perform(&upper, Some(&below), op).inspect(|()| expected.set(op.0, op.1, op.2)).inspect_err(|_| {
                        expected.maybe(op.0, op.1, op.2);
                    })
                }
            };
            if flush_failed {
                assert!(result.is_err(), "a layer whose flush failed stays failed");
            } else if let (Err(_), Err(_)) = (&result, upper.flush()) {
                flush_failed = true;
            }
        }
        let what = format!("sparse {sparse}, {fault:?} at operation {at}");
        expected.check(&flatten_upper(&upper, Some(&below)), &what);
        drop(upper);
        expected.check(&flatten_upper(&reopen(&disk), Some(&below)), &format!("{what}, reopened"));
        if faulty.counted() <= at {
            return;
        }
    }
}

#[test]
fn a_failing_operation_loses_nothing_that_was_acknowledged() {
    for sparse in [false, true] {
        for fault in [Fault::Errno(libc::EIO), Fault::Short(7, libc::ENOSPC), Fault::Short(700, libc::EIO)] {
            survive_faults(sparse, fault);
        }
    }
}
