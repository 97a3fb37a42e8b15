//! One queue of a device: its thread answers what is ready, workers the rest.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::carry::{carry_out, errno};
use super::memory::Buffers;
use super::port::{Bell, Patience, Port};
use super::request::Request;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::serve::pool::Pool;
use crate::serve::report::Reporter;
use crate::serve::stats::Counters;
use crate::serve::{guarded, is_ready, write_is_quick};

/// Writes up to this length are carried out on the spot when nothing has to be read for them.
const QUICK_WRITE_BYTES: u64 = 64 << 10;

/// So many bytes to read keep one processor busy for longer than it takes to wake another.
const SHARE_BYTES: u64 = 64 << 10;

/// A queue without requests for so long gives the memory of its buffers back.
const IDLE: Duration = Duration::from_secs(2);

/// What the queues of a device share.
pub struct Shared {
    /// What is served.
    pub device: Arc<dyn BlockDevice>,
    /// Whether writes are refused, also if the device would take them.
    pub read_only: bool,
    /// Threads for what is slow, and for helping.
    pub pool: Pool,
    /// What reports call the device.
    pub name: String,
    /// Hears of failures.
    pub reporter: Reporter,
    /// Counters of all queues.
    pub stats: Arc<Counters>,
    /// Requests of all queues that have been taken and not been answered.
    pub active: Arc<AtomicU64>,
    /// No more requests are to be taken.
    pub stopping: AtomicBool,
    /// Processors.
    pub cpus: usize,
}

/// A request and its tag.
type Job = (u16, Request);

/// One queue, apart from its port.
pub struct Queue {
    shared: Arc<Shared>,
    buffers: Arc<Buffers>,
    bell: Arc<Bell>,
    /// What workers have finished.
    done: Mutex<Vec<(u16, i32)>>,
    /// The thread sleeps, or is about to.
    asleep: AtomicBool,
    /// Requests that workers are at, or will be.
    away: AtomicUsize,
    /// Those of them that are slow, by tag: since when, and what.
    slow: Mutex<Vec<Option<(Instant, Request)>>>,
}

impl Queue {
    /// A queue of `depth` tags, each of which has a buffer.
    pub fn new(shared: Arc<Shared>, buffers: Arc<Buffers>, bell: Arc<Bell>, depth: u16) -> Arc<Queue> {
        Arc::new(Queue {
            shared,
            buffers,
            bell,
            done: Mutex::default(),
            asleep: AtomicBool::new(false),
            away: AtomicUsize::new(0),
            slow: Mutex::new(vec![None; depth.into()]),
        })
    }

    /// Serves until the kernel gives no more, or the device stops; then all that was taken has been answered.
    ///
    /// Errors: if the kernel cannot be spoken to any more; workers may be at requests then.
    pub fn run(self: &Arc<Self>, port: &mut impl Port) -> Result<()> {
        let (mut arrived, mut batch, mut done) = (Vec::new(), VecDeque::new(), Vec::new());
        let mut used = false;
        loop {
            self.asleep.store(true, Ordering::SeqCst);
            let ending = self.is_at_end(port);
            let patience = match (self.done.lock().is_empty() && !ending, used) {
                (false, _) => Patience::None,
                (true, true) => Patience::Limited(IDLE),
                (true, false) => Patience::Unlimited,
            };
            Counters::add(&self.shared.stats.turns, 1);
            let since = Instant::now();
            port.wait(&mut arrived, patience)?;
            self.asleep.store(false, Ordering::SeqCst);
            if ending {
                return Ok(());
            }
            let stopping = self.shared.stopping.load(Ordering::SeqCst);
            let idle = arrived.is_empty() && self.away.load(Ordering::SeqCst) == 0;
            // A late ring of the bell ends a wait too.
            if idle && patience == Patience::Limited(IDLE) && since.elapsed() >= IDLE {
                // SAFETY: nobody is at a request, and the kernel brings the data of one only while it is waited for.
                unsafe { self.buffers.release() };
                used = false;
            }
            used |= !arrived.is_empty();
            for tag in arrived.drain(..) {
                // What is not taken the kernel hands out again, to the next server.
                if !stopping {
                    self.take(port, tag, &mut batch);
                }
            }
            self.serve(port, &mut batch);
            std::mem::swap(&mut done, &mut *self.done.lock());
            for (tag, result) in done.drain(..) {
                self.away.fetch_sub(1, Ordering::SeqCst);
                self.answer(port, tag, result);
            }
        }
    }

    /// Whether there is nothing left to do; answers may have to be handed in yet.
    fn is_at_end(&self, port: &impl Port) -> bool {
        let over = self.shared.stopping.load(Ordering::SeqCst) || !port.is_open();
        over && self.away.load(Ordering::SeqCst) == 0
    }

    /// Something is wrong with the queue itself.
    pub fn report(&self, error: Error) {
        self.shared.reporter.report(&self.shared.name, error);
    }

    /// The thread is to look at what has changed.
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// The slow request that has been under way for longest: since when, and what it is.
    pub fn oldest(&self) -> Option<(Instant, String)> {
        let slow = self.slow.lock();
        let (since, request) = slow.iter().flatten().min_by_key(|(since, _)| *since)?;
        Some((*since, request.describe()))
    }

    /// Takes a request: what is ready joins the batch, workers get the rest.
    fn take(self: &Arc<Self>, port: &mut impl Port, tag: u16, batch: &mut VecDeque<Job>) {
        let shared = &self.shared;
        Counters::add(&shared.stats.requests, 1);
        shared.active.fetch_add(1, Ordering::Relaxed);
        let asked = port.descriptor(tag);
        let request = guarded(|| Ok(Request::new(asked, &*shared.device, shared.read_only, self.buffers.each())));
        match request.unwrap_or(Err(libc::EIO)) {
            Ok(request) if self.is_quick(&request) => batch.push_back((tag, request)),
            Ok(request) => self.hand_on(port, (tag, request)),
            Err(errno) => {
                Counters::add(&shared.stats.refused, 1);
                self.answer(port, tag, -errno);
            }
        }
    }

    fn is_quick(&self, request: &Request) -> bool {
        let device = &*self.shared.device;
        match request {
            Request::Read(span) => is_ready(device, span.offset, span.len),
            Request::Write { span, durable } => {
                !durable && span.len <= QUICK_WRITE_BYTES && write_is_quick(device, span.offset, span.len)
            }
            _ => false,
        }
    }

    /// Serves a batch, with the help of idle workers if it is large.
    fn serve(self: &Arc<Self>, port: &mut impl Port, batch: &mut VecDeque<Job>) {
        let bytes: u64 =
            batch.iter().map(|(_, request)| if let Request::Read(span) = request { span.len } else { 0 }).sum();
        let helpers = (bytes / SHARE_BYTES).min(self.shared.cpus as u64 - 1);
        if helpers == 0 || batch.len() < 2 {
            for (tag, request) in batch.drain(..) {
                self.answer(port, tag, self.carry_out(tag, &request));
            }
            return;
        }
        self.away.fetch_add(batch.len(), Ordering::SeqCst);
        let batch = Arc::new(Mutex::new(std::mem::take(batch)));
        for _ in 0..helpers.min(batch.lock().len() as u64 - 1) {
            let (queue, batch) = (Arc::clone(self), Arc::clone(&batch));
            let help = move || {
                while let Some((tag, request)) = next(&batch) {
                    queue.finished(tag, queue.carry_out(tag, &request));
                }
            };
            if !self.shared.pool.try_submit(help) {
                break;
            }
        }
        while let Some((tag, request)) = next(&batch) {
            let result = self.carry_out(tag, &request);
            self.away.fetch_sub(1, Ordering::SeqCst);
            self.answer(port, tag, result);
        }
    }

    /// Gives a request to the workers, whose queue has room for all tags.
    fn hand_on(self: &Arc<Self>, port: &mut impl Port, (tag, request): Job) {
        self.slow.lock()[usize::from(tag)] = Some((Instant::now(), request));
        self.away.fetch_add(1, Ordering::SeqCst);
        let queue = Arc::clone(self);
        let work = move || {
            let result = queue.carry_out(tag, &request);
            queue.slow.lock()[usize::from(tag)] = None;
            queue.finished(tag, result);
        };
        if let Err(e) = self.shared.pool.submit(work) {
            self.slow.lock()[usize::from(tag)] = None;
            self.away.fetch_sub(1, Ordering::SeqCst);
            self.shared.reporter.report(&self.shared.name, e.context(request.describe()));
            self.answer(port, tag, -libc::EIO);
        }
    }

    /// A worker is done with a request: the queue's thread has to answer it.
    fn finished(&self, tag: u16, result: i32) {
        self.done.lock().push((tag, result));
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.bell.ring();
        }
    }

    fn answer(&self, port: &mut impl Port, tag: u16, result: i32) {
        self.shared.active.fetch_sub(1, Ordering::Relaxed);
        port.answer(tag, result);
    }

    /// Carries out a request; what to answer.
    fn carry_out(&self, tag: u16, request: &Request) -> i32 {
        let (shared, stats) = (&self.shared, &self.shared.stats);
        let len = match request {
            Request::Read(span) | Request::Write { span, .. } => span.len as usize,
            _ => 0,
        };
        // SAFETY: the request was handed out and will be answered once this is done; no other thread has it.
        let buffer = unsafe { self.buffers.slice(tag, len) };
        match guarded(|| carry_out(request, buffer, &*shared.device)) {
            Ok(result) => {
                match request {
                    Request::Read(_) => Counters::add(&stats.read_bytes, len as u64),
                    Request::Write { .. } => Counters::add(&stats.written_bytes, len as u64),
                    _ => {}
                }
                result
            }
            Err(e) => {
                Counters::add(&stats.errors, 1);
                let errno = errno(&e);
                shared.reporter.report(&shared.name, e.context(request.describe()));
                -errno
            }
        }
    }
}

fn next(batch: &Mutex<VecDeque<Job>>) -> Option<Job> {
    batch.lock().pop_front()
}
