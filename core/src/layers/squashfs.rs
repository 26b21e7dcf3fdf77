//! A squashfs image as a layer: its blocks are taken over as they are stored where the output is alike, else its
//! files are read and compressed anew.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::directory::matches_path;
use super::shadow::Shadow;
use super::{
    Attributes, Content, DEEPEST, Entry, Failure, MOST_ENTRIES, MOST_METADATA, Marks, Path, Result, Sink,
    What, is_opaque_mark,
};
use crate::owner::{ATTRIBUTE, Owner, UNSAID};
use crate::squashfs::directory::Entry as Name;
use crate::squashfs::format::{DATA_RAW, NO_FRAGMENT, kind};
use crate::squashfs::inode::{Data, Inode, Xattrs};
use crate::squashfs::reader::Image;

/// What becomes of the blocks of an image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// They stay as they are, to be copied when it is known which files survive.
    Kept,
    /// Files are given to the sink, whole blocks of large ones as they are: see `pass_on`.
    PassedOn,
    /// Files are read, to be packed anew.
    Read,
}

/// How an image is read.
#[derive(Clone, Copy)]
pub struct Taking<'a> {
    /// What the marks of overlayfs are.
    pub marks: Marks,
    /// Patterns of paths of which only removals count: files there are as if they had not been written.
    pub without: &'a [Path],
    pub blocks: Blocks,
    pub shadow: &'a Shadow,
    /// Whoever wrote it had one id: a file's owner is what its record says (`owner`), else `UNSAID`.
    pub recorded: bool,
}

/// Reads the whole image.
pub fn read(
    image: &Image,
    how: Taking<'_>,
    layer: u32,
    count: &Arc<AtomicU64>,
    sink: &mut dyn Sink,
) -> Result<Vec<Entry>> {
    let mut walk = Walk {
        image,
        how,
        layer,
        count,
        sink,
        entries: Vec::new(),
        seen: HashMap::new(),
        sets: HashMap::new(),
        buffer: vec![0; image.block_size()],
        metadata: 0,
        dropping: false,
        maker: (0, 0),
    };
    let root = image.root()?;
    walk.maker = (root.uid, root.gid);
    let attributes = walk.attributes(&root)?;
    walk.entries.push(Entry { path: Vec::new(), attributes, what: What::Directory });
    walk.directory(&root, Vec::new(), 0)?;
    Ok(walk.entries)
}

/// Reads a file of the image and gives its content to the sink; its number there.
pub fn pass_file(image: &Image, inode: &Inode, buffer: &mut [u8], sink: &mut dyn Sink) -> Result<u32> {
    sink.begin(inode.size)?;
    let mut at = 0;
    while at < inode.size {
        let count = image.read_file(inode, at, buffer)?;
        if count == 0 {
            return Err(Failure::corrupt("a file of the image is shorter than its size"));
        }
        sink.write(&buffer[..count])?;
        at += count as u64;
    }
    sink.finish()
}

impl Blocks {
    /// Gives a file to the sink now; its number there.
    pub fn give(self, image: &Image, inode: &Inode, buffer: &mut [u8], sink: &mut dyn Sink) -> Result<u32> {
        if self == Blocks::PassedOn {
            pass_on(image, inode, buffer, sink)
        } else {
            pass_file(image, inode, buffer, sink)
        }
    }
}

/// A file of an image that is packed just as the output. Of a large one every block is by itself, so packing it anew would give the
/// bytes that are there: they are passed on. Small ones share blocks with others, and are read.
fn pass_on(image: &Image, inode: &Inode, buffer: &mut [u8], sink: &mut dyn Sink) -> Result<u32> {
    let Data::File { start, fragment: NO_FRAGMENT, .. } = inode.data else {
        return pass_file(image, inode, buffer, sink);
    };
    if inode.size < image.block_size() as u64 {
        return pass_file(image, inode, buffer, sink);
    }
    let list = image.block_list(inode)?;
    let (source, base) = image.source();
    let stored: u64 = list.words().iter().map(|word| u64::from(word & !DATA_RAW)).sum();
    if start.checked_add(stored).is_none_or(|end| end > image.superblock.bytes_used) {
        return Err(Failure::corrupt("a file's blocks lie outside the image"));
    }
    sink.packed(inode.size, list.words(), &mut |target, at| source.read_exact_at(target, base + start + at))
}

struct Walk<'a> {
    image: &'a Image,
    how: Taking<'a>,
    layer: u32,
    count: &'a Arc<AtomicU64>,
    sink: &'a mut dyn Sink,
    entries: Vec<Entry>,
    /// First path of every inode with several names, and of every directory, which may have only one.
    seen: HashMap<u64, Path>,
    sets: HashMap<u32, Arc<Xattrs>>,
    buffer: Vec<u8>,
    /// Bytes of names and attributes so far.
    metadata: usize,
    /// Inside a directory of which only removals count.
    dropping: bool,
    /// Whose new files are, of which nothing is said.
    maker: (u32, u32),
}

impl Walk<'_> {
    fn directory(&mut self, directory: &Inode, path: Path, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(Failure::corrupt("the image's tree is deeper than 1000 directories").at(&path));
        }
        let image = self.image;
        let mut listing = image.list(directory, 0)?;
        let mut previous: Vec<u8> = Vec::new();
        while let Some(name) = listing.next_entry()? {
            if name.name <= previous && !previous.is_empty() {
                return Err(Failure::corrupt("a directory of the image is not sorted").at(&path));
            }
            previous.clone_from(&name.name);
            self.entry(&name, &path, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, name: &Name, parent: &[u8], depth: usize) -> Result<()> {
        let inode = self.image.inode_of(name)?;
        let path = if parent.is_empty() { name.name.clone() } else { [parent, b"/", &name.name].concat() };
        self.metadata += path.len();
        if self.entries.len() >= MOST_ENTRIES || self.metadata > MOST_METADATA {
            return Err(Failure::corrupt("the image has too many files").at(&path));
        }
        let dropped = self.dropping || self.how.without.iter().any(|pattern| matches_path(pattern, &path));
        if dropped && !inode.is_directory() && !matches!(inode.data, Data::Device { number: 0 }) {
            return Ok(());
        }
        if inode.links > 1 || inode.is_directory() {
            if let Some(target) = self.seen.get(&inode.reference) {
                if inode.is_directory() {
                    return Err(Failure::corrupt("a directory of the image is inside itself").at(&path));
                }
                let what = What::HardLink { target: target.clone() };
                self.entries.push(Entry { path, attributes: Attributes::default(), what });
                return Ok(());
            }
            self.seen.insert(inode.reference, path.clone());
        }
        let attributes = self.attributes(&inode)?;
        let what = match &inode.data {
            Data::Directory { .. } => {
                let opaque = self.how.marks != Marks::Ordinary && self.is_opaque(&inode)?;
                if opaque {
                    let (path, attributes) = (path.clone(), Attributes::default());
                    self.entries.push(Entry { path, attributes, what: What::Opaque });
                }
                self.entries.push(Entry { path: path.clone(), attributes, what: What::Directory });
                let before = self.entries.len();
                let outside = std::mem::replace(&mut self.dropping, dropped);
                self.directory(&inode, path, depth + 1)?;
                self.dropping = outside;
                if dropped && self.entries.len() == before && !opaque {
                    self.entries.pop();
                }
                return Ok(());
            }
            Data::File { .. } => What::File { size: inode.size, content: self.content(&inode, &path)? },
            Data::Symlink { target } => What::Symlink { target: target.clone() },
            Data::Device { number: 0 } if self.is_whiteout(&inode) => What::Whiteout,
            Data::Device { number } => What::Device { kind: inode.kind, number: *number },
            Data::Other if inode.kind == kind::FIFO => What::Fifo,
            Data::Other => {
                self.sink.warn(format!("the socket `{}` was left out", String::from_utf8_lossy(&path)));
                return Ok(());
            }
        };
        self.entries.push(Entry { path, attributes, what });
        Ok(())
    }

    /// The owner that is written down for a file of a layer.
    fn recorded(&self, inode: &Inode) -> Result<(u32, u32)> {
        if !inode.is_directory() && !matches!(inode.data, Data::File { .. }) {
            return Ok((inode.uid, inode.gid));
        }
        let found = self.image.xattrs(inode)?;
        let said = found.iter().find(|(name, _)| name == ATTRIBUTE.to_bytes());
        let owner = said.and_then(|(_, value)| Owner::decode(value));
        let (uid, gid) = owner.map_or((UNSAID, UNSAID), |owner| (owner.uid, owner.gid));
        if !inode.is_directory() || !self.is_opaque(inode)? {
            return Ok((uid, gid));
        }
        // What it was before is gone, with its owner.
        Ok((if uid == UNSAID { self.maker.0 } else { uid }, if gid == UNSAID { self.maker.1 } else { gid }))
    }

    fn is_opaque(&self, directory: &Inode) -> Result<bool> {
        Ok(self.image.xattrs(directory)?.iter().any(|(name, value)| is_opaque_mark(name, value)))
    }

    fn is_whiteout(&self, device: &Inode) -> bool {
        self.how.marks == Marks::CarriedOut && device.kind == kind::CHARACTER
    }

    fn content(&mut self, inode: &Inode, path: &[u8]) -> Result<Content> {
        if self.how.blocks == Blocks::Kept || self.how.shadow.hides(path) {
            // Copied, or read again, once it is known to survive.
            return Ok(Content::Stored { layer: self.layer, reference: inode.reference });
        }
        let number = self.how.blocks.give(self.image, inode, &mut self.buffer, self.sink);
        let number = number.map_err(|failure| failure.at(path))?;
        self.count.fetch_add(inode.size, Ordering::Relaxed);
        Ok(Content::Written(number))
    }

    fn attributes(&mut self, inode: &Inode) -> Result<Attributes> {
        let mut xattrs = self.sets.get(&inode.xattr).cloned();
        if xattrs.is_none() {
            let mut found = self.image.xattrs(inode)?;
            if self.how.marks == Marks::CarriedOut {
                found.retain(|(name, value)| !is_opaque_mark(name, value) && name != ATTRIBUTE.to_bytes());
            }
            found.sort();
            if !found.is_empty() {
                self.metadata += found.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
                let set = Arc::new(found);
                self.sets.insert(inode.xattr, Arc::clone(&set));
                xattrs = Some(set);
            }
        }
        let (uid, gid) = if self.how.recorded { self.recorded(inode)? } else { (inode.uid, inode.gid) };
        Ok(Attributes { mode: inode.mode, uid, gid, mtime: inode.mtime, xattrs })
    }
}
