//! Text whose lines flow (RFC 3676): lines that end with a space go on in the next.

/// Puts such lines together. `keeps_space`: whether the space at the end belongs to the text.
pub(super) fn joined(text: &str, keeps_space: bool) -> String {
    let mut out = String::with_capacity(text.len());
    // How deep what the last line goes on in is quoted.
    let mut open = None;
    for line in text.split_inclusive('\n') {
        let (line, end) = match line.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (line, ""),
        };
        let content = line.trim_start_matches('>');
        let depth = line.len() - content.len();
        // The space that keeps a line from looking like a quote.
        let content = content.strip_prefix(' ').unwrap_or(content);
        let is_signature = content == "-- ";
        if open.is_some_and(|open| open != depth || is_signature) {
            out.push('\n');
            open = None;
        }
        if open.is_none() && depth > 0 {
            out.push_str(&line[..depth]);
            out.push(' ');
        }
        match content.strip_suffix(' ').filter(|_| !is_signature) {
            Some(flowing) => {
                out.push_str(if keeps_space { content } else { flowing });
                open = Some(depth);
            }
            None => {
                out.push_str(content);
                out.push_str(end);
                open = None;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_flow_are_one() {
        for (text, keeps_space, expected) in [
            ("a \nb\nc\n", true, "a b\nc\n"),
            ("a \nb \nc", false, "abc"),
            (" a\n  b\n >c\n", true, "a\n b\n>c\n"),
            (">a \n>b\n>> c \n>> d\n", true, "> a b\n>> c d\n"),
            // Who quotes it otherwise did not mean this line.
            (">a \nb\n", true, "> a \nb\n"),
            ("a \n-- \nb\n", true, "a \n-- \nb\n"),
            ("a \n\nb\n", true, "a \nb\n"),
            ("a ", true, "a "),
            ("", true, ""),
        ] {
            assert_eq!(joined(text, keeps_space), expected, "{text}");
        }
    }
}
