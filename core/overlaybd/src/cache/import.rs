//! A media file without a map, put there by hand or left by upstream: taken over if it proves to be the whole blob.

use ring::digest::{Context, SHA256};

use super::map::{checksum, Map, Shape};
use crate::error::{Error, Result};
use crate::sys::{read_exact, File};

/// Bytes hashed at a time.
const PIECE: u64 = 1 << 20;

/// The length of a media file whose bytes have the digest of its name; None if they have not, or if it is not
/// even worth the look: empty, with a hole, of another length than `len`.
///
/// Errors: those of the disk.
pub(super) fn proven_len(media: &dyn File, digest: &str, len: Option<u64>) -> Result<Option<u64>> {
    let fail = |e| Error::io("examine", e).in_file(media.path());
    let Some(hex) = hex_of(digest) else { return Ok(None) };
    let size = media.len().map_err(fail)?;
    if size == 0 || len.is_some_and(|len| len != size) || media.next_hole(0).map_err(fail)? < size {
        return Ok(None);
    }
    let mut context = Context::new(&SHA256);
    let mut buf = vec![0; PIECE as usize];
    for at in (0..size).step_by(PIECE as usize) {
        let piece = &mut buf[..(size - at).min(PIECE) as usize];
        read_exact(media, piece, at)?;
        context.update(piece);
    }
    Ok((to_hex(context) == hex).then_some(size))
}

/// The hex digits of a SHA-256 digest.
pub(super) fn hex_of(digest: &str) -> Option<&str> {
    digest.strip_prefix("sha256:").filter(|hex| hex.len() == 64)
}

/// A finished hash in hex digits.
pub(super) fn to_hex(hash: Context) -> String {
    hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Records all chunks of a proven media file.
///
/// Errors: those of the disk.
pub(super) fn record_all(media: &dyn File, map: &Map, shape: Shape) -> Result<()> {
    let mut buf = vec![0; shape.chunk as usize];
    for chunk in 0..shape.chunks() {
        let bytes = &mut buf[..shape.bytes(chunk, chunk + 1)];
        read_exact(media, bytes, shape.start(chunk))?;
        map.record(chunk, &[checksum(bytes)])?;
    }
    Ok(())
}
