//! From words to values, patterns and fields: parameters, quotes, splitting, file names.

use super::evaluate::{Declined, Interpreter, LONGEST, Step, declined};
use super::files;
use super::parser::MARKS;
use super::pattern::{Marked, Pattern};
use super::syntax::{Operation, Parameter, Part, Word};

/// A byte of an expanded word. split: it comes from an expansion, so that a blank parts fields.
#[derive(Clone, Copy)]
struct Unit {
    byte: u8,
    quoted: bool,
    split: bool,
}

#[derive(Default)]
struct Expanded {
    units: Vec<Unit>,
    /// Where empty quotes stood: a field even if there is nothing in it.
    quotes: Vec<usize>,
    line: usize,
}

impl Expanded {
    fn bytes(&self) -> Vec<u8> {
        self.units.iter().map(|unit| unit.byte).collect()
    }

    fn marked(&self) -> Vec<Marked> {
        self.units.iter().map(|unit| Marked { byte: unit.byte, quoted: unit.quoted }).collect()
    }

    fn push(&mut self, text: &[u8], quoted: bool, split: bool) -> Step<()> {
        if self.units.len() + text.len() > LONGEST {
            return Err(declined(self.line, "a value of more than 1 MiB"));
        }
        self.units.extend(text.iter().map(|&byte| Unit { byte, quoted, split }));
        Ok(())
    }

    /// Shells agree neither on whether a backslash out of a value quotes, nor on what braces become.
    fn declined_if(&self, unclear: impl Fn(&Unit) -> bool, what: &'static str) -> Step<()> {
        match self.units.iter().any(unclear) {
            true => Err(declined(self.line, what)),
            false => Ok(()),
        }
    }
}

/// A pattern and what it takes to match it.
pub struct Matcher {
    pattern: Pattern,
    ascii: bool,
    line: usize,
}

impl Matcher {
    pub fn matches(&self, text: &[u8], interpreter: &mut Interpreter) -> Step<bool> {
        // Characters of more than a byte are counted by some shells and not by others.
        if self.pattern.is_special() && !(self.ascii && text.is_ascii()) {
            return Err(declined(self.line, "a pattern on text that is not ASCII"));
        }
        let matched = self.pattern.try_matches(text, interpreter.budget());
        matched.ok_or_else(|| declined(self.line, "more work than an environment is worth"))
    }
}

fn is_blank(unit: &Unit) -> bool {
    unit.split && !unit.quoted && matches!(unit.byte, b' ' | b'\t' | b'\n')
}

fn is_glob(unit: &Unit) -> bool {
    !unit.quoted && matches!(unit.byte, b'*' | b'?' | b'[')
}

fn is_loose_backslash(unit: &Unit) -> bool {
    !unit.quoted && unit.byte == b'\\'
}

impl Interpreter {
    /// What an assignment assigns.
    pub fn value(&mut self, word: &Word, line: usize) -> Step<Vec<u8>> {
        Ok(self.expanded(word, line)?.bytes())
    }

    /// What `export NAME=word` assigns. Older shells split it as any other word.
    pub fn unsplit_value(&mut self, word: &Word, line: usize) -> Step<Vec<u8>> {
        let expanded = self.expanded(word, line)?;
        let unclear =
            |unit: &Unit| is_blank(unit) || (unit.split && is_glob(unit)) || is_loose_backslash(unit);
        expanded.declined_if(unclear, "an export that older shells would split")?;
        expanded.declined_if(|unit| unit.byte == b'{' && !unit.quoted, "a brace")?;
        Ok(expanded.bytes())
    }

    /// A word that is neither split nor matched to files.
    pub fn plain_text(&mut self, word: &Word) -> Step<Vec<u8>> {
        if word.contains(&Part::Home) {
            return Err(declined(0, "a `~` in a `case`"));
        }
        Ok(self.expanded(word, 0)?.bytes())
    }

    pub fn pattern(&mut self, word: &Word) -> Step<Matcher> {
        if word.contains(&Part::Home) {
            return Err(declined(0, "a `~` in a pattern"));
        }
        let expanded = self.expanded(word, 0)?;
        expanded.declined_if(is_loose_backslash, "a pattern with a backslash from a value")?;
        let ascii = expanded.units.iter().all(|unit| unit.byte.is_ascii());
        match Pattern::new(&expanded.marked()) {
            Some(pattern) => Ok(Matcher { pattern, ascii, line: expanded.line }),
            None => Err(declined(0, "a pattern that shells disagree on")),
        }
    }

    /// Adds the fields that a word of a command becomes.
    pub fn fields(&mut self, word: &Word, line: usize, fields: &mut Vec<Vec<u8>>) -> Step<()> {
        // There are no arguments, and `"$@"` is one field for each.
        let all_arguments = |part: &Part| matches!(part, Part::Parameter(p) if p.name == b"@");
        if word.iter().any(all_arguments) {
            let is_plain = |p: &Parameter| p.operation == Operation::Value && self.knows_arguments;
            return match word.as_slice() {
                [Part::Parameter(p)] if is_plain(p) => Ok(()),
                [Part::Quoted(none), Part::Parameter(p)] if none.is_empty() && p.quoted && is_plain(p) => {
                    Ok(())
                }
                _ => Err(declined(line, "`$@` within a word")),
            };
        }
        let expanded = self.expanded(word, line)?;
        expanded.declined_if(is_loose_backslash, "a backslash from a value")?;
        expanded.declined_if(|unit| unit.byte == b'{' && !unit.quoted && !unit.split, "a brace")?;
        if !expanded.quotes.is_empty() || expanded.units.iter().any(|unit| unit.quoted) {
            // bash loses fields there, and does not split at all before a `$` that is only text.
            expanded.declined_if(is_blank, "quotes next to a value that is split")?;
        }
        let mut quotes = expanded.quotes.iter().copied().peekable();
        let mut field: Vec<Unit> = Vec::new();
        let mut started = false;
        for (at, unit) in expanded.units.iter().enumerate() {
            while quotes.next_if(|&quote| quote <= at).is_some() {
                started = true;
            }
            if is_blank(unit) {
                if started {
                    self.field(std::mem::take(&mut field), line, fields)?;
                }
                started = false;
            } else {
                field.push(*unit);
                started = true;
            }
        }
        if started || quotes.next().is_some() {
            self.field(field, line, fields)?;
        }
        Ok(())
    }

    fn field(&mut self, units: Vec<Unit>, line: usize, fields: &mut Vec<Vec<u8>>) -> Step<()> {
        self.charge(64, line)?;
        if !units.iter().any(is_glob) {
            fields.push(units.iter().map(|unit| unit.byte).collect());
            return Ok(());
        }
        let marked: Vec<Marked> =
            units.iter().map(|unit| Marked { byte: unit.byte, quoted: unit.quoted }).collect();
        let found = files::matching(&marked, self).map_err(|reason| Declined { line, ..reason })?;
        if found.is_empty() {
            fields.push(units.iter().map(|unit| unit.byte).collect());
        }
        fields.extend(found);
        Ok(())
    }

    fn expanded(&mut self, word: &Word, line: usize) -> Step<Expanded> {
        let mut expanded = Expanded { line, ..Expanded::default() };
        self.expand(word, false, &mut expanded)?;
        self.charge(expanded.units.len() as u64, line)?;
        Ok(expanded)
    }

    /// inner: the word belongs to an operation, so that its blanks part fields like those of a value.
    fn expand(&mut self, word: &Word, inner: bool, out: &mut Expanded) -> Step<()> {
        for part in word {
            match part {
                Part::Literal(text) => out.push(text, false, inner)?,
                Part::Quoted(text) => {
                    if text.is_empty() {
                        out.quotes.push(out.units.len());
                    }
                    out.push(text, true, false)?;
                }
                Part::Home => match self.variable(b"HOME", out.line)?.filter(|home| !home.is_empty()) {
                    Some(home) => out.push(home, true, false)?,
                    None => return Err(declined(out.line, "a `~` without a HOME")),
                },
                Part::Parameter(parameter) => self.parameter(parameter, out)?,
                Part::Foreign(foreign) => return Err(foreign.into()),
            }
        }
        Ok(())
    }

    /// The value of what stands behind a `$`.
    fn look_up(&self, parameter: &Parameter) -> Step<Option<Vec<u8>>> {
        let line = parameter.line;
        let is_plain = parameter.operation == Operation::Value;
        if !self.knows_arguments && !super::evaluate::is_name(&parameter.name) {
            return Err(declined(line, "an argument of the script"));
        }
        match parameter.name.as_slice() {
            b"#" if is_plain => Ok(Some(b"0".to_vec())),
            b"@" | b"*" if is_plain => Ok(None),
            name if name[0].is_ascii_digit() && name.iter().any(|digit| *digit != b'0') => Ok(None),
            name if super::evaluate::is_name(name) => {
                let value = self.variable(name, line)?;
                if value.is_some_and(|value| value.iter().any(|byte| MARKS.contains(byte))) {
                    return Err(declined(line, "a control character"));
                }
                Ok(value.map(<[u8]>::to_vec))
            }
            _ => Err(declined(line, "a parameter that is the shell's own")),
        }
    }

    fn parameter(&mut self, parameter: &Parameter, out: &mut Expanded) -> Step<()> {
        let value = self.look_up(parameter)?;
        self.charge(1 + value.as_ref().map_or(0, Vec::len) as u64, parameter.line)?;
        out.line = parameter.line;
        let counts = |colon: bool| value.as_ref().is_some_and(|value| !(colon && value.is_empty()));
        let mut put = |text: &[u8]| out.push(text, parameter.quoted, true);
        match &parameter.operation {
            Operation::Value => put(value.as_deref().unwrap_or_default()),
            Operation::Length => {
                let value = value.unwrap_or_default();
                if !value.is_ascii() {
                    return Err(declined(parameter.line, "the length of text that is not ASCII"));
                }
                put(value.len().to_string().as_bytes())
            }
            Operation::Default { colon, .. }
            | Operation::Assign { colon, .. }
            | Operation::Require { colon }
                if counts(*colon) =>
            {
                put(value.as_deref().unwrap_or_default())
            }
            Operation::Default { word, .. } => self.expand(word, true, out),
            Operation::Assign { word, .. } => {
                if !super::evaluate::is_name(&parameter.name) {
                    return Err(declined(parameter.line, "an assignment to an argument"));
                }
                let value = self.value(word, parameter.line)?;
                self.assign(&parameter.name, value.clone(), parameter.line)?;
                out.push(&value, parameter.quoted, true)
            }
            Operation::Require { .. } => {
                Err(declined(parameter.line, "a value that must be there and is not"))
            }
            Operation::Alternative { colon, word } => match counts(*colon) {
                true => self.expand(word, true, out),
                false => Ok(()),
            },
            Operation::Prefix { longest, pattern } => {
                let pattern = self.pattern(pattern)?;
                let value = value.unwrap_or_default();
                let cut = self.shortened(&value, &pattern, *longest, true)?;
                out.push(&value[cut..], parameter.quoted, true)
            }
            Operation::Suffix { longest, pattern } => {
                let pattern = self.pattern(pattern)?;
                let value = value.unwrap_or_default();
                let cut = self.shortened(&value, &pattern, *longest, false)?;
                out.push(&value[..cut], parameter.quoted, true)
            }
        }
    }

    /// Where the part begins, or ends, that a pattern leaves of a value.
    fn shortened(&mut self, value: &[u8], pattern: &Matcher, longest: bool, prefix: bool) -> Step<usize> {
        let whole = if prefix { 0 } else { value.len() };
        for step in 0..=value.len() {
            let length = if longest { value.len() - step } else { step };
            let cut = if prefix { length } else { value.len() - length };
            let part = if prefix { &value[..cut] } else { &value[cut..] };
            if pattern.matches(part, self)? {
                return Ok(cut);
            }
        }
        Ok(whole)
    }
}
