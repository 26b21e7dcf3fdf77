//! Files put into the root before the payload starts: what `cp -a` or `cp -rL` would do, from the host or
//! from another root, written by descriptors inside the root only.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::failure::{Context, Failure, warn};
use super::notes::Notes;
use super::resolve::{self, Kind, Location};
use super::{glob, root};
use crate::owner::{ATTRIBUTE, ATTRIBUTE_OF_LINK, LONGEST, Owner};
use crate::plan::{Copy, Plan, Root};
use crate::text::Text;

/// Directories nested deeper than this are refused: each level holds two descriptors.
const DEEPEST: usize = 400;
/// How much is read at a time where the kernel cannot copy by itself, in bytes.
const CHUNK: usize = 1 << 20;
/// The longest list of attribute names, and the longest value, in bytes (xattr(7)).
const LONGEST_ATTRIBUTE: usize = 64 << 10;

/// The roots that the plan's copies read from.
pub struct Opened<'p> {
    copies: &'p [Copy],
    roots: Vec<(Option<&'p Root>, OwnedFd)>,
}

/// Opens them, images included, while the host is all there.
pub fn open(plan: &Plan) -> Result<Opened<'_>, Failure> {
    let mut roots: Vec<(Option<&Root>, OwnedFd)> = Vec::new();
    for copy in &plan.copies {
        if roots.iter().any(|(known, _)| *known == copy.from_root.as_ref()) {
            continue;
        }
        let tree = match &copy.from_root {
            Some(other) => root::tree(other, plan)?,
            None => rustix::fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .failed("copy-source", "open")?,
        };
        roots.push((copy.from_root.as_ref(), tree));
    }
    Ok(Opened { copies: &plan.copies, roots })
}

/// Copies whose sources have been found.
pub struct Found<'p> {
    opened: Opened<'p>,
    sources: Vec<Vec<Place>>,
}

impl<'p> Opened<'p> {
    /// Finds the sources of every copy.
    pub fn find(self) -> Result<Found<'p>, Failure> {
        let mut sources = Vec::with_capacity(self.copies.len());
        for copy in self.copies {
            let root = self.root_of(copy);
            let paths = glob::expand(root, &copy.source).failed_at("copy-source", "glob", &copy.source)?;
            // What is named itself in another root is meant, not a link that happens to stand for it there.
            let follow = copy.follow || copy.from_root.is_some();
            let places: Result<Vec<Place>, Failure> = paths
                .iter()
                .map(|path| Place::find(root, path, follow).failed_at("copy-source", "openat2", path))
                .collect();
            sources.push(places?);
        }
        Ok(Found { opened: self, sources })
    }

    fn root_of(&self, copy: &Copy) -> BorrowedFd<'_> {
        let known = self.roots.iter().find(|(known, _)| *known == copy.from_root.as_ref());
        known.map_or(CWD, |(_, tree)| tree.as_fd())
    }
}

impl Found<'_> {
    /// Copies everything into `target`, the assembled root.
    pub fn carry_out(&self, target: BorrowedFd<'_>, notes: Option<&Notes>) -> Result<(), Failure> {
        for (copy, places) in self.opened.copies.iter().zip(&self.sources) {
            let mut work = Work {
                from: self.opened.root_of(copy),
                to: target,
                notes,
                follow: copy.follow,
                time: copy.time,
                owner: copy.owner,
                mode: copy.mode.map(|mode| mode & 0o7777),
                links: HashMap::new(),
                ancestors: Vec::new(),
            };
            for place in places {
                let (parent, name) = work.destination(copy, place, places.len() > 1)?;
                work.copy(place, &parent, &name)?;
            }
        }
        Ok(())
    }
}

/// Something to be copied: its path inside its root with links resolved, and a descriptor (O_PATH).
struct Place {
    /// The name it was asked for by, for a target that is a directory.
    name: Vec<u8>,
    /// The path it was asked for by, for a copy without a target.
    asked: Text,
    path: Vec<u8>,
    fd: OwnedFd,
    stat: Stat,
}

impl Place {
    fn find(root: BorrowedFd<'_>, path: &Text, follow: bool) -> Result<Place, Errno> {
        let (above, name) = split(path.as_bytes());
        let entry = if follow || name.is_empty() {
            let location = Location::find(root, path)?;
            if !location.exists() {
                return Err(Errno::NOENT);
            }
            join(location.names())
        } else {
            let location = Location::find(root, &Text::new(above))?;
            [join(location.names()).as_slice(), b"/", name].concat()
        };
        let fd = resolve::open(root, &Text::new(entry.clone()), OFlags::PATH | OFlags::NOFOLLOW)?;
        let stat = resolve::kind_of(fd.as_fd())?.1;
        // `tree/.` is what is in the tree.
        let name = if name == b"." { b"" } else { name };
        Ok(Place { name: name.to_vec(), asked: path.clone(), path: entry, fd, stat })
    }

    /// An entry of this directory.
    fn entry(&self, root: BorrowedFd<'_>, name: &[u8], follow: bool) -> Result<Place, Errno> {
        let path = [self.path.as_slice(), b"/", name].concat();
        let fd = resolve::open_name(self.fd.as_fd(), name, OFlags::PATH)?;
        let stat = resolve::kind_of(fd.as_fd())?.1;
        if follow && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return Place::find(root, &Text::new(path), true);
        }
        Ok(Place { name: name.to_vec(), asked: Text::new(path.clone()), path, fd, stat })
    }

    fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn identity(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// Opens it again, to read it.
    fn readable(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // The only magic link followed is this process's own descriptor.
        rustix::fs::open(own_descriptor(self.fd.as_fd()), flags, Mode::empty())
    }
}

fn own_descriptor(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd))
}

/// A path's directory and last name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().rposition(|&b| b != b'/').map_or(0, |last| last + 1);
    let path = &path[..end];
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn join<'n>(names: impl Iterator<Item = &'n [u8]>) -> Vec<u8> {
    names.flat_map(|name| [b"/", name].concat()).collect()
}

/// A directory of the target root.
struct Parent {
    path: Vec<u8>,
    fd: OwnedFd,
}

/// One copy under way.
struct Work<'r> {
    from: BorrowedFd<'r>,
    to: BorrowedFd<'r>,
    notes: Option<&'r Notes>,
    follow: bool,
    /// Of every copy, instead of its source's.
    time: Option<i64>,
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
    /// Where a file with several names was copied to first: (device, inode) → path in the target.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// The directories being copied, against links that lead back up.
    ancestors: Vec<(u64, u64)>,
}

impl Work<'_> {
    /// Where a source goes: a directory of the target root and a name in it.
    fn destination(&self, copy: &Copy, place: &Place, many: bool) -> Result<(Parent, Vec<u8>), Failure> {
        let own = copy.target.is_empty();
        let target = if own { &place.asked } else { &copy.target };
        let refuse = |errno| Failure::new("copy-target", "openat2", errno).at(target);
        let location = Location::find(self.to, target).map_err(refuse)?;
        let is_directory = location.exists()
            && resolve::kind_of(location.deepest(self.to)).map_err(refuse)?.0 == Kind::Directory;
        let into = !own && (is_directory || many || target.as_bytes().ends_with(b"/"));
        let mut names: Vec<Vec<u8>> = location.names().map(<[u8]>::to_vec).collect();
        let name = if into && !place.name.is_empty() { Some(place.name.clone()) } else { names.pop() };
        let Some(name) = name else {
            // The source is a whole root and the target is the root: what is in it goes there.
            return Ok((Parent { path: Vec::new(), fd: self.open(b"/").map_err(refuse)? }, Vec::new()));
        };
        let path = join(names.iter().map(Vec::as_slice));
        let mut fd = self.open(b"/").map_err(refuse)?;
        for name in &names {
            fd = resolve::make_directory(fd.as_fd(), name, Mode::from_raw_mode(0o755)).map_err(refuse)?;
        }
        Ok((Parent { path, fd }, name))
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        resolve::open(self.to, &Text::new(path), OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Copies one thing, whatever it is, to `name` in `parent`; an empty name means `parent` itself.
    fn copy(&mut self, place: &Place, parent: &Parent, name: &[u8]) -> Result<(), Failure> {
        let path = Text::new([parent.path.as_slice(), b"/", name].concat());
        let target = |errno| Failure::new("copy-target", "write", errno).at(&path);
        if !self.follow && place.stat.st_nlink > 1 && place.file_type() != FileType::Directory {
            if let Some(first) = self.links.get(&place.identity()) {
                let (above, first_name) = split(first);
                clear(parent, name).map_err(target)?;
                return self
                    .open(if above.is_empty() { b"/" } else { above })
                    .and_then(|above| {
                        rustix::fs::linkat(above, first_name, &parent.fd, name, AtFlags::empty())
                    })
                    .map_err(target);
            }
            self.links.insert(place.identity(), path.as_bytes().to_vec());
        }
        match place.file_type() {
            FileType::Directory => self.copy_directory(place, parent, name, &path),
            FileType::RegularFile => self.copy_file(place, parent, name, &path),
            FileType::Symlink => {
                clear(parent, name).map_err(target)?;
                rustix::fs::readlinkat(&place.fd, c"", Vec::new())
                    .and_then(|link| rustix::fs::symlinkat(link, &parent.fd, name))
                    .map_err(target)?;
                self.own_link(place, parent, name, &path);
                self.date(parent.fd.as_fd(), name, &place.stat);
                Ok(())
            }
            kind @ (FileType::Fifo | FileType::Socket) => {
                clear(parent, name).map_err(target)?;
                let mode = Mode::from_raw_mode(place.stat.st_mode & 0o7777);
                rustix::fs::mknodat(&parent.fd, name, kind, mode, 0).map_err(target)?;
                self.own_link(place, parent, name, &path);
                self.date(parent.fd.as_fd(), name, &place.stat);
                Ok(())
            }
            _ => {
                warn(&format!("{}: device nodes are not copied", Text::new(place.path.clone())));
                Ok(())
            }
        }
    }

    fn copy_file(&self, place: &Place, parent: &Parent, name: &[u8], path: &Text) -> Result<(), Failure> {
        let source = |errno| Failure::new("copy-source", "read", errno).at(&Text::new(place.path.clone()));
        let target = |errno| Failure::new("copy-target", "write", errno).at(path);
        let from = place.readable().map_err(source)?;
        clear(parent, name).map_err(target)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let to = rustix::fs::openat(&parent.fd, name, flags, Mode::from_raw_mode(0o600)).map_err(target)?;
        copy_data(from.as_fd(), to.as_fd()).map_err(|error| match error {
            CopyError::Read(errno) => source(errno),
            CopyError::Write(errno) => target(errno),
        })?;
        if !self.follow {
            copy_attributes(from.as_fd(), to.as_fd(), self.owner.is_none());
        }
        self.own(to.as_fd(), b"", path, &place.stat);
        rustix::fs::fchmod(&to, self.permissions(&place.stat)).map_err(target)?;
        rustix::fs::futimens(&to, &self.times(&place.stat)).map_err(target)
    }

    fn copy_directory(
        &mut self,
        place: &Place,
        parent: &Parent,
        name: &[u8],
        path: &Text,
    ) -> Result<(), Failure> {
        let source = |errno| Failure::new("copy-source", "readdir", errno).at(&Text::new(place.path.clone()));
        let target = |errno| Failure::new("copy-target", "mkdir", errno).at(path);
        if self.ancestors.contains(&place.identity()) {
            return Err(source(Errno::LOOP));
        }
        if self.ancestors.len() == DEEPEST {
            return Err(source(Errno::NAMETOOLONG));
        }
        let (directory, made) = self.open_directory(parent, name).map_err(target)?;
        let from = place.readable().map_err(source)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&from).map_err(source)? {
            let name = entry.map_err(source)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        self.ancestors.push(place.identity());
        for name in &names {
            let next = place.entry(self.from, name, self.follow).map_err(|errno| {
                let entry = Text::new([place.path.as_slice(), b"/", name].concat());
                Failure::new("copy-source", "openat2", errno).at(&entry)
            })?;
            self.copy(&next, &directory, name)?;
        }
        self.ancestors.pop();
        if made {
            if !self.follow {
                copy_attributes(from.as_fd(), directory.fd.as_fd(), self.owner.is_none());
            }
            self.own(directory.fd.as_fd(), b"", path, &place.stat);
            let own = own_descriptor(directory.fd.as_fd());
            rustix::fs::chmod(own, self.permissions(&place.stat)).map_err(target)?;
            self.date(directory.fd.as_fd(), b"", &place.stat);
        }
        Ok(())
    }

    /// Makes a directory, or takes the existing one; a link to a directory of the root is one. True if made.
    fn open_directory(&self, parent: &Parent, name: &[u8]) -> Result<(Parent, bool), Errno> {
        if name.is_empty() {
            let fd = rustix::io::fcntl_dupfd_cloexec(&parent.fd, 3)?;
            return Ok((Parent { path: parent.path.clone(), fd }, false));
        }
        let path = [parent.path.as_slice(), b"/", name].concat();
        // Writable until everything is in it.
        match rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                let fd = resolve::make_directory(parent.fd.as_fd(), name, Mode::from_raw_mode(0o700))?;
                Ok((Parent { path, fd }, true))
            }
            Err(Errno::EXIST) => {
                let location = Location::find(self.to, &Text::new(path))?;
                let path = join(location.names());
                let fd = self.open(&path)?;
                Ok((Parent { path, fd }, false))
            }
            Err(errno) => Err(errno),
        }
    }

    /// Ownership as far as the identity allows it; `cp -rL` leaves it. path: in the target.
    fn own(&self, at: BorrowedFd<'_>, name: &[u8], path: &Text, stat: &Stat) {
        if self.follow && self.owner.is_none() {
            return;
        }
        let (uid, gid) = self.owner.unwrap_or((stat.st_uid, stat.st_gid));
        let owner = (Uid::from_raw(uid), Gid::from_raw(gid));
        let done = rustix::fs::chownat(at, name, Some(owner.0), Some(owner.1), of_entry(name));
        // Root of a single id cannot: it is written down beside the file, elsewhere for links. So is that it is root's, which else
        // means whoever owned what it takes the place of.
        if self.owner.is_some() && (done.is_err() || self.notes.is_some()) {
            let owner = Owner { uid, gid };
            if name.is_empty() {
                let flags = rustix::fs::XattrFlags::empty();
                let _ = rustix::fs::setxattr(own_descriptor(at), ATTRIBUTE, &owner.encode(), flags);
            } else if let Some(notes) = self.notes {
                let _ = notes.note(path.as_bytes(), owner);
            }
        }
    }

    /// The same for a link or a pipe, whose owner in its source may be written down there.
    fn own_link(&self, place: &Place, parent: &Parent, name: &[u8], path: &Text) {
        self.own(parent.fd.as_fd(), name, path, &place.stat);
        let (Some(notes), None) = (self.notes, self.owner) else { return };
        let mut value = [0; LONGEST];
        let found = rustix::fs::getxattr(own_descriptor(place.fd.as_fd()), ATTRIBUTE_OF_LINK, &mut value[..]);
        if let Some(owner) = found.ok().and_then(|length| Owner::decode(value.get(..length)?)) {
            let _ = notes.note(path.as_bytes(), owner);
        }
    }

    fn permissions(&self, stat: &Stat) -> Mode {
        Mode::from_raw_mode(self.mode.unwrap_or(stat.st_mode & 0o7777))
    }

    /// The time of the last change.
    fn date(&self, at: BorrowedFd<'_>, name: &[u8], stat: &Stat) {
        let _ = rustix::fs::utimensat(at, name, &self.times(stat), of_entry(name));
    }

    fn times(&self, stat: &Stat) -> Timestamps {
        let last = match self.time {
            Some(time) => Timespec { tv_sec: time, tv_nsec: 0 },
            None => Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
        };
        Timestamps { last_access: last, last_modification: last }
    }
}

/// For calls on an entry itself, or on the descriptor where the name is empty.
fn of_entry(name: &[u8]) -> AtFlags {
    if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW }
}

/// Takes away what is not a directory under a name that is about to be made.
fn clear(parent: &Parent, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

enum CopyError {
    Read(Errno),
    Write(Errno),
}

/// Copies a file's data, leaving holes where the source has them.
fn copy_data(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), CopyError> {
    let size = rustix::fs::fstat(from).map_err(CopyError::Read)?.st_size.unsigned_abs();
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break, // a hole up to the end
            Err(_) => at,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        copy_range(from, to, start, end, &mut buffer)?;
        at = end.max(start + 1);
    }
    rustix::fs::ftruncate(to, size).map_err(CopyError::Write)
}

fn copy_range(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    mut at: u64,
    end: u64,
    buffer: &mut Vec<u8>,
) -> Result<(), CopyError> {
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
        let (mut read_at, mut write_at) = (at, at);
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), wanted) {
            Ok(0) => return Ok(()), // shorter than it was
            Ok(count) => at += count as u64,
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => break,
            Err(errno) => return Err(CopyError::Write(errno)),
        }
    }
    buffer.resize(CHUNK, 0);
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let count = match rustix::io::pread(from, &mut buffer[..wanted], at) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(CopyError::Read(errno)),
        };
        let mut written = 0;
        while written < count {
            written += rustix::io::pwrite(to, &buffer[written..count], at + written as u64)
                .map_err(CopyError::Write)?;
        }
        at += count as u64;
    }
    Ok(())
}

/// Extended attributes, as far as they can be set here: file capabilities, ACLs, the user's own. owner: the one that is written down, too.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, owner: bool) {
    // Directories are open for their path only; through /proc both kinds take attributes.
    let (from, to) = (own_descriptor(from), own_descriptor(to));
    let mut list = vec![0; LONGEST_ATTRIBUTE];
    let Ok(length) = rustix::fs::listxattr(&from, &mut list[..]) else { return };
    if length == 0 {
        return;
    }
    let mut value = vec![0; LONGEST_ATTRIBUTE];
    for name in list[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        if !owner && name == ATTRIBUTE.to_bytes() {
            continue;
        }
        if let Ok(length) = rustix::fs::getxattr(&from, name, &mut value[..]) {
            let _ = rustix::fs::setxattr(&to, name, &value[..length], rustix::fs::XattrFlags::empty());
        }
    }
}
