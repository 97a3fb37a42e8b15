//! Disk images in QEMU's format qcow2, versions 2 and 3, read-only.
//!
//! They are made by strangers: every number is checked against the file. Nothing that an image names is opened.

mod entry;
mod header;
mod recent;
#[cfg(test)]
mod tests;
mod unpack;

use std::sync::Arc;

pub use header::{Compression, Header, MAGIC};

use crate::blob::Blob;
use crate::device::{Extent, ExtentKind};
use crate::disk::DiskImage;
use crate::error::{Error, Kind, Result};
use crate::fs::ReadAt;
use crate::limits::MAX_QCOW2_KEPT_BYTES;
use entry::{beginning, place, table_offset, Place};
use header::HEADER_BYTES;
use recent::Recent;

/// Things of each kind that are kept at most, however small clusters are.
const MAX_KEPT: usize = 64;

/// An open image. Its internal snapshots are not looked at.
pub struct Qcow2 {
    file: Arc<dyn Blob>,
    header: Header,
    /// Where the second tables are, 0 where there is none.
    l1: Vec<u64>,
    tables: Recent<[u64]>,
    clusters: Recent<Vec<u8>>,
}

/// A run of the disk that is in one way.
struct Run {
    place: Place,
    len: u64,
}

impl Qcow2 {
    /// Opens the image in `file`. One that has a backing file is refused unless `alone` is set, with which it is
    /// what lies upon that file: what it has not is a hole.
    ///
    /// # Errors
    /// Those of [`Header::parse`]; `Unsupported` for a backing file; those of reading.
    pub fn open(file: Arc<dyn Blob>, alone: bool) -> Result<Qcow2> {
        let of_file = |e: Error| e.in_file(file.name());
        let mut bytes = vec![0; file.len().min(HEADER_BYTES as u64) as usize];
        file.read_at(&mut bytes, 0)?;
        let header = Header::parse(&bytes, file.len()).map_err(of_file)?;
        if header.backed && !alone {
            let what = "a qcow2 image upon a backing file, which is not opened: `qemu-img convert -O qcow2` makes one \
                        image of both, `obd import --no-backing` takes this one alone";
            return Err(of_file(Error::new(Kind::Unsupported, what)));
        }
        let l1 = read_words(&*file, header.l1_offset, header.l1_entries)?;
        let l1 = offsets(&header, &l1).map_err(|e| of_file(e).at(header.l1_offset))?;
        let room = kept(header.cluster_bits);
        Ok(Qcow2 { file, header, l1, tables: Recent::new(room), clusters: Recent::new(room) })
    }

    /// What the image says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The longest run from `at` on, which lies on the disk, that one look at one table tells of: to the end of what
    /// that table is about at most.
    fn run(&self, at: u64, max: u64, joins: impl Fn(Place, u64, Place) -> bool) -> Result<Run> {
        let covers = self.header.table_covers();
        let number = at / covers;
        let offset = self.l1[number as usize];
        if offset == 0 {
            let mut next = number;
            while next < self.l1.len() as u64 && self.l1[next as usize] == 0 {
                next += 1;
            }
            let end = next.saturating_mul(covers).min(self.header.size);
            return Ok(Run { place: Place::Hole, len: (end - at).min(max) });
        }
        let table = self.tables.get(offset, || self.table(offset))?;
        let end = (number + 1).saturating_mul(covers).min(self.header.size).min(at.saturating_add(max));
        let (first, len) = self.piece(&table, at)?;
        let mut run = Run { place: first, len };
        while at + run.len < end {
            let (next, len) = self.piece(&table, at + run.len)?;
            if !joins(first, run.len, next) {
                break;
            }
            run.len += len;
        }
        run.len = run.len.min(end - at);
        Ok(run)
    }

    fn table(&self, offset: u64) -> Result<Arc<[u64]>> {
        let words = (self.header.cluster_bytes() / 8) as usize;
        let table = read_words(&*self.file, offset, words)?;
        check_clusters(&self.header, &table).map_err(|e| self.of_file(e, offset))?;
        Ok(table.into())
    }

    fn piece(&self, table: &[u64], at: u64) -> Result<(Place, u64)> {
        let cluster = self.header.cluster_bytes();
        let index = (at / cluster) as usize % self.header.table_entries();
        let (entry, bitmap) =
            if self.header.extended { (table[2 * index], table[2 * index + 1]) } else { (table[index], 0) };
        place(&self.header, entry, bitmap, at % cluster)
            .map_err(|e| e.context(format!("at {at} of the disk")).in_file(self.file.name()))
    }

    /// The decoded cluster whose compressed bytes are in that place.
    fn cluster(&self, at: u64, len: u64) -> Result<Arc<Vec<u8>>> {
        // What it ends in may be the last sector of the file, cut off.
        let len = len.min(self.file.len().saturating_sub(at));
        if len == 0 {
            return Err(self.of_file(Error::corrupt("a compressed cluster beyond the end of the file"), at));
        }
        let mut packed = vec![0; len as usize];
        self.file.read_at(&mut packed, at)?;
        let plain = unpack::unpack(self.header.compression, &packed, self.header.cluster_bytes() as usize);
        plain.map(Arc::new).map_err(|e| self.of_file(e, at))
    }

    fn of_file(&self, e: Error, at: u64) -> Error {
        e.in_file(self.file.name()).at(at)
    }

    fn fill(&self, buf: &mut [u8], offset: u64, place: Place) -> Result<()> {
        match place {
            Place::Hole | Place::Zero => buf.fill(0),
            Place::Data(at) => {
                let end = at.checked_add(buf.len() as u64);
                if end.is_none_or(|end| end > self.file.len()) {
                    let what = format!("the file is cut off: it has {} bytes", self.file.len());
                    return Err(self.of_file(Error::corrupt(what), at));
                }
                self.file.read_at(buf, at)?;
            }
            Place::Packed { at, len } => {
                let cluster = self.clusters.get(at, || self.cluster(at, len))?;
                let within = (offset % self.header.cluster_bytes()) as usize;
                buf.copy_from_slice(&cluster[within..within + buf.len()]);
            }
        }
        Ok(())
    }
}

impl ReadAt for Qcow2 {
    fn len(&self) -> u64 {
        self.header.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.header.size) {
            let what = format!("{} bytes beyond the end of a disk of {}", buf.len(), self.header.size);
            return Err(Error::new(Kind::OutOfBounds, what).in_file(self.file.name()).at(offset));
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let run = self.run(at, (buf.len() - done) as u64, |first, len, next| match (first, next) {
                (Place::Data(first), Place::Data(next)) => first + len == next,
                (Place::Packed { .. }, _) | (_, Place::Packed { .. }) => false,
                _ => first == next,
            })?;
            let len = run.len as usize;
            self.fill(&mut buf[done..done + len], at, run.place)?;
            done += len;
        }
        Ok(())
    }
}

impl DiskImage for Qcow2 {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn extent(&self, offset: u64) -> Result<Extent> {
        let run = self.run(offset, u64::MAX, |first, _, next| kind(first) == kind(next))?;
        Ok(Extent { len: run.len, kind: kind(run.place) })
    }
}

fn kind(place: Place) -> ExtentKind {
    match place {
        Place::Hole => ExtentKind::Hole,
        Place::Zero => ExtentKind::Zero,
        Place::Data(_) | Place::Packed { .. } => ExtentKind::Data,
    }
}

/// How many tables are kept, and how many decoded clusters.
fn kept(cluster_bits: u32) -> usize {
    (MAX_QCOW2_KEPT_BYTES >> cluster_bits).min(MAX_KEPT as u64) as usize
}

/// Where the second tables are by the entries of the first one. Refuses tables that are there for more than one part
/// of the disk: so a small file would be an endless disk.
fn offsets(header: &Header, l1: &[u64]) -> Result<Vec<u64>> {
    let tables = l1.iter().map(|entry| table_offset(header, *entry)).collect::<Result<Vec<_>>>()?;
    let mut there: Vec<_> = tables.iter().filter(|offset| **offset != 0).collect();
    there.sort_unstable();
    match there.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::corrupt(format!("the second table at {} is named twice", pair[0]))),
        None => Ok(tables),
    }
}

/// Refuses a table that has one cluster in several places of the disk, for the same reason.
fn check_clusters(header: &Header, table: &[u64]) -> Result<()> {
    let step = if header.extended { 2 } else { 1 };
    let mut clusters: Vec<_> = table.iter().step_by(step).filter_map(|entry| beginning(header, *entry)).collect();
    clusters.sort_unstable();
    match clusters.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::corrupt(format!("the cluster at {} is in two places of the disk", pair[0]))),
        None => Ok(()),
    }
}

/// `count` big-endian words of `file`, which must reach so far.
fn read_words(file: &dyn Blob, offset: u64, count: usize) -> Result<Vec<u64>> {
    let bytes = count as u64 * 8;
    if offset.checked_add(bytes).is_none_or(|end| end > file.len()) {
        return Err(Error::corrupt("a table beyond the end of a qcow2 file").in_file(file.name()).at(offset));
    }
    let mut raw = vec![0; bytes as usize];
    file.read_at(&mut raw, offset)?;
    Ok(raw.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().unwrap_or_default())).collect())
}
