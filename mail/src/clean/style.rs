//! What a `style` attribute may say: properties that change how something looks in its place, with values that name
//! nothing outside. No value that comes through holds a backslash, a comment or a function but those of colours, so it
//! is read by every browser as it is read here.

/// Of one attribute.
const MAX_BYTES: usize = 8 * 1024;

/// Points, and what is about as long.
const MAX_PIXELS: f64 = 4000.0;

/// Letters' heights, inches and the like.
const MAX_LETTERS: f64 = 100.0;

/// Of letters themselves.
const MAX_FONT_PIXELS: f64 = 200.0;

/// What may be said of an element's place: nothing that takes it out of its box or off the page.
const DISPLAYS: [&str; 16] = [
    "block",
    "inline",
    "inline-block",
    "inline-table",
    "list-item",
    "none",
    "table",
    "table-caption",
    "table-cell",
    "table-column",
    "table-column-group",
    "table-footer-group",
    "table-header-group",
    "table-row",
    "table-row-group",
    "flow-root",
];

/// Which numbers a property takes.
#[derive(Clone, Copy, PartialEq)]
enum Numbers {
    /// None.
    None,
    /// Sizes of boxes: none below nothing, no share of more than all.
    Box,
    /// Sizes of letters and lines.
    Font,
    /// Distances of letters, which may be less than nothing.
    Spacing,
}

/// What may stand in the value of a property.
struct Rule {
    numbers: Numbers,
    colors: bool,
    strings: bool,
}

fn rule(property: &str) -> Option<Rule> {
    let (numbers, colors, strings) = match property {
        "color" | "background" | "background-color" | "text-decoration-color" => (Numbers::Box, true, false),
        "font-family" => (Numbers::None, false, true),
        "font" => (Numbers::Font, false, true),
        "font-size" | "line-height" => (Numbers::Font, false, false),
        "letter-spacing" | "word-spacing" => (Numbers::Spacing, false, false),
        "font-weight" | "border-spacing" | "text-indent" | "width" | "max-width" | "min-width" | "height"
        | "max-height" | "min-height" | "opacity" | "vertical-align" | "margin" | "margin-top" | "margin-right"
        | "margin-bottom" | "margin-left" | "padding" | "padding-top" | "padding-right" | "padding-bottom"
        | "padding-left" => (Numbers::Box, false, false),
        "font-style"
        | "font-variant"
        | "text-align"
        | "text-decoration-line"
        | "text-decoration-style"
        | "text-transform"
        | "white-space"
        | "word-break"
        | "word-wrap"
        | "overflow-wrap"
        | "direction"
        | "display"
        | "float"
        | "clear"
        | "table-layout"
        | "caption-side"
        | "empty-cells"
        | "list-style"
        | "list-style-type"
        | "list-style-position"
        | "border-collapse"
        | "border-style"
        | "visibility" => (Numbers::None, false, false),
        "overflow" => (Numbers::None, false, false),
        "text-decoration" => (Numbers::None, true, false),
        "border-radius" => (Numbers::Box, false, false),
        _ => {
            let side = property.strip_prefix("border")?;
            let side = ["-top", "-right", "-bottom", "-left"].iter().find_map(|s| side.strip_prefix(s)).unwrap_or(side);
            match side {
                "" | "-color" | "-width" | "-style" => (Numbers::Box, true, false),
                "-left-radius" | "-right-radius" => (Numbers::Box, false, false),
                _ => return None,
            }
        }
    };
    Some(Rule { numbers, colors, strings })
}

/// The declarations that may stay; `None` where none does.
pub(super) fn cleaned(style: &str) -> Option<String> {
    if style.len() > MAX_BYTES {
        return None;
    }
    let mut out = String::new();
    // What stands in quotes or parentheses is cut in two here, and then neither is a declaration.
    for declaration in style.split(';') {
        let Some((property, value)) = declaration.split_once(':') else { continue };
        let property = property.trim().to_ascii_lowercase();
        // Against a style sheet of the page around it.
        let value = value.trim();
        let value = value.rsplit_once('!').map_or(value, |(before, _)| before.trim_end());
        if rule(&property).is_some_and(|rule| is_allowed(&property, value, &rule)) {
            if !out.is_empty() {
                out.push(';');
            }
            out.push_str(&property);
            out.push(':');
            out.push_str(value);
        }
    }
    (!out.is_empty()).then_some(out)
}

/// A colour as an attribute has it, with or without its sign.
pub(super) fn color(value: &str) -> Option<String> {
    let rule = Rule { numbers: Numbers::Box, colors: true, strings: false };
    let value = value.trim();
    let is_hex = (3..=8).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_hex || is_allowed("color", value, &rule)).then(|| value.to_owned())
}

/// Names of fonts.
pub(super) fn font_family(value: &str) -> Option<String> {
    let rule = Rule { numbers: Numbers::None, colors: false, strings: true };
    (value.len() <= MAX_BYTES && is_allowed("font-family", value, &rule)).then(|| value.to_owned())
}

/// Whether each word of a value may stand there.
fn is_allowed(property: &str, value: &str, rule: &Rule) -> bool {
    let mut rest = value;
    let mut words = 0;
    while let Some(first) = rest.chars().next() {
        words += 1;
        let after = match first {
            ' ' | '\t' | '\n' | ',' | '/' => Some(&rest[1..]),
            '#' if rule.colors => hex(&rest[1..]),
            '"' | '\'' if rule.strings => string(&rest[1..], first),
            '0'..='9' | '.' | '+' | '-' if number_end(rest) > 0 => number(property, rest, rule.numbers),
            _ => word(property, rest, rule),
        };
        match after {
            Some(after) => rest = after,
            None => return false,
        }
    }
    words > 0
}

fn hex(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
    (3..=8).contains(&end).then(|| &text[end..])
}

/// The name of a font.
fn string(text: &str, quote: char) -> Option<&str> {
    let (name, after) = text.split_once(quote)?;
    name.chars().all(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.')).then_some(after)
}

/// How long the number is that stands here.
fn number_end(text: &str) -> usize {
    let sign = text.len() - text.trim_start_matches(['+', '-']).len();
    let end = text[sign..].find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len() - sign);
    if sign <= 1 && text[sign..sign + end].bytes().any(|byte| byte.is_ascii_digit()) { sign + end } else { 0 }
}

fn number<'a>(property: &str, text: &'a str, numbers: Numbers) -> Option<&'a str> {
    let (number, rest) = text.split_at(number_end(text));
    let end = rest.find(|c: char| !c.is_ascii_alphabetic() && c != '%').unwrap_or(rest.len());
    let (unit, after) = rest.split_at(end);
    let number: f64 = number.parse().ok()?;
    let is_font = numbers == Numbers::Font && property != "line-height";
    let most = match unit {
        "" if property == "opacity" => 1.0,
        "" | "px" | "pt" if !is_font || unit.is_empty() => MAX_PIXELS,
        "px" | "pt" => MAX_FONT_PIXELS,
        "em" | "rem" | "ex" | "ch" if is_font => MAX_LETTERS / 10.0,
        "em" | "rem" | "ex" | "ch" => MAX_LETTERS,
        "cm" | "mm" | "in" | "pc" if numbers == Numbers::Box => MAX_LETTERS,
        "%" if numbers == Numbers::Font => 5.0 * MAX_LETTERS,
        "%" if numbers == Numbers::Box => MAX_LETTERS,
        _ => return None,
    };
    let is_within = match numbers {
        Numbers::None => false,
        Numbers::Spacing => number.abs() <= MAX_LETTERS,
        // Minus nothing would be nothing, and who writes it?
        Numbers::Box | Numbers::Font => number.is_sign_positive() && number <= most,
    };
    is_within.then_some(after)
}

fn word<'a>(property: &str, text: &'a str, rule: &Rule) -> Option<&'a str> {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || rule.strings && c.is_alphanumeric();
    let end = text.find(|c: char| !is_of_word(c)).unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    let is_name = word.trim_start_matches('-').starts_with(char::is_alphabetic) && !word.starts_with("--");
    if !is_name || property == "display" && !DISPLAYS.iter().any(|known| known.eq_ignore_ascii_case(word)) {
        return None;
    }
    let Some(arguments) = after.strip_prefix('(') else { return Some(after) };
    let is_color = ["rgb", "rgba", "hsl", "hsla"].iter().any(|known| known.eq_ignore_ascii_case(word));
    let (arguments, after) = arguments.split_once(')').filter(|_| is_color && rule.colors)?;
    arguments.bytes().all(|byte| byte.is_ascii_digit() || b" ,.%/".contains(&byte)).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_the_looks_in_its_place_stays() {
        for style in [
            "color:red",
            "color:#ff0000",
            "color:rgba(1, 2, 3, 0.5)",
            "font-family:Arial, 'Helvetica Neue', sans-serif",
            "font-family:\"\u{5fae}\u{8f6f}\u{96c5}\u{9ed1}\"",
            "font:bold 14px/20px Arial",
            "margin:0 auto",
            "padding:10px 5% 1.5em",
            "border:1px solid #ccc",
            "border-top-left-radius:4px",
            "border-left:3px solid rgb(1,2,3)",
            "width:600px;max-width:100%",
            "letter-spacing:-0.5px",
            "mso-x:y;line-height:150%",
            "display:inline-block",
            "white-space:pre-wrap",
        ] {
            let expected = style.trim_start_matches("mso-x:y;");
            assert_eq!(cleaned(style).as_deref(), Some(expected), "{style}");
        }
        assert_eq!(cleaned(" COLOR : Red !important ; ; x ").as_deref(), Some("color:Red"));
    }

    #[test]
    fn what_leaves_its_box_or_asks_somebody_goes() {
        for style in [
            "",
            "color",
            "color:",
            "position:fixed",
            "position:absolute",
            "z-index:1",
            "top:0",
            "transform:scale(9)",
            "margin:-10px",
            "margin-left:-1px",
            "text-indent:-9999px",
            "width:100000px",
            "width:1e9px",
            "width:200%",
            "width:100vw",
            "width:calc(100% + 9px)",
            "font-size:900px",
            "background:url(//example.com/a)",
            "background:u\\72l(//example.com/a)",
            "background:ur/**/l(//example.com/a)",
            "background:image-set('a' 1x)",
            "background-image:linear-gradient(red, blue)",
            "list-style:url(a)",
            "font-family:url(a)",
            "font-family:'a",
            "font-family:'a}b'",
            "color:rgb(1,2,3",
            "color:expression(alert(1))",
            "width:expression(alert(1))",
            "color:var(--x)",
            "--x:red",
            "behavior:url(a)",
            "-moz-binding:url(a)",
            "content:'a'",
            "cursor:url(a)",
            "filter:blur(1px)",
            "animation:a 1s",
            "display:flex",
            "display:contents",
            "color:red}body{color:blue",
            "color:@import 'a'",
            "color:<",
        ] {
            assert_eq!(cleaned(style), None, "{style}");
        }
        assert_eq!(cleaned(&"color:red;".repeat(1000)), None);
    }
}
