//! Random trees come back as they were, whoever reads the image: unsquashfs, squashfuse and, as root, the kernel.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::core::{directory_layer, image_layer, squash};
use super::trees::{assert_same, random, read, without_numbers};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a program is here. A run that must prove everything does not pass without it.
fn have(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "PATH=$PATH:/usr/sbin:/sbin; command -v \"$0\"", program])
        .stdout(Stdio::null())
        .status()
        .unwrap()
        .success();
    assert!(found || std::env::var_os("SOLITON_MUST_RUN").is_none(), "{program} is missing");
    found
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new("/usr/bin/env").arg(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Mounted<'a>(&'a Path, &'static [&'static str]);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        run(self.1[0], &[&self.1[1..], &[self.0.to_str().unwrap()]].concat());
    }
}

/// Lets every reader have a look.
fn judge(source: &Path, image: &Path, work: &Path) {
    let (expected, unowned) = (read(source, true), read(source, false));
    let image_name = image.to_str().unwrap();
    if have("unsquashfs") {
        let target = work.join("unsquashed");
        run("unsquashfs", &["-quiet", "-no-progress", "-p", "1", "-d", target.to_str().unwrap(), image_name]);
        assert_same(&unowned, &read(&target, false), "unsquashfs");
        make_removable(&target);
        std::fs::remove_dir_all(&target).unwrap();
    }
    let at = work.join("mounted");
    std::fs::create_dir_all(&at).unwrap();
    if have("squashfuse") && Path::new("/dev/fuse").exists() {
        run("squashfuse", &[image_name, at.to_str().unwrap()]);
        let _mounted = Mounted(&at, &["fusermount", "-u", "-z"]);
        let found = without_numbers(read(&at, true));
        assert_same(&without_numbers(read(source, true)), &found, "squashfuse");
    }
    if is_root() && Path::new("/dev/loop-control").exists() {
        run("mount", &["-t", "squashfs", "-o", "ro,loop", image_name, at.to_str().unwrap()]);
        let _mounted = Mounted(&at, &["umount"]);
        assert_same(&expected, &read(&at, true), "the kernel");
    }
}

/// Directories without permissions would stay.
fn make_removable(path: &Path) {
    run("chmod", &["-R", "u+rwX", path.to_str().unwrap()]);
}

#[test]
fn random_trees_are_read_alike_by_every_reader() {
    for (seed, compressor, block_size) in [
        (1, "zstd", 131_072),
        (2, "gzip", 4096),
        (3, "xz", 65_536),
        (4, "lz4", 131_072),
        (5, "none", 8192),
        (6, "zstd", 1 << 20),
    ] {
        let work = TempDir::new().unwrap();
        let source = work.path().join("source");
        std::fs::create_dir(&source).unwrap();
        random(&source, seed, block_size);
        let request = json!({"compressor": compressor, "block_size": block_size});
        let image = squash(&work.path().join("image"), json!([directory_layer(&source)]), request).ok();
        judge(&source, &image, work.path());
        // Seconds are dear, and the two that follow do not depend on the compressor.
        if seed > 2 {
            make_removable(&source);
            continue;
        }
        // The image as the base of the next: taken over as stored, and packed anew.
        let request = json!({"compressor": compressor, "block_size": block_size});
        let copy = squash(&work.path().join("copy"), json!([image_layer(&image)]), request).ok();
        judge(&source, &copy, work.path());
        let request = json!({"compressor": "gzip", "level": 1, "block_size": 16384});
        let anew = squash(&work.path().join("anew"), json!([image_layer(&image)]), request).ok();
        judge(&source, &anew, work.path());
        make_removable(&source);
    }
}

#[test]
fn a_directory_of_many_entries_is_found_by_name_everywhere() {
    let work = TempDir::new().unwrap();
    let source = work.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for i in 0..5000 {
        std::fs::write(source.join(format!("{}-{i:05}", "long".repeat(1 + i % 40))), "x").unwrap();
    }
    let image = squash(&work.path().join("image"), json!([directory_layer(&source)]), json!({})).ok();
    judge(&source, &image, work.path());
}
