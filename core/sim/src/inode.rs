//! A file of the simulated disk: its bytes as written, and as they are after a loss of power.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use overlaybd::sync::sim;

const SECTOR: usize = 512;
pub const PAGE: u64 = 4096;

#[derive(Default)]
pub struct Inode(pub Mutex<Node>);

#[derive(Default)]
pub struct Node {
    pub bytes: Vec<u8>,
    pub pages: BTreeSet<u64>,
    pub durable: Vec<u8>,
    pub durable_pages: BTreeSet<u64>,
    pub pending: Vec<Op>,
    pub links: u64,
    /// Handle, process, and whether alone.
    pub locks: Vec<(u64, sim::Process, bool)>,
}

/// A change of content that is not durable yet.
#[derive(Clone)]
pub enum Op {
    Write(u64, Vec<u8>),
    Hole(u64, u64),
    Length(u64),
}

impl Op {
    pub fn apply(&self, bytes: &mut Vec<u8>, pages: &mut BTreeSet<u64>) {
        match self {
            Op::Write(offset, data) => {
                let end = *offset as usize + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset as usize..end].copy_from_slice(data);
                pages.extend(offset / PAGE..(end as u64).div_ceil(PAGE));
            }
            Op::Hole(offset, len) => {
                let end = (offset + len).min(bytes.len() as u64);
                if *offset < end {
                    bytes[*offset as usize..end as usize].fill(0);
                }
                (offset.div_ceil(PAGE)..(offset + len) / PAGE).for_each(|page| {
                    pages.remove(&page);
                });
            }
            Op::Length(len) => {
                bytes.resize(*len as usize, 0);
                pages.split_off(&len.div_ceil(PAGE));
            }
        }
    }

    /// The parts of it that get to the disk each for itself: sectors, and pages where there was none (`old` are those
    /// that there were).
    pub fn parts(self, old: &BTreeSet<u64>) -> Vec<Op> {
        let Op::Write(mut offset, data) = self else { return vec![self] };
        let (mut parts, mut rest) = (Vec::new(), &data[..]);
        while !rest.is_empty() {
            let unit = if old.contains(&(offset / PAGE)) { SECTOR as u64 } else { PAGE };
            let (part, tail) = rest.split_at(rest.len().min((unit - offset % unit) as usize));
            parts.push(Op::Write(offset, part.to_vec()));
            (offset, rest) = (offset + part.len() as u64, tail);
        }
        parts
    }
}

impl Node {
    /// Has each sector get to the disk as it was at some moment; lengths and holes in their order, up to some moment.
    /// A page that is new on the disk comes as a whole: file systems show none before its bytes are there.
    pub fn persist_some(&mut self, ops: Vec<Op>) {
        let old = self.durable_pages.clone();
        let mut stopped = BTreeSet::new();
        let mut order_stopped = false;
        for part in ops.into_iter().flat_map(|op| op.parts(&old)) {
            let stop = sim::draw(4) == 0;
            let stopped_now = match &part {
                Op::Write(offset, _) => {
                    let page = offset / PAGE;
                    let unit = if old.contains(&page) { (page, offset / SECTOR as u64) } else { (page, u64::MAX) };
                    if stop {
                        stopped.insert(unit);
                    }
                    stopped.contains(&unit)
                }
                Op::Hole(..) | Op::Length(_) => {
                    order_stopped |= stop;
                    order_stopped
                }
            };
            if !stopped_now {
                part.apply(&mut self.durable, &mut self.durable_pages);
            }
        }
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}
