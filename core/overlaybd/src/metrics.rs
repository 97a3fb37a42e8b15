//! Where time goes: histograms that many threads fill, and the share of one read that waiting or decoding had.
//!
//! What takes long (a fetch, a queue) is always timed. What a read of local bytes takes is timed for one read in
//! [`SAMPLING`] (at first for more) and counted for all of them, so that a read that needs nothing pays for no clock.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Buckets with a bound: 1 µs, 2 µs, 4 µs … 67 s (2^26 µs). What takes longer has a bucket of its own.
pub const BOUNDED_BUCKETS: usize = 27;

/// Of this many reads of a thread one is timed.
pub const SAMPLING: u64 = 64;

/// How often something took how long. Every method may be called by any thread at any time.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDED_BUCKETS + 1],
    total_ns: AtomicU64,
}

impl Histogram {
    /// Counts one event.
    pub fn record(&self, time: Duration) {
        self.record_weighted(time, 1);
    }

    /// Counts an event that stands for `weight` like it.
    pub fn record_weighted(&self, time: Duration, weight: u64) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(ns)].fetch_add(weight, Relaxed);
        self.total_ns.fetch_add(ns.saturating_mul(weight), Relaxed);
    }

    /// What was counted so far. Events that are counted meanwhile may be in it or not.
    pub fn snapshot(&self) -> Snapshot {
        let buckets = std::array::from_fn(|i| self.buckets[i].load(Relaxed));
        Snapshot { buckets, total: Duration::from_nanos(self.total_ns.load(Relaxed)) }
    }
}

/// The bucket whose bound is the first that is not below a time: `2^i` µs.
fn bucket(ns: u64) -> usize {
    let us = ns.div_ceil(1000).max(1);
    ((us - 1).checked_ilog2().map_or(0, |log| log as usize + 1)).min(BOUNDED_BUCKETS)
}

/// A [`Histogram`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Events by bucket, none of them in two: bucket `i` holds those up to [`Snapshot::bound`] of `i`, the last one
    /// those that took longer than any bound.
    pub buckets: [u64; BOUNDED_BUCKETS + 1],
    /// Time that all took together.
    pub total: Duration,
}

impl Snapshot {
    /// Upper bound of a bucket; None for the last.
    pub fn bound(bucket: usize) -> Option<Duration> {
        (bucket < BOUNDED_BUCKETS).then(|| Duration::from_micros(1 << bucket))
    }

    /// Events in all buckets.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// Where the time of an image's reads went.
#[derive(Debug, Default)]
pub struct Latency {
    /// Whole reads that did not wait for a network, without decoding. Sampled.
    pub hit: Histogram,
    /// Waiting for fetches, one event for each read that had to.
    pub network: Histogram,
    /// Checking and decoding compressed blocks, one event for each read that did. Sampled.
    pub decode: Histogram,
    /// From the arrival of a slow request to a worker that takes it.
    pub queue: Histogram,
}

impl Latency {
    /// All histograms by name.
    pub fn snapshot(&self) -> [(&'static str, Snapshot); 4] {
        let causes = [("hit", &self.hit), ("network", &self.network), ("decode", &self.decode), ("queue", &self.queue)];
        causes.map(|(name, histogram)| (name, histogram.snapshot()))
    }
}

/// Traffic of one kind since the start of the process.
#[derive(Debug, Default)]
pub struct Traffic {
    /// How many, and how long they took.
    pub latency: Histogram,
    /// Bytes of those that succeeded.
    pub bytes: AtomicU64,
    /// Those that failed.
    pub errors: AtomicU64,
    /// The longest.
    pub peak: Peak,
}

impl Traffic {
    /// Counts one access; None for the bytes of one that failed.
    pub fn record(&self, time: Duration, bytes: Option<u64>) {
        self.latency.record(time);
        match bytes {
            Some(n) => self.bytes.fetch_add(n, Relaxed),
            None => self.errors.fetch_add(1, Relaxed),
        };
        self.peak.note(time);
    }
}

/// The longest of some times.
#[derive(Debug, Default)]
pub struct Peak(AtomicU64);

impl Peak {
    fn note(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        if us > self.0.load(Relaxed) {
            self.0.fetch_max(us, Relaxed);
        }
    }

    /// The longest since the last call, in microseconds.
    pub fn take(&self) -> Duration {
        Duration::from_micros(self.0.swap(0, Relaxed))
    }
}

/// Reads from registries and proxies.
pub static REMOTE: LazyLock<Traffic> = LazyLock::new(Traffic::default);

/// The longest reads of all images, as far as they are timed.
pub static READ_PEAK: Peak = Peak(AtomicU64::new(0));

/// What the calling thread has spent.
struct Spent {
    /// Reads until one is timed, which stands for `gap` of them. Begins with each, so that few reads are seen too.
    left: Cell<u64>,
    gap: Cell<u64>,
    sampled: Cell<bool>,
    /// Since it began.
    network_ns: Cell<u64>,
    /// In the read that it is busy with.
    decode_ns: Cell<u64>,
}

thread_local! {
    static SPENT: Spent = const {
        Spent {
            left: Cell::new(1),
            gap: Cell::new(1),
            sampled: Cell::new(false),
            network_ns: Cell::new(0),
            decode_ns: Cell::new(0),
        }
    };
}

/// Carries out a read and enters its time in `latency`. Not to be used inside itself.
#[inline]
pub fn read<T>(latency: &Latency, work: impl FnOnce() -> T) -> T {
    let (left, before) = SPENT.with(|spent| {
        let left = spent.left.get() - 1;
        spent.left.set(left);
        (left, spent.network_ns.get())
    });
    let done = if left == 0 { timed(latency, work) } else { work() };
    let waited = SPENT.with(|spent| spent.network_ns.get()) - before;
    if waited > 0 {
        let waited = Duration::from_nanos(waited);
        latency.network.record(waited);
        READ_PEAK.note(waited);
    }
    done
}

/// A [`read`] whose every part is timed.
#[cold]
fn timed<T>(latency: &Latency, work: impl FnOnce() -> T) -> T {
    let (weight, before) = SPENT.with(|spent| {
        let weight = spent.gap.get();
        spent.gap.set((2 * weight).min(SAMPLING));
        spent.left.set(spent.gap.get());
        spent.decode_ns.set(0);
        spent.sampled.set(true);
        (weight, spent.network_ns.get())
    });
    let started = Instant::now();
    let done = work();
    let whole = started.elapsed();
    SPENT.with(|spent| {
        spent.sampled.set(false);
        let decode = Duration::from_nanos(spent.decode_ns.get());
        if !decode.is_zero() {
            latency.decode.record_weighted(decode, weight);
        }
        if spent.network_ns.get() == before {
            latency.hit.record_weighted(whole.saturating_sub(decode), weight);
            READ_PEAK.note(whole);
        }
    });
    done
}

/// Carries out work that waits for a network, on behalf of the thread's [`read`] if it is in one.
pub fn network<T>(work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let done = work();
    SPENT.with(|spent| spent.network_ns.set(spent.network_ns.get().saturating_add(nanos(started).max(1))));
    done
}

/// Carries out work that decodes, on behalf of the thread's [`read`] if it is in one that is timed.
#[inline]
pub fn decode<T>(work: impl FnOnce() -> T) -> T {
    if !SPENT.with(|spent| spent.sampled.get()) {
        return work();
    }
    let before = SPENT.with(|spent| spent.network_ns.get());
    let started = Instant::now();
    let done = work();
    SPENT.with(|spent| {
        // A block that proved wrong is fetched again from inside: that is not decoding.
        let waited = spent.network_ns.get() - before;
        spent.decode_ns.set(spent.decode_ns.get() + nanos(started).saturating_sub(waited).max(1));
    });
    done
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_with_its_bound() {
        let histogram = Histogram::default();
        for i in 0..BOUNDED_BUCKETS {
            let bound = Snapshot::bound(i).unwrap();
            histogram.record(bound);
            histogram.record(bound + Duration::from_nanos(1));
        }
        histogram.record(Duration::ZERO);
        histogram.record(Duration::MAX);
        let seen = histogram.snapshot();
        assert_eq!((seen.buckets[0], seen.buckets[BOUNDED_BUCKETS]), (2, 2));
        assert!(seen.buckets[1..BOUNDED_BUCKETS].iter().all(|n| *n == 2), "{seen:?}");
        assert_eq!(seen.count(), 2 * BOUNDED_BUCKETS as u64 + 2);
        assert_eq!(Snapshot::bound(BOUNDED_BUCKETS), None);
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let histogram = Histogram::default();
        let each = if cfg!(miri) { 100 } else { 10_000 };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..each).for_each(|_| histogram.record(Duration::from_micros(3))));
            }
        });
        let seen = histogram.snapshot();
        assert_eq!((seen.count(), seen.buckets[2], seen.total), (4 * each, 4 * each, Duration::from_micros(12 * each)));
    }

    #[test]
    fn a_read_enters_what_it_spent_by_cause() {
        std::thread::scope(|scope| {
            // A thread of its own begins with a read that is timed.
            scope.spawn(|| {
                let latency = Latency::default();
                read(&latency, || decode(|| ()));
                assert_eq!(latency.hit.snapshot().count(), 1);
                for _ in 1..4 * SAMPLING - 1 {
                    read(&latency, || decode(|| ()));
                }
                let long = Duration::from_millis(200);
                for _ in 0..SAMPLING - 1 {
                    read(&latency, || network(|| ()));
                }
                read(&latency, || decode(|| network(|| std::thread::sleep(long))));
                let [hit, network, decode, queue] = latency.snapshot().map(|(_, seen)| seen);
                assert_eq!((hit.count(), network.count(), queue.count()), (4 * SAMPLING - 1, SAMPLING, 0));
                assert_eq!(decode.count(), 5 * SAMPLING - 1);
                assert!(network.total >= long);
                // What was waited for inside of decoding is not counted as decoding.
                assert!(decode.total < long * SAMPLING as u32, "{decode:?}");
            });
        });
    }
}
