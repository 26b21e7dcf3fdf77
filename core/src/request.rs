//! Requests in, records out: how the core talks with Python.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, RawFd};
use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// A request larger than this is refused: 5,000 binds and 1 MB of environment fit many times.
const LARGEST_REQUEST: u64 = 64 << 20;

/// A request that says where its verb reports.
pub trait Asking: DeserializeOwned {
    fn events(&self) -> RawFd;
}

/// Why a verb did not do what it was asked. `code` is a stable word that Python knows.
pub struct Refusal {
    pub code: &'static str,
    pub message: String,
    pub path: Option<String>,
}

/// Carries out a verb that converses: reads its request, does the work, and has the last word: what the work gave, or why
/// it failed. The exit status.
pub fn answer<T: Asking, F: Into<Refusal>>(
    fd: RawFd,
    work: impl FnOnce(T, &Arc<Events>) -> Result<Map<String, Value>, F>,
) -> i32 {
    let request: T = match read(fd) {
        Ok(request) => request,
        Err(message) => {
            eprintln!("FATAL:   soliton-core: {message}");
            return 255;
        }
    };
    let events = Arc::new(Events::new(request.events()));
    match work(request, &events) {
        Ok(mut record) => {
            record.insert("event".to_owned(), Value::from("done"));
            events.send(&record);
            0
        }
        Err(failure) => {
            let Refusal { code, message, path } = failure.into();
            events.send(&json!({"event": "error", "code": code, "message": message, "path": path}));
            255
        }
    }
}

/// One entry, what most verbs have to say in the end.
pub fn one(name: &str, value: impl Into<Value>) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), value.into())])
}

/// Reads the whole JSON request from descriptor `fd` and closes it.
pub fn read<T: DeserializeOwned>(fd: RawFd) -> Result<T, String> {
    let mut text = Vec::new();
    take_descriptor(fd)
        .take(LARGEST_REQUEST + 1)
        .read_to_end(&mut text)
        .map_err(|e| format!("the request cannot be read: {e}"))?;
    if text.len() as u64 > LARGEST_REQUEST {
        return Err("the request is too large".to_owned());
    }
    serde_json::from_slice(&text).map_err(|e| format!("the request is malformed: {e}"))
}

/// Owns a descriptor that the caller of the program passed by number.
pub fn take_descriptor(fd: RawFd) -> File {
    // SAFETY: the number was handed to this process by its caller for this one use; nothing else here owns it.
    unsafe { File::from_raw_fd(fd) }
}

/// Where a verb reports: one JSON record a line.
pub struct Events(Mutex<File>);

impl Events {
    pub fn new(fd: RawFd) -> Events {
        let file = take_descriptor(fd);
        // A child (mount server, newuidmap) must not keep the reader waiting.
        let _ = rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC);
        Events(Mutex::new(file))
    }

    /// Writes a record. A reader that has gone away is not an error here: it ends the process by signal.
    pub fn send(&self, record: &impl Serialize) {
        if let Ok(mut line) = serde_json::to_vec(record) {
            line.push(b'\n');
            if let Ok(mut file) = self.0.lock() {
                let _ = file.write_all(&line);
            }
        }
    }
}
