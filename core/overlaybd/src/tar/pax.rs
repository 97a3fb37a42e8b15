//! PAX records: what an extended header says of the next member, or of all that follow.

use super::acl;
use super::entry::Time;
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_PAX_BYTES, MAX_TAR_ATTRIBUTES};

/// Everything of an extended header that is understood. What is not said is None.
#[derive(Clone, Debug, Default)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Time>,
    pub atime: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Sparse,
}

/// What GNU tar says of a sparse file, in its three ways.
#[derive(Clone, Debug, Default)]
pub(super) struct Sparse {
    pub name: Option<Vec<u8>>,
    /// Bytes of the file, holes included.
    pub real_size: Option<u64>,
    /// Offsets and lengths, of versions 0.0 and 0.1.
    pub pieces: Vec<(u64, u64)>,
    /// An offset whose length is still to come.
    offset: Option<u64>,
    pub has_map: bool,
    pub major: u64,
    pub minor: u64,
}

impl Pax {
    /// Takes the records of a header's body. Those of a later header go over those of an earlier one.
    ///
    /// # Errors
    /// `Corrupt` for what is no record, or a value that is none; `Limit`.
    pub fn take(&mut self, mut body: &[u8]) -> Result<()> {
        while !body.is_empty() {
            let (record, rest) = split(body).ok_or_else(|| Error::corrupt("a PAX record that is none"))?;
            let at = record.iter().position(|b| *b == b'=');
            let at = at.ok_or_else(|| Error::corrupt("a PAX record without a value"))?;
            self.set(&record[..at], &record[at + 1..])?;
            // Each is looked for among all: not only at the end, when it has taken its time.
            if self.xattrs.len() > MAX_TAR_ATTRIBUTES {
                let what = format!("more than {MAX_TAR_ATTRIBUTES} extended attributes of one member");
                return Err(Error::new(Kind::Limit, what));
            }
            body = rest;
        }
        // Headers for all members add up.
        let bytes: usize = self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes as u64 > MAX_PAX_BYTES {
            let what = format!("{} extended attributes of {bytes} bytes", self.xattrs.len());
            return Err(Error::new(Kind::Limit, what));
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let wrong = || {
            let key = String::from_utf8_lossy(key).into_owned();
            Error::corrupt(format!("PAX record {key}: its value is none"))
        };
        // An empty value takes back what was said before; only of an attribute is it a value.
        let said = !value.is_empty();
        let text = || said.then(|| value.to_vec());
        let decimal = || match said {
            true => decimal(value).map(Some).ok_or_else(wrong),
            false => Ok(None),
        };
        let time = || match said {
            true => time(value).map(Some).ok_or_else(wrong),
            false => Ok(None),
        };
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = decimal()?,
            b"uid" => self.uid = decimal()?,
            b"gid" => self.gid = decimal()?,
            b"mtime" => self.mtime = time()?,
            b"atime" => self.atime = time()?,
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = decimal()?,
            b"GNU.sparse.major" => self.sparse.major = decimal()?.unwrap_or(0),
            b"GNU.sparse.minor" => self.sparse.minor = decimal()?.unwrap_or(0),
            b"GNU.sparse.numblocks" => {}
            b"GNU.sparse.map" => {
                self.sparse.has_map = true;
                self.sparse.pieces = map(value).ok_or_else(wrong)?;
            }
            b"GNU.sparse.offset" => self.sparse.offset = decimal()?,
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.offset.take().ok_or_else(wrong)?;
                self.sparse.has_map = true;
                self.sparse.pieces.push((offset, decimal()?.ok_or_else(wrong)?));
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.".as_slice()) {
                    self.set_xattr(name, value.to_vec());
                } else if let Some(list) = key.strip_prefix(b"SCHILY.acl.".as_slice()) {
                    self.set_list(key, list, value);
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.".as_slice()) {
                    let name = percent(name).ok_or_else(wrong)?;
                    // bsdtar writes both forms; the other one needs no decoding.
                    if !self.xattrs.iter().any(|(known, _)| *known == name) {
                        let value = base64(value).ok_or_else(wrong)?;
                        self.set_xattr(&name, value);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes an access control list. One that cannot be read stays under its own name, for somebody to say so.
    fn set_list(&mut self, key: &[u8], list: &[u8], text: &[u8]) {
        let name = [b"system.posix_acl_".as_slice(), list].concat();
        match acl::attribute(list, text) {
            Some(value) if value.is_empty() => {}
            Some(value) if self.xattrs.iter().all(|(known, _)| *known != name) => self.set_xattr(&name, value),
            Some(_) => {}
            None => self.set_xattr(key, text.to_vec()),
        }
    }

    fn set_xattr(&mut self, name: &[u8], value: Vec<u8>) {
        match self.xattrs.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => self.xattrs.push((name.to_vec(), value)),
        }
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts all of it: the part after the blank, without the newline, and
/// what follows the record.
fn split(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = body.iter().take(20).position(|b| *b == b' ')?;
    let len = usize::try_from(decimal(&body[..blank])?).ok()?;
    let record = body.get(blank + 1..len)?.strip_suffix(b"\n")?;
    Some((record, &body[len..]))
}

/// A number without sign.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |n, b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

/// Seconds with a fraction, either of which may be missing; digits below a nanosecond are dropped downwards.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut parts = text.splitn(2, |b| *b == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |i: usize| fraction.get(i).map_or(0, |b| u32::from(b - b'0'));
    let nanos = (0..9).fold(0, |n, i| n * 10 + digit(i));
    let finer = fraction.iter().skip(9).any(|b| *b != b'0');
    if !negative {
        return Some(Time { seconds: whole, nanos });
    }
    let nanos = nanos + u32::from(finer);
    Some(match nanos {
        0 => Time { seconds: -whole, nanos: 0 },
        _ => Time { seconds: -whole - 1, nanos: 1_000_000_000 - nanos },
    })
}

/// `OFFSET,LENGTH,OFFSET,LENGTH…`
fn map(text: &[u8]) -> Option<Vec<(u64, u64)>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let numbers: Option<Vec<u64>> = text.split(|b| *b == b',').map(decimal).collect();
    let numbers = numbers.filter(|numbers| numbers.len().is_multiple_of(2))?;
    Some(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// A name in which `%3D` and the like stand for bytes.
fn percent(name: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name.iter();
    while let Some(byte) = rest.next() {
        if *byte == b'%' {
            let digit = |b: &u8| char::from(*b).to_digit(16);
            out.push((digit(rest.next()?)? * 16 + digit(rest.next()?)?) as u8);
        } else {
            out.push(*byte);
        }
    }
    Some(out)
}

/// Base 64, with or without padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|b| *b != b'=').map_or(0, |at| at + 1);
    let mut out = Vec::with_capacity(end * 3 / 4);
    for group in text[..end].chunks(4) {
        let mut bits = 0;
        for byte in group {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        match group.len() {
            1 => return None,
            n => out.extend_from_slice(&(bits << (6 * (4 - n)) << 8).to_be_bytes()[..n - 1]),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::super::testing::record;
    use super::*;

    #[test]
    fn base_64_is_read_in_both_alphabets_with_and_without_padding() {
        for len in 0..100 {
            let plain: Vec<u8> = (0..len).map(|i| (i * 89 + len) as u8).collect();
            for last in ["+/", "-_"] {
                let alphabet: Vec<u8> =
                    (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').chain(last.bytes()).collect();
                let mut text = Vec::new();
                for group in plain.chunks(3) {
                    let bits = group.iter().chain(&[0; 3]).take(3).fold(0, |bits, byte| bits << 8 | usize::from(*byte));
                    let digits = [bits >> 18, bits >> 12 & 63, bits >> 6 & 63, bits & 63];
                    text.extend(digits[..=group.len()].iter().map(|digit| alphabet[*digit]));
                }
                assert_eq!(base64(&text).as_ref(), Some(&plain));
                text.resize(text.len().next_multiple_of(4), b'=');
                assert_eq!(base64(&text).as_ref(), Some(&plain));
            }
        }
        for bad in ["A", "AAAAA", "AA*A", "A=AA", "\n"] {
            assert_eq!(base64(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn percent_signs_stand_for_bytes() {
        assert_eq!(percent(b"user.a%3Db%00%fF%25"), Some(b"user.a=b\0\xff%".to_vec()));
        for bad in ["%", "a%4", "%4g", "%g4"] {
            assert_eq!(percent(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn times_before_and_after_1970() {
        let of = |text: &str| time(text.as_bytes()).map(|t| (t.seconds, t.nanos));
        assert_eq!(of("1600000000.123456789"), Some((1_600_000_000, 123_456_789)));
        assert_eq!(of("7"), Some((7, 0)));
        assert_eq!(of("-5.5"), Some((-6, 500_000_000)));
        assert_eq!(of("-1"), Some((-1, 0)));
        assert_eq!(of("0.1234567899"), Some((0, 123_456_789)));
        assert_eq!((of(""), of("x"), of("1.x"), of("--1")), (None, None, None, None));
        // Below a nanosecond: downwards, which before 1970 is away from zero.
        assert_eq!(of("-1.0000000001"), Some((-2, 999_999_999)));
        assert_eq!((of("-1.0000000000"), of("-0.9999999999")), (Some((-1, 0)), Some((-1, 0))));
    }

    #[test]
    fn records_are_checked() {
        let read = |body: &[u8]| {
            let mut pax = Pax::default();
            pax.take(body).map(|()| pax)
        };
        assert_eq!(read(b"11 path=a/b\n").unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(read(b"12 path=a/b\n").unwrap().path, Some(b"a/b".to_vec()));
        assert_eq!(read(b"12 path=a/b\n8 path=\n").unwrap().path, None);
        assert_eq!(read(b"5 a=\n12 path=a/b\n").unwrap().path, Some(b"a/b".to_vec()));
        let bad = [&b"999 path=a\n"[..], b"5 abc", b"6 abc\n", b"99999999999999999999 a=b\n", b"9 size=x\n"];
        // Lengths that end in what should count them, or behind it at once.
        let short = [&b"0 a=b\n"[..], b"1 a=b\n", b"2 a=b\n", b"2 \n", b"3 \n", b" a=b\n", b"10 path=a/b"];
        for bad in bad.into_iter().chain(short) {
            assert_eq!(read(bad).unwrap_err().kind(), Kind::Corrupt, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn attributes_are_counted_as_they_come() {
        // What follows the one too many is not looked at: it would be found to be no record.
        let mut body: Vec<u8> =
            (0..=MAX_TAR_ATTRIBUTES).flat_map(|n| format!("31 SCHILY.xattr.user.x{n:07}=\n").into_bytes()).collect();
        body.extend(b"no record");
        assert_eq!(Pax::default().take(&body).unwrap_err().kind(), Kind::Limit);
        let one = body.len() - b"no record".len() - 31;
        assert!(Pax::default().take(&body[..one]).is_ok(), "as many as there may be");
    }

    #[test]
    fn attributes_of_several_headers_have_a_bound_together() {
        let of = |name: &str, len: usize| record(&format!("SCHILY.xattr.{name}"), &vec![b'v'; len]);
        let most = MAX_PAX_BYTES as usize - 2;
        let mut pax = Pax::default();
        pax.take(&of("a", most / 2)).unwrap();
        pax.take(&of("b", most - most / 2)).unwrap();
        // What is said anew counts once.
        pax.take(&of("b", most - most / 2)).unwrap();
        assert_eq!(pax.take(&of("c", 0)).unwrap_err().kind(), Kind::Limit);
    }

    #[test]
    fn of_what_is_said_of_an_attribute_twice_the_plain_form_counts() {
        let read = |records: &[(&str, &[u8])]| {
            let mut pax = Pax::default();
            let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
            pax.take(&body).map(|()| pax.xattrs.into_iter().map(|(_, value)| value).collect::<Vec<_>>())
        };
        let plain = ("SCHILY.xattr.user.a-b", b"plain".as_slice());
        let coded = ("LIBARCHIVE.xattr.user.a%2Db", b"Y29kZWQ".as_slice());
        assert_eq!(read(&[coded]).unwrap(), [b"coded"]);
        assert_eq!(read(&[plain, coded]).unwrap(), [b"plain"]);
        assert_eq!(read(&[coded, plain]).unwrap(), [b"plain"]);
        for bad in [("LIBARCHIVE.xattr.user.a", b"*".as_slice()), ("LIBARCHIVE.xattr.user.%", b"YQ")] {
            let error = read(&[bad]).unwrap_err();
            assert!(error.kind() == Kind::Corrupt && error.what().contains(bad.0), "{error}");
        }
        // A list too is only what it is for who does not say the attribute itself.
        let list = ("SCHILY.acl.default", b"user::rwx,group::r-x,other::---".as_slice());
        let attribute = ("SCHILY.xattr.system.posix_acl_default", b"plain".as_slice());
        assert_eq!(read(&[attribute, list]).unwrap(), [b"plain"]);
        assert_eq!(read(&[list, attribute]).unwrap(), [b"plain"]);
    }

    #[test]
    fn an_empty_value_takes_back_what_was_said_and_a_wrong_one_is_named() {
        let keys = ["path", "linkpath", "size", "uid", "gid", "mtime", "atime", "GNU.sparse.name", "GNU.sparse.size"];
        let said = |pax: &Pax| {
            let names = [&pax.path, &pax.link, &pax.sparse.name].map(|name| name.clone().map(|_| 7));
            let numbers = [pax.size, pax.uid, pax.gid, pax.sparse.real_size];
            let times = [pax.mtime, pax.atime].map(|time| time.map(|time| time.seconds as u64));
            [&names[..], &numbers, &times].concat()
        };
        let mut pax = Pax::default();
        for (value, wanted) in [("7", Some(7)), ("", None)] {
            pax.take(&keys.iter().flat_map(|key| record(key, value.as_bytes())).collect::<Vec<_>>()).unwrap();
            assert_eq!(said(&pax), [wanted; 9]);
        }
        for key in ["size", "uid", "gid", "mtime", "atime", "GNU.sparse.size", "GNU.sparse.major", "GNU.sparse.map"] {
            let error = pax.take(&record(key, b"7,x")).unwrap_err();
            assert!(error.kind() == Kind::Corrupt && error.what().contains(key), "{error}");
        }
        let error = pax.take(&record("GNU.sparse.numbytes", b"7")).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "a length without an offset: {error}");
    }

    #[test]
    fn encodings_of_attributes() {
        assert_eq!(base64(b"aWdub3JlZA").unwrap(), b"ignored");
        assert_eq!(base64(b"YQ==").unwrap(), b"a");
        assert_eq!(base64(b""), Some(Vec::new()));
        assert_eq!(base64(b"a*"), None);
        assert_eq!(percent(b"user.a%3Db").unwrap(), b"user.a=b");
        assert_eq!(percent(b"%3"), None);
    }
}
