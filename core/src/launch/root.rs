//! The container's root: an image or a directory, and how missing mount points come into it.
//!
//! Where every mount point exists the root is used as it is. Otherwise a skeleton, a tiny tree with just the
//! missing mount points, becomes the uppermost lower layer of an overlay; nothing needs to be writable for
//! that, and a writable upper directory stays free of mount points. Where overlay is refused, directories
//! that lack an entry are remade from binds.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use super::failure::{Context, Failure};
use super::mounts::Missing;
use super::resolve::{self, Kind};
use super::session::Session;
use super::{trees, underlay};
use crate::ext::volume::Volume;
use crate::plan::{DirectoryRoot, ExtRoot, ImageRoot, Layer, Plan, Root, Seen, Surface};
use crate::squashfs::format as squashfs;
use crate::squashfs::reader::Image;
use crate::text::Text;
use crate::{ext, fuse, shared, source};

/// A root that is attached nowhere yet, and the writable layer that goes over it.
pub struct Opened {
    /// All of it as it will be seen, for looking things up.
    pub tree: OwnedFd,
    /// Where there are several: the layers, lowest first.
    layers: Vec<OwnedFd>,
    upper: Option<Upper>,
    /// The layer that holds the lock of a writable directory.
    keeper: Option<OwnedFd>,
}

/// A writable layer and its working directory.
enum Upper {
    Host(OwnedFd, OwnedFd),
    /// Both in a file system of its own.
    Inside {
        tree: OwnedFd,
        upper: Text,
        work: Text,
    },
}

/// The file of a plan's image, and its status when it was opened.
pub struct OpenImage {
    pub file: Arc<File>,
    pub status: Stat,
}

impl OpenImage {
    /// The image that is a plan's root, or the lowest layer of that; `None` where it is something else.
    pub fn of(plan: &Plan) -> Result<Option<OpenImage>, Failure> {
        lowest(&plan.root).map(open_image).transpose()
    }
}

/// The image that is a root, or the lowest of its layers.
pub fn lowest(root: &Root) -> Option<&ImageRoot> {
    match root {
        Root::Image(image) => Some(image),
        Root::Stack(layers) => layers.first().and_then(lowest),
        Root::Directory(_) | Root::Ext(_) => None,
    }
}

fn open_image(image: &ImageRoot) -> Result<OpenImage, Failure> {
    let opened = source::file(&image.path, image.seen, false);
    let (file, status) = opened.map_err(|error| unreadable(image, &error.into()))?;
    Ok(OpenImage { file: Arc::new(file), status })
}

impl Opened {
    /// The root in a shape that already has what is missing, where the server that shares it has one; what is then still missing.
    pub fn shaped(
        self,
        plan: &Plan,
        missing: Vec<Missing>,
        shapes: Option<shared::Shaper>,
    ) -> (Opened, Vec<Missing>) {
        let fits =
            matches!(plan.surface, Surface::ReadOnly(Layer::Auto | Layer::Overlay)) && self.layers.is_empty();
        match shapes.filter(|_| fits).and_then(|shapes| shapes.shape(&missing)) {
            Some(tree) => (Opened { tree, ..self }, Vec::new()),
            None => (self, missing),
        }
    }
}

/// Opens a plan's root and upper directories on the host. image: the root or its lowest layer, where it is one. shared: the
/// same, if another process mounted it.
pub fn open(plan: &Plan, image: Option<OpenImage>, shared: Option<OwnedFd>) -> Result<Opened, Failure> {
    let mut keeper = None;
    let upper = match &plan.surface {
        Surface::Upper { upper, work, image: None, lock, seen } => {
            let written = open_layer(upper, *seen)?;
            keeper = lock.as_ref().map(|lock| keep(lock, plan)).transpose()?.flatten();
            Some(Upper::Host(written, open_layer(work, None)?))
        }
        Surface::Upper { upper, work, image: Some(image), .. } => {
            Some(Upper::Inside { tree: ext_tree(image, plan)?, upper: upper.clone(), work: work.clone() })
        }
        _ => None,
    };
    let roots = match &plan.root {
        Root::Stack(layers) => layers.as_slice(),
        root => std::slice::from_ref(root),
    };
    let whole = match (shared, image, &roots[0]) {
        (Some(tree), ..) => Some(tree),
        (None, Some(opened), Root::Image(image)) => Some(image_tree(image, opened, plan)?),
        _ => None,
    };
    if roots.len() == 1 && upper.is_none() {
        let tree = whole.map_or_else(|| tree(&roots[0], plan), Ok)?;
        return Ok(Opened { tree, layers: Vec::new(), upper, keeper });
    }
    Ok(Opened { keeper, ..stack(roots, whole, upper, plan)? })
}

/// Locks a writable directory for as long as an overlay lies on it: what comes back is to be one of the overlay's layers.
/// None where there is no FUSE, which nobody needs for directories otherwise.
fn keep(lock: &Text, plan: &Plan) -> Result<Option<OwnedFd>, Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |error: &std::io::Error| {
        Failure::new("overlay", "open", Errno::from_io_error(error).unwrap_or(Errno::IO)).at(lock)
    };
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let options = &mut std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    let mut file = options.open(lock.as_path()).map_err(|error| failed(&error))?;
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Err(Failure::new("overlay", "open", Errno::INVAL).at(lock));
    }
    ext::lock::take(&file, 0, 0, true)
        .map_err(|errno| Failure::new("locked", "fcntl", errno).at(lock).with("write"))?;
    // For those who meet the lock on another machine.
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let owner = format!("{} {host}\n", rustix::process::getpid().as_raw_nonzero());
    let _ = file.set_len(0).and_then(|()| std::io::Write::write_all(&mut file, owner.as_bytes()));
    let number = std::os::fd::AsRawFd::as_raw_fd(&file);
    let (uid, gid) = (plan.identity.uid, plan.identity.gid);
    let served = fuse::spawn(&lock.to_string(), false, number, move |device| {
        super::kernel::ignore(libc::SIGTERM);
        fuse::leave_host();
        fuse::empty::serve(device, uid, gid);
        drop(file);
    });
    Ok(served.ok())
}

fn open_layer(path: &Text, seen: Seen) -> Result<OwnedFd, Failure> {
    // A link could lead what is written anywhere.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let layer =
        rustix::fs::open(path.as_os_str(), flags, Mode::empty()).failed_at("overlay", "open", path)?;
    require_same(seen, layer.as_fd(), path)?;
    Ok(layer)
}

/// A failure if what is open is not what was seen.
fn require_same(seen: Seen, open: BorrowedFd<'_>, path: &Text) -> Result<(), Failure> {
    if seen.is_some() {
        let status = rustix::fs::fstat(open).failed_at("image", "fstat", path)?;
        if !source::is_same(seen, &status) {
            return Err(Failure::new("image", "open", Errno::STALE).at(path));
        }
    }
    Ok(())
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
        Root::Directory(DirectoryRoot { path, seen }) => {
            let tree = trees::of_host(path.as_os_str()).failed_at("image", "open_tree", path)?;
            require_same(*seen, tree.as_fd(), path)?;
            match resolve::kind_of(tree.as_fd()).failed_at("image", "fstat", path)?.0 {
                Kind::Directory => Ok(tree),
                Kind::File => Err(Failure::new("image", "open_tree", Errno::NOTDIR).at(path)),
            }
        }
        Root::Image(image) => image_tree(image, open_image(image)?, plan),
        Root::Ext(image) => ext_tree(image, plan),
        Root::Stack(layers) => Ok(stack(layers, None, None, plan)?.tree),
    }
}

/// Several layers as one tree that cannot be written, attached nowhere, and the layers themselves.
fn stack(
    roots: &[Root],
    shared: Option<OwnedFd>,
    upper: Option<Upper>,
    plan: &Plan,
) -> Result<Opened, Failure> {
    let mut opened: Vec<OwnedFd> = shared.into_iter().collect();
    for root in &roots[opened.len()..] {
        opened.push(tree(root, plan)?);
    }
    // Only what is attached somewhere can be a layer; the overlay keeps what it has taken.
    let session = Session::start()?;
    let mut names = Vec::new();
    let mut layers = Vec::new();
    for (number, (root, layer)) in roots.iter().zip(&opened).enumerate() {
        let name = number.to_string();
        match root {
            Root::Ext(image) if !image.inside.is_empty() => {
                session.attach(layer.as_fd(), &format!("whole{number}"))?;
                match directory_of(layer.as_fd(), &image.inside) {
                    Ok(part) => {
                        let part = trees::of_open(part.as_fd()).failed("mount", "open_tree")?;
                        session.attach(part.as_fd(), &name)?;
                    }
                    // Somebody's image that is laid out as a plain tree.
                    Err(Errno::NOENT) => {
                        let whole = trees::of_open(layer.as_fd()).failed("mount", "open_tree")?;
                        session.attach(whole.as_fd(), &name)?;
                    }
                    Err(errno) => return Err(Failure::new("image", "openat2", errno).at(&image.path)),
                }
            }
            _ => session.attach(layer.as_fd(), &name)?,
        }
        layers.push(session.clone_of(&name)?);
        names.push(name);
    }
    let upper = match upper {
        None => None,
        Some(Upper::Host(upper, work)) => {
            let tree = trees::of_open(upper.as_fd()).failed("overlay", "open_tree")?;
            session.attach(tree.as_fd(), "upper")?;
            names.push("upper".to_owned());
            Some(Upper::Host(upper, work))
        }
        Some(Upper::Inside { tree, upper, work }) => {
            session.attach(tree.as_fd(), "inside")?;
            for path in [&upper, &work] {
                resolve::make_directory(tree.as_fd(), path.as_bytes(), Mode::from_raw_mode(0o755))
                    .failed_at("overlay", "mkdir", path)?;
            }
            let part = directory_of(tree.as_fd(), &upper).failed_at("overlay", "openat2", &upper)?;
            let part = trees::of_open(part.as_fd()).failed("overlay", "open_tree")?;
            session.attach(part.as_fd(), "upper")?;
            names.push("upper".to_owned());
            Some(Upper::Inside { tree: session.clone_of("inside")?, upper, work })
        }
    };
    names.reverse();
    let options = overlay_options(names.join(":").into_bytes(), None, is_by_user(plan, true));
    let tree = session.within(|| make_overlay(&options, trees::INERT))?;
    session.end()?;
    Ok(Opened { tree, layers, upper, keeper: None })
}

/// A directory of an image by its name, never through a link.
fn directory_of(tree: BorrowedFd<'_>, name: &Text) -> Result<OwnedFd, Errno> {
    resolve::open_name(tree, name.as_bytes(), OFlags::PATH | OFlags::DIRECTORY)
}

/// Mounts an ext3 image by a server of its own, which holds the lock of the file.
fn ext_tree(image: &ExtRoot, plan: &Plan) -> Result<OwnedFd, Failure> {
    let failed =
        |errno: i32, detail: String| Failure { errno, ..Failure::because("image", detail).at(&image.path) };
    let (file, _) = source::file(&image.path, image.seen, image.writable)
        .map_err(|error| failed(error.raw_os_error().unwrap_or(0), String::new()))?;
    ext::lock::take(&file, image.offset, image.size, image.writable).map_err(|errno| {
        Failure::new("locked", "fcntl", errno).at(&image.path).with(if image.writable {
            "write"
        } else {
            "read"
        })
    })?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&file);
    let volume = Volume::open(file, image.offset, image.size, image.writable)
        .map_err(|error| failed(error.errno, error.to_string()))?;
    let ids = fuse::ids(image.ids, &plan.identity);
    fuse::spawn(&image.path.to_string(), image.writable, number, move |device| {
        // A job that ends tells every process; this one ends when the last of what was written is in the file.
        super::kernel::ignore(libc::SIGTERM);
        fuse::leave_host();
        ext::server::serve(device, volume, ids);
    })
    .map_err(|error| unmountable(&error, &image.path))
}

fn unmountable(error: &fuse::MountError, path: &Text) -> Failure {
    let code = match (error.call, error.errno) {
        ("/dev/fuse" | "fsopen", Errno::NOENT | Errno::NODEV | Errno::NXIO) => "fuse-missing",
        ("/dev/fuse", _) | (_, Errno::PERM | Errno::ACCESS) => "fuse-denied",
        _ => "mount",
    };
    Failure::new(code, error.call, error.errno).at(path)
}

fn unreadable(image: &ImageRoot, error: &squashfs::Error) -> Failure {
    Failure {
        errno: if let squashfs::Error::Io(_) = error { error.errno() } else { 0 },
        ..Failure::because("image", error.to_string()).at(&image.path)
    }
}

/// Mounts an image by its own server, which ends with the last user of the mount.
fn image_tree(image: &ImageRoot, open: OpenImage, plan: &Plan) -> Result<OwnedFd, Failure> {
    let opened =
        Image::open(open.file, image.offset, image.size).map_err(|error| unreadable(image, &error))?;
    fuse::spawn_server(opened, fuse::ids(image.ids, &plan.identity), &image.path.to_string())
        .map_err(|error| unmountable(&error, &image.path))
}

/// Puts the root together in the session; the result is attached there.
pub fn assemble(
    opened: Opened,
    plan: &Plan,
    missing: &[Missing],
    session: &Session,
) -> Result<OwnedFd, Failure> {
    let Opened { tree, layers, upper, keeper } = opened;
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
            session.attach(tree.as_fd(), &lowest_name(tree.as_fd())?)?;
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
            session.attach(tree.as_fd(), &lowest_name(tree.as_fd())?)?;
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
            session.attach(tree.as_fd(), &lowest_name(tree.as_fd())?)?;
            let mut lower = lower_layers(tree.as_fd(), &layers, missing, session)?;
            if let Some(keeper) = &keeper {
                session.attach(keeper.as_fd(), "keeper")?;
                lower.push_str(":keeper");
            }
            let Some(upper) = upper else {
                return Err(Failure::because("overlay", "no upper directory is open"));
            };
            let named = match (&plan.surface, &upper) {
                (Surface::Upper { image: Some(image), .. }, _) => image.path.clone(),
                (Surface::Upper { upper, .. }, _) => upper.clone(),
                _ => Text::default(),
            };
            let (upper, work) = match upper {
                Upper::Host(upper, work) => (upper, work),
                Upper::Inside { tree, upper, work } => {
                    session.attach(tree.as_fd(), "inside")?;
                    let open =
                        |name: &Text| directory_of(tree.as_fd(), name).failed_at("overlay", "openat2", name);
                    (open(&upper)?, open(&work)?)
                }
            };
            // Named by descriptor: what the paths held at first is what is used, whatever they contain.
            let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
            let over = Some((path(&upper), path(&work)));
            overlay(session, &lower, over, plan, attributes).map_err(|failure| failure.at(&named))
        }
    }
}

fn attributes(plan: &Plan) -> MountAttrFlags {
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    // Without no_new_privs somebody wants set-user-id programs of the image to work.
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, plan.process.no_new_privs);
    attributes
}

/// What the lowest layer is called in the session: a shared image's server knows by it who has that.
fn lowest_name(layer: BorrowedFd<'_>) -> Result<String, Failure> {
    Ok(shared::layer_of(resolve::kind_of(layer).failed("image", "fstat")?.1.st_dev))
}

/// The lower layers of an overlay, uppermost first: the skeleton if one is needed, and the image or what it is stacked
/// from. Names in the session: the kernel takes 255 bytes of them.
fn lower_layers(
    image: BorrowedFd<'_>,
    layers: &[OwnedFd],
    missing: &[Missing],
    session: &Session,
) -> Result<String, Failure> {
    let mut lower = lowest_name(image)?;
    if !layers.is_empty() {
        let mut names: Vec<String> = (0..layers.len()).map(|number| number.to_string()).collect();
        names[0] = lowest_name(layers[0].as_fd())?;
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

/// An overlay of these layers, uppermost first, in which nothing can be written: attached nowhere, by an ordinary user.
pub fn unwritable_overlay(layers: Vec<u8>) -> Result<OwnedFd, Failure> {
    let attributes = trees::INERT | MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOATIME;
    make_overlay(&overlay_options(layers, None, true), attributes)
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
    let by_user = is_by_user(plan, matches!(plan.root, Root::Stack(_)));
    let options = overlay_options(lower.as_bytes().to_vec(), upper, by_user);
    let root = session.within(|| make_overlay(&options, attributes))?;
    session.attach(root.as_fd(), "root")?;
    Ok(root)
}

/// Whether the marks of overlayfs are those that any user can make. `stacked`: there are several layers of images.
fn is_by_user(plan: &Plan, stacked: bool) -> bool {
    stacked || !plan.identity.uid_map.is_empty() || !super::namespaces::is_initial_user_namespace()
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
