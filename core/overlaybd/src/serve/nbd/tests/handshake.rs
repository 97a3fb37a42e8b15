//! Every option, its answers, and what happens to clients that break the rules.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::proto::{can, info, option, reply, u16_at, u64_at, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES};
use super::super::server::{Options, Shared};
use super::client::{contexts, go, greet, negotiate, option_bytes, string, take, Client};
use super::{connect, ended, server, Device, SIZE};
use crate::device::{BlockDevice, MemoryDevice};
use crate::error::Kind;
use crate::limits::{NBD_MAX_OPTION, NBD_MAX_OPTIONS};

const BOTH: u16 = FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES;

#[test]
fn each_option_is_answered_by_the_book() {
    let server = server(&Arc::new(Device::new()));
    let (mut s, thread) = connect(&server);
    greet(&mut s, BOTH);
    let ack = (reply::ACK, vec![]);
    let error = |kind: u32| vec![(kind, vec![])];

    let list = negotiate(&mut s, option::LIST, &[]);
    assert_eq!(list, [(reply::SERVER, string("disk")), (reply::SERVER, string("fixed")), ack.clone()]);
    assert_eq!(negotiate(&mut s, option::LIST, b"x"), error(reply::ERR_INVALID));
    assert_eq!(negotiate(&mut s, 5, &[]), error(reply::ERR_UNSUP), "STARTTLS");
    assert_eq!(negotiate(&mut s, 4_000_000_000, &[0; 100]), error(reply::ERR_UNSUP));

    // Contexts need structured replies first.
    let query = contexts("disk", &["base:allocation"]);
    assert_eq!(negotiate(&mut s, option::LIST_META_CONTEXT, &query), error(reply::ERR_INVALID));
    assert_eq!(negotiate(&mut s, option::STRUCTURED_REPLY, b"x"), error(reply::ERR_INVALID));
    assert_eq!(negotiate(&mut s, option::STRUCTURED_REPLY, &[]), vec![ack.clone()]);

    let context = |id: u8| (reply::META_CONTEXT, [&[0, 0, 0, id], &b"base:allocation"[..]].concat());
    let cases = [
        (option::LIST_META_CONTEXT, contexts("disk", &[]), vec![context(0), ack.clone()]),
        (option::LIST_META_CONTEXT, contexts("", &["base:"]), vec![context(0), ack.clone()]),
        (option::LIST_META_CONTEXT, contexts("disk", &["qemu:"]), vec![ack.clone()]),
        (option::LIST_META_CONTEXT, contexts("none", &[]), error(reply::ERR_UNKNOWN)),
        (option::SET_META_CONTEXT, contexts("disk", &["qemu:x", "base:allocation"]), vec![context(1), ack.clone()]),
        (option::SET_META_CONTEXT, contexts("disk", &["base:"]), vec![ack.clone()]),
        (option::SET_META_CONTEXT, contexts("disk", &[]), vec![ack.clone()]),
        (option::SET_META_CONTEXT, contexts("none", &["base:allocation"]), error(reply::ERR_UNKNOWN)),
        (option::SET_META_CONTEXT, vec![0, 0, 0, 9, 1], error(reply::ERR_INVALID)),
        (option::SET_META_CONTEXT, [string("disk"), vec![255; 4]].concat(), error(reply::ERR_INVALID)),
    ];
    for (option, data, want) in cases {
        assert_eq!(negotiate(&mut s, option, &data), want, "option {option} {data:?}");
    }

    for bad in [vec![], vec![0; 3], [string("disk"), vec![0]].concat(), [string("disk"), vec![0, 2, 0, 1]].concat()] {
        assert_eq!(negotiate(&mut s, option::INFO, &bad), error(reply::ERR_INVALID), "{bad:?}");
    }
    assert_eq!(negotiate(&mut s, option::GO, &[&[255; 4], &b"disk"[..]].concat()), error(reply::ERR_INVALID));
    assert_eq!(negotiate(&mut s, option::INFO, &go("none", &[])), error(reply::ERR_UNKNOWN));
    assert_eq!(negotiate(&mut s, option::INFO, &go(&"x".repeat(5000), &[])), error(reply::ERR_INVALID));

    let infos = negotiate(&mut s, option::INFO, &go("", &[info::NAME, info::BLOCK_SIZE, 77]));
    assert_eq!(u64_at(&infos[0].1, 2), SIZE);
    let want = can::HAS_FLAGS | can::FLUSH | can::FUA | can::TRIM | can::WRITE_ZEROES | can::DF | can::MULTI_CONN;
    assert_eq!(u16_at(&infos[0].1, 10), want | can::CACHE | can::FAST_ZERO);
    assert_eq!(infos[1], (reply::INFO, [&[0, 1], &b"disk"[..]].concat()));
    assert_eq!(infos[2], (reply::INFO, vec![0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0]));
    assert_eq!(infos[3], ack);

    let fixed = negotiate(&mut s, option::INFO, &go("fixed", &[]));
    let want = can::HAS_FLAGS | can::READ_ONLY | can::FLUSH | can::DF | can::MULTI_CONN | can::CACHE;
    assert_eq!((u64_at(&fixed[0].1, 2), u16_at(&fixed[0].1, 10)), (1000, want));

    assert_eq!(negotiate(&mut s, option::ABORT, &[]), [ack]);
    assert_eq!(ended(thread), None);
}

#[test]
fn export_name_is_the_old_way_in() {
    let server = server(&Arc::new(Device::new()));
    for (flags, padding) in [(BOTH, 0), (FLAG_FIXED_NEWSTYLE, 124), (0, 124)] {
        let (mut s, thread) = connect(&server);
        greet(&mut s, flags);
        s.write_all(&option_bytes(option::EXPORT_NAME, b"fixed")).unwrap();
        let answer = take(&mut s, 10 + padding);
        assert_eq!(u64_at(&answer, 0), 1000);
        assert_eq!(u16_at(&answer, 8) & can::READ_ONLY, can::READ_ONLY);
        drop(s);
        assert_eq!(ended(thread), None);
    }
    let (mut s, thread) = connect(&server);
    greet(&mut s, BOTH);
    s.write_all(&option_bytes(option::EXPORT_NAME, b"none")).unwrap();
    assert_eq!(s.read(&mut [0]).unwrap(), 0, "an unknown name closes the connection");
    assert_eq!(ended(thread), Some(Kind::NotFound));
}

#[test]
fn a_context_of_another_export_does_not_count() {
    let server = server(&Arc::new(Device::new()));
    let (mut s, thread) = connect(&server);
    greet(&mut s, BOTH);
    negotiate(&mut s, option::STRUCTURED_REPLY, &[]);
    negotiate(&mut s, option::SET_META_CONTEXT, &contexts("fixed", &["base:allocation"]));
    negotiate(&mut s, option::GO, &go("disk", &[]));
    s.write_all(&[0x25, 0x60, 0x95, 0x13, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]).unwrap();
    s.write_all(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0]).unwrap();
    let reply = take(&mut s, 26);
    assert_eq!((u16_at(&reply, 6), reply[23]), (0x8001, 22), "EINVAL");
    drop(s);
    assert_eq!(ended(thread), None);
}

#[test]
fn a_stream_cut_anywhere_ends_cleanly() {
    let server = server(&Arc::new(Device::new()));
    let whole = [
        u32::from(BOTH).to_be_bytes().to_vec(),
        option_bytes(option::STRUCTURED_REPLY, &[]),
        option_bytes(option::SET_META_CONTEXT, &contexts("disk", &["base:allocation"])),
        option_bytes(option::GO, &go("disk", &[info::BLOCK_SIZE])),
    ]
    .concat();
    for cut in 0..=whole.len() {
        let (mut s, thread) = connect(&server);
        s.write_all(&whole[..cut]).unwrap();
        s.shutdown(std::net::Shutdown::Write).unwrap();
        s.read_to_end(&mut Vec::new()).unwrap();
        let want = (cut < whole.len()).then_some(Kind::Corrupt);
        assert_eq!(ended(thread), want, "cut after {cut} bytes");
    }
    assert!(server.find(b"disk").is_some_and(|e| e.pool.threads() == 0));
}

#[test]
fn rule_breakers_are_shut_out() {
    let server = server(&Arc::new(Device::new()));
    let too_long = [&option_bytes(option::LIST, &[])[..12], &(NBD_MAX_OPTION + 1).to_be_bytes()].concat();
    let absurd = [&option_bytes(option::LIST, &[])[..12], &u32::MAX.to_be_bytes()].concat();
    let mut wrong_magic = option_bytes(option::LIST, &[]);
    wrong_magic[0] ^= 1;
    let cases: [(u32, Vec<u8>, Kind); 5] = [
        (4, vec![], Kind::Corrupt),
        (3, too_long, Kind::Limit),
        (3, absurd, Kind::Limit),
        (3, wrong_magic, Kind::Corrupt),
        (3, option_bytes(99, &[]).repeat(NBD_MAX_OPTIONS + 1), Kind::Limit),
    ];
    for (flags, bytes, kind) in cases {
        let (mut s, thread) = connect(&server);
        // The server may close before it has read everything.
        let _ = s.write_all(&[&flags.to_be_bytes()[..], &bytes].concat());
        let _ = s.read_to_end(&mut Vec::new());
        assert_eq!(ended(thread), Some(kind));
    }
}

#[test]
fn a_silent_client_is_dropped_in_time() {
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(512).unwrap());
    let options = Options { handshake: Duration::from_millis(50), ..Options::default() };
    let server = Arc::new(Shared::new(vec![("d".into(), device)], options).unwrap());
    let start = Instant::now();
    let (mut s, thread) = connect(&server);
    s.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(ended(thread), Some(Kind::TimedOut));
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[test]
fn connections_are_counted() {
    let server = server(&Arc::new(Device::new()));
    let clients: Vec<_> = (0..4).map(|_| Client::new(&server, true)).collect();
    let (mut s, thread) = connect(&server);
    assert_eq!(s.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(ended(thread), Some(Kind::Limit));
    clients.into_iter().for_each(Client::leave);
    Client::new(&server, false).leave();
}

#[test]
fn exports_must_make_sense() {
    let device = || Arc::new(MemoryDevice::new(512).unwrap()) as Arc<dyn BlockDevice>;
    let kind = |exports| Shared::new(exports, Options::default()).err().map(|e| e.kind());
    assert_eq!(kind(vec![]), Some(Kind::Invalid));
    assert_eq!(kind(vec![("a".into(), device()), ("a".into(), device())]), Some(Kind::Exists));
    assert_eq!(kind(vec![("a".repeat(5000), device())]), Some(Kind::Limit));
}
