//! The part of the kernel's FUSE interface (version 7.31 and later, `linux/fuse.h`) that the servers here need.
//! Integers are in the machine's byte order.

pub const VERSION: (u32, u32) = (7, 31);

pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const IOCTL: u32 = 39;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
}

/// Messages that answer no request: their number stands where an answer has its error.
pub mod notice {
    pub const STORE: i32 = 4;
}

pub mod init {
    pub const ASYNC_READ: u32 = 1 << 0;
    pub const DO_READDIRPLUS: u32 = 1 << 13;
    pub const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub const ASYNC_DIO: u32 = 1 << 15;
    pub const NO_OPEN_SUPPORT: u32 = 1 << 17;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const MAX_PAGES: u32 = 1 << 22;
    pub const CACHE_SYMLINKS: u32 = 1 << 23;
    pub const NO_OPENDIR_SUPPORT: u32 = 1 << 24;
    /// What this server makes use of, where the kernel offers it.
    pub const WANTED: u32 = ASYNC_READ
        | DO_READDIRPLUS
        | READDIRPLUS_AUTO
        | ASYNC_DIO
        | NO_OPEN_SUPPORT
        | PARALLEL_DIROPS
        | MAX_PAGES
        | CACHE_SYMLINKS
        | NO_OPENDIR_SUPPORT;
}

/// ioctl on a second descriptor of /dev/fuse: a further channel of the same session.
pub const DEVICE_CLONE: libc::c_ulong = 0x8004_E500;
/// Node number of the root, fixed by the interface.
pub const ROOT: u64 = 1;
/// The least buffer that the kernel takes for requests is 8 KiB.
pub const REQUEST_SIZE: usize = 64 * 1024;
pub const IN_HEADER: usize = 40;
pub const OUT_HEADER: usize = 16;
/// "Valid for ever", in seconds.
pub const FOREVER: u64 = u32::MAX as u64;
/// Pages of the largest read: 1 MiB.
pub const MAX_PAGES: u16 = 256;

/// A request: its header, and what follows it.
pub struct Request<'a> {
    pub opcode: u32,
    pub unique: u64,
    pub node: u64,
    /// Who asks.
    pub uid: u32,
    pub gid: u32,
    pub body: &'a [u8],
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl<'a> Request<'a> {
    pub fn parse(bytes: &'a [u8]) -> Option<Request<'a>> {
        Some(Request {
            opcode: u32_at(bytes, 4)?,
            unique: u64_at(bytes, 8)?,
            node: u64_at(bytes, 16)?,
            uid: u32_at(bytes, 24)?,
            gid: u32_at(bytes, 28)?,
            body: bytes.get(IN_HEADER..)?,
        })
    }

    pub fn u32(&self, at: usize) -> Option<u32> {
        u32_at(self.body, at)
    }

    pub fn u64(&self, at: usize) -> Option<u64> {
        u64_at(self.body, at)
    }

    /// The NUL-terminated name that begins at `at`.
    pub fn name(&self, at: usize) -> Option<&'a [u8]> {
        let rest = self.body.get(at..)?;
        Some(&rest[..rest.iter().position(|&b| b == 0)?])
    }
}
