//! The verb `survey`: every file of an image or a directory, one record each, without mounting or unpacking anything.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::launch::identity;
use crate::layers::directory::{self, Reading};
use crate::layers::shadow::{Shadow, Wanted};
use crate::layers::squashfs::{self, Blocks, Taking};
use crate::layers::{Content, Entry, Failure, Marks, Result, Sink, What};
use crate::plan::{Identity, Root};
use crate::read::base64;
use crate::request::{self, Asking, Events};
use crate::source;
use crate::squashfs::format::decode_device;
use crate::squashfs::reader::Image;
use crate::text::Text;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    root: Root,
    /// Whether files are read, for the digests of their contents.
    contents: bool,
    /// Files of an image that are read even so: the ends of their paths.
    #[serde(default)]
    endings: Vec<Text>,
    #[serde(default)]
    identity: Option<Identity>,
    events: RawFd,
}

impl Asking for Request {
    fn events(&self) -> RawFd {
        self.events
    }
}

/// Runs the verb; the exit status.
pub fn run(fd: RawFd) -> i32 {
    // Whoever listens is gone: nobody will read the rest.
    crate::launch::kernel::default_action(libc::SIGPIPE);
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    request::answer(fd, |request, events| survey(&request, events).map(|count| request::one("files", count)))
}

/// Contents become digests.
struct Digests<'a> {
    current: Sha256,
    found: Vec<[u8; 32]>,
    events: &'a Events,
}

impl Sink for Digests<'_> {
    fn begin(&mut self, _size: u64) -> Result<()> {
        self.current = Sha256::new();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.current.update(bytes);
        Ok(())
    }

    fn hole(&mut self, mut length: u64) -> Result<()> {
        let zeros = [0; 65536];
        while length > 0 {
            let count = length.min(zeros.len() as u64);
            self.current.update(&zeros[..count as usize]);
            length -= count;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<u32> {
        self.found.push(self.current.finalize_reset().into());
        u32::try_from(self.found.len() - 1).map_err(|_| Failure::corrupt("there are too many files"))
    }

    fn warn(&mut self, message: String) {
        self.events.send(&json!({"event": "warning", "message": message}));
    }
}

fn survey(request: &Request, events: &Events) -> Result<usize> {
    let mut sink = Digests { current: Sha256::new(), found: Vec::new(), events };
    let count = Arc::new(AtomicU64::new(0));
    let enter = || match &request.identity {
        None => Ok(()),
        Some(identity) => identity::enter(identity).map_err(|failure| Failure {
            code: "userns",
            message: failure.message(),
            path: None,
        }),
    };
    let entries = match &request.root {
        Root::Image(root) => {
            let named = |error: std::io::Error| Failure::from(error).at(root.path.as_bytes());
            let (file, _) = source::file(&root.path, root.seen, false).map_err(named)?;
            let image = Image::open(Arc::new(file), root.offset, root.size)?;
            let shadow = Shadow::default();
            let how = Taking {
                marks: Marks::Ordinary,
                without: &[],
                blocks: if request.contents { Blocks::Read } else { Blocks::Kept },
                shadow: &shadow,
                recorded: false,
            };
            let mut entries = squashfs::read(&image, how, 0, &count, &mut sink)?;
            let mut buffer = vec![0; image.block_size()];
            for entry in &mut entries {
                let Entry { path, what: What::File { content, .. }, .. } = entry else { continue };
                if let Content::Stored { reference, .. } = *content
                    && request.endings.iter().any(|ending| path.ends_with(ending.as_bytes()))
                {
                    let inode = image.inode(reference)?;
                    *content = Content::Written(squashfs::pass_file(&image, &inode, &mut buffer, &mut sink)?);
                }
            }
            entries
        }
        Root::Directory(root) => {
            enter()?;
            let how = Reading {
                marks: Marks::Ordinary,
                exclude: &[],
                without: &[],
                clamp: None,
                recorded: false,
                kept: None,
            };
            let none = std::collections::HashSet::new();
            let wanted = if request.contents { Wanted::Everything } else { Wanted::Only(&none) };
            directory::read(root.path.as_path(), how, 0, &wanted, &count, &mut sink)?
        }
        Root::Stack(_) | Root::Ext(_) => {
            return Err(Failure {
                code: "bad-request",
                message: "only an image or a directory is surveyed".into(),
                path: None,
            });
        }
    };
    for entry in &entries {
        events.send(&record(entry, &sink.found));
    }
    Ok(entries.len())
}

fn record(entry: &Entry, digests: &[[u8; 32]]) -> Value {
    let attributes = &entry.attributes;
    let mut record = json!({
        "event": "file", "path": spelled(&[b"/", entry.path.as_slice()].concat()), "mode": attributes.mode,
        "uid": attributes.uid, "gid": attributes.gid, "mtime": attributes.mtime,
    });
    let kind = match &entry.what {
        What::Directory => "directory",
        What::File { size, content } => {
            record["size"] = json!(size);
            if let Content::Written(number) = content {
                record["digest"] = json!(hexadecimal(&digests[*number as usize]));
            }
            "file"
        }
        What::Symlink { target } => {
            record["target"] = spelled(target);
            "link"
        }
        What::Device { kind, number } => {
            let (major, minor) = decode_device(*number);
            record["device"] = json!(format!("{major}:{minor}"));
            if *kind == crate::squashfs::format::kind::BLOCK { "block device" } else { "character device" }
        }
        What::Fifo => "pipe",
        What::HardLink { target } => {
            record["target"] = spelled(&[b"/", target.as_slice()].concat());
            "hard link"
        }
        What::Whiteout | What::Opaque => "removal",
    };
    record["kind"] = json!(kind);
    if let Some(xattrs) = &attributes.xattrs {
        let pairs: serde_json::Map<String, Value> = xattrs
            .iter()
            .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), base64(value).into()))
            .collect();
        record["xattrs"] = pairs.into();
    }
    record
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A name as JSON. One that is not UTF-8 goes as its bytes in base64, since JSON has no other way.
fn spelled(name: &[u8]) -> Value {
    match std::str::from_utf8(name) {
        Ok(text) => json!(text),
        Err(_) => json!({"base64": base64(name)}),
    }
}
