//! Sparse files in an archive: where what is stored of them belongs.

use std::io::Read;

use super::archive::Archive;
use super::block::{more_pieces, Block, Pieces};
use super::header::BLOCK;
use super::pax::decimal;
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_TAR_SPARSE_PIECES;

impl<R: Read> Archive<R> {
    /// The pieces of an old GNU sparse member, which more blocks than the header may hold; and its real size.
    pub(super) fn old_sparse(&mut self, block: &Block) -> Result<(Pieces, u64)> {
        let (mut pieces, mut more, size) = block.sparse()?;
        while more {
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
