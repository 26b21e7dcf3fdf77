//! The verb `remove`: takes away a directory tree that may belong to mapped ids, whatever is in it.
//!
//! Links are removed, not followed; another file system mounted in the tree is not entered; directories
//! that forbid it are made accessible first. Depth costs no memory: what lies too deep is moved up first.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::Map;

use super::failure::{Context, Failure};
use super::identity;
use crate::plan::Identity;
use crate::request::{self, Asking};
use crate::text::Text;

/// Directories held open at once, one in another.
const DEEPEST: usize = 128;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    path: Text,
    #[serde(default)]
    identity: Option<Identity>,
    events: RawFd,
}

impl Asking for Request {
    fn events(&self) -> RawFd {
        self.events
    }
}

/// The verb; returns the exit status.
pub fn run(fd: RawFd) -> i32 {
    request::answer(fd, |request: Request, _| {
        let entered = request.identity.as_ref().map_or(Ok(()), identity::enter);
        entered.and_then(|()| remove(&request.path)).map(|()| Map::new())
    })
}

/// Removes what is at `path`; nothing there is success.
pub fn remove(path: &Text) -> Result<(), Failure> {
    let failed = |errno| Failure::new("io", "unlink", errno).at(path);
    match rustix::fs::unlinkat(CWD, path.as_os_str(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let top = open(CWD, path.as_bytes(), ResolveFlags::empty()).map_err(failed)?;
    empty(&top).failed_at("io", "unlink", path)?;
    rustix::fs::unlinkat(CWD, path.as_os_str(), AtFlags::REMOVEDIR).map_err(failed)
}

/// Opens a directory to list and change it, giving its owner the right to where that lacks.
fn open(at: BorrowedFd<'_>, name: &[u8], how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat2(at, name, flags | OFlags::PATH, Mode::empty(), how)?;
    let stat = rustix::fs::fstat(&place)?;
    if stat.st_mode & 0o700 != 0o700 {
        let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&place));
        // Where it is refused, the removal itself will tell.
        let _ = rustix::fs::chmod(own, Mode::from_raw_mode(0o700));
    }
    rustix::fs::openat(&place, c".", flags | OFlags::RDONLY, Mode::empty())
}

struct Level {
    name: Vec<u8>,
    fd: OwnedFd,
}

/// Removes everything in a directory.
fn empty(top: &OwnedFd) -> Result<(), Errno> {
    let mut moved = 0u64;
    // What was moved up appears in the top directory after it was listed.
    while let Some(name) = subdirectory(top)? {
        let mut levels: Vec<Level> = Vec::new();
        levels.push(Level { fd: open_below(top.as_fd(), &name)?, name });
        while let Some(level) = levels.last() {
            match subdirectory(&level.fd)? {
                Some(name) if levels.len() >= DEEPEST => {
                    let place = format!(".soliton-removed-{moved}");
                    moved += 1;
                    match rustix::fs::renameat_with(
                        &level.fd,
                        name.as_slice(),
                        top,
                        &place,
                        rustix::fs::RenameFlags::NOREPLACE,
                    ) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                }
                Some(name) => {
                    let fd = open_below(level.fd.as_fd(), &name)?;
                    levels.push(Level { name, fd });
                }
                None => {
                    let Some(done) = levels.pop() else { break };
                    let above = levels.last().map_or(top, |level| &level.fd);
                    drop(done.fd);
                    rustix::fs::unlinkat(above, done.name.as_slice(), AtFlags::REMOVEDIR)?;
                }
            }
        }
    }
    Ok(())
}

fn open_below(at: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    open(at, name, ResolveFlags::NO_XDEV)
}

/// Removes what is no directory, and gives the name of a directory that is left.
fn subdirectory(directory: &OwnedFd) -> Result<Option<Vec<u8>>, Errno> {
    rustix::fs::seek(directory, rustix::fs::SeekFrom::Start(0))?;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            return Ok(Some(name.to_vec()));
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => return Ok(Some(name.to_vec())),
            // Some file systems say EPERM for a directory of unknown type.
            Err(Errno::PERM) if entry.file_type() == FileType::Unknown => return Ok(Some(name.to_vec())),
            Err(errno) => return Err(errno),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_tree_goes_with_what_forbids_it_and_links_stay_unfollowed() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        fs::write(tree.join("a/b/file"), "").unwrap();
        fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o500)).unwrap();
        let path = Text::from(tree.to_str().unwrap());
        remove(&path).unwrap();
        assert!(!tree.exists() && outside.join("kept").exists());
        remove(&path).unwrap();
    }

    #[test]
    fn a_tree_deeper_than_paths_may_be_goes_too() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("deep");
        fs::create_dir(&tree).unwrap();
        let mut at = rustix::fs::open(&tree, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "directory", Mode::from_raw_mode(0o755)).unwrap();
            at = rustix::fs::openat(&at, "directory", OFlags::PATH, Mode::empty()).unwrap();
        }
        remove(&Text::from(tree.to_str().unwrap())).unwrap();
        assert!(!tree.exists());
    }
}
