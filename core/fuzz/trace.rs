//! Fuzzes traces and lists of paths: the parser, the plan of fetches that is made of records, and what a list finds.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use overlaybd::blob::{Blob, MemoryBlob};
use overlaybd::lsmt::{Layer, Stack};
use overlaybd::trace::{self, Record, HEADER_BYTES, RECORD_BYTES};
use overlaybd::zfile::crc;

/// Bytes of the layers that a trace is replayed on.
const LENS: [u64; 3] = [5 << 20, 0, 1 << 30];
/// Most notes about one list, as the core has it: a line can lead to one at most.
const MAX_NOTES: usize = 65536;

/// The ext4 of the corpus as the only layer of an image, which lists are looked up in.
static IMAGE: LazyLock<Arc<Stack>> = LazyLock::new(|| {
    let layer: Arc<dyn Blob> = Arc::new(MemoryBlob::new("image", include_bytes!("image.bin").to_vec()));
    let layer = Layer::open(layer).expect("a layer");
    Arc::new(Stack::new(vec![layer]).expect("one layer makes a stack"))
});

fuzz_target!(|bytes: &[u8]| {
    match bytes.split_first() {
        Some((0, text)) => list(text),
        Some((1, body)) => records(body),
        Some((_, file)) => drop(trace::parse(file)),
        None => {}
    }
});

/// Records under a header that is right: what is read of them survives being written.
fn records(body: &[u8]) {
    let body = &body[..body.len() / RECORD_BYTES * RECORD_BYTES];
    let mut file = trace::encode(&[])[..HEADER_BYTES].to_vec();
    file[8..16].copy_from_slice(&(body.len() as u64).to_le_bytes());
    file[16..20].copy_from_slice(&crc::raw(crc::START, body).to_le_bytes());
    file.extend_from_slice(body);
    let records = trace::parse(&file).expect("header and checksum are right");
    assert!(trace::parse(&trace::encode(&records)).expect("what was written") == records);
    let (pieces, outside) = trace::plan(&records, &LENS);
    assert!(outside <= records.len());
    for piece in &pieces {
        assert!(piece.len > 0 && piece.offset + piece.len <= LENS[piece.layer as usize], "{piece:?}");
    }
    for Record { layer, offset, .. } in &records {
        if LENS.get(*layer as usize).is_some_and(|len| offset < len) {
            let covers = |p: &&trace::Piece| p.layer == *layer && (p.offset..p.offset + p.len).contains(offset);
            assert!(pieces.iter().any(|p| covers(&p)), "nothing fetches {offset} of layer {layer}");
        }
    }
}

fn list(text: &[u8]) {
    let len = IMAGE.blobs()[0].len();
    let mut notes = 0;
    let mut feed = |piece: trace::Piece| {
        assert!(piece.layer == 0 && piece.len > 0 && piece.offset + piece.len <= len, "{piece:?}");
        true
    };
    let mut note = |line: String| {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        notes += 1;
    };
    trace::path_list(&IMAGE, text, &mut feed, &mut note).expect("a good file system");
    assert!(notes <= MAX_NOTES.min(text.len()), "{notes} notes");
}
