//! The verb `unsquash`: an image into a directory, for sandboxes and for machines that cannot mount it.
//!
//! Everything is written relative to descriptors of directories made here, by single names that are never followed,
//! so no name of a hostile image leads out. What the user may not set (owners, devices) is counted and told.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fsetxattr, futimens, linkat, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::{Map, json};

use crate::launch::identity;
use crate::layers::{Failure, Result};
use crate::plan::{Identity, Seen};
use crate::request::{self, Asking, Events};
use crate::source;
use crate::squashfs::format::{decode_device, kind};
use crate::squashfs::inode::{Data, Inode};
use crate::squashfs::reader::Image;
use crate::text::Text;

const DEEPEST: usize = 1000;
const CHUNK: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    image: ImageRecord,
    target: Text,
    #[serde(default)]
    identity: Option<Identity>,
    events: RawFd,
}

impl Asking for Request {
    fn events(&self) -> RawFd {
        self.events
    }
}

#[derive(Deserialize)]
struct ImageRecord {
    path: Text,
    offset: u64,
    size: u64,
    #[serde(default)]
    seen: Seen,
}

/// Runs the verb; the exit status. What was made is removed again if it fails.
pub fn run(fd: RawFd) -> i32 {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    request::answer(fd, |request: Request, events| match unsquash(&request, events) {
        Ok(()) => Ok(Map::new()),
        Err(failure) => {
            let _ = crate::launch::remove::remove(&request.target);
            Err(failure)
        }
    })
}

fn unsquash(request: &Request, events: &Events) -> Result<()> {
    let named = |error: std::io::Error| Failure::from(error).at(request.image.path.as_bytes());
    let (file, _) = source::file(&request.image.path, request.image.seen, false).map_err(named)?;
    let image = Image::open(Arc::new(file), request.image.offset, request.image.size)?;
    if let Some(identity) = &request.identity {
        let explain = |failure: crate::launch::failure::Failure| Failure {
            code: "userns",
            message: failure.message(),
            path: None,
        };
        identity::enter(identity).map_err(explain)?;
    }
    rustix::process::umask(Mode::empty());
    let failed = |errno: Errno| Failure::from(std::io::Error::from(errno)).at(request.target.as_bytes());
    match mkdirat(CWD, request.target.as_path(), Mode::RWXU) {
        // The caller's, who holds a lock on it.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(CWD, request.target.as_path(), flags, Mode::empty()).map_err(failed)?;
    let mut work = Work {
        image: &image,
        root: &target,
        owners: rustix::process::geteuid().is_root(),
        seen: HashMap::new(),
        buffer: vec![0; CHUNK],
        left_out: LeftOut::default(),
        events,
        told: Instant::now(),
        bytes: 0,
    };
    let root = image.root()?;
    work.fill(&target, &root, &mut Vec::new(), 0)?;
    work.finish_directory(&target, &root)?;
    let LeftOut { devices, owners, attributes } = work.left_out;
    for (count, what) in [(devices, "device files"), (owners, "owners"), (attributes, "extended attributes")]
    {
        if count > 0 {
            let message = format!("{count} {what} could not be set by this user and were left out");
            events.send(&json!({"event": "warning", "message": message}));
        }
    }
    Ok(())
}

#[derive(Default)]
struct LeftOut {
    devices: usize,
    owners: usize,
    attributes: usize,
}

struct Work<'a> {
    image: &'a Image,
    root: &'a OwnedFd,
    /// Whether owners are worth trying.
    owners: bool,
    /// First path of every file with several names.
    seen: HashMap<u64, Vec<u8>>,
    buffer: Vec<u8>,
    left_out: LeftOut,
    events: &'a Events,
    told: Instant,
    bytes: u64,
}

impl Work<'_> {
    fn fill(&mut self, directory: &OwnedFd, inode: &Inode, path: &mut Vec<u8>, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(Failure::corrupt("the image's tree is deeper than 1000 directories").at(path));
        }
        let image = self.image;
        let mut listing = image.list(inode, 0)?;
        while let Some(entry) = listing.next_entry()? {
            let child = image.inode_of(&entry)?;
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            let made = self.entry(directory, &entry.name, &child, path, depth);
            made.map_err(|failure| failure.at(path))?;
            path.truncate(length);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        inode: &Inode,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<()> {
        if inode.is_directory() {
            mkdirat(directory, name, Mode::RWXU).map_err(std::io::Error::from)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = openat(directory, name, flags, Mode::empty()).map_err(std::io::Error::from)?;
            self.fill(&inner, inode, path, depth + 1)?;
            return self.finish_directory(&inner, inode);
        }
        if inode.links > 1 {
            if let Some(first) = self.seen.get(&inode.reference) {
                // Every part of the path was made here, and none is a link.
                linkat(self.root, first.as_slice(), directory, name, AtFlags::empty())
                    .map_err(std::io::Error::from)?;
                return Ok(());
            }
            self.seen.insert(inode.reference, path.clone());
        }
        match &inode.data {
            Data::File { .. } => self.file(directory, name, inode),
            Data::Symlink { target } => {
                symlinkat(target.as_slice(), directory, name).map_err(std::io::Error::from)?;
                self.finish_other(directory.as_fd(), name, inode)
            }
            Data::Device { number } => {
                let (major, minor) = decode_device(*number);
                let file_type =
                    if inode.kind == kind::BLOCK { FileType::BlockDevice } else { FileType::CharacterDevice };
                let device = rustix::fs::makedev(major, minor);
                match mknodat(directory, name, file_type, mode_of(inode), device) {
                    Ok(()) => self.finish_other(directory.as_fd(), name, inode),
                    Err(_) => {
                        self.left_out.devices += 1;
                        self.seen.remove(&inode.reference);
                        Ok(())
                    }
                }
            }
            Data::Other if inode.kind == kind::FIFO => {
                mknodat(directory, name, FileType::Fifo, mode_of(inode), 0).map_err(std::io::Error::from)?;
                self.finish_other(directory.as_fd(), name, inode)
            }
            _ => Ok(()),
        }
    }

    fn file(&mut self, directory: &OwnedFd, name: &[u8], inode: &Inode) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(directory, name, flags, Mode::RUSR | Mode::WUSR).map_err(std::io::Error::from)?;
        let file = File::from(fd);
        let mut at = 0;
        while at < inode.size {
            let count = self.image.read_file(inode, at, &mut self.buffer)?;
            if count == 0 {
                return Err(Failure::corrupt("a file of the image is shorter than its size"));
            }
            let part = &self.buffer[..count];
            // Holes stay holes.
            if part.iter().any(|&b| b != 0) {
                file.write_all_at(part, at)?;
            }
            at += count as u64;
        }
        file.set_len(inode.size)?;
        self.tell(inode.size);
        self.owner(file.as_fd(), c"".to_bytes(), inode);
        fchmod(&file, mode_of(inode)).map_err(std::io::Error::from)?;
        self.xattrs(file.as_fd(), inode)?;
        futimens(&file, &times(inode)).map_err(std::io::Error::from)?;
        Ok(())
    }

    fn finish_directory(&mut self, directory: &OwnedFd, inode: &Inode) -> Result<()> {
        self.owner(directory.as_fd(), b"", inode);
        self.xattrs(directory.as_fd(), inode)?;
        fchmod(directory, mode_of(inode)).map_err(std::io::Error::from)?;
        futimens(directory, &times(inode)).map_err(std::io::Error::from)?;
        Ok(())
    }

    /// What can only be named, not opened.
    fn finish_other(&mut self, directory: BorrowedFd<'_>, name: &[u8], inode: &Inode) -> Result<()> {
        self.owner(directory, name, inode);
        let _ = utimensat(directory, name, &times(inode), AtFlags::SYMLINK_NOFOLLOW);
        Ok(())
    }

    fn owner(&mut self, at: BorrowedFd<'_>, name: &[u8], inode: &Inode) {
        if !self.owners {
            return;
        }
        let (uid, gid) = (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        if chownat(at, name, Some(uid), Some(gid), flags).is_err() {
            self.left_out.owners += 1;
        }
    }

    fn xattrs(&mut self, file: BorrowedFd<'_>, inode: &Inode) -> Result<()> {
        for (name, value) in self.image.xattrs(inode)? {
            if fsetxattr(file, name.as_slice(), &value, XattrFlags::empty()).is_err() {
                self.left_out.attributes += 1;
            }
        }
        Ok(())
    }

    fn tell(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.told.elapsed() > Duration::from_millis(100) {
            self.told = Instant::now();
            self.events.send(&json!({"event": "progress", "written": self.bytes}));
        }
    }
}

fn mode_of(inode: &Inode) -> Mode {
    Mode::from_raw_mode(inode.mode.into())
}

fn times(inode: &Inode) -> Timestamps {
    let time = Timespec { tv_sec: i64::from(inode.mtime), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
