//! The way to Python: everything that is not a core verb.
//!
//! The interpreter is the one the package was installed for: beside the program (virtual environment),
//! else the shebang of nothing — a `python3` on PATH whose version has a `site-packages` with the package
//! below this program's prefix.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::launch::kernel;
use crate::{shortcut, store};

/// Tells Python which program handed over.
const CORE_VARIABLE: &str = "_SOLITON_CORE";
/// Tells Python where the user's private directory on this node is.
const STORE_VARIABLE: &str = "_SOLITON_STORE";
/// Tells Python that the caller's environment has no LC_CTYPE.
const NO_CTYPE_VARIABLE: &str = "_SOLITON_NO_LC_CTYPE";
/// Tells Python that SIGINT waits because of this program, not because its caller wants it so.
const HELD_VARIABLE: &str = "_SOLITON_HELD";

/// Replaces this process by `python3 -m soliton`; returns only on failure, with the exit status.
///
/// names: of the plans that this call may store for the next.
pub fn to_python(name: &OsStr, arguments: Vec<OsString>, names: Option<&shortcut::Names>) -> i32 {
    let own = match env::current_exe() {
        Ok(path) => path,
        Err(error) => {
            eprintln!("FATAL:   the program's own path cannot be read from /proc: {error}");
            return 255;
        }
    };
    let Some(interpreter) = Interpreter::find(&own) else {
        eprintln!("FATAL:   no Python interpreter with the soliton package was found for {}", own.display());
        eprintln!("         install soliton again with `pip install` or `make install`");
        return 255;
    };
    let mut command = Command::new(&interpreter.python);
    // Isolated: neither PYTHONPATH nor the current directory may replace the package.
    command.arg("-I");
    match &interpreter.packages {
        // Not `-m soliton`: the module that finds modules to run costs a third of the interpreter's own start.
        None => command.args(["-c", "from soliton.__main__ import main; main()"]),
        Some(packages) => command
            .arg("-c")
            .arg("import sys; sys.path.insert(0, sys.argv.pop(1)); from soliton.__main__ import main; main()")
            .arg(packages),
    };
    command.env(STORE_VARIABLE, store::path());
    if let Some(names) = names {
        command.env(shortcut::NAMES_VARIABLE, names.text(&arguments));
    }
    // The interpreter may set it for itself; the container is not to see that.
    if env::var_os("LC_CTYPE").is_none() {
        command.env(NO_CTYPE_VARIABLE, "1");
    }
    command.arg("--invoked-as").arg(name).args(arguments).env(CORE_VARIABLE, &own);
    // An interpreter that is only just starting answers Ctrl-C with a page of its own affairs, or not at all. `run` lets it through.
    if kernel::hold(libc::SIGINT) {
        command.env(HELD_VARIABLE, "1");
    } else {
        command.env_remove(HELD_VARIABLE);
    }
    let error = command.exec();
    eprintln!("FATAL:   {} cannot be started: {error}", interpreter.python.display());
    255
}

struct Interpreter {
    python: PathBuf,
    /// A directory to put on the module path, where the interpreter would not look by itself.
    packages: Option<PathBuf>,
}

impl Interpreter {
    fn find(own: &Path) -> Option<Interpreter> {
        let directory = own.parent()?;
        let beside = directory.join("python3");
        if beside.exists() {
            return Some(Interpreter { python: beside, packages: None });
        }
        // `pip install --user` or `--prefix`: PREFIX/bin/soliton and PREFIX/lib/python3.X/site-packages.
        let libraries = directory.parent()?.join("lib");
        for minor in (11..40).rev() {
            let version = format!("python3.{minor}");
            for leaf in ["site-packages", "dist-packages"] {
                let packages = libraries.join(&version).join(leaf);
                if packages.join("soliton").is_dir() {
                    let python = env::split_paths(&env::var_os("PATH")?)
                        .chain([PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")])
                        .map(|d| d.join(&version))
                        .find(|p| p.is_file())?;
                    return Some(Interpreter { python, packages: Some(packages) });
                }
            }
        }
        None
    }
}
