//! What a fetch promises: the right bytes or an error that says what happened, within bounds.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use parking_lot::Mutex;

use super::testing::{pattern, source, source_at, steps, target, Fault, Make, Server};
use super::*;
use crate::blob::Blob;
use crate::error::Kind;
use crate::sys::Clock;

const LEN: usize = 300_000;

fn read(server: &std::sync::Arc<Server>, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut buf = vec![0; len];
    let got = source(server).fetch(offset, &mut buf, Some(LEN as u64))?;
    assert_eq!((got.len, got.total), (len, LEN as u64));
    Ok(buf)
}

fn range(value: &str) -> Fault {
    Fault::Headers(vec![("content-range", value.to_owned())])
}

#[test]
fn faults_that_pass_cost_attempts_but_not_bytes() {
    let cases: Vec<Vec<Fault>> = vec![
        vec![],
        vec![Fault::Fail(Kind::Io), Fault::Fail(Kind::TimedOut)],
        vec![Fault::Status(500, vec![]), Fault::Status(429, vec![("Retry-After", "3".into())])],
        vec![Fault::Status(503, vec![]), Fault::Status(204, vec![])],
        vec![range(""), range("bytes 0-99/300000"), range("bytes 100-200099/300001"), range("bytes 100-299999/300000")],
        vec![range("bytes 100-200099/*"), range("nonsense"), range("bytes 100-18446744073709551615/300000")],
        vec![
            Fault::Headers(vec![("content-length", "5".into())]),
            Fault::Headers(vec![("content-encoding", "gzip".into())]),
        ],
        vec![Fault::Long(1), Fault::Short(0), Fault::Short(7), Fault::Long(100_000)],
        // Progress is not a failed attempt, however often the body breaks off.
        (0..9).map(|_| Fault::Short(20_000)).take(2).chain([Fault::Short(70_000)]).collect(),
        vec![Fault::Whole],
    ];
    let bytes = pattern(LEN);
    for (i, faults) in cases.into_iter().enumerate() {
        let count = faults.len();
        let whole = matches!(faults.first(), Some(Fault::Whole));
        let server = Server::with(bytes.clone(), faults);
        assert_eq!(read(&server, 100, 200_000).unwrap(), bytes[100..200_100], "case {i}");
        assert_eq!(server.requests(), if whole { 1 } else { count + 1 }, "case {i}");
    }
}

#[test]
fn a_body_that_breaks_off_is_continued_where_it_broke() {
    let server = Server::with(pattern(LEN), [Fault::Short(100_000), Fault::Short(50_000)]);
    assert_eq!(read(&server, 1000, 200_000).unwrap(), server.bytes[1000..201_000]);
    let seen: Vec<_> = server.seen.lock().iter().map(|(a, b, _)| (*a, *b)).collect();
    assert_eq!(seen, [(1000, 200_999), (101_000, 200_999), (151_000, 200_999)]);
}

#[test]
fn a_sequential_reader_is_answered_from_one_request() {
    let server = Server::with(pattern(LEN), [Fault::Headers(vec![]), Fault::Status(500, vec![])]);
    let source = source(&server);
    let (mut buf, mut stream) = (vec![0; 30_000], None);
    for offset in [0, 30_000, 60_000, 90_000] {
        let (got, rest) = source.fetch_ahead(offset, &mut buf, Some(LEN as u64), 70_000, stream, true).unwrap();
        stream = rest;
        assert_eq!(got.len, 30_000);
        assert!(buf == server.bytes[offset as usize..][..30_000]);
    }
    let seen: Vec<_> = server.seen.lock().iter().map(|(a, b, _)| (*a, *b)).collect();
    // The stream ended in the middle of the last buffer; one failure on the way cost nothing but an attempt.
    assert_eq!(seen, [(0, 99_999), (100_000, 189_999), (100_000, 189_999)]);
    assert_eq!(stream.as_ref().unwrap().at(), 120_000);
    // A stream that is elsewhere is not used, and nothing is asked for beyond the end.
    let (_, rest) = source.fetch_ahead(290_000, &mut buf[..1000], Some(LEN as u64), 70_000, stream, true).unwrap();
    assert!(buf[..1000] == server.bytes[290_000..291_000]);
    assert_eq!(rest.unwrap().at(), 291_000);

    // A stream that breaks is continued by a request, as if it had ended there.
    let server = Server::with(pattern(LEN), [Fault::Short(50_000)]);
    let source = self::source(&server);
    let mut stream = None;
    for offset in [0, 30_000, 60_000] {
        stream = source.fetch_ahead(offset, &mut buf, Some(LEN as u64), 200_000, stream, true).unwrap().1;
        assert!(buf == server.bytes[offset as usize..][..30_000]);
    }
    assert_eq!(server.requests(), 2);
}

#[test]
fn errors_name_blob_status_and_url_but_no_secret() {
    let cases = [
        (404, 1, Kind::NotFound),
        (416, 1, Kind::OutOfBounds),
        (401, 1, Kind::Denied),
        (403, 1, Kind::Denied),
        (400, 1, Kind::Io),
        (302, 1, Kind::Io),
        (418, 1, Kind::Io),
        (500, 5, Kind::Io),
        (429, 5, Kind::Busy),
    ];
    for (status, requests, kind) in cases {
        let server = Server::with(pattern(LEN), (0..20).map(|_| Fault::Status(status, vec![])));
        let e = read(&server, 4096, 10).unwrap_err();
        assert_eq!((e.kind(), server.requests()), (kind, requests), "{e}");
        let text = e.to_string();
        assert!(text.contains("blob:test: at 4096: "), "{text}");
        assert!(text.contains(&format!("GET https://r.example/v2/a/blobs/sha256:00: {status}")), "{text}");
        assert!(text.contains("(credentials of the test)"), "{text}");
        assert!(!text.contains("pw") && !text.contains("hidden") && !text.contains("secret"), "{text}");
    }
}

#[test]
fn lasting_nonsense_ends_in_corrupt() {
    for fault in
        [|| range("bytes 0-9/300000"), || Fault::Long(1), || Fault::Headers(vec![("content-range", "".into())])]
    {
        let server = Server::with(pattern(LEN), (0..20).map(|_| fault()));
        let e = read(&server, 4096, 10).unwrap_err();
        assert_eq!((e.kind(), server.requests()), (Kind::Corrupt, 5), "{e}");
    }
    // A 200 far from the start would mean to throw the blob away up to there.
    let big = vec![7; 3 << 20];
    let server = Server::with(big, (0..20).map(|_| Fault::Whole));
    let e = source(&server).fetch(2 << 20, &mut [0; 10], None).unwrap_err();
    assert!(e.to_string().contains("ignores ranges"), "{e}");
}

#[test]
fn retry_after_is_waited_for_unless_it_is_beyond_the_deadline() {
    let date = |now: &str, then: &str| {
        vec![("Date", format!("Sun, 06 Nov 1994 {now} GMT")), ("Retry-After", format!("Sun, 06 Nov 1994 {then} GMT"))]
    };
    for (status, headers) in [
        (429, vec![("Retry-After", "3600".into())]),
        (503, vec![("Retry-After", "31".into())]),
        (429, date("08:00:00", "09:00:00")),
    ] {
        let server = Server::with(pattern(LEN), [Fault::Status(status, headers)]);
        let e = read(&server, 0, 10).unwrap_err();
        assert!(e.to_string().contains("asked to come back in") && e.to_string().contains(&status.to_string()), "{e}");
        assert_eq!((e.kind(), server.requests(), server.clock.now().as_secs()), (Kind::Busy, 1, 0));
    }
    // The server's clock is what its dates are held against.
    let server = Server::with(pattern(LEN), [Fault::Status(503, date("08:00:00", "08:00:07"))]);
    read(&server, 0, 10).unwrap();
    assert_eq!((server.requests(), server.clock.now().as_secs()), (2, 7));
}

#[test]
fn a_registry_that_is_away_is_waited_for_as_long_as_was_said() {
    let away = || (0..60).map(|n| if n % 2 == 0 { Fault::Fail(Kind::Io) } else { Fault::Status(502, vec![]) });
    for (limit_s, given_up) in [(0, true), (20, true), (600, false)] {
        let server = Server::with(pattern(LEN), away());
        let source = source(&server);
        source.outage().endure(Duration::from_secs(limit_s));
        let mut buf = [0; 10];
        let got = source.fetch(4096, &mut buf, None);
        let took = server.clock.now().as_secs();
        if given_up {
            let e = got.unwrap_err().to_string();
            assert!(e.contains("given up after"), "{e}");
            assert!(took <= limit_s + 2 && took + 3 >= limit_s, "{took} s of {limit_s}");
        } else {
            got.unwrap();
            assert_eq!(buf, pattern(LEN)[4096..4106]);
            assert!((55..65).contains(&took), "an attempt a second: {took} s");
        }
    }
    // What will not be otherwise later is not waited for, and neither is a server that says how long it will take.
    for fault in
        [|| Fault::Status(404, vec![]), || Fault::Long(1), || Fault::Status(429, vec![("Retry-After", "3600".into())])]
    {
        let server = Server::with(pattern(LEN), (0..99).map(|_| fault()));
        let source = source(&server);
        source.outage().endure(Duration::from_secs(600));
        source.fetch(4096, &mut [0; 10], None).unwrap_err();
        assert!(server.clock.now().as_secs() < 5);
    }
}

#[test]
fn nobody_waits_for_a_registry_any_more_once_that_was_said() {
    // Also not as long as it asked for.
    let busy = || Fault::Status(429, vec![("Retry-After", "300".into())]);
    let server = Server::with(pattern(LEN), (0..9).map(|_| busy()));
    let source = source(&server);
    source.outage().endure(Duration::from_secs(600));
    let (outage, clock) = (Arc::clone(source.outage()), Arc::clone(&server.clock));
    clock.at(Duration::from_secs(40), move || outage.endure(Duration::ZERO));
    source.fetch(4096, &mut [0; 10], None).unwrap_err();
    assert!((40..42).contains(&clock.now().as_secs()), "{:?}", clock.now());
}

#[test]
fn nobody_gives_way_to_who_waits_for_a_registry_that_is_away() {
    // It refuses at once; or it is silent, for most of the time.
    for (silent, at) in [(0, 3), (5, 8)].map(|(silent, at)| (Duration::from_secs(silent), Duration::from_secs(at))) {
        let server = Server::with(pattern(LEN), (0..9).map(|_| Fault::Fail(Kind::Io)));
        let source = source(&server);
        source.outage().endure(Duration::from_secs(600));
        let clock = Arc::clone(&server.clock);
        *server.gate.lock() = Some(Arc::new(move || clock.sleep(silent)));
        let idle = Arc::new(AtomicBool::new(false));
        let found = Arc::clone(&idle);
        // Other tests fetch, too, but none for so long.
        server.clock.at(at, move || found.store(LANE.give_way(Duration::from_secs(20)), SeqCst));
        RemoteBlob::open(source, Some(LEN as u64)).unwrap().read_at(&mut [0; 10], 0).unwrap();
        assert!(server.clock.now() >= at && idle.load(SeqCst), "silent for {silent:?}");
    }
}

#[test]
fn a_slow_trickle_is_a_stall() {
    // Too slow to be waited for, but each attempt brings a bit: what came is kept, and the time is bounded.
    let server = Server::with(pattern(LEN), (0..99).map(|_| Fault::Trickle(2000)));
    let e = read(&server, 0, 200_000).unwrap_err();
    assert_eq!((e.kind(), server.requests()), (Kind::TimedOut, 5), "{e}");
    assert!(e.to_string().contains("only 10000 bytes in 5 s"), "{e}");
    assert_eq!(server.seen.lock()[4].0, 40_000);
    assert!(server.clock.now().as_secs() <= 30);
    // Slow but steady is good enough; so is a single slow connection.
    let server = Server::with(pattern(LEN), [Fault::Trickle(8000)]);
    assert_eq!(read(&server, 5, 200_000).unwrap(), server.bytes[5..200_005]);
    assert_eq!(server.requests(), 1);
    let server = Server::with(pattern(LEN), [Fault::Trickle(100)]);
    assert_eq!(read(&server, 5, 200_000).unwrap(), server.bytes[5..200_005]);
    assert_eq!(server.requests(), 2);
}

/// Two endpoints, the better one first, as long as it is good.
#[derive(Default)]
struct Two {
    second: AtomicBool,
    told: Mutex<Vec<(u32, Option<u16>)>>,
}

impl Locate for Two {
    fn locate(&self) -> Result<Arc<Target>> {
        let second = self.second.load(SeqCst);
        Ok(target(["http://one.example/x", "http://two.example/x"][usize::from(second)], second.into()))
    }

    fn refused(&self, _: u16, _: &[(String, String)], _: &Arc<Target>) -> Result<bool> {
        Ok(false)
    }

    fn failed(&self, status: Option<u16>, _: &Error, target: &Arc<Target>) -> bool {
        self.told.lock().push((target.endpoint, status));
        !self.second.swap(true, SeqCst)
    }

    fn distrusted(&self, target: &Arc<Target>) {
        self.told.lock().push((target.endpoint, None));
        self.second.store(target.endpoint == 0, SeqCst);
    }
}

#[test]
fn another_endpoint_is_tried_at_once() {
    let faults: [(Make, Option<u16>); 7] = [
        (|| Fault::Status(404, vec![]), Some(404)),
        (|| Fault::Status(403, vec![]), Some(403)),
        (|| Fault::Status(429, vec![("Retry-After", "3600".into())]), Some(429)),
        (|| Fault::Status(500, vec![]), Some(500)),
        (|| Fault::Fail(Kind::Denied), None),
        (|| Fault::Short(1000), None),
        (|| range("bytes 0-9/300000"), Some(206)),
    ];
    for (fault, status) in faults {
        let (server, two) = (Server::new(pattern(LEN)), Arc::new(Two::default()));
        server.lasting.lock().push(("http://one", fault));
        let source = source_at(&server, Arc::clone(&two) as Arc<dyn Locate>);
        let mut buf = vec![0; 10_000];
        source.fetch(7, &mut buf, None).unwrap();
        assert_eq!(buf, server.bytes[7..10_007]);
        assert_eq!((server.requests(), server.clock.now()), (2, Duration::ZERO), "{status:?}");
        assert_eq!(*two.told.lock(), [(0, status)]);
    }
    // With both down it ends as it does with one.
    let (server, two) = (Server::with(pattern(LEN), (0..99).map(|_| Fault::Fail(Kind::Io))), Arc::new(Two::default()));
    source_at(&server, two).fetch(7, &mut [0; 10], None).unwrap_err();
    assert_eq!(server.requests(), 6);
}

#[test]
fn who_sent_wrong_bytes_is_told_on() {
    let (server, two) = (Server::new(pattern(LEN)), Arc::new(Two::default()));
    server.lasting.lock().push(("http://one", || Fault::Lie));
    let source = source_at(&server, Arc::clone(&two) as Arc<dyn Locate>);
    let blob = RemoteBlob::open(source, Some(LEN as u64)).unwrap();
    let mut buf = vec![0; 10_000];
    blob.read_at(&mut buf, 1000).unwrap();
    assert_ne!(buf, server.bytes[1000..11_000]);
    assert!(blob.distrust(2000, 1).unwrap());
    blob.read_at(&mut buf, 1000).unwrap();
    assert_eq!(buf, server.bytes[1000..11_000]);
    // Bytes that nobody is known to have sent are nobody's fault; those of the second are not the first's.
    assert!(blob.distrust(100_000, 1).unwrap());
    assert_eq!(*two.told.lock(), [(0, None)]);
    blob.distrust(1000, 1).unwrap();
    assert_eq!(*two.told.lock(), [(0, None), (1, None)]);
}

#[test]
fn redirects_go_where_the_locator_says_and_loops_end() {
    let server = Server::with(pattern(LEN), [Fault::Status(307, vec![])]);
    let mut buf = [0; 10];
    source_at(&server, steps(vec!["https://cdn.example/x".into()])).fetch(5, &mut buf, None).unwrap();
    assert_eq!(buf, server.bytes[5..15]);
    assert_eq!(server.seen.lock()[1].2, "https://cdn.example/x");

    let server = Server::with(pattern(LEN), (0..99).map(|_| Fault::Status(307, vec![])));
    let e = source_at(&server, steps(vec!["https://a.example/".into(); 99])).fetch(0, &mut buf, None).unwrap_err();
    assert!(e.to_string().contains("circles"), "{e}");
    assert_eq!(server.requests(), 9);
}

#[test]
fn length_is_learnt_from_the_first_answer() {
    let server = Server::new(pattern(1000));
    let got = source(&server).fetch(0, &mut [0; 4096], None).unwrap();
    assert_eq!(got, Fetched { len: 1000, total: 1000 });
    let empty = Server::new(vec![]);
    assert_eq!(source(&empty).fetch(0, &mut [0; 4096], None).unwrap(), Fetched { len: 0, total: 0 });
    let blob = RemoteBlob::open(source(&server), None).unwrap();
    let mut buf = [0; 100];
    blob.read_at(&mut buf, 900).unwrap();
    assert_eq!(buf, server.bytes[900..]);
    assert_eq!(blob.read_at(&mut buf, 901).unwrap_err().kind(), Kind::OutOfBounds);
    // A blob that changed its length under the same name is refused.
    let e = source(&server).fetch(0, &mut [0; 10], Some(999)).unwrap_err();
    assert_eq!(e.kind(), Kind::Corrupt, "{e}");
    // And lengths that no blob has are not believed.
    let server = Server::with(pattern(10), (0..9).map(|_| range("bytes 0-9/18446744073709551615")));
    assert!(source(&server).fetch(0, &mut [0; 10], None).unwrap_err().to_string().contains("too long"));
}

#[test]
fn public_urls_hold_no_secrets() {
    for (url, public) in [
        ("https://u:p@h:5000/v2/x?token=1#f", "https://h:5000/v2/x"),
        ("http://h/a@b", "http://h/a@b"),
        ("http://u@h?x/y", "http://h"),
        ("no url?x", "no url"),
    ] {
        assert_eq!(public_url(url), public);
    }
}
