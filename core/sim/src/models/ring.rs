//! The TCMU ring (`serve/tcmu`): taken by one thread, carried out by several, completed in any order, stopped.
//!
//! Promised: each command is completed once, with its data there before the kernel can see that, and untouched after;
//! the kernel is told of every completion; a stop leaves what it does not complete to the next server.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use overlaybd::device::{BlockDevice, Extent};
use overlaybd::error::Result;
use overlaybd::serve::tcmu::testing::{Completion, Kernel};
use overlaybd::serve::tcmu::Server;
use overlaybd::sync::{point, thread, Mutex};

use crate::Model;

pub const MODELS: &[&Model] = &[
    &Model { name: "ring", story: ordinary, quick: 1, deep: 2 },
    &Model { name: "ring-shared", story: together, quick: 2, deep: 2 },
    &Model { name: "ring-abort", story: aborted, quick: 1, deep: 2 },
    &Model { name: "ring-stop", story: stopped, quick: 1, deep: 2 },
];

/// From here on the device has to fetch.
const COLD: u64 = 1 << 20;
/// What the kernel puts where a command has ended.
const USED: u8 = 0x55;

/// A device whose reads come in two halves.
struct Device {
    written: Mutex<Vec<(u64, Vec<u8>)>>,
}

fn content(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(|at| (at / 512 + 1) as u8).collect()
}

impl BlockDevice for Device {
    fn size(&self) -> u64 {
        2 * COLD
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let half = buf.len() / 2;
        point();
        buf[..half].copy_from_slice(&content(offset, half));
        point();
        let rest = buf.len() - half;
        buf[half..].copy_from_slice(&content(offset + half as u64, rest));
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.written.lock().push((offset, buf.to_vec()));
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        point();
        Ok(())
    }

    fn extents(&self, _: u64, _: u64, _: usize) -> Result<Vec<Extent>> {
        Ok(vec![])
    }

    fn is_ready(&self, offset: u64, _: u64) -> bool {
        offset < COLD
    }
}

struct Rig {
    kernel: Arc<Kernel>,
    device: Arc<Device>,
    server: Server,
}

impl Rig {
    fn new(data_bytes: usize) -> Rig {
        let (kernel, device) = (Kernel::with_data(1024, data_bytes), Arc::new(Device { written: Mutex::default() }));
        let server = kernel.serve(Arc::clone(&device) as Arc<dyn BlockDevice>, 2, None);
        Rig { kernel, device, server }
    }

    fn command(&self, op: u8, id: u16, offset: u64, place: &Range<usize>) {
        let ([a, b, c, d], [e, f]) =
            (((offset / 512) as u32).to_be_bytes(), ((place.len() / 512) as u16).to_be_bytes());
        self.kernel.put(id, &[op, 0, a, b, c, d, 0, e, f, 0], std::slice::from_ref(place));
    }

    fn read(&self, id: u16, offset: u64, place: &Range<usize>) {
        self.command(0x28, id, offset, place);
    }

    /// A read has ended: what it brought is there. The kernel uses the place for something else.
    fn ended(&self, id: u16, offset: u64, place: &Range<usize>) {
        assert_eq!(self.kernel.wait_for(id), Completion::GOOD);
        assert!(self.kernel.read(place) == content(offset, place.len()), "wrong data in command {id}");
        self.kernel.write(place, &vec![USED; place.len()]);
    }

    fn untouched(&self, place: &Range<usize>) {
        assert!(self.kernel.read(place).iter().all(|byte| *byte == USED), "data is changed after its command's end");
    }
}

/// A read that has to wait, one that has not, and a write; then a stop when all is done.
fn ordinary() {
    let rig = Rig::new(16 << 10);
    let places = [0, 4096, 8192].map(|at| rig.kernel.place(at, 1024));
    rig.kernel.write(&places[2], &[7; 1024]);
    rig.read(1, COLD, &places[0]);
    rig.read(2, 1024, &places[1]);
    rig.kernel.ring();
    rig.command(0x2a, 3, 4096, &places[2]);
    rig.kernel.ring();
    rig.ended(2, 1024, &places[1]);
    rig.ended(1, COLD, &places[0]);
    assert_eq!(rig.kernel.wait_for(3), Completion::GOOD);
    assert_eq!(*rig.device.written.lock(), [(4096, vec![7; 1024])]);
    assert!(rig.server.stop(Duration::from_secs(1)), "the ring is left empty");
    places[..2].iter().for_each(|place| rig.untouched(place));
    let stats = rig.server.stats();
    assert_eq!((stats.requests, stats.errors, stats.refused, stats.active), (3, 0, 0, 0));
}

/// Two large reads, which the thread of the ring shares with a worker.
fn together() {
    let rig = Rig::new(256 << 10);
    let places = [0, 128 << 10].map(|at| rig.kernel.place(at, 128 << 10));
    rig.read(1, 0, &places[0]);
    rig.read(2, 4096, &places[1]);
    rig.kernel.ring();
    rig.ended(2, 4096, &places[1]);
    rig.ended(1, 0, &places[0]);
    assert!(rig.server.stop(Duration::from_secs(1)), "the ring is left empty");
    places.iter().for_each(|place| rig.untouched(place));
}

/// A slow read is given up by the initiator, and its id used again once it has ended, however it did.
fn aborted() {
    let rig = Rig::new(16 << 10);
    let places = [0, 4096].map(|at| rig.kernel.place(at, 1024));
    rig.read(1, COLD, &places[0]);
    rig.kernel.ring();
    rig.kernel.put_abort(1);
    rig.kernel.ring();
    let first = rig.kernel.wait_for(1);
    let aborted = first != Completion::GOOD;
    assert!(aborted || rig.kernel.read(&places[0]) == content(COLD, 1024), "wrong data");
    rig.kernel.write(&places[0], &[USED; 1024]);
    rig.read(1, COLD + 4096, &places[1]);
    rig.kernel.ring();
    rig.ended(1, COLD + 4096, &places[1]);
    assert!(rig.server.stop(Duration::from_secs(1)), "the ring is left empty");
    rig.untouched(&places[0]);
}

/// A stop that waits for nothing; the next server does what is left.
fn stopped() {
    let rig = Rig::new(16 << 10);
    let places = [0, 4096].map(|at| rig.kernel.place(at, 1024));
    rig.read(1, COLD, &places[0]);
    rig.read(2, 1024, &places[1]);
    rig.kernel.ring();
    let server = Arc::new(rig.server);
    let stopper = Arc::clone(&server);
    let thread = thread::Builder::new().spawn(move || stopper.stop(Duration::ZERO)).expect("a thread");
    let empty = thread.join().expect("a stop that ends well");
    // All that it completed it has told of, so the kernel has seen it.
    let done = [1, 2].map(|id| rig.kernel.has_ended(id));
    assert_eq!(empty, done == [true, true], "what is left in the ring is what was not completed");
    for (n, offset) in [(0, COLD), (1, 1024)] {
        if done[n] {
            assert_eq!(rig.kernel.wait_for(n as u16 + 1), Completion::GOOD);
            assert!(rig.kernel.read(&places[n]) == content(offset, 1024), "wrong data");
        }
    }
    assert_eq!(server.stats().serving, 0);
}
