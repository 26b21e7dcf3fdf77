//! The grammar of words: quotes, backslashes, `~` and parameters.

use super::parser::{Parsed, Parser, is_separator};
use super::syntax::{Operation, Parameter, Part, Word};

/// Parameters that are no variables but that the evaluator knows.
const SPECIAL: &[u8] = b"?#@*$-!";

impl Parser<'_> {
    /// A word, if one comes next. assigned: it is the value of an assignment, where `~` also counts after `:`.
    pub fn word(&mut self, assigned: bool) -> Parsed<Option<Word>> {
        let mut word = Word::new();
        let mut may_be_home = true;
        while let Some(byte) = self.peek() {
            if is_separator(byte) {
                break;
            }
            let home_next = assigned && byte == b':';
            match byte {
                b'~' if may_be_home => self.home(&mut word, assigned),
                b'\\' => self.backslash(&mut word)?,
                b'\'' => self.single_quoted(&mut word)?,
                b'"' => self.double_quoted(&mut word)?,
                b'$' => self.dollar(&mut word, false)?,
                b'`' => self.backquoted(&mut word)?,
                _ => {
                    self.next();
                    push_literal(&mut word, byte);
                }
            }
            may_be_home = home_next;
        }
        Ok(if word.is_empty() { None } else { Some(word) })
    }

    fn home(&mut self, word: &mut Word, assigned: bool) {
        match self.peek_at(1) {
            None | Some(b'/') => word.push(Part::Home),
            Some(b':') if assigned => word.push(Part::Home),
            Some(byte) if is_separator(byte) => word.push(Part::Home),
            Some(_) => word.push(Part::Foreign(self.foreign("the home of somebody else"))),
        }
        self.next();
    }

    fn backslash(&mut self, word: &mut Word) -> Parsed<()> {
        self.next();
        match self.next() {
            // Digits before it may belong to a redirection behind it.
            Some(b'\n') if matches!(self.peek(), Some(b'<' | b'>' | b'(')) => {
                return Err(self.error("an operator behind a joined line"));
            }
            Some(b'\n') => {}
            Some(byte) => word.push(Part::Quoted(vec![byte])),
            None => return Err(self.error("a backslash at the end")),
        }
        Ok(())
    }

    fn single_quoted(&mut self, word: &mut Word) -> Parsed<()> {
        self.next();
        let mut text = Vec::new();
        loop {
            match self.next() {
                Some(b'\'') => break,
                Some(byte) => text.push(byte),
                None => return Err(self.error("a quote that does not end")),
            }
        }
        word.push(Part::Quoted(text));
        Ok(())
    }

    fn double_quoted(&mut self, word: &mut Word) -> Parsed<()> {
        self.next();
        // An empty pair of quotes is a field of its own.
        word.push(Part::Quoted(Vec::new()));
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.next();
                    return Ok(());
                }
                Some(byte) => self.inside_double_quotes(word, byte)?,
                None => return Err(self.error("a quote that does not end")),
            }
        }
    }

    /// One element between double quotes, which is not the closing one.
    fn inside_double_quotes(&mut self, word: &mut Word, byte: u8) -> Parsed<()> {
        match byte {
            b'\\' => {
                self.next();
                match self.next() {
                    Some(b'\n') => {}
                    Some(byte @ (b'$' | b'`' | b'"' | b'\\')) => push_quoted(word, byte),
                    Some(byte) => {
                        push_quoted(word, b'\\');
                        push_quoted(word, byte);
                    }
                    None => return Err(self.error("a quote that does not end")),
                }
            }
            b'$' => self.dollar(word, true)?,
            b'`' => self.backquoted(word)?,
            _ => {
                self.next();
                push_quoted(word, byte);
            }
        }
        Ok(())
    }

    fn backquoted(&mut self, word: &mut Word) -> Parsed<()> {
        word.push(Part::Foreign(self.foreign("a command substitution")));
        self.next();
        loop {
            match self.next() {
                Some(b'`') => return Ok(()),
                Some(b'\\') => {
                    self.next();
                }
                Some(_) => {}
                None => return Err(self.error("a command substitution that does not end")),
            }
        }
    }

    fn dollar(&mut self, word: &mut Word, quoted: bool) -> Parsed<()> {
        let line = self.line;
        let name = match self.peek_at(1) {
            Some(b'(') => return self.substitution(word),
            Some(b'{') => {
                self.take(b"${");
                return self.deeper(|parser| parser.braced(word, quoted));
            }
            // `$'…'`, `$"…"` and `$[…]` mean different things to different shells.
            Some(b'\'' | b'"') if !quoted => {
                word.push(Part::Foreign(self.foreign("a `$` before a quote")));
                self.next();
                return Ok(());
            }
            Some(b'[') => {
                word.push(Part::Foreign(self.foreign("a `$[`")));
                self.next();
                return Ok(());
            }
            Some(byte) if byte.is_ascii_digit() || SPECIAL.contains(&byte) => {
                self.take(b"$");
                self.next();
                vec![byte]
            }
            _ => {
                self.take(b"$");
                let name = self.name_ahead().to_vec();
                self.take(&name);
                name
            }
        };
        if self.starts_with(b"\\\n") {
            return Err(self.error("a parameter over two lines"));
        }
        if name.is_empty() {
            word.push(Part::Quoted(vec![b'$']));
        } else {
            word.push(Part::Parameter(Parameter { name, operation: Operation::Value, quoted, line }));
        }
        Ok(())
    }

    /// `$(…)` is skipped with its quotes and parentheses; where that would be guessing, it is an error.
    fn substitution(&mut self, word: &mut Word) -> Parsed<()> {
        word.push(Part::Foreign(self.foreign("a command substitution")));
        self.take(b"$(");
        let mut open = 1;
        while open > 0 {
            if self.starts_with(b"case") || self.starts_with(b"<<") {
                return Err(self.error("a command substitution with a `case` or a here-document"));
            }
            let Some(byte) = self.peek() else {
                return Err(self.error("a command substitution that does not end"));
            };
            match byte {
                b'\'' => self.single_quoted(&mut Word::new())?,
                b'"' => self.deeper(|parser| parser.double_quoted(&mut Word::new()))?,
                b'`' => self.backquoted(&mut Word::new())?,
                b'\\' => self.backslash(&mut Word::new())?,
                b'$' if self.peek_at(1) == Some(b'(') => {
                    self.deeper(|parser| parser.substitution(&mut Word::new()))?;
                }
                b'$' if self.peek_at(1) == Some(b'{') => self.dollar(&mut Word::new(), false)?,
                b'#' if open > 0 => return Err(self.error("a command substitution with a `#`")),
                _ => {
                    self.next();
                    match byte {
                        b'(' => open += 1,
                        b')' => open -= 1,
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// What follows `${`.
    fn braced(&mut self, word: &mut Word, quoted: bool) -> Parsed<()> {
        let line = self.line;
        let length = self.peek() == Some(b'#') && !matches!(self.peek_at(1), Some(b'}'));
        if length {
            self.next();
        }
        let mut name = self.name_ahead().to_vec();
        if name.is_empty() {
            name = self.take_while(|b| b.is_ascii_digit()).to_vec();
        }
        if name.is_empty() && self.peek().is_some_and(|b| SPECIAL.contains(&b)) {
            name.extend(self.next());
        } else {
            self.take(&name);
        }
        if name.is_empty() {
            return Err(self.error("a parameter without a name"));
        }
        let operation = if length {
            if !self.take(b"}") {
                return Err(self.error("a length with an operation"));
            }
            Operation::Length
        } else {
            self.operation(quoted)?
        };
        word.push(Part::Parameter(Parameter { name, operation, quoted, line }));
        Ok(())
    }

    fn operation(&mut self, quoted: bool) -> Parsed<Operation> {
        if self.take(b"}") {
            return Ok(Operation::Value);
        }
        if self.take(b"##") {
            return Ok(Operation::Prefix { longest: true, pattern: self.until_brace(false)? });
        }
        if self.take(b"#") {
            return Ok(Operation::Prefix { longest: false, pattern: self.until_brace(false)? });
        }
        if self.take(b"%%") {
            return Ok(Operation::Suffix { longest: true, pattern: self.until_brace(false)? });
        }
        if self.take(b"%") {
            return Ok(Operation::Suffix { longest: false, pattern: self.until_brace(false)? });
        }
        let colon = self.take(b":");
        if self.take(b"-") {
            Ok(Operation::Default { colon, word: self.until_brace(quoted)? })
        } else if self.take(b"+") {
            Ok(Operation::Alternative { colon, word: self.until_brace(quoted)? })
        } else if self.take(b"=") {
            Ok(Operation::Assign { colon, word: self.until_brace(quoted)? })
        } else if self.take(b"?") {
            self.until_brace(quoted)?;
            Ok(Operation::Require { colon })
        } else {
            Err(self.error("an operation on a parameter that sh does not have"))
        }
    }

    /// The word of an operation. quoted: the whole stands between double quotes.
    ///
    /// What shells disagree on there is an error: joined lines after the operator, braces of its own, and between double
    /// quotes single ones and `"…"` with anything special in it.
    fn until_brace(&mut self, quoted: bool) -> Parsed<Word> {
        let mut word = Word::new();
        if self.starts_with(b"\\\n") {
            return Err(self.error("a parameter over two lines"));
        }
        if quoted && self.peek() == Some(b'"') {
            self.quotes_within_quotes(&mut word)?;
            return if self.take(b"}") {
                Ok(word)
            } else {
                Err(self.error("quotes within quotes, and more"))
            };
        }
        loop {
            let Some(byte) = self.peek() else {
                return Err(self.error("a `${` that does not end"));
            };
            match byte {
                b'}' => {
                    self.next();
                    return Ok(word);
                }
                b'{' => return Err(self.error("a brace within `${`")),
                b'<' | b'>' if self.peek_at(1) == Some(b'(') => {
                    return Err(self.error("a process substitution"));
                }
                b'"' if quoted => return Err(self.error("quotes within quotes, and more")),
                b'"' => self.double_quoted(&mut word)?,
                b'\'' if quoted => return Err(self.error("a single quote within `\"${`")),
                b'\\' if quoted && self.peek_at(1) == Some(b'}') => {
                    self.take(b"\\}");
                    push_quoted(&mut word, b'}');
                }
                b'$' if matches!(self.peek_at(1), Some(b'"' | b'\'')) => {
                    return Err(self.error("a `$` before a quote"));
                }
                _ if quoted => self.inside_double_quotes(&mut word, byte)?,
                b'\'' => self.single_quoted(&mut word)?,
                b'\\' => self.backslash(&mut word)?,
                b'$' => self.dollar(&mut word, false)?,
                b'`' => self.backquoted(&mut word)?,
                b'~' => {
                    word.push(Part::Foreign(self.foreign("a `~` within `${`")));
                    self.next();
                }
                _ => {
                    self.next();
                    push_literal(&mut word, byte);
                }
            }
        }
    }

    /// `"…"` in the word of an operation that stands between double quotes itself, as in `"${A:-"value"}"`. Only where
    /// nothing is split do all shells take it for the text in it.
    fn quotes_within_quotes(&mut self, word: &mut Word) -> Parsed<()> {
        if !self.assigning {
            word.push(Part::Foreign(self.foreign("quotes within quotes")));
        }
        self.next();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.next();
                    return Ok(());
                }
                Some(b'$') if !matches!(self.peek_at(1), Some(b'"' | b'\'')) => self.dollar(word, true)?,
                Some(b'$' | b'\'' | b'\\' | b'`' | b'{' | b'}' | b'~' | b'<' | b'>') => {
                    return Err(self.error("quotes within quotes, with something special in them"));
                }
                Some(byte) => {
                    self.next();
                    push_quoted(word, byte);
                }
                None => return Err(self.error("a quote that does not end")),
            }
        }
    }
}

fn push_literal(word: &mut Word, byte: u8) {
    match word.last_mut() {
        Some(Part::Literal(text)) => text.push(byte),
        _ => word.push(Part::Literal(vec![byte])),
    }
}

fn push_quoted(word: &mut Word, byte: u8) {
    match word.last_mut() {
        Some(Part::Quoted(text)) => text.push(byte),
        _ => word.push(Part::Quoted(vec![byte])),
    }
}
