//! The payload: where it starts, what it may do, what is executed.

use std::convert::Infallible;
use std::ffi::CString;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getgroups};
use rustix::thread::{Gid, Uid};

use super::failure::{Context, Failure, info, warn};
use super::notes::Notes;
use super::{capabilities, kernel, label, libraries, locale, recorder, scripts, seccomp};
use crate::environment::entry;
use crate::plan::{Action, Capabilities, Identity, Plan, Process};
use crate::text::Text;

/// Where programs are looked for when the environment has no PATH.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LARGEST_RUNSCRIPT: u64 = 1 << 20;
const METADATA: &str = "/.singularity.d";
/// Where control groups are seen.
const CGROUPS: &str = "/sys/fs/cgroup";
/// What is executed to boot an image.
const INIT: &str = "/sbin/init";

/// Changes to the first candidate directory that exists.
pub fn change_directory(process: &Process) -> Result<(), Failure> {
    let mut first = None;
    for candidate in &process.cwd {
        match enter(candidate) {
            Ok(()) => {
                if let Some((missing, errno)) = first {
                    let reason = std::io::Error::from(errno);
                    warn(&format!(
                        "the current directory {missing} cannot be used in the container ({reason}); starting in {candidate}"
                    ));
                }
                return Ok(());
            }
            Err(errno) if process.cwd_required => {
                return Err(Failure::new("cwd", "chdir", errno).at(candidate));
            }
            Err(errno) => {
                first.get_or_insert((candidate, errno));
            }
        }
    }
    rustix::process::chdir(c"/").failed("cwd", "chdir")
}

/// Enters a directory by its names alone: never through a descriptor that /proc shows.
fn enter(path: &Text) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let how = ResolveFlags::NO_MAGICLINKS;
    let directory: OwnedFd = rustix::fs::openat2(CWD, path.as_os_str(), flags, Mode::empty(), how)?;
    rustix::process::fchdir(directory)
}

/// Gives up whatever the payload is not to have, and reads back that it is gone.
/// notes: where owners are noted that files cannot carry.
pub fn confine(plan: &Plan, notes: Option<Notes>) -> Result<(), Failure> {
    become_user(&plan.identity, &plan.process.capabilities)?;
    if plan.process.no_new_privs {
        rustix::thread::set_no_new_privs(true).failed("confinement", "prctl")?;
        if !rustix::thread::no_new_privs().failed("confinement", "prctl")? {
            return Err(Failure::because("confinement", "no_new_privs did not take effect"));
        }
    }
    capabilities::keep(&plan.process.capabilities)?;
    if let Some(label) = &plan.process.label {
        label::apply(label)?;
    }
    if plan.process.emulate_root {
        recorder::emulate(plan.mount_at.as_ref(), notes)?;
    } else if plan.process.emulate_devices {
        seccomp::emulate(seccomp::Emulated::Devices)?;
    }
    Ok(())
}

fn become_user(identity: &Identity, keep: &Capabilities) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let changes = geteuid() != uid || getegid() != gid;
    if !identity.groups.is_empty() || (changes && identity.uid_map.is_empty()) {
        let groups: Vec<Gid> = identity.groups.iter().map(|&g| Gid::from_raw(g)).collect();
        rustix::thread::set_thread_groups(&groups).failed("confinement", "setgroups")?;
        if getgroups().failed("confinement", "getgroups")?.len() != groups.len() {
            return Err(Failure::because("confinement", "the groups are not those that were asked for"));
        }
    }
    if !changes {
        return Ok(());
    }
    if *keep != Capabilities::None {
        rustix::thread::set_keep_capabilities(true).failed("confinement", "prctl")?;
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid).failed("confinement", "setresgid")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).failed("confinement", "setresuid")?;
    if geteuid() != uid || getegid() != gid {
        return Err(Failure::because("confinement", "the ids are not those that were asked for"));
    }
    Ok(())
}

/// Lets no descriptor through to the payload but the first three.
pub fn close_descriptors() -> Result<(), Failure> {
    kernel::close_on_exec_from(3).failed("confinement", "close_range")
}

/// The payload's environment and the words to execute.
pub struct Command {
    argv: Vec<CString>,
    envp: Vec<CString>,
    path: Vec<u8>,
    filter: Vec<u64>,
}

impl Command {
    pub fn of(plan: &Plan) -> Result<Command, Failure> {
        let fallen_back = locale::fallen_back(&plan.process);
        let process = fallen_back.as_ref().unwrap_or(&plan.process);
        // Before the image's scripts say it in their way.
        if let Some(app) = &process.app
            && !exists(&Text::new([b"/scif/apps/", app.as_bytes()].concat()))
        {
            return Err(Failure::because("app", "the image has no such app").at(app));
        }
        let mut environment = environment(process, libraries::are_shown(plan))?;
        let words = match without_shell(process, &environment) {
            Some(words) => words?,
            None => words(process)?,
        };
        if process.action == Action::Shell && process.shells.len() > 1 {
            // The caller's may not be in the image, and programs start it.
            environment.retain(|(key, _)| key.as_bytes() != b"SHELL");
            environment.extend(words.first().map(|shell| (Text::from("SHELL"), shell.clone())));
        }
        let path = environment.iter().find(|(key, _)| key.as_bytes() == b"PATH");
        let path = path.map_or(DEFAULT_PATH.to_vec(), |(_, value)| value.as_bytes().to_vec());
        let envp = environment
            .iter()
            .map(|(key, value)| {
                let mut pair = key.as_bytes().to_vec();
                pair.push(b'=');
                pair.extend_from_slice(value.as_bytes());
                Text::new(pair).to_c_string()
            })
            .collect();
        Ok(Command {
            argv: words.iter().map(Text::to_c_string).collect(),
            envp,
            path,
            filter: process.filter.clone(),
        })
    }

    /// The same circumstances for another program.
    pub fn with_words(&self, words: &[Text]) -> Command {
        Command {
            argv: words.iter().map(Text::to_c_string).collect(),
            envp: self.envp.clone(),
            path: self.path.clone(),
            filter: self.filter.clone(),
        }
    }

    /// The value of a variable that the payload will see.
    pub fn variable(&self, name: &str) -> Option<Vec<u8>> {
        let value = |pair: &CString| {
            pair.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec)
        };
        self.envp.iter().find_map(value)
    }

    /// A script without a first line, as a shell would start it; returns if that is not what it is.
    fn execute_by_shell(&self, errno: Errno, script: &Text) {
        let shell = Text::from(scripts::SHELL).to_c_string();
        if errno == Errno::NOEXEC && is_script(script) {
            let mut argv = vec![shell.clone(), script.to_c_string()];
            argv.extend(self.argv.iter().skip(1).cloned());
            kernel::execve(&shell, &argv, &self.envp);
        }
    }

    /// Executes the payload; returns only if that failed.
    pub fn execute(&self) -> Result<Infallible, Failure> {
        let Some(name) = self.argv.first() else {
            return Err(Failure::because("not-found", "no program was named"));
        };
        let text = Text::new(name.as_bytes());
        seccomp::confine(&self.filter)?;
        if name.as_bytes().contains(&b'/') {
            let errno = kernel::execve(name, &self.argv, &self.envp);
            if errno == Errno::NOENT
                && let Some(interpreter) = missing_interpreter(&text)
            {
                let reason = format!("{text} is a script for {interpreter}, which is not in the image");
                return Err(Failure::because("exec", reason));
            }
            self.execute_by_shell(errno, &text);
            return Err(Failure::new("exec", "execve", errno).at(&text));
        }
        let mut refusal = Errno::NOENT;
        for directory in self.path.split(|&b| b == b':') {
            let mut candidate = if directory.is_empty() { b".".to_vec() } else { directory.to_vec() };
            candidate.push(b'/');
            candidate.extend_from_slice(name.as_bytes());
            let candidate = Text::new(candidate);
            match kernel::execve(&candidate.to_c_string(), &self.argv, &self.envp) {
                Errno::NOENT | Errno::NOTDIR => {}
                Errno::ACCESS => refusal = Errno::ACCESS,
                errno => {
                    self.execute_by_shell(errno, &candidate);
                    return Err(Failure::new("exec", "execve", errno).at(&candidate));
                }
            }
        }
        Err(Failure::new("not-found", "execve", refusal).at(&text))
    }
}

/// Whether a file that the kernel does not execute is a script that does not say by what: shells take it for one of theirs.
fn is_script(path: &Text) -> bool {
    first_bytes(&path.to_string(), 80)
        .is_some_and(|start| !start.contains(&0) && !start.starts_with(b"\x7fELF"))
}

/// What is executed, by the plan's action.
fn words(process: &Process) -> Result<Vec<Text>, Failure> {
    let base = match &process.app {
        Some(app) => format!("/scif/apps/{app}/scif"),
        None => METADATA.to_owned(),
    };
    let first = match process.action {
        Action::Exec => return Ok(process.argv.clone()),
        Action::Boot => Some(init()?),
        // The one that was asked for is not replaced by another.
        Action::Shell if process.shells.len() == 1 => process.shells.first().cloned(),
        Action::Shell => process.shells.iter().find(|shell| exists(shell)).cloned(),
        Action::Run => Some(Text::from(format!("{base}/runscript").as_str())).filter(exists),
        Action::Test => Some(Text::from(format!("{base}/test").as_str())).filter(exists),
        Action::Start => Some(Text::from(format!("{base}/startscript").as_str())).filter(exists),
    };
    if first.is_none()
        && process.action != Action::Shell
        && let Some(app) = &process.app
    {
        let script = if process.action == Action::Test { "test" } else { "script to run" };
        return Err(Failure::because("app", format!("it has no {script}")).at(app));
    }
    if first.is_none() && process.action == Action::Test {
        return Err(Failure::because("no-test", "No test script found in container, exiting"));
    }
    let first = first.unwrap_or_else(|| {
        if process.action == Action::Run && exists(&Text::from(scripts::SHELL)) {
            info("No runscript found in container, executing /bin/sh");
        }
        Text::from(scripts::SHELL)
    });
    let mut words = vec![first];
    if process.action == Action::Shell && words[0].as_bytes().ends_with(b"/bash") {
        // The prompt that tells where one is would be replaced by the image's start-up files.
        words.push(Text::from("--norc"));
    }
    words.extend(process.argv.iter().cloned());
    Ok(words)
}

/// What boots the image. Raised here is what would end it at once, and without a word: it has nowhere to say it.
fn init() -> Result<Text, Failure> {
    let Ok(program) = std::fs::canonicalize(INIT) else {
        return Err(Failure::because("boot", format!("it has no {INIT}: an init has to be installed in it")));
    };
    let refused = rustix::fs::access(CGROUPS, rustix::fs::Access::WRITE_OK)
        .is_err_and(|errno| matches!(errno, Errno::ACCESS | Errno::PERM | Errno::ROFS));
    if program.ends_with("systemd") && refused {
        return Err(Failure::because(
            "boot",
            "systemd makes control groups, and may not here: try `systemd-run --user --scope -p Delegate=yes` before the command",
        ));
    }
    Ok(Text::from(INIT))
}

/// Whether an instance has nothing to start: its startscript is not there, or does nothing.
pub fn is_idle(process: &Process) -> bool {
    if process.action != Action::Start {
        return false;
    }
    let name = match &process.app {
        Some(app) => format!("/scif/apps/{app}/scif/startscript"),
        None => format!("{METADATA}/startscript"),
    };
    match first_bytes(&name, LARGEST_RUNSCRIPT) {
        Some(text) => text.split(|&byte| byte == b'\n').all(|line| {
            let line = line.trim_ascii();
            line.is_empty() || line.starts_with(b"#")
        }),
        None => !exists(&Text::from(name.as_str())),
    }
}

/// What the runscript of an OCI image executes, if there is no shell to run it.
fn without_shell(process: &Process, environment: &[(Text, Text)]) -> Option<Result<Vec<Text>, Failure>> {
    if process.action != Action::Run || process.app.is_some() || scripts::has_shell() {
        return None;
    }
    let script = first_bytes(&format!("{METADATA}/runscript"), LARGEST_RUNSCRIPT)?;
    let no_eval =
        |name: &str| environment.iter().any(|(key, value)| *key == Text::from(name) && !value.is_empty());
    let evaluate = !no_eval("SINGULARITY_NO_EVAL") && !no_eval("APPTAINER_NO_EVAL");
    let words = entry::words(&script, &process.argv, environment, evaluate)?;
    Some(words.map_err(|reason| {
        let what = reason.what;
        Failure::because("exec", format!("the image has no {} to evaluate the arguments with ({what}): `--no-eval` passes them as they are", scripts::SHELL))
    }))
}

/// The interpreter that a script names, where that is what could not be found.
fn missing_interpreter(script: &Text) -> Option<Text> {
    let text = first_bytes(&script.to_string(), 256)?;
    let line = text.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?.trim_ascii();
    let interpreter = Text::new(line.split(u8::is_ascii_whitespace).next()?);
    (!exists(&interpreter)).then_some(interpreter)
}

fn first_bytes(path: &str, limit: u64) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let mut text = Vec::new();
    file.metadata().ok()?.is_file().then_some(())?;
    file.take(limit).read_to_end(&mut text).ok()?;
    Some(text)
}

fn exists(path: &Text) -> bool {
    rustix::fs::access(path.as_os_str(), rustix::fs::Access::EXISTS).is_ok()
}

fn environment(process: &Process, libraries_shown: bool) -> Result<Vec<(Text, Text)>, Failure> {
    let wish = &process.environment;
    let mut all = scripts::environment(process)?.unwrap_or_else(|| {
        let mut all = wish.host.clone();
        all.extend(wish.injected.clone());
        all.extend(wish.fixed.clone());
        let path = wish.path.clone().or_else(|| all.get(&Text::from("PATH")).cloned());
        let parts = [wish.prepend_path.clone(), path, wish.append_path.clone()];
        let parts: Vec<Vec<u8>> = parts.into_iter().flatten().map(|part| part.as_bytes().to_vec()).collect();
        if !parts.is_empty() {
            all.insert("PATH".into(), Text::new(parts.join(&b':')));
        }
        all
    });
    all.entry("PATH".into()).or_insert_with(|| Text::new(DEFAULT_PATH));
    if wish.scripts {
        libraries::complete(&mut all, libraries_shown);
    }
    Ok(all.into_iter().collect())
}
