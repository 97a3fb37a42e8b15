//! Gzip indexes: any bytes as an index, with a header that is made right, and any bytes as a file to be indexed.

#![no_main]

use std::io::Read;
use std::sync::{Arc, LazyLock};

use flate2::read::{GzDecoder, GzEncoder};
use flate2::Compression;
use libfuzzer_sys::fuzz_target;
use overlaybd::blob::{Blob, MemoryBlob};
use overlaybd::gzip::{Header, Index, View, HEADER_BYTES};
use overlaybd::sink::MemorySink;

const SPAN: u32 = 64 << 10;

/// A gzip file and its index, of four points.
static GOOD: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let plain: Vec<u8> =
        (0..26_000u32).flat_map(|i| format!("{:x}\n", i.wrapping_mul(0x9E37_79B1)).into_bytes()).collect();
    let mut gzip = Vec::new();
    GzEncoder::new(&plain[..], Compression::fast()).read_to_end(&mut gzip).unwrap();
    let index = build(&gzip).unwrap();
    (gzip, index)
});

// One thing for each input, and not much of it: to unpack takes time where every branch is counted.
fuzz_target!(|bytes: &[u8]| {
    let (gzip, index) = &*GOOD;
    let [mode, low, high, rest @ ..] = bytes else { return };
    let place = usize::from(u16::from_le_bytes([*low, *high]));
    match mode % 6 {
        0 => read(gzip, rest, place),
        // As an index of the right length, with a right checksum.
        1 if rest.len() > HEADER_BYTES => {
            let mut right = rest.to_vec();
            let mut header = match Header::parse(index.first_chunk().unwrap(), index.len() as u64) {
                Ok(header) => header,
                Err(error) => panic!("{error}"),
            };
            header.index_bytes = rest.len() as u64;
            header.zlib = rest[0] & 1 == 0;
            header.points = u64::from(rest[1]);
            header.area.0 = HEADER_BYTES as u64 + place as u64;
            header.area.1 = header.index_bytes.saturating_sub(header.area.0);
            right[..HEADER_BYTES].copy_from_slice(&header.encode());
            read(gzip, &right, usize::from(rest[2]) << 10);
        }
        // A good index with some bytes changed, and a file that is damaged.
        2 => read(gzip, &changed(index, HEADER_BYTES, rest, place), place),
        3 => read(&changed(gzip, 10, rest, place), index, place),
        // What can be indexed is gzip, and reads by its index.
        4 => index_and_read(rest),
        _ => index_and_read(&[&[0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3], rest].concat()),
    }
});

fn changed(good: &[u8], from: usize, with: &[u8], place: usize) -> Vec<u8> {
    let mut bad = good.to_vec();
    let n = with.len().min(bad.len() - from);
    let at = from + place % (bad.len() - from - n + 1);
    bad[at..at + n].copy_from_slice(&with[..n]);
    bad
}

fn index_and_read(file: &[u8]) {
    let Ok(index) = build(file) else { return };
    let mut plain = Vec::new();
    GzDecoder::new(file).read_to_end(&mut plain).unwrap();
    let view = View::new(blob(file), Arc::new(Index::open(blob(&index)).unwrap())).unwrap();
    assert_eq!(view.len(), plain.len() as u64);
    let mut got = vec![0; plain.len()];
    view.read_at(&mut got, 0).unwrap();
    assert!(got == plain);
}

fn blob(bytes: &[u8]) -> Arc<dyn Blob> {
    Arc::new(MemoryBlob::new("fuzz", bytes.to_vec()))
}

fn build(gzip: &[u8]) -> overlaybd::Result<Vec<u8>> {
    let mut sink = MemorySink::default();
    Index::build(&mut &gzip[..], &mut sink, SPAN, &mut |_| Ok(()))?;
    Ok(sink.bytes)
}

/// Reads from a point on, now and then across one.
fn read(gzip: &[u8], index: &[u8], place: usize) {
    let Ok(index) = Index::open(blob(index)) else { return };
    let at = index.points()[place % index.points().len()].plain;
    let Ok(view) = View::new(blob(gzip), Arc::new(index)) else { return };
    let n = if place.is_multiple_of(16) { 70_000 } else { 500 };
    let n = (view.len() - at).min(n);
    let _ = view.read_at(&mut vec![0; n as usize], at);
    let _ = (view.is_ready(at, n), view.distrust(at, n));
}
