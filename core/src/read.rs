//! The verb `read`: small files out of an image or a directory, without mounting or running it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::launch::locale;
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
    /// Names of which those are told that the image lacks.
    #[serde(default)]
    locales: Vec<Text>,
    events: RawFd,
}

impl Asking for Request {
    fn events(&self) -> RawFd {
        self.events
    }
}

/// Runs the verb; the exit status.
pub fn run(fd: RawFd) -> i32 {
    request::answer(fd, |request, _| read(&request))
}

/// What a root can be asked.
trait Place {
    /// Names in a directory; none if it is not there.
    fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>>;
    /// What is at a path, with at most `limit` bytes of a file's content.
    fn look(&self, path: &[u8], limit: u64) -> Result<Found>;
}

/// What is at a path. data: of a file.
struct Found {
    kind: &'static str,
    mode: u32,
    size: u64,
    data: Option<Vec<u8>>,
}

impl Found {
    fn nothing() -> Found {
        Found::of("missing", 0)
    }

    fn of(kind: &'static str, mode: u32) -> Found {
        Found { kind, mode, size: 0, data: None }
    }

    fn file(mode: u32, size: u64, data: Vec<u8>) -> Found {
        Found { kind: "file", mode, size, data: Some(data) }
    }

    fn record(&self, path: &[u8]) -> Value {
        let Found { kind, mode, size, data } = self;
        let path = String::from_utf8_lossy(path);
        let mut record = json!({"path": path, "kind": kind, "mode": mode & 0o7777, "size": size});
        if let Some(data) = data {
            record["data"] = base64(data).into();
            record["truncated"] = ((data.len() as u64) < *size).into();
        }
        record
    }
}

/// A place in which locales are looked for.
struct Locales<'a>(&'a dyn Place);

impl locale::Files for Locales<'_> {
    fn exists(&self, path: &str) -> bool {
        self.0.look(path.as_bytes(), 0).is_ok_and(|found| found.kind != "missing")
    }

    fn beginning(&self, path: &str, length: usize) -> Option<Vec<u8>> {
        self.0.look(path.as_bytes(), length as u64).ok()?.data
    }
}

fn read(request: &Request) -> Result<Map<String, Value>> {
    let place: Box<dyn Place> = match &request.root {
        Root::Image(image) => Box::new(InImage(open_image(image)?)),
        Root::Directory(root) => Box::new(InDirectory(open_directory(root)?)),
        Root::Stack(layers) => Box::new(stack::open(layers)?),
        Root::Ext(_) => return Err(std::io::Error::from(std::io::ErrorKind::Unsupported).into()),
    };
    let mut answers = Vec::new();
    let mut left = LARGEST_ANSWER;
    let mut describe = |path: &[u8]| -> Result<()> {
        let answer = place.look(path, request.limit.min(left))?;
        left = left.saturating_sub(answer.data.as_ref().map_or(0, Vec::len) as u64);
        answers.push(answer.record(path));
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
    let lacking = locale::lacking(request.locales.iter(), &Locales(place.as_ref()));
    let lacking: Vec<Value> = lacking.into_iter().map(|name| name.to_string().into()).collect();
    Ok(Map::from_iter([("files".to_owned(), answers.into()), ("lacking".to_owned(), lacking.into())]))
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

    fn look(&self, path: &[u8], limit: u64) -> Result<Found> {
        let Some(inode) = self.find(path)? else { return Ok(Found::nothing()) };
        let mode = u32::from(inode.mode);
        Ok(match &inode.data {
            Data::Directory { .. } => Found::of("directory", mode),
            Data::File { .. } => {
                let mut data = vec![0; inode.size.min(limit) as usize];
                let count = self.0.read_file(&inode, 0, &mut data)?;
                data.truncate(count);
                Found::file(mode, inode.size, data)
            }
            _ => Found::of("other", mode),
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

    fn look(&self, path: &[u8], limit: u64) -> Result<Found> {
        let Some(place) = self.open(path, OFlags::PATH)? else { return Ok(Found::nothing()) };
        let status = File::from(place).metadata()?;
        if status.is_dir() {
            return Ok(Found::of("directory", status.mode()));
        }
        if !status.is_file() {
            return Ok(Found::of("other", status.mode()));
        }
        // NONBLOCK: what was a file a moment ago may be a pipe now.
        let Some(file) = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK)? else {
            return Ok(Found::nothing());
        };
        let mut data = Vec::new();
        File::from(file).take(limit).read_to_end(&mut data)?;
        Ok(Found::file(status.mode(), status.len(), data))
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
