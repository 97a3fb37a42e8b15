//! Lists of paths: which files of an image to fetch in advance, found in its own file system.
//!
//! One path a line, from the root of the image. A slash at the end: a directory, with all files below it. Names may be
//! patterns. Empty lines, and those that begin with `#`, mean nothing.

use std::collections::HashSet;
use std::sync::Arc;

use super::format::Record;
use super::glob;
use super::plan::{plan, Piece};
use crate::error::{Error, Kind, Result};
use crate::fs::{FileSystem, Node, Type};
use crate::limits::{MAX_LISTED_ENTRIES, SECTOR};
use crate::lsmt::Stack;

/// Ranges that are put together before they are fetched: files beside one another are fetched as one.
const BATCH: usize = 4096;

/// What a list is turned into.
pub(super) struct Listing<'a> {
    stack: &'a Stack,
    files: FileSystem,
    lens: Vec<u64>,
    batch: Vec<Record>,
    /// Entries that may still be looked at.
    budget: usize,
    /// Takes the pieces; false if no more are wanted.
    feed: &'a mut dyn FnMut(Piece) -> bool,
    /// Takes a line for people about something passed over.
    note: &'a mut dyn FnMut(String),
    stopped: bool,
}

/// Finds the files that the list `text` names on the device that `stack` is, and gives the ranges of its layers in
/// which they lie to `feed`, until that returns false. What cannot be found is passed over, and `note` is told.
///
/// # Errors
/// `Unsupported` without a file system that is known; those of reading it.
pub fn list(
    stack: &Arc<Stack>,
    text: &[u8],
    feed: &mut dyn FnMut(Piece) -> bool,
    note: &mut dyn FnMut(String),
) -> Result<()> {
    let files = FileSystem::open(Arc::clone(stack) as _).map_err(|e| e.context("the file system of the image"))?;
    let lens = stack.blobs().iter().rev().map(|blob| blob.len()).collect();
    let budget = MAX_LISTED_ENTRIES;
    let mut listing = Listing { stack, files, lens, batch: Vec::new(), budget, feed, note, stopped: false };
    let root = listing.files.root().map_err(|e| e.context("the file system of the image"))?;
    for (number, line) in (1..).zip(text.split(|b| *b == b'\n')) {
        let line = trim(line.strip_suffix(b"\r").unwrap_or(line));
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        if let Err(e) = listing.line(&root, line) {
            let path: String = String::from_utf8_lossy(line).chars().flat_map(char::escape_debug).take(200).collect();
            (listing.note)(format!("line {number}: {path}: {}", e.what()));
        }
        if listing.stopped {
            return Ok(());
        }
    }
    listing.flush();
    Ok(())
}

fn trim(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|b| *b != b' ').unwrap_or(line.len());
    let end = line.iter().rposition(|b| *b != b' ').map_or(start, |last| last + 1);
    &line[start..end]
}

impl Listing<'_> {
    fn line(&mut self, root: &Node, line: &[u8]) -> Result<()> {
        let all_below = line.ends_with(b"/");
        let parts: Vec<&[u8]> = line.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
        let patterns = parts.iter().any(|part| glob::is_pattern(part));
        let (mut found, mut passed) = (0, None);
        // Nodes from the root on, and how many of the parts led there; the first in order is the last.
        let mut heads = vec![(vec![root.clone()], 0)];
        while let Some((nodes, depth)) = heads.pop() {
            if self.stopped {
                return Ok(());
            }
            let Some(part) = parts.get(depth) else {
                let Some(node) = nodes.last() else { continue };
                match self.take(node, all_below) {
                    Ok(()) => found += 1,
                    Err(e) => passed = Some(e),
                }
                continue;
            };
            match self.files.resolve_from(&nodes, part) {
                Ok(next) => heads.push((next, depth + 1)),
                Err(e) if e.kind() == Kind::NotFound && glob::is_pattern(part) => {
                    let first = heads.len();
                    for name in self.matching(&nodes, part)? {
                        match self.files.resolve_from(&nodes, &name) {
                            Ok(next) => heads.push((next, depth + 1)),
                            Err(e) => passed = Some(e),
                        }
                    }
                    heads[first..].reverse();
                }
                Err(e) => passed = Some(e),
            }
        }
        match passed {
            // A pattern may fit what is of no use.
            Some(e) if !patterns || found == 0 => Err(e),
            None if found == 0 => Err(Error::new(Kind::NotFound, "no such file in the image")),
            _ => Ok(()),
        }
    }

    /// The names in a directory that fit a pattern.
    fn matching(&mut self, nodes: &[Node], pattern: &[u8]) -> Result<Vec<Vec<u8>>> {
        let Some(directory) = nodes.last().filter(|node| node.kind() == Type::Directory) else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        let budget = &mut self.budget;
        self.files.entries(directory, |name, _| {
            *budget = budget.saturating_sub(1);
            if glob::fits(pattern, name) {
                names.push(name.to_vec());
            }
            *budget > 0
        })?;
        self.check_budget()?;
        Ok(names)
    }

    fn check_budget(&self) -> Result<()> {
        match self.budget {
            0 => Err(Error::new(Kind::Limit, "the list names more files than are looked at")),
            _ => Ok(()),
        }
    }

    /// Takes a file, or with `all_below` the files below a directory.
    fn take(&mut self, node: &Node, all_below: bool) -> Result<()> {
        match (node.kind(), all_below) {
            (Type::File, false) => self.file(node),
            (Type::Directory, true) => self.below(node),
            (Type::Directory, false) => {
                Err(Error::new(Kind::Invalid, "a directory: with a slash at the end, all below it"))
            }
            (_, true) => Err(Error::new(Kind::Invalid, "not a directory")),
            _ => Err(Error::new(Kind::Invalid, "not a regular file")),
        }
    }

    /// Takes all files below a directory. Symbolic links are not followed; damage costs what it hides.
    fn below(&mut self, top: &Node) -> Result<()> {
        let mut seen = HashSet::from([top.number]);
        let mut directories = vec![top.clone()];
        let mut first = None;
        while let Some(directory) = directories.pop() {
            let mut numbers = Vec::new();
            let budget = &mut self.budget;
            let listed = self.files.entries(&directory, |_, number| {
                *budget = budget.saturating_sub(1);
                numbers.push(number);
                *budget > 0
            });
            let mut fail = |e: Error| first = first.take().or(Some(e));
            if let Err(e) = listed {
                fail(e);
            }
            for number in numbers {
                if self.stopped {
                    return Ok(());
                }
                let taken = self.files.node(number).and_then(|node| match node.kind() {
                    Type::File => self.file(&node),
                    Type::Directory if seen.insert(number) => {
                        directories.push(node);
                        Ok(())
                    }
                    _ => Ok(()),
                });
                if let Err(e) = taken {
                    fail(e);
                }
            }
            self.check_budget()?;
        }
        first.map_or(Ok(()), Err)
    }

    /// Takes a file: the ranges of the layers in which it lies.
    fn file(&mut self, node: &Node) -> Result<()> {
        for extent in self.files.extents(node)? {
            let sectors = extent.device / SECTOR..(extent.device + extent.len).div_ceil(SECTOR);
            let (batch, layers) = (&mut self.batch, self.lens.len());
            self.stack.index().lookup(sectors, |piece| {
                if !piece.zeroed {
                    let layer = (layers - 1 - usize::from(piece.tag)) as u32;
                    let (offset, len) = (piece.moffset * SECTOR, u64::from(piece.length) * SECTOR);
                    batch.push(Record { layer, offset, len });
                }
            });
            if self.batch.len() >= BATCH {
                self.flush();
            }
            if self.stopped {
                break;
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        let (pieces, _) = plan(&self.batch, &self.lens);
        self.batch.clear();
        self.stopped = self.stopped || !pieces.into_iter().all(&mut *self.feed);
    }
}
