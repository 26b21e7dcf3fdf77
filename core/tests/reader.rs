//! The reader against images of squashfs-tools, whole and damaged.

mod images;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use images::{Chance, mksquashfs, mutate, noise, open, set_xattr, small_tree, text, walk};
use soliton_core::squashfs::format::Error;
use soliton_core::squashfs::inode::{Data, Inode};
use soliton_core::squashfs::reader::Image;

const COMPRESSORS: [&str; 5] = ["gzip", "xz", "lz4", "lzo", "zstd"];
const BLOCK_SIZES: [usize; 3] = [4096, 131_072, 1_048_576];

/// Files around every block size, and everything else a tree may have.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("sizes")).unwrap();
    for size in [0, 1, 300_000].into_iter().chain(BLOCK_SIZES.iter().flat_map(|&bs| [bs - 1, bs, bs + 1])) {
        fs::write(root.join(format!("sizes/text-{size}")), text(size)).unwrap();
        if size <= 300_000 {
            fs::write(root.join(format!("sizes/noise-{size}")), noise(size, size as u64)).unwrap();
        }
    }
    fs::write(root.join("zeros"), vec![0; 400_000]).unwrap();
    let mut sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all(b"begin").unwrap();
    sparse.seek(SeekFrom::Start(2_500_000)).unwrap();
    sparse.write_all(&text(5000)).unwrap();
    sparse.set_len(4_000_001).unwrap();

    fs::create_dir_all(root.join("many/inside")).unwrap();
    for i in 0..3000 {
        fs::write(root.join(format!("many/{:04}-{}", i * 7 % 3000, "n".repeat(i % 40))), []).unwrap();
    }
    fs::create_dir_all(root.join("names/empty")).unwrap();
    for name in ["a".repeat(255), "ü".repeat(127), " ".into(), "-".into(), "line\nend".into()] {
        fs::write(root.join("names").join(name), text(10)).unwrap();
    }
    fs::write(root.join("names").join(std::ffi::OsStr::from_bytes(b"\xFF\x80")), b"not UTF-8").unwrap();

    fs::hard_link(root.join("sizes/text-4097"), root.join("names/hard")).unwrap();
    symlink("../sizes/text-1", root.join("names/link")).unwrap();
    symlink("/names/link", root.join("absolute")).unwrap();
    symlink("names", root.join("to-names")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink("t/".repeat(1500), root.join("long-link")).unwrap();
    symlink("../../../../zeros", root.join("above")).unwrap();

    set_xattr(&root.join("zeros"), "user.short", b"value");
    set_xattr(&root.join("zeros"), "user.empty", b"");
    // Values that occur twice are stored once, elsewhere.
    for name in ["sparse", "many", "names", "sizes/text-1"] {
        set_xattr(&root.join(name), "user.shared", &text(900));
    }
}

/// Every path below `root`, relative to it; the root itself is the empty one.
fn paths(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        let whole = root.join(&path);
        if whole.symlink_metadata().unwrap().is_dir() {
            found.extend(fs::read_dir(whole).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        }
        next += 1;
    }
    found
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 4096];
    let count = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let value = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let count = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(count);
        value
    };
    let names = names[..count].split(|&b| b == 0).filter(|name| name.starts_with(b"user."));
    names.map(|name| (name.to_vec(), value(name))).collect()
}

fn image_at(path: &Path) -> Image {
    let file = Arc::new(File::open(path).unwrap());
    let size = file.metadata().unwrap().len();
    open(&file, size).unwrap()
}

fn content(image: &Image, inode: &Inode, chunk: usize) -> Vec<u8> {
    let mut content = Vec::new();
    let mut buffer = vec![0xAA; chunk];
    loop {
        let count = image.read_file(inode, content.len() as u64, &mut buffer).unwrap();
        if count == 0 {
            return content;
        }
        content.extend_from_slice(&buffer[..count]);
    }
}

/// The image says of every path what the source says, and has no others.
fn check_same(image: &Image, source: &Path, with_xattrs: bool) {
    let mut numbers: BTreeMap<u64, u32> = BTreeMap::new();
    for path in paths(source) {
        let whole = source.join(&path);
        let meta = whole.symlink_metadata().unwrap();
        let inode = image.resolve(path.as_os_str().as_bytes(), false).unwrap();
        assert_eq!(inode.full_mode(), meta.mode(), "{path:?}");
        assert_eq!((inode.uid, inode.gid), (meta.uid(), meta.gid()), "{path:?}");
        assert_eq!(i64::from(inode.mtime), meta.mtime(), "{path:?}");
        let found: BTreeMap<_, _> = image.xattrs(&inode).unwrap().into_iter().collect();
        assert_eq!(found, if with_xattrs { xattrs(&whole) } else { BTreeMap::new() }, "{path:?}");
        match &inode.data {
            Data::Directory { .. } => check_directory(image, &inode, &whole),
            Data::Symlink { target } => {
                assert_eq!(target, fs::read_link(&whole).unwrap().as_os_str().as_bytes());
            }
            Data::File { .. } => {
                assert_eq!(u64::from(inode.links), meta.nlink(), "{path:?}");
                assert_eq!(*numbers.entry(meta.ino()).or_insert(inode.number), inode.number, "{path:?}");
                let expected = fs::read(&whole).unwrap();
                assert_eq!(inode.size, expected.len() as u64);
                assert!(content(image, &inode, 1 << 20) == expected, "{path:?}");
                if !expected.is_empty() {
                    assert!(content(image, &inode, 65_537) == expected, "{path:?} in odd pieces");
                }
            }
            other => panic!("{path:?} is {other:?}"),
        }
    }
}

fn check_directory(image: &Image, directory: &Inode, source: &Path) {
    let mut names = BTreeSet::new();
    let mut listing = image.list(directory, 0).unwrap();
    while let Some(entry) = listing.next_entry().unwrap() {
        let inode = image.inode_of(&entry).unwrap();
        let found = image.lookup(directory, &entry.name).unwrap();
        assert_eq!((found.reference, found.number), (inode.reference, inode.number));
        let mut absent = entry.name.clone();
        absent.push(b'~');
        assert!(matches!(image.lookup(directory, &absent), Err(Error::NotFound)));
        // The listing goes on behind any entry, remembered or not.
        if names.len() % 97 == 0 {
            let mut rest = image.list(directory, entry.cookie).unwrap();
            let mut again = image.list(directory, 0).unwrap();
            while again.next_entry().unwrap().as_ref() != Some(&entry) {}
            assert_eq!(rest.next_entry().unwrap(), again.next_entry().unwrap());
            listing.remember(image, directory);
            let mut rest = image.list(directory, entry.cookie).unwrap();
            let mut again = image.list(directory, entry.cookie).unwrap();
            assert_eq!(rest.next_entry().unwrap(), again.next_entry().unwrap());
        }
        assert!(names.insert(entry.name), "a name is listed twice");
    }
    let expected: BTreeSet<Vec<u8>> =
        fs::read_dir(source).unwrap().map(|e| e.unwrap().file_name().as_bytes().to_vec()).collect();
    assert_eq!(names, expected);
    for name in [&b""[..], b"!", b"~~~", b".", b"..", &[0xFF; 255]] {
        assert!(matches!(image.lookup(directory, name), Err(Error::NotFound)));
    }
}

/// Makes an image for each set of options, and compares each with the source.
fn check_variants(variants: &[Vec<String>]) {
    let place = tempfile::tempdir().unwrap();
    let (source, file) = (place.path().join("source"), place.path().join("image"));
    tree(&source);
    for options in variants {
        mksquashfs(&source, &file, options);
        println!("{options:?}");
        check_same(&image_at(&file), &source, !options.iter().any(|o| o == "-no-xattrs"));
    }
}

fn variant(compressor: &str, block_size: usize, more: &[&str]) -> Vec<String> {
    let block_size = block_size.to_string();
    ["-comp", compressor, "-b", &block_size].iter().chain(more).map(|&option| option.to_owned()).collect()
}

#[test]
fn every_compressor_is_read_with_every_block_size() {
    let variants: Vec<_> =
        COMPRESSORS.iter().flat_map(|name| BLOCK_SIZES.map(|size| variant(name, size, &[]))).collect();
    check_variants(&variants);
}

#[test]
fn every_way_to_store_tables_and_fragments_is_read() {
    let options: [&[&str]; 9] = [
        &["-noI"],
        &["-noD"],
        &["-noF"],
        &["-noX"],
        &["-no-fragments"],
        &["-always-use-fragments"],
        &["-no-exports"],
        &["-no-xattrs"],
        &["-noI", "-noD", "-noF", "-noX", "-no-exports", "-no-duplicates", "-nopad"],
    ];
    let variants: Vec<_> = options
        .iter()
        .flat_map(|more| [variant("zstd", 131_072, more), variant("gzip", 4096, more)])
        .collect();
    check_variants(&variants);
}

#[test]
fn links_are_followed_inside_the_image_only() {
    let place = tempfile::tempdir().unwrap();
    let (source, file) = (place.path().join("source"), place.path().join("image"));
    tree(&source);
    mksquashfs(&source, &file, &["-comp", "lz4"]);
    let image = image_at(&file);
    let number = |path: &str| image.resolve(path.as_bytes(), true).unwrap().number;
    assert_eq!(number("absolute"), number("sizes/text-1"));
    assert_eq!(number("/to-names//./hard"), number("sizes/text-4097"));
    assert_eq!(number("above"), number("zeros"));
    assert_eq!(number("to-names/../zeros"), number("zeros"));
    assert_eq!(number("../.."), image.root().unwrap().number);
    assert_eq!(image.resolve(b"loop", true).unwrap_err().errno(), libc::ELOOP);
    assert_eq!(image.resolve(b"zeros/below", true).unwrap_err().errno(), libc::ENOTDIR);
    assert_eq!(image.resolve(b"names/none/x", true).unwrap_err().errno(), libc::ENOENT);
    assert!(matches!(image.resolve(b"absolute", false).unwrap().data, Data::Symlink { .. }));
}

#[test]
fn an_image_inside_a_file_is_read_from_where_it_begins() {
    let place = tempfile::tempdir().unwrap();
    let (source, file) = (place.path().join("source"), place.path().join("image"));
    small_tree(&source);
    mksquashfs(&source, &file, &["-comp", "zstd"]);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, [&noise(4096, 5), &bytes[..], &noise(100, 6)].concat()).unwrap();
    let image = Image::open(Arc::new(File::open(&file).unwrap()), 4096, bytes.len() as u64).unwrap();
    check_same(&image, &source, true);
}

/// A small image without padding, for each compressor.
fn small_images() -> Vec<Vec<u8>> {
    let place = tempfile::tempdir().unwrap();
    let (source, file) = (place.path().join("source"), place.path().join("image"));
    small_tree(&source);
    let make = |compressor| {
        mksquashfs(&source, &file, &variant(compressor, 4096, &["-nopad"]));
        let mut bytes = Vec::new();
        File::open(&file).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    COMPRESSORS.into_iter().map(make).collect()
}

/// Every thousandth byte, and around every table's beginning and position.
fn cuts(image: &[u8]) -> BTreeSet<usize> {
    let mut cuts: BTreeSet<usize> = (0..image.len()).step_by(1000).collect();
    let fields = (0..=SUPERBLOCK).step_by(8);
    let tables = fields
        .filter_map(|at| image.get(at..at + 8))
        .map(|field| usize::try_from(u64::from_le_bytes(field.try_into().unwrap())).unwrap_or(usize::MAX));
    for place in tables.chain([4, 48, SUPERBLOCK, image.len()]) {
        cuts.extend([place.saturating_sub(1), place, place.saturating_add(1), place.saturating_add(8)]);
    }
    cuts.retain(|&cut| cut < image.len());
    cuts
}

const SUPERBLOCK: usize = 96;
/// Where the superblock says how long the image is.
const BYTES_USED: usize = 40;

#[test]
fn a_truncated_image_is_refused_when_it_is_opened() {
    for bytes in small_images() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        for cut in cuts(&bytes) {
            file.set_len(0).unwrap();
            file.write_all_at(&bytes[..cut], 0).unwrap();
            assert!(open(&file, bytes.len() as u64).is_err(), "cut at {cut} of {}", bytes.len());
            assert!(open(&file, cut as u64).is_err(), "cut at {cut} of {}", bytes.len());
        }
    }
}

#[test]
fn a_truncated_image_that_claims_to_be_whole_is_an_error_sooner_or_later() {
    for bytes in small_images() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        for cut in cuts(&bytes).into_iter().filter(|&cut| cut >= SUPERBLOCK) {
            let mut short = bytes[..cut].to_vec();
            short[BYTES_USED..BYTES_USED + 8].copy_from_slice(&(cut as u64).to_le_bytes());
            file.set_len(0).unwrap();
            file.write_all_at(&short, 0).unwrap();
            let errors = open(&file, cut as u64).map_or(1, |image| walk(&image));
            assert!(errors > 0, "cut at {cut} of {}", bytes.len());
        }
    }
}

#[test]
fn an_image_that_shrinks_while_it_is_open_is_an_error() {
    for bytes in small_images() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        for cut in cuts(&bytes) {
            file.write_all_at(&bytes, 0).unwrap();
            let image = open(&file, bytes.len() as u64).unwrap();
            file.set_len(cut as u64).unwrap();
            assert!(walk(&image) > 0, "cut at {cut} of {}", bytes.len());
        }
    }
}

#[test]
fn the_small_images_are_whole_before_they_are_damaged() {
    for bytes in small_images() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.write_all_at(&bytes, 0).unwrap();
        assert_eq!(walk(&open(&file, bytes.len() as u64).unwrap()), 0);
    }
}

#[test]
fn damaged_bytes_neither_panic_nor_hang() {
    let mut chance = Chance(0x5011_7011);
    for bytes in small_images() {
        let mut left = 600;
        mutate(&bytes, &mut chance, || {
            left -= 1;
            left >= 0
        });
    }
}
