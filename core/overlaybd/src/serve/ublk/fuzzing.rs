//! A door for fuzzing: a queue whose kernel is a list of requests.

use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use super::abi::Descriptor;
use super::memory::Buffers;
use super::port::{Bell, Patience, Port};
use super::queue::{Queue, Shared};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::serve::pool_of;
use crate::serve::report::Reporter;

const DEPTH: u16 = 4;

/// A device behind a queue.
pub struct Served {
    shared: Arc<Shared>,
    buffers: Arc<Buffers>,
}

/// A request: operation and flags, sectors, first sector, what its buffer begins with.
pub type Asked<'a> = (u32, u32, u64, &'a [u8]);

/// A kernel that asks for one thing after the other.
struct List<'a, 'b> {
    asked: &'a [Asked<'b>],
    /// Result, and what the buffer holds then.
    answers: Vec<(i32, Vec<u8>)>,
    /// Requests that have been handed out.
    begun: usize,
    buffers: Arc<Buffers>,
    bell: Arc<Bell>,
}

impl List<'_, '_> {
    fn buffer(&self, tag: u16) -> &mut [u8] {
        // SAFETY: one request is under way at a time; this is called before it is handed out or after its answer.
        unsafe { self.buffers.slice(tag, self.buffers.each()) }
    }
}

impl Port for List<'_, '_> {
    fn descriptor(&self, _: u16) -> Descriptor {
        let (op_flags, sectors, start, _) = self.asked[self.begun - 1];
        Descriptor::new(op_flags, sectors, start)
    }

    fn answer(&mut self, tag: u16, result: i32) {
        self.answers.push((result, self.buffer(tag).to_vec()));
        assert_eq!(self.answers.len(), self.begun, "one answer to each request");
    }

    fn wait(&mut self, arrived: &mut Vec<u16>, patience: Patience) -> Result<()> {
        if self.answers.len() < self.begun {
            if patience != Patience::None {
                self.bell.wait();
            }
        } else if let Some((.., data)) = self.asked.get(self.begun) {
            let tag = self.begun as u16 % DEPTH;
            let len = data.len().min(self.buffers.each());
            self.buffer(tag)[..len].copy_from_slice(&data[..len]);
            self.begun += 1;
            arrived.push(tag);
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.answers.len() < self.asked.len()
    }
}

impl Served {
    /// Serves a device, with buffers of so many bytes.
    ///
    /// # Errors
    /// Those of making buffers.
    pub fn new(device: Arc<dyn BlockDevice>, buffer_bytes: usize) -> Result<Served> {
        let shared = Shared {
            pool: pool_of(&device, "fuzz", 1, DEPTH.into()),
            device,
            read_only: false,
            name: "fuzz".into(),
            reporter: Reporter::new(None),
            stats: Arc::default(),
            active: Arc::default(),
            stopping: AtomicBool::new(false),
            cpus: 1,
        };
        Ok(Served { shared: Arc::new(shared), buffers: Arc::new(Buffers::new(DEPTH, buffer_bytes)?) })
    }

    /// Answers to requests: results, and the whole buffer after each.
    ///
    /// # Errors
    /// None that is expected.
    pub fn ask(&self, asked: &[Asked<'_>]) -> Result<Vec<(i32, Vec<u8>)>> {
        let bell = Arc::new(Bell::new()?);
        let queue = Queue::new(Arc::clone(&self.shared), Arc::clone(&self.buffers), Arc::clone(&bell), DEPTH);
        let mut list = List { asked, answers: Vec::new(), begun: 0, buffers: Arc::clone(&self.buffers), bell };
        queue.run(&mut list)?;
        Ok(list.answers)
    }
}
