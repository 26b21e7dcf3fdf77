//! Inodes: what a file is, and where its content stands.

use super::format::{
    Error, Fields, LISTING_EXTRA, METADATA_SIZE, NO_XATTR, Result, XATTR_ELSEWHERE, XATTR_PREFIXES, kind,
};
use super::metadata::{Place, Stream};
use super::reader::Image;

/// Longest target of a symbolic link that is read (PATH_MAX).
const LONGEST_TARGET: u32 = 4096;
/// Largest value of an extended attribute (XATTR_SIZE_MAX of the kernel).
const LARGEST_XATTR: u32 = 65536;
/// Most attributes of one file that are listed.
const MOST_XATTRS: u32 = 4096;

/// Extended attributes: full names and values.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What only one kind of file has.
#[derive(Clone, Debug)]
pub enum Data {
    /// `start`: metadata block of the listing; `indexes`: how many index records stand at `index`.
    Directory {
        start: Place,
        parent: u32,
        indexes: u16,
        index: Place,
    },
    /// `sizes`: where the block list stands; `sparse`: bytes in blocks that are not stored.
    File {
        start: u64,
        fragment: u32,
        fragment_offset: u32,
        sparse: u64,
        sizes: Place,
    },
    Symlink {
        target: Vec<u8>,
    },
    Device {
        number: u32,
    },
    Other,
}

/// An inode. `reference` is its place in the inode table, which names it; `number` is what users see.
#[derive(Clone, Debug)]
pub struct Inode {
    pub reference: u64,
    pub number: u32,
    /// Basic type, 1 to 7.
    pub kind: u16,
    /// Permission bits, the lowest twelve.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u32,
    pub links: u32,
    pub xattr: u32,
    /// Bytes of a file, of a link's target, of a directory's listing.
    pub size: u64,
    pub data: Data,
}

impl Inode {
    /// File type and permissions as stat(2) has them.
    pub fn full_mode(&self) -> u32 {
        let kind = match self.kind {
            kind::DIRECTORY => libc::S_IFDIR,
            kind::FILE => libc::S_IFREG,
            kind::SYMLINK => libc::S_IFLNK,
            kind::BLOCK => libc::S_IFBLK,
            kind::CHARACTER => libc::S_IFCHR,
            kind::FIFO => libc::S_IFIFO,
            _ => libc::S_IFSOCK,
        };
        kind | u32::from(self.mode)
    }

    pub fn is_directory(&self) -> bool {
        self.kind == kind::DIRECTORY
    }
}

impl Image {
    pub fn root(&self) -> Result<Inode> {
        let root = self.inode(self.superblock.root)?;
        if root.is_directory() { Ok(root) } else { Err(Error::Corrupt("its root is not a directory")) }
    }

    /// Reads the inode at `reference`: metadata block within the inode table << 16 | offset in it.
    pub fn inode(&self, reference: u64) -> Result<Inode> {
        let table = self.superblock.inode_table;
        let place = Place {
            block: table
                .checked_add(reference >> 16)
                .ok_or(Error::Corrupt("an inode lies outside its table"))?,
            offset: (reference & 0xFFFF) as usize,
        };
        let mut stream = Stream::new(self, place, self.superblock.directory_table);
        let head: [u8; 16] = stream.array()?;
        let mut fields = Fields(&head);
        let stored_kind = fields.u16()?;
        let mode = fields.u16()? & 0o7777;
        let (uid, gid) = (fields.u16()?, fields.u16()?);
        let mtime = fields.u32()?;
        let number = fields.u32()?;
        if number == 0 {
            return Err(Error::Corrupt("an inode has the number 0"));
        }
        let mut inode = Inode {
            reference,
            number,
            kind: if stored_kind > kind::EXTENDED { stored_kind - kind::EXTENDED } else { stored_kind },
            mode,
            uid: self.id(uid)?,
            gid: self.id(gid)?,
            mtime,
            links: 1,
            xattr: NO_XATTR,
            size: 0,
            data: Data::Other,
        };
        self.read_rest(&mut inode, stored_kind, &mut stream)?;
        Ok(inode)
    }

    fn read_rest(&self, inode: &mut Inode, stored_kind: u16, stream: &mut Stream<'_>) -> Result<()> {
        match stored_kind {
            1 => {
                let record: [u8; 16] = stream.array()?;
                let mut fields = Fields(&record);
                let block = fields.u32()?;
                inode.links = fields.u32()?;
                let size = u32::from(fields.u16()?);
                let offset = fields.u16()?;
                let parent = fields.u32()?;
                self.set_directory(inode, block, offset, size, parent, 0, stream.place())?;
            }
            8 => {
                let record: [u8; 24] = stream.array()?;
                let mut fields = Fields(&record);
                inode.links = fields.u32()?;
                let size = fields.u32()?;
                let block = fields.u32()?;
                let parent = fields.u32()?;
                let indexes = fields.u16()?;
                let offset = fields.u16()?;
                inode.xattr = fields.u32()?;
                self.set_directory(inode, block, offset, size, parent, indexes, stream.place())?;
            }
            2 => {
                let record: [u8; 16] = stream.array()?;
                let mut fields = Fields(&record);
                let start = u64::from(fields.u32()?);
                let (fragment, fragment_offset) = (fields.u32()?, fields.u32()?);
                inode.size = u64::from(fields.u32()?);
                inode.data =
                    Data::File { start, fragment, fragment_offset, sparse: 0, sizes: stream.place() };
            }
            9 => {
                let record: [u8; 40] = stream.array()?;
                let mut fields = Fields(&record);
                let start = fields.u64()?;
                inode.size = fields.u64()?;
                let sparse = fields.u64()?;
                inode.links = fields.u32()?;
                let (fragment, fragment_offset) = (fields.u32()?, fields.u32()?);
                inode.xattr = fields.u32()?;
                inode.data = Data::File { start, fragment, fragment_offset, sparse, sizes: stream.place() };
                if inode.size > i64::MAX as u64 {
                    return Err(Error::Corrupt("a file is impossibly large"));
                }
            }
            3 | 10 => {
                inode.links = stream.u32()?;
                let length = stream.u32()?;
                if length == 0 || length > LONGEST_TARGET {
                    return Err(Error::Corrupt("a symbolic link's target is empty or too long"));
                }
                let target = stream.vec(length as usize)?;
                if target.contains(&0) {
                    return Err(Error::Corrupt("a symbolic link's target has a NUL"));
                }
                inode.size = u64::from(length);
                inode.data = Data::Symlink { target };
            }
            4 | 5 | 11 | 12 => {
                inode.links = stream.u32()?;
                inode.data = Data::Device { number: stream.u32()? };
            }
            6 | 7 | 13 | 14 => inode.links = stream.u32()?,
            _ => return Err(Error::Corrupt("an inode has an unknown type")),
        }
        if matches!(stored_kind, 10..=14) {
            inode.xattr = stream.u32()?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the record has that many fields")]
    fn set_directory(
        &self,
        inode: &mut Inode,
        block: u32,
        offset: u16,
        size: u32,
        parent: u32,
        indexes: u16,
        index: Place,
    ) -> Result<()> {
        if usize::from(offset) > METADATA_SIZE {
            return Err(Error::Corrupt("a directory's listing is outside its block"));
        }
        let start =
            Place { block: self.superblock.directory_table + u64::from(block), offset: usize::from(offset) };
        inode.size = u64::from(size.max(LISTING_EXTRA));
        inode.data = Data::Directory { start, parent, indexes, index };
        Ok(())
    }

    /// Whether any inode may have extended attributes.
    pub fn has_xattrs(&self) -> bool {
        self.superblock.xattr_table != super::format::ABSENT
    }

    /// All extended attributes of an inode: full names and values, in stored order.
    pub fn xattrs(&self, inode: &Inode) -> Result<Xattrs> {
        let table = self.superblock.xattr_table;
        if inode.xattr == NO_XATTR || table == super::format::ABSENT {
            return Ok(Vec::new());
        }
        let mut header = [0; 16];
        self.read_stored(table, &mut header)?;
        let mut fields = Fields(&header);
        let (start, count) = (fields.u64()?, fields.u32()?);
        if inode.xattr >= count || start >= table {
            return Err(Error::Corrupt("an attribute set is not in its table"));
        }
        let mut ids = self.table_block(table + 16, u64::from(inode.xattr / 512))?;
        ids.skip(u64::from(inode.xattr % 512) * 16)?;
        let record: [u8; 16] = ids.array()?;
        let mut fields = Fields(&record);
        let (reference, pairs) = (fields.u64()?, fields.u32()?);
        if pairs > MOST_XATTRS {
            return Err(Error::Corrupt("a file has impossibly many attributes"));
        }
        let place = |reference: u64| -> Result<Place> {
            let block = start
                .checked_add(reference >> 16)
                .ok_or(Error::Corrupt("an attribute is outside its table"))?;
            Ok(Place { block, offset: (reference & 0xFFFF) as usize })
        };
        let mut stream = Stream::new(self, place(reference)?, table);
        let mut found = Vec::new();
        for _ in 0..pairs {
            let head: [u8; 4] = stream.array()?;
            let mut fields = Fields(&head);
            let (kind, length) = (fields.u16()?, fields.u16()?);
            let name = stream.vec(usize::from(length))?;
            let value_length = stream.u32()?;
            let value = if kind & XATTR_ELSEWHERE != 0 {
                if value_length != 8 {
                    return Err(Error::Corrupt("an attribute's value is malformed"));
                }
                let elsewhere = u64::from_le_bytes(stream.array()?);
                let mut other = Stream::new(self, place(elsewhere)?, table);
                let length = other.u32()?;
                if length > LARGEST_XATTR {
                    return Err(Error::Corrupt("an attribute's value is too large"));
                }
                other.vec(length as usize)?
            } else if value_length > LARGEST_XATTR {
                return Err(Error::Corrupt("an attribute's value is too large"));
            } else {
                stream.vec(value_length as usize)?
            };
            // Other namespaces cannot be stored; unknown ones are passed over.
            if let Some(prefix) = XATTR_PREFIXES.get(usize::from(kind & 0xFF)) {
                found.push(([prefix.as_bytes(), &name].concat(), value));
            }
        }
        Ok(found)
    }
}
