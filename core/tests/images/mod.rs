//! What the tests of the reader share: making images with squashfs-tools, walking hostile ones, and chance that
//! is the same on every machine.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use soliton_core::squashfs::format::Result;
use soliton_core::squashfs::inode::{Data, Inode};
use soliton_core::squashfs::reader::Image;

/// Marsaglia's xorshift, 64 bits.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// Changes a few bytes: to anything, by one bit, or to the values at which arithmetic goes wrong.
    pub fn damage(&mut self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes[at] = self.next() as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes[at] = 0xFF,
                3 => bytes[at] = 0,
                _ => {
                    let end = bytes.len().min(at + 1 + self.below(8));
                    bytes[at..end].fill([0, 0x7F, 0x80, 0xFF][self.below(4)]);
                }
            }
        }
    }
}

/// Bytes that do not compress.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut chance = Chance(seed | 1);
    (0..length).map(|_| (chance.next() >> 32) as u8).collect()
}

/// Bytes that do.
pub fn text(length: usize) -> Vec<u8> {
    (0u64..).flat_map(|line| format!("line {}\n", line * line).into_bytes()).take(length).collect()
}

pub fn mksquashfs(source: &Path, image: &Path, options: &[impl AsRef<OsStr>]) {
    let _ = fs::remove_file(image);
    let made = Command::new("mksquashfs")
        .args([source, image])
        .args(["-noappend", "-quiet", "-no-progress"])
        .args(options)
        .stdin(Stdio::null())
        .output()
        .expect("mksquashfs (of squashfs-tools) runs");
    assert!(made.status.success(), "mksquashfs: {}", String::from_utf8_lossy(&made.stderr));
}

/// A small tree that has every kind of record.
pub fn small_tree(root: &Path) {
    fs::create_dir_all(root.join("dir/deeper")).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    for i in 0..400 {
        fs::write(root.join(format!("many/{i:03}-{}", "x".repeat(i % 60))), text(i % 5)).unwrap();
    }
    fs::write(root.join("text"), text(30_000)).unwrap();
    fs::write(root.join("noise"), noise(9_000, 3)).unwrap();
    File::create(root.join("hole")).unwrap().set_len(50_000).unwrap();
    fs::write(root.join("dir/tail"), text(100)).unwrap();
    fs::hard_link(root.join("dir/tail"), root.join("dir/deeper/other")).unwrap();
    std::os::unix::fs::symlink("../dir/tail", root.join("dir/link")).unwrap();
    set_xattr(&root.join("text"), "user.short", b"value");
    set_xattr(&root.join("dir"), "user.long", &text(600));
    set_xattr(&root.join("dir/tail"), "user.long", &text(600));
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty())
        .expect("the temporary directory takes user.* attributes");
}

pub fn open(file: &Arc<File>, size: u64) -> Result<Image> {
    Image::open(Arc::clone(file), 0, size)
}

/// How much of a hostile image is looked at: entries, and bytes of content.
pub const MOST_ENTRIES: usize = 1500;
pub const MOST_CONTENT: u64 = 1 << 20;

/// Looks at everything within bounds, and goes on behind errors; how many there were.
pub fn walk(image: &Image) -> usize {
    let (mut errors, mut entries, mut content) = (0, 0, 0);
    let mut waiting = match image.root() {
        Ok(root) => vec![root],
        Err(_) => return 1,
    };
    while let Some(directory) = waiting.pop() {
        errors += usize::from(image.xattrs(&directory).is_err());
        let mut listing = match image.list(&directory, 0) {
            Ok(listing) => listing,
            Err(_) => {
                errors += 1;
                continue;
            }
        };
        loop {
            let entry = match listing.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(_) => {
                    errors += 1;
                    break;
                }
            };
            entries += 1;
            if entries > MOST_ENTRIES {
                return errors;
            }
            if entries % 64 == 1 {
                errors += usize::from(image.lookup(&directory, &entry.name).is_err());
                errors += usize::from(image.list(&directory, entry.cookie).is_err());
                listing.remember(image, &directory);
                let _ = image.resolve(&entry.name, true);
            }
            let Ok(inode) = image.inode_of(&entry) else {
                errors += 1;
                continue;
            };
            errors += usize::from(image.xattrs(&inode).is_err());
            match inode.data {
                Data::Directory { .. } => waiting.push(inode),
                Data::File { .. } => errors += usize::from(read(image, &inode, &mut content).is_err()),
                _ => {}
            }
        }
    }
    errors
}

/// Reads the beginning and the end of a file, within what is left of [`MOST_CONTENT`].
fn read(image: &Image, inode: &Inode, content: &mut u64) -> Result<()> {
    let mut buffer = vec![0; 70_001];
    for offset in [0, 70_001, inode.size / 2, inode.size.saturating_sub(10)] {
        if *content > MOST_CONTENT {
            break;
        }
        let count = image.read_file(inode, offset, &mut buffer)?;
        assert_eq!(count as u64, inode.size.saturating_sub(offset).min(buffer.len() as u64));
        *content += count as u64;
    }
    Ok(())
}

/// Damages an image again and again, for as long as `more` says.
pub fn mutate(seed: &[u8], chance: &mut Chance, mut more: impl FnMut() -> bool) {
    let file = Arc::new(tempfile::tempfile().unwrap());
    file.write_all_at(seed, 0).unwrap();
    let mut damaged = seed.to_vec();
    while more() {
        damaged.copy_from_slice(seed);
        // The tables at the end are small beside the content, and the superblock still more so.
        let from = [0, 0, damaged.len() / 2, damaged.len() * 9 / 10][chance.below(4)];
        let end = if chance.below(8) == 0 { 96 } else { damaged.len() };
        chance.damage(&mut damaged[from.min(end - 96)..end]);
        file.write_all_at(&damaged, 0).unwrap();
        if let Ok(image) = open(&file, seed.len() as u64) {
            walk(&image);
        }
    }
}
