//! What a thread keeps to read with: made at its first read, freed with the thread, bounded in number.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::LocalKey;

use crate::limits::MAX_ENGINE_CONTEXTS;

/// Contexts of all threads and engines.
static CONTEXTS: AtomicUsize = AtomicUsize::new(0);

/// A thread's context of one engine.
pub enum Slot<C> {
    /// Not asked for yet.
    Empty,
    /// Could not be made: this thread does without.
    Refused(i32),
    /// Ready.
    Ready(C, Permit),
}

/// A place among the [`MAX_ENGINE_CONTEXTS`].
pub struct Permit(());

impl Permit {
    fn take() -> io::Result<Permit> {
        if CONTEXTS.fetch_add(1, Relaxed) < MAX_ENGINE_CONTEXTS {
            return Ok(Permit(()));
        }
        drop(Permit(()));
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        CONTEXTS.fetch_sub(1, Relaxed);
    }
}

impl<C> Slot<C> {
    fn fill(&mut self, make: fn() -> io::Result<C>) -> io::Result<&mut C> {
        if let Slot::Empty = self {
            let made = Permit::take().and_then(|permit| Ok(Slot::Ready(make()?, permit)));
            *self = made.unwrap_or_else(|e| Slot::Refused(e.raw_os_error().unwrap_or(libc::EIO)));
        }
        match self {
            Slot::Ready(context, _) => Ok(context),
            Slot::Refused(errno) => Err(io::Error::from_raw_os_error(*errno)),
            Slot::Empty => unreachable!("filled above"),
        }
    }
}

/// Errors: why a context cannot be made on this machine; not, that too many are in use just now.
pub fn probe<C: 'static>(key: &'static LocalKey<RefCell<Slot<C>>>, make: fn() -> io::Result<C>) -> io::Result<()> {
    match with(key, make, |_| ((), true)) {
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => Ok(()),
        probed => probed,
    }
}

/// Lends the thread's context to `work`; the outer error says why there is none. A context that `work` calls spoilt
/// (false) is given up, and the thread does without from then on.
pub fn with<C: 'static, T>(
    key: &'static LocalKey<RefCell<Slot<C>>>,
    make: fn() -> io::Result<C>,
    work: impl FnOnce(&mut C) -> (T, bool),
) -> io::Result<T> {
    let ended = |_| io::Error::from_raw_os_error(libc::EAGAIN);
    key.try_with(|slot| {
        let mut slot = slot.borrow_mut();
        let (done, sound) = work(slot.fill(make)?);
        if !sound {
            *slot = Slot::Refused(libc::EAGAIN);
        }
        Ok(done)
    })
    .map_err(ended)?
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;

    thread_local! {
        static NOTHING: RefCell<Slot<()>> = const { RefCell::new(Slot::Empty) };
    }

    #[test]
    fn contexts_are_bounded_and_go_with_their_threads() {
        let taken = || with(&NOTHING, || Ok(()), |()| ((), true)).is_ok();
        let all = MAX_ENGINE_CONTEXTS + 4;
        for _ in 0..2 {
            let barrier = Arc::new(Barrier::new(all));
            let thread = |barrier: Arc<Barrier>| {
                std::thread::spawn(move || {
                    let got = taken();
                    barrier.wait();
                    got
                })
            };
            let threads: Vec<_> = (0..all).map(|_| thread(Arc::clone(&barrier))).collect();
            let got = threads.into_iter().map(|t| t.join().unwrap()).filter(|got| *got).count();
            // Other tests may hold a few.
            assert!((MAX_ENGINE_CONTEXTS / 2..=MAX_ENGINE_CONTEXTS).contains(&got), "{got}");
        }
    }

    #[test]
    fn a_spoilt_context_is_not_used_again() {
        let run = |sound| with(&NOTHING, || Ok(()), |()| ((), sound)).is_ok();
        let seen = std::thread::spawn(move || [run(true), run(false), run(true)]).join().unwrap();
        assert_eq!(seen, [true, true, false]);
    }
}
