//! The process that has the device open: what its threads ask of it, and what they make of the answers.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use overlaybd::device::BlockDevice;
use overlaybd::error::Error;
use overlaybd::image::{Image, NewUpper};
use overlaybd::sync::sim;

use crate::machine::{Configuration, Machine};
use crate::model::{bytes_of, SECTOR};
use crate::story::SECTORS;

impl Machine {
    /// A process: opens the device and uses it for a while.
    pub fn serve(&self) {
        let image = match self.open(sim::draw(2) * 60) {
            Ok(image) => Arc::new(image),
            Err(e) => {
                // Opening an upper may flush it.
                self.model.flush_failed();
                return self.may_fail("open", &e);
            }
        };
        let rounds = 20 + sim::draw(200);
        let threads: Vec<_> = (0..1 + sim::draw(3))
            .map(|_| {
                let (machine, image) = (self.clone(), Arc::clone(&image));
                let read = move || (0..rounds).for_each(|_| machine.read(&image));
                sim::thread::Builder::new().name("reader".into()).spawn(read).expect("a thread")
            })
            .collect();
        for _ in 0..rounds {
            match sim::draw(40) {
                0..=19 => self.write(&image),
                20..=24 => self.discard(&image),
                25..=31 => self.flush(&image),
                32 => self.snapshot(&image),
                _ => {
                    sim::sleep(Duration::from_millis(sim::draw(1000)));
                }
            }
        }
        for thread in threads {
            thread.join().expect("a reader that ends well");
        }
    }

    /// An error is allowed while something may go wrong.
    fn may_fail(&self, what: &str, error: &Error) {
        sim::note(|| format!("{what}: {error}"));
        assert!(self.storm.load(Ordering::Relaxed) || sim::is_dead(), "{what} fails in calm weather: {error}");
    }

    fn place(&self) -> (u64, u64) {
        let first = sim::draw(SECTORS - 1);
        (first, 1 + sim::draw(64.min(SECTORS - first)))
    }

    fn read(&self, image: &Image) {
        let (first, sectors) = self.place();
        let mut bytes = vec![0xaa; sectors as usize * SECTOR];
        let begun = self.model.moment();
        match image.read_at(&mut bytes, first * SECTOR as u64) {
            Ok(()) => self.model.check(first, &bytes, begun).unwrap_or_else(|why| panic!("{why}")),
            Err(e) => self.may_fail("read", &e),
        }
    }

    fn write(&self, image: &Image) {
        let (first, sectors) = self.place();
        let content = self.model.next_write();
        let pending = self.model.begin(first, vec![content; sectors as usize]);
        let bytes: Vec<u8> = (first..first + sectors).flat_map(|sector| bytes_of(content, sector)).collect();
        match image.write_at(&bytes, first * SECTOR as u64) {
            Ok(()) => {
                sim::note(|| format!("wrote {content:x} at {first}+{sectors}"));
                self.model.acknowledge(&pending);
            }
            Err(e) => self.may_fail("write", &e),
        }
    }

    fn discard(&self, image: &Image) {
        let (first, sectors) = self.place();
        let pending = self.model.begin(first, vec![0; sectors as usize]);
        match image.discard(first * SECTOR as u64, sectors * SECTOR as u64) {
            Ok(()) => {
                sim::note(|| format!("discarded {first}+{sectors}"));
                self.model.acknowledge(&pending);
            }
            Err(e) => self.may_fail("discard", &e),
        }
    }

    fn flush(&self, image: &Image) {
        let begun = self.model.moment();
        match image.flush() {
            Ok(()) if !sim::is_dead() => {
                sim::note(|| "flushed".into());
                self.model.flushed(begun);
            }
            Ok(()) => {}
            Err(e) => {
                self.model.flush_failed();
                self.may_fail("flush", &e);
            }
        }
    }

    fn snapshot(&self, image: &Image) {
        let (data, index) = self.upper_names();
        let new = NewUpper { data: &data, index: &index, sparse: self.config().sparse };
        let publish = Box::new(Configuration { machine: self.clone(), upper: (data.clone(), index.clone()) });
        let begun = self.model.moment();
        match image.snapshot(&self.disk, &new, publish) {
            Ok(_) if !sim::is_dead() => self.model.flushed(begun),
            Ok(_) => {}
            Err(e) => {
                self.model.flush_failed();
                if !sim::is_dead() && !image.is_unfinished() {
                    self.change_config(|config| config.next = None);
                }
                self.may_fail("snapshot", &e);
            }
        }
    }
}
