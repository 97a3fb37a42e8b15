//! Archives written here in every dialect come back as they were written; damaged ones never do harm.

use std::io::{self, Read, Write};

use flate2::read::GzDecoder;
use proptest::collection::vec;
use proptest::prelude::*;

use super::testing::{base256, build, header, push, record, sum, Dialect, Member};
use super::{Archive, Entry, EntryKind, Input, Time};
use crate::error::{Error, Kind, Result};
use crate::sink::MemorySink;

/// All members of an archive, each with its content, holes filled.
pub(super) fn read(input: impl Read) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut archive = Archive::new(input);
    let (mut found, mut buf) = (Vec::new(), [0; 700]);
    while let Some(entry) = archive.next_entry()? {
        let mut content = vec![0; usize::try_from(entry.size).unwrap().min(1 << 20)];
        while let Some((offset, len)) = archive.read(&mut buf)? {
            content[offset as usize..offset as usize + len].copy_from_slice(&buf[..len]);
        }
        found.push((entry, content));
    }
    archive.drain()?;
    Ok(found)
}

pub(super) fn members() -> impl Strategy<Value = Vec<Member>> {
    let name = prop_oneof!["[a-z]{1,9}(/[a-z]{1,9}){0,3}", "[a-zé]{90,130}", "([a-z]{20}/){8}[a-z]{1,50}"];
    let kind = prop_oneof![4 => Just(b'0'), 1 => Just(b'1'), 1 => Just(b'2'), 1 => Just(b'5')];
    let times = prop_oneof![(0..5_000_000_000i64, 0..1_000_000_000u32), (-5000..0i64, 0..1_000_000_000u32)];
    let member =
        (name.clone(), kind, name, 0..0o10000u32, 0..1u64 << 32, 0..5_000_000u64, times, vec(any::<u8>(), 0..3000));
    vec(member, 0..8).prop_map(|members| {
        let to_member =
            |(path, kind, link, mode, uid, gid, mtime, content): (String, _, String, _, _, _, _, _)| Member {
                link: if matches!(kind, b'1' | b'2') { link.into() } else { Vec::new() },
                content: if kind == b'0' { content } else { Vec::new() },
                xattrs: vec![("user.a=b".replace('=', "-"), vec![0, 61, 10]), ("user.none".into(), Vec::new())],
                ..Member { path: path.into(), kind, mode, uid, gid, mtime, ..Member::new("", 0) }
            };
        members.into_iter().map(to_member).collect()
    })
}

pub(super) fn same(found: &[(Entry, Vec<u8>)], members: &[Member], dialect: Dialect) {
    assert_eq!(found.len(), members.len());
    for ((entry, content), member) in found.iter().zip(members) {
        let nanos = if dialect == Dialect::Pax { member.mtime.1 } else { 0 };
        assert_eq!((&entry.path, &entry.link, content), (&member.path, &member.link, &member.content));
        assert_eq!((u32::from(entry.mode), u64::from(entry.uid)), (member.mode, member.uid));
        assert_eq!((u64::from(entry.gid), entry.mtime), (member.gid, Time { seconds: member.mtime.0, nanos }));
        let kind = [EntryKind::File, EntryKind::HardLink, EntryKind::Symlink];
        assert_eq!(entry.kind, *kind.get(usize::from(member.kind - b'0')).unwrap_or(&EntryKind::Directory));
        let wanted = if dialect == Dialect::Pax { member.xattrs.clone() } else { Vec::new() };
        let xattrs: Vec<_> = entry
            .xattrs
            .iter()
            .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.clone()))
            .collect();
        assert_eq!(xattrs, wanted);
    }
}

/// Gives few bytes at a time.
pub(super) struct Slow<R>(pub R, pub usize);

impl<R: Read> Read for Slow<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = buf.len().min(self.1);
        self.0.read(&mut buf[..n])
    }
}

pub(super) fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(plain).unwrap();
    packer.finish().unwrap()
}

pub(super) fn zstd(plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    zstd_safe::compress(&mut packed, plain, 1).unwrap();
    packed
}

proptest! {
    #[test]
    fn what_is_written_is_read(members in members(), step in 1..2000usize) {
        for dialect in [Dialect::Gnu, Dialect::Pax] {
            let archive = build(&members, dialect);
            same(&read(Slow(&archive[..], step)).unwrap(), &members, dialect);
        }
    }

    #[test]
    fn a_damaged_archive_does_no_harm(members in members(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        for dialect in [Dialect::Gnu, Dialect::Pax] {
            let mut archive = build(&members, dialect);
            let block = at.index(archive.len()) / 512 * 512;
            let place = at.index(archive.len());
            archive[place] = with;
            let _ = read(archive.as_slice());
            // With a checksum that is right the damage is believed.
            let mut header: [u8; 512] = archive[block..block + 512].try_into().unwrap();
            sum(&mut header);
            archive[block..block + 512].copy_from_slice(&header);
            let _ = read(archive.as_slice());
            let _ = read(&archive[..place]);
        }
    }
}

#[test]
fn the_end_in_all_its_forms() {
    let one = build(&[Member::new("f", b'0')], Dialect::Gnu);
    for (end, wanted) in [(512, Ok(1)), (1024, Ok(1)), (1536, Ok(1)), (600, Err(Kind::Corrupt)), (0, Ok(0))] {
        assert_eq!(read(&one[..end]).map(|found| found.len()).map_err(|e| e.kind()), wanted, "{end}");
    }
    // A single block of zeros is passed over; what follows two is not looked at.
    let head = &one[..512];
    assert_eq!(read([head, &[0; 512], head].concat().as_slice()).unwrap().len(), 2);
    assert_eq!(read([head, &[0; 1024], b"garbage"].concat().as_slice()).unwrap().len(), 1);
}

#[test]
fn absurd_headers_are_refused() {
    let with = |change: &dyn Fn(&mut [u8])| {
        let block = header(b"f", b'0', 0, b"", b"ustar\x0000", change);
        read([block.as_slice(), &[0; 1024]].concat().as_slice()).map(|found| found.len()).map_err(|e| e.kind())
    };
    assert_eq!(with(&|_| ()), Ok(1));
    assert_eq!(with(&|block| block[156] = b'Z'), Err(Kind::Unsupported));
    let named = header(b"a name", b'Z', 0, b"", b"ustar\x0000", |_| ());
    assert!(read(&named[..]).unwrap_err().what().contains("tar member a name: type 'Z'"));
    assert_eq!(with(&|block| block[124..136].copy_from_slice(b"99999999999\0")), Err(Kind::Corrupt));
    assert_eq!(with(&|block| base256(&mut block[124..136], -1)), Err(Kind::Corrupt));
    assert_eq!(with(&|block| base256(&mut block[124..136], i64::MAX >> 8)), Err(Kind::Corrupt));
    assert_eq!(with(&|block| base256(&mut block[108..116], 1 << 32)), Err(Kind::Limit));
    assert_eq!(with(&|block| base256(&mut block[108..116], -2)), Err(Kind::Limit));
    let huge = header(b"pax", b'x', 1 << 30, b"", b"ustar\x0000", |_| ());
    assert_eq!(read(huge.as_slice()).unwrap_err().kind(), Kind::Limit);
    let huge = record("size", u64::MAX.to_string().as_bytes());
    for kind in [b'0', b'D'] {
        let mut archive = header(b"pax", b'x', huge.len() as u64, b"", b"ustar\x0000", |_| ()).to_vec();
        push(&mut archive, &huge);
        archive.extend(header(b"huge", kind, 0, b"", b"ustar\x0000", |_| ()));
        assert_eq!(read(archive.as_slice()).unwrap_err().kind(), Kind::Corrupt);
    }
    let endless = header(b"L", b'g', 0, b"", b"ustar\x0000", |_| ()).repeat(100);
    assert_eq!(read(endless.as_slice()).unwrap_err().kind(), Kind::Limit);
}

#[test]
fn what_follows_a_file_that_is_named_like_a_directory_is_its_content() {
    let evil = header(b"evil", b'0', 0, b"", b"ustar\x0000", |block| block[100..107].copy_from_slice(b"0004755"));
    for kind in [b'0', b'D', b'7'] {
        let first = header(b"x/", kind, 512, b"", b"ustar\x0000", |_| ());
        let found = read(&[first, evil, [0; 512], [0; 512]].concat()[..]).unwrap();
        assert_eq!(found.iter().map(|(entry, _)| &entry.path[..]).collect::<Vec<_>>(), [b"x/"], "{}", char::from(kind));
        assert_eq!(found[0].0.size, if kind == b'7' { 512 } else { 0 }, "a directory has no bytes");
    }
    // In archives of the first kind, and behind what is one by its type, nothing follows.
    for kind in [0, b'5'] {
        let first = header(b"x/", kind, 512, b"", b"ustar\x0000", |_| ());
        assert_eq!(read(&[first, evil].concat()[..]).unwrap().len(), 2);
    }
}

#[test]
fn sparse_files_of_pax_have_holes() {
    let file = |records: &[(&str, &str)], stored: &[u8]| {
        let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value.as_bytes())).collect();
        let mut out = header(b"pax", b'x', body.len() as u64, b"", b"ustar\x0000", |_| ()).to_vec();
        push(&mut out, &body);
        out.extend(header(b"stored", b'0', stored.len() as u64, b"", b"ustar\x0000", |_| ()));
        push(&mut out, stored);
        read(out.as_slice())
    };
    let wanted = [vec![0; 1000], vec![1; 5], vec![0; 995], vec![2; 7], vec![0; 93]].concat();
    let stored = [vec![1; 5], vec![2; 7]].concat();
    let old = [
        ("GNU.sparse.size", "2100"),
        ("GNU.sparse.offset", "1000"),
        ("GNU.sparse.numbytes", "5"),
        ("GNU.sparse.offset", "2000"),
        ("GNU.sparse.numbytes", "7"),
    ];
    let newer = [("GNU.sparse.size", "2100"), ("GNU.sparse.name", "real"), ("GNU.sparse.map", "1000,5,2000,7")];
    assert_eq!(file(&old, &stored).unwrap()[0].1, wanted);
    let found = file(&newer, &stored).unwrap();
    assert_eq!((found[0].0.path.as_slice(), &found[0].1), (b"real".as_slice(), &wanted));
    for map in
        ["1000,5,2000,8", "1000,5,1004,7", "2000,5,1000,7", "1000,5,2099,7", "1000,5,2000", "18446744073709551615,12"]
    {
        let bad = [("GNU.sparse.size", "2100"), ("GNU.sparse.map", map)];
        assert_eq!(file(&bad, &stored).unwrap_err().kind(), Kind::Corrupt, "{map}");
    }
    let newest = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "2100")];
    let mut map = b"2\n1000\n5\n2000\n7\n".to_vec();
    map.resize(512, 0);
    assert_eq!(file(&newest, &[map, stored].concat()).unwrap()[0].1, wanted);
    assert_eq!(file(&newest, b"99999999\n").unwrap_err().kind(), Kind::Corrupt);
}

fn exported(tar: &[u8]) -> Vec<u8> {
    let mut sink = MemorySink::default();
    super::export(&mut Archive::new(tar), &mut sink, &mut |_, _| Ok(())).unwrap();
    sink.bytes
}

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/../../tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    if name.ends_with(".zst") {
        let mut plain = Vec::new();
        Input::open(io::Cursor::new(bytes), false, || Ok(())).unwrap().read_to_end(&mut plain).unwrap();
        return plain;
    }
    bytes
}

#[test]
fn exported_headers_are_upstreams() {
    assert!(exported(&golden("apply/tars/basic.tar.zst")) == golden("turbo/plain.tarmeta"));
    let mut plain = Vec::new();
    GzDecoder::new(&golden("turbo/turbo.tar.gz")[..]).read_to_end(&mut plain).unwrap();
    assert!(exported(&plain) == golden("turbo/gz.tarmeta"));
}

#[test]
fn headers_alone_say_all_but_content_and_where_that_is() {
    let text = |n: usize| vec![b'x'; n];
    let members = [
        Member { content: text(10), ..Member::new("a", b'0') },
        Member { path: [b'n'; 300].to_vec(), content: text(5000), ..Member::new("", b'0') },
        Member::new("empty", b'0'),
        Member { link: b"a".to_vec(), ..Member::new("hard", b'1') },
        Member { content: text(512), ..Member::new("last", b'0') },
    ];
    for dialect in [Dialect::Gnu, Dialect::Pax] {
        let tar = build(&members, dialect);
        let headers = exported(&tar);
        assert!(headers.len() < tar.len());
        let (mut whole, mut bare) = (Archive::new(&tar[..]), Archive::of_headers(&headers[..]));
        while let Some(entry) = whole.next_entry().unwrap() {
            let same = bare.next_entry().unwrap().unwrap();
            assert_eq!(Entry { offset: 0, ..same }, Entry { offset: 0, ..entry.clone() });
            let place = whole.take_place();
            assert_eq!((place, place.is_some()), (bare.take_place(), entry.size > 0));
            assert!(whole.read(&mut [0; 9]).unwrap().is_none(), "what was taken was read");
            if let Some(place) = place {
                assert!(tar[place as usize..][..entry.size as usize].iter().all(|b| *b == b'x'));
            }
        }
        assert!(bare.next_entry().unwrap().is_none());
    }
}

#[test]
fn headers_alone_give_no_content_and_no_sparse_files() {
    let tar = build(&[Member { content: vec![1; 10], ..Member::new("a", b'0') }], Dialect::Gnu);
    let headers = exported(&tar);
    let mut bare = Archive::of_headers(&headers[..]);
    bare.next_entry().unwrap();
    assert_eq!(bare.read(&mut [0; 9]).unwrap_err().kind(), Kind::Invalid);
    // What was not exported says no place.
    assert_eq!(Archive::of_headers(&tar[..]).next_entry().unwrap_err().kind(), Kind::Corrupt);
    for name in ["sparse-oldgnu", "sparse-pax10"] {
        let tar = std::fs::read(format!("{}/../fuzz/corpus/archive/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let (headers, mut whole) = (exported(&tar), Archive::new(&tar[..]));
        let mut bare = Archive::of_headers(&headers[..]);
        let error = loop {
            match bare.next_entry() {
                Ok(entry) => assert!(entry.is_some(), "a sparse file of which headers say enough"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), Kind::Unsupported);
        while whole.next_entry().unwrap().is_some_and(|entry| !entry.path.starts_with(b"sparse")) {}
        assert_eq!(whole.take_place(), None);
    }
}

#[test]
fn no_more_is_read_than_an_archive_may_have() {
    let tar = build(&[Member { content: vec![5; 3000], ..Member::new("f", b'0') }], Dialect::Gnu);
    let whole = [tar.clone(), vec![0; 5000]].concat();
    let read = |limit: usize| {
        let mut archive = Archive::new(&whole[..]);
        archive.limit(limit as u64);
        while archive.next_entry()?.is_some() {}
        archive.drain()?;
        Ok::<u64, Error>(archive.position())
    };
    assert_eq!(read(whole.len()).unwrap(), whole.len() as u64);
    for limit in [whole.len() - 1, tar.len(), 3000] {
        assert_eq!(read(limit).unwrap_err().kind(), Kind::Limit, "{limit}");
    }
}

#[test]
fn headers_without_their_member_are_an_archive_cut_off() {
    let body = record("path", b"x");
    for (kind, body) in [(b'x', &body[..]), (b'L', b"name\0"), (b'K', b"link\0")] {
        let mut tar = header(b"before", kind, body.len() as u64, b"", b"ustar  \0", |_| ()).to_vec();
        push(&mut tar, body);
        for end in [0, 1024] {
            let cut = [tar.clone(), vec![0; end]].concat();
            assert_eq!(read(&cut[..]).unwrap_err().kind(), Kind::Corrupt, "{}", char::from(kind));
        }
        tar.extend(header(b"f", b'0', 0, b"", b"ustar  \0", |_| ()));
        assert_eq!(read(&tar[..]).unwrap().len(), 1);
    }
}

#[test]
fn headers_of_every_dialect_say_names_and_devices() {
    let with = |kind: u8, magic: &[u8; 8]| {
        let block = header(b"name", kind, 0, b"", magic, |block| {
            // Some write the type into the mode, too.
            block[100..107].copy_from_slice(b"0120751");
            block[329..336].copy_from_slice(b"0000005");
            block[337..344].copy_from_slice(b"0000007");
            block[345..348].copy_from_slice(b"pre");
        });
        let found = read(&block[..]).unwrap();
        assert_eq!(found[0].0.mode, 0o751);
        (String::from_utf8(found[0].0.path.clone()).unwrap(), found[0].0.device)
    };
    assert_eq!(with(b'3', b"ustar\x0000"), ("pre/name".into(), (5, 7)));
    assert_eq!(with(b'4', b"ustar  \0"), ("name".into(), (5, 7)), "old GNU has times where the prefix would be");
    assert_eq!(with(b'3', &[0; 8]), ("name".into(), (0, 0)), "version 7 has neither");
    // The name of a volume is no member.
    let volume = header(b"volume", b'V', 0, b"", b"ustar  \0", |_| ());
    let file = header(b"f", b'0', 0, b"", b"ustar  \0", |_| ());
    assert_eq!(read(&[volume, file].concat()[..]).unwrap().len(), 1);
}

#[test]
fn access_control_lists_become_attributes_unless_they_say_nothing() {
    let of = |text: &[u8]| {
        let body = record("SCHILY.acl.access", text);
        let mut tar = header(b"pax", b'x', body.len() as u64, b"", b"ustar\x0000", |_| ()).to_vec();
        push(&mut tar, &body);
        tar.extend(header(b"f", b'0', 0, b"", b"ustar\x0000", |_| ()));
        let found = read(&tar[..]).unwrap().remove(0).0.xattrs;
        found.into_iter().map(|(name, value)| (String::from_utf8(name).unwrap(), value.len())).collect::<Vec<_>>()
    };
    let list = b"user::rw-,user:7:r--,group::r--,mask::r--,other::---";
    assert_eq!(of(list), [("system.posix_acl_access".to_owned(), 4 + 5 * 8)]);
    assert_eq!(of(b"no list"), [("SCHILY.acl.access".to_owned(), 7)]);
    assert_eq!(of(b"user::rw-,group::r--,other::---"), []);
}

#[test]
fn names_in_messages_are_cut_and_harmless() {
    use super::shown;

    assert_eq!(shown(b"a\nb"), "a\\nb");
    assert_eq!(shown(&[b'n'; 200]), "n".repeat(200));
    assert_eq!(shown(&[b'n'; 201]), "n".repeat(200) + "…");
}

#[test]
fn headers_may_have_so_many_bytes_and_no_more() {
    use crate::limits::{MAX_PAX_BYTES, MAX_TAR_HEADERS, MAX_TAR_NAME_BYTES};

    let with = |kind: u8, body: &[u8], times: usize| {
        let mut tar = header(b"before", kind, body.len() as u64, b"", b"ustar  \0", |_| ()).to_vec();
        push(&mut tar, body);
        tar = tar.repeat(times);
        tar.extend(header(b"f", b'0', 0, b"", b"ustar  \0", |_| ()));
        read(&tar[..]).map(|found| found.len()).map_err(|e| e.kind())
    };
    let comment = |len: u64| {
        let record = record("comment", &vec![b'x'; len as usize - "1048576 comment=\n".len()]);
        assert_eq!(record.len() as u64, len);
        record
    };
    for kind in *b"xg" {
        assert_eq!(with(kind, &comment(MAX_PAX_BYTES), 1), Ok(1));
        assert_eq!(with(kind, &comment(MAX_PAX_BYTES + 1), 1), Err(Kind::Limit));
    }
    for kind in *b"LK" {
        assert_eq!(with(kind, &vec![b'n'; MAX_TAR_NAME_BYTES as usize], 1), Ok(1));
        assert_eq!(with(kind, &vec![b'n'; MAX_TAR_NAME_BYTES as usize + 1], 1), Err(Kind::Limit));
    }
    assert_eq!(with(b'x', b"5 a=\n", MAX_TAR_HEADERS - 1), Ok(1));
    assert_eq!(with(b'x', b"5 a=\n", MAX_TAR_HEADERS), Err(Kind::Limit));
}
