//! Measures what recording costs a read that needs nothing but the page cache, alone and with the audit log on.
//!
//! Prints one line of JSON for each measurement. The peer is a read of 4 KiB from a layer file without any recording,
//! the ratio that of such a read with and without it. What counting adds is less than what one run differs from the
//! next, so it is measured around nothing. All take turns, and the best of each counts.

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use overlaybd::audit;
use overlaybd::blob::{Blob, FileBlob};
use overlaybd::metrics::{self, Latency};
use overlaybd::sys::os::OsDisk;

const BYTES: u64 = 64 << 20;
const BLOCK: u64 = 4096;
const READS: u64 = 2000;
const ROUNDS: usize = 500;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Nanoseconds of one read.
fn time(mut read: impl FnMut(u64)) -> f64 {
    let (start, mut state) = (Instant::now(), 88_172_645_463_325_252_u64);
    for _ in 0..READS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        read((state >> 16) % (BYTES / BLOCK) * BLOCK);
    }
    start.elapsed().as_nanos() as f64 / READS as f64
}

fn main() -> Fallible<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("layer");
    std::fs::File::create(&path)?.write_all(&vec![7; BYTES as usize])?;
    let blob: Arc<dyn Blob> = Arc::new(FileBlob::open(&OsDisk, &path)?);
    let latency = Latency::default();
    let mut buf = [0; BLOCK as usize];
    let [mut plain, mut nothing, mut counted, mut audited] = [f64::MAX; 4];
    for _ in 0..ROUNDS {
        plain = plain.min(time(|at| drop(black_box(blob.read_at(&mut buf, at)))));
        nothing = nothing.min(time(|at| {
            black_box(at);
        }));
        counted = counted.min(time(|at| {
            black_box(metrics::read(&latency, || black_box(at)));
        }));
        audit::start();
        audited = audited.min(time(|at| drop(black_box(blob.read_at(&mut buf, at)))));
        audit::stop();
    }
    for (name, value) in [("hit", plain + counted - nothing), ("hit_with_audit", audited + counted - nothing)] {
        println!(
            "{{\"name\": \"metrics.{name}\", \"value\": {value:.1}, \"unit\": \"ns\", \
             \"peer\": \"without: {plain:.1} ns\", \"ratio\": {:.4}}}",
            value / plain
        );
    }
    Ok(())
}
