//! A squashfs image as a layer: its blocks are taken over as they are stored where the output is alike, else its
//! files are read and compressed anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shadow::Shadow;
use super::{
    Attributes, Content, DEEPEST, Entry, Failure, MOST_ENTRIES, MOST_METADATA, Path, Result, Sink, What,
};
use crate::squashfs::directory::Entry as Name;
use crate::squashfs::format::kind;
use crate::squashfs::inode::{Data, Inode, Xattrs};
use crate::squashfs::reader::Image;

/// Reads the whole image. `verbatim`: its blocks can stay as they are.
pub fn read(
    image: &Image,
    layer: u32,
    verbatim: bool,
    shadow: &Shadow,
    count: &Arc<AtomicU64>,
    sink: &mut dyn Sink,
) -> Result<Vec<Entry>> {
    let mut walk = Walk {
        image,
        layer,
        verbatim,
        shadow,
        count,
        sink,
        entries: Vec::new(),
        seen: HashMap::new(),
        sets: HashMap::new(),
        buffer: vec![0; image.block_size()],
        metadata: 0,
    };
    let root = image.root()?;
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

struct Walk<'a> {
    image: &'a Image,
    layer: u32,
    verbatim: bool,
    shadow: &'a Shadow,
    count: &'a Arc<AtomicU64>,
    sink: &'a mut dyn Sink,
    entries: Vec<Entry>,
    /// First path of every inode with several names, and of every directory, which may have only one.
    seen: HashMap<u64, Path>,
    sets: HashMap<u32, Arc<Xattrs>>,
    buffer: Vec<u8>,
    /// Bytes of names and attributes so far.
    metadata: usize,
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
                self.entries.push(Entry { path: path.clone(), attributes, what: What::Directory });
                return self.directory(&inode, path, depth + 1);
            }
            Data::File { .. } => What::File { size: inode.size, content: self.content(&inode, &path)? },
            Data::Symlink { target } => What::Symlink { target: target.clone() },
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

    fn content(&mut self, inode: &Inode, path: &[u8]) -> Result<Content> {
        if self.verbatim || self.shadow.hides(path) {
            // Copied, or read again, once it is known to survive.
            return Ok(Content::Stored { layer: self.layer, reference: inode.reference });
        }
        let number =
            pass_file(self.image, inode, &mut self.buffer, self.sink).map_err(|failure| failure.at(path))?;
        self.count.fetch_add(inode.size, Ordering::Relaxed);
        Ok(Content::Written(number))
    }

    fn attributes(&mut self, inode: &Inode) -> Result<Attributes> {
        let mut xattrs = self.sets.get(&inode.xattr).cloned();
        if xattrs.is_none() {
            let mut found = self.image.xattrs(inode)?;
            found.sort();
            if !found.is_empty() {
                self.metadata += found.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
                let set = Arc::new(found);
                self.sets.insert(inode.xattr, Arc::clone(&set));
                xattrs = Some(set);
            }
        }
        Ok(Attributes { mode: inode.mode, uid: inode.uid, gid: inode.gid, mtime: inode.mtime, xattrs })
    }
}
