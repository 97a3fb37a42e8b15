//! Sparse files in an archive: where what is stored of them belongs.

use std::io::Read;

use super::archive::Archive;
use super::block::{more_pieces, Block, Pieces, BLOCK_PIECES, HEADER_PIECES};
use super::header::BLOCK;
use super::pax::decimal;
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_TAR_SPARSE_PIECES;

impl<R: Read> Archive<R> {
    /// The pieces of an old GNU sparse member, which more blocks than the header may hold; and its real size.
    pub(super) fn old_sparse(&mut self, block: &Block) -> Result<(Pieces, u64)> {
        let (mut pieces, mut more, size) = block.sparse()?;
        let mut room = HEADER_PIECES;
        while more {
            // Whoever writes one fills a block before the next. So the bound of pieces is one of blocks.
            if pieces.len() < room {
                return Err(Error::corrupt("a sparse tar member whose map goes on behind its end"));
            }
            room += BLOCK_PIECES;
            let bytes = self.block()?.ok_or_else(|| Error::corrupt("the archive ends in a sparse member's header"))?;
            self.keep(&bytes);
            let (next, another) = more_pieces(&bytes)?;
            pieces.extend(next);
            more = another;
            limit(pieces.len() as u64)?;
        }
        Ok((pieces, size))
    }

    /// The pieces of a sparse member of version 1.0, which stand in lines before its content.
    pub(super) fn new_sparse(&mut self) -> Result<Pieces> {
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
}

/// A map of pieces that ascends, stays inside the file and accounts for all stored bytes; the first piece last.
pub(super) fn checked(pieces: Pieces, size: u64, stored: u64) -> Result<Pieces> {
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

#[cfg(test)]
mod tests {
    use super::super::testing::header;
    use super::*;

    #[test]
    fn old_sparse_maps_fill_a_block_before_the_next() {
        let piece = |block: &mut [u8], at: usize, offset: u64| {
            block[at..at + 12].copy_from_slice(format!("{offset:011o}\0").as_bytes());
            block[at + 12..at + 24].copy_from_slice(b"00000000000\0");
        };
        let with = |in_header: usize, in_block: usize| {
            let mut tar = header(b"s", b'S', 0, b"", b"ustar  \0", |block| {
                (0..in_header).for_each(|n| piece(block, 386 + 24 * n, n as u64));
                block[482] = 1;
                block[483..495].copy_from_slice(b"00000001000\0");
            })
            .to_vec();
            for more in [true, false] {
                let mut block = [0; 512];
                (0..in_block).for_each(|n| piece(&mut block, 24 * n, 100 + n as u64));
                block[504] = more.into();
                tar.extend(block);
            }
            Archive::new(&tar[..]).next_entry().map(|entry| entry.is_some()).map_err(|e| e.kind())
        };
        for (in_header, in_block) in [(4, 0), (4, 20), (0, 21), (3, 21)] {
            assert_eq!(with(in_header, in_block), Err(Kind::Corrupt), "{in_header} {in_block}");
        }
    }
}
