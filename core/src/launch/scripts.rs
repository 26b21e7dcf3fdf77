//! The image's environment scripts, `/.singularity.d/env/*.sh`: sourced by the image's own shell, in lexical order,
//! with the injected variables behind `99-base.sh`. The shell runs with no more rights than the payload.
//!
//! The resulting environment is taken from a process that has it, not from text that a shell printed, so that no
//! quoting can go wrong: the shell replaces itself by one that waits, and its environment is read from /proc.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::failure::warn;
use super::kernel::{self, Forked};
use crate::plan::{Environment, Process};
use crate::text::Text;

const SHELL: &str = "/bin/sh";
const FOLDER: &str = "/.singularity.d/env";
/// Descriptors that the shells use to say "ready" and to wait.
const READY: RawFd = 8;
const WAIT: RawFd = 9;
/// Scripts that take longer are given up.
const PATIENCE: Duration = Duration::from_secs(60);
const LARGEST: u64 = 64 << 20;
const STANDARD_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub type Variables = BTreeMap<Text, Text>;

/// The payload's environment where the image's scripts have a say; `None` where they have none.
pub fn environment(process: &Process) -> Option<Variables> {
    let wish = &process.environment;
    let folder = std::fs::read_dir(FOLDER).ok().filter(|_| wish.scripts)?;
    let has_scripts = folder.flatten().any(|entry| entry.file_name().as_encoded_bytes().ends_with(b".sh"));
    if !has_scripts {
        return None;
    }
    if rustix::fs::access(SHELL, rustix::fs::Access::EXEC_OK).is_err() {
        warn("the image has no /bin/sh, so its environment scripts were not run");
        return None;
    }
    let mut given = wish.host.clone();
    given.extend(wish.fixed.clone());
    match ask(&script(wish, process.app.as_ref()), &given) {
        Ok(mut found) => {
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
            Some(found)
        }
        Err(reason) => {
            warn(&format!("the image's environment scripts could not be run: {reason}"));
            None
        }
    }
}

/// What the shell is to do, up to and including the waiting.
fn script(wish: &Environment, app: Option<&Text>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |text: &[u8]| out.extend_from_slice(text);
    put(b"soliton_inject() {\n:\n");
    for (key, value) in &wish.injected {
        if !is_name(key.as_bytes()) {
            continue;
        }
        put(b"export ");
        put(key.as_bytes());
        put(b"=");
        put(&if wish.evaluate { evaluated(value.as_bytes()) } else { literal(value.as_bytes()) });
        put(b"\n");
    }
    put(b"}\nfor soliton_script in /.singularity.d/env/*.sh; do\n");
    put(b"[ -f \"$soliton_script\" ] && . \"$soliton_script\"\n");
    put(b"case $soliton_script in */99-base.sh) soliton_inject; soliton_done=1 ;; esac\ndone\n");
    put(b"[ -n \"$soliton_done\" ] || soliton_inject\n");
    if let Some(app) = app {
        let folder = [b"/scif/apps/", app.as_bytes(), b"/scif/env"].concat();
        put(b"for soliton_script in ");
        put(&literal(&folder));
        put(b"/*.sh; do [ -f \"$soliton_script\" ] && . \"$soliton_script\"; done\n");
    }
    if let Some(path) = &wish.path {
        put(b"PATH=");
        put(&literal(path.as_bytes()));
        put(b"\n");
    }
    if let Some(path) = &wish.prepend_path {
        put(b"PATH=");
        put(&literal(path.as_bytes()));
        put(b":$PATH\n");
    }
    if let Some(path) = &wish.append_path {
        put(b"PATH=$PATH:");
        put(&literal(path.as_bytes()));
        put(b"\n");
    }
    // The standard places are searched whatever an image says.
    for directory in STANDARD_PATH.split(':') {
        put(format!("case :$PATH: in *:{directory}:*) ;; *) PATH=$PATH:{directory} ;; esac\n").as_bytes());
    }
    put(b"export PATH\nunset soliton_script soliton_done\nunset -f soliton_inject\n");
    put(format!("exec {SHELL} -c 'echo >&{READY}; read -r soliton_wait <&{WAIT}'\n").as_bytes());
    out
}

fn is_name(key: &[u8]) -> bool {
    !key.is_empty()
        && !key[0].is_ascii_digit()
        && key.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// Between single quotes, nothing means anything but a single quote.
fn literal(value: &[u8]) -> Vec<u8> {
    let mut out = vec![b'\''];
    for &byte in value {
        match byte {
            b'\'' => out.extend_from_slice(b"'\\''"),
            _ => out.push(byte),
        }
    }
    out.push(b'\'');
    out
}

/// Between double quotes, the value's own expansions happen; its quotes stay.
fn evaluated(value: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for &byte in value {
        if byte == b'"' {
            out.push(b'\\');
        }
        out.push(byte);
    }
    // A backslash at the end would take the closing quote with it.
    if value.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1 {
        out.push(b'\\');
    }
    out.push(b'"');
    out
}

/// Runs the script and reads the environment it ends in.
fn ask(script: &[u8], given: &Variables) -> Result<Variables, String> {
    let said = |error: rustix::io::Errno| std::io::Error::from(error).to_string();
    let (ready, ready_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(said)?;
    let (wait, wait_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(said)?;
    match kernel::fork().map_err(said)? {
        Forked::Child => run(script, given, &ready_end, &wait),
        Forked::Parent(pid) => {
            drop((ready_end, wait));
            let result = wait_and_read(pid, &ready);
            // Ends the waiting shell; a script that hangs is ended the hard way.
            if result.is_ok() {
                let mut end = std::fs::File::from(wait_end);
                let _ = end.write_all(b"\n");
            } else {
                let _ = kill_process(pid, Signal::KILL);
            }
            while waitpid(Some(pid), WaitOptions::empty())
                .is_err_and(|errno| errno == rustix::io::Errno::INTR)
            {}
            result
        }
    }
}

fn run(script: &[u8], given: &Variables, ready: &OwnedFd, wait: &OwnedFd) -> ! {
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
    let shell = Text::from(SHELL).to_c_string();
    let argv = [shell.clone(), Text::from("-c").to_c_string(), Text::new(script).to_c_string()];
    let envp: Vec<_> = given
        .iter()
        .map(|(key, value)| Text::new([key.as_bytes(), b"=", value.as_bytes()].concat()).to_c_string())
        .collect();
    kernel::execve(&shell, &argv, &envp);
    kernel::exit_now(255)
}

fn wait_and_read(pid: Pid, ready: &OwnedFd) -> Result<Variables, String> {
    let mut poll = [rustix::event::PollFd::new(ready, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    match rustix::event::poll(&mut poll, Some(&limit)) {
        Ok(0) => return Err(format!("they took longer than {} s", PATIENCE.as_secs())),
        Ok(_) => {}
        Err(errno) => return Err(std::io::Error::from(errno).to_string()),
    }
    let mut byte = [0];
    if !matches!(rustix::io::read(ready, &mut byte), Ok(1)) {
        return Err("a script ended the shell".to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_leaves_values_whole() {
        assert_eq!(literal(b"it's"), b"'it'\\''s'");
        assert_eq!(evaluated(b"say \"$HOME\""), b"\"say \\\"$HOME\\\"\"");
        assert_eq!(evaluated(b"end\\"), b"\"end\\\\\"");
        assert!(is_name(b"A_1") && !is_name(b"1A") && !is_name(b"A-B") && !is_name(b""));
    }
}
