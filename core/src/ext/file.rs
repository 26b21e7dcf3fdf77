//! What a file holds: which blocks, through up to three levels of pointers; reading, writing, cutting.

use std::os::unix::fs::FileExt;

use super::format::{CTIME, DIRECT, Inode, MTIME, Time, put_u32, u32_at};
use super::volume::Volume;
use super::{Result, corrupt, refused};

/// Blocks that no file's content takes.
pub const RESERVED: u32 = 32;

/// The way to a block: the pointer in the inode, then one in each block of pointers.
struct Way {
    steps: [u32; 4],
    length: usize,
}

impl Volume {
    fn way(&self, logical: u64) -> Result<Way> {
        let each = (self.block_size() / 4) as u64;
        let direct = DIRECT as u64;
        if logical < direct {
            return Ok(Way { steps: [logical as u32, 0, 0, 0], length: 1 });
        }
        let mut rest = logical - direct;
        let mut span = each;
        for depth in 1..=3 {
            if rest < span {
                let mut steps = [DIRECT as u32 + depth as u32 - 1, 0, 0, 0];
                for level in (1..=depth).rev() {
                    steps[level] = (rest % each) as u32;
                    rest /= each;
                }
                return Ok(Way { steps, length: depth + 1 });
            }
            rest -= span;
            span *= each;
        }
        Err(refused(libc::EFBIG))
    }

    /// The block of a file's part, 0 for a hole.
    pub fn map(&mut self, inode: &Inode, logical: u64) -> Result<u32> {
        let Ok(way) = self.way(logical) else { return Ok(0) };
        let mut block = inode.pointer(way.steps[0] as usize);
        for &step in &way.steps[1..way.length] {
            if block == 0 {
                return Ok(0);
            }
            block = u32_at(self.block(block)?, step as usize * 4);
        }
        if block != 0 && !self.superblock.holds(block) {
            return Err(corrupt("a file refers to a block outside"));
        }
        Ok(block)
    }

    /// The block of a file's part, made if it is a hole; whether it was made. The inode is not stored yet. What cannot be made
    /// changes nothing.
    pub fn map_or_make(&mut self, inode: &mut Inode, logical: u64) -> Result<(u32, bool)> {
        let way = self.way(logical)?;
        // Whoever filled it can still remove: that needs room for names and for what overlays keep.
        if inode.kind() == libc::S_IFREG && self.free_blocks() <= RESERVED && self.map(inode, logical)? == 0 {
            return Err(refused(libc::ENOSPC));
        }
        let sectors = (self.block_size() / 512) as u32;
        let mut goal = self.goal(inode, logical)?;
        // As far as the way is there: the last block on it, 0 for the inode itself, and how many steps are left from it.
        let (mut above, mut block, mut level) = (0, inode.pointer(way.steps[0] as usize), 1);
        while block != 0 && level < way.length {
            above = block;
            block = u32_at(self.block(block)?, way.steps[level] as usize * 4);
            level += 1;
        }
        if block != 0 {
            let outside = !self.superblock.holds(block);
            return if outside {
                Err(corrupt("a file refers to a block outside"))
            } else {
                Ok((block, false))
            };
        }
        // The rest, all of it before the first is hung up: where one finds no room the others are given back.
        let mut fresh = Vec::with_capacity(way.length);
        for _ in level - 1..way.length {
            goal = fresh.last().copied().unwrap_or(if goal == 0 { above } else { goal });
            match self.allocate(goal) {
                Ok(block) => fresh.push(block),
                Err(error) => {
                    for block in fresh {
                        self.free(block)?;
                    }
                    return Err(error);
                }
            }
        }
        for (index, pair) in fresh.windows(2).enumerate() {
            put_u32(self.blank(pair[0]), way.steps[level + index] as usize * 4, pair[1]);
        }
        match above {
            0 => inode.set_pointer(way.steps[0] as usize, fresh[0]),
            _ => put_u32(self.edit(above)?, way.steps[level - 1] as usize * 4, fresh[0]),
        }
        inode.set_sectors(inode.sectors() + sectors * fresh.len() as u32);
        Ok((fresh[fresh.len() - 1], true))
    }

    /// Behind the block before, else where the inode's group begins.
    fn goal(&mut self, inode: &Inode, logical: u64) -> Result<u32> {
        if logical > 0 {
            let before = self.map(inode, logical - 1)?;
            if before != 0 {
                return Ok(before + 1);
            }
        }
        Ok(self.superblock.group_start((inode.number - 1) / self.superblock.inodes_per_group))
    }

    /// Reads into `bytes` from `offset` on; how much there was.
    pub fn read(&mut self, inode: &Inode, offset: u64, bytes: &mut [u8]) -> Result<usize> {
        let length = inode.size().saturating_sub(offset).min(bytes.len() as u64) as usize;
        let size = self.block_size() as u64;
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let (logical, within) = (at / size, at % size);
            let block = self.map(inode, logical)?;
            let mut here = ((size - within) as usize).min(length - done);
            if block == 0 {
                bytes[done..done + here].fill(0);
                done += here;
                continue;
            }
            if let Some(changed) = self.in_memory(block) {
                bytes[done..done + here].copy_from_slice(&changed[within as usize..within as usize + here]);
                done += here;
                continue;
            }
            // Blocks that follow each other are read in one go.
            let mut next = 1;
            while done + here < length {
                let other = self.map(inode, logical + next)?;
                if u64::from(other) != u64::from(block) + next || self.in_memory(other).is_some() {
                    break;
                }
                here += (size as usize).min(length - done - here);
                next += 1;
            }
            let place = self.place(block) + within;
            self.file().read_exact_at(&mut bytes[done..done + here], place)?;
            done += here;
        }
        Ok(length)
    }

    /// Writes `bytes` at `offset`; how much found room. The inode is stored, also where the file that all of this is in takes no more:
    /// then without the blocks that were made for what could not be written.
    pub fn write(&mut self, inode: &mut Inode, offset: u64, bytes: &[u8]) -> Result<usize> {
        let size = self.block_size();
        let mut done = 0;
        let mut failure = None;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (logical, within) = (at / size as u64, (at % size as u64) as usize);
            let (block, made) = match self.map_or_make(inode, logical) {
                Ok(found) => found,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            };
            let mut here = (size - within).min(bytes.len() - done);
            if made && here < size {
                // The rest of the block is nobody's old data.
                let mut whole = vec![0; size];
                whole[within..within + here].copy_from_slice(&bytes[done..done + here]);
                if let Err(error) = self.write_raw(block, &whole) {
                    failure = Some(error);
                    break;
                }
                done += here;
                continue;
            }
            let mut next = 1;
            while bytes.len() - done - here >= size {
                match self.map_or_make(inode, logical + next) {
                    Ok((other, _)) if u64::from(other) == u64::from(block) + next => {}
                    // Made elsewhere: it is written in the next turn, whole.
                    Ok(_) => break,
                    Err(_) => break,
                }
                here += size;
                next += 1;
            }
            let place = self.place(block) + within as u64;
            if let Err(error) = self.file().write_all_at(&bytes[done..done + here], place) {
                failure = Some(error.into());
                break;
            }
            done += here;
        }
        if failure.is_some() {
            let end = inode.size().max(offset + done as u64);
            self.cut(inode, end.div_ceil(size as u64))?;
        }
        if done == 0
            && let Some(error) = failure
        {
            self.put(inode)?;
            return Err(error);
        }
        let end = offset + done as u64;
        if end > inode.size() {
            inode.set_size(end);
            if end >= 1 << 31 {
                self.note_large_file();
            }
        }
        let now = Time::now();
        inode.set_time(MTIME, now);
        inode.set_time(CTIME, now);
        self.put(inode)?;
        Ok(done)
    }

    /// Makes a file end at `size`. The inode is stored.
    pub fn resize(&mut self, inode: &mut Inode, size: u64) -> Result<()> {
        let block_size = self.block_size() as u64;
        if size > inode.size() {
            self.way(size.div_ceil(block_size).saturating_sub(1))?;
            if size >= 1 << 31 {
                self.note_large_file();
            }
        } else {
            let within = (size % block_size) as usize;
            if within != 0 {
                let block = self.map(inode, size / block_size)?;
                if block != 0 {
                    let place = self.place(block) + within as u64;
                    self.file().write_all_at(&vec![0; block_size as usize - within], place)?;
                }
            }
            self.cut(inode, size.div_ceil(block_size))?;
        }
        inode.set_size(size);
        self.put(inode)
    }

    /// Frees every block from the part `first` on.
    pub fn cut(&mut self, inode: &mut Inode, first: u64) -> Result<()> {
        let each = (self.block_size() / 4) as u64;
        let mut freed = 0;
        for index in 0..DIRECT {
            let block = inode.pointer(index);
            if index as u64 >= first && block != 0 {
                self.free(block)?;
                freed += 1;
                inode.set_pointer(index, 0);
            }
        }
        let mut start = DIRECT as u64;
        let mut span = each;
        for depth in 1..=3 {
            let index = DIRECT + depth - 1;
            let block = inode.pointer(index);
            if block != 0 && first < start + span {
                let gone = self.cut_below(block, depth, first.saturating_sub(start), &mut freed)?;
                if gone {
                    inode.set_pointer(index, 0);
                }
            }
            start += span;
            span *= each;
        }
        let sectors = freed * (self.block_size() / 512) as u32;
        inode.set_sectors(inode.sectors().saturating_sub(sectors));
        Ok(())
    }

    /// The same below a block of pointers, whose own parts count from 0; whether it is gone itself.
    fn cut_below(&mut self, block: u32, depth: usize, first: u64, freed: &mut u32) -> Result<bool> {
        let each = (self.block_size() / 4) as u64;
        let span = each.pow(depth as u32 - 1);
        let pointers = self.block(block)?.to_vec();
        for index in (first / span) as usize..each as usize {
            let child = u32_at(&pointers, index * 4);
            if child == 0 {
                continue;
            }
            let within = first.saturating_sub(index as u64 * span);
            let gone = if depth == 1 {
                self.free(child)?;
                *freed += 1;
                true
            } else {
                self.cut_below(child, depth - 1, within, freed)?
            };
            if gone && first != 0 {
                put_u32(self.edit(block)?, index * 4, 0);
            }
        }
        if first == 0 {
            self.free(block)?;
            *freed += 1;
        }
        Ok(first == 0)
    }
}
