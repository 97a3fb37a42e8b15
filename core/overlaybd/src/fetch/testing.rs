//! A network and a clock for tests: scripted answers first, then a well-behaved server of known bytes.

use std::collections::VecDeque;
use std::io::{self, Cursor, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Body, FetchStats, Headers, Http, Locate, Request, Response, Source, Target, Via};
use crate::error::{Error, Kind, Result};
use crate::sys::Clock;

type Event = Box<dyn FnOnce() + Send>;

/// Time that passes only by sleeping.
#[derive(Default)]
pub(crate) struct TestClock {
    now: AtomicU64,
    /// What is to happen, and when.
    event: Mutex<Option<(Duration, Event)>>,
}

impl std::fmt::Debug for TestClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {:?}", self.now())
    }
}

impl TestClock {
    /// Has something happen in the sleep that ends at this time or later.
    pub(crate) fn at(&self, time: Duration, act: impl FnOnce() + Send + 'static) {
        *self.event.lock() = Some((time, Box::new(act)));
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.now.load(Ordering::SeqCst))
    }

    fn sleep(&self, time: Duration) {
        self.now.fetch_add(time.as_nanos() as u64, Ordering::SeqCst);
        let due = self.event.lock().take_if(|(when, _)| *when <= self.now());
        if let Some((_, act)) = due {
            act();
        }
    }
}

/// One deviation from good behaviour.
pub(crate) enum Fault {
    /// This status and these headers, no body.
    Status(u16, Vec<(&'static str, String)>),
    /// The right answer with headers replaced (an empty value removes one).
    Headers(Vec<(&'static str, String)>),
    /// The right head, but only that many bytes of body.
    Short(usize),
    /// The right head and body, and that many bytes more.
    Long(usize),
    /// 200 with the whole blob.
    Whole,
    /// The right answer, but so many bytes a second.
    Trickle(usize),
    /// The right head, and a body in which every byte is wrong.
    Lie,
    /// No answer.
    Fail(Kind),
}

/// Makes a fault anew each time.
pub(crate) type Make = fn() -> Fault;

/// A server of one blob.
pub(crate) struct Server {
    pub bytes: Vec<u8>,
    pub faults: Mutex<VecDeque<Fault>>,
    /// Range and URL of each request, in order.
    pub seen: Mutex<Vec<(u64, u64, String)>>,
    /// Faults that last, by the beginning of URLs.
    pub lasting: Mutex<Vec<(&'static str, Make)>>,
    pub clock: Arc<TestClock>,
    /// Called before each answer, to hold it back.
    pub gate: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

impl Server {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Server {
            bytes,
            faults: Mutex::default(),
            seen: Mutex::default(),
            lasting: Mutex::default(),
            clock: Arc::default(),
            gate: Mutex::default(),
        })
    }

    pub(crate) fn with(bytes: Vec<u8>, faults: impl IntoIterator<Item = Fault>) -> Arc<Self> {
        let server = Server::new(bytes);
        server.faults.lock().extend(faults);
        server
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.lock().len()
    }
}

/// A body that is there at once.
struct Whole(Cursor<Vec<u8>>);

impl Read for Whole {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Body for Whole {
    fn renew(&mut self, _: Duration, _: Duration) {}
}

/// A body that brings `step` bytes each second.
struct Trickle {
    bytes: Cursor<Vec<u8>>,
    step: usize,
    clock: Arc<TestClock>,
}

impl Read for Trickle {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.clock.sleep(Duration::from_secs(1));
        let n = buf.len().min(self.step);
        self.bytes.read(&mut buf[..n])
    }
}

impl Body for Trickle {
    fn renew(&mut self, _: Duration, _: Duration) {}
}

fn body(bytes: &[u8]) -> Box<dyn Body> {
    Box::new(Whole(Cursor::new(bytes.to_vec())))
}

fn answer(status: u16, headers: Headers, body: Box<dyn Body>) -> Response {
    Response { status, headers, body, slot: None }
}

impl Http for Server {
    fn get(&self, r: &Request<'_>) -> Result<Response> {
        self.seen.lock().push((r.first, r.last, r.url.to_owned()));
        let gate = self.gate.lock().clone();
        if let Some(gate) = gate {
            gate();
        }
        let all = self.bytes.len() as u64;
        if r.first >= all {
            let headers = vec![("Content-Range".into(), format!("bytes */{all}"))];
            return Ok(answer(416, headers, body(b"")));
        }
        let last = r.last.min(all - 1);
        let part = &self.bytes[r.first as usize..=last as usize];
        let mut headers: Headers = vec![
            ("content-range".into(), format!("bytes {}-{last}/{all}", r.first)),
            ("content-length".into(), part.len().to_string()),
        ];
        let lasting = self.lasting.lock().iter().find(|(url, _)| r.url.starts_with(url)).map(|(_, fault)| fault());
        Ok(match self.faults.lock().pop_front().or(lasting) {
            None => answer(206, headers, body(part)),
            Some(Fault::Status(status, extra)) => {
                let headers = extra.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
                answer(status, headers, body(b"{}"))
            }
            Some(Fault::Headers(changes)) => {
                for (name, value) in changes {
                    headers.retain(|(n, _)| n != name);
                    if !value.is_empty() {
                        headers.push((name.to_owned(), value));
                    }
                }
                answer(206, headers, body(part))
            }
            Some(Fault::Short(n)) => answer(206, headers, body(&part[..n.min(part.len())])),
            Some(Fault::Trickle(step)) => {
                let (bytes, clock) = (Cursor::new(part.to_vec()), Arc::clone(&self.clock));
                answer(206, headers, Box::new(Trickle { bytes, step, clock }))
            }
            Some(Fault::Lie) => answer(206, headers, body(&part.iter().map(|b| !b).collect::<Vec<_>>())),
            Some(Fault::Long(n)) => {
                headers.retain(|(n, _)| n != "content-length");
                let longer = [part, &vec![0xee; n]].concat();
                answer(206, headers, body(&longer))
            }
            Some(Fault::Whole) => answer(200, vec![("content-length".into(), all.to_string())], body(&self.bytes)),
            Some(Fault::Fail(kind)) => {
                return Err(Error::new(kind, "scripted").because(io::Error::from(io::ErrorKind::ConnectionReset)))
            }
        })
    }
}

/// A locator that counts refusals and changes its URL with each, as long as it may.
pub(crate) struct Steps {
    pub left: Mutex<Vec<String>>,
    pub url: Mutex<String>,
}

/// A target without secrets and limits.
pub(crate) fn target(url: &str, endpoint: u32) -> Arc<Target> {
    let headers = vec![("Authorization".into(), "secret".into())];
    Arc::new(Target { url: url.into(), headers, via: Via::Environment, endpoint, limit: None })
}

impl Locate for Steps {
    fn locate(&self) -> Result<Arc<Target>> {
        Ok(target(&self.url.lock(), 0))
    }

    fn refused(&self, _: u16, _: &[(String, String)], _: &Arc<Target>) -> Result<bool> {
        match self.left.lock().pop() {
            Some(next) => *self.url.lock() = next,
            None => return Ok(false),
        }
        Ok(true)
    }

    fn note(&self) -> Option<String> {
        Some("credentials of the test".into())
    }
}

pub(crate) const URL: &str = "https://user:pw@r.example/v2/a/blobs/sha256:00?sig=hidden";

pub(crate) fn steps(left: Vec<String>) -> Arc<Steps> {
    Arc::new(Steps { left: Mutex::new(left), url: Mutex::new(URL.into()) })
}

/// A source on `server` whose locator has nothing to try after a refusal.
pub(crate) fn source(server: &Arc<Server>) -> Source {
    source_at(server, steps(vec![]))
}

pub(crate) fn source_at(server: &Arc<Server>, locate: Arc<dyn Locate>) -> Source {
    let (http, clock) = (Arc::clone(server) as Arc<dyn Http>, Arc::clone(&server.clock));
    Source::new("blob:test", http, locate, clock, Arc::new(FetchStats::default()))
}

/// Bytes in which every place looks different.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}
