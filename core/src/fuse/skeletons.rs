//! Trees beside an image, in the same mount: of directories and empty files at which containers mount something.
//!
//! An overlay of such a tree and the image is of one file system, and so keeps the numbers of devices and files that the image
//! has: `du -x` and the like see one file system, too. What is there never changes; a tree that is added has a name that
//! nobody has asked for yet.

use std::sync::{PoisonError, RwLock};

use super::Ids;
use crate::launch::resolve::Kind;
use crate::squashfs::format::{Error, NO_XATTR, kind};
use crate::squashfs::inode::{Data, Inode};
use crate::squashfs::reader::Image;

/// Where the image is in the mount.
pub const IMAGE: &str = "image";
/// Nodes from here on are of these trees; the numbers of the image's are of 48 bits (see `ahead::node_of`).
const FIRST: u64 = 1 << 62;
/// Directories and files that one server has at most: some hundred bytes each, which go with it.
const MOST: usize = 20_000;

/// A mount point: names from the root of the image on, of which the image has the first `existing`.
pub struct Point<'a> {
    pub names: Vec<&'a [u8]>,
    pub existing: usize,
    pub kind: Kind,
}

struct Node {
    inode: Inode,
    children: Vec<(Vec<u8>, Inode)>,
}

pub struct Skeletons {
    /// The first one is the directory of all.
    nodes: RwLock<Vec<Node>>,
    ids: Ids,
    /// Of what the image lacks.
    time: u32,
    /// The numbers that users see begin behind those of the image.
    number: u32,
}

/// Whether a node is one of these and not of the image.
pub fn has(node: u64) -> bool {
    node >= FIRST
}

impl Skeletons {
    pub fn beside(image: &Image, ids: Ids) -> Result<Skeletons, Error> {
        let root = image.root()?;
        let number = image.superblock.inodes;
        let skeletons =
            Skeletons { nodes: RwLock::default(), ids, time: root.mtime, number: number.saturating_add(1) };
        {
            let mut nodes = skeletons.nodes.write().unwrap_or_else(PoisonError::into_inner);
            let top = skeletons.add(&mut nodes, &root).ok_or(Error::NotFound)?;
            nodes[top].children.push((IMAGE.as_bytes().to_vec(), root));
        }
        Ok(skeletons)
    }

    /// Adds a tree of mount points; gives back the name of its directory. `None`: there is no room, or the image is not as the points say.
    pub fn tree(&self, image: &Image, points: &[Point<'_>]) -> Option<String> {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let original = image.root().ok()?;
        let tree = self.add(&mut nodes, &original)?;
        for point in points {
            let (mut here, mut original) = (tree, original.clone());
            for (depth, name) in point.names.iter().enumerate() {
                let wanted = if depth < point.existing {
                    original = image.lookup(&original, name).ok()?;
                    original.clone()
                } else {
                    let is_last = depth + 1 == point.names.len();
                    self.lacking(if is_last { point.kind } else { Kind::Directory })
                };
                if !nodes[here].inode.is_directory() {
                    return None;
                }
                here = match nodes[here].children.iter().find(|(known, _)| known == name) {
                    Some((_, child)) => index_of(child)?,
                    None => {
                        let made = self.add(&mut nodes, &wanted)?;
                        let inode = nodes[made].inode.clone();
                        nodes[here].children.push((name.to_vec(), inode));
                        made
                    }
                };
            }
        }
        let name = format!("points{tree}");
        let inode = nodes[tree].inode.clone();
        nodes[0].children.push((name.clone().into_bytes(), inode));
        Some(name)
    }

    /// What the image lacks, as it would be made by whoever mounts it.
    fn lacking(&self, wanted: Kind) -> Inode {
        let (uid, gid) = match self.ids {
            Ids::Stored => (0, 0),
            Ids::All { uid, gid } => (uid, gid),
        };
        let (kind, mode) = match wanted {
            Kind::Directory => (kind::DIRECTORY, 0o755),
            Kind::File => (kind::FILE, 0o644),
        };
        let (mtime, links) = (self.time, 1);
        let data = Data::Other;
        Inode { reference: 0, number: 0, kind, mode, uid, gid, mtime, links, xattr: NO_XATTR, size: 0, data }
    }

    /// Adds a node with the mode, owner and time of another one; gives back its place.
    fn add(&self, nodes: &mut Vec<Node>, like: &Inode) -> Option<usize> {
        let place = nodes.len();
        if place == MOST {
            return None;
        }
        let inode = Inode {
            reference: FIRST + place as u64 - 2,
            number: self.number.checked_add(place as u32)?,
            xattr: NO_XATTR,
            size: 0,
            data: Data::Other,
            ..like.clone()
        };
        nodes.push(Node { inode, children: Vec::new() });
        Some(place)
    }

    /// The directory of all trees and the image.
    pub fn top(&self) -> Option<Inode> {
        self.inode(FIRST)
    }

    pub fn inode(&self, node: u64) -> Option<Inode> {
        self.with(node, |found| found.inode.clone())
    }

    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Option<Inode> {
        self.with(directory.reference + 2, |found| {
            found.children.iter().find(|(known, _)| known == name).map(|(_, inode)| inode.clone())
        })?
    }

    /// What is in a directory, from an entry on.
    pub fn list(&self, directory: &Inode, from: usize) -> Vec<(Vec<u8>, Inode)> {
        self.with(directory.reference + 2, |found| found.children.iter().skip(from).cloned().collect())
            .unwrap_or_default()
    }

    fn with<T>(&self, node: u64, look: impl FnOnce(&Node) -> T) -> Option<T> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(usize::try_from(node.checked_sub(FIRST)?).ok()?).map(look)
    }
}

fn index_of(inode: &Inode) -> Option<usize> {
    usize::try_from((inode.reference + 2).checked_sub(FIRST)?).ok()
}
