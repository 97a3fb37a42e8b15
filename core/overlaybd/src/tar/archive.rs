//! A tar archive as a stream: its members in order, each with its content.
//!
//! v7, ustar, GNU and PAX in any mixture. Everything that a header says is checked before it is believed; errors
//! give the place in the uncompressed archive.

use std::io::{ErrorKind, Read};

use super::block::{Block, Pieces, PLACE};
use super::entry::{Entry, EntryKind, Time};
use super::header::BLOCK;
use super::input::error_of;
use super::pax::{Pax, Sparse};
use super::sparse::checked;
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_PAX_BYTES, MAX_TAR_HEADERS, MAX_TAR_NAME_BYTES};

/// Bytes that are skipped at a time.
const SKIP: usize = 64 << 10;

/// Reads an archive. `next` gives a member, `read` its content; what is not read is skipped.
pub struct Archive<R> {
    input: R,
    /// Bytes read so far.
    position: u64,
    /// Stored bytes of the present member that were not read, and what pads them to a block.
    pub(super) left: u64,
    padding: u64,
    content: Content,
    globals: Pax,
    ended: bool,
    /// Headers alone, without what they are of.
    bare: bool,
    /// The headers of the present member, where they are wanted.
    kept: Option<Vec<u8>>,
    /// Bytes after which it is no archive that anybody wants.
    limit: u64,
}

/// Where the stored bytes of the present member go.
#[derive(Default)]
struct Content {
    /// Pieces still to come, the next one last.
    pieces: Pieces,
    /// Where in the uncompressed archive it lies, if in one piece.
    place: Option<u64>,
}

/// What comes before a member and says something of it.
#[derive(Default)]
struct Before {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> Archive<R> {
    /// Reads the archive that `input` holds, uncompressed.
    pub fn new(input: R) -> Self {
        let (content, globals) = (Content::default(), Pax::default());
        let (ended, bare, kept, limit) = (false, false, None, u64::MAX);
        Archive { input, position: 0, left: 0, padding: 0, content, globals, ended, bare, kept, limit }
    }

    /// Reads headers that [`export`](super::export) has written: members have no content, but a place.
    pub fn of_headers(input: R) -> Self {
        Archive { bare: true, ..Self::new(input) }
    }

    /// From now on there is [`Archive::kept`].
    pub(super) fn keep_headers(&mut self) {
        self.kept = Some(Vec::new());
    }

    /// The headers of the present member, with the place of a file's content in them.
    pub(super) fn kept(&self) -> &[u8] {
        self.kept.as_deref().unwrap_or_default()
    }

    /// Refuses the archive once it is longer than that.
    pub fn limit(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    fn check_length(&self) -> Result<()> {
        if self.position > self.limit {
            let what = format!("an archive of more than {} bytes for a device of that size", self.limit);
            return Err(Error::new(Kind::Limit, what));
        }
        Ok(())
    }

    /// Bytes of the archive read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes to the next member; None at the end, which two blocks of zeros mark, or the end of the input.
    ///
    /// # Errors
    /// `Corrupt`, `Limit` or `Unsupported` for what a member says of itself; those of the input.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        self.content = Content::default();
        self.kept.iter_mut().for_each(Vec::clear);
        self.check_length()?;
        let start = self.position;
        let entry = self.headers(start).map_err(|e| e.at(start))?;
        self.ended = entry.is_none();
        Ok(entry)
    }

    /// Reads some of the present member's content: where in the file it belongs, and how many bytes of `buf` it
    /// fills. Ascending; what lies between is holes. None when all was read.
    ///
    /// # Errors
    /// `Corrupt` if the archive ends; those of the input.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<Option<(u64, usize)>> {
        let Some((offset, len)) = self.content.pieces.last_mut() else { return Ok(None) };
        if self.bare {
            return Err(Error::new(Kind::Invalid, "the archive has headers alone, and no content"));
        }
        let wanted = (*len).min(buf.len() as u64) as usize;
        let at = *offset;
        fill(&mut self.input, &mut buf[..wanted]).map_err(|e| e.at(self.position))?;
        self.position += wanted as u64;
        self.left -= wanted as u64;
        *offset += wanted as u64;
        *len -= wanted as u64;
        if *len == 0 {
            self.content.pieces.pop();
        }
        Ok(Some((at, wanted)))
    }

    /// Where in the uncompressed archive the present member's content lies, if none was read of it and it is in one
    /// piece. Whoever takes the place reads no content.
    pub fn take_place(&mut self) -> Option<u64> {
        let Content { pieces, place } = &mut self.content;
        let place = (*place)?;
        pieces.pop_if(|(offset, _)| *offset == 0).map(|_| place)
    }

    /// Reads on to the end of the input, behind the end of the archive: a compressed one is checked thereby.
    ///
    /// # Errors
    /// Those of the input.
    pub fn drain(&mut self) -> Result<()> {
        let mut buf = vec![0; SKIP];
        loop {
            match self.input.read(&mut buf) {
                Ok(0) => return Ok(()),
                Ok(n) => self.position += n as u64,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(error_of(e).at(self.position)),
            }
            self.check_length()?;
        }
    }

    /// The input, to ask what it knows.
    pub fn input(&self) -> &R {
        &self.input
    }

    fn headers(&mut self, start: u64) -> Result<Option<Entry>> {
        let mut before = Before::default();
        let mut pax: Option<Pax> = None;
        let mut zeros = 0;
        for _ in 0..MAX_TAR_HEADERS {
            let next = self.block()?;
            let is_zero = next.is_some_and(|bytes| bytes.iter().all(|b| *b == 0));
            zeros = if is_zero { zeros + 1 } else { 0 };
            let bytes = match next {
                Some(_) if zeros == 1 => continue,
                Some(bytes) if zeros == 0 => bytes,
                _ if pax.is_some() || before.path.is_some() || before.link.is_some() => {
                    return Err(Error::corrupt("the archive ends between a member's headers"));
                }
                _ => return Ok(None),
            };
            // What is written into the headers of files makes their checksums wrong.
            let block = if self.bare { Block::unchecked(bytes) } else { Block::parse(bytes)? };
            self.keep(&bytes);
            match block.kind() {
                b'x' | b'X' => {
                    let body = self.body(&block, MAX_PAX_BYTES)?;
                    pax.get_or_insert_with(|| self.globals.clone()).take(&body)?;
                }
                b'g' => {
                    let body = self.body(&block, MAX_PAX_BYTES)?;
                    self.globals.take(&body)?;
                    // Where content lies is up to each member.
                    self.globals.sparse = Sparse::default();
                }
                b'L' => before.path = Some(self.name(&block)?),
                b'K' => before.link = Some(self.name(&block)?),
                // The name of a whole volume: nothing that could be unpacked.
                b'V' => drop(self.body(&block, MAX_PAX_BYTES)?),
                _ => {
                    let pax = pax.unwrap_or_else(|| self.globals.clone());
                    return self.member(start, &block, before, pax).map(Some);
                }
            }
        }
        Err(Error::new(Kind::Limit, format!("more than {MAX_TAR_HEADERS} headers before a tar member")))
    }

    fn member(&mut self, offset: u64, block: &Block, before: Before, pax: Pax) -> Result<Entry> {
        let path = pax.path.or(before.path).unwrap_or_else(|| block.path());
        let kind = match block.kind() {
            b'0' | 0 if path.ends_with(b"/") => EntryKind::Directory,
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            // `D` has a list of names as content, which is for incremental archives.
            b'5' | b'D' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                let what = format!("tar member {}: type {:?}", shown(&path), char::from(other));
                return Err(Error::new(Kind::Unsupported, what));
            }
        };
        let stored = match (kind, block.kind()) {
            // A name that ends in a slash makes a file a directory, but whoever wrote it wrote its content too.
            (EntryKind::File, _) | (_, b'0' | b'D') => pax.size.map_or_else(|| block.size(), Ok)?,
            // Some writers repeat the size of the file here; no content follows.
            _ => 0,
        };
        if i64::try_from(stored).is_err() {
            return Err(Error::corrupt(format!("a tar member of {stored} bytes")));
        }
        let place = if self.bare && kind == EntryKind::File { block.place()? } else { self.position };
        if let (EntryKind::File, Some(kept)) = (kind, &mut self.kept) {
            let header = kept.len() - BLOCK as usize;
            kept[header..][PLACE].copy_from_slice(&place.to_le_bytes());
        }
        if !self.bare {
            self.left = stored;
            self.padding = stored.wrapping_neg() % BLOCK;
        }
        let id = |said: Option<u64>, field: Result<i64>| {
            let id = said.map_or_else(|| field.map(i128::from), |id| Ok(id.into()))?;
            u32::try_from(id).map_err(|_| Error::new(Kind::Limit, format!("owner {id}")))
        };
        let device = match kind {
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                let (major, minor) = block.device()?;
                let wrong = |_| Error::new(Kind::Limit, format!("device {major}:{minor}"));
                (u32::try_from(major).map_err(wrong)?, u32::try_from(minor).map_err(wrong)?)
            }
            _ => (0, 0),
        };
        let mut entry = Entry {
            offset,
            kind,
            link: pax.link.or(before.link).unwrap_or_else(|| block.link()),
            mode: (block.mode()? & 0o7777) as u16,
            uid: id(pax.uid, block.uid())?,
            gid: id(pax.gid, block.gid())?,
            mtime: pax.mtime.map_or_else(|| block.mtime().map(|seconds| Time { seconds, nanos: 0 }), Ok)?,
            atime: pax.atime,
            device,
            size: 0,
            xattrs: pax.xattrs,
            path,
        };
        if kind == EntryKind::File {
            let sparse = pax.sparse;
            let real_size = || sparse.real_size.ok_or_else(|| Error::corrupt("a sparse tar member without its size"));
            let is_sparse = block.kind() == b'S' || sparse.major != 0 || sparse.has_map;
            if is_sparse && self.bare {
                let what = format!("{}: a sparse file, of which headers alone do not say enough", shown(&entry.path));
                return Err(Error::new(Kind::Unsupported, what));
            }
            let map = if block.kind() == b'S' {
                Some(self.old_sparse(block)?)
            } else if let (1, 0) = (sparse.major, sparse.minor) {
                let size = real_size()?;
                Some((self.new_sparse()?, size))
            } else if sparse.has_map {
                let size = real_size()?;
                Some((sparse.pieces, size))
            } else if sparse.major != 0 {
                let what = format!("sparse tar member of version {}.{}", sparse.major, sparse.minor);
                return Err(Error::new(Kind::Unsupported, what));
            } else {
                None
            };
            if let (Some(name), true) = (sparse.name, map.is_some()) {
                entry.path = name;
            }
            self.content.place = map.is_none().then_some(place);
            let (pieces, size) = map.unwrap_or_else(|| (vec![(0, stored)], stored));
            entry.size = size;
            self.content.pieces = checked(pieces, size, if self.bare { stored } else { self.left })?;
        }
        Ok(entry)
    }

    /// The content of a header that is not a member's.
    fn body(&mut self, block: &Block, max: u64) -> Result<Vec<u8>> {
        let size = block.size()?;
        if size > max {
            return Err(Error::new(Kind::Limit, format!("a tar header of {size} bytes")));
        }
        let mut body = vec![0; size.next_multiple_of(BLOCK) as usize];
        fill(&mut self.input, &mut body)?;
        self.position += body.len() as u64;
        self.keep(&body);
        body.truncate(size as usize);
        Ok(body)
    }

    /// Takes note of a piece of the headers, if they are wanted.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(bytes);
        }
    }

    /// A GNU long name: up to its NUL.
    fn name(&mut self, block: &Block) -> Result<Vec<u8>> {
        let mut name = self.body(block, MAX_TAR_NAME_BYTES)?;
        if let Some(end) = name.iter().position(|b| *b == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// The next block; None at the end of the input.
    pub(super) fn block(&mut self) -> Result<Option<[u8; BLOCK as usize]>> {
        let mut block = [0; BLOCK as usize];
        let n = fill_some(&mut self.input, &mut block)?;
        match n {
            0 => Ok(None),
            n if n == block.len() => {
                self.position += BLOCK;
                Ok(Some(block))
            }
            _ => Err(Error::corrupt("the archive ends inside a header")),
        }
    }

    fn skip(&mut self, mut len: u64) -> Result<()> {
        let mut buf = vec![0; len.min(SKIP as u64) as usize];
        while len > 0 {
            let n = len.min(buf.len() as u64) as usize;
            fill(&mut self.input, &mut buf[..n]).map_err(|e| e.at(self.position))?;
            self.position += n as u64;
            len -= n as u64;
            self.check_length()?;
        }
        Ok(())
    }
}

/// A name for messages.
pub(crate) fn shown(name: &[u8]) -> String {
    let end = name.len().min(200);
    format!("{}{}", name[..end].escape_ascii(), if end < name.len() { "…" } else { "" })
}

fn fill(input: &mut impl Read, buf: &mut [u8]) -> Result<()> {
    let n = fill_some(input, buf)?;
    if n < buf.len() {
        return Err(Error::corrupt(format!("the archive ends {} bytes early", buf.len() - n)));
    }
    Ok(())
}

/// Fills as much as there is.
fn fill_some(input: &mut impl Read, buf: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match input.read(&mut buf[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(error_of(e)),
        }
    }
    Ok(done)
}
