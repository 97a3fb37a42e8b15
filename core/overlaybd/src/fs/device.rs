//! Where a file system lies: bytes whose ranges are checked, and a memory for those read again and again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::limits::{MAX_FS_PAGES, SECTOR};
use crate::lsmt::Stack;

/// What is kept and read at a time.
const PAGE: u64 = 4096;
/// Larger reads are not kept.
const MAX_KEPT: usize = 64 << 10;

/// Whose bytes a part of a device are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody's: zeros.
    Zeros,
    /// Those of a layer from a byte on; two layers of one name are the same.
    Layer(Arc<str>, u64),
    /// That cannot be told.
    Unknown,
}

/// Where a file system lies: bytes that can be read at any offset.
pub trait ReadAt: Send + Sync {
    /// Bytes.
    fn len(&self) -> u64;

    /// True if there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf`. The range lies inside.
    ///
    /// # Errors
    /// Those of the bytes' source.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// Calls `each` with length and place of every part of a range, in order. The range lies inside.
    fn places(&self, offset: u64, len: u64, each: &mut dyn FnMut(u64, Place)) {
        let _ = offset;
        each(len, Place::Unknown);
    }
}

impl ReadAt for Stack {
    fn len(&self) -> u64 {
        self.virtual_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let (start, end) = (offset - offset % SECTOR, (offset + buf.len() as u64).next_multiple_of(SECTOR));
        if start == offset && end == offset + buf.len() as u64 {
            return Stack::read_at(self, buf, offset);
        }
        let mut sectors = vec![0; (end - start) as usize];
        Stack::read_at(self, &mut sectors, start)?;
        buf.copy_from_slice(&sectors[(offset - start) as usize..][..buf.len()]);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        buf.copy_from_slice(&self[offset as usize..][..buf.len()]);
        Ok(())
    }
}

/// An image whose lowers have names, bottom first: those of one name, in another image too, are the same bytes.
pub struct Named {
    image: Arc<Image>,
    names: Vec<Arc<str>>,
}

impl Named {
    /// `names` may be shorter than the list of lowers; what has no name is like nothing else.
    pub fn new(image: Arc<Image>, names: Vec<String>) -> Named {
        Named { image, names: names.into_iter().map(Arc::from).collect() }
    }
}

impl ReadAt for Named {
    fn len(&self) -> u64 {
        self.image.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.image.read_at(buf, offset)
    }

    fn places(&self, offset: u64, len: u64, each: &mut dyn FnMut(u64, Place)) {
        let mut next = offset;
        self.image.places(offset, len, &mut |end, held| {
            // The first part, and the last, may begin and end within a sector.
            let (from, to) = (next, end.min(offset + len));
            if to <= from {
                return;
            }
            next = to;
            let place = match held {
                None => Place::Zeros,
                Some((layer, at)) => match layer.and_then(|layer| self.names.get(layer)) {
                    Some(name) => Place::Layer(Arc::clone(name), at + from % SECTOR),
                    None => Place::Unknown,
                },
            };
            each(to - from, place);
        });
    }
}

/// A device whose ranges are checked, and whose metadata is remembered.
pub(super) struct Device {
    bytes: Arc<dyn ReadAt>,
    kept: Mutex<Kept>,
}

/// Pages in two generations: what was not asked for while the younger one grew is dropped with the older one.
#[derive(Default)]
struct Kept {
    young: HashMap<u64, Arc<[u8]>>,
    old: HashMap<u64, Arc<[u8]>>,
}

impl Kept {
    fn get(&mut self, page: u64) -> Option<Arc<[u8]>> {
        if let Some(bytes) = self.young.get(&page) {
            return Some(Arc::clone(bytes));
        }
        let bytes = self.old.remove(&page)?;
        self.put(page, Arc::clone(&bytes));
        Some(bytes)
    }

    fn put(&mut self, page: u64, bytes: Arc<[u8]>) {
        if self.young.len() >= MAX_FS_PAGES / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(page, bytes);
    }
}

impl Device {
    pub fn new(bytes: Arc<dyn ReadAt>) -> Device {
        Device { bytes, kept: Mutex::default() }
    }

    pub fn len(&self) -> u64 {
        self.bytes.len()
    }

    pub fn places(&self, offset: u64, len: u64, each: &mut dyn FnMut(u64, Place)) {
        self.bytes.places(offset, len, each);
    }

    fn check(&self, offset: u64, len: usize) -> Result<()> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(Error::corrupt("something that should lie beyond the end of the device").at(offset)),
        }
    }

    /// Reads content, which is not kept.
    pub fn read_content(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check(offset, buf.len())?;
        self.bytes.read_at(buf, offset)
    }

    /// Reads metadata.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check(offset, buf.len())?;
        if buf.len() > MAX_KEPT || buf.is_empty() {
            return self.bytes.read_at(buf, offset);
        }
        let pages = offset / PAGE..(offset + buf.len() as u64).div_ceil(PAGE);
        let found: Option<Vec<_>> = {
            let mut kept = self.kept.lock();
            pages.clone().map(|page| kept.get(page)).collect()
        };
        let found = match found {
            Some(found) => found,
            None => {
                let start = pages.start * PAGE;
                let mut fresh = vec![0; ((pages.end * PAGE).min(self.len()) - start) as usize];
                self.bytes.read_at(&mut fresh, start)?;
                let mut kept = self.kept.lock();
                let fresh: Vec<Arc<[u8]>> = fresh.chunks(PAGE as usize).map(Arc::from).collect();
                for (page, bytes) in pages.zip(&fresh) {
                    kept.put(page, Arc::clone(bytes));
                }
                fresh
            }
        };
        let mut skip = (offset % PAGE) as usize;
        let mut rest = buf;
        for page in &found {
            let part = &page[skip..];
            let take = part.len().min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            now.copy_from_slice(&part[..take]);
            (rest, skip) = (later, 0);
        }
        Ok(())
    }
}
