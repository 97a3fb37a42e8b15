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

/// Plain bytes looked at.
const PLAIN: usize = 4 << 20;
const SPAN: u32 = 64 << 10;

/// A gzip file and its index.
static GOOD: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let plain: Vec<u8> =
        (0..60_000u32).flat_map(|i| format!("{:x}\n", i.wrapping_mul(0x9E37_79B1)).into_bytes()).collect();
    let mut gzip = Vec::new();
    GzEncoder::new(&plain[..], Compression::fast()).read_to_end(&mut gzip).unwrap();
    let index = build(&gzip).unwrap();
    (gzip, index)
});

fuzz_target!(|bytes: &[u8]| {
    let (gzip, index) = &*GOOD;
    read(gzip, bytes);
    // Of the right length, with a right checksum.
    if bytes.len() > HEADER_BYTES {
        let mut right = bytes.to_vec();
        let mut header = match Header::parse(index.first_chunk().unwrap(), index.len() as u64) {
            Ok(header) => header,
            Err(error) => panic!("{error}"),
        };
        header.index_bytes = bytes.len() as u64;
        header.zlib = bytes[0] & 1 == 0;
        header.points = u64::from(bytes[1]);
        header.area.0 = HEADER_BYTES as u64 + u64::from(u16::from_le_bytes([bytes[2], bytes[3]]));
        header.area.1 = header.index_bytes.saturating_sub(header.area.0);
        right[..HEADER_BYTES].copy_from_slice(&header.encode());
        read(gzip, &right);
    }
    // A good index with some bytes changed; then a file that is damaged.
    if let [low, high, change, rest @ ..] = bytes {
        let at = usize::from(u16::from_le_bytes([*low, *high]));
        let mut bad = index.clone();
        let at_index = HEADER_BYTES + at % (bad.len() - HEADER_BYTES);
        bad[at_index] ^= change;
        read(gzip, &bad);
        let mut bad = gzip.clone();
        let n = rest.len().min(bad.len() - 20);
        let at = 10 + at * 7 % (bad.len() - 20 - n + 1);
        bad[at..at + n].copy_from_slice(&rest[..n]);
        read(&bad, index);
    }
    // What can be indexed is gzip, and reads by its index.
    let mut file = vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3];
    file.extend_from_slice(bytes);
    for file in [bytes, &file[..]] {
        let Ok(index) = build(file) else { continue };
        let mut plain = Vec::new();
        GzDecoder::new(file).read_to_end(&mut plain).unwrap();
        let view = View::new(blob(file), Arc::new(Index::open(blob(&index)).unwrap())).unwrap();
        assert_eq!(view.len(), plain.len() as u64);
        let mut got = vec![0; plain.len()];
        view.read_at(&mut got, 0).unwrap();
        assert!(got == plain);
    }
});

fn blob(bytes: &[u8]) -> Arc<dyn Blob> {
    Arc::new(MemoryBlob::new("fuzz", bytes.to_vec()))
}

fn build(gzip: &[u8]) -> overlaybd::Result<Vec<u8>> {
    let mut sink = MemorySink::default();
    Index::build(&mut &gzip[..], &mut sink, SPAN, &mut |_| Ok(()))?;
    Ok(sink.bytes)
}

/// Reads here and there.
fn read(gzip: &[u8], index: &[u8]) {
    let Ok(index) = Index::open(blob(index)) else { return };
    let Ok(view) = View::new(blob(gzip), Arc::new(index)) else { return };
    let len = (view.len() as usize).min(PLAIN);
    for (at, n) in [(0, 1000), (len / 2, 70_000), (len / 3, 10), (len.saturating_sub(5000), 5000)] {
        let n = n.min(len - at);
        let _ = view.read_at(&mut vec![0; n], at as u64);
        let _ = view.is_ready(at as u64, n as u64);
        let _ = view.distrust(at as u64, n as u64);
    }
}
