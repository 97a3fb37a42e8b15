//! Bodies on their way into a reader's buffer: kept as far as they came, given up when they are too slow.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use super::answer::Head;
use super::{Body, Response, Target};
use crate::sys::Clock;

/// A body that brings less than `FLOOR_BYTES` in `FLOOR_TIME` is as good as a stalled one: at that pace not even the
/// smallest usual chunk would be there before the deadline.
const FLOOR_BYTES: u64 = 16 << 10;
const FLOOR_TIME: Duration = Duration::from_secs(5);

/// The rest of an answer that has more bytes than were wanted so far: a sequential reader's next request,
/// answered already. It keeps a connection; while nobody reads it, the peer waits.
pub struct Stream {
    pub(super) body: Box<dyn Body>,
    pub(super) target: Arc<Target>,
    pub(super) at: u64,
    pub(super) left: u64,
}

impl Stream {
    /// Offset in the blob of the next byte.
    pub fn at(&self) -> u64 {
        self.at
    }
}

/// How a body failed.
pub(super) enum Broken {
    Short(io::Error),
    Long,
}

impl From<io::Error> for Broken {
    fn from(e: io::Error) -> Self {
        Broken::Short(e)
    }
}

/// What is to be filled, and how far it is.
pub(super) struct Buffer<'a> {
    /// Offset of the buffer in the blob.
    pub offset: u64,
    pub bytes: &'a mut [u8],
    pub filled: u64,
}

impl Buffer<'_> {
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// Where the next byte goes, as an offset in the blob.
    pub fn at(&self) -> u64 {
        self.offset + self.filled
    }

    /// Reads up to `end` (in the buffer); what arrives before a break is kept, since its place is known.
    fn fill(&mut self, body: &mut dyn Read, end: u64, pace: &mut Pace<'_>) -> io::Result<()> {
        while self.filled < end {
            let n = read_some(body, &mut self.bytes[self.filled as usize..end as usize])? as u64;
            self.filled += n;
            if self.filled < end {
                pace.check(n)?;
            }
        }
        Ok(())
    }

    /// Takes the body of a checked answer. Gives the rest of it, if more was asked for than fits.
    pub fn take(
        &mut self,
        mut response: Response,
        head: Head,
        target: &Arc<Target>,
        clock: &dyn Clock,
    ) -> Result<Option<Stream>, Broken> {
        let mut pace = Pace::new(clock);
        let mut sink = [0; 8192];
        let mut skip = head.skip;
        while skip > 0 {
            let n = skip.min(sink.len() as u64) as usize;
            let n = read_some(&mut *response.body, &mut sink[..n])? as u64;
            skip -= n;
            pace.check(n)?;
        }
        let start = self.filled;
        let end = (start + head.len).min(self.bytes.len() as u64);
        self.fill(&mut *response.body, end, &mut pace)?;
        let left = start + head.len - end;
        if left > 0 {
            // What was asked for in advance. Without a length the end of the body could not be trusted later.
            let sure = head.ends && response.header("content-length").is_some();
            let (at, target) = (self.at(), Arc::clone(target));
            return Ok(sure.then_some(Stream { body: response.body, target, at, left }));
        }
        // Reading on also lets the client see the end, so that it can use the connection again. A connection that
        // breaks now is no loss: all bytes are there.
        if head.ends && matches!(response.body.read(&mut sink[..1]), Ok(n) if n > 0) {
            self.filled = start;
            return Err(Broken::Long);
        }
        Ok(None)
    }

    /// Takes bytes of a stream, as many as come: it was a bonus, and if it ends or breaks a GET goes on.
    pub fn drain(&mut self, mut stream: Stream, clock: &dyn Clock) -> Option<Stream> {
        let mut pace = Pace::new(clock);
        let before = self.filled;
        let end = (self.bytes.len() as u64).min(self.filled.saturating_add(stream.left));
        let result = self.fill(&mut *stream.body, end, &mut pace);
        let n = self.filled - before;
        (stream.at, stream.left) = (stream.at + n, stream.left - n);
        result.ok()?;
        if stream.left == 0 {
            let _ = stream.body.read(&mut [0]);
            return None;
        }
        Some(stream)
    }
}

/// Watches that bytes come at all.
struct Pace<'a> {
    clock: &'a dyn Clock,
    since: Duration,
    bytes: u64,
}

impl<'a> Pace<'a> {
    fn new(clock: &'a dyn Clock) -> Self {
        Pace { clock, since: clock.now(), bytes: 0 }
    }

    fn check(&mut self, n: u64) -> io::Result<()> {
        self.bytes += n;
        let took = self.clock.now().saturating_sub(self.since);
        if took < FLOOR_TIME {
            return Ok(());
        }
        if self.bytes < FLOOR_BYTES {
            let what = format!("only {} bytes in {} s", self.bytes, took.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        (self.since, self.bytes) = (self.since + took, 0);
        Ok(())
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
