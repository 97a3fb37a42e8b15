//! Fetches of a blob that has a tree: no byte is given to anybody before its leaf was held against it.

use std::sync::Arc;

use super::{public_url, FetchStats, Fetched, Source, Stream};
use crate::error::{Error, Result};
use crate::limits::MAX_TREE_ATTEMPTS;
use crate::merkle::Tree;

impl Source {
    /// The same source, whose answers are held against `tree` from now on.
    pub fn with_tree(mut self, tree: Option<Arc<Tree>>) -> Self {
        self.tree = tree;
        self
    }

    /// What answers are held against.
    pub fn tree(&self) -> Option<&Arc<Tree>> {
        self.tree.as_ref()
    }

    /// The length of the blob, if it is known: that of its tree.
    ///
    /// Errors: `Corrupt` if it is to have another one.
    pub fn proven_len(&self, len: Option<u64>) -> Result<Option<u64>> {
        let Some(tree) = &self.tree else { return Ok(len) };
        if len.is_some_and(|len| len != tree.size()) {
            let what = format!("{} bytes long, but its tree is of {}", len.unwrap_or(0), tree.size());
            return Err(Error::corrupt(what).in_file(self.name()));
        }
        Ok(Some(tree.size()))
    }

    /// As [`Source::fetch`], for a sequential reader: takes the bytes from `stream` if that is at `offset`, and if
    /// a GET is needed asks for `ahead` bytes more, which come back as a stream for the next call. What is `awaited` by
    /// somebody goes before what others fetch; what is not does not wait for a registry that is away.
    pub fn fetch_ahead(
        &self,
        offset: u64,
        buf: &mut [u8],
        total: Option<u64>,
        ahead: u64,
        stream: Option<Stream>,
        awaited: bool,
    ) -> Result<(Fetched, Option<Stream>)> {
        match &self.tree {
            None => self.ask(offset, buf, total, ahead, stream, awaited),
            Some(tree) => self.fetch_proven(tree, offset, buf, ahead, stream, awaited),
        }
    }

    /// As [`Source::fetch_ahead`]. What is asked for in part of a leaf is fetched with all of it.
    pub(super) fn fetch_proven(
        &self,
        tree: &Tree,
        offset: u64,
        buf: &mut [u8],
        ahead: u64,
        stream: Option<Stream>,
        awaited: bool,
    ) -> Result<(Fetched, Option<Stream>)> {
        let total = tree.size();
        let len = total.saturating_sub(offset).min(buf.len() as u64) as usize;
        let (buf, fetched) = (&mut buf[..len], Fetched { len, total });
        let wide = tree.widened(offset, len as u64);
        if wide == (offset..offset + len as u64) {
            let rest = self.fetch_leaves(tree, offset, buf, ahead, stream, awaited)?;
            return Ok((fetched, rest));
        }
        let mut bytes = vec![0; (wide.end - wide.start) as usize];
        self.fetch_leaves(tree, wide.start, &mut bytes, 0, None, awaited)?;
        buf.copy_from_slice(&bytes[(offset - wide.start) as usize..][..len]);
        Ok((fetched, None))
    }

    /// Fetches whole leaves until they are right: from whoever is next when one has sent wrong ones.
    fn fetch_leaves(
        &self,
        tree: &Tree,
        offset: u64,
        buf: &mut [u8],
        ahead: u64,
        stream: Option<Stream>,
        awaited: bool,
    ) -> Result<Option<Stream>> {
        let (mut ahead, mut stream) = (ahead, stream);
        let mut liars: Vec<u32> = Vec::new();
        for attempt in 1.. {
            let (_, rest) = self.ask(offset, buf, Some(tree.size()), ahead, stream, awaited)?;
            let Some(wrong) = tree.first_wrong(offset, buf) else { return Ok(rest) };
            FetchStats::add(&self.stats().mismatches, 1);
            let (at, len) = (wrong.start, wrong.end - wrong.start);
            let by = self.served.lock().by(at, len);
            let again = by.as_ref().is_some_and(|target| liars.contains(&target.endpoint));
            let who = by.as_ref().map_or_else(|| self.name().to_owned(), |target| public_url(&target.url));
            if let Some(target) = by {
                self.locate.mismatched(&target, at, len);
                liars.push(target.endpoint);
            }
            if again || attempt >= MAX_TREE_ATTEMPTS {
                let what =
                    format!("{len} bytes do not match the tree of the layer: sent by {who}, fetched {attempt} times");
                return Err(Error::corrupt(what).in_file(self.name()).at(at));
            }
            // What comes behind wrong bytes is not waited for.
            (ahead, stream) = (0, None);
        }
        Ok(None)
    }
}
