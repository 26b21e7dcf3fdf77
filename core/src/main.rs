//! The program `soliton`: the core under the name `soliton-core`, else a plan
//! stored before, else the way to Python.

use std::os::unix::ffi::OsStrExt;

fn main() {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let base = name.as_bytes().rsplit(|&b| b == b'/').next().unwrap_or_default();
    if base == b"soliton-core" {
        let verb = arguments.next().unwrap_or_default();
        let fd = arguments.next().and_then(|n| n.to_str()?.parse().ok());
        let status = match (verb.to_str(), fd) {
            (Some(verb), Some(fd)) => soliton_core::run_verb(verb, fd),
            _ => {
                eprintln!("FATAL:   soliton-core is called by soliton itself: VERB FD");
                255
            }
        };
        std::process::exit(status);
    }
    let words: Vec<_> = arguments.collect();
    let names = soliton_core::shortcut::names(&name, &words);
    if let Some(status) = names.as_ref().and_then(|names| names.replay(&words)) {
        std::process::exit(status);
    }
    std::process::exit(soliton_core::handover::to_python(&name, words, names.as_ref()));
}
