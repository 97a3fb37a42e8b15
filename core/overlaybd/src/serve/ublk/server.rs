//! The server of one device: makes or recovers it, serves its queues, leaves or removes it.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::abi::{feature, state, Info, Parameters};
use super::control::{Control, ANY};
use super::memory::Buffers;
use super::port::{Bell, UblkPort};
use super::queue::{Queue, Shared};
use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};
use crate::limits::{
    SECTOR, UBLK_DEPTH, UBLK_IO_BYTES, UBLK_MAX_DEPTH, UBLK_MAX_DISCARD_BYTES, UBLK_MAX_QUEUES, UBLK_MAX_ZERO_BYTES,
    UBLK_QUEUES,
};
use crate::serve::pool_of;
use crate::serve::report::{Report, Reporter};
use crate::serve::stats::{Counters, Stats};

/// How long the end of an earlier server may take to come through.
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// What a device needs so that a server can die under it.
const RECOVERY: u64 = feature::USER_RECOVERY | feature::USER_RECOVERY_REISSUE;

/// What can be set of a server.
#[derive(Clone)]
pub struct Options {
    /// The device's number: `/dev/ublkbN`. None: any that is free.
    pub number: Option<u32>,
    /// Hardware queues, each with a thread; 0: as many as there are processors, up to four.
    pub queues: usize,
    /// Requests of each queue; 0: 128.
    pub depth: usize,
    /// Whether writes are refused, also if the device would take them.
    pub read_only: bool,
    /// The most threads that carry out slow requests.
    pub workers: usize,
    /// What reports call the device; empty: its path.
    pub name: String,
    /// Told of requests that the device failed, and of a queue's end before its time.
    pub report: Option<Report>,
}

/// A served device. Dropping it is [`Server::stop`].
pub struct Server {
    control: Arc<Control>,
    info: Info,
    stats: Arc<Counters>,
    active: Arc<AtomicU64>,
    life: Arc<Life>,
    /// None once stopped, so that the image is free for others.
    running: Mutex<Option<Running>>,
}

/// What ends with serving.
struct Running {
    /// While it is open the kernel has the device down as served.
    _file: Arc<File>,
    shared: Arc<Shared>,
    queues: Vec<Arc<Queue>>,
    threads: Vec<JoinHandle<()>>,
}

/// How many queues are served, and who waits for their end.
#[derive(Default)]
struct Life {
    serving: Mutex<u64>,
    ended: Condvar,
}

/// `/dev/ublkbN`.
pub fn path(number: u32) -> PathBuf {
    format!("/dev/ublkb{number}").into()
}

impl Server {
    /// Makes a disk of a device and serves it.
    ///
    /// Errors: `NotFound` without the driver, `Exists` if the number is taken, `Limit` for more queues or requests
    /// than there can be; those of the kernel. Then nothing is left behind.
    pub fn add(device: Arc<dyn BlockDevice>, options: Options) -> Result<Server> {
        let queues = if options.queues == 0 { cpus().min(UBLK_QUEUES) } else { options.queues };
        let depth = if options.depth == 0 { UBLK_DEPTH } else { options.depth };
        if queues > UBLK_MAX_QUEUES || depth > UBLK_MAX_DEPTH {
            let what = format!("{queues} queues of {depth} requests (at most {UBLK_MAX_QUEUES} of {UBLK_MAX_DEPTH})");
            return Err(Error::new(Kind::Limit, what));
        }
        let control = Arc::new(Control::open()?);
        let info = control.add(&Info {
            queues: queues as u16,
            depth: depth as u16,
            state: state::DEAD,
            max_io_bytes: UBLK_IO_BYTES,
            number: options.number.unwrap_or(ANY),
            pid: 0,
            flags: RECOVERY | control.features()? & feature::UPDATE_SIZE,
        })?;
        let parameters = Parameters {
            read_only: options.read_only || device.read_only(),
            sectors: device.size() / SECTOR,
            max_io_bytes: info.max_io_bytes,
            max_discard_bytes: UBLK_MAX_DISCARD_BYTES,
            max_zero_bytes: UBLK_MAX_ZERO_BYTES,
        };
        let options = Options { read_only: parameters.read_only, ..options };
        let served = info
            .check()
            .and_then(|()| control.set_parameters(info.number, &parameters))
            .and_then(|()| Server::serve(&control, info, device, options));
        let started = served.and_then(|server| control.start(info.number).map(|()| server));
        started.inspect_err(|_| drop(control.delete(info.number)))
    }

    /// Serves a disk whose server has died or stopped, as it was; requests that were under way are carried out.
    /// `options` counts for what the kernel does not know: number, workers, name and reports.
    ///
    /// Errors: `NotFound` if there is no such disk, `Busy` if another server has it, `Invalid` if the device is
    /// smaller than the disk; those of the kernel.
    pub fn recover(device: Arc<dyn BlockDevice>, options: Options) -> Result<Server> {
        let control = Arc::new(Control::open()?);
        let number = options.number.ok_or_else(|| Error::new(Kind::Invalid, "which ublk device to recover?"))?;
        let info = control.info(number)?;
        info.check()?;
        let parameters = control.parameters(number)?.filter(|_| info.state != state::DEAD);
        let gone = || Error::new(Kind::NotFound, format!("the disk of ublk device {number} has been stopped"));
        let Parameters { read_only, sectors, .. } = parameters.ok_or_else(gone)?;
        if device.size() / SECTOR < sectors || (device.read_only() && !read_only) {
            let what = format!(
                "the image has {} bytes{}, ublk device {number} {}{}",
                device.size(),
                if device.read_only() { " and is read-only" } else { "" },
                sectors.saturating_mul(SECTOR),
                if read_only { "" } else { " and is writable" },
            );
            return Err(Error::new(Kind::Invalid, what));
        }
        begin_recovery(&control, number)?;
        let server = Server::serve(&control, info, device, Options { read_only, ..options })?;
        control.end_recovery(number)?;
        Ok(server)
    }

    /// Has threads at all queues.
    fn serve(control: &Arc<Control>, info: Info, device: Arc<dyn BlockDevice>, options: Options) -> Result<Server> {
        let path = PathBuf::from(format!("/dev/ublkc{}", info.number));
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = Arc::new(file.map_err(|e| Error::io("opening the ublk device", e).in_file(&path))?);
        let name = if options.name.is_empty() { self::path(info.number).display().to_string() } else { options.name };
        let requests = usize::from(info.queues) * usize::from(info.depth);
        let (stats, active): (Arc<Counters>, Arc<AtomicU64>) = Default::default();
        let shared = Arc::new(Shared {
            pool: pool_of(&device, "ublk-worker", options.workers, requests),
            device,
            read_only: options.read_only,
            name,
            reporter: Reporter::new(options.report),
            stats: Arc::clone(&stats),
            active: Arc::clone(&active),
            stopping: AtomicBool::new(false),
            cpus: cpus(),
        });
        let running = Running { _file: Arc::clone(&file), shared, queues: Vec::new(), threads: Vec::new() };
        let running = Mutex::new(Some(running));
        let server = Server { control: Arc::clone(control), info, stats, active, life: Arc::default(), running };
        let (ready, readies) = channel();
        for number in 0..info.queues {
            server.start_queue(number, &file, ready.clone())?;
        }
        drop(ready);
        for opened in readies {
            opened.map_err(|e| e.in_file(&path))?;
        }
        Ok(server)
    }

    /// Starts the thread of a queue, which tells when it is ready.
    fn start_queue(&self, number: u16, file: &Arc<File>, ready: Sender<Result<()>>) -> Result<()> {
        let depth = self.info.depth;
        let mut running = self.running.lock();
        let running = running.as_mut().expect("nobody stops it yet");
        let buffers = Arc::new(Buffers::new(depth, self.info.max_io_bytes as usize)?);
        let bell = Arc::new(Bell::new()?);
        let queue = Queue::new(Arc::clone(&running.shared), Arc::clone(&buffers), Arc::clone(&bell), depth);
        let (file, served, life) = (Arc::clone(file), Arc::clone(&queue), Arc::clone(&self.life));
        let work = move || {
            match UblkPort::open(file.as_fd(), number, depth, buffers, bell) {
                Ok(mut port) => {
                    let _ = ready.send(Ok(()));
                    drop(ready);
                    if let Err(e) = served.run(&mut port) {
                        served.report(e.context(format!("serving queue {number}")));
                    }
                }
                Err(e) => drop(ready.send(Err(e))),
            }
            life.end();
        };
        *self.life.serving.lock() += 1;
        let thread = std::thread::Builder::new().name(format!("ublk-{number}")).spawn(work).map_err(|e| {
            self.life.end();
            Error::io("starting a thread for a ublk queue", e)
        })?;
        running.queues.push(queue);
        running.threads.push(thread);
        Ok(())
    }

    /// The device's number.
    pub fn number(&self) -> u32 {
        self.info.number
    }

    /// What the kernel made of what was asked for.
    pub fn info(&self) -> Info {
        self.info
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats.get(*self.life.serving.lock(), self.active.load(Ordering::Relaxed))
    }

    /// The slow request that has been under way for longest: since when, and what it is.
    pub fn oldest(&self) -> Option<(Duration, String)> {
        let running = self.running.lock();
        let oldest = running.as_ref()?.queues.iter().filter_map(|queue| queue.oldest());
        oldest.min_by_key(|(since, _)| *since).map(|(since, what)| (since.elapsed(), what))
    }

    /// Waits up to `limit` for the end of all queues: the disk was stopped by somebody, or the server by `stop`.
    /// Whether it has come.
    pub fn wait_for(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut serving = self.life.serving.lock();
        while *serving > 0 {
            if self.life.ended.wait_until(&mut serving, deadline).timed_out() {
                return *serving == 0;
            }
        }
        true
    }

    /// Takes no more requests, answers those that it has, and lets go of the device. The disk stays, its users wait
    /// for the next server.
    pub fn stop(&self) {
        let Some(running) = self.running.lock().take() else { return };
        running.shared.stopping.store(true, Ordering::SeqCst);
        running.queues.iter().for_each(|queue| queue.wake());
        for thread in running.threads {
            let _ = thread.join();
        }
        // Also at what a queue that ended in error left behind: nobody may write when the next server does.
        running.shared.pool.close();
    }

    /// Takes the disk away, and waits until all that was written to it has been carried out. Its users get errors.
    ///
    /// Errors: those of the kernel; the server has stopped then.
    pub fn remove(&self) -> Result<()> {
        let stopped = self.control.stop(self.info.number);
        self.stop();
        stopped.and_then(|()| self.control.delete(self.info.number))
    }

    /// Tells the kernel how large the device is by now.
    ///
    /// Errors: `Unsupported` before Linux 6.16.
    pub fn update_size(&self) -> Result<()> {
        if self.info.flags & feature::UPDATE_SIZE == 0 {
            let what = "this kernel cannot resize a ublk device (Linux 6.16); stop it and add it again";
            return Err(Error::new(Kind::Unsupported, what));
        }
        let size = self.running.lock().as_ref().map(|running| running.shared.device.size());
        let size = size.ok_or_else(|| Error::new(Kind::Invalid, "the ublk device is not served any more"))?;
        self.control.update_size(self.info.number, size / SECTOR)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Life {
    fn end(&self) {
        *self.serving.lock() -= 1;
        self.ended.notify_all();
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Waits until the kernel is through with the earlier server, which it tells nobody.
fn begin_recovery(control: &Control, number: u32) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(5);
    let deadline = Instant::now() + END_TIMEOUT;
    loop {
        match control.start_recovery(number) {
            Err(e) if e.kind() == Kind::Busy && Instant::now() < deadline => std::thread::sleep(PAUSE),
            // Begun by a server that has died before it could go on.
            Err(e) if e.kind() == Kind::Invalid && control.info(number)?.state == state::QUIESCED => return Ok(()),
            done => return done,
        }
    }
}
