//! Stacks: whose size counts, what is ready, what an error says; and what a commit tells of its progress.

use std::sync::Arc;

use overlaybd::blob::{Blob, MemoryBlob};
use overlaybd::lsmt::commit::{commit, CommitOptions};
use overlaybd::lsmt::header::{COMMITTED_FLAGS, TRAILER_FLAGS};
use overlaybd::lsmt::{Header, Layer, Segment, Stack, Uuid};
use overlaybd::sink::MemorySink;
use overlaybd::{Error, Kind};

/// A blob of which only so many bytes are here; the others can be had or not.
struct Part {
    all: MemoryBlob,
    here: u64,
}

impl Blob for Part {
    fn name(&self) -> &str {
        self.all.name()
    }

    fn len(&self) -> u64 {
        self.all.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> overlaybd::Result<()> {
        // Index and trailer, at the end, are read when the layer is opened.
        let end = offset + buf.len() as u64;
        if end > self.here && offset < INDEX {
            return Err(Error::new(Kind::Io, "not to be had"));
        }
        self.all.read_at(buf, offset)
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        offset + len <= self.here
    }
}

const SECTORS: u64 = 16;
const INDEX: u64 = 4096 + SECTORS * 512;

/// A finished layer that maps the first sectors of a device of `size` bytes.
fn layer(size: u64, here: u64) -> Layer {
    let header = Header::new(COMMITTED_FLAGS, size, Uuid::NULL, Uuid::NULL, b"").unwrap();
    let mut bytes = header.to_block().to_vec();
    bytes.resize(INDEX as usize, 7);
    let entry = Segment { offset: 0, length: SECTORS as u32, moffset: 8, zeroed: false, tag: 0 };
    bytes.extend(entry.to_bytes());
    bytes.extend(Header { flags: TRAILER_FLAGS, index_offset: INDEX, index_entries: 1, ..header }.to_block());
    Layer::open(Arc::new(Part { all: MemoryBlob::new("part", bytes), here })).unwrap()
}

#[test]
fn the_topmost_size_that_is_said_counts() {
    let below = Stack::new(vec![layer(1 << 20, INDEX)]).unwrap();
    assert_eq!(below.with_layer_on_top(&layer(1 << 21, INDEX)).unwrap().virtual_size(), 1 << 21);
    assert_eq!(below.with_layer_on_top(&layer(1 << 19, INDEX)).unwrap().virtual_size(), 1 << 19);
    assert_eq!(below.with_layer_on_top(&layer(0, INDEX)).unwrap().virtual_size(), 1 << 20);
}

#[test]
fn a_range_is_ready_if_all_of_it_is_here() {
    let ready =
        |here: u64, offset: u64, len: u64| Stack::new(vec![layer(1 << 20, here)]).unwrap().is_ready(offset, len);
    for sectors in 1..=SECTORS {
        let bytes = sectors * 512;
        assert!(ready(4096 + bytes, 0, bytes) && !ready(4096 + bytes - 1, 0, bytes), "{sectors} sectors");
    }
    assert!(ready(4096, SECTORS * 512, 4096), "what no layer holds is zeros");
    assert!(ready(INDEX, 0, u64::MAX));
}

#[test]
fn an_error_names_the_layer_from_the_bottom_and_the_place() {
    let zeros = |number: u64| {
        let header = Header::new(COMMITTED_FLAGS, 1 << 20, Uuid::NULL, Uuid::NULL, b"").unwrap();
        let mut bytes = header.to_block().to_vec();
        bytes.extend(Segment { offset: 500 + number, length: 1, moffset: 8, zeroed: true, tag: 0 }.to_bytes());
        bytes.extend(Header { flags: TRAILER_FLAGS, index_offset: 4096, index_entries: 1, ..header }.to_block());
        Layer::open(Arc::new(MemoryBlob::new("zeros", bytes))).unwrap()
    };
    for place in 0..4 {
        let layers = (0..4).map(|n| if n == place { layer(1 << 20, 4096) } else { zeros(n) }).collect();
        let error = Stack::new(layers).unwrap().read_at(&mut [0; 1024], 1024).unwrap_err();
        let (text, number) = (error.to_string(), place + 1);
        assert!(text.contains(&format!("layer {number} of 4, device offset 1024")), "{text}");
    }
}

#[test]
fn a_commit_tells_how_far_it_is() {
    let mut told = Vec::new();
    let mut sink = MemorySink::default();
    let source = layer(1 << 20, INDEX);
    let mut progress = |done: u64, total: u64| {
        told.push((done, total));
        Ok(())
    };
    commit(&source, &CommitOptions::default(), &mut sink, &mut progress).unwrap();
    assert_eq!(told.last(), Some(&(SECTORS * 512, SECTORS * 512)), "{told:?}");
    assert!(told.is_sorted());
    let mut stop = |_, _| Err(Error::new(Kind::Interrupted, "enough"));
    let error = commit(&source, &CommitOptions::default(), &mut MemorySink::default(), &mut stop).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
}
