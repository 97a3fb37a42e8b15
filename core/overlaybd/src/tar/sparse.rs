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
    use super::super::testing::{header, push, record};
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

    #[test]
    fn old_sparse_maps_of_any_length_are_read() {
        // A byte in every second one; what follows the file is found.
        for count in [0, 1, 4, 5, 25, 26, 60] {
            let content: Vec<u8> = (0..2 * count).map(|at| if at % 2 == 0 { 0 } else { at as u8 + 1 }).collect();
            let place = |area: &mut [u8], piece: usize| {
                area[..24].copy_from_slice(format!("{:011o}\0{:011o}\0", 2 * piece + 1, 1).as_bytes());
            };
            let mut tar = header(b"s", b'S', count as u64, b"", b"ustar  \0", |block| {
                (0..count.min(4)).for_each(|piece| place(&mut block[386 + 24 * piece..], piece));
                block[482] = (count > 4).into();
                block[483..495].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
            })
            .to_vec();
            for first in (4..count).step_by(21) {
                let mut block = [0; 512];
                (first..count.min(first + 21)).for_each(|piece| place(&mut block[24 * (piece - first)..], piece));
                block[504] = (count > first + 21).into();
                tar.extend(block);
            }
            push(&mut tar, &content.iter().copied().skip(1).step_by(2).collect::<Vec<_>>());
            tar.extend(header(b"next", b'0', 0, b"", b"ustar  \0", |_| ()));
            let mut archive = Archive::new(&tar[..]);
            assert_eq!(archive.next_entry().unwrap().unwrap().size, content.len() as u64);
            let (mut found, mut buf) = (vec![0; content.len()], [0; 9]);
            while let Some((at, len)) = archive.read(&mut buf).unwrap() {
                found[at as usize..][..len].copy_from_slice(&buf[..len]);
            }
            assert_eq!(found, content, "{count} pieces");
            assert_eq!(archive.next_entry().unwrap().unwrap().path, b"next", "{count} pieces");
        }
    }

    #[test]
    fn old_sparse_maps_end_where_a_piece_is_not_given() {
        // Only one of two fields, and then a piece that is of another time.
        for (field, stored) in [(398, 1), (410, 1), (482, 3)] {
            let tar = header(b"s", b'S', stored, b"", b"ustar  \0", |block| {
                (0..3).for_each(|n| {
                    block[386 + 24 * n..410 + 24 * n].copy_from_slice(format!("{n:011o}\0{:011o}\0", 1).as_bytes());
                });
                if field < 482 {
                    block[field + 12..field + 24].fill(0);
                }
                block[483..495].copy_from_slice(b"00000001000\0");
            });
            let tar = [&tar[..], &[7; 512]].concat();
            let mut archive = Archive::new(&tar[..]);
            archive.next_entry().unwrap();
            let mut buf = [0; 9];
            let read = std::iter::from_fn(|| archive.read(&mut buf).unwrap()).map(|(_, len)| len as u64).sum::<u64>();
            assert_eq!(read, stored);
        }
    }

    #[test]
    fn a_map_in_lines_ends_in_any_block_but_no_number_is_endless() {
        let with = |map: &[u8], stored: &[u8]| {
            let records = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "2100")];
            let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value.as_bytes())).collect();
            let mut tar = header(b"pax", b'x', body.len() as u64, b"", b"ustar\x0000", |_| ()).to_vec();
            push(&mut tar, &body);
            let map = [map, &vec![0; map.len().next_multiple_of(512) - map.len()]].concat();
            let len = (map.len() + stored.len()) as u64;
            tar.extend(header(b"stored", b'0', len, b"", b"ustar\x0000", |_| ()));
            push(&mut tar, &[&map, stored].concat());
            let mut archive = Archive::new(&tar[..]);
            archive.next_entry().map_err(|e| (e.kind(), e.what().to_owned()))?;
            let (mut content, mut buf) = (vec![0; 2100], [0; 700]);
            while let Some((at, len)) = archive.read(&mut buf).unwrap() {
                content[at as usize..at as usize + len].copy_from_slice(&buf[..len]);
            }
            Ok(content)
        };
        let wanted = [vec![0; 1000], vec![1; 5], vec![0; 1095]].concat();
        assert_eq!(with(b"1\n1000\n5\n", &[1; 5]), Ok(wanted.clone()));
        assert_eq!(with(b"0\n", b""), Ok(vec![0; 2100]), "all of it a hole");
        // The longest number there is, of which a block has any part.
        for here in 0..=20 {
            let map = format!("{:0>1$}\n{2:0>20}\n5\n", 1, 511 - here, 1000);
            assert_eq!(map.as_bytes()[511 - here], b'\n');
            assert_eq!(with(map.as_bytes(), &[1; 5]).as_ref(), Ok(&wanted), "{here}");
        }
        let endless = format!("{:0>490}\n{:0>21}\n5\n", 1, 1000);
        let (kind, what) = with(endless.as_bytes(), &[1; 5]).unwrap_err();
        assert!(kind == Kind::Corrupt && what.contains("does not end"), "{what}");
        assert!(with(b"1\n1x\n5\n", &[1; 5]).unwrap_err().1.contains("map that is none"));
        let most = MAX_TAR_SPARSE_PIECES;
        assert_eq!(with(format!("{most}\n").as_bytes(), b"").unwrap_err().0, Kind::Corrupt, "more is to come");
        assert_eq!(with(format!("{}\n", most + 1).as_bytes(), b"").unwrap_err().0, Kind::Limit);
    }

    #[test]
    fn pieces_ascend_within_the_file_and_account_for_what_is_stored() {
        let check = |pieces: &[(u64, u64)], size, stored| checked(pieces.to_vec(), size, stored).map_err(|e| e.kind());
        assert_eq!(check(&[(0, 3), (3, 2), (9, 1), (10, 0)], 10, 6), Ok(vec![(9, 1), (3, 2), (0, 3)]));
        assert_eq!(check(&[], i64::MAX as u64, 0), Ok(Vec::new()));
        let most = vec![(0, 0); MAX_TAR_SPARSE_PIECES];
        assert_eq!(check(&most, 0, 0), Ok(Vec::new()));
        assert_eq!(check(&[&most[..], &[(0, 0)]].concat(), 0, 0), Err(Kind::Limit));
        let bad: [(&[_], _, _); 7] = [
            (&[(0, 3), (2, 2)], 10, 5),
            (&[(9, 2)], 10, 2),
            (&[(11, 0)], 10, 0),
            (&[(u64::MAX, 1)], 10, 1),
            (&[(0, 3)], 10, 4),
            (&[(0, 3)], 10, 2),
            (&[], 1 << 63, 0),
        ];
        for (pieces, size, stored) in bad {
            assert_eq!(check(pieces, size, stored), Err(Kind::Corrupt), "{pieces:?} in {size}");
        }
    }
}
