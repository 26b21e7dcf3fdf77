//! The server: requests of the kernel in, answers out of the image, on as many threads as there are processors.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Ids;
use super::ahead::{Afterwards, Ahead, node_of};
use super::protocol::{DEVICE_CLONE, FOREVER, MAX_PAGES, OUT_HEADER, REQUEST_SIZE, ROOT, Request, opcode};
use super::reply::Reply;
use super::skeletons::{self, Skeletons};
use crate::squashfs::directory::Entry;
use crate::squashfs::format::{Error, kind};
use crate::squashfs::inode::{Data, Inode, Xattrs};
use crate::squashfs::reader::Image;

/// More threads than this do not help one image's readers.
const MOST_THREADS: usize = 8;
/// One answers while another waits for the kernel to take something unasked.
const LEAST_THREADS: usize = 2;
const STACK_SIZE: usize = 256 * 1024;
/// Block size of statfs(2) and of st_blocks.
const SECTOR: u64 = 512;

struct Server {
    image: Arc<Image>,
    ids: Ids,
    ahead: Ahead,
    /// With these the image is a directory of the mount, and they are others.
    skeletons: Option<Arc<Skeletons>>,
    /// How often it was asked what only a device could answer, is this a terminal above all.
    questions: Arc<AtomicU32>,
}

/// Serves an image until the kernel has let go of the mount.
pub fn serve(device: OwnedFd, image: Image, ids: Ids) {
    let (image, questions) = (Arc::new(image), Arc::default());
    work(device, Server { image, ids, ahead: Ahead::default(), skeletons: None, questions });
}

/// The same, with trees of mount points beside the image. questions: counts what was asked that only a device could answer.
pub fn serve_with(
    device: OwnedFd,
    image: Arc<Image>,
    ids: Ids,
    skeletons: Arc<Skeletons>,
    questions: Arc<AtomicU32>,
) {
    work(device, Server { image, ids, ahead: Ahead::default(), skeletons: Some(skeletons), questions });
}

fn work(device: OwnedFd, server: Server) {
    let server = Arc::new(server);
    let mut worker = Worker { server: Arc::clone(&server), device, reply: Reply::new(), afterwards: None };
    let mut buffer = vec![0; REQUEST_SIZE];
    // The first request is INIT; only after it may other channels be opened.
    if !worker.turn(&mut buffer) {
        return;
    }
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).clamp(LEAST_THREADS, MOST_THREADS);
    let started = (1..threads).take_while(|_| start_another(&worker)).count();
    // Alone it could wait for a page that only itself can give.
    server.ahead.allow(started > 0);
    while worker.turn(&mut buffer) {}
}

/// Starts one more thread that answers on a channel of its own; false where there can be none.
fn start_another(first: &Worker) -> bool {
    let Ok(device) = first.another_channel() else { return false };
    let server = Arc::clone(&first.server);
    let mut worker = Worker { server, device, reply: Reply::new(), afterwards: None };
    let work = move || {
        let mut buffer = vec![0; REQUEST_SIZE];
        while worker.turn(&mut buffer) {}
    };
    std::thread::Builder::new().stack_size(STACK_SIZE).spawn(work).is_ok()
}

/// An answer that could not be given, as the number that the caller of the file system sees.
struct Refusal(i32);

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal(error.errno())
    }
}

struct Worker {
    server: Arc<Server>,
    device: OwnedFd,
    reply: Reply,
    /// What is to be done when the request in hand has been answered.
    afterwards: Option<Afterwards>,
}

impl Worker {
    /// A channel of its own for another thread, else a share of this one.
    fn another_channel(&self) -> Result<OwnedFd, Errno> {
        let Ok(device) = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) else {
            return rustix::io::fcntl_dupfd_cloexec(&self.device, 0);
        };
        let session = self.device.as_raw_fd() as u32;
        // SAFETY: the ioctl reads one 32-bit number, the descriptor of the session.
        let done = unsafe { libc::ioctl(device.as_raw_fd(), DEVICE_CLONE, &raw const session) };
        if done == 0 { Ok(device) } else { rustix::io::fcntl_dupfd_cloexec(&self.device, 0) }
    }

    /// Answers one request. False: the mount is gone.
    fn turn(&mut self, buffer: &mut [u8]) -> bool {
        let length = match rustix::io::read(&self.device, &mut *buffer) {
            Ok(length) => length,
            // Interrupted, or the request was withdrawn before it was read.
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => return true,
            Err(_) => return false,
        };
        let Some(request) = Request::parse(&buffer[..length]) else { return false };
        if matches!(request.opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT) {
            return true;
        }
        self.reply.clear();
        let error = match self.answer(&request) {
            Ok(()) => 0,
            Err(Refusal(errno)) => errno,
        };
        let sent = self.reply.send(self.device.as_fd() as BorrowedFd<'_>, request.unique, error);
        if let Some(work) = self.afterwards.take() {
            self.server.ahead.after(self.device.as_fd(), &self.server.image, work);
        }
        self.reply.shrink();
        sent.is_ok() && request.opcode != opcode::DESTROY
    }

    fn answer(&mut self, request: &Request<'_>) -> Result<(), Refusal> {
        const MALFORMED: Refusal = Refusal(libc::EIO);
        match request.opcode {
            opcode::INIT => {
                let offered = request.u32(12).ok_or(MALFORMED)?;
                let readahead = request.u32(8).ok_or(MALFORMED)?;
                self.reply.init(offered, readahead);
                Ok(())
            }
            opcode::LOOKUP => self.lookup(request.node, request.name(0).ok_or(MALFORMED)?),
            opcode::GETATTR => {
                let inode = self.inode(request.node)?;
                self.reply.u64(FOREVER);
                self.reply.u64(0);
                self.attributes(&inode)
            }
            opcode::READLINK => match self.inode(request.node)?.data {
                Data::Symlink { target } => {
                    self.reply.bytes(&target);
                    Ok(())
                }
                _ => Err(Refusal(libc::EINVAL)),
            },
            opcode::READ => {
                let offset = request.u64(8).ok_or(MALFORMED)?;
                let size = request.u32(16).ok_or(MALFORMED)?;
                self.read(request.node, offset, size)
            }
            opcode::READDIR | opcode::READDIRPLUS => {
                let offset = request.u64(8).ok_or(MALFORMED)?;
                let size = request.u32(16).ok_or(MALFORMED)?;
                self.list(request.node, offset, size as usize, request.opcode == opcode::READDIRPLUS)
            }
            // "Not implemented" ends the asking for good: overlays ask for every file of an image whether it has some.
            opcode::GETXATTR | opcode::LISTXATTR if !self.server.image.has_xattrs() => {
                Err(Refusal(libc::ENOSYS))
            }
            opcode::GETXATTR => {
                let size = request.u32(0).ok_or(MALFORMED)?;
                self.xattr(request.node, request.name(8).ok_or(MALFORMED)?, size as usize)
            }
            opcode::LISTXATTR => self.xattr_names(request.node, request.u32(0).ok_or(MALFORMED)? as usize),
            opcode::STATFS => {
                self.statfs();
                Ok(())
            }
            opcode::RELEASE | opcode::RELEASEDIR | opcode::DESTROY => Ok(()),
            opcode::IOCTL => {
                self.server.questions.fetch_add(1, Ordering::Relaxed);
                Err(Refusal(libc::ENOSYS))
            }
            // "Not implemented" tells the kernel to open and close by itself and to keep what it has cached.
            opcode::OPEN | opcode::OPENDIR | opcode::FLUSH => Err(Refusal(libc::ENOSYS)),
            _ => Err(Refusal(libc::ENOSYS)),
        }
    }

    fn inode(&self, node: u64) -> Result<Inode, Refusal> {
        let Server { image, skeletons, .. } = self.server.as_ref();
        Ok(match skeletons {
            Some(skeletons) if node == ROOT => skeletons.top().ok_or(Error::NotFound)?,
            Some(skeletons) if skeletons::has(node) => skeletons.inode(node).ok_or(Error::NotFound)?,
            _ if node == ROOT => image.root()?,
            _ => image.inode(node - 2)?,
        })
    }

    /// The trees that an inode is of, if it is not the image's.
    fn beside(&self, inode: &Inode) -> Option<Arc<Skeletons>> {
        self.server.skeletons.clone().filter(|_| skeletons::has(node_of(inode)))
    }

    fn lookup(&mut self, node: u64, name: &[u8]) -> Result<(), Refusal> {
        let directory = self.inode(node)?;
        let found = match self.beside(&directory) {
            Some(skeletons) => skeletons.lookup(&directory, name).ok_or(Error::NotFound),
            None => self.server.image.lookup(&directory, name),
        };
        match found {
            Ok(inode) => self.entry(&inode),
            Err(Error::NotFound) => {
                self.reply.no_entry();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn entry(&mut self, inode: &Inode) -> Result<(), Refusal> {
        self.reply.u64(node_of(inode));
        self.reply.u64(0); // generation
        self.reply.u64(FOREVER);
        self.reply.u64(FOREVER);
        self.reply.u64(0); // nanoseconds of both
        self.attributes(inode)
    }

    fn attributes(&mut self, inode: &Inode) -> Result<(), Refusal> {
        let (stored, device) = match &inode.data {
            Data::File { sparse, .. } => (inode.size.saturating_sub(*sparse), 0),
            Data::Device { number } => (0, *number),
            _ => (inode.size, 0),
        };
        let (uid, gid) = match self.server.ids {
            Ids::Stored => (inode.uid, inode.gid),
            Ids::All { uid, gid } => (uid, gid),
        };
        let time = u64::from(inode.mtime);
        let reply = &mut self.reply;
        reply.u64(u64::from(inode.number));
        reply.u64(inode.size);
        reply.u64(stored.div_ceil(SECTOR));
        for _ in 0..3 {
            reply.u64(time);
        }
        for _ in 0..3 {
            reply.u32(0);
        }
        reply.u32(inode.full_mode());
        reply.u32(inode.links.max(1));
        reply.u32(uid);
        reply.u32(gid);
        reply.u32(device);
        reply.u32(self.server.image.superblock.block_size);
        reply.u32(0);
        Ok(())
    }

    fn read(&mut self, node: u64, offset: u64, size: u32) -> Result<(), Refusal> {
        let inode = self.inode(node)?;
        let size = (size as usize).min(usize::from(MAX_PAGES) * 4096);
        if self.beside(&inode).is_some() {
            return Ok(());
        }
        let wanted = inode.size.saturating_sub(offset).min(size as u64) as usize;
        let mut rest = None;
        let room = self.reply.room(wanted);
        let read = self.server.image.read_noting(&inode, offset, room, &mut |found| rest = Some(found))?;
        self.reply.truncate(read);
        if let Some(rest) = rest {
            self.afterwards = self.server.ahead.before(self.device.as_fd(), &inode, rest);
        }
        Ok(())
    }

    fn list(&mut self, node: u64, offset: u64, size: usize, plus: bool) -> Result<(), Refusal> {
        let server = Arc::clone(&self.server);
        let directory = self.inode(node)?;
        if let Some(skeletons) = self.beside(&directory) {
            for (at, (name, inode)) in (offset + 1..).zip(skeletons.list(&directory, offset as usize)) {
                let shown = Some(&inode).filter(|_| plus);
                if !self.put_entry(size, plus, shown, &name, inode.kind, inode.number, at)? {
                    break;
                }
            }
            return Ok(());
        }
        let Data::Directory { parent, .. } = directory.data else { return Err(Refusal(libc::ENOTDIR)) };
        // Cookies 1 and 2 stand behind "." and ".."; those of the listing are 3 higher.
        for (at, name, number) in [(0, &b"."[..], directory.number), (1, b"..", parent)] {
            if offset <= at && !self.put_entry(size, plus, None, name, kind::DIRECTORY, number, at + 1)? {
                return Ok(());
            }
        }
        let mut listing = server.image.list(&directory, offset.saturating_sub(3))?;
        while let Some(entry) = listing.next_entry()? {
            let inode = if plus { Some(server.image.inode_of(&entry)?) } else { None };
            let Entry { name, kind, number, cookie, .. } = &entry;
            if !self.put_entry(size, plus, inode.as_ref(), name, *kind, *number, cookie + 3)? {
                break;
            }
            if let Some(inode) = &inode {
                server.ahead.note(&server.image, inode);
            }
        }
        listing.remember(&server.image, &directory);
        Ok(())
    }

    /// Adds a directory entry; false if it does not fit any more.
    #[allow(clippy::too_many_arguments, reason = "the record has that many fields")]
    fn put_entry(
        &mut self,
        size: usize,
        plus: bool,
        inode: Option<&Inode>,
        name: &[u8],
        kind: u16,
        number: u32,
        cookie: u64,
    ) -> Result<bool, Refusal> {
        let head = if plus { 128 } else { 0 };
        let length = (head + 24 + name.len()).next_multiple_of(8);
        if self.reply.len() + length > size {
            return Ok(false);
        }
        let end = self.reply.len() + length;
        match inode {
            Some(inode) => self.entry(inode)?,
            // No node: "." and ".." are not looked up this way.
            None => self.reply.zeros(head),
        }
        let kind = match kind {
            kind::DIRECTORY => libc::DT_DIR,
            kind::FILE => libc::DT_REG,
            kind::SYMLINK => libc::DT_LNK,
            kind::BLOCK => libc::DT_BLK,
            kind::CHARACTER => libc::DT_CHR,
            kind::FIFO => libc::DT_FIFO,
            _ => libc::DT_SOCK,
        };
        self.reply.u64(u64::from(number));
        self.reply.u64(cookie);
        self.reply.u32(name.len() as u32);
        self.reply.u32(u32::from(kind));
        self.reply.bytes(name);
        self.reply.zeros(end - self.reply.len());
        Ok(true)
    }

    /// Attributes as users may see them: `trusted.` is for the administrator of the host.
    fn visible_xattrs(&self, node: u64) -> Result<Xattrs, Refusal> {
        let inode = self.inode(node)?;
        if self.beside(&inode).is_some() {
            return Ok(Xattrs::new());
        }
        let mut found = self.server.image.xattrs(&inode)?;
        found.retain(|(name, _)| !name.starts_with(b"trusted."));
        Ok(found)
    }

    fn xattr(&mut self, node: u64, name: &[u8], size: usize) -> Result<(), Refusal> {
        let found = self.visible_xattrs(node)?;
        let (_, value) = found.iter().find(|(n, _)| n == name).ok_or(Refusal(libc::ENODATA))?;
        self.sized(value, size)
    }

    fn xattr_names(&mut self, node: u64, size: usize) -> Result<(), Refusal> {
        let mut names = Vec::new();
        for (name, _) in self.visible_xattrs(node)? {
            names.extend_from_slice(&name);
            names.push(0);
        }
        self.sized(&names, size)
    }

    /// The protocol of both calls: a size of 0 asks for the length.
    fn sized(&mut self, value: &[u8], size: usize) -> Result<(), Refusal> {
        if size == 0 {
            self.reply.u32(value.len() as u32);
            self.reply.u32(0);
        } else if size < value.len() {
            return Err(Refusal(libc::ERANGE));
        } else {
            self.reply.bytes(value);
        }
        Ok(())
    }

    fn statfs(&mut self) {
        let superblock = &self.server.image.superblock;
        let block = u64::from(superblock.block_size);
        let reply = &mut self.reply;
        reply.u64(superblock.bytes_used.div_ceil(block));
        reply.u64(0);
        reply.u64(0);
        reply.u64(u64::from(superblock.inodes));
        reply.u64(0);
        reply.u32(superblock.block_size);
        reply.u32(255); // longest name
        reply.u32(superblock.block_size);
        reply.zeros(4 + 24);
    }
}

const _: () = assert!(OUT_HEADER == 16);
