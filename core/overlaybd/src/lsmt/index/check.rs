//! Validity rules for entries that were loaded from a file.

use crate::error::{Error, Result};
use crate::lsmt::segment::Segment;

/// Checks loaded entries: each maps into the file, and, if `ordered`, they are sorted and do not overlap.
///
/// Padding is passed over. All bounds are sectors of the data-bearing file: no entry may map below
/// `min_moffset`, none may reach beyond `end_moffset` (None: unlimited, as for warp layers). One bad
/// entry refuses the whole index.
///
/// Format: lsmt, "Validity rules for a loaded index".
///
/// # Errors
/// `Corrupt`, naming the number of the first bad entry, counted from 0, and the rule it breaks.
pub fn check_entries(segments: &[Segment], min_moffset: u64, end_moffset: Option<u64>, ordered: bool) -> Result<()> {
    let end_moffset = end_moffset.unwrap_or(u64::MAX);
    let mut covered = 0;
    for (number, entry) in segments.iter().enumerate().filter(|(_, s)| !s.is_invalid()) {
        let fault = |why: String| {
            let Segment { offset, length, moffset, .. } = entry;
            let kind = if entry.zeroed { "zeroed " } else { "" };
            Err(Error::corrupt(format!(
                "index entry {number} ({kind}sectors {offset}+{length}, mapped to {moffset}) {why}"
            )))
        };
        // A data entry of length 0 must not sit on either bound: upstream refuses it there.
        let reaches_min = if entry.zeroed { entry.moffset >= min_moffset } else { entry.mend() > min_moffset };
        if entry.moffset < min_moffset || !reaches_min {
            return fault(format!("maps below sector {min_moffset}, where data begins"));
        }
        let starts_inside = entry.zeroed || entry.moffset < end_moffset;
        if entry.mend() > end_moffset || !starts_inside {
            return fault(format!("maps beyond sector {end_moffset}, where data ends"));
        }
        if ordered {
            if entry.offset < covered {
                return fault(format!("begins before sector {covered}, where the entry before it ends"));
            }
            covered = entry.end();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn data(offset: u64, length: u32, moffset: u64) -> Segment {
        Segment { offset, length, moffset, zeroed: false, tag: 0 }
    }

    fn zero(offset: u64, length: u32, moffset: u64) -> Segment {
        Segment { zeroed: true, ..data(offset, length, moffset) }
    }

    #[test]
    fn entries_on_the_edges_of_the_bounds() {
        let good = [data(0, 2, 8), data(2, 2, 18), zero(4, 2, 8), zero(6, 2, 20), data(8, 0, 10)];
        check_entries(&good, 8, Some(20), true).unwrap();
        let bad = [
            (data(0, 2, 7), "below"),
            (zero(0, 2, 7), "below"),
            (data(0, 0, 8), "below"),
            (data(0, 2, 19), "beyond"),
            (data(0, 1, 20), "beyond"),
            (data(0, 0, 20), "beyond"),
            (zero(0, 1, 21), "beyond"),
        ];
        for (entry, why) in bad {
            let error = check_entries(&[data(0, 1, 9), entry], 8, Some(20), false).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.what().contains("entry 1 ") && error.what().contains(why), "{entry:?}: {error}");
        }
    }

    #[test]
    fn order_is_checked_only_where_asked_and_across_padding() {
        let crossed = [data(0, 8, 8), Segment::INVALID, data(7, 8, 16)];
        check_entries(&crossed, 8, None, false).unwrap();
        let error = check_entries(&crossed, 8, None, true).unwrap_err();
        assert!(
            error.what().starts_with("index entry 2 (sectors 7+8, mapped to 16) begins before sector 8"),
            "{error}"
        );
        check_entries(&[data(0, 8, 8), data(8, 8, 16), Segment::INVALID, Segment::INVALID], 8, None, true).unwrap();
    }

    #[test]
    fn warp_entries_may_map_anywhere() {
        let top = Segment { offset: (1 << 50) - 2, length: 16383, moffset: (1 << 55) - 1, zeroed: false, tag: 1 };
        check_entries(&[data(0, 1, 0), zero(1, 1, 0), top], 0, None, true).unwrap();
        check_entries(&[], 8, Some(8), true).unwrap();
    }
}
