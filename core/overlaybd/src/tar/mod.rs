//! Tar: the wrapper around a layer blob, which lets OCI tools take it for an ordinary layer, and archives of files.
//!
//! Format: tar, "How a reader detects and skips it". [`Archive`] reads what an OCI layer is.

mod acl;
mod archive;
#[cfg(test)]
mod archive_tests;
mod block;
mod entry;
mod export;
mod header;
mod input;
#[cfg(test)]
mod input_tests;
mod pax;
mod sink;
mod sparse;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use crate::blob::{Blob, SliceBlob};
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_PAX_BYTES, MAX_TAR_HEADERS};
use header::{Header, BLOCK};

pub(crate) use archive::shown;
pub use archive::Archive;
pub use entry::{Entry, EntryKind, Time};
pub use export::export;
pub use input::{Compression, Input};
pub use sink::TarSink;

/// The first member of a tar: the layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, for people; nothing depends on it.
    pub name: String,
    /// Where its bytes begin.
    pub offset: u64,
    /// How many there are.
    pub size: u64,
}

/// The payload of a tar-wrapped blob, or the blob itself if it is not a tar.
///
/// Errors: those of [`detect`].
pub fn unwrap(blob: Arc<dyn Blob>) -> Result<Arc<dyn Blob>> {
    match detect(&*blob)? {
        Some(member) => Ok(Arc::new(SliceBlob::new(blob, member.offset, member.size)?)),
        None => Ok(blob),
    }
}

/// The first member of a tar; None if the blob is not a tar as upstream recognises them: ustar magic and
/// version (not GNU's) and a right checksum. Members after the first are of no interest.
///
/// Errors: `Corrupt` if a later header or PAX record is broken or the member is cut off; `Limit` for absurd
/// amounts of headers; `Unsupported` for a size that is not octal; those of the blob.
pub fn detect(blob: &dyn Blob) -> Result<Option<Member>> {
    let Some(mut header) = read_header(blob, 0)? else {
        return Ok(None);
    };
    let mut at = 0;
    let mut pax_size = None;
    for _ in 0..MAX_TAR_HEADERS {
        let wrong = |e: Error| e.in_file(blob.name()).at(at);
        let size = header.size().map_err(wrong)?;
        let body = at + BLOCK;
        if !header.is_extension() {
            let size = pax_size.filter(|&size| size > 0).unwrap_or(size);
            if body.checked_add(size).is_none_or(|end| end > blob.len()) {
                let what = format!("tar member of {size} bytes is cut off: the file has {}", blob.len());
                return Err(wrong(Error::corrupt(what)));
            }
            return Ok(Some(Member { name: header.name(), offset: body, size }));
        }
        if size > MAX_PAX_BYTES {
            return Err(wrong(Error::new(Kind::Limit, format!("PAX header of {size} bytes"))));
        }
        let mut records = vec![0; size.min(blob.len().saturating_sub(body)) as usize];
        blob.read_at(&mut records, body)?;
        pax_size = size_record(&records).map_err(wrong)?.or(pax_size);
        at = body + size.next_multiple_of(BLOCK);
        header = read_header(blob, at)?.ok_or_else(|| Error::corrupt("no tar header").in_file(blob.name()).at(at))?;
    }
    Err(Error::new(Kind::Limit, format!("{MAX_TAR_HEADERS} PAX headers and no member")).in_file(blob.name()).at(at))
}

/// The header at `at`; None if there is none that counts.
fn read_header(blob: &dyn Blob, at: u64) -> Result<Option<Header>> {
    if at.checked_add(BLOCK).is_none_or(|end| end > blob.len()) {
        return Ok(None);
    }
    let mut block = [0; BLOCK as usize];
    blob.read_at(&mut block, at)?;
    Ok(Header::parse(block))
}

/// The last `size` among PAX records, each `LENGTH KEY=VALUE\n` with LENGTH counting all of it.
fn size_record(mut records: &[u8]) -> Result<Option<u64>> {
    let broken = || Error::corrupt("broken PAX record");
    let mut size = None;
    while !records.is_empty() && records[0] != 0 {
        let space = records.iter().take(20).position(|&b| b == b' ').ok_or_else(broken)?;
        let len = number(&records[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(broken)?;
        let record = records.get(space + 1..len).ok_or_else(broken)?;
        let (&newline, pair) = record.split_last().ok_or_else(broken)?;
        if newline != b'\n' || !pair.contains(&b'=') {
            return Err(broken());
        }
        if let Some(value) = pair.strip_prefix(b"size=") {
            size = Some(number(value).ok_or_else(broken)?);
        }
        records = &records[len..];
    }
    Ok(size)
}

fn number(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
