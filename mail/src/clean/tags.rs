//! HTML as ammonia writes it: each tag closed, each value in double quotes, no comment, and `<` nowhere but where a tag
//! begins. What is otherwise is taken for text.

use std::borrow::Cow;

/// A piece of it.
pub(super) enum Piece<'a> {
    /// Still escaped.
    Text(&'a str),
    /// With its attributes, no longer escaped.
    Start(&'a str, Vec<(&'a str, Cow<'a, str>)>),
    End(&'a str),
}

/// One after the other.
pub(super) struct Pieces<'a>(&'a str);

impl<'a> Pieces<'a> {
    pub(super) fn of(html: &'a str) -> Self {
        Self(html)
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let html = self.0;
        if let Some((piece, rest)) = tag(html) {
            self.0 = rest;
            return Some(piece);
        }
        // What looks like a tag and is none is left out, its first sign at least.
        let text = html.strip_prefix('<').unwrap_or(html);
        if text.is_empty() {
            return None;
        }
        let (text, rest) = text.split_at(text.find('<').unwrap_or(text.len()));
        self.0 = rest;
        Some(Piece::Text(text))
    }
}

fn tag(html: &str) -> Option<(Piece<'_>, &str)> {
    let rest = html.strip_prefix('<')?;
    if let Some(rest) = rest.strip_prefix('/') {
        let (name, rest) = word(rest)?;
        return Some((Piece::End(name), rest.strip_prefix('>')?));
    }
    let (name, mut rest) = word(rest)?;
    let mut attributes = Vec::new();
    while let Some(attribute) = rest.strip_prefix(' ') {
        let (name, value) = attribute.split_once("=\"")?;
        let (value, after) = value.split_once('"')?;
        attributes.push((name, unescape(value)));
        rest = after;
    }
    Some((Piece::Start(name, attributes), rest.strip_prefix('>')?))
}

fn word(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric())?;
    Some(text.split_at(end)).filter(|(word, _)| !word.is_empty())
}

/// What the serialiser of HTML escapes, and nothing else.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    const SIGNS: [(&str, char); 5] =
        [("&amp;", '&'), ("&lt;", '<'), ("&gt;", '>'), ("&quot;", '"'), ("&nbsp;", '\u{a0}')];
    if !text.contains('&') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let sign = SIGNS.iter().find_map(|(written, sign)| rest.strip_prefix(written).map(|after| (*sign, after)));
        let (sign, after) = sign.unwrap_or(('&', &rest[1..]));
        out.push(sign);
        rest = after;
    }
    out.push_str(rest);
    out.into()
}

pub(super) fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{a0}' => out.push_str("&nbsp;"),
            _ => out.push(c),
        }
    }
}
