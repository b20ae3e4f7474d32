//! Which parts are the text of a message, and which hang on it (as RFC 8621 section 4.1.4 takes them, but for what is
//! said here).

use crate::message::{Head, Part, Parts};

/// Parts by their numbers.
#[derive(Default)]
pub(super) struct Shown {
    /// What is read in order where there is no HTML; HTML where the sender wrote nothing else.
    pub(super) plain: Vec<usize>,
    /// What is read in order as HTML; text where the sender wrote nothing else.
    pub(super) rich: Vec<usize>,
    /// Whether anything of it is HTML.
    pub(super) has_html: bool,
    /// What hangs on it.
    pub(super) attached: Vec<usize>,
}

/// What of one part is shown.
#[derive(Default)]
struct Body {
    plain: Vec<usize>,
    rich: Vec<usize>,
    has_html: bool,
}

impl Shown {
    pub(super) fn of(parts: &Parts<'_>) -> Self {
        let mut bodies: Vec<Body> = parts.all.iter().map(|_| Body::default()).collect();
        let mut children: Vec<Vec<usize>> = parts.all.iter().map(|_| Vec::new()).collect();
        let mut is_attached: Vec<bool> = parts.all.iter().map(|part| !part.is_opened).collect();
        let mut has_text = false;
        for (index, part) in parts.all.iter().enumerate() {
            if let Some(parent) = part.parent {
                children[parent].push(index);
            }
            if part.is_opened {
                continue;
            }
            if is_text(part, index == 0, has_text) {
                let has_html = part.head.is("text", "html");
                bodies[index] = Body { plain: vec![index], rich: vec![index], has_html };
                is_attached[index] = false;
                has_text = true;
            } else if parts.parent(part).is_some_and(|parent| is_same_text(&part.head, parent)) {
                is_attached[index] = false;
            }
        }
        // What holds others comes before them.
        for index in (0..parts.all.len()).rev().filter(|index| parts.all[*index].is_opened) {
            let of_children = children[index].iter().map(|child| std::mem::take(&mut bodies[*child]));
            let of_children = of_children.filter(|body| !body.plain.is_empty());
            let head = &parts.all[index].head;
            bodies[index] = if head.is("multipart", "alternative") {
                one_of(of_children.collect())
            } else if head.is("multipart", "related") {
                let mut of_children = of_children;
                let first = of_children.next().unwrap_or_default();
                of_children
                    .for_each(|other| other.rich.iter().chain(&other.plain).for_each(|n| is_attached[*n] = true));
                first
            } else {
                of_children.fold(Body::default(), |mut all, body| {
                    all.plain.extend(body.plain);
                    all.rich.extend(body.rich);
                    all.has_html |= body.has_html;
                    all
                })
            };
        }
        let attached = (0..parts.all.len()).filter(|index| is_attached[*index]).collect();
        let Body { plain, rich, has_html } = bodies.into_iter().next().unwrap_or_default();
        Self { plain, rich, has_html, attached }
    }
}

/// The plain one and the rich one of what the sender wrote several times; the last of the rich ones is the best.
fn one_of(bodies: Vec<Body>) -> Body {
    let has_html = bodies.iter().any(|body| body.has_html);
    let plain = bodies.iter().position(|body| !body.has_html).unwrap_or(bodies.len().saturating_sub(1));
    let rich = bodies.iter().rposition(|body| body.has_html).unwrap_or(plain);
    let mut one = Body { has_html, ..Body::default() };
    for (n, body) in bodies.into_iter().enumerate() {
        if n == plain {
            one.plain = body.plain;
        }
        if n == rich {
            one.rich = body.rich;
        }
    }
    one
}

/// Whether a part is text to be read where it stands. Text with a name is a file, unless there was no other before.
fn is_text(part: &Part<'_>, is_first: bool, has_text: bool) -> bool {
    let head = &part.head;
    if head.is_disposition("attachment") || head.name.is_some() && has_text {
        return false;
    }
    // A multipart in which no part begins is what somebody wrote, or what a server broke.
    let is_multipart = head.is_kind("multipart");
    let is_broken = is_multipart && !part.is_too_deep || !is_multipart && !head.has_subtype() && head.name.is_none();
    let is_known = head.is("text", "plain") || head.is("text", "html");
    is_known || is_broken || is_first && head.is_kind("text") && !head.is("text", "calendar")
}

/// Whether it is yet another way to write the text beside it, which nobody asked for (for AMP, say).
fn is_same_text(head: &Head<'_>, parent: &Head<'_>) -> bool {
    let is_file = head.name.is_some() || head.is_disposition("attachment") || head.is("text", "calendar");
    parent.is("multipart", "alternative") && head.is_kind("text") && !is_file
}
