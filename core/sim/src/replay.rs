//! Traces: recorded while a device is used, kept as `cache/trace.py` keeps them, replayed by the next process.

use std::path::PathBuf;
use std::time::Duration;

use overlaybd::error::{Error, Result};
use overlaybd::image::Image;
use overlaybd::sync::sim;
use overlaybd::sys::{read_exact, write_all, Disk, Mode};
use overlaybd::trace::{encode, parse, Prefetch, PrefetchOptions};

use crate::machine::{is_missing, Device, Machine};

/// What goes on beside a device.
pub enum Replay {
    Recording,
    Fetching(Prefetch),
    Nothing,
}

impl Machine {
    /// Replays the trace of a device, or records one if there is none.
    pub fn start_replay(&self, device: &Device, image: &Image) -> Replay {
        let begun = match self.read_trace(device) {
            Err(e) if is_missing(&e) => image.recorder().start().map(|()| Replay::Recording),
            Err(e) => Err(e),
            Ok(bytes) => {
                // A file of that name is whole, or there is none.
                let records = parse(&bytes).unwrap_or_else(|e| panic!("the trace is none: {e}"));
                let options = PrefetchOptions { workers: 1 + sim::draw(4) as usize, max_bytes: 1 << 20 };
                image.lowers().map_or(Ok(Replay::Nothing), |lowers| {
                    Prefetch::trace(&lowers, records, options).map(Replay::Fetching)
                })
            }
        };
        begun.unwrap_or_else(|e| {
            self.may_fail("trace", &e);
            Replay::Nothing
        })
    }

    /// Ends it before the device closes.
    pub fn end_replay(&self, device: &Device, image: &Image, replay: Replay) {
        match replay {
            Replay::Nothing => {}
            Replay::Recording => {
                let kept = image.recorder().stop().and_then(|records| self.keep_trace(device, &encode(&records)));
                kept.unwrap_or_else(|e| self.may_fail("keep a trace", &e));
            }
            Replay::Fetching(prefetch) => {
                prefetch.wait(Duration::from_millis(sim::draw(5_000)));
                let stats = prefetch.stats();
                sim::note(|| format!("replay: {stats:?}"));
                assert_eq!(stats.skipped, 0, "the trace is of another image");
                if let Some(error) = stats.first_error {
                    self.may_fail("replay", &Error::corrupt(error));
                }
                prefetch.stop();
            }
        }
    }

    fn read_trace(&self, device: &Device) -> Result<Vec<u8>> {
        let file = self.disk.open(&path(device), Mode::Read)?;
        let len = file.len().map_err(|e| Error::io("stat", e))?;
        let mut bytes = vec![0; len as usize];
        read_exact(&*file, &mut bytes, 0)?;
        Ok(bytes)
    }

    /// As `write_file` of `cache/trace.py`.
    fn keep_trace(&self, device: &Device, bytes: &[u8]) -> Result<()> {
        let path = path(device);
        let draft = path.with_extension("new");
        let write = || {
            let file = self.disk.open(&draft, Mode::Create)?;
            file.set_len(0).map_err(|e| Error::io("truncate", e))?;
            write_all(&*file, bytes, 0)?;
            file.sync_data().map_err(|e| Error::io("flush", e))?;
            self.disk.rename(&draft, &path)
        };
        write().inspect_err(|_| drop(self.disk.remove(&draft)))?;
        self.disk.sync_dir(path.parent().unwrap_or(&path))
    }
}

fn path(device: &Device) -> PathBuf {
    format!("/traces/{}", device.number).into()
}
