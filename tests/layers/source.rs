//! The source, split into words and comments.

use std::fs;
use std::path::{Path, PathBuf};

/// One file of the source, split.
pub struct SourceFile {
    /// Below `src`, with `/`.
    pub path: String,
    pub text: String,
    pub words: Vec<Word>,
    pub comments: Vec<Comment>,
}

/// An identifier, or one character of punctuation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub line: usize,
    /// Place in the text, in characters.
    pub place: usize,
}

pub struct Comment {
    pub text: String,
    pub place: usize,
}

impl SourceFile {
    pub fn new(path: &str, text: &str) -> SourceFile {
        let (words, comments) = split(text);
        SourceFile { path: path.to_owned(), text: text.to_owned(), words, comments }
    }

    /// First part of the module path.
    pub fn layer(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Modules from the root to the one this file is.
    pub fn module(&self) -> Vec<String> {
        let path = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
        if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
            parts.pop();
        }
        parts
    }

    pub fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part == "tests" || part == "tests.rs")
    }

    pub fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", |word| word.text.as_str())
    }

    pub fn violation(&self, index: usize, what: &str) -> String {
        let line = self.words.get(index).map_or(0, |word| word.line);
        format!("src/{}:{line}: {what}", self.path)
    }
}

/// Every file below `src`.
pub fn source_files() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    let read = |path: &PathBuf| {
        let below = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        SourceFile::new(&below, &fs::read_to_string(path).unwrap())
    };
    paths.iter().map(read).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Words and line comments of a text; block comments, texts and characters leave nothing.
fn split(text: &str) -> (Vec<Word>, Vec<Comment>) {
    let characters: Vec<char> = text.chars().collect();
    let (mut words, mut comments) = (Vec::new(), Vec::new());
    let (mut place, mut line) = (0, 1);
    while place < characters.len() {
        let rest = &characters[place..];
        let (kind, length) = next(rest);
        let piece = || rest[..length].iter().collect::<String>();
        match kind {
            Kind::Word => words.push(Word { text: piece(), line, place }),
            Kind::Comment => comments.push(Comment { text: piece(), place }),
            Kind::Nothing => {}
        }
        line += rest[..length].iter().filter(|passed| **passed == '\n').count();
        place += length;
    }
    (words, comments)
}

enum Kind {
    Word,
    Comment,
    Nothing,
}

/// What stands at the beginning of `rest`, which is not empty, and how many characters it has.
fn next(rest: &[char]) -> (Kind, usize) {
    let is_identifier = |character: char| character.is_alphanumeric() || character == '_';
    match rest {
        ['/', '/', ..] => (Kind::Comment, until(rest, |character| character == '\n')),
        ['/', '*', ..] => (Kind::Nothing, block_comment(rest)),
        ['"', ..] => (Kind::Nothing, quoted(rest, '"')),
        ['b' | 'c', '"', ..] => (Kind::Nothing, 1 + quoted(&rest[1..], '"')),
        ['r', '"' | '#', ..] if raw(&rest[1..]).is_some() => (Kind::Nothing, 1 + raw(&rest[1..]).unwrap()),
        ['b' | 'c', 'r', '"' | '#', ..] if raw(&rest[2..]).is_some() => {
            (Kind::Nothing, 2 + raw(&rest[2..]).unwrap())
        }
        // A lifetime has no second quote.
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => (Kind::Nothing, quoted(rest, '\'')),
        [first, ..] if is_identifier(*first) => {
            (Kind::Word, until(rest, |character| !is_identifier(character)))
        }
        [first, ..] if first.is_whitespace() => (Kind::Nothing, 1),
        [..] => (Kind::Word, 1),
    }
}

fn until(rest: &[char], end: impl Fn(char) -> bool) -> usize {
    rest.iter().position(|character| end(*character)).unwrap_or(rest.len())
}

/// Block comments nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut place, mut depth) = (0, 0);
    while place < rest.len() {
        match &rest[place..] {
            ['/', '*', ..] => (place, depth) = (place + 2, depth + 1),
            ['*', '/', ..] => (place, depth) = (place + 2, depth - 1),
            [..] => place += 1,
        }
        if depth == 0 {
            break;
        }
    }
    place
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut place = 1;
    while place < rest.len() && rest[place] != quote {
        place += if rest[place] == '\\' { 2 } else { 1 };
    }
    (place + 1).min(rest.len())
}

/// A raw text from its first `#` or quote on; `None` for a raw identifier.
fn raw(rest: &[char]) -> Option<usize> {
    let hashes = until(rest, |character| character != '#');
    if rest.get(hashes) != Some(&'"') {
        return None;
    }
    let mut end = vec!['"'];
    end.resize(hashes + 1, '#');
    let body = &rest[hashes + 1..];
    let length = body.windows(end.len()).position(|window| window == end);
    Some(length.map_or(rest.len(), |length| hashes + 1 + length + end.len()))
}
