//! Fuzzes SCSI commands with their data: command blocks, lists of UNMAP and MODE SELECT, sectors of WRITE SAME; what a
//! naive disk would hold afterwards is what the device must hold.
#![no_main]

#[allow(dead_code)]
#[path = "input.rs"]
mod input;

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};

use input::Input;
use libfuzzer_sys::fuzz_target;
use overlaybd::device::{BlockDevice, MemoryDevice};
use overlaybd::serve::tcmu::scsi::op;
use overlaybd::serve::tcmu::{entry, mailbox, Link, Options, Region, Ring, Server};
use overlaybd::{Error, Result};

/// Sectors of the device, and bytes of one.
const SECTORS: usize = 24;
const UNIT: usize = 512;
const RING_BYTES: usize = 4 << 10;
const DATA: Range<usize> = mailbox::BYTES + RING_BYTES..mailbox::BYTES + RING_BYTES + (16 << 10);
const COMMANDS: usize = 8;
/// All that have a meaning here, so that few inputs are spent on finding them.
const OPS: [u8; 16] = [
    op::WRITE_10,
    op::READ_10,
    op::WRITE_16,
    op::UNMAP,
    op::WRITE_SAME_10,
    op::WRITE_SAME_16,
    op::MODE_SELECT_6,
    op::MODE_SELECT_10,
    op::COMPARE_AND_WRITE,
    op::VERIFY_10,
    op::VERIFY_16,
    op::WRITE_6,
    op::READ_16,
    op::SERVICE_ACTION_IN,
    op::MAINTENANCE_IN,
    op::SYNCHRONIZE_CACHE_10,
];

/// A command, its data, and in how many pieces that is.
type Command = ([u8; 16], Vec<u8>, usize);

/// One that was sent: also where its entry and the pieces of its data are.
struct Sent {
    cdb: [u8; 16],
    data: Vec<u8>,
    base: usize,
    places: Vec<Range<usize>>,
}

/// The kernel's side: sends a command when the one before it was completed and looked at.
struct Kernel {
    region: Arc<Region>,
    device: Arc<dyn BlockDevice>,
    state: Mutex<State>,
    told: Condvar,
}

struct State {
    /// Last one first.
    left: Vec<Command>,
    sent: Option<Sent>,
    head: u32,
    model: Vec<u8>,
}

impl Link for Kernel {
    fn wait(&self) -> Result<()> {
        let mut state = self.state.lock().expect("no panic");
        while self.region.load_acquire(mailbox::TAIL).expect("inside") != state.head {
            state = self.told.wait(state).expect("no panic");
        }
        if let Some(sent) = state.sent.take() {
            self.look(&sent, &mut state.model);
        }
        let next = state.left.pop().ok_or_else(|| Error::corrupt("the end of the input"))?;
        self.send(next, &mut state);
        Ok(())
    }

    fn wake(&self) {}

    fn kick(&self) -> Result<()> {
        let _state = self.state.lock().expect("no panic");
        self.told.notify_one();
        Ok(())
    }
}

impl Kernel {
    fn put(&self, at: usize, bytes: &[u8]) {
        self.region.put(at, bytes).expect("inside");
    }

    fn send(&self, (cdb, data, pieces): Command, state: &mut State) {
        let base = mailbox::BYTES + state.head as usize;
        let list = entry::PIECE + 16 * pieces;
        let size = (list + 16).next_multiple_of(8).max(entry::BYTES);
        self.put(base, &(size as u32 | entry::CMD).to_ne_bytes());
        self.put(base + entry::ID, &1u16.to_ne_bytes());
        self.put(base + entry::PIECES, &(pieces as u32).to_ne_bytes());
        self.put(base + entry::CDB, &((base + list) as u64).to_ne_bytes());
        self.put(base + list, &cdb);
        let (mut at, mut places) = (DATA.start, Vec::new());
        let parts = data.chunks(data.len().div_ceil(pieces).max(1)).chain([&[][..]; 3]).take(pieces);
        for (number, piece) in parts.enumerate() {
            self.put(base + entry::PIECE + 16 * number, &(at as u64).to_ne_bytes());
            self.put(base + entry::PIECE + 16 * number + 8, &(piece.len() as u64).to_ne_bytes());
            self.put(at, piece);
            places.push(at..at + piece.len());
            // So that they are not one by chance.
            at += piece.len() + 8;
        }
        state.head += size as u32;
        state.sent = Some(Sent { cdb, data, base, places });
        self.region.store_release(mailbox::HEAD, state.head).expect("inside");
    }

    /// Holds what has come of a command against the model.
    fn look(&self, sent: &Sent, model: &mut [u8]) {
        let cdb = &sent.cdb;
        let mut status = [0];
        self.region.get(sent.base + entry::STATUS, &mut status).expect("inside");
        let mut answer = vec![0; sent.data.len()];
        let mut done = 0;
        for place in &sent.places {
            self.region.get(place.start, &mut answer[done..done + place.len()]).expect("inside");
            done += place.len();
        }
        let reads = [op::READ_6, op::READ_10, op::READ_12, op::READ_16].contains(&cdb[0]);
        if status == [0] && reads {
            let (first, count) = range(cdb);
            let there = (count * UNIT).min(answer.len());
            assert!(answer[..there] == model[first * UNIT..][..there], "{cdb:02x?} reads what is not there");
            assert!(answer[there..].iter().all(|byte| *byte == 0), "{cdb:02x?} leaves what was there before");
        }
        if status == [0] {
            play(model, cdb, &sent.data);
        }
        let mut held = vec![1; SECTORS * UNIT];
        self.device.read_at(&mut held, 0).expect("memory");
        assert!(held == model, "after {cdb:02x?} (status {status:?}) the device is not what it should be");
    }
}

/// A command block of the input: any bytes, or a known command with small numbers where it has its range.
fn block(input: &mut Input) -> [u8; 16] {
    let mut cdb = [0; 16];
    let kind = input.byte();
    if kind & 0x80 != 0 {
        let bytes = input.bytes(16);
        cdb[..bytes.len()].copy_from_slice(bytes);
        return cdb;
    }
    cdb[0] = OPS[usize::from(kind % 16)];
    cdb[1] = input.byte();
    let (first, count) = (input.byte() % 32, input.byte() % 32);
    match cdb[0] >> 5 {
        0 => (cdb[3], cdb[4]) = (first, count),
        1 | 2 => (cdb[5], cdb[8]) = (first, count),
        _ => (cdb[9], cdb[13]) = (first, count),
    }
    match cdb[0] {
        op::UNMAP => cdb[8] = 8 + 16 * (count % 4),
        op::COMPARE_AND_WRITE => cdb[13] = count % 3,
        op::MODE_SELECT_6 | op::MODE_SELECT_10 => cdb[1] |= 0x10,
        _ => {}
    }
    if kind & 0x40 != 0 {
        input.change(&mut cdb[1..], 1);
    }
    cdb
}

/// The data that goes with a command: a list that makes sense, or sectors that are repeated, with changes.
fn data(cdb: &[u8; 16], input: &mut Input) -> Vec<u8> {
    let shape = input.byte();
    let mut data = match cdb[0] {
        op::UNMAP => {
            let mut list = vec![0; 8];
            for _ in 0..shape % 4 {
                list.extend([0, 0, 0, 0, 0, 0, 0, input.byte() % 32, 0, 0, 0, input.byte() % 16, 0, 0, 0, 0]);
            }
            let len = list.len() as u16;
            list[..2].copy_from_slice(&(len - 2).to_be_bytes());
            list[2..4].copy_from_slice(&(len - 8).to_be_bytes());
            list
        }
        op::MODE_SELECT_6 => [&[0, 0, 0x10, 0][..], &[8, 18, 4], &[0; 17]].concat(),
        op::MODE_SELECT_10 => [&[0, 0, 0, 0x10, 0, 0, 0, 0][..], &[8, 18, 4], &[0; 17]].concat(),
        _ => vec![shape; usize::from(shape % 8) * UNIT],
    };
    if input.byte() & 1 != 0 {
        input.change(&mut data, 3);
        data.truncate(data.len() - usize::from(input.byte() % 3).min(data.len()));
    }
    data
}

/// First sector and number of sectors that a command names at the usual places.
fn range(cdb: &[u8; 16]) -> (usize, usize) {
    let number = |range: Range<usize>| cdb[range].iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
    match cdb[0] >> 5 {
        0 => (number(1..4) & 0x1f_ffff, if cdb[4] == 0 { 256 } else { number(4..5) }),
        1 | 2 => (number(2..6), number(7..9)),
        5 => (number(2..6), number(6..10)),
        _ => (number(2..10), number(10..14)),
    }
}

/// What the device holds, for a disk that does one thing after the other and knows few of them.
fn play(model: &mut [u8], cdb: &[u8; 16], data: &[u8]) {
    let (first, count) = range(cdb);
    match cdb[0] {
        op::WRITE_6 | op::WRITE_10 | op::WRITE_12 | op::WRITE_16 => {
            model[first * UNIT..][..count * UNIT].copy_from_slice(&data[..count * UNIT]);
        }
        op::COMPARE_AND_WRITE => {
            let len = usize::from(cdb[13]) * UNIT;
            assert!(model[first * UNIT..][..len] == data[..len], "found what is not there");
            model[first * UNIT..][..len].copy_from_slice(&data[len..2 * len]);
        }
        op::WRITE_SAME_10 | op::WRITE_SAME_16 => {
            let zeros = cdb[0] == op::WRITE_SAME_16 && cdb[1] & 1 != 0;
            let sector = if zeros { &[0; UNIT] } else { &data[..UNIT] };
            model[first * UNIT..][..count * UNIT].chunks_mut(UNIT).for_each(|each| each.copy_from_slice(sector));
        }
        op::UNMAP if count >= 8 => {
            let len = usize::from(u16::from_be_bytes([data[2], data[3]]));
            for range in data[8..][..len / 16 * 16].chunks_exact(16) {
                let number = |from: usize, to| range[from..to].iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
                model[number(0, 8) * UNIT..][..number(8, 12) * UNIT].fill(0);
            }
        }
        _ => {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut left = Vec::new();
    while input.is_left() && left.len() < COMMANDS {
        let cdb = block(&mut input);
        let data = data(&cdb, &mut input);
        left.push((cdb, data, 1 + usize::from(input.byte() % 3)));
    }
    let count = left.len() as u64;
    left.reverse();
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new((SECTORS * UNIT) as u64).expect("memory"));
    let region = Arc::new(Region::in_memory(DATA.end).expect("memory"));
    let state = State { left, sent: None, head: 0, model: vec![0; SECTORS * UNIT] };
    let kernel = Arc::new(Kernel {
        region: region.clone(),
        device: device.clone(),
        state: Mutex::new(state),
        told: Condvar::new(),
    });
    kernel.put(mailbox::VERSION, &2u16.to_ne_bytes());
    kernel.put(mailbox::FLAGS, &(mailbox::OUT_OF_ORDER | mailbox::READ_LEN).to_ne_bytes());
    kernel.put(mailbox::RING_OFFSET, &(mailbox::BYTES as u32).to_ne_bytes());
    kernel.put(mailbox::RING_BYTES, &(RING_BYTES as u32).to_ne_bytes());
    let ring = Ring::new(region).expect("a ring as the kernel makes it");
    let options = Options { block_bytes: 512, serial: "f".into(), name: "fuzz".into(), workers: 1, report: None };
    let stats = Server::serve(device, ring, kernel, options).expect("a device and its names");
    assert_eq!(stats.requests, count, "each is taken");
});
