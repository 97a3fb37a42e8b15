//! The server of one ring: a thread that takes commands, the workers for slow ones, the stop.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::carry::{Carrier, Failed};
use super::data::Data;
use super::ring::{Command, Response, Ring};
use super::scsi::{Lun, Request, Sense};
use super::tell::Teller;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::limits::TCMU_MAX_QUEUE;
use crate::serve::pool::Pool;
use crate::serve::report::{Report, Reporter};
use crate::serve::stats::{Counters, Stats};
use crate::serve::{guarded, is_ready, pool_of, write_is_quick};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Instant, Mutex, RwLock};

/// Writes up to this length are carried out on the spot when nothing has to be read for them.
const QUICK_WRITE_BYTES: u64 = 64 << 10;

/// Ready commands gathered before they are answered and the kernel is told, in number and in bytes.
const BATCH_COMMANDS: usize = 64;
const BATCH_BYTES: u64 = 1 << 20;

/// Answers told of together where there are several processors: their reader goes on while the rest are served.
const TELL_COMMANDS: usize = 4;

/// So many bytes of a batch keep one processor busy for longer than it takes to wake another.
const SHARE_BYTES: u64 = 256 << 10;

/// The way to and from the kernel, beside the shared memory.
pub trait Link: Send + Sync {
    /// Returns when there may be new commands, or after `wake`, be it before the call.
    ///
    /// Errors: if there will never be any.
    fn wait(&self) -> Result<()>;
    /// Makes `wait` return, now or the next time.
    fn wake(&self);
    /// Tells the kernel that commands have been completed.
    ///
    /// Errors: if it does not listen any more.
    fn kick(&self) -> Result<()>;
}

/// What can be set of a server.
#[derive(Clone)]
pub struct Options {
    /// Bytes of a sector: 512 or 4096.
    pub block_bytes: u32,
    /// Tells the unit from all others: printable ASCII, the hexadecimal digits in it make its NAA name.
    pub serial: String,
    /// Says what the unit is, to initiators and in reports.
    pub name: String,
    /// The most threads that carry out slow requests.
    pub workers: usize,
    /// Told of requests that the device failed, and of the ring's end.
    pub report: Option<Report>,
}

struct Shared {
    ring: Ring,
    lun: Lun,
    device: Arc<dyn BlockDevice>,
    link: Arc<dyn Link>,
    pool: Pool,
    name: String,
    reporter: Reporter,
    stats: Arc<Counters>,
    /// The ring is of no more use.
    ended: AtomicBool,
    stopping: AtomicBool,
    teller: Teller,
    /// What workers are at, or will be.
    slow: Mutex<HashMap<u16, Slow>>,
    cpus: usize,
}

/// What a worker is at, or will be.
struct Slow {
    since: Instant,
    request: Request,
    /// The initiator does not want it any more: it is not begun.
    aborted: bool,
}

/// A command, and what it asks for.
type Job = (Command, Request);

/// A running server. Dropping it stops it; commands that it has not completed stay in the ring.
pub struct Server {
    /// None once stopped, so that ring and device are free for others.
    shared: RwLock<Option<Arc<Shared>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stats: Arc<Counters>,
}

impl Server {
    /// Serves `device` on a ring.
    ///
    /// Errors: `Invalid` as for [`Lun::new`]; `Io` if no thread can be started.
    pub fn start(device: Arc<dyn BlockDevice>, ring: Ring, link: Arc<dyn Link>, options: Options) -> Result<Server> {
        let shared = Shared::new(device, ring, link, options)?;
        let (stats, server) = (Arc::clone(&shared.stats), Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("tcmu".into())
            .spawn(move || server.run())
            .map_err(|e| Error::io("starting a thread for a TCMU ring", e))?;
        Ok(Server { shared: RwLock::new(Some(shared)), thread: Mutex::new(Some(thread)), stats })
    }

    /// Serves `device` on the calling thread, until the link ends and all that was taken has been carried out.
    ///
    /// Errors: `Invalid` as for [`Lun::new`].
    pub fn serve(device: Arc<dyn BlockDevice>, ring: Ring, link: Arc<dyn Link>, options: Options) -> Result<Stats> {
        let shared = Shared::new(device, ring, link, options)?;
        shared.run();
        shared.pool.close();
        Ok(shared.stats())
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.shared.read().as_ref().map_or_else(|| self.stats.get(0, 0), |shared| shared.stats())
    }

    /// The slow command that has been under way for longest: since when, and what it is.
    pub fn oldest(&self) -> Option<(Duration, String)> {
        let shared = self.shared.read();
        let slow = shared.as_ref()?.slow.lock();
        let oldest = slow.values().min_by_key(|slow| slow.since)?;
        Some((oldest.since.elapsed(), oldest.request.to_string()))
    }

    /// Waits up to `drain` until all commands are completed, and takes no more from then on. What fails after that is
    /// left in the ring as well, for the next server.
    pub fn cease(&self, drain: Duration) {
        let Some(shared) = self.shared.read().clone() else { return };
        if !drain.is_zero() && !shared.ended.load(Ordering::Relaxed) {
            shared.ring.wait_idle(Instant::now() + drain);
        }
        shared.stopping.store(true, Ordering::SeqCst);
        shared.link.wake();
    }

    /// As [`Server::cease`], then waits for what is being carried out, and lets go of ring and device. Whether the ring
    /// was left empty; what is left in it the kernel hands out again after a reset.
    pub fn stop(&self, drain: Duration) -> bool {
        let mut thread = self.thread.lock();
        self.cease(drain);
        let Some(shared) = self.shared.read().clone() else { return true };
        if let Some(thread) = thread.take() {
            let _ = thread.join();
        }
        shared.pool.close();
        self.shared.write().take();
        shared.ring.wait_idle(Instant::now())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl Shared {
    fn new(device: Arc<dyn BlockDevice>, ring: Ring, link: Arc<dyn Link>, options: Options) -> Result<Arc<Shared>> {
        let Options { block_bytes, serial, name, workers, report } = options;
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        Ok(Arc::new(Shared {
            lun: Lun::new(block_bytes, &serial, &name, device.size(), ring.data_bytes())?,
            ring,
            pool: pool_of(&device, "tcmu-worker", workers, TCMU_MAX_QUEUE),
            device,
            link,
            name,
            reporter: Reporter::new(report),
            stats: Arc::default(),
            ended: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            teller: Teller::new(if cpus > 1 { TELL_COMMANDS } else { BATCH_COMMANDS }),
            slow: Mutex::default(),
            cpus,
        }))
    }

    fn run(self: &Arc<Self>) {
        let ended = loop {
            if let Err(e) = self.serve_ring() {
                break Err(e);
            }
            if self.stopping() {
                break Ok(());
            }
            if let Err(e) = self.link.wait() {
                break Err(e);
            }
        };
        if let Err(e) = ended {
            self.end(e);
        }
        self.ended.store(true, Ordering::Relaxed);
    }

    fn stats(&self) -> Stats {
        let serving = !self.ended.load(Ordering::Relaxed);
        self.stats.get(serving.into(), self.ring.outstanding() as u64)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// The ring is of no more use.
    fn end(&self, error: Error) {
        if !self.ended.swap(true, Ordering::Relaxed) && !self.stopping() {
            self.reporter.report(&self.name, error.context("serving the TCMU ring"));
        }
    }

    /// Takes all that is in the ring.
    fn serve_ring(self: &Arc<Self>) -> Result<()> {
        loop {
            let (batch, bytes) = self.gather()?;
            if batch.is_empty() {
                return Ok(());
            }
            let helpers = (bytes / SHARE_BYTES).min(self.cpus as u64 - 1).min(batch.len() as u64 - 1);
            if helpers == 0 {
                batch.iter().for_each(|job| self.serve(job));
            } else {
                self.serve_together(batch, helpers);
            }
            self.tell();
        }
    }

    /// Takes a batch of commands that are ready; gives to workers those that are not. With the bytes to read.
    fn gather(self: &Arc<Self>) -> Result<(VecDeque<Job>, u64)> {
        let (mut batch, mut bytes) = (VecDeque::new(), 0);
        while batch.len() < BATCH_COMMANDS && bytes < BATCH_BYTES && !self.stopping() {
            let command = self.ring.take()?;
            // Before it is known by its id, which one that was aborted may have had until then.
            for id in self.ring.aborted() {
                self.slow.lock().entry(id).and_modify(|slow| slow.aborted = true);
            }
            let Some(command) = command else { break };
            Counters::add(&self.stats.requests, 1);
            let request = match self.request(&command) {
                Ok(request) => request,
                Err(sense) => {
                    Counters::add(&self.stats.refused, 1);
                    self.complete(command.id, Response::Check(sense));
                    continue;
                }
            };
            if self.is_quick(&request) {
                if let Request::Read(span) = &request {
                    bytes += span.len;
                }
                batch.push_back((command, request));
            } else {
                // Before what may be a wait for room among the workers.
                self.tell();
                self.hand_on((command, request));
            }
        }
        if batch.is_empty() {
            self.tell();
        }
        Ok((batch, bytes))
    }

    fn request(&self, command: &Command) -> std::result::Result<Request, Sense> {
        if command.data.is_none() {
            return Err(Sense::INTERNAL);
        }
        let request = guarded(|| Ok(self.lun.request(&command.cdb, &*self.device)));
        request.unwrap_or(Err(Sense::INTERNAL))
    }

    fn is_quick(&self, request: &Request) -> bool {
        match request {
            Request::Nothing | Request::Answer(_) | Request::ModeSelect { .. } => true,
            Request::Read(span) => is_ready(&*self.device, span.offset, span.len),
            Request::Write { span, durable } => {
                !durable && span.len <= QUICK_WRITE_BYTES && write_is_quick(&*self.device, span.offset, span.len)
            }
            _ => false,
        }
    }

    /// Serves a batch with as many idle workers as there are, up to `helpers`.
    fn serve_together(self: &Arc<Self>, batch: VecDeque<Job>, helpers: u64) {
        let batch = Arc::new(Mutex::new(batch));
        let work = |shared: &Shared, batch: &Mutex<VecDeque<Job>>| loop {
            let next = batch.lock().pop_front();
            let Some(job) = next else { return };
            shared.serve(&job);
        };
        for _ in 0..helpers {
            let (shared, batch) = (Arc::clone(self), Arc::clone(&batch));
            let help = move || {
                work(&shared, &batch);
                shared.tell();
            };
            if !self.pool.try_submit(help) {
                break;
            }
        }
        work(self, &batch);
    }

    /// Gives a command to the workers; waits for room in their queue.
    fn hand_on(self: &Arc<Self>, job: Job) {
        let (id, shared) = (job.0.id, Arc::clone(self));
        let slow = Slow { since: Instant::now(), request: job.1.clone(), aborted: false };
        self.slow.lock().insert(id, slow);
        let work = move || {
            let aborted = || shared.slow.lock().get(&id).is_some_and(|slow| slow.aborted);
            let response = match () {
                () if shared.stopping() => None, // it stays in the ring for the next server
                () if aborted() => Some(Response::Check(Sense::ABORTED)),
                () => shared.carry_out(&job),
            };
            // Before it is completed: from then on the id may be another command's.
            shared.slow.lock().remove(&id);
            if let Some(response) = response {
                shared.complete(id, response);
                shared.tell();
            }
        };
        if self.pool.submit(work).is_err() {
            self.slow.lock().remove(&id);
            self.complete(id, Response::Busy);
        }
    }

    /// Carries out a command and completes it.
    fn serve(&self, job: &Job) {
        if let Some(response) = self.carry_out(job) {
            self.complete(job.0.id, response);
        }
    }

    /// Carries out a command; None if the next server is to do it.
    fn carry_out(&self, (command, request): &Job) -> Option<Response> {
        let data = Data::new(self.ring.region(), command.data.as_deref().unwrap_or_default());
        let stopping = || self.stopping();
        let mut carrier = Carrier { device: &*self.device, lun: &self.lun, data, stopping: &stopping };
        let done = guarded(|| Ok(carrier.carry_out(request)));
        Some(match done.unwrap_or_else(|e| Err(Failed::Device(e, Sense::INTERNAL))) {
            Ok(response) => {
                match request {
                    Request::Read(span) => Counters::add(&self.stats.read_bytes, span.len),
                    Request::Write { span, .. } => Counters::add(&self.stats.written_bytes, span.len),
                    _ => {}
                }
                response
            }
            Err(Failed::Stopped) => return None,
            Err(Failed::Refused(sense)) => {
                Counters::add(&self.stats.refused, 1);
                Response::Check(sense)
            }
            Err(Failed::Device(..)) if self.stopping() => return None,
            Err(Failed::Device(error, sense)) => {
                Counters::add(&self.stats.errors, 1);
                self.reporter.report(&self.name, error.context(request.to_string()));
                Response::Check(sense)
            }
        })
    }

    fn complete(&self, id: u16, response: Response) {
        if let Err(e) = self.ring.complete(id, &response) {
            return self.end(e);
        }
        if self.teller.completed() {
            self.tell();
        }
    }

    /// Tells the kernel of completions.
    fn tell(&self) {
        if let Err(e) = self.teller.tell(&*self.link, &self.stats) {
            self.end(e);
        }
    }
}
