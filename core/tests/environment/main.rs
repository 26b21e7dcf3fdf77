//! Environment scripts carried out here and by real shells: the same environment, or declined.
//!
//! dash must be `/bin/sh` or on PATH; bash and busybox are asked too where they are there.

mod corpus;
mod generated;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use soliton_core::environment::Interpreter;

pub type Variables = BTreeMap<Vec<u8>, Vec<u8>>;

/// What must become of a script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Carried out, whatever environment it starts from.
    Plain,
    /// Left to a shell, whatever environment it starts from.
    Shell,
    /// One or the other.
    Either,
}

/// A shell: program, words before the script, and what it is called.
struct Shell {
    program: &'static str,
    name: &'static str,
    words: &'static [&'static str],
}

const SHELLS: [Shell; 4] = [
    Shell { program: "dash", name: "dash", words: &[] },
    Shell { program: "bash", name: "bash", words: &["--posix"] },
    Shell { program: "bash", name: "sh", words: &[] },
    Shell { program: "busybox", name: "sh", words: &[] },
];

fn program(shell: &Shell) -> Option<std::path::PathBuf> {
    ["/bin", "/usr/bin"].iter().map(|folder| Path::new(folder).join(shell.program)).find(|path| path.exists())
}

/// Environments that scripts start from.
pub fn environments() -> Vec<Variables> {
    let path = ("PATH", "/usr/local/bin:/usr/bin:/bin");
    let of = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    };
    vec![
        of(&[path]),
        of(&[
            path,
            ("HOME", "/home/someone"),
            ("USER", "someone"),
            ("TERM", "xterm"),
            ("LANG", "C.UTF-8"),
            ("A", ""),
            ("FOO", "from host"),
            ("LD_LIBRARY_PATH", "/host/lib"),
            ("SHELL", "/bin/sh"),
            ("PS1", "$ "),
        ]),
        of(&[
            path,
            ("HOME", "/home/a b*"),
            ("A", "  two  words "),
            ("B", "*"),
            ("FOO", "x=y:z"),
            ("LC_ALL", "C"),
            ("PYTHONPATH", "/a:/b"),
            ("SINGULARITY_APPNAME", "one"),
            ("APPTAINER_APPNAME", "one"),
            ("PWD", "/"),
            ("OLDPWD", "/tmp"),
        ]),
        of(&[
            ("PATH", ""),
            ("HOME", ""),
            ("A", "back\\slash\\"),
            ("B", "quo'te\"s`$x"),
            ("FOO", "größe"),
            ("MANPATH", ":"),
            ("LD_LIBRARY_PATH", ""),
            ("SING_USER_DEFINED_PREPEND_PATH", "/pre"),
            ("SING_USER_DEFINED_APPEND_PATH", "/app"),
            ("C", "line\nline\n"),
            ("SHLVL", "4"),
            ("MODULEPATH", "/m1:/m2"),
        ]),
    ]
}

/// What shells add of their own, which the launcher takes away again.
fn without_own(mut variables: Variables) -> Variables {
    for own in ["_", "SHLVL", "OLDPWD"] {
        variables.remove(own.as_bytes());
    }
    variables
}

/// The environment after the script. `None`: it did not get to its end.
fn by_shell(shell: &Shell, program: &Path, script: &Path, given: &Variables) -> Option<Variables> {
    // As the launcher does: a prompt is preset by some shells and dropped by others.
    let mut text = b"unset PS1\nexec 9>&1 >/dev/null\n. '".to_vec();
    text.extend_from_slice(script.as_os_str().as_bytes());
    text.extend_from_slice(b"'\nexec /usr/bin/env -0 >&9\n");
    let mut command = Command::new(program);
    command.arg0(shell.name).args(shell.words).arg("-c").arg(OsStr::from_bytes(&text)).env_clear();
    command.envs(given.iter().map(|(key, value)| (OsStr::from_bytes(key), OsStr::from_bytes(value))));
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().unwrap();
    let (status, said) = (output.status, output.stdout);
    let pairs = said.split(|&byte| byte == 0).filter(|pair| !pair.is_empty());
    let variables = pairs.filter_map(|pair| {
        let at = pair.iter().position(|&byte| byte == b'=')?;
        Some((pair[..at].to_vec(), pair[at + 1..].to_vec()))
    });
    (status.success() && !said.is_empty()).then(|| without_own(variables.collect()))
}

pub fn natively(script: &Path, given: &Variables) -> Result<Variables, String> {
    let given = given.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
    let mut interpreter = Interpreter::new(given).map_err(|reason| reason.to_string())?;
    interpreter.source(script).map_err(|reason| reason.to_string())?;
    Ok(without_own(interpreter.exported().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()))
}

fn shown(variables: Option<&Variables>) -> String {
    let Some(variables) = variables else { return "the shell ended".to_owned() };
    variables.iter().map(|(k, v)| format!("  {}={}\n", k.escape_ascii(), v.escape_ascii())).collect()
}

/// What is wrong with how one script went; nothing, if nothing.
pub fn compare(folder: &Path, name: &str, text: &str, expected: Expected) -> Vec<String> {
    let script = folder.join(format!("{}.sh", name.replace('/', "-")));
    let text = text.replace("@ROOT@", folder.to_str().unwrap());
    std::fs::File::create(&script).unwrap().write_all(text.as_bytes()).unwrap();
    let mut wrong = Vec::new();
    for (number, given) in environments().iter().enumerate() {
        match natively(&script, given) {
            Err(reason) => {
                if expected == Expected::Plain {
                    wrong.push(format!("{name} from environment {number} was declined: {reason}\n{text}"));
                }
            }
            Ok(found) => {
                if expected == Expected::Shell {
                    wrong.push(format!("{name} from environment {number} was not left to a shell\n{text}"));
                }
                for (shell, program) in SHELLS.iter().filter_map(|shell| Some((shell, program(shell)?))) {
                    let said = by_shell(shell, &program, &script, given);
                    if said.as_ref() != Some(&found) {
                        wrong.push(format!(
                            "{name} from environment {number}: {} {:?} says\n{}and here it is\n{}for\n{text}",
                            shell.program,
                            shell.words,
                            shown(said.as_ref()),
                            shown(Some(&found))
                        ));
                    }
                }
            }
        }
    }
    wrong
}

/// Files that scripts look at.
pub fn furnish(folder: &Path) {
    for directory in [
        "etc/profile.d",
        "etc/conda/activate.d",
        "opt/tool/bin",
        "scif/apps/one/bin",
        "scif/apps/one/scif/env",
        "empty",
    ] {
        std::fs::create_dir_all(folder.join(directory)).unwrap();
    }
    let files = [
        ("etc/profile.d/a.sh", "export PROFILE_A=1\nPATH=$PATH:/from-a\n"),
        ("etc/profile.d/b.sh", "export PROFILE_B=${PROFILE_A}2\nreturn 0\nexport NEVER=1\n"),
        ("etc/profile.d/c.csh", "setenv C 1\n"),
        ("etc/conda/activate.d/one.sh", "export ACTIVATED=\"${ACTIVATED:+$ACTIVATED:}one\"\n"),
        ("etc/false.sh", "export BEFORE_FALSE=1\nfalse\n"),
        ("etc/empty.sh", ""),
        ("etc/broken.sh", "export BROKEN=1\nif true; then\n"),
        ("etc/loop.sh", ". @ROOT@/etc/loop.sh\n"),
        ("etc/break.sh", "break\n"),
        ("scif/apps/one/scif/env/01-base.sh", "SCIF_APPNAME=one\nexport SCIF_APPNAME\n"),
        ("scif/apps/one/scif/env/90-environment.sh", "export ONE=\"$SCIF_APPNAME's\"\n"),
    ];
    for (path, text) in files {
        std::fs::write(folder.join(path), text.replace("@ROOT@", folder.to_str().unwrap())).unwrap();
    }
    std::os::unix::fs::symlink("etc", folder.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.join("dangling")).unwrap();
    let fifo = std::ffi::CString::new(folder.join("fifo").into_os_string().into_vec()).unwrap();
    // SAFETY: the name ends with a NUL byte.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
}

#[test]
fn every_script_of_the_corpus_does_what_shells_do_or_is_left_to_them() {
    let folder = tempfile::tempdir().unwrap();
    furnish(folder.path());
    let mut wrong = Vec::new();
    for (name, expected, text) in corpus::scripts() {
        wrong.extend(compare(folder.path(), name, text, expected));
    }
    assert!(wrong.is_empty(), "{} are wrong\n\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn there_is_a_shell_to_compare_with_and_a_corpus_worth_it() {
    assert!(program(&SHELLS[0]).is_some(), "dash is not there");
    let scripts = corpus::scripts();
    assert!(scripts.len() >= 80);
    assert!(scripts.iter().filter(|(_, expected, _)| *expected == Expected::Plain).count() >= 40);
}

#[test]
fn generated_scripts_do_what_shells_do_or_are_left_to_them() {
    let folder = tempfile::tempdir().unwrap();
    furnish(folder.path());
    generated::compare_many(folder.path(), 0..150);
}

#[test]
#[ignore = "takes minutes"]
fn many_generated_scripts_do_what_shells_do_or_are_left_to_them() {
    let folder = tempfile::tempdir().unwrap();
    furnish(folder.path());
    let number = |name: &str, otherwise| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let first = number("FUZZ_CASE", 1000);
    generated::compare_many(folder.path(), first..first + number("FUZZ_COUNT", 5000));
}
