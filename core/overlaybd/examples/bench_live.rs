//! Measures what can change while a device is in use: reads of a writable image, and the pause of a snapshot.
//!
//! Prints one line of JSON for each measurement. Reads are of 4 KiB that lie in the page cache, one at a time.
//! Files are in memory where possible, so that no disk is measured.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlaybd::blob::{Blob, FileBlob};
use overlaybd::device::BlockDevice;
use overlaybd::image::{open, Image, NewUpper};
use overlaybd::lsmt::upper::{create, CreateOptions};
use overlaybd::lsmt::Upper;
use overlaybd::sys::os::OsDisk;

const BYTES: u64 = 64 << 20;
const BLOCK: u64 = 4096;
const READS: u64 = 2000;
const ROUNDS: usize = 300;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn pair(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(name), dir.join(format!("{name}.index")))
}

/// Nanoseconds of one read.
fn time(image: &Image) -> f64 {
    let (mut buf, mut state) = ([0; BLOCK as usize], 88_172_645_463_325_252_u64);
    let start = Instant::now();
    for _ in 0..READS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let at = (state >> 16) % (BYTES / BLOCK) * BLOCK;
        image.read_at(&mut buf, at).expect("read");
        black_box(&buf);
    }
    start.elapsed().as_nanos() as f64 / READS as f64
}

fn row(name: &str, value: f64, unit: &str) {
    println!(r#"{{"name": "live.{name}", "value": {value:.2}, "unit": "{unit}", "peer": null, "ratio": null}}"#);
}

fn main() -> Fallible<()> {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
    let (lower, below) = pair(dir.path(), "lower");
    create(&OsDisk, &lower, &below, &CreateOptions { size: BYTES, ..CreateOptions::default() })?;
    let upper = Upper::open(&OsDisk, &lower, &below)?;
    for at in (0..BYTES).step_by(1 << 20) {
        upper.write_at(&vec![7; 1 << 20], at, |_, _| Ok(()))?;
    }
    upper.seal()?;
    drop(upper);
    let (data, index) = pair(dir.path(), "upper");
    create(&OsDisk, &data, &index, &CreateOptions::default())?;
    let blob = || -> Fallible<Arc<dyn Blob>> { Ok(Arc::new(FileBlob::open(&OsDisk, &lower)?)) };
    let fixed = open(&OsDisk, vec![blob()?], None)?;
    let live = open(&OsDisk, vec![blob()?], Some((&data, &index)))?;
    let [mut alone, mut under_upper] = [f64::MAX; 2];
    for _ in 0..ROUNDS {
        alone = alone.min(time(&fixed));
        under_upper = under_upper.min(time(&live));
    }
    row("read_only", alone, "ns");
    row("read_writable", under_upper, "ns");
    drop(live);
    pauses(dir.path(), false)?;
    pauses(dir.path(), true)
}

/// The longest read and write while snapshots of an upper with many entries are taken, and what they say themselves.
fn pauses(dir: &Path, sparse: bool) -> Fallible<()> {
    const SIZE: u64 = 256 << 20;
    const SNAPSHOTS: u64 = 3;
    let kind = if sparse { "sparse" } else { "log" };
    let name = |number: u64| pair(dir, &format!("{kind}{number}"));
    let first = name(0);
    create(&OsDisk, &first.0, &first.1, &CreateOptions { size: SIZE, sparse, ..CreateOptions::default() })?;
    let image = open(&OsDisk, vec![], Some((&first.0, &first.1)))?;
    let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
    // In milliseconds: before the first snapshot, and from then on.
    let longest = |write: bool| {
        let (mut longest, mut state, mut buf) = ([0.0; 2], 88_172_645_463_325_252_u64, [7; BLOCK as usize]);
        while !over.load(Ordering::Relaxed) {
            let phase = usize::from(begun.load(Ordering::Relaxed));
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = (state >> 16) % (SIZE / BLOCK) * BLOCK;
            let start = Instant::now();
            if write {
                image.write_at(&buf, at).expect("write");
            } else {
                image.read_at(&mut buf, at).expect("read");
            }
            longest[phase] = f64::max(longest[phase], start.elapsed().as_secs_f64() * 1e3);
        }
        longest
    };
    let (mut pause, mut segments, mut whole) = (0.0, 0, 0.0);
    let (read, write) = std::thread::scope(|scope| -> Fallible<([f64; 2], [f64; 2])> {
        let (reader, writer) = (scope.spawn(|| longest(false)), scope.spawn(|| longest(true)));
        for number in 1..=SNAPSHOTS {
            std::thread::sleep(Duration::from_millis(400));
            begun.store(true, Ordering::Relaxed);
            let (data, index) = name(number);
            let start = Instant::now();
            let new = NewUpper { data: &data, index: &index, sparse };
            let taken = image.snapshot(&OsDisk, &new, Box::new(|| Ok(())))?;
            pause = f64::max(pause, taken.pause.as_secs_f64() * 1e3);
            (segments, whole) = (segments.max(taken.segments), f64::max(whole, start.elapsed().as_secs_f64() * 1e3));
        }
        over.store(true, Ordering::Relaxed);
        Ok((reader.join().expect("reader"), writer.join().expect("writer")))
    })?;
    let rows = [
        ("cut", pause),
        ("longest_read_before", read[0]),
        ("longest_read", read[1]),
        ("longest_write_before", write[0]),
        ("longest_write", write[1]),
        ("whole", whole),
    ];
    for (what, value) in rows {
        row(&format!("snapshot_{kind}_{what}"), value, "ms");
    }
    row(&format!("snapshot_{kind}_entries"), segments as f64, "");
    Ok(())
}
