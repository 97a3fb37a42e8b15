//! One place in a gzip file up to which was inflated, from where to go on.

use super::inflate::Inflate;
use super::{Index, WINDOW};
use crate::blob::Blob;
use crate::error::{Error, Kind, Result};

/// Bytes of the gzip file read at a time.
const INPUT: usize = 64 << 10;
/// Bytes passed over at a time.
const SKIP: usize = 64 << 10;

/// An inflater and where it is.
pub(super) struct Cursor {
    inflate: Inflate,
    /// Number of the next point that it will come to.
    next: usize,
    /// Plain bytes before it; more than there can be while it is nowhere.
    pub plain: u64,
    /// Bytes of the gzip file read, of which those from `at` on are still to be used.
    packed: u64,
    input: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Cursor {
    /// An inflater that is nowhere yet.
    pub fn new() -> Result<Self> {
        let inflate = Inflate::raw()?;
        Ok(Cursor { inflate, next: 0, plain: u64::MAX, packed: 0, input: Vec::new(), at: 0, ended: false })
    }

    /// Goes to a point.
    pub fn restart(&mut self, blob: &dyn Blob, index: &Index, number: usize) -> Result<()> {
        let point = index.points()[number];
        let window = index.window(number)?;
        let mut byte = [0];
        if point.bits > 0 {
            blob.read_at(&mut byte, point.packed - 1)?;
        }
        self.inflate.restart(&window, point.bits, byte[0])?;
        self.input.clear();
        (self.at, self.ended) = (0, false);
        (self.plain, self.packed) = (point.plain, point.packed);
        self.next = index.points().partition_point(|other| other.plain <= point.plain);
        Ok(())
    }

    /// Fills `buf` with the plain bytes from `offset` on, which is not before the cursor. There are as many.
    pub fn read(&mut self, blob: &dyn Blob, index: &Index, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut over = vec![0; SKIP.min((offset - self.plain) as usize)];
        while self.plain < offset {
            let n = (offset - self.plain).min(SKIP as u64) as usize;
            self.advance(blob, index, &mut over[..n])?;
        }
        self.advance(blob, index, buf)
    }

    /// Inflates as many bytes as `buf` has, and checks them where the index knows what must come.
    fn advance(&mut self, blob: &dyn Blob, index: &Index, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let until = index.points().get(self.next).map_or(index.header().plain_bytes, |point| point.plain);
            let n = buf.len().min((until - self.plain) as usize);
            let (now, later) = buf.split_at_mut(n);
            self.inflate(blob, index, now)?;
            buf = later;
            if self.plain == until {
                self.check(blob, index)?;
            }
        }
        Ok(())
    }

    fn inflate(&mut self, blob: &dyn Blob, index: &Index, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            if self.ended {
                return Err(self.wrong("the compressed data end too early", blob));
            }
            if self.at == self.input.len() {
                self.fill(blob, index)?;
            }
            let step = self.inflate.step(&self.input[self.at..], &mut buf[done..], false);
            let step = step.map_err(|e| e.in_file(blob.name()).at(self.packed))?;
            self.at += step.used;
            self.plain += step.made as u64;
            self.ended = step.ended;
            done += step.made;
            if step.used == 0 && step.made == 0 && !step.ended {
                return Err(self.wrong("inflating does not go on", blob));
            }
        }
        Ok(())
    }

    /// Reads on: no further than what comes before the next point needs.
    fn fill(&mut self, blob: &dyn Blob, index: &Index) -> Result<()> {
        let next = index.points().get(self.next).map(|point| point.packed);
        let end = next.filter(|end| *end > self.packed).unwrap_or(blob.len());
        let n = (end - self.packed).min(INPUT as u64) as usize;
        if n == 0 {
            return Err(self.wrong("the compressed data are cut off", blob));
        }
        self.input.resize(n, 0);
        self.at = n;
        blob.read_at(&mut self.input, self.packed)?;
        self.packed += n as u64;
        self.at = 0;
        Ok(())
    }

    /// Checks that what was inflated is what the next point follows; at the end, that it is the end.
    fn check(&mut self, blob: &dyn Blob, index: &Index) -> Result<()> {
        if self.next < index.points().len() {
            let mut window = Box::new([0; WINDOW]);
            let len = self.inflate.window(&mut window);
            let wanted = index.window(self.next)?;
            if window[..len] != wanted[WINDOW - len..] {
                return Err(self.wrong("what was unpacked is not what the index has", blob));
            }
            self.next = index.points().partition_point(|point| point.plain <= self.plain);
        }
        match self.plain == index.header().plain_bytes {
            true => self.check_end(blob, index),
            false => Ok(()),
        }
    }

    fn check_end(&mut self, blob: &dyn Blob, index: &Index) -> Result<()> {
        let more = "the compressed data go on behind what the index says is the end";
        while !self.ended {
            if self.at == self.input.len() {
                self.fill(blob, index)?;
            }
            let mut over = [0];
            let step = self.inflate.step(&self.input[self.at..], &mut over, false);
            let step = step.map_err(|e| e.in_file(blob.name()).at(self.packed))?;
            self.at += step.used;
            self.ended = step.ended;
            if step.made > 0 || (step.used == 0 && !step.ended) {
                return Err(self.wrong(more, blob));
            }
        }
        // The checksum of all bytes, then their number.
        let trailer = self.packed - (self.input.len() - self.at) as u64;
        let mut len = [0; 4];
        if trailer.checked_add(8).is_none_or(|end| end > blob.len()) {
            return Err(self.wrong("the gzip file is cut off", blob));
        }
        blob.read_at(&mut len, trailer + 4)?;
        if u32::from_le_bytes(len) != index.header().plain_bytes as u32 {
            return Err(self.wrong("the gzip file is of another length than its index says", blob));
        }
        Ok(())
    }

    fn wrong(&self, what: &str, blob: &dyn Blob) -> Error {
        Error::new(Kind::Corrupt, what).in_file(blob.name()).at(self.packed)
    }
}
