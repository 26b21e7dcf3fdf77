//! The native core of soliton: executes decisions handed to it as plain data.
//!
//! It never parses options or configuration; that is Python's part. Each verb reads one JSON
//! request and does one thing: see `docs/architecture.md`.

pub mod environment;
pub mod ext;
pub mod fuse;
pub mod handover;
pub mod launch;
pub mod layers;
pub mod owner;
pub mod plan;
pub mod read;
pub mod request;
pub mod shared;
pub mod shortcut;
pub mod source;
pub mod squash;
pub mod squashfs;
pub mod store;
pub mod survey;
pub mod text;
pub mod unsquash;

/// Runs a verb (`soliton-core VERB FD`) and returns the exit status.
pub fn run_verb(verb: &str, fd: i32) -> i32 {
    match verb {
        "launch" => launch::run(fd),
        "instance" => launch::instance::run(fd),
        "join" => launch::join::run(fd),
        "read" => read::run(fd),
        "unsquash" => unsquash::run(fd),
        "probe" => launch::probe::run(fd),
        "remove" => launch::remove::run(fd),
        "squash" => squash::run(fd),
        "survey" => survey::run(fd),
        "ext-make" => ext::request::run(fd),
        _ => {
            eprintln!("FATAL:   soliton-core: unknown verb `{verb}`");
            255
        }
    }
}
