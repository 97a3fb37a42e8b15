//! Threads of a world; outside of one, the machine's.

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::world::{self, here, World};

/// As `std::thread::sleep`, in simulated time.
pub fn sleep(time: Duration) {
    if !world::sleep(time) {
        std::thread::sleep(time);
    }
}

/// As `std::thread::available_parallelism`; the same for all worlds.
///
/// # Errors
/// That of the machine.
pub fn available_parallelism() -> io::Result<NonZeroUsize> {
    match here() {
        Some(_) => Ok(NonZeroUsize::MIN.saturating_add(1)),
        None => std::thread::available_parallelism(),
    }
}

/// As `std::thread::Builder`.
#[derive(Debug, Default)]
pub struct Builder {
    name: Option<String>,
}

impl Builder {
    /// One without a name.
    pub fn new() -> Self {
        Builder::default()
    }

    /// Names the thread.
    pub fn name(mut self, name: String) -> Self {
        self.name = Some(name);
        self
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// That of the machine.
    pub fn spawn<T: Send + 'static>(self, body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
        let name = self.name.unwrap_or_else(|| "thread".into());
        let Some((world, me)) = here() else {
            return std::thread::Builder::new().name(name).spawn(body).map(JoinHandle::Real);
        };
        let number = world.add(&name, world.process_of(me));
        let result = Arc::new(Mutex::new(None));
        let place = Arc::clone(&result);
        drop(world::start(&world, number, move || {
            let done = body();
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        })?);
        Ok(JoinHandle::Simulated { number, result })
    }

    /// Starts a thread that ends before the scope does.
    ///
    /// # Errors
    /// That of the machine.
    pub fn spawn_scoped<'scope>(
        self,
        scope: &Scope<'scope, '_>,
        body: impl FnOnce() + Send + 'scope,
    ) -> io::Result<()> {
        let name = self.name.unwrap_or_else(|| "scoped".into());
        let Some((world, me)) = here() else {
            return std::thread::Builder::new().name(name).spawn_scoped(scope.real, body).map(drop);
        };
        let number = world.add(&name, world.process_of(me));
        scope.numbers.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        drop(scope.real.spawn(move || world::live(&world, number, body)));
        Ok(())
    }
}

/// As `std::thread::JoinHandle`.
pub enum JoinHandle<T> {
    /// The machine's.
    Real(std::thread::JoinHandle<T>),
    /// Of a world.
    Simulated {
        /// Its number there.
        number: usize,
        /// What it returned.
        result: Arc<Mutex<Option<T>>>,
    },
}

impl<T> JoinHandle<T> {
    /// Returns when the thread has ended.
    ///
    /// # Errors
    /// If it panicked.
    pub fn join(self) -> std::thread::Result<T> {
        match self {
            JoinHandle::Real(handle) => handle.join(),
            JoinHandle::Simulated { number, result } => {
                if let Some((world, me)) = here() {
                    world.join(me, number);
                }
                let done = result.lock().unwrap_or_else(PoisonError::into_inner).take();
                done.ok_or_else(|| Box::new("the thread has not ended well") as _)
            }
        }
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        match self {
            JoinHandle::Real(handle) => handle.is_finished(),
            JoinHandle::Simulated { number, .. } => here().is_none_or(|(world, _)| world.is_gone(*number)),
        }
    }
}

/// As `std::thread::Scope`.
pub struct Scope<'scope, 'env: 'scope> {
    real: &'scope std::thread::Scope<'scope, 'env>,
    numbers: Mutex<Vec<usize>>,
}

/// Waits for the threads of a scope in simulated time, also when it is left by unwinding.
struct Joined<'a>(Option<(Arc<World>, usize)>, &'a Mutex<Vec<usize>>);

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let Some((world, me)) = &self.0 else { return };
        let numbers = std::mem::take(&mut *self.1.lock().unwrap_or_else(PoisonError::into_inner));
        for number in numbers {
            world.join_undying(*me, number);
        }
    }
}

/// As `std::thread::scope`.
pub fn scope<'env, T>(f: impl for<'scope> FnOnce(&Scope<'scope, 'env>) -> T) -> T {
    std::thread::scope(|real| {
        let scope = Scope { real, numbers: Mutex::default() };
        let _joined = Joined(here(), &scope.numbers);
        f(&scope)
    })
}
