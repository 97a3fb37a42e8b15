//! Fuzzes the TCMU ring: commands of a hostile initiator, and entries that no kernel would write.
#![no_main]

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use overlaybd::device::{BlockDevice, MemoryDevice};
use overlaybd::serve::tcmu::{entry, mailbox, Link, Options, Region, Ring, Server};
use overlaybd::{Error, Result};

const SIZE: u64 = 64 << 10;
const RING_BYTES: usize = 8 << 10;
const DATA: Range<usize> = mailbox::BYTES + RING_BYTES..mailbox::BYTES + RING_BYTES + (32 << 10);
/// What is left of earlier commands; no device holds it.
const STALE: u8 = 0xaa;

/// A kernel that has nothing more to say.
struct Silence;

impl Link for Silence {
    fn wait(&self) -> Result<()> {
        Err(Error::corrupt("the end of the input"))
    }
    fn wake(&self) {}
    fn kick(&self) -> Result<()> {
        Ok(())
    }
}

static DEVICES: LazyLock<[Arc<dyn BlockDevice>; 2]> = LazyLock::new(|| {
    [Arc::new(MemoryDevice::new(SIZE).expect("memory")), Arc::new(MemoryDevice::read_only(vec![0x55; SIZE as usize]))]
});

fn region() -> Region {
    let region = Region::in_memory(DATA.end).expect("memory");
    let put = |at, bytes: &[u8]| region.put(at, bytes).expect("inside");
    put(mailbox::VERSION, &2u16.to_ne_bytes());
    put(mailbox::FLAGS, &(mailbox::OUT_OF_ORDER | mailbox::READ_LEN).to_ne_bytes());
    put(mailbox::RING_OFFSET, &(mailbox::BYTES as u32).to_ne_bytes());
    put(mailbox::RING_BYTES, &(RING_BYTES as u32).to_ne_bytes());
    region
}

fn serve(region: &Arc<Region>, device: &Arc<dyn BlockDevice>) -> bool {
    let Ok(ring) = Ring::new(Arc::clone(region)) else { return false };
    let options = Options { block_bytes: 512, serial: "f".into(), name: "fuzz".into(), workers: 2, report: None };
    Server::serve(Arc::clone(device), ring, Arc::new(Silence), options).expect("a device and its names");
    true
}

/// The input is the ring, with whatever entries and head.
fn any_ring(bytes: &[u8], device: &Arc<dyn BlockDevice>) {
    let region = Arc::new(region());
    let (head, entries) = bytes.split_at(bytes.len().min(4));
    region.put(mailbox::HEAD, head).expect("inside");
    let room = DATA.end - mailbox::BYTES;
    region.put(mailbox::BYTES, &entries[..entries.len().min(room)]).expect("inside");
    serve(&region, device);
}

/// The input is one command after the other: block, number of pieces, data. Each must be completed, in its place or
/// another's, and what is answered holds nothing of others.
fn commands(bytes: &[u8]) {
    let region = Arc::new(region());
    region.put(DATA.start, &vec![STALE; DATA.len()]).expect("inside");
    let (mut at, mut place, mut sent) = (0, DATA.start, Vec::new());
    for command in bytes.chunks(17) {
        let (shape, cdb) = command.split_first().expect("a chunk is not empty");
        let (pieces, len) = (usize::from(shape & 3), usize::from(shape >> 2) * 37);
        let list = entry::PIECE + 16 * pieces;
        let size = (list + 16).next_multiple_of(8).max(entry::BYTES);
        if at + size >= RING_BYTES || place + pieces * (len + 5) > DATA.end {
            break;
        }
        let base = mailbox::BYTES + at;
        let put = |field: usize, bytes: &[u8]| region.put(base + field, bytes).expect("inside");
        let id = sent.len() as u16 + 1;
        put(0, &(size as u32 | entry::CMD).to_ne_bytes());
        put(entry::ID, &id.to_ne_bytes());
        put(entry::PIECES, &(pieces as u32).to_ne_bytes());
        put(entry::CDB, &((base + list) as u64).to_ne_bytes());
        put(list, cdb);
        let mut places = Vec::new();
        for piece in 0..pieces {
            put(entry::PIECE + 16 * piece, &(place as u64).to_ne_bytes());
            put(entry::PIECE + 16 * piece + 8, &(len as u64).to_ne_bytes());
            places.push(place..place + len);
            place += len + 5;
        }
        sent.push((cdb.first() == Some(&0x12) || cdb.first() == Some(&0x28), places));
        at += size;
    }
    region.store_release(mailbox::HEAD, at as u32).expect("inside");
    assert!(serve(&region, &DEVICES[1]));
    assert_eq!(region.load_acquire(mailbox::TAIL).expect("inside"), at as u32, "all are completed");
    let mut done = vec![false; sent.len()];
    let mut at = mailbox::BYTES;
    for _ in 0..sent.len() {
        let word = region.get_u32(at).expect("inside");
        let id = usize::from(region.get_u16(at + entry::ID).expect("inside")) - 1;
        assert!(!std::mem::replace(&mut done[id], true), "a command is completed once");
        let mut status = [0];
        region.get(at + entry::STATUS, &mut status).expect("inside");
        let (reads, places) = &sent[id];
        for place in places.iter().filter(|_| *reads && status == [0]) {
            let mut data = vec![0; place.len()];
            region.get(place.start, &mut data).expect("inside");
            assert!(!data.contains(&STALE), "data of another command is shown");
        }
        at += (word & !entry::OPERATION) as usize;
    }
}

fuzz_target!(|bytes: &[u8]| {
    match bytes.split_first() {
        Some((mode, rest)) if mode & 1 == 0 => any_ring(rest, &DEVICES[usize::from(mode >> 1 & 1)]),
        Some((_, rest)) => commands(rest),
        None => {}
    }
});
