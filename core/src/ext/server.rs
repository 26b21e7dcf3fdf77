//! The file system as a FUSE server: one thread, which commits when enough has changed, when asked (fsync), and when
//! there was nothing to do for a while. Names that are used without whiteouts and exchanges would not do as the upper
//! layer of an overlay: both are here.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::file::RESERVED;
use super::format::{ATIME, CTIME, Inode, MTIME, ROOT_INODE, Time};
use super::nodes::Birth;
use super::volume::Volume;
use super::{Error, Result, directory, refused};
use crate::fuse::Ids;
use crate::fuse::protocol::{FOREVER, MAX_PAGES, ROOT, Request, VERSION, init, opcode};
use crate::fuse::reply::Reply;

/// The largest write, and room for it.
const LARGEST_WRITE: usize = 1 << 20;
const BUFFER: usize = LARGEST_WRITE + 8192;
/// What was changed is committed after this long without a request, in seconds.
const QUIET: i64 = 3;

const MALFORMED: Error = Error { errno: libc::EIO, why: "" };

pub struct Server {
    volume: Volume,
    ids: Ids,
    /// How often the kernel was told of an inode.
    known: HashMap<u32, u64>,
    device: OwnedFd,
    reply: Reply,
}

/// Serves until the kernel has let go of the mount; what was changed is in the file then.
pub fn serve(device: OwnedFd, volume: Volume, ids: Ids) {
    let mut server = Server { volume, ids, known: HashMap::new(), device, reply: Reply::new() };
    let mut buffer = vec![0; BUFFER];
    while server.turn(&mut buffer) {}
    let _ = rustix::thread::set_name(&std::ffi::CString::new(super::lock::FINISHING).unwrap_or_default());
    let _ = server.volume.close();
}

fn number_of(node: u64) -> Result<u32> {
    if node == ROOT { Ok(ROOT_INODE) } else { u32::try_from(node).map_err(|_| MALFORMED) }
}

fn node_of(number: u32) -> u64 {
    if number == ROOT_INODE { ROOT } else { u64::from(number) }
}

/// Two names, one behind the other.
fn two_names<'a>(request: &Request<'a>, at: usize) -> Result<(&'a [u8], &'a [u8])> {
    let first = request.name(at).ok_or(MALFORMED)?;
    Ok((first, request.name(at + first.len() + 1).ok_or(MALFORMED)?))
}

impl Server {
    fn turn(&mut self, buffer: &mut [u8]) -> bool {
        if self.volume.waiting() > 0 {
            let mut entry = [PollFd::new(&self.device, PollFlags::IN)];
            let quiet = Timespec { tv_sec: QUIET, tv_nsec: 0 };
            if let Ok(0) = poll(&mut entry, Some(&quiet)) {
                // An error shows at the next fsync.
                let _ = self.volume.commit(true);
            }
        }
        let length = match rustix::io::read(&self.device, &mut *buffer) {
            Ok(length) => length,
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => return true,
            Err(_) => return false,
        };
        let Some(request) = Request::parse(&buffer[..length]) else { return false };
        match request.opcode {
            opcode::FORGET => {
                self.forget(request.node, request.u64(0).unwrap_or(0));
                return true;
            }
            opcode::BATCH_FORGET => {
                for index in 0..request.u32(0).unwrap_or(0) as usize {
                    let (Some(node), Some(count)) =
                        (request.u64(8 + index * 16), request.u64(16 + index * 16))
                    else {
                        break;
                    };
                    self.forget(node, count);
                }
                return true;
            }
            opcode::INTERRUPT => return true,
            _ => {}
        }
        self.reply.clear();
        let error = match self.answer(&request) {
            Ok(()) => 0,
            Err(error) => error.errno,
        };
        let sent = self.reply.send(self.device.as_fd() as BorrowedFd<'_>, request.unique, error);
        self.reply.shrink();
        if self.volume.waiting() > self.volume.limit() {
            let _ = self.volume.commit(false);
        }
        sent.is_ok() && request.opcode != opcode::DESTROY
    }

    fn answer(&mut self, request: &Request<'_>) -> Result<()> {
        let number = if request.opcode == opcode::INIT { 0 } else { number_of(request.node)? };
        let name = |at: usize| request.name(at).ok_or(MALFORMED);
        let word = |at: usize| request.u32(at).ok_or(MALFORMED);
        let long = |at: usize| request.u64(at).ok_or(MALFORMED);
        let birth = |mode: u32| Birth { mode, uid: request.uid, gid: request.gid };
        match request.opcode {
            opcode::INIT => self.init(word(12)?, word(8)?),
            opcode::LOOKUP => return self.lookup(number, name(0)?),
            opcode::GETATTR => {
                let inode = self.volume.inode(number)?;
                self.reply.u64(FOREVER);
                self.reply.u64(0);
                self.attributes(&inode);
            }
            opcode::SETATTR => return self.set_attributes(number, request),
            opcode::READLINK => {
                let inode = self.volume.inode(number)?;
                let target = self.volume.read_link(&inode)?;
                self.reply.bytes(&target);
            }
            opcode::SYMLINK => {
                let (name, target) = two_names(request, 0)?;
                let inode = self.volume.make_link(number, name, target, birth(libc::S_IFLNK))?;
                self.entry(&inode);
            }
            opcode::MKNOD => {
                let inode = self.volume.make_node(number, name(16)?, birth(word(0)?), word(4)?)?;
                self.entry(&inode);
            }
            opcode::MKDIR => {
                let mode = libc::S_IFDIR | word(0)? & 0o7777;
                let inode = self.volume.make_directory(number, name(8)?, birth(mode))?;
                self.entry(&inode);
            }
            opcode::LINK => {
                let inode = self.volume.name(number_of(long(0)?)?, number, name(8)?)?;
                self.entry(&inode);
            }
            opcode::UNLINK | opcode::RMDIR => {
                let known = &self.known;
                let used = |number: u32| known.contains_key(&number);
                self.volume.remove(number, name(0)?, request.opcode == opcode::RMDIR, used)?;
            }
            opcode::RENAME | opcode::RENAME2 => {
                let plain = request.opcode == opcode::RENAME;
                let to = number_of(long(0)?)?;
                let flags = if plain { 0 } else { word(8)? };
                let (old, new) = two_names(request, if plain { 8 } else { 16 })?;
                let known = &self.known;
                let used = |number: u32| known.contains_key(&number);
                self.volume.rename((number, old), (to, new), flags, (request.uid, request.gid), used)?;
            }
            opcode::READ => {
                let inode = self.volume.inode(number)?;
                let offset = long(8)?;
                let wanted = (word(16)? as usize).min(usize::from(MAX_PAGES) * 4096);
                let wanted = (wanted as u64).min(inode.size().saturating_sub(offset)) as usize;
                let read = self.volume.read(&inode, offset, self.reply.room(wanted))?;
                self.reply.truncate(read);
            }
            opcode::WRITE => {
                let (offset, size) = (long(8)?, word(16)? as usize);
                let data = request.body.get(40..40 + size).ok_or(MALFORMED)?;
                let mut inode = self.volume.inode(number)?;
                if inode.kind() != libc::S_IFREG {
                    return Err(refused(libc::EINVAL));
                }
                let written = self.volume.write(&mut inode, offset, data)?;
                self.reply.u32(written as u32);
                self.reply.u32(0);
            }
            opcode::READDIR | opcode::READDIRPLUS => {
                let plus = request.opcode == opcode::READDIRPLUS;
                return self.list(number, long(8)?, word(16)? as usize, plus);
            }
            opcode::GETXATTR => {
                let inode = self.volume.inode(number)?;
                let (wanted, size) = (name(8)?, word(0)? as usize);
                let found = self.volume.attributes(&inode)?;
                let (_, value) =
                    found.iter().find(|(name, _)| name == wanted).ok_or(refused(libc::ENODATA))?;
                return self.sized(&value.clone(), size);
            }
            opcode::LISTXATTR => {
                let inode = self.volume.inode(number)?;
                let mut names = Vec::new();
                for (name, _) in self.volume.attributes(&inode)? {
                    names.extend_from_slice(&name);
                    names.push(0);
                }
                return self.sized(&names, word(0)? as usize);
            }
            opcode::SETXATTR => return self.set_xattr(number, request),
            opcode::REMOVEXATTR => {
                let mut inode = self.volume.inode(number)?;
                let mut found = self.volume.attributes(&inode)?;
                let before = found.len();
                let wanted = name(0)?;
                found.retain(|(name, _)| name != wanted);
                if found.len() == before {
                    return Err(refused(libc::ENODATA));
                }
                self.volume.set_attributes(&mut inode, &found)?;
            }
            opcode::STATFS => self.statfs(),
            opcode::FSYNC | opcode::FSYNCDIR => self.volume.commit(true)?,
            opcode::FLUSH | opcode::RELEASE | opcode::RELEASEDIR | opcode::DESTROY => {}
            // Also open: the kernel then opens by itself and keeps what it has cached.
            _ => return Err(refused(libc::ENOSYS)),
        }
        Ok(())
    }

    fn init(&mut self, offered: u32, readahead: u32) {
        const BIG_WRITES: u32 = 1 << 5;
        let reply = &mut self.reply;
        reply.u32(VERSION.0);
        reply.u32(VERSION.1);
        reply.u32(readahead.max(1 << 20));
        reply.u32(offered & (init::WANTED | BIG_WRITES));
        reply.u16(64);
        reply.u16(48);
        reply.u32(LARGEST_WRITE as u32);
        reply.u32(1);
        reply.u16(MAX_PAGES);
        reply.zeros(64 - 30);
    }

    fn forget(&mut self, node: u64, count: u64) {
        let Ok(number) = number_of(node) else { return };
        let Some(left) = self.known.get_mut(&number) else { return };
        *left = left.saturating_sub(count);
        if *left > 0 {
            return;
        }
        self.known.remove(&number);
        if let Ok(true) = self.volume.remove_orphan(number) {
            let _ = self.volume.inode(number).and_then(|inode| self.volume.delete(inode));
        }
    }

    fn lookup(&mut self, parent: u32, name: &[u8]) -> Result<()> {
        let above = self.volume.inode(parent)?;
        if let Some(number) = self.volume.lookup(&above, name)? {
            let inode = self.volume.inode(number)?;
            self.entry(&inode);
            return Ok(());
        }
        // Node 0 with a validity: the kernel remembers that there is no such name.
        self.reply.u64(0);
        self.reply.u64(0);
        self.reply.u64(FOREVER);
        self.reply.zeros(128 - 24);
        Ok(())
    }

    /// Tells the kernel of an inode, which it then knows.
    fn entry(&mut self, inode: &Inode) {
        if inode.number != ROOT_INODE {
            *self.known.entry(inode.number).or_insert(0) += 1;
        }
        self.reply.u64(node_of(inode.number));
        self.reply.u64(u64::from(inode.generation()));
        self.reply.u64(FOREVER);
        self.reply.u64(FOREVER);
        self.reply.u64(0);
        self.attributes(inode);
    }

    fn attributes(&mut self, inode: &Inode) {
        let (uid, gid) = match self.ids {
            Ids::Stored => (inode.uid(), inode.gid()),
            Ids::All { uid, gid } => (uid, gid),
        };
        let block_size = self.volume.block_size() as u32;
        let times = [ATIME, MTIME, CTIME].map(|place| inode.time(place));
        let reply = &mut self.reply;
        reply.u64(u64::from(inode.number));
        reply.u64(inode.size());
        reply.u64(u64::from(inode.sectors()));
        for time in times {
            reply.u64(time.seconds as u64);
        }
        for time in times {
            reply.u32(time.nanoseconds);
        }
        reply.u32(inode.mode());
        reply.u32(u32::from(inode.links()));
        reply.u32(uid);
        reply.u32(gid);
        reply.u32(inode.device());
        reply.u32(block_size);
        reply.u32(0);
    }

    fn set_attributes(&mut self, number: u32, request: &Request<'_>) -> Result<()> {
        let word = |at: usize| request.u32(at).ok_or(MALFORMED);
        let long = |at: usize| request.u64(at).ok_or(MALFORMED);
        let valid = word(0)?;
        let has = |bit: u32| valid & 1 << bit != 0;
        if !self.volume.is_writable() {
            return Err(refused(libc::EROFS));
        }
        let mut inode = self.volume.inode(number)?;
        let now = Time::now();
        if has(0) {
            inode.set_mode(inode.kind() | word(68)? & 0o7777);
        }
        if has(1) {
            inode.set_uid(word(76)?);
        }
        if has(2) {
            inode.set_gid(word(80)?);
        }
        if has(3) {
            if inode.kind() != libc::S_IFREG {
                return Err(refused(libc::EINVAL));
            }
            self.volume.resize(&mut inode, long(16)?)?;
            inode.set_time(MTIME, now);
        }
        let time = |seconds: usize, nanoseconds: usize| -> Result<Time> {
            Ok(Time { seconds: long(seconds)? as i64, nanoseconds: word(nanoseconds)? })
        };
        if has(4) {
            inode.set_time(ATIME, if has(7) { now } else { time(32, 56)? });
        }
        if has(5) {
            inode.set_time(MTIME, if has(8) { now } else { time(40, 60)? });
        }
        inode.set_time(CTIME, if has(10) { time(48, 64)? } else { now });
        self.volume.put(&inode)?;
        self.reply.u64(FOREVER);
        self.reply.u64(0);
        self.attributes(&inode);
        Ok(())
    }

    fn set_xattr(&mut self, number: u32, request: &Request<'_>) -> Result<()> {
        const CREATE: u32 = 1;
        const REPLACE: u32 = 2;
        let size = request.u32(0).ok_or(MALFORMED)? as usize;
        let flags = request.u32(4).ok_or(MALFORMED)?;
        let name = request.name(8).ok_or(MALFORMED)?;
        let start = 8 + name.len() + 1;
        let value = request.body.get(start..start + size).ok_or(MALFORMED)?;
        // Access control lists are not enforced here, so none are taken.
        if ![&b"user."[..], b"trusted.", b"security."].iter().any(|prefix| name.starts_with(prefix)) {
            return Err(refused(libc::EOPNOTSUPP));
        }
        if name.len() > directory::LONGEST_NAME {
            return Err(refused(libc::ERANGE));
        }
        let mut inode = self.volume.inode(number)?;
        let mut found = self.volume.attributes(&inode)?;
        match found.iter_mut().find(|(other, _)| other == name) {
            Some(_) if flags & CREATE != 0 => return Err(refused(libc::EEXIST)),
            None if flags & REPLACE != 0 => return Err(refused(libc::ENODATA)),
            Some((_, old)) => *old = value.to_vec(),
            None => found.push((name.to_vec(), value.to_vec())),
        }
        self.volume.set_attributes(&mut inode, &found)
    }

    /// The protocol of both calls: a size of 0 asks for the length.
    fn sized(&mut self, value: &[u8], size: usize) -> Result<()> {
        if size == 0 {
            self.reply.u32(value.len() as u32);
            self.reply.u32(0);
        } else if size < value.len() {
            return Err(refused(libc::ERANGE));
        } else {
            self.reply.bytes(value);
        }
        Ok(())
    }

    fn list(&mut self, number: u32, offset: u64, size: usize, plus: bool) -> Result<()> {
        let directory = self.volume.inode(number)?;
        let mut at = offset;
        loop {
            let entries = self.volume.list(&directory, at)?;
            let Some(last) = entries.last() else { return Ok(()) };
            at = last.next;
            for entry in entries {
                let head = if plus { 128 } else { 0 };
                let length = (head + 24 + entry.name.len()).next_multiple_of(8);
                if self.reply.len() + length > size {
                    return Ok(());
                }
                let end = self.reply.len() + length;
                let mut kind = entry.kind;
                if plus {
                    let dots = entry.name == b"." || entry.name == b"..";
                    match self.volume.inode(entry.inode) {
                        Ok(inode) if !dots => {
                            kind = directory::kind_of(inode.mode());
                            self.entry(&inode);
                        }
                        // No node: these are not looked up this way.
                        _ => self.reply.zeros(head),
                    }
                }
                let shown = [
                    libc::DT_UNKNOWN,
                    libc::DT_REG,
                    libc::DT_DIR,
                    libc::DT_CHR,
                    libc::DT_BLK,
                    libc::DT_FIFO,
                    libc::DT_SOCK,
                    libc::DT_LNK,
                ];
                self.reply.u64(u64::from(entry.inode));
                self.reply.u64(entry.next);
                self.reply.u32(entry.name.len() as u32);
                self.reply.u32(u32::from(shown.get(usize::from(kind)).copied().unwrap_or(libc::DT_UNKNOWN)));
                self.reply.bytes(&entry.name);
                self.reply.zeros(end - self.reply.len());
            }
        }
    }

    fn statfs(&mut self) {
        let superblock = &self.volume.superblock;
        let (blocks, inodes, size) = (superblock.blocks, superblock.inodes, superblock.block_size as u32);
        let (free, free_inodes) = (self.volume.free_blocks(), self.volume.free_inodes());
        let reply = &mut self.reply;
        reply.u64(u64::from(blocks));
        reply.u64(u64::from(free));
        reply.u64(u64::from(free.saturating_sub(RESERVED)));
        reply.u64(u64::from(inodes));
        reply.u64(u64::from(free_inodes));
        reply.u32(size);
        reply.u32(directory::LONGEST_NAME as u32);
        reply.u32(size);
        reply.zeros(4 + 24);
    }
}
