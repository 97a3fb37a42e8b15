//! The few things that were used last, by their place in the file.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Result;

/// At most `room` values; the one that was not used for longest goes first.
pub struct Recent<T: ?Sized> {
    room: usize,
    inner: Mutex<Inner<T>>,
}

struct Inner<T: ?Sized> {
    clock: u64,
    values: HashMap<u64, (Arc<T>, u64)>,
}

impl<T: ?Sized> Recent<T> {
    /// Keeps `room` values, one at least.
    pub fn new(room: usize) -> Self {
        Recent { room: room.max(1), inner: Mutex::new(Inner { clock: 0, values: HashMap::new() }) }
    }

    /// The value of `key`, which `make` makes if it is not there. Nobody waits for another's making.
    ///
    /// # Errors
    /// Those of `make`; nothing is kept then.
    pub fn get(&self, key: u64, make: impl FnOnce() -> Result<Arc<T>>) -> Result<Arc<T>> {
        {
            let mut inner = self.inner.lock();
            inner.clock += 1;
            let now = inner.clock;
            if let Some((value, used)) = inner.values.get_mut(&key) {
                *used = now;
                return Ok(value.clone());
            }
        }
        let value = make()?;
        let mut inner = self.inner.lock();
        if inner.values.len() >= self.room {
            let oldest = inner.values.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            oldest.and_then(|key| inner.values.remove(&key));
        }
        let now = inner.clock;
        inner.values.insert(key, (value.clone(), now));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let recent = Recent::new(2);
        let made = std::cell::RefCell::new(Vec::new());
        let get = |key: u64| {
            let make = || {
                made.borrow_mut().push(key);
                Ok(Arc::new(key))
            };
            assert_eq!(*recent.get(key, make).unwrap(), key);
        };
        for key in [1, 2, 1, 3, 1, 2] {
            get(key);
        }
        assert_eq!(*made.borrow(), [1, 2, 3, 2]);
    }
}
