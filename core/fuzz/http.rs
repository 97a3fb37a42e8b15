//! Fuzzes what a server answers: heads, bodies of all framings, and what is made of the answer to a ranged GET.
#![no_main]

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use overlaybd::fetch::{fuzzed_answer, FetchStats, Http, Locate, Request, Response, Source, Target, Via};
use overlaybd::sys::Clock;
use overlaybd::{Error, Kind, Result};

/// Most that fits a socket's buffer.
const MAX_BYTES: usize = 60_000;
/// Bytes of the range that is asked for.
const PART: usize = 10;

/// A server whose every answer is the same, and a clock on which waiting takes no time.
#[derive(Debug)]
struct Server(Vec<u8>);

#[derive(Debug, Default)]
struct FastClock(Mutex<Duration>);

impl Http for Server {
    fn get(&self, _: &Request<'_>) -> Result<Response> {
        fuzzed_answer(&self.0).map_err(|e| Error::new(Kind::Io, "answer").because(e))
    }
}

impl Clock for FastClock {
    fn now(&self) -> Duration {
        *self.0.lock().expect("no panic")
    }
    fn sleep(&self, time: Duration) {
        *self.0.lock().expect("no panic") += time;
    }
}

struct Place(Arc<Target>);

impl Locate for Place {
    fn locate(&self) -> Result<Arc<Target>> {
        Ok(Arc::clone(&self.0))
    }
    fn refused(&self, _: u16, _: &[(String, String)], _: &Arc<Target>) -> Result<bool> {
        Ok(false)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = &bytes[..bytes.len().min(MAX_BYTES)];
    let all = body(bytes, 8192);
    assert!(all == body(bytes, 7), "a body depends on how it is read");
    fetched(bytes, all.as_deref());
});

/// The body of an answer read in steps; None if there is none, or it is broken.
fn body(bytes: &[u8], step: usize) -> Option<Vec<u8>> {
    let mut response = fuzzed_answer(bytes).ok()?;
    assert!((200..600).contains(&response.status));
    let (mut all, mut buf) = (Vec::new(), vec![0; step]);
    loop {
        match response.body.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(&buf[..n]),
            Err(_) => return None,
        }
        assert!(all.len() <= bytes.len(), "more than came");
    }
    assert_eq!(response.body.read(&mut buf).ok(), Some(0), "more after the end");
    Some(all)
}

/// A read of a range ends in bytes of the body, or in an error.
fn fetched(bytes: &[u8], body: Option<&[u8]>) {
    let (url, headers) = ("http://r.example/b".into(), Vec::new());
    let target = Target { url, headers, via: Via::Direct, endpoint: 0, limit: None };
    let (http, clock) = (Arc::new(Server(bytes.to_vec())), Arc::new(FastClock::default()));
    let source = Source::new("fuzz", http, Arc::new(Place(Arc::new(target))), clock, Arc::new(FetchStats::default()));
    for (offset, total) in [(0, None), (0, Some(PART as u64)), (3, Some(20))] {
        let mut buf = [0; PART];
        if let (Ok(found), Some(body)) = (source.fetch(offset, &mut buf, total), body) {
            let sent = found.len == 0 || body.windows(found.len).any(|part| part == &buf[..found.len]);
            assert!(sent, "bytes that nobody sent");
        }
    }
}
