//! Looking for a text in messages, in any letter case and script.
//!
//! The database searches with a regular expression that is made here: how letters fold is known to this code, whatever the
//! locale of the database knows, and its engine reads each text once, however it is written. What a client sends is text:
//! each of its characters stands for itself.

use std::borrow::Cow;

use icu_casemap::{CaseMapCloser, CaseMapper, ClosureSink};
use icu_normalizer::ComposingNormalizer;
use serde_json::Value;

use crate::validation::Field;

/// What is looked for: a part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchText(String);

/// The most characters of a text.
pub const MAX_CHARACTERS: usize = 200;

impl Field for SearchText {
    const RULE: &'static str = "must be 1 to 200 characters, without control characters";

    fn read(value: Value) -> Option<Self> {
        let text = value.as_str()?;
        let is_good = (1..=MAX_CHARACTERS).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        is_good.then(|| Self(text.to_owned()))
    }
}

/// As many characters the engine looks for in memory that it need not ask for. It takes ten times as long for two hundred,
/// so a longer text is looked for where a part of it is.
const QUICK: usize = 12;

/// What mail is full of, the most frequent first; all else is rarer. Where a text begins to match the engine takes its time,
/// so a part that begins with a rare pair is looked for first.
const FREQUENT: &str = "eatoinrs lcdumphg.@fybwv0,-_k";

/// A character of a text, and the expression for it, or for those that are one in another case.
type Part = (char, String);

/// A text as it is stored to be searched, and is looked for: letters and their marks in one (Unicode's form NFC), for some
/// systems write them apart.
pub fn composed(text: &str) -> Cow<'_, str> {
    // Most have no letter beyond those of Latin scripts: the first mark is U+0300, which begins with this byte. The largest is
    // found many bytes at a time.
    if text.bytes().fold(0, u8::max) < 0xCC {
        return text.into();
    }
    ComposingNormalizer::new_nfc().normalize(text)
}

impl SearchText {
    /// Expressions that all match a text which it is a part of, the quick one first.
    pub fn in_text(&self) -> Vec<String> {
        let parts = self.parts(literal);
        quick_first(&parts, None)
    }

    /// Expressions that all match where it is a part of a name or an address in a list of correspondents as it is stored:
    /// [`crate::message::Correspondent::read_list`]. Of several lists, one after the other may be searched at once.
    pub fn in_names(&self) -> Vec<String> {
        let parts = self.parts(|letter, expression| {
            if matches!(letter, '"' | '\\') {
                literal('\\', expression);
            }
            literal(letter, expression);
        });
        // What could be JSON's own counts within its strings alone; all else is nowhere else.
        let is_json = self.0.contains(['"', '\\', ',', '[', ']']) || "null".contains(&self.0.to_lowercase());
        let character = r#"(?:[^"\\]|\\.)*"#;
        let within = is_json.then(|| format!(r#"^(?:[^"]|"{character}")*"{character}"#));
        quick_first(&parts, within.as_deref())
    }

    fn parts(&self, write: impl Fn(char, &mut String)) -> Vec<Part> {
        // To Turks İ and ı are letters of their own, to all others they are an i: found is what either may mean.
        let text = composed(&self.0).replace(['İ', 'ı'], "i");
        let folded: Vec<char> = CaseMapper::new().fold_string(&text).chars().collect();
        let closer = CaseMapCloser::new();
        let mut parts = Vec::with_capacity(folded.len());
        let mut rest = folded.as_slice();
        while let [first, after @ ..] = rest {
            let mut part = String::new();
            // As ß is SS.
            let as_one = [3, 2].into_iter().find_map(|length| {
                let letters = rest.get(..length)?;
                let mut single = Letters::default();
                closer.add_string_case_closure_to(&letters.iter().collect::<String>(), &mut single);
                (!single.0.is_empty()).then_some((letters, single))
            });
            match as_one {
                Some((letters, single)) => {
                    part.push_str("(?:");
                    letters.iter().for_each(|letter| one(*letter, &write, &mut part));
                    part.push('|');
                    single.write(&mut part);
                    part.push(')');
                    rest = rest.get(letters.len()..).unwrap_or_default();
                }
                None => {
                    one(*first, &write, &mut part);
                    rest = after;
                }
            }
            parts.push((*first, part));
        }
        parts
    }
}

/// The expression of these parts, after `within`; before it one that is quick and matches wherever that does.
fn quick_first(parts: &[Part], within: Option<&str>) -> Vec<String> {
    // Where the first of the rarest pairs is.
    let pairs = parts.windows(2).map(|pair| pair.iter().map(|(letter, _)| frequency(*letter)).sum::<usize>());
    let start = pairs.enumerate().min_by_key(|(_, frequency)| *frequency).map_or(0, |(at, _)| at);
    let write = |parts: &[Part]| parts.iter().map(|(_, expression)| expression.as_str()).collect::<String>();
    let quick: Vec<_> = parts.iter().skip(start).take(QUICK).cloned().collect();
    let mut expressions = vec![write(&quick)];
    if quick.len() < parts.len() || within.is_some() {
        expressions.push(within.unwrap_or_default().to_owned() + &write(parts));
    }
    expressions
}

/// Less for what is rarer.
fn frequency(letter: char) -> usize {
    let place = FREQUENT.find(if letter.is_ascii_digit() { '0' } else { letter });
    place.map_or(0, |place| FREQUENT.len() - place)
}

/// A letter in each of its cases; what has none as it is written.
fn one(letter: char, write: impl Fn(char, &mut String), expression: &mut String) {
    let mut letters = Letters(vec![letter]);
    if letter == 'i' {
        letters.0.extend(['İ', 'ı']);
    }
    CaseMapCloser::new().add_case_closure_to(letter, &mut letters);
    if letters.0.len() == 1 { write(letter, expression) } else { letters.write(expression) }
}

/// Appends what matches this character alone. Before what is neither letter nor digit a backslash takes its meaning away.
fn literal(character: char, expression: &mut String) {
    if character.is_ascii_punctuation() {
        expression.push('\\');
    }
    expression.push(character);
}

/// Letters of which any will do; none has a meaning in an expression.
#[derive(Default)]
struct Letters(Vec<char>);

impl Letters {
    fn write(&self, expression: &mut String) {
        let mut letters = self.0.clone();
        letters.sort_unstable();
        expression.push('[');
        expression.extend(letters);
        expression.push(']');
    }
}

impl ClosureSink for Letters {
    fn add_char(&mut self, letter: char) {
        if !self.0.contains(&letter) {
            self.0.push(letter);
        }
    }

    // Several letters are looked for before.
    fn add_string(&mut self, _: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> SearchText {
        SearchText::read(text.into()).unwrap()
    }

    #[test]
    fn no_letter_below_the_first_mark_is_written_in_another_way() {
        let letters: Vec<String> = ('\0'..'\u{300}').map(String::from).collect();
        let pairs = letters.iter().flat_map(|first| letters.iter().map(move |second| format!("{first}{second}")));
        for text in pairs {
            assert!(text.bytes().all(|byte| byte < 0xCC));
            assert_eq!(ComposingNormalizer::new_nfc().normalize(&text), text);
        }
        assert_eq!("\u{300}".as_bytes()[0], 0xCC);
        assert_eq!(composed("e\u{301} \u{ac}"), "\u{e9} \u{ac}");
    }

    #[test]
    fn each_character_stands_for_itself_in_each_of_its_cases() {
        for (given, expression) in [
            ("7", "7"),
            ("e", "[Ee]"),
            ("É", "[Éé]"),
            ("%_'\"\\", r#"\%\_\'\"\\"#),
            (".*[a", r"\.\*\[[Aa]"),
            ("日本", "日本"),
            ("Ω", "[\u{3a9}\u{3c9}\u{2126}]"),
            ("I", "[Iiİı]"),
            ("ı", "[Iiİı]"),
            ("ς", "[Σςσ]"),
        ] {
            assert_eq!(text(given).in_text().last().unwrap(), expression, "{given}");
        }
        // One and two letters, whichever was typed; Unicode gets more of them.
        for given in ["ß", "SS"] {
            assert!(text(given).in_text()[0].starts_with("(?:[Ssſ][Ssſ]|[ßẞ"), "{given}");
        }
        assert_eq!(text("e\u{301}").in_text(), ["[Éé]"], "composed");
        assert_eq!(text("jo").in_names(), ["[Jj][Oo]"]);
        // What begins with the rarest pair comes first.
        assert_eq!(text("example zz").in_text(), ["[Zz][Zz]", "[Ee][Xx][Aa][Mm][Pp][Ll][Ee] [Zz][Zz]"]);
        assert_eq!(text("Jan Maxx").in_text()[0], "[Xx][Xx]");
        let long = "0123456789012345";
        assert_eq!(text(long).in_names(), [&long[..12], long]);
        let within = r#"^(?:[^"]|"(?:[^"\\]|\\.)*")*"(?:[^"\\]|\\.)*\\\""#;
        assert_eq!(text("\"").in_names(), [r#"\\\""#, within]);
        for own in ["NUL", "l", ",", "a]", "\\"] {
            assert!(text(own).in_names()[1].starts_with('^'), "{own}");
        }
    }

    #[test]
    fn a_text_has_bounds() {
        let read = |text: &str| SearchText::read(text.into());
        assert!(read(&"ß".repeat(200)).is_some() && read(" ").is_some());
        for bad in ["", &"a".repeat(201), "a\0", "a\nb", "\u{85}"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn no_letter_with_cases_has_a_meaning_in_an_expression() {
        for letter in (0..=0x1_ffff).filter_map(char::from_u32).filter(|letter| !letter.is_control()) {
            let expression = text(&letter.to_string()).in_text().concat();
            let inner = expression.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let is_plain = inner.is_some_and(|inner| !inner.contains(['[', ']', '^', '-', '\\']));
            let stands_alone = expression.trim_start_matches('\\').chars().count() <= 1;
            assert!(
                is_plain || stands_alone || expression.contains("(?:") || !letter.is_ascii(),
                "{letter}: {expression}"
            );
        }
    }
}
