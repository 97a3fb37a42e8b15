//! Opening what a blob holds, again if the first copy of its bytes was bad.

use std::sync::Arc;

use crate::sync::Mutex;

use super::Blob;
use crate::error::{Kind, Result};
use crate::limits::MAX_OPEN_ATTEMPTS;

/// Opens by `open` what `blob` holds. If its content makes no sense and the blob can fetch its bytes again, those
/// that were read are fetched again, a bounded number of times: a bad copy in a cache must not keep an image from
/// starting.
///
/// Errors: those of `open`. After fetching again the message says so: then it is the source's own copy that is wrong.
pub fn heal<T>(blob: &Arc<dyn Blob>, open: impl Fn(Arc<dyn Blob>) -> Result<T>) -> Result<T> {
    let mut attempts = 1;
    loop {
        let error = match open(Arc::clone(blob)) {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        if !matches!(error.kind(), Kind::Corrupt | Kind::Unsupported | Kind::Limit) {
            return Err(error);
        }
        if attempts == MAX_OPEN_ATTEMPTS || !drop_what_it_reads(blob, &open)? {
            let again = format!("fetched {attempts} times, and its source gave the same");
            return Err(if attempts > 1 { error.context(again) } else { error });
        }
        attempts += 1;
    }
}

/// Has the blob drop its copy of all that `open` reads; whether it dropped any of it.
fn drop_what_it_reads<T>(blob: &Arc<dyn Blob>, open: &impl Fn(Arc<dyn Blob>) -> Result<T>) -> Result<bool> {
    let noted = Arc::new(Noted { inner: Arc::clone(blob), ranges: Mutex::default() });
    // It fails as before, or has become right meanwhile: the next attempt will tell.
    let _ = open(Arc::clone(&noted) as _);
    let ranges = std::mem::take(&mut *noted.ranges.lock());
    let mut dropped = false;
    for (offset, len) in ranges {
        dropped |= blob.distrust(offset, len)?;
    }
    Ok(dropped)
}

/// Notes what is read.
struct Noted {
    inner: Arc<dyn Blob>,
    ranges: Mutex<Vec<(u64, u64)>>,
}

impl Blob for Noted {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut ranges = self.ranges.lock();
        match ranges.last_mut() {
            Some((start, len)) if *start + *len == offset => *len += buf.len() as u64,
            _ => ranges.push((offset, buf.len() as u64)),
        }
        drop(ranges);
        self.inner.read_at(buf, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    /// A source whose copy of one byte is bad until it was distrusted often enough.
    struct Flaky {
        good: Vec<u8>,
        bad_at: usize,
        heals_after: usize,
        dropped: Mutex<Vec<(u64, u64)>>,
    }

    impl Blob for Flaky {
        fn name(&self) -> &str {
            "flaky"
        }

        fn len(&self) -> u64 {
            self.good.len() as u64
        }

        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            let range = offset as usize..offset as usize + buf.len();
            buf.copy_from_slice(&self.good[range.clone()]);
            if range.contains(&self.bad_at) && self.dropped.lock().len() < self.heals_after {
                buf[self.bad_at - range.start] ^= 0x55;
            }
            Ok(())
        }

        fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
            self.dropped.lock().push((offset, len));
            Ok(true)
        }
    }

    fn flaky(bad_at: usize, heals_after: usize) -> Arc<Flaky> {
        let good = (0..100).collect();
        Arc::new(Flaky { good, bad_at, heals_after, dropped: Mutex::default() })
    }

    /// Wants the right bytes in two places.
    fn open(blob: Arc<dyn Blob>) -> Result<u8> {
        let mut piece = [0; 10];
        for at in [5, 60] {
            blob.read_at(&mut piece, at)?;
            if piece[3] != at as u8 + 3 {
                return Err(Error::corrupt("not right"));
            }
        }
        Ok(piece[3])
    }

    #[test]
    fn what_was_read_is_dropped_and_nothing_else() {
        let blob = flaky(63, 2);
        assert_eq!(heal(&(blob.clone() as Arc<dyn Blob>), open).unwrap(), 63);
        assert_eq!(*blob.dropped.lock(), [(5, 10), (60, 10)]);
    }

    #[test]
    fn attempts_are_bounded_and_the_message_tells_whose_fault_it_is() {
        let blob = flaky(8, usize::MAX);
        let e = heal(&(blob.clone() as Arc<dyn Blob>), open).unwrap_err();
        assert!(e.to_string().contains("its source gave the same"), "{e}");
        assert_eq!(blob.dropped.lock().len(), MAX_OPEN_ATTEMPTS as usize - 1);
    }

    #[test]
    fn a_failure_to_read_is_not_met_by_dropping() {
        let blob = flaky(8, usize::MAX);
        let timed_out = |_: Arc<dyn Blob>| Err::<(), _>(Error::new(Kind::TimedOut, "no answer"));
        assert_eq!(heal(&(blob.clone() as Arc<dyn Blob>), timed_out).unwrap_err().kind(), Kind::TimedOut);
        assert!(blob.dropped.lock().is_empty());
    }
}
