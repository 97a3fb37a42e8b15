//! Merging layers: a sorted list laid over another, and the layers of a stack by halves.

use crate::error::{Error, Kind, Result};
use crate::limits::MAX_RW_ENTRIES;
use crate::lsmt::segment::Segment;

/// The merged entries of `layers`, topmost first, tagged from `first_tag` on.
///
/// Laying one list over another is associative, so halves are merged apart: with n layers of m entries
/// that is `n m log n` steps instead of `n n m`.
pub(super) fn merge(layers: &[&[Segment]], first_tag: usize) -> Result<Vec<Segment>> {
    match layers {
        [] => Ok(Vec::new()),
        [layer] => {
            let live = layer.iter().filter(|s| s.length > 0 && !s.is_invalid());
            Ok(live.map(|s| Segment { tag: first_tag as u8, ..*s }).collect())
        }
        _ => {
            let (upper, lower) = layers.split_at(layers.len() / 2);
            let below = merge(lower, first_tag + upper.len())?;
            overlay(&merge(upper, first_tag)?, below.into_iter())
        }
    }
}

/// `upper` as it is, and of `lower` what stands in its gaps. Both are sorted without overlaps.
///
/// # Errors
/// `Limit` when the result is longer than a merged index may be.
pub(super) fn overlay(upper: &[Segment], mut lower: impl Iterator<Item = Segment>) -> Result<Vec<Segment>> {
    let mut merged = Vec::with_capacity(upper.len() + lower.size_hint().0);
    let mut rest = lower.next();
    for segment in upper {
        while let Some(below) = rest.filter(|below| below.offset < segment.end()) {
            if below.offset < segment.offset {
                merged.push(below.clip(below.offset, segment.offset));
            }
            rest =
                if below.end() > segment.end() { Some(below.clip(segment.end(), below.end())) } else { lower.next() };
        }
        merged.push(*segment);
    }
    merged.extend(rest.into_iter().chain(lower));
    if merged.len() as u64 > MAX_RW_ENTRIES {
        let what = format!("merged index of {} entries; at most {MAX_RW_ENTRIES} are allowed", merged.len());
        return Err(Error::new(Kind::Limit, what));
    }
    Ok(merged)
}
