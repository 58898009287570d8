//! Replaces known texts wherever they stand in others.

/// A text to look for, and what stands for it.
#[derive(Debug, Clone)]
struct Literal {
    /// In lower case.
    text: String,
    stand_in: String,
    /// Only as a word of its own.
    whole: bool,
}

/// Texts that are looked for, longest first, in any case.
#[derive(Debug, Default)]
pub(super) struct Literals(Vec<Literal>);

/// From this length on a text with a digit in it is replaced inside words as well.
const TELLING: usize = 6;

impl Literals {
    /// A text that is replaced by another.
    pub(super) fn add(&mut self, text: &str, stand_in: &str) {
        let text = text.to_ascii_lowercase();
        if text.len() < 3 || self.0.iter().any(|literal| literal.text == text) {
            return;
        }
        let whole = text.len() < TELLING || !text.bytes().any(|b| b.is_ascii_digit());
        self.0.push(Literal { text, stand_in: stand_in.to_owned(), whole });
    }

    /// Ready to be applied.
    pub(super) fn sort(&mut self) {
        self.0.sort_by(|one, other| {
            other.text.len().cmp(&one.text.len()).then_with(|| one.text.cmp(&other.text))
        });
    }

    /// The text with stand-ins.
    pub(super) fn apply(&self, text: &str) -> String {
        let lower = text.to_ascii_lowercase();
        if !self.0.iter().any(|literal| lower.contains(&literal.text)) {
            return text.to_owned();
        }
        let bytes = lower.as_bytes();
        let is_word = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphanumeric);
        let mut done = String::with_capacity(text.len());
        let mut at = 0;
        while let Some(rest) = lower.get(at..).filter(|rest| !rest.is_empty()) {
            let found = self.0.iter().find(|literal| {
                let stands_alone = (at == 0 || !is_word(at - 1)) && !is_word(at + literal.text.len());
                rest.starts_with(&literal.text) && (!literal.whole || stands_alone)
            });
            let length = match found {
                Some(literal) => {
                    done.push_str(&literal.stand_in);
                    literal.text.len()
                }
                None => {
                    let length = rest.chars().next().map_or(1, char::len_utf8);
                    // Lower case of ASCII is as long as what it is of.
                    done.push_str(text.get(at..at + length).unwrap_or_default());
                    length
                }
            };
            at += length;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_texts_are_found_in_others() {
        let mut literals = Literals::default();
        for (text, stand_in) in
            [("F54P1G3", "SERIAL1"), ("admin", "user1"), ("F54P1G3.lab", "host1"), ("x", "y")]
        {
            literals.add(text, stand_in);
        }
        literals.sort();
        for (text, expected) in [
            ("idrac-f54p1g3", "idrac-SERIAL1"),
            ("idracF54P1G3x", "idracSERIAL1x"),
            ("F54P1G3.lab é", "host1 é"),
            ("Administrator admin", "Administrator user1"),
            ("x", "x"),
        ] {
            assert_eq!(literals.apply(text), expected);
        }
    }
}
