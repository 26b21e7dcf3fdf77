//! A file system as blocks: what is read is kept, what is changed is gathered until it is committed, what is free is
//! found and given away.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::format::{
    DESCRIPTOR_SIZE, FIRST_INODE, Group, INCOMPAT_RECOVER, Inode, RO_COMPAT_LARGE_FILE, SUPERBLOCK_OFFSET,
    SUPERBLOCK_SIZE, Superblock, put_u32, u32_at,
};
use super::journal::Journal;
use super::{Result, corrupt, refused};

/// Clean blocks of structure that are kept, in bytes.
const CACHED: usize = 16 << 20;

pub struct Volume {
    file: File,
    offset: u64,
    writable: bool,
    pub superblock: Superblock,
    pub groups: Vec<Group>,
    clean: HashMap<u32, Box<[u8]>>,
    /// Changed since the last commit; of a file system that is only read, what its journal changes.
    changed: BTreeMap<u32, Box<[u8]>>,
    /// Groups whose descriptors changed since then, and whether the superblock did.
    changed_groups: HashSet<u32>,
    changed_superblock: bool,
    /// Freed since then: a crash could make them what they were, so nothing new is put there yet.
    resting: HashSet<u32>,
    journal: Option<Journal>,
    /// Unlinked but still in use, the last one first, as the superblock chains them.
    orphans: Vec<u32>,
    next_generation: u32,
}

impl Volume {
    /// Opens the file system of `size` bytes from `offset` on, finishing what its journal holds. A writable one is
    /// marked as in use.
    pub fn open(file: File, offset: u64, size: u64, writable: bool) -> Result<Volume> {
        let length = file.metadata()?.len();
        let size = size.min(length.saturating_sub(offset));
        let mut raw = vec![0; SUPERBLOCK_SIZE];
        file.read_exact_at(&mut raw, offset + SUPERBLOCK_OFFSET)?;
        let superblock = Superblock::parse(&raw, size)?;
        let mut volume = Volume {
            file,
            offset,
            writable,
            superblock,
            groups: Vec::new(),
            clean: HashMap::new(),
            changed: BTreeMap::new(),
            changed_groups: HashSet::new(),
            changed_superblock: false,
            resting: HashSet::new(),
            journal: None,
            orphans: Vec::new(),
            next_generation: std::process::id() ^ super::format::Time::now().nanoseconds,
        };
        volume.read_groups()?;
        let unfinished = volume.superblock.incompatible & INCOMPAT_RECOVER != 0;
        if unfinished || writable {
            let journal = Journal::open(&mut volume)?;
            if unfinished {
                let found = journal.recover(&mut volume)?;
                volume.take_over(found, &journal)?;
            }
            volume.journal = writable.then_some(journal);
        }
        if writable {
            volume.mark_in_use()?;
            volume.delete_orphans()?;
        }
        Ok(volume)
    }

    /// One that is being made: without a journal, everything changed.
    pub fn in_the_making(file: File, offset: u64, superblock: Superblock, groups: Vec<Group>) -> Volume {
        Volume {
            file,
            offset,
            writable: true,
            changed_groups: (0..superblock.groups).collect(),
            changed_superblock: true,
            superblock,
            groups,
            clean: HashMap::new(),
            changed: BTreeMap::new(),
            resting: HashSet::new(),
            journal: None,
            orphans: Vec::new(),
            next_generation: 0,
        }
    }

    /// Counts an inode with a reserved number as a directory.
    pub fn count_directory(&mut self, number: u32) {
        let group = (number - 1) / self.superblock.inodes_per_group;
        self.edit_group(group).directories += 1;
    }

    fn read_groups(&mut self) -> Result<()> {
        self.groups.clear();
        for number in 0..self.superblock.groups {
            let (block, at) = self.superblock.descriptor_place(number);
            if !self.superblock.holds(block) {
                return Err(corrupt("its groups lie outside"));
            }
            let raw = self.block(block)?[at..at + DESCRIPTOR_SIZE].to_vec();
            self.groups.push(Group::parse(&raw, &self.superblock)?);
        }
        Ok(())
    }

    /// Blocks out of the journal: written to their places, or only looked at instead of those.
    fn take_over(&mut self, found: BTreeMap<u32, Box<[u8]>>, journal: &Journal) -> Result<()> {
        self.clean.clear();
        if self.writable {
            for (block, bytes) in &found {
                self.write_raw(*block, bytes)?;
            }
            self.sync()?;
            journal.clear(self)?;
        } else {
            self.changed = found;
        }
        let first = self.superblock.first_data_block;
        let at = if first == 0 { SUPERBLOCK_OFFSET as usize } else { 0 };
        let raw = self.block(first)?[at..at + SUPERBLOCK_SIZE].to_vec();
        let size = u64::from(self.superblock.blocks) * self.superblock.block_size as u64;
        self.superblock = Superblock::parse(&raw, size)?;
        self.read_groups()
    }

    fn mark_in_use(&mut self) -> Result<()> {
        self.superblock.incompatible |= INCOMPAT_RECOVER;
        put_u32(&mut self.superblock.raw, 96, self.superblock.incompatible);
        self.write_superblock()
    }

    fn write_superblock(&mut self) -> Result<()> {
        self.clean.remove(&self.superblock.first_data_block);
        Ok(self.file.write_all_at(&self.superblock.raw, self.offset + SUPERBLOCK_OFFSET)?)
    }

    pub fn is_writable(&self) -> bool {
        self.writable
    }

    pub fn block_size(&self) -> usize {
        self.superblock.block_size
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Byte of the file at which a block begins.
    pub fn place(&self, block: u32) -> u64 {
        self.offset + u64::from(block) * self.superblock.block_size as u64
    }

    pub fn read_raw(&self, block: u32, bytes: &mut [u8]) -> Result<()> {
        Ok(self.file.read_exact_at(bytes, self.place(block))?)
    }

    pub fn write_raw(&self, block: u32, bytes: &[u8]) -> Result<()> {
        Ok(self.file.write_all_at(bytes, self.place(block))?)
    }

    pub fn sync(&self) -> Result<()> {
        Ok(self.file.sync_data()?)
    }

    /// A changed block, if this is one: then the file does not have it yet.
    pub fn in_memory(&self, block: u32) -> Option<&[u8]> {
        self.changed.get(&block).map(|bytes| &bytes[..])
    }

    /// A block of structure.
    pub fn block(&mut self, block: u32) -> Result<&[u8]> {
        if !self.superblock.holds(block) && block != self.superblock.first_data_block {
            return Err(corrupt("a block outside is referred to"));
        }
        if self.changed.contains_key(&block) {
            return Ok(&self.changed[&block]);
        }
        if !self.clean.contains_key(&block) {
            if self.clean.len() * self.block_size() >= CACHED {
                self.clean.clear();
            }
            let mut bytes = vec![0; self.block_size()].into_boxed_slice();
            self.read_raw(block, &mut bytes)?;
            self.clean.insert(block, bytes);
        }
        Ok(&self.clean[&block])
    }

    /// A block of structure, to be changed.
    pub fn edit(&mut self, block: u32) -> Result<&mut [u8]> {
        if !self.writable {
            return Err(refused(libc::EROFS));
        }
        if !self.changed.contains_key(&block) {
            self.block(block)?;
            let bytes = self.clean.remove(&block).ok_or(corrupt("a block is gone"))?;
            self.changed.insert(block, bytes);
        }
        Ok(self.changed.get_mut(&block).map(|bytes| &mut bytes[..]).unwrap_or_default())
    }

    /// A block of structure that begins as zeros.
    pub fn blank(&mut self, block: u32) -> &mut [u8] {
        self.clean.remove(&block);
        let bytes = vec![0; self.superblock.block_size].into_boxed_slice();
        self.changed.insert(block, bytes);
        self.changed.get_mut(&block).map(|bytes| &mut bytes[..]).unwrap_or_default()
    }

    fn edit_group(&mut self, group: u32) -> &mut Group {
        self.changed_groups.insert(group);
        self.changed_superblock = true;
        &mut self.groups[group as usize]
    }

    fn count(&mut self, at: usize, by: i32) {
        let value = u32_at(&self.superblock.raw, at).saturating_add_signed(by);
        put_u32(&mut self.superblock.raw, at, value);
        self.changed_superblock = true;
    }

    pub fn free_blocks(&self) -> u32 {
        u32_at(&self.superblock.raw, 12)
    }

    pub fn free_inodes(&self) -> u32 {
        u32_at(&self.superblock.raw, 16)
    }

    /// Takes a free block, near `goal` if there is one.
    pub fn allocate(&mut self, goal: u32) -> Result<u32> {
        if !self.writable {
            return Err(refused(libc::EROFS));
        }
        let goal = if self.superblock.holds(goal) { goal } else { self.superblock.first_data_block.max(1) };
        let relative = goal - self.superblock.first_data_block;
        let first = relative / self.superblock.blocks_per_group;
        for turn in 0..=self.superblock.groups {
            let group = (first + turn) % self.superblock.groups;
            let from = if turn == 0 { relative % self.superblock.blocks_per_group } else { 0 };
            if let Some(block) = self.allocate_in(group, from)? {
                return Ok(block);
            }
        }
        if !self.resting.is_empty() {
            // What was freed can be had after a commit.
            self.commit(false)?;
            return self.allocate(goal);
        }
        Err(refused(libc::ENOSPC))
    }

    fn allocate_in(&mut self, group: u32, from: u32) -> Result<Option<u32>> {
        let Group { block_bitmap, free_blocks, .. } = self.groups[group as usize];
        if free_blocks == 0 {
            return Ok(None);
        }
        let (start, length) = (self.superblock.group_start(group), self.superblock.group_length(group));
        let resting = std::mem::take(&mut self.resting);
        let bitmap = self.block(block_bitmap);
        let found = bitmap.map(|bits| {
            let mut bit = from;
            loop {
                bit = first_clear(bits, bit, length)?;
                if start + bit != 0 && !resting.contains(&(start + bit)) {
                    return Some(bit);
                }
                bit += 1;
            }
        });
        self.resting = resting;
        let Some(bit) = found? else { return Ok(None) };
        self.edit(block_bitmap)?[bit as usize / 8] |= 1 << (bit % 8);
        let entry = self.edit_group(group);
        entry.free_blocks = entry.free_blocks.saturating_sub(1);
        self.count(12, -1);
        Ok(Some(start + bit))
    }

    /// Gives a block back.
    pub fn free(&mut self, block: u32) -> Result<()> {
        if !self.superblock.holds(block) {
            return Err(corrupt("a block outside is referred to"));
        }
        let relative = block - self.superblock.first_data_block;
        let group = relative / self.superblock.blocks_per_group;
        let bit = relative % self.superblock.blocks_per_group;
        let bitmap = self.groups[group as usize].block_bitmap;
        let byte = &mut self.edit(bitmap)?[bit as usize / 8];
        if *byte & 1 << (bit % 8) == 0 {
            return Ok(()); // Twice: somebody's damage, which is not made worse.
        }
        *byte &= !(1 << (bit % 8));
        let entry = self.edit_group(group);
        entry.free_blocks = entry.free_blocks.saturating_add(1);
        self.count(12, 1);
        self.changed.remove(&block);
        self.clean.remove(&block);
        self.resting.insert(block);
        Ok(())
    }

    fn inode_place(&self, number: u32) -> Result<(u32, usize)> {
        let superblock = &self.superblock;
        if number == 0 || number > superblock.inodes {
            return Err(corrupt("an inode outside is referred to"));
        }
        let group = (number - 1) / superblock.inodes_per_group;
        let index = ((number - 1) % superblock.inodes_per_group) as usize;
        let each = superblock.block_size / superblock.inode_size;
        let block = self.groups[group as usize].inode_table + (index / each) as u32;
        Ok((block, index % each * superblock.inode_size))
    }

    pub fn inode(&mut self, number: u32) -> Result<Inode> {
        let (block, at) = self.inode_place(number)?;
        let size = self.superblock.inode_size;
        let raw = self.block(block)?[at..at + size].to_vec();
        Ok(Inode { number, raw })
    }

    pub fn put(&mut self, inode: &Inode) -> Result<()> {
        let (block, at) = self.inode_place(inode.number)?;
        let size = self.superblock.inode_size;
        self.edit(block)?[at..at + size].copy_from_slice(&inode.raw);
        Ok(())
    }

    /// Takes a free inode, in the group of `parent` if there is one.
    pub fn allocate_inode(&mut self, parent: u32, mode: u32, uid: u32, gid: u32) -> Result<Inode> {
        if !self.writable {
            return Err(refused(libc::EROFS));
        }
        let first = parent.saturating_sub(1) / self.superblock.inodes_per_group;
        let reserved = u32_at(&self.superblock.raw, 84).max(FIRST_INODE) - 1;
        let directory = mode & libc::S_IFMT == libc::S_IFDIR;
        for turn in 0..self.superblock.groups {
            let group = (first + turn) % self.superblock.groups;
            let Group { inode_bitmap, free_inodes, .. } = self.groups[group as usize];
            if free_inodes == 0 {
                continue;
            }
            let start = group * self.superblock.inodes_per_group;
            let length = self.superblock.inodes_per_group;
            let Some(bit) = first_clear(self.block(inode_bitmap)?, reserved.saturating_sub(start), length)
            else {
                continue;
            };
            self.edit(inode_bitmap)?[bit as usize / 8] |= 1 << (bit % 8);
            let entry = self.edit_group(group);
            entry.free_inodes = entry.free_inodes.saturating_sub(1);
            entry.directories = entry.directories.saturating_add(u16::from(directory));
            self.count(16, -1);
            self.next_generation = self.next_generation.wrapping_add(1);
            let generation = self.next_generation;
            return Ok(Inode::new(start + bit + 1, self.superblock.inode_size, mode, uid, gid, generation));
        }
        Err(refused(libc::ENOSPC))
    }

    /// Gives an inode back, whose blocks are free already.
    pub fn free_inode(&mut self, mut inode: Inode) -> Result<()> {
        let directory = inode.is_directory();
        let group = (inode.number - 1) / self.superblock.inodes_per_group;
        let bit = (inode.number - 1) % self.superblock.inodes_per_group;
        let bitmap = self.groups[group as usize].inode_bitmap;
        let byte = &mut self.edit(bitmap)?[bit as usize / 8];
        if *byte & 1 << (bit % 8) != 0 {
            *byte &= !(1 << (bit % 8));
            let entry = self.edit_group(group);
            entry.free_inodes = entry.free_inodes.saturating_add(1);
            entry.directories = entry.directories.saturating_sub(u16::from(directory));
            self.count(16, 1);
        }
        inode.set_links(0);
        inode.set_mode(0);
        inode.set_deleted(super::format::Time::now().seconds as u32);
        self.put(&inode)
    }

    /// Says that there are files of 2 GiB or more.
    pub fn note_large_file(&mut self) {
        let features = u32_at(&self.superblock.raw, 100);
        if features & RO_COMPAT_LARGE_FILE == 0 {
            put_u32(&mut self.superblock.raw, 100, features | RO_COMPAT_LARGE_FILE);
            self.changed_superblock = true;
        }
    }

    /// Puts an inode without a name on the list of those to be deleted: it is still in use.
    pub fn add_orphan(&mut self, inode: &mut Inode) -> Result<()> {
        inode.set_deleted(u32_at(&self.superblock.raw, 232));
        put_u32(&mut self.superblock.raw, 232, inode.number);
        self.changed_superblock = true;
        self.orphans.insert(0, inode.number);
        self.put(inode)
    }

    /// Takes an inode off the list; whether it was there.
    pub fn remove_orphan(&mut self, number: u32) -> Result<bool> {
        let Some(at) = self.orphans.iter().position(|&other| other == number) else { return Ok(false) };
        let next = self.orphans.get(at + 1).copied().unwrap_or(0);
        if at == 0 {
            put_u32(&mut self.superblock.raw, 232, next);
            self.changed_superblock = true;
        } else {
            let mut before = self.inode(self.orphans[at - 1])?;
            before.set_deleted(next);
            self.put(&before)?;
        }
        self.orphans.remove(at);
        Ok(true)
    }

    /// Deletes what had no name any more when the file system was last used.
    fn delete_orphans(&mut self) -> Result<()> {
        let mut next = u32_at(&self.superblock.raw, 232);
        let mut seen = HashSet::new();
        while next != 0 && seen.insert(next) {
            let Ok(mut inode) = self.inode(next) else { break };
            next = inode.deleted();
            if inode.links() == 0 && inode.mode() != 0 {
                self.delete(inode)?;
            } else {
                inode.set_deleted(0);
                self.put(&inode)?;
            }
        }
        put_u32(&mut self.superblock.raw, 232, 0);
        self.changed_superblock = true;
        Ok(())
    }

    /// How much is waiting for a commit, in blocks.
    pub fn waiting(&self) -> usize {
        if self.writable { self.changed.len() } else { 0 }
    }

    /// More than this should not wait: it has to fit into the journal.
    pub fn limit(&self) -> usize {
        self.journal.as_ref().map_or(usize::MAX, |journal| (journal.capacity() / 4).min(2048))
    }

    /// Writes what was changed: all of it or, after a crash, nothing. durable: it is on disk afterwards.
    pub fn commit(&mut self, durable: bool) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        for group in std::mem::take(&mut self.changed_groups) {
            let (block, at) = self.superblock.descriptor_place(group);
            let entry = self.groups[group as usize];
            entry.write(&mut self.edit(block)?[at..at + DESCRIPTOR_SIZE]);
        }
        if std::mem::take(&mut self.changed_superblock) {
            let (first, raw) = (self.superblock.first_data_block, self.superblock.raw.clone());
            let at = if first == 0 { SUPERBLOCK_OFFSET as usize } else { 0 };
            self.edit(first)?[at..at + SUPERBLOCK_SIZE].copy_from_slice(&raw);
        }
        if durable {
            self.sync()?;
        }
        if !self.changed.is_empty() {
            match self.journal.take() {
                Some(mut journal) => {
                    let written = journal.write(self, &self.changed, durable);
                    self.journal = Some(journal);
                    written?;
                }
                None => {
                    for (block, bytes) in &self.changed {
                        self.write_raw(*block, bytes)?;
                    }
                }
            }
            let changed = std::mem::take(&mut self.changed);
            self.clean.extend(changed);
        }
        self.resting.clear();
        Ok(())
    }

    /// Commits and says that nothing is left to be finished.
    pub fn close(mut self) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        for number in self.orphans.clone() {
            self.remove_orphan(number)?;
            let inode = self.inode(number)?;
            self.delete(inode)?;
        }
        self.commit(true)?;
        self.superblock.incompatible &= !INCOMPAT_RECOVER;
        put_u32(&mut self.superblock.raw, 96, self.superblock.incompatible);
        self.write_superblock()?;
        self.sync()
    }
}

/// The first clear bit from `from` on, below `end`.
fn first_clear(bits: &[u8], from: u32, end: u32) -> Option<u32> {
    let mut bit = from;
    while bit < end {
        let byte = *bits.get(bit as usize / 8)?;
        if byte == 0xff {
            bit = (bit / 8 + 1) * 8;
            continue;
        }
        if byte & 1 << (bit % 8) == 0 {
            return Some(bit);
        }
        bit += 1;
    }
    None
}
