//! What a world is like for good, as its seed has it.

use std::time::Duration;

use overlaybd::sync::sim;

use crate::library::{self, LAYERS};
use crate::net::Habits;

/// Where the chunks of remote layers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// In a file for each blob.
    Files,
    /// In one file for all.
    Pool,
    /// In the directories of layers, where downloads go too.
    Layers,
}

/// A world.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The layers of each device, bottom first.
    pub devices: Vec<Vec<usize>>,
    pub caching: Caching,
    /// Bytes that may wait to be written to the cache, bytes of the cache, and of its chunks.
    pub behind: usize,
    pub cache_bytes: u64,
    pub chunk_bytes: u32,
    /// Whether what compressed targets unpack to is cached.
    pub unpacked: bool,
    /// Whether each device has a process of its own.
    pub apart: bool,
    /// Whether layers are downloaded.
    pub download: bool,
    /// Whether traces are recorded and replayed.
    pub replay: bool,
    /// Whether requests come over a ring of the kernel's.
    pub ring: bool,
    /// Whether uppers are sparse.
    pub sparse: bool,
    pub habits: Habits,
}

impl Setting {
    pub fn draw() -> Setting {
        let one_of = |n: u64| sim::draw(n) == 0;
        let devices = (0..[1, 1, 2, 2, 3][sim::draw(5) as usize])
            .map(|_| {
                let mut layers: Vec<usize> = (0..1 + sim::draw(3)).map(|_| sim::draw(LAYERS as u64) as usize).collect();
                if one_of(2) {
                    // One that devices have in common.
                    layers[0] = 0;
                }
                layers
            })
            .collect();
        let caching = [Caching::Files, Caching::Files, Caching::Pool, Caching::Layers][sim::draw(4) as usize];
        let download = caching == Caching::Layers && one_of(2) || one_of(3);
        Setting {
            devices,
            caching,
            behind: [0, 64 << 10, 64 << 20][sim::draw(3) as usize],
            cache_bytes: [64 << 10, 512 << 10, 64 << 20][sim::draw(3) as usize],
            chunk_bytes: if one_of(4) { 64 << 10 } else { 4096 },
            unpacked: one_of(2),
            apart: one_of(3),
            download,
            replay: one_of(3),
            ring: one_of(4),
            sparse: one_of(2),
            habits: Habits {
                tokens: !one_of(3),
                links: one_of(3).then(|| Duration::from_millis(100 + sim::draw(30_000))),
                mirror: one_of(4),
            },
        }
    }

    /// Whether all remote bytes have checksums of their own.
    pub fn is_checked(&self) -> bool {
        self.devices.iter().flatten().all(|number| library::layer(*number).parts().all(|part| part.checked))
    }
}
