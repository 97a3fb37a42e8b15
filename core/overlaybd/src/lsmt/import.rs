//! A disk image as a committed layer: holes and zeros are left out.

use super::commit::{check_count, committed_header, write_end, CommitOptions, Committed, Form};
use super::header::FIRST_DATA_SECTOR;
use super::index::push_coalesced;
use super::segment::Segment;
use super::stack::{check_size, sectors};
use super::uuid::Uuid;
use crate::disk::{walk, DiskImage, Holes, Run};
use crate::error::Result;
use crate::limits::SECTOR;
use crate::progress::Progress;
use crate::sink::Sink;

/// Sectors that an index entry grows by, so that equal disks have equal indexes however they are read.
const PIECE_SECTORS: u64 = 8;
/// Zeros are told in larger pieces.
const ZERO_SECTORS: u64 = 8192;

/// Writes `disk` to `sink` as a layer with that virtual size. With [`Holes::Zeros`] it is a whole disk, and equal disks
/// give equal layers, whatever their images are like; with [`Holes::Through`] it is what lies upon another layer, and
/// says where there are zeros. The caller finishes the sink. Progress is in bytes of the disk.
///
/// # Errors
/// `OutOfBounds` for a disk that is no multiple of 512 bytes long; `Limit` for a long message, too large a disk or one
/// too fragmented for one layer (found only after a part has been written); those of disk, sink and `progress`.
pub fn import(
    disk: &dyn DiskImage,
    holes: Holes,
    options: &CommitOptions,
    sink: &mut dyn Sink,
    progress: &mut Progress<'_>,
) -> Result<Committed> {
    sectors(0, disk.len())?;
    check_size(disk.len())?;
    let header = committed_header(options, disk.len(), Uuid::NULL)?;
    let start = sink.position();
    sink.write(&header.to_block())?;
    let mut entries = Vec::new();
    let mut out = FIRST_DATA_SECTOR;
    let mut each = |at: u64, run: Run<'_>| {
        let (len, zeroed) = match run {
            Run::Data(bytes) => {
                sink.write(bytes)?;
                (bytes.len() as u64, false)
            }
            Run::Zeros(len) => (len, true),
        };
        let (first, end) = (at / SECTOR, (at + len) / SECTOR);
        let mut offset = first;
        while offset < end {
            let piece = if zeroed { ZERO_SECTORS } else { PIECE_SECTORS };
            let length = (piece - offset % piece).min(end - offset);
            push_coalesced(&mut entries, Segment { offset, length: length as u32, moffset: out, zeroed, tag: 0 });
            out += if zeroed { 0 } else { length };
            offset += length;
        }
        check_count(&entries)
    };
    walk(disk, holes, &mut each, progress)?;
    write_end(header, &entries, Form::Plain, (out - FIRST_DATA_SECTOR) * SECTOR, start, sink)
}
