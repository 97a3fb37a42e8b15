//! How requests come to a device: by calls, or over a ring of the kernel's.

use std::sync::Arc;

use overlaybd::device::BlockDevice;
use overlaybd::error::Result;
use overlaybd::image::Image;
use overlaybd::serve::tcmu::{Options, Ring, Server};
use overlaybd::sync::sim;

use crate::ring::Kernel;

/// The way of one thread to a device.
#[derive(Clone)]
pub struct Door {
    pub image: Arc<Image>,
    ring: Option<(Arc<Kernel>, u16)>,
}

impl Door {
    /// Calls.
    pub fn calls(image: &Arc<Image>) -> Door {
        Door { image: Arc::clone(image), ring: None }
    }

    /// Begins to serve the device on a ring, in a thread of its own.
    pub fn ring(image: &Arc<Image>) -> (Door, sim::thread::JoinHandle<()>) {
        let kernel = Kernel::new();
        let options = Options {
            block_bytes: 512,
            serial: "1234abcd".into(),
            name: "image".into(),
            workers: 1 + sim::draw(4) as usize,
            report: Some(Arc::new(|name, error| sim::note(|| format!("{name}: {error}")))),
        };
        let (device, link) = (Arc::clone(image), Arc::clone(&kernel));
        let serve = move || {
            let ring = Ring::new(Arc::clone(&link.region)).expect("a ring that is right");
            Server::serve(device, ring, link, options).expect("options that are right");
        };
        let thread = sim::thread::Builder::new().name("ring".into()).spawn(serve).expect("a thread");
        (Door { image: Arc::clone(image), ring: Some((kernel, 0)) }, thread)
    }

    /// The same for another thread.
    pub fn of_thread(&self, number: u16) -> Door {
        Door {
            image: Arc::clone(&self.image),
            ring: self.ring.as_ref().map(|(kernel, _)| (Arc::clone(kernel), number)),
        }
    }

    /// Nobody comes any more.
    pub fn close(&self) {
        if let Some((kernel, _)) = &self.ring {
            kernel.end();
        }
    }

    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match &self.ring {
            Some((kernel, thread)) => kernel.read(*thread, buf, offset),
            None => self.image.read_at(buf, offset),
        }
    }

    pub fn write(&self, buf: &[u8], offset: u64) -> Result<()> {
        match &self.ring {
            Some((kernel, thread)) => kernel.write(*thread, buf, offset),
            None => self.image.write_at(buf, offset),
        }
    }

    pub fn discard(&self, offset: u64, len: u64) -> Result<()> {
        match &self.ring {
            Some((kernel, thread)) => kernel.discard(*thread, offset, len),
            None => self.image.discard(offset, len),
        }
    }

    pub fn flush(&self) -> Result<()> {
        match &self.ring {
            Some((kernel, thread)) => kernel.flush(*thread),
            None => self.image.flush(),
        }
    }
}
