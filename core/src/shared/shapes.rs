//! The shapes in which containers see a shared image: under an overlay without a writable layer, with the mount points that
//! they need and the image lacks.
//!
//! An overlay of a container's own would look up every name anew for it, and be looked into by nobody else. One that is the
//! server's is known to the kernel already when the next container comes. Where nothing is missing an overlay pays for
//! interpreters, which ask of each file that they open whether it is a terminal: overlayfs answers by itself, and FUSE by
//! waking up the server. Who just reads is quicker without. So an image is under one from the time on at which such questions have come.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, Dev, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::process::WaitOptions;

use super::users::layer_of;
use super::{receive, send};
use crate::fuse::skeletons::{IMAGE, Point, Skeletons};
use crate::launch::failure::{Context, Failure};
use crate::launch::kernel::{self, Forked};
use crate::launch::mounts::Missing;
use crate::launch::resolve::Kind;
use crate::launch::session::Session;
use crate::launch::{resolve, root, trees};
use crate::squashfs::format::Error;
use crate::squashfs::reader::Image;

/// Shapes that are kept for those who come later; who is in another one keeps it.
const MOST: usize = 16;
/// Questions after which an image is taken for one of an interpreter: any import asks more.
const SOME_QUESTIONS: u32 = 100;
/// Mount points of one shape, and the bytes in which a launch names them.
const MOST_POINTS: usize = 64;
pub const LONGEST_WISH: usize = 8 << 10;
const LONGEST_NAME: usize = 255;

/// What a launch wishes for, in the form in which it is sent. None where there is more than a shape may have.
pub fn wish(missing: &[Missing]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    for Missing { location, kind, .. } in missing {
        text.push(if *kind == Kind::Directory { b'd' } else { b'f' });
        for name in location.names() {
            text.push(b'/');
            text.extend_from_slice(name);
        }
        text.push(0);
    }
    (missing.len() <= MOST_POINTS && text.len() <= LONGEST_WISH).then_some(text)
}

/// The names of a mount point from the root on, and what it is.
type Wanted<'w> = (Vec<&'w [u8]>, Kind);

/// What was wished for; None if it is not in the form of [`wish`].
fn points(wish: &[u8]) -> Option<Vec<Wanted<'_>>> {
    if wish.is_empty() {
        return Some(Vec::new());
    }
    let (0, lines) = wish.split_last()? else { return None };
    let points = lines.split(|&byte| byte == 0).map(|line| {
        let (kind, path) = match line.split_first()? {
            (b'd', path) => (Kind::Directory, path),
            (b'f', path) => (Kind::File, path),
            _ => return None,
        };
        let names: Vec<&[u8]> = path.strip_prefix(b"/")?.split(|&byte| byte == b'/').collect();
        names.iter().all(|name| is_name(name)).then_some((names, kind))
    });
    points.collect::<Option<Vec<_>>>().filter(|points| points.len() <= MOST_POINTS)
}

fn is_name(name: &[u8]) -> bool {
    (1..=LONGEST_NAME).contains(&name.len()) && name != b"." && name != b".."
}

/// How many of these names, which lead through no link, an image has. None where it is not as they say.
fn existing(image: &Image, names: &[&[u8]]) -> Option<usize> {
    let mut here = image.root().ok()?;
    for (depth, name) in names.iter().enumerate() {
        if !here.is_directory() {
            return None;
        }
        here = match image.lookup(&here, name) {
            Ok(found) => found,
            Err(Error::NotFound) => return Some(depth),
            Err(_) => return None,
        };
    }
    Some(names.len())
}

/// Does something that asks the image's file system, in a process that has no part in serving it; gives back what that opened.
///
/// Whoever waits for an answer that only itself could give is not to be killed: the kernel waits on for an answer to what
/// was read, and takes the file system for served as long as the process is there.
fn apart(
    keep: &[BorrowedFd<'_>],
    work: impl FnOnce() -> Result<Vec<OwnedFd>, Failure>,
) -> Result<Vec<OwnedFd>, Failure> {
    let (ours, theirs) =
        UnixStream::pair().map_err(|error| Failure::because("mount", format!("socketpair: {error}")))?;
    let child = match kernel::fork_beside_threads().failed("mount", "fork")? {
        Forked::Child => {
            // The channel to the kernel first of all.
            kernel::close_all_but(&[keep, &[theirs.as_fd()]].concat());
            let done = work().is_ok_and(|opened| {
                let descriptors: Vec<BorrowedFd<'_>> = opened.iter().map(AsFd::as_fd).collect();
                send(theirs.as_fd(), b"!", &descriptors).is_ok()
            });
            kernel::exit_now(i32::from(!done))
        }
        Forked::Parent(child) => child,
    };
    drop(theirs);
    let opened = receive(ours.as_fd());
    while let Err(Errno::INTR) = rustix::process::waitpid(Some(child), WaitOptions::empty()) {}
    opened.ok_or_else(|| Failure::because("mount", "the image cannot be looked into"))
}

pub struct Shapes {
    session: Session,
    image: Arc<Image>,
    skeletons: Arc<Skeletons>,
    questions: Arc<AtomicU32>,
    /// What all that is served is called in the session.
    served: String,
    device: Dev,
    /// The image as it is mounted.
    tree: OwnedFd,
    /// What there is, the latest used last.
    made: VecDeque<Made>,
    /// How many there have been.
    count: u64,
}

/// A shape, attached in the session under its name: only what is attached can be cloned.
struct Made {
    wish: Vec<u8>,
    name: String,
    mount: OwnedFd,
}

impl Shapes {
    /// Attaches what is served, the image and its skeletons, in a session of the server's.
    pub fn of(
        mount: OwnedFd,
        session: Session,
        image: Arc<Image>,
        skeletons: Arc<Skeletons>,
        questions: Arc<AtomicU32>,
    ) -> Result<Shapes, Failure> {
        let device = device_of(mount.as_fd()).failed("image", "statx")?;
        let served = layer_of(device);
        session.attach(mount.as_fd(), &served)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let skeleton = skeletons.tree(&image, &[]);
        let layers = skeleton.map(|skeleton| layers_of(&served, &skeleton));
        // Both at once: a process is dearer than what it does.
        let opened = apart(&[mount.as_fd(), session.mount()], || {
            let tree =
                resolve::open_name(mount.as_fd(), IMAGE.as_bytes(), flags).failed("image", "openat2")?;
            // Not every kernel lets users have overlays; then there is the image alone.
            let plain = layers.and_then(|layers| session.within(|| root::unwritable_overlay(layers)).ok());
            Ok([Some(tree), plain].into_iter().flatten().collect())
        })?;
        let mut opened = opened.into_iter();
        let tree = opened.next().ok_or_else(|| Failure::because("image", "it is not there"))?;
        let mut shapes = Shapes {
            session,
            image,
            skeletons,
            questions,
            served,
            device,
            tree,
            made: VecDeque::new(),
            count: 0,
        };
        if let Some(plain) = opened.next() {
            let plain = shapes.attach(plain, &[])?;
            shapes.made.push_back(plain);
        }
        Ok(shapes)
    }

    /// The image as it is, for one more launch.
    pub fn image(&self) -> Result<OwnedFd, Errno> {
        trees::of_open(self.tree.as_fd())
    }

    /// The image under an overlay that adds nothing, for one more launch, where that pays.
    pub fn plain(&mut self) -> Option<OwnedFd> {
        let asked = self.questions.load(Ordering::Relaxed) >= SOME_QUESTIONS;
        if asked { self.get(&[]) } else { None }
    }

    /// The image in the shape that was wished for, for one more launch. An empty wish is for the plain one.
    pub fn get(&mut self, wish: &[u8]) -> Option<OwnedFd> {
        let found = match self.made.iter().position(|made| made.wish == wish) {
            Some(place) => self.made.remove(place)?,
            None if wish.is_empty() => return None,
            None => self.make(wish).ok()?,
        };
        let clone = trees::of_open(found.mount.as_fd()).ok();
        self.made.push_back(found);
        if self.made.len() > MOST {
            let oldest = self.made.iter().position(|made| !made.wish.is_empty())?;
            let gone = self.made.remove(oldest)?;
            let _ = self.session.detach(&gone.name);
        }
        clone
    }

    /// The number by which the kernel shows the image in lists of mounts.
    pub fn device(&self) -> Dev {
        self.device
    }

    fn make(&mut self, wish: &[u8]) -> Result<Made, Failure> {
        let refused = || Failure::because("mount", "there is no such shape");
        let mut missing = Vec::new();
        for (names, kind) in points(wish).ok_or_else(refused)? {
            let existing = existing(&self.image, &names).ok_or_else(refused)?;
            if existing < names.len() {
                missing.push(Point { names, existing, kind });
            }
        }
        let skeleton = self.skeletons.tree(&self.image, &missing).ok_or_else(refused)?;
        let layers = layers_of(&self.served, &skeleton);
        let session = &self.session;
        let mut opened =
            apart(&[session.mount()], || Ok(vec![session.within(|| root::unwritable_overlay(layers))?]))?;
        self.attach(opened.pop().ok_or_else(refused)?, wish)
    }

    /// Attaches a new shape in the session.
    fn attach(&mut self, mount: OwnedFd, wish: &[u8]) -> Result<Made, Failure> {
        let name = format!("shape{}", self.count);
        self.count += 1;
        self.session.attach(mount.as_fd(), &name)?;
        Ok(Made { wish: wish.to_vec(), name, mount })
    }

    /// Lets go of everything; who has a clone keeps it.
    pub fn end(self) -> Result<(), Failure> {
        self.session.end()
    }
}

/// The layers of a shape by their names in the session, uppermost first.
fn layers_of(served: &str, skeleton: &str) -> Vec<u8> {
    format!("{served}/{skeleton}:{served}/{IMAGE}").into_bytes()
}

/// The device of a mount, as far as the kernel knows it without asking who serves it.
fn device_of(mount: BorrowedFd<'_>) -> Result<Dev, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(mount, c"", flags, StatxFlags::empty())?;
    Ok(rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::resolve::Location;
    use crate::text::Text;

    fn missing(names: &[&str], kind: Kind) -> Missing {
        let location = Location {
            existing: Vec::new(),
            missing: names.iter().map(|name| name.as_bytes().to_vec()).collect(),
        };
        Missing { target: Text::default(), location, kind }
    }

    #[test]
    fn a_wish_is_read_as_it_was_written() {
        let wanted = [missing(&["scratch", "a b"], Kind::Directory), missing(&["etc", "é"], Kind::File)];
        let text = wish(&wanted).unwrap();
        let names = |names: [&'static str; 2]| names.map(str::as_bytes).to_vec();
        let expected = [(names(["scratch", "a b"]), Kind::Directory), (names(["etc", "é"]), Kind::File)];
        assert_eq!(points(&text).unwrap(), expected);
    }

    #[test]
    fn too_large_a_wish_is_not_sent_and_what_is_no_wish_is_refused() {
        let many: Vec<Missing> =
            (0..=MOST_POINTS).map(|number| missing(&[&number.to_string()], Kind::File)).collect();
        assert_eq!(wish(&many), None);
        assert_eq!(wish(&[missing(&["x".repeat(LONGEST_WISH).as_str()], Kind::File)]), None);
        for text in ["d/a", "x/a\0", "\0", "d/a\0\0", "d/\0", "da\0", "d/a/../b\0", "f/./a\0", "d/a//b\0"] {
            assert_eq!(points(text.as_bytes()), None, "{text:?}");
        }
    }
}
