//! One blob in the cache: where its chunks lie, and what is known of each.

use std::ops::Range;
use std::sync::Arc;

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};

use super::flight::Flight;
use super::map::{checksum, Shape};
use super::media::Media;
use super::pool::Pool;
use super::strikes::Strikes;
use super::{count, Shared};
use crate::error::Result;
use crate::merkle::Tree;
use crate::sys::File;

/// What is known of a chunk: the two low bits of its state word.
pub(super) const ABSENT: u32 = 0;
/// The map has it from an earlier run; not compared with its checksum yet.
pub(super) const RECORDED: u32 = 1;
/// In the media, and checked or written in this run.
pub(super) const READY: u32 = 2;
const STATE: u32 = 3;
/// Beside the state: the chunk was fetched in advance, and nobody has read it yet.
const FRESH: u32 = 4;
/// Above these: how often readers found the chunk wrong.
const STRIKE: u32 = 8;
/// Times that a chunk is fetched again because a reader found it wrong: beyond that it is the registry's
/// copy that is wrong, and fetching in a loop would only load it. Far above what concurrent readers of
/// one bad chunk use up together.
const MAX_STRIKES: u32 = 16;

/// To whom the room of a blob belongs.
pub(super) enum Home {
    /// The cache directory: the file carries the lock that tells other processes of us.
    Directory(Arc<dyn File>),
    /// A layer directory, which the cache does not limit. Nothing is stored until the clock shows that many
    /// nanoseconds.
    Layer(Arc<dyn File>, AtomicU64),
    /// The pool, which is locked as a whole.
    Pool(Arc<Pool>),
}

/// A blob's place and chunk table: 12 bytes of memory a chunk.
pub(super) struct Store {
    pub shared: Arc<Shared>,
    pub shape: Shape,
    pub media: Box<dyn Media>,
    pub home: Home,
    /// What recorded chunks are held against before they are read, in place of their checksums.
    tree: Option<Arc<Tree>>,
    states: Vec<AtomicU32>,
    /// When a chunk was last used.
    pub ticks: Vec<AtomicU32>,
    crcs: Vec<AtomicU32>,
    /// The last use before it was opened.
    since: u32,
    strikes: Strikes,
    /// Held for reading while bytes of the media are read, for writing while chunks are taken away.
    pub guard: RwLock<()>,
    /// Fetches under way. Also orders all changes of the map; taken before `guard`.
    pub flights: Mutex<Vec<Arc<Flight>>>,
    /// Bytes that media and map had on disk when last asked.
    allocated: AtomicU64,
}

/// What came of a read from the media alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// The buffer is filled.
    Done,
    /// So it is, and some of it was fetched in advance and is read for the first time.
    Fresh,
    /// Not all is there.
    Missing,
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
    /// Takes over a place that is open and locked, and what is recorded there. `held` are the bytes that it took
    /// before it was opened.
    pub fn new(
        shared: Arc<Shared>,
        shape: Shape,
        (media, home): (Box<dyn Media>, Home),
        tree: Option<&Arc<Tree>>,
        tick: u32,
        held: u64,
    ) -> Self {
        shared.space.raise_tick(tick);
        let words = |value: u32| (0..shape.chunks()).map(|_| AtomicU32::new(value)).collect::<Vec<_>>();
        let (states, ticks, crcs) = (words(ABSENT), words(tick), words(0));
        media.load(0, shape.chunks(), &mut |chunk, crc| {
            crcs[chunk].store(crc, Ordering::Relaxed);
            states[chunk].store(RECORDED, Ordering::Relaxed);
        });
        let (guard, flights, allocated) = (RwLock::new(()), Mutex::default(), AtomicU64::new(held));
        let (tree, strikes) = (tree.cloned(), Strikes::default());
        Store { shared, shape, media, home, tree, states, ticks, crcs, since: tick, strikes, guard, flights, allocated }
    }

    pub fn state(&self, chunk: usize) -> u32 {
        self.states[chunk].load(Ordering::Acquire) & STATE
    }

    pub fn set(&self, chunk: usize, state: u32) {
        // Changed under `flights` only, but for a chunk that ceases to be fresh, which takes an atomic step; that it
        // is lost in between makes the chunk count twice, no more.
        let word = self.states[chunk].load(Ordering::Relaxed);
        self.states[chunk].store(word & !(STATE | FRESH) | state, Ordering::Release);
    }

    /// The end of a fetch that is to bring what lies before chunk `end`: chunks smaller than what is fetched at a
    /// time are fetched in groups.
    pub fn fetch_end(&self, end: usize) -> usize {
        let group = (self.shared.options.chunk_bytes / self.shape.chunk).max(1) as usize;
        end.next_multiple_of(group).min(self.shape.chunks())
    }

    /// Whether all chunks of a range (not empty, inside the blob) are likely to be had without a fetch.
    pub fn is_present(&self, offset: u64, len: u64) -> bool {
        let (first, last) = (self.shape.chunk_of(offset), self.shape.chunk_of(offset + len - 1));
        (first..=last).all(|chunk| self.state(chunk) != ABSENT)
    }

    /// Fills `buf` (not empty, inside the blob) from the media if all its chunks are ready; [`Read::Missing`] if not.
    pub fn read_ready(&self, buf: &mut [u8], offset: u64) -> Read {
        let (first, last) = (self.shape.chunk_of(offset), self.shape.chunk_of(offset + buf.len() as u64 - 1));
        let guard = self.guard.read();
        let mut fresh = 0;
        for word in &self.states[first..=last] {
            let word = word.load(Ordering::Acquire);
            if word & STATE != READY {
                return Read::Missing;
            }
            fresh |= word & FRESH;
        }
        let read = self.media.read(buf, offset);
        drop(guard);
        if let Err(e) = read {
            // The file was cut short, or the disk is dying: what it had must be fetched again.
            self.shared.notice(format!("cache: reading {} at {offset}: {e}", self.media.path().display()));
            self.forget(first, last + 1, false);
            return Read::Missing;
        }
        let now = self.shared.space.tick();
        for tick in &self.ticks[first..=last] {
            if tick.load(Ordering::Relaxed) != now {
                tick.store(now, Ordering::Relaxed);
            }
        }
        if fresh != 0 {
            self.use_fresh(first, last + 1);
            return Read::Fresh;
        }
        Read::Done
    }

    /// Takes note that chunks which were fetched in advance are read.
    #[cold]
    fn use_fresh(&self, first: usize, end: usize) {
        for chunk in first..end {
            if self.states[chunk].fetch_and(!FRESH, Ordering::Relaxed) & FRESH != 0 {
                count(&self.shared.stats.ahead_used_bytes, self.shape.bytes(chunk, chunk + 1) as u64);
            }
        }
    }

    /// Reads a recorded chunk and compares it with its checksum, or holds it against the tree. Its bytes if it is
    /// right; None if it had to be forgotten.
    pub fn verify(&self, chunk: usize) -> Option<Vec<u8>> {
        if let Some(tree) = &self.tree {
            return self.prove(tree, chunk);
        }
        let mut bytes = vec![0; self.shape.bytes(chunk, chunk + 1)];
        let right = {
            let _guard = self.guard.read();
            self.state(chunk) != ABSENT
                && self.media.read(&mut bytes, self.shape.start(chunk)).is_ok()
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
    /// chunks in one go as `max_bytes` allow. `ahead`: the read is not wanted yet.
    pub fn step(&self, chunk: usize, end: usize, max_bytes: usize, owner: usize, ahead: bool) -> Step {
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
            if !ahead {
                flight.mark_used();
            }
            return Step::Join(Arc::clone(flight));
        }
        let end = end.min(chunk + (max_bytes / self.shape.chunk as usize).max(1));
        let missing = |c: &usize| self.state(*c) == ABSENT && !flights.iter().any(|flight| flight.covers(*c));
        let end = (chunk + 1..end).find(|c| !missing(c)).unwrap_or(end);
        let known = self.look_again(chunk, end);
        if known == chunk {
            return Step::Verify;
        }
        let flight = Flight::new(chunk, known, owner, ahead);
        flights.push(Arc::clone(&flight));
        Step::Lead(flight)
    }

    /// Looks whether another process has stored some of the absent chunks `first..end` since the records were
    /// read; the first one, or `end`. The caller holds `flights`.
    fn look_again(&self, first: usize, end: usize) -> usize {
        let mut known = end;
        self.media.load(first, end, &mut |chunk, crc| {
            self.crcs[chunk].store(crc, Ordering::Relaxed);
            self.set(chunk, RECORDED);
            known = known.min(chunk);
        });
        known
    }

    /// The runs of chunks in `first..end` that are not there.
    pub fn absent(&self, first: usize, end: usize) -> Vec<Range<usize>> {
        let _flights = self.flights.lock();
        let mut runs: Vec<Range<usize>> = Vec::new();
        let mut chunk = first;
        while chunk < end {
            if self.state(chunk) == ABSENT {
                let stop = (chunk..end).find(|&c| self.state(c) != ABSENT).unwrap_or(end);
                self.look_again(chunk, stop);
            }
            if self.state(chunk) == ABSENT {
                match runs.last_mut() {
                    Some(run) if run.end == chunk => run.end += 1,
                    _ => runs.push(chunk..chunk + 1),
                }
            }
            chunk += 1;
        }
        runs
    }

    /// Takes a fetch off the list; its chunks are what the table says from now on.
    pub fn land(&self, flight: &Arc<Flight>) {
        self.flights.lock().retain(|other| !Arc::ptr_eq(other, flight));
        flight.land();
    }

    /// Returns when the fetches of the chunks `first..end` that are under way have landed.
    pub fn settle(&self, first: usize, end: usize) {
        let covers = |flight: &&Arc<Flight>| flight.first < end && first < flight.end;
        let under_way: Vec<_> = self.flights.lock().iter().filter(covers).cloned().collect();
        under_way.iter().for_each(|flight| flight.wait_landed());
    }

    /// Writes the bytes of a fetch to the media, then records them. Whatever happens, the fetch is off the list.
    ///
    /// Errors: those of the disk; nothing is recorded then.
    pub fn keep(&self, flight: &Arc<Flight>, bytes: &[u8]) -> Result<()> {
        let done = flight.write(|| self.media.write(flight.first, bytes)).and_then(|()| {
            let crcs: Vec<u32> = bytes.chunks(self.shape.chunk as usize).map(checksum).collect();
            let flights = self.flights.lock();
            if flight.is_disowned() {
                return Ok(());
            }
            let tick = self.shared.space.next_tick();
            let fresh = if flight.ahead && !flight.is_used() { FRESH } else { 0 };
            if flight.ahead && flight.is_used() {
                count(&self.shared.stats.ahead_used_bytes, bytes.len() as u64);
            }
            self.media.record(flight.first, &crcs, tick)?;
            for (chunk, crc) in (flight.first..flight.end).zip(crcs) {
                self.crcs[chunk].store(crc, Ordering::Relaxed);
                self.ticks[chunk].store(tick, Ordering::Relaxed);
                self.set(chunk, READY | fresh);
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
        if strike && self.strikes.lapse(self.shared.clock.now()) {
            for word in &self.states {
                word.fetch_and(STRIKE - 1, Ordering::Relaxed);
            }
        }
        let word = |chunk: usize| self.states[chunk].load(Ordering::Relaxed);
        let hopeless = self.strikes.are_too_many(self.shape.chunks());
        let spent = |chunk: usize| strike && (hopeless || word(chunk) / STRIKE >= MAX_STRIKES);
        // A fetch whose bytes were read from memory and found wrong must not be recorded after this.
        let held: Vec<_> = flights
            .extract_if(.., |f| strike && f.bytes().is_some() && (first..end).any(|c| f.covers(c) && !spent(c)))
            .collect();
        for flight in &held {
            flight.disown();
            flight.land();
        }
        // No read may be half way when these bytes are written again.
        let _guard = self.guard.write();
        let mut all = true;
        for chunk in first..end {
            if spent(chunk) {
                all = false;
            } else if word(chunk) & STATE != ABSENT || held.iter().any(|flight| flight.covers(chunk)) {
                let struck = word(chunk) + if strike { STRIKE } else { 0 };
                self.states[chunk].store(struck & !STATE, Ordering::Release);
                self.strikes.add(u32::from(strike));
                count(&self.shared.stats.repairs, 1);
            }
        }
        self.erase(first, end);
        all
    }

    pub fn erase(&self, first: usize, end: usize) {
        // If this fails, the checksum shows at the next start what the map does not tell.
        if let Err(e) = self.media.erase(first, end) {
            self.shared.notice(format!("cache: {e}"));
        }
    }

    /// Bytes that it takes on disk now.
    pub fn measure(&self) -> u64 {
        let now = self.media.allocated_bytes();
        self.allocated.store(now, Ordering::Relaxed);
        now
    }

    /// How much more (or less) room it takes than when last measured.
    pub fn growth(&self) -> i64 {
        let before = self.allocated.load(Ordering::Relaxed);
        self.measure() as i64 - before as i64
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let tick = |chunk: usize| self.ticks[chunk].load(Ordering::Relaxed);
        let newest = (0..self.shape.chunks()).map(tick).max().unwrap_or(0);
        // What was used before the other blobs were looked at may have got a tick older than theirs.
        let newest = if newest > self.since { newest.max(self.shared.space.tick()) } else { self.since };
        self.media.note_use(newest, &tick);
    }
}
