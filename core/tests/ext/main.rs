//! ext3 file systems made and changed here, judged by e2fsck; damaged ones, which must be refused or read in part.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use soliton_core::ext::format::{Inode, ROOT_INODE};
use soliton_core::ext::make::{Wish, make};
use soliton_core::ext::nodes::{Birth, EXCHANGE, NOREPLACE, WHITEOUT};
use soliton_core::ext::volume::Volume;

struct Image {
    _folder: tempfile::TempDir,
    path: PathBuf,
    size: u64,
}

fn blank(size: u64, directories: &[&str]) -> Image {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(size).unwrap();
    let directories = directories.iter().map(|name| name.as_bytes()).collect();
    make(file, 0, size, &Wish { uid: 1000, gid: 100, mode: 0o755, directories, id: [7; 16] }).unwrap();
    Image { _folder: folder, path, size }
}

/// One by the file system's own tools, with a layout that `make` never chooses.
fn foreign(block_size: u32, features: &str, tree: &Path) -> Image {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let size = 64 << 20;
    File::create(&path).unwrap().set_len(size).unwrap();
    let done = tool("mkfs.ext3")
        .args(["-q", "-b", &block_size.to_string(), "-O", features, "-d"])
        .args([tree, &path])
        .status()
        .unwrap();
    assert!(done.success());
    Image { _folder: folder, path, size }
}

fn tool(name: &str) -> Command {
    let place =
        ["/usr/sbin", "/sbin"].iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    Command::new(place.unwrap_or_else(|| panic!("{name} is missing: install e2fsprogs")))
}

impl Image {
    fn open(&self, writable: bool) -> Volume {
        let file = OpenOptions::new().read(true).write(writable).open(&self.path).unwrap();
        Volume::open(file, 0, self.size, writable).unwrap()
    }

    /// What e2fsck says, changing nothing.
    fn judge(&self) {
        let said = tool("e2fsck").args(["-f", "-n"]).arg(&self.path).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    }

    /// After a crash: the journal is replayed first.
    fn judge_after_a_crash(&self) {
        let said = tool("e2fsck").args(["-f", "-y"]).arg(&self.path).output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(matches!(said.status.code(), Some(0 | 1)), "{text}");
        let complaints: Vec<&str> = text.lines().filter(|line| line.contains("? yes")).collect();
        assert!(complaints.is_empty(), "{text}");
    }
}

const FILE: Birth = Birth { mode: libc::S_IFREG | 0o644, uid: 1000, gid: 100 };
const DIRECTORY: Birth = Birth { mode: libc::S_IFDIR | 0o755, uid: 1000, gid: 100 };

fn nobody(_: u32) -> bool {
    false
}

fn write(volume: &mut Volume, parent: u32, name: &str, content: &[u8]) -> u32 {
    let mut inode = volume.make_node(parent, name.as_bytes(), FILE, 0).unwrap();
    let mut done = 0;
    while done < content.len() {
        done += volume.write(&mut inode, done as u64, &content[done..]).unwrap();
    }
    inode.number
}

fn content(volume: &mut Volume, inode: &Inode) -> Vec<u8> {
    let mut bytes = vec![0; inode.size() as usize];
    let read = volume.read(inode, 0, &mut bytes).unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

fn find(volume: &mut Volume, parent: u32, name: &str) -> Option<Inode> {
    let above = volume.inode(parent).unwrap();
    let number = volume.lookup(&above, name.as_bytes()).unwrap()?;
    Some(volume.inode(number).unwrap())
}

fn names(volume: &mut Volume, number: u32) -> Vec<String> {
    let directory = volume.inode(number).unwrap();
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        let entries = volume.list(&directory, at).unwrap();
        let Some(last) = entries.last() else { break };
        at = last.next;
        found.extend(entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()));
    }
    found.retain(|name| name != "." && name != "..");
    found.sort();
    found
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 4096) as u8).collect()
}

#[test]
fn a_new_file_system_is_sound_at_any_size() {
    for size in [8 << 20, 64 << 20, (128 << 20) + 12345, 1 << 30, 5 << 30] {
        let image = blank(size, &["/upper", "/work", "/upper/opt/a b"]);
        image.judge();
        let mut volume = image.open(false);
        assert_eq!(names(&mut volume, ROOT_INODE), ["lost+found", "upper", "work"]);
    }
}

#[test]
fn the_tools_of_the_file_system_read_what_was_written() {
    let image = blank(64 << 20, &["/upper"]);
    let mut volume = image.open(true);
    let big = pattern(9 << 20);
    let upper = find(&mut volume, ROOT_INODE, "upper").unwrap().number;
    write(&mut volume, upper, "big", &big);
    volume.make_link(upper, b"short", b"/else/where", DIRECTORY).unwrap();
    volume.make_link(upper, b"long", &[b'x'; 300], DIRECTORY).unwrap();
    volume.close().unwrap();
    image.judge();
    let out = image.path.with_extension("out");
    let request = format!("dump /upper/big {}", out.display());
    assert!(tool("debugfs").args(["-R", &request]).arg(&image.path).output().unwrap().status.success());
    assert_eq!(std::fs::read(out).unwrap(), big);
}

#[test]
fn others_file_systems_are_read_and_changed() {
    let tree = tempfile::tempdir().unwrap();
    for number in 0..3000 {
        std::fs::write(tree.path().join(format!("a file with a longer name {number}")), b"x").unwrap();
    }
    for (block_size, features) in
        [(1024, "dir_index"), (4096, "none,has_journal"), (2048, "^resize_inode,meta_bg")]
    {
        let image = foreign(block_size, features, tree.path());
        let mut volume = image.open(true);
        assert_eq!(names(&mut volume, ROOT_INODE).len(), 3001);
        for number in (0..3000).step_by(2) {
            let name = format!("a file with a longer name {number}");
            volume.remove(ROOT_INODE, name.as_bytes(), false, nobody).unwrap();
        }
        for number in 0..500 {
            write(&mut volume, ROOT_INODE, &format!("new {number}"), &pattern(number * 10));
        }
        volume.close().unwrap();
        image.judge();
        let mut volume = image.open(false);
        assert_eq!(names(&mut volume, ROOT_INODE).len(), 2001);
        let inode = find(&mut volume, ROOT_INODE, "new 499").unwrap();
        assert_eq!(content(&mut volume, &inode), pattern(4990));
    }
}

#[test]
fn files_grow_shrink_and_have_holes() {
    let image = blank(64 << 20, &[]);
    let mut volume = image.open(true);
    let number = write(&mut volume, ROOT_INODE, "file", &pattern(300_000));
    let mut inode = volume.inode(number).unwrap();
    volume.resize(&mut inode, 100_001).unwrap();
    volume.resize(&mut inode, 20 << 20).unwrap();
    let mut expected = pattern(100_001);
    expected.resize(20 << 20, 0);
    assert!(content(&mut volume, &inode) == expected);
    volume.write(&mut inode, 15 << 20, b"far").unwrap();
    expected[15 << 20..(15 << 20) + 3].copy_from_slice(b"far");
    assert!(content(&mut volume, &inode) == expected);
    volume.write(&mut inode, 5_000_000_000, b"!").unwrap();
    assert_eq!(inode.size(), 5_000_000_001);
    volume.commit(false).unwrap();
    let free = volume.free_blocks();
    volume.resize(&mut inode, 0).unwrap();
    assert_eq!(inode.sectors(), 0);
    assert!(volume.free_blocks() > free);
    volume.close().unwrap();
    image.judge();
}

#[test]
fn names_move_and_change_places() {
    let image = blank(16 << 20, &["/a", "/b"]);
    let mut volume = image.open(true);
    let (a, b) = (
        find(&mut volume, ROOT_INODE, "a").unwrap().number,
        find(&mut volume, ROOT_INODE, "b").unwrap().number,
    );
    let inner = volume.make_directory(a, b"inner", DIRECTORY).unwrap().number;
    write(&mut volume, inner, "f", b"1");
    write(&mut volume, b, "g", b"2");
    let owner = (1000, 100);
    let refused = volume.rename((a, b"inner"), (b, b"g"), NOREPLACE, owner, nobody).unwrap_err();
    assert_eq!(refused.errno, libc::EEXIST);
    assert_eq!(
        volume.rename((ROOT_INODE, b"a"), (inner, b"a"), 0, owner, nobody).unwrap_err().errno,
        libc::EINVAL
    );
    volume.rename((a, b"inner"), (b, b"g"), EXCHANGE, owner, nobody).unwrap();
    assert_eq!(names(&mut volume, a), ["inner"]);
    assert!(find(&mut volume, b, "g").unwrap().is_directory());
    volume.rename((b, b"g"), (a, b"dir"), WHITEOUT, owner, nobody).unwrap();
    let whiteout = find(&mut volume, b, "g").unwrap();
    assert_eq!((whiteout.kind(), whiteout.device()), (libc::S_IFCHR, 0));
    volume.rename((a, b"inner"), (b, b"g"), 0, owner, nobody).unwrap();
    let found = find(&mut volume, b, "g").unwrap();
    assert_eq!(content(&mut volume, &found), b"2");
    volume.name(found.number, a, b"second").unwrap();
    volume.close().unwrap();
    image.judge();
}

#[test]
fn attributes_are_kept_in_the_inode_or_beside_it() {
    let image = blank(16 << 20, &[]);
    let mut volume = image.open(true);
    let number = write(&mut volume, ROOT_INODE, "file", b"");
    let mut inode = volume.inode(number).unwrap();
    let small: Vec<(Vec<u8>, Vec<u8>)> = vec![(b"user.overlay.opaque".to_vec(), b"y".to_vec())];
    volume.set_attributes(&mut inode, &small).unwrap();
    assert_eq!((inode.xattr_block(), volume.attributes(&inode).unwrap()), (0, small.clone()));
    let mut large = small;
    large.push((b"user.long".to_vec(), vec![b'v'; 2000]));
    large.push((b"security.capability".to_vec(), vec![1; 20]));
    volume.set_attributes(&mut inode, &large).unwrap();
    assert_ne!(inode.xattr_block(), 0);
    let as_map = |list: Vec<(Vec<u8>, Vec<u8>)>| list.into_iter().collect::<BTreeMap<_, _>>();
    assert_eq!(as_map(volume.attributes(&inode).unwrap()), as_map(large.clone()));
    large.push((b"user.huge".to_vec(), vec![b'v'; 4000]));
    assert_eq!(volume.set_attributes(&mut inode, &large).unwrap_err().errno, libc::ENOSPC);
    volume.commit(false).unwrap();
    volume.close().unwrap();
    image.judge();
}

#[test]
fn a_full_file_system_says_so_and_stays_whole() {
    let image = blank(8 << 20, &[]);
    let mut volume = image.open(true);
    let mut inode = volume.make_node(ROOT_INODE, b"file", FILE, 0).unwrap();
    let chunk = pattern(1 << 20);
    let (mut offset, mut refusal) = (0, 0);
    while refusal == 0 {
        match volume.write(&mut inode, offset, &chunk) {
            Ok(written) => offset += written as u64,
            Err(error) => refusal = error.errno,
        }
    }
    assert_eq!(refusal, libc::ENOSPC);
    let mut made = 0;
    while volume.make_directory(ROOT_INODE, format!("d{made}").as_bytes(), DIRECTORY).is_ok() {
        made += 1;
    }
    volume.remove(ROOT_INODE, b"file", false, nobody).unwrap();
    volume.make_directory(ROOT_INODE, b"again", DIRECTORY).unwrap();
    volume.close().unwrap();
    image.judge();
}

#[test]
fn what_is_deleted_while_in_use_goes_later_or_after_a_crash() {
    let image = blank(8 << 20, &[]);
    let mut volume = image.open(true);
    for name in ["one", "two", "three"] {
        write(&mut volume, ROOT_INODE, name, &pattern(50_000));
        volume.remove(ROOT_INODE, name.as_bytes(), false, |_| true).unwrap();
    }
    volume.remove_orphan(13).unwrap();
    let inode = volume.inode(13).unwrap();
    volume.delete(inode).unwrap();
    volume.commit(false).unwrap();
    drop(volume); // killed
    image.open(true).close().unwrap();
    image.judge();
}

/// A server killed at any moment: what the file holds then is every prefix of its writes.
#[test]
fn a_crash_leaves_what_was_committed() {
    let image = blank(16 << 20, &["/upper"]);
    let mut volume = image.open(true);
    let upper = find(&mut volume, ROOT_INODE, "upper").unwrap().number;
    for number in 0..200 {
        write(&mut volume, upper, &format!("kept {number}"), &pattern(5000));
    }
    volume.commit(false).unwrap();
    for number in 0..200 {
        volume.remove(upper, format!("kept {number}").as_bytes(), false, nobody).unwrap();
        write(&mut volume, upper, &format!("lost {number}"), &pattern(6000));
    }
    drop(volume); // killed before the commit
    let mut volume = image.open(false);
    assert_eq!(names(&mut volume, upper).len(), 200);
    let inode = find(&mut volume, upper, "kept 7").unwrap();
    assert_eq!(content(&mut volume, &inode), pattern(5000));
    image.judge_after_a_crash();
}

#[test]
fn an_unfinished_commit_is_finished_by_whoever_comes_next() {
    for by_us in [true, false] {
        let image = blank(16 << 20, &["/upper"]);
        let mut volume = image.open(true);
        let upper = find(&mut volume, ROOT_INODE, "upper").unwrap().number;
        let before = std::fs::read(&image.path).unwrap();
        for number in 0..50 {
            write(&mut volume, upper, &format!("new {number}"), &pattern(5000));
        }
        volume.commit(false).unwrap();
        drop(volume);
        // Only the journal and the data got there: every block of structure is as it was.
        let mut after = std::fs::read(&image.path).unwrap();
        let journal = journal_range(&image);
        let start = u32::from_be_bytes(after[journal.start + 28..journal.start + 32].try_into().unwrap());
        assert_eq!(start, 0);
        let changed: Vec<usize> = (0..after.len() / 4096)
            .filter(|block| {
                let at = block * 4096..(block + 1) * 4096;
                !journal.contains(&at.start)
                    && before[at.clone()] != after[at.clone()]
                    && is_structure(&before, *block)
            })
            .collect();
        assert!(!changed.is_empty());
        for block in changed {
            let at = block * 4096..(block + 1) * 4096;
            after[at.clone()].copy_from_slice(&before[at]);
        }
        // The superblock of the journal, as it was when the commit counted.
        let sequence = u32::from_be_bytes(after[journal.start + 24..journal.start + 28].try_into().unwrap());
        after[journal.start + 24..journal.start + 28].copy_from_slice(&(sequence - 1).to_be_bytes());
        after[journal.start + 28..journal.start + 32].copy_from_slice(&1u32.to_be_bytes());
        after[1024 + 96] |= 4;
        std::fs::write(&image.path, after).unwrap();
        if by_us {
            assert_eq!(names(&mut image.open(false), upper).len(), 50);
            image.open(true).close().unwrap();
            image.judge();
        } else {
            image.judge_after_a_crash();
        }
        assert_eq!(names(&mut image.open(false), upper).len(), 50);
    }
}

/// Where the journal of a small new file system lies: in one piece.
fn journal_range(image: &Image) -> std::ops::Range<usize> {
    let mut volume = image.open(false);
    let inode = volume.inode(8).unwrap();
    let first = volume.map(&inode, 0).unwrap() as usize;
    let last = volume.map(&inode, inode.size() / 4096 - 1).unwrap() as usize;
    first * 4096..(last + 1) * 4096
}

/// The first blocks are tables; a directory begins with itself.
fn is_structure(image: &[u8], block: usize) -> bool {
    block < 40 || image[block * 4096 + 8] == b'.'
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let image = blank(8 << 20, &["/upper/opt", "/work"]);
    let mut volume = image.open(true);
    let upper = find(&mut volume, ROOT_INODE, "upper").unwrap().number;
    for number in 0..40 {
        let file = write(&mut volume, upper, &format!("f{number}"), &pattern(number * 3000));
        let mut inode = volume.inode(file).unwrap();
        volume.set_attributes(&mut inode, &vec![(b"user.a".to_vec(), vec![1; number * 20])]).unwrap();
    }
    volume.close().unwrap();
    let sound = std::fs::read(&image.path).unwrap();
    let used: Vec<usize> =
        (0..sound.len()).filter(|&at| sound[at] != 0 && (at < 1 << 20 || at % 4096 < 64)).collect();
    let mut random: u64 = 88_172_645_463_325_252;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    for _ in 0..400 {
        let mut bytes = sound.clone();
        for _ in 0..1 + next(6) {
            bytes[used[next(used.len())]] = next(256) as u8;
        }
        std::fs::write(&image.path, &bytes).unwrap();
        exercise(&image, false);
        exercise(&image, true);
    }
}

fn exercise(image: &Image, writable: bool) {
    let file = OpenOptions::new().read(true).write(writable).open(&image.path).unwrap();
    let Ok(mut volume) = Volume::open(file, 0, image.size, writable) else { return };
    let mut pending = vec![(ROOT_INODE, 0)];
    let mut seen = 0;
    while let Some((number, depth)) = pending.pop() {
        seen += 1;
        if seen > 500 || depth > 10 {
            break;
        }
        let Ok(inode) = volume.inode(number) else { continue };
        let _ = volume.attributes(&inode);
        let _ = volume.read_link(&inode);
        let _ = volume.read(&inode, 0, &mut vec![0; 20_000]);
        let mut at = 0;
        while let Ok(entries) = volume.list(&inode, at) {
            let Some(last) = entries.last() else { break };
            at = last.next;
            for entry in &entries {
                if entry.name != b"." && entry.name != b".." {
                    pending.push((entry.inode, depth + 1));
                }
            }
        }
        if writable {
            let _ = volume.make_node(number, b"new", FILE, 0);
            let _ = volume.make_directory(number, b"newdir", DIRECTORY);
            let mut inode = inode.clone();
            let _ = volume.resize(&mut inode, 5);
            let _ = volume.rename((number, b"new"), (ROOT_INODE, b"moved"), 0, (0, 0), nobody);
            let _ = volume.remove(number, b"f3", false, nobody);
        }
    }
    if writable {
        let _ = volume.close();
    }
}
