//! Reading through a stack of layers, as an overlay of them would show it, with nothing mounted.
//!
//! A directory of the stack is a list of directories, the uppermost first; what hides what is overlayfs(7): a device
//! of number 0 removes a name, an attribute makes a directory opaque.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{MOST_NAMES, Place, open_directory, open_image};
use crate::layers::{Failure, Result, is_opaque_mark};
use crate::plan::Root;
use crate::squashfs::format::{Error, kind};
use crate::squashfs::inode::{Data, Inode};
use crate::squashfs::reader::Image;

/// As many links as the kernel follows in one path.
const MOST_LINKS: usize = 40;

enum Layer {
    Image(Box<Image>),
    Directory(OwnedFd),
}

/// The layers, uppermost first.
pub struct Stack(Vec<Layer>);

/// Something in one layer, with the number of the layer.
struct Found {
    layer: usize,
    what: What,
}

enum What {
    Directory(Folder),
    File(Handle, u32, u64),
    Link(Vec<u8>),
    Whiteout,
    Other(u32),
}

enum Handle {
    Image(Inode),
    Host(OwnedFd),
}

struct Folder {
    handle: Handle,
    mode: u32,
    opaque: bool,
}

/// A directory as the stack shows it: the parts of it, uppermost first.
type Merged = Vec<(usize, Folder)>;

pub fn open(layers: &[Root]) -> Result<Stack> {
    let opened = layers.iter().rev().map(|layer| match layer {
        Root::Image(image) => open_image(image).map(|image| Layer::Image(Box::new(image))),
        Root::Directory(root) => open_directory(root).map(Layer::Directory),
        Root::Ext(_) => Err(std::io::Error::from(std::io::ErrorKind::Unsupported).into()),
        Root::Stack(_) => Err(Failure::corrupt("a stack is inside a stack")),
    });
    Ok(Stack(opened.collect::<Result<Vec<Layer>>>()?))
}

impl Stack {
    fn root(&self) -> Result<Merged> {
        let mut merged = Merged::new();
        for (number, layer) in self.0.iter().enumerate() {
            let folder = match layer {
                Layer::Image(image) => of_image(image, image.root()?)?,
                Layer::Directory(fd) => of_host(fd, b".")?,
            };
            if let Some(What::Directory(folder)) = folder {
                merged.push((number, folder));
            }
        }
        Ok(merged)
    }

    /// A name in a directory; its parts if it is a directory.
    fn look_up(&self, directory: &Merged, name: &[u8]) -> Result<Vec<Found>> {
        let mut parts: Vec<Found> = Vec::new();
        for (layer, folder) in directory {
            let found = match (&self.0[*layer], &folder.handle) {
                (Layer::Image(image), Handle::Image(inode)) => match image.lookup(inode, name) {
                    Ok(inode) => of_image(image, inode)?,
                    Err(Error::NotFound) => None,
                    Err(error) => return Err(error.into()),
                },
                (_, Handle::Host(fd)) => of_host(fd, name)?,
                _ => None,
            };
            let Some(what) = found else { continue };
            let opaque = match &what {
                What::Directory(folder) => folder.opaque,
                // Below something else a directory does not show.
                _ if !parts.is_empty() => break,
                What::Whiteout => break,
                _ => true,
            };
            parts.push(Found { layer: *layer, what });
            if opaque {
                break;
            }
        }
        Ok(parts)
    }

    /// What a path leads to, links followed inside the stack.
    fn find(&self, path: &[u8]) -> Result<Vec<Found>> {
        let mut above: Vec<Merged> = vec![self.root()?];
        let mut left = names(path);
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == b".." {
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            let Some(here) = above.last() else { return Ok(Vec::new()) };
            let mut parts = self.look_up(here, &name)?;
            match parts.first().map(|part| &part.what) {
                Some(What::Link(target)) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Ok(Vec::new());
                    }
                    if target.starts_with(b"/") {
                        above.truncate(1);
                    }
                    left.extend(names(target));
                }
                Some(What::Directory(_)) => above.push(merged(parts)),
                Some(_) if left.is_empty() => {
                    parts.truncate(1);
                    return Ok(parts);
                }
                _ => return Ok(Vec::new()),
            }
        }
        let here = above.pop().unwrap_or_default();
        Ok(here.into_iter().map(|(layer, folder)| Found { layer, what: What::Directory(folder) }).collect())
    }
}

fn merged(parts: Vec<Found>) -> Merged {
    let folders = parts.into_iter().filter_map(|part| match part.what {
        What::Directory(folder) => Some((part.layer, folder)),
        _ => None,
    });
    folders.collect()
}

/// The names of a path, last one first, without empty ones and `.`.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/').filter(|n| !n.is_empty() && *n != b".").map(<[u8]>::to_vec).rev().collect()
}

impl Place for Stack {
    fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut shown = BTreeSet::new();
        let mut gone = BTreeSet::new();
        for part in self.find(path)? {
            let What::Directory(folder) = part.what else { return Ok(Vec::new()) };
            let mut here = Vec::new();
            match (&self.0[part.layer], &folder.handle) {
                (Layer::Image(image), Handle::Image(inode)) => {
                    let mut listing = image.list(inode, 0)?;
                    while let Some(entry) = listing.next_entry()? {
                        let whiteout = entry.kind == kind::CHARACTER
                            && matches!(image.inode_of(&entry)?.data, Data::Device { number: 0 });
                        here.push((entry.name, whiteout));
                    }
                }
                (_, Handle::Host(fd)) => {
                    let opened = rustix::fs::openat(fd, c".", LIST, Mode::empty());
                    let Ok(opened) = opened else { continue };
                    for entry in Dir::read_from(opened.as_fd()).map_err(std::io::Error::from)? {
                        let name = entry.map_err(std::io::Error::from)?.file_name().to_bytes().to_vec();
                        if name != b"." && name != b".." {
                            let whiteout = matches!(of_host(fd, &name)?, Some(What::Whiteout));
                            here.push((name, whiteout));
                        }
                    }
                }
                _ => {}
            }
            for (name, whiteout) in here {
                if shown.len() + gone.len() >= MOST_NAMES {
                    return Err(Failure::corrupt("a directory has too many files").at(path));
                }
                if whiteout && !shown.contains(&name) {
                    gone.insert(name);
                } else if !whiteout && !gone.contains(&name) {
                    shown.insert(name);
                }
            }
        }
        Ok(shown.into_iter().collect())
    }

    fn look(&self, path: &[u8], limit: u64) -> Result<super::Found> {
        let Some(found) = self.find(path)?.into_iter().next() else { return Ok(super::Found::nothing()) };
        Ok(match found.what {
            What::Directory(folder) => super::Found::of("directory", folder.mode),
            What::File(handle, mode, size) => {
                let wanted = size.min(limit) as usize;
                let data = match (&self.0[found.layer], &handle) {
                    (Layer::Image(image), Handle::Image(inode)) => {
                        let mut data = vec![0; wanted];
                        let count = image.read_file(inode, 0, &mut data)?;
                        data.truncate(count);
                        data
                    }
                    (_, Handle::Host(fd)) => match read_host(fd, wanted) {
                        Ok(data) => data,
                        // Not for this user.
                        Err(Errno::ACCESS | Errno::PERM) => return Ok(super::Found::nothing()),
                        Err(errno) => {
                            return Err(Failure::from(std::io::Error::from(errno)).at(path));
                        }
                    },
                    _ => Vec::new(),
                };
                super::Found::file(mode, size, data)
            }
            What::Other(mode) => super::Found::of("other", mode),
            What::Link(_) | What::Whiteout => super::Found::nothing(),
        })
    }
}

fn of_image(image: &Image, inode: Inode) -> Result<Option<What>> {
    let mode = u32::from(inode.mode);
    Ok(Some(match &inode.data {
        Data::Directory { .. } => {
            let opaque = image.xattrs(&inode)?.iter().any(|(name, value)| is_opaque_mark(name, value));
            What::Directory(Folder { handle: Handle::Image(inode), mode, opaque })
        }
        Data::File { .. } => {
            let size = inode.size;
            What::File(Handle::Image(inode), mode, size)
        }
        Data::Symlink { target } => What::Link(target.clone()),
        Data::Device { number: 0 } if inode.kind == kind::CHARACTER => What::Whiteout,
        _ => What::Other(mode),
    }))
}

const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A name in a directory of the host; `None` for what is not there or not for this user.
fn of_host(directory: &OwnedFd, name: &[u8]) -> Result<Option<What>> {
    let failed = |errno: Errno| Failure::from(std::io::Error::from(errno)).at(name);
    let fd = match rustix::fs::openat(directory, name, LOOK, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(None),
        Err(errno) => return Err(failed(errno)),
    };
    let stat = rustix::fs::statat(&fd, c"", AtFlags::EMPTY_PATH).map_err(failed)?;
    let mode = stat.st_mode & 0o7777;
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
            let opaque = ["user.overlay.opaque", "trusted.overlay.opaque"].iter().any(|mark| {
                let mut value = [0; 8];
                rustix::fs::getxattr(&own, *mark, &mut value[..])
                    .is_ok_and(|length| is_opaque_mark(mark.as_bytes(), &value[..length]))
            });
            What::Directory(Folder { handle: Handle::Host(fd), mode, opaque })
        }
        FileType::RegularFile => {
            let size = stat.st_size.unsigned_abs();
            What::File(Handle::Host(fd), mode, size)
        }
        FileType::Symlink => {
            What::Link(rustix::fs::readlinkat(&fd, c"", Vec::new()).map_err(failed)?.into_bytes())
        }
        FileType::CharacterDevice if stat.st_rdev == 0 => What::Whiteout,
        _ => What::Other(mode),
    }))
}

fn read_host(place: &OwnedFd, limit: usize) -> std::result::Result<Vec<u8>, Errno> {
    let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(place));
    let fd = rustix::fs::open(own, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let mut data = vec![0; limit];
    let mut at = 0;
    while at < limit {
        match rustix::io::pread(&fd, &mut data[at..], at as u64)? {
            0 => break,
            count => at += count,
        }
    }
    data.truncate(at);
    Ok(data)
}
