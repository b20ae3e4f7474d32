//! The attributes that may stay, each with the values that it may have.

use std::borrow::Cow;

use super::style;

/// Of an address. Those of senders who count their readers have some thousand.
const MAX_ADDRESS_BYTES: usize = 8 * 1024;

/// Of a picture that stands in the HTML itself.
const MAX_DATA_BYTES: usize = 512 * 1024;

/// Of words that are shown for a picture or beside the mouse.
const MAX_WORDS_BYTES: usize = 2 * 1024;

/// Columns, rows, points: of what a table or a picture is measured in.
const MAX_NUMBER: u32 = 4000;

/// Where the bytes of a picture are.
pub(super) enum Picture {
    /// In the message.
    Here(String),
    /// With somebody who wants to know that it is read.
    Remote(String),
}

/// An attribute as it may stay.
pub(super) fn kept<'a>(element: &str, attribute: &'a str, value: &str) -> Option<(&'a str, String)> {
    let value = match attribute {
        "href" if element == "a" => link(value)?,
        "style" => style::cleaned(value)?,
        "alt" | "title" => words(value)?,
        "align" | "valign" | "dir" | "role" | "type" => word(value)?,
        "nowrap" => String::new(),
        "lang" => Some(value).filter(|value| value.len() <= 35 && value.bytes().all(is_of_name))?.to_owned(),
        "bgcolor" | "color" => style::color(value)?,
        "face" => style::font_family(value)?,
        "border" | "cellpadding" | "cellspacing" | "colspan" | "rowspan" | "start" => number(value)?,
        "height" | "width" => length(value)?,
        "size" => Some(value).filter(|value| number(value.trim_start_matches(['+', '-'])).is_some())?.to_owned(),
        _ => return None,
    };
    Some((attribute, value))
}

/// Where a picture's bytes are, if they are anywhere. The attributes are those that the sender wrote.
pub(super) fn picture(
    attributes: &[(&str, Cow<'_, str>)],
    mut attachment: impl FnMut(&str) -> Option<String>,
) -> Option<Picture> {
    let value = |name: &str| attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_ref());
    let mut from = |value: &str| {
        let address = trimmed(value);
        if let Some(id) = after_scheme(&address, "cid:") {
            let decoded = percent_encoding::percent_decode_str(id).decode_utf8_lossy();
            return attachment(id).or_else(|| attachment(&decoded)).map(Picture::Here);
        }
        if after_scheme(&address, "data:").is_some() {
            return data(&address).map(Picture::Here);
        }
        remote(&address).map(Picture::Remote)
    };
    // Of pictures of several sizes any will do.
    let of_set = |set: &str| set.trim_start().split([' ', '\n', '\t', ',']).next().unwrap_or_default().to_owned();
    let kept_back = |value: &str| remote(&trimmed(value)).map(Picture::Remote);
    None.or_else(|| value("src").and_then(&mut from))
        .or_else(|| value("data-remote-src").and_then(kept_back))
        .or_else(|| value("srcset").map(of_set).and_then(|first| from(&first)))
}

/// Without what a browser does not see in an address.
fn trimmed(address: &str) -> String {
    let is_outside = |c: char| c.is_control() || c.is_whitespace();
    let address = address.trim_matches(is_outside);
    address.chars().filter(|c| !c.is_control()).collect()
}

fn after_scheme<'a>(address: &'a str, scheme: &str) -> Option<&'a str> {
    let (begin, rest) = address.split_at_checked(scheme.len())?;
    begin.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// An address on the network; without a scheme it is as safe as can be.
fn remote(address: &str) -> Option<String> {
    let (scheme, rest) = match address.strip_prefix("//") {
        Some(rest) => ("https://", rest),
        None => match (after_scheme(address, "https://"), after_scheme(address, "http://")) {
            (Some(rest), _) => ("https://", rest),
            (None, Some(rest)) => ("http://", rest),
            (None, None) => return None,
        },
    };
    let is_host = rest.starts_with(|c: char| c.is_alphanumeric() || c == '[' || c == '_');
    (is_host && rest.len() <= MAX_ADDRESS_BYTES).then(|| scheme.to_owned() + &written(rest))
}

fn link(value: &str) -> Option<String> {
    let address = trimmed(value);
    for scheme in ["mailto:", "tel:"] {
        if let Some(rest) = after_scheme(&address, scheme) {
            return (rest.len() <= MAX_ADDRESS_BYTES).then(|| scheme.to_owned() + &written(rest));
        }
    }
    remote(&address)
}

/// Spaces and quotes are no part of an address, and who takes one out of its quotes is not to be led on.
fn written(rest: &str) -> String {
    let mut out = String::with_capacity(rest.len());
    for c in rest.chars() {
        match c {
            ' ' => out.push_str("%20"),
            '"' => out.push_str("%22"),
            '<' => out.push_str("%3C"),
            '>' => out.push_str("%3E"),
            '`' => out.push_str("%60"),
            '\\' => out.push_str("%5C"),
            _ => out.push(c),
        }
    }
    out
}

/// A picture of a kind that can hold nothing but one.
fn data(address: &str) -> Option<String> {
    let rest = after_scheme(address, "data:").filter(|_| address.len() <= MAX_DATA_BYTES)?;
    let (kind, bytes) = rest.split_once(',')?;
    let kind = kind.to_ascii_lowercase().replace(' ', "");
    let kind = kind.strip_suffix(";base64")?;
    let is_picture =
        matches!(kind, "image/png" | "image/jpeg" | "image/jpg" | "image/gif" | "image/webp" | "image/bmp");
    let bytes: String = bytes.chars().filter(|c| *c != ' ').collect();
    let is_base64 = bytes.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
    (is_picture && is_base64).then(|| format!("data:{kind};base64,{bytes}"))
}

fn words(value: &str) -> Option<String> {
    let value: String = value.chars().filter(|c| !c.is_control() || *c == '\n').collect();
    Some(value).filter(|value| value.len() <= MAX_WORDS_BYTES)
}

fn word(value: &str) -> Option<String> {
    let value = value.trim();
    (!value.is_empty() && value.len() <= 20 && value.bytes().all(is_of_name)).then(|| value.to_owned())
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

fn number(value: &str) -> Option<String> {
    let value = value.trim();
    let value = value.strip_suffix("px").unwrap_or(value);
    let number: u32 = Some(value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?;
    (number <= MAX_NUMBER).then(|| number.to_string())
}

fn length(value: &str) -> Option<String> {
    match value.trim().strip_suffix('%') {
        Some(share) => number(share).filter(|share| share.len() <= 2 || share == "100").map(|share| share + "%"),
        None => number(value),
    }
}
