//! What becomes of requests and layers that are unusual or wrong.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::core::{directory_layer, image_layer, squash, start, tar_layer, with};
use super::tar::Tar;
use super::trees::Dice;

fn unsquashed(image: &Path, work: &Path) -> std::path::PathBuf {
    let target = work.join("unsquashed");
    let _ = std::fs::remove_dir_all(&target);
    let output = std::process::Command::new("unsquashfs")
        .args(["-quiet", "-no-progress", "-d"])
        .args([&target, image])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target
}

fn content(root: &Path, name: &str) -> String {
    std::fs::read_to_string(root.join(name)).unwrap()
}

#[test]
fn what_seemed_hidden_but_is_linked_from_above_is_read_again() {
    let work = TempDir::new().unwrap();
    let lower =
        tar_layer(work.path(), "lower", &Tar::default().file("old", b"kept").file("more", b"x").end());
    let upper = Tar::default().hard_link("new", "old").file(".wh.old", b"").file("more", b"y").end();
    let upper = tar_layer(work.path(), "upper", &upper);
    let image = squash(&work.path().join("image"), json!([lower, upper]), json!({})).ok();
    let root = unsquashed(&image, work.path());
    assert_eq!(content(&root, "new"), "kept");
    assert!(!root.join("old").exists());

    let tree = work.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("old"), "from a directory").unwrap();
    let layers = json!([directory_layer(&tree), upper]);
    let root = unsquashed(&squash(&work.path().join("image"), layers, json!({})).ok(), work.path());
    assert_eq!(content(&root, "new"), "from a directory");
}

#[test]
fn a_layer_that_comes_once_through_a_pipe_needs_no_second_look() {
    let work = TempDir::new().unwrap();
    let lower = Tar::default().file("old", b"kept").end();
    let upper = Tar::default().hard_link("new", "old").file(".wh.old", b"").end();
    let (read_end, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    std::fs::File::from(write_end).write_all(&lower).unwrap();
    let layers = json!([{"kind": "tar", "fd": 0, "path": null}, tar_layer(work.path(), "upper", &upper)]);
    let image = start(&work.path().join("image"), layers, json!({}), &[&read_end]).wait().ok();
    assert_eq!(content(&unsquashed(&image, work.path()), "new"), "kept");
}

#[test]
fn a_small_change_to_a_large_base_copies_its_blocks_as_they_are() {
    let work = TempDir::new().unwrap();
    let mut tar = Tar::default();
    let mut dice = Dice(11);
    for i in 0..30 {
        tar.file(&format!("large{i}"), &dice.content(400_000)).file(&format!("small{i}"), &dice.content(900));
    }
    let base = tar_layer(work.path(), "base.tar", &tar.end());
    let base = squash(&work.path().join("base"), json!([base]), json!({"level": 19})).ok();
    let upper =
        Tar::default().file(".wh.large3", b"").file("small4", b"new").file("large5", b"new too").end();
    let layers = json!([image_layer(&base), tar_layer(work.path(), "upper", &upper)]);
    let image = squash(&work.path().join("image"), layers.clone(), json!({})).ok();
    let root = unsquashed(&image, work.path());
    let (old, new) = (std::fs::read(&base).unwrap(), std::fs::read(&image).unwrap());
    // What the base compressed at level 19 is there byte for byte: a stretch out of the middle of its data.
    let sample = &old[200_000..260_000];
    assert!(new.windows(sample.len()).any(|window| window == sample));
    assert!(!root.join("large3").exists());
    assert_eq!((content(&root, "small4"), content(&root, "large5")), ("new".into(), "new too".into()));
    let reference =
        unsquashed(&squash(&work.path().join("x"), layers, json!({"compressor": "gzip"})).ok(), work.path());
    assert_eq!(std::fs::read_dir(reference).unwrap().count(), 59);
}

#[test]
fn what_is_removed_is_not_in_the_bytes() {
    let work = TempDir::new().unwrap();
    let mut dice = Dice(3);
    // Nothing of it can be compressed, so blocks show what is in them.
    let (large, secret, near, far) =
        (dice.noise(300_000), dice.noise(64), dice.noise(5000), dice.noise(5000));
    let mut tar = Tar::default();
    tar.directory("d").file("d/a", &near).file("d/large", &large).file("d/secret", &secret).file("d/z", &far);
    tar.file("d/linked", b"kept by its other name").hard_link("d/other", "d/linked");
    let base = squash(
        &work.path().join("base.img"),
        json!([tar_layer(work.path(), "base.tar", &tar.end())]),
        json!({}),
    );
    let base = base.ok();
    let holds =
        |image: &Path| std::fs::read(image).unwrap().windows(secret.len()).any(|window| window == secret);
    assert!(holds(&base));

    let above = Tar::default().directory("d").file("d/.wh.secret", b"").file("d/.wh.linked", b"").end();
    let layers = json!([image_layer(&base), tar_layer(work.path(), "above.tar", &above)]);
    let image = squash(&work.path().join("image"), layers, json!({})).ok();
    assert!(!holds(&image), "a removed file shows in a block that it shared");
    let root = unsquashed(&image, work.path());
    for (name, expected) in [("a", &near), ("z", &far), ("large", &large)] {
        assert!(&std::fs::read(root.join("d").join(name)).unwrap() == expected, "{name}");
    }
    assert_eq!(content(&root, "d/other"), "kept by its other name");
    assert!(!root.join("d/secret").exists() && !root.join("d/linked").exists());
}

#[test]
fn marks_of_an_overlay_are_whiteouts_only_where_they_are_asked_for() {
    let work = TempDir::new().unwrap();
    let lower = tar_layer(
        work.path(),
        "lower",
        &Tar::default().file("d/a", b"a").file("d/b", b"b").file("e", b"e").end(),
    );
    let upper = work.path().join("upper");
    std::fs::create_dir_all(upper.join("d")).unwrap();
    std::fs::write(upper.join("d/c"), "c").unwrap();
    std::fs::write(upper.join("e"), "").unwrap();
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::setxattr(upper.join(name), key, value, rustix::fs::XattrFlags::empty())
    };
    if set("d", "user.overlay.opaque", b"y").is_err() {
        assert!(std::env::var_os("SOLITON_MUST_RUN").is_none(), "this file system keeps no attributes");
        return;
    }
    set("e", "user.overlay.whiteout", b"").unwrap();
    set("d/c", "user.overlay.origin", b"\x00").unwrap();
    set("d/c", "user.kept", b"1").unwrap();
    let mut layer = directory_layer(&upper);
    layer["whiteouts"] = json!("overlay");
    let image = squash(&work.path().join("image"), json!([lower, layer]), json!({})).ok();
    let root = unsquashed(&image, work.path());
    let names = |folder: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&root), ["d"]);
    assert_eq!(names(&root.join("d")), ["c"]);
    let mut list = vec![0; 1000];
    let count = rustix::fs::listxattr(root.join("d/c"), &mut list[..]).unwrap();
    assert_eq!(&list[..count], b"user.kept\0");

    set("d", "user.overlay.redirect", b"/elsewhere").unwrap();
    assert_eq!(squash(&work.path().join("image"), json!([lower, layer]), json!({})).code(), "corrupt");
    let image = squash(&work.path().join("image"), json!([lower, directory_layer(&upper)]), json!({})).ok();
    assert_eq!(names(&unsquashed(&image, work.path())), ["d", "e"]);
}

#[test]
fn what_is_excluded_is_not_even_read() {
    let work = TempDir::new().unwrap();
    let tree = work.path().join("tree");
    std::fs::create_dir_all(tree.join("secret")).unwrap();
    std::fs::write(tree.join("secret/file"), "x").unwrap();
    std::fs::write(tree.join("unreadable"), "x").unwrap();
    std::fs::write(tree.join("kept"), "x").unwrap();
    for name in ["secret", "unreadable"] {
        std::fs::set_permissions(tree.join(name), PermissionsExt::from_mode(0o0)).unwrap();
    }
    let layers = json!([directory_layer(&tree)]);
    if !rustix::process::geteuid().is_root() {
        let outcome = squash(&work.path().join("image"), layers.clone(), json!({}));
        assert_eq!(outcome.code(), "io");
        assert_eq!(outcome.last()["path"], "secret");
    }
    let request = json!({"exclude": ["/secret", "/unreadable"]});
    let root = unsquashed(&squash(&work.path().join("image"), layers, request).ok(), work.path());
    assert_eq!(std::fs::read_dir(root).unwrap().count(), 1);
    std::fs::set_permissions(tree.join("secret"), PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn files_that_differ_every_time_are_as_below_but_removals_count() {
    let work = TempDir::new().unwrap();
    let upper = work.path().join("upper");
    for folder in ["log/apt", "cache/deep/er", "kept"] {
        std::fs::create_dir_all(upper.join(folder)).unwrap();
    }
    for name in ["log/apt/history.log", "log/dpkg.log", "log/own.log", "cache/deep/er/x", "kept/x"] {
        std::fs::write(upper.join(name), "upper").unwrap();
    }
    // `rm` of a file of the base, as an overlay without privilege marks it.
    std::fs::write(upper.join("log/gone.log"), "").unwrap();
    rustix::fs::setxattr(
        upper.join("log/gone.log"),
        c"user.overlay.whiteout",
        b"y",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let mut base = Tar::default();
    base.file("log/dpkg.log", b"base").file("log/gone.log", b"base");
    let patterns =
        json!({"whiteouts": "overlay", "without": ["/log/apt/*", "log/*pkg.log", "log/gone.log", "cache/*"]});
    let layers =
        json!([tar_layer(work.path(), "base.tar", &base.end()), with(directory_layer(&upper), patterns)]);
    let image = squash(&work.path().join("image"), layers, json!({})).ok();
    let root = unsquashed(&image, work.path());
    assert_eq!(content(&root, "log/dpkg.log"), "base");
    assert_eq!(content(&root, "log/own.log"), "upper");
    assert_eq!(content(&root, "kept/x"), "upper");
    assert!(root.join("log/apt").is_dir() && root.join("cache").is_dir());
    for name in ["log/apt/history.log", "log/gone.log", "cache/deep"] {
        assert!(!root.join(name).exists(), "{name}");
    }
}

#[test]
fn compiled_python_bears_the_time_that_its_source_gets() {
    let work = TempDir::new().unwrap();
    let tree = work.path().join("tree");
    std::fs::create_dir_all(tree.join("__pycache__")).unwrap();
    let written = |name: &str, data: &[u8], time: i64| {
        std::fs::write(tree.join(name), data).unwrap();
        let time = rustix::fs::Timespec { tv_sec: time, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, tree.join(name), &times, rustix::fs::AtFlags::empty())
            .unwrap();
    };
    let pyc = |magic: u16, fields: &[u32]| {
        let mut data = magic.to_le_bytes().to_vec();
        data.extend(b"\r\n");
        fields.iter().for_each(|field| data.extend(field.to_le_bytes()));
        data.extend(b"code");
        data
    };
    for name in ["young.py", "hashed.py", "two.py", "other.py"] {
        written(name, b"", 2000);
    }
    written("old.py", b"", 500);
    let cases = [
        ("__pycache__/young.cpython-311.opt-1.pyc", pyc(3495, &[0, 2000, 9]), pyc(3495, &[0, 1000, 9])),
        ("__pycache__/old.cpython-311.pyc", pyc(3495, &[0, 500, 9]), pyc(3495, &[0, 500, 9])),
        // By hash, of another time than its source, without a source, of Python 2, too short.
        ("__pycache__/hashed.cpython-311.pyc", pyc(3495, &[3, 2000, 9]), pyc(3495, &[3, 2000, 9])),
        ("__pycache__/other.cpython-311.pyc", pyc(3495, &[0, 1999, 9]), pyc(3495, &[0, 1999, 9])),
        ("__pycache__/none.cpython-311.pyc", pyc(3495, &[0, 2000, 9]), pyc(3495, &[0, 2000, 9])),
        ("two.pyc", pyc(62211, &[2000, 9]), pyc(62211, &[1000, 9])),
        ("__pycache__/young.cpython-312.pyc", b"\xa7\r\r\n".to_vec(), b"\xa7\r\r\n".to_vec()),
    ];
    for (name, data, _) in &cases {
        written(name, data, 2000);
    }
    let layers = json!([with(directory_layer(&tree), json!({"clamp": 1000}))]);
    let image = squash(&work.path().join("image"), layers, json!({})).ok();
    let root = unsquashed(&image, work.path());
    for (name, _, expected) in &cases {
        assert_eq!(&std::fs::read(root.join(name)).unwrap(), expected, "{name}");
    }
    let time =
        |name: &str| std::os::unix::fs::MetadataExt::mtime(&std::fs::metadata(root.join(name)).unwrap());
    assert_eq!((time("young.py"), time("old.py")), (1000, 500));
}

#[test]
fn an_archive_may_end_with_its_last_files_last_byte_and_not_before() {
    let work = TempDir::new().unwrap();
    let whole = Tar::default().file("a", b"first").file("b", &[b'x'; 700]).end();
    let body_ends = 512 + 512 + 512 + 700;
    let made = |length: usize| {
        let layer = tar_layer(work.path(), "layer", &whole[..length]);
        squash(&work.path().join("image"), json!([layer]), json!({}))
    };
    let expected = std::fs::read(made(whole.len()).ok()).unwrap();
    for length in [body_ends, body_ends + 1, 2560, 2561, 3072, 3500] {
        assert!(std::fs::read(made(length).ok()).unwrap() == expected, "{length}");
    }
    for length in [100, 512, 516, 1024 + 100, 1536, body_ends - 1] {
        assert_eq!(made(length).code(), "corrupt", "{length}");
    }
}

#[test]
fn a_full_disk_is_told_as_such() {
    let work = TempDir::new().unwrap();
    let layer = Tar::default().file("f", &Dice(1).noise(3_000_000)).end();
    // A limit of the size of files stands for a full disk: nobody may fill the machine for a test. It is set before
    // the core has anything to write.
    let (read_end, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let layers = json!([{"kind": "tar", "fd": 0, "path": null}]);
    let request = json!({"compressor": "none", "threads": 1});
    let running = start(&work.path().join("image"), layers, request, &[&read_end]);
    drop(read_end);
    let pid = rustix::process::Pid::from_child(&running.child);
    let limit = rustix::process::Rlimit { current: Some(1 << 20), maximum: None };
    rustix::process::prlimit(Some(pid), rustix::process::Resource::Fsize, limit).unwrap();
    // The core may be gone before it has read everything.
    let _ = std::fs::File::from(write_end).write_all(&layer);
    assert_eq!(running.wait().code(), "no-space");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let work = TempDir::new().unwrap();
    let layer = tar_layer(work.path(), "layer", &Tar::default().end());
    for wrong in [
        json!({"compressor": "brotli"}),
        json!({"level": 99}),
        json!({"block_size": 5000}),
        json!({"block_size": 2 << 20}),
    ] {
        assert_eq!(squash(&work.path().join("image"), json!([layer]), wrong).code(), "bad-request");
    }
    let nothing = json!([{"kind": "tar", "fd": null, "path": null}]);
    assert_eq!(squash(&work.path().join("image"), nothing, json!({})).code(), "bad-request");
    let missing = json!([{"kind": "tar", "fd": null, "path": "/nowhere/at/all"}]);
    let outcome = squash(&work.path().join("image"), missing, json!({}));
    assert_eq!((outcome.code(), &outcome.last()["path"]), ("io".into(), &json!("/nowhere/at/all")));
}

#[test]
fn the_core_ends_with_whoever_listens() {
    let work = TempDir::new().unwrap();
    let (read_end, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (events_read, events_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let layers = json!([{"kind": "tar", "fd": 0, "path": null}]);
    let events = rustix::io::dup(&events_write).unwrap();
    let request = json!({"events": std::os::fd::AsRawFd::as_raw_fd(&events)});
    // The layer never ends, so that only the silence on the other side can end the run.
    let mut running = start(&work.path().join("image"), layers, request, &[&read_end]);
    drop((events, events_write));
    let mut first = [0; 1];
    std::fs::File::from(events_read).read_exact(&mut first).unwrap();
    let status = running.child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGPIPE));
    drop(write_end);
}
