//! The container's root: an image or a directory, and how missing mount points come into it.
//!
//! Where every mount point exists the root is used as it is. Otherwise a skeleton, a tiny tree with just the
//! missing mount points, becomes the uppermost lower layer of an overlay; nothing needs to be writable for
//! that, and a writable upper directory stays free of mount points. Where overlay is refused, directories
//! that lack an entry are remade from binds.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use super::failure::{Context, Failure};
use super::mounts::Missing;
use super::resolve::{self, Kind};
use super::session::Session;
use super::{trees, underlay};
use crate::fuse;
use crate::plan::{ImageRoot, Layer, Plan, Root, Surface};
use crate::squashfs::format as squashfs;
use crate::squashfs::reader::Image;
use crate::text::Text;

/// A root that is attached nowhere yet, and the writable layer that goes over it.
pub struct Opened {
    pub tree: OwnedFd,
    /// Of a stack: its layers, lowest first.
    layers: Vec<OwnedFd>,
    upper: Option<(OwnedFd, OwnedFd)>,
}

/// Opens a plan's root and upper directories on the host. shared: the root, if another process mounted it.
pub fn open(plan: &Plan, shared: Option<OwnedFd>) -> Result<Opened, Failure> {
    let upper = match &plan.surface {
        Surface::Upper { upper, work } => Some((open_layer(upper)?, open_layer(work)?)),
        _ => None,
    };
    match (&plan.root, shared) {
        (Root::Stack(layers), None) => {
            let (tree, layers) = stack(layers, plan)?;
            Ok(Opened { tree, layers, upper })
        }
        (root, shared) => {
            let tree = shared.map_or_else(|| tree(root, plan), Ok)?;
            Ok(Opened { tree, layers: Vec::new(), upper })
        }
    }
}

fn open_layer(path: &Text) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path.as_os_str(), flags, Mode::empty()).failed_at("overlay", "open", path)
}

/// The directory of the host at which the root is to appear.
pub fn place(plan: &Plan) -> Result<Option<OwnedFd>, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Text| {
        rustix::fs::open(path.as_os_str(), flags, Mode::empty()).failed_at("mount", "open", path)
    };
    plan.mount_at.as_ref().map(open).transpose()
}

/// A root as a mount that is attached nowhere.
pub fn tree(root: &Root, plan: &Plan) -> Result<OwnedFd, Failure> {
    match root {
        Root::Directory(path) => {
            let tree = trees::of_host(path.as_os_str()).failed_at("image", "open_tree", path)?;
            match resolve::kind_of(tree.as_fd()).failed_at("image", "fstat", path)?.0 {
                Kind::Directory => Ok(tree),
                Kind::File => Err(Failure::new("image", "open_tree", Errno::NOTDIR).at(path)),
            }
        }
        Root::Image(image) => image_tree(image, plan),
        Root::Stack(layers) => Ok(stack(layers, plan)?.0),
    }
}

/// Several layers as one tree that cannot be written, attached nowhere, and the layers themselves.
fn stack(layers: &[Root], plan: &Plan) -> Result<(OwnedFd, Vec<OwnedFd>), Failure> {
    let opened = layers.iter().map(|layer| tree(layer, plan)).collect::<Result<Vec<OwnedFd>, Failure>>()?;
    // Only what is attached somewhere can be a layer; the overlay keeps what it has taken.
    let session = Session::start()?;
    let mut names = Vec::new();
    let mut again = Vec::new();
    for (number, layer) in opened.iter().enumerate() {
        let name = number.to_string();
        session.attach(layer.as_fd(), &name)?;
        again.push(session.clone_of(&name)?);
        names.push(name);
    }
    names.reverse();
    let options = overlay_options(names.join(":").into_bytes(), None, true);
    let made = session.within(|| make_overlay(&options, trees::INERT))?;
    session.end()?;
    Ok((made, again))
}

/// Mounts an image by its own server, which ends with the last user of the mount.
fn image_tree(image: &ImageRoot, plan: &Plan) -> Result<OwnedFd, Failure> {
    let unreadable = |error: &squashfs::Error| Failure {
        errno: if let squashfs::Error::Io(_) = error { error.errno() } else { 0 },
        ..Failure::because("image", error.to_string()).at(&image.path)
    };
    let file = File::open(image.path.as_path()).map_err(|error| unreadable(&error.into()))?;
    let opened = Image::open(Arc::new(file), image.offset, image.size).map_err(|error| unreadable(&error))?;
    fuse::spawn_server(opened, fuse::ids(image, &plan.identity), &image.path.to_string()).map_err(|error| {
        let code = match (error.call, error.errno) {
            ("/dev/fuse" | "fsopen", Errno::NOENT | Errno::NODEV | Errno::NXIO) => "fuse-missing",
            ("/dev/fuse", _) | (_, Errno::PERM | Errno::ACCESS) => "fuse-denied",
            _ => "mount",
        };
        Failure::new(code, error.call, error.errno).at(&image.path)
    })
}

/// Puts the root together in the session; the result is attached there.
pub fn assemble(
    opened: Opened,
    plan: &Plan,
    missing: &[Missing],
    session: &Session,
) -> Result<OwnedFd, Failure> {
    let Opened { tree, layers, upper } = opened;
    let attributes = attributes(plan);
    let restrict = |attributes| trees::restrict(tree.as_fd(), attributes).failed("mount", "mount_setattr");
    let at = |name: &str| session.path(name);
    match &plan.surface {
        Surface::Direct => {
            restrict(attributes)?;
            session.attach(tree.as_fd(), "root")?;
            Ok(tree)
        }
        Surface::ReadOnly(layer) => {
            let attributes = attributes | MountAttrFlags::MOUNT_ATTR_RDONLY;
            restrict(attributes)?;
            if missing.is_empty() {
                session.attach(tree.as_fd(), "root")?;
                return Ok(tree);
            }
            session.attach(tree.as_fd(), "lower")?;
            // An overlay looks each name up anew for every container and the image's server is asked again; where
            // next to nothing has to be bound, what the kernel knows of the image is used as it is.
            let cheap = *layer == Layer::Auto && underlay::is_cheap(missing);
            if *layer != Layer::Underlay && !cheap {
                let lower = lower_layers(tree.as_fd(), &layers, missing, session)?;
                match overlay(session, &lower, None, plan, attributes) {
                    Err(_) if *layer == Layer::Auto => {}
                    result => return result,
                }
            }
            underlay::assemble(tree, missing, session, attributes)
        }
        Surface::Tmpfs { size } => {
            session.attach(tree.as_fd(), "lower")?;
            let store = trees::tmpfs(*size, 0o755, trees::INERT).failed("mount", "tmpfs")?;
            session.attach(store.as_fd(), "store")?;
            let image = resolve::kind_of(tree.as_fd()).failed("image", "fstat")?.1;
            resolve::make_directory(store.as_fd(), b"upper", Mode::from_raw_mode(0o755))
                .and_then(|upper| imitate(upper.as_fd(), &image))
                .and_then(|()| resolve::make_directory(store.as_fd(), b"work", Mode::from_raw_mode(0o755)))
                .failed("mount", "mkdir")?;
            let lower = lower_layers(tree.as_fd(), &layers, missing, session)?;
            overlay(session, &lower, Some((at("store/upper"), at("store/work"))), plan, attributes)
        }
        Surface::Upper { .. } => {
            session.attach(tree.as_fd(), "lower")?;
            let lower = lower_layers(tree.as_fd(), &layers, missing, session)?;
            // Named by descriptor: what the paths held at first is what is used, whatever they contain.
            let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
            let layers = upper.as_ref().map(|(upper, work)| (path(upper), path(work)));
            overlay(session, &lower, layers, plan, attributes)
        }
    }
}

fn attributes(plan: &Plan) -> MountAttrFlags {
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    // Without no_new_privs somebody wants set-user-id programs of the image to work.
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, plan.process.no_new_privs);
    attributes
}

/// The lower layers of an overlay, uppermost first: the skeleton if one is needed, and the image or what it is stacked
/// from. Names in the session: the kernel takes 255 bytes of them.
fn lower_layers(
    image: BorrowedFd<'_>,
    layers: &[OwnedFd],
    missing: &[Missing],
    session: &Session,
) -> Result<String, Failure> {
    let mut lower = "lower".to_owned();
    if !layers.is_empty() {
        let names: Vec<String> = (0..layers.len()).map(|number| number.to_string()).collect();
        for (layer, name) in layers.iter().zip(&names) {
            session.attach(layer.as_fd(), name)?;
        }
        lower = names.into_iter().rev().collect::<Vec<String>>().join(":");
    }
    if missing.is_empty() {
        return Ok(lower);
    }
    let skeleton = session.directory("skeleton")?;
    let stat = resolve::kind_of(image).failed("image", "fstat")?.1;
    imitate(skeleton.as_fd(), &stat).failed("mount", "chmod")?;
    for Missing { target, location, kind } in missing {
        let mut made: Option<OwnedFd> = None;
        for (name, original) in &location.existing {
            let here = made.as_ref().map_or(skeleton.as_fd(), AsFd::as_fd);
            let next = resolve::make_directory(here, name, Mode::from_raw_mode(0o755));
            let stat = resolve::kind_of(original.as_fd()).failed("image", "fstat")?.1;
            made = Some(
                next.and_then(|next| imitate(next.as_fd(), &stat).map(|()| next)).failed("mount", "mkdir")?,
            );
        }
        let here = made.as_ref().map_or(skeleton.as_fd(), AsFd::as_fd);
        resolve::make(here, &location.missing, *kind).failed_at("bind-target", "mkdir", target)?;
    }
    Ok(format!("skeleton:{lower}"))
}

/// Gives a directory of the session the mode and, where the ids are mapped, the owner of the image's.
pub fn imitate(directory: BorrowedFd<'_>, original: &rustix::fs::Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(original.st_uid), Gid::from_raw(original.st_gid));
    let _ = rustix::fs::chownat(directory, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&directory));
    rustix::fs::chmod(path, Mode::from_raw_mode(original.st_mode & 0o7777))
}

/// Mounts an overlay as the session's root.
fn overlay(
    session: &Session,
    lower: &str,
    upper: Option<(String, String)>,
    plan: &Plan,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Failure> {
    // The layers of a stack bear marks that any user can make.
    let by_user = matches!(plan.root, Root::Stack(_))
        || !plan.identity.uid_map.is_empty()
        || !super::namespaces::is_initial_user_namespace();
    let options = overlay_options(lower.as_bytes().to_vec(), upper, by_user);
    let root = session.within(|| make_overlay(&options, attributes))?;
    session.attach(root.as_fd(), "root")?;
    Ok(root)
}

type Options = Vec<(&'static str, Vec<u8>)>;

fn overlay_options(lower: Vec<u8>, upper: Option<(String, String)>, by_user: bool) -> Options {
    let mut options = vec![("lowerdir", lower)];
    if let Some((upper, work)) = upper {
        options.extend([("upperdir", upper.into_bytes()), ("workdir", work.into_bytes())]);
    }
    if by_user {
        options.push(("userxattr", Vec::new()));
    }
    options
}

fn make_overlay(options: &Options, attributes: MountAttrFlags) -> Result<OwnedFd, Failure> {
    let options: Vec<(&str, &[u8])> = options.iter().map(|(key, value)| (*key, value.as_slice())).collect();
    trees::new("overlay", &options, attributes)
        .map_err(|(errno, detail)| Failure::new("overlay", "overlay", errno).with(detail))
}

/// Makes the assembled root the root of this process and lets go of the host's.
pub fn enter(root: BorrowedFd<'_>) -> Result<(), Failure> {
    rustix::process::fchdir(root).failed("mount", "fchdir")?;
    match rustix::process::pivot_root(c".", c".") {
        // The old root now lies on the new one.
        Ok(()) => rustix::mount::unmount(c".", UnmountFlags::DETACH).failed("mount", "umount")?,
        // The host's own root cannot be pivoted from: an initramfs, or a chroot.
        Err(Errno::INVAL) => {
            trees::attach_at(root, rustix::fs::CWD, "/").failed("mount", "move_mount")?;
            rustix::process::chroot(c".").failed("mount", "chroot")?;
        }
        Err(errno) => return Err(Failure::new("mount", "pivot_root", errno)),
    }
    rustix::process::chdir(c"/").failed("mount", "chdir")
}
