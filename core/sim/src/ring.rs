//! The kernel's side of a TCMU ring: puts commands into it and waits for their completions.

use std::collections::BTreeMap;
use std::sync::Arc;

use overlaybd::error::{Error, Result};
use overlaybd::serve::tcmu::{entry, mailbox, Link, Region};
use overlaybd::sync::{sim, Condvar, Mutex};

/// Bytes of the ring: few, so that it goes round often.
const RING: usize = 1024;
/// Bytes of data that a thread's command may have, and how many threads there are.
pub const SLOT: usize = 64 * 512 + 64;
const THREADS: usize = 8;

const READ_16: u8 = 0x88;
const WRITE_16: u8 = 0x8a;
const SYNCHRONIZE_CACHE_16: u8 = 0x91;
const UNMAP: u8 = 0x42;

const BUSY: u8 = 8;
const UNIT_ATTENTION: u8 = 6;

/// A ring and those who wait for either side.
pub struct Kernel {
    pub region: Arc<Region>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    head: usize,
    /// Up to where completions have been read.
    seen: usize,
    /// Bytes of entries that have no completion yet.
    used: usize,
    /// Status and sense key by the number of the thread.
    completions: BTreeMap<u16, (u8, u8)>,
    /// What each command that is under way takes of the ring.
    rung: bool,
    ended: bool,
}

impl Kernel {
    pub fn new() -> Arc<Kernel> {
        let region = Region::in_memory(mailbox::BYTES + RING + THREADS * SLOT).expect("memory");
        put(&region, mailbox::VERSION, &2u16.to_ne_bytes());
        put(&region, mailbox::FLAGS, &(mailbox::OUT_OF_ORDER | mailbox::READ_LEN).to_ne_bytes());
        put(&region, mailbox::RING_OFFSET, &(mailbox::BYTES as u32).to_ne_bytes());
        put(&region, mailbox::RING_BYTES, &(RING as u32).to_ne_bytes());
        let (state, changed) = Default::default();
        Arc::new(Kernel { region: Arc::new(region), state, changed })
    }

    pub fn read(&self, thread: u16, buf: &mut [u8], offset: u64) -> Result<()> {
        let slot = slot(thread);
        // What an earlier command left there is not what this one reads.
        put(&self.region, slot, &vec![0xaa; buf.len()]);
        self.ask(thread, &command(READ_16, offset, buf.len()), buf.len())?;
        self.region.get(slot, buf)
    }

    pub fn write(&self, thread: u16, buf: &[u8], offset: u64) -> Result<()> {
        put(&self.region, slot(thread), buf);
        self.ask(thread, &command(WRITE_16, offset, buf.len()), buf.len())
    }

    pub fn discard(&self, thread: u16, offset: u64, len: u64) -> Result<()> {
        let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
        list.extend((offset / 512).to_be_bytes());
        list.extend(((len / 512) as u32).to_be_bytes());
        list.extend([0; 4]);
        put(&self.region, slot(thread), &list);
        let cdb = [UNMAP, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0];
        self.ask(thread, &cdb, list.len())
    }

    pub fn flush(&self, thread: u16) -> Result<()> {
        self.ask(thread, &command(SYNCHRONIZE_CACHE_16, 0, 0), 0)
    }

    /// There will be no more commands.
    pub fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }

    /// Sends a command until it is done or has failed, as Linux does.
    fn ask(&self, thread: u16, cdb: &[u8], bytes: usize) -> Result<()> {
        loop {
            self.send(thread, cdb, bytes);
            let mut state = self.state.lock();
            let (status, key) = loop {
                if let Some(done) = state.completions.remove(&thread) {
                    break done;
                }
                self.changed.wait(&mut state);
            };
            match (status, key) {
                (0, _) => return Ok(()),
                (BUSY, _) | (2, UNIT_ATTENTION) => {}
                (status, key) => {
                    let what = format!("command {:x} ends with status {status}, sense key {key}", cdb[0]);
                    return Err(Error::new(overlaybd::Kind::Io, what));
                }
            }
            drop(state);
            sim::sleep(std::time::Duration::from_millis(10));
        }
    }

    fn send(&self, thread: u16, cdb: &[u8], bytes: usize) {
        // In two pieces that do not meet, or one.
        let split = if bytes > 512 && sim::draw(2) == 0 { bytes / 2 } else { bytes };
        let start = slot(thread);
        let pieces: Vec<_> =
            [(start, split), (start + split, bytes - split)].into_iter().filter(|(_, len)| *len > 0).collect();
        let list = entry::PIECE + 16 * pieces.len();
        let len = (list + cdb.len()).max(entry::BYTES).next_multiple_of(8);
        let mut state = self.state.lock();
        let at = loop {
            // All of the ring is never used: it would look empty.
            let rest = if state.head + len > RING { RING - state.head } else { 0 };
            if state.used + rest + len < RING {
                if rest > 0 {
                    put(&self.region, mailbox::BYTES + state.head, &(rest as u32 | entry::PAD).to_ne_bytes());
                    state.head = 0;
                    state.used += rest;
                }
                break mailbox::BYTES + state.head;
            }
            self.changed.wait(&mut state);
        };
        let field = |place: usize, bytes: &[u8]| put(&self.region, at + place, bytes);
        field(0, &(len as u32 | entry::CMD).to_ne_bytes());
        field(entry::ID, &thread.to_ne_bytes());
        field(entry::PIECES, &(pieces.len() as u32).to_ne_bytes());
        field(entry::CDB, &((at + list) as u64).to_ne_bytes());
        for (number, (start, len)) in pieces.iter().enumerate() {
            field(entry::PIECE + 16 * number, &(*start as u64).to_ne_bytes());
            field(entry::PIECE + 16 * number + 8, &(*len as u64).to_ne_bytes());
        }
        field(list, cdb);
        state.head = (state.head + len) % RING;
        state.used += len;
        self.region.store_release(mailbox::HEAD, state.head as u32).expect("in the region");
        state.rung = true;
        drop(state);
        self.changed.notify_all();
    }
}

impl Link for Kernel {
    fn wait(&self) -> Result<()> {
        let mut state = self.state.lock();
        while !state.rung {
            if state.ended {
                return Err(Error::corrupt("the device is gone"));
            }
            self.changed.wait(&mut state);
        }
        state.rung = false;
        Ok(())
    }

    fn wake(&self) {
        self.state.lock().rung = true;
        self.changed.notify_all();
    }

    fn kick(&self) -> Result<()> {
        let mut state = self.state.lock();
        let tail = self.region.load_acquire(mailbox::TAIL)? as usize;
        while state.seen != tail {
            let at = mailbox::BYTES + state.seen;
            let word = self.region.get_u32(at)?;
            let len = (word & !entry::OPERATION) as usize;
            if word & entry::OPERATION == entry::CMD {
                let mut body = [0; entry::BYTES];
                self.region.get(at, &mut body)?;
                let id = u16::from_ne_bytes([body[entry::ID], body[entry::ID + 1]]);
                let twice = state.completions.insert(id, (body[entry::STATUS], body[16 + 2] & 15));
                if twice.is_some() {
                    sim::fail(format!("command {id} was completed twice"));
                }
            }
            state.seen = (state.seen + len) % RING;
            state.used -= len;
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }
}

fn put(region: &Region, place: usize, bytes: &[u8]) {
    region.put(place, bytes).expect("in the region");
}

/// Where a thread's data is.
fn slot(thread: u16) -> usize {
    mailbox::BYTES + RING + thread as usize * SLOT
}

fn command(code: u8, offset: u64, len: usize) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = code;
    cdb[2..10].copy_from_slice(&(offset / 512).to_be_bytes());
    cdb[10..14].copy_from_slice(&((len / 512) as u32).to_be_bytes());
    cdb
}
