//! Finished layers for tests of what lies above them.

use super::commit::{commit, CommitOptions};
use super::upper::{create, open_as_layer, CreateOptions};
use super::Upper;
use crate::progress::silent;
use crate::sink::MemorySink;
use crate::sys::os::OsDisk;

/// The bytes of a layer that holds `device`, whole sectors, in one piece behind its header.
pub(crate) fn layer_of(device: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (data, index) = (dir.path().join("data"), dir.path().join("index"));
    let options = CreateOptions { size: device.len() as u64, ..CreateOptions::default() };
    create(&OsDisk, &data, &index, &options).unwrap();
    let upper = Upper::open(&OsDisk, &data, &index).unwrap();
    upper.write_at(device, 0, |_, _| panic!("whole sectors are written")).unwrap();
    drop(upper);
    let mut sink = MemorySink::default();
    let layer = open_as_layer(&OsDisk, &data, &index).unwrap().0;
    commit(&layer, &CommitOptions::default(), &mut sink, &mut silent).unwrap();
    sink.bytes
}
