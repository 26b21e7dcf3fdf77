//! The structures of ext2 and ext3 on disk, little-endian, as far as they count here.
//!
//! Superblock at byte 1024; behind it the group descriptors; in every group a bitmap of blocks, one of inodes and
//! its part of the table of inodes. What is read here is hostile: `Superblock::parse` and `Group::parse` let
//! nothing through that points outside the file system.

use super::{Error, Result, corrupt};

pub const SUPERBLOCK_OFFSET: u64 = 1024;
pub const SUPERBLOCK_SIZE: usize = 1024;
pub const DESCRIPTOR_SIZE: usize = 32;
pub const MAGIC: u16 = 0xEF53;

pub const ROOT_INODE: u32 = 2;
pub const JOURNAL_INODE: u32 = 8;
pub const FIRST_INODE: u32 = 11;

/// Pointers to blocks in an inode: twelve to data, then to blocks of pointers of depth one, two and three.
pub const DIRECT: usize = 12;
pub const POINTERS: usize = 15;

pub const COMPAT_JOURNAL: u32 = 0x4;
pub const COMPAT_XATTR: u32 = 0x8;
pub const INCOMPAT_FILETYPE: u32 = 0x2;
pub const INCOMPAT_RECOVER: u32 = 0x4;
pub const INCOMPAT_META_BG: u32 = 0x10;
pub const RO_COMPAT_SPARSE: u32 = 0x1;
pub const RO_COMPAT_LARGE_FILE: u32 = 0x2;

/// A directory whose blocks also hold a tree of hashes. It can be read without; whoever changes it without drops the flag.
pub const FLAG_INDEX: u32 = 0x1000;

/// Subdirectories are counted in the links of a directory, of which there may be so many.
pub const MOST_LINKS: u16 = 32000;

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// The superblock: the bytes, and what never changes while the file system is used.
#[derive(Debug, Clone)]
pub struct Superblock {
    pub raw: Vec<u8>,
    pub block_size: usize,
    pub blocks: u32,
    pub inodes: u32,
    pub first_data_block: u32,
    pub blocks_per_group: u32,
    pub inodes_per_group: u32,
    pub inode_size: usize,
    pub groups: u32,
    pub incompatible: u32,
}

impl Superblock {
    /// `size`: bytes there are of the file system in its file.
    pub fn parse(raw: &[u8], size: u64) -> Result<Superblock> {
        if raw.len() < SUPERBLOCK_SIZE || u16_at(raw, 56) != MAGIC {
            return Err(corrupt("it has no superblock"));
        }
        let (compatible, incompatible, read_only) = (u32_at(raw, 92), u32_at(raw, 96), u32_at(raw, 100));
        if compatible & COMPAT_JOURNAL == 0
            || incompatible & !(INCOMPAT_FILETYPE | INCOMPAT_RECOVER | INCOMPAT_META_BG) != 0
            || read_only & !0x7 != 0
        {
            return Err(Error::because(libc::EOPNOTSUPP, "it is not ext3 but another of its family"));
        }
        let log = u32_at(raw, 24);
        let inode_size = if u32_at(raw, 76) == 0 { 128 } else { u16_at(raw, 88) as usize };
        if log > 6 {
            return Err(corrupt("its blocks have an impossible size"));
        }
        let found = Superblock {
            raw: raw[..SUPERBLOCK_SIZE].to_vec(),
            block_size: 1024 << log,
            blocks: u32_at(raw, 4),
            inodes: u32_at(raw, 0),
            first_data_block: u32_at(raw, 20),
            blocks_per_group: u32_at(raw, 32),
            inodes_per_group: u32_at(raw, 40),
            inode_size,
            groups: 0,
            incompatible,
        };
        let bits = found.block_size as u32 * 8;
        let sound = found.blocks_per_group >= 8
            && found.blocks_per_group <= bits
            && found.inodes_per_group >= 8
            && found.inodes_per_group <= bits
            && found.inodes_per_group % 8 == 0
            && inode_size.is_power_of_two()
            && (128..=found.block_size).contains(&inode_size)
            && found.first_data_block == u32::from(log == 0)
            && found.blocks > found.first_data_block
            && u64::from(found.blocks) * found.block_size as u64 <= size;
        if !sound {
            return Err(corrupt(
                "the numbers of its superblock do not fit together, or the file is too short",
            ));
        }
        let groups = (found.blocks - found.first_data_block).div_ceil(found.blocks_per_group);
        if u64::from(groups) * u64::from(found.inodes_per_group) != u64::from(found.inodes) {
            return Err(corrupt("its number of inodes does not fit its groups"));
        }
        Ok(Superblock { groups, ..found })
    }

    pub fn has_super(&self, group: u32) -> bool {
        has_super(&self.raw, group)
    }

    /// The block that holds a group's descriptor, and the byte in it.
    pub fn descriptor_place(&self, group: u32) -> (u32, usize) {
        let each = (self.block_size / DESCRIPTOR_SIZE) as u32;
        let (number, at) = (group / each, (group % each) as usize * DESCRIPTOR_SIZE);
        let first_meta = u32_at(&self.raw, 260);
        let block = if self.incompatible & INCOMPAT_META_BG == 0 || number < first_meta {
            self.first_data_block + 1 + number
        } else {
            let first = number * each;
            self.group_start(first) + u32::from(self.has_super(first))
        };
        (block, at)
    }

    pub fn group_start(&self, group: u32) -> u32 {
        self.first_data_block + group * self.blocks_per_group
    }

    /// Blocks of a group: the last one may be shorter.
    pub fn group_length(&self, group: u32) -> u32 {
        self.blocks_per_group.min(self.blocks - self.group_start(group))
    }

    pub fn holds(&self, block: u32) -> bool {
        block >= self.first_data_block.max(1) && block < self.blocks
    }
}

/// Whether a group begins with a copy of the superblock.
pub fn has_super(superblock: &[u8], group: u32) -> bool {
    if group <= 1 || u32_at(superblock, 100) & RO_COMPAT_SPARSE == 0 {
        return true;
    }
    [3, 5, 7].iter().any(|&base| {
        let mut power = base;
        while power < group {
            power *= base;
        }
        power == group
    })
}

#[derive(Debug, Clone, Copy)]
pub struct Group {
    pub block_bitmap: u32,
    pub inode_bitmap: u32,
    pub inode_table: u32,
    pub free_blocks: u16,
    pub free_inodes: u16,
    pub directories: u16,
}

impl Group {
    pub fn parse(raw: &[u8], superblock: &Superblock) -> Result<Group> {
        let group = Group {
            block_bitmap: u32_at(raw, 0),
            inode_bitmap: u32_at(raw, 4),
            inode_table: u32_at(raw, 8),
            free_blocks: u16_at(raw, 12),
            free_inodes: u16_at(raw, 14),
            directories: u16_at(raw, 16),
        };
        let table = superblock.inodes_per_group as usize * superblock.inode_size / superblock.block_size;
        let end = u64::from(group.inode_table) + table as u64;
        if !superblock.holds(group.block_bitmap)
            || !superblock.holds(group.inode_bitmap)
            || !superblock.holds(group.inode_table)
            || end > u64::from(superblock.blocks)
        {
            return Err(corrupt("a group's tables lie outside"));
        }
        Ok(group)
    }

    pub fn write(&self, raw: &mut [u8]) {
        put_u32(raw, 0, self.block_bitmap);
        put_u32(raw, 4, self.inode_bitmap);
        put_u32(raw, 8, self.inode_table);
        put_u16(raw, 12, self.free_blocks);
        put_u16(raw, 14, self.free_inodes);
        put_u16(raw, 16, self.directories);
    }
}

/// A point in time as an inode holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl Time {
    pub fn now() -> Time {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Time { seconds: now.as_secs() as i64, nanoseconds: now.subsec_nanos() }
    }
}

/// An inode: its number and its bytes.
#[derive(Debug, Clone)]
pub struct Inode {
    pub number: u32,
    pub raw: Vec<u8>,
}

/// Places of the times: (seconds, nanoseconds in the part beyond the first 128 bytes).
pub const ATIME: (usize, usize) = (8, 140);
pub const CTIME: (usize, usize) = (12, 132);
pub const MTIME: (usize, usize) = (16, 136);
const CRTIME: (usize, usize) = (144, 148);

impl Inode {
    pub fn mode(&self) -> u32 {
        u32::from(u16_at(&self.raw, 0))
    }

    pub fn set_mode(&mut self, mode: u32) {
        put_u16(&mut self.raw, 0, mode as u16);
    }

    pub fn kind(&self) -> u32 {
        self.mode() & libc::S_IFMT
    }

    pub fn is_directory(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    pub fn uid(&self) -> u32 {
        u32::from(u16_at(&self.raw, 2)) | u32::from(u16_at(&self.raw, 120)) << 16
    }

    pub fn gid(&self) -> u32 {
        u32::from(u16_at(&self.raw, 24)) | u32::from(u16_at(&self.raw, 122)) << 16
    }

    pub fn set_uid(&mut self, uid: u32) {
        put_u16(&mut self.raw, 2, uid as u16);
        put_u16(&mut self.raw, 120, (uid >> 16) as u16);
    }

    pub fn set_gid(&mut self, gid: u32) {
        put_u16(&mut self.raw, 24, gid as u16);
        put_u16(&mut self.raw, 122, (gid >> 16) as u16);
    }

    pub fn links(&self) -> u16 {
        u16_at(&self.raw, 26)
    }

    pub fn set_links(&mut self, links: u16) {
        put_u16(&mut self.raw, 26, links);
    }

    /// Sectors of 512 bytes that belong to it.
    pub fn sectors(&self) -> u32 {
        u32_at(&self.raw, 28)
    }

    pub fn set_sectors(&mut self, sectors: u32) {
        put_u32(&mut self.raw, 28, sectors);
    }

    pub fn flags(&self) -> u32 {
        u32_at(&self.raw, 32)
    }

    pub fn set_flags(&mut self, flags: u32) {
        put_u32(&mut self.raw, 32, flags);
    }

    pub fn size(&self) -> u64 {
        let high = if self.kind() == libc::S_IFREG { u32_at(&self.raw, 108) } else { 0 };
        u64::from(u32_at(&self.raw, 4)) | u64::from(high) << 32
    }

    pub fn set_size(&mut self, size: u64) {
        put_u32(&mut self.raw, 4, size as u32);
        if self.kind() == libc::S_IFREG {
            put_u32(&mut self.raw, 108, (size >> 32) as u32);
        }
    }

    pub fn pointer(&self, index: usize) -> u32 {
        u32_at(&self.raw, 40 + index * 4)
    }

    pub fn set_pointer(&mut self, index: usize, block: u32) {
        put_u32(&mut self.raw, 40 + index * 4, block);
    }

    /// The block of extended attributes, 0 for none.
    pub fn xattr_block(&self) -> u32 {
        u32_at(&self.raw, 104)
    }

    pub fn set_xattr_block(&mut self, block: u32) {
        put_u32(&mut self.raw, 104, block);
    }

    pub fn generation(&self) -> u32 {
        u32_at(&self.raw, 100)
    }

    /// Time of deletion, or the next of the inodes that are to be deleted.
    pub fn deleted(&self) -> u32 {
        u32_at(&self.raw, 20)
    }

    pub fn set_deleted(&mut self, value: u32) {
        put_u32(&mut self.raw, 20, value);
    }

    /// Bytes in use beyond the first 128.
    pub fn extra(&self) -> usize {
        if self.raw.len() <= 130 {
            return 0;
        }
        let extra = u16_at(&self.raw, 128) as usize;
        if extra % 4 == 0 && 128 + extra <= self.raw.len() { extra } else { 0 }
    }

    fn has(&self, place: usize) -> bool {
        128 + self.extra() >= place + 4
    }

    pub fn time(&self, (at, more): (usize, usize)) -> Time {
        let seconds = i64::from(u32_at(&self.raw, at) as i32);
        if !self.has(more) {
            return Time { seconds, nanoseconds: 0 };
        }
        let extra = u32_at(&self.raw, more);
        Time { seconds: seconds + (i64::from(extra & 3) << 32), nanoseconds: (extra >> 2).min(999_999_999) }
    }

    pub fn set_time(&mut self, (at, more): (usize, usize), time: Time) {
        put_u32(&mut self.raw, at, time.seconds as u32);
        if self.has(more) {
            let epoch = ((time.seconds - i64::from(time.seconds as i32)) >> 32) as u32 & 3;
            put_u32(&mut self.raw, more, time.nanoseconds << 2 | epoch);
        }
    }

    /// A new one of `size` bytes.
    pub fn new(number: u32, size: usize, mode: u32, uid: u32, gid: u32, generation: u32) -> Inode {
        let mut inode = Inode { number, raw: vec![0; size] };
        if size >= 160 {
            put_u16(&mut inode.raw, 128, 32);
        }
        inode.set_mode(mode);
        inode.set_uid(uid);
        inode.set_gid(gid);
        put_u32(&mut inode.raw, 100, generation);
        let now = Time::now();
        for place in [ATIME, CTIME, MTIME] {
            inode.set_time(place, now);
        }
        if inode.has(CRTIME.1) {
            inode.set_time(CRTIME, now);
        }
        inode
    }

    /// Whether it names a device by its pointers, and which, as the kernel numbers it for users.
    pub fn device(&self) -> u32 {
        match (self.kind(), self.pointer(0)) {
            (libc::S_IFCHR | libc::S_IFBLK, 0) => self.pointer(1),
            (libc::S_IFCHR | libc::S_IFBLK, old) => (old & 0xff) | (old >> 8 & 0xff) << 8,
            _ => 0,
        }
    }
}
