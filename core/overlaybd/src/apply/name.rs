//! Names as archives spell them, made plain: they cannot lead out of the root.

use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_PATH_BYTES, MAX_PATH_PARTS};

/// A path without empty parts, `.` and `..`, and without slashes around it; empty for the root. `..` in the root is the
/// root, as in the kernel.
///
/// # Errors
/// `Limit` for one that is too long; `Invalid` for one with a NUL in it.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>> {
    if path.len() > MAX_PATH_BYTES {
        return Err(Error::new(Kind::Limit, format!("a path of {} bytes", path.len())));
    }
    if path.contains(&0) {
        return Err(Error::new(Kind::Invalid, "a path with a NUL in it"));
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    if parts.len() > MAX_PATH_PARTS {
        return Err(Error::new(Kind::Limit, format!("a path of {} parts", parts.len())));
    }
    Ok(parts.join(&b'/'))
}

/// The directory's part of a clean path, and the last one; None for the root.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => Some((&path[..at], &path[at + 1..])),
        None => Some((b"", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let plain = |path: &str| String::from_utf8(clean(path.as_bytes()).unwrap()).unwrap();
        assert_eq!(plain("./a//b/./c/"), "a/b/c");
        assert_eq!(plain("/../../etc/passwd"), "etc/passwd");
        assert_eq!(plain("a/../../b"), "b");
        assert_eq!(plain("a/b/.."), "a");
        assert_eq!((plain("."), plain("/"), plain(""), plain("..")), Default::default());
        assert_eq!(clean(b"a\0b").unwrap_err().kind(), Kind::Invalid);
        assert_eq!(clean(&b"a/".repeat(MAX_PATH_BYTES)).unwrap_err().kind(), Kind::Limit);
        assert_eq!(split(b"a/b/c"), Some((&b"a/b"[..], &b"c"[..])));
        assert_eq!(split(b"c"), Some((&b""[..], &b"c"[..])));
        assert_eq!(split(b""), None);
    }
}
