//! Stored blocks of squashfs layers, copied as they are: nothing is decompressed, and neighbours in the source
//! are copied in one go, so that adding a little to a large image costs what copying its file costs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::{Copied, Offered};
use crate::layers::tree::{NodeId, Tree};
use crate::layers::{Content, Entry, Failure, Result, What};
use crate::squashfs::format::{DATA_RAW, NO_FRAGMENT};
use crate::squashfs::inode::Data;
use crate::squashfs::reader::Image;
use crate::squashfs::writer::{Contents, Fragment, Output, Stretch};

/// Bytes asked of the kernel at a time, so that progress shows.
const COPY_STEP: u64 = 64 << 20;

/// A surviving file of a squashfs layer.
pub struct File<'s> {
    pub image: &'s Arc<Image>,
    pub layer: u32,
    pub reference: u64,
}

fn offer(what: &What, into: &mut Offered) {
    if let What::File { content: Content::Stored { layer, reference }, .. } = what {
        into.entry(*layer).or_default().insert(*reference);
    }
}

/// The files of all layers that may be copied.
pub fn offered(layers: &[Vec<Entry>]) -> Offered {
    let mut found = Offered::new();
    layers.iter().flatten().for_each(|entry| offer(&entry.what, &mut found));
    found
}

/// Those that are in the finished tree.
pub fn kept(tree: &Tree, order: &[NodeId]) -> Offered {
    let mut found = Offered::new();
    order.iter().for_each(|&id| offer(&tree.nodes[id].what, &mut found));
    found
}

/// The fragment blocks of an image that hold something of a file that is not kept.
pub fn left_behind(
    image: &Image,
    offered: &HashSet<u64>,
    kept: Option<&HashSet<u64>>,
) -> Result<HashSet<u32>> {
    let mut found = HashSet::new();
    for reference in offered.iter().filter(|reference| kept.is_none_or(|kept| !kept.contains(reference))) {
        if let Data::File { fragment, .. } = image.inode(*reference)?.data
            && fragment != NO_FRAGMENT
        {
            found.insert(fragment);
        }
    }
    Ok(found)
}

/// Whether a file has its end in one of these fragment blocks.
pub fn shares(image: &Image, reference: u64, fragments: &HashSet<u32>) -> Result<bool> {
    Ok(matches!(image.inode(reference)?.data, Data::File { fragment, .. } if fragments.contains(&fragment)))
}

/// What of one image is needed: stretches of the source, by position; and fragment blocks.
#[derive(Default)]
struct Needs {
    stretches: BTreeMap<u64, u64>,
    fragments: BTreeMap<u32, ()>,
}

/// Copies what the files need behind the data written so far.
pub fn copy(
    files: &[File<'_>],
    contents: &mut Contents,
    output: &Output,
    written: &AtomicU64,
) -> Result<Copied> {
    let mut copied = Copied::new();
    let mut needs: BTreeMap<u32, (&Arc<Image>, Needs)> = BTreeMap::new();
    for file in files {
        let (_, needs) = needs.entry(file.layer).or_insert_with(|| (file.image, Needs::default()));
        let inode = file.image.inode(file.reference)?;
        let Data::File { start, fragment, .. } = &inode.data else { continue };
        let list = file.image.block_list(&inode)?;
        let length: u64 = list.words().iter().map(|word| u64::from(word & !DATA_RAW)).sum();
        if length > 0 {
            let known = needs.stretches.entry(*start).or_default();
            *known = length.max(*known);
        }
        if *fragment != NO_FRAGMENT {
            needs.fragments.insert(*fragment, ());
        }
    }
    for (layer, (image, mut needs)) in needs {
        let mut fragments = HashMap::new();
        for &index in needs.fragments.keys() {
            let block = image.fragment(index)?;
            if block.length() > image.superblock.block_size {
                return Err(Failure::corrupt("a fragment block is larger than the block size"));
            }
            let known = needs.stretches.entry(block.position).or_default();
            *known = u64::from(block.length()).max(*known);
            fragments.insert(index, block);
        }
        let moved = Moved::copy(image, &needs.stretches, contents, output, written)?;
        let mut numbers = HashMap::new();
        for index in needs.fragments.into_keys() {
            let block = fragments[&index];
            numbers.insert(index, contents.fragments.len() as u32);
            contents.fragments.push(Fragment { position: moved.of(block.position)?, word: block.word });
        }
        for file in files.iter().filter(|file| file.layer == layer) {
            let inode = image.inode(file.reference)?;
            let Data::File { start, fragment, fragment_offset, sparse, .. } = &inode.data else { continue };
            let words: Box<[u32]> = image.block_list(&inode)?.words().into();
            let stored = words.iter().any(|word| word & !DATA_RAW > 0);
            let stretch = Stretch {
                start: if stored { moved.of(*start)? } else { 0 },
                words,
                tail: numbers.get(fragment).map(|number| (*number, *fragment_offset)),
                sparse: *sparse,
            };
            copied.insert((layer, file.reference), stretch);
        }
    }
    Ok(copied)
}

/// Runs of the source (beginning and end) and where each now begins.
struct Moved(BTreeMap<u64, (u64, u64)>);

impl Moved {
    fn copy(
        image: &Image,
        stretches: &BTreeMap<u64, u64>,
        contents: &mut Contents,
        output: &Output,
        written: &AtomicU64,
    ) -> Result<Moved> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (&start, &length) in stretches {
            let end = start.checked_add(length).filter(|end| *end <= image.superblock.bytes_used);
            let end = end.ok_or_else(|| Failure::corrupt("a file's blocks lie outside the image"))?;
            match runs.last_mut() {
                Some((_, last)) if start <= *last => *last = end.max(*last),
                _ => runs.push((start, end)),
            }
        }
        let mut moved = BTreeMap::new();
        for (start, end) in runs {
            copy_run(image, start, end - start, output, contents.end, written)?;
            moved.insert(start, (end, contents.end));
            contents.end += end - start;
        }
        Ok(Moved(moved))
    }

    fn of(&self, position: u64) -> Result<u64> {
        let run = self.0.range(..=position).next_back();
        match run {
            Some((start, (end, target))) if position <= *end => Ok(target + (position - start)),
            _ => Err(Failure::corrupt("a file's blocks lie outside the image")),
        }
    }
}

/// Inside the kernel where the file systems can; else through a buffer.
fn copy_run(
    image: &Image,
    start: u64,
    length: u64,
    output: &Output,
    at: u64,
    written: &AtomicU64,
) -> io::Result<()> {
    let (source, base) = image.source();
    let (mut from, mut to) = (base + start, output.base + at);
    let mut left = length;
    while left > 0 {
        let step = left.min(COPY_STEP) as usize;
        match rustix::fs::copy_file_range(source, Some(&mut from), &output.file, Some(&mut to), step) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                left -= count as u64;
                written.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::BADF) => {
                break;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    let mut buffer = vec![0; (1 << 20).min(left as usize)];
    while left > 0 {
        let count = left.min(buffer.len() as u64) as usize;
        source.read_exact_at(&mut buffer[..count], from)?;
        output.file.write_all_at(&buffer[..count], to)?;
        from += count as u64;
        to += count as u64;
        left -= count as u64;
        written.fetch_add(count as u64, Ordering::Relaxed);
    }
    Ok(())
}
