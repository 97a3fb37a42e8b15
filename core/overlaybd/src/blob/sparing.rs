//! A remote blob of which little may be read: small ranges alone at first, before whole chunks of a cache.

use std::collections::HashMap;
use std::sync::Arc;

use crate::sync::Mutex;

use super::{check_range, Blob};
use crate::error::Result;
use crate::limits::MAX_SPARING_UNITS;

/// What is fetched at least, and kept in memory.
const UNIT: u64 = 32 << 10;
/// Larger reads take whole chunks: little is fetched in vain then.
const SMALL: usize = 64 << 10;
/// Where so many units of an area were wanted more will be: from then on the cache does as it always does.
const AREA: u64 = 256 << 10;
const UNITS_OF_AREA: u32 = 3;

/// A blob read sparingly. What its cache has is read from there.
pub struct SparingBlob {
    blob: Arc<dyn Blob>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Units by their number.
    kept: HashMap<u64, Arc<[u8]>>,
    /// Units that were fetched, by area.
    fetched: HashMap<u64, u32>,
}

impl SparingBlob {
    /// Reads `blob`, which is read through a cache, sparingly.
    pub fn new(blob: Arc<dyn Blob>) -> Self {
        SparingBlob { blob, state: Mutex::default() }
    }

    /// The units of a range, of which those that are not there are fetched; None if that is not for here.
    fn units(&self, offset: u64, len: usize) -> Option<Vec<Arc<[u8]>>> {
        let units = offset / UNIT..(offset + len as u64).div_ceil(UNIT);
        let missing = {
            let mut state = self.state.lock();
            let missing: Vec<u64> = units.clone().filter(|unit| !state.kept.contains_key(unit)).collect();
            for unit in &missing {
                let count = state.fetched.entry(unit * UNIT / AREA).or_default();
                *count += 1;
                if *count > UNITS_OF_AREA {
                    return None;
                }
            }
            missing
        };
        if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
            let (start, end) = (first * UNIT, ((last + 1) * UNIT).min(self.blob.len()));
            let mut bytes = vec![0; (end - start) as usize];
            // The usual way has more patience, and a better word for what went wrong.
            self.blob.copy_at(&mut bytes, start).ok()?;
            let mut state = self.state.lock();
            if state.kept.len() >= MAX_SPARING_UNITS {
                state.kept.clear();
            }
            for (unit, bytes) in (*first..).zip(bytes.chunks(UNIT as usize)) {
                state.kept.insert(unit, bytes.into());
            }
        }
        let state = self.state.lock();
        units.map(|unit| state.kept.get(&unit).cloned()).collect()
    }
}

impl Blob for SparingBlob {
    fn name(&self) -> &str {
        self.blob.name()
    }

    fn len(&self) -> u64 {
        self.blob.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        let usual = buf.is_empty() || buf.len() > SMALL || self.blob.is_ready(offset, buf.len() as u64);
        let units = if usual { None } else { self.units(offset, buf.len()) };
        let Some(units) = units else { return self.blob.read_at(buf, offset) };
        let mut skip = (offset % UNIT) as usize;
        let mut rest = buf;
        for unit in &units {
            let part = &unit[skip..];
            let (now, later) = rest.split_at_mut(part.len().min(rest.len()));
            now.copy_from_slice(&part[..now.len()]);
            (rest, skip) = (later, 0);
        }
        Ok(())
    }

    fn copy_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.blob.copy_at(buf, offset)
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        self.blob.is_ready(offset, len)
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<u64> {
        self.blob.prefetch(offset, len)
    }

    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        let units = offset / UNIT..offset.saturating_add(len).div_ceil(UNIT);
        let mut state = self.state.lock();
        let before = state.kept.len();
        state.kept.retain(|unit, _| !units.contains(unit));
        let dropped = state.kept.len() < before;
        drop(state);
        Ok(self.blob.distrust(offset, len)? || dropped)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::error::{Error, Kind};

    /// Notes what is asked for.
    struct Remote {
        bytes: Vec<u8>,
        small: Mutex<Vec<(u64, usize)>>,
        usual: Mutex<Vec<(u64, usize)>>,
        broken: AtomicBool,
    }

    impl Blob for Remote {
        fn name(&self) -> &str {
            "remote"
        }

        fn len(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            self.usual.lock().push((offset, buf.len()));
            buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
            Ok(())
        }

        fn copy_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            if self.broken.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Io, "broken"));
            }
            self.small.lock().push((offset, buf.len()));
            buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
            Ok(())
        }

        fn is_ready(&self, offset: u64, _: u64) -> bool {
            offset >= 900_000
        }
    }

    fn remote() -> (Arc<Remote>, SparingBlob) {
        let bytes = (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let remote = Remote { bytes, small: Mutex::default(), usual: Mutex::default(), broken: false.into() };
        let remote = Arc::new(remote);
        (Arc::clone(&remote), SparingBlob::new(remote))
    }

    fn read(remote: &Remote, blob: &SparingBlob, offset: usize, len: usize) {
        let mut buf = vec![0; len];
        blob.read_at(&mut buf, offset as u64).unwrap();
        assert!(buf == remote.bytes[offset..offset + len], "{len} bytes at {offset}");
    }

    #[test]
    fn small_reads_fetch_little_until_there_are_many_of_them() {
        let (remote, blob) = remote();
        let unit = UNIT as usize;
        read(&remote, &blob, 1000, 500);
        read(&remote, &blob, 2000, 30_000);
        read(&remote, &blob, unit - 1, 2);
        assert_eq!(*remote.small.lock(), [(0, unit), (UNIT, unit)]);
        read(&remote, &blob, 5 * unit, 10);
        assert_eq!(*remote.usual.lock(), []);
        read(&remote, &blob, 6 * unit, 10);
        assert_eq!(*remote.usual.lock(), [(6 * UNIT, 10)], "the fourth unit of one area");
        read(&remote, &blob, 300_000, 100_000);
        read(&remote, &blob, 950_000, 10);
        assert_eq!(remote.usual.lock()[1..], [(300_000, 100_000), (950_000, 10)]);
        read(&remote, &blob, 890_000, 50);
        assert_eq!(remote.small.lock().len(), 4);
    }

    #[test]
    fn what_fails_or_is_wrong_goes_the_usual_way() {
        let (remote, blob) = remote();
        remote.broken.store(true, Ordering::Relaxed);
        read(&remote, &blob, 0, 10);
        assert_eq!(*remote.usual.lock(), [(0, 10)]);
        remote.broken.store(false, Ordering::Relaxed);
        read(&remote, &blob, 0, 10);
        assert!(blob.distrust(5, 1).unwrap());
        assert!(!blob.distrust(500_000, 1).unwrap());
        read(&remote, &blob, 0, 10);
        assert_eq!(remote.small.lock().len(), 2, "it was not fetched again");
        assert_eq!(blob.read_at(&mut [0; 2], 999_999).unwrap_err().kind(), Kind::OutOfBounds);
    }
}
