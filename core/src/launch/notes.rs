//! Owners of links and pipes, noted in a file beside the directory that they are written to: they cannot carry the attribute in which
//! other files have theirs ([`crate::owner`]).
//!
//! A line is `inode seconds nanoseconds uid gid`: of a file of that directory, as the directory's own file system knows it, by number and
//! time of birth, since numbers are used again. So a note follows its file through renames. Who reads the directory
//! (`layers::directory`) takes the last one that fits.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::failure::{Context, Failure};
use crate::owner::{Owner, UNSAID};
use crate::plan::{Plan, Surface};

/// No step has more to say; what comes after is as if nothing had been said.
const LONGEST: u64 = 256 << 20;

/// Where a launch notes them.
pub struct Notes {
    upper: OwnedFd,
    file: File,
}

impl Notes {
    /// What the plan names, opened while the host can be seen.
    pub fn open(plan: &Plan) -> Result<Option<Notes>, Failure> {
        let (Some(path), Surface::Upper { upper, .. }) = (&plan.process.owners, &plan.surface) else {
            return Ok(None);
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let upper = rustix::fs::open(upper.as_os_str(), flags, Mode::empty()).failed("io", "open")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path.as_os_str(), flags, Mode::RUSR | Mode::WUSR).failed("io", "open")?;
        Ok(Some(Notes { upper, file: file.into() }))
    }

    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.upper.as_fd(), self.file.as_fd()]
    }

    /// Notes the owner of a link or pipe at a path inside the container's root.
    pub fn note(&self, path: &[u8], owner: Owner) -> Result<(), Errno> {
        let path = path.strip_prefix(b"/").ok_or(Errno::INVAL)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let found = rustix::fs::openat2(&self.upper, path, flags, Mode::empty(), how)?;
        let Some((inode, seconds, nanoseconds)) = identity(found.as_fd(), c"") else {
            return Err(Errno::NOTSUP);
        };
        if self.file.metadata().is_ok_and(|status| status.len() > LONGEST) {
            return Err(Errno::FBIG);
        }
        let line = format!("{inode} {seconds} {nanoseconds} {} {}\n", owner.uid, owner.gid);
        (&self.file).write_all(line.as_bytes()).map_err(|_| Errno::IO)
    }
}

/// What tells a file from every other that its file system has had; None where that does not know times of birth.
fn identity(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> Option<(u64, i64, u32)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let found = rustix::fs::statx(directory, name, flags, wanted).ok()?;
    let known = StatxFlags::from_bits_retain(found.stx_mask).contains(wanted);
    known.then_some((found.stx_ino, found.stx_btime.tv_sec, found.stx_btime.tv_nsec))
}

/// What was noted.
#[derive(Default)]
pub struct Noted(HashMap<(u64, i64, u32), Owner>);

impl Noted {
    /// Nothing, if there is no such file. What is no note is passed over.
    pub fn read(path: &std::path::Path) -> std::io::Result<Noted> {
        let mut text = String::new();
        match File::open(path) {
            Ok(file) => file.take(LONGEST).read_to_string(&mut text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Noted::default()),
            Err(error) => return Err(error),
        };
        let mut found = HashMap::new();
        for line in text.lines() {
            let mut words = line.split(' ');
            let mut number = || words.next()?.parse::<i64>().ok();
            let (Some(inode), Some(seconds), Some(nanoseconds)) = (number(), number(), number()) else {
                continue;
            };
            let (Some(uid), Some(gid)) = (number(), number()) else { continue };
            let (Ok(uid), Ok(gid)) = (u32::try_from(uid), u32::try_from(gid)) else { continue };
            let owner = found
                .entry((inode as u64, seconds, nanoseconds as u32))
                .or_insert(Owner { uid: UNSAID, gid: UNSAID });
            *owner = owner.changed(uid, gid);
        }
        Ok(Noted(found))
    }

    /// Of a file of the directory; nothing said of either part if there is no note.
    pub fn of(&self, directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> Owner {
        let none = Owner { uid: UNSAID, gid: UNSAID };
        if self.0.is_empty() {
            return none;
        }
        identity(directory, name).and_then(|identity| self.0.get(&identity)).copied().unwrap_or(none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_follows_its_file_and_the_last_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        let link = |name: &str| std::os::unix::fs::symlink("x", folder.path().join(name)).unwrap();
        link("old");
        link("other");
        let directory = File::open(folder.path()).unwrap();
        let Some((inode, seconds, nanoseconds)) = identity(directory.as_fd(), c"old") else { return };
        let notes = folder.path().join("notes");
        let text = format!(
            "{inode} {seconds} {nanoseconds} 7 8\n{inode} {} {nanoseconds} 1 1\nno note\n{inode} {seconds} {nanoseconds} {UNSAID} 9\n",
            seconds - 1
        );
        std::fs::write(&notes, text).unwrap();
        std::fs::rename(folder.path().join("old"), folder.path().join("new")).unwrap();
        let noted = Noted::read(&notes).unwrap();
        assert_eq!(noted.of(directory.as_fd(), c"new"), Owner { uid: 7, gid: 9 });
        for name in [c"other", c"old"] {
            assert_eq!(noted.of(directory.as_fd(), name), Owner { uid: UNSAID, gid: UNSAID });
        }
        assert!(Noted::read(&folder.path().join("none")).unwrap().0.is_empty());
    }
}
