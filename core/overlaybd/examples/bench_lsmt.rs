//! Measures commit and merge against `cp` of the same bytes, and the memory of an idle image.
//!
//! Prints one line of JSON for each measurement. Files are in the directory for temporary ones. Both
//! sides of a comparison run in turn, and the best of each counts, so that what else the machine does
//! hits neither. `cp` copies what commit or merge has just made, and so finds it in the caches. The
//! `_cpu` rows compare processor time, which says more on a machine that is busy with other things.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Instant;

use overlaybd::blob::FileBlob;
use overlaybd::image::Image;
use overlaybd::lsmt::commit::{commit, merge, CommitOptions};
use overlaybd::lsmt::upper::{create, open_as_layer, CreateOptions};
use overlaybd::lsmt::{Layer, Stack, Upper};
use overlaybd::progress::silent;
use overlaybd::sink::FileSink;
use overlaybd::sys::os::OsDisk;
use overlaybd::sys::{Disk, Mode};

const ROUNDS: usize = 15;
/// Bytes of the layer that is committed, and of the layers that are merged.
const BYTES: u64 = 192 << 20;
const MERGED_LAYERS: u64 = 4;
const IDLE_LAYERS: u64 = 100;
const IDLE_SEGMENTS: u64 = 1000;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Counts the bytes allocated, to tell what an image holds.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all memory comes from and goes back to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A xorshift generator: every run measures the same layers.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn main() -> Fallible<()> {
    let dir = tempfile::tempdir()?;
    against_cp(dir.path())?;
    idle_image(dir.path())
}

/// Prints a measurement.
fn row(name: &str, value: f64, unit: &str, peer: Option<&str>, ratio: Option<f64>) {
    let peer = peer.map_or("null".to_string(), |peer| format!("{peer:?}"));
    let ratio = ratio.map_or("null".to_string(), |ratio| format!("{ratio:.3}"));
    println!(r#"{{"name": "lsmt.{name}", "value": {value:.2}, "unit": "{unit}", "peer": {peer}, "ratio": {ratio}}}"#);
}

/// A pair of files with so many bytes, written in runs of 4 KiB to 1 MiB all over a device.
fn written(dir: &Path, name: &str, bytes: u64, random: &mut Random) -> Fallible<(PathBuf, PathBuf)> {
    let files = (dir.join(format!("{name}.data")), dir.join(format!("{name}.index")));
    create(&OsDisk, &files.0, &files.1, &CreateOptions { size: 4 * BYTES, ..CreateOptions::default() })?;
    let upper = Upper::open(&OsDisk, &files.0, &files.1)?;
    let noise: Vec<u8> = (0..(1 << 20) + 8192).map(|_| random.below(256) as u8).collect();
    let mut done = 0;
    while done < bytes {
        let len = 4096 << random.below(9);
        let at = random.below((4 * BYTES - len) / 4096) * 4096;
        let from = random.below(4096) as usize;
        upper.write_at(&noise[from..from + len as usize], at, |_, _| Ok(()))?;
        done += len;
    }
    upper.flush()?;
    Ok(files)
}

fn against_cp(dir: &Path) -> Fallible<()> {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let single = written(dir, "single", BYTES, &mut random)?;
    let many = (0..MERGED_LAYERS)
        .map(|n| written(dir, &format!("layer{n}"), BYTES / MERGED_LAYERS, &mut random))
        .collect::<Fallible<Vec<_>>>()?;
    let open = |files: &(PathBuf, PathBuf)| open_as_layer(&OsDisk, &files.0, &files.1).map(|(layer, _)| layer);
    let options = CommitOptions::default();
    compare("commit", dir, |sink| Ok(commit(&open(&single)?, &options, sink, &mut silent).map(drop)?))?;
    compare("merge", dir, |sink| {
        let layers = many.iter().map(open).collect::<overlaybd::Result<_>>()?;
        Ok(merge(layers, &options, sink, &mut silent).map(drop)?)
    })
}

/// User and system time so far, of this process or of its children that have ended.
fn processor_seconds(who: i32) -> f64 {
    // SAFETY: an all-zero rusage is a valid value to be overwritten.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` outlives the call.
    unsafe { libc::getrusage(who, &mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// The least wall time and the least processor time of one side of a comparison.
struct Best {
    who: i32,
    wall: f64,
    cpu: f64,
}

impl Best {
    fn of(who: i32) -> Best {
        Best { who, wall: f64::MAX, cpu: f64::MAX }
    }

    fn time(&mut self, job: impl FnOnce() -> Fallible<()>) -> Fallible<()> {
        let (start, before) = (Instant::now(), processor_seconds(self.who));
        job()?;
        self.wall = self.wall.min(start.elapsed().as_secs_f64());
        self.cpu = self.cpu.min(processor_seconds(self.who) - before);
        Ok(())
    }
}

/// Runs `job` and `cp` of what it made in turn; each begins without its output.
fn compare(name: &str, dir: &Path, job: impl Fn(&mut FileSink) -> Fallible<()>) -> Fallible<()> {
    let (output, copy) = (dir.join("output"), dir.join("copy"));
    let (mut ours, mut theirs) = (Best::of(libc::RUSAGE_SELF), Best::of(libc::RUSAGE_CHILDREN));
    let mut megabytes = 0.0;
    for _ in 0..ROUNDS {
        ours.time(|| job(&mut FileSink::new(OsDisk.open(&output, Mode::New)?)))?;
        theirs.time(|| {
            let done = Command::new("cp").args([&output, &copy]).status()?;
            assert!(done.success(), "cp failed");
            Ok(())
        })?;
        megabytes = std::fs::metadata(&output)?.len() as f64 / 1e6;
        std::fs::remove_file(&output)?;
        std::fs::remove_file(&copy)?;
    }
    for (kind, ours, theirs) in [("", ours.wall, theirs.wall), ("_cpu", ours.cpu, theirs.cpu)] {
        let peer = format!("cp: {:.0} MB/s", megabytes / theirs);
        row(&format!("{name}{kind}"), megabytes / ours, "MB/s", Some(&peer), Some(theirs / ours));
    }
    Ok(())
}

/// What an open image of many layers holds beyond its index, and how long opening takes.
fn idle_image(dir: &Path) -> Fallible<()> {
    let mut random = Random(88_172_645_463_325_252);
    let mut paths = Vec::new();
    for number in 0..IDLE_LAYERS {
        let files = (dir.join(format!("{number}.idle")), dir.join(format!("{number}.idle.index")));
        create(&OsDisk, &files.0, &files.1, &CreateOptions { size: 64 << 30, ..CreateOptions::default() })?;
        let upper = Upper::open(&OsDisk, &files.0, &files.1)?;
        for _ in 0..IDLE_SEGMENTS {
            upper.write_at(&[7; 512], random.below((64 << 30) / 512) * 512, |_, _| Ok(()))?;
        }
        upper.seal()?;
        paths.push(files.0);
    }
    let before = HELD.load(Relaxed);
    let start = Instant::now();
    let layers = paths.iter().map(|path| Layer::open(Arc::new(FileBlob::open(&OsDisk, path)?)));
    let image = Image::new(Some(Stack::new(layers.collect::<overlaybd::Result<_>>()?)?), None)?;
    let seconds = start.elapsed().as_secs_f64();
    let lowers = image.lowers().expect("lowers");
    let index = lowers.index();
    let (held, of_index) = (HELD.load(Relaxed) - before, index.memory_bytes());
    row("idle_image_bytes", (held - of_index) as f64, "bytes", Some(&format!("its index: {of_index}")), None);
    row("bytes_per_segment", of_index as f64 / index.len() as f64, "bytes", None, None);
    row("open_100_files_ms", seconds * 1e3, "ms", None, None);
    Ok(())
}
