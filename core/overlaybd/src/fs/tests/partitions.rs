//! Partition tables as sfdisk makes them; and damaged ones.

use std::io::Write;
use std::process::Stdio;

use super::*;
use crate::fs::partitions::{only_linux, partitions, Part, Partition};

const MIB: u64 = 1 << 20;

/// A disk of 64 MiB with the table that a script of sfdisk says.
fn disk(script: &str) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 * MIB).unwrap();
    let mut command = Command::new("/usr/sbin/sfdisk");
    command.arg("--quiet").arg(file.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::read(file.path()).unwrap()
}

/// Number, first MiB, MiB, type and label.
type Row = (u32, u64, u64, String, String);

fn rows(disk: &Vec<u8>) -> Vec<Row> {
    let row = |p: Partition| (p.number, p.start / MIB, p.len / MIB, p.kind.to_string(), p.label);
    partitions(disk).unwrap().into_iter().map(row).collect()
}

fn row(number: u32, start: u64, len: u64, kind: &str, label: &str) -> Row {
    (number, start, len, kind.into(), label.into())
}

const GPT: &str = "label: gpt\n\
    1: start=1MiB, size=2MiB, type=21686148-6449-6E6F-744E-656564454649\n\
    3: start=3MiB, size=10MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=\"EFI ümläut\"\n\
    2: start=20MiB, size=5MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=home\n\
    9: start=30MiB, size=32MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root\n";
const MBR: &str = "label: dos\n\
    1: start=1MiB, size=2MiB, type=ef, bootable\n\
    3: start=4MiB, size=50MiB, type=5\n\
    4: start=55MiB, size=1MiB, type=82\n\
    5: start=6MiB, size=3MiB, type=7\n\
    6: start=10MiB, size=3MiB, type=83\n\
    7: start=20MiB, size=30MiB, type=b\n";

#[test]
fn a_gpt_is_read_from_its_start_or_its_end() {
    let expected = [
        row(1, 1, 2, "21686148-6449-6E6F-744E-656564454649", ""),
        row(2, 20, 5, "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "home"),
        row(3, 3, 10, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EFI ümläut"),
        row(9, 30, 32, "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "root"),
    ];
    let mut disk = disk(GPT);
    assert_eq!(rows(&disk), expected);
    assert_eq!(only_linux(&partitions(&disk).unwrap()).unwrap().number, 9, "what says that it is the root");
    disk[1024 + 40] ^= 1;
    assert_eq!(rows(&disk), expected, "the first list of entries is damaged");
    disk[512..1024].fill(0);
    assert_eq!(rows(&disk), expected, "there is no first header");
    let end = disk.len() - 512;
    disk[end + 20] ^= 1;
    assert_eq!(partitions(&disk).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn logical_partitions_of_an_mbr_are_found() {
    let mut disk = disk(MBR);
    let expected = [
        row(1, 1, 2, "ef", ""),
        row(4, 55, 1, "82", ""),
        row(5, 6, 3, "07", ""),
        row(6, 10, 3, "83", ""),
        row(7, 20, 30, "0b", ""),
    ];
    assert_eq!(rows(&disk), expected);
    assert_eq!(only_linux(&partitions(&disk).unwrap()).unwrap().number, 6);
    // The second link leads to itself.
    let first = u32::from_le_bytes(disk[446 + 40..446 + 44].try_into().unwrap());
    let link = first as usize * 512;
    let next = u32::from_le_bytes(disk[link + 470..link + 474].try_into().unwrap());
    let second = (first + next) as usize * 512;
    disk[second + 470..second + 474].copy_from_slice(&next.to_le_bytes());
    assert_eq!(partitions(&disk).unwrap_err().kind(), Kind::Limit);
}

#[test]
fn a_disk_without_a_table_has_no_partitions() {
    assert_eq!(rows(&Vec::new()), []);
    assert_eq!(rows(&vec![0; 511]), []);
    assert_eq!(rows(&vec![0; 1 << 20]), []);
    // What begins a FAT: signed, but what stands in the place of entries is a program.
    let mut fat = vec![0x90; 4096];
    (fat[510], fat[511]) = (0x55, 0xAA);
    assert_eq!(rows(&fat), []);
}

#[test]
fn a_partition_beyond_the_disk_is_refused() {
    for script in [GPT, MBR] {
        let mut disk = disk(script);
        disk.truncate(22 << 20);
        assert_eq!(partitions(&disk).unwrap_err().kind(), Kind::Corrupt);
    }
}

#[test]
fn damaged_tables_are_errors_or_harmless() {
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    for script in [GPT, MBR] {
        let mut disk = disk(script);
        for _ in 0..2000 {
            let at = if next(2) == 0 { 446 + next(66) } else { next(2048) };
            let before = std::mem::replace(&mut disk[at], next(256) as u8);
            for partition in partitions(&disk).unwrap_or_default() {
                assert!(partition.start + partition.len <= disk.len() as u64);
            }
            if next(8) > 0 {
                disk[at] = before;
            }
        }
    }
}

#[test]
fn a_file_system_in_a_partition_is_read() {
    let (_, images) = images();
    let mut bytes = disk(GPT);
    bytes[30 << 20..62 << 20].copy_from_slice(&images[0].1);
    let found = partitions(&bytes).unwrap();
    let disk: Arc<dyn ReadAt> = Arc::new(bytes);
    assert_eq!(FileSystem::open(Arc::clone(&disk)).err().unwrap().kind(), Kind::Unsupported);
    let part = Part::new(disk, only_linux(&found).unwrap());
    assert_eq!(part.read_at(&mut [0; 2], part.len() - 1).unwrap_err().kind(), Kind::OutOfBounds);
    let files = FileSystem::open(Arc::new(part)).unwrap();
    assert_eq!(files.resolve(b"names/a b").unwrap().size, 100);
}
