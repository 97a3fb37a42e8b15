//! The plain bytes of a gzip file as a blob: only what is wanted is unpacked, and what goes on is not begun again.

use std::ops::Range;
use std::sync::Arc;

use crate::sync::{Condvar, Mutex};

use super::cursor::Cursor;
use super::Index;
use crate::blob::{check_range, Blob};
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_BLOCK_RELOADS, MAX_GZIP_CURSORS};
use crate::metrics;

/// A gzip file, read by its index.
///
/// What does not unpack, or not to what the index says, is an error of kind `Corrupt`, after the blob below had its
/// chance to fetch it again. Deflate has no checksums on the way: what is damaged and still unpacks is found where the
/// next point is passed, or not at all, so whoever wants to be sure keeps the blob below from going wrong.
pub struct View {
    blob: Arc<dyn Blob>,
    index: Arc<Index>,
    cursors: Mutex<Cursors>,
    /// Told whenever one comes back.
    returned: Condvar,
}

/// Where was inflated up to.
#[derive(Default)]
struct Cursors {
    /// The one used last comes last.
    idle: Vec<Cursor>,
    /// From which point on, and to which byte, others inflate just now.
    busy: Vec<Range<u64>>,
}

impl View {
    /// Reads `blob` by `index`.
    ///
    /// # Errors
    /// `Corrupt` if the index is of another file.
    pub fn new(blob: Arc<dyn Blob>, index: Arc<Index>) -> Result<Self> {
        let of = index.header().packed_bytes;
        if of != blob.len() {
            let what = format!("{} is the index of a file of {of} bytes, not of one of {}", index.name(), blob.len());
            return Err(Error::corrupt(what).in_file(blob.name()));
        }
        Ok(View { blob, index, cursors: Mutex::default(), returned: Condvar::new() })
    }

    /// The compressed blob.
    pub fn packed(&self) -> &Arc<dyn Blob> {
        &self.blob
    }

    /// An idle cursor, on the way to `wanted` or nowhere, and its entry among those that are busy. Waits for one that
    /// is on the way there.
    fn take(&self, point: u64, wanted: &Range<u64>) -> Option<Cursor> {
        let mut cursors = self.cursors.lock();
        let ahead = |plain: u64| (point..=wanted.start).contains(&plain);
        loop {
            let best = (0..cursors.idle.len()).filter(|i| ahead(cursors.idle[*i].plain));
            if let Some(best) = best.max_by_key(|i| cursors.idle[*i].plain) {
                cursors.busy.push(point..wanted.end);
                return Some(cursors.idle.remove(best));
            }
            // What it is about to unpack would have to be unpacked here too.
            if !cursors.busy.iter().any(|busy| ahead(busy.end)) {
                cursors.busy.push(point..wanted.end);
                let full = cursors.idle.len() >= MAX_GZIP_CURSORS;
                return full.then(|| cursors.idle.remove(0));
            }
            self.returned.wait(&mut cursors);
        }
    }

    fn give_back(&self, busy: Range<u64>, cursor: Option<Cursor>) {
        let mut cursors = self.cursors.lock();
        if let Some(entry) = cursors.busy.iter().position(|other| *other == busy) {
            cursors.busy.swap_remove(entry);
        }
        if let Some(cursor) = cursor {
            if cursors.idle.len() >= MAX_GZIP_CURSORS {
                cursors.idle.remove(0);
            }
            cursors.idle.push(cursor);
        }
        drop(cursors);
        self.returned.notify_all();
    }

    fn read_once(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let number = self.index.before(offset);
        let point = self.index.points()[number].plain;
        let wanted = offset..offset + buf.len() as u64;
        let mut back = Back { view: self, busy: point..wanted.end, cursor: None };
        let mut cursor = match self.take(point, &wanted) {
            Some(cursor) => cursor,
            None => Cursor::new()?,
        };
        if !(point..=offset).contains(&cursor.plain) {
            cursor.restart(&*self.blob, &self.index, number)?;
        }
        metrics::decode(|| cursor.read(&*self.blob, &self.index, buf, offset))?;
        back.cursor = Some(cursor);
        Ok(())
    }

    /// Has what a failed read has used fetched again; whether that was of use.
    fn drop_copies(&self, offset: u64, len: u64) -> Result<bool> {
        // What was inflated from the same bytes may be wrong as well.
        self.cursors.lock().idle.clear();
        let (first, last) = (self.index.before(offset), self.index.before(offset + len));
        let mut dropped = false;
        for number in first..=last {
            dropped |= self.index.distrust(number)?;
        }
        Ok(self.distrust(offset, len)? || dropped)
    }
}

/// Gives a cursor back, or only the place of one that failed.
struct Back<'a> {
    view: &'a View,
    busy: Range<u64>,
    cursor: Option<Cursor>,
}

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.view.give_back(self.busy.clone(), self.cursor.take());
    }
}

impl Blob for View {
    fn name(&self) -> &str {
        self.blob.name()
    }

    fn len(&self) -> u64 {
        self.index.header().plain_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        if buf.is_empty() {
            return Ok(());
        }
        let mut reloads = 0;
        loop {
            let error = match self.read_once(buf, offset) {
                Err(error) if error.kind() == Kind::Corrupt => error,
                result => return result,
            };
            if reloads == MAX_BLOCK_RELOADS || !self.drop_copies(offset, buf.len() as u64)? {
                let again = format!("fetched {} times, and its source gave the same", reloads + 1);
                return Err(if reloads > 0 { error.context(again) } else { error });
            }
            reloads += 1;
        }
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        let Range { start, end } = self.index.packed(offset, len);
        start == end || self.blob.is_ready(start, end - start)
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<u64> {
        check_range(self, offset, len as usize)?;
        match self.index.packed(offset, len) {
            Range { start, end } if start < end => self.blob.prefetch(start, end - start),
            _ => Ok(0),
        }
    }

    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        match self.index.packed(offset, len) {
            Range { start, end } if start < end => self.blob.distrust(start, end - start),
            _ => Ok(false),
        }
    }
}
