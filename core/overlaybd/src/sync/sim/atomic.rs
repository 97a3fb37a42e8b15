//! Atomics whose order with those of other threads is a matter of the schedule, where all schedules are explored. Each
//! step is seen by all at once: what a weaker order would allow is for other tools.

pub use std::sync::atomic::Ordering;

use super::world::point;

/// The type `$name` of the standard library, with these methods that change and return what was there.
macro_rules! atomic {
    ($name:ident, $value:ty, $($change:ident),*) => {
        /// As the standard library's.
        #[derive(Debug, Default)]
        pub struct $name(std::sync::atomic::$name);

        impl $name {
            /// One with this value.
            pub const fn new(value: $value) -> Self {
                $name(std::sync::atomic::$name::new(value))
            }

            /// The value.
            pub fn load(&self, order: Ordering) -> $value {
                point();
                self.0.load(order)
            }

            /// Sets the value.
            pub fn store(&self, value: $value, order: Ordering) {
                point();
                self.0.store(value, order);
            }

            $(
                /// As the standard library's.
                pub fn $change(&self, value: $value, order: Ordering) -> $value {
                    point();
                    self.0.$change(value, order)
                }
            )*
        }
    };
}

atomic!(AtomicBool, bool, swap);
atomic!(AtomicI64, i64, fetch_add);
atomic!(AtomicU32, u32, swap, fetch_add, fetch_and, fetch_max);
atomic!(AtomicU64, u64, fetch_add, fetch_sub);
atomic!(AtomicUsize, usize, swap, fetch_add, fetch_sub);
