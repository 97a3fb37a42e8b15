//! What is done to an image that nobody has open: its upper becomes a layer in a file of its own, with a new upper.

use std::time::Duration;

use overlaybd::error::{Error, Result};
use overlaybd::lsmt::commit::{commit, CommitOptions};
use overlaybd::lsmt::upper::open_as_layer;
use overlaybd::progress;
use overlaybd::sink::{FileSink, Sink};
use overlaybd::sync::sim;
use overlaybd::sys::{Disk, Mode};
use overlaybd::zfile::{Builder, Options};

use crate::machine::{Device, Machine};

impl Machine {
    /// Commits the upper of a device, in a process that may be killed at that.
    pub fn commit_offline(&self, number: usize) {
        let machine = self.clone();
        let work = move || {
            let device = &machine.devices[number];
            if let Err(e) = machine.commit(device) {
                device.model.flush_failed();
                machine.may_fail("commit", &e);
            }
        };
        let process = sim::spawn_process("commit", work);
        if sim::draw(2) == 0 {
            sim::sleep(Duration::from_millis(sim::draw(200)));
            sim::note(|| "kill the commit".into());
            sim::kill(process);
        }
        sim::wait_for_process(process);
        self.disk.close_all(process);
    }

    fn commit(&self, device: &Device) -> Result<()> {
        self.finish_snapshot(device)?;
        let begun = device.model.moment();
        let (data, index) = device.config().upper;
        let (layer, _) = open_as_layer(&self.disk, &data, &index)?;
        let path = device.new_name("commit");
        let draft = path.with_extension("draft");
        let file = self.disk.open(&draft, Mode::New)?;
        let written = || {
            let options = CommitOptions::default();
            let sink = FileSink::new(file.clone());
            if sim::draw(2) == 0 {
                let mut sink = sink;
                commit(&layer, &options, &mut sink, &mut progress::silent)?;
                sink.finish()?;
            } else {
                let mut sink = Builder::new(sink, Options { threads: 1, ..Options::default() })?;
                commit(&layer, &options, &mut sink, &mut progress::silent)?;
                sink.finish()?;
            }
            file.sync_data().map_err(|e| Error::io("flush", e))?;
            self.disk.rename(&draft, &path)?;
            self.disk.sync_dir(path.parent().unwrap_or(&path))
        };
        written().inspect_err(|_| drop(self.disk.remove(&draft)))?;
        let upper = self.make_upper(device, layer.header().virtual_size)?;
        sim::note(|| format!("committed {} to {}", data.display(), path.display()));
        device.change_config(|config| {
            config.local.push(path);
            config.upper = upper;
        });
        if !sim::is_dead() {
            // The layer holds all that the upper showed, durably.
            device.model.flushed(begun);
        }
        Ok(())
    }
}
