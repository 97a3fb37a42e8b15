//! Fuzzes the readers of partition tables, ext4 and EROFS: any bytes, or an image of mkfs with some bytes changed.
#![no_main]

use std::collections::HashSet;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use overlaybd::fs::partitions::partitions;
use overlaybd::fs::{first_difference, open_in, FileSystem, Node, Type};
use overlaybd::limits::{MAX_FILE_EXTENTS, MAX_XATTR_BYTES};

/// Good images; in the corpus a byte stands before them.
const IMAGES: [&[u8]; 4] = [
    include_bytes!("corpus/fs/ext4"),
    include_bytes!("corpus/fs/ext2"),
    include_bytes!("corpus/fs/erofs"),
    include_bytes!("corpus/fs/erofs-chunks"),
];
/// Files looked at, and bytes of each that are read.
const FILES: usize = 64;
const PART: u64 = 20 << 10;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let image = match IMAGES.get((*kind as usize).wrapping_sub(1)) {
        Some(image) => changed(&image[1..], rest),
        None => rest.to_vec(),
    };
    let len = image.len() as u64;
    for partition in partitions(&image).unwrap_or_default() {
        assert!(partition.start + partition.len <= len, "{partition:?} of {len} bytes");
    }
    if let Ok((files, _)) = open_in(Arc::new(image), None) {
        walk(&files, len);
    }
});

/// An image with changes: five bytes each, a place and what is there then.
fn changed(image: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    for change in changes.chunks_exact(5) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
        for (place, byte) in image.iter_mut().skip(at).zip(&change[2..]) {
            *place = *byte;
        }
    }
    image
}

fn walk(files: &FileSystem, len: u64) {
    let Ok(root) = files.root() else { return };
    let (mut seen, mut left) = (HashSet::from([root.number]), vec![root]);
    while let Some(node) = left.pop() {
        look(files, &node, len);
        let mut numbers = Vec::new();
        let _ = files.entries(&node, |name, number| {
            assert!(!name.is_empty() && !name.contains(&b'/'));
            numbers.push((name.to_vec(), number));
            numbers.len() < FILES
        });
        for (name, number) in numbers {
            if seen.len() < FILES && seen.insert(number) {
                let _ = files.lookup(&node, &name);
                left.extend(files.node(number));
            }
        }
    }
}

fn look(files: &FileSystem, node: &Node, len: u64) {
    if let Ok(extents) = files.extents(node) {
        assert!(extents.len() <= MAX_FILE_EXTENTS);
        let mut next = 0;
        for extent in extents {
            assert!(extent.offset >= next && extent.device + extent.len <= len, "{extent:?}");
            next = extent.offset + extent.len;
            assert!(next <= node.size, "{extent:?} of {} bytes", node.size);
            let first = files.extents_from(node, extent.offset, next, 1).expect("a part of what is known");
            assert_eq!(first.first().map(|part| part.offset), Some(extent.offset), "another way there");
        }
    }
    let part = node.size.min(PART) as usize;
    for start in [0, node.size - part as u64] {
        let (mut whole, mut second) = (vec![1; part], vec![2; part / 2]);
        if files.read_at(node, &mut whole, start).is_ok() {
            let half = start + (part - part / 2) as u64;
            files.read_at(node, &mut second, half).expect("a part of what can be read");
            assert!(second == whole[part - part / 2..], "two reads differ");
        }
    }
    if let Ok(attributes) = files.attributes(node) {
        let bytes: usize = attributes.iter().map(|(_, value)| value.len()).sum();
        assert!(bytes <= 2 * MAX_XATTR_BYTES, "{bytes} bytes of attributes");
    }
    if node.kind() == Type::File && node.size <= PART {
        if let Ok(place) = first_difference((files, node), (files, node), &mut |_| Ok(())) {
            assert_eq!(place, None, "a file differs from itself");
        }
    }
    if node.kind() == Type::Link {
        let _ = files.read_link(node);
    }
}
