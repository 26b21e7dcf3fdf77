//! A launch that failed, told in the form that Python explains.

use rustix::io::Errno;
use serde::Serialize;

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
            let reason = std::io::Error::from_raw_os_error(self.errno);
            text.push_str(&format!("{}{reason}", if text.is_empty() { "" } else { ": " }));
        }
        if !self.detail.is_empty() {
            text.push_str(&format!("{}{}", if text.is_empty() { "" } else { ": " }, self.detail));
        }
        text
    }
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
