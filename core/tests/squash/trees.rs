//! Trees on the host: random ones, and what two of them differ in.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// Numbers that look random and are the same every time (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Bytes that compress, or do not.
    pub fn content(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size + 8);
        let noise = self.below(3) == 0;
        while bytes.len() < size {
            let word = if noise { self.next() } else { self.below(50) };
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.truncate(size);
        bytes
    }

    /// Bytes that do not compress.
    pub fn noise(&mut self, size: usize) -> Vec<u8> {
        (0..size).map(|_| self.next() as u8).collect()
    }

    /// A name of any bytes that a name may have.
    fn name(&mut self) -> Vec<u8> {
        let length = self.pick(&[1, 2, 3, 8, 8, 20, 20, 100, 255]);
        loop {
            let name: Vec<u8> = (0..length)
                .map(|_| match 1 + self.below(255) as u8 {
                    b'/' => b'+',
                    byte => byte,
                })
                .collect();
            if name != b"." && name != b".." && !name.starts_with(b".wh.") {
                return name;
            }
        }
    }
}

/// Makes a random tree; the block size decides which sizes are at an edge.
pub fn random(root: &Path, seed: u64, block_size: usize) {
    let mut dice = Dice(seed);
    let mut directories = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    let mut contents: Vec<Vec<u8>> = Vec::new();
    for _ in 0..60 + dice.below(200) {
        let parent = &directories[dice.below(directories.len() as u64) as usize];
        let path = parent.join(std::ffi::OsString::from_vec(dice.name()));
        // The host's own limit of a path, not the image's.
        if path.as_os_str().len() > 3000 || path.symlink_metadata().is_ok() {
            continue;
        }
        match dice.below(10) {
            0 | 1 => {
                fs::create_dir(&path).unwrap();
                directories.push(path);
            }
            2 => {
                let mut target = dice.name();
                target.truncate(200);
                symlink(OsStr::from_bytes(&target), &path).unwrap();
            }
            3 if !files.is_empty() => {
                fs::hard_link(&files[dice.below(files.len() as u64) as usize], &path).unwrap();
            }
            4 => {
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
            }
            5 => {
                let mut file = File::create(&path).unwrap();
                let b = block_size as u64;
                for _ in 0..dice.below(3) {
                    file.seek(SeekFrom::Current(dice.below(4 * b) as i64)).unwrap();
                    let size = dice.below(2 * b) as usize;
                    file.write_all(&dice.content(size)).unwrap();
                }
                let length = file.stream_position().unwrap() + dice.below(3 * b);
                file.set_len(length).unwrap();
                files.push(path);
            }
            _ => {
                let b = block_size;
                let size = dice.pick(&[0, 1, 2, 100, 1000, b - 1, b, b + 1, 2 * b, 3 * b + 7]);
                let content = match dice.below(4) {
                    0 if !contents.is_empty() => contents[dice.below(contents.len() as u64) as usize].clone(),
                    1 => vec![0; size],
                    _ => dice.content(size),
                };
                fs::write(&path, &content).unwrap();
                if contents.len() < 30 {
                    contents.push(content);
                }
                files.push(path);
            }
        }
    }
    let wide = root.join("wide");
    fs::create_dir(&wide).unwrap();
    for i in 0..dice.pick(&[0, 1, 255, 256, 257, 3000]) {
        fs::write(wide.join(format!("entry-{i}")), format!("{}", i % 100)).unwrap();
    }
    directories.push(wide);
    for path in files.iter().chain(&directories) {
        for i in 0..dice.below(6).saturating_sub(3) {
            let value = dice.content(i as usize * 40);
            let _ = rustix::fs::setxattr(path, format!("user.n{i}"), &value, XattrFlags::empty());
        }
    }
    for path in files.iter().chain(directories.iter().rev()) {
        let mode = dice.pick(&[0o644, 0o755, 0o600, 0o700, 0o4755, 0o2755, 0o1777]);
        // Whoever made a directory must be able to enter it, privileged or not.
        let mode = if path.is_dir() { mode | 0o700 } else { mode };
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let seconds = dice.pick(&[0, 1, 1_000_000_000, 1_700_000_000, i64::from(i32::MAX) + 10]);
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
    }
}

/// What a path holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    kind: char,
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
    size: u64,
    /// Content of a file by its hash, target of a link, number of a device.
    content: Vec<u8>,
    /// First path with the same inode.
    first: PathBuf,
    links: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Every entry below `root`. `owners`: the reading program could keep them.
pub fn read(root: &Path, owners: bool) -> BTreeMap<PathBuf, Found> {
    let mut found = BTreeMap::new();
    let mut first_of = HashMap::new();
    visit(root, Path::new(""), owners, &mut first_of, &mut found);
    found
}

fn visit(
    root: &Path,
    below: &Path,
    owners: bool,
    first_of: &mut HashMap<u64, PathBuf>,
    found: &mut BTreeMap<PathBuf, Found>,
) {
    let path = root.join(below);
    let stat = fs::symlink_metadata(&path).unwrap();
    let kind = stat.file_type();
    let (kind, content) = if kind.is_file() {
        ('-', xxhash_rust::xxh3::xxh3_128(&fs::read(&path).unwrap()).to_le_bytes().to_vec())
    } else if kind.is_symlink() {
        ('l', fs::read_link(&path).unwrap().into_os_string().into_vec())
    } else if kind.is_dir() {
        ('d', Vec::new())
    } else if kind.is_fifo() {
        ('p', Vec::new())
    } else if kind.is_block_device() {
        ('b', stat.rdev().to_le_bytes().to_vec())
    } else {
        ('c', stat.rdev().to_le_bytes().to_vec())
    };
    let first = if kind == 'd' {
        below.to_owned()
    } else {
        first_of.entry(stat.ino()).or_insert_with(|| below.to_owned()).clone()
    };
    found.insert(
        below.to_owned(),
        Found {
            kind,
            // Whoever cannot give owners cannot give what acts for them either.
            mode: stat.mode() & if owners { 0o7777 } else { 0o777 },
            owner: if owners { (stat.uid(), stat.gid()) } else { (0, 0) },
            // Not every program can set a link's time.
            mtime: if kind == 'l' { 0 } else { stat.mtime() },
            size: if kind == 'd' { 0 } else { stat.size() },
            content,
            first,
            links: if kind == 'd' { 0 } else { stat.nlink() },
            xattrs: if matches!(kind, '-' | 'd') { xattrs(&path) } else { BTreeMap::new() },
        },
    );
    if kind == 'd' {
        let mut names: Vec<_> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            visit(root, &below.join(name), owners, first_of, found);
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let count = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut found = BTreeMap::new();
    for name in names[..count].split(|&b| b == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0; 65536];
        // squashfuse lists an attribute that is empty, and says there is none when it is asked for it.
        let length = match rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]) {
            Err(rustix::io::Errno::NODATA) => 0,
            length => length.unwrap(),
        };
        value.truncate(length);
        found.insert(name.to_vec(), value);
    }
    found
}

/// Without what tells which names are one file, for readers that number files anew.
pub fn without_numbers(mut found: BTreeMap<PathBuf, Found>) -> BTreeMap<PathBuf, Found> {
    found.values_mut().for_each(|entry| entry.first.clear());
    found
}

/// Fails with the first difference.
pub fn assert_same(expected: &BTreeMap<PathBuf, Found>, actual: &BTreeMap<PathBuf, Found>, reader: &str) {
    for (path, entry) in expected {
        assert_eq!(Some(entry), actual.get(path), "{reader}: {path:?}");
    }
    let surplus = actual.keys().find(|path| !expected.contains_key(*path));
    assert_eq!(surplus, None, "{reader} finds more");
}
