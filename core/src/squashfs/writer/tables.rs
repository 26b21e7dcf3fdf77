//! The tables behind the data: inodes, directories, fragments, export, ids, attributes; and the superblock, last.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::data::Contents;
use super::{Output, Stretch};
use crate::layers::tree::{NodeId, ROOT, Tree};
use crate::layers::{Attributes, Content, Failure, Result, What};
use crate::squashfs::codec::{Encoder, Settings};
use crate::squashfs::format::{
    ABSENT, LISTING_EXTRA, METADATA_RAW, METADATA_SIZE, NO_FRAGMENT, NO_XATTR, PADDING, Put, Superblock,
    XATTR_PREFIXES, flags, kind,
};
use crate::squashfs::inode::Xattrs;

/// A table being written: content cut into blocks of 8 KiB, compressed as they fill.
struct Table {
    encoder: Encoder,
    /// Finished blocks, with their headers.
    stored: Vec<u8>,
    open: Vec<u8>,
    packed: Vec<u8>,
    /// Position of every block within `stored`.
    starts: Vec<u64>,
}

impl Table {
    fn new(settings: Settings, block_size: u32) -> Table {
        Table {
            encoder: Encoder::new(settings, block_size),
            stored: Vec::new(),
            open: Vec::with_capacity(METADATA_SIZE),
            packed: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// Place of the next byte: block within the table << 16 | offset in its content.
    fn place(&self) -> u64 {
        (self.stored.len() as u64) << 16 | self.open.len() as u64
    }

    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = (METADATA_SIZE - self.open.len()).min(bytes.len());
            self.open.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.open.len() == METADATA_SIZE {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        if self.open.is_empty() {
            return;
        }
        self.starts.push(self.stored.len() as u64);
        if self.encoder.compress(&self.open, &mut self.packed) {
            self.stored.put_u16(self.packed.len() as u16);
            self.stored.extend_from_slice(&self.packed);
        } else {
            self.stored.put_u16(self.open.len() as u16 | METADATA_RAW);
            self.stored.extend_from_slice(&self.open);
        }
        self.open.clear();
    }
}

/// Namespace, name without its prefix, value; sorted.
type XattrSet = Vec<(u16, Vec<u8>, Vec<u8>)>;

/// Extended attributes: sets that are equal share one number.
#[derive(Default)]
struct XattrSets {
    numbers: HashMap<XattrSet, u32>,
    order: Vec<XattrSet>,
    /// By the shared list of the layer, so that most files need no comparison.
    known: HashMap<(usize, bool), u32>,
}

impl XattrSets {
    fn number(&mut self, xattrs: Option<&Arc<Xattrs>>, what: &What) -> u32 {
        let Some(xattrs) = xattrs else { return NO_XATTR };
        // Linux has user attributes on files and directories only; others would stop unpacking programs.
        let with_user = matches!(what, What::Directory | What::File { .. });
        let key = (Arc::as_ptr(xattrs) as usize, with_user);
        if let Some(number) = self.known.get(&key) {
            return *number;
        }
        let mut set = XattrSet::new();
        for (name, value) in xattrs.iter() {
            for (kind, prefix) in XATTR_PREFIXES.iter().enumerate() {
                if let Some(rest) = name.strip_prefix(prefix.as_bytes())
                    && (kind != 0 || with_user)
                    && !rest.is_empty()
                {
                    set.push((kind as u16, rest.to_vec(), value.clone()));
                }
            }
        }
        set.sort();
        let number = if set.is_empty() {
            NO_XATTR
        } else {
            let next = self.order.len() as u32;
            let order = &mut self.order;
            *self.numbers.entry(set).or_insert_with_key(|set| {
                order.push(set.clone());
                next
            })
        };
        self.known.insert(key, number);
        number
    }
}

/// What was written.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// Bytes of the image, a multiple of 4096.
    pub size: u64,
    pub inodes: u32,
    /// Bytes of all files.
    pub bytes: u64,
}

struct Tables<'a> {
    tree: &'a Tree,
    contents: &'a Contents,
    copied: &'a HashMap<(u32, u64), Stretch>,
    epoch: u32,
    block_size: u32,
    settings: Settings,
    numbers: Vec<u32>,
    references: Vec<Option<u64>>,
    inodes: Table,
    directories: Table,
    ids: Vec<u32>,
    id_numbers: HashMap<u32, u16>,
    xattrs: XattrSets,
    count: u32,
    bytes: u64,
}

/// What an image is made of.
pub struct Parts<'a> {
    pub tree: &'a Tree,
    /// What is reachable in it, in the order of inode numbers.
    pub order: &'a [NodeId],
    pub contents: &'a Contents,
    /// Where contents taken from squashfs layers ended up, by layer and inode reference.
    pub copied: &'a HashMap<(u32, u64), Stretch>,
}

/// Writes everything behind the data and the superblock in front of it.
pub fn write_tables(
    output: &Output,
    parts: &Parts<'_>,
    settings: Settings,
    block_size: u32,
    epoch: u32,
) -> Result<Finished> {
    let &Parts { tree, order, contents, copied } = parts;
    let count = u32::try_from(order.len()).map_err(|_| Failure::corrupt("the image has too many files"))?;
    let mut numbers = vec![0; tree.nodes.len()];
    for (i, id) in order.iter().enumerate() {
        numbers[*id] = i as u32 + 1;
    }
    let mut tables = Tables {
        tree,
        contents,
        copied,
        epoch,
        block_size,
        settings,
        numbers,
        references: vec![None; tree.nodes.len()],
        inodes: Table::new(settings, block_size),
        directories: Table::new(settings, block_size),
        ids: Vec::new(),
        id_numbers: HashMap::new(),
        xattrs: XattrSets::default(),
        count,
        bytes: 0,
    };
    // A directory's inode needs the place of its listing, and the listing those of the inodes in it: from the leaves
    // up. Every directory comes before what is in it in `order`, so backwards is right.
    let mut parents = vec![ROOT; tree.nodes.len()];
    for &id in order {
        for name in tree.nodes[id].children.values() {
            parents[name.id] = id;
        }
    }
    for &id in order.iter().rev() {
        if tree.nodes[id].what == What::Directory {
            let parent = if id == ROOT { count + 1 } else { tables.numbers[parents[id]] };
            tables.directory(id, parent)?;
        }
    }
    tables.finish(output, order)
}

impl Tables<'_> {
    fn id(&mut self, id: u32) -> Result<u16> {
        if let Some(number) = self.id_numbers.get(&id) {
            return Ok(*number);
        }
        let number = u16::try_from(self.ids.len()).ok().filter(|n| *n < u16::MAX);
        let number =
            number.ok_or_else(|| Failure::corrupt("the image has more than 65535 different owners"))?;
        self.ids.push(id);
        self.id_numbers.insert(id, number);
        Ok(number)
    }

    fn head(&mut self, record: &mut Vec<u8>, kind: u16, attributes: &Attributes, number: u32) -> Result<()> {
        let (uid, gid) = (self.id(attributes.uid)?, self.id(attributes.gid)?);
        for value in [kind, attributes.mode, uid, gid] {
            record.put_u16(value);
        }
        record.put_u32(attributes.mtime);
        record.put_u32(number);
        Ok(())
    }

    /// Writes the inode of anything but a directory, once; its reference.
    fn leaf(&mut self, id: NodeId) -> Result<u64> {
        if let Some(reference) = self.references[id] {
            return Ok(reference);
        }
        let node = &self.tree.nodes[id];
        let number = self.numbers[id];
        let xattr = self.xattrs.number(node.attributes.xattrs.as_ref(), &node.what);
        let extended = |basic: u16| if xattr == NO_XATTR { basic } else { basic + kind::EXTENDED };
        let mut record = Vec::with_capacity(64);
        match &node.what {
            What::File { size, content } => {
                self.file(&mut record, id, *size, *content, xattr)?;
            }
            What::Symlink { target } => {
                self.head(&mut record, extended(kind::SYMLINK), &node.attributes, number)?;
                record.put_u32(node.links);
                record.put_u32(target.len() as u32);
                record.extend_from_slice(target);
            }
            What::Device { kind, number: device } => {
                self.head(&mut record, extended(*kind), &node.attributes, number)?;
                record.put_u32(node.links);
                record.put_u32(*device);
            }
            _ => {
                self.head(&mut record, extended(kind::FIFO), &node.attributes, number)?;
                record.put_u32(node.links);
            }
        }
        if xattr != NO_XATTR && !matches!(node.what, What::File { .. }) {
            record.put_u32(xattr);
        }
        let reference = self.inodes.place();
        self.inodes.put(&record);
        self.references[id] = Some(reference);
        Ok(reference)
    }

    fn file(
        &mut self,
        record: &mut Vec<u8>,
        id: NodeId,
        size: u64,
        content: Content,
        xattr: u32,
    ) -> Result<()> {
        let node = &self.tree.nodes[id];
        let empty = Stretch::default();
        let stretch = match content {
            Content::Written(number) => self.contents.stretches.get(&number).unwrap_or(&empty),
            Content::Stored { layer, reference } => self.copied.get(&(layer, reference)).unwrap_or(&empty),
            Content::Skipped { .. } => return Err(Failure::corrupt("a file's content was not read")),
        };
        self.bytes += size;
        let (fragment, offset) = stretch.tail.unwrap_or((NO_FRAGMENT, 0));
        let start = if stretch.words.is_empty() { 0 } else { stretch.start };
        let small = size <= u64::from(u32::MAX) && start <= u64::from(u32::MAX);
        let number = self.numbers[id];
        if small && node.links == 1 && stretch.sparse == 0 && xattr == NO_XATTR {
            self.head(record, kind::FILE, &node.attributes, number)?;
            for value in [start as u32, fragment, offset, size as u32] {
                record.put_u32(value);
            }
        } else {
            self.head(record, kind::FILE + kind::EXTENDED, &node.attributes, number)?;
            for value in [start, size, stretch.sparse] {
                record.put_u64(value);
            }
            for value in [node.links, fragment, offset, xattr] {
                record.put_u32(value);
            }
        }
        for word in &stretch.words {
            record.put_u32(*word);
        }
        Ok(())
    }

    fn directory(&mut self, id: NodeId, parent: u32) -> Result<()> {
        let tree = self.tree;
        let node = &tree.nodes[id];
        let mut entries = Vec::with_capacity(node.children.len());
        let mut subdirectories = 0;
        for (name, below) in &node.children {
            let child = below.id;
            let below = &tree.nodes[child];
            let (kind, reference) = match &below.what {
                What::Directory => {
                    subdirectories += 1;
                    (kind::DIRECTORY, self.references[child].unwrap_or(0))
                }
                What::File { .. } => (kind::FILE, self.leaf(child)?),
                What::Symlink { .. } => (kind::SYMLINK, self.leaf(child)?),
                What::Device { kind, .. } => (*kind, self.leaf(child)?),
                _ => (kind::FIFO, self.leaf(child)?),
            };
            entries.push(DirectoryEntry { name, kind, reference, number: self.numbers[child] });
        }
        let listing = self.listing(&entries)?;
        let xattr = self.xattrs.number(node.attributes.xattrs.as_ref(), &node.what);
        let mut record = Vec::with_capacity(64);
        let size = listing.size + LISTING_EXTRA;
        let (block, offset) = ((listing.place >> 16) as u32, (listing.place & 0xFFFF) as u16);
        let number = self.numbers[id];
        if size <= u32::from(u16::MAX) && xattr == NO_XATTR && listing.indexes.is_empty() {
            self.head(&mut record, kind::DIRECTORY, &node.attributes, number)?;
            record.put_u32(block);
            record.put_u32(2 + subdirectories);
            record.put_u16(size as u16);
            record.put_u16(offset);
            record.put_u32(parent);
        } else {
            self.head(&mut record, kind::DIRECTORY + kind::EXTENDED, &node.attributes, number)?;
            record.put_u32(2 + subdirectories);
            record.put_u32(size);
            record.put_u32(block);
            record.put_u32(parent);
            record.put_u16(listing.indexes.len() as u16);
            record.put_u16(offset);
            record.put_u32(xattr);
            for (at, block, name) in &listing.indexes {
                record.put_u32(*at);
                record.put_u32(*block);
                record.put_u32(name.len() as u32 - 1);
                record.extend_from_slice(name);
            }
        }
        self.references[id] = Some(self.inodes.place());
        self.inodes.put(&record);
        Ok(())
    }

    fn listing<'n>(&mut self, entries: &[DirectoryEntry<'n>]) -> Result<Listing<'n>> {
        let place = self.directories.place();
        let first_offset = place & 0xFFFF;
        let mut listing = Listing { place, size: 0, indexes: Vec::new() };
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let block_of = |size: u64| (first_offset + size) / METADATA_SIZE as u64;
            let present = block_of(u64::from(listing.size));
            let mut run = Vec::new();
            let mut count = 0;
            for entry in rest {
                let delta = i64::from(entry.number) - i64::from(first.number);
                let at = u64::from(listing.size) + 12 + run.len() as u64;
                // A header for every metadata block, so that the index can lead to each.
                let new_block = count > 0 && block_of(at) != present;
                if count == 256
                    || new_block
                    || entry.reference >> 16 != first.reference >> 16
                    || i16::try_from(delta).is_err()
                {
                    break;
                }
                run.put_u16((entry.reference & 0xFFFF) as u16);
                run.put_u16(delta as i16 as u16);
                run.put_u16(entry.kind);
                run.put_u16(entry.name.len() as u16 - 1);
                run.extend_from_slice(entry.name);
                count += 1;
            }
            if present > 0
                && listing.indexes.last().is_none_or(|(at, _, _)| block_of(u64::from(*at)) != present)
            {
                let block = (self.directories.place() >> 16) as u32;
                listing.indexes.push((listing.size, block, first.name));
            }
            let mut header = Vec::with_capacity(12);
            header.put_u32(count as u32 - 1);
            let inode_block = u32::try_from(first.reference >> 16);
            header.put_u32(inode_block.map_err(|_| Failure::corrupt("the image has too many files"))?);
            header.put_u32(first.number);
            self.directories.put(&header);
            self.directories.put(&run);
            let size = u64::from(listing.size) + 12 + run.len() as u64;
            listing.size = u32::try_from(size + u64::from(LISTING_EXTRA))
                .map_err(|_| Failure::corrupt("a directory of the image is too large"))?
                - LISTING_EXTRA;
            rest = &rest[count..];
        }
        // The index is optional, and its count has 16 bits.
        listing.indexes.truncate(usize::from(u16::MAX));
        Ok(listing)
    }

    fn finish(mut self, output: &Output, order: &[NodeId]) -> Result<Finished> {
        let mut out = Vec::new();
        let base = self.contents.end;
        self.inodes.end_block();
        self.directories.end_block();
        let inode_table = base;
        out.extend_from_slice(&self.inodes.stored);
        let directory_table = base + out.len() as u64;
        out.extend_from_slice(&self.directories.stored);

        let mut fragments = Vec::new();
        for fragment in &self.contents.fragments {
            fragments.put_u64(fragment.position);
            fragments.put_u32(fragment.word);
            fragments.put_u32(0);
        }
        let fragment_table =
            if fragments.is_empty() { ABSENT } else { self.lookup_table(&mut out, &fragments) };
        let mut export = Vec::with_capacity(order.len() * 8);
        for id in order {
            export.put_u64(self.references[*id].unwrap_or(0));
        }
        let export_table = self.lookup_table(&mut out, &export);
        let mut ids = Vec::new();
        for id in &self.ids {
            ids.put_u32(*id);
        }
        let id_table = self.lookup_table(&mut out, &ids);
        let xattr_table = self.xattr_table(&mut out);

        let bytes_used = base + out.len() as u64;
        let size = bytes_used.next_multiple_of(PADDING);
        out.resize((size - base) as usize, 0);
        let options = self.settings.options();
        let mut flags = flags::DUPLICATES | flags::EXPORTABLE;
        if options.is_some() {
            flags |= flags::OPTIONS;
        }
        if fragments.is_empty() {
            flags |= flags::NO_FRAGMENTS;
        }
        if xattr_table == ABSENT {
            flags |= flags::NO_XATTRS;
        }
        let superblock = Superblock {
            inodes: self.count,
            time: self.epoch,
            block_size: self.block_size,
            fragments: self.contents.fragments.len() as u32,
            compressor: self.settings.compressor as u16,
            flags,
            ids: self.ids.len() as u16,
            root: self.references[ROOT].unwrap_or(0),
            bytes_used,
            id_table,
            xattr_table,
            inode_table,
            directory_table,
            fragment_table,
            export_table,
        };
        output.file.write_all_at(&out, output.base + base)?;
        let mut head = superblock.serialise();
        head.extend_from_slice(&options.unwrap_or_default());
        output.file.write_all_at(&head, output.base)?;
        output.end_at(size)?;
        Ok(Finished { size, inodes: self.count, bytes: self.bytes })
    }

    /// Metadata blocks and, behind them, the list of their positions; where the list stands.
    fn lookup_table(&self, out: &mut Vec<u8>, content: &[u8]) -> u64 {
        let mut table = Table::new(self.settings, self.block_size);
        table.put(content);
        table.end_block();
        let base = self.contents.end + out.len() as u64;
        out.extend_from_slice(&table.stored);
        let list = self.contents.end + out.len() as u64;
        for start in &table.starts {
            out.put_u64(base + start);
        }
        list
    }

    fn xattr_table(&self, out: &mut Vec<u8>) -> u64 {
        if self.xattrs.order.is_empty() {
            return ABSENT;
        }
        let mut values = Table::new(self.settings, self.block_size);
        let mut sets = Vec::new();
        for set in &self.xattrs.order {
            sets.put_u64(values.place());
            sets.put_u32(set.len() as u32);
            let size: usize = set
                .iter()
                .map(|(k, n, v)| XATTR_PREFIXES[usize::from(*k)].len() + n.len() + 1 + v.len())
                .sum();
            sets.put_u32(size as u32);
            for (kind, name, value) in set {
                let mut record = Vec::with_capacity(8 + name.len() + value.len());
                record.put_u16(*kind);
                record.put_u16(name.len() as u16);
                record.extend_from_slice(name);
                record.put_u32(value.len() as u32);
                record.extend_from_slice(value);
                values.put(&record);
            }
        }
        values.end_block();
        let values_at = self.contents.end + out.len() as u64;
        out.extend_from_slice(&values.stored);
        let mut table = Table::new(self.settings, self.block_size);
        table.put(&sets);
        table.end_block();
        let sets_at = self.contents.end + out.len() as u64;
        out.extend_from_slice(&table.stored);
        let header_at = self.contents.end + out.len() as u64;
        out.put_u64(values_at);
        out.put_u32(self.xattrs.order.len() as u32);
        out.put_u32(0);
        for start in &table.starts {
            out.put_u64(sets_at + start);
        }
        header_at
    }
}

struct DirectoryEntry<'n> {
    name: &'n [u8],
    kind: u16,
    reference: u64,
    number: u32,
}

/// A directory's listing as written: its place, its bytes, and its index (offset, block, first name).
struct Listing<'n> {
    place: u64,
    size: u32,
    indexes: Vec<(u32, u32, &'n [u8])>,
}
