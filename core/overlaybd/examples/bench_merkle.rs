//! Benchmarks of hash trees: reads of one cached blob held against its tree, beside the same reads without.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlaybd::blob::Blob;
use overlaybd::cache::{CachedBlob, ChunkCache, Options};
use overlaybd::fetch::{Body, FetchStats, Http, Locate, Request, Response, Source, Target, Via};
use overlaybd::merkle::{Builder, Tree};
use overlaybd::sys::os::{OsClock, OsDisk};
use overlaybd::Result;

const BLOB_BYTES: usize = 64 << 20;
const ROUNDS: usize = 9;
const SMALL_READS: usize = 200_000;
const MIB: usize = 1 << 20;

/// A registry in memory: answers as fast as bytes can be copied.
struct Memory(Arc<Vec<u8>>);

struct Bytes(Cursor<Vec<u8>>);

impl std::io::Read for Bytes {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Body for Bytes {
    fn renew(&mut self, _timeout: Duration, _patience: Duration) {}
}

impl Http for Memory {
    fn get(&self, request: &Request<'_>) -> Result<Response> {
        let last = request.last.min(self.0.len() as u64 - 1);
        let bytes = self.0[request.first as usize..=last as usize].to_vec();
        let headers = vec![
            ("Content-Range".to_owned(), format!("bytes {}-{last}/{}", request.first, self.0.len())),
            ("Content-Length".to_owned(), bytes.len().to_string()),
        ];
        Ok(Response { status: 206, headers, body: Box::new(Bytes(Cursor::new(bytes))), slot: None })
    }
}

struct There(Arc<Target>);

impl Locate for There {
    fn locate(&self) -> Result<Arc<Target>> {
        Ok(Arc::clone(&self.0))
    }

    fn refused(&self, _: u16, _: &[(String, String)], _: &Arc<Target>) -> Result<bool> {
        Ok(false)
    }
}

fn cache(directory: &Path) -> Arc<ChunkCache> {
    let options = Options { min_free_bytes: 0, readahead: false, ..Options::new(directory, 1 << 40) };
    ChunkCache::open(options, Arc::new(OsDisk), Arc::new(OsClock::default())).expect("cache")
}

fn open(cache: &Arc<ChunkCache>, content: &Arc<Vec<u8>>, tree: Option<Arc<Tree>>) -> Arc<dyn Blob> {
    let url = "http://registry/v2/a/blobs/sha256:01".to_owned();
    let target = Target { url, headers: Vec::new(), via: Via::Direct, endpoint: 0, limit: None };
    let http = Arc::new(Memory(Arc::clone(content)));
    let (clock, stats) = (Arc::new(OsClock::default()), Arc::new(FetchStats::default()));
    let source = Source::new("blob", http, Arc::new(There(Arc::new(target))), clock, stats).with_tree(tree);
    CachedBlob::open(cache, "sha256:01", source, Some(BLOB_BYTES as u64)).expect("blob").blob
}

/// Random 4 KiB reads.
fn random(blob: &dyn Blob) -> Duration {
    let (mut buf, mut x) = ([0; 4096], 1u64);
    let start = Instant::now();
    for _ in 0..SMALL_READS {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        blob.read_at(&mut buf, (x >> 33) % (BLOB_BYTES as u64 / 4096) * 4096).expect("read");
    }
    start.elapsed()
}

/// All of it, in order, by 1 MiB.
fn sequential(blob: &dyn Blob) -> Duration {
    let mut buf = vec![0; MIB];
    let start = Instant::now();
    (0..BLOB_BYTES / MIB).for_each(|i| blob.read_at(&mut buf, (i * MIB) as u64).expect("read"));
    start.elapsed()
}

/// The median of turns without and with a tree: what else the machine does hits both alike.
fn median(mut rounds: Vec<(Duration, Duration)>) -> (Duration, f64) {
    rounds.sort_by_key(|(off, on)| off.as_nanos() * 1000 / on.as_nanos());
    let (off, on) = rounds[rounds.len() / 2];
    (on, off.as_secs_f64() / on.as_secs_f64())
}

fn row(name: &str, value: f64, unit: &str, ratio: Option<f64>) {
    let peer = if ratio.is_some() { "\"off\"" } else { "null" };
    let ratio = ratio.map_or("null".to_owned(), |ratio| format!("{ratio:.4}"));
    println!(r#"{{"name": "{name}", "value": {value:.4}, "unit": "{unit}", "peer": {peer}, "ratio": {ratio}}}"#);
}

fn main() {
    let content: Arc<Vec<u8>> =
        Arc::new((0..BLOB_BYTES as u64).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect());
    let start = Instant::now();
    let mut builder = Builder::default();
    builder.update(&content);
    let (list, root) = builder.finish().expect("tree");
    let rate = |took: Duration| BLOB_BYTES as f64 / took.as_secs_f64() / 1e9;
    row("merkle.build", rate(start.elapsed()), "GB/s", None);
    let start = Instant::now();
    let tree = Arc::new(Tree::parse(&list, &root).expect("tree"));
    row("merkle.open_us", start.elapsed().as_secs_f64() * 1e6, "us", None);

    let directory = tempfile::tempdir().expect("directory");
    let fresh = |tree: Option<Arc<Tree>>| {
        let directory = tempfile::tempdir().expect("directory");
        let cache = cache(directory.path());
        sequential(&*open(&cache, &content, tree))
    };
    let cold = (0..ROUNDS).map(|_| (fresh(None), fresh(Some(Arc::clone(&tree))))).collect();
    let (took, ratio) = median(cold);
    row("merkle.cold_1m", rate(took), "GB/s", Some(ratio));

    // Fill both, and forget what has been checked: as after a start.
    {
        let cache = cache(directory.path());
        sequential(&*open(&cache, &content, None));
        sequential(&*open(&cache, &content, Some(Arc::clone(&tree))));
        cache.flush();
    }
    let first = |tree: Option<Arc<Tree>>| sequential(&*open(&cache(directory.path()), &content, tree));
    let (took, ratio) = median((0..ROUNDS).map(|_| (first(None), first(Some(Arc::clone(&tree))))).collect());
    row("merkle.first_1m", rate(took), "GB/s", Some(ratio));

    let cache = cache(directory.path());
    let (off, on) = (open(&cache, &content, None), open(&cache, &content, Some(tree)));
    sequential(&*off);
    sequential(&*on);
    let (took, ratio) = median((0..ROUNDS).map(|_| (random(&*off), random(&*on))).collect());
    row("merkle.warm_4k", took.as_nanos() as f64 / SMALL_READS as f64, "ns", Some(ratio));
    let (took, ratio) = median((0..ROUNDS).map(|_| (sequential(&*off), sequential(&*on))).collect());
    row("merkle.warm_1m", rate(took), "GB/s", Some(ratio));
}
