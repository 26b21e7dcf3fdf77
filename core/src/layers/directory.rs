//! A directory of the host as a layer: a tree as it is, or the upper directory of an overlay with its marks.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path as HostPath;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::shadow::Wanted;
use super::{
    Attributes, Content, DEEPEST, Entry, Failure, MOST_ENTRIES, Marks, OPAQUE_MARK, Path, Result, Sink, What,
    XattrFate, compiled, xattr_fate,
};
use crate::launch::notes::Noted;
use crate::owner::{ATTRIBUTE, Owner, UNSAID};
use crate::squashfs::format::{encode_device, kind};
use crate::squashfs::inode::Xattrs;

const CHUNK: usize = 256 * 1024;

/// How a directory is read.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// What the marks of overlayfs are.
    pub marks: Marks,
    /// Paths that are not looked at, with everything below.
    pub exclude: &'a [Path],
    /// Patterns of paths of which only removals count: files there are as if they had not been written.
    pub without: &'a [Path],
    /// No file is younger, and compiled Python says so of its source (`compiled`).
    pub clamp: Option<u32>,
    /// Whoever wrote it had one id: a file's owner is what its record says (`owner`), else `UNSAID`.
    pub recorded: bool,
    /// The same, of a directory that is to be a layer: what was noted of links and pipes is their owner there, else `UNSAID`, while other
    /// files keep their records; and the root's owner there is whose new files are of which nothing is said.
    pub kept: Option<&'a Kept>,
}

/// What whoever wrote a directory with one id could not tell the file system of owners.
pub struct Kept {
    pub noted: Noted,
    pub maker: Owner,
}

/// Reads the tree below `path`, names in order. The content of what is not wanted now is passed over.
pub fn read(
    path: &HostPath,
    how: Reading<'_>,
    layer: u32,
    wanted: &Wanted<'_>,
    count: &Arc<AtomicU64>,
    sink: &mut dyn Sink,
) -> Result<Vec<Entry>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| unreadable(errno, path.as_os_str().as_bytes()))?;
    let mut walk = Walk {
        how,
        layer,
        wanted,
        count,
        sink,
        entries: Vec::new(),
        links: HashMap::new(),
        sets: HashMap::new(),
        left_out: 0,
        dropping: false,
        buffer: vec![0; CHUNK],
    };
    let stat = rustix::fs::fstat(&root).map_err(std::io::Error::from)?;
    let (mut attributes, _) = walk.attributes(&root, &stat, &[])?;
    if let Some(kept) = how.kept {
        (attributes.uid, attributes.gid) = (kept.maker.uid, kept.maker.gid);
    }
    walk.entries.push(Entry { path: Vec::new(), attributes, what: What::Directory });
    walk.directory(&root, Vec::new(), 0)?;
    if walk.left_out > 0 && !matches!(wanted, Wanted::Only(_)) {
        let text =
            format!("{} attributes that images cannot hold (ACLs and the like) were left out", walk.left_out);
        walk.sink.warn(text);
    }
    if let Some(latest) = how.clamp {
        for entry in &mut walk.entries {
            entry.attributes.mtime = entry.attributes.mtime.min(latest);
        }
    }
    Ok(walk.entries)
}

fn unreadable(errno: Errno, path: &[u8]) -> Failure {
    let error = std::io::Error::from(errno);
    let mut failure = Failure::from(std::io::Error::from_raw_os_error(errno.raw_os_error()));
    failure.message = format!("`{}` cannot be read: {error}", String::from_utf8_lossy(path));
    failure.at(path)
}

fn changed() -> Failure {
    Failure { code: "io", message: "the file changed while it was read".into(), path: None }
}

struct Walk<'a> {
    how: Reading<'a>,
    layer: u32,
    wanted: &'a Wanted<'a>,
    count: &'a Arc<AtomicU64>,
    sink: &'a mut dyn Sink,
    entries: Vec<Entry>,
    /// First path of every inode with several names.
    links: HashMap<(u64, u64), Path>,
    sets: HashMap<Xattrs, Arc<Xattrs>>,
    left_out: usize,
    /// Inside a directory of which only removals count.
    dropping: bool,
    buffer: Vec<u8>,
}

/// What the attributes of overlayfs say about an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    Opaque,
    Whiteout,
}

impl Walk<'_> {
    fn directory(&mut self, directory: &OwnedFd, path: Path, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(Failure::corrupt("the tree is deeper than 1000 directories").at(&path));
        }
        let mut names: Vec<CString> = Vec::new();
        for entry in Dir::read_from(directory).map_err(|errno| unreadable(errno, &path))? {
            let entry = entry.map_err(|errno| unreadable(errno, &path))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        for name in names {
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name.to_bytes());
            if self.how.exclude.contains(&below) {
                continue;
            }
            self.entry(directory, &name, below, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, directory: &OwnedFd, name: &CString, path: Path, depth: usize) -> Result<()> {
        let failed = |errno: Errno| unreadable(errno, &path);
        if self.entries.len() >= MOST_ENTRIES {
            return Err(Failure::corrupt("the directory has too many files").at(&path));
        }
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let overlay = self.how.marks != Marks::Ordinary;
        if overlay && file_type == FileType::CharacterDevice && stat.st_rdev == 0 {
            let what = self.whiteout();
            self.entries.push(Entry { path, attributes: Attributes::default(), what });
            return Ok(());
        }
        let dropped = self.dropping || self.how.without.iter().any(|pattern| matches_path(pattern, &path));
        if dropped && file_type != FileType::Directory && file_type != FileType::RegularFile {
            return Ok(());
        }
        if file_type != FileType::Directory && stat.st_nlink > 1 && !dropped {
            if let Some(target) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let what = What::HardLink { target: target.clone() };
                self.entries.push(Entry { path, attributes: Attributes::default(), what });
                return Ok(());
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        let open = |flags: OFlags| {
            openat(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(failed)
        };
        match file_type {
            FileType::Directory => {
                let inner = open(OFlags::RDONLY | OFlags::DIRECTORY)?;
                let (mut attributes, mark) = self.attributes(&inner, &stat, &path)?;
                if mark == Mark::Opaque && self.how.marks == Marks::CarriedOut {
                    // What it was before is gone, with its owner.
                    let said = |id| if id == UNSAID { 0 } else { id };
                    (attributes.uid, attributes.gid) = (said(attributes.uid), said(attributes.gid));
                    let what = What::Opaque;
                    self.entries.push(Entry { path: path.clone(), attributes: Attributes::default(), what });
                }
                self.entries.push(Entry { path: path.clone(), attributes, what: What::Directory });
                let before = self.entries.len();
                let outside = std::mem::replace(&mut self.dropping, dropped);
                self.directory(&inner, path, depth + 1)?;
                self.dropping = outside;
                if dropped && self.entries.len() == before && mark != Mark::Opaque {
                    self.entries.pop();
                }
                Ok(())
            }
            FileType::RegularFile => {
                // Should something else have taken its place, opening that must not wait or do harm.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let file = open(flags | OFlags::NOATIME).or_else(|_| open(flags))?;
                let stat = rustix::fs::fstat(&file).map_err(failed)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(changed().at(&path));
                }
                let (attributes, mark) = self.attributes(&file, &stat, &path)?;
                let what = if mark == Mark::Whiteout && stat.st_size == 0 {
                    self.whiteout()
                } else if dropped {
                    return Ok(());
                } else {
                    let size = stat.st_size as u64;
                    let number = self.entries.len() as u32;
                    let content = if self.wanted.takes(&path, number) {
                        let place = (directory, name.to_bytes());
                        Content::Written(
                            self.content(file, size, place).map_err(|failure| failure.at(&path))?,
                        )
                    } else {
                        Content::Skipped { layer: self.layer, entry: number }
                    };
                    What::File { size, content }
                };
                self.entries.push(Entry { path, attributes, what });
                Ok(())
            }
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new()).map_err(failed)?.into_bytes();
                let what = What::Symlink { target };
                self.entries.push(Entry { attributes: self.noted(directory, name, &stat), path, what });
                Ok(())
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let kind = if file_type == FileType::BlockDevice { kind::BLOCK } else { kind::CHARACTER };
                let number = encode_device(rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                self.entries.push(Entry {
                    attributes: self.plain(&stat),
                    path,
                    what: What::Device { kind, number },
                });
                Ok(())
            }
            FileType::Fifo => {
                let attributes = self.noted(directory, name, &stat);
                self.entries.push(Entry { attributes, path, what: What::Fifo });
                Ok(())
            }
            _ => {
                if !matches!(self.wanted, Wanted::Only(_)) {
                    self.sink.warn(format!("the socket `{}` was left out", String::from_utf8_lossy(&path)));
                }
                Ok(())
            }
        }
    }

    /// A removed name, as this layer is to say it.
    fn whiteout(&self) -> What {
        match self.how.marks {
            Marks::Kept => What::Device { kind: kind::CHARACTER, number: 0 },
            _ => What::Whiteout,
        }
    }

    /// Makes the header of compiled Python agree with its source, should that lie in this layer.
    fn agree(&self, directory: &OwnedFd, name: &[u8], head: &mut [u8]) {
        let (Some(latest), Some(candidates)) = (self.how.clamp, compiled::sources(name)) else { return };
        for path in candidates {
            let Ok(stat) = statat(directory, path.as_slice(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                continue;
            }
            let time = u32::try_from(stat.st_mtime.max(0)).unwrap_or(u32::MAX);
            let source = compiled::Source { time, becomes: time.min(latest), size: stat.st_size as u64 };
            compiled::agree(head, &source, || {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = openat(directory, path.as_slice(), flags, Mode::empty()).ok()?;
                let mut text = Vec::new();
                let mut limited = File::from(file).take(compiled::LARGEST_SOURCE + 1);
                limited
                    .read_to_end(&mut text)
                    .ok()
                    .filter(|count| *count as u64 <= compiled::LARGEST_SOURCE)?;
                Some(text)
            });
            return;
        }
    }

    /// Passes a file's content on, holes as holes. place: its directory and name.
    fn content(&mut self, file: OwnedFd, size: u64, place: (&OwnedFd, &[u8])) -> Result<u32> {
        self.sink.begin(size)?;
        let mut file = File::from(file);
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size),
                Err(Errno::NXIO) => size,
                // The file system cannot tell holes.
                Err(_) => at,
            };
            self.sink.hole(data - at)?;
            let end = match rustix::fs::seek(&file, SeekFrom::Hole(data)) {
                Ok(hole) if hole > data => hole.min(size),
                _ => size,
            };
            if data < size {
                rustix::fs::seek(&file, SeekFrom::Start(data)).map_err(std::io::Error::from)?;
            }
            at = data;
            while at < end {
                let want = (end - at).min(self.buffer.len() as u64) as usize;
                let count = file.read(&mut self.buffer[..want])?;
                if count == 0 {
                    return Err(changed());
                }
                if at == 0 && place.1.ends_with(b".pyc") {
                    let mut head = std::mem::take(&mut self.buffer);
                    self.agree(place.0, place.1, &mut head[..count]);
                    self.buffer = head;
                }
                self.sink.write(&self.buffer[..count])?;
                self.count.fetch_add(count as u64, Ordering::Relaxed);
                at += count as u64;
            }
        }
        self.sink.finish()
    }

    fn attributes(&mut self, file: &OwnedFd, stat: &Stat, path: &[u8]) -> Result<(Attributes, Mark)> {
        let mut mark = Mark::None;
        let mut found = Xattrs::new();
        let mut attributes = self.plain(stat);
        for name in list_xattrs(file).map_err(|errno| unreadable(errno, path))? {
            if let Some(of_overlay) = name
                .strip_prefix(b"user.overlay.")
                .or_else(|| name.strip_prefix(b"trusted.overlay."))
                .filter(|_| self.how.marks != Marks::Ordinary)
            {
                match of_overlay {
                    b"opaque" if get_xattr(file, &name).is_ok_and(|v| v == b"y") => mark = Mark::Opaque,
                    b"whiteout" => mark = Mark::Whiteout,
                    // The content is somewhere below, under a name that only the mounted overlay knows.
                    b"redirect" | b"metacopy" => {
                        let message = "the overlay kept only a reference to a lower layer here: it was mounted with \
                                       redirect_dir or metacopy";
                        return Err(Failure::corrupt(message).at(path));
                    }
                    _ => {}
                }
                continue;
            }
            match xattr_fate(&name, 0) {
                XattrFate::Kept => match get_xattr(file, &name) {
                    Ok(value) => found.push((name, value)),
                    Err(Errno::NODATA) => {}
                    Err(errno) => return Err(unreadable(errno, path)),
                },
                XattrFate::OfTheHost if self.how.recorded && name == ATTRIBUTE.to_bytes() => {
                    if let Some(owner) = get_xattr(file, &name).ok().and_then(|value| Owner::decode(&value)) {
                        (attributes.uid, attributes.gid) = (owner.uid, owner.gid);
                    }
                }
                // For whoever reads the layer.
                XattrFate::OfTheHost if self.how.marks == Marks::Kept && name == ATTRIBUTE.to_bytes() => {
                    if let Ok(value) = get_xattr(file, &name) {
                        found.push((name, value));
                    }
                }
                XattrFate::OfTheHost => {}
                XattrFate::LeftOut => self.left_out += 1,
            }
        }
        if mark == Mark::Opaque && self.how.marks == Marks::Kept {
            found.push((OPAQUE_MARK.to_vec(), b"y".to_vec()));
        }
        found.sort();
        if !found.is_empty() {
            let set = self.sets.entry(found.clone()).or_insert_with(|| Arc::new(found));
            attributes.xattrs = Some(Arc::clone(set));
        }
        Ok((attributes, mark))
    }

    /// Of a link or a pipe.
    fn noted(&self, directory: &OwnedFd, name: &CStr, stat: &Stat) -> Attributes {
        let attributes = self.plain(stat);
        match self.how.kept {
            Some(kept) => {
                let Owner { uid, gid } = kept.noted.of(directory.as_fd(), name);
                Attributes { uid, gid, ..attributes }
            }
            None => attributes,
        }
    }

    fn plain(&self, stat: &Stat) -> Attributes {
        let attributes = plain(stat);
        if self.how.recorded { Attributes { uid: UNSAID, gid: UNSAID, ..attributes } } else { attributes }
    }
}

/// Whether every component of a path matches the pattern's.
pub fn matches_path(pattern: &[u8], path: &[u8]) -> bool {
    let (mut wanted, mut found) = (pattern.split(|&b| b == b'/'), path.split(|&b| b == b'/'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some(pattern), Some(name)) if crate::launch::glob::matches(pattern, name) => {}
            _ => return false,
        }
    }
}

fn plain(stat: &Stat) -> Attributes {
    Attributes {
        mode: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: u32::try_from(stat.st_mtime.max(0)).unwrap_or(u32::MAX),
        xattrs: None,
    }
}

fn list_xattrs(file: &OwnedFd) -> std::result::Result<Vec<Vec<u8>>, Errno> {
    let mut names = vec![0; 4096];
    let count = loop {
        match rustix::fs::flistxattr(file, &mut names[..]) {
            Ok(count) => break count,
            Err(Errno::RANGE) if names.len() < 1 << 20 => names.resize(names.len() * 4, 0),
            Err(Errno::OPNOTSUPP) => break 0,
            Err(errno) => return Err(errno),
        }
    };
    Ok(names[..count].split(|&b| b == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

fn get_xattr(file: &OwnedFd, name: &[u8]) -> std::result::Result<Vec<u8>, Errno> {
    let mut value = vec![0; 65536];
    let count = rustix::fs::fgetxattr(file.as_fd(), name, &mut value[..])?;
    value.truncate(count);
    Ok(value)
}
