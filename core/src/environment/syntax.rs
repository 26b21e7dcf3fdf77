//! What a script says, as a tree. Forms that are understood but not evaluated keep their place with the line they
//! stand on, so that an untaken branch may hold anything.

/// A word: parts that are joined, then split into fields.
pub type Word = Vec<Part>;

/// A form that only a real shell can carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    pub what: &'static str,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text outside quotes: its glob characters count.
    Literal(Vec<u8>),
    /// Text that stands for itself; an empty one still makes a field.
    Quoted(Vec<u8>),
    /// `~`, the home directory.
    Home,
    Parameter(Parameter),
    Foreign(Foreign),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub name: Vec<u8>,
    pub operation: Operation,
    pub quoted: bool,
    pub line: usize,
}

/// `${name…}`. `colon`: an empty value counts as unset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Value,
    Length,
    Default { colon: bool, word: Word },
    Alternative { colon: bool, word: Word },
    Assign { colon: bool, word: Word },
    Require { colon: bool },
    Prefix { longest: bool, pattern: Word },
    Suffix { longest: bool, pattern: Word },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub name: Vec<u8>,
    pub value: Word,
}

/// A word of a command; `export` and `readonly` take assignments too, which are not split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    Word(Word),
    Assignment(Assignment),
}

/// `>target`, `2>&1` and their like. `operator` is one of `>` `>>` `<` `>&` `<&` `>|` `<>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirection {
    pub descriptor: Option<u8>,
    pub operator: &'static [u8],
    pub target: Word,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Simple {
        assignments: Vec<Assignment>,
        arguments: Vec<Argument>,
        redirections: Vec<Redirection>,
        line: usize,
    },
    Group(List),
    If {
        arms: Vec<(List, List)>,
        otherwise: Option<List>,
    },
    Case {
        word: Word,
        arms: Vec<(Vec<Word>, List)>,
    },
    /// `words`: `None` stands for the script's own arguments.
    For {
        name: Vec<u8>,
        words: Option<Vec<Word>>,
        body: List,
    },
    Not(Box<Command>),
    Foreign(Foreign),
}

/// Commands joined by `&&` and `||`, carried out from left to right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub first: Command,
    pub rest: Vec<(Join, Command)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    And,
    Or,
}

pub type List = Vec<Chain>;
