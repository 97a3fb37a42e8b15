//! What one answer to a ranged GET proves: which bytes its body holds, or why it is of no use.

use std::time::SystemTime;

use super::{date, Response};

/// A body that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes of the body that come before the first byte asked for.
    pub skip: u64,
    /// Bytes that belong to the request: less than asked only where the blob ends.
    pub len: u64,
    /// Length of the blob.
    pub total: u64,
    /// Whether the body must end after them (206), or may go on (200).
    pub ends: bool,
}

/// Checks a 206 against the request: `first..=last` of a blob of `total` bytes, if that is known.
///
/// Errors: what is wrong, for people.
pub(super) fn partial(response: &Response, first: u64, last: u64, total: Option<u64>) -> Result<Head, String> {
    plain(response)?;
    let range = response.header("content-range").ok_or("206 without Content-Range")?;
    let (start, end, all) = parse_range(range).ok_or_else(|| format!("206 with Content-Range {range:.80?}"))?;
    let wrong = |why: &str| Err(format!("206 {why}: asked {first}-{last}, got Content-Range {range:.80?}"));
    if start != first {
        return wrong("starts elsewhere");
    }
    if total.is_some_and(|total| total != all) {
        return wrong("is of a blob of another length");
    }
    if all <= end || end != last.min(all - 1) {
        return wrong("ends elsewhere");
    }
    let len = end - start + 1;
    match content_length(response) {
        Some(n) if n != len => Err(format!("206 with {n} bytes of body for a range of {len}")),
        _ => Ok(Head { skip: 0, len, total: all, ends: true }),
    }
}

/// Checks a 200, the whole blob, against the same request; at most `max_skip` bytes may be thrown away.
pub(super) fn whole(
    response: &Response,
    first: u64,
    last: u64,
    total: Option<u64>,
    max_skip: u64,
) -> Result<Head, String> {
    plain(response)?;
    let length = content_length(response);
    let all = match (length, total) {
        (Some(n), Some(total)) if n != total => return Err(format!("200 with {n} bytes for a blob of {total}")),
        (Some(n), _) | (None, Some(n)) => n,
        (None, None) => return Err("200 without Content-Length for a blob of unknown length".into()),
    };
    if first > max_skip {
        return Err(format!("200 to a request for bytes {first}-{last}: the server ignores ranges"));
    }
    let end = last.saturating_add(1).min(all);
    let len = end.checked_sub(first).ok_or_else(|| format!("200 with {all} bytes, asked from {first} on"))?;
    Ok(Head { skip: first, len, total: all, ends: end == all })
}

/// The length of a blob from a 416 (`Content-Range: bytes */N`).
pub(super) fn unsatisfied(response: &Response) -> Option<u64> {
    number(response.header("content-range")?.trim().strip_prefix("bytes */")?)
}

/// `Retry-After` in seconds, whichever form it has. A date is held against the server's own clock, if it tells.
pub(super) fn retry_after_s(response: &Response) -> Option<u64> {
    let value = response.header("retry-after")?.trim();
    if let Some(seconds) = number(value) {
        return Some(seconds);
    }
    let now = response.header("date").and_then(date::parse).or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.ok().map(|now| now.as_secs())
    })?;
    Some(date::parse(value)?.saturating_sub(now))
}

fn plain(response: &Response) -> Result<(), String> {
    match response.header("content-encoding") {
        Some(coding) if !coding.eq_ignore_ascii_case("identity") => Err(format!("body is encoded as {coding:.40?}")),
        _ => Ok(()),
    }
}

fn content_length(response: &Response) -> Option<u64> {
    number(response.header("content-length")?.trim())
}

fn parse_range(value: &str) -> Option<(u64, u64, u64)> {
    let value = value.trim();
    let unit = value.get(..6)?;
    if !unit.eq_ignore_ascii_case("bytes ") {
        return None;
    }
    let (range, total) = value[6..].split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (number(start.trim())?, number(end.trim())?);
    (start <= end).then_some((start, end, number(total.trim())?))
}

/// Digits only: `u64::from_str` would take a leading `+`.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}
