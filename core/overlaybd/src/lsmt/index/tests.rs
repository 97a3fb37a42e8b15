//! Indexes against plain walks, maps of single sectors, and one another.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn data(offset: u64, length: u32, moffset: u64) -> Segment {
    Segment { offset, length, moffset, zeroed: false, tag: 0 }
}

/// What a lookup must give, by going through all entries.
fn plainly(segments: &[Segment], range: Range<u64>) -> Vec<Segment> {
    let inside = segments.iter().filter(|s| s.offset < range.end && s.end() > range.start && s.length > 0);
    inside.map(|s| s.clip(range.start, range.end)).collect()
}

fn found(index: &Index, range: Range<u64>) -> Vec<Segment> {
    let mut pieces = Vec::new();
    index.lookup(range, |piece| pieces.push(piece));
    pieces
}

/// Sorted entries with gaps and neighbours, starting near `base`.
fn entries(base: u64, shape: &[(u8, u16, bool)]) -> Vec<Segment> {
    let mut at = base;
    let mut segments = Vec::new();
    for (gap, length, zeroed) in shape {
        at += u64::from(gap % 4) * u64::from(*gap);
        let length = u32::from(*length % 16383) + 1;
        segments.push(Segment { zeroed: *zeroed, ..data(at, length, at + 8) });
        at += u64::from(length);
    }
    segments
}

/// Separators are signed numbers of 32 bits, offsets are neither.
#[test]
fn entries_are_found_all_over_the_largest_devices() {
    for step in [1u64 << 20, 1 << 23, 1 << 24, 1 << 41] {
        let segments: Vec<Segment> = (0..400).map(|n| data(n * step, 16, 8 + n)).collect();
        let whole = Index::from_sorted(segments.iter().copied());
        for form in Form::ALL {
            let mut index = whole.clone();
            if !index.use_form(form) {
                continue;
            }
            for segment in &segments {
                let (before, behind) = (segment.offset.saturating_sub(5), segment.end());
                assert_eq!(found(&index, before..behind + 5), [*segment], "{form:?}, {step}");
                assert_eq!(found(&index, behind..behind + 5), [], "{form:?}, {step}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 200 }, ..ProptestConfig::default() })]

    /// Every form finds what a walk through all entries finds, near and far beyond 2^32 sectors.
    #[test]
    fn forms_agree_with_a_plain_walk(
        shape in proptest::collection::vec((any::<u8>(), any::<u16>(), any::<bool>()), 0..700),
        base in prop_oneof![Just(0u64), 0..1u64 << 33, Just((1 << 49) + 12345)],
        probes in proptest::collection::vec((any::<prop::sample::Index>(), -3i64..20000, 1u64..40000), 30),
    ) {
        let segments = entries(base, &shape);
        let index = Index::from_sorted(segments.iter().copied());
        prop_assert_eq!(index.iter().collect::<Vec<_>>(), segments.clone());
        for form in Form::ALL {
            let mut index = index.clone();
            if !index.use_form(form) {
                continue;
            }
            for (pick, shift, len) in &probes {
                let near = if segments.is_empty() { base } else { pick.get(&segments).offset };
                let start = near.saturating_add_signed(*shift);
                let range = start..start + len;
                prop_assert_eq!(found(&index, range.clone()), plainly(&segments, range), "{:?}", form);
            }
        }
    }

    /// A merge says of each sector what the topmost layer that has it says.
    #[test]
    fn merging_is_looking_from_above(
        layers in proptest::collection::vec(
            proptest::collection::vec((any::<u8>(), 0u16..40, any::<bool>()), 0..30), 0..12),
    ) {
        let layer = |(n, shape): (usize, &Vec<_>)| entries(n as u64 * 3, shape);
        let layers: Vec<Vec<Segment>> = layers.iter().enumerate().map(layer).collect();
        let mut sectors: BTreeMap<u64, (u64, bool, u8)> = BTreeMap::new();
        for (tag, layer) in layers.iter().enumerate().rev() {
            for segment in layer {
                for sector in segment.offset..segment.end() {
                    let moffset = segment.moffset + if segment.zeroed { 0 } else { sector - segment.offset };
                    sectors.insert(sector, (moffset, segment.zeroed, tag as u8));
                }
            }
        }
        let slices: Vec<&[Segment]> = layers.iter().map(Vec::as_slice).collect();
        let index = Index::merge(&slices).unwrap();
        let mut end = 0;
        let mut seen = BTreeMap::new();
        for segment in index.iter() {
            prop_assert!(segment.offset >= end && segment.length > 0, "not sorted at {}", segment.offset);
            end = segment.end();
            for sector in segment.offset..end {
                let moffset = segment.moffset + if segment.zeroed { 0 } else { sector - segment.offset };
                seen.insert(sector, (moffset, segment.zeroed, segment.tag));
            }
        }
        prop_assert_eq!(&seen, &sectors);

        if let Some((top, rest)) = slices.split_first() {
            let restacked = Index::merge(rest).unwrap().with_layer_on_top(top).unwrap();
            prop_assert_eq!(restacked.iter().collect::<Vec<_>>(), index.iter().collect::<Vec<_>>());
        }
    }

    /// The ordered map is a flat array in which the last writer wins.
    #[test]
    fn the_last_insert_wins(inserts in proptest::collection::vec((0u64..600, 0u32..90, any::<bool>()), 1..120)) {
        let mut map = MutableIndex::default();
        let mut sectors: BTreeMap<u64, (usize, u64)> = BTreeMap::new();
        for (n, (offset, length, zeroed)) in inserts.iter().enumerate() {
            let moffset = 1000 * (n as u64 + 1);
            map.insert(Segment { zeroed: *zeroed, ..data(*offset, *length, moffset) });
            for sector in *offset..offset + u64::from(*length) {
                sectors.insert(sector, (n, moffset + if *zeroed { 0 } else { sector - offset }));
            }
        }
        let all: Vec<Segment> = map.iter().collect();
        prop_assert!(all.windows(2).all(|pair| pair[0].end() <= pair[1].offset));
        let mut seen = BTreeMap::new();
        for segment in &all {
            for sector in segment.offset..segment.end() {
                let moffset = segment.moffset + if segment.zeroed { 0 } else { sector - segment.offset };
                seen.insert(sector, (segment.moffset as usize / 1000 - 1, moffset));
            }
        }
        prop_assert_eq!(seen, sectors);
        for start in (0..700).step_by(13) {
            let mut pieces = Vec::new();
            map.lookup(start..start + 50, |piece| pieces.push(piece));
            prop_assert_eq!(pieces, plainly(&all, start..start + 50));
        }
    }
}

#[test]
fn the_ends_of_the_address_space_and_empty_indexes() {
    let last = data(INVALID_OFFSET - 16383, 16383, 9);
    for segments in [vec![], vec![last], vec![data(0, 1, 8), last]] {
        let index = Index::from_sorted(segments.iter().copied());
        for form in Form::ALL {
            let mut index = index.clone();
            index.use_form(form);
            for range in [0..1, 0..u64::MAX, INVALID_OFFSET - 1..INVALID_OFFSET + 5, u64::MAX - 1..u64::MAX] {
                assert_eq!(found(&index, range.clone()), plainly(&segments, range));
            }
        }
    }
}

#[test]
fn entries_that_look_alike_without_their_low_bits_are_told_apart() {
    // One far entry makes separators leave out 18 bits: all near ones look the same to the tree.
    let count = if cfg!(miri) { 150 } else { 5000 };
    let mut segments: Vec<Segment> = (0..count).map(|n| data(n * 3, 2, 8 + n)).collect();
    segments.push(data(INVALID_OFFSET - 9, 1, 7));
    let index = Index::from_sorted(segments.iter().copied());
    for start in 0..3 * count + 10 {
        assert_eq!(found(&index, start..start + 4), plainly(&segments[..], start..start + 4), "{start}");
    }
}

#[test]
fn an_index_takes_sixteen_bytes_an_entry_and_little_more() {
    let index = Index::from_sorted((0..1_000_000).map(|n| data(n * 8, 8, n * 8 + 8)));
    assert!(index.memory_bytes() <= 1_000_000 * 16 * 115 / 100, "{} bytes", index.memory_bytes());
}

#[test]
fn limits_and_left_out_entries() {
    let none: &[Segment] = &[];
    assert_eq!(Index::merge(&[none; 256]).unwrap_err().kind(), Kind::Limit);
    assert!(Index::merge(&[none; 255]).unwrap().is_empty());
    let index = Index::from_sorted([data(0, 0, 8), data(1, 2, 8), Segment::INVALID]);
    assert_eq!(index.iter().collect::<Vec<_>>(), [data(1, 2, 8)]);
    let mut map = MutableIndex::default();
    map.insert(data(1, 2, 8));
    map.lookup(2..2, |piece| panic!("an empty range has a piece: {piece:?}"));
    assert_eq!(found(&index, 2..2), []);
}
