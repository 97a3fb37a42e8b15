//! Against the plainest model there is: the bytes that went in.

use proptest::prelude::*;

use super::*;
use crate::blob::testing::Asked;
use crate::limits::ZFILE_READ_BATCH;

/// Runs of noise, of one byte and of words, so that blocks of every kind occur.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let run = prop_oneof![
        (1..9000usize, any::<u64>()).prop_map(|(len, seed)| {
            let mut x = seed | 1;
            (0..len).map(|_| noise(&mut x) as u8).collect::<Vec<_>>()
        }),
        (1..40_000usize, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
        (1..20_000usize).prop_map(sample),
    ];
    prop::collection::vec(run, 0..6).prop_map(|runs| runs.concat())
}

fn any_options() -> impl Strategy<Value = Options> {
    (any::<bool>(), 10..=15u32, any::<bool>(), any::<bool>(), 1..=2usize).prop_map(
        |(zstd, bits, checksum, overwrite_header, threads)| Options {
            algorithm: if zstd { Algorithm::Zstd } else { Algorithm::Lz4 },
            block_size: 1 << bits,
            checksum,
            overwrite_header,
            threads,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_part_of_any_zfile_reads_as_what_went_in(
        plain in contents(),
        made in any_options(),
        reads in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..12),
    ) {
        let reader = open(build(&plain, made).unwrap()).unwrap();
        prop_assert_eq!(reader.len(), plain.len() as u64);
        prop_assert!(read_all(&reader).unwrap() == plain);
        for (a, b) in reads {
            let (a, b) = (a.index(plain.len() + 1), b.index(plain.len() + 1));
            let range = a.min(b)..a.max(b);
            let mut part = vec![0xEE; range.len()];
            reader.read_at(&mut part, range.start as u64).unwrap();
            prop_assert!(part == plain[range]);
        }
    }

    #[test]
    fn flipped_bytes_and_cut_ends_give_errors_or_the_right_bytes(
        plain in contents(),
        made in any_options(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = build(&plain, Options { checksum: true, ..made }).unwrap();
        for (at, xor) in &flips {
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(reader) = open(bytes) {
            // The length may be wrong in a header that has no digest any more, but no byte of what is read.
            for start in (0..reader.len().min(1 << 20)).step_by(1000) {
                let mut part = vec![0; 1000.min(reader.len() - start) as usize];
                if reader.read_at(&mut part, start).is_ok() {
                    let right = plain.get(start as usize..start as usize + part.len());
                    prop_assert!(right == Some(&part[..]), "other bytes at {}", start);
                }
            }
        }
    }

    #[test]
    fn anything_at_all_can_be_opened_without_harm(
        mut bytes in prop::collection::vec(any::<u8>(), 0..3000),
        algorithm in 0..4u8,
        flags in any::<u8>(),
    ) {
        // A right magic, so that it gets beyond the first look.
        let made = build(&sample(5000), Options::default()).unwrap();
        let n = bytes.len().min(24);
        bytes[..n].copy_from_slice(&made[..n]);
        if bytes.len() > 100 {
            bytes[32] = flags;
            bytes[72..76].copy_from_slice(&4096u32.to_le_bytes());
            bytes[76] = algorithm;
        }
        let read = open(bytes).map(|reader| reader.len());
        prop_assert!(read.is_ok() || read.is_err());
    }
}

/// Every single byte of a small file flipped, which random choice might miss.
#[test]
fn no_single_flip_goes_unnoticed() {
    let plain = sample(3000);
    for made in [options(Algorithm::Lz4, 1024), options(Algorithm::Zstd, 2048)] {
        for overwrite_header in [false, true] {
            let good = build(&plain, Options { overwrite_header, ..made }).unwrap();
            for (at, xor) in (0..good.len()).flat_map(|at| [(at, 0x01), (at, 0x80), (at, 0xFF)]) {
                let mut bytes = good.clone();
                bytes[at] ^= xor;
                if let Ok(read) = open(bytes).and_then(|reader| read_all(&reader)) {
                    assert!(read == plain, "byte {at} xor {xor:02x} gives other bytes");
                }
            }
        }
    }
}

#[test]
fn a_long_read_takes_as_many_blocks_at_a_time_as_fit_a_batch() {
    let plain = sample(3 << 20);
    let asked = Arc::new(Asked::new(build(&plain, options(Algorithm::Lz4, 4096)).unwrap()));
    let reader = Reader::open(asked.clone()).unwrap();
    asked.take();
    assert!(read_all(&reader).unwrap() == plain);
    let reads = asked.take();
    let most = 4096 + 100;
    let (last, whole) = reads.split_last().unwrap();
    assert!(whole.iter().all(|(_, _, len)| (ZFILE_READ_BATCH - most..=ZFILE_READ_BATCH).contains(len)), "{reads:?}");
    assert!(whole.len() > 2 && last.2 <= ZFILE_READ_BATCH);
    assert!(reads.windows(2).all(|pair| pair[0].1 + pair[0].2 == pair[1].1), "{reads:?}");
}

#[test]
fn hints_reach_the_stored_blocks_that_they_are_about() {
    let asked = Arc::new(Asked::new(build(&sample(50_000), options(Algorithm::Lz4, 4096)).unwrap()));
    let reader = Reader::open(asked.clone()).unwrap();
    let block = |n: u64| {
        asked.take();
        reader.prefetch(n * 4096, 1).unwrap();
        asked.take()[0]
    };
    let (first, second, third) = (block(0), block(1), block(2));
    assert_eq!(first.1 + first.2, second.1, "blocks lie one behind the other");
    assert_eq!(reader.prefetch(4095, 2).unwrap(), first.2 + second.2);
    assert_eq!(reader.prefetch(4096, 8192).unwrap(), second.2 + third.2);
    assert_eq!(asked.take(), [("prefetch", first.1, first.2 + second.2), ("prefetch", second.1, second.2 + third.2)]);
    assert_eq!((reader.prefetch(50_000, 1).unwrap(), reader.prefetch(7, 0).unwrap()), (0, 0));
    assert!(!reader.distrust(50_000, 1).unwrap());
    assert_eq!(asked.take(), [], "nothing is there");
    assert_eq!((reader.is_ready(0, 1), reader.is_ready(4096, 1), reader.is_ready(50_000, 1)), (false, true, true));
    assert!(!reader.distrust(4096, 4096).unwrap());
    assert_eq!(asked.take(), [("distrust", second.1, second.2)]);
}
