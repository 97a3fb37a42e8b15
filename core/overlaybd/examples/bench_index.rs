//! Measures the merged index: lookups against a plain binary search over the same entries in the same
//! run, the size of an entry, and opening and merging a stack. Prints a line of JSON for each.
//!
//! A lookup finds the first entry that ends behind a random sector, as each read does. The peer is the
//! textbook search with a branch for each step over an array of 16-byte entries; `std` is
//! `slice::partition_point` over the same, which current compilers make without branches.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlaybd::blob::{Blob, MemoryBlob};
use overlaybd::image;
use overlaybd::lsmt::index::Form;
use overlaybd::lsmt::{Header, Index, Segment, Uuid};
use overlaybd::sys::os::OsDisk;

/// Runs of each measurement, taken in turn; the median counts.
const ROUNDS: usize = 9;
/// Lookups of a run.
const QUERIES: usize = 1 << 20;

/// Numbers that look random: xorshift, the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

fn segments(count: usize, random: &mut Random) -> Vec<Segment> {
    let mut at = 0;
    let next = |_| {
        at += random.below(3) * 8;
        let length = (1 + random.below(16) as u32) * 8;
        let segment = Segment { offset: at, length, moffset: at + 8, zeroed: false, tag: random.below(30) as u8 };
        at = segment.end();
        segment
    };
    (0..count).map(next).collect()
}

/// The peer's entries: two words, as on disk.
struct Plain(Vec<[u64; 2]>);

impl Plain {
    fn new(segments: &[Segment]) -> Plain {
        let words = |s: &Segment| {
            let bytes = s.to_bytes();
            [0, 8].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")))
        };
        Plain(segments.iter().map(words).collect())
    }

    fn end(entry: &[u64; 2]) -> u64 {
        (entry[0] & ((1 << 50) - 1)) + (entry[0] >> 50)
    }

    #[inline]
    fn by_branches(&self, sector: u64) -> usize {
        let (mut low, mut high) = (0, self.0.len());
        while low < high {
            let middle = (low + high) / 2;
            // The empty block keeps the branch a branch.
            if Self::end(&self.0[middle]) <= sector {
                black_box(());
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    #[inline]
    fn by_std(&self, sector: u64) -> usize {
        self.0.partition_point(|entry| Self::end(entry) <= sector)
    }
}

/// A way to answer queries; gives a sum of the answers.
type Way<'a> = dyn FnMut(&[u64]) -> u64 + 'a;

/// Nanoseconds of one lookup, by each of the ways in turn.
fn time(queries: &[u64], ways: &mut [&mut Way<'_>]) -> Vec<f64> {
    let mut times = vec![Vec::new(); ways.len()];
    let mut sums = vec![0; ways.len()];
    for _ in 0..ROUNDS {
        for (n, way) in ways.iter_mut().enumerate() {
            let start = Instant::now();
            sums[n] = black_box(way(black_box(queries)));
            times[n].push(start.elapsed());
        }
    }
    assert!(sums.windows(2).all(|pair| pair[0] == pair[1]), "the searches disagree: {sums:?}");
    times.into_iter().map(|mut t| median(&mut t).as_nanos() as f64 / queries.len() as f64).collect()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn lookups(name: &str, count: usize) {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let segments = segments(count, &mut random);
    let end = segments.last().map_or(1, Segment::end);
    let queries: Vec<u64> = (0..QUERIES).map(|_| random.below(end)).collect();
    let plain = Plain::new(&segments);
    let index = Index::from_sorted(segments);

    let mut branches = |queries: &[u64]| {
        let mut total = 0;
        queries.iter().for_each(|q| total += plain.by_branches(*q) as u64);
        total
    };
    let mut std = |queries: &[u64]| {
        let mut total = 0;
        queries.iter().for_each(|q| total += plain.by_std(*q) as u64);
        total
    };
    let mut forms: Vec<(Form, Index)> = Vec::new();
    for form in Form::ALL {
        let mut copy = index.clone();
        if copy.use_form(form) {
            forms.push((form, copy));
        }
    }
    let mut ours: Vec<Box<Way<'_>>> = Vec::new();
    for (_, index) in &forms {
        ours.push(Box::new(move |queries: &[u64]| {
            let mut total = 0;
            queries.iter().for_each(|q| total += index.position(*q) as u64);
            total
        }));
    }
    let mut ways: Vec<&mut Way<'_>> = vec![&mut branches, &mut std];
    for way in &mut ours {
        ways.push(way);
    }
    let times = time(&queries, &mut ways);
    for form in Form::ALL {
        let label = format!("{form:?}").to_lowercase();
        let name = format!("index.lookup.{name}.{label}");
        match forms.iter().position(|(have, _)| *have == form) {
            Some(at) => {
                let ours = times[2 + at];
                row(&name, Some(ours), "ns", "plain binary search", Some(times[0] / ours));
                row(&format!("{name}.vs_std"), Some(ours), "ns", "slice::partition_point", Some(times[1] / ours));
            }
            None => row(&name, None, "ns", &format!("no {label} on this processor"), None),
        }
    }
}

/// A committed layer of `count` scattered blocks, and its index as the format has it.
fn layer(count: usize, random: &mut Random) -> Vec<u8> {
    let mut offsets: Vec<u64> = (0..count).map(|_| random.below(1 << 24) * 8).collect();
    offsets.sort_unstable();
    offsets.dedup();
    let data = 8 * offsets.len() as u64;
    let header = Header::new(7, 1 << 36, Uuid::default(), Uuid::default(), b"").expect("a header");
    let mut trailer = Header { flags: 6, index_offset: 4096 + data * 512, ..header.clone() };
    trailer.index_entries = offsets.len() as u64;
    let mut bytes = header.to_block().to_vec();
    bytes.resize(trailer.index_offset as usize, 0x5A);
    for (n, offset) in offsets.iter().enumerate() {
        let moffset = 8 + 8 * n as u64;
        bytes.extend_from_slice(&Segment { offset: *offset, length: 8, moffset, zeroed: false, tag: 0 }.to_bytes());
    }
    bytes.extend_from_slice(&trailer.to_block());
    bytes
}

fn opening() {
    let mut random = Random(77);
    let blob = |n| Arc::new(MemoryBlob::new(format!("layer {n}"), layer(1000, &mut random))) as Arc<dyn Blob>;
    let blobs: Vec<Arc<dyn Blob>> = (0..100).map(blob).collect();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        black_box(image::open(&OsDisk, blobs.clone(), None).expect("an image"));
        times.push(start.elapsed());
    }
    row("index.open_100x1000_ms", Some(median(&mut times).as_secs_f64() * 1e3), "ms", "", None);
}

fn row(name: &str, value: Option<f64>, unit: &str, peer: &str, ratio: Option<f64>) {
    let number = |n: Option<f64>| n.map_or("null".into(), |n| format!("{n:.4}"));
    let peer = if peer.is_empty() { "null".into() } else { format!("\"{peer}\"") };
    let (value, ratio) = (number(value), number(ratio));
    println!(r#"{{"name": "{name}", "value": {value}, "unit": "{unit}", "peer": {peer}, "ratio": {ratio}}}"#);
}

fn main() {
    lookups("10k", 10_000);
    lookups("1m", 1_000_000);
    let index = Index::from_sorted(segments(1_000_000, &mut Random(5)));
    row("index.bytes_per_segment", Some(index.memory_bytes() as f64 / index.len() as f64), "bytes", "", None);
    opening();
}
