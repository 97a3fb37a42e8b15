//! The cache against flat bytes: whatever happens to network and files between runs, reads give the blob's bytes.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Read(usize, usize),
    Distrust(usize, usize),
    Restart,
    FlipMedia(usize),
    FlipMap(usize),
    CutMedia(usize),
    Fail,
}

const SIZE: usize = 25 * CHUNK + 77;

fn act() -> impl Strategy<Value = Act> {
    let place = 0..SIZE;
    prop_oneof![
        12 => (place.clone(), 1..6 * CHUNK).prop_map(|(at, len)| Act::Read(at, len)),
        2 => (place.clone(), 0..3 * CHUNK).prop_map(|(at, len)| Act::Distrust(at, len)),
        2 => Just(Act::Restart),
        1 => place.clone().prop_map(Act::FlipMedia),
        1 => (0..4096 + 26 * 8usize).prop_map(Act::FlipMap),
        1 => place.prop_map(Act::CutMedia),
        1 => Just(Act::Fail),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against flat bytes: whatever happens to network and files between runs, a read gives the blob's bytes.
    #[test]
    fn reads_are_the_blob(
        acts in prop::collection::vec(act(), 1..60),
        small in any::<bool>(),
        behind in any::<bool>(),
        pool in any::<bool>(),
    ) {
        let capacity = if small { 12 * CHUNK as u64 } else { 1 << 20 };
        let bench = Bench { capacity, behind: if behind { 1 << 20 } else { 0 }, pool, ..Bench::new() };
        let server = Server::new(pattern(SIZE));
        let mut cache = bench.cache();
        let mut blob = open(&cache, &server);
        for act in acts {
            match act {
                Act::Read(at, len) => {
                    check(&*blob, &server, at, len.min(SIZE - at));
                    continue;
                }
                Act::Distrust(at, len) => {
                    blob.distrust(at as u64, len as u64).unwrap();
                    continue;
                }
                Act::Fail => {
                    let mut faults = server.faults.lock();
                    if faults.len() < 3 {
                        faults.push_back(Fault::Short(CHUNK / 2));
                    }
                    continue;
                }
                _ => drop((blob, cache)),
            }
            match act {
                Act::FlipMedia(at) => flip(&bench.media(), at as u64),
                Act::FlipMap(at) => flip(&bench.map(), at as u64),
                Act::CutMedia(at) => {
                    fs::File::options().write(true).open(bench.media()).unwrap().set_len(at as u64).unwrap();
                }
                _ => {}
            }
            cache = bench.cache();
            blob = open(&cache, &server);
        }
        cache.flush();
        let index = if pool { 4096 + 32 * (capacity / CHUNK as u64) + 4096 } else { 0 };
        prop_assert!(disk_usage(bench.dir.path()) <= capacity + EXTENTS + index);
    }
}
