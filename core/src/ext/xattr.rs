//! Extended attributes: a few in the inode itself, behind its times, the rest in one block of their own.

use super::format::{CTIME, Inode, Time, put_u16, put_u32, u16_at, u32_at};
use super::volume::Volume;
use super::{Result, corrupt, refused};

const MAGIC: u32 = 0xEA02_0000;
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;
/// A name's beginning is a number on disk.
const PREFIXES: [(u8, &[u8]); 6] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
    (7, b"system."),
];

pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(index, prefix)| Some((*index, name.strip_prefix(*prefix)?)))
}

fn joined(index: u8, rest: &[u8]) -> Option<Vec<u8>> {
    let (_, prefix) = PREFIXES.iter().find(|(known, _)| *known == index)?;
    Some([prefix, rest].concat())
}

/// Reads entries from `first` on, whose values count from `base`.
fn parse(area: &[u8], first: usize, base: usize, found: &mut Attributes) -> Result<()> {
    let damaged = || corrupt("an extended attribute is damaged");
    let mut at = first;
    while at + 4 <= area.len() && u32_at(area, at) != 0 {
        let end = at + ENTRY + area.get(at).copied().unwrap_or(0) as usize;
        if end > area.len() {
            return Err(damaged());
        }
        let (value, size) = (base + u16_at(area, at + 2) as usize, u32_at(area, at + 8) as usize);
        if u32_at(area, at + 4) != 0 || size > area.len() || value + size > area.len() {
            return Err(damaged());
        }
        if let Some(name) = joined(area[at + 1], &area[at + ENTRY..end]) {
            found.push((name, area[value..value + size].to_vec()));
        }
        at = end.next_multiple_of(4);
    }
    Ok(())
}

/// The sum that the kernel keeps of an entry.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    let mut hash: u32 = 0;
    for &byte in name {
        hash = hash.rotate_left(5) ^ u32::from(byte);
    }
    let mut padded = value.to_vec();
    padded.resize(value.len().next_multiple_of(4), 0);
    for word in padded.chunks(4) {
        hash = hash.rotate_left(16) ^ u32_at(word, 0);
    }
    hash
}

/// Writes entries from `first` on and their values from the end backwards; false if they do not fit.
fn lay_out(area: &mut [u8], first: usize, base: usize, attributes: &Attributes, hashed: bool) -> bool {
    let mut order: Vec<(u8, &[u8], &[u8])> = attributes
        .iter()
        .filter_map(|(name, value)| split(name).map(|(index, rest)| (index, rest, value.as_slice())))
        .collect();
    order.sort_by(|a, b| (a.0, a.1.len(), a.1).cmp(&(b.0, b.1.len(), b.1)));
    area[first..].fill(0);
    let (mut at, mut end) = (first, area.len());
    for (index, name, value) in order {
        let room = value.len().next_multiple_of(4);
        let next = (at + ENTRY + name.len()).next_multiple_of(4);
        if next + 4 > end || room > end - next - 4 {
            return false;
        }
        end -= room;
        area[end..end + value.len()].copy_from_slice(value);
        area[at] = name.len() as u8;
        area[at + 1] = index;
        put_u16(area, at + 2, if value.is_empty() && !hashed { 0 } else { (end - base) as u16 });
        put_u32(area, at + 8, value.len() as u32);
        put_u32(area, at + 12, if hashed { hash(name, value) } else { 0 });
        area[at + ENTRY..at + ENTRY + name.len()].copy_from_slice(name);
        at = next;
    }
    true
}

/// Where attributes begin in an inode, behind a magic number; none in small inodes.
fn body(inode: &Inode) -> Option<usize> {
    let start = 128 + inode.extra();
    (inode.extra() >= 4 && start + 8 <= inode.raw.len()).then_some(start)
}

impl Volume {
    pub fn attributes(&mut self, inode: &Inode) -> Result<Attributes> {
        let mut found = Vec::new();
        if let Some(start) = body(inode)
            && u32_at(&inode.raw, start) == MAGIC
        {
            parse(&inode.raw, start + 4, start + 4, &mut found)?;
        }
        if inode.xattr_block() != 0 {
            let block = self.block(inode.xattr_block())?;
            if u32_at(block, 0) != MAGIC {
                return Err(corrupt("extended attributes are not where they should be"));
            }
            let block = block.to_vec();
            parse(&block, BLOCK_HEADER, 0, &mut found)?;
        }
        Ok(found)
    }

    /// Stores all attributes of an inode, and the inode.
    pub fn set_attributes(&mut self, inode: &mut Inode, attributes: &Attributes) -> Result<()> {
        let mut raw = inode.raw.clone();
        let inside = body(inode).is_some_and(|start| {
            let fits = lay_out(&mut raw, start + 4, start + 4, attributes, false);
            put_u32(&mut raw, start, if attributes.is_empty() { 0 } else { MAGIC });
            fits
        });
        if inside || attributes.is_empty() {
            self.drop_attributes(inode)?;
            let old = inode.raw.clone();
            if inside {
                inode.raw = raw;
                // What was given back stays given back.
                inode.raw[..128].copy_from_slice(&old[..128]);
            }
        } else {
            let mut block = vec![0; self.block_size()];
            if !lay_out(&mut block, BLOCK_HEADER, 0, attributes, true) {
                return Err(refused(libc::ENOSPC));
            }
            put_u32(&mut block, 0, MAGIC);
            put_u32(&mut block, 4, 1); // references
            put_u32(&mut block, 8, 1); // blocks
            let sum = whole_hash(&block);
            put_u32(&mut block, 12, sum);
            // Before the old one is given back: without room it stays.
            let number = self.allocate(
                self.superblock.group_start((inode.number - 1) / self.superblock.inodes_per_group),
            )?;
            self.drop_attributes(inode)?;
            if let Some(start) = body(inode) {
                inode.raw[start..].fill(0);
            }
            self.blank(number).copy_from_slice(&block);
            inode.set_xattr_block(number);
            inode.set_sectors(inode.sectors() + (self.block_size() / 512) as u32);
        }
        inode.set_time(CTIME, Time::now());
        self.put(inode)
    }

    /// Lets go of the block of attributes, which several inodes may share.
    pub fn drop_attributes(&mut self, inode: &mut Inode) -> Result<()> {
        let number = inode.xattr_block();
        if number == 0 {
            return Ok(());
        }
        let references = u32_at(self.block(number)?, 4);
        if references > 1 {
            put_u32(self.edit(number)?, 4, references - 1);
        } else {
            self.free(number)?;
        }
        inode.set_xattr_block(0);
        inode.set_sectors(inode.sectors().saturating_sub((self.block_size() / 512) as u32));
        Ok(())
    }
}

/// The sum over all entries of a block, 0 if one of them has none.
fn whole_hash(block: &[u8]) -> u32 {
    let mut hash: u32 = 0;
    let mut at = BLOCK_HEADER;
    while at + 4 <= block.len() && u32_at(block, at) != 0 {
        let own = u32_at(block, at + 12);
        if own == 0 {
            return 0;
        }
        hash = hash.rotate_left(16) ^ own;
        at = (at + ENTRY + block[at] as usize).next_multiple_of(4);
    }
    hash
}
