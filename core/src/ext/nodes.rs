//! Files, directories and links as a tree: made, named, renamed, deleted.

use super::directory::kind_of;
use super::format::{CTIME, Inode, MOST_LINKS, Time, put_u32};
use super::volume::Volume;
use super::{Result, corrupt, refused};

/// Links up to this long are kept in the inode.
const SHORT_LINK: usize = 60;

pub const NOREPLACE: u32 = 1;
pub const EXCHANGE: u32 = 2;
pub const WHITEOUT: u32 = 4;

/// Who and what a new inode is.
#[derive(Clone, Copy)]
pub struct Birth {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Volume {
    /// A file, device, pipe or socket.
    pub fn make_node(&mut self, parent: u32, name: &[u8], birth: Birth, device: u32) -> Result<Inode> {
        let (mut directory, mut inode) = self.begin(parent, name, birth)?;
        if matches!(inode.kind(), libc::S_IFCHR | libc::S_IFBLK) {
            let (major, minor) = (device >> 8 & 0xfff, (device & 0xff) | (device >> 12 & 0xfff00));
            if major < 256 && minor < 256 {
                inode.set_pointer(0, major << 8 | minor);
            } else {
                inode.set_pointer(1, device);
            }
        }
        inode.set_links(1);
        self.finish(&mut directory, name, inode)
    }

    pub fn make_directory(&mut self, parent: u32, name: &[u8], birth: Birth) -> Result<Inode> {
        let (mut directory, mut inode) = self.begin(parent, name, birth)?;
        if directory.links() >= MOST_LINKS {
            self.free_inode(inode)?;
            return Err(refused(libc::EMLINK));
        }
        inode.set_links(2);
        if let Err(error) = self.fill_directory(&mut inode, parent) {
            self.free_inode(inode)?;
            return Err(error);
        }
        directory.set_links(directory.links() + 1);
        self.finish(&mut directory, name, inode)
    }

    pub fn make_link(&mut self, parent: u32, name: &[u8], target: &[u8], birth: Birth) -> Result<Inode> {
        if target.len() >= self.block_size() {
            return Err(refused(libc::ENAMETOOLONG));
        }
        let birth = Birth { mode: libc::S_IFLNK | 0o777, ..birth };
        let (mut directory, mut inode) = self.begin(parent, name, birth)?;
        inode.set_links(1);
        inode.set_size(target.len() as u64);
        if target.len() < SHORT_LINK {
            inode.raw[40..40 + target.len()].copy_from_slice(target);
        } else {
            match self.map_or_make(&mut inode, 0) {
                Ok((block, _)) => self.blank(block)[..target.len()].copy_from_slice(target),
                Err(error) => {
                    self.free_inode(inode)?;
                    return Err(error);
                }
            }
        }
        self.finish(&mut directory, name, inode)
    }

    fn begin(&mut self, parent: u32, name: &[u8], birth: Birth) -> Result<(Inode, Inode)> {
        let directory = self.inode(parent)?;
        if directory.links() == 0 {
            return Err(refused(libc::ENOENT));
        }
        if self.lookup(&directory, name)?.is_some() {
            return Err(refused(libc::EEXIST));
        }
        let mut birth = birth;
        if directory.mode() & libc::S_ISGID != 0 {
            birth.gid = directory.gid();
            if birth.mode & libc::S_IFMT == libc::S_IFDIR {
                birth.mode |= libc::S_ISGID;
            }
        }
        let inode = self.allocate_inode(parent, birth.mode, birth.uid, birth.gid)?;
        Ok((directory, inode))
    }

    fn finish(&mut self, directory: &mut Inode, name: &[u8], inode: Inode) -> Result<Inode> {
        self.put(&inode)?;
        if let Err(error) = self.add_entry(directory, name, inode.number, inode.mode()) {
            self.delete(inode)?;
            return Err(error);
        }
        Ok(inode)
    }

    pub fn read_link(&mut self, inode: &Inode) -> Result<Vec<u8>> {
        let size = inode.size() as usize;
        if inode.kind() != libc::S_IFLNK {
            return Err(refused(libc::EINVAL));
        }
        let attributes = if inode.xattr_block() == 0 { 0 } else { (self.block_size() / 512) as u32 };
        if size < SHORT_LINK && inode.sectors() == attributes {
            return Ok(inode.raw[40..40 + size].to_vec());
        }
        if size >= self.block_size() {
            return Err(corrupt("a link is too long"));
        }
        let block = self.map(inode, 0)?;
        if block == 0 {
            return Err(corrupt("a link leads nowhere"));
        }
        Ok(self.block(block)?[..size].to_vec())
    }

    /// A further name for a file.
    pub fn name(&mut self, number: u32, parent: u32, name: &[u8]) -> Result<Inode> {
        let mut inode = self.inode(number)?;
        let mut directory = self.inode(parent)?;
        if inode.is_directory() {
            return Err(refused(libc::EPERM));
        }
        if inode.links() >= MOST_LINKS {
            return Err(refused(libc::EMLINK));
        }
        if self.lookup(&directory, name)?.is_some() {
            return Err(refused(libc::EEXIST));
        }
        self.add_entry(&mut directory, name, number, inode.mode())?;
        if inode.links() == 0 {
            self.remove_orphan(number)?;
            inode = self.inode(number)?;
            inode.set_deleted(0);
        }
        inode.set_links(inode.links() + 1);
        inode.set_time(CTIME, Time::now());
        self.put(&inode)?;
        Ok(inode)
    }

    /// Takes a name away. `used`: whether somebody still knows the inode, which then lives on without a name.
    pub fn remove(
        &mut self,
        parent: u32,
        name: &[u8],
        directory: bool,
        used: impl Fn(u32) -> bool,
    ) -> Result<()> {
        let mut above = self.inode(parent)?;
        let number = self.lookup(&above, name)?.ok_or(refused(libc::ENOENT))?;
        let inode = self.inode(number)?;
        match (inode.is_directory(), directory) {
            (true, false) => return Err(refused(libc::EISDIR)),
            (false, true) => return Err(refused(libc::ENOTDIR)),
            (true, true) if !self.is_empty(&inode)? => return Err(refused(libc::ENOTEMPTY)),
            _ => {}
        }
        if number == parent || number == super::format::ROOT_INODE {
            return Err(corrupt("a directory contains itself"));
        }
        if directory {
            above.set_links(above.links().saturating_sub(1).max(2));
        }
        self.remove_entry(&mut above, name)?;
        self.unlink(inode, used)
    }

    /// One name less for an inode.
    fn unlink(&mut self, mut inode: Inode, used: impl Fn(u32) -> bool) -> Result<()> {
        let links = if inode.is_directory() { 0 } else { inode.links().saturating_sub(1) };
        inode.set_links(links);
        inode.set_time(CTIME, Time::now());
        if links > 0 {
            return self.put(&inode);
        }
        if used(inode.number) {
            return self.add_orphan(&mut inode);
        }
        self.delete(inode)
    }

    /// Frees an inode and all its blocks.
    pub fn delete(&mut self, mut inode: Inode) -> Result<()> {
        self.drop_attributes(&mut inode)?;
        let has_blocks = match inode.kind() {
            libc::S_IFREG | libc::S_IFDIR => true,
            libc::S_IFLNK => inode.sectors() != 0,
            _ => false,
        };
        if has_blocks {
            self.cut(&mut inode, 0)?;
        }
        inode.set_size(0);
        self.free_inode(inode)
    }

    /// rename(2), with its flags.
    pub fn rename(
        &mut self,
        from: (u32, &[u8]),
        to: (u32, &[u8]),
        flags: u32,
        owner: (u32, u32),
        used: impl Fn(u32) -> bool,
    ) -> Result<()> {
        let (source, target) = (self.inode(from.0)?, self.inode(to.0)?);
        let moved = self.lookup(&source, from.1)?.ok_or(refused(libc::ENOENT))?;
        let replaced = self.lookup(&target, to.1)?;
        if flags & NOREPLACE != 0 && replaced.is_some() {
            return Err(refused(libc::EEXIST));
        }
        if flags & EXCHANGE != 0 && replaced.is_none() {
            return Err(refused(libc::ENOENT));
        }
        if Some(moved) == replaced {
            return Ok(());
        }
        let inode = self.inode(moved)?;
        let other = replaced.map(|number| self.inode(number)).transpose()?;
        if from.0 != to.0 {
            self.refuse_loop(&inode, to.0)?;
            if flags & EXCHANGE != 0
                && let Some(other) = &other
            {
                self.refuse_loop(other, from.0)?;
            }
        }
        if let Some(other) = &other
            && flags & EXCHANGE == 0
        {
            match (inode.is_directory(), other.is_directory()) {
                (true, false) => return Err(refused(libc::ENOTDIR)),
                (false, true) => return Err(refused(libc::EISDIR)),
                (true, true) if !self.is_empty(other)? => return Err(refused(libc::ENOTEMPTY)),
                _ => {}
            }
        }
        // Taken before anything changes: afterwards it could be refused.
        let whiteout = if flags & WHITEOUT != 0 {
            let mut made = self.allocate_inode(from.0, libc::S_IFCHR, owner.0, owner.1)?;
            made.set_links(1);
            self.put(&made)?;
            Some(made)
        } else {
            None
        };
        match &other {
            Some(_) => {
                let mut target = self.inode(to.0)?;
                self.set_entry(&mut target, to.1, moved, inode.mode())?;
            }
            None => {
                let mut target = self.inode(to.0)?;
                if let Err(error) = self.add_entry(&mut target, to.1, moved, inode.mode()) {
                    if let Some(made) = whiteout {
                        self.delete(made)?;
                    }
                    return Err(error);
                }
            }
        }
        let mut source = self.inode(from.0)?;
        if let (Some(other), true) = (&other, flags & EXCHANGE != 0) {
            self.set_entry(&mut source, from.1, other.number, other.mode())?;
            self.settle(other, to.0, from.0)?;
        } else {
            match &whiteout {
                Some(made) => self.set_entry(&mut source, from.1, made.number, made.mode())?,
                None => self.remove_entry(&mut source, from.1)?,
            }
            if let Some(other) = other {
                if other.is_directory() {
                    self.add_links(to.0, -1)?;
                }
                self.unlink(other, used)?;
            }
        }
        self.settle(&inode, from.0, to.0)?;
        let mut inode = self.inode(moved)?;
        inode.set_time(CTIME, Time::now());
        self.put(&inode)
    }

    /// A directory that moves: its `..` and the links of both parents.
    fn settle(&mut self, inode: &Inode, from: u32, to: u32) -> Result<()> {
        if !inode.is_directory() || from == to {
            return Ok(());
        }
        let block = self.map(inode, 0)?;
        let bytes = self.edit(block)?;
        // Behind `.`, whose entry is 12 bytes long.
        if bytes.get(20..22) != Some(b"..") {
            return Err(corrupt("a directory does not know its parent"));
        }
        put_u32(bytes, 12, to);
        bytes[19] = if bytes[19] == 0 { 0 } else { kind_of(libc::S_IFDIR) };
        self.add_links(from, -1)?;
        self.add_links(to, 1)
    }

    fn add_links(&mut self, number: u32, by: i16) -> Result<()> {
        let mut inode = self.inode(number)?;
        inode.set_links(inode.links().saturating_add_signed(by).max(2));
        self.put(&inode)
    }

    /// A directory cannot be moved below itself. The kernel sees to that too, for what it knows.
    fn refuse_loop(&mut self, inode: &Inode, into: u32) -> Result<()> {
        if !inode.is_directory() {
            return Ok(());
        }
        let mut at = into;
        for _ in 0..self.superblock.inodes {
            if at == inode.number {
                return Err(refused(libc::EINVAL));
            }
            if at == super::format::ROOT_INODE {
                return Ok(());
            }
            let directory = self.inode(at)?;
            at = self.lookup(&directory, b"..")?.ok_or(corrupt("a directory does not know its parent"))?;
        }
        Err(corrupt("directories contain each other"))
    }
}
