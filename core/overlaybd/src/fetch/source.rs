//! Reads a range of a blob from the network: asks where it is, checks what comes back, repeats within bounds.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use super::answer::{self, Body};
use super::{public_url, FetchStats, Headers, Http, Locate, Request, Response};
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_BLOB_BYTES;
use crate::sys::Clock;

/// Time for one range, repetitions included (upstream's limit too).
const DEADLINE: Duration = Duration::from_secs(30);
/// Attempts that may fail in ways that pass: no answer, 5xx, 429, a body that breaks off or makes no sense.
const MAX_ATTEMPTS: u32 = 5;
/// Answers that the locator may mend: redirects, challenges, expired links. Ends redirect loops.
const MAX_REFUSALS: u32 = 8;
/// A broken-off body that brought this much is progress, and not counted as a failed attempt.
const PROGRESS_BYTES: u64 = 64 << 10;
/// First pause after a failed attempt; doubles each time, half of it random.
const BACKOFF: Duration = Duration::from_millis(100);
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

/// The rest of an answer that has more bytes than were wanted so far: a sequential reader's next request,
/// answered already. It keeps a connection; while nobody reads it, the peer waits.
pub struct Stream {
    body: Box<dyn Read + Send>,
    at: u64,
    left: u64,
}

impl Stream {
    /// Offset in the blob of the next byte.
    pub fn at(&self) -> u64 {
        self.at
    }
}

/// One blob of a registry, to be read by ranges.
pub struct Source {
    name: String,
    http: Arc<dyn Http>,
    locate: Arc<dyn Locate>,
    clock: Arc<dyn Clock>,
    stats: Arc<FetchStats>,
}

/// Why an attempt failed: for now, or for good.
enum Failure {
    Passing(Error, Option<Duration>),
    Final(Error),
}

/// State of one fetch across its attempts.
struct Task<'a> {
    offset: u64,
    buf: &'a mut [u8],
    filled: u64,
    total: Option<u64>,
    end: Duration,
    refusals: u32,
    /// Bytes to ask for beyond the buffer, and what has come of them.
    ahead: u64,
    stream: Option<Stream>,
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
        Source { name: name.into(), http, locate, clock, stats }
    }

    /// Name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counters, possibly shared with other sources.
    pub fn stats(&self) -> &Arc<FetchStats> {
        &self.stats
    }

    /// Fills `buf` with the blob's bytes from `offset` on, by one GET if all goes well. `total` is the
    /// length of the blob, if known: then the range must lie inside it. Bytes count as read only after
    /// status, range and length of the answer were checked.
    ///
    /// Errors: `NotFound` (404), `Denied` (401, 403, untrusted certificate), `OutOfBounds` (416),
    /// `Corrupt` (answers that contradict the request), `TimedOut`, `Io`. On an error the contents of
    /// `buf` are undefined.
    pub fn fetch(&self, offset: u64, buf: &mut [u8], total: Option<u64>) -> Result<Fetched> {
        self.fetch_ahead(offset, buf, total, 0, None).map(|(fetched, _)| fetched)
    }

    /// As [`Source::fetch`], for a sequential reader: takes the bytes from `stream` if that is at `offset`, and if
    /// a GET is needed asks for `ahead` bytes more, which come back as a stream for the next call.
    pub fn fetch_ahead(
        &self,
        offset: u64,
        buf: &mut [u8],
        total: Option<u64>,
        ahead: u64,
        stream: Option<Stream>,
    ) -> Result<(Fetched, Option<Stream>)> {
        if buf.is_empty() {
            return Ok((Fetched { len: 0, total: total.unwrap_or(0) }, stream));
        }
        let (end, stream) = (self.clock.now() + DEADLINE, stream.filter(|stream| stream.at == offset));
        let mut task = Task { offset, buf, filled: 0, total, end, refusals: 0, ahead, stream };
        let mut failed = 0;
        loop {
            let before = task.filled;
            let failure = match self.attempt(&mut task) {
                Ok(Some(done)) => return Ok((done, task.stream)),
                Ok(None) => continue,
                Err(failure) => failure,
            };
            FetchStats::add(&self.stats.failures, 1);
            let (error, wait) = match failure {
                Failure::Final(error) => return Err(self.place(error, &task)),
                Failure::Passing(error, wait) => (error, wait),
            };
            if task.filled - before < PROGRESS_BYTES {
                failed += 1;
            }
            if failed >= MAX_ATTEMPTS {
                return Err(self.place(error, &task).context(format!("given up after {failed} attempts")));
            }
            let pause = wait.unwrap_or_else(|| self.backoff(failed));
            if self.clock.now() + pause >= task.end {
                let what = format!("given up, {} s are over", DEADLINE.as_secs());
                return Err(self.place(error, &task).context(what));
            }
            self.clock.sleep(pause);
        }
    }

    fn place(&self, error: Error, task: &Task<'_>) -> Error {
        error.in_file(&self.name).at(task.offset + task.filled)
    }

    /// One GET, or bytes of the one before. `Ok(None)`: not done, but no failure either: refused when the locator
    /// has something new to try, or at the end of a stream.
    fn attempt(&self, task: &mut Task<'_>) -> std::result::Result<Option<Fetched>, Failure> {
        if let Some((stream, total)) = task.stream.take().zip(task.total) {
            return Ok(self.drain(task, stream, total));
        }
        let (url, sent) = self.locate.locate().map_err(classify)?;
        let first = task.offset + task.filled;
        let last = (task.offset + task.buf.len() as u64 - 1).saturating_add(task.ahead);
        let Some(timeout) = task.end.checked_sub(self.clock.now()).filter(|t| !t.is_zero()) else {
            return Err(Failure::Final(Error::new(Kind::TimedOut, "no time left to ask the registry")));
        };
        FetchStats::add(&self.stats.requests, 1);
        let request = Request { url: &url, headers: &sent, first, last, timeout };
        let response = self.http.get(&request).map_err(classify)?;
        let status = response.status;
        let head = || format!("GET {}: {status}", public_url(&url));
        let body = match status {
            206 => answer::partial(&response, first, last, task.total),
            200 => answer::whole(&response, first, last, task.total, MAX_SKIP_BYTES),
            _ => return self.no_bytes(task, response, &url, &sent, head()),
        };
        let body = body.and_then(|b| if b.total > MAX_BLOB_BYTES { Err("blob too long".into()) } else { Ok(b) });
        let body = match body {
            Ok(body) => body,
            Err(why) => return Err(Failure::Passing(Error::corrupt(format!("{}: {why}", head())), None)),
        };
        task.total = Some(body.total);
        self.take(task, response, body).map_err(|e| match e {
            Broken::Short(e) => {
                Failure::Passing(Error::new(Kind::Io, format!("{}: body broke off", head())).because(e), None)
            }
            Broken::Long => Failure::Passing(Error::corrupt(format!("{}: body longer than announced", head())), None),
        })?;
        Ok(Some(self.done(task, body.total)))
    }

    fn done(&self, task: &Task<'_>, total: u64) -> Fetched {
        FetchStats::add(&self.stats.bytes, task.filled);
        Fetched { len: task.filled as usize, total }
    }

    /// Reads from a stream. If that ends early or breaks, the fetch goes on with a GET: the stream was a bonus.
    fn drain(&self, task: &mut Task<'_>, mut stream: Stream, total: u64) -> Option<Fetched> {
        while task.filled < task.buf.len() as u64 && stream.left > 0 {
            let part = &mut task.buf[task.filled as usize..];
            let n = part.len().min(usize::try_from(stream.left).unwrap_or(usize::MAX));
            let n = read_some(&mut *stream.body, &mut part[..n]).ok()? as u64;
            task.filled += n;
            stream.at += n;
            stream.left -= n;
        }
        if stream.left > 0 {
            task.stream = Some(stream);
        } else {
            let _ = stream.body.read(&mut [0]);
        }
        (task.filled == task.buf.len() as u64).then(|| self.done(task, total))
    }

    /// Reads a body into the buffer; what arrives before a break is kept, since its place is known.
    fn take(&self, task: &mut Task<'_>, mut response: Response, body: Body) -> std::result::Result<(), Broken> {
        let mut skip = body.skip;
        let mut sink = [0; 8192];
        while skip > 0 {
            let n = skip.min(sink.len() as u64) as usize;
            skip -= read_some(&mut *response.body, &mut sink[..n])? as u64;
        }
        let start = task.filled;
        let end = (start + body.len).min(task.buf.len() as u64);
        while task.filled < end {
            let part = &mut task.buf[task.filled as usize..end as usize];
            task.filled += read_some(&mut *response.body, part)? as u64;
        }
        let left = start + body.len - end;
        if left > 0 {
            // What was asked for in advance. Without a length the end of the body could not be trusted later.
            if body.ends && response.header("content-length").is_some() {
                task.stream = Some(Stream { body: response.body, at: task.offset + end, left });
            }
        } else if body.ends {
            // Also lets the client see the end, so that it can use the connection again.
            match response.body.read(&mut sink[..1]) {
                Ok(0) => {}
                Ok(_) => {
                    task.filled = start;
                    return Err(Broken::Long);
                }
                // All bytes are there; a connection that breaks now is no loss.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Everything that is neither 200 nor 206.
    fn no_bytes(
        &self,
        task: &mut Task<'_>,
        mut response: Response,
        url: &str,
        sent: &Headers,
        head: String,
    ) -> std::result::Result<Option<Fetched>, Failure> {
        // A body read to its end lets the client use the connection again; its text is of no interest.
        let _ = io::copy(&mut (&mut response.body).take(MAX_DRAIN_BYTES), &mut io::sink());
        let status = response.status;
        match status {
            300..=303 | 307 | 308 | 400 | 401 | 403 | 410 => {
                task.refusals += 1;
                if task.refusals > MAX_REFUSALS {
                    return Err(Failure::Final(Error::new(Kind::Io, format!("{head}: sent round in circles"))));
                }
                if self.locate.refused(status, &response.headers, url, sent).map_err(classify)? {
                    return Ok(None);
                }
                let kind = if matches!(status, 401 | 403) { Kind::Denied } else { Kind::Io };
                Err(Failure::Final(Error::new(kind, head)))
            }
            404 => Err(Failure::Final(Error::new(Kind::NotFound, head))),
            416 => {
                let what = match answer::unsatisfied(&response) {
                    // An empty blob has no ranges to answer with.
                    Some(0) if task.offset == 0 && task.total.is_none() => {
                        return Ok(Some(Fetched { len: 0, total: 0 }));
                    }
                    Some(n) => format!("{head}: the blob has only {n} bytes"),
                    None => head,
                };
                Err(Failure::Final(Error::new(Kind::OutOfBounds, what)))
            }
            429 | 503 => {
                let wait = answer::retry_after_s(&response).map(Duration::from_secs);
                Err(Failure::Passing(Error::new(Kind::Io, head), wait))
            }
            408 | 425 | 500..=599 => Err(Failure::Passing(Error::new(Kind::Io, head), None)),
            201..=299 => Err(Failure::Passing(Error::corrupt(format!("{head}: not an answer to a range")), None)),
            _ => Err(Failure::Final(Error::new(Kind::Io, head))),
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

/// How a body failed.
enum Broken {
    Short(io::Error),
    Long,
}

impl From<io::Error> for Broken {
    fn from(e: io::Error) -> Self {
        Broken::Short(e)
    }
}

fn read_some(body: &mut dyn Read, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match body.read(buf) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn classify(error: Error) -> Failure {
    match error.kind() {
        Kind::Io | Kind::TimedOut => Failure::Passing(error, None),
        _ => Failure::Final(error),
    }
}
