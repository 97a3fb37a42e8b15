//! The writable layer: reads, writes, discards and flushes, whatever the layout of its files.
//!
//! The data file holds the bytes, the index file a log of what was done, and memory the ordered map
//! that the log amounts to. The layouts differ in where bytes go: to the end of the data file (`append`) or
//! to the place that their offset says (`sparse`, and `warp`, some of whose bytes are in a target).

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::sync::RwLock;

use super::header::{Header, BLOCK_BYTES, SPARSE, TRAILER_FLAGS, VIRTUAL_SIZE_AT};
use super::index::MutableIndex;
use super::layer::{read_header, Layer};
use super::segment::{Segment, MAX_LENGTH};
use super::stack::{check_size, sectors, take};
use super::warp::REMOTE;
use crate::blob::{Blob, FileBlob};
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_IO_BYTES, SECTOR};
use crate::sys::{read_exact, write_all, Disk, File, Mode};

mod append;
mod create;
mod derive;
mod log;
mod notes;
mod seal;
mod sparse;
mod survey;
mod warp;

pub use create::{clear_unfinished, create, remove_new, CreateOptions};
use log::Log;
pub use warp::open_as_meta;

/// Records that one discard appends at a time.
const DISCARD_RECORDS: usize = 4096;

/// A writable layer, open for reading and writing by this process alone.
pub struct Upper {
    data: Arc<dyn File>,
    log: Log,
    map: RwLock<MutableIndex>,
    header: Header,
    virtual_size: AtomicU64,
    layout: Layout,
    cut_records: u64,
}

enum Layout {
    Append(append::Tail),
    Sparse(sparse::Blocks),
    Warp(warp::Warp),
}

/// Fills a buffer with what the layers below hold from a byte offset on.
type Below<'a> = dyn FnMut(&mut [u8], u64) -> Result<()> + 'a;

/// What an index file or the holes of a data file amount to.
struct Replay {
    map: MutableIndex,
    survey: survey::Survey,
}

impl Upper {
    /// Opens a pair of files for writing; the layout is what the data file's header says. A tail torn
    /// by a crash is cut off (`log` says how), and another process's handle on the layer is refused.
    ///
    /// # Errors
    /// `Corrupt` for what no crash explains and for a data file without a header, which turboOCI's are;
    /// `Denied` if the layer is open elsewhere; `Limit` for too long an index; `Unsupported` for an
    /// index file in place of the data file, and for a sparse layer whose file system does not tell its holes.
    pub fn open(disk: &dyn Disk, data: &Path, index: &Path) -> Result<Upper> {
        // Who made the files, or exchanged the log, may have died before their names were durable.
        disk.sync_dir(directory(data))?;
        if directory(index) != directory(data) {
            disk.sync_dir(directory(index))?;
        }
        let data = disk.open(data, Mode::Write)?;
        lock(&*data, true)?;
        let header = data_header(&data)?;
        if header.has(SPARSE) {
            sparse::open(disk, data, header, index)
        } else {
            append::open(data, header, disk.open(index, Mode::Write)?, disk.boot())
        }
    }

    /// Bytes of the device; 0 if the layer is to take the size of the layers below.
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size.load(Ordering::Acquire)
    }

    /// The header of the data file, or of the index file for a layer of turboOCI, as it was at open.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The data file.
    pub fn data(&self) -> &Arc<dyn File> {
        &self.data
    }

    /// The name of the index file.
    pub fn index_path(&self) -> &Path {
        self.log.path()
    }

    /// How many records there are, and how many of them no loss of power can take any more. They are the same for all
    /// but log-structured layers, which show after a loss of power no others.
    pub fn progress(&self) -> (u64, u64) {
        self.log.progress()
    }

    /// Records that a crash had torn, or not let become durable, and that `open` cut off; worth a line in the log.
    pub fn cut_records(&self) -> u64 {
        self.cut_records
    }

    /// Whether this is a sparse layer, not a log-structured one.
    pub fn is_sparse(&self) -> bool {
        matches!(self.layout, Layout::Sparse(_))
    }

    /// Whether this is a log-structured layer: bytes go to the end of its data file.
    pub fn is_log_structured(&self) -> bool {
        matches!(self.layout, Layout::Append(_))
    }

    /// All entries in ascending order; tags mean nothing but in a layer of turboOCI, where they are types.
    pub fn segments(&self) -> Vec<Segment> {
        self.map.read().iter().collect()
    }

    /// Calls `f` for each piece of a sector range that this layer holds or zeroes, in ascending order.
    pub fn lookup(&self, range: Range<u64>, f: impl FnMut(Segment)) {
        self.map.read().lookup(range, f);
    }

    /// Fills `buf` from byte `offset` on; both must be multiples of 512. What this layer does not hold
    /// is asked of `below(part of buf, its byte offset)`.
    ///
    /// # Errors
    /// `OutOfBounds` for odd numbers, `Corrupt` if the data file has become shorter, `Io`, and those
    /// of `below`.
    pub fn read_at(
        &self,
        buf: &mut [u8],
        offset: u64,
        mut below: impl FnMut(&mut [u8], u64) -> Result<()>,
    ) -> Result<()> {
        let range = sectors(offset, buf.len() as u64)?;
        if range.is_empty() {
            return Ok(());
        }
        let (mut at, end) = (range.start, range.end);
        let mut pieces = Vec::new();
        self.lookup(range, |piece| pieces.push(piece));
        let mut rest = buf;
        for piece in pieces {
            if piece.offset > at {
                below(take(&mut rest, piece.offset - at), at * SECTOR)?;
            }
            at = piece.end();
            let part = take(&mut rest, piece.length.into());
            if piece.zeroed {
                part.fill(0);
            } else {
                let doing = |e: Error| e.context(format!("writable layer, device offset {}", piece.offset * SECTOR));
                match &self.layout {
                    Layout::Warp(warp) if piece.tag == REMOTE => warp.read(part, piece.moffset * SECTOR),
                    _ => read_exact(&*self.data, part, piece.moffset * SECTOR),
                }
                .map_err(doing)?;
            }
        }
        if at < end {
            below(rest, at * SECTOR)?;
        }
        Ok(())
    }

    /// Writes `buf` at byte `offset`; both must be multiples of 512. Acknowledged is not durable:
    /// [`Upper::flush`] is. After an error any part of the range may hold old or new bytes.
    ///
    /// A sparse layer asks `below`, as [`Upper::read_at`] does, for the rest of a block of the file
    /// system when it is first written to in part.
    ///
    /// # Errors
    /// `OutOfBounds` for odd numbers and beyond the virtual size, `NoSpace`, `Io`, `Limit` when the
    /// index is full, `ReadOnly` once sealed; those of `below`.
    pub fn write_at(&self, buf: &[u8], offset: u64, mut below: impl FnMut(&mut [u8], u64) -> Result<()>) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        let mut at = offset;
        for piece in buf.chunks(MAX_IO_BYTES) {
            match &self.layout {
                Layout::Append(tail) => self.append_piece(tail, piece, at)?,
                Layout::Sparse(blocks) => self.write_in_place(blocks, piece, at, &mut below)?,
                Layout::Warp(warp) => self.write_meta(warp, piece, at)?,
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Makes a range read as zeros, hiding what lies below; both numbers must be multiples of 512.
    ///
    /// # Errors
    /// As [`Upper::write_at`].
    pub fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let range = self.check(offset, len)?;
        self.zero(range)
    }

    fn zero(&self, range: Range<u64>) -> Result<()> {
        match &self.layout {
            Layout::Append(tail) => self.append_zeroed(tail, range),
            Layout::Sparse(blocks) => self.discard_in_place(blocks, range),
            Layout::Warp(warp) => self.discard_meta(warp, range),
        }
    }

    /// Returns once all that was acknowledged before is durable. After a failed flush the layer takes
    /// no more writes, and every later flush fails too: what the system could not write may be gone.
    pub fn flush(&self) -> Result<()> {
        self.log.flush(&*self.data, self.is_sparse())
    }

    /// Has the system begin to write the data, without waiting for it.
    pub fn start_write_back(&self) {
        self.data.start_write_back();
    }

    /// Gives a layer whose size is 0 the size of the layers below, and keeps it in its files, except for a layer of
    /// turboOCI. Does nothing to a layer with a size of its own.
    pub fn inherit_size(&self, size: u64) -> Result<()> {
        if self.virtual_size() != 0 {
            return Ok(());
        }
        if self.is_warp() {
            self.virtual_size.store(size, Ordering::Release);
            return Ok(());
        }
        self.write_size(size)
    }

    /// Changes the virtual size, durably. What a smaller size leaves outside is discarded first, so
    /// that it does not come back when the device grows again.
    ///
    /// # Errors
    /// `OutOfBounds` if `size` is no multiple of 512, `Limit` beyond `limits::MAX_DEVICE_BYTES`; else as
    /// [`Upper::write_at`].
    pub fn resize(&self, size: u64) -> Result<()> {
        let kept = sectors(0, size)?.end;
        let mut outside = Vec::new();
        self.lookup(kept..u64::MAX, |piece| {
            if !piece.zeroed {
                outside.push(piece.offset..piece.end());
            }
        });
        outside.into_iter().try_for_each(|range| self.zero(range))?;
        self.write_size(size)?;
        self.flush()
    }

    /// Changes the length of the files first: where the system refuses that, the old size stays in them.
    fn write_size(&self, size: u64) -> Result<()> {
        check_size(size)?;
        let set_len =
            |len| self.data.set_len(len).map_err(|e| Error::io("change the length", e).in_file(self.data.path()));
        if self.is_warp() {
            set_len(size)?;
        } else if self.is_sparse() {
            let len = size + BLOCK_BYTES as u64;
            // What a seal has put behind the device, if this was sealed before, is not to become its content. One
            // without a size may have lost that with the power, and not its content.
            if self.virtual_size() > 0 {
                set_len(len.min(self.virtual_size() + BLOCK_BYTES as u64))?;
            }
            set_len(len)?;
        }
        if !self.is_warp() {
            write_all(&*self.data, &size.to_le_bytes(), VIRTUAL_SIZE_AT as u64)?;
        }
        self.log.write_virtual_size(size)?;
        self.virtual_size.store(size, Ordering::Release);
        Ok(())
    }

    fn check(&self, offset: u64, len: u64) -> Result<Range<u64>> {
        let range = sectors(offset, len)?;
        let size = self.virtual_size();
        if offset + len > size {
            let what = format!("{len} bytes at {offset} reach beyond the device of {size} bytes");
            return Err(Error::new(Kind::OutOfBounds, what));
        }
        check_size(offset + len)?;
        Ok(range)
    }

    /// Appends records to the log and to the map, in the same order for both.
    fn record(&self, records: &[Segment]) -> Result<()> {
        let mut state = self.log.lock()?;
        self.log.append(&mut state, records)?;
        let mut map = self.map.write();
        for record in records {
            map.insert(*record);
        }
        Ok(())
    }
}

/// Opens a pair of files as a layer, for commit and merge. Nothing is written, not even to cut a torn
/// tail, which is only passed over: the number of its records is the second result.
///
/// # Errors
/// As [`Upper::open`].
pub fn open_as_layer(disk: &dyn Disk, data: &Path, index: &Path) -> Result<(Layer, u64)> {
    let data = disk.open(data, Mode::Read)?;
    lock(&*data, false)?;
    let mut header = data_header(&data)?;
    let index = disk.open(index, Mode::Read)?;
    let replay = if header.has(SPARSE) {
        derive::derive(&data, &header, &*index, disk.boot())?.replay
    } else {
        // The device's, which the data file need not say yet: see `append::open`.
        header.virtual_size = survey::read_header(&*index)?.virtual_size;
        append::replay(&data, &*index, disk.boot())?
    };
    let trailer = Header { flags: TRAILER_FLAGS | header.flags & SPARSE, ..header.clone() };
    let blob: Arc<dyn Blob> = Arc::new(FileBlob::new(data)?);
    Ok((Layer::from_parts(blob, header, trailer, replay.map.iter().collect()), replay.survey.cut))
}

/// Takes the lock that keeps two processes off one layer.
fn lock(data: &dyn File, exclusive: bool) -> Result<()> {
    match data.try_lock(exclusive) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let busy = std::io::Error::from_raw_os_error(libc::EBUSY);
            let what = "the writable layer is open elsewhere, perhaps as a device";
            Err(Error::new(Kind::Denied, what).because(busy).in_file(data.path()))
        }
        // A file system without locks cannot tell; what follows works all the same.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOLCK | libc::EINVAL | libc::EOPNOTSUPP)) => Ok(()),
        Err(e) => Err(Error::io("lock", e).in_file(data.path())),
    }
}

fn data_header(data: &Arc<dyn File>) -> Result<Header> {
    let blob = FileBlob::new(data.clone())?;
    read_header(&blob).map_err(|e| match e.kind() {
        Kind::Corrupt => {
            e.context("data file of a writable layer (one of turboOCI, which has no header, needs a target)")
        }
        _ => e.context("data file of a writable layer"),
    })
}

/// Cuts a sector range into runs that one entry can say.
fn runs(range: Range<u64>) -> impl Iterator<Item = (u64, u32)> {
    let step = u64::from(MAX_LENGTH);
    range.clone().step_by(MAX_LENGTH as usize).map(move |at| (at, (range.end - at).min(step) as u32))
}

/// Bytes in a file, as an error that names it otherwise.
fn file_len(file: &dyn File) -> Result<u64> {
    file.len().map_err(|e| Error::io("length", e).in_file(file.path()))
}

/// The directory that holds a file.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
