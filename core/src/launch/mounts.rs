//! The plan's mounts: opened on the host while all of it can be seen, attached inside in the plan's order.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::failure::{Context, Failure, warn};
use super::resolve::{self, Kind, Location};
use super::session::Session;
use super::{data, dev, files, fusemount, trees};
use crate::plan::{Bind, Mount, Namespace, Plan, Surface};
use crate::text::Text;

/// For file systems of the kernel's own, where nothing is ever executed.
const KERNEL: MountAttrFlags = trees::INERT.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
/// Room for the links and mount points of a minimal /dev.
const DEV_SIZE: u64 = 1 << 20;

/// One mount of the plan, as far as it can be made before the root exists.
pub struct Prepared<'p> {
    pub target: &'p Text,
    pub kind: Kind,
    optional: bool,
    apart: bool,
    what: What<'p>,
}

enum What<'p> {
    /// A tree of the host's.
    Tree(OwnedFd),
    /// A file system of this container's own, in which missing mount points may be made.
    Own(OwnedFd, Option<dev::Minimal>),
    /// A file that will live in the session.
    File { content: Cow<'p, [u8]>, mode: u32, owner: Option<(u32, u32)> },
}

/// Opens what the plan's mounts need from the host, and makes their file systems.
///
/// `image` is the root before anything is mounted in it: passwd and group are read from it.
/// `data`: what the plan binds out of images, in order. `programs`: who is to serve what else is mounted.
pub fn prepare<'p>(
    plan: &'p Plan,
    image: BorrowedFd<'_>,
    mut data: data::Opened,
    programs: &mut fusemount::Programs<'p>,
) -> Result<Vec<Prepared<'p>>, Failure> {
    let mut prepared = Vec::with_capacity(plan.mounts.len());
    for mount in &plan.mounts {
        prepared.extend(match mount {
            Mount::Bind(bind) => open_bind(bind)?,
            Mount::Data(bind) => data.next().map(|(tree, kind)| Prepared {
                target: &bind.target,
                kind,
                optional: false,
                apart: false,
                what: What::Tree(tree),
            }),
            Mount::Fuse(wish) => Some(Prepared::directory(&wish.target, What::Tree(programs.mount(wish)?))),
            Mount::Tmpfs(tmpfs) => {
                let tree = trees::tmpfs(tmpfs.size, tmpfs.mode, trees::INERT).failed_at(
                    "mount",
                    "tmpfs",
                    &tmpfs.target,
                )?;
                Some(Prepared::directory(&tmpfs.target, What::Own(tree, None)))
            }
            Mount::Proc { target } if plan.has(Namespace::Pid) => {
                let tree = trees::new("proc", &[], KERNEL).map_err(|(errno, detail)| {
                    Failure::new("mount", "proc", errno).at(target).with(detail)
                })?;
                Some(Prepared::directory(target, What::Tree(tree)))
            }
            Mount::Proc { target } => Some(open_kernel_tree("/proc", target, KERNEL)?),
            Mount::Sys { target } => Some(open_kernel_tree("/sys", target, KERNEL)?),
            // As far as this kernel and this user have one: an init copes without.
            Mount::Cgroups { target } => trees::new("cgroup2", &[], KERNEL)
                .ok()
                .map(|tree| Prepared { optional: true, ..Prepared::directory(target, What::Tree(tree)) }),
            Mount::Emulator { target, rule } => {
                let tree = emulator(rule).map_err(|failure| failure.at(target))?;
                Some(Prepared::directory(target, What::Tree(tree)))
            }
            // Whether the host's devices may be executed from is the host's decision.
            Mount::Dev { target, minimal: false, .. } => {
                Some(open_kernel_tree("/dev", target, MountAttrFlags::MOUNT_ATTR_NOSUID)?)
            }
            Mount::Dev { target, minimal: true, pts } => {
                let nosuid = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                let tree = trees::tmpfs(DEV_SIZE, 0o755, nosuid).failed_at("mount", "tmpfs", target)?;
                let inner = dev::Minimal::open(plan, *pts).map_err(|failure| failure.at(target))?;
                Some(Prepared::directory(target, What::Own(tree, Some(inner))))
            }
            Mount::File(file) => Some(Prepared {
                target: &file.target,
                kind: Kind::File,
                optional: file.optional,
                apart: false,
                what: What::File {
                    content: Cow::Borrowed(file.content.as_bytes()),
                    mode: file.mode,
                    owner: file.owner,
                },
            }),
            Mount::Passwd(wish) => merged(&wish.target, files::passwd(image, wish)),
            Mount::Group(wish) => merged(&wish.target, files::group(image, wish)),
        });
    }
    Ok(prepared)
}

impl<'p> Prepared<'p> {
    fn directory(target: &'p Text, what: What<'p>) -> Prepared<'p> {
        Prepared { target, kind: Kind::Directory, optional: false, apart: false, what }
    }
}

/// Whether a refusal tells of this process and not of what it asked for: nothing optional is missing then.
fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

fn open_bind(bind: &Bind) -> Result<Option<Prepared<'_>>, Failure> {
    let opened = trees::of_host(bind.source.as_os_str())
        .and_then(|tree| resolve::kind_of(tree.as_fd()).map(|(kind, _)| (tree, kind)));
    let (tree, kind) = match opened {
        Ok(opened) => opened,
        Err(errno) if bind.optional && !is_shortage(errno) => return Ok(None),
        Err(errno) => return Err(Failure::new("bind-source", "open_tree", errno).at(&bind.source)),
    };
    let mut attributes = MountAttrFlags::empty();
    for (wanted, attribute) in [
        (bind.read_only, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (bind.nosuid, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (bind.nodev, MountAttrFlags::MOUNT_ATTR_NODEV),
        (bind.noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
    ] {
        attributes.set(attribute, wanted);
    }
    trees::restrict(tree.as_fd(), attributes).failed_at("mount", "mount_setattr", &bind.source)?;
    Ok(Some(Prepared {
        target: &bind.target,
        kind,
        optional: bind.optional,
        apart: bind.apart,
        what: What::Tree(tree),
    }))
}

/// The table of interpreters of this user namespace, with one rule in it. The kernel opens the interpreter while the host's files can
/// be seen (flag F), and keeps the rule as long as the table is mounted.
fn emulator(rule: &Text) -> Result<OwnedFd, Failure> {
    let table = trees::new("binfmt_misc", &[], KERNEL)
        .map_err(|(errno, detail)| Failure::new("mount", "binfmt_misc", errno).with(detail))?;
    let failed = |errno| Failure::new("mount", "binfmt_misc", errno);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let register = rustix::fs::openat(&table, "register", flags, Mode::empty()).map_err(failed)?;
    rustix::io::write(&register, rule.as_bytes()).map_err(failed)?;
    Ok(table)
}

fn open_kernel_tree<'p>(
    source: &str,
    target: &'p Text,
    attributes: MountAttrFlags,
) -> Result<Prepared<'p>, Failure> {
    let source_text = Text::from(source);
    let tree = trees::of_host(source).failed_at("bind-source", "open_tree", &source_text)?;
    trees::restrict(tree.as_fd(), attributes).failed_at("mount", "mount_setattr", &source_text)?;
    Ok(Prepared::directory(target, What::Tree(tree)))
}

fn merged<'p>(target: &'p Text, content: Result<Vec<u8>, String>) -> Option<Prepared<'p>> {
    match content {
        Ok(content) => Some(Prepared {
            target,
            kind: Kind::File,
            optional: true,
            apart: false,
            what: What::File { content: Cow::Owned(content), mode: 0o644, owner: None },
        }),
        Err(reason) => {
            warn(&format!("{reason}; it stays as it is"));
            None
        }
    }
}

/// A mount point that the bare root does not have.
pub struct Missing {
    pub target: Text,
    pub location: Location,
    pub kind: Kind,
}

/// Finds the mount points that the bare root lacks, leaving out what lies below another mount's target.
///
/// Optional mounts whose target cannot be looked up are taken off the list.
pub fn missing(root: BorrowedFd<'_>, prepared: &mut Vec<Prepared<'_>>) -> Result<Vec<Missing>, Failure> {
    let lacks_none = prepared.iter().enumerate().all(|(index, mount)| {
        resolve::open(root, mount.target, OFlags::PATH).is_ok()
            || prepared[..index].iter().any(|earlier| spelled_below(mount.target, earlier.target))
    });
    if lacks_none {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    let mut covered: Vec<Location> = Vec::new();
    let mut failure = None;
    prepared.retain(|mount| {
        let location = match Location::find(root, mount.target) {
            Ok(location) => location,
            Err(errno) => {
                if !mount.optional || is_shortage(errno) {
                    failure.get_or_insert(Failure::new("bind-target", "openat2", errno).at(mount.target));
                }
                return false;
            }
        };
        let hidden = covered.iter().any(|earlier| location.is_below(earlier));
        if !hidden && !location.exists() {
            // A second walk, as the location is needed for what comes later as well.
            if let Ok(location) = Location::find(root, mount.target) {
                missing.push(Missing { target: mount.target.clone(), location, kind: mount.kind });
            }
        }
        if !hidden && mount.kind == Kind::Directory {
            covered.push(location);
        }
        true
    });
    failure.map_or(Ok(missing), Err)
}

/// Whether a path is, as written, another one or below it. Only used where a wrong "no" costs time.
fn spelled_below(path: &Text, above: &Text) -> bool {
    path.as_bytes()
        .strip_prefix(above.as_bytes())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || above.as_bytes().ends_with(b"/"))
}

/// Attaches the prepared mounts inside `root`, in order.
pub fn attach(
    root: BorrowedFd<'_>,
    session: &Session,
    prepared: Vec<Prepared<'_>>,
    surface: &Surface,
) -> Result<(), Failure> {
    let mut own = BTreeSet::new();
    // Missing mount points are made beforehand, unless what was deleted from a writable layer hides them.
    if !matches!(surface, Surface::ReadOnly(_)) {
        own.insert(trees::mount_id(root).failed("mount", "statx")?);
    }
    let mut places: Vec<&Text> = Vec::with_capacity(prepared.len());
    for (index, mount) in prepared.into_iter().enumerate() {
        let (optional, target) = (mount.optional, mount.target);
        let within = places.iter().any(|place| spelled_below(target, place));
        places.push(target);
        match attach_one(root, session, index, mount, within, surface, &mut own) {
            Err(failure)
                if !(optional && failure.code == "bind-target")
                    || is_shortage(Errno::from_raw_os_error(failure.errno)) =>
            {
                return Err(failure);
            }
            _ => {}
        }
    }
    Ok(())
}

fn attach_one(
    root: BorrowedFd<'_>,
    session: &Session,
    index: usize,
    mount: Prepared<'_>,
    within: bool,
    surface: &Surface,
    own: &mut BTreeSet<u64>,
) -> Result<(), Failure> {
    let target = open_target(root, &mount, within, own)?;
    if mount.apart && trees::is_mount_point(target.as_fd()).failed("mount", "statx")? {
        return Ok(());
    }
    let tree = match &mount.what {
        What::Tree(tree) => tree,
        What::Own(tree, _) => {
            own.insert(trees::mount_id(tree.as_fd()).failed("mount", "statx")?);
            tree
        }
        What::File { content, mode, owner } => {
            let mut attributes = trees::INERT;
            attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, matches!(surface, Surface::ReadOnly(_)));
            &session
                .file(&format!("file{index}"), content, *mode, *owner)
                .and_then(|tree| trees::restrict(tree.as_fd(), attributes).map(|()| tree))
                .failed_at("mount", "open_tree", mount.target)?
        }
    };
    trees::attach(tree.as_fd(), target.as_fd()).failed_at("mount", "move_mount", mount.target)?;
    match mount.what {
        What::Own(tree, Some(inner)) => inner.fill(tree.as_fd()).map_err(|failure| failure.at(mount.target)),
        _ => Ok(()),
    }
}

/// Opens a mount point, making it where it is missing: in a file system of the container's own, and in a directory of the host's if it was
/// asked for there (`within` an earlier mount, as written). A link of the image leads no such thing to the host.
fn open_target(
    root: BorrowedFd<'_>,
    mount: &Prepared<'_>,
    within: bool,
    own: &BTreeSet<u64>,
) -> Result<OwnedFd, Failure> {
    let refuse =
        |errno, detail: &str| Failure::new("bind-target", "openat2", errno).at(mount.target).with(detail);
    let target = match resolve::open(root, mount.target, OFlags::PATH) {
        Ok(target) => target,
        Err(Errno::NOENT) => {
            let place = Location::find(root, mount.target).map_err(|errno| refuse(errno, ""))?;
            let around = place.deepest(root);
            let id = trees::mount_id(around).failed("mount", "statx")?;
            let detail =
                if own.contains(&id) { "" } else { "the mount point lies in a directory of the host's" };
            if !detail.is_empty() && (mount.optional || !within) {
                return Err(refuse(Errno::NOENT, detail));
            }
            return resolve::make(around, &place.missing, mount.kind).map_err(|errno| refuse(errno, detail));
        }
        Err(errno) => return Err(refuse(errno, "")),
    };
    match (mount.kind, resolve::kind_of(target.as_fd()).failed("mount", "fstat")?.0) {
        (Kind::Directory, Kind::File) => Err(refuse(Errno::NOTDIR, "a directory cannot cover a file")),
        (Kind::File, Kind::Directory) => Err(refuse(Errno::ISDIR, "a file cannot cover a directory")),
        _ => Ok(target),
    }
}
