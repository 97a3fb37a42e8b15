//! A device for what is tried often: bytes that are never changed, and the pages written over them.

use std::sync::{Arc, RwLock};

use overlaybd::device::{check_range, BlockDevice, Extent, ExtentKind};
use overlaybd::fs::ReadAt;
use overlaybd::Result;

const PAGE: usize = 4096;

type Page = Box<[u8; PAGE]>;

/// The device; its copies are one. What lies behind the bytes below is a hole.
#[derive(Clone)]
pub struct Device {
    below: &'static [u8],
    pages: Arc<RwLock<Vec<Option<Page>>>>,
}

impl Device {
    /// `size` is in whole pages, and not less than what is `below`.
    pub fn new(below: &'static [u8], size: u64) -> Device {
        let pages = (0..size as usize / PAGE).map(|_| None).collect();
        Device { below, pages: Arc::new(RwLock::new(pages)) }
    }

    /// What is below a page, which may be less than one.
    fn under(&self, page: usize) -> &'static [u8] {
        let start = (page * PAGE).min(self.below.len());
        &self.below[start..self.below.len().min(start + PAGE)]
    }

    /// Calls `each` with number, place and length of what a range has of every page.
    fn parts(offset: u64, len: usize, mut each: impl FnMut(usize, usize, std::ops::Range<usize>)) {
        let (offset, mut done) = (offset as usize, 0);
        while done < len {
            let (page, from) = ((offset + done) / PAGE, (offset + done) % PAGE);
            let step = (PAGE - from).min(len - done);
            each(page, from, done..done + step);
            done += step;
        }
    }
}

impl BlockDevice for Device {
    fn size(&self) -> u64 {
        (self.pages.read().expect("no panic").len() * PAGE) as u64
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len() as u64)?;
        let pages = self.pages.read().expect("no panic");
        Self::parts(offset, buf.len(), |page, from, part| {
            let to = &mut buf[part];
            let there = match &pages[page] {
                Some(bytes) => &bytes[from..],
                None => self.under(page).get(from..).unwrap_or_default(),
            };
            let len = there.len().min(to.len());
            to[..len].copy_from_slice(&there[..len]);
            to[len..].fill(0);
        });
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len() as u64)?;
        let mut pages = self.pages.write().expect("no panic");
        Self::parts(offset, buf.len(), |page, from, part| {
            let bytes = pages[page].get_or_insert_with(|| {
                let (mut bytes, under) = (Box::new([0; PAGE]), self.under(page));
                bytes[..under.len()].copy_from_slice(under);
                bytes
            });
            bytes[from..from + part.len()].copy_from_slice(&buf[part]);
        });
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.write_at(&vec![0; len as usize], offset)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>> {
        check_range(self, offset, len)?;
        let (pages, mut runs) = (self.pages.read().expect("no panic"), Vec::<Extent>::new());
        Self::parts(offset, len as usize, |page, _, part| {
            let data = pages[page].is_some() || !self.under(page).is_empty();
            let (kind, len) = (if data { ExtentKind::Data } else { ExtentKind::Hole }, part.len() as u64);
            match runs.last_mut() {
                Some(run) if run.kind == kind => run.len += len,
                _ => runs.push(Extent { len, kind }),
            }
        });
        runs.truncate(max.max(1));
        Ok(runs)
    }

    fn is_ready(&self, _offset: u64, _len: u64) -> bool {
        true
    }
}

impl ReadAt for Device {
    fn len(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        BlockDevice::read_at(self, buf, offset)
    }
}
