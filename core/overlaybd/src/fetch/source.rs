//! Reads a range of a blob from the network: asks where it is, checks what comes back, repeats within bounds.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::sync::Mutex;

use super::answer;
use super::intake::{Broken, Buffer, Stream};
use super::outage::Outage;
use super::served::Served;
use super::{public_url, FetchStats, Http, Locate, Request, Response, Target, LANE};
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_BLOB_BYTES;
use crate::merkle::Tree;
use crate::sys::Clock;

/// Time for one range, repetitions included (upstream's limit too).
const DEADLINE: Duration = Duration::from_secs(30);
/// Attempts that may fail in ways that pass: no answer, 5xx, 429, a body that breaks off or makes no sense.
const MAX_ATTEMPTS: u32 = 5;
/// Answers that the locator may mend: redirects, challenges, expired links. Ends redirect loops.
const MAX_REFUSALS: u32 = 8;
/// Times that another endpoint is tried at once: the mirrors of a registry, and a second round of most of them.
const MAX_DETOURS: u32 = 12;
/// A broken-off body that brought this much is progress, and not counted as a failed attempt.
const PROGRESS_BYTES: u64 = 64 << 10;
/// First pause after a failed attempt; doubles each time, half of it random.
const BACKOFF: Duration = Duration::from_millis(100);
/// Silence after which a connection is given up and the transfer continued on another. Doubles with each failed
/// attempt up to the longest, so that a server that is merely slow is waited for in the end.
const PATIENCE: Duration = Duration::from_secs(3);
const LONGEST_PATIENCE: Duration = Duration::from_secs(12);
/// Bytes of a 200 that are read and thrown away to get at the range; more costs more than it brings.
const MAX_SKIP_BYTES: u64 = 1 << 20;
/// Bytes read of the body of an error.
const MAX_DRAIN_BYTES: u64 = 16 << 10;

/// Outcome of a [`Source::fetch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes put into the buffer: fewer than its length only if the blob ends before.
    pub len: usize,
    /// Length of the whole blob.
    pub total: u64,
}

/// One blob of a registry, to be read by ranges.
pub struct Source {
    name: String,
    http: Arc<dyn Http>,
    pub(super) locate: Arc<dyn Locate>,
    clock: Arc<dyn Clock>,
    stats: Arc<FetchStats>,
    outage: Arc<Outage>,
    pub(super) served: Mutex<Served>,
    /// What every answer is held against.
    pub(super) tree: Option<Arc<Tree>>,
}

/// Why an attempt failed, what the server said, and whether to try again there.
struct Failure {
    error: Error,
    status: Option<u16>,
    retry: Retry,
}

enum Retry {
    Never,
    Soon,
    After(Duration),
}

impl Retry {
    /// Whether it is a failure of a registry that is away or overloaded, and that may be there again later.
    fn passes(&self, error: &Error) -> bool {
        !matches!(self, Retry::Never) && error.kind() != Kind::Corrupt
    }

    /// The pause that the server asked for.
    fn wanted(&self) -> Duration {
        match self {
            Retry::After(pause) => *pause,
            _ => Duration::ZERO,
        }
    }
}

impl Failure {
    fn new(error: Error, status: impl Into<Option<u16>>, retry: Retry) -> Self {
        Failure { error, status: status.into(), retry }
    }
}

/// Kinds that pass with time; any other is final.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let retry = if matches!(error.kind(), Kind::Io | Kind::TimedOut) { Retry::Soon } else { Retry::Never };
        Failure::new(error, None, retry)
    }
}

/// State of one fetch across its attempts.
struct Task<'a> {
    buffer: Buffer<'a>,
    total: Option<u64>,
    end: Duration,
    patience: Duration,
    /// When the first of the attempts failed that have brought nothing.
    failing_since: Option<Duration>,
    refusals: u32,
    /// The last refusal that was no redirect: what a circle of them is really about.
    refused: Option<(Kind, String)>,
    /// Who was asked last.
    target: Option<Arc<Target>>,
    /// Bytes to ask for beyond the buffer, and what has come of them.
    ahead: u64,
    stream: Option<Stream>,
    /// Whether somebody waits for the bytes.
    awaited: bool,
}

impl Source {
    /// A source. `name` is for messages and holds no secrets; nothing is sent yet.
    pub fn new(
        name: impl Into<String>,
        http: Arc<dyn Http>,
        locate: Arc<dyn Locate>,
        clock: Arc<dyn Clock>,
        stats: Arc<FetchStats>,
    ) -> Self {
        let (outage, served) = Default::default();
        Source { name: name.into(), http, locate, clock, stats, outage, served, tree: None }
    }

    /// For how long a registry that is away is waited for.
    pub fn outage(&self) -> &Arc<Outage> {
        &self.outage
    }

    /// Name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counters, possibly shared with other sources.
    pub fn stats(&self) -> &Arc<FetchStats> {
        &self.stats
    }

    /// Takes note that bytes of this range proved wrong: whoever sent them is asked last from now on.
    pub fn distrusted(&self, offset: u64, len: u64) {
        let by = self.served.lock().by(offset, len);
        if let Some(target) = by {
            self.locate.distrusted(&target);
        }
    }

    /// Fills `buf` with the blob's bytes from `offset` on, by one GET if all goes well. `total` is the
    /// length of the blob, if known: then the range must lie inside it. Bytes count as read only after
    /// status, range and length of the answer were checked.
    ///
    /// Errors: `NotFound` (404), `Denied` (401, 403, untrusted certificate), `OutOfBounds` (416), `Busy` (429, or
    /// asked to come back later than can be waited for), `Corrupt` (answers that contradict the request),
    /// `TimedOut`, `Io`. On an error the contents of `buf` are undefined.
    pub fn fetch(&self, offset: u64, buf: &mut [u8], total: Option<u64>) -> Result<Fetched> {
        self.fetch_ahead(offset, buf, total, 0, None, true).map(|(fetched, _)| fetched)
    }

    /// A fetch of bytes as they come.
    pub(super) fn ask(
        &self,
        offset: u64,
        buf: &mut [u8],
        total: Option<u64>,
        ahead: u64,
        stream: Option<Stream>,
        awaited: bool,
    ) -> Result<(Fetched, Option<Stream>)> {
        if buf.is_empty() {
            return Ok((Fetched { len: 0, total: total.unwrap_or(0) }, stream));
        }
        let mut task = Task {
            buffer: Buffer { offset, bytes: buf, filled: 0 },
            total,
            end: self.clock.now() + DEADLINE,
            patience: PATIENCE,
            failing_since: None,
            refusals: 0,
            refused: None,
            target: None,
            ahead,
            stream: stream.filter(|stream| stream.at == offset),
            awaited,
        };
        let (mut failed, mut detours) = (0, 0);
        loop {
            let before = task.buffer.filled;
            let failure = match self.attempt(&mut task) {
                Ok(Some(done)) => return Ok((done, task.stream)),
                Ok(None) => continue,
                Err(failure) => failure,
            };
            let Failure { error, status, retry } = failure;
            self.stats.failed(status);
            let out_of_time = self.clock.now() >= task.end;
            if let Some(target) = task.target.take() {
                // Also beyond the last detour: the locator learns from every failure.
                if self.locate.failed(status, &error, &target) && detours < MAX_DETOURS && !out_of_time {
                    detours += 1;
                    continue;
                }
            }
            if task.buffer.filled - before < PROGRESS_BYTES {
                failed += 1;
                task.patience = (task.patience * 2).min(LONGEST_PATIENCE);
            } else {
                task.failing_since = None;
            }
            let now = self.clock.now();
            let since = *task.failing_since.get_or_insert(now);
            let (passes, wanted) = (awaited && retry.passes(&error), retry.wanted());
            match self.pause(error, retry, failed, task.end.saturating_sub(now)) {
                Ok(pause) => self.clock.sleep(pause),
                Err(error) => {
                    let pause = self.outage.pause(since, now, wanted).filter(|_| passes);
                    if !pause.is_some_and(|pause| self.outage.wait(&*self.clock, pause)) {
                        return Err(self.place(error, &task));
                    }
                    // Once more with all that an attempt may need.
                    task.end = self.clock.now() + DEADLINE;
                    (task.patience, task.refusals, detours) = (PATIENCE, 0, 0);
                }
            }
        }
    }

    /// The pause before the next attempt. Errors: `error`, if there is to be none with `left` time to the end.
    fn pause(&self, error: Error, retry: Retry, failed: u32, left: Duration) -> Result<Duration> {
        let pause = match retry {
            Retry::Never => return Err(error),
            _ if failed >= MAX_ATTEMPTS => return Err(error.context(format!("given up after {failed} attempts"))),
            Retry::After(pause) if pause >= left => {
                let what = format!("{}: asked to come back in {} s", error.what(), pause.as_secs());
                return Err(Error::new(Kind::Busy, what));
            }
            Retry::After(pause) => pause,
            Retry::Soon => self.backoff(failed),
        };
        if pause >= left {
            return Err(error.context(format!("given up, {} s are over", DEADLINE.as_secs())));
        }
        Ok(pause)
    }

    /// Completes a message: which blob, where in it, and with which credentials.
    fn place(&self, error: Error, task: &Task<'_>) -> Error {
        let error = match self.locate.note() {
            Some(note) => error.note(note),
            None => error,
        };
        error.in_file(&self.name).at(task.buffer.at())
    }

    /// One GET, or bytes of the one before. `Ok(None)`: not done, but no failure either: refused when the locator
    /// has something new to try, or at the end of a stream.
    fn attempt(&self, task: &mut Task<'_>) -> std::result::Result<Option<Fetched>, Failure> {
        // Others give way to what is sent, not to pauses, which may be as long as a registry is away.
        let urgent = || task.awaited.then(|| LANE.urgent());
        if let Some((mut stream, total)) = task.stream.take().zip(task.total) {
            let _urgent = urgent();
            stream.body.renew(self.left(task)?, task.patience);
            let (at, target) = (task.buffer.at(), Arc::clone(&stream.target));
            task.stream = task.buffer.drain(stream, &*self.clock);
            self.served.lock().add(at, task.buffer.at() - at, &target);
            return Ok((task.buffer.at() == task.buffer.end()).then(|| self.done(task, total)));
        }
        let target = self.locate.locate()?;
        let left = self.left(task)?;
        task.target = Some(Arc::clone(&target));
        let first = task.buffer.at();
        let last = (task.buffer.end() - 1).saturating_add(task.ahead);
        FetchStats::add(&self.stats.requests, 1);
        // A registry that has just failed may be silent now, too.
        let at_once = task.failing_since.is_none().then(urgent);
        let response = self.http.get(&Request {
            url: &target.url,
            headers: &target.headers,
            via: &target.via,
            first,
            last,
            timeout: target.limit.map_or(left, |limit| limit.min(left)),
            patience: task.patience,
        })?;
        let _urgent = at_once.unwrap_or_else(urgent);
        let status = response.status;
        let what = || format!("GET {}: {status}", public_url(&target.url));
        let head = match status {
            206 => answer::partial(&response, first, last, task.total),
            200 => answer::whole(&response, first, last, task.total, MAX_SKIP_BYTES),
            _ => return self.no_bytes(task, response, &target, what()),
        };
        let head = head.and_then(|h| if h.total > MAX_BLOB_BYTES { Err("blob too long".into()) } else { Ok(h) });
        let head = match head {
            Ok(head) => head,
            Err(why) => {
                return Err(Failure::new(Error::corrupt(format!("{}: {why}", what())), status, Retry::Soon));
            }
        };
        let taken = task.buffer.take(response, head, &target, &*self.clock);
        self.served.lock().add(first, task.buffer.at() - first, &target);
        match taken {
            Ok(stream) => (task.stream, task.total) = (stream, Some(head.total)),
            Err(broken) => {
                // Bytes may have come: what follows must be of the same blob.
                task.total = Some(head.total);
                let error = match broken {
                    Broken::Short(e) if e.kind() == io::ErrorKind::TimedOut => {
                        Error::new(Kind::TimedOut, format!("{}: body stalled", what())).because(e)
                    }
                    Broken::Short(e) => Error::new(Kind::Io, format!("{}: body broke off", what())).because(e),
                    Broken::Long => Error::corrupt(format!("{}: body longer than announced", what())),
                };
                return Err(Failure::new(error, None, Retry::Soon));
            }
        }
        Ok(Some(self.done(task, head.total)))
    }

    /// Time left.
    fn left(&self, task: &Task<'_>) -> Result<Duration> {
        let left = task.end.checked_sub(self.clock.now()).filter(|left| !left.is_zero());
        left.ok_or_else(|| Error::new(Kind::TimedOut, "no time left to ask the registry"))
    }

    fn done(&self, task: &Task<'_>, total: u64) -> Fetched {
        FetchStats::add(&self.stats.bytes, task.buffer.filled);
        Fetched { len: task.buffer.filled as usize, total }
    }

    /// Everything that is neither 200 nor 206.
    fn no_bytes(
        &self,
        task: &mut Task<'_>,
        mut response: Response,
        target: &Arc<Target>,
        head: String,
    ) -> std::result::Result<Option<Fetched>, Failure> {
        // A body read to its end lets the client use the connection again; its text is of no interest.
        let _ = io::copy(&mut io::Read::take(&mut response.body, MAX_DRAIN_BYTES), &mut io::sink());
        let status = response.status;
        let failure = |kind, what, retry| Err(Failure::new(Error::new(kind, what), status, retry));
        match status {
            300..=303 | 307 | 308 | 400 | 401 | 403 | 410 => {
                let kind = if matches!(status, 401 | 403) { Kind::Denied } else { Kind::Io };
                if status >= 400 {
                    task.refused = Some((kind, head.clone()));
                }
                task.refusals += 1;
                if task.refusals > MAX_REFUSALS {
                    let (kind, head) = task.refused.take().unwrap_or((Kind::Io, head));
                    return failure(kind, format!("{head}: sent round in circles"), Retry::Never);
                }
                if self.locate.refused(status, &response.headers, target)? {
                    return Ok(None);
                }
                failure(kind, head, Retry::Never)
            }
            404 => failure(Kind::NotFound, head, Retry::Never),
            416 => {
                let what = match answer::unsatisfied(&response) {
                    // An empty blob has no ranges to answer with.
                    Some(0) if task.buffer.offset == 0 && task.total.is_none() => {
                        return Ok(Some(Fetched { len: 0, total: 0 }));
                    }
                    Some(n) => format!("{head}: the blob has only {n} bytes"),
                    None => head,
                };
                failure(Kind::OutOfBounds, what, Retry::Never)
            }
            429 | 503 => {
                let wait = answer::retry_after_s(&response).map(Duration::from_secs);
                let kind = if status == 429 { Kind::Busy } else { Kind::Io };
                failure(kind, head, wait.map_or(Retry::Soon, Retry::After))
            }
            408 | 425 | 500..=599 => failure(Kind::Io, head, Retry::Soon),
            201..=299 => failure(Kind::Corrupt, format!("{head}: not an answer to a range"), Retry::Soon),
            _ => failure(Kind::Io, head, Retry::Never),
        }
    }

    /// Pause before attempt `failed + 1`: exponential, between half and all of it. The random half comes
    /// from the clock, so that a simulated clock makes it repeatable.
    fn backoff(&self, failed: u32) -> Duration {
        let full = BACKOFF * 2u32.pow(failed.saturating_sub(1).min(8));
        let noise = (self.clock.now().as_nanos() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        full / 2 + full / 2 * noise as u32 / 1024
    }
}
