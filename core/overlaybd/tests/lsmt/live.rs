//! Snapshots and resizes of an image in use: the files open to the right content whatever fails, whenever.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use overlaybd::blob::{Blob, FileBlob};
use overlaybd::device::BlockDevice;
use overlaybd::image::{finish_snapshot, open, Image, NewUpper, Publish, Snapshot};
use overlaybd::lsmt::header::VIRTUAL_SIZE_AT;
use overlaybd::lsmt::upper::{create, CreateOptions};
use overlaybd::lsmt::Upper;
use overlaybd::sys::fault::{Fault, FaultDisk};
use overlaybd::sys::{Disk, Mode};
use overlaybd::{Error, Kind};

use crate::crash::{random_op, Expected, SECTORS};
use crate::disk::{MemDisk, Random};
use crate::support::pair;

fn files(name: &str) -> (PathBuf, PathBuf) {
    pair(Path::new("/"), name)
}

/// The configuration in force, as a restart would find it.
type Shared = Arc<Mutex<Config>>;

/// What a configuration says: data files of lowers, bottom first, and the upper's name.
#[derive(Clone)]
struct Config {
    lowers: Vec<PathBuf>,
    upper: String,
}

impl Config {
    fn open(&self, disk: &dyn Disk) -> overlaybd::Result<Image> {
        let blobs = self.lowers.iter().map(|path| Ok(Arc::new(FileBlob::open(disk, path)?) as Arc<dyn Blob>));
        let (data, index) = files(&self.upper);
        open(disk, blobs.collect::<overlaybd::Result<_>>()?, Some((&data, &index)))
    }

    /// The one after a snapshot onto `upper`.
    fn after(&self, upper: &str) -> Config {
        let mut lowers = self.lowers.clone();
        lowers.push(files(&self.upper).0);
        Config { lowers, upper: upper.to_string() }
    }

    /// The device without its upper.
    fn frozen(&self, disk: &dyn Disk) -> Vec<u8> {
        let blobs = self.lowers.iter().map(|path| Arc::new(FileBlob::open(disk, path).unwrap()) as Arc<dyn Blob>);
        flatten(&open(disk, blobs.collect(), None).unwrap())
    }
}

fn flatten(image: &Image) -> Vec<u8> {
    let mut device = vec![0xEE; image.size() as usize];
    device.chunks_mut(37 * 512).enumerate().for_each(|(n, part)| image.read_at(part, n as u64 * 37 * 512).unwrap());
    device
}

fn new_pair(disk: &dyn Disk, name: &str, size: u64, sparse: bool) {
    let options = CreateOptions { size, sparse, ..CreateOptions::default() };
    create(disk, &files(name).0, &files(name).1, &options).unwrap();
}

/// An upper `u0`, on a lower in which no sector is 0 or on nothing.
fn begin(disk: &MemDisk, sparse: bool, on_lower: bool) -> (Shared, Expected) {
    let mut config = Config { lowers: vec![], upper: "u0".to_string() };
    let mut expected = Expected(vec![vec![0]; SECTORS as usize]);
    if on_lower {
        new_pair(disk, "base", SECTORS * 512, false);
        let base = Config { upper: "base".to_string(), ..config.clone() }.open(disk).unwrap();
        for sector in 0..SECTORS {
            let value = 200 + (sector % 50) as u8;
            base.write_at(&[value; 512], sector * 512).unwrap();
            expected.0[sector as usize] = vec![value];
        }
        base.upper().unwrap().seal().unwrap();
        config.lowers.push(files("base").0);
    }
    new_pair(disk, "u0", if on_lower { 0 } else { SECTORS * 512 }, sparse);
    (Arc::new(Mutex::new(config)), expected)
}

/// Takes a snapshot onto `name`; `config` is exchanged when it is published.
fn snapshot(image: &Image, disk: &dyn Disk, config: &Shared, name: &str, sparse: bool) -> overlaybd::Result<Snapshot> {
    let (data, index) = files(name);
    let (config, after) = (config.clone(), config.lock().unwrap().after(name));
    let publish = move || {
        *config.lock().unwrap() = after.clone();
        Ok(())
    };
    image.snapshot(disk, &NewUpper { data: &data, index: &index, sparse }, Box::new(publish))
}

/// Carries out an operation, None is a flush. What a failed one has left stays `unsure` until it is written again.
fn perform(
    image: &Image,
    op: Option<(u64, u64, u8, bool)>,
    expected: &mut Expected,
    unsure: &mut BTreeSet<usize>,
) -> overlaybd::Result<()> {
    let Some((sector, count, value, discard)) = op else {
        image.flush()?;
        let sure = expected.0.iter_mut().enumerate().filter(|(number, _)| !unsure.contains(number));
        sure.for_each(|(_, values)| drop(values.drain(..values.len() - 1)));
        return Ok(());
    };
    let result = match discard {
        true => image.discard(sector * 512, count * 512),
        false => image.write_at(&vec![value; count as usize * 512], sector * 512),
    };
    let sectors = sector as usize..(sector + count) as usize;
    if result.is_ok() {
        expected.set(sector, count, value);
        unsure.retain(|number| !sectors.contains(number));
    } else {
        expected.maybe(sector, count, value);
        unsure.extend(sectors);
    }
    result
}

/// Works on an image, takes snapshots, grows it, loses power, opens it again.
fn live(seed: u64) {
    let mut random = Random(seed);
    let disk = MemDisk::default();
    let (config, mut expected) = begin(&disk, seed.is_multiple_of(2), !seed.is_multiple_of(3));
    let mut unsure = BTreeSet::new();
    let mut image = config.lock().unwrap().open(&disk).unwrap();
    for step in 0..60 {
        let what = format!("seed {seed}, step {step}");
        match random.below(12) {
            0 => {
                let (name, sparse) = (format!("u{}", step + 1), random.below(2) == 0);
                if random.below(2) == 0 {
                    new_pair(&disk, &name, [0, image.size()][random.below(2) as usize], sparse);
                }
                snapshot(&image, &disk, &config, &name, sparse).unwrap();
                let config = config.lock().unwrap();
                expected.settle();
                expected.check(&config.frozen(&disk), &format!("{what}: below the cut"));
            }
            1 => {
                let size = image.size() + (1 + random.below(4)) * 512;
                image.resize(size).unwrap();
                assert_eq!(image.size(), size, "{what}");
                expected.settle();
                expected.0.resize(size as usize / 512, vec![0]);
            }
            2 => {
                drop(image);
                if random.below(2) == 0 {
                    disk.crash(&mut random);
                }
                image = config.lock().unwrap().open(&disk).unwrap();
                let device = flatten(&image);
                assert_eq!(device.len(), expected.0.len() * 512, "{what}");
                expected.check(&device, &what);
                expected = Expected(device.chunks(512).map(|sector| vec![sector[0]]).collect());
                image.flush().unwrap();
            }
            _ => perform(&image, random_op(&mut random, step), &mut expected, &mut unsure).unwrap(),
        }
        for (sector, values) in flatten(&image).chunks(512).zip(&expected.0) {
            assert_eq!(Some(&sector[0]), values.last(), "{what}");
        }
    }
}

#[test]
fn snapshots_and_growth_survive_power_failures() {
    (1..120).for_each(|seed| live(seed * 0x9e37_79b9));
}

/// Takes a snapshot on a disk of which one operation fails, goes on, loses power.
fn faulty(kinds: [bool; 2], fault: Fault) {
    for at in 0.. {
        let what = format!("sparse {kinds:?}, {fault:?} at operation {at}");
        let disk = MemDisk::default();
        let (config, mut expected) = begin(&disk, kinds[0], at % 2 == 0);
        let faulty = FaultDisk::new(Arc::new(disk.clone()), at, fault);
        let Ok(image) = config.lock().unwrap().open(&faulty) else { continue };
        let mut random = Random(4711 + at);
        let mut unsure = BTreeSet::new();
        for round in 0..15 {
            let _ = perform(&image, random_op(&mut random, round), &mut expected, &mut unsure);
        }
        let mut taken = snapshot(&image, &faulty, &config, "u1", kinds[1]);
        for round in 15..25 {
            let _ = perform(&image, random_op(&mut random, round), &mut expected, &mut unsure);
        }
        if let Err(e) = &taken {
            assert!(matches!(e.kind(), Kind::Io | Kind::NoSpace), "{what}: {e}");
            if random.below(2) == 0 {
                taken = snapshot(&image, &faulty, &config, "u1", kinds[1]);
            }
        }
        let flushed = perform(&image, None, &mut expected, &mut unsure);
        assert!(taken.is_err() || flushed.is_ok() || faulty.counted() > at, "{what}");
        expected.check(&flatten(&image), &what);
        drop(image);
        disk.crash(&mut random);
        expected.check(&flatten(&config.lock().unwrap().open(&disk).unwrap()), &what);
        if faulty.counted() <= at {
            return;
        }
    }
}

#[test]
fn a_snapshot_that_fails_loses_nothing() {
    for kinds in [[false, false], [false, true], [true, false], [true, true]] {
        for fault in [Fault::Errno(libc::EIO), Fault::Short(7, libc::ENOSPC), Fault::Short(700, libc::EIO)] {
            faulty(kinds, fault);
        }
    }
}

#[test]
fn a_snapshot_that_could_not_be_published_is_finished_by_a_flush_or_by_repeating_it() {
    let disk = MemDisk::default();
    let (config, _) = begin(&disk, false, true);
    let image = config.lock().unwrap().open(&disk).unwrap();
    image.write_at(&[1; 4096], 0).unwrap();
    let take = |name: &str, mut results: Vec<overlaybd::Result<()>>| {
        let (data, index) = files(name);
        let publish = move || results.pop().unwrap_or(Ok(()));
        image.snapshot(&disk, &NewUpper { data: &data, index: &index, sparse: false }, Box::new(publish))
    };
    let no = || Err(Error::new(Kind::Denied, "no"));
    assert_eq!(take("u1", vec![no(), no()]).unwrap_err().kind(), Kind::Denied);
    image.write_at(&[2; 4096], 4096).unwrap();
    assert_eq!(image.flush().unwrap_err().kind(), Kind::Denied, "a restart would not find it");
    image.flush().unwrap();
    assert_eq!(take("u1", vec![]).unwrap_err().kind(), Kind::Invalid, "it is the present upper");
    take("u2", vec![no()]).unwrap_err();
    take("u2", vec![]).unwrap();
    take("u3", vec![no()]).unwrap_err();
    take("u4", vec![]).unwrap();
    let device = flatten(&image);
    let config =
        ["u1", "u2", "u3", "u4"].iter().fold(config.lock().unwrap().clone(), |config, name| config.after(name));
    drop(image);
    assert!(flatten(&config.open(&disk).unwrap()) == device);
    assert!(device[..4096] == [1; 4096] && device[4096..8192] == [2; 4096]);
}

/// Announces, and never publishes.
struct Announced(Arc<AtomicBool>);

impl Publish for Announced {
    fn announce(&mut self) -> overlaybd::Result<()> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn publish(&mut self) -> overlaybd::Result<()> {
        Err(Error::new(Kind::Denied, "no"))
    }
}

#[test]
fn a_snapshot_that_was_interrupted_is_finished_without_loss_wherever_that_was() {
    for (at, sparse) in (0..40).flat_map(|at| [(at, false), (at, true)]) {
        let disk = MemDisk::default();
        let (config, _) = begin(&disk, sparse, true);
        let config = config.lock().unwrap().clone();
        let (data, index) = files("u1");
        // One thing fails; then the process is gone.
        let Ok(image) = config.open(&FaultDisk::new(Arc::new(disk.clone()), at, Fault::Errno(5))) else { continue };
        let announced = Arc::new(AtomicBool::new(false));
        drop(image.write_at(&[1; 4096], 0));
        let new = NewUpper { data: &data, index: &index, sparse };
        drop(image.snapshot(&disk, &new, Box::new(Announced(announced.clone()))));
        drop(image.write_at(&[2; 4096], 8192));
        let device = flatten(&image);
        drop(image);
        let after = if announced.load(Ordering::Relaxed) {
            let old = files("u0");
            let finish = |disk: &dyn Disk, result: Kind| {
                let mut publish = || if result == Kind::Denied { Err(Error::new(result, "no")) } else { Ok(()) };
                finish_snapshot(disk, (&old.0, &old.1), (&data, &index), &mut publish)
            };
            for failing in 0..6 {
                drop(finish(&FaultDisk::new(Arc::new(disk.clone()), failing, Fault::Errno(5)), Kind::Denied));
            }
            assert_eq!(finish(&disk, Kind::Denied).unwrap_err().kind(), Kind::Denied);
            match finish(&disk, Kind::Io).unwrap() {
                true => config.after("u1"),
                false => config,
            }
        } else {
            config
        };
        assert!(flatten(&after.open(&disk).unwrap()) == device, "at {at}, sparse {sparse}");
    }
}

#[test]
fn a_sparse_upper_of_a_device_that_ends_within_a_block_can_be_sealed() {
    for sectors in [9u64, 10, 12, 15, 16] {
        let disk = MemDisk::default();
        new_pair(&disk, "u0", 8 * 512, true);
        let config = Arc::new(Mutex::new(Config { lowers: vec![], upper: "u0".to_string() }));
        let image = config.lock().unwrap().open(&disk).unwrap();
        image.resize(sectors * 512).unwrap();
        image.write_at(&[7; 512], (sectors - 1) * 512).unwrap();
        let content = flatten(&image);
        snapshot(&image, &disk, &config, "u1", true).unwrap();
        assert!(flatten(&image) == content);
        drop(image);
        let config = config.lock().unwrap().clone();
        assert!(config.frozen(&disk) == content, "{sectors} sectors");
        assert!(flatten(&config.open(&disk).unwrap()) == content);
    }
}

#[test]
fn what_a_failed_write_leaves_of_a_discarded_sector_does_not_come_back() {
    let mut failed = 0;
    for at in 0.. {
        let disk = MemDisk::default();
        new_pair(&disk, "u0", 32 * 512, true);
        let config = Config { lowers: vec![], upper: "u0".to_string() };
        let faulty = FaultDisk::new(Arc::new(disk.clone()), at, Fault::Short(512, libc::ENOSPC));
        let Ok(image) = config.open(&faulty) else { continue };
        if image.write_at(&[7; 16 * 512], 8 * 512).is_err() || image.discard(9 * 512, 512).is_err() {
            continue;
        }
        if image.write_at(&[8; 2 * 512], 9 * 512).is_err() {
            failed += 1;
            let content = flatten(&image);
            drop(image);
            assert!(flatten(&config.open(&disk).unwrap()) == content, "operation {at}");
        }
        if faulty.counted() <= at {
            break;
        }
    }
    assert!(failed > 0);
}

#[test]
fn what_a_seal_puts_behind_the_device_is_no_data_of_its_last_block() {
    for sectors in [9u64, 10, 15, 16] {
        let disk = MemDisk::default();
        new_pair(&disk, "u0", sectors * 512, true);
        let config = Arc::new(Mutex::new(Config { lowers: vec![], upper: "u0".to_string() }));
        let image = config.lock().unwrap().open(&disk).unwrap();
        image.write_at(&[7; 512], (sectors - 1) * 512).unwrap();
        let content = flatten(&image);
        snapshot(&image, &disk, &config, "u1", true).unwrap();
        snapshot(&image, &disk, &config, "u2", true).unwrap();
        drop(image);
        // As a restart finds it after a snapshot that was sealed and not put in place.
        let before = Config { lowers: vec![files("u0").0], upper: "u1".to_string() };
        assert!(flatten(&before.open(&disk).unwrap()) == content, "{sectors} sectors");
    }
}

#[test]
fn a_write_that_fails_takes_nothing_from_the_block_in_which_the_device_once_ended() {
    let mut failed = 0;
    for at in 0.. {
        let disk = MemDisk::default();
        new_pair(&disk, "u0", 10 * 512, true);
        let faulty = FaultDisk::new(Arc::new(disk), at, Fault::Errno(libc::EIO));
        let config = Config { lowers: vec![], upper: "u0".to_string() };
        let Ok(image) = config.open(&faulty) else { continue };
        if image.write_at(&[7; 512], 9 * 512).is_err() || image.resize(24 * 512).is_err() {
            continue;
        }
        failed += usize::from(image.write_at(&[8; 512], 11 * 512).is_err());
        let mut sector = [0; 512];
        image.read_at(&mut sector, 9 * 512).unwrap();
        assert!(sector == [7; 512], "operation {at}");
        if faulty.counted() <= at {
            break;
        }
    }
    assert!(failed > 0);
}

#[test]
fn an_upper_that_lost_its_size_with_the_power_keeps_its_content() {
    for sparse in [true, false] {
        let disk = MemDisk::default();
        let (config, _) = begin(&disk, sparse, true);
        let config = config.lock().unwrap().clone();
        let image = config.open(&disk).unwrap();
        image.write_at(&[7; 3 * 512], 5 * 512).unwrap();
        let content = flatten(&image);
        drop(image);
        let (data, index) = files(&config.upper);
        for path in [data, index] {
            let file = disk.open(&path, Mode::Write).unwrap();
            if file.len().unwrap() > 0 {
                file.write_at(&[0; 8], VIRTUAL_SIZE_AT as u64).unwrap();
            }
        }
        assert!(flatten(&config.open(&disk).unwrap()) == content, "sparse: {sparse}");
    }
}

#[test]
fn a_new_upper_that_does_not_fit_is_refused_and_nothing_changes() {
    let disk = MemDisk::default();
    let (config, _) = begin(&disk, false, true);
    let image = config.lock().unwrap().open(&disk).unwrap();
    image.write_at(&[1; 512], 0).unwrap();
    let refused = |name: &str| {
        let error = snapshot(&image, &disk, &config, name, false).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
    };
    refused("u0");
    new_pair(&disk, "small", 4096, false);
    refused("small");
    new_pair(&disk, "full", SECTORS * 512, true);
    let full = Config { lowers: vec![], upper: "full".to_string() }.open(&disk).unwrap();
    full.write_at(&[9; 512], 0).unwrap();
    refused("full");
    drop(full);
    new_pair(&disk, "half", 0, false);
    disk.remove(&files("half").1).unwrap();
    refused("half");
    image.write_at(&[3; 512], 512).unwrap();
    assert_eq!(image.lowers().unwrap().blobs().len(), 1);
    let size = image.size();
    assert_eq!(image.resize(size - 512).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(image.resize(size + 1).unwrap_err().kind(), Kind::OutOfBounds);
    assert_eq!(image.size(), size);
}

#[test]
fn an_image_without_an_upper_takes_neither() {
    let disk = MemDisk::default();
    let (config, _) = begin(&disk, false, true);
    let lower: Arc<dyn Blob> = Arc::new(FileBlob::open(&disk, &config.lock().unwrap().lowers[0]).unwrap());
    let image = open(&disk, vec![lower.clone()], None).unwrap();
    assert_eq!(image.resize(1 << 20).unwrap_err().kind(), Kind::ReadOnly);
    assert_eq!(snapshot(&image, &disk, &config, "u1", false).unwrap_err().kind(), Kind::ReadOnly);
    let (data, index) = files("u0");
    let full = open(&disk, vec![lower; 255], Some((&data, &index))).unwrap();
    assert_eq!(snapshot(&full, &disk, &config, "u1", false).unwrap_err().kind(), Kind::Limit);
}

#[test]
fn a_flush_that_meets_a_seal_makes_durable_what_a_restart_reads() {
    for seed in 1..20 {
        let disk = MemDisk::default();
        new_pair(&disk, "u0", SECTORS * 512, seed % 2 == 0);
        let (data, index) = files("u0");
        let upper = Upper::open(&disk, &data, &index).unwrap();
        upper.write_at(&vec![7; SECTORS as usize * 512], 0, |_, _| Ok(())).unwrap();
        upper.seal().unwrap();
        upper.flush().unwrap(); // begun before the cut, say, and late
        drop(upper);
        disk.crash(&mut Random(seed));
        let image = Config { lowers: vec![], upper: "u0".to_string() }.open(&disk).unwrap();
        assert!(flatten(&image).iter().all(|byte| *byte == 7), "seed {seed}: not yet published, and lost");
    }
}

#[test]
fn a_flush_that_meets_a_seal_succeeds() {
    for round in 0..2000 {
        let disk = MemDisk::default();
        new_pair(&disk, "u0", SECTORS * 512, false);
        let upper = Upper::open(&disk, &files("u0").0, &files("u0").1).unwrap();
        let (both, sealed) = (Barrier::new(2), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                both.wait();
                while !sealed.load(Ordering::Relaxed) {
                    upper.flush().unwrap();
                }
            });
            both.wait();
            (0..round % 100).for_each(|_| std::hint::spin_loop());
            upper.seal().unwrap();
            sealed.store(true, Ordering::Relaxed);
        });
    }
}
