//! A network and a clock for tests: scripted answers first, then a well-behaved server of known bytes.

use std::collections::VecDeque;
use std::io::{self, Cursor, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{FetchStats, Headers, Http, Locate, Request, Response, Source};
use crate::error::{Error, Kind, Result};
use crate::sys::Clock;

/// Time that passes only by sleeping.
#[derive(Debug, Default)]
pub(crate) struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }

    fn sleep(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Ordering::SeqCst);
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
    /// No answer.
    Fail(Kind),
}

/// A server of one blob.
pub(crate) struct Server {
    pub bytes: Vec<u8>,
    pub faults: Mutex<VecDeque<Fault>>,
    /// Range and URL of each request, in order.
    pub seen: Mutex<Vec<(u64, u64, String)>>,
    /// Called before each answer, to hold it back.
    pub gate: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

impl Server {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Server { bytes, faults: Mutex::default(), seen: Mutex::default(), gate: Mutex::default() })
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

fn body(bytes: &[u8]) -> Box<dyn Read + Send> {
    Box::new(Cursor::new(bytes.to_vec()))
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
            return Ok(Response { status: 416, headers, body: body(b"") });
        }
        let last = r.last.min(all - 1);
        let part = &self.bytes[r.first as usize..=last as usize];
        let mut headers: Headers = vec![
            ("content-range".into(), format!("bytes {}-{last}/{all}", r.first)),
            ("content-length".into(), part.len().to_string()),
        ];
        Ok(match self.faults.lock().pop_front() {
            None => Response { status: 206, headers, body: body(part) },
            Some(Fault::Status(status, extra)) => {
                let headers = extra.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
                Response { status, headers, body: body(b"{}") }
            }
            Some(Fault::Headers(changes)) => {
                for (name, value) in changes {
                    headers.retain(|(n, _)| n != name);
                    if !value.is_empty() {
                        headers.push((name.to_owned(), value));
                    }
                }
                Response { status: 206, headers, body: body(part) }
            }
            Some(Fault::Short(n)) => Response { status: 206, headers, body: body(&part[..n.min(part.len())]) },
            Some(Fault::Long(n)) => {
                headers.retain(|(n, _)| n != "content-length");
                let longer = [part, &vec![0xee; n]].concat();
                Response { status: 206, headers, body: body(&longer) }
            }
            Some(Fault::Whole) => Response {
                status: 200,
                headers: vec![("content-length".into(), all.to_string())],
                body: body(&self.bytes),
            },
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

impl Locate for Steps {
    fn locate(&self) -> Result<(String, Headers)> {
        Ok((self.url.lock().clone(), vec![("Authorization".into(), "secret".into())]))
    }

    fn refused(&self, _: u16, _: &[(String, String)], _: &str, _: &[(String, String)]) -> Result<bool> {
        match self.left.lock().pop() {
            Some(next) => *self.url.lock() = next,
            None => return Ok(false),
        }
        Ok(true)
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

pub(crate) fn source_at(server: &Arc<Server>, locate: Arc<Steps>) -> Source {
    let clock = Arc::new(TestClock::default());
    Source::new("blob:test", Arc::clone(server) as Arc<dyn Http>, locate, clock, Arc::new(FetchStats::default()))
}

/// Bytes in which every place looks different.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}
