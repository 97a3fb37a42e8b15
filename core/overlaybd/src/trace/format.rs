//! The trace file: a header with a checksum, then records of 24 bytes. Written as upstream's readers want it.
//!
//! Format: docs/formats/trace.md.

use crate::error::{Error, Kind, Result};
use crate::limits::MAX_TRACE_RECORDS;
use crate::zfile::crc;

/// Bytes of the header, without which nothing is a trace.
pub const HEADER_BYTES: usize = 24;

/// Bytes of a record.
pub const RECORD_BYTES: usize = 24;

const MAGIC: u32 = 0xC2EF_1820;

/// A record that says: this was read. Other kinds are passed over.
const READ: u8 = b'R';

/// One range of a layer's plain bytes that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position of the layer; 0 is the bottom one.
    pub layer: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Whether a file begins as a trace does. What does not, and is not empty, is a list of paths.
pub fn is_trace(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER_BYTES && bytes.starts_with(&MAGIC.to_le_bytes())
}

/// The records of a whole trace file that say something: reads of at least one byte.
///
/// # Errors
/// `Corrupt` if magic, length or checksum are not right; `Limit` for too many records.
pub fn parse(file: &[u8]) -> Result<Vec<Record>> {
    if !is_trace(file) {
        return Err(Error::corrupt("not a trace: it does not begin as one").at(0));
    }
    let (header, body) = file.split_at(HEADER_BYTES);
    let said = u64_at(header, 8);
    if said != body.len() as u64 || !body.len().is_multiple_of(RECORD_BYTES) {
        let what = format!("trace of {} bytes, whose header speaks of {said} bytes of records", file.len());
        return Err(Error::corrupt(what).at(8));
    }
    let count = body.len() / RECORD_BYTES;
    if count > MAX_TRACE_RECORDS {
        return Err(Error::new(Kind::Limit, format!("trace of {count} records; {MAX_TRACE_RECORDS} are allowed")));
    }
    let (stored, actual) = (u32_at(header, 16), crc::raw(crc::START, body));
    if stored != actual {
        return Err(Error::corrupt(format!("trace: checksum is {actual:08x}, {stored:08x} is stored")).at(16));
    }
    Ok(body.chunks_exact(RECORD_BYTES).filter_map(read_record).collect())
}

fn read_record(bytes: &[u8]) -> Option<Record> {
    let record = Record { layer: u32_at(bytes, 4), offset: u64_at(bytes, 16), len: u64_at(bytes, 8) };
    // The offset is a signed number to upstream.
    (bytes[0] == READ && record.len > 0 && record.offset <= i64::MAX as u64).then_some(record)
}

/// A whole trace file.
pub fn encode(records: &[Record]) -> Vec<u8> {
    let mut file = vec![0; HEADER_BYTES];
    file.reserve(records.len() * RECORD_BYTES);
    for record in records {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = READ;
        bytes[4..8].copy_from_slice(&record.layer.to_le_bytes());
        bytes[8..16].copy_from_slice(&record.len.to_le_bytes());
        bytes[16..24].copy_from_slice(&record.offset.to_le_bytes());
        file.extend_from_slice(&bytes);
    }
    let (header, body) = file.split_at_mut(HEADER_BYTES);
    header[..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[8..16].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[16..20].copy_from_slice(&crc::raw(crc::START, body).to_le_bytes());
    file
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: Record = Record { layer: 3, offset: 8192, len: 4096 };

    #[test]
    fn files_are_upstreams_byte_for_byte() {
        let file = encode(&[FIRST]);
        assert_eq!(file[..24], *b"\x20\x18\xEF\xC2\0\0\0\0\x18\0\0\0\0\0\0\0\xD4\x76\xB5\xE9\0\0\0\0");
        assert_eq!(file[24..], *b"\x52\0\0\0\x03\0\0\0\0\x10\0\0\0\0\0\0\0\x20\0\0\0\0\0\0");
        let file = encode(&[FIRST, Record { layer: 0, offset: 0, len: 512 }]);
        assert_eq!(u32_at(&file, 16), 0x4C9D_1C48);
        let empty = encode(&[]);
        assert_eq!(empty, *b"\x20\x18\xEF\xC2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(parse(&empty).unwrap(), []);
    }

    /// A file of one record with some bytes changed, and the checksum made right again.
    fn changed(changes: &[(usize, u8)]) -> Vec<u8> {
        let mut file = encode(&[FIRST]);
        for (at, byte) in changes {
            file[*at] = *byte;
        }
        let sum = crc::raw(0, &file[HEADER_BYTES..]);
        file[16..20].copy_from_slice(&sum.to_le_bytes());
        file
    }

    #[test]
    fn padding_is_ignored_and_so_is_what_is_no_read() {
        assert_eq!(parse(&changed(&[(4, 9), (20, 9), (25, 7), (26, 7), (27, 7)])).unwrap(), [FIRST]);
        assert_eq!(parse(&changed(&[(24, b'W')])).unwrap(), []);
        assert_eq!(parse(&changed(&[(33, 0)])).unwrap(), [], "of no byte");
        assert_eq!(parse(&changed(&[(47, 0x80)])).unwrap(), [], "at a negative offset");
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let file = encode(&[FIRST; 3]);
        assert!(is_trace(&file) && !is_trace(&file[..23]) && !is_trace(b"/usr/bin/python3 and more to come"));
        for at in (0..4).chain(8..20).chain(24..file.len()) {
            let mut bad = file.clone();
            bad[at] ^= 4;
            assert_eq!(parse(&bad).unwrap_err().kind(), Kind::Corrupt, "byte {at}");
        }
        for len in 0..file.len() {
            assert_eq!(parse(&file[..len]).unwrap_err().kind(), Kind::Corrupt, "{len} bytes");
        }
        // As many records as there may be, and one more: the checksum, which is wrong, is looked at next.
        for (count, kind) in [(MAX_TRACE_RECORDS, Kind::Corrupt), (MAX_TRACE_RECORDS + 1, Kind::Limit)] {
            let mut long = encode(&[]);
            long.resize(HEADER_BYTES + count * RECORD_BYTES, 1);
            long[8..16].copy_from_slice(&((count * RECORD_BYTES) as u64).to_le_bytes());
            assert_eq!(parse(&long).unwrap_err().kind(), kind);
        }
        // Right but for its end: records are whole.
        let mut odd = encode(&[FIRST]);
        odd.push(0);
        odd[8] += 1;
        let sum = crc::raw(0, &odd[HEADER_BYTES..]);
        odd[16..20].copy_from_slice(&sum.to_le_bytes());
        let error = parse(&odd).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (Kind::Corrupt, Some(8)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            raw in prop::collection::vec((any::<u32>(), 0..=i64::MAX as u64, 1u64..), 0..50),
        ) {
            let records: Vec<_> = raw.into_iter().map(|(layer, offset, len)| Record { layer, offset, len }).collect();
            prop_assert_eq!(parse(&encode(&records)).unwrap(), records);
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), lie in any::<bool>()) {
            let _ = parse(&bytes);
            if bytes.len() >= HEADER_BYTES && !lie {
                let len = bytes.len() as u64 - HEADER_BYTES as u64;
                let sum = crc::raw(0, &bytes[HEADER_BYTES..]);
                bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
                bytes[8..16].copy_from_slice(&len.to_le_bytes());
                bytes[16..20].copy_from_slice(&sum.to_le_bytes());
                prop_assert_eq!(parse(&bytes).is_ok(), len.is_multiple_of(24));
            }
        }
    }
}
