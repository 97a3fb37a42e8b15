//! Measures the engines for local layer files against `pread`, and that the default is the fastest of them.
//!
//! Prints one line of JSON for each measurement. The file is in the directory for temporary ones: `warm` reads what the
//! page cache holds, `cold` what it was made to forget before. A layer has 4 KiB read here and there by one thread or
//! by many, or 1 MiB after 1 MiB. Engines take turns, and the best of each counts.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use overlaybd::blob::{Blob, FileBlob};
use overlaybd::engine::{notices, Kind};
use overlaybd::sys::os::OsDisk;

const BYTES: u64 = 512 << 20;
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_millis(250);

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// How the file is read.
struct Load {
    name: &'static str,
    unit: &'static str,
    threads: u64,
    /// Bytes of one read.
    bytes: u64,
    random: bool,
}

const LOADS: [Load; 3] = [
    Load { name: "randread_qd1", unit: "reads/s", threads: 1, bytes: 4096, random: true },
    Load { name: "randread_16_threads", unit: "reads/s", threads: 16, bytes: 4096, random: true },
    Load { name: "seqread_1m", unit: "reads/s", threads: 1, bytes: 1 << 20, random: false },
];

fn row(name: &str, value: f64, unit: &str, peer: &str, ratio: f64) {
    println!(
        "{{\"name\": \"engine.{name}\", \"value\": {value:.1}, \"unit\": \"{unit}\", \"peer\": \"{peer}\", \
         \"ratio\": {ratio:.4}}}"
    );
}

/// Has the page cache forget the file, as far as it can.
fn forget(path: &Path) -> Fallible<()> {
    let file = File::open(path)?;
    // SAFETY: plain system call on an open descriptor.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    Ok(())
}

/// Reads a second of all threads together.
fn speed(blob: &FileBlob, load: &Load) -> f64 {
    let start = Instant::now();
    let work = |thread: u64| {
        let mut buf = vec![0; load.bytes as usize];
        let (mut state, mut done) =
            (88_172_645_463_325_252_u64 ^ (thread << 32 | start.elapsed().as_nanos() as u64), 0);
        while start.elapsed() < TIME {
            let block = if load.random {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state >> 16
            } else {
                done
            };
            blob.read_at(&mut buf, block % (BYTES / load.bytes) * load.bytes).expect("read");
            done += 1;
        }
        done
    };
    let done: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..load.threads).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("reader")).sum()
    });
    done as f64 / start.elapsed().as_secs_f64()
}

fn main() -> Fallible<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("layer");
    let mut file = File::create(&path)?;
    for number in 0..BYTES >> 20 {
        file.write_all(&vec![number as u8; 1 << 20])?;
    }
    file.sync_all()?;
    let mut product = [1.0; Kind::ALL.len()];
    for cold in [false, true] {
        for load in &LOADS {
            let mut best = [0.0_f64; Kind::ALL.len()];
            for _ in 0..ROUNDS {
                for kind in Kind::ALL {
                    let blob = FileBlob::open_with(&OsDisk, &path, kind)?;
                    if cold {
                        forget(&path)?;
                    }
                    best[kind as usize] = best[kind as usize].max(speed(&blob, load));
                }
            }
            let plain = best[Kind::Psync as usize];
            for kind in Kind::ALL {
                product[kind as usize] *= best[kind as usize] / plain;
                if kind != Kind::Psync {
                    let state = if cold { "cold" } else { "warm" };
                    let name = format!("{}.{state}.{}", load.name, kind.name().replace(' ', "_"));
                    let peer = format!("psync: {plain:.0} {}", load.unit);
                    row(&name, best[kind as usize], load.unit, &peer, best[kind as usize] / plain);
                }
            }
        }
    }
    for line in notices() {
        eprintln!("{line}");
    }
    let workloads = (2 * LOADS.len()) as f64;
    let mean = product.map(|p: f64| p.powf(1.0 / workloads));
    let best = mean.iter().copied().fold(0.0, f64::max);
    let ours = mean[Kind::default() as usize];
    row("default", ours, "x psync", "the best engine, mean of all loads", ours / best);
    Ok(())
}
