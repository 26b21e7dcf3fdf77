//! All environment scripts of an image in their order, with what the caller adds in between.

use std::path::{Path, PathBuf};

use super::evaluate::{Declined, Interpreter, Step, is_name};
use crate::plan::Environment;
use crate::text::Text;

/// The script after which the caller's own variables are set.
const LAST_OF_THE_IMAGE: &[u8] = b"99-base.sh";
/// Puts the chosen app's own scripts to work.
const OF_APPS: &[u8] = b"95-apps.sh";
/// What the caller says of PATH, under the names that images' `99-runtimevars.sh` heeds: before it, behind it, instead of it.
pub const OF_PATH: [&str; 3] =
    ["SING_USER_DEFINED_PREPEND_PATH", "SING_USER_DEFINED_APPEND_PATH", "SING_USER_DEFINED_PATH"];
/// Searched whatever an image says.
pub const STANDARD_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an image's scripts are carried out with.
pub struct Wish<'a> {
    pub environment: &'a Environment,
    pub scripts: &'a [PathBuf],
    /// Those of the chosen app.
    pub app_scripts: &'a [PathBuf],
}

/// The scripts in a directory, in their order: what `for script in DIRECTORY/*.sh` goes through and `[ -f "$script" ]` takes.
pub fn scripts(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| {
            !name.as_encoded_bytes().starts_with(b".") && name.as_encoded_bytes().ends_with(b".sh")
        })
        .collect();
    names.sort();
    names.iter().map(|name| directory.join(name)).filter(|path| path.is_file()).collect()
}

impl Wish<'_> {
    /// The environment that results, or the first thing that only a shell can do.
    pub fn carry_out<'a>(&self, given: impl IntoIterator<Item = (&'a Text, &'a Text)>) -> Step<Interpreter> {
        let mut interpreter = start(given)?;
        self.all(&mut interpreter)?;
        Ok(interpreter)
    }

    /// The same without whatever only a shell can do; `left_out` says what that was.
    pub fn carry_out_what_can_be<'a>(
        &self,
        given: impl IntoIterator<Item = (&'a Text, &'a Text)>,
    ) -> Step<Interpreter> {
        let mut interpreter = start(given)?;
        interpreter.lenient = true;
        self.all(&mut interpreter)?;
        Ok(interpreter)
    }

    fn all(&self, interpreter: &mut Interpreter) -> Step<()> {
        let is = |script: &Path, name: &[u8]| script.as_os_str().as_encoded_bytes().ends_with(name);
        let inject = |interpreter: &mut Interpreter| {
            if !self.scripts.iter().any(|script| is(script, OF_APPS)) {
                for script in self.app_scripts {
                    script_of(interpreter, script)?;
                }
            }
            self.inject(interpreter)
        };
        let mut chosen = None;
        for script in self.scripts {
            script_of(interpreter, script)?;
            if is(script, LAST_OF_THE_IMAGE) {
                chosen = Some(inject(interpreter)?);
            }
        }
        let chosen = match chosen {
            Some(chosen) => chosen,
            None => inject(interpreter)?,
        };
        search_path(interpreter, chosen)
    }

    /// Sets what the caller gave; whether that says all of PATH.
    fn inject(&self, interpreter: &mut Interpreter) -> Step<bool> {
        let own = OF_PATH[2].as_bytes();
        let before = interpreter.variable(b"PATH", 0)?.map(<[u8]>::to_vec);
        for file in &self.environment.files {
            match interpreter.text(file.as_bytes()) {
                Err(reason) if interpreter.lenient => interpreter.leave_out(reason),
                result => result?,
            }
        }
        let path = interpreter.variable(b"PATH", 0)?.map(<[u8]>::to_vec);
        if path != before
            && let (Some(path), Some(before)) = (path, before)
        {
            // What a file says of it is evaluated once more, as values are: some write `\$PATH` there.
            interpreter.export(b"PATH", before)?;
            interpreter.text(&export(own, &evaluated(&path)))?;
        }
        let paths = of_path(self.environment);
        for (key, value) in
            self.environment.injected.iter().chain(paths.iter().map(|(key, value)| (key, *value)))
        {
            if !is_name(key.as_bytes()) {
                continue;
            }
            let left_out = interpreter.left_out.len();
            let result = if self.environment.evaluate {
                interpreter.text(&export(key.as_bytes(), &evaluated(value.as_bytes())))
            } else {
                interpreter.export(key.as_bytes(), value.as_bytes().to_vec())
            };
            if let Err(reason) = result {
                if !interpreter.lenient {
                    return Err(in_place_of(key, reason));
                }
                interpreter.leave_out(in_place_of(key, reason));
            }
            // Better the text as it was given than nothing.
            if interpreter.left_out.len() > left_out {
                for reason in &mut interpreter.left_out[left_out..] {
                    reason.file = key.as_bytes().to_vec();
                }
                let _ = interpreter.export(key.as_bytes(), value.as_bytes().to_vec());
            }
        }
        Ok(interpreter.variable(own, 0)?.is_some_and(|path| !path.is_empty()))
    }
}

/// What the caller says of PATH, as variables.
pub fn of_path(wish: &Environment) -> Vec<(Text, &Text)> {
    let values = [&wish.prepend_path, &wish.append_path, &wish.path];
    OF_PATH
        .iter()
        .zip(values)
        .filter_map(|(name, value)| Some((Text::from(*name), value.as_ref()?)))
        .collect()
}

/// PATH at the end: with what the caller says of it, where no script of the image has seen to that, and, unless that is all of
/// it (`chosen`), with the standard places.
fn search_path(interpreter: &mut Interpreter, chosen: bool) -> Step<()> {
    let mut said = Vec::new();
    for name in OF_PATH {
        let value = interpreter.variable(name.as_bytes(), 0)?.unwrap_or_default().to_vec();
        said.push(value);
        if interpreter.has(name.as_bytes()) {
            interpreter.unset(name.as_bytes(), 0)?;
        }
    }
    let [before, behind, instead] = [&said[0], &said[1], &said[2]];
    let mut path = interpreter.variable(b"PATH", 0)?.unwrap_or_default().to_vec();
    if !before.is_empty() {
        path = [before, b":".as_slice(), &path].concat();
    }
    if !behind.is_empty() {
        path = [&path, b":".as_slice(), behind].concat();
    }
    if !instead.is_empty() {
        path.clone_from(instead);
    }
    for directory in STANDARD_PATH.split(':').filter(|_| !chosen) {
        if !path.split(|&byte| byte == b':').any(|part| part == directory.as_bytes()) {
            path.push(b':');
            path.extend_from_slice(directory.as_bytes());
        }
    }
    interpreter.export(b"PATH", path)
}

fn start<'a>(given: impl IntoIterator<Item = (&'a Text, &'a Text)>) -> Step<Interpreter> {
    Interpreter::new(given.into_iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())))
}

fn script_of(interpreter: &mut Interpreter, script: &Path) -> Step<()> {
    match interpreter.source(script) {
        Err(reason) if interpreter.lenient => {
            interpreter.leave_out(reason);
            Ok(())
        }
        result => result,
    }
}

fn in_place_of(key: &Text, reason: Declined) -> Declined {
    Declined { file: key.as_bytes().to_vec(), ..reason }
}

/// `export NAME=value` for a shell.
pub fn export(name: &[u8], value: &[u8]) -> Vec<u8> {
    [b"export ", name, b"=", value, b"\n"].concat()
}

/// Between single quotes, nothing means anything but a single quote.
pub fn literal(value: &[u8]) -> Vec<u8> {
    let mut out = vec![b'\''];
    for &byte in value {
        match byte {
            b'\'' => out.extend_from_slice(b"'\\''"),
            _ => out.push(byte),
        }
    }
    out.push(b'\'');
    out
}

/// Between double quotes, the value's own expansions happen; its quotes stay.
pub fn evaluated(value: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for &byte in value {
        if byte == b'"' {
            out.push(b'\\');
        }
        out.push(byte);
    }
    // A backslash at the end would take the closing quote with it.
    if value.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1 {
        out.push(b'\\');
    }
    out.push(b'"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_leaves_values_whole() {
        assert_eq!(literal(b"it's"), b"'it'\\''s'");
        assert_eq!(evaluated(b"say \"$HOME\""), b"\"say \\\"$HOME\\\"\"");
        assert_eq!(evaluated(b"end\\"), b"\"end\\\\\"");
    }
}
