//! Sealing: a writable layer becomes a read-only one inside its own data file.
//!
//! Format: lsmt, "close_seal (in place)".

use super::sparse::Blocks;
use super::{Layout, Upper};
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_RO_ENTRIES, SECTOR};
use crate::lsmt::header::{Header, BLOCK_BYTES, SPARSE, TRAILER_FLAGS};
use crate::lsmt::segment::{Segment, ENTRY_BYTES};
use crate::sys::write_all;

/// Entries that fill a sector: the index is padded to a multiple.
const ENTRIES_PER_SECTOR: usize = SECTOR as usize / ENTRY_BYTES;

impl Upper {
    /// Appends index and trailer to the data file, durably; from then on the file can be opened as a
    /// [`Layer`](super::Layer), and this layer refuses writes. The pair still opens as an upper that holds the same.
    ///
    /// The caller sees to it that no write is under way: one that is gets `ReadOnly`. Sealing again does nothing.
    ///
    /// # Errors
    /// `Limit`, before anything is changed, if the layer has more entries than a reader takes: commit
    /// it instead. `NoSpace`, `Io`: the layer goes on as it was, unless a flush failed.
    pub fn seal(&self) -> Result<()> {
        // One that is under way ends first: if it fails, what it could not write is not to be sealed.
        let _no_flush = self.log.hold_flushes();
        if self.log.is_sealed() {
            return Ok(());
        }
        let mut state = self.log.lock()?;
        self.check_sealable()?;
        let mut segments = self.segments();
        let at = match &self.layout {
            Layout::Append(tail) => tail.end(),
            Layout::Sparse(blocks) => self.end_in(blocks),
            Layout::Warp(_) => return Err(self.not_sealable()),
        };
        for zeroed in segments.iter_mut().filter(|s| s.zeroed) {
            zeroed.moffset = zeroed.moffset.min(at / SECTOR);
        }
        let entries = segments.len();
        segments.resize(entries.next_multiple_of(ENTRIES_PER_SECTOR), Segment::INVALID);
        let mut bytes: Vec<u8> = segments.iter().flat_map(|s| s.to_bytes()).collect();
        bytes.extend(self.trailer(at, entries as u64).to_block());
        let written = (self.data.set_len(at).map_err(|e| Error::io("cut the data file", e).in_file(self.data.path())))
            .and_then(|()| write_all(&*self.data, &bytes, at));
        let undone = |e: Error| {
            // Only tidies up: what is left behind the data is garbage like any other.
            let _ = self.data.set_len(at);
            e.context("seal")
        };
        written.map_err(undone)?;
        let mut flushed = self.data.sync_data().map_err(|e| Error::io("flush", e).in_file(self.data.path()));
        if flushed.is_ok() {
            // The log too: a flush that comes now finds nothing left to do, while a restart may yet read the pair.
            self.log.prove_all(&mut state).map_err(undone)?;
            flushed = self.log.sync_log();
        }
        if let Err(e) = flushed {
            self.log.close(&mut state, Kind::Io, &format!("sealing failed, close the layer: {e}"));
            return Err(e.context("seal"));
        }
        self.log.close(&mut state, Kind::ReadOnly, "the layer has been sealed");
        Ok(())
    }

    /// Where the data file of a sparse layer goes on behind the device: in a block of its own. In one that the device
    /// ends in, it would make data of what this layer does not hold there, should the pair be opened as an upper again.
    fn end_in(&self, blocks: &Blocks) -> u64 {
        (BLOCK_BYTES as u64 + self.virtual_size()).next_multiple_of(blocks.bytes())
    }

    /// Whether the index is short enough for a reader of the sealed layer.
    ///
    /// # Errors
    /// `Limit` if not; `Unsupported` for a layer of turboOCI.
    pub fn check_sealable(&self) -> Result<()> {
        if self.is_warp() {
            return Err(self.not_sealable());
        }
        let entries = self.map.read().len();
        if entries as u64 > MAX_RO_ENTRIES {
            let what = format!("{entries} index entries; at most {MAX_RO_ENTRIES} can be sealed: commit instead");
            return Err(Error::new(Kind::Limit, what).in_file(self.data.path()));
        }
        Ok(())
    }

    /// Makes sure that the data file of a sparse layer, which is as long as the device, can be longer by the longest
    /// index and the trailer. Only trying tells; what is behind the device is nobody's, so the file stays as long.
    ///
    /// # Errors
    /// `Io` if it cannot.
    pub fn lengthen_to_seal(&self) -> Result<()> {
        let Layout::Sparse(blocks) = &self.layout else { return Ok(()) };
        let len = self.end_in(blocks) + MAX_RO_ENTRIES * ENTRY_BYTES as u64 + BLOCK_BYTES as u64;
        self.data.set_len(len).map_err(|e| {
            let what = "lengthen the data file by index and trailer (if it is as long as files can be: commit instead)";
            Error::io(what, e).in_file(self.data.path())
        })
    }

    fn not_sealable(&self) -> Error {
        let what = "a writable layer of turboOCI cannot be sealed, only committed";
        Error::new(Kind::Unsupported, what).in_file(self.data.path())
    }

    fn trailer(&self, index_offset: u64, index_entries: u64) -> Header {
        let flags = TRAILER_FLAGS | self.header.flags & SPARSE;
        let virtual_size = self.virtual_size();
        Header { flags, index_offset, index_entries, virtual_size, tag: Vec::new(), ..self.header.clone() }
    }
}
