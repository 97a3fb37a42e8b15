//! Large and slow reads: cut in parts that several threads decode while earlier ones are being sent.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;

use super::out::Piece;
use super::proto::{chunk, flag, Errno, Head, Request};
use super::session::Session;
use crate::device::ExtentKind;
use crate::limits::MAX_IO_BYTES;
use crate::serve::guarded;

/// Bytes that one thread reads at a time when the data is ready.
pub const PART_BYTES: u32 = 128 << 10;

/// A run of zeros is worth a chunk of its own from this length on.
const HOLE_BYTES: u64 = 32 << 10;

/// Runs looked at to find zeros in one request.
const MAX_RUNS: usize = 64;

/// A read under way. Threads that call [`Read::work`] share its parts.
pub struct Read {
    session: Arc<Session>,
    request: Request,
    parts: Vec<Part>,
    next: AtomicUsize,
    left: AtomicUsize,
    failed: AtomicBool,
    /// Where the parts wait for each other if they must go out as one.
    whole: Option<Mutex<Vec<Piece>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    offset: u64,
    len: u32,
    hole: bool,
}

impl Read {
    /// Plans a read of a range that has been checked and is not empty, and announces it to the
    /// connection. `ready` says that it needs no network: then its parts are small.
    pub fn begin(session: Arc<Session>, request: Request, ready: bool) -> Arc<Read> {
        let chunks = session.structured && !request.has(flag::DF);
        let part_bytes = if ready { PART_BYTES } else { MAX_IO_BYTES as u32 };
        let mut parts = Vec::new();
        for (offset, len, hole) in if chunks { runs(&session, &request) } else { vec![whole_range(&request)] } {
            if hole {
                parts.push(Part { offset, len, hole });
            } else {
                cut(&mut parts, offset, len, part_bytes);
            }
        }
        let whole = (!chunks).then(|| Mutex::new(parts.iter().map(|_| Head::NONE.into()).collect()));
        session.out.begin(request.len as usize);
        let (next, left) = (AtomicUsize::new(0), AtomicUsize::new(parts.len()));
        Arc::new(Read { session, request, parts, next, left, failed: AtomicBool::new(false), whole })
    }

    /// How many threads could be of use.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Does parts until none is left to begin. The thread that ends the last part answers.
    pub fn work(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = self.parts.get(index) else { return };
            match &self.whole {
                None => self.send_chunk(part),
                Some(whole) => self.keep(part, index, whole),
            }
        }
    }

    /// Answers with an error instead of doing anything; only while no thread has begun.
    pub fn refuse(&self, errno: Errno) {
        self.session.out.finish(self.request.len as usize, [self.session.refusal(&self.request, errno)]);
    }

    /// The bytes of a part, without a head. None if it or another part failed.
    fn read(&self, part: &Part) -> Result<Option<Piece>, Errno> {
        if self.failed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let len = part.len as usize;
        let buffers = self.session.out.buffers();
        let mut body = buffers.take(len);
        match self.session.read(&mut body[..len], part.offset) {
            Ok(()) => Ok(Some(Piece { head: Head::NONE, body, len })),
            Err(errno) => {
                buffers.give(body);
                self.failed.store(true, Ordering::Relaxed);
                Err(errno)
            }
        }
    }

    fn send_chunk(&self, part: &Part) {
        let cookie = self.request.cookie;
        let piece = if part.hole {
            Some(Head::hole(cookie, part.offset, part.len).into())
        } else {
            match self.read(part) {
                Ok(piece) => piece.map(|p| Piece { head: Head::data(cookie, part.offset, part.len), ..p }),
                Err(errno) => Some(Head::error(cookie, errno, Some(part.offset)).into()),
            }
        };
        self.session.out.update(|queue| {
            // Counted under the lock of the queue, so that the last part is also the last in the stream.
            let last = self.left.fetch_sub(1, Ordering::Relaxed) == 1;
            match piece {
                Some(p) if last => queue.push_back(Piece { head: p.head.done(), ..p }),
                Some(p) => queue.push_back(p),
                None if last => queue.push_back(Head::chunk(cookie, chunk::NONE, 0).done().into()),
                None => {}
            }
            last.then(|| self.finished())
        });
    }

    fn keep(&self, part: &Part, index: usize, whole: &Mutex<Vec<Piece>>) {
        let read = self.read(part);
        let mut pieces = whole.lock();
        match read {
            Ok(Some(piece)) => pieces[index] = piece,
            Ok(None) => {}
            // The reply says only that it failed; the first error is told.
            Err(errno) => pieces[index] = self.session.refusal(&self.request, errno),
        }
        if self.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        let mut pieces = std::mem::take(&mut *pieces);
        if self.failed.load(Ordering::Relaxed) {
            pieces.retain(|p| !p.head.as_slice().is_empty());
            pieces.truncate(1);
        } else {
            let Request { cookie, offset, len, .. } = self.request;
            let data = Head::data(cookie, offset, len).done();
            pieces[0].head = if self.session.structured { data } else { Head::simple(cookie, None) };
        }
        self.session.out.finish(self.finished(), pieces);
    }

    fn finished(&self) -> usize {
        if !self.failed.load(Ordering::Relaxed) {
            self.session.server.stats.read(u64::from(self.request.len));
        }
        self.request.len as usize
    }
}

fn whole_range(request: &Request) -> (u64, u32, bool) {
    (request.offset, request.len, false)
}

fn cut(parts: &mut Vec<Part>, mut offset: u64, mut len: u32, part_bytes: u32) {
    while len > 0 {
        // Parts end at multiples of their size, so that no block is decoded twice.
        let step = (part_bytes - (offset % u64::from(part_bytes)) as u32).min(len);
        parts.push(Part { offset, len: step, hole: false });
        offset += u64::from(step);
        len -= step;
    }
}

/// The range as runs of data and long runs of zeros, or as data if the device cannot tell.
fn runs(session: &Session, request: &Request) -> Vec<(u64, u32, bool)> {
    let (start, end) = (request.offset, request.offset + u64::from(request.len));
    let Ok(extents) = guarded(|| session.device().extents(start, end - start, MAX_RUNS)) else {
        return vec![whole_range(request)];
    };
    let mut runs: Vec<(u64, u32, bool)> = Vec::new();
    let mut at = start;
    let mut add = |len: u64, hole: bool| {
        match runs.last_mut() {
            Some(last) if last.2 == hole => last.1 += len as u32,
            _ => runs.push((at, len as u32, hole)),
        }
        at += len;
    };
    let mut left = end - start;
    for extent in extents {
        let len = extent.len.min(left);
        add(len, extent.kind != ExtentKind::Data && len >= HOLE_BYTES);
        left -= len;
    }
    if left > 0 {
        add(left, false);
    }
    runs
}
