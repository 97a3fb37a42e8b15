//! Images built here, entry by entry, read as their model; broken ones are refused, each for its reason.

use std::io::Write;

use flate2::write::DeflateEncoder;
use proptest::prelude::*;

use super::*;
use crate::blob::MemoryBlob;

/// What becomes of a cluster.
#[derive(Clone, Debug)]
enum Want {
    Hole,
    Zero,
    Data(u8),
    Packed(u8),
    /// Extended entries: which parts are allocated and which are zeros.
    Parts(u8, u32, u32),
}

#[derive(Clone, Debug)]
struct Layout {
    bits: u32,
    version: u32,
    zstd: bool,
    extended: bool,
    /// Bytes that the last cluster lacks.
    lacks: u64,
    wants: Vec<Want>,
}

/// Compressible, but to several sectors if it is long, and different in every sector.
fn fill(byte: u8, len: usize) -> Vec<u8> {
    let noise = |at: usize| ((at as u32).wrapping_mul(0x9E37_79B1) >> 15 ^ at as u32).wrapping_mul(0x85EB_CA6B) >> 24;
    let at = |at: usize| if at % 512 < 200 { noise(at) as u8 } else { (at / 512) as u8 };
    (0..len).map(|n| byte.wrapping_add(at(n)) | 1).collect()
}

impl Layout {
    fn cluster(&self) -> usize {
        1 << self.bits
    }

    fn size(&self) -> u64 {
        (self.wants.len() * self.cluster()) as u64 - self.lacks
    }

    /// The image, and what it reads as: None where it has nothing.
    fn build(&self) -> (Vec<u8>, Vec<Option<u8>>) {
        let cluster = self.cluster();
        let words = if self.extended { 2 } else { 1 };
        let entries = cluster / 8 / words;
        let tables = self.wants.len().div_ceil(entries);
        let l1_clusters = (tables * 8).div_ceil(cluster);
        let mut file = vec![0; (1 + l1_clusters + tables) * cluster];
        let mut model = Vec::new();
        let put = |file: &mut Vec<u8>, at: usize, word: u64| file[at..at + 8].copy_from_slice(&word.to_be_bytes());
        for table in 0..tables {
            let at = ((1 + l1_clusters + table) * cluster) as u64;
            // A table of nothing need not be there.
            let of_it = self.wants.iter().skip(table * entries).take(entries);
            if of_it.clone().any(|want| !matches!(want, Want::Hole)) || table % 2 == 1 {
                put(&mut file, cluster + table * 8, at | 1 << 63);
            }
        }
        for (number, want) in self.wants.iter().enumerate() {
            let entry_at = (1 + l1_clusters) * cluster + number * 8 * words;
            let (mut entry, mut bitmap) = (0, 0);
            match want {
                Want::Hole => model.extend(vec![None; cluster]),
                Want::Zero if self.extended => {
                    bitmap = 0xFFFF_FFFF << 32;
                    model.extend(vec![Some(0); cluster]);
                }
                Want::Zero => {
                    entry = 1;
                    model.extend(vec![Some(0); cluster]);
                }
                Want::Data(byte) => {
                    file.resize(file.len().next_multiple_of(cluster), 0xEE);
                    (entry, bitmap) = (file.len() as u64 | 1 << 63, 0xFFFF_FFFF);
                    let bytes = fill(*byte, cluster);
                    file.extend(&bytes);
                    model.extend(bytes.into_iter().map(Some));
                }
                Want::Parts(byte, allocated, zeros) => {
                    file.resize(file.len().next_multiple_of(cluster), 0xEE);
                    (entry, bitmap) = (file.len() as u64 | 1 << 63, u64::from(*zeros) << 32 | u64::from(*allocated));
                    let bytes = fill(*byte, cluster);
                    file.extend(&bytes);
                    let part = cluster / 32;
                    model.extend(bytes.into_iter().enumerate().map(|(at, byte)| match at / part {
                        part if allocated >> part & 1 != 0 => Some(byte),
                        part if zeros >> part & 1 != 0 => Some(0),
                        _ => None,
                    }));
                }
                Want::Packed(byte) => {
                    let bytes = fill(*byte, cluster);
                    let packed = self.pack(&bytes);
                    let at = file.len();
                    let sectors = (at + packed.len() - 1) / 512 - at / 512;
                    entry = at as u64 | (sectors as u64) << (62 - (self.bits - 8)) | 1 << 62;
                    file.extend(&packed);
                    model.extend(bytes.into_iter().map(Some));
                }
            }
            put(&mut file, entry_at, entry);
            if self.extended {
                put(&mut file, entry_at + 8, bitmap);
            }
        }
        self.write_header(&mut file, tables);
        model.truncate(self.size() as usize);
        (file, model)
    }

    fn pack(&self, bytes: &[u8]) -> Vec<u8> {
        if self.zstd {
            let mut packed = vec![0; zstd_safe::compress_bound(bytes.len())];
            let n = zstd_safe::compress(&mut packed[..], bytes, 1).unwrap();
            packed.truncate(n);
            return packed;
        }
        let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn write_header(&self, file: &mut [u8], tables: usize) {
        file[..4].copy_from_slice(MAGIC);
        file[4..8].copy_from_slice(&self.version.to_be_bytes());
        file[20..24].copy_from_slice(&self.bits.to_be_bytes());
        file[24..32].copy_from_slice(&self.size().to_be_bytes());
        file[36..40].copy_from_slice(&(tables as u32).to_be_bytes());
        file[40..48].copy_from_slice(&(self.cluster() as u64).to_be_bytes());
        if self.version == 3 {
            file[79] = u8::from(self.zstd) << 3 | u8::from(self.extended) << 4;
            file[100..104].copy_from_slice(&112u32.to_be_bytes());
            file[104] = u8::from(self.zstd);
        }
    }
}

fn wants(extended: bool, version: u32) -> impl Strategy<Value = Want> {
    let parts = (any::<u8>(), any::<u32>(), any::<u32>())
        .prop_map(|(byte, allocated, zeros)| Want::Parts(byte, allocated, zeros & !allocated));
    prop_oneof![
        4 => Just(Want::Hole),
        u32::from(version == 3) * 2 => Just(Want::Zero),
        3 => any::<u8>().prop_map(Want::Data),
        3 => any::<u8>().prop_map(Want::Packed),
        u32::from(extended) * 4 => parts,
    ]
}

fn layouts() -> impl Strategy<Value = Layout> {
    (2..=3u32, any::<bool>(), any::<bool>(), 9..=12u32)
        .prop_flat_map(|(version, zstd, extended, bits)| {
            let (zstd, extended) = (zstd && version == 3, extended && version == 3);
            // Larger clusters where they have parts; smaller ones fill more than one table.
            let (bits, count) = if extended { (14, 1..6) } else { (bits, 1..150) };
            let lacks = (0..(1u64 << (bits - 9))).prop_map(|sectors| sectors * 512);
            let wants = proptest::collection::vec(wants(extended, version), count);
            (Just((version, zstd, extended, bits)), lacks, wants)
        })
        .prop_map(|((version, zstd, extended, bits), lacks, wants)| Layout {
            bits,
            version,
            zstd,
            extended,
            lacks,
            wants,
        })
}

fn open(file: &[u8]) -> Result<Qcow2> {
    Qcow2::open(Arc::new(MemoryBlob::new("image", file.to_vec())), false)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_image_reads_as_its_model(
        layout in layouts(),
        reads in proptest::collection::vec((any::<prop::sample::Index>(), 1..20_000usize), 1..8),
    ) {
        let (file, model) = layout.build();
        let image = open(&file).unwrap();
        let plain: Vec<u8> = model.iter().map(|byte| byte.unwrap_or(0)).collect();
        prop_assert_eq!(image.len(), plain.len() as u64);
        let mut all = vec![1; plain.len()];
        image.read_at(&mut all, 0).unwrap();
        prop_assert!(all == plain);
        for (from, len) in reads {
            let from = from.index(plain.len());
            let len = len.min(plain.len() - from);
            let mut part = vec![1; len];
            image.read_at(&mut part, from as u64).unwrap();
            prop_assert!(part == plain[from..from + len]);
        }
        let mut at = 0;
        while at < plain.len() {
            let extent = image.extent(at as u64).unwrap();
            let run = &model[at..at + extent.len as usize];
            prop_assert!(!run.is_empty() && run.len() % 512 == 0);
            let fits = |byte: &Option<u8>| match extent.kind {
                ExtentKind::Hole => byte.is_none(),
                ExtentKind::Zero => *byte == Some(0),
                ExtentKind::Data => byte.is_some_and(|byte| byte != 0),
            };
            prop_assert!(run.iter().all(fits), "{:?} at {}", extent, at);
            at += run.len();
        }
    }

    #[test]
    fn a_file_that_is_cut_off_never_reads_as_something_else(layout in layouts(), cut in any::<prop::sample::Index>()) {
        let (file, model) = layout.build();
        let Ok(image) = open(&file[..cut.index(file.len())]) else { return Ok(()) };
        let mut sector = [1; 512];
        for (number, model) in model.chunks(512).enumerate() {
            if image.read_at(&mut sector, number as u64 * 512).is_ok() {
                prop_assert!(sector.iter().zip(model).all(|(byte, model)| *byte == model.unwrap_or(0)));
            }
        }
    }
}

fn small() -> Layout {
    let wants = vec![Want::Data(7), Want::Packed(9), Want::Zero, Want::Hole];
    Layout { bits: 9, version: 3, zstd: false, extended: false, lacks: 0, wants }
}

/// Bytes of a file to change: where, and what is there then.
type Changes<'a> = &'a [(usize, &'a [u8])];

/// Opens and reads all of `small()` with these bytes changed.
fn changed(changes: Changes<'_>) -> Result<()> {
    let (mut file, _) = small().build();
    for (at, bytes) in changes {
        file[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    let image = open(&file)?;
    image.read_at(&mut vec![0; image.len() as usize], 0)
}

#[test]
fn images_that_are_wrong_or_foreign_are_refused_with_their_reason() {
    changed(&[]).unwrap();
    // Reference counts may be wrong, which a reader does not mind; likewise what is only for writers.
    changed(&[(79, &[1]), (87, &[1]), (95, &[0xFF])]).unwrap();
    let table = 2 * 512;
    let cases: &[(Changes<'_>, Kind, &str)] = &[
        (&[(0, b"QFI\0")], Kind::Unsupported, "not a qcow2 file"),
        (&[(7, &[1])], Kind::Unsupported, "version 1"),
        (&[(7, &[4])], Kind::Unsupported, "version 4"),
        (&[(23, &[8])], Kind::Unsupported, "clusters of 2^8"),
        (&[(23, &[22])], Kind::Unsupported, "clusters of 2^22"),
        (&[(35, &[1])], Kind::Unsupported, "encrypted"),
        (&[(35, &[2])], Kind::Unsupported, "encrypted"),
        (&[(15, &[1])], Kind::Unsupported, "backing file, which is not opened: `qemu-img convert"),
        (&[(79, &[2])], Kind::Corrupt, "marked as corrupt"),
        (&[(79, &[4])], Kind::Unsupported, "data is in another file"),
        (&[(79, &[16])], Kind::Corrupt, "too small to have parts"),
        (&[(72, &[1])], Kind::Unsupported, "unknown features"),
        (&[(79, &[8])], Kind::Corrupt, "contradicts itself"),
        (&[(104, &[1])], Kind::Corrupt, "contradicts itself"),
        (&[(79, &[32])], Kind::Unsupported, "unknown features 0x20"),
        (&[(79, &[8]), (104, &[2])], Kind::Unsupported, "compression 2"),
        (&[(103, &[96])], Kind::Corrupt, "header of 96 bytes"),
        (&[(24, &[0; 8])], Kind::Limit, "0 bytes"),
        (&[(24, &[0x7F])], Kind::Limit, "are read"),
        (&[(29, &[16])], Kind::Corrupt, "a first table of 1 entries"),
        (&[(40, &[0x10])], Kind::Corrupt, "a first table"),
        (&[(47, &[1])], Kind::Corrupt, "a first table"),
        (&[(512, &[0x81])], Kind::Corrupt, "in the first table"),
        (&[(519, &[1])], Kind::Corrupt, "in the first table"),
        (&[(514, &[0x10])], Kind::Corrupt, "a table beyond the end"),
        (&[(table, &[0x81])], Kind::Corrupt, "in a second table"),
        (&[(table + 2, &[0x10])], Kind::Corrupt, "cut off"),
        (&[(table + 7, &[2])], Kind::Corrupt, "in a second table"),
        (&[(table + 8 + 2, &[0x10])], Kind::Corrupt, "beyond the end of the file"),
    ];
    for (changes, kind, what) in cases {
        let e = changed(changes).unwrap_err();
        assert!(e.kind() == *kind && e.to_string().contains(what), "{changes:?}: {e}");
    }
}

#[test]
fn zeros_are_no_entries_of_version_2_and_parts_are_not_both() {
    let zero = Layout { version: 2, ..small() };
    let e = open(&zero.build().0).unwrap().extent(0).unwrap_err();
    assert!(e.kind() == Kind::Corrupt && e.to_string().contains("at 1024 of the disk"), "{e}");
    let both = Layout { bits: 14, extended: true, wants: vec![Want::Parts(1, 3, 2)], ..small() };
    assert_eq!(open(&both.build().0).unwrap().extent(0).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_table_is_not_for_two_parts_of_a_disk() {
    let two = Layout { wants: vec![Want::Data(1); 65], ..small() };
    let (mut file, _) = two.build();
    file.copy_within(512..520, 520);
    let e = open(&file).err().unwrap();
    assert!(e.kind() == Kind::Corrupt && e.to_string().contains("is named twice"), "{e}");
}

#[test]
fn a_cluster_is_not_for_two_places_of_a_disk() {
    for want in [Want::Data(1), Want::Packed(1)] {
        let two = Layout { wants: vec![want.clone(), want], ..small() };
        let (mut file, _) = two.build();
        let table = u64::from_be_bytes(file[512..520].try_into().unwrap()) as usize & !511 & ((1 << 56) - 1);
        file.copy_within(table..table + 8, table + 8);
        let e = open(&file).unwrap().extent(0).unwrap_err();
        assert!(e.kind() == Kind::Corrupt && e.to_string().contains("is in two places"), "{e}");
    }
    // Nor is one of which they say different lengths.
    let two = Layout { bits: 12, wants: vec![Want::Packed(1), Want::Packed(2)], ..small() };
    let (mut file, _) = two.build();
    let table = 2 << 12;
    file.copy_within(table..table + 8, table + 8);
    file[table + 8] += 4;
    let e = open(&file).unwrap().extent(0).unwrap_err();
    assert!(e.kind() == Kind::Corrupt && e.to_string().contains("is in two places"), "{e}");
}

#[test]
fn parts_of_a_disk_without_tables_are_one_hole() {
    let table = 64 * 512;
    let mut wants = vec![Want::Hole; 5 * 64];
    wants[3 * 64] = Want::Data(7);
    let (mut file, _) = Layout { lacks: 512, wants, ..small() }.build();
    // One of them by an entry that says no more than that it may be written.
    file[520..528].copy_from_slice(&(1u64 << 63).to_be_bytes());
    file[512 + 4 * 8..][..8].fill(0);
    let image = open(&file).unwrap();
    for (at, len) in [(0, 3 * table), (table, 2 * table), (table + 512, 2 * table - 512), (4 * table, table - 512)] {
        assert_eq!(image.extent(at).unwrap(), Extent { len, kind: ExtentKind::Hole }, "{at}");
    }
    let mut read = vec![1; 2 * table as usize + 512];
    image.read_at(&mut read, table).unwrap();
    assert!(read[..2 * table as usize].iter().all(|b| *b == 0) && read[2 * table as usize..] == fill(7, 512));
}

#[test]
fn an_entry_that_is_broken_is_told_of_by_reads_of_its_cluster_alone() {
    let (mut file, _) = small().build();
    file[2 * 512 + 8 + 7] = 2;
    file[2 * 512 + 8] = 0;
    let image = open(&file).unwrap();
    image.read_at(&mut [0; 512], 0).unwrap();
    image.read_at(&mut [0; 1024], 1024).unwrap();
    for (len, at) in [(1, 512), (513, 0)] {
        let e = image.read_at(&mut vec![0; len], at).unwrap_err();
        assert!(e.kind() == Kind::Corrupt && e.to_string().contains("at 512 of the disk"), "{e}");
    }
}

#[test]
fn clusters_that_lie_in_another_order_are_read_in_that_of_the_disk() {
    let three = Layout { wants: vec![Want::Data(1), Want::Data(2), Want::Data(3)], ..small() };
    let (mut file, _) = three.build();
    let (first, last) = file[2 * 512..2 * 512 + 24].split_at_mut(16);
    first[..8].swap_with_slice(last);
    let mut read = vec![0; 3 * 512];
    open(&file).unwrap().read_at(&mut read, 0).unwrap();
    assert!(read == [fill(3, 512), fill(2, 512), fill(1, 512)].concat());
}

#[test]
fn a_read_beyond_the_end_of_the_disk_is_refused() {
    let image = open(&small().build().0).unwrap();
    image.read_at(&mut [0; 512], 3 * 512).unwrap();
    image.read_at(&mut [], 4 * 512).unwrap();
    for (len, at) in [(513, 3 * 512), (1, 4 * 512), (2, u64::MAX)] {
        let e = image.read_at(&mut vec![0; len], at).unwrap_err();
        assert_eq!((e.kind(), e.offset()), (Kind::OutOfBounds, Some(at)));
    }
}

#[test]
fn a_file_that_ends_within_its_header_or_its_first_table_is_refused() {
    let (file, _) = Layout { wants: vec![Want::Hole; 65], ..small() }.build();
    let opened = |file: &[u8]| open(file).map(drop).map_err(|e| e.to_string());
    for len in [0, 71, 72, 103] {
        assert!(opened(&file[..len]).unwrap_err().contains("ends within its header"), "{len}");
    }
    for len in [104, 512, 512 + 15] {
        assert!(opened(&file[..len]).unwrap_err().contains("a first table of 2 entries at 512"), "{len}");
    }
    opened(&file[..512 + 16]).unwrap();
    let (older, _) = Layout { version: 2, wants: vec![Want::Hole], ..small() }.build();
    assert!(opened(&older[..71]).unwrap_err().contains("ends within its header"));
    assert!(opened(&older[..72]).unwrap_err().contains("a first table"));
}

#[test]
fn disks_have_a_bound_and_so_has_their_first_table() {
    use crate::limits::{MAX_QCOW2_BYTES, MAX_QCOW2_L1_BYTES};

    let (file, _) = small().build();
    let parse = |bits: u32, size: u64| {
        let mut header = file[..HEADER_BYTES].to_vec();
        header[20..24].copy_from_slice(&bits.to_be_bytes());
        header[24..32].copy_from_slice(&size.to_be_bytes());
        header[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
        header[40..48].copy_from_slice(&(1u64 << bits).to_be_bytes());
        Header::parse(&header, u64::MAX).map(|header| header.l1_entries as u64).map_err(|e| e.kind())
    };
    let most = MAX_QCOW2_L1_BYTES / 8;
    assert_eq!(parse(9, most * 64 * 512), Ok(most));
    assert_eq!(parse(9, most * 64 * 512 + 1), Err(Kind::Limit));
    assert_eq!(parse(16, MAX_QCOW2_BYTES), Ok(MAX_QCOW2_BYTES >> (16 + 13)));
    assert_eq!(parse(16, MAX_QCOW2_BYTES + 1), Err(Kind::Limit));
    for bits in crate::limits::QCOW2_CLUSTER_BITS {
        assert!((kept(bits) as u64) << bits <= MAX_QCOW2_KEPT_BYTES, "clusters of 2^{bits} bytes");
        assert!((1..=MAX_KEPT).contains(&kept(bits)), "clusters of 2^{bits} bytes");
    }
}

#[test]
fn an_image_alone_has_holes_where_its_backing_file_would_be() {
    let (mut file, _) = small().build();
    file[15] = 200;
    let image = Qcow2::open(Arc::new(MemoryBlob::new("image", file)), true).unwrap();
    assert!(image.header().backed);
    assert_eq!(image.extent(1536).unwrap(), Extent { len: 512, kind: ExtentKind::Hole });
}

#[test]
fn what_lies_behind_a_header_of_the_shortest_form_is_not_of_it() {
    let layout = Layout { bits: 12, version: 3, zstd: false, extended: false, lacks: 0, wants: vec![Want::Data(3)] };
    let (mut file, _) = layout.build();
    file[100..104].copy_from_slice(&104u32.to_be_bytes());
    file[104] = 7;
    let image = Qcow2::open(Arc::new(MemoryBlob::new("disk.qcow2", file.clone())), false).unwrap();
    assert_eq!((image.name(), image.header().compression), ("disk.qcow2", Compression::Zlib));
    // One byte longer is no header, and the next one says how it is compressed.
    for (len, kind) in [(105u32, Kind::Corrupt), (112, Kind::Corrupt), (96, Kind::Corrupt)] {
        file[100..104].copy_from_slice(&len.to_be_bytes());
        let refused = Qcow2::open(Arc::new(MemoryBlob::new("disk.qcow2", file.clone())), false);
        assert_eq!(refused.err().unwrap().kind(), kind, "{len}");
    }
}
