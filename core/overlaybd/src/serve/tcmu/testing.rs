//! The kernel's side of a ring, for tests and models: writes commands, and reads completions when it is told of them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::{entry, mailbox, Link, Options, Region, Ring, Server};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::serve::report::Report;
use crate::sync::{Condvar, Mutex};

/// Bytes of data for all commands.
pub const DATA_BYTES: usize = 4 << 20;

/// What stands in the data area before a command uses it.
pub const STALE: u8 = 0xaa;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// SCSI status.
    pub status: u8,
    /// Key, code, qualifier.
    pub sense: (u8, u8, u8),
    /// How much data there is, if that was said.
    pub len: Option<u32>,
}

impl Completion {
    /// All is well.
    pub const GOOD: Completion = Completion { status: 0, sense: (0, 0, 0), len: None };

    /// A failure.
    pub fn check(key: u8, code: u8, qualifier: u8) -> Completion {
        Completion { status: 2, sense: (key, code, qualifier), len: None }
    }
}

/// A ring, and those who wait for either side.
pub struct Kernel {
    /// The memory that both sides share.
    pub region: Arc<Region>,
    ring_bytes: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    head: usize,
    /// Up to where completions have been read.
    seen: usize,
    completions: HashMap<u16, Completion>,
    kicks: usize,
    /// The server has something to look at.
    rung: bool,
    /// It will have nothing more to look at.
    ended: bool,
}

impl Kernel {
    /// A ring of so many bytes, empty, that begins its second round soon.
    pub fn new(ring_bytes: usize) -> Arc<Kernel> {
        Kernel::with_data(ring_bytes, DATA_BYTES)
    }

    /// As [`Kernel::new`], with so many bytes of data.
    pub fn with_data(ring_bytes: usize, data_bytes: usize) -> Arc<Kernel> {
        let region = Region::in_memory(mailbox::BYTES + ring_bytes + data_bytes).unwrap();
        region.put(mailbox::VERSION, &2u16.to_ne_bytes()).unwrap();
        region.put(mailbox::FLAGS, &(mailbox::OUT_OF_ORDER | mailbox::READ_LEN).to_ne_bytes()).unwrap();
        region.put(mailbox::RING_OFFSET, &(mailbox::BYTES as u32).to_ne_bytes()).unwrap();
        region.put(mailbox::RING_BYTES, &(ring_bytes as u32).to_ne_bytes()).unwrap();
        region.put(mailbox::BYTES + ring_bytes, &vec![STALE; data_bytes]).unwrap();
        let (state, changed) = Default::default();
        Arc::new(Kernel { region: Arc::new(region), ring_bytes, state, changed })
    }

    /// Begins to serve a device.
    pub fn serve(self: &Arc<Self>, device: Arc<dyn BlockDevice>, workers: usize, report: Option<Report>) -> Server {
        let serial = "1234abcd".to_string();
        let options = Options { block_bytes: 512, serial, name: "a/b".into(), workers, report };
        let ring = Ring::new(Arc::clone(&self.region)).unwrap();
        Server::start(device, ring, Arc::clone(self) as Arc<dyn Link>, options).unwrap()
    }

    /// A place in the data area.
    pub fn place(&self, offset: usize, len: usize) -> Range<usize> {
        let start = mailbox::BYTES + self.ring_bytes + offset;
        start..start + len
    }

    /// Writes into the data area.
    pub fn write(&self, place: &Range<usize>, bytes: &[u8]) {
        assert_eq!(place.len(), bytes.len());
        self.region.put(place.start, bytes).unwrap();
    }

    /// Reads from the data area.
    pub fn read(&self, place: &Range<usize>) -> Vec<u8> {
        let mut bytes = vec![0; place.len()];
        self.region.get(place.start, &mut bytes).unwrap();
        bytes
    }

    /// Puts a command into the ring, and tells of it.
    pub fn send(&self, id: u16, cdb: &[u8], pieces: &[Range<usize>]) {
        self.put(id, cdb, pieces);
        self.ring();
    }

    /// Puts a command into the ring.
    pub fn put(&self, id: u16, cdb: &[u8], pieces: &[Range<usize>]) {
        let list = entry::PIECE + 16 * pieces.len();
        let len = (list + cdb.len()).max(entry::BYTES).next_multiple_of(8);
        let at = self.reserve(len);
        let field = |place: usize, bytes: &[u8]| self.region.put(at + place, bytes).unwrap();
        field(0, &(len as u32 | entry::CMD).to_ne_bytes());
        field(entry::ID, &id.to_ne_bytes());
        field(entry::PIECES, &(pieces.len() as u32).to_ne_bytes());
        field(entry::CDB, &((at + list) as u64).to_ne_bytes());
        for (number, piece) in pieces.iter().enumerate() {
            field(entry::PIECE + 16 * number, &(piece.start as u64).to_ne_bytes());
            field(entry::PIECE + 16 * number + 8, &(piece.len() as u64).to_ne_bytes());
        }
        field(list, cdb);
        self.advance(len);
    }

    /// Puts an entry of another kind into the ring.
    pub fn put_other(&self, operation: u32, len: usize) -> usize {
        let at = self.reserve(len);
        self.region.put(at, &(len as u32 | operation).to_ne_bytes()).unwrap();
        self.advance(len);
        at
    }

    /// Puts an entry into the ring that aborts a command.
    pub fn put_abort(&self, id: u16) {
        let len = entry::BYTES;
        let at = self.reserve(len);
        self.region.put(at, &(len as u32 | entry::ABORT).to_ne_bytes()).unwrap();
        self.region.put(at + entry::IDS, &1u32.to_ne_bytes()).unwrap();
        self.region.put(at + entry::ID_LIST, &id.to_ne_bytes()).unwrap();
        self.advance(len);
    }

    /// Makes the server look.
    pub fn ring(&self) {
        self.state.lock().rung = true;
        self.changed.notify_all();
    }

    /// How a command ended; waits for it.
    pub fn wait_for(&self, id: u16) -> Completion {
        let mut state = self.state.lock();
        loop {
            if let Some(done) = state.completions.remove(&id) {
                return done;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Sends a command and waits for it.
    pub fn ask(&self, cdb: &[u8], pieces: &[Range<usize>]) -> Completion {
        self.send(1, cdb, pieces);
        self.wait_for(1)
    }

    /// Whether a command has ended.
    pub fn has_ended(&self, id: u16) -> bool {
        self.state.lock().completions.contains_key(&id)
    }

    /// Times that the server has told of completions.
    pub fn kicks(&self) -> usize {
        self.state.lock().kicks
    }

    /// There will be no more commands.
    pub fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }

    /// Room for an entry; what is left up to the end of the ring is filled if it does not fit there.
    pub fn reserve(&self, len: usize) -> usize {
        let head = self.state.lock().head;
        if head + len <= self.ring_bytes {
            return mailbox::BYTES + head;
        }
        let rest = self.ring_bytes - head;
        self.region.put(mailbox::BYTES + head, &(rest as u32 | entry::PAD).to_ne_bytes()).unwrap();
        self.advance(rest);
        mailbox::BYTES
    }

    fn advance(&self, len: usize) {
        let mut state = self.state.lock();
        state.head = (state.head + len) % self.ring_bytes;
        self.region.store_release(mailbox::HEAD, state.head as u32).unwrap();
    }

    fn completion(&self, at: usize) -> (u16, Completion) {
        let mut body = [0; entry::BYTES];
        self.region.get(at, &mut body).unwrap();
        let id = u16::from_ne_bytes([body[entry::ID], body[entry::ID + 1]]);
        let len = u32::from_ne_bytes([body[12], body[13], body[14], body[15]]);
        let len = (body[entry::FLAGS] & entry::LEN_VALID != 0).then_some(len);
        let sense = &body[16..];
        let told = if body[entry::STATUS] == 2 { (sense[2], sense[12], sense[13]) } else { (0, 0, 0) };
        (id, Completion { status: body[entry::STATUS], sense: told, len })
    }
}

impl Link for Kernel {
    fn wait(&self) -> Result<()> {
        let mut state = self.state.lock();
        while !state.rung {
            if state.ended {
                return Err(Error::corrupt("the end of this test"));
            }
            self.changed.wait(&mut state);
        }
        state.rung = false;
        Ok(())
    }

    fn wake(&self) {
        self.ring();
    }

    fn kick(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.kicks += 1;
        let tail = self.region.load_acquire(mailbox::TAIL).unwrap() as usize;
        while state.seen != tail {
            let at = mailbox::BYTES + state.seen;
            let word = self.region.get_u32(at).unwrap();
            if word & entry::OPERATION == entry::CMD {
                let (id, done) = self.completion(at);
                assert!(state.completions.insert(id, done).is_none(), "command {id} was completed twice");
            }
            state.seen = (state.seen + (word & !entry::OPERATION) as usize) % self.ring_bytes;
        }
        self.changed.notify_all();
        Ok(())
    }
}
