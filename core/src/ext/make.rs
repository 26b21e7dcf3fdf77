//! A new, empty ext3 file system with a few directories in it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::format::{
    COMPAT_JOURNAL, COMPAT_XATTR, DESCRIPTOR_SIZE, FIRST_INODE, Group, INCOMPAT_FILETYPE, Inode,
    JOURNAL_INODE, MAGIC, RO_COMPAT_LARGE_FILE, RO_COMPAT_SPARSE, ROOT_INODE, SUPERBLOCK_OFFSET,
    SUPERBLOCK_SIZE, Superblock, Time, put_u16, put_u32,
};
use super::nodes::Birth;
use super::volume::Volume;
use super::{Result, journal, refused};

const BLOCK: usize = 4096;
const LOG: u32 = 2;
const GROUP: u32 = 32768;
const INODE: usize = 256;
/// One inode for so many bytes.
const RATIO: u64 = 16384;
const LEAST: u64 = 8 << 20;

pub struct Wish<'a> {
    pub uid: u32,
    pub gid: u32,
    /// Of the directories.
    pub mode: u32,
    /// Absolute paths, each below one before or the root.
    pub directories: Vec<&'a [u8]>,
    pub id: [u8; 16],
}

/// Makes a file system of `size` bytes from `offset` on, where everything is zero already.
pub fn make(file: File, offset: u64, size: u64, wish: &Wish<'_>) -> Result<()> {
    if size < LEAST || size / BLOCK as u64 > u64::from(u32::MAX) {
        return Err(refused(libc::EINVAL));
    }
    let (superblock, groups) = plan(size, &wish.id)?;
    write_bitmaps(&file, offset, &superblock, &groups)?;
    let mut volume = Volume::in_the_making(file, offset, superblock, groups);
    volume.count_directory(ROOT_INODE);
    let mut root = Inode::new(ROOT_INODE, INODE, libc::S_IFDIR | 0o755, wish.uid, wish.gid, 0);
    root.set_links(2);
    volume.fill_directory(&mut root, ROOT_INODE)?;
    volume.put(&root)?;
    let lost = Birth { mode: libc::S_IFDIR | 0o700, uid: wish.uid, gid: wish.gid };
    volume.make_directory(ROOT_INODE, b"lost+found", lost)?;
    let length = journal_length(u64::from(volume.superblock.blocks));
    let mut log = Inode::new(JOURNAL_INODE, INODE, libc::S_IFREG | 0o600, 0, 0, 0);
    log.set_links(1);
    for logical in 0..length {
        volume.map_or_make(&mut log, u64::from(logical))?;
    }
    log.set_size(u64::from(length) * BLOCK as u64);
    volume.put(&log)?;
    let first = volume.map(&log, 0)?;
    volume.write_raw(first, &journal::blank(BLOCK, length))?;
    for path in &wish.directories {
        make_path(&mut volume, path, wish)?;
    }
    volume.commit(false)?;
    copy_superblock(&volume)
}

fn make_path(volume: &mut Volume, path: &[u8], wish: &Wish<'_>) -> Result<()> {
    let mut at = ROOT_INODE;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        let above = volume.inode(at)?;
        at = match volume.lookup(&above, name)? {
            Some(number) => number,
            None => {
                let birth = Birth { mode: libc::S_IFDIR | wish.mode, uid: wish.uid, gid: wish.gid };
                volume.make_directory(at, name, birth)?.number
            }
        };
    }
    Ok(())
}

/// e2fsck takes none of less than 1024 blocks.
fn journal_length(blocks: u64) -> u32 {
    match blocks {
        0..=32767 => 1024,
        32768..=262_143 => 4096,
        _ => 8192,
    }
}

fn plan(size: u64, id: &[u8; 16]) -> Result<(Superblock, Vec<Group>)> {
    let mut blocks = (size / BLOCK as u64) as u32;
    let mut raw = vec![0; SUPERBLOCK_SIZE];
    put_u32(&mut raw, 100, RO_COMPAT_SPARSE | RO_COMPAT_LARGE_FILE);
    // A last group without room for more than its own tables is left out.
    let (count, inodes, descriptors, table) = loop {
        let count = blocks.div_ceil(GROUP);
        let wanted = (size / RATIO).div_ceil(u64::from(count)) as u32;
        let each = (BLOCK / INODE) as u32;
        let inodes = wanted.next_multiple_of(each).clamp(each, BLOCK as u32 * 8);
        let descriptors = (count as usize * DESCRIPTOR_SIZE).div_ceil(BLOCK) as u32;
        let table = inodes / each;
        let last = blocks - (count - 1) * GROUP;
        if count == 1 || last > descriptors + table + 64 {
            break (count, inodes, descriptors, table);
        }
        blocks = (count - 1) * GROUP;
    };
    let now = Time::now().seconds as u32;
    for (at, value) in [
        (0, inodes * count),
        (4, blocks),
        (16, inodes * count - (FIRST_INODE - 1)),
        (24, LOG),
        (28, LOG),
        (32, GROUP),
        (36, GROUP),
        (40, inodes),
        (48, now),
        (64, now),
        (76, 1), // revision
        (84, FIRST_INODE),
        (92, COMPAT_JOURNAL | COMPAT_XATTR),
        (96, INCOMPAT_FILETYPE),
        (224, JOURNAL_INODE),
        (264, now),
    ] {
        put_u32(&mut raw, at, value);
    }
    for (at, value) in [(54, 0xffff), (56, MAGIC), (58, 1), (60, 1), (88, INODE as u16)] {
        put_u16(&mut raw, at, value);
    }
    raw[104..120].copy_from_slice(id);
    let superblock = Superblock::parse(&raw, size)?;
    let mut groups = Vec::new();
    let mut free = 0;
    for number in 0..count {
        let start = superblock.group_start(number);
        let head = if superblock.has_super(number) { 1 + descriptors } else { 0 };
        let left = superblock.group_length(number) - head - 2 - table;
        free += left;
        groups.push(Group {
            block_bitmap: start + head,
            inode_bitmap: start + head + 1,
            inode_table: start + head + 2,
            free_blocks: left as u16,
            free_inodes: (inodes - if number == 0 { FIRST_INODE - 1 } else { 0 }) as u16,
            directories: 0,
        });
    }
    put_u32(&mut raw, 12, free);
    Ok((Superblock { raw, ..superblock }, groups))
}

fn write_bitmaps(file: &File, offset: u64, superblock: &Superblock, groups: &[Group]) -> Result<()> {
    let set = |bits: &mut [u8], range: std::ops::Range<u32>| {
        for bit in range {
            bits[bit as usize / 8] |= 1 << (bit % 8);
        }
    };
    let bits = BLOCK as u32 * 8;
    for (number, group) in groups.iter().enumerate() {
        let length = superblock.group_length(number as u32);
        let mut blocks = vec![0; BLOCK];
        set(&mut blocks, 0..length - u32::from(group.free_blocks));
        set(&mut blocks, length..bits);
        let mut inodes = vec![0; BLOCK];
        set(&mut inodes, 0..superblock.inodes_per_group - u32::from(group.free_inodes));
        set(&mut inodes, superblock.inodes_per_group..bits);
        for (block, bytes) in [(group.block_bitmap, &blocks), (group.inode_bitmap, &inodes)] {
            file.write_all_at(bytes, offset + u64::from(block) * BLOCK as u64)?;
        }
    }
    Ok(())
}

/// Copies of superblock and descriptors, for those who repair.
fn copy_superblock(volume: &Volume) -> Result<()> {
    let superblock = &volume.superblock;
    let descriptors = (superblock.groups as usize * DESCRIPTOR_SIZE).div_ceil(BLOCK) as u32;
    let mut table = vec![0; descriptors as usize * BLOCK];
    volume.file().read_exact_at(&mut table, volume.place(1))?;
    for group in 1..superblock.groups {
        if superblock.has_super(group) {
            let start = superblock.group_start(group);
            let mut raw = superblock.raw.clone();
            put_u16(&mut raw, 90, group as u16);
            volume.file().write_all_at(&raw, volume.place(start))?;
            volume.file().write_all_at(&table, volume.place(start + 1))?;
        }
    }
    let mut first = vec![0; SUPERBLOCK_SIZE];
    volume.file().read_exact_at(&mut first, volume.place(0) + SUPERBLOCK_OFFSET)?;
    Superblock::parse(&first, u64::MAX).map(drop)
}
