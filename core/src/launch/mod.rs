//! The executor of a plan: namespaces, mounts, identity, confinement, the payload.
//!
//! One short function says the order of things; each step is a module. Until the root is entered a failure
//! goes to the plan's reporter; afterwards there is no reporter to be found, and a few messages are told here.

pub mod capabilities;
pub mod copies;
pub mod data;
pub mod dev;
mod door;
pub mod failure;
pub mod files;
mod fusemount;
pub mod glob;
mod handed;
pub mod identity;
pub mod init;
pub mod instance;
pub mod join;
pub mod kernel;
mod label;
mod libraries;
pub mod locale;
pub mod mounts;
pub mod namespaces;
pub mod network;
pub mod notes;
mod outfit;
pub mod probe;
pub mod process;
mod recorder;
pub mod remove;
pub mod resolve;
pub mod root;
pub mod scripts;
mod seccomp;
pub mod session;
pub mod trees;
pub mod underlay;

use std::convert::Infallible;
use std::os::fd::{AsFd, RawFd};

use failure::{Context, Failure};
use handed::Handed;
use init::Inside;
use instance::Instance;
use notes::Notes;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::plan::{self, Plan};
use crate::request;
use crate::shared;

/// The status of a launch that failed.
const FAILURE: i32 = 255;
/// The status where the image lacks the app, or the app what is to be run.
const NO_SUCH_APP: i32 = 1;

/// The verb `launch`: becomes the payload; returns the exit status if it could not.
pub fn run(fd: RawFd) -> i32 {
    let plan: Plan = match request::read(fd) {
        Ok(plan) => plan,
        Err(message) => {
            failure::fatal("the plan of the container cannot be used", &[&message]);
            return FAILURE;
        }
    };
    carry_out(&plan, None, None)
}

/// Becomes the payload of a plan whose image is open already; returns the exit status if that could not be.
pub fn launch(plan: &Plan, image: Option<root::OpenImage>) -> i32 {
    carry_out(plan, None, image)
}

/// Carries out a plan in the foreground, or as an instance. image: its image, if that is open already. Returns the exit status
/// if there is no payload.
fn carry_out(plan: &Plan, instance: Option<&Instance>, image: Option<root::OpenImage>) -> i32 {
    if plan.version != plan::VERSION {
        failure::fatal(
            &format!("the plan has version {}, and this core understands {}", plan.version, plan::VERSION),
            &["the Python package and the program `soliton` are not from the same installation"],
        );
        return FAILURE;
    }
    failure::say_up_to(plan.level);
    let handed = if instance.is_none() { handed::look() } else { None };
    if plan.attached {
        init::attach_to_caller();
    }
    let umask = rustix::process::umask(Mode::empty());
    let files = raise_file_limit();
    match assemble(plan, umask, instance, image) {
        Err(failure) => failure::report(&plan.reporter, &failure),
        Ok(assembled) => match start(plan, umask, files, assembled, instance, handed) {
            Err(failure) => {
                failure::explain(&failure);
                let status = status_of(&failure);
                if let Some(instance) = instance {
                    instance.failed(status);
                }
                return status;
            }
            Ok(never) => match never {},
        },
    }
    FAILURE
}

fn status_of(failure: &Failure) -> i32 {
    match failure.code {
        "no-test" => 0,
        "app" => NO_SUCH_APP,
        _ => FAILURE,
    }
}

fn file_limit() -> Rlimit {
    getrlimit(Resource::Nofile)
}

/// Every bind is an open file for a while: as many as may be. The limit that was comes back for the payload.
fn raise_file_limit() -> Rlimit {
    let limit = file_limit();
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    limit
}

/// What standing in the container's root leaves to do with.
struct Assembled<'p> {
    inside: Option<Inside>,
    programs: fusemount::Programs<'p>,
    /// Where owners are noted that files cannot carry.
    notes: Option<Notes>,
}

/// Everything up to standing in the container's root.
fn assemble<'p>(
    plan: &'p Plan,
    umask: Mode,
    instance: Option<&'p Instance>,
    image: Option<root::OpenImage>,
) -> Result<Assembled<'p>, Failure> {
    let mut programs = fusemount::prepare(plan, umask, instance.map(Instance::logs))?;
    let image = image.map_or_else(|| root::OpenImage::of(plan), |image| Ok(Some(image)))?;
    let (namespace, tree, shapes) = match shared::join(plan, image.as_ref()) {
        Some(shared::Joined { user_namespace, tree, shapes }) => (Some(user_namespace), tree, shapes),
        None => (None, None, None),
    };
    namespaces::enter(plan, namespace.as_ref().map(AsFd::as_fd))?;
    // Before there is a PID namespace: the server of an image belongs to no container.
    let opened = root::open(plan, image, tree)?;
    let data = data::open(plan)?;
    let copies = copies::open(plan)?;
    let notes = Notes::open(plan)?;
    let inside = init::enter(plan, instance)?;
    let mut prepared = mounts::prepare(plan, opened.tree.as_fd(), data, &mut programs)?;
    let missing = match plan.surface {
        plan::Surface::Direct => Vec::new(),
        _ => mounts::missing(opened.tree.as_fd(), &mut prepared)?,
    };
    let (opened, missing) = opened.shaped(plan, missing, shapes);
    let copies = copies.find()?;
    let place = root::place(plan)?;
    let session = session::Session::start_but(if plan.outfitter.is_empty() { &[] } else { outfit::NEEDED })?;
    let root = root::assemble(opened, plan, &missing, &session)?;
    mounts::attach(root.as_fd(), &session, prepared, &plan.surface)?;
    programs.start_on_host()?;
    copies.carry_out(root.as_fd(), notes.as_ref())?;
    outfit::outfit(plan, &session.path("root"))?;
    match place {
        None => root::enter(root.as_fd())?,
        // The host's own root stays.
        Some(place) => {
            trees::attach(root.as_fd(), place.as_fd()).failed("mount", "move_mount")?;
            session.end()?;
        }
    }
    Ok(Assembled { inside, programs, notes })
}

/// Everything after that: the payload's circumstances, and the payload.
fn start(
    plan: &Plan,
    umask: Mode,
    files: Rlimit,
    assembled: Assembled<'_>,
    instance: Option<&Instance>,
    handed: Option<Handed>,
) -> Result<Infallible, Failure> {
    let Assembled { inside, programs, notes } = assembled;
    if let Some(instance) = instance.filter(|_| !instance::has_process(plan)) {
        return instance.hold(plan);
    }
    let shared = instance.filter(|instance| instance.is_shared());
    if shared.is_none() {
        process::change_directory(&plan.process)?;
    }
    process::confine(plan, notes)?;
    // From here on code of the image may run beside this process.
    kernel::hide().failed("confinement", "prctl")?;
    if let Some(inside) = inside {
        inside.become_payload(&plan.process, instance)?;
    }
    if let Some(shared) = shared {
        shared.stand_by();
    }
    process::close_descriptors()?;
    let command = process::Command::of(plan)?;
    let _ = setrlimit(Resource::Nofile, files);
    rustix::process::umask(plan.process.umask.map_or(umask, Mode::from_raw_mode));
    // Python and this program's runtime ignore these two; everything else is as the caller set it.
    kernel::default_action(libc::SIGPIPE);
    kernel::default_action(libc::SIGXFSZ);
    kernel::block_signals(false);
    programs.start_inside(&command)?;
    match instance {
        Some(instance) => instance.execute(&command, process::is_idle(&plan.process)),
        None => {
            if let Some(handed) = handed {
                handed.hand_on(|name| command.variable(name));
            }
            command.execute()
        }
    }
}
