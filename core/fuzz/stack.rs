//! Fuzzes stacks: layers of whatever entries, plain ones and turboOCI, that are read, asked, merged and restacked as
//! one device; a naive painter says what must be there.
#![no_main]

#[allow(dead_code)]
#[path = "input.rs"]
mod input;

use std::sync::Arc;

use input::Input;
use libfuzzer_sys::fuzz_target;
use overlaybd::blob::{Blob, MemoryBlob};
use overlaybd::lsmt::commit::CommitOptions;
use overlaybd::lsmt::header::{Header, BLOCK_BYTES, COMMITTED_FLAGS, TRAILER_FLAGS};
use overlaybd::lsmt::{commit, warp, Layer, Segment, Stack, Uuid};
use overlaybd::sink::MemorySink;
use overlaybd::{progress, Result};

/// Sectors of the device that are painted and compared.
const SECTORS: usize = 48;
/// Sectors of data in each layer, and of the target of one of turboOCI.
const DATA: u64 = 8;
const TARGET: u64 = 8;
const SECTOR: usize = 512;

/// A layer's own bytes, and what the painter knows of it.
struct Made {
    file: Vec<u8>,
    segments: Vec<Segment>,
    turbo: bool,
}

/// A byte that tells a sector of a layer's data from all others.
fn mark(layer: usize, sector: u64) -> u8 {
    (layer as u8) << 6 | (sector as u8 & 0x3f)
}

/// A layer of entries that the input names: mostly in order and inside, sometimes not.
fn make(number: usize, input: &mut Input) -> Made {
    let shape = input.byte();
    let turbo = shape & 0x80 != 0;
    let (mut segments, mut next) = (Vec::new(), 0u64);
    for _ in 0..shape & 0x1f {
        let (gap, how) = (input.number(), input.byte());
        let segment = Segment {
            offset: next.wrapping_add(gap) & ((1 << 50) - 1),
            length: if how & 0x40 == 0 { u32::from(how & 0x0f) } else { u32::from(input.word() & 0x3fff) },
            moffset: (BLOCK_BYTES / SECTOR) as u64 * u64::from(how & 0x20 == 0 || !turbo) + input.number() % (1 << 50),
            zeroed: how & 0x10 != 0,
            tag: if turbo && how & 0x20 != 0 { warp::REMOTE } else { how >> 7 },
        };
        next = segment.end();
        segments.push(segment);
    }
    let mut file = header(COMMITTED_FLAGS, 0, 0, SECTORS);
    for sector in 0..DATA {
        file.extend([mark(number, sector + 8); SECTOR]);
    }
    let index = file.len() as u64;
    file.extend(segments.iter().flat_map(|segment| segment.to_bytes()));
    file.resize(file.len().next_multiple_of(BLOCK_BYTES), 0);
    file.extend(header(TRAILER_FLAGS, index, segments.len() as u64, SECTORS));
    // Also what nobody would write: in the headers, in the index.
    if shape & 0x40 != 0 {
        let from = file.len() - 2 * BLOCK_BYTES;
        let fields = if input.byte() & 1 == 0 { &mut file[from..][BLOCK_BYTES..][..64] } else { &mut file[..64] };
        input.change(fields, 2);
        // What was read of it is what counts.
        segments.clear();
    }
    Made { file, segments, turbo }
}

fn header(flags: u32, index_offset: u64, index_entries: u64, sectors: usize) -> Vec<u8> {
    let size = (sectors * SECTOR) as u64;
    let header = Header::new(flags, size, Uuid::NULL, Uuid::NULL, b"fuzz").expect("a short message");
    Header { index_offset, index_entries, ..header }.to_block().to_vec()
}

fn blob(bytes: &[u8]) -> Arc<dyn Blob> {
    Arc::new(MemoryBlob::new("fuzz", bytes.to_vec()))
}

fn target() -> Arc<dyn Blob> {
    let sectors = (0..TARGET).flat_map(|sector| [0xc0 | sector as u8; SECTOR]);
    // It ends in the middle of one.
    Arc::new(MemoryBlob::new("target", sectors.take(TARGET as usize * SECTOR - 100).collect()))
}

fn open(made: &Made) -> Result<Layer> {
    if made.turbo {
        warp::open(blob(&made.file), target(), |joined| joined)
    } else {
        Layer::open(blob(&made.file))
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let count = 1 + usize::from(input.byte() % 3);
    let made: Vec<Made> = (0..count).map(|number| make(number, &mut input)).collect();
    let layers: Vec<Layer> = made.iter().filter_map(|made| open(made).ok()).collect();
    if layers.len() < count {
        return;
    }
    let painted = paint(&made, &layers);
    let stack = Stack::new(layers).expect("few layers with few entries");
    check(&stack, &painted);
    // One on top of the others, one by one, is the same stack.
    let mut grown = Stack::new(vec![open(&made[0]).expect("it opened before")]).expect("a layer");
    for made in &made[1..] {
        grown = grown.with_layer_on_top(&open(made).expect("it opened before")).expect("few entries");
    }
    assert!(grown.index().iter().eq(stack.index().iter()), "a restack is not a stack");
    merged(&made, &stack);
});

/// What each sector of the device is to hold, sector by sector; None where a layer's data cannot be read.
fn paint(made: &[Made], layers: &[Layer]) -> Vec<[u8; SECTOR]> {
    let mut painted = vec![[0; SECTOR]; SECTORS];
    for (number, (made, layer)) in made.iter().zip(layers).enumerate() {
        // Where fields were changed, another index may have been read than was written.
        let segments = if made.segments.is_empty() { layer.segments() } else { &made.segments };
        for segment in segments {
            for step in 0..u64::from(segment.length) {
                let Some(to) = painted.get_mut((segment.offset + step) as usize) else { break };
                let at = segment.moffset + step;
                to.fill(0);
                if !segment.zeroed {
                    sector(made, layer, number, segment, at, to);
                }
            }
        }
    }
    painted
}

fn sector(made: &Made, layer: &Layer, number: usize, segment: &Segment, at: u64, to: &mut [u8; SECTOR]) {
    if made.segments.is_empty() {
        layer.blob().read_at(to, at * SECTOR as u64).expect("an index was checked against its file");
    } else if made.turbo && segment.tag == warp::REMOTE {
        let target = target();
        let from = (at * SECTOR as u64).min(target.len());
        let there = (target.len() - from).min(SECTOR as u64) as usize;
        target.read_at(&mut to[..there], from).expect("memory");
    } else if at < 8 + DATA {
        assert!(at >= 8, "an entry that maps to the header");
        to.fill(mark(number, at));
    } else {
        to.copy_from_slice(&made.file[at as usize * SECTOR..][..SECTOR]);
    }
}

fn check(stack: &Stack, painted: &[[u8; SECTOR]]) {
    let mut device = vec![0xee; SECTORS * SECTOR];
    stack.read_at(&mut device, 0).expect("what an index maps can be read");
    for (number, (found, wanted)) in device.chunks(SECTOR).zip(painted).enumerate() {
        assert!(found == wanted, "sector {number} begins {:?}, not {:?}", &found[..4], &wanted[..4]);
    }
    let (from, len) = (7, 30);
    let mut part = vec![0xee; len * SECTOR];
    stack.read_at(&mut part, (from * SECTOR) as u64).expect("a part of what can be read");
    assert!(part == device[from * SECTOR..][..len * SECTOR], "two reads differ");
    assert!(stack.is_ready(0, device.len() as u64), "memory is always there");
    let mut covered = 0;
    for segment in stack.index().iter() {
        assert!(segment.offset >= covered && segment.length > 0, "a merged index in disorder");
        covered = segment.end();
    }
}

/// All layers as one: if that can be written it reads the same.
fn merged(made: &[Made], stack: &Stack) {
    let far = stack.index().iter().any(|s| !s.zeroed && s.end() > 1 << 20);
    if made.iter().any(|made| made.turbo) || far {
        return;
    }
    let layers = made.iter().map(|made| open(made).expect("it opened before")).collect();
    let mut sink = MemorySink::default();
    let done = commit::merge(layers, &CommitOptions::default(), &mut sink, &mut progress::silent);
    done.expect("what can be read can be merged");
    let again = Layer::open(blob(&sink.bytes)).expect("our own layer");
    let again = Stack::new(vec![again]).expect("a layer");
    let (mut before, mut after) = (vec![1; SECTORS * SECTOR], vec![2; SECTORS * SECTOR]);
    stack.read_at(&mut before, 0).expect("it was read before");
    again.read_at(&mut after, 0).expect("our own layer");
    assert!(before == after, "merged layers read otherwise");
}
