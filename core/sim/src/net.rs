//! A registry that answers well, badly, late, or not at all, and the way to it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use overlaybd::error::{Error, Kind, Result};
use overlaybd::fetch::{Body, Headers, Http, Locate, Request, Response, Target, Via};
use overlaybd::sync::sim;
use overlaybd::sys::Clock;

/// The time of the world.
#[derive(Debug)]
pub struct SimClock;

impl Clock for SimClock {
    fn now(&self) -> Duration {
        sim::now().unwrap_or_default()
    }

    fn sleep(&self, time: Duration) {
        sim::sleep(time);
    }
}

/// What a registry is like just now, in thousandths of its answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Answers that go wrong in some way.
    pub bad: u64,
    /// Whether nobody is there at all.
    pub away: bool,
    /// Longest time of an answer.
    pub latency: Duration,
}

/// A registry. Clones are the same one.
#[derive(Clone, Default)]
pub struct SimRegistry(Arc<Inner>);

#[derive(Default)]
struct Inner {
    blobs: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
    weather: Mutex<Weather>,
    /// The token that is good now.
    token: AtomicU64,
}

impl SimRegistry {
    /// Adds a blob under a name.
    pub fn add(&self, name: &str, bytes: Vec<u8>) {
        self.0.blobs.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into(), Arc::new(bytes));
    }

    /// The bytes of a blob.
    pub fn blob(&self, name: &str) -> Arc<Vec<u8>> {
        self.0.blobs.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().unwrap_or_default()
    }

    /// What it is like from now on.
    pub fn set_weather(&self, weather: Weather) {
        *self.0.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// All tokens that were given out are worth nothing from now on.
    pub fn expire(&self) {
        self.0.token.fetch_add(1, Ordering::Relaxed);
    }

    /// How to find a blob there.
    pub fn locate(&self, name: &str) -> Arc<dyn Locate> {
        Arc::new(Way { registry: self.clone(), name: name.into(), token: AtomicU64::new(0) })
    }
}

impl Http for SimRegistry {
    fn get(&self, request: &Request<'_>) -> Result<Response> {
        let weather = *self.0.weather.lock().unwrap_or_else(PoisonError::into_inner);
        sim::sleep(Duration::from_micros(sim::draw(weather.latency.as_micros() as u64 + 1)));
        if sim::is_dead() || weather.away {
            return Err(Error::new(Kind::Io, "connect").because(io::Error::from(io::ErrorKind::ConnectionRefused)));
        }
        let (name, token) = request.url.rsplit_once("?token=").unwrap_or((request.url, ""));
        let bytes = self.blob(name.rsplit('/').next().unwrap_or_default());
        let bad = sim::draw(1000) < weather.bad;
        let fault = if bad { sim::draw(14) } else { u64::MAX };
        sim::note(|| format!("GET {name} {}-{} fault {}", request.first, request.last, fault as i64));
        if token != self.0.token.load(Ordering::Relaxed).to_string() {
            return Ok(answer(401, vec![], vec![]));
        }
        let total = bytes.len() as u64;
        if request.first >= total {
            return Ok(answer(416, vec![("Content-Range".into(), format!("bytes */{total}"))], vec![]));
        }
        let last = request.last.min(total - 1);
        let mut part = bytes[request.first as usize..=last as usize].to_vec();
        let range = |first: u64, last: u64, total: u64| {
            vec![
                ("Content-Range".to_owned(), format!("bytes {first}-{last}/{total}")),
                ("Content-Length".to_owned(), (last + 1 - first).to_string()),
            ]
        };
        let good = range(request.first, last, total);
        Ok(match fault {
            0 => answer(500, vec![], b"oops".to_vec()),
            1 => answer(503, vec![("Retry-After".into(), sim::draw(3).to_string())], vec![]),
            2 => answer(429, vec![("Retry-After".into(), "1".into())], vec![]),
            3 => return Err(Error::new(Kind::Io, "reset").because(io::Error::from(io::ErrorKind::ConnectionReset))),
            4 => {
                sim::sleep(request.timeout.min(request.patience));
                return Err(Error::new(Kind::TimedOut, "silence"));
            }
            5 => {
                part.truncate(sim::draw(part.len() as u64) as usize);
                answer(206, good, part)
            }
            6 => {
                part.push(0xee);
                answer(206, vec![good[0].clone()], part)
            }
            7 => answer(206, range(request.first + 1, last + 1, total + 1), part),
            8 => answer(206, range(request.first, last, total + 1), part),
            9 => answer(200, vec![("Content-Length".into(), total.to_string())], bytes.to_vec()),
            10 => {
                // A liar: the length is right, the bytes are not.
                let at = sim::draw(part.len() as u64) as usize;
                part[at] ^= 1 << sim::draw(8);
                answer(206, good, part)
            }
            11 => {
                part.fill(0);
                answer(206, good, part)
            }
            12 => Response {
                status: 206,
                headers: good,
                body: Box::new(Slow { bytes: io::Cursor::new(part) }),
                slot: None,
            },
            13 => {
                self.expire();
                answer(401, vec![], vec![])
            }
            _ => answer(206, good, part),
        })
    }
}

fn answer(status: u16, headers: Headers, bytes: Vec<u8>) -> Response {
    Response { status, headers, body: Box::new(Whole(io::Cursor::new(bytes))), slot: None }
}

struct Whole(io::Cursor<Vec<u8>>);

impl Read for Whole {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        sim::step();
        if sim::is_dead() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.0.read(buf)
    }
}

impl Body for Whole {
    fn renew(&mut self, _: Duration, _: Duration) {}
}

/// A body that comes in pieces, with pauses, and may stop.
struct Slow {
    bytes: io::Cursor<Vec<u8>>,
}

impl Read for Slow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        sim::sleep(Duration::from_millis(sim::draw(500)));
        if sim::is_dead() || sim::draw(10) == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let len = buf.len().min(1 + sim::draw(8192) as usize);
        self.bytes.read(&mut buf[..len])
    }
}

impl Body for Slow {
    fn renew(&mut self, _: Duration, _: Duration) {}
}

/// Knows the token that was good when it last asked.
struct Way {
    registry: SimRegistry,
    name: String,
    token: AtomicU64,
}

impl Locate for Way {
    fn locate(&self) -> Result<Arc<Target>> {
        sim::step();
        let url = format!("http://registry/v2/a/blobs/{}?token={}", self.name, self.token.load(Ordering::Relaxed));
        Ok(Arc::new(Target { url, headers: vec![], via: Via::Environment, endpoint: 0, limit: None }))
    }

    fn refused(&self, _status: u16, _headers: &[(String, String)], _target: &Arc<Target>) -> Result<bool> {
        sim::sleep(Duration::from_millis(sim::draw(50)));
        let token = self.registry.0.token.load(Ordering::Relaxed);
        Ok(self.token.swap(token, Ordering::Relaxed) != token)
    }
}
