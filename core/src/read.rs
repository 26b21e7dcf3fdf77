//! The verb `read`: small files out of an image or a directory, without mounting or running it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::layers::{Failure, Result};
use crate::plan::{DirectoryRoot, ImageRoot, Root};
use crate::request::{self, Asking};
use crate::source;
use crate::squashfs::format::Error;
use crate::squashfs::inode::{Data, Inode};
use crate::squashfs::reader::Image;
use crate::text::Text;

mod stack;

/// Names of one directory that a pattern stands for, at most.
const MOST_NAMES: usize = 10_000;
/// Bytes of all answers together, at most.
const LARGEST_ANSWER: u64 = 256 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    root: Root,
    paths: Vec<Text>,
    limit: u64,
    events: RawFd,
}

impl Asking for Request {
    fn events(&self) -> RawFd {
        self.events
    }
}

/// Runs the verb; the exit status.
pub fn run(fd: RawFd) -> i32 {
    request::answer(fd, |request, _| read(&request).map(|files| request::one("files", files)))
}

/// What a root can be asked.
trait Place {
    /// Names in a directory; none if it is not there.
    fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>>;
    /// One record about a path, with at most `limit` bytes of its content.
    fn describe(&self, path: &[u8], limit: u64) -> Result<Value>;
}

fn read(request: &Request) -> Result<Vec<Value>> {
    let place: Box<dyn Place> = match &request.root {
        Root::Image(image) => Box::new(InImage(open_image(image)?)),
        Root::Directory(root) => Box::new(InDirectory(open_directory(root)?)),
        Root::Stack(layers) => Box::new(stack::open(layers)?),
        Root::Ext(_) => return Err(std::io::Error::from(std::io::ErrorKind::Unsupported).into()),
    };
    let mut answers = Vec::new();
    let mut left = LARGEST_ANSWER;
    let mut describe = |path: &[u8]| -> Result<()> {
        let answer = place.describe(path, request.limit.min(left))?;
        left = left.saturating_sub(answer["data"].as_str().map_or(0, str::len) as u64);
        answers.push(answer);
        Ok(())
    };
    for path in &request.paths {
        match path.as_bytes().strip_suffix(b"/*") {
            Some(directory) => {
                for name in place.names(directory)? {
                    describe(&[directory, b"/", &name].concat())?;
                }
            }
            None => describe(path.as_bytes())?,
        }
    }
    Ok(answers)
}

fn open_image(image: &ImageRoot) -> Result<Image> {
    let named = |error: std::io::Error| Failure::from(error).at(image.path.as_bytes());
    let (file, _) = source::file(&image.path, image.seen, false).map_err(named)?;
    Ok(Image::open(Arc::new(file), image.offset, image.size)?)
}

fn open_directory(root: &DirectoryRoot) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let named = |errno: Errno| Failure::from(std::io::Error::from(errno)).at(root.path.as_bytes());
    let directory = rustix::fs::open(root.path.as_path(), flags, Mode::empty()).map_err(named)?;
    let status = rustix::fs::fstat(&directory).map_err(named)?;
    if !source::is_same(root.seen, &status) {
        return Err(named(Errno::STALE));
    }
    Ok(directory)
}

fn record(path: &[u8], kind: &str, mode: u32, size: u64) -> Value {
    json!({"path": String::from_utf8_lossy(path), "kind": kind, "mode": mode & 0o7777, "size": size})
}

fn with_data(mut record: Value, data: &[u8], size: u64) -> Value {
    record["data"] = base64(data).into();
    record["truncated"] = ((data.len() as u64) < size).into();
    record
}

struct InImage(Image);

impl InImage {
    fn find(&self, path: &[u8]) -> Result<Option<Inode>> {
        match self.0.resolve(path, true) {
            Ok(inode) => Ok(Some(inode)),
            // A dangling or looping link, or a file on the way, is as good as nothing.
            Err(Error::NotFound) => Ok(None),
            Err(Error::Io(error)) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Place for InImage {
    fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let Some(directory) = self.find(path)?.filter(Inode::is_directory) else { return Ok(Vec::new()) };
        let mut listing = self.0.list(&directory, 0)?;
        let mut names = Vec::new();
        while let Some(entry) = listing.next_entry()? {
            if names.len() >= MOST_NAMES {
                return Err(Failure::corrupt("a directory has too many files").at(path));
            }
            names.push(entry.name);
        }
        Ok(names)
    }

    fn describe(&self, path: &[u8], limit: u64) -> Result<Value> {
        let Some(inode) = self.find(path)? else { return Ok(record(path, "missing", 0, 0)) };
        let mode = u32::from(inode.mode);
        Ok(match &inode.data {
            Data::Directory { .. } => record(path, "directory", mode, 0),
            Data::File { .. } => {
                let mut data = vec![0; inode.size.min(limit) as usize];
                let count = self.0.read_file(&inode, 0, &mut data)?;
                data.truncate(count);
                with_data(record(path, "file", mode, inode.size), &data, inode.size)
            }
            _ => record(path, "other", mode, 0),
        })
    }
}

struct InDirectory(OwnedFd);

impl InDirectory {
    /// Opens inside the directory as if it were the root; `None` for what is not there or not for this user.
    fn open(&self, path: &[u8], flags: OFlags) -> Result<Option<OwnedFd>> {
        let path = if path.is_empty() { b"." } else { path };
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Ok(fd) => Ok(Some(fd)),
            Err(errno) => match errno.raw_os_error() {
                libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EACCES => Ok(None),
                _ => Err(Failure::from(std::io::Error::from(errno)).at(path)),
            },
        }
    }
}

impl Place for InDirectory {
    fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let Some(directory) = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(directory.as_fd()).map_err(std::io::Error::from)? {
            let entry = entry.map_err(std::io::Error::from)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && names.len() < MOST_NAMES {
                names.push(name.to_vec());
            }
        }
        names.sort();
        Ok(names)
    }

    fn describe(&self, path: &[u8], limit: u64) -> Result<Value> {
        let Some(place) = self.open(path, OFlags::PATH)? else { return Ok(record(path, "missing", 0, 0)) };
        let status = File::from(place).metadata()?;
        if status.is_dir() {
            return Ok(record(path, "directory", status.mode(), 0));
        }
        if !status.is_file() {
            return Ok(record(path, "other", status.mode(), 0));
        }
        // NONBLOCK: what was a file a moment ago may be a pipe now.
        let Some(file) = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK)? else {
            return Ok(record(path, "missing", 0, 0));
        };
        let mut data = Vec::new();
        File::from(file).take(limit).read_to_end(&mut data)?;
        Ok(with_data(record(path, "file", status.mode(), status.len()), &data, status.len()))
    }
}

pub fn base64(data: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(data.len().div_ceil(3) * 4);
    for part in data.chunks(3) {
        let bits =
            part.iter().enumerate().fold(0u32, |bits, (i, byte)| bits | u32::from(*byte) << (16 - 8 * i));
        for i in 0..4 {
            let symbol = ALPHABET[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= part.len() { char::from(symbol) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn bytes_become_text_that_python_reads() {
        assert_eq!(
            ["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]
        );
    }
}
