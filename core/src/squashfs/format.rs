//! The records on disk. Every integer is little-endian, every record packed.

use std::fmt;

pub const MAGIC: u32 = 0x7371_7368;
pub const SUPERBLOCK_SIZE: usize = 96;
/// Uncompressed bytes of a metadata block; the last one of a table may have fewer.
pub const METADATA_SIZE: usize = 8192;
/// Bit of a metadata block's header: stored as it is.
pub const METADATA_RAW: u16 = 0x8000;
/// Bit of a data block's size word: stored as it is.
pub const DATA_RAW: u32 = 1 << 24;
pub const SMALLEST_BLOCK: u32 = 4096;
pub const LARGEST_BLOCK: u32 = 1 << 20;
/// "No such table", "no xattrs", "no fragment".
pub const ABSENT: u64 = u64::MAX;
pub const NO_XATTR: u32 = u32::MAX;
pub const NO_FRAGMENT: u32 = u32::MAX;
/// What the format adds to the size of every directory listing.
pub const LISTING_EXTRA: u32 = 3;
/// Images end at a multiple of this, or the kernel cannot mount them from a device.
pub const PADDING: u64 = 4096;

pub mod flags {
    pub const NO_FRAGMENTS: u16 = 0x010;
    pub const DUPLICATES: u16 = 0x040;
    pub const EXPORTABLE: u16 = 0x080;
    pub const NO_XATTRS: u16 = 0x200;
    pub const OPTIONS: u16 = 0x400;
}

/// Inode types as stored; the extended form of type `n` is `n + 7`.
pub mod kind {
    pub const DIRECTORY: u16 = 1;
    pub const FILE: u16 = 2;
    pub const SYMLINK: u16 = 3;
    pub const BLOCK: u16 = 4;
    pub const CHARACTER: u16 = 5;
    pub const FIFO: u16 = 6;
    pub const SOCKET: u16 = 7;
    pub const EXTENDED: u16 = 7;
}

/// What is wrong with an image. `Corrupt` is the image's fault, `Io` the storage's.
#[derive(Debug)]
pub enum Error {
    Io(std::io::Error),
    Corrupt(&'static str),
    Truncated { has: u64, needs: u64 },
    NotFound,
    Unsupported(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => write!(f, "{error}"),
            Error::Corrupt(what) => write!(f, "the image is damaged: {what}"),
            Error::Truncated { has, needs } => {
                write!(f, "the image is truncated: it has {has} of {needs} bytes")
            }
            Error::NotFound => f.write_str("no such file in the image"),
            Error::Unsupported(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::Io(error)
    }
}

impl Error {
    /// The error as the kernel would tell a program that reads the file system.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Io(error) => error.raw_os_error().unwrap_or(libc::EIO),
            Error::NotFound => libc::ENOENT,
            Error::Unsupported(_) => libc::EOPNOTSUPP,
            Error::Corrupt(_) | Error::Truncated { .. } => libc::EIO,
        }
    }
}

/// Reads integers one after the other out of bytes that may be too short.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Error::Corrupt("a record is cut off"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Error::Corrupt("a record is cut off"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn i16(&mut self) -> Result<i16> {
        self.array().map(i16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Appends integers to a record.
pub trait Put {
    fn put_u16(&mut self, value: u16);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
}

impl Put for Vec<u8> {
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }
}

/// The first 96 bytes. Positions are absolute within the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub inodes: u32,
    pub time: u32,
    pub block_size: u32,
    pub fragments: u32,
    pub compressor: u16,
    pub flags: u16,
    pub ids: u16,
    pub root: u64,
    pub bytes_used: u64,
    pub id_table: u64,
    pub xattr_table: u64,
    pub inode_table: u64,
    pub directory_table: u64,
    pub fragment_table: u64,
    pub export_table: u64,
}

impl Superblock {
    /// Parses and checks everything that can be known without reading further.
    ///
    /// `available` is how many bytes the image may have where it lies.
    pub fn parse(bytes: &[u8], available: u64) -> Result<Superblock> {
        let mut at = Fields(bytes);
        if bytes.len() < SUPERBLOCK_SIZE {
            return Err(Error::Truncated { has: bytes.len() as u64, needs: SUPERBLOCK_SIZE as u64 });
        }
        if at.u32()? != MAGIC {
            return Err(Error::Corrupt("it does not begin with a squashfs superblock"));
        }
        let inodes = at.u32()?;
        let time = at.u32()?;
        let block_size = at.u32()?;
        let fragments = at.u32()?;
        let compressor = at.u16()?;
        let block_log = at.u16()?;
        let flags = at.u16()?;
        let ids = at.u16()?;
        let (major, minor) = (at.u16()?, at.u16()?);
        let mut next = || at.u64();
        let superblock = Superblock {
            inodes,
            time,
            block_size,
            fragments,
            compressor,
            flags,
            ids,
            root: next()?,
            bytes_used: next()?,
            id_table: next()?,
            xattr_table: next()?,
            inode_table: next()?,
            directory_table: next()?,
            fragment_table: next()?,
            export_table: next()?,
        };
        if (major, minor) != (4, 0) {
            return Err(Error::Unsupported(format!("squashfs version {major}.{minor} is not 4.0")));
        }
        if !block_size.is_power_of_two()
            || !(SMALLEST_BLOCK..=LARGEST_BLOCK).contains(&block_size)
            || block_log as u32 != block_size.trailing_zeros()
        {
            return Err(Error::Corrupt("the block size is not a power of two from 4 KiB to 1 MiB"));
        }
        superblock.check_order(available)?;
        Ok(superblock)
    }

    fn check_order(&self, available: u64) -> Result<()> {
        if self.bytes_used > available {
            return Err(Error::Truncated { has: available, needs: self.bytes_used });
        }
        if self.ids == 0 || self.inodes == 0 {
            return Err(Error::Corrupt("it has no ids or no inodes"));
        }
        if (self.root & 0xFFFF) as usize > METADATA_SIZE {
            return Err(Error::Corrupt("the root directory's position is outside its block"));
        }
        let mut previous = SUPERBLOCK_SIZE as u64;
        let fragment_table = if self.fragments == 0 { ABSENT } else { self.fragment_table };
        for position in [
            self.inode_table,
            self.directory_table,
            fragment_table,
            self.export_table,
            self.id_table,
            self.xattr_table,
        ] {
            if position == ABSENT {
                continue;
            }
            if position < previous || position >= self.bytes_used {
                return Err(Error::Corrupt("its tables are out of order"));
            }
            previous = position;
        }
        if self.inode_table >= self.directory_table || self.id_table == ABSENT {
            return Err(Error::Corrupt("its tables are out of order"));
        }
        Ok(())
    }

    pub fn serialise(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SUPERBLOCK_SIZE);
        for value in [MAGIC, self.inodes, self.time, self.block_size, self.fragments] {
            out.put_u32(value);
        }
        let block_log = self.block_size.trailing_zeros() as u16;
        for value in [self.compressor, block_log, self.flags, self.ids, 4, 0] {
            out.put_u16(value);
        }
        for value in [
            self.root,
            self.bytes_used,
            self.id_table,
            self.xattr_table,
            self.inode_table,
            self.directory_table,
            self.fragment_table,
            self.export_table,
        ] {
            out.put_u64(value);
        }
        out
    }
}

/// Device numbers as inodes hold them: the kernel's "new" 32-bit encoding.
pub fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & !0xFF) << 12
}

pub fn decode_device(device: u32) -> (u32, u32) {
    ((device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xF_FF00))
}

/// Namespaces of extended attributes, by their number.
pub const XATTR_PREFIXES: [&str; 3] = ["user.", "trusted.", "security."];
/// Bit of an xattr's type: the value is a reference to where it stands.
pub const XATTR_ELSEWHERE: u16 = 0x100;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        Superblock {
            inodes: 2,
            time: 5,
            block_size: 131072,
            fragments: 0,
            compressor: 6,
            flags: flags::EXPORTABLE,
            ids: 1,
            root: 0,
            bytes_used: 4000,
            id_table: 3000,
            xattr_table: ABSENT,
            inode_table: 96,
            directory_table: 200,
            fragment_table: ABSENT,
            export_table: ABSENT,
        }
    }

    #[test]
    fn a_superblock_is_read_as_it_was_written() {
        let bytes = sample().serialise();
        assert_eq!(bytes.len(), SUPERBLOCK_SIZE);
        assert_eq!(Superblock::parse(&bytes, 4096).unwrap(), sample());
    }

    #[test]
    fn a_truncated_image_is_told_from_a_damaged_one() {
        let bytes = sample().serialise();
        assert!(matches!(Superblock::parse(&bytes, 3999), Err(Error::Truncated { has: 3999, needs: 4000 })));
        let mut swapped = sample();
        (swapped.inode_table, swapped.directory_table) = (swapped.directory_table, swapped.inode_table);
        assert!(matches!(Superblock::parse(&swapped.serialise(), 4096), Err(Error::Corrupt(_))));
    }

    #[test]
    fn device_numbers_survive() {
        assert_eq!(encode_device(1, 300), 0x0010_012C);
        for (major, minor) in [(1, 3), (8, 300), (4095, 0xF_FFFF)] {
            assert_eq!(decode_device(encode_device(major, minor)), (major, minor));
        }
    }
}
