//! Directories: blocks of entries, each with room up to the next; read one after another, whatever index lies over them.

use super::format::{
    CTIME, FIRST_INODE, FLAG_INDEX, INCOMPAT_FILETYPE, Inode, MTIME, ROOT_INODE, Time, put_u16, put_u32,
    u16_at, u32_at,
};
use super::volume::Volume;
use super::{Result, corrupt, refused};

const HEADER: usize = 8;
pub const LONGEST_NAME: usize = 255;

/// One name in a directory. at: its byte; next: the byte behind.
#[derive(Debug, Clone)]
pub struct Entry {
    pub inode: u32,
    pub name: Vec<u8>,
    pub kind: u8,
    pub next: u64,
}

/// What an entry says of its inode's kind.
pub fn kind_of(mode: u32) -> u8 {
    match mode & libc::S_IFMT {
        libc::S_IFREG => 1,
        libc::S_IFDIR => 2,
        libc::S_IFCHR => 3,
        libc::S_IFBLK => 4,
        libc::S_IFIFO => 5,
        libc::S_IFSOCK => 6,
        libc::S_IFLNK => 7,
        _ => 0,
    }
}

/// Room that an entry needs.
fn needed(name: usize) -> usize {
    (HEADER + name).next_multiple_of(4)
}

struct Raw {
    at: usize,
    length: usize,
    inode: u32,
    name: (usize, usize),
    kind: u8,
}

/// The entry at a byte of a block; damage is an error, never a loop.
fn entry_at(block: &[u8], at: usize) -> Result<Raw> {
    if at + HEADER > block.len() {
        return Err(corrupt("an entry of a directory is cut off"));
    }
    let length = match u16_at(block, at + 4) as usize {
        0xffff | 0 if block.len() == 65536 => block.len(),
        length => length,
    };
    let name = block[at + 6] as usize;
    if length < needed(name.max(1)).min(12)
        || length % 4 != 0
        || at + length > block.len()
        || HEADER + name > length
    {
        return Err(corrupt("an entry of a directory has an impossible size"));
    }
    Ok(Raw {
        at,
        length,
        inode: u32_at(block, at),
        name: (at + HEADER, at + HEADER + name),
        kind: block[at + 7],
    })
}

impl Volume {
    fn directory_blocks(&self, directory: &Inode) -> Result<u64> {
        let size = self.block_size() as u64;
        if !directory.is_directory() {
            return Err(refused(libc::ENOTDIR));
        }
        if directory.size() % size != 0 || directory.size() > u64::from(self.superblock.blocks) * size {
            return Err(corrupt("a directory has an impossible size"));
        }
        Ok(directory.size() / size)
    }

    fn directory_block(&mut self, directory: &Inode, logical: u64) -> Result<u32> {
        match self.map(directory, logical)? {
            0 => Err(corrupt("a directory has a hole")),
            block => Ok(block),
        }
    }

    /// Where a name is: its block and the byte in it, and the one before in the same block.
    fn locate(&mut self, directory: &Inode, name: &[u8]) -> Result<Option<(u32, Raw, Option<usize>)>> {
        for logical in 0..self.directory_blocks(directory)? {
            let number = self.directory_block(directory, logical)?;
            let block = self.block(number)?;
            let (mut at, mut before) = (0, None);
            while at < block.len() {
                let entry = entry_at(block, at)?;
                if entry.inode != 0 && &block[entry.name.0..entry.name.1] == name {
                    return Ok(Some((number, entry, before)));
                }
                before = Some(at);
                at += entry.length;
            }
        }
        Ok(None)
    }

    /// The number of an inode that an entry may name.
    fn presentable(&self, number: u32) -> Result<u32> {
        let first = u32_at(&self.superblock.raw, 84).max(FIRST_INODE);
        if number == ROOT_INODE || (number >= first && number <= self.superblock.inodes) {
            return Ok(number);
        }
        Err(corrupt("an entry of a directory names an inode that it may not"))
    }

    pub fn lookup(&mut self, directory: &Inode, name: &[u8]) -> Result<Option<u32>> {
        match self.locate(directory, name)? {
            Some((_, entry, _)) => Ok(Some(self.presentable(entry.inode)?)),
            None => Ok(None),
        }
    }

    /// Entries from the byte `from` on, one block's at a time; empty at the end.
    pub fn list(&mut self, directory: &Inode, from: u64) -> Result<Vec<Entry>> {
        let size = self.block_size() as u64;
        let blocks = self.directory_blocks(directory)?;
        let mut logical = from / size;
        while logical < blocks {
            let number = self.directory_block(directory, logical)?;
            let first = u32_at(&self.superblock.raw, 84).max(FIRST_INODE);
            let (inodes, start) = (self.superblock.inodes, logical * size);
            let typed = self.superblock.incompatible & INCOMPAT_FILETYPE != 0;
            let block = self.block(number)?;
            let mut found = Vec::new();
            let mut at = 0;
            // From the block's beginning: the entry that began at `from` may have gone since.
            while at < block.len() {
                let entry = entry_at(block, at)?;
                let number = entry.inode;
                if start + at as u64 >= from
                    && number != 0
                    && (number == ROOT_INODE || (number >= first && number <= inodes))
                {
                    let name = block[entry.name.0..entry.name.1].to_vec();
                    let sound = !name.is_empty() && !name.contains(&b'/') && !name.contains(&0);
                    if sound {
                        let kind = if typed { entry.kind } else { 0 };
                        let next = start + (at + entry.length) as u64;
                        found.push(Entry { inode: number, name, kind, next });
                    }
                }
                at += entry.length;
            }
            if !found.is_empty() {
                return Ok(found);
            }
            logical += 1;
        }
        Ok(Vec::new())
    }

    pub fn is_empty(&mut self, directory: &Inode) -> Result<bool> {
        let mut at = 0;
        loop {
            let entries = self.list(directory, at)?;
            let Some(last) = entries.last() else { return Ok(true) };
            if entries.iter().any(|entry| entry.name != b"." && entry.name != b"..") {
                return Ok(false);
            }
            at = last.next;
        }
    }

    /// Adds a name that is not there yet. The directory is stored.
    pub fn add_entry(&mut self, directory: &mut Inode, name: &[u8], inode: u32, mode: u32) -> Result<()> {
        if name.len() > LONGEST_NAME {
            return Err(refused(libc::ENAMETOOLONG));
        }
        let room = needed(name.len());
        let size = self.block_size();
        let mut place = None;
        let blocks = self.directory_blocks(directory)?;
        // The last block first: that is where there is room, mostly.
        'search: for logical in (0..blocks).rev() {
            let number = self.directory_block(directory, logical)?;
            let block = self.block(number)?;
            let mut at = 0;
            while at < block.len() {
                let entry = entry_at(block, at)?;
                let used = if entry.inode == 0 { 0 } else { needed(entry.name.1 - entry.name.0) };
                if entry.length >= used + room {
                    place = Some((number, at, entry.length, used));
                    break 'search;
                }
                at += entry.length;
            }
        }
        let (number, at, length, used) = match place {
            Some(place) => place,
            None => {
                let (number, _) = self.map_or_make(directory, blocks)?;
                self.blank(number);
                directory.set_size((blocks + 1) * size as u64);
                (number, 0, size, 0)
            }
        };
        let typed = self.superblock.incompatible & INCOMPAT_FILETYPE != 0;
        let block = self.edit(number)?;
        if used != 0 {
            put_u16(block, at + 4, used as u16);
        }
        let at = at + used;
        put_u32(block, at, inode);
        put_u16(block, at + 4, (length - used) as u16);
        block[at + 6] = name.len() as u8;
        block[at + 7] = if typed { kind_of(mode) } else { 0 };
        block[at + HEADER..at + HEADER + name.len()].copy_from_slice(name);
        self.touch(directory)
    }

    /// Takes a name away. The directory is stored.
    pub fn remove_entry(&mut self, directory: &mut Inode, name: &[u8]) -> Result<()> {
        let Some((number, entry, before)) = self.locate(directory, name)? else {
            return Err(refused(libc::ENOENT));
        };
        let block = self.edit(number)?;
        match before {
            Some(before) => {
                let length = u16_at(block, before + 4) as usize + entry.length;
                put_u16(block, before + 4, length as u16);
            }
            None => put_u32(block, entry.at, 0),
        }
        self.touch(directory)
    }

    /// Lets a name that is there stand for another inode. The directory is stored.
    pub fn set_entry(&mut self, directory: &mut Inode, name: &[u8], inode: u32, mode: u32) -> Result<()> {
        let Some((number, entry, _)) = self.locate(directory, name)? else {
            return Err(refused(libc::ENOENT));
        };
        let typed = self.superblock.incompatible & INCOMPAT_FILETYPE != 0;
        let block = self.edit(number)?;
        put_u32(block, entry.at, inode);
        block[entry.at + 7] = if typed { kind_of(mode) } else { 0 };
        self.touch(directory)
    }

    fn touch(&mut self, directory: &mut Inode) -> Result<()> {
        directory.set_flags(directory.flags() & !FLAG_INDEX);
        let now = Time::now();
        directory.set_time(MTIME, now);
        directory.set_time(CTIME, now);
        self.put(directory)
    }

    /// The first block of a new directory.
    pub fn fill_directory(&mut self, directory: &mut Inode, parent: u32) -> Result<()> {
        let (number, _) = self.map_or_make(directory, 0)?;
        let (size, own) = (self.block_size(), directory.number);
        let kind = if self.superblock.incompatible & INCOMPAT_FILETYPE != 0 { 2 } else { 0 };
        let block = self.blank(number);
        put_u32(block, 0, own);
        put_u16(block, 4, 12);
        block[6] = 1;
        block[7] = kind;
        block[8] = b'.';
        put_u32(block, 12, parent);
        put_u16(block, 16, if size == 65536 { 0xffff } else { (size - 12) as u16 });
        block[18] = 2;
        block[19] = kind;
        block[20..22].copy_from_slice(b"..");
        directory.set_size(size as u64);
        Ok(())
    }
}
