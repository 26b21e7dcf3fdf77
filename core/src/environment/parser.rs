//! From a script's bytes to its tree: the grammar of commands. Words are in `words.rs`.
//!
//! Whatever is outside the grammar is an error with its line: then a real shell has to read the script.

use super::syntax::{Argument, Assignment, Chain, Command, Foreign, Join, List, Part, Redirection, Word};

/// Commands within commands, and words within words.
const DEEPEST: usize = 64;
/// A script larger than this is no environment script.
pub const LARGEST: usize = 1 << 20;
/// Bytes that shells use as marks of their own, and not all give back.
pub const MARKS: [u8; 2] = [0x01, 0x7f];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    pub line: usize,
    pub what: &'static str,
}

pub type Parsed<T> = Result<T, SyntaxError>;

/// Reads a whole script.
pub fn parse(text: &[u8]) -> Parsed<List> {
    let mut parser = Parser::new(text)?;
    let list = parser.list()?;
    match parser.peek() {
        None => Ok(list),
        Some(_) => Err(parser.error("an unexpected word or operator")),
    }
}

/// Reads text as the words of one command, as `eval "set -- TEXT"` would: no operators.
pub fn parse_words(text: &[u8]) -> Parsed<Vec<Word>> {
    let mut parser = Parser::new(text)?;
    let mut words = Vec::new();
    loop {
        parser.blanks();
        while parser.peek() == Some(b'\n') {
            parser.next();
            parser.blanks();
        }
        if parser.peek().is_none() {
            return Ok(words);
        }
        match parser.word(false)? {
            Some(word) => words.push(word),
            None => return Err(parser.error("an operator")),
        }
    }
}

pub struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    pub line: usize,
    depth: usize,
    /// Whether a word is the value of an assignment, so that nothing will split it.
    pub assigning: bool,
}

impl<'a> Parser<'a> {
    pub fn new(text: &'a [u8]) -> Parsed<Parser<'a>> {
        if text.len() > LARGEST {
            return Err(SyntaxError { line: 1, what: "a script of more than 1 MiB" });
        }
        if text.contains(&0) {
            return Err(SyntaxError { line: 1, what: "a NUL byte" });
        }
        if text.iter().any(|byte| MARKS.contains(byte)) {
            return Err(SyntaxError { line: 1, what: "a control character" });
        }
        Ok(Parser { text, at: 0, line: 1, depth: 0, assigning: false })
    }

    pub fn error(&self, what: &'static str) -> SyntaxError {
        SyntaxError { line: self.line, what }
    }

    pub fn foreign(&self, what: &'static str) -> Foreign {
        Foreign { what, line: self.line }
    }

    pub fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    pub fn peek_at(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    pub fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        if byte == b'\n' {
            self.line += 1;
        }
        Some(byte)
    }

    pub fn starts_with(&self, text: &[u8]) -> bool {
        self.text[self.at..].starts_with(text)
    }

    /// Skips text without newlines, if it comes next.
    pub fn take(&mut self, text: &[u8]) -> bool {
        let found = self.starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    /// The longest run of bytes that fit.
    pub fn take_while(&mut self, fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let length = self.text[self.at..].iter().take_while(|&&b| fits(b)).count();
        let run = &self.text[self.at..self.at + length];
        self.at += length;
        run
    }

    /// A name that a variable can have, if one comes next; nothing is skipped.
    pub fn name_ahead(&self) -> &'a [u8] {
        let rest = &self.text[self.at..];
        let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        if rest.first().is_some_and(u8::is_ascii_digit) { &[] } else { &rest[..length] }
    }

    /// Runs a part of the grammar one level deeper.
    pub fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == DEEPEST {
            return Err(self.error("too much nesting"));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// Skips blanks, joined lines and a comment.
    pub fn blanks(&mut self) {
        loop {
            match self.peek() {
                Some(b' ' | b'\t') => self.at += 1,
                Some(b'\\') if self.peek_at(1) == Some(b'\n') => {
                    self.at += 2;
                    self.line += 1;
                }
                Some(b'#') => {
                    self.take_while(|b| b != b'\n');
                }
                _ => return,
            }
        }
    }

    fn lines(&mut self) {
        self.blanks();
        while self.peek() == Some(b'\n') {
            self.next();
            self.blanks();
        }
    }

    /// Whether the word that comes next is this reserved one; nothing is skipped.
    fn at_reserved(&self, word: &[u8]) -> bool {
        self.starts_with(word) && self.peek_at(word.len()).is_none_or(is_separator)
    }

    fn reserved(&mut self, word: &[u8]) -> bool {
        self.blanks();
        self.at_reserved(word) && self.take(word)
    }

    fn expect(&mut self, word: &[u8], what: &'static str) -> Parsed<()> {
        self.lines();
        if self.reserved(word) { Ok(()) } else { Err(self.error(what)) }
    }

    fn at_end_of_list(&self) -> bool {
        const ENDS: [&[u8]; 8] = [b"then", b"elif", b"else", b"fi", b"do", b"done", b"esac", b"}"];
        match self.peek() {
            None | Some(b')') => true,
            Some(b';') => self.peek_at(1) == Some(b';'),
            Some(_) => ENDS.iter().any(|word| self.at_reserved(word)),
        }
    }

    /// Commands up to what ends a list.
    pub fn list(&mut self) -> Parsed<List> {
        let mut list = Vec::new();
        loop {
            self.lines();
            if self.at_end_of_list() {
                return Ok(list);
            }
            let mut chain = self.chain()?;
            self.blanks();
            match self.peek() {
                Some(b'\n') => {
                    self.next();
                }
                Some(b';') if self.peek_at(1) != Some(b';') => {
                    self.next();
                }
                Some(b'&') => {
                    let line = self.line;
                    self.next();
                    let first = Command::Foreign(Foreign { what: "a background command", line });
                    chain = Chain { first, rest: Vec::new() };
                }
                _ if self.at_end_of_list() => {}
                _ => return Err(self.error("an unexpected word or operator")),
            }
            list.push(chain);
        }
    }

    /// A list that a compound command needs: an empty one is an error.
    fn body(&mut self) -> Parsed<List> {
        let list = self.deeper(Self::list)?;
        if list.is_empty() { Err(self.error("a command is missing")) } else { Ok(list) }
    }

    fn chain(&mut self) -> Parsed<Chain> {
        let first = self.pipeline()?;
        let mut rest = Vec::new();
        loop {
            self.blanks();
            let join = if self.take(b"&&") {
                Join::And
            } else if self.take(b"||") {
                Join::Or
            } else {
                return Ok(Chain { first, rest });
            };
            self.lines();
            rest.push((join, self.pipeline()?));
        }
    }

    fn pipeline(&mut self) -> Parsed<Command> {
        let negated = self.reserved(b"!");
        self.blanks();
        let line = self.line;
        let mut command = self.command()?;
        loop {
            self.blanks();
            if !(self.peek() == Some(b'|') && self.peek_at(1) != Some(b'|')) {
                break;
            }
            self.next();
            self.lines();
            self.command()?;
            command = Command::Foreign(Foreign { what: "a pipe", line });
        }
        Ok(if negated { Command::Not(Box::new(command)) } else { command })
    }

    fn command(&mut self) -> Parsed<Command> {
        self.blanks();
        let line = self.line;
        let compound = if self.reserved(b"if") {
            self.conditional()?
        } else if self.reserved(b"case") {
            self.case()?
        } else if self.reserved(b"for") {
            self.repetition()?
        } else if self.reserved(b"while") || self.reserved(b"until") {
            self.body()?;
            self.expect(b"do", "`do` is missing")?;
            self.body()?;
            self.expect(b"done", "`done` is missing")?;
            Command::Foreign(Foreign { what: "a loop", line })
        } else if self.reserved(b"{") {
            let body = self.body()?;
            self.expect(b"}", "`}` is missing")?;
            Command::Group(body)
        } else if self.peek() == Some(b'(') {
            self.next();
            if self.peek() == Some(b'(') {
                return Err(self.error("an arithmetic command"));
            }
            self.body()?;
            self.lines();
            if !self.take(b")") {
                return Err(self.error("`)` is missing"));
            }
            Command::Foreign(Foreign { what: "a subshell", line })
        } else {
            return self.simple();
        };
        let redirected = self.redirection()?.is_some();
        while self.redirection()?.is_some() {}
        Ok(if redirected {
            Command::Foreign(Foreign { what: "a redirection of several commands", line })
        } else {
            compound
        })
    }

    fn conditional(&mut self) -> Parsed<Command> {
        let mut arms = Vec::new();
        loop {
            let condition = self.body()?;
            self.expect(b"then", "`then` is missing")?;
            arms.push((condition, self.body()?));
            if self.reserved(b"elif") {
                continue;
            }
            let otherwise = if self.reserved(b"else") { Some(self.body()?) } else { None };
            self.expect(b"fi", "`fi` is missing")?;
            return Ok(Command::If { arms, otherwise });
        }
    }

    fn case(&mut self) -> Parsed<Command> {
        let word = self.needed_word()?;
        self.expect(b"in", "`in` is missing")?;
        let mut arms = Vec::new();
        loop {
            self.lines();
            if self.reserved(b"esac") {
                return Ok(Command::Case { word, arms });
            }
            self.take(b"(");
            let mut patterns = Vec::new();
            loop {
                patterns.push(self.needed_word()?);
                self.blanks();
                if self.take(b"|") {
                    continue;
                }
                if self.take(b")") {
                    break;
                }
                return Err(self.error("a pattern of `case` does not end"));
            }
            let body = self.deeper(Self::list)?;
            arms.push((patterns, body));
            self.lines();
            if self.starts_with(b";;&") || self.starts_with(b";&") {
                return Err(self.error("a fall-through of `case`"));
            }
            if !self.take(b";;") && !self.at_reserved(b"esac") {
                return Err(self.error("`;;` or `esac` is missing"));
            }
        }
    }

    fn repetition(&mut self) -> Parsed<Command> {
        self.blanks();
        let name = self.name_ahead();
        if name.is_empty() {
            return Err(self.error("`for` needs a name"));
        }
        self.at += name.len();
        self.lines();
        let mut words = None;
        if self.reserved(b"in") {
            let mut found = Vec::new();
            self.blanks();
            while let Some(word) = self.word(false)? {
                found.push(word);
                self.blanks();
            }
            words = Some(found);
        }
        self.blanks();
        if self.peek() == Some(b';') && self.peek_at(1) != Some(b';') {
            self.next();
        }
        self.expect(b"do", "`do` is missing")?;
        let body = self.body()?;
        self.expect(b"done", "`done` is missing")?;
        Ok(Command::For { name: name.to_vec(), words, body })
    }

    fn needed_word(&mut self) -> Parsed<Word> {
        self.blanks();
        self.word(false)?.ok_or_else(|| self.error("a word is missing"))
    }

    fn simple(&mut self) -> Parsed<Command> {
        let line = self.line;
        let mut assignments = Vec::new();
        let mut arguments: Vec<Argument> = Vec::new();
        let mut redirections = Vec::new();
        let mut declares = false;
        loop {
            self.blanks();
            if let Some(redirection) = self.redirection()? {
                redirections.push(redirection);
                continue;
            }
            if (arguments.is_empty() || declares)
                && let Some(assignment) = self.assignment()?
            {
                if declares {
                    arguments.push(Argument::Assignment(assignment));
                } else {
                    assignments.push(assignment);
                }
                continue;
            }
            let Some(word) = self.word(false)? else { break };
            if arguments.is_empty() {
                declares = matches!(word.as_slice(), [Part::Literal(name)]
                    if matches!(name.as_slice(), b"export" | b"readonly"));
            }
            arguments.push(Argument::Word(word));
        }
        if self.peek() == Some(b'(') {
            return self.function(&arguments, line);
        }
        if assignments.is_empty() && arguments.is_empty() && redirections.is_empty() {
            return Err(self.error("a command is missing"));
        }
        Ok(Command::Simple { assignments, arguments, redirections, line })
    }

    /// `name() command`, which a real shell has to keep.
    fn function(&mut self, arguments: &[Argument], line: usize) -> Parsed<Command> {
        self.next();
        self.blanks();
        if arguments.len() != 1 || !self.take(b")") {
            return Err(self.error("an unexpected `(`"));
        }
        self.lines();
        self.deeper(Self::command)?;
        Ok(Command::Foreign(Foreign { what: "a function", line }))
    }

    /// `NAME=value`, if it comes next.
    fn assignment(&mut self) -> Parsed<Option<Assignment>> {
        let name = self.name_ahead();
        if name.is_empty() || self.peek_at(name.len()) != Some(b'=') {
            return Ok(None);
        }
        self.at += name.len() + 1;
        if self.peek() == Some(b'(') {
            return Err(self.error("an array"));
        }
        self.assigning = true;
        let value = self.word(true)?.unwrap_or_default();
        self.assigning = false;
        Ok(Some(Assignment { name: name.to_vec(), value }))
    }

    fn redirection(&mut self) -> Parsed<Option<Redirection>> {
        self.blanks();
        let digits = self.text[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        if !matches!(self.peek_at(digits), Some(b'<' | b'>')) || digits > 1 {
            return Ok(None);
        }
        let descriptor = if digits == 1 { self.next().map(|digit| digit - b'0') } else { None };
        const OPERATORS: [&[u8]; 7] = [b">>", b">&", b">|", b"<&", b"<>", b">", b"<"];
        if self.starts_with(b"<<") {
            return Err(self.error("a here-document"));
        }
        for operator in OPERATORS {
            if self.take(operator) {
                return Ok(Some(Redirection { descriptor, operator, target: self.needed_word()? }));
            }
        }
        Ok(None)
    }
}

/// What ends a word outside quotes.
pub fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')')
}
