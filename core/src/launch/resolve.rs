//! Every path inside a container's root, resolved by the kernel or one name at a time: links of the image,
//! absolute or with `..`, lead to places inside the root only, whoever renames what meanwhile (openat2(2)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::text::Text;

/// As many links as the kernel follows in one path.
const MOST_LINKS: usize = 40;

/// What a mount point is, or has to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
}

/// Opens `path` inside `root`, following links inside it.
pub fn open(root: BorrowedFd<'_>, path: &Text, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_as(root, if path.is_empty() { b"/" } else { path.as_bytes() }, flags, ResolveFlags::IN_ROOT)
}

/// Opens one name of a directory, not following it.
pub fn open_name(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    open_as(directory, name, flags | OFlags::NOFOLLOW, ResolveFlags::empty())
}

fn open_as(at: BorrowedFd<'_>, path: &[u8], flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let how = how | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(at, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            // A rename or mount elsewhere raced with `..`; the kernel asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Where a path leads inside a root.
pub struct Location {
    /// The existing directories on the way, links resolved, each with its name; the root is not among them.
    pub existing: Vec<(Vec<u8>, OwnedFd)>,
    /// The names that do not exist; empty if the path does.
    pub missing: Vec<Vec<u8>>,
}

impl Location {
    /// Walks `path` inside `root`, one name at a time.
    pub fn find(root: BorrowedFd<'_>, path: &Text) -> Result<Location, Errno> {
        let mut existing: Vec<(Vec<u8>, OwnedFd)> = Vec::new();
        let mut pending: Vec<Vec<u8>> = names(path.as_bytes());
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                existing.pop();
                continue;
            }
            let here = existing.last().map_or(root, |(_, fd)| fd.as_fd());
            let entry = match open_name(here, &name, OFlags::PATH) {
                Err(Errno::NOENT) => {
                    pending.push(name);
                    return Ok(Location { existing, missing: lexical(pending)? });
                }
                other => other?,
            };
            match FileType::from_raw_mode(rustix::fs::fstat(&entry)?.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = rustix::fs::readlinkat(&entry, c"", Vec::new())?;
                    if target.as_bytes().starts_with(b"/") {
                        existing.clear();
                    }
                    pending.extend(names(target.as_bytes()));
                }
                FileType::Directory => existing.push((name, entry)),
                _ if pending.is_empty() => existing.push((name, entry)),
                _ => return Err(Errno::NOTDIR),
            }
        }
        Ok(Location { existing, missing: Vec::new() })
    }

    /// Every name from the root on, links resolved.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.existing.iter().map(|(name, _)| name.as_slice()).chain(self.missing.iter().map(Vec::as_slice))
    }

    pub fn exists(&self) -> bool {
        self.missing.is_empty()
    }

    /// Whether this is `other` or something below it.
    pub fn is_below(&self, other: &Location) -> bool {
        let mut mine = self.names();
        other.names().all(|name| mine.next() == Some(name))
    }

    /// The deepest existing place on the way.
    pub fn deepest<'a>(&'a self, root: BorrowedFd<'a>) -> BorrowedFd<'a> {
        self.existing.last().map_or(root, |(_, fd)| fd.as_fd())
    }
}

/// The names of a path, last one first, without empty ones and `.`.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> =
        path.split(|&b| b == b'/').filter(|n| !n.is_empty() && *n != b".").map(<[u8]>::to_vec).collect();
    names.reverse();
    names
}

/// Names below something that does not exist, so that `..` can only mean the name before.
fn lexical(mut pending: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut missing = Vec::new();
    while let Some(name) = pending.pop() {
        if name != b".." {
            missing.push(name);
        } else if missing.pop().is_none() {
            return Err(Errno::NOENT);
        }
    }
    if missing.is_empty() { Err(Errno::NOENT) } else { Ok(missing) }
}

/// Makes what `missing` names below `directory`: directories, and at the end one of `kind`.
pub fn make(directory: BorrowedFd<'_>, missing: &[Vec<u8>], kind: Kind) -> Result<OwnedFd, Errno> {
    let (last, parents) = missing.split_last().ok_or(Errno::EXIST)?;
    let mut made: Option<OwnedFd> = None;
    for name in parents {
        let here = made.as_ref().map_or(directory, AsFd::as_fd);
        made = Some(make_directory(here, name, Mode::from_raw_mode(0o755))?);
    }
    let here = made.as_ref().map_or(directory, AsFd::as_fd);
    match kind {
        Kind::Directory => make_directory(here, last, Mode::from_raw_mode(0o755)),
        Kind::File => make_file(here, last, Mode::from_raw_mode(0o644)),
    }
}

/// Makes a directory if it is not there yet, and opens it (O_PATH).
pub fn make_directory(at: BorrowedFd<'_>, name: &[u8], mode: Mode) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(at, name, mode) {
        Ok(()) | Err(Errno::EXIST) => open_name(at, name, OFlags::PATH | OFlags::DIRECTORY),
        Err(errno) => Err(errno),
    }
}

/// Makes an empty file if there is nothing yet, and opens it (O_PATH).
pub fn make_file(at: BorrowedFd<'_>, name: &[u8], mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(at, name, flags, mode) {
        Ok(_) | Err(Errno::EXIST) => open_name(at, name, OFlags::PATH),
        Err(errno) => Err(errno),
    }
}

/// Whether something open is a directory or anything else.
pub fn kind_of(fd: BorrowedFd<'_>) -> Result<(Kind, Stat), Errno> {
    let stat = rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH)?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok((if directory { Kind::Directory } else { Kind::File }, stat))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(directory.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (directory, fd)
    }

    fn place(root: &OwnedFd, path: &str) -> (String, usize) {
        let found = Location::find(root.as_fd(), &Text::from(path)).unwrap();
        let text: Vec<_> = found.names().map(|n| String::from_utf8_lossy(n).into_owned()).collect();
        (text.join("/"), found.missing.len())
    }

    #[test]
    fn links_of_the_image_lead_inside_the_root() {
        let (directory, fd) = root();
        let path = directory.path();
        fs::create_dir_all(path.join("run/systemd")).unwrap();
        fs::create_dir(path.join("etc")).unwrap();
        symlink("../../../../run/systemd/resolv.conf", path.join("etc/resolv.conf")).unwrap();
        symlink("/run", path.join("var-run")).unwrap();
        assert_eq!(place(&fd, "/etc/resolv.conf"), ("run/systemd/resolv.conf".into(), 1));
        assert_eq!(place(&fd, "var-run/systemd"), ("run/systemd".into(), 0));
        assert_eq!(place(&fd, "/../../etc/../nowhere/a/../b/c"), ("nowhere/b/c".into(), 3));
    }

    #[test]
    fn a_ring_of_links_ends() {
        let (directory, fd) = root();
        symlink("b", directory.path().join("a")).unwrap();
        symlink("a", directory.path().join("b")).unwrap();
        assert_eq!(Location::find(fd.as_fd(), &Text::from("/a")).err(), Some(Errno::LOOP));
        assert_eq!(open(fd.as_fd(), &Text::from("/a"), OFlags::PATH).err(), Some(Errno::LOOP));
    }

    #[test]
    fn what_is_missing_is_made_where_links_lead() {
        let (directory, fd) = root();
        symlink("/data/in", directory.path().join("input")).unwrap();
        let found = Location::find(fd.as_fd(), &Text::from("/input/file")).unwrap();
        make(found.deepest(fd.as_fd()), &found.missing, Kind::File).unwrap();
        assert!(directory.path().join("data/in/file").is_file());
    }
}
