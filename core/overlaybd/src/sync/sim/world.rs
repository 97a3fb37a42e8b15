//! The scheduler: who runs, who waits for what, and what time it is.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::explore::Path;
use super::state::{State, Status, Thread};

/// Lines of the trace that are kept, the last ones.
const MAX_TRACE: usize = 2000;

/// The payload with which a thread of a killed process unwinds.
struct Killed;

/// A process of a world: threads that die together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(usize);

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Why it failed, if it did: a panic of one of its threads, or all waiting for ever.
    pub failure: Option<String>,
    /// What happened, the last lines.
    pub trace: Vec<String>,
    /// A digest of all that was noted and of every decision: equal for equal runs.
    pub digest: u64,
    /// Decisions taken.
    pub steps: u64,
    /// Simulated time.
    pub time: Duration,
}

/// A world.
pub(super) struct World {
    state: Mutex<State>,
    /// Signalled when the baton goes to another thread; one for each, in order of their numbers.
    turns: Mutex<Vec<Arc<Condvar>>>,
}

thread_local! {
    static HERE: RefCell<Option<(Arc<World>, usize)>> = const { RefCell::new(None) };
}

/// The world and the number of the calling thread, if it is in one.
pub(super) fn here() -> Option<(Arc<World>, usize)> {
    HERE.with_borrow(|here| here.clone())
}

/// Whether the calling thread is in a world.
pub fn is_inside() -> bool {
    HERE.with_borrow(Option::is_some)
}

/// Runs `main` as the first thread of a new world, and returns when all threads have ended. Worlds come one after the
/// other: what is static in the program is shared by all of them.
pub fn run(seed: u64, main: impl FnOnce() + Send + 'static) -> Outcome {
    run_by(seed, None, main).0
}

/// As [`run`], by the decisions of a path, which is completed by those that it did not have yet.
pub(super) fn run_along(path: Path, main: impl FnOnce() + Send + 'static) -> (Outcome, Path) {
    run_by(0, Some(path), main)
}

fn run_by(seed: u64, path: Option<Path>, main: impl FnOnce() + Send + 'static) -> (Outcome, Path) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let state = State {
        random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d,
        path,
        now: Duration::from_secs(1),
        running: 0,
        threads: Vec::new(),
        dead: vec![false],
        failure: None,
        trace: VecDeque::new(),
        digest: seed,
        steps: 0,
        finished: false,
    };
    let world = Arc::new(World { state: Mutex::new(state), turns: Mutex::default() });
    let number = world.add("main", 0);
    let first = start(&world, number, main).expect("a thread");
    let ended = Arc::new(Condvar::new());
    world.turns().push(Arc::clone(&ended));
    let mut state = world.lock();
    while !state.finished {
        state = ended.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    let outcome = Outcome {
        failure: state.failure.take(),
        trace: std::mem::take(&mut state.trace).into(),
        digest: state.digest,
        steps: state.steps,
        time: state.now,
    };
    let path = state.path.take().unwrap_or_default();
    drop(state);
    let _ = first.join();
    (outcome, path)
}

/// A number below `end` (at least 1), drawn from the seed. Outside of a world 0.
pub fn draw(end: u64) -> u64 {
    here().map_or(0, |(world, _)| world.lock().pick(end.max(1)))
}

/// Lets others run, perhaps: a thread calls it wherever the order of things may matter.
pub fn step() {
    if let Some((world, me)) = here() {
        world.step(me);
    }
}

/// As [`step`], where all schedules are explored; else nothing.
pub fn point() {
    if let Some((world, me)) = here() {
        if world.lock().path.is_some() && !std::thread::panicking() {
            world.step(me);
        }
    }
}

/// Simulated time since the world began.
pub fn now() -> Option<Duration> {
    here().map(|(world, _)| world.lock().now)
}

/// Lets simulated time pass; false outside of a world.
pub fn sleep(time: Duration) -> bool {
    let Some((world, me)) = here() else { return false };
    let until = world.lock().now + time;
    world.wait(me, 0, Some(until));
    true
}

/// Adds a line to the trace.
pub fn note(line: impl FnOnce() -> String) {
    if let Some((world, me)) = here() {
        let mut state = world.lock();
        let line = format!("{:>12.6} {} {}", state.now.as_secs_f64(), state.threads[me].name, line());
        state.mix(line.bytes().fold(0, |sum: u64, b| sum.wrapping_mul(31).wrapping_add(u64::from(b))));
        if state.trace.len() == MAX_TRACE {
            state.trace.pop_front();
        }
        state.trace.push_back(line);
    }
}

/// Whether the calling thread is of a process that has been killed: whatever it does now, it never did.
pub fn is_dead() -> bool {
    here().is_some_and(|(world, me)| {
        let state = world.lock();
        state.dead[state.threads[me].process]
    })
}

/// The world has failed, wherever that is found: a panic may be caught by who guards against those of others.
pub fn fail(what: String) {
    if let Some((world, me)) = here() {
        world.lock().fail(what);
        world.die_if_killed(me);
    }
}

/// Starts a process with one thread.
///
/// # Panics
/// Outside of a world.
pub fn spawn_process(name: &str, main: impl FnOnce() + Send + 'static) -> Process {
    let (world, _) = here().expect("inside a world");
    let process = {
        let mut state = world.lock();
        state.dead.push(false);
        state.dead.len() - 1
    };
    let number = world.add(name, process);
    drop(start(&world, number, main).expect("a thread"));
    Process(process)
}

/// The process of the calling thread. Outside of a world that of a world's first thread.
pub fn process() -> Process {
    Process(here().map_or(0, |(world, me)| world.process_of(me)))
}

/// Kills a process: none of its threads does anything any more that others see.
pub fn kill(process: Process) {
    if let Some((world, _)) = here() {
        let mut state = world.lock();
        state.dead[process.0] = true;
        state.wake_dead();
    }
}

/// Returns when all threads of a process have ended.
pub fn wait_for_process(process: Process) {
    let Some((world, me)) = here() else { return };
    while world.lock().threads.iter().any(|t| t.process == process.0 && t.status != Status::Gone) {
        world.wait(me, process_key(process.0), None);
    }
}

fn process_key(process: usize) -> usize {
    usize::MAX - process
}

/// Starts a thread of a world, which waits for its turn.
pub(super) fn start(
    world: &Arc<World>,
    number: usize,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let inside = Arc::clone(world);
    std::thread::Builder::new().spawn(move || live(&inside, number, body))
}

/// The life of a thread in a world.
pub(super) fn live(world: &Arc<World>, number: usize, body: impl FnOnce()) {
    HERE.set(Some((Arc::clone(world), number)));
    world.wait_for_turn(number, world.lock());
    let ended = catch_unwind(AssertUnwindSafe(|| {
        world.die_if_killed(number);
        body();
    }));
    HERE.set(None);
    world.end(number, ended.err());
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turns(&self) -> MutexGuard<'_, Vec<Arc<Condvar>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a thread, which is ready to run; its number.
    pub fn add(&self, name: &str, process: usize) -> usize {
        let mut state = self.lock();
        let number = state.threads.len();
        let name = format!("{name}.{number}");
        state.threads.push(Thread { status: Status::Ready, process, name, timed_out: false });
        self.turns().insert(number, Arc::default());
        number
    }

    /// The process of a thread.
    pub fn process_of(&self, number: usize) -> usize {
        self.lock().threads[number].process
    }

    /// A point where another thread may go first.
    pub fn step(&self, me: usize) {
        let mut state = self.lock();
        // Mostly the same goes on: what is interesting needs few changes, and each costs time.
        if state.path.is_some() || state.draw() % 4 == 0 {
            self.hand_on(me, state);
        } else {
            state.count();
            drop(state);
        }
        self.die_if_killed(me);
    }

    /// Waits until `key` is notified, or until `until`; true if that came first.
    pub fn wait(&self, me: usize, key: usize, until: Option<Duration>) -> bool {
        self.die_if_killed(me);
        let mut state = self.lock();
        state.threads[me].status = Status::Waiting { key, until };
        state.threads[me].timed_out = false;
        if state.dead[state.threads[me].process] && std::thread::panicking() {
            // Whoever would have notified it may be gone; locks are notified by others that unwind.
            state.threads[me].status = Status::Ready;
        }
        self.hand_on(me, state);
        self.die_if_killed(me);
        self.lock().threads[me].timed_out
    }

    /// Makes those that wait for `key` ready: all, or one that is drawn.
    pub fn notify(&self, key: usize, all: bool) {
        let mut state = self.lock();
        let waits = |t: &Thread| matches!(t.status, Status::Waiting { key: k, .. } if k == key);
        let mut waiting: Vec<usize> = (0..state.threads.len()).filter(|n| waits(&state.threads[*n])).collect();
        if !all && waiting.len() > 1 {
            let chosen = state.pick(waiting.len() as u64) as usize;
            waiting = vec![waiting[chosen]];
        }
        for number in waiting {
            state.threads[number].status = Status::Ready;
        }
    }

    /// Returns when a thread has ended.
    pub fn join(&self, me: usize, number: usize) {
        while self.lock().threads[number].status != Status::Gone {
            self.wait(me, thread_key(number), None);
        }
    }

    /// As [`World::join`], even if the process is killed meanwhile: for a scope, which must not be left before.
    pub fn join_undying(&self, me: usize, number: usize) {
        loop {
            let mut state = self.lock();
            if state.threads[number].status == Status::Gone {
                return;
            }
            if !state.dead[state.threads[me].process] {
                state.threads[me].status = Status::Waiting { key: thread_key(number), until: None };
            }
            self.hand_on(me, state);
        }
    }

    /// Whether a thread has ended.
    pub fn is_gone(&self, number: usize) -> bool {
        self.lock().threads[number].status == Status::Gone
    }

    fn die_if_killed(&self, me: usize) {
        let state = self.lock();
        if state.dead[state.threads[me].process] && !std::thread::panicking() {
            drop(state);
            resume_unwind(Box::new(Killed));
        }
    }

    /// Gives the baton to a thread that is ready, and returns when it comes back.
    fn hand_on(&self, me: usize, mut state: MutexGuard<'_, State>) {
        let next = state.choose(me);
        if next != me {
            state.running = next;
            self.turns()[next].notify_one();
            self.wait_for_turn(me, state);
        }
    }

    fn wait_for_turn(&self, me: usize, mut state: MutexGuard<'_, State>) {
        let turn = Arc::clone(&self.turns()[me]);
        while state.running != me {
            state = turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The calling thread ends; the baton goes on without it.
    fn end(&self, me: usize, panic: Option<Box<dyn Any + Send>>) {
        let mut state = self.lock();
        if let Some(panic) = panic.filter(|panic| !panic.is::<Killed>()) {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let what = format!("{}: {}", state.threads[me].name, text.unwrap_or_else(|| "panicked".into()));
            state.fail(what);
        }
        state.threads[me].status = Status::Gone;
        let process = state.threads[me].process;
        drop(state);
        self.notify(thread_key(me), true);
        self.notify(process_key(process), true);
        let mut state = self.lock();
        if state.threads.iter().all(|t| t.status == Status::Gone) {
            state.finished = true;
            self.turns().iter().for_each(|turn| turn.notify_all());
            return;
        }
        let next = state.choose(me);
        state.running = next;
        self.turns()[next].notify_one();
    }
}

pub(super) fn thread_key(number: usize) -> usize {
    usize::MAX / 2 - number
}
