//! Measures zfiles against the bare codecs over the same blocks; prints a line of JSON a measurement.
//!
//! The content is this program's own executable, again and again: real code and data, and blocks are compressed
//! each for itself. Both sides of a comparison run in turn, and the medians are compared.

use std::mem::take;
use std::sync::Arc;
use std::time::Instant;

use overlaybd::blob::{Blob, FileBlob};
use overlaybd::sink::{MemorySink, Sink};
use overlaybd::sys::os::OsFile;
use overlaybd::zfile::codec::{bound, Codecs};
use overlaybd::zfile::{crc, Algorithm, Builder, Options, Reader};

const BLOCK: usize = 4096;
const CONTENT: usize = 64 << 20;
const ROUNDS: usize = 9;
const RANDOM_READS: usize = 20_000;
const SEQUENTIAL_READ: usize = 1 << 20;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let executable = std::fs::read(std::env::current_exe()?)?;
    let plain: Vec<u8> = executable.iter().copied().cycle().take(CONTENT).collect();
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        build(&plain, algorithm)?;
        read(&plain, algorithm)?;
    }
    Ok(())
}

/// Prints a measurement and its ratio to a peer's, both in MB/s of plain bytes.
fn report(what: &str, algorithm: Algorithm, ours: f64, peer: &str, theirs: f64) {
    let (name, ratio) = (algorithm.name(), ours / theirs);
    println!(
        r#"{{"name": "zfile.{what}.{name}", "value": {:.1}, "unit": "MB/s", "peer": "{peer}", "ratio": {ratio:.3}}}"#,
        ours / 1e6
    );
}

/// Runs several jobs in turn, `ROUNDS` times; each one's median speed in bytes a second.
fn medians<const N: usize>(bytes: usize, mut jobs: [&mut dyn FnMut() -> Fallible<()>; N]) -> Fallible<[f64; N]> {
    let mut times = [const { Vec::new() }; N];
    for round in 0..=ROUNDS {
        for (job, times) in jobs.iter_mut().zip(&mut times) {
            let start = Instant::now();
            job()?;
            if round > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        bytes as f64 / times[ROUNDS / 2]
    }))
}

/// Makes `memory` a zfile of `plain`. It held an older one: that the system gives out memory must not count.
fn compress(plain: &[u8], options: Options, memory: &mut Vec<u8>) -> Fallible<()> {
    memory.clear();
    let sink = MemorySink { bytes: take(memory) };
    let mut builder = Builder::new(sink, options)?;
    for bytes in plain.chunks(SEQUENTIAL_READ) {
        builder.write(bytes)?;
    }
    builder.finish()?;
    *memory = builder.into_sink().bytes;
    Ok(())
}

fn build(plain: &[u8], algorithm: Algorithm) -> Fallible<()> {
    let options = |threads| Options { algorithm, block_size: BLOCK as u32, threads, ..Options::default() };
    let mut codecs = Codecs::default();
    let mut packed = vec![0; bound(BLOCK)];
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    let [bare, one, two] = medians(
        plain.len(),
        [
            &mut || {
                let codec = codecs.get(algorithm);
                for block in plain.chunks(BLOCK) {
                    let n = codec.compress(block, &mut packed)?;
                    std::hint::black_box(crc::raw(crc::BLOCK_START, &packed[..n]));
                }
                Ok(())
            },
            &mut || compress(plain, options(1), &mut alone),
            &mut || compress(plain, options(2), &mut together),
        ],
    )?;
    assert!(alone == together);
    report("build", algorithm, one, "bare codec and CRC", bare);
    report("scale", algorithm, two, "one thread", one);
    Ok(())
}

/// Where the stored blocks of a zfile are in its bytes, without their checksums.
fn blocks_of(zfile: &[u8]) -> Vec<std::ops::Range<usize>> {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| zfile[at + i])) as usize;
    let table = &zfile[word(zfile.len() - 512 + 40)..zfile.len() - 512];
    let mut at = 512;
    let stored = table.chunks_exact(4).map(|entry| {
        let start = at;
        at += u32::from_le_bytes(std::array::from_fn(|i| entry[i])) as usize;
        start..at - 4
    });
    stored.collect()
}

fn read(plain: &[u8], algorithm: Algorithm) -> Fallible<()> {
    let mut zfile = Vec::new();
    compress(plain, Options { algorithm, block_size: BLOCK as u32, ..Options::default() }, &mut zfile)?;
    let blocks = blocks_of(&zfile);
    let file = tempfile::tempfile()?;
    std::os::unix::fs::FileExt::write_all_at(&file, &zfile, 0)?;
    let reader = Reader::open(Arc::new(FileBlob::new(Arc::new(OsFile::new(file, "bench")))?))?;
    let mut codecs = Codecs::default();

    let (mut whole, mut piece) = (vec![0; plain.len()], vec![0; plain.len()]);
    let [bare, ours] = medians(
        plain.len(),
        [
            &mut || {
                let codec = codecs.get(algorithm);
                for (block, to) in blocks.iter().zip(whole.chunks_mut(BLOCK)) {
                    codec.decompress(&zfile[block.clone()], to)?;
                }
                Ok(())
            },
            &mut || {
                for (n, to) in piece.chunks_mut(SEQUENTIAL_READ).enumerate() {
                    reader.read_at(to, (n * SEQUENTIAL_READ) as u64)?;
                }
                Ok(())
            },
        ],
    )?;
    assert!(piece == plain && whole == plain);
    report("decode", algorithm, ours, "bare codec in memory, no CRC", bare);

    let order: Vec<usize> = (0..RANDOM_READS).map(|n| n * 7_368_787 % blocks.len()).collect();
    let mut buf = [0; BLOCK];
    let random = |order: &[usize]| -> overlaybd::Result<()> {
        let mut buf = [0; BLOCK];
        order.iter().try_for_each(|&block| reader.read_at(&mut buf, (block * BLOCK) as u64))
    };
    let [bare, one, two] = medians(
        RANDOM_READS * BLOCK,
        [
            &mut || {
                let codec = codecs.get(algorithm);
                for &block in &order {
                    codec.decompress(&zfile[blocks[block].clone()], &mut buf)?;
                }
                Ok(())
            },
            &mut || Ok(random(&order)?),
            &mut || {
                let (front, back) = order.split_at(order.len() / 2);
                std::thread::scope(|scope| {
                    let other = scope.spawn(|| random(back));
                    random(front)?;
                    other.join().map_err(|_| "a reader panicked")?.map_err(Into::into)
                })
            },
        ],
    )?;
    report("random", algorithm, one, "bare codec in memory, no CRC", bare);
    report("random_scale", algorithm, two, "one thread", one);
    Ok(())
}
