//! A process that has devices open: what its threads ask of them, and what they make of the answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use overlaybd::device::BlockDevice;
use overlaybd::image::{Image, NewUpper};
use overlaybd::sync::sim;

use crate::door::Door;
use crate::machine::{Configuration, Device, Machine};
use crate::model::{bytes_of, SECTOR};
use crate::open::{Caches, OpenImage};

/// Sectors of the longest request.
const MOST: u64 = 64;
/// Sectors by which a device grows at most, in all.
const GROWTH: u64 = 1024;

impl Machine {
    /// A process: opens devices and uses them for a while.
    pub fn serve(&self, devices: &[usize]) {
        let caches = match self.open_caches() {
            Ok(caches) => Arc::new(caches),
            Err(e) => return self.may_fail("open the caches", &e),
        };
        let threads: Vec<_> = devices
            .iter()
            .map(|number| {
                let (machine, device, caches) = (self.clone(), self.devices[*number].clone(), Arc::clone(&caches));
                spawn("device", move || machine.serve_device(&device, &caches))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("a device that ends well"));
    }

    fn serve_device(&self, device: &Device, caches: &Caches) {
        let OpenImage { image, remote } = match self.open(caches, device, sim::draw(2) * 60) {
            Ok(open) => open,
            Err(e) => {
                // Opening an upper may flush it.
                device.model.flush_failed();
                return self.may_fail("open", &e);
            }
        };
        let stop = Arc::new(AtomicBool::new(false));
        let download = self.setting.download.then(|| {
            let (machine, stop) = (self.clone(), Arc::clone(&stop));
            spawn("download", move || machine.download(&remote, &stop))
        });
        let replay = self.setting.replay.then(|| self.start_replay(device, &image));
        let (door, server) = match self.setting.ring {
            true => {
                let (door, server) = Door::ring(&image);
                (door, Some(server))
            }
            false => (Door::calls(&image), None),
        };
        self.use_device(device, &door);
        stop.store(true, Ordering::Relaxed);
        door.close();
        for thread in [download, server].into_iter().flatten() {
            thread.join().expect("a companion that ends well");
        }
        if let Some(replay) = replay {
            self.end_replay(device, &image, replay);
        }
    }

    fn use_device(&self, device: &Device, door: &Door) {
        let rounds = 10 + sim::draw(160) / self.devices.len() as u64;
        let threads: Vec<_> = (0..1 + sim::draw(3))
            .map(|number| {
                let user =
                    User { machine: self.clone(), device: device.clone(), door: door.of_thread(1 + number as u16) };
                spawn("reader", move || (0..rounds).for_each(|_| user.read()))
            })
            .collect();
        let writer = User { machine: self.clone(), device: device.clone(), door: door.clone() };
        for _ in 0..rounds {
            match sim::draw(40) {
                0..=19 => writer.write(),
                20..=24 => writer.discard(),
                25..=31 => writer.flush(),
                32 => writer.snapshot(),
                33 => writer.grow(),
                _ => {
                    sim::sleep(Duration::from_millis(sim::draw(1000)));
                }
            }
        }
        threads.into_iter().for_each(|thread| thread.join().expect("a reader that ends well"));
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> sim::thread::JoinHandle<()> {
    sim::thread::Builder::new().name(name.into()).spawn(body).expect("a thread")
}

/// A thread that uses a device.
struct User {
    machine: Machine,
    device: Device,
    door: Door,
}

impl User {
    fn place(&self) -> (u64, u64) {
        let all = self.door.image.size() / SECTOR as u64;
        let first = sim::draw(all - 1);
        (first, 1 + sim::draw(MOST.min(all - first)))
    }

    fn read(&self) {
        let (first, sectors) = self.place();
        let mut bytes = vec![0xaa; sectors as usize * SECTOR];
        let begun = self.device.model.moment();
        match self.door.read(&mut bytes, first * SECTOR as u64) {
            Ok(()) => self.device.model.check(first, &bytes, begun).unwrap_or_else(|why| self.broken(&why)),
            Err(e) => self.machine.may_fail("read", &e),
        }
    }

    fn broken(&self, why: &str) {
        panic!("device {}: {why}", self.device.number);
    }

    fn write(&self) {
        let (first, sectors) = self.place();
        let content = self.device.model.next_write();
        let pending = self.device.model.begin(first, vec![content; sectors as usize]);
        let bytes: Vec<u8> = (first..first + sectors).flat_map(|sector| bytes_of(content, sector)).collect();
        match self.door.write(&bytes, first * SECTOR as u64) {
            Ok(()) => {
                sim::note(|| format!("wrote {content:x} at {first}+{sectors} of {}", self.device.number));
                self.device.model.acknowledge(&pending);
            }
            Err(e) => self.machine.may_fail("write", &e),
        }
    }

    fn discard(&self) {
        let (first, sectors) = self.place();
        let pending = self.device.model.begin(first, vec![0; sectors as usize]);
        match self.door.discard(first * SECTOR as u64, sectors * SECTOR as u64) {
            Ok(()) => {
                sim::note(|| format!("discarded {first}+{sectors} of {}", self.device.number));
                self.device.model.acknowledge(&pending);
            }
            Err(e) => self.machine.may_fail("discard", &e),
        }
    }

    fn flush(&self) {
        let begun = self.device.model.moment();
        match self.door.flush() {
            Ok(()) if !sim::is_dead() => {
                sim::note(|| format!("flushed {}", self.device.number));
                self.device.model.flushed(begun);
            }
            Ok(()) => {}
            Err(e) => {
                self.device.model.flush_failed();
                self.machine.may_fail("flush", &e);
            }
        }
    }

    fn snapshot(&self) {
        let image: &Image = &self.door.image;
        let (data, index) = self.device.upper_names();
        let new = NewUpper { data: &data, index: &index, sparse: self.machine.setting.sparse };
        let publish = Box::new(Configuration { device: self.device.clone(), upper: (data.clone(), index.clone()) });
        let begun = self.device.model.moment();
        match image.snapshot(&self.machine.disk, &new, publish) {
            Ok(_) if !sim::is_dead() => self.device.model.flushed(begun),
            Ok(_) => {}
            Err(e) => {
                self.device.model.flush_failed();
                if !image.is_unfinished() {
                    self.device.change_config(|config| config.next = None);
                }
                self.machine.may_fail("snapshot", &e);
            }
        }
    }

    fn grow(&self) {
        let image: &Image = &self.door.image;
        let sectors = image.size() / SECTOR as u64 + 1 + sim::draw(128);
        if sectors > crate::library::SECTORS + GROWTH {
            return;
        }
        self.device.model.grow(sectors);
        match image.resize(sectors * SECTOR as u64) {
            Ok(()) if !sim::is_dead() => {
                sim::note(|| format!("{} has {sectors} sectors", self.device.number));
                self.device.model.grown(sectors);
            }
            Ok(()) => {}
            Err(e) => {
                self.device.model.flush_failed();
                self.machine.may_fail("resize", &e);
            }
        }
    }
}
