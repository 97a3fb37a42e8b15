//! Wrappers by upstream, by ordinary tar writers, and broken ones.

use std::sync::Arc;

use super::*;
use crate::blob::MemoryBlob;
use crate::sink::{MemorySink, Sink};

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../../tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn found(bytes: &[u8]) -> Result<Option<Member>> {
    detect(&MemoryBlob::new("t", bytes.to_vec()))
}

fn payload(bytes: &[u8]) -> Vec<u8> {
    let blob = unwrap(Arc::new(MemoryBlob::new("t", bytes.to_vec()))).unwrap();
    let mut payload = vec![0; blob.len() as usize];
    blob.read_at(&mut payload, 0).unwrap();
    payload
}

fn wrapped(payload: &[u8]) -> Vec<u8> {
    let mut sink = TarSink::new(MemorySink::default()).unwrap();
    sink.write(payload).unwrap();
    assert_eq!(sink.position(), payload.len() as u64);
    sink.finish().unwrap();
    sink.into_sink().bytes
}

/// A header of any type and size, then `body` padded.
fn entry(kind: u8, name: &str, size: &str, body: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[124..124 + size.len()].copy_from_slice(size.as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block.extend_from_slice(body);
    block.resize(512 + body.len().next_multiple_of(512), 0);
    with_checksum(block)
}

fn with_checksum(mut tar: Vec<u8>) -> Vec<u8> {
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|&b| u32::from(b)).sum();
    tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar
}

#[test]
fn wraps_byte_for_byte_as_upstream() {
    for name in ["lsmt/b.lz4.tar", "lsmt/b.zstd16.tar", "zfile/empty.lz4.4.tar.zfile", "zfile/mix.zstd.64.tar.zfile"] {
        let tar = golden(name);
        let inner = payload(&tar);
        assert_eq!(&inner[..5], b"ZFile");
        assert!(wrapped(&inner) == tar, "{name}");
        let member = found(&tar).unwrap().unwrap();
        assert_eq!((member.name.as_str(), member.offset), ("overlaybd.commit", 1536));
    }
}

#[test]
fn any_payload_length_comes_back_and_the_rest_is_padding() {
    for len in [0, 1, 511, 512, 513, 91, 92, 991, 992, 100_000] {
        let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let mut tar = wrapped(&bytes);
        assert_eq!(tar.len(), (1536 + len as usize).next_multiple_of(512) + 1024);
        assert!(payload(&tar) == bytes, "{len}");
        tar.resize(tar.len() + 1024, 0); // another end-of-archive marker, as the image converter appends
        assert!(payload(&tar) == bytes);
    }
}

#[test]
fn rewriting_and_copying_speak_of_the_payload() {
    let mut sink = TarSink::new(MemorySink::default()).unwrap();
    sink.write(b"abcdef").unwrap();
    sink.write_from(&MemoryBlob::new("m", b"0123456789".to_vec()), 3, 4).unwrap();
    assert!(sink.rewrite(2, b"XY").unwrap());
    sink.finish().unwrap();
    assert_eq!(payload(&sink.into_sink().bytes), b"abXYef3456");
}

#[test]
fn an_unfinished_wrapper_is_no_tar() {
    let mut sink = TarSink::new(MemorySink::default()).unwrap();
    sink.write(&[1; 3000]).unwrap();
    let bytes = sink.into_sink().bytes;
    assert_eq!(found(&bytes).unwrap(), None);
    assert_eq!(&bytes[512..521], b"9 size=0\n");
    assert_eq!((&bytes[1024..1037], &bytes[1281..1289]), (&b"overlaybd.new"[..], &b"xxtar\0xx"[..]));
}

#[test]
fn ordinary_tars_are_unwrapped_at_their_true_offset() {
    let plain = entry(b'0', "overlaybd.commit", "00000000005\0", b"hello");
    assert_eq!(payload(&plain), b"hello");
    assert_eq!(payload(&plain[..517]), b"hello", "nothing pads it");
    let pax = |body: &[u8], kind| entry(kind, "pax", &format!("{:o}", body.len()), body);
    // A PAX body beyond one block, where upstream's reader would go wrong.
    let long = [b"600 comment=".to_vec(), vec![b'x'; 587], b"\n10 size=5\n".to_vec()].concat();
    // The size of a PAX header counts even if the octal field says another one.
    let lying = entry(b'0', "layer", "0 ", b"hello");
    assert_eq!(payload(&[pax(&long, b'x'), lying.clone()].concat()), b"hello");
    let global = pax(b"18 comment=abcdef\n", b'g');
    assert_eq!(payload(&[global.clone(), pax(b"10 size=5\n", b'x'), lying].concat()), b"hello");
    // A size of 0 counts for nothing, and none at all neither.
    let true_size = entry(b'0', "layer", "5", b"hello");
    assert_eq!(payload(&[pax(b"10 size=0\n", b'x'), true_size.clone()].concat()), b"hello");
    assert_eq!(payload(&[global, true_size].concat()), b"hello");
}

#[test]
fn what_upstream_does_not_recognise_is_left_alone() {
    let good = entry(b'0', "layer", "5", b"hello");
    let changed = |at: usize, bytes: &[u8]| {
        let mut tar = good.clone();
        tar[at..at + bytes.len()].copy_from_slice(bytes);
        tar
    };
    let gnu = with_checksum(changed(257, b"ustar  \0"));
    let v7 = with_checksum(changed(257, &[0; 8]));
    for other in [gnu, v7, changed(0, b"X"), changed(148, b"zzzzzz"), good[..511].to_vec(), vec![], vec![0; 1024]] {
        assert_eq!(found(&other).unwrap(), None);
        assert!(payload(&other) == other);
    }
    let mut signed = changed(0, b"\xff\xff");
    signed[148..156].fill(b' ');
    let sum: i32 = signed[..512].iter().map(|&b| i32::from(b.cast_signed())).sum();
    signed[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    assert_eq!(payload(&signed), b"hello", "a signed checksum is one too");
}

#[test]
fn broken_tars_are_errors() {
    let pax = |body: &[u8]| entry(b'x', "pax", &format!("{:o}", body.len()), body);
    let member = entry(b'0', "layer", "5", b"hello");
    let comment = |len: u64| format!("{len} comment={}\n", "x".repeat(len as usize - 17)).into_bytes();
    assert!(found(&[pax(&comment(MAX_PAX_BYTES)), member.clone()].concat()).unwrap().is_some());
    assert!(found(&[pax(b"10 size=5\n").repeat(MAX_TAR_HEADERS - 1), member.clone()].concat()).unwrap().is_some());
    let huge = entry(b'x', "pax", "77777777777", b"");
    let table: Vec<(Vec<u8>, Kind, &str)> = vec![
        (entry(b'0', "layer", "6", b"hello")[..515].to_vec(), Kind::Corrupt, "cut off"),
        (entry(b'0', "layer", "777777777777", b"hello"), Kind::Corrupt, "cut off"),
        (entry(b'0', "layer", "\u{1}\u{2}", b""), Kind::Unsupported, "octal"),
        (pax(b"10 size=5\n"), Kind::Corrupt, "no tar header"),
        ([pax(b"10 size=5\n"), vec![0; 512]].concat(), Kind::Corrupt, "no tar header"),
        ([pax(b"27 size=18446744073709551615\n"), member.clone()].concat(), Kind::Corrupt, "PAX"),
        ([pax(b"29 size=18446744073709551615\n"), member.clone()].concat(), Kind::Corrupt, "cut off"),
        ([pax(b"30 size=99999999999999999999\n"), member.clone()].concat(), Kind::Corrupt, "PAX"),
        ([pax(b"10 size=-\n"), member.clone()].concat(), Kind::Corrupt, "PAX"),
        ([pax(b"size=5\n"), member.clone()].concat(), Kind::Corrupt, "PAX"),
        ([pax(b"99 size=5\n"), member.clone()].concat(), Kind::Corrupt, "PAX"),
        ([pax(b"1 size=5\n"), member.clone()].concat(), Kind::Corrupt, "PAX"),
        ([pax(b"9 nothing"), member.clone()].concat(), Kind::Corrupt, "PAX"),
        ([pax(b"10 nothin\n"), member.clone()].concat(), Kind::Corrupt, "PAX"),
        ([pax(b"9 size=5x"), member.clone()].concat(), Kind::Corrupt, "PAX"),
        (huge, Kind::Limit, "PAX header of"),
        ([pax(&comment(MAX_PAX_BYTES + 1)), member].concat(), Kind::Limit, "PAX header of"),
        (pax(b"10 size=5\n").repeat(20), Kind::Limit, "no member"),
    ];
    for (n, (bytes, kind, words)) in table.into_iter().enumerate() {
        let e = found(&bytes).unwrap_err();
        assert_eq!(e.kind(), kind, "row {n}: {e}");
        assert!(e.to_string().contains(words) && e.offset().is_some(), "row {n}: {e}");
    }
}
