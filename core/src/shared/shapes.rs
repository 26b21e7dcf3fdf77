//! The shapes in which containers see a shared image: under an overlay without a writable layer, with the mount points that
//! they need and the image lacks.
//!
//! An overlay of a container's own would look up every name anew for it, and be looked into by nobody else. One that is the
//! server's is known to the kernel already when the next container comes. Where nothing is missing an overlay pays as well: an
//! interpreter asks of each file that it opens whether it is a terminal, which overlayfs answers by itself, and FUSE by
//! waking up the server.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Dev, OFlags};
use rustix::io::Errno;

use super::users::layer_of;
use crate::fuse::skeletons::{IMAGE, Point, Skeletons};
use crate::launch::failure::{Context, Failure};
use crate::launch::mounts::Missing;
use crate::launch::resolve::{Kind, Location};
use crate::launch::session::Session;
use crate::launch::{resolve, root, trees};
use crate::squashfs::reader::Image;
use crate::text::Text;

/// Shapes that are kept for those who come later; who is in another one keeps it.
const MOST: usize = 16;
/// Mount points of one shape, and the bytes in which a launch names them.
const MOST_POINTS: usize = 64;
pub const LONGEST_WISH: usize = 8 << 10;

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

/// What was wished for; None if it is not in the form of [`wish`].
fn points(wish: &[u8]) -> Option<Vec<(Text, Kind)>> {
    if wish.is_empty() {
        return Some(Vec::new());
    }
    let (0, lines) = wish.split_last()? else { return None };
    let points = lines.split(|&byte| byte == 0).map(|line| match line.split_first()? {
        (b'd', path) => Some((Text::new(path), Kind::Directory)),
        (b'f', path) => Some((Text::new(path), Kind::File)),
        _ => None,
    });
    points.collect::<Option<Vec<_>>>().filter(|points| points.len() <= MOST_POINTS)
}

pub struct Shapes {
    session: Session,
    image: Arc<Image>,
    skeletons: Arc<Skeletons>,
    /// What all that is served is called in the session.
    served: String,
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
    ) -> Result<Shapes, Failure> {
        let served = layer_of(rustix::fs::fstat(&mount).failed("image", "fstat")?.st_dev);
        session.attach(mount.as_fd(), &served)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let tree = resolve::open_name(mount.as_fd(), IMAGE.as_bytes(), flags).failed("image", "openat2")?;
        let mut shapes = Shapes { session, image, skeletons, served, tree, made: VecDeque::new(), count: 0 };
        // Not every kernel lets users have overlays; then there is the image alone.
        if let Ok(plain) = shapes.make(&[]) {
            shapes.made.push_back(plain);
        }
        Ok(shapes)
    }

    /// The image as it is, for one more launch.
    pub fn image(&self) -> Result<OwnedFd, Errno> {
        trees::of_open(self.tree.as_fd())
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
    pub fn device(&self) -> Result<Dev, Errno> {
        Ok(rustix::fs::fstat(&self.tree)?.st_dev)
    }

    fn make(&mut self, wish: &[u8]) -> Result<Made, Failure> {
        let refused = || Failure::because("mount", "there is no such shape");
        let wanted = points(wish).ok_or_else(refused)?;
        let mut found = Vec::new();
        for (target, kind) in &wanted {
            found.push((Location::find(self.tree.as_fd(), target).failed("mount", "openat2")?, *kind));
        }
        let missing: Vec<Point<'_>> = found
            .iter()
            .filter(|(location, _)| !location.exists())
            .map(|(location, kind)| Point {
                names: location.names().collect(),
                existing: location.existing.len(),
                kind: *kind,
            })
            .collect();
        let skeleton = self.skeletons.tree(&self.image, &missing).ok_or_else(refused)?;
        let layers = format!("{served}/{skeleton}:{served}/{IMAGE}", served = self.served);
        let mount = self.session.within(|| root::unwritable_overlay(layers.into_bytes()))?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let read = points(&wish(&wanted).unwrap()).unwrap();
        assert_eq!(read, [(Text::from("/scratch/a b"), Kind::Directory), (Text::from("/etc/é"), Kind::File)]);
    }

    #[test]
    fn too_large_a_wish_is_not_sent_and_what_is_no_wish_is_refused() {
        let many: Vec<Missing> =
            (0..=MOST_POINTS).map(|number| missing(&[&number.to_string()], Kind::File)).collect();
        assert_eq!(wish(&many), None);
        assert_eq!(wish(&[missing(&["x".repeat(LONGEST_WISH).as_str()], Kind::File)]), None);
        for text in ["d/a", "x/a\0", "\0", "d/a\0\0"] {
            assert_eq!(points(text.as_bytes()), None, "{text:?}");
        }
    }
}
