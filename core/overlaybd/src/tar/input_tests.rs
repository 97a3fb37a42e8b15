//! Archives come out of every compression as they went in, whatever happens to their source on the way.

use std::io::{self, Read};

use proptest::prelude::*;

use super::archive_tests::{gzip, members, read, same, zstd, Slow};
use super::input::Compression;
use super::testing::{build, Dialect, Member};
use super::Input;
use crate::error::Kind;

proptest! {
    #[test]
    fn every_compression_in_any_number_of_parts(members in members(), cut in 0..9000usize) {
        let archive = build(&members, Dialect::Pax);
        let (head, tail) = archive.split_at(cut.min(archive.len()));
        let members_of_gzip = [gzip(head), gzip(tail), vec![0; 99]].concat();
        let packed = [archive.clone(), members_of_gzip, [zstd(head), zstd(tail)].concat()];
        for bytes in packed {
            let mut input = Input::open(io::Cursor::new(bytes), true, || Ok(())).unwrap();
            same(&read(&mut input).unwrap(), &members, Dialect::Pax);
            let sum = ring::digest::digest(&ring::digest::SHA256, &archive);
            assert_eq!(input.digest().unwrap(), sum.as_ref());
        }
    }
}

#[test]
fn compressed_input_that_is_cut_or_damaged() {
    let archive = build(&[Member { content: vec![7; 9000], ..Member::new("f", b'0') }], Dialect::Gnu);
    let garbage = [gzip(&archive), b"garbage".to_vec()].concat();
    let mut damaged = gzip(&archive);
    let middle = damaged.len() - 6;
    damaged[middle] ^= 1;
    let (short_gzip, short_zstd) = (gzip(&archive), zstd(&archive));
    for bytes in [garbage, damaged, short_gzip[..40].to_vec(), short_zstd[..short_zstd.len() - 1].to_vec()] {
        let input = Input::open(io::Cursor::new(bytes), false, || Ok(())).unwrap();
        assert_eq!(read(input).unwrap_err().kind(), Kind::Corrupt);
    }
}

#[test]
fn inputs_say_how_they_are_compressed() {
    let tar = build(&[Member::new("f", b'0')], Dialect::Gnu);
    // What a decoder is to skip, as parallel ones begin with.
    let skipped = [b"\x5A\x2A\x4D\x18\x03\0\0\0abc".to_vec(), zstd(&tar)].concat();
    let (of_gzip, of_zstd) = (Some(Compression::Gzip), Some(Compression::Zstd));
    let cases = [(tar.clone(), None), (gzip(&tar), of_gzip), (zstd(&tar), of_zstd), (skipped, of_zstd)];
    for (bytes, how) in cases {
        // A pipe may give a byte at a time.
        for step in [1, usize::MAX] {
            let mut input = Input::open(Slow(io::Cursor::new(bytes.clone()), step), false, || Ok(())).unwrap();
            assert_eq!(read(&mut input).unwrap().len(), 1);
            assert!(input.compression() == how && input.is_compressed() == how.is_some());
            assert_eq!(input.is_checked(), how.is_some());
        }
    }
    for (short, how) in [(&b""[..], None), (b"\x1F", None), (b"\x1F\x8B", of_gzip), (b"\x50\x2A\x4D", None)] {
        assert_eq!(Compression::of(short), how);
    }
}

/// A signal interrupts every second read.
struct Interrupted<R>(R, bool);

impl<R: Read> Read for Interrupted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        match self.1 {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => self.0.read(buf),
        }
    }
}

#[test]
fn what_a_signal_interrupts_is_read_again() {
    // More than one read each, and content that needs many.
    let members = [Member { content: (0..900_000).map(|i| (i / 251) as u8).collect(), ..Member::new("f", b'0') }];
    let tar = build(&members, Dialect::Gnu);
    same(&read(Interrupted(Slow(&tar[..], 9000), false)).unwrap(), &members, Dialect::Gnu);
    let (head, tail) = tar.split_at(400_000);
    for bytes in [tar.clone(), [gzip(head), gzip(tail)].concat(), [zstd(head), zstd(tail)].concat()] {
        // As many bytes as end where the first part does, too.
        for step in [9000, gzip(head).len(), zstd(head).len()] {
            let source = Interrupted(Slow(io::Cursor::new(bytes.clone()), step), false);
            let mut input = Input::open(source, false, || Ok(())).unwrap();
            same(&read(&mut input).unwrap(), &members, Dialect::Gnu);
        }
    }
}

#[test]
fn a_source_that_fails_is_told() {
    /// Something is there, and then the device breaks.
    struct Broken(bool);

    impl Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            buf[..5].copy_from_slice(b"\x1F\x8B\x08\0\0");
            Ok(5)
        }
    }

    assert_eq!(read(Broken(true)).unwrap_err().kind(), Kind::Io);
    let error = read(Input::open(Broken(false), false, || Ok(())).unwrap()).unwrap_err();
    assert_eq!(error.kind(), Kind::Io, "{error}");
}

#[test]
fn zeros_behind_a_gzip_file_are_no_end_of_what_is_read() {
    // More than are looked at together; what then comes is no gzip.
    let tar = build(&[Member::new("f", b'0')], Dialect::Gnu);
    for (end, wanted) in [(&b""[..], Ok(1)), (b"garbage", Err(Kind::Corrupt))] {
        let bytes = [gzip(&tar), vec![0; 600_000], end.to_vec()].concat();
        let input = Input::open(io::Cursor::new(bytes), false, || Ok(())).unwrap();
        assert_eq!(read(input).map(|found| found.len()).map_err(|e| e.kind()), wanted);
    }
}
