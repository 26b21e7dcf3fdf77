//! Binds out of other images: each image is mounted once, whatever is bound out of it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::mount::MountAttrFlags;

use super::failure::{Context, Failure};
use super::resolve::{self, Kind};
use super::session::Session;
use super::{root, trees};
use crate::plan::{Mount, Plan, Root};

/// What the plan binds out of images, in its order, each attached nowhere yet.
pub type Opened = std::vec::IntoIter<(OwnedFd, Kind)>;

/// Mounts the images and finds in them what is wanted, links resolved inside.
pub fn open(plan: &Plan) -> Result<Opened, Failure> {
    let binds = || {
        plan.mounts.iter().filter_map(|mount| if let Mount::Data(bind) = mount { Some(bind) } else { None })
    };
    let mut opened = Vec::new();
    if binds().next().is_none() {
        return Ok(opened.into_iter());
    }
    let mut images: Vec<(&Root, OwnedFd)> = Vec::new();
    for bind in binds() {
        if !images.iter().any(|(known, _)| **known == bind.root) {
            images.push((&bind.root, root::tree(&bind.root, plan)?));
        }
    }
    // Only what is attached somewhere can be taken apart.
    let session = Session::start()?;
    for (number, (_, tree)) in images.iter().enumerate() {
        session.attach(tree.as_fd(), &number.to_string())?;
    }
    for bind in binds() {
        let Some((_, tree)) = images.iter().find(|(known, _)| **known == bind.root) else { continue };
        let place = resolve::open(tree.as_fd(), &bind.source, OFlags::PATH);
        let place = place.failed_at("bind-source", "openat2", &bind.source)?;
        let (kind, _) = resolve::kind_of(place.as_fd()).failed("mount", "fstat")?;
        let part = trees::of_open(place.as_fd()).failed("mount", "open_tree")?;
        let mut attributes = trees::INERT;
        attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, bind.read_only);
        trees::restrict(part.as_fd(), attributes).failed_at("mount", "mount_setattr", &bind.target)?;
        opened.push((part, kind));
    }
    session.end()?;
    Ok(opened.into_iter())
}
