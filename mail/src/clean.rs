//! HTML of a message, made harmless.
//!
//! Three steps, of which each has its own list of what may stay. What is too deep or too much for a browser is cut off
//! (`bounds`); ammonia, a maintained library, parses the rest as a browser does and drops elements and attributes; and
//! what it wrote is read once more, tag by tag, where every value of an attribute is looked at (`attribute`). What is not known is dropped.
//!
//! Dropped are `style` elements, classes and ids with them: rules for a whole page cannot be kept to a message by looking at each alone.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use ammonia::{Builder, UrlRelative};

mod attribute;
mod bounds;
mod style;
mod tags;

use attribute::Picture;
use tags::{Piece, Pieces, escape};

/// Of what is cleaned, and of what comes out.
pub const MAX_HTML_BYTES: usize = 1024 * 1024;

/// How often HTML that grows when it is cleaned is cut and cleaned again. Each time it is half as long at most, and no tag
/// grows by more than sixty times.
const MAX_TRIES: usize = 8;

/// Elements that may stay. The others are taken away and what is in them stays, but for [`WITH_CONTENT`].
const ELEMENTS: [&str; 73] = [
    "a",
    "abbr",
    "acronym",
    "address",
    "article",
    "aside",
    "b",
    "bdi",
    "bdo",
    "big",
    "blockquote",
    "br",
    "caption",
    "center",
    "cite",
    "code",
    "col",
    "colgroup",
    "dd",
    "del",
    "dfn",
    "dir",
    "div",
    "dl",
    "dt",
    "em",
    "figcaption",
    "figure",
    "font",
    "footer",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "i",
    "img",
    "ins",
    "kbd",
    "li",
    "main",
    "mark",
    "nav",
    "ol",
    "p",
    "pre",
    "q",
    "rp",
    "rt",
    "ruby",
    "s",
    "samp",
    "section",
    "small",
    "span",
    "strike",
    "strong",
    "sub",
    "sup",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "tr",
    "tt",
    "u",
    "ul",
    "wbr",
];

/// Elements that go with all that is in them.
const WITH_CONTENT: [&str; 14] = [
    "canvas", "iframe", "math", "noembed", "noframes", "noscript", "script", "select", "style", "svg", "template",
    "title", "textarea", "xmp",
];

/// Attributes that ammonia leaves for [`attribute`] to look at.
const ATTRIBUTES: [&str; 22] = [
    "align",
    "alt",
    "bgcolor",
    "border",
    "cellpadding",
    "cellspacing",
    "color",
    "colspan",
    "dir",
    "face",
    "height",
    "lang",
    "nowrap",
    "role",
    "rowspan",
    "size",
    "start",
    "style",
    "title",
    "type",
    "valign",
    "width",
];

/// HTML that does nothing by itself but to be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// At most [`MAX_HTML_BYTES`].
    pub html: String,
    /// Whether pictures were kept back; their addresses are in `data-remote-src`.
    pub has_remote_content: bool,
    /// Whether there is more than can be shown.
    pub is_cut: bool,
}

/// Cleans. `picture`: under which path the attachment with this id can be had, if there is one.
pub fn clean(html: &str, picture: impl FnMut(&str) -> Option<String>) -> Cleaned {
    clean_within(html, MAX_HTML_BYTES, picture)
}

/// Cleans, and returns no more than that.
pub(crate) fn clean_within(html: &str, max_bytes: usize, mut picture: impl FnMut(&str) -> Option<String>) -> Cleaned {
    // Whatever the libraries fail on is not shown, and the rest of the message is.
    let cleaned = catch_unwind(AssertUnwindSafe(|| {
        let mut begin = bounds::within(&html[..html.floor_char_boundary(MAX_HTML_BYTES)]);
        for _ in 0..MAX_TRIES {
            let mut cleaned = rewrite(&BUILDER.clean(begin).to_string(), &mut picture);
            if cleaned.html.len() <= max_bytes {
                cleaned.is_cut = begin.len() < html.len();
                return cleaned;
            }
            let share = begin.len() as u128 * max_bytes as u128 / cleaned.html.len() as u128;
            begin = &begin[..begin.floor_char_boundary((share as usize).min(begin.len() / 2))];
        }
        Cleaned { is_cut: true, ..Cleaned::default() }
    }));
    cleaned.unwrap_or(Cleaned { is_cut: true, ..Cleaned::default() })
}

static BUILDER: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let mut builder = Builder::empty();
    builder
        .tags(ELEMENTS.into())
        .clean_content_tags(WITH_CONTENT.into())
        .generic_attributes(ATTRIBUTES.into())
        .tag_attributes(HashMap::from([
            ("a", HashSet::from(["href"])),
            ("img", HashSet::from(["src", "srcset", "data-remote-src"])),
        ]))
        .url_schemes(["http", "https", "mailto", "tel", "cid", "data"].into())
        // Written without a scheme are addresses that begin with `//`.
        .url_relative(UrlRelative::PassThrough)
        .link_rel(None)
        .strip_comments(true);
    builder
});

/// Writes what ammonia wrote anew, with those attributes that are known to be harmless.
fn rewrite(html: &str, mut picture: impl FnMut(&str) -> Option<String>) -> Cleaned {
    let mut cleaned = Cleaned { html: String::with_capacity(html.len()), ..Cleaned::default() };
    for piece in Pieces::of(html) {
        let out = &mut cleaned.html;
        match piece {
            Piece::Text(text) => out.extend(text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))),
            Piece::End(name) if ELEMENTS.contains(&name) => {
                out.push_str("</");
                out.push_str(name);
                out.push('>');
            }
            Piece::Start(name, attributes) if ELEMENTS.contains(&name) => {
                let mut kept: Vec<(&str, String)> = Vec::new();
                for (attribute, value) in &attributes {
                    if let Some((attribute, value)) = attribute::kept(name, attribute, value) {
                        kept.push((attribute, value));
                    }
                }
                if name == "img" {
                    match attribute::picture(&attributes, &mut picture) {
                        Some(Picture::Here(src)) => kept.push(("src", src)),
                        Some(Picture::Remote(src)) => {
                            kept.push(("data-remote-src", src));
                            cleaned.has_remote_content = true;
                        }
                        // Its words stand for it.
                        None if kept.iter().any(|(name, value)| *name == "alt" && !value.is_empty()) => {}
                        None => continue,
                    }
                } else if kept.iter().any(|(name, _)| *name == "href") {
                    kept.push(("target", "_blank".to_owned()));
                    kept.push(("rel", "noopener noreferrer nofollow".to_owned()));
                }
                out.push('<');
                out.push_str(name);
                for (attribute, value) in kept {
                    out.push(' ');
                    out.push_str(attribute);
                    out.push_str("=\"");
                    escape(out, &value);
                    out.push('"');
                }
                out.push('>');
            }
            Piece::Start(..) | Piece::End(_) => {}
        }
    }
    cleaned
}

/// Adds text to HTML, as far as there is room. Whether all of it fitted in.
pub(crate) fn push_text(html: &mut String, text: &str, max_bytes: usize) -> bool {
    const START: &str = "<div style=\"white-space:pre-wrap\">";
    const END: &str = "</div>";
    let room = max_bytes.saturating_sub(html.len() + START.len() + END.len());
    let mut written = String::new();
    let mut is_whole = true;
    let mut sign = [0; 4];
    for c in text.chars() {
        let before = written.len();
        escape(&mut written, c.encode_utf8(&mut sign));
        if written.len() > room {
            written.truncate(before);
            is_whole = false;
            break;
        }
    }
    if !written.is_empty() {
        html.push_str(START);
        html.push_str(&written);
        html.push_str(END);
    }
    is_whole
}

/// What cleaned HTML says, for who sees no HTML.
pub(crate) fn to_text(html: &str) -> String {
    let mut text = String::new();
    // Ends of lines that are to come before the next word; a space, likewise.
    let (mut lines, mut is_space, mut pre) = (0, false, 0_usize);
    for piece in Pieces::of(html) {
        match piece {
            Piece::Text(written) => {
                for c in tags::unescape(written).chars() {
                    if c.is_whitespace() && c != '\u{a0}' && pre == 0 {
                        is_space = true;
                        continue;
                    }
                    if !text.is_empty() {
                        (0..lines).for_each(|_| text.push('\n'));
                        if is_space && lines == 0 {
                            text.push(' ');
                        }
                    }
                    (lines, is_space) = (0, false);
                    text.push(c);
                }
            }
            Piece::Start("br", _) => lines += 1,
            Piece::Start(name, _) | Piece::End(name) => {
                if name == "pre" {
                    pre = if matches!(piece, Piece::Start(..)) { pre + 1 } else { pre.saturating_sub(1) };
                }
                match name {
                    "p" | "blockquote" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "ul" | "ol" | "dl" | "pre"
                    | "hr" => lines = lines.max(2),
                    "address" | "article" | "aside" | "caption" | "center" | "dd" | "dir" | "div" | "dt"
                    | "figcaption" | "figure" | "footer" | "header" | "li" | "main" | "nav" | "section" | "table"
                    | "tr" => lines = lines.max(1),
                    "td" | "th" => is_space = true,
                    _ => {}
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests;
