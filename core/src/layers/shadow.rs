//! What upper layers hide, and what is excluded, as far as names alone can tell: content that need not be compressed.
//!
//! Being wrong costs time, never correctness: what turns out to be needed is read again.

use std::collections::HashSet;

use super::{Entry, Path, What, split_path};

/// Which entries' content is wanted.
pub enum Wanted<'a> {
    /// Everything that does not seem to be hidden.
    Visible(&'a Shadow),
    /// These entries, by number, and nothing else: the second look.
    Only(&'a HashSet<u32>),
    /// All: there can be no second look.
    Everything,
}

impl Wanted<'_> {
    /// Whether the content of the entry of this path and number is wanted now.
    pub fn takes(&self, path: &[u8], number: u32) -> bool {
        match self {
            Wanted::Visible(shadow) => !shadow.hides(path),
            Wanted::Only(numbers) => numbers.contains(&number),
            Wanted::Everything => true,
        }
    }
}

#[derive(Default)]
pub struct Shadow {
    /// Paths whose lower content is gone: replaced by something that is no directory, or removed.
    gone: HashSet<Path>,
    /// Directories of which the lower layers' content is gone.
    opaque: HashSet<Path>,
}

impl Shadow {
    /// Takes note of a whole layer, after it has been read: a layer does not hide what is its own.
    pub fn add(&mut self, layer: &[Entry]) {
        for entry in layer {
            match entry.what {
                What::Directory => {}
                What::Opaque => {
                    self.opaque.insert(entry.path.clone());
                }
                _ => {
                    self.gone.insert(entry.path.clone());
                }
            }
        }
    }

    /// Takes note of paths that will not be in the image at all.
    pub fn exclude(&mut self, paths: &[Path]) {
        self.gone.extend(paths.iter().cloned());
    }

    pub fn hides(&self, path: &[u8]) -> bool {
        if self.gone.is_empty() && self.opaque.is_empty() {
            return false;
        }
        let mut at = path;
        loop {
            if self.gone.contains(at) {
                return true;
            }
            if at.is_empty() {
                return false;
            }
            at = split_path(at).0;
            if self.opaque.contains(at) {
                return true;
            }
        }
    }
}
