//! Faults made on purpose, by name: what a sanitiser is silent about says something only once it has told of these.

use std::cell::UnsafeCell;
use std::hint::black_box;
use std::sync::Arc;
use std::thread;

struct Shared(UnsafeCell<u64>);

// SAFETY: none, which is the point: two threads write to it at once.
unsafe impl Sync for Shared {}

fn race() {
    let shared = Arc::new(Shared(UnsafeCell::new(0)));
    let other = Arc::clone(&shared);
    // SAFETY: none, as said above.
    let count = |shared: &Shared| (0..1000).for_each(|_| unsafe { *black_box(shared.0.get()) += 1 });
    let writer = thread::spawn(move || count(&other));
    count(&shared);
    writer.join().unwrap();
}

fn leak() {
    // In a thread that ends, so that no register and no stack still has the address.
    let lose = || std::mem::forget(black_box(Box::new([7u8; 100])));
    thread::spawn(lose).join().unwrap();
}

fn freed() {
    let bytes = vec![7u8; 100];
    let at = black_box(bytes.as_ptr());
    drop(bytes);
    // SAFETY: none: the memory has been given back.
    println!("{}", unsafe { at.read_volatile() });
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("race") => race(),
        Some("leak") => leak(),
        Some("freed") => freed(),
        other => panic!("no such fault: {other:?}"),
    }
}
