//! A launch that failed, told in the form that Python explains.

use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;
use serde::Serialize;

use crate::request::Refusal;
use crate::text::Text;

/// What could not be done. `code` is a word of `docs/architecture.md`, `call` the kernel's or helper's name.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    pub code: &'static str,
    pub call: &'static str,
    pub errno: i32,
    pub path: Option<Text>,
    pub detail: String,
}

impl Failure {
    pub fn new(code: &'static str, call: &'static str, errno: Errno) -> Failure {
        Failure { code, call, errno: errno.raw_os_error(), path: None, detail: String::new() }
    }

    /// A failure that is no system call's.
    pub fn because(code: &'static str, detail: impl Into<String>) -> Failure {
        Failure { code, call: "", errno: 0, path: None, detail: detail.into() }
    }

    pub fn at(mut self, path: &Text) -> Failure {
        self.path = Some(path.clone());
        self
    }

    pub fn with(mut self, detail: impl Into<String>) -> Failure {
        self.detail = detail.into();
        self
    }

    /// One clause for a log or for a verb that reports by events.
    pub fn message(&self) -> String {
        let mut text = String::new();
        if !self.call.is_empty() {
            text.push_str(self.call);
        }
        if let Some(path) = &self.path {
            text.push_str(&format!("{}{path}", if text.is_empty() { "" } else { " " }));
        }
        if self.errno != 0 {
            let reason = reason(self.errno);
            text.push_str(&format!("{}{reason}", if text.is_empty() { "" } else { ": " }));
        }
        if !self.detail.is_empty() {
            text.push_str(&format!("{}{}", if text.is_empty() { "" } else { ": " }, self.detail));
        }
        text
    }
}

/// What an error number means.
fn reason(errno: i32) -> String {
    without_numbers(&std::io::Error::from_raw_os_error(errno).to_string())
}

/// A text without the numbers of errors that the standard library adds, which tell nobody anything.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        plain.push_str(rest.strip_prefix(')').unwrap_or(rest));
    }
    plain
}

/// Names the failed call and what it was for.
pub trait Context<T> {
    fn failed(self, code: &'static str, call: &'static str) -> Result<T, Failure>;
    fn failed_at(self, code: &'static str, call: &'static str, path: &Text) -> Result<T, Failure>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn failed(self, code: &'static str, call: &'static str) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(code, call, errno))
    }

    fn failed_at(self, code: &'static str, call: &'static str, path: &Text) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(code, call, errno).at(path))
    }
}

/// Levels of messages, with the numbers of `soliton/messages.py`.
pub const WARNING: i32 = -2;
pub const INFO: i32 = 1;

/// The least important level that is told.
static LEVEL: AtomicI32 = AtomicI32::new(INFO);

pub fn say_up_to(level: i32) {
    LEVEL.store(level, Ordering::Relaxed);
}

/// Tells the user about something that goes on all the same.
pub fn warn(text: &str) {
    if LEVEL.load(Ordering::Relaxed) >= WARNING {
        eprintln!("WARNING: {}", without_numbers(text));
    }
}

/// Tells the user what is done because something is not there.
pub fn info(text: &str) {
    if LEVEL.load(Ordering::Relaxed) >= INFO {
        eprintln!("INFO:    {}", without_numbers(text));
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        let message = failure.message();
        Refusal { code: failure.code, message, path: failure.path.map(|path| path.to_string()) }
    }
}

/// Tells the user why the container could not be started: what, why, what to do.
pub fn fatal(what: &str, more: &[&str]) {
    let mut text = format!("FATAL:   {what}\n");
    for line in more.iter().filter(|line| !line.is_empty()) {
        text.push_str(&format!("         {line}\n"));
    }
    eprint!("{}", without_numbers(&text));
}

/// Hands a failure to the plan's reporter, which replaces this process; says it itself if that cannot be.
pub fn report(reporter: &[Text], failure: &Failure) {
    if let (Some(program), Ok(record)) = (reporter.first(), serde_json::to_string(failure)) {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new(program.as_os_str());
        let error = command.args(reporter[1..].iter().map(Text::as_os_str)).arg(record).exec();
        warn(&format!("{program} cannot be executed to explain this: {error}"));
    }
    let call = if failure.call.is_empty() { "" } else { " failed in " };
    fatal(
        &format!("the container could not be started ({}{call}{})", failure.code, failure.call),
        &[&failure.message()],
    );
}

/// Tells a failure inside the container's root, where no reporter can be executed any more.
pub fn explain(failure: &Failure) {
    let name = failure.path.as_ref().map(ToString::to_string).unwrap_or_default();
    match failure.code {
        "not-found" if failure.errno == Errno::ACCESS.raw_os_error() => {
            fatal(&format!("\"{name}\" cannot be executed"), &["Permission denied"]);
        }
        "not-found" => fatal(&format!("\"{name}\": executable file not found in $PATH"), &[]),
        "no-test" => {
            info(&failure.detail);
            info("a section %test of its definition file gives an image one");
        }
        "boot" => fatal(
            "the image cannot be booted",
            &[&failure.detail, "or leave `--boot` out: a startscript starts services, too"],
        ),
        "environment" => fatal(
            "the image's environment scripts were given up",
            &[&failure.detail, "`--runscript-timeout` of `run` and `instance run` gives them more time"],
        ),
        "app" => fatal(&format!("the app `{name}` cannot be used"), &[&failure.detail]),
        "exec" if failure.call == "execve" => {
            let what = format!("\"{name}\" cannot be executed");
            if let libc::ENOTCONN | libc::ECONNABORTED = failure.errno {
                let again = "run the command again, which starts another";
                return fatal(&what, &["the process that serves its files has ended", again]);
            }
            fatal(&what, &[&reason(failure.errno)]);
        }
        "fusemount" => {
            fatal(&format!("the program `{name}` of `--fusemount` serves nothing"), &[&failure.detail])
        }
        "cwd" if failure.errno != 0 => {
            fatal(&format!("the directory {name} cannot be entered"), &[&reason(failure.errno)]);
        }
        "cwd" => fatal(&format!("the directory {name} cannot be entered"), &[&failure.message()]),
        _ => fatal(&failure.message(), &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_errors_are_left_out() {
        assert_eq!(without_numbers("a: No such file (os error 2); b (os error 13)"), "a: No such file; b");
        assert_eq!(without_numbers("nothing of the kind"), "nothing of the kind");
        assert_eq!(reason(2), "No such file or directory");
    }
}
