//! `grub.cfg`: enough of GRUB's script language to find what its default entry starts. Conditions are not evaluated:
//! within an entry the first `linux` and the first `initrd` count, and of several `set default=` the last that has a value
//! of its own, which is the one that grub-mkconfig writes for the ordinary case.

use super::{KernelEntry, LoaderConfigError, Variables};

/// Deepest menu in a menu.
const MOST_DEPTH: usize = 8;
/// Most entries that are read.
const MOST_ENTRIES: usize = 512;

/// What the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Start this.
    Entry(KernelEntry),
    /// Look at the entries of the Boot Loader Specification: the file holds the command `blscfg`, and no kernel.
    BootLoaderSpecification {
        /// The name of the entry that was saved as default.
        saved: Option<String>,
    },
}

/// A word of the script.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A word, its variables replaced.
    Word(String),
    /// The end of a command.
    End,
}

#[derive(Debug, Default)]
struct Node {
    title: String,
    id: Option<String>,
    kernel: Option<Vec<String>>,
    initrds: Vec<String>,
    /// A menu within the menu.
    children: Option<Vec<Node>>,
}

/// Finds what is started by default. `environment` is what `grubenv` holds.
pub fn parse(text: &str, environment: &Variables) -> Result<Choice, LoaderConfigError> {
    let mut reader = Reader { variables: environment.clone(), default: None, bls: false, entries: 0 };
    let tokens = tokens(text, &mut reader.variables.clone())?;
    let mut rest = tokens.as_slice();
    let menu = reader.menu(&mut rest, 0)?;
    let default = reader.default.clone().filter(|default| default != "saved");
    let default = default.or_else(|| environment.get("saved_entry").cloned()).filter(|text| !text.is_empty());
    let chosen = match &default {
        Some(path) => choose(&menu, path),
        None => None,
    };
    // A default that is not there: GRUB starts the first one.
    let Some(node) = chosen.or_else(|| first(&menu)) else {
        return match reader.bls {
            true => Ok(Choice::BootLoaderSpecification { saved: default }),
            false => Err(LoaderConfigError::NoKernel),
        };
    };
    let words = node.kernel.as_deref().unwrap_or_default();
    let (kernel, arguments) = words.split_first().ok_or(LoaderConfigError::NoKernel)?;
    KernelEntry::checked(&node.title, kernel, &node.initrds, arguments.join(" ")).map(Choice::Entry)
}

/// The entry that a path such as `0`, `1>2`, a title or an id means.
fn choose<'a>(menu: &'a [Node], path: &str) -> Option<&'a Node> {
    let (name, rest) = path.split_once('>').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let named = |node: &&Node| node.title == name || node.id.as_deref() == Some(name);
    let node = match name.parse::<usize>() {
        Ok(number) => menu.get(number),
        Err(_) => menu.iter().find(named),
    }?;
    match (&node.children, rest) {
        (Some(children), Some(rest)) => choose(children, rest),
        (Some(children), None) => first(children),
        (None, _) => Some(node).filter(|node| node.kernel.is_some()),
    }
}

/// The first entry that starts a Linux kernel.
fn first(menu: &[Node]) -> Option<&Node> {
    menu.iter().find_map(|node| match &node.children {
        Some(children) => first(children),
        None => Some(node).filter(|node| node.kernel.is_some()),
    })
}

struct Reader {
    variables: Variables,
    default: Option<String>,
    bls: bool,
    entries: usize,
}

impl Reader {
    /// Reads the commands of a menu up to its `}` or the end of the file.
    fn menu(&mut self, tokens: &mut &[Token], depth: usize) -> Result<Vec<Node>, LoaderConfigError> {
        let mut nodes = Vec::new();
        if depth > MOST_DEPTH {
            return Err(LoaderConfigError::NotUnderstood("menus in menus, too deep"));
        }
        while let Some(words) = command(tokens) {
            match words.first().map(String::as_str) {
                Some("}") => return Ok(nodes),
                Some("menuentry" | "submenu") if words.last().is_some_and(|word| word == "{") => {
                    self.entries += 1;
                    if self.entries > MOST_ENTRIES {
                        return Err(LoaderConfigError::NotUnderstood("too many entries"));
                    }
                    let mut node =
                        Node { title: words.get(1).cloned().unwrap_or_default(), ..Node::default() };
                    let option = |word: &String| word == "--id" || word == "$menuentry_id_option";
                    let id = words.iter().position(option).and_then(|at| words.get(at + 1));
                    node.id = id.cloned();
                    if words[0] == "submenu" {
                        node.children = Some(self.menu(tokens, depth + 1)?);
                    } else {
                        entry(tokens, &mut node)?;
                    }
                    nodes.push(node);
                }
                // The body of a function is no part of the menu.
                Some("function") => skip(tokens)?,
                Some("set") => {
                    let Some((name, value)) = words.get(1).and_then(|word| word.split_once('=')) else {
                        continue;
                    };
                    if name == "default" && depth == 0 && !value.is_empty() && !value.contains('$') {
                        self.default = Some(value.to_owned());
                    }
                    self.variables.insert(name.to_owned(), value.to_owned());
                }
                Some("blscfg") => self.bls = true,
                _ => {}
            }
        }
        match depth {
            0 => Ok(nodes),
            _ => Err(LoaderConfigError::NotUnderstood("a block that does not end")),
        }
    }
}

/// Reads the body of an entry.
fn entry(tokens: &mut &[Token], node: &mut Node) -> Result<(), LoaderConfigError> {
    while let Some(words) = command(tokens) {
        let Some((name, arguments)) = words.split_first() else { continue };
        let arguments = || arguments.iter().filter(|word| !word.starts_with('$')).cloned();
        match name.as_str() {
            "}" => return Ok(()),
            "linux" | "linux16" | "linuxefi" if node.kernel.is_none() => {
                node.kernel = Some(arguments().collect())
            }
            "initrd" | "initrd16" | "initrdefi" if node.initrds.is_empty() => {
                node.initrds.extend(arguments())
            }
            _ => {}
        }
    }
    Err(LoaderConfigError::NotUnderstood("a block that does not end"))
}

/// Passes over a block, whose `{` was the last word or is the next.
fn skip(tokens: &mut &[Token]) -> Result<(), LoaderConfigError> {
    while let Some(words) = command(tokens) {
        if words.first().is_some_and(|word| word == "}") {
            return Ok(());
        }
    }
    Err(LoaderConfigError::NotUnderstood("a block that does not end"))
}

/// The words of the next command. `{` ends one, and `}` is one of its own; `then`, `else` and `do` are none.
fn command(tokens: &mut &[Token]) -> Option<Vec<String>> {
    let mut words = Vec::new();
    while let Some((token, rest)) = tokens.split_first() {
        *tokens = rest;
        match token {
            Token::End if words.is_empty() => {}
            Token::End => return Some(words),
            Token::Word(word) if words.is_empty() && matches!(word.as_str(), "then" | "else" | "do") => {}
            Token::Word(word) => {
                words.push(word.clone());
                if word == "{" || (words.len() == 1 && word == "}") {
                    return Some(words);
                }
            }
        }
    }
    (!words.is_empty()).then_some(words)
}

/// Cuts the text into words (GRUB manual, 6.1 to 6.4). Variables that are not known stay as `$name` where they are a word of
/// their own, and vanish elsewhere.
fn tokens(text: &str, variables: &mut Variables) -> Result<Vec<Token>, LoaderConfigError> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    let mut word: Option<String> = None;
    let mut comment_may_begin = true;
    let end_word = |tokens: &mut Vec<Token>, word: &mut Option<String>| {
        if let Some(word) = word.take() {
            tokens.push(Token::Word(word));
        }
    };
    while let Some(c) = rest.next() {
        let fresh = std::mem::replace(&mut comment_may_begin, matches!(c, ' ' | '\t' | '\n' | '\r' | ';'));
        match c {
            '#' if fresh => while rest.next_if(|c| *c != '\n').is_some() {},
            ' ' | '\t' | '\r' => end_word(&mut tokens, &mut word),
            '\n' | ';' | '&' | '|' => {
                end_word(&mut tokens, &mut word);
                tokens.push(Token::End);
            }
            '\\' => match rest.next() {
                // A line that goes on.
                Some('\n') | None => {}
                Some(c) => word.get_or_insert_default().push(c),
            },
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err(LoaderConfigError::NotUnderstood("a quote that does not end")),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next() {
                        Some('"') => break,
                        Some('\\') => match rest.next() {
                            Some(c @ ('"' | '\\' | '$')) => word.push(c),
                            Some('\n') | None => {}
                            Some(c) => word.extend(['\\', c]),
                        },
                        Some('$') => {
                            let name = name(&mut rest);
                            word.push_str(variables.get(&name).map_or("", String::as_str));
                        }
                        Some(c) => word.push(c),
                        None => return Err(LoaderConfigError::NotUnderstood("a quote that does not end")),
                    }
                }
            }
            '$' => {
                let name = name(&mut rest);
                match (variables.get(&name), &mut word) {
                    (Some(value), _) => {
                        // Without quotes it is as many words as it has.
                        for (number, part) in value.split_whitespace().enumerate() {
                            if number > 0 {
                                end_word(&mut tokens, &mut word);
                            }
                            word.get_or_insert_default().push_str(part);
                        }
                    }
                    (None, Some(_)) => {}
                    (None, None) => word = Some(format!("${name}")),
                }
            }
            c => word.get_or_insert_default().push(c),
        }
        // What is set from here on; a condition may have been in the way, but a value is better than none.
        if matches!(c, '\n' | ';') {
            assign(&tokens, variables);
        }
    }
    end_word(&mut tokens, &mut word);
    tokens.push(Token::End);
    Ok(tokens)
}

/// Takes in the command that has just ended, if it sets a variable to a value of its own.
fn assign(tokens: &[Token], variables: &mut Variables) {
    let [.., Token::Word(set), Token::Word(assignment), Token::End] = tokens else { return };
    if set == "set"
        && let Some((name, value)) = assignment.split_once('=')
        && !value.contains('$')
    {
        variables.insert(name.to_owned(), value.to_owned());
    }
}

/// The name of a variable behind `$`: `name`, `{name}`, or one of the special characters.
fn name(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut name = String::new();
    if rest.next_if_eq(&'{').is_some() {
        while let Some(c) = rest.next_if(|c| !matches!(c, '}' | '\n')) {
            name.push(c);
        }
        rest.next_if_eq(&'}');
        return name;
    }
    while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    name
}
