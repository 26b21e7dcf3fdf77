//! A program of the host that adds to the container's root before it is entered, as NVIDIA's container tool does.
//!
//! It runs as the caller in the container's user namespace, with the capabilities of that, an environment of ours, and nothing of
//! the image's: neither its variables nor its directories lead it anywhere.

use std::io::Read;
use std::os::fd::AsFd;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::WaitOptions;

use super::failure::{Context, Failure};
use super::kernel::{self, Forked};
use super::{capabilities, trees};
use crate::plan::{Namespace, Plan};
use crate::text::Text;

/// The word of the command line that stands for the container's root.
const ROOT: &[u8] = b"ROOT";
const ENVIRONMENT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What it looks at of the host: to stay as it is.
pub const NEEDED: &[&str] = &["/sys", "/proc", "/run", "/var"];
/// More than it has to say.
const LONGEST_COMPLAINT: u64 = 16 << 10;

/// Runs the plan's outfitter, if it has one, on the root at `place`, and waits for its end.
pub fn outfit(plan: &Plan, place: &str) -> Result<(), Failure> {
    let Some(program) = plan.outfitter.first() else { return Ok(()) };
    if plan.has(Namespace::Pid) {
        // The program finds this process by its number, which the host's /proc knows under another.
        if let Ok(proc) = trees::new("proc", &[], trees::INERT) {
            let _ = trees::attach_at(proc.as_fd(), CWD, "/proc");
        }
    }
    let argv: Vec<_> = plan
        .outfitter
        .iter()
        .map(|word| if word.as_bytes() == ROOT { Text::from(place) } else { word.clone() })
        .map(|word| word.to_c_string())
        .collect();
    let (said, saying) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).failed("outfit", "pipe")?;
    // Where nobody waits for children the kernel forgets how they ended.
    kernel::default_action(libc::SIGCHLD);
    let pid = match kernel::fork().failed("outfit", "fork")? {
        Forked::Child => {
            let errno = become_outfitter(&argv, &saying);
            let reason = std::io::Error::from(errno).to_string();
            let _ = rustix::io::write(&saying, reason.as_bytes());
            kernel::exit_now(127);
        }
        Forked::Parent(pid) => pid,
    };
    drop(saying);
    let mut text = Vec::new();
    let mut said = std::fs::File::from(said);
    let _ = (&mut said).take(LONGEST_COMPLAINT).read_to_end(&mut text);
    // Whoever says more is to end all the same.
    let _ = std::io::copy(&mut said, &mut std::io::sink());
    let status = loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Ok(found) => break found.map(|(_, status)| status),
            Err(errno) => return Err(Failure::new("outfit", "waitpid", errno).at(program)),
        }
    };
    if status.is_some_and(|status| status.exit_status() == Some(0)) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&text);
    let last =
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it ended without a word");
    Err(Failure::because("outfit", last).at(program))
}

/// Executes the program; returns only if that failed.
fn become_outfitter(argv: &[std::ffi::CString], saying: &impl AsFd) -> Errno {
    let prepared = rustix::process::chdir(c"/")
        .and_then(|()| rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()))
        .and_then(|null| rustix::stdio::dup2_stdin(&null))
        .and_then(|()| rustix::stdio::dup2_stdout(saying))
        .and_then(|()| rustix::stdio::dup2_stderr(saying))
        .and_then(|()| kernel::close_on_exec_from(3))
        .and_then(|()| capabilities::pass_on());
    if let Err(errno) = prepared {
        return errno;
    }
    for signal in [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGINT, libc::SIGHUP, libc::SIGTERM, libc::SIGCHLD] {
        kernel::default_action(signal);
    }
    kernel::block_signals(false);
    kernel::execve(&argv[0], argv, &[Text::from(ENVIRONMENT).to_c_string()])
}
