//! The image's environment scripts, `/.singularity.d/env/*.sh`, in lexical order, with the injected variables behind
//! `99-base.sh`: carried out by `environment/`, and by the image's own shell where they need one. That shell runs with no more
//! rights than the payload. Both ways have the same result.
//!
//! The shell's is taken from a process that has it, not from text that a shell printed, so that no quoting can go wrong: the
//! shell replaces itself by one that waits, and its environment is read from /proc.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::failure::{Failure, warn};
use super::kernel::{self, Forked};
use super::seccomp;
use crate::environment::chain::{OF_PATH, STANDARD_PATH, Wish, evaluated, export, literal, of_path, scripts};
use crate::environment::{Interpreter, is_name};
use crate::plan::{Environment, Process};
use crate::text::Text;

pub const SHELL: &str = "/bin/sh";
/// Carries out the environment scripts where the image has it, called by the name of `sh`: recipes write `source` and `[[` there, which the
/// peers' own interpreter knows whatever the image's /bin/sh is.
const BASH: &str = "/bin/bash";
const FOLDER: &str = "/.singularity.d/env";
/// What images had before they had that folder.
const OLD: &str = "/environment";
/// Descriptors that the shells use to say "ready" and to wait.
const READY: RawFd = 8;
const WAIT: RawFd = 9;
/// Scripts that take longer are given up.
const PATIENCE: Duration = Duration::from_secs(60);
const LARGEST: u64 = 64 << 20;

pub type Variables = BTreeMap<Text, Text>;

/// The payload's environment where the image's scripts have a say; `None` where they have none.
pub fn environment(process: &Process) -> Result<Option<Variables>, Failure> {
    let wish = &process.environment;
    let found = if wish.scripts { of_image() } else { Vec::new() };
    let given = !(wish.injected.is_empty() && wish.files.is_empty() && of_path(wish).is_empty());
    if found.is_empty() && !(given && wish.evaluate && wish.scripts) {
        return Ok(None);
    }
    let app_scripts = match &process.app {
        Some(app) => scripts(Text::new([b"/scif/apps/", app.as_bytes(), b"/scif/env"].concat()).as_path()),
        None => Vec::new(),
    };
    let mut given = wish.host.clone();
    given.extend(wish.fixed.clone());
    // Shells that get none make one up, each another.
    given.entry("PATH".into()).or_insert_with(|| STANDARD_PATH.into());
    let chain = Wish { environment: wish, scripts: &found, app_scripts: &app_scripts };
    if let Ok(interpreter) = chain.carry_out(&given) {
        return Ok(Some(finished(variables(&interpreter), &given, wish)));
    }
    if has_shell() {
        return match ask(&script(wish, &found, &app_scripts), &given, process) {
            Ok(found) => Ok(Some(finished(found, &given, wish))),
            Err(Trouble::Patience(seconds)) => {
                let detail = format!("they took longer than {seconds} s");
                Err(Failure::because("environment", detail))
            }
            Err(Trouble::Other(reason)) => {
                warn(&format!("the image's environment scripts could not be run: {reason}"));
                Ok(None)
            }
        };
    }
    Ok(match chain.carry_out_what_can_be(&given) {
        Ok(interpreter) => {
            for reason in &interpreter.left_out {
                warn(&format!(
                    "the image has no {SHELL} to carry this out with, so it was left out: {reason}"
                ));
            }
            Some(finished(variables(&interpreter), &given, wish))
        }
        Err(reason) => {
            warn(&format!("the image has no {SHELL}, so its environment scripts were not run: {reason}"));
            None
        }
    })
}

fn of_image() -> Vec<PathBuf> {
    let old = Path::new(OLD);
    if !Path::new(FOLDER).is_dir() && old.is_file() {
        return vec![old.to_owned()];
    }
    scripts(Path::new(FOLDER))
}

/// Why a shell did not tell the environment.
enum Trouble {
    Patience(u64),
    Other(String),
}

impl From<String> for Trouble {
    fn from(reason: String) -> Trouble {
        Trouble::Other(reason)
    }
}

/// Whether the image can run scripts of its own.
pub fn has_shell() -> bool {
    rustix::fs::access(SHELL, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Whatever carries out scripts that were declined.
fn shell() -> &'static str {
    if rustix::fs::access(BASH, rustix::fs::Access::EXEC_OK).is_ok() { BASH } else { SHELL }
}

fn variables(interpreter: &Interpreter) -> Variables {
    interpreter.exported().map(|(key, value)| (Text::new(key), Text::new(value))).collect()
}

/// What no script has a say in.
fn finished(mut found: Variables, given: &Variables, wish: &Environment) -> Variables {
    for (key, value) in &wish.fixed {
        found.insert(key.clone(), value.clone());
    }
    // What shells add of their own.
    for own in ["_", "OLDPWD", "SHLVL"] {
        let key = Text::from(own);
        match wish.host.get(&key) {
            Some(value) => found.insert(key, value.clone()),
            None => found.remove(&key),
        };
    }
    // No shell has variables of these names; some drop them on the way.
    for (key, value) in given.iter().filter(|(key, _)| !is_name(key.as_bytes())) {
        found.insert(key.clone(), value.clone());
    }
    found
}

/// What the shell is to do, up to and including the waiting.
fn script(wish: &Environment, found: &[PathBuf], app_scripts: &[PathBuf]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |text: &[u8]| out.extend_from_slice(text);
    let [before, behind, instead] = OF_PATH;
    // A prompt is preset by some shells and dropped by others.
    put(b"unset PS1\n");
    // Not every shell tells who the user is.
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    put(format!(
        "[ -n \"$UID\" ] || UID={0}\n[ -n \"$EUID\" ] || EUID={0}\n[ -n \"$GID\" ] || GID={1}\n",
        uid.as_raw(),
        gid.as_raw()
    )
    .as_bytes());
    put(b"soliton_inject() {\n:\n");
    if !wish.files.is_empty() {
        put(b"soliton_before=$PATH\n");
        for file in &wish.files {
            put(file.as_bytes());
            put(b"\n");
        }
        // Evaluated once more, as values are: some write `\$PATH` in a file.
        put(b"if [ \"$PATH\" != \"$soliton_before\" ]; then\nsoliton_path=$PATH\nPATH=$soliton_before\n");
        put(format!(
            "eval \"export {instead}=\\\"$soliton_path\\\"\"\nfi\nunset soliton_before soliton_path\n"
        )
        .as_bytes());
    }
    let paths = of_path(wish);
    for (key, value) in wish.injected.iter().chain(paths.iter().map(|(key, value)| (key, *value))) {
        if !is_name(key.as_bytes()) {
            continue;
        }
        let value = if wish.evaluate { evaluated(value.as_bytes()) } else { literal(value.as_bytes()) };
        put(&export(key.as_bytes(), &value));
    }
    put(format!("[ -z \"${instead}\" ] || soliton_chosen=1\n}}\n").as_bytes());
    let source = |script: &Path| {
        let path = literal(script.as_os_str().as_encoded_bytes());
        [b"[ -f ", path.as_slice(), b" ] && . ", &path, b"\n"].concat()
    };
    let ends =
        |script: &PathBuf, name: &str| script.as_os_str().as_encoded_bytes().ends_with(name.as_bytes());
    let mut inject = b"soliton_inject\n".to_vec();
    if !found.iter().any(|script| ends(script, "/95-apps.sh")) {
        inject = [app_scripts.iter().flat_map(|script| source(script)).collect(), inject].concat();
    }
    for script in found {
        put(&source(script));
        if ends(script, "/99-base.sh") {
            put(&inject);
        }
    }
    if !found.iter().any(|script| ends(script, "/99-base.sh")) {
        put(&inject);
    }
    put(format!("[ -z \"${before}\" ] || PATH=${before}:$PATH\n").as_bytes());
    put(format!("[ -z \"${behind}\" ] || PATH=$PATH:${behind}\n").as_bytes());
    put(format!("[ -z \"${instead}\" ] || PATH=${instead}\n").as_bytes());
    // The standard places are searched whatever an image says, but not whatever the caller says.
    put(b"if [ -z \"$soliton_chosen\" ]; then\n");
    for directory in STANDARD_PATH.split(':') {
        put(format!("case :$PATH: in *:{directory}:*) ;; *) PATH=$PATH:{directory} ;; esac\n").as_bytes());
    }
    put(b"fi\n");
    put(format!("export PATH\nunset soliton_chosen {before} {behind} {instead}\nunset -f soliton_inject\n")
        .as_bytes());
    put(format!("exec {SHELL} -c 'echo >&{READY}; read -r soliton_wait <&{WAIT}'\n").as_bytes());
    out
}

/// Runs the script and reads the environment it ends in.
fn ask(script: &[u8], given: &Variables, process: &Process) -> Result<Variables, Trouble> {
    let said = |error: rustix::io::Errno| std::io::Error::from(error).to_string();
    let (ready, ready_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(said)?;
    let (wait, wait_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(said)?;
    match kernel::fork().map_err(said)? {
        Forked::Child => run(script, given, &process.filter, &ready_end, &wait),
        Forked::Parent(pid) => {
            drop((ready_end, wait));
            let result = wait_and_read(
                pid,
                &ready,
                process.patience.map_or(PATIENCE, |seconds| Duration::from_secs(seconds.into())),
            );
            // Ends the waiting shell; a script that hangs is ended the hard way.
            if result.is_ok() {
                let mut end = std::fs::File::from(wait_end);
                let _ = end.write_all(b"\n");
            } else {
                for one in with_descendants(pid) {
                    let _ = kill_process(one, Signal::KILL);
                }
            }
            while waitpid(Some(pid), WaitOptions::empty())
                .is_err_and(|errno| errno == rustix::io::Errno::INTR)
            {}
            result
        }
    }
}

/// A process and what it has started, as far as the kernel lists it.
fn with_descendants(pid: Pid) -> Vec<Pid> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(one) = found.get(at).map(|pid| pid.as_raw_nonzero()) {
        let children =
            std::fs::read_to_string(format!("/proc/{one}/task/{one}/children")).unwrap_or_default();
        found.extend(children.split_ascii_whitespace().filter_map(|word| Pid::from_raw(word.parse().ok()?)));
        at += 1;
    }
    found
}

fn run(script: &[u8], given: &Variables, filter: &[u64], ready: &OwnedFd, wait: &OwnedFd) -> ! {
    // Out of the way first: either may have the number that the other one is to get.
    let apart = |fd| rustix::io::fcntl_dupfd_cloexec(fd, READY.max(WAIT) + 1);
    let (Ok(ready), Ok(wait)) = (apart(ready), apart(wait)) else { kernel::exit_now(255) };
    for (fd, number) in [(ready, READY), (wait, WAIT)] {
        // SAFETY: the number is not owned by anything in this process, which is about to execute another program.
        let mut target = unsafe { OwnedFd::from_raw_fd(number) };
        let _ = rustix::io::dup2(fd, &mut target);
        std::mem::forget(target);
    }
    if let Ok(null) = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
    }
    // What scripts print is not the payload's output.
    let _ = rustix::stdio::dup2_stdout(rustix::stdio::stderr());
    let shell = Text::from(shell()).to_c_string();
    let argv =
        [Text::from(SHELL).to_c_string(), Text::from("-c").to_c_string(), Text::new(script).to_c_string()];
    let envp: Vec<_> = given
        .iter()
        .map(|(key, value)| Text::new([key.as_bytes(), b"=", value.as_bytes()].concat()).to_c_string())
        .collect();
    if seccomp::confine(filter).is_ok() {
        kernel::execve(&shell, &argv, &envp);
    }
    kernel::exit_now(255)
}

fn wait_and_read(pid: Pid, ready: &OwnedFd, patience: Duration) -> Result<Variables, Trouble> {
    let mut poll = [rustix::event::PollFd::new(ready, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
    match rustix::event::poll(&mut poll, Some(&limit)) {
        Ok(0) => return Err(Trouble::Patience(patience.as_secs())),
        Ok(_) => {}
        Err(errno) => return Err(Trouble::Other(std::io::Error::from(errno).to_string())),
    }
    let mut byte = [0];
    if !matches!(rustix::io::read(ready, &mut byte), Ok(1)) {
        return Err(Trouble::Other("a script ended the shell".to_owned()));
    }
    let mut text = Vec::new();
    let path = format!("/proc/{}/environ", pid.as_raw_nonzero());
    let file = std::fs::File::open(&path).map_err(|error| format!("{path}: {error}"))?;
    let _ = file.as_raw_fd();
    file.take(LARGEST).read_to_end(&mut text).map_err(|error| format!("{path}: {error}"))?;
    let mut found = Variables::new();
    for pair in text.split(|&byte| byte == 0) {
        if let Some(at) = pair.iter().position(|&byte| byte == b'=') {
            found.insert(Text::new(&pair[..at]), Text::new(&pair[at + 1..]));
        }
    }
    Ok(found)
}
