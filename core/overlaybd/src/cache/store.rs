//! One blob in the cache: its media file, its map, and what is known of each chunk.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::flight::Flight;
use super::map::{checksum, Map, Shape};
use super::{count, Shared};
use crate::error::Result;
use crate::sys::{write_all, File};

/// What is known of a chunk: the two low bits of its state word.
const ABSENT: u32 = 0;
/// The map has it from an earlier run; not compared with its checksum yet.
const RECORDED: u32 = 1;
/// In the media, and checked or written in this run.
const READY: u32 = 2;
const STATE: u32 = 3;
/// Above the state: how often readers found the chunk wrong.
const STRIKE: u32 = 4;
/// Times that a chunk is fetched again because a reader found it wrong: beyond that it is the registry's
/// copy that is wrong, and fetching in a loop would only load it. Far above what concurrent readers of
/// one bad chunk use up together.
const MAX_STRIKES: u32 = 16;

/// A blob's files and chunk table: 12 bytes of memory a chunk.
pub(super) struct Store {
    pub shared: Arc<Shared>,
    pub shape: Shape,
    pub media: Arc<dyn File>,
    pub map: Map,
    states: Vec<AtomicU32>,
    /// When a chunk was last used.
    ticks: Vec<AtomicU32>,
    crcs: Vec<AtomicU32>,
    /// Held for reading while bytes of the media are read, for writing while chunks are taken away.
    guard: RwLock<()>,
    /// Fetches under way. Also orders all changes of the map; taken before `guard`.
    flights: Mutex<Vec<Arc<Flight>>>,
    /// Bytes that media and map had on disk when last asked.
    allocated: AtomicU64,
}

/// How the next bytes of a read are to be had.
pub(super) enum Step {
    /// The chunks up to this one are in the media.
    Ready(usize),
    /// This chunk is recorded: compare it with its checksum first.
    Verify,
    /// Somebody fetches it already.
    Join(Arc<Flight>),
    /// The caller has to carry out this fetch, and to end it.
    Lead(Arc<Flight>),
}

impl Store {
    /// Takes over files that are open and locked, and what the map records. `held` are the bytes that the
    /// files took before they were opened.
    pub fn new(shared: Arc<Shared>, shape: Shape, media: Arc<dyn File>, map: Map, tick: u32, held: u64) -> Self {
        let words = |value: u32| (0..shape.chunks()).map(|_| AtomicU32::new(value)).collect::<Vec<_>>();
        let (states, ticks, crcs) = (words(ABSENT), words(tick), words(0));
        map.load(0, shape.chunks(), |chunk, crc| {
            crcs[chunk].store(crc, Ordering::Relaxed);
            states[chunk].store(RECORDED, Ordering::Relaxed);
        });
        let (guard, flights, allocated) = (RwLock::new(()), Mutex::default(), AtomicU64::new(held));
        Store { shared, shape, media, map, states, ticks, crcs, guard, flights, allocated }
    }

    fn state(&self, chunk: usize) -> u32 {
        self.states[chunk].load(Ordering::Acquire) & STATE
    }

    fn set(&self, chunk: usize, state: u32) {
        // Changed under `flights` only, so that reading and writing need not be one step.
        let word = self.states[chunk].load(Ordering::Relaxed);
        self.states[chunk].store(word & !STATE | state, Ordering::Release);
    }

    /// Whether all chunks of a range (not empty, inside the blob) are likely to be had without a fetch.
    pub fn is_present(&self, offset: u64, len: u64) -> bool {
        let (first, last) = (self.shape.chunk_of(offset), self.shape.chunk_of(offset + len - 1));
        (first..=last).all(|chunk| self.state(chunk) != ABSENT)
    }

    /// Fills `buf` (not empty, inside the blob) from the media if all its chunks are ready; false if not.
    pub fn read_ready(&self, buf: &mut [u8], offset: u64) -> bool {
        let (first, last) = (self.shape.chunk_of(offset), self.shape.chunk_of(offset + buf.len() as u64 - 1));
        let guard = self.guard.read();
        if (first..=last).any(|chunk| self.state(chunk) != READY) {
            return false;
        }
        let read = read_full(&*self.media, buf, offset);
        drop(guard);
        if let Err(e) = read {
            // The file was cut short, or the disk is dying: what it had must be fetched again.
            self.shared.notice(format!("cache: reading {} at {offset}: {e}", self.media.path().display()));
            self.forget(first, last + 1, false);
            return false;
        }
        let now = self.shared.space.tick();
        for tick in &self.ticks[first..=last] {
            if tick.load(Ordering::Relaxed) != now {
                tick.store(now, Ordering::Relaxed);
            }
        }
        true
    }

    /// Reads a recorded chunk and compares it with its checksum. Its bytes if it is right; None if it had to
    /// be forgotten.
    pub fn verify(&self, chunk: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; self.shape.bytes(chunk, chunk + 1)];
        let right = {
            let _guard = self.guard.read();
            self.state(chunk) != ABSENT
                && read_full(&*self.media, &mut bytes, self.shape.start(chunk)).is_ok()
                && checksum(&bytes) == self.crcs[chunk].load(Ordering::Relaxed)
        };
        if !right {
            self.forget(chunk, chunk + 1, false);
            return None;
        }
        let _flights = self.flights.lock();
        if self.state(chunk) != ABSENT {
            self.set(chunk, READY);
            self.ticks[chunk].store(self.shared.space.tick(), Ordering::Relaxed);
        }
        Some(bytes)
    }

    /// What to do for `chunk`, as part of a read that ends before chunk `end`. A fetch takes as many missing
    /// chunks in one go as `max_bytes` allow.
    pub fn step(&self, chunk: usize, end: usize, max_bytes: usize, owner: usize) -> Step {
        let mut flights = self.flights.lock();
        match self.state(chunk) {
            READY => {
                let stop = (chunk + 1..end).find(|&c| self.state(c) != READY).unwrap_or(end);
                return Step::Ready(stop);
            }
            RECORDED => return Step::Verify,
            _ => {}
        }
        if let Some(flight) = flights.iter().find(|flight| flight.covers(chunk)) {
            return Step::Join(Arc::clone(flight));
        }
        let end = end.min(chunk + (max_bytes / self.shape.chunk as usize).max(1));
        let missing = |c: &usize| self.state(*c) == ABSENT && !flights.iter().any(|flight| flight.covers(*c));
        let end = (chunk + 1..end).find(|c| !missing(c)).unwrap_or(end);
        // Another process may have fetched them since the map was read.
        let mut known = end;
        self.map.load(chunk, end, |c, crc| {
            self.crcs[c].store(crc, Ordering::Relaxed);
            self.set(c, RECORDED);
            known = known.min(c);
        });
        if known == chunk {
            return Step::Verify;
        }
        let flight = Flight::new(chunk, known, owner);
        flights.push(Arc::clone(&flight));
        Step::Lead(flight)
    }

    /// Takes a fetch off the list; its chunks are what the table says from now on.
    pub fn land(&self, flight: &Arc<Flight>) {
        self.flights.lock().retain(|other| !Arc::ptr_eq(other, flight));
    }

    /// Writes the bytes of a fetch to the media, then records them. Whatever happens, the fetch is off the list.
    ///
    /// Errors: those of the disk; nothing is recorded then.
    pub fn keep(&self, flight: &Arc<Flight>, bytes: &[u8]) -> Result<()> {
        let done = write_all(&*self.media, bytes, self.shape.start(flight.first)).and_then(|()| {
            let crcs: Vec<u32> = bytes.chunks(self.shape.chunk as usize).map(checksum).collect();
            let flights = self.flights.lock();
            if flight.is_disowned() {
                return Ok(());
            }
            self.map.record(flight.first, &crcs)?;
            let tick = self.shared.space.next_tick();
            for (chunk, crc) in (flight.first..flight.end).zip(crcs) {
                self.crcs[chunk].store(crc, Ordering::Relaxed);
                self.ticks[chunk].store(tick, Ordering::Relaxed);
                self.set(chunk, READY);
            }
            drop(flights);
            Ok(())
        });
        self.land(flight);
        done
    }

    /// Drops the chunks `first..end` from table and map; the media keeps its bytes until they are written anew.
    /// With `strike`, a reader's complaint is counted against each; false if one has had too many, which then
    /// stays as it is.
    pub fn forget(&self, first: usize, end: usize, strike: bool) -> bool {
        let mut flights = self.flights.lock();
        let word = |chunk: usize| self.states[chunk].load(Ordering::Relaxed);
        let spent = |chunk: usize| strike && word(chunk) / STRIKE >= MAX_STRIKES;
        // A fetch whose bytes were read from memory and found wrong must not be recorded after this.
        let held: Vec<_> = flights
            .extract_if(.., |f| strike && f.bytes().is_some() && (first..end).any(|c| f.covers(c) && !spent(c)))
            .collect();
        held.iter().for_each(|flight| flight.disown());
        // No read may be half way when these bytes are written again.
        let _guard = self.guard.write();
        let mut all = true;
        for chunk in first..end {
            if spent(chunk) {
                all = false;
            } else if word(chunk) & STATE != ABSENT || held.iter().any(|flight| flight.covers(chunk)) {
                let struck = word(chunk) + if strike { STRIKE } else { 0 };
                self.states[chunk].store(struck & !STATE, Ordering::Release);
                count(&self.shared.stats.repairs, 1);
            }
        }
        self.erase(first, end);
        all
    }

    fn erase(&self, first: usize, end: usize) {
        // If this fails, the checksum shows at the next start what the map does not tell.
        if let Err(e) = self.map.erase(first, end) {
            self.shared.notice(format!("cache: {e}"));
        }
    }

    /// Calls `each` with last use and size of every chunk that is there.
    pub fn ages(&self, mut each: impl FnMut(u32, u64)) {
        for chunk in 0..self.shape.chunks() {
            if self.state(chunk) != ABSENT {
                each(self.ticks[chunk].load(Ordering::Relaxed), self.shape.bytes(chunk, chunk + 1) as u64);
            }
        }
    }

    /// Takes away chunks last used at `cut` or before until `amount` bytes are gone, `batch` at a time so that
    /// readers wait briefly only. The caller holds the exclusive lock of the media. Returns the bytes of
    /// chunks taken, and whether none is left.
    ///
    /// Errors: those of the disk.
    pub fn take_away(&self, cut: u32, amount: u64, batch: usize) -> Result<(u64, bool)> {
        let chunks = self.shape.chunks();
        let old = |c: usize| self.state(c) != ABSENT && self.ticks[c].load(Ordering::Relaxed) <= cut;
        let (mut taken, mut chunk, mut left) = (self.reclaim()?, 0, false);
        while chunk < chunks {
            if taken >= amount || !old(chunk) {
                left |= self.state(chunk) != ABSENT;
                chunk += 1;
                continue;
            }
            let _flights = self.flights.lock();
            let _guard = self.guard.write();
            let first = chunk;
            while chunk < chunks && chunk - first < batch && taken < amount && old(chunk) {
                self.set(chunk, ABSENT);
                taken += self.shape.bytes(chunk, chunk + 1) as u64;
                chunk += 1;
            }
            if chunk == first {
                continue;
            }
            // The hole comes first: a record without data shows by its checksum, data without a record would
            // stay for ever.
            let (start, end) = (self.shape.start(first), self.shape.start(chunk));
            let punched = self.media.punch_hole(start, end - start);
            self.erase(first, chunk);
            count(&self.shared.stats.evictions, (chunk - first) as u64);
            punched.map_err(|e| crate::Error::io("punch hole", e).in_file(self.media.path()).at(start))?;
        }
        Ok((taken, !left))
    }

    /// Gives back the room of bytes that no record vouches for: chunks forgotten, or written when a crash came.
    fn reclaim(&self) -> Result<u64> {
        let fail = |e| crate::Error::io("reclaim", e).in_file(self.media.path());
        let (mut at, mut taken) = (0, 0);
        while let Some(data) = self.media.next_data(at).map_err(fail)? {
            let hole = self.media.next_hole(data).map_err(fail)?.min(self.shape.len);
            for chunk in self.shape.chunk_of(data)..self.shape.chunk_of(hole.saturating_sub(1)) + 1 {
                let flights = self.flights.lock();
                if data < hole && self.state(chunk) == ABSENT && !flights.iter().any(|flight| flight.covers(chunk)) {
                    let (start, end) = (self.shape.start(chunk), self.shape.start(chunk + 1));
                    self.media.punch_hole(start, end - start).map_err(fail)?;
                    taken += end.min(hole) - start.max(data);
                }
            }
            at = hole.max(data + 1);
        }
        Ok(taken)
    }

    /// How much more (or less) room the files take than when last asked.
    pub fn growth(&self) -> i64 {
        let now = self.media.allocated_bytes().unwrap_or(0) + self.map.allocated_bytes();
        now as i64 - self.allocated.swap(now, Ordering::Relaxed) as i64
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let newest = self.ticks.iter().map(|tick| tick.load(Ordering::Relaxed)).max().unwrap_or(0);
        // A lost note makes the blob look older than it is, nothing else.
        let _ = self.map.set_tick(newest);
    }
}

fn read_full(file: &dyn File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
