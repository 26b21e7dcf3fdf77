//! Carries out a script's tree on a set of variables, as every POSIX shell would.
//!
//! No state but the variables changes, and nothing is read but files: so whoever is declined half-way has lost nothing and can
//! let a real shell start over. Declined is whatever needs a shell (commands, substitutions, functions) and whatever
//! dash and bash do not do alike. Fields are in `expand.rs`, `test` in `conditions.rs`.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::parser::{self, SyntaxError};
use super::syntax::{Argument, Assignment, Chain, Command, Foreign, Join, List, Part, Redirection, Word};

/// What one evaluation may take: bytes written, steps of matching, and 64 for each command and field.
const BUDGET: u64 = 64 << 20;
const COMMAND: u64 = 64;
/// A longer value is no environment variable: the kernel takes 128 KiB.
pub const LONGEST: usize = 1 << 20;
/// Scripts that read in scripts.
const DEEPEST: usize = 16;
/// How many statements are named that were left out.
const MOST_NAMED: usize = 8;

/// Why a script was not carried out, and where it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declined {
    /// Empty until the script is known.
    pub file: Vec<u8>,
    pub line: usize,
    pub what: &'static str,
}

impl std::fmt::Display for Declined {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}, line {}: {}", String::from_utf8_lossy(&self.file), self.line, self.what)
    }
}

impl From<&Foreign> for Declined {
    fn from(foreign: &Foreign) -> Declined {
        declined(foreign.line, foreign.what)
    }
}

impl From<SyntaxError> for Declined {
    fn from(error: SyntaxError) -> Declined {
        declined(error.line, error.what)
    }
}

pub type Step<T> = Result<T, Declined>;

pub fn declined(line: usize, what: &'static str) -> Declined {
    Declined { file: Vec::new(), line, what }
}

#[derive(Debug, Clone, Default)]
struct Variable {
    value: Option<Vec<u8>>,
    exported: bool,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
    Return,
}

/// Variables that shells give a meaning or a value of their own, whatever is assigned.
const OWN: [&[u8]; 30] = [
    b"_",
    b"COPROC",
    b"DIRSTACK",
    b"EPOCHREALTIME",
    b"EPOCHSECONDS",
    b"EUID",
    b"FUNCNAME",
    b"FUNCNEST",
    b"GLOBIGNORE",
    b"GROUPS",
    b"HISTCMD",
    b"IFS",
    b"LINENO",
    b"MAPFILE",
    b"OLDPWD",
    b"OPTARG",
    b"OPTERR",
    b"OPTIND",
    b"PIPESTATUS",
    b"POSIXLY_CORRECT",
    b"PPID",
    b"PS2",
    b"PS4",
    b"RANDOM",
    b"SECONDS",
    b"SHELLOPTS",
    b"SHLVL",
    b"SRANDOM",
    b"UID",
    b"GLOBSORT",
];
const OWN_PREFIXES: [&[u8]; 3] = [b"BASH", b"COMP_", b"READLINE_"];
/// Variables that some shells set if nobody else does.
const PRESET: [&[u8]; 13] = [
    b"COLUMNS",
    b"HISTFILE",
    b"HISTFILESIZE",
    b"HISTSIZE",
    b"HOSTNAME",
    b"HOSTTYPE",
    b"LINES",
    b"MACHTYPE",
    b"MAILCHECK",
    b"OSTYPE",
    b"PATH",
    b"SHELL",
    b"TERM",
];
/// Given from outside, these change what some shells do.
const SWITCHES: [&[u8]; 4] = [b"BASHOPTS", b"IFS", b"SHELLOPTS", b"BASH_COMPAT"];

fn is_own(name: &[u8]) -> bool {
    OWN.contains(&name) || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a shell can have a variable of this name.
pub fn is_name(name: &[u8]) -> bool {
    name.first().is_some_and(|first| !first.is_ascii_digit())
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

pub struct Interpreter {
    variables: BTreeMap<Vec<u8>, Variable>,
    left: u64,
    depth: usize,
    loops: usize,
    /// The status of the last command.
    status: bool,
    /// Leave out what is declined, and go on.
    pub lenient: bool,
    pub left_out: Vec<Declined>,
    /// Whether the script's own arguments are known: there are none.
    pub knows_arguments: bool,
}

impl Interpreter {
    /// given: the environment the shell would get. Its working directory is this process's.
    pub fn new<'a>(given: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Step<Interpreter> {
        let mut variables = BTreeMap::new();
        for (name, value) in given {
            if SWITCHES.contains(&name) {
                return Err(declined(0, "a variable from outside that changes how shells work"));
            }
            // A prompt is preset by some shells and dropped by others.
            if is_name(name) && name != b"PS1" {
                variables.insert(name.to_vec(), Variable { value: Some(value.to_vec()), exported: true });
            }
        }
        let directory = directory(variables.get(b"PWD".as_slice()).and_then(|pwd| pwd.value.as_deref()))
            .ok_or_else(|| declined(0, "a working directory without a name"))?;
        variables.insert(b"PWD".to_vec(), Variable { value: Some(directory), exported: true });
        Ok(Interpreter {
            variables,
            left: BUDGET,
            depth: 0,
            loops: 0,
            status: true,
            lenient: false,
            left_out: Vec::new(),
            knows_arguments: true,
        })
    }

    /// What a program would find in its environment now.
    pub fn exported(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let exported = self.variables.iter().filter(|(_, variable)| variable.exported);
        exported.filter_map(|(name, variable)| Some((name.as_slice(), variable.value.as_deref()?)))
    }

    pub fn charge(&mut self, cost: u64, line: usize) -> Step<()> {
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(declined(line, "more work than an environment is worth"))
            }
        }
    }

    pub fn budget(&mut self) -> &mut u64 {
        &mut self.left
    }

    /// The value of a variable; `None`: it has none.
    pub fn variable(&self, name: &[u8], line: usize) -> Step<Option<&[u8]>> {
        if is_own(name) {
            return Err(declined(line, "a variable that shells give a meaning of their own"));
        }
        match self.variables.get(name) {
            Some(variable) => Ok(variable.value.as_deref()),
            None if PRESET.contains(&name) => Err(declined(line, "a variable that some shells preset")),
            None => Ok(None),
        }
    }

    /// Whether there is a variable that some shells act upon.
    pub fn has(&self, name: &[u8]) -> bool {
        self.variables.contains_key(name)
    }

    fn changeable(&mut self, name: &[u8], line: usize) -> Step<&mut Variable> {
        if !is_name(name) {
            return Err(declined(line, "a name that no variable can have"));
        }
        if is_own(name) || name == b"PWD" {
            return Err(declined(line, "a variable that shells give a meaning of their own"));
        }
        Ok(self.variables.entry(name.to_vec()).or_default())
    }

    pub fn assign(&mut self, name: &[u8], value: Vec<u8>, line: usize) -> Step<()> {
        self.charge(value.len() as u64, line)?;
        self.changeable(name, line)?.value = Some(value);
        Ok(())
    }

    pub fn export(&mut self, name: &[u8], value: Vec<u8>) -> Step<()> {
        self.assign(name, value, 0)?;
        self.changeable(name, 0)?.exported = true;
        Ok(())
    }

    pub fn unset(&mut self, name: &[u8], line: usize) -> Step<()> {
        // The entry stays: whatever a shell had preset is gone for good.
        *self.changeable(name, line)? = Variable::default();
        Ok(())
    }

    /// Carries out a script of the image. Nothing happens if it is no ordinary file.
    pub fn source(&mut self, path: &Path) -> Step<()> {
        let name = path.as_os_str().as_bytes();
        let named = |mut reason: Declined| {
            if reason.file.is_empty() {
                reason.file = name.to_vec();
            }
            reason
        };
        let text = read(path).map_err(|what| named(declined(1, what)))?;
        self.text(&text).map_err(named)?;
        for reason in self.left_out.iter_mut().filter(|reason| reason.file.is_empty()) {
            reason.file = name.to_vec();
        }
        Ok(())
    }

    /// Carries out the text of a script.
    pub fn text(&mut self, text: &[u8]) -> Step<()> {
        self.charge(text.len() as u64 + COMMAND, 1)?;
        if self.depth == DEEPEST {
            return Err(declined(1, "scripts that read in each other"));
        }
        let list = match parser::parse(text) {
            Ok(list) => list,
            Err(error) if self.lenient => {
                self.leave_out(error.into());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.depth += 1;
        let loops = std::mem::take(&mut self.loops);
        self.status = true;
        let mut result = Ok(());
        for chain in &list {
            match self.chain(chain) {
                Ok(Flow::Return) => break,
                Ok(_) => {}
                Err(reason) if self.lenient => self.leave_out(reason),
                Err(reason) => {
                    result = Err(reason);
                    break;
                }
            }
        }
        self.loops = loops;
        self.depth -= 1;
        result
    }

    pub fn leave_out(&mut self, reason: Declined) {
        if self.left_out.len() < MOST_NAMED {
            self.left_out.push(reason);
        }
    }

    fn list(&mut self, list: &List) -> Step<Flow> {
        self.status = true;
        for chain in list {
            let flow = self.chain(chain)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn chain(&mut self, chain: &Chain) -> Step<Flow> {
        let mut flow = self.command(&chain.first)?;
        for (join, command) in &chain.rest {
            if flow != Flow::On {
                return Ok(flow);
            }
            if self.status == (*join == Join::And) {
                flow = self.command(command)?;
            }
        }
        Ok(flow)
    }

    fn command(&mut self, command: &Command) -> Step<Flow> {
        self.charge(COMMAND, 0)?;
        match command {
            Command::Simple { assignments, arguments, redirections, line } => {
                self.simple(assignments, arguments, redirections, *line)
            }
            Command::Group(list) => self.list(list),
            Command::If { arms, otherwise } => self.conditional(arms, otherwise.as_ref()),
            Command::Case { word, arms } => self.case(word, arms),
            Command::For { name, words, body } => self.repetition(name, words.as_deref(), body),
            Command::Not(command) => {
                let flow = self.command(command)?;
                self.status = !self.status;
                Ok(flow)
            }
            Command::Foreign(foreign) => Err(foreign.into()),
        }
    }

    fn conditional(&mut self, arms: &[(List, List)], otherwise: Option<&List>) -> Step<Flow> {
        for (condition, body) in arms {
            let flow = self.list(condition)?;
            if flow != Flow::On {
                return Ok(flow);
            }
            if self.status {
                return self.list(body);
            }
        }
        match otherwise {
            Some(body) => self.list(body),
            None => {
                self.status = true;
                Ok(Flow::On)
            }
        }
    }

    fn case(&mut self, word: &Word, arms: &[(Vec<Word>, List)]) -> Step<Flow> {
        let text = self.plain_text(word)?;
        for (patterns, body) in arms {
            for pattern in patterns {
                if self.pattern(pattern)?.matches(&text, self)? {
                    return self.list(body);
                }
            }
        }
        self.status = true;
        Ok(Flow::On)
    }

    fn repetition(&mut self, name: &[u8], words: Option<&[Word]>, body: &List) -> Step<Flow> {
        let mut fields = Vec::new();
        for word in words.unwrap_or_default() {
            self.fields(word, 0, &mut fields)?;
        }
        self.status = true;
        self.loops += 1;
        let mut flow = Flow::On;
        for field in fields {
            self.charge(COMMAND, 0)?;
            self.assign(name, field, 0)?;
            flow = self.list(body)?;
            match flow {
                Flow::On | Flow::Continue => flow = Flow::On,
                Flow::Break => {
                    flow = Flow::On;
                    break;
                }
                Flow::Return => break,
            }
        }
        self.loops = self.loops.saturating_sub(1);
        Ok(flow)
    }

    fn simple(
        &mut self,
        assignments: &[Assignment],
        arguments: &[Argument],
        redirections: &[Redirection],
        line: usize,
    ) -> Step<Flow> {
        if arguments.is_empty() {
            if !redirections.is_empty() {
                return Err(declined(line, "a redirection without a command"));
            }
            for assignment in assignments {
                let value = self.value(&assignment.value, line)?;
                self.assign(&assignment.name, value, line)?;
            }
            self.status = true;
            return Ok(Flow::On);
        }
        if !assignments.is_empty() {
            return Err(declined(line, "a command with an environment of its own"));
        }
        if !redirections.iter().all(is_harmless) {
            return Err(declined(line, "a redirection"));
        }
        // A name that is put together at run time could be anything's.
        let Argument::Word(name) = &arguments[0] else { return Err(declined(line, "a command")) };
        let [Part::Literal(name)] = name.as_slice() else { return Err(declined(line, "a command")) };
        if name == b"export" {
            return self.exports(&arguments[1..], line);
        }
        let mut fields = Vec::new();
        if !matches!(
            name.as_slice(),
            b":" | b"true" | b"false" | b"unset" | b"." | b"test" | b"[" | b"return" | b"break" | b"continue"
        ) {
            return Err(declined(line, "a command"));
        }
        for argument in &arguments[1..] {
            let Argument::Word(word) = argument else { return Err(declined(line, "a command")) };
            self.fields(word, line, &mut fields)?;
        }
        self.builtin(name, fields, line)
    }

    fn builtin(&mut self, name: &[u8], mut fields: Vec<Vec<u8>>, line: usize) -> Step<Flow> {
        match name {
            b":" | b"true" => self.status = true,
            b"false" => self.status = false,
            b"unset" => {
                let names =
                    if fields.first().is_some_and(|first| first == b"-v") { &fields[1..] } else { &fields };
                for name in names {
                    self.unset(name, line)?;
                }
                self.status = true;
            }
            b"[" | b"test" => {
                if name == b"[" && fields.pop().as_deref() != Some(b"]") {
                    return Err(declined(line, "a `[` without `]`"));
                }
                self.status = super::conditions::test(&fields, line)?;
            }
            b"." => self.dot(&fields, line)?,
            b"return" => {
                match fields.as_slice() {
                    [] => {}
                    [status] if status == b"0" => self.status = true,
                    [status] if status == b"1" => self.status = false,
                    _ => return Err(declined(line, "a `return` with a status")),
                }
                return Ok(Flow::Return);
            }
            _ => {
                if !fields.is_empty() || self.loops == 0 {
                    return Err(declined(line, "a `break` or `continue` that reaches out"));
                }
                self.status = true;
                return Ok(if name == b"break" { Flow::Break } else { Flow::Continue });
            }
        }
        Ok(Flow::On)
    }

    fn exports(&mut self, arguments: &[Argument], line: usize) -> Step<Flow> {
        if arguments.is_empty() {
            return Err(declined(line, "an `export` that prints"));
        }
        for argument in arguments {
            let mut names = Vec::new();
            match argument {
                Argument::Assignment(assignment) => {
                    let value = self.unsplit_value(&assignment.value, line)?;
                    self.assign(&assignment.name, value, line)?;
                    names.push(assignment.name.clone());
                }
                Argument::Word(word) => self.fields(word, line, &mut names)?,
            }
            for name in names {
                self.changeable(&name, line)?.exported = true;
            }
        }
        self.status = true;
        Ok(Flow::On)
    }

    fn dot(&mut self, fields: &[Vec<u8>], line: usize) -> Step<()> {
        let [path] = fields else { return Err(declined(line, "a `.` with arguments")) };
        if !path.contains(&b'/') || path.contains(&0) {
            return Err(declined(line, "a `.` that searches"));
        }
        self.source(Path::new(std::ffi::OsStr::from_bytes(path)))
    }
}

/// Redirections that change nothing for commands that print nothing.
fn is_harmless(redirection: &Redirection) -> bool {
    let [Part::Literal(target)] = redirection.target.as_slice() else { return false };
    match redirection.operator {
        b">" | b">>" => target == b"/dev/null" && matches!(redirection.descriptor, None | Some(1 | 2)),
        b">&" => {
            matches!(target.as_slice(), b"1" | b"2") && matches!(redirection.descriptor, None | Some(1 | 2))
        }
        _ => false,
    }
}

/// The text of a script. A pipe or a device would not end, or not begin.
fn read(path: &Path) -> Result<Vec<u8>, &'static str> {
    let unreadable = "the script cannot be read";
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|_| unreadable)?;
    let facts = file.metadata().map_err(|_| unreadable)?;
    if !facts.is_file() {
        return Err("the script is no ordinary file");
    }
    let limit = parser::LARGEST as u64 + 1;
    let mut text = Vec::with_capacity(facts.len().min(limit) as usize);
    file.take(limit).read_to_end(&mut text).map_err(|_| unreadable)?;
    Ok(text)
}

/// What a shell takes for its working directory: `PWD` if that leads here, else the kernel's word for it.
fn directory(pwd: Option<&[u8]>) -> Option<Vec<u8>> {
    use std::os::unix::fs::MetadataExt;
    let place = |path: &Path| std::fs::metadata(path).ok().map(|facts| (facts.dev(), facts.ino()));
    if let Some(pwd) = pwd.filter(|pwd| pwd.starts_with(b"/") && !pwd.contains(&0))
        && !pwd.split(|&b| b == b'/').any(|part| part == b"." || part == b"..")
        && place(Path::new(std::ffi::OsStr::from_bytes(pwd)))
            .is_some_and(|there| place(Path::new(".")) == Some(there))
    {
        return Some(pwd.to_vec());
    }
    Some(std::env::current_dir().ok()?.into_os_string().into_encoded_bytes())
}
