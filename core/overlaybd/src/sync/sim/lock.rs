//! Locks that hand the baton on: the real ones, which nobody has to wait for since only one thread runs.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::world::{self, here};

/// Takes a lock by `take`: at once outside of a world (by `or_wait`), else when the others have let go of it.
fn acquire<G>(key: usize, take: impl Fn() -> Option<G>, or_wait: impl FnOnce() -> G) -> G {
    let Some((world, me)) = here() else { return or_wait() };
    world.step(me);
    loop {
        match take() {
            Some(guard) => return guard,
            None => {
                world.wait(me, key, None);
            }
        }
    }
}

fn release(key: usize) {
    if let Some((world, _)) = here() {
        world.notify(key, true);
    }
}

/// As `parking_lot::Mutex`.
#[derive(Default)]
pub struct Mutex<T: ?Sized>(parking_lot::Mutex<T>);

/// As `parking_lot::MutexGuard`.
pub struct MutexGuard<'a, T: ?Sized> {
    lock: &'a Mutex<T>,
    // None only while it waits.
    held: Option<parking_lot::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Mutex(parking_lot::Mutex::new(value))
    }

    /// What it holds.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    fn key(&self) -> usize {
        std::ptr::from_ref(&self.0).cast::<()>() as usize
    }

    /// Takes the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = acquire(self.key(), || self.0.try_lock(), || self.0.lock());
        MutexGuard { lock: self, held: Some(held) }
    }

    /// Takes the lock if nobody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        world::step();
        self.0.try_lock().map(|held| MutexGuard { lock: self, held: Some(held) })
    }

    /// What it holds, without locking: nobody else can.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<T: ?Sized> MutexGuard<'_, T> {
    /// Lets go of the lock while `f` runs.
    pub fn unlocked<U>(guard: &mut Self, f: impl FnOnce() -> U) -> U {
        guard.held = None;
        release(guard.lock.key());
        let done = f();
        let lock = guard.lock;
        guard.held = Some(acquire(lock.key(), || lock.0.try_lock(), || lock.0.lock()));
        done
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.held.as_ref().expect("held")
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("held")
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.held.take().is_some() {
            release(self.lock.key());
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// As `parking_lot::RwLock`.
#[derive(Default)]
pub struct RwLock<T: ?Sized>(parking_lot::RwLock<T>);

/// As `parking_lot::RwLockReadGuard`.
pub struct RwLockReadGuard<'a, T: ?Sized>(usize, Option<parking_lot::RwLockReadGuard<'a, T>>);

/// As `parking_lot::RwLockWriteGuard`.
pub struct RwLockWriteGuard<'a, T: ?Sized>(usize, Option<parking_lot::RwLockWriteGuard<'a, T>>);

impl<T> RwLock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        RwLock(parking_lot::RwLock::new(value))
    }

    /// What it holds.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T: ?Sized> RwLock<T> {
    fn key(&self) -> usize {
        std::ptr::from_ref(&self.0).cast::<()>() as usize
    }

    /// Takes the lock beside other readers.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        let held = acquire(self.key(), || self.0.try_read(), || self.0.read());
        RwLockReadGuard(self.key(), Some(held))
    }

    /// Takes the lock alone.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        let held = acquire(self.key(), || self.0.try_write(), || self.0.write());
        RwLockWriteGuard(self.key(), Some(held))
    }

    /// Takes the lock alone, if that is possible within `limit`.
    pub fn try_write_for(&self, limit: Duration) -> Option<RwLockWriteGuard<'_, T>> {
        let held = match here() {
            None => self.0.try_write_for(limit),
            Some((world, me)) => {
                let until = world::now().unwrap_or_default() + limit;
                world.step(me);
                loop {
                    let held = self.0.try_write();
                    if held.is_some() || world.wait(me, self.key(), Some(until)) {
                        break held;
                    }
                }
            }
        };
        held.map(|held| RwLockWriteGuard(self.key(), Some(held)))
    }

    /// What it holds, without locking: nobody else can.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.1.as_ref().expect("held")
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        self.1 = None;
        release(self.0);
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.1.as_ref().expect("held")
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.1.as_mut().expect("held")
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        self.1 = None;
        release(self.0);
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// As `parking_lot::Condvar`.
#[derive(Debug, Default)]
pub struct Condvar {
    real: parking_lot::Condvar,
    // Something to have an address of its own by.
    _place: u8,
}

/// As `parking_lot::WaitTimeoutResult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether time ran out.
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    /// One that nobody waits for.
    pub const fn new() -> Self {
        Condvar { real: parking_lot::Condvar::new(), _place: 0 }
    }

    fn key(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    /// Wakes one that waits.
    pub fn notify_one(&self) {
        super::point();
        match here() {
            Some((world, _)) => world.notify(self.key(), false),
            None => drop(self.real.notify_one()),
        }
    }

    /// Wakes all that wait.
    pub fn notify_all(&self) {
        super::point();
        match here() {
            Some((world, _)) => world.notify(self.key(), true),
            None => drop(self.real.notify_all()),
        }
    }

    /// Lets go of the lock until notified.
    pub fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
        self.wait_in(guard, None);
    }

    /// As [`Condvar::wait`], for `limit` at most.
    pub fn wait_for<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, limit: Duration) -> WaitTimeoutResult {
        self.wait_in(guard, Some(limit))
    }

    /// Waits until `condition` is false.
    pub fn wait_while<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, mut condition: impl FnMut(&mut T) -> bool) {
        while condition(&mut **guard) && !leaving() {
            self.wait(guard);
        }
    }

    /// As [`Condvar::wait_while`], for `limit` at most.
    pub fn wait_while_for<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        limit: Duration,
    ) -> WaitTimeoutResult {
        let end = super::Instant::now() + limit;
        while condition(&mut **guard) && !leaving() {
            let left = end.saturating_duration_since(super::Instant::now());
            if left.is_zero() {
                return WaitTimeoutResult(true);
            }
            self.wait_in(guard, Some(left));
        }
        WaitTimeoutResult(false)
    }

    fn wait_in<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, limit: Option<Duration>) -> WaitTimeoutResult {
        let Some((world, me)) = here() else {
            let held = guard.held.as_mut().expect("held");
            return WaitTimeoutResult(match limit {
                Some(limit) => self.real.wait_for(held, limit).timed_out(),
                None => {
                    self.real.wait(held);
                    false
                }
            });
        };
        let until = limit.map(|limit| world::now().unwrap_or_default() + limit);
        guard.held = None;
        release(guard.lock.key());
        let timed_out = world.wait(me, self.key(), until);
        let lock = guard.lock;
        guard.held = Some(acquire(lock.key(), || lock.0.try_lock(), || lock.0.lock()));
        WaitTimeoutResult(timed_out)
    }
}

/// Whether the calling thread unwinds since its process was killed: what it would wait for may never come.
fn leaving() -> bool {
    std::thread::panicking() && world::is_dead()
}

/// As `std::sync::OnceLock`.
#[derive(Debug, Default)]
pub struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    making: Mutex<()>,
}

impl<T> OnceLock<T> {
    /// One without a value.
    pub const fn new() -> Self {
        OnceLock { value: std::sync::OnceLock::new(), making: Mutex::new(()) }
    }

    /// The value, if there is one.
    pub fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// The value, made by `make` if there is none; others wait meanwhile.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        if self.value.get().is_none() {
            let _alone = self.making.lock();
            if self.value.get().is_none() {
                let value = make();
                return self.value.get_or_init(|| value);
            }
        }
        self.value.get().expect("made")
    }

    /// Sets the value.
    ///
    /// # Errors
    /// The value, if there is one already.
    pub fn set(&self, value: T) -> Result<(), T> {
        self.value.set(value)
    }

    /// Takes the value out.
    pub fn take(&mut self) -> Option<T> {
        self.value.take()
    }
}
