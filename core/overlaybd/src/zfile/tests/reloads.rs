//! Bad blocks of a source that can fetch again are fetched again, a bounded number of times; others fail at once.

use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::blob::heal;
use crate::error::{Error, Kind};
use crate::limits::MAX_BLOCK_RELOADS;

/// A source whose copy of some bytes is bad until it was distrusted often enough.
struct Flaky {
    good: Vec<u8>,
    bad_at: usize,
    heals_after: usize,
    reloadable: bool,
    distrusted: Mutex<Vec<(u64, u64)>>,
}

impl Blob for Flaky {
    fn name(&self) -> &str {
        "flaky"
    }

    fn len(&self) -> u64 {
        self.good.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let range = offset as usize..offset as usize + buf.len();
        buf.copy_from_slice(&self.good[range.clone()]);
        if range.contains(&self.bad_at) && self.distrusted.lock().len() < self.heals_after {
            buf[self.bad_at - range.start] ^= 0x55;
        }
        Ok(())
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        !(offset..offset + len).contains(&(self.bad_at as u64))
    }

    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        self.distrusted.lock().push((offset, len));
        Ok(self.reloadable)
    }
}

fn flaky(good: Vec<u8>, bad_at: usize, heals_after: usize) -> Arc<Flaky> {
    Arc::new(Flaky { good, bad_at, heals_after, reloadable: true, distrusted: Mutex::default() })
}

/// A zfile of four blocks; offset and length of the second one as stored.
fn four_blocks(checksum: bool) -> (Vec<u8>, Vec<u8>, (u64, u64)) {
    let plain = sample(4 * 4096);
    let bytes = build(&plain, Options { checksum, ..options(Algorithm::Lz4, 4096) }).unwrap();
    let table = bytes.len() - 512 - 16;
    let length = |n: usize| u64::from(u32::from_le_bytes(bytes[table + 4 * n..][..4].try_into().unwrap()));
    let second = (512 + length(0), length(1));
    (plain, bytes, second)
}

#[test]
fn a_bad_block_is_fetched_again_and_read_right() {
    for heals_after in 1..=MAX_BLOCK_RELOADS as usize {
        let (plain, bytes, second) = four_blocks(true);
        let blob = flaky(bytes, second.0 as usize + 9, heals_after);
        let reader = Reader::open(blob.clone()).unwrap();
        assert!(read_all(&reader).unwrap() == plain);
        assert_eq!(*blob.distrusted.lock(), vec![second; heals_after], "exactly the stored block");
    }
}

#[test]
fn reloads_are_bounded_and_the_error_names_the_place() {
    let (_, bytes, second) = four_blocks(true);
    let blob = flaky(bytes, second.0 as usize + 9, usize::MAX);
    let e = read_all(&Reader::open(blob.clone()).unwrap()).unwrap_err();
    assert_eq!((e.kind(), e.offset()), (Kind::Corrupt, Some(second.0)));
    assert!(e.to_string().starts_with("corrupt: flaky: at ") && e.to_string().contains("block 1: checksum"), "{e}");
    assert_eq!(blob.distrusted.lock().len(), MAX_BLOCK_RELOADS as usize);
    assert!(e.to_string().contains("fetched 4 times, and its source gave the same"), "{e}");
}

#[test]
fn a_source_with_only_one_copy_fails_at_once() {
    let (plain, bytes, second) = four_blocks(true);
    let mut blob = flaky(bytes, second.0 as usize + 9, usize::MAX);
    Arc::get_mut(&mut blob).unwrap().reloadable = false;
    let reader = Reader::open(blob.clone()).unwrap();
    let e = read_all(&reader).unwrap_err();
    assert!(e.kind() == Kind::Corrupt && !e.to_string().contains("fetched"), "{e}");
    assert_eq!(blob.distrusted.lock().len(), 1);
    // The others are none the worse for it.
    let mut third = vec![0; 4096];
    reader.read_at(&mut third, 8192).unwrap();
    assert!(third == plain[8192..12288]);
}

#[test]
fn a_block_without_checksum_that_does_not_decode_is_fetched_again_too() {
    let (plain, bytes, second) = four_blocks(false);
    // The first byte of an LZ4 block says how many literals follow; with another number, decoding fails.
    let blob = flaky(bytes, second.0 as usize, 2);
    assert!(read_all(&Reader::open(blob.clone()).unwrap()).unwrap() == plain);
    assert_eq!(blob.distrusted.lock().len(), 2);
}

#[test]
fn bad_headers_and_tables_are_fetched_again_and_what_lies_between_is_not() {
    let (plain, bytes, second) = four_blocks(true);
    let len = bytes.len();
    let open = |blob: Arc<dyn Blob>| crate::layer::unwrap(blob);
    for bad_at in [100, len - 512 - 3, len - 512] {
        let blob = flaky(bytes.clone(), bad_at, 1);
        let reader = heal(&(blob.clone() as Arc<dyn Blob>), open).unwrap();
        assert!(read_all(&*reader).unwrap() == plain);
        let dropped = blob.distrusted.lock();
        assert!(dropped.iter().any(|(at, n)| (*at..at + n).contains(&(bad_at as u64))), "{dropped:?}");
        assert!(dropped.iter().all(|(at, n)| at + n <= 1024 || *at >= second.0 + second.1), "{dropped:?}");

        let hopeless = flaky(bytes.clone(), bad_at, usize::MAX);
        assert_eq!(heal(&(hopeless as Arc<dyn Blob>), open).err().unwrap().kind(), Kind::Corrupt);
    }
}

/// A source that fails to drop its copy, or to read.
struct Broken(Vec<u8>, u64);

impl Blob for Broken {
    fn name(&self) -> &str {
        "broken"
    }

    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if (offset..offset + buf.len() as u64).contains(&self.1) {
            return Err(Error::new(Kind::TimedOut, "no answer").in_file("broken").at(self.1));
        }
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }

    fn distrust(&self, _: u64, _: u64) -> Result<bool> {
        Err(Error::new(Kind::Io, "cannot punch"))
    }
}

#[test]
fn failures_of_the_source_pass_through() {
    let (_, mut bytes, second) = four_blocks(true);
    let e = read_all(&Reader::open(Arc::new(Broken(bytes.clone(), second.0 + 1))).unwrap()).unwrap_err();
    assert_eq!(e.kind(), Kind::TimedOut);
    for at in [0, 511, bytes.len() - 520, bytes.len() - 1] {
        let e = Reader::open(Arc::new(Broken(bytes.clone(), at as u64))).err().unwrap();
        assert_eq!(e.kind(), Kind::TimedOut, "{at}");
    }
    bytes[second.0 as usize + 3] ^= 1;
    let e = read_all(&Reader::open(Arc::new(Broken(bytes, u64::MAX))).unwrap()).unwrap_err();
    assert_eq!(e.what(), "cannot punch");
}

#[test]
fn readiness_and_distrust_are_those_of_the_stored_blocks() {
    let (_, bytes, second) = four_blocks(true);
    let blob = flaky(bytes, second.0 as usize, 0);
    let reader = Reader::open(blob.clone()).unwrap();
    assert!(reader.is_ready(0, 4096) && !reader.is_ready(4095, 2) && !reader.is_ready(5000, 1));
    assert!(reader.is_ready(8192, 8192) && reader.is_ready(1 << 40, 9) && reader.is_ready(4096, 0));
    assert!(reader.distrust(5000, 10).unwrap());
    assert!(!reader.distrust(1 << 40, 10).unwrap());
    assert_eq!(*blob.distrusted.lock(), vec![second]);
}
