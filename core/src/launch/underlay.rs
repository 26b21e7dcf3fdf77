//! Missing mount points without overlay: a directory that lacks an entry is remade in the session, with all
//! its entries bound from the image and the missing ones beside them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::failure::{Context, Failure};
use super::mounts::Missing;
use super::resolve;
use super::session::Session;
use super::{root, trees};
use crate::text::Text;

/// Each entry costs a mount; a directory with more is not remade.
const MOST_ENTRIES: usize = 4096;
/// Entries of a directory, and directories, that are quicker bound than an overlay is mounted and gone through.
const FEW: usize = 16;
const FEW_DIRECTORIES: usize = 4;

/// Whether directories below the root lack the entries, and hold few others: the root itself stays one file system for those who
/// walk through it.
pub fn is_cheap(missing: &[Missing]) -> bool {
    let mut known = Vec::new();
    missing.iter().all(|wanted| {
        let Some((_, directory)) = wanted.location.existing.last() else { return false };
        let path: Vec<&[u8]> = wanted.location.existing.iter().map(|(name, _)| name.as_slice()).collect();
        if known.contains(&path) {
            return true;
        }
        // One that is about to be remade is not looked at through another.
        let nested =
            known.iter().any(|other: &Vec<&[u8]>| path.starts_with(other) || other.starts_with(&path));
        known.push(path);
        !nested
            && known.len() <= FEW_DIRECTORIES
            && entries(directory.as_fd()).is_ok_and(|found| found.len() <= FEW)
    })
}

/// Puts the root together. `image` is attached in the session already.
pub fn assemble(
    image: OwnedFd,
    missing: &[Missing],
    session: &Session,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Failure> {
    // By depth: a directory is remade before those below it, which are then reached through its binds.
    let mut remade: BTreeMap<(usize, Vec<&[u8]>), Vec<&Missing>> = BTreeMap::new();
    for wanted in missing {
        let path: Vec<&[u8]> = wanted.location.existing.iter().map(|(name, _)| name.as_slice()).collect();
        remade.entry((path.len(), path)).or_default().push(wanted);
    }
    let whole = match remade.remove(&(0, Vec::new())) {
        None => {
            let whole = trees::of_open(image.as_fd()).failed("mount", "open_tree")?;
            session.attach(whole.as_fd(), "root")?;
            whole
        }
        Some(wanted) => {
            let copy = Remade::of(image, session, "underlay", &wanted)?;
            session.attach(copy.tree.as_fd(), "root")?;
            copy.bind_entries(attributes)?
        }
    };
    for (index, ((_, path), wanted)) in remade.into_iter().enumerate() {
        let path = Text::new(path.join(&b'/'));
        let original = resolve::open(whole.as_fd(), &path, OFlags::PATH | OFlags::DIRECTORY)
            .failed("image", "openat2")?;
        let point = original.try_clone().map_err(|_| Failure::new("mount", "dup", Errno::MFILE))?;
        let copy = Remade::of(original, session, &format!("underlay{index}"), &wanted)?;
        trees::attach(copy.tree.as_fd(), point.as_fd()).failed("mount", "move_mount")?;
        copy.bind_entries(attributes)?;
    }
    Ok(whole)
}

/// A directory of the image made anew: links are there, all else is still empty.
struct Remade {
    original: OwnedFd,
    tree: OwnedFd,
    entries: Vec<(Vec<u8>, FileType)>,
}

impl Remade {
    fn of(original: OwnedFd, session: &Session, name: &str, wanted: &[&Missing]) -> Result<Remade, Failure> {
        let directory = session.directory(name)?;
        let (_, stat) = resolve::kind_of(original.as_fd()).failed("image", "fstat")?;
        root::imitate(directory.as_fd(), &stat).failed("mount", "chmod")?;
        let entries = entries(original.as_fd()).failed("image", "getdents")?;
        for (name, kind) in &entries {
            match kind {
                FileType::Directory => {
                    resolve::make_directory(directory.as_fd(), name, Mode::from_raw_mode(0o755)).map(drop)
                }
                FileType::Symlink => rustix::fs::readlinkat(&original, name.as_slice(), Vec::new())
                    .and_then(|target| rustix::fs::symlinkat(target, &directory, name.as_slice())),
                _ => resolve::make_file(directory.as_fd(), name, Mode::from_raw_mode(0o644)).map(drop),
            }
            .failed("mount", "mkdir")?;
        }
        for point in wanted {
            resolve::make(directory.as_fd(), &point.location.missing, point.kind).failed_at(
                "bind-target",
                "mkdir",
                &point.target,
            )?;
        }
        let tree = trees::of_open(directory.as_fd()).failed("mount", "open_tree")?;
        Ok(Remade { original, tree, entries })
    }

    /// Once attached: binds the entries of the original over the empty ones.
    fn bind_entries(self, attributes: MountAttrFlags) -> Result<OwnedFd, Failure> {
        for (name, _) in self.entries.iter().filter(|(_, kind)| *kind != FileType::Symlink) {
            let entry =
                trees::of_entry(self.original.as_fd(), name.as_slice()).failed("mount", "open_tree")?;
            trees::attach_at(entry.as_fd(), self.tree.as_fd(), name.as_slice())
                .failed("mount", "move_mount")?;
        }
        trees::restrict(self.tree.as_fd(), attributes).failed("mount", "mount_setattr")?;
        Ok(self.tree)
    }
}

/// Names and types in a directory.
fn entries(directory: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(directory, c".", flags, Mode::empty())?;
    let mut found = Vec::new();
    for entry in Dir::read_from(&readable)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if found.len() == MOST_ENTRIES {
            return Err(Errno::TOOBIG);
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(&readable, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        found.push((name.to_vec(), kind));
    }
    Ok(found)
}
