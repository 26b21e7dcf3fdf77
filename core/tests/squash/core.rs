//! Running the verb: a request in, an image and events out.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

pub const EPOCH: u64 = 1_700_000_000;

/// A finished run.
pub struct Outcome {
    pub image: PathBuf,
    pub events: Vec<Value>,
    pub status: Option<i32>,
}

impl Outcome {
    pub fn last(&self) -> &Value {
        self.events.last().expect("the core said nothing")
    }

    /// The image, of a run that must have succeeded.
    pub fn ok(self) -> PathBuf {
        assert_eq!(self.last()["event"], "done", "{}", self.last());
        assert_eq!(self.status, Some(0));
        self.image
    }

    /// The code of a run that must have failed.
    pub fn code(&self) -> String {
        assert_eq!(self.last()["event"], "error", "{}", self.last());
        assert_eq!(self.status, Some(255));
        self.last()["code"].as_str().unwrap().to_owned()
    }
}

/// A run under way.
pub struct Running {
    pub child: Child,
    image: PathBuf,
    events: File,
}

impl Running {
    pub fn wait(mut self) -> Outcome {
        let status = self.child.wait().unwrap().code();
        self.events.rewind().unwrap();
        let mut text = String::new();
        self.events.read_to_string(&mut text).unwrap();
        let events = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Outcome { image: self.image, events, status }
    }
}

fn inherited(file: &impl AsRawFd) -> OwnedFd {
    let raw = file.as_raw_fd();
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(raw) };
    rustix::io::dup(borrowed).unwrap()
}

/// Starts the verb. `more` is merged into the request; `descriptors` are handed down in place of the numbers that layers
/// name as `"fd": 0, 1…`.
pub fn start(image: &Path, layers: Value, more: Value, descriptors: &[&dyn AsRawFd]) -> Running {
    let output = File::options().read(true).write(true).create(true).truncate(true).open(image).unwrap();
    let events = tempfile::tempfile().unwrap();
    let mut request_file = tempfile::tempfile().unwrap();
    let given: Vec<OwnedFd> = descriptors.iter().map(|file| inherited(&file.as_raw_fd())).collect();
    let (output, told, asked) = (inherited(&output), inherited(&events), inherited(&request_file));
    let mut request = json!({
        "layers": layers, "output": {"fd": output.as_raw_fd(), "offset": 0},
        "epoch": EPOCH, "events": told.as_raw_fd(),
    });
    for layer in request["layers"].as_array_mut().unwrap() {
        if let Some(index) = layer["fd"].as_u64() {
            layer["fd"] = json!(given[index as usize].as_raw_fd());
        }
    }
    for (key, value) in more.as_object().unwrap() {
        match key.as_str() {
            "offset" => request["output"]["offset"] = value.clone(),
            key => request[key] = value.clone(),
        }
    }
    request_file.write_all(request.to_string().as_bytes()).unwrap();
    request_file.rewind().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_soliton"))
        .arg0("soliton-core")
        .args(["squash", &asked.as_raw_fd().to_string()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    Running { child, image: image.to_owned(), events }
}

pub fn squash(image: &Path, layers: Value, more: Value) -> Outcome {
    start(image, layers, more, &[]).wait()
}

/// A layer of the kind `tar` in a file of its own.
pub fn tar_layer(folder: &Path, name: &str, content: &[u8]) -> Value {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    json!({"kind": "tar", "fd": null, "path": path.to_str().unwrap()})
}

pub fn directory_layer(path: &Path) -> Value {
    json!({"kind": "directory", "path": path.to_str().unwrap(), "whiteouts": "none"})
}

/// A record with more fields.
pub fn with(mut record: Value, more: Value) -> Value {
    record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    record
}

pub fn image_layer(path: &Path) -> Value {
    let size = std::fs::metadata(path).unwrap().len();
    json!({"kind": "squashfs", "path": path.to_str().unwrap(), "offset": 0, "size": size})
}
