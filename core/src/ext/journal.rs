//! The journal (the kernel's JBD, big-endian): a file of the file system in which a set of changed blocks is written
//! before any of them is written to its place.
//!
//! ```text
//! superblock │ … descriptor │ block │ block │ … │ descriptor │ block │ … │ commit │ …
//! ```
//!
//! A descriptor names the places of the blocks behind it, the commit makes them count. The superblock says where the first
//! transaction begins, 0 for none. Here there is never more than one: it is written from the first block on, made to
//! count by the superblock, carried out, and dropped. Others' are read in full, with their revocations.

use std::collections::{BTreeMap, HashMap};

use super::format::{JOURNAL_INODE, u32_at};
use super::volume::Volume;
use super::{Error, Result, corrupt};

pub const MAGIC: u32 = 0xC03B_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK: [u32; 2] = [3, 4];
const REVOKE: u32 = 5;

const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST: u32 = 8;
const TAG: usize = 8;
const UUID: usize = 16;
const HEADER: usize = 12;

/// Room for this many blocks is the least that makes sense.
const LEAST: u32 = 64;
/// And a journal of more than this is nobody's, in blocks.
const MOST: u32 = 1 << 20;

fn u32_be(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put_be(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

pub struct Journal {
    /// Where its blocks are.
    blocks: Vec<u32>,
    superblock: Vec<u8>,
    sequence: u32,
    first: u32,
    start: u32,
}

impl Journal {
    pub fn open(volume: &mut Volume) -> Result<Journal> {
        let number = u32_at(&volume.superblock.raw, 224);
        if number != JOURNAL_INODE {
            return Err(Error::because(libc::EOPNOTSUPP, "its journal is on another device"));
        }
        let inode = volume.inode(number)?;
        let length = inode.size() / volume.block_size() as u64;
        if inode.kind() != libc::S_IFREG || length < u64::from(LEAST) || length > u64::from(MOST) {
            return Err(corrupt("its journal has an impossible size"));
        }
        let mut blocks = Vec::with_capacity(length as usize);
        for logical in 0..length {
            match volume.map(&inode, logical)? {
                0 => return Err(corrupt("its journal has holes")),
                block => blocks.push(block),
            }
        }
        let mut superblock = vec![0; volume.block_size()];
        volume.read_raw(blocks[0], &mut superblock)?;
        if u32_be(&superblock, 0) != MAGIC
            || !SUPERBLOCK.contains(&u32_be(&superblock, 4))
            || u32_be(&superblock, 12) as usize != volume.block_size()
        {
            return Err(corrupt("its journal has no superblock"));
        }
        let (maximum, first) = (u32_be(&superblock, 16), u32_be(&superblock, 20));
        let start = u32_be(&superblock, 28);
        if maximum as usize > blocks.len()
            || maximum < LEAST
            || first == 0
            || first >= maximum / 2
            || start >= maximum
        {
            return Err(corrupt("the numbers of its journal do not fit together"));
        }
        blocks.truncate(maximum as usize);
        let version = u32_be(&superblock, 4);
        // Revocations are known; sums and 64 bits are ext4's.
        if version == SUPERBLOCK[1] && start != 0 && u32_be(&superblock, 40) & !1 != 0 {
            return Err(Error::because(
                libc::EOPNOTSUPP,
                "its journal is unfinished and of another kind than ext3's",
            ));
        }
        let sequence = u32_be(&superblock, 24);
        Ok(Journal { blocks, superblock, sequence, first, start })
    }

    /// How many blocks a transaction can have, with some to spare for descriptors.
    pub fn capacity(&self) -> usize {
        let log = self.blocks.len() - self.first as usize;
        log - log / 64 - 4
    }

    fn after(&self, position: u32) -> u32 {
        if position as usize + 1 >= self.blocks.len() { self.first } else { position + 1 }
    }

    fn read(&self, volume: &Volume, position: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; volume.block_size()];
        volume.read_raw(self.blocks[position as usize], &mut bytes)?;
        Ok(bytes)
    }

    /// What the finished transactions say that blocks are to be.
    pub fn recover(&self, volume: &mut Volume) -> Result<BTreeMap<u32, Box<[u8]>>> {
        let mut written: Vec<(u32, u32, u32, bool)> = Vec::new(); // block, position, sequence, escaped
        let mut revoked: HashMap<u32, u32> = HashMap::new();
        let mut finished = 0;
        let (mut position, mut sequence) = (self.start, self.sequence);
        let mut left = self.blocks.len();
        while self.start != 0 && left > 0 {
            let bytes = self.read(volume, position)?;
            if u32_be(&bytes, 0) != MAGIC || u32_be(&bytes, 8) != sequence {
                break;
            }
            left -= 1;
            position = self.after(position);
            match u32_be(&bytes, 4) {
                DESCRIPTOR => {
                    let mut at = HEADER;
                    while at + TAG <= bytes.len() && left > 0 {
                        let (block, flags) = (u32_be(&bytes, at), u32_be(&bytes, at + 4) & 0xffff);
                        at += TAG + if flags & SAME_UUID == 0 { UUID } else { 0 };
                        written.push((block, position, sequence, flags & ESCAPED != 0));
                        position = self.after(position);
                        left -= 1;
                        if flags & LAST != 0 {
                            break;
                        }
                    }
                }
                COMMIT => {
                    finished = written.len();
                    sequence = sequence.wrapping_add(1);
                }
                REVOKE => {
                    let end = (u32_be(&bytes, 12) as usize).min(bytes.len());
                    for at in (16..end.saturating_sub(3)).step_by(4) {
                        revoked.insert(u32_be(&bytes, at), sequence);
                    }
                }
                _ => break,
            }
        }
        let last = sequence;
        let mut found = BTreeMap::new();
        for &(block, position, of, escaped) in &written[..finished] {
            if revoked
                .get(&block)
                .is_some_and(|&by| last.wrapping_sub(by) as i32 > 0 && by.wrapping_sub(of) as i32 >= 0)
            {
                continue;
            }
            if !volume.superblock.holds(block) && block != volume.superblock.first_data_block {
                return Err(corrupt("its journal writes outside"));
            }
            let mut bytes = self.read(volume, position)?;
            if escaped {
                put_be(&mut bytes, 0, MAGIC);
            }
            found.insert(block, bytes.into_boxed_slice());
        }
        Ok(found)
    }

    /// Says that nothing is left to be carried out.
    pub fn clear(&self, volume: &Volume) -> Result<()> {
        let mut superblock = self.superblock.clone();
        put_be(&mut superblock, 28, 0);
        // Whatever is still in the log has an older number than anything to come.
        put_be(&mut superblock, 24, self.sequence.wrapping_add(self.blocks.len() as u32));
        volume.write_raw(self.blocks[0], &superblock)
    }

    /// One transaction, from the first block of the log to the places of its blocks.
    pub fn write(
        &mut self,
        volume: &Volume,
        changed: &BTreeMap<u32, Box<[u8]>>,
        durable: bool,
    ) -> Result<()> {
        let size = volume.block_size();
        if changed.len() > self.capacity() {
            return Err(Error::because(libc::ENOSPC, "one change is larger than the journal"));
        }
        self.sequence = u32_be(&self.superblock, 24).max(self.sequence).wrapping_add(1);
        let mut position = self.first as usize;
        let mut put = |bytes: &[u8]| {
            let block = self.blocks[position];
            position += 1;
            volume.write_raw(block, bytes)
        };
        let header = |kind: u32, sequence: u32| {
            let mut bytes = vec![0; size];
            put_be(&mut bytes, 0, MAGIC);
            put_be(&mut bytes, 4, kind);
            put_be(&mut bytes, 8, sequence);
            bytes
        };
        let all: Vec<(&u32, &Box<[u8]>)> = changed.iter().collect();
        for group in all.chunks((size - HEADER - UUID) / TAG) {
            let mut descriptor = header(DESCRIPTOR, self.sequence);
            let mut at = HEADER;
            for (index, (block, bytes)) in group.iter().enumerate() {
                let mut flags = if index == 0 { 0 } else { SAME_UUID };
                if u32_be(bytes, 0) == MAGIC {
                    flags |= ESCAPED;
                }
                if index + 1 == group.len() {
                    flags |= LAST;
                }
                put_be(&mut descriptor, at, **block);
                put_be(&mut descriptor, at + 4, flags);
                at += TAG + if index == 0 { UUID } else { 0 };
            }
            put(&descriptor)?;
            for (_, bytes) in group {
                if u32_be(bytes, 0) == MAGIC {
                    let mut escaped = bytes.to_vec();
                    put_be(&mut escaped, 0, 0);
                    put(&escaped)?;
                } else {
                    put(bytes)?;
                }
            }
        }
        put(&header(COMMIT, self.sequence))?;
        let settle = || if durable { volume.sync() } else { Ok(()) };
        settle()?;
        self.state(volume, self.first)?;
        settle()?;
        for (block, bytes) in changed {
            volume.write_raw(*block, bytes)?;
        }
        settle()?;
        self.sequence = self.sequence.wrapping_add(1);
        self.state(volume, 0)
    }

    fn state(&mut self, volume: &Volume, start: u32) -> Result<()> {
        put_be(&mut self.superblock, 24, self.sequence);
        put_be(&mut self.superblock, 28, start);
        if u32_be(&self.superblock, 4) == SUPERBLOCK[1] {
            put_be(&mut self.superblock, 40, 0);
        }
        volume.write_raw(self.blocks[0], &self.superblock)
    }
}

/// The superblock of an empty journal of `length` blocks.
pub fn blank(block_size: usize, length: u32) -> Vec<u8> {
    let mut bytes = vec![0; block_size];
    for (at, value) in [
        (0, MAGIC),
        (4, SUPERBLOCK[1]),
        (12, block_size as u32),
        (16, length),
        (20, 1), // first block of the log
        (24, 1), // first sequence
        (64, 1), // users
    ] {
        put_be(&mut bytes, at, value);
    }
    bytes
}
