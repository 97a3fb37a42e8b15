//! A tar archive as a stream: its members in order, each with its content.
//!
//! v7, ustar, GNU and PAX in any mixture. Everything that a header says is checked before it is believed; errors
//! give the place in the uncompressed archive.

use std::io::{ErrorKind, Read};

use super::block::{more_pieces, Block, Pieces};
use super::entry::{Entry, EntryKind, Time};
use super::header::BLOCK;
use super::input::error_of;
use super::pax::{decimal, Pax};
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_PAX_BYTES, MAX_TAR_HEADERS, MAX_TAR_NAME_BYTES, MAX_TAR_SPARSE_PIECES};

/// Bytes that are skipped at a time.
const SKIP: usize = 64 << 10;

/// Reads an archive. `next` gives a member, `read` its content; what is not read is skipped.
pub struct Archive<R> {
    input: R,
    /// Bytes read so far.
    position: u64,
    /// Stored bytes of the present member that were not read, and what pads them to a block.
    left: u64,
    padding: u64,
    content: Content,
    globals: Pax,
    ended: bool,
}

/// Where the stored bytes of the present member go.
#[derive(Default)]
struct Content {
    /// Pieces still to come, the next one last.
    pieces: Pieces,
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
        Archive { input, position: 0, left: 0, padding: 0, content, globals, ended: false }
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
        self.content.pieces.clear();
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
            let Some(bytes) = self.block()? else {
                if pax.is_some() || before.path.is_some() || before.link.is_some() {
                    return Err(Error::corrupt("the archive ends between a member's headers"));
                }
                return Ok(None);
            };
            if bytes.iter().all(|b| *b == 0) {
                zeros += 1;
                if zeros == 2 {
                    return Ok(None);
                }
                continue;
            }
            zeros = 0;
            let block = Block::parse(bytes)?;
            match block.kind() {
                b'x' | b'X' => {
                    let body = self.body(&block, MAX_PAX_BYTES)?;
                    pax.get_or_insert_with(|| self.globals.clone()).take(&body)?;
                }
                b'g' => {
                    let body = self.body(&block, MAX_PAX_BYTES)?;
                    self.globals.take(&body)?;
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
            (EntryKind::File, _) | (_, b'D') => pax.size.map_or_else(|| block.size(), Ok)?,
            // Some writers repeat the size of the file here; no content follows.
            _ => 0,
        };
        self.left = stored;
        self.padding = stored.wrapping_neg() % BLOCK;
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
            size: if kind == EntryKind::File { stored } else { 0 },
            xattrs: pax.xattrs,
            path,
        };
        if kind == EntryKind::File {
            let map = if block.kind() == b'S' {
                Some(self.old_sparse(block)?)
            } else if let (1, 0) = (pax.sparse.major, pax.sparse.minor) {
                let size =
                    pax.sparse.real_size.ok_or_else(|| Error::corrupt("a sparse tar member without its size"))?;
                Some((self.new_sparse()?, size))
            } else if pax.sparse.has_map {
                let size =
                    pax.sparse.real_size.ok_or_else(|| Error::corrupt("a sparse tar member without its size"))?;
                Some((pax.sparse.pieces, size))
            } else if pax.sparse.major != 0 {
                let what = format!("sparse tar member of version {}.{}", pax.sparse.major, pax.sparse.minor);
                return Err(Error::new(Kind::Unsupported, what));
            } else {
                None
            };
            if let (Some(name), true) = (pax.sparse.name, map.is_some()) {
                entry.path = name;
            }
            let (pieces, size) = map.unwrap_or_else(|| (vec![(0, self.left)], self.left));
            entry.size = size;
            self.content.pieces = checked(pieces, size, self.left)?;
        }
        Ok(entry)
    }

    /// The pieces of an old GNU sparse member, which more blocks than the header may hold; and its real size.
    fn old_sparse(&mut self, block: &Block) -> Result<(Pieces, u64)> {
        let (mut pieces, mut more, size) = block.sparse()?;
        while more {
            let bytes = self.block()?.ok_or_else(|| Error::corrupt("the archive ends in a sparse member's header"))?;
            let (next, another) = more_pieces(&bytes)?;
            pieces.extend(next);
            more = another;
            limit(pieces.len() as u64)?;
        }
        Ok((pieces, size))
    }

    /// The pieces of a sparse member of version 1.0, which stand in lines before its content.
    fn new_sparse(&mut self) -> Result<Pieces> {
        let (mut text, mut at) = (Vec::new(), 0);
        let mut number = |archive: &mut Self| -> Result<u64> {
            loop {
                if let Some(len) = text[at..].iter().position(|b| *b == b'\n') {
                    let line = &text[at..at + len];
                    at += len + 1;
                    return decimal(line).ok_or_else(|| Error::corrupt("a sparse tar member's map that is none"));
                }
                if text.len() - at > 20 || archive.left < BLOCK {
                    return Err(Error::corrupt("a sparse tar member's map that does not end"));
                }
                text.drain(..at);
                at = 0;
                let block = archive.block()?.ok_or_else(|| Error::corrupt("the archive ends in a sparse map"))?;
                archive.left -= BLOCK;
                text.extend_from_slice(&block);
            }
        };
        let count = number(self)?;
        limit(count)?;
        let mut pieces = Vec::new();
        for _ in 0..count {
            pieces.push((number(self)?, number(self)?));
        }
        Ok(pieces)
    }

    /// The content of a header that is not a member's.
    fn body(&mut self, block: &Block, max: u64) -> Result<Vec<u8>> {
        let size = block.size()?;
        if size > max {
            return Err(Error::new(Kind::Limit, format!("a tar header of {size} bytes")));
        }
        let mut body = vec![0; size as usize];
        fill(&mut self.input, &mut body)?;
        self.position += size;
        self.skip(size.wrapping_neg() % BLOCK)?;
        Ok(body)
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
    fn block(&mut self) -> Result<Option<[u8; BLOCK as usize]>> {
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
        }
        Ok(())
    }
}

/// A map of pieces that ascends, stays inside the file and accounts for all stored bytes; the first piece last.
fn checked(pieces: Pieces, size: u64, stored: u64) -> Result<Pieces> {
    limit(pieces.len() as u64)?;
    let (mut end, mut sum) = (0, 0u64);
    for (offset, len) in &pieces {
        let next = offset.checked_add(*len).filter(|next| *offset >= end && *next <= size);
        end = next.ok_or_else(|| Error::corrupt("a sparse tar member whose pieces make no sense"))?;
        sum += len;
    }
    if sum != stored || i64::try_from(size).is_err() {
        return Err(Error::corrupt(format!("a tar member of {stored} bytes, of which it uses {sum}")));
    }
    Ok(pieces.into_iter().filter(|(_, len)| *len > 0).rev().collect())
}

fn limit(pieces: u64) -> Result<()> {
    if pieces > MAX_TAR_SPARSE_PIECES as u64 {
        return Err(Error::new(Kind::Limit, format!("a sparse tar member of {pieces} pieces")));
    }
    Ok(())
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
