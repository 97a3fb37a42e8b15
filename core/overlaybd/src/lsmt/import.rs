//! A raw disk image as a committed layer: holes and zeros are left out.

use std::ops::Range;

use super::commit::{check_count, committed_header, write_end, CommitOptions, Committed, Form};
use super::header::FIRST_DATA_SECTOR;
use super::index::push_coalesced;
use super::segment::Segment;
use super::stack::sectors;
use super::uuid::Uuid;
use crate::error::{Error, Result};
use crate::limits::SECTOR;
use crate::progress::Progress;
use crate::sink::Sink;
use crate::sys::File;

/// Bytes examined at a time.
const WINDOW_BYTES: u64 = 1 << 20;
/// Zeros are left out in units of this many bytes: the block of the usual file systems.
const UNIT_BYTES: usize = 4096;

/// Writes the first `size` bytes of `source` to `sink` as a layer with that virtual size. What the
/// source does not reach is zeros. The caller finishes the sink. Progress is in bytes of the image.
///
/// # Errors
/// `OutOfBounds` if `size` is no multiple of 512; `Limit` for a long message or an image too
/// fragmented for one layer (found only after a part has been written); those of source, sink and `progress`.
pub fn import(
    source: &dyn File,
    size: u64,
    options: &CommitOptions,
    sink: &mut dyn Sink,
    progress: &mut Progress<'_>,
) -> Result<Committed> {
    sectors(0, size)?;
    let header = committed_header(options, size, Uuid::NULL)?;
    let start = sink.position();
    sink.write(&header.to_block())?;
    let mut entries = Vec::new();
    let mut out = FIRST_DATA_SECTOR;
    let mut window = vec![0; WINDOW_BYTES as usize];
    let mut at = 0;
    while let Some(extent) = next_extent(source, at, size)? {
        at = extent.start - extent.start % UNIT_BYTES as u64;
        while at < extent.end {
            let part = &mut window[..WINDOW_BYTES.min(size - at) as usize];
            read_padded(source, part, at)?;
            for run in stored_runs(part) {
                sink.write(&part[run.clone()])?;
                let length = (run.len() as u64 / SECTOR) as u32;
                let offset = (at + run.start as u64) / SECTOR;
                push_coalesced(&mut entries, Segment { offset, length, moffset: out, zeroed: false, tag: 0 });
                out += u64::from(length);
            }
            check_count(&entries)?;
            at += part.len() as u64;
            progress(at, size)?;
        }
    }
    progress(size, size)?;
    write_end(header, &entries, Form::Plain, (out - FIRST_DATA_SECTOR) * SECTOR, start, sink)
}

/// The next run of data at or after `at`, before `size`.
fn next_extent(source: &dyn File, at: u64, size: u64) -> Result<Option<Range<u64>>> {
    let fail = |e| Error::io("find data and holes", e).in_file(source.path()).at(at);
    if at >= size {
        return Ok(None);
    }
    match source.next_data(at) {
        Ok(Some(start)) if start < size => Ok(Some(start..source.next_hole(start).map_err(fail)?.min(size))),
        Ok(_) => Ok(None),
        // No holes can be told there: all is data.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(Some(at..size)),
        Err(e) => Err(fail(e)),
    }
}

/// Reads up to the end of the file, and zeros from there on.
fn read_padded(source: &dyn File, buf: &mut [u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match source.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => {
                buf[done..].fill(0);
                break;
            }
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", e).in_file(source.path()).at(offset + done as u64)),
        }
    }
    Ok(())
}

/// The runs of units that are not all zeros.
fn stored_runs(part: &[u8]) -> Vec<Range<usize>> {
    const ZEROS: [u8; UNIT_BYTES] = [0; UNIT_BYTES];
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (number, unit) in part.chunks(UNIT_BYTES).enumerate() {
        if unit == &ZEROS[..unit.len()] {
            continue;
        }
        let at = number * UNIT_BYTES;
        match runs.last_mut() {
            Some(run) if run.end == at => run.end += unit.len(),
            _ => runs.push(at..at + unit.len()),
        }
    }
    runs
}
