//! Measures what recording a trace costs the reads of an image that needs nothing but the page cache.
//!
//! The ratio is that of the time of random 4 KiB reads with a recording and without one, in turns; the median counts.
//! Every recording begins anew, so that what it notes first is part of it. Images are compressed as a rule, which is
//! where the bar is; of a plain layer even a read is not much more than a system call.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use overlaybd::blob::{Blob, FileBlob};
use overlaybd::device::BlockDevice;
use overlaybd::disk::{Holes, Raw};
use overlaybd::image;
use overlaybd::lsmt::commit::CommitOptions;
use overlaybd::lsmt::import::import;
use overlaybd::progress::silent;
use overlaybd::sink::{FileSink, Sink};
use overlaybd::sys::os::OsDisk;
use overlaybd::sys::{Disk, Mode};
use overlaybd::zfile::{Builder, Options};

const BYTES: u64 = 64 << 20;
const BLOCK: u64 = 4096;
/// What starting an app reads: each round reads some of the image for the first time, and much of it again.
const READS: u64 = 50_000;
const ROUNDS: usize = 41;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// A disk of bytes that compress by half.
fn raw(path: &Path) -> Fallible<()> {
    let (file, mut state) = (File::create(path)?, 88_172_645_463_325_252_u64);
    let mut piece = vec![0; 1 << 20];
    for at in (0..BYTES).step_by(piece.len()) {
        for run in piece.chunks_exact_mut(16) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            run[..8].copy_from_slice(&state.to_le_bytes());
            run[8..].fill(at as u8 | 1);
        }
        file.write_all_at(&piece, at)?;
    }
    Ok(())
}

/// The disk as a layer.
fn layer(raw: &Path, path: &Path, compressed: bool) -> Fallible<()> {
    let (source, options) = (Raw::of_size(OsDisk.open(raw, Mode::Read)?, BYTES)?, CommitOptions::default());
    let mut file = FileSink::new(OsDisk.open(path, Mode::New)?);
    if compressed {
        let mut sink = Builder::new(file, Options::default())?;
        import(&source, Holes::Zeros, &options, &mut sink, &mut silent)?;
        sink.finish()?;
    } else {
        import(&source, Holes::Zeros, &options, &mut file, &mut silent)?;
        file.finish()?;
    }
    Ok(())
}

/// Nanoseconds of one read.
fn time(image: &dyn BlockDevice, state: &mut u64) -> Fallible<f64> {
    let (mut buf, start) = ([0; BLOCK as usize], Instant::now());
    for _ in 0..READS {
        *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        image.read_at(&mut buf, (*state >> 33) % (BYTES / BLOCK) * BLOCK)?;
    }
    Ok(start.elapsed().as_nanos() as f64 / READS as f64)
}

fn measure(name: &str, path: &Path) -> Fallible<()> {
    let blob: Arc<dyn Blob> = Arc::new(FileBlob::open(&OsDisk, path)?);
    let image = image::open(&OsDisk, vec![blob], None)?;
    let (mut state, mut rounds) = (1, Vec::new());
    time(&image, &mut state)?;
    for _ in 0..ROUNDS {
        // The same reads with and without.
        let (mut first, mut again) = (state, state);
        let without = time(&image, &mut first)?;
        image.recorder().start()?;
        let with = time(&image, &mut again)?;
        assert!(image.recorder().stop()?.len() > 1000, "nothing was recorded");
        state = first;
        rounds.push((with / without, with, without));
    }
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, with, without) = rounds[ROUNDS / 2];
    println!(
        "{{\"name\": \"trace.{name}\", \"value\": {with:.1}, \"unit\": \"ns\", \
         \"peer\": \"without: {without:.1} ns\", \"ratio\": {ratio:.4}}}"
    );
    Ok(())
}

fn main() -> Fallible<()> {
    let home = tempfile::tempdir()?;
    let disk = home.path().join("raw");
    raw(&disk)?;
    for (name, compressed) in [("record_cost", true), ("record_cost_plain", false)] {
        let path = home.path().join(name);
        layer(&disk, &path, compressed)?;
        measure(name, &path)?;
    }
    Ok(())
}
