//! Committing: live sectors, packed in order of their offsets, as a new read-only layer.
//!
//! Format: lsmt, "commit (compaction to a new file)", "Merging read-only layers" and "Committed form". The same input
//! gives the same bytes as upstream's, also in how index entries are cut and folded.

use std::sync::Arc;

use super::header::{Header, BLOCK_BYTES, COMMITTED_FLAGS, FIRST_DATA_SECTOR, TRAILER_FLAGS};
use super::index::push_coalesced;
use super::layer::Layer;
use super::segment::{Segment, ENTRY_BYTES};
use super::stack::Stack;
use super::uuid::Uuid;
use super::warp::{Meta, REMOTE};
use crate::blob::Blob;
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_COMMITTED_ENTRIES, SECTOR};
use crate::progress::Progress;
use crate::sink::Sink;

/// Sectors that upstream copies at a time, which shows in the index: an entry for each piece, then folded.
const PIECE_SECTORS: u32 = 64;
/// The index of a committed layer is padded to a multiple of so many entries.
const PAD_ENTRIES: usize = 256;
/// Runs of at least so many bytes are copied by themselves; shorter ones are gathered first.
const LARGE_RUN: u64 = 128 << 10;
/// Bytes gathered before they are written: few enough to stay in a processor's own cache.
const GATHER_BYTES: usize = 256 << 10;
/// Bytes copied between two reports of progress.
const COPY_BYTES: u64 = 16 << 20;

/// What a new committed layer says of itself.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// Its id; null by default: the source's is not inherited.
    pub uuid: Uuid,
    /// Id of the layer below; None takes the source's (for a merge, that of the bottom layer).
    pub parent_uuid: Option<Uuid>,
    /// A message, at most 256 bytes.
    pub tag: Vec<u8>,
}

/// What was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The layer's trailer.
    pub trailer: Header,
    /// Index entries without padding.
    pub entries: u64,
    /// Bytes of stored sectors.
    pub data_bytes: u64,
    /// Bytes of the whole layer before any wrapping.
    pub layer_bytes: u64,
}

/// Writes a finished layer, or a writable one opened by [`open_as_layer`](super::upper::open_as_layer),
/// to `sink`, strictly in order. The caller finishes the sink. Progress is in bytes of data.
///
/// # Errors
/// `Limit`, before anything is written, for a long message or more index entries than a reader
/// takes; those of the layer's blob, of the sink and of `progress`.
pub fn commit(
    layer: &Layer,
    options: &CommitOptions,
    sink: &mut dyn Sink,
    progress: &mut Progress<'_>,
) -> Result<Committed> {
    let header = layer.header();
    let meta = committed_header(options, header.virtual_size, header.parent_uuid)?;
    compact(|| layer.segments().iter().copied(), std::slice::from_ref(layer.blob()), Form::Plain, meta, sink, progress)
}

/// Writes the metadata of a turboOCI layer, a finished one or a writable one opened by
/// [`open_as_meta`](super::upper::open_as_meta), to `sink`, as [`commit`] does. Maps into the target are kept as they
/// are; it is not read.
///
/// # Errors
/// As [`commit`]; `Unsupported` if all of the layer is in the target: readers could not tell that.
pub fn commit_meta(
    meta: &Meta,
    options: &CommitOptions,
    sink: &mut dyn Sink,
    progress: &mut Progress<'_>,
) -> Result<Committed> {
    let remote = |s: &Segment| s.length > 0 && s.tag == REMOTE;
    if meta.segments().iter().any(remote) && meta.segments().iter().all(remote) {
        let what = "a turboOCI layer without any metadata of its own";
        return Err(Error::new(Kind::Unsupported, what).in_file(meta.blob().name()));
    }
    let header = committed_header(options, meta.header().virtual_size, Uuid::NULL)?;
    compact(|| meta.segments().iter().copied(), std::slice::from_ref(meta.blob()), Form::Warp, header, sink, progress)
}

/// Flattens layers, bottom first, into one. Zeroed ranges are kept: the result hides the same of what
/// it may be stacked on. Its virtual size is that of the stack: where upstream takes a topmost 0 as it
/// stands, this takes the size of the topmost layer that has one.
///
/// # Errors
/// As [`commit`], and those of [`Stack::new`].
pub fn merge(
    layers: Vec<Layer>,
    options: &CommitOptions,
    sink: &mut dyn Sink,
    progress: &mut Progress<'_>,
) -> Result<Committed> {
    let parent = layers.first().map(|bottom| bottom.header().parent_uuid).unwrap_or_default();
    let stack = Stack::new(layers)?;
    let meta = committed_header(options, stack.virtual_size(), parent)?;
    compact(|| stack.index().iter(), stack.blobs(), Form::Plain, meta, sink, progress)
}

/// The header of a committed layer; the trailer differs in flags and index.
pub(super) fn committed_header(options: &CommitOptions, virtual_size: u64, parent: Uuid) -> Result<Header> {
    let parent = options.parent_uuid.unwrap_or(parent);
    Header::new(COMMITTED_FLAGS, virtual_size, options.uuid, parent, &options.tag)
}

/// The forms of committed layers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// All data is in the layer; the index is padded.
    Plain,
    /// Entries of type [`REMOTE`] are kept as they are; the index is not padded.
    Warp,
}

impl Form {
    fn is_remote(self, segment: &Segment) -> bool {
        self == Form::Warp && segment.tag == REMOTE
    }
}

fn compact<I: Iterator<Item = Segment>>(
    segments: impl Fn() -> I,
    blobs: &[Arc<dyn Blob>],
    form: Form,
    header: Header,
    sink: &mut dyn Sink,
    progress: &mut Progress<'_>,
) -> Result<Committed> {
    let (entries, data_bytes) = plan(segments(), form)?;
    let start = sink.position();
    sink.write(&header.to_block())?;
    let mut copy = Copy { blobs, gathered: Vec::new(), done: 0, total: data_bytes, sink: &mut *sink, progress };
    let mut run: Option<Segment64> = None;
    for next in segments().filter(|s| !s.zeroed && !form.is_remote(s)).map(Segment64::from) {
        run = match run {
            Some(run) if run.tag == next.tag && run.moffset + run.sectors == next.moffset => {
                Some(Segment64 { sectors: run.sectors + next.sectors, ..run })
            }
            before => {
                before.map_or(Ok(()), |run| copy.run(run))?;
                Some(next)
            }
        };
    }
    run.map_or(Ok(()), |run| copy.run(run))?;
    copy.write_gathered()?;
    write_end(header, &entries, form, data_bytes, start, sink)
}

/// The index that upstream's way of copying leads to, and the bytes of data it speaks of.
fn plan(segments: impl Iterator<Item = Segment>, form: Form) -> Result<(Vec<Segment>, u64)> {
    let mut entries = Vec::new();
    let mut out = FIRST_DATA_SECTOR;
    for segment in segments {
        if segment.zeroed {
            push_coalesced(&mut entries, Segment { moffset: out, ..segment });
        } else if form.is_remote(&segment) {
            push_coalesced(&mut entries, segment);
        } else {
            for at in (0..segment.length).step_by(PIECE_SECTORS as usize) {
                let length = PIECE_SECTORS.min(segment.length - at);
                let offset = segment.offset + u64::from(at);
                push_coalesced(&mut entries, Segment { offset, length, moffset: out, ..segment });
                out += u64::from(length);
            }
        }
        check_count(&entries)?;
    }
    Ok((entries, (out - FIRST_DATA_SECTOR) * SECTOR))
}

/// Refuses an index that no reader would take.
pub(super) fn check_count(entries: &[Segment]) -> Result<()> {
    if entries.len() as u64 <= MAX_COMMITTED_ENTRIES {
        return Ok(());
    }
    let what = format!("more than {MAX_COMMITTED_ENTRIES} index entries, the most that a layer can have");
    Err(Error::new(Kind::Limit, what))
}

/// Writes index and trailer behind the data of a layer that began at `start` of the sink.
pub(super) fn write_end(
    header: Header,
    entries: &[Segment],
    form: Form,
    data_bytes: u64,
    start: u64,
    sink: &mut dyn Sink,
) -> Result<Committed> {
    let padded = entries.len().next_multiple_of(if form == Form::Plain { PAD_ENTRIES } else { 1 });
    let mut raw = Vec::with_capacity(padded * ENTRY_BYTES);
    let padding = std::iter::repeat(&Segment::INVALID);
    for entry in entries.iter().chain(padding).take(padded) {
        raw.extend_from_slice(&entry.to_bytes());
    }
    sink.write(&raw)?;
    let index_offset = BLOCK_BYTES as u64 + data_bytes;
    let trailer = Header { flags: TRAILER_FLAGS, index_offset, index_entries: padded as u64, ..header };
    sink.write(&trailer.to_block())?;
    let layer_bytes = sink.position() - start;
    Ok(Committed { trailer, entries: entries.len() as u64, data_bytes, layer_bytes })
}

/// A run of stored sectors of any length.
struct Segment64 {
    tag: u8,
    moffset: u64,
    sectors: u64,
}

impl From<Segment> for Segment64 {
    fn from(s: Segment) -> Self {
        Segment64 { tag: s.tag, moffset: s.moffset, sectors: s.length.into() }
    }
}

/// The copying of data, in few and large pieces.
struct Copy<'a, 'b> {
    blobs: &'a [Arc<dyn Blob>],
    gathered: Vec<u8>,
    done: u64,
    total: u64,
    sink: &'a mut dyn Sink,
    progress: &'a mut Progress<'b>,
}

impl Copy<'_, '_> {
    fn run(&mut self, run: Segment64) -> Result<()> {
        let blob = &*self.blobs[usize::from(run.tag)];
        let (mut at, end) = (run.moffset * SECTOR, (run.moffset + run.sectors) * SECTOR);
        if end - at < LARGE_RUN {
            let from = self.gathered.len();
            self.gathered.resize(from + (end - at) as usize, 0);
            blob.read_at(&mut self.gathered[from..], at)?;
            return if self.gathered.len() < GATHER_BYTES { Ok(()) } else { self.write_gathered() };
        }
        self.write_gathered()?;
        while at < end {
            let len = COPY_BYTES.min(end - at);
            self.sink.write_from(blob, at, len)?;
            at += len;
            self.advance(len)?;
        }
        Ok(())
    }

    fn write_gathered(&mut self) -> Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        self.sink.write(&self.gathered)?;
        let len = self.gathered.len() as u64;
        self.gathered.clear();
        self.advance(len)
    }

    fn advance(&mut self, len: u64) -> Result<()> {
        self.done += len;
        (self.progress)(self.done, self.total)
    }
}
