//! Indexes are those of upstream; reading by one gives the plain bytes, or says what is wrong.

use std::io::{Read, Write};
use std::sync::Arc;

use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use flate2::Compression;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::blob::testing::Asked;
use crate::blob::{check_range, Blob, MemoryBlob};
use crate::cache::{CachedBlob, ChunkCache, Options};
use crate::error::{Kind, Result};
use crate::limits::{GZIP_SPAN_BYTES, MAX_BLOCK_RELOADS};
use crate::progress::silent;
use crate::sink::MemorySink;
use crate::sys::os::{OsClock, OsDisk};

const SPAN: u32 = 1 << 20;

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../../tests/golden/turbo/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn blob(bytes: &[u8]) -> Arc<dyn Blob> {
    Arc::new(MemoryBlob::new("test", bytes.to_vec()))
}

fn build(gzip: &[u8], span: u32) -> Result<Vec<u8>> {
    let mut sink = MemorySink::default();
    Index::build(&mut &gzip[..], &mut sink, span, &mut |read| silent(read, 0))?;
    Ok(sink.bytes)
}

fn view(gzip: &[u8], index: &[u8]) -> Result<View> {
    View::new(blob(gzip), Arc::new(Index::open(blob(index))?))
}

fn read(view: &dyn Blob, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0x5A; len];
    view.read_at(&mut bytes, offset).map(|()| bytes)
}

fn unpacked(gzip: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(gzip).read_to_end(&mut plain).unwrap();
    plain
}

fn packed(plain: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that compress, unlike each other in every place.
fn lines(count: u32) -> Vec<u8> {
    (0..count).flat_map(|i| format!("{i} {:x}\n", i.wrapping_mul(2_654_435_761)).into_bytes()).collect()
}

#[test]
fn what_upstream_indexed_reads_as_what_is_packed() {
    for name in ["turbo", "upper"] {
        let gzip = golden(&format!("{name}.tar.gz"));
        let meta = golden(if name == "turbo" { "gz.gzip.meta" } else { "upper.gzip.meta" });
        let (plain, view) = (unpacked(&gzip), view(&gzip, &meta).unwrap());
        assert_eq!(view.len(), plain.len() as u64);
        assert!(read(&view, 0, plain.len()).unwrap() == plain, "{name}");
        for at in (0..plain.len()).step_by(77_777) {
            let len = 5000.min(plain.len() - at);
            assert!(read(&view, at as u64, len).unwrap() == plain[at..at + len], "{name} at {at}");
        }
    }
}

#[test]
fn an_index_says_the_same_as_upstreams() {
    for (gzip, meta) in [("turbo.tar.gz", "gz.gzip.meta"), ("upper.tar.gz", "upper.gzip.meta")] {
        let (theirs, ours) = (golden(meta), build(&golden(gzip), SPAN).unwrap());
        let (theirs, ours) = (Index::open(blob(&theirs)).unwrap(), Index::open(blob(&ours)).unwrap());
        // How well windows compress is the library's; all else is the same.
        let said = |index: &Index| Header { index_bytes: 0, area: (0, 0), ..*index.header() };
        assert_eq!(said(&ours), said(&theirs));
        for (i, (a, b)) in ours.points().iter().zip(theirs.points()).enumerate() {
            assert_eq!((a.plain, a.packed, a.bits), (b.plain, b.packed, b.bits));
            assert!(ours.window(i).unwrap() == theirs.window(i).unwrap(), "window {i}");
        }
    }
}

#[test]
fn a_header_is_written_as_it_was_read() {
    for name in ["gz.gzip.meta", "upper.gzip.meta"] {
        let file = golden(name);
        let (first, _) = file.split_first_chunk().unwrap();
        assert_eq!(Header::parse(first, file.len() as u64).unwrap().encode(), *first);
    }
}

#[test]
fn more_than_one_member_is_refused_and_zeros_at_the_end_are_not() {
    let one = packed(&lines(1000), 6);
    let two = [one.clone(), packed(b"more", 6)].concat();
    let error = build(&two, SPAN).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("more than one gzip member"), "{error}");
    assert_eq!(build(&[one.clone(), b"x".to_vec()].concat(), SPAN).unwrap_err().kind(), Kind::Corrupt);

    let padded = [one.clone(), vec![0; 700_000]].concat();
    let view = view(&padded, &build(&padded, SPAN).unwrap()).unwrap();
    assert!(read(&view, 0, view.len() as usize).unwrap() == lines(1000));
}

#[test]
fn what_is_no_gzip_or_not_all_of_one_is_corrupt() {
    let good = packed(&lines(10_000), 6);
    let mut bad_sum = good.clone();
    let at = good.len() - 8;
    bad_sum[at] ^= 1;
    for bad in [&b""[..], b"plain text, not compressed", &good[..good.len() - 1], &good[..500], &bad_sum] {
        assert_eq!(build(bad, SPAN).unwrap_err().kind(), Kind::Corrupt, "{} bytes", bad.len());
    }
    assert_eq!(build(&good, GZIP_SPAN_BYTES.start() - 1).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn nothing_packed_is_an_index_of_nothing() {
    let gzip = packed(b"", 6);
    let view = view(&gzip, &build(&gzip, SPAN).unwrap()).unwrap();
    assert_eq!(view.len(), 0);
    assert_eq!(read(&view, 0, 1).unwrap_err().kind(), Kind::OutOfBounds);
}

#[test]
fn blocks_without_end_and_without_content_do_not_take_long() {
    // Half a million empty blocks that are stored, as a flush makes them.
    let mut gzip = packed(b"", 6)[..10].to_vec();
    gzip.extend([0, 0, 0, 0xFF, 0xFF].repeat(500_000));
    gzip.extend([3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let index = build(&gzip, *GZIP_SPAN_BYTES.start()).unwrap();
    assert!(Index::open(blob(&index)).unwrap().points().len() <= 2);
}

/// What a disk loses at a time. A bit alone may change a byte that is packed and no more, which nothing can tell.
fn lost(at: usize) -> std::ops::Range<usize> {
    at..at + 512
}

/// Notes what is read, and gives bad bytes until told to fetch them again.
struct Remote {
    good: Vec<u8>,
    bad: Mutex<Option<usize>>,
    reads: Mutex<Vec<(u64, usize)>>,
}

impl Remote {
    fn of(good: &[u8], bad: Option<usize>) -> Arc<Self> {
        Arc::new(Remote { good: good.to_vec(), bad: Mutex::new(bad), reads: Mutex::default() })
    }
}

impl Blob for Remote {
    fn name(&self) -> &str {
        "remote"
    }

    fn len(&self) -> u64 {
        self.good.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        self.reads.lock().push((offset, buf.len()));
        let range = offset as usize..offset as usize + buf.len();
        buf.copy_from_slice(&self.good[range.clone()]);
        for at in self.bad.lock().map_or(0..0, lost).filter(|at| range.contains(at)) {
            buf[at - range.start] = 0;
        }
        Ok(())
    }

    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        let mut bad = self.bad.lock();
        let in_range = |at: usize| lost(at).any(|at| (offset..offset + len).contains(&(at as u64)));
        Ok(bad.take_if(|at| in_range(*at)).is_some())
    }
}

#[test]
fn reading_on_begins_nowhere_again_and_takes_only_what_it_needs() {
    let plain = lines(200_000);
    let gzip = packed(&plain, 6);
    let index = Arc::new(Index::open(blob(&build(&gzip, SPAN).unwrap())).unwrap());
    assert!(index.points().len() >= 3);
    let remote = Remote::of(&gzip, None);
    let view = View::new(remote.clone(), index.clone()).unwrap();
    for at in (0..plain.len()).step_by(4000) {
        let len = 4000.min(plain.len() - at);
        assert!(read(&view, at as u64, len).unwrap() == plain[at..at + len]);
    }
    let reads: Vec<_> = remote.reads.lock().drain(..).map(|(_, len)| len).collect();
    let all: usize = reads.iter().sum();
    // The trailer once more, for the length.
    assert!(all <= gzip.len() + 8, "{all} bytes read of {}", gzip.len());
    let most = gzip.len() / (64 << 10) + 2 * index.points().len() + 2;
    assert!(reads.len() <= most, "{} reads of {} bytes", reads.len(), gzip.len());

    // Three readers on their ways, who do not take each other's place.
    let view = View::new(remote.clone(), index.clone()).unwrap();
    for step in 0..40 {
        for start in [10_000, 400_000, 800_000] {
            let at = start + step * 2000;
            assert!(read(&view, at as u64, 2000).unwrap() == plain[at..at + 2000]);
        }
    }
    let all: usize = remote.reads.lock().drain(..).map(|(_, len)| len).sum();
    let first = index.points()[1].packed as usize;
    assert!(all <= 3 * first, "{all} bytes read of the {first} before the first point");

    // Up to a point no more is read than what comes before it.
    let view = View::new(remote.clone(), index.clone()).unwrap();
    read(&view, 0, index.points()[1].plain as usize).unwrap();
    let furthest = remote.reads.lock().drain(..).map(|(at, len)| at as usize + len).max();
    assert_eq!(furthest, Some(first));

    // The end is had without the beginning.
    let last = index.points().last().unwrap();
    let view = View::new(remote.clone(), index.clone()).unwrap();
    let wanted = last.plain as usize + 100;
    assert!(read(&view, wanted as u64, 100).unwrap() == plain[wanted..wanted + 100]);
    let least = remote.reads.lock().drain(..).map(|(at, _)| at).min().unwrap();
    assert!(least >= last.packed - 1);
    assert!(!view.is_empty() && view.is_ready(0, view.len()));
}

#[test]
fn damage_is_told_or_fetched_again_and_never_read() {
    let plain = lines(100_000);
    let gzip = packed(&plain, 6);
    let meta = build(&gzip, 256 << 10).unwrap();
    let index = Arc::new(Index::open(blob(&meta)).unwrap());
    for at in (30..gzip.len() - 512).step_by(gzip.len() / 40) {
        let mut bad = gzip.clone();
        bad[lost(at)].fill(0);
        let damaged = View::new(blob(&bad), index.clone()).unwrap();
        let kind = read(&damaged, 0, plain.len()).err().map(|e| e.kind());
        assert_eq!(kind, Some(Kind::Corrupt), "damaged bytes at {at} were read");

        let healing = View::new(Remote::of(&gzip, Some(at)), index.clone()).unwrap();
        assert!(read(&healing, 0, plain.len()).unwrap() == plain, "byte {at}");
    }
    // What is as bad each time it is fetched is not fetched for ever.
    let asked = Arc::new(Asked::new([&gzip[..15], &vec![0; gzip.len() - 15]].concat()));
    let error = read(&View::new(asked.clone(), index).unwrap(), 0, 1000).unwrap_err();
    let again = asked.take().iter().filter(|(what, ..)| *what == "distrust").count();
    assert_eq!((error.kind(), again), (Kind::Corrupt, MAX_BLOCK_RELOADS as usize));
    assert!(error.to_string().contains("fetched 4 times, and its source gave the same"), "{error}");
}

#[test]
fn an_index_that_is_not_right_is_not_used() {
    let gzip = packed(&lines(100_000), 6);
    let good = build(&gzip, 256 << 10).unwrap();
    assert_eq!(view(&gzip[..gzip.len() - 1], &good).err().unwrap().kind(), Kind::Corrupt);
    for (what, at) in [("magic", 1), ("version", 8), ("length", 41), ("checksum", 329), ("points", good.len() - 3)] {
        let mut bad = good.clone();
        bad[at] ^= 4;
        let kind = Index::open(blob(&bad)).err().map(|e| e.kind());
        assert!(matches!(kind, Some(Kind::Corrupt | Kind::Unsupported)), "{what}: {kind:?}");
    }
    for len in [0, 10, HEADER_BYTES - 1, HEADER_BYTES, good.len() - 1] {
        let error = Index::open(blob(&good[..len])).err().unwrap();
        assert_eq!(error.kind(), Kind::Corrupt, "{len} bytes");
        assert_eq!(error.what().contains("too short"), len < HEADER_BYTES, "{len} bytes: {error}");
    }
    // Other numbers of points than are there: too many to be believed need no memory.
    let (first, rest) = good.split_first_chunk().unwrap();
    let header = Header::parse(first, good.len() as u64).unwrap();
    let (less, more, most) = (header.points - 1, header.points + 1, crate::limits::MAX_GZIP_POINTS);
    for (points, words) in [(less, "are damaged"), (more, "are damaged"), (0, "are damaged"), (most, "bytes for")] {
        let other = [&Header { points, ..header }.encode()[..], rest].concat();
        let error = Index::open(blob(&other)).err().unwrap();
        assert!(error.kind() == Kind::Corrupt && error.what().contains(words), "{points} points: {error}");
        assert_eq!(error.offset(), Some(header.area.0));
    }
    // A window that is wrong: from there on nothing is read.
    let index = Index::open(blob(&good)).unwrap();
    let mut bad = good.clone();
    bad[index.points()[1].window.0 as usize + 20] ^= 0xFF;
    let view = view(&gzip, &bad).unwrap();
    assert!(read(&view, 0, 1000).is_ok());
    assert_eq!(read(&view, index.points()[1].plain, 1000).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn many_threads_read_the_same_bytes() {
    let plain = lines(150_000);
    let gzip = packed(&plain, 6);
    let view = view(&gzip, &build(&gzip, 128 << 10).unwrap()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (view, plain) = (&view, &plain);
            scope.spawn(move || {
                for i in 0..60 {
                    let at = (thread * 7919 + i * 104_729) % (plain.len() - 9000);
                    assert!(read(view, at as u64, 9000).unwrap() == plain[at..at + 9000]);
                }
            });
        }
    });
}

/// Pieces of text, of noise and of zeros, which make blocks of all three kinds.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece = (0..3u8, 1..200_000usize, any::<u64>());
    proptest::collection::vec(piece, 1..6).prop_map(|pieces| {
        let mut bytes = Vec::new();
        for (kind, len, mut seed) in pieces {
            bytes.extend((0..len).map(|i| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                match kind {
                    0 => b"etaoin shrdlu\n"[(seed >> 60) as usize % 14],
                    1 => (seed >> 33) as u8,
                    _ => (i / 50_000) as u8,
                }
            }));
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_range_of_any_content_at_any_level_is_what_was_packed(
        plain in content(),
        level in 0..=9u32,
        ranges in proptest::collection::vec((any::<u32>(), 1..300_000usize), 1..12),
    ) {
        let gzip = packed(&plain, level);
        let view = view(&gzip, &build(&gzip, 64 << 10).unwrap()).unwrap();
        prop_assert_eq!(view.len(), plain.len() as u64);
        for (at, len) in ranges {
            let at = at as usize % plain.len();
            let len = len.min(plain.len() - at);
            prop_assert!(read(&view, at as u64, len).unwrap() == plain[at..at + len]);
        }
    }
}

#[test]
fn hints_reach_what_has_to_be_inflated_for_them() {
    let plain = lines(200_000);
    let gzip = packed(&plain, 6);
    let asked = Arc::new(Asked::new(gzip.clone()));
    let index = Arc::new(Index::open(blob(&build(&gzip, SPAN).unwrap())).unwrap());
    let view = View::new(asked.clone(), index.clone()).unwrap();
    assert_eq!((view.name(), view.len()), ("asked", plain.len() as u64));
    asked.take();
    let points: Vec<_> = index.points().iter().map(|point| (point.plain, point.packed)).collect();
    let second = points[1].0;
    assert!(view.prefetch(0, second).unwrap() >= points[1].1 - points[0].1, "all up to the second point");
    assert!(view.prefetch(second, 1).unwrap() > 0);
    let seen = asked.take();
    assert!(seen[0].1 <= points[0].1 && seen[0].1 + seen[0].2 >= points[1].1, "{seen:?}");
    assert!(seen[1].1 <= points[1].1 && seen[1].1 + 1 >= points[1].1, "{seen:?}: from the point on");
    assert_eq!((view.prefetch(7, 0).unwrap(), asked.take()), (0, vec![]));
    assert_eq!(view.prefetch(plain.len() as u64, 1).unwrap_err().kind(), Kind::OutOfBounds);
    assert!(!view.is_ready(0, 1) && view.is_ready(second, 1) && view.is_ready(0, 0));
    asked.take();
    assert!(view.distrust(0, 1).unwrap() && !view.distrust(second, 1).unwrap() && !view.distrust(0, 0).unwrap());
    let again: Vec<_> = seen.iter().map(|(_, offset, len)| ("distrust", *offset, *len)).collect();
    assert_eq!(asked.take(), again, "what was prefetched for the same bytes");
}

#[test]
fn the_key_of_an_index_is_of_its_digest_and_all_of_its_bytes() {
    let gzip = packed(&lines(200_000), 6);
    let index = build(&gzip, SPAN).unwrap();
    let key = |index: &[u8], digest: &str| Index::open(blob(index)).unwrap().key(digest).unwrap();
    let all = [b"sha256:ab\0".as_slice(), &index].concat();
    let hex: String =
        ring::digest::digest(&ring::digest::SHA256, &all).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(key(&index, "sha256:ab"), format!("unpacked:{hex}"));
    assert_ne!(key(&index, "sha256:ac"), key(&index, "sha256:ab"));
}

#[test]
fn what_was_unpacked_is_no_forgery_to_who_checks_the_cache() {
    let gzip = packed(&lines(200_000), 6);
    let index = build(&gzip, SPAN).unwrap();
    let key = Index::open(blob(&index)).unwrap().key("sha256:ab").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = Options { min_free_bytes: 0, write_behind_bytes: 0, ..Options::new(dir.path(), 1 << 30) };
    let cache = ChunkCache::open(options, Arc::new(OsDisk), Arc::new(OsClock::default())).unwrap();
    let cached = CachedBlob::over(&cache, &key, Arc::new(view(&gzip, &index).unwrap())).unwrap().blob;
    cached.read_at(&mut vec![0; cached.len() as usize], 0).unwrap();
    drop(cached);
    let found = cache.check(&key, true).unwrap();
    assert!(found.is_right() && found.digest_matches.is_none() && found.checked > 0, "{found:?}");
    assert_eq!(cache.check(&key, false).unwrap().checked, found.checked, "what was right has been dropped");
}

#[test]
fn a_range_needs_the_bytes_from_its_point_to_the_next_one_behind_it() {
    let gzip = packed(&lines(400_000), 6);
    let index = Index::open(blob(&build(&gzip, SPAN).unwrap())).unwrap();
    let points = index.points();
    assert!(points.len() > 3 && points.iter().any(|point| point.bits > 0));
    for (i, point) in points.iter().enumerate() {
        let start = point.packed - u64::from(point.bits > 0);
        let end = points.get(i + 1).map_or(gzip.len() as u64, |next| next.packed);
        assert_eq!(index.packed(point.plain, 1), start..end, "point {i}");
        let stop = points.get(i + 1).map_or(index.header().plain_bytes, |next| next.plain);
        assert_eq!(index.packed(point.plain, stop - point.plain), start..end, "point {i}, all of it");
    }
    assert!(index.packed(index.header().plain_bytes, 1).is_empty());
}

#[test]
fn an_index_that_ends_before_its_file_is_noticed_at_the_end() {
    let plain = lines(10_000);
    let gzip = packed(&plain, 6);
    let index = build(&gzip, SPAN).unwrap();
    let (first, rest) = index.split_first_chunk().unwrap();
    let header = Header::parse(first, index.len() as u64).unwrap();
    for less in [1, 5, 5000] {
        let header = Header { plain_bytes: header.plain_bytes - less, ..header };
        let short = view(&gzip, &[&header.encode()[..], rest].concat()).unwrap();
        let error = read(&short, 0, short.len() as usize).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        let text = error.to_string();
        assert!(text.contains("go on behind what the index says is the end"), "{text}");
        // The source gave it once, and there was nothing to give anew.
        assert!(!text.contains("fetched"), "{text}");
    }
    let other = view(&gzip[1..], &index).err().unwrap().to_string();
    assert!(other.contains("test is the index of a file of"), "{other}");
}

#[test]
fn points_may_take_what_zlib_may_make_of_them_and_no_more() {
    let gzip = packed(&lines(60_000), 6);
    let index = build(&gzip, *GZIP_SPAN_BYTES.start()).unwrap();
    let (first, rest) = index.split_first_chunk::<{ super::format::HEADER_BYTES }>().unwrap();
    let header = Header::parse(first, index.len() as u64).unwrap();
    let plain = header.points * super::format::POINT_BYTES as u64;
    let most = plain + plain / 64 + 1024;
    assert!(plain / 64 > 1);
    for (area, wanted) in [(most, Ok(header.points as usize)), (most + 1, Err(Kind::Corrupt))] {
        // zlib's end is where it says; what follows is not looked at.
        let mut bytes = rest.to_vec();
        bytes.resize((header.area.0 + area) as usize - super::format::HEADER_BYTES, 0);
        let header = Header { index_bytes: header.area.0 + area, area: (header.area.0, area), ..header };
        let found = Index::open(blob(&[&header.encode()[..], &bytes].concat()));
        assert_eq!(found.map(|index| index.points().len()).map_err(|e| e.kind()), wanted, "{area} bytes");
    }
}

/// A gzip file of blocks that are stored, one for each of `blocks`, which end at no other places.
fn stored<'a>(blocks: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut gzip = packed(b"", 6)[..10].to_vec();
    let mut sum = flate2::Crc::new();
    let mut block = |last: u8, bytes: &[u8]| {
        let len = bytes.len() as u16;
        gzip.extend([&[last][..], &len.to_le_bytes(), &(!len).to_le_bytes(), bytes].concat());
        sum.update(bytes);
    };
    blocks.into_iter().for_each(|bytes| block(0, bytes));
    block(1, &[]);
    gzip.extend([sum.sum().to_le_bytes(), sum.amount().to_le_bytes()].concat());
    gzip
}

/// A gzip file in which a block ends between two parts.
fn flushed(one: &[u8], other: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(9));
    encoder.write_all(one).unwrap();
    encoder.flush().unwrap();
    encoder.write_all(other).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn points_are_where_they_are_wanted_if_a_block_begins_there() {
    let at = |gzip: &[u8], span: u32| {
        let index = Index::open(blob(&build(gzip, span).unwrap())).unwrap();
        index.points().iter().map(|point| point.plain).collect::<Vec<_>>()
    };
    let (span, kib) = (64 << 10, 1 << 10);
    // A point where it is wanted, else at the last place before.
    let blocks = |len: usize| stored(lines(20_000)[..240 * kib as usize].chunks(len));
    assert_eq!(at(&blocks(32 << 10), span), [0, 64 * kib, 128 * kib, 192 * kib]);
    assert_eq!(at(&blocks(24 << 10), span), [0, 48 * kib, 120 * kib, 192 * kib]);
    // One block from the start to where the second point would be.
    assert_eq!(at(&flushed(&[0; 128 << 10], b"the rest"), span), [0, 128 * kib]);
}

#[test]
fn blocks_without_content_are_passed_over_wherever_they_are() {
    // More of them than are read at a time: before the content, amid, and at the end.
    let (plain, empty) = (lines(10_000), vec![&b""[..]; 40_000]);
    let (head, tail) = plain.split_at(60_000);
    let blocks = [&empty, &vec![head], &empty, &tail.chunks(60_000).collect(), &empty].map(|blocks| blocks.to_vec());
    let gzip = stored(blocks.concat());
    let index = build(&gzip, SPAN).unwrap();
    assert!(read(&view(&gzip, &index).unwrap(), 0, plain.len()).unwrap() == plain);
    // An index that is silent of the last bytes is found out although blocks without content come before these.
    let (first, rest) = index.split_first_chunk().unwrap();
    let header = Header::parse(first, index.len() as u64).unwrap();
    let silent = Header { plain_bytes: 60_000, ..header }.encode();
    let short = view(&gzip, &[&silent[..], rest].concat()).unwrap();
    let error = read(&short, 0, 60_000).unwrap_err();
    assert!(error.kind() == Kind::Corrupt && error.what().contains("go on behind"), "{error}");
}

#[test]
fn bytes_that_pack_to_almost_nothing_are_read_piece_by_piece() {
    // One byte of the file is enough for many reads, and the last before a point may hold what is behind it as well.
    for noise in 0..24 {
        let plain = [&lines(10)[..noise], &vec![7; (128 << 10) - noise]].concat();
        let (gzip, both) = (flushed(&plain, &plain), [&plain[..], &plain].concat());
        let view = view(&gzip, &build(&gzip, *GZIP_SPAN_BYTES.start()).unwrap()).unwrap();
        for at in (0..129 << 10).step_by(250) {
            assert!(read(&view, at as u64, 250).unwrap() == both[at..at + 250]);
        }
    }
}

/// Gives an error of that kind now and then.
struct Failing<'a>(&'a [u8], std::io::ErrorKind, usize);

impl Read for Failing<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.2 += 1;
        let len = buf.len().min(5000);
        match self.2 % 3 {
            0 => Err(self.1.into()),
            _ => self.0.read(&mut buf[..len]),
        }
    }
}

#[test]
fn an_index_is_made_of_a_source_that_a_signal_interrupts_and_of_none_that_fails() {
    let gzip = packed(&lines(10_000), 6);
    let build_from = |kind| {
        let mut sink = MemorySink::default();
        Index::build(&mut Failing(&gzip, kind, 0), &mut sink, SPAN, &mut |_| Ok(())).map(|_| sink.bytes)
    };
    assert!(build_from(std::io::ErrorKind::Interrupted).unwrap() == build(&gzip, SPAN).unwrap());
    let error = build_from(std::io::ErrorKind::ConnectionReset).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (Kind::Io, Some(10_000)));
}

#[test]
fn a_window_that_is_wrong_is_fetched_again_like_the_file_itself() {
    let plain = lines(100_000);
    let gzip = packed(&plain, 6);
    let good = build(&gzip, 256 << 10).unwrap();
    let window = Index::open(blob(&good)).unwrap().points()[1].window.0 as usize;
    let remote = Remote::of(&good, Some(window + 20));
    let index = Arc::new(Index::open(remote.clone()).unwrap());
    let at = index.points()[1].plain;
    let view = View::new(blob(&gzip), index).unwrap();
    assert!(read(&view, at, 1000).unwrap() == plain[at as usize..at as usize + 1000]);
    assert!(remote.bad.lock().is_none());
}

#[test]
fn failures_of_the_source_pass_through() {
    struct Broken(u64);

    impl Blob for Broken {
        fn name(&self) -> &str {
            "broken"
        }

        fn len(&self) -> u64 {
            self.0
        }

        fn read_at(&self, _: &mut [u8], _: u64) -> Result<()> {
            Err(crate::error::Error::new(Kind::TimedOut, "no answer"))
        }

        fn distrust(&self, _: u64, _: u64) -> Result<bool> {
            Err(crate::error::Error::new(Kind::Io, "nothing here is damaged"))
        }
    }

    let gzip = packed(&lines(1000), 6);
    let index = Arc::new(Index::open(blob(&build(&gzip, SPAN).unwrap())).unwrap());
    let view = View::new(Arc::new(Broken(gzip.len() as u64)), index).unwrap();
    assert_eq!(read(&view, 0, 10).unwrap_err().kind(), Kind::TimedOut);
}
