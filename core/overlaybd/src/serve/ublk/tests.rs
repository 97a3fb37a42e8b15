//! A queue between a test device and a kernel of the tests' own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::abi::{op, Descriptor};
use super::carry::errno;
use super::memory::Buffers;
use super::port::{Bell, Patience, Port};
use super::queue::{Queue, Shared};
use super::Stats;
use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};
use crate::serve::pool_of;
use crate::serve::report::{Report, Reporter};
use crate::serve::test_device::{pattern, Device};

const DEPTH: u16 = 8;
const BUFFER: usize = 64 << 10;

/// The kernel's side of a queue: requests by tag, and the answers to them.
struct Kernel {
    buffers: Arc<Buffers>,
    bell: Arc<Bell>,
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Default)]
struct State {
    asked: HashMap<u16, Descriptor>,
    arriving: Vec<u16>,
    answers: HashMap<u16, i32>,
    closed: bool,
    broken: bool,
}

struct TestPort {
    kernel: Arc<Kernel>,
    answers: Vec<(u16, i32)>,
}

impl Port for TestPort {
    fn descriptor(&self, tag: u16) -> Descriptor {
        self.kernel.state.lock().asked[&tag]
    }

    fn answer(&mut self, tag: u16, result: i32) {
        self.answers.push((tag, result));
    }

    fn wait(&mut self, arrived: &mut Vec<u16>, patience: Patience) -> Result<()> {
        {
            let mut state = self.kernel.state.lock();
            for (tag, result) in self.answers.drain(..) {
                assert!(state.asked.remove(&tag).is_some(), "{tag} is answered, but was not asked");
                state.answers.insert(tag, result);
            }
            self.kernel.answered.notify_all();
        }
        if patience != Patience::None {
            self.kernel.bell.wait();
        }
        let mut state = self.kernel.state.lock();
        arrived.append(&mut state.arriving);
        match state.broken {
            true => Err(Error::new(Kind::Io, "expected by this test")),
            false => Ok(()),
        }
    }

    fn is_open(&self) -> bool {
        !self.kernel.state.lock().closed
    }
}

/// A queue that is being served.
struct Served {
    device: Arc<Device>,
    kernel: Arc<Kernel>,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    thread: JoinHandle<Result<()>>,
}

fn serve(device: Device) -> Served {
    serve_with(device, 1, None)
}

fn serve_with(device: Device, cpus: usize, report: Option<Report>) -> Served {
    let device = Arc::new(device);
    let served: Arc<dyn BlockDevice> = Arc::clone(&device) as _;
    let (buffers, bell) = (Arc::new(Buffers::new(DEPTH, BUFFER).unwrap()), Arc::new(Bell::new().unwrap()));
    let shared = Arc::new(Shared {
        pool: pool_of(&served, "test", 4, DEPTH.into()),
        device: served,
        read_only: false,
        name: "disk".into(),
        reporter: Reporter::new(report),
        stats: Arc::default(),
        active: Arc::default(),
        stopping: AtomicBool::new(false),
        cpus,
    });
    let (state, answered) = Default::default();
    let kernel = Arc::new(Kernel { buffers: Arc::clone(&buffers), bell: Arc::clone(&bell), state, answered });
    let queue = Queue::new(Arc::clone(&shared), buffers, bell, DEPTH);
    let (running, mut port) = (Arc::clone(&queue), TestPort { kernel: Arc::clone(&kernel), answers: Vec::new() });
    let thread = std::thread::spawn(move || running.run(&mut port));
    Served { device, kernel, queue, shared, thread }
}

impl Served {
    /// Asks for several things at once: tag, operation and flags, sectors, first sector.
    fn ask(&self, requests: &[(u16, u32, u32, u64)]) {
        let mut state = self.kernel.state.lock();
        for &(tag, op_flags, sectors, start) in requests {
            assert!(state.asked.insert(tag, Descriptor::new(op_flags, sectors, start)).is_none());
            state.arriving.push(tag);
        }
        self.kernel.bell.ring();
    }

    /// Waits for the answer to a tag.
    fn answer(&self, tag: u16) -> i32 {
        let mut state = self.kernel.state.lock();
        loop {
            if let Some(answer) = state.answers.remove(&tag) {
                return answer;
            }
            let late = self.kernel.answered.wait_for(&mut state, Duration::from_secs(20)).timed_out();
            assert!(!late, "tag {tag} is not answered");
        }
    }

    /// Asks for one thing and waits for the answer.
    fn request(&self, op_flags: u32, sectors: u32, start: u64) -> i32 {
        self.ask(&[(0, op_flags, sectors, start)]);
        self.answer(0)
    }

    /// The data of a tag: only when its request is answered, or not asked yet.
    // Who has which buffer is what is tested.
    #[allow(clippy::mut_from_ref)]
    fn data(&self, tag: u16, len: usize) -> &mut [u8] {
        // SAFETY: the server has it only in between.
        unsafe { self.kernel.buffers.slice(tag, len) }
    }

    fn stats(&self) -> Stats {
        self.shared.stats.get(1, self.shared.active.load(Ordering::SeqCst))
    }

    fn stop(self) -> Result<()> {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.queue.wake();
        self.thread.join().unwrap()
    }
}

const READ: u32 = op::READ as u32;
const WRITE: u32 = op::WRITE as u32;
const FLUSH: u32 = op::FLUSH as u32;
const DISCARD: u32 = op::DISCARD as u32;
const ZERO: u32 = op::WRITE_ZEROES as u32;

#[test]
fn what_is_written_is_read_back() {
    let served = serve(Device::new());
    assert_eq!(served.request(READ, 3, 5), 1536);
    assert_eq!(served.data(0, 1536), pattern(5 * 512, 1536));
    served.data(0, 512).fill(7);
    assert_eq!(served.request(WRITE, 1, 6), 512);
    assert_eq!(served.request(READ, 3, 5), 1536);
    let mut expected = pattern(5 * 512, 1536);
    expected[512..1024].fill(7);
    assert_eq!(served.data(0, 1536), expected);
    let stats = served.stats();
    assert_eq!((stats.requests, stats.read_bytes, stats.written_bytes, stats.active), (3, 3072, 512, 0));
    served.stop().unwrap();
}

#[test]
fn flush_and_fua_reach_the_device() {
    let served = serve(Device::new());
    let flushes = || served.device.flushes.load(Ordering::SeqCst);
    assert_eq!((served.request(WRITE, 1, 0), flushes()), (512, 0));
    assert_eq!((served.request(FLUSH, 0, 0), flushes()), (0, 1));
    assert_eq!((served.request(WRITE | op::FUA, 1, 0), flushes()), (512, 2));
    assert_eq!((served.request(ZERO | op::FUA, 1, 0), flushes()), (0, 3));
}

#[test]
fn discarded_and_zeroed_ranges_are_zeros() {
    let served = serve(Device::new());
    assert_eq!(served.request(DISCARD, 8, 8), 0);
    assert_eq!(served.request(ZERO, 8, 16), 0);
    assert_eq!(served.request(ZERO | op::NO_UNMAP, 130, 24), 0);
    assert_eq!(served.request(READ, 128, 0), BUFFER as i32);
    assert_eq!(served.data(0, 4096), pattern(0, 4096));
    assert!(served.data(0, BUFFER)[4096..].iter().all(|byte| *byte == 0));
    assert_eq!(served.request(READ, 2, 153), 1024);
    assert_eq!(served.data(0, 1024), [vec![0; 512], pattern(154 * 512, 512)].concat());
}

#[test]
fn a_slow_request_delays_only_itself() {
    let served = serve(Device { cold: 0..512, ..Device::new() });
    served.ask(&[(1, READ, 1, 0), (2, READ, 1, 1), (3, READ, 8, 8)]);
    assert_eq!((served.answer(2), served.answer(3)), (512, 4096));
    served.device.gate.wait_for(1);
    assert_eq!(served.queue.oldest().unwrap().1, "reading 512 bytes at 0");
    assert_eq!(served.stats().active, 1);
    assert_eq!(served.request(READ, 1, 1), 512);
    served.device.gate.open();
    assert_eq!(served.answer(1), 512);
    assert_eq!(served.data(1, 512), pattern(0, 512));
    assert!(served.queue.oldest().is_none());
    served.stop().unwrap();
}

#[test]
fn failures_are_answered_and_reported_and_the_queue_goes_on() {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&reports);
    let report: Report = Arc::new(move |name, error| heard.lock().push(format!("{name}: {error}")));
    let served = serve_with(Device { bad: 0..512, panics: 512..1024, ..Device::new() }, 1, Some(report));
    for (op_flags, sectors, start) in [(READ, 1, 0), (WRITE, 1, 0), (READ, 1, 1), (DISCARD, 1, 1)] {
        assert_eq!(served.request(op_flags, sectors, start), -libc::EIO);
    }
    assert_eq!(served.request(READ, 1, 1 << 40), -libc::EIO);
    assert_eq!(served.request(9, 1, 0), -libc::EOPNOTSUPP);
    assert_eq!(served.request(READ, 1, 2), 512);
    let reports = reports.lock();
    assert_eq!(reports.len(), 4, "what is refused is not the device's failure");
    assert!(reports[0].starts_with("disk: corrupt: "), "{}", reports[0]);
    assert!(reports[0].contains("reading 512 bytes at 0: expected by this test"), "{}", reports[0]);
    assert_eq!((served.stats().errors, served.stats().refused), (4, 2));
}

#[test]
fn the_kernel_hears_why_room_is_missing() {
    assert_eq!(errno(&Error::new(Kind::NoSpace, "x")), libc::ENOSPC);
    assert_eq!(errno(&Error::corrupt("x")), libc::EIO);
    assert_eq!(errno(&Error::new(Kind::TimedOut, "x")), libc::EIO);
}

#[test]
fn workers_help_with_large_batches() {
    let served = serve_with(Device::new(), 4, None);
    for round in 0..50u64 {
        let batch: Vec<_> = (0..DEPTH).map(|tag| (tag, READ, 128, (round + u64::from(tag)) * 8)).collect();
        served.ask(&batch);
        for (tag, _, _, start) in batch {
            assert_eq!(served.answer(tag), BUFFER as i32);
            assert_eq!(served.data(tag, BUFFER), pattern(start * 512, BUFFER));
        }
    }
    assert!(served.shared.pool.threads() > 0, "nobody helped");
    served.stop().unwrap();
}

#[test]
fn buffers_outlast_a_bell_rung_for_nothing() {
    let served = serve(Device::new());
    assert_eq!(served.request(READ, 8, 0), 4096);
    for _ in 0..3 {
        let turns = served.stats().turns;
        served.queue.wake();
        while served.stats().turns == turns {
            std::thread::yield_now();
        }
    }
    assert!(served.data(0, 4096) == pattern(0, 4096), "they are given back after a while only");
    served.stop().unwrap();
}

#[test]
fn a_stopped_queue_answers_what_it_has_and_takes_no_more() {
    let served = serve(Device { cold: 0..512, ..Device::new() });
    served.ask(&[(1, READ, 1, 0)]);
    served.device.gate.wait_for(1);
    served.shared.stopping.store(true, Ordering::SeqCst);
    served.ask(&[(2, READ, 1, 1)]);
    served.device.gate.open();
    assert_eq!(served.answer(1), 512);
    let Served { kernel, thread, .. } = served;
    thread.join().unwrap().unwrap();
    assert!(kernel.state.lock().asked.contains_key(&2), "that is for the next server");
}

#[test]
fn a_queue_ends_when_the_kernel_closes_it() {
    let served = serve(Device { cold: 0..512, ..Device::new() });
    served.ask(&[(1, READ, 1, 0)]);
    served.device.gate.wait_for(1);
    served.kernel.state.lock().closed = true;
    served.device.gate.open();
    assert_eq!(served.answer(1), 512, "what was under way is carried out");
    served.thread.join().unwrap().unwrap();
}

#[test]
fn a_queue_ends_when_the_kernel_fails_it() {
    let served = serve(Device::new());
    served.kernel.state.lock().broken = true;
    served.queue.wake();
    assert_eq!(served.thread.join().unwrap().unwrap_err().what(), "expected by this test");
}
