//! What goes away: what a member replaces, and what whiteouts hide.

use std::collections::hash_map::DefaultHasher;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use super::target::{Named, Target};
use super::Layer;
use crate::error::{Error, Kind, Result};
use crate::ext4::DIR;
use crate::limits::MAX_APPLY_LISTED;
use crate::tar::shown;

/// A directory that is being emptied.
struct Emptied<N> {
    parent: N,
    name: Box<[u8]>,
    number: N,
    /// What is still to be removed of it, and whether something stays.
    left: Vec<Named<N>>,
    stays: bool,
}

impl<T: Target> Layer<'_, T> {
    /// Notes that this layer has unpacked something.
    pub(super) fn mark_unpacked(&mut self, directory: T::Number, name: &[u8]) {
        self.unpacked.insert(key(directory, name));
    }

    /// Whether this layer has unpacked it.
    pub(super) fn is_unpacked(&self, directory: T::Number, name: &[u8]) -> bool {
        self.unpacked.contains(&key(directory, name))
    }

    /// `.wh.NAME`: removes what lower layers have under that name. Nothing there is nothing to do.
    pub(super) fn white_out(&mut self, directory: T::Number, name: &[u8]) -> Result<()> {
        self.done.whiteouts += 1;
        match self.target.lookup(directory, name)? {
            Some((number, kind)) => self.remove(directory, name, number, kind, true),
            None => {
                self.done.note(|| format!("whiteout of {}, which is not there", shown(name)));
                Ok(())
            }
        }
    }

    /// `.wh..wh..opq`: removes what lower layers have in a directory.
    pub(super) fn make_opaque(&mut self, directory: T::Number) -> Result<()> {
        self.done.whiteouts += 1;
        for (name, number, kind) in self.sorted(directory)? {
            self.remove(directory, &name, number, kind, true)?;
        }
        Ok(())
    }

    /// Removes a name with all below it. What this layer has unpacked stays if it is to be kept, and so do the
    /// directories that hold it; the file system's own directory stays in any case, empty.
    pub(super) fn remove(
        &mut self,
        directory: T::Number,
        name: &[u8],
        number: T::Number,
        kind: u16,
        keep: bool,
    ) -> Result<()> {
        self.last_parent = None;
        if self.target.is_own(number) {
            // What layers have put there is theirs, and goes.
            let below = if kind == DIR { self.sorted(number)? } else { Vec::new() };
            for (name, inner, kind) in below.into_iter().filter(|(_, inner, _)| *inner != number) {
                self.remove(number, &name, inner, kind, keep)?;
            }
            return Ok(());
        }
        if kind != DIR {
            return self.remove_file(directory, name, number, keep).map(drop);
        }
        let first = Emptied { parent: directory, name: name.into(), number, left: self.sorted(number)?, stays: false };
        // No recursion: how deep it goes is up to the image. But each directory comes once: a circle would have no end.
        let mut above = vec![first];
        let mut seen = HashSet::from([number]);
        while let Some(present) = above.last_mut() {
            let here = present.number;
            match present.left.pop() {
                Some((name, number, DIR)) => {
                    if !seen.insert(number) {
                        return Err(Error::corrupt(format!("{}: a directory that is in two places", shown(&name))));
                    }
                    let left = self.sorted(number)?;
                    above.push(Emptied { parent: here, name, number, left, stays: false });
                }
                Some((name, number, _)) => present.stays |= !self.remove_file(here, &name, number, keep)?,
                None => {
                    let Some(gone) = above.pop() else { break };
                    let unpacked = self.unpacked.contains(&key(gone.parent, &gone.name));
                    if keep && (gone.stays || unpacked) {
                        if let Some(holder) = above.last_mut() {
                            holder.stays = true;
                        }
                    } else {
                        self.unpacked.remove(&key(gone.parent, &gone.name));
                        self.target.remove_directory(gone.parent, &gone.name, gone.number)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the name is gone.
    fn remove_file(&mut self, directory: T::Number, name: &[u8], number: T::Number, keep: bool) -> Result<bool> {
        let key = key(directory, name);
        if keep && self.unpacked.contains(&key) {
            return Ok(false);
        }
        self.unpacked.remove(&key);
        self.target.remove_name(directory, name, number)?;
        Ok(true)
    }

    /// The entries of a directory, in an order that does not depend on how they came there.
    fn sorted(&mut self, directory: T::Number) -> Result<Vec<Named<T::Number>>> {
        let mut entries = self.target.list(directory)?;
        self.listed += entries.len() as u64;
        if self.listed > MAX_APPLY_LISTED {
            let what = format!("a layer that hides its own files over and over: {} names were looked at", self.listed);
            return Err(Error::new(Kind::Limit, what));
        }
        entries.sort_unstable();
        Ok(entries)
    }
}

fn key(directory: impl Hash, name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (directory, name).hash(&mut hasher);
    hasher.finish()
}
