//! Fuzzes partition tables whose checksums are right: a GPT or the chain of an MBR, with fields changed.
#![no_main]

#[allow(dead_code)]
#[path = "input.rs"]
mod input;

use std::sync::Arc;

use crc_fast::{checksum, CrcAlgorithm};
use input::Input;
use libfuzzer_sys::fuzz_target;
use overlaybd::fs::partitions::{only_linux, partitions, Part};
use overlaybd::fs::ReadAt;

const SECTOR: usize = 512;
const SECTORS: usize = 64;
const ENTRIES: usize = 4;
/// Where the entries of a GPT are, and those of its copy.
const LISTS: [usize; 2] = [2, SECTORS - 2];

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut disk = vec![0; SECTORS * SECTOR];
    match input.byte() % 3 {
        0 => gpt(&mut disk, &mut input),
        1 => chain(&mut disk, &mut input),
        _ => {
            gpt(&mut disk, &mut input);
            input.change(&mut disk, 6);
        }
    }
    let len = disk.len() as u64;
    let Ok(found) = partitions(&disk) else { return };
    let disk: Arc<dyn ReadAt> = Arc::new(disk);
    let mut number = 0;
    for partition in &found {
        assert!(partition.number > number, "{partition:?} after number {number}");
        number = partition.number;
        assert!(partition.len > 0 && partition.start > 0, "{partition:?}");
        assert!(partition.start.checked_add(partition.len).is_some_and(|end| end <= len), "{partition:?}");
        let part = Part::new(disk.clone(), partition);
        part.read_at(&mut vec![0; part.len() as usize], 0).expect("a partition lies on its disk");
        part.read_at(&mut [0], part.len()).expect_err("what lies behind a partition is not its own");
    }
    if let Some(only) = only_linux(&found) {
        assert!(only.kind.is_linux());
    }
});

/// Two tables, each of which the input may change before its checksums are made.
fn gpt(disk: &mut [u8], input: &mut Input) {
    disk[446 + 4] = 0xee;
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (table, list) in [1, SECTORS - 1].into_iter().zip(LISTS) {
        let how = input.byte();
        let mut entries = vec![0; ENTRIES * 128];
        for (number, entry) in (1u64..).zip(entries.chunks_mut(128)) {
            entry[..16].fill(input.byte());
            entry[32..40].copy_from_slice(&2u64.wrapping_add(input.number()).to_le_bytes());
            entry[40..48].copy_from_slice(&number.wrapping_add(input.number()).to_le_bytes());
            entry[56..58].copy_from_slice(&input.word().to_le_bytes());
        }
        if how & 1 != 0 {
            input.change(&mut entries, 4);
        }
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[24..32].copy_from_slice(&(table as u64).to_le_bytes());
        header[72..80].copy_from_slice(&(list as u64).to_le_bytes());
        header[80..84].copy_from_slice(&(ENTRIES as u32).to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc(&entries).to_le_bytes());
        if how & 2 != 0 {
            input.change(&mut header, 2);
        }
        header[16..20].fill(0);
        let sum = if how & 4 == 0 { crc(&header) } else { 0 };
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        disk[table * SECTOR..][..92].copy_from_slice(&header);
        disk[list * SECTOR..][..entries.len()].copy_from_slice(&entries);
    }
}

/// Entries of an MBR and of the links of its chain.
fn chain(disk: &mut [u8], input: &mut Input) {
    for link in 0..8 {
        let sector = &mut disk[link * SECTOR..][..SECTOR];
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
        for entry in sector[446..510].chunks_mut(16).take(if link == 0 { 4 } else { 2 }) {
            entry[4] = [0, 0x83, 0x05, 0x0f, 0x07][usize::from(input.byte() % 5)];
            entry[8..12].copy_from_slice(&(input.number() as u32).to_le_bytes());
            entry[12..16].copy_from_slice(&(input.number() as u32).to_le_bytes());
        }
    }
}

fn crc(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}
