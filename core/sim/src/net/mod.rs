//! A registry that answers well, badly, late, or not at all; its mirror, and the object store that it sends readers to.

mod body;
mod way;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use overlaybd::error::{Error, Kind, Result};
use overlaybd::fetch::{Headers, Http, Locate, Request, Response};
use overlaybd::sync::sim;
use overlaybd::sys::Clock;

use crate::library::{self, Part};
use body::{answer, broken, End};
use way::Way;

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

/// What the network is like just now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Answers that go wrong in some way, in thousandths.
    pub bad: u64,
    /// Whether nobody is there at all, and connections are refused, or nobody says a word.
    pub away: Option<bool>,
    /// Longest time of an answer.
    pub latency: Duration,
}

/// What a registry is like for good.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// Readers need a token.
    pub tokens: bool,
    /// Readers are sent to an object store, by links that expire after so long.
    pub links: Option<Duration>,
    /// There is a mirror, which is to be asked first.
    pub mirror: bool,
}

/// A registry and what belongs to it. Clones are the same one.
#[derive(Clone)]
pub struct SimRegistry(Arc<Inner>);

struct Inner {
    habits: Habits,
    weather: Mutex<Weather>,
    /// The token that is good now, and the links.
    token: AtomicU64,
    links: AtomicU64,
    /// A mirror of that kind gives all wrong bytes, as far as readers can notice.
    lying: AtomicBool,
}

impl SimRegistry {
    pub fn new(habits: Habits) -> Self {
        let (weather, token, links, lying) = Default::default();
        SimRegistry(Arc::new(Inner { habits, weather, token, links, lying }))
    }

    /// What the network is like from now on.
    pub fn set_weather(&self, weather: Weather) {
        *self.0.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
        self.0.lying.store(weather.bad > 0 && sim::draw(4) == 0, Ordering::Relaxed);
    }

    /// All tokens and links that were given out are worth nothing from now on.
    pub fn expire(&self) {
        self.0.token.fetch_add(1, Ordering::Relaxed);
        self.0.links.fetch_add(1, Ordering::Relaxed);
    }

    /// How to find a blob there.
    pub fn locate(&self, digest: &str) -> Arc<dyn Locate> {
        Arc::new(Way::new(self.clone(), digest))
    }

    fn weather(&self) -> Weather {
        *self.0.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A link that is good for a while.
    fn link(&self, digest: &str, life: Duration) -> String {
        let until = (sim::now().unwrap_or_default() + life).as_millis();
        format!("http://store/{digest}?good={}&until={until}", self.0.links.load(Ordering::Relaxed))
    }

    fn is_good(&self, link: &str) -> bool {
        let word = |name: &str| link.split(['?', '&']).find_map(|word| word.strip_prefix(name)?.parse::<u64>().ok());
        word("good=") == Some(self.0.links.load(Ordering::Relaxed))
            && word("until=").is_some_and(|until| u128::from(until) >= sim::now().unwrap_or_default().as_millis())
    }

    /// What is said instead of bytes; None if bytes are to be had.
    fn dialogue(&self, request: &Request<'_>, host: &str, digest: &str) -> Option<Response> {
        let habits = &self.0.habits;
        if host == "store" {
            let refusals = [400, 401, 403, 410];
            return (!self.is_good(request.url))
                .then(|| answer(refusals[sim::draw(4) as usize], vec![], b"<Error>expired</Error>".to_vec()));
        }
        let token = format!("Bearer {}", self.0.token.load(Ordering::Relaxed));
        if habits.tokens && !request.headers.iter().any(|(name, value)| name == "Authorization" && *value == token) {
            let status = if sim::draw(4) == 0 { 403 } else { 401 };
            let challenge = ("WWW-Authenticate".to_owned(), "Bearer realm=\"http://tokens/\"".to_owned());
            return Some(answer(status, vec![challenge], vec![]));
        }
        let life = habits.links.filter(|_| host == "registry")?;
        let status = [301, 302, 303, 307, 308][sim::draw(5) as usize];
        Some(answer(status, vec![("Location".into(), self.link(digest, life))], vec![]))
    }
}

/// Kinds of what may go wrong with an answer.
const FAULTS: u64 = 30;

impl Http for SimRegistry {
    fn get(&self, request: &Request<'_>) -> Result<Response> {
        let weather = self.weather();
        sim::sleep(Duration::from_micros(sim::draw(weather.latency.as_micros() as u64 + 1)));
        let (host, rest) = request.url.trim_start_matches("http://").split_once('/').unwrap_or_default();
        let digest = rest.split('?').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        match weather.away {
            Some(true) if !sim::is_dead() => return Err(silence(request)),
            None if !sim::is_dead() => {}
            _ => return Err(no_connection(io::ErrorKind::ConnectionRefused)),
        }
        let bad = sim::draw(1000) < weather.bad;
        let fault = if bad { sim::draw(FAULTS) } else { u64::MAX };
        let lies = host == "mirror" && self.0.lying.load(Ordering::Relaxed);
        sim::note(|| format!("GET {host} {digest:.15} {}-{} fault {}", request.first, request.last, fault as i64));
        if let Some(instead) = self.dialogue(request, host, digest) {
            return Ok(instead);
        }
        let Some(part) = library::part(digest) else { return Ok(answer(404, vec![], vec![])) };
        let total = part.bytes.len() as u64;
        if request.first >= total {
            return Ok(answer(416, vec![("Content-Range".into(), format!("bytes */{total}"))], vec![]));
        }
        if lies {
            return Ok(self.bytes(request, part, 10 + sim::draw(3)));
        }
        self.fault(request, part, fault)
    }
}

impl SimRegistry {
    /// An answer in which something goes wrong.
    fn fault(&self, request: &Request<'_>, part: &Part, fault: u64) -> Result<Response> {
        Ok(match fault {
            0 => answer([500, 502, 504, 408][sim::draw(4) as usize], vec![], b"oops".to_vec()),
            1 => answer(503, vec![("Retry-After".into(), sim::draw(3).to_string())], vec![]),
            2 => answer(429, vec![("Retry-After".into(), sim::draw(40).to_string())], vec![]),
            3 => return Err(no_connection(io::ErrorKind::ConnectionReset)),
            4 => return Err(silence(request)),
            13 => {
                self.expire();
                answer(401, vec![], vec![])
            }
            14 => answer(403, vec![], vec![]),
            15 => answer(404, vec![], vec![]),
            16 => answer(416, vec![("Content-Range".into(), format!("bytes */{}", part.bytes.len()))], vec![]),
            // In a circle, nowhere, and to a file of this machine.
            17 => answer(302, vec![("Location".into(), request.url.into())], vec![]),
            18 => answer(302, vec![], vec![]),
            19 => answer(302, vec![("Location".into(), "file:///etc/passwd".into())], vec![]),
            20 => answer(204 + sim::draw(2) * 3, vec![], vec![]),
            _ => self.bytes(request, part, fault),
        })
    }

    /// An answer with bytes, which may be wrong in some way.
    fn bytes(&self, request: &Request<'_>, part: &Part, fault: u64) -> Response {
        let total = part.bytes.len() as u64;
        let last = request.last.min(total - 1);
        let mut bytes = part.bytes[request.first as usize..=last as usize].to_vec();
        let good = range(request.first, last, total);
        match fault {
            5 => {
                let end = [End::Close, End::Reset, End::Stall(request.patience)][sim::draw(3) as usize];
                bytes.truncate(sim::draw(bytes.len() as u64) as usize);
                broken(good, bytes, end)
            }
            6 => {
                bytes.push(0xee);
                answer(206, vec![good[0].clone()], bytes)
            }
            7 => answer(206, range(request.first + 1, last + 1, total + 1), bytes),
            8 => answer(206, range(request.first, last, total + 1), bytes),
            9 => answer(200, vec![("Content-Length".into(), total.to_string())], part.bytes.to_vec()),
            // Liars: all is well-formed, but the bytes are wrong. It is of no use to ask whether they are where nothing
            // says what they should be.
            10 if part.checked => {
                let at = sim::draw(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << sim::draw(8);
                answer(206, good, bytes)
            }
            11 if part.checked => {
                bytes.fill(0);
                answer(206, good, bytes)
            }
            12 if part.checked => {
                // Not whole blocks in each other's place: a block's checksum does not say where it belongs.
                bytes.reverse();
                answer(206, good, bytes)
            }
            21 => answer(206, vec![good[1].clone()], bytes),
            22 if last > request.first => {
                bytes.pop();
                answer(206, range(request.first, last - 1, total), bytes)
            }
            23 => answer(200, vec![good[1].clone()], bytes),
            24 => answer(206, [good, vec![("Content-Encoding".into(), "gzip".into())]].concat(), bytes),
            25 => answer(206, vec![("Content-Type".into(), "multipart/byteranges; boundary=x".into())], bytes),
            26 => answer(206, vec![good[0].clone(), ("Content-Length".into(), (bytes.len() + 1).to_string())], bytes),
            27 => answer(206, vec![("Content-Range".into(), "bytes nonsense/*".into()), good[1].clone()], bytes),
            28 => answer(206, range(request.first, last, u64::MAX), bytes),
            29 => broken(good, bytes, End::Slow),
            _ => answer(206, good, bytes),
        }
    }
}

fn range(first: u64, last: u64, total: u64) -> Headers {
    vec![
        ("Content-Range".to_owned(), format!("bytes {first}-{last}/{total}")),
        ("Content-Length".to_owned(), (last + 1 - first).to_string()),
    ]
}

fn no_connection(kind: io::ErrorKind) -> Error {
    Error::new(Kind::Io, "connect").because(io::Error::from(kind))
}

fn silence(request: &Request<'_>) -> Error {
    sim::sleep(request.timeout.min(request.patience));
    Error::new(Kind::TimedOut, "silence")
}
