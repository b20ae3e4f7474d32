//! How much HTML can be parsed. The standard's algorithm looks through all open elements for many a tag, and opens
//! elements again that were closed by others, so a mebibyte can take hours and all memory there is; and within a tag the
//! parser compares each attribute with all before. What writes HTML looks from each `&` on to the end of the text. So the parser is run on pieces first, with a tree that holds names
//! alone, and what it read when that became too deep or too large is all that is cleaned.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use html5ever::tendril::{StrTendril, TendrilSink};
use html5ever::tree_builder::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::{Attribute, ExpandedName, ParseOpts, QualName, local_name, ns, parse_fragment};

/// Elements in elements. Browsers have as many; an answer to an answer to an answer has three for each.
const MAX_DEPTH: usize = 512;

/// Elements, and those that the parser opens again: what stands in a table where it may not is put before it, by a
/// search through all that is there. A newsletter has some thousand; this is one for each twenty bytes.
const MAX_ELEMENTS: usize = 50_000;

/// Signs that may separate attributes, between two tags. Each may be compared with all before.
const MAX_SEPARATORS: usize = 16 * 1024;

/// Signs of a text that are escaped, times its bytes, in all. Writing them takes some tenths of a second; a book has less.
const MAX_ESCAPING: usize = 1_000_000_000;

/// What is read before the tree is looked at again.
const PIECE_BYTES: usize = 1024;

/// The begin that can be parsed.
pub(super) fn within(html: &str) -> &str {
    let context = QualName::new(None, ns!(html), local_name!("div"));
    // As ammonia does.
    let mut parser = parse_fragment(Tree::default(), ParseOpts::default(), context, Vec::new(), false);
    let (mut at, mut separators) = (0, 0);
    while at < html.len() {
        let end = html.floor_char_boundary(at + PIECE_BYTES);
        let piece = &html[at..end];
        parser.process(StrTendril::from(piece));
        let tree = &parser.tokenizer.sink.sink;
        separators += separators_in(piece.as_bytes());
        if tree.is_active.take() {
            separators = 0;
        }
        if tree.is_over() || separators > MAX_SEPARATORS {
            return &html[..at];
        }
        at = end;
    }
    html
}

fn separators_in(piece: &[u8]) -> usize {
    let is_separator = |pair: &&[u8]| match pair {
        [before, b'/'] => *before != b'<',
        [_, byte] => byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\''),
        _ => false,
    };
    piece.windows(2).filter(is_separator).count()
}

/// Elements by their names alone.
#[derive(Default)]
struct Tree {
    elements: RefCell<Vec<Element>>,
    deepest: Cell<usize>,
    /// See [`MAX_ESCAPING`].
    escaping: Cell<usize>,
    /// Whether the parser has done something since it was last asked.
    is_active: Cell<bool>,
}

#[derive(Default)]
struct Element {
    parent: Option<usize>,
    /// Those whose parent it is, and some that have left.
    children: Vec<usize>,
    /// What was added last, and what was put before a table in it, wherever that is.
    texts: [Text; 2],
}

/// Which of [`Element::texts`].
const LAST: usize = 0;
const BEFORE: usize = 1;

#[derive(Default)]
struct Text {
    bytes: usize,
    escaped: usize,
}

impl Text {
    /// By how much that adds to what it costs.
    fn add(&mut self, text: &str) -> usize {
        let before = self.bytes * self.escaped;
        self.bytes += text.len();
        // A space that does not break begins with this byte.
        self.escaped += text.bytes().filter(|byte| matches!(byte, b'&' | 0xc2)).count();
        self.bytes.saturating_mul(self.escaped).saturating_sub(before)
    }
}

/// What stands for an element.
#[derive(Clone)]
struct Handle {
    index: usize,
    name: Rc<QualName>,
}

impl Tree {
    fn is_over(&self) -> bool {
        self.deepest.get() > MAX_DEPTH
            || self.escaping.get() > MAX_ESCAPING
            || self.elements.borrow().len() > MAX_ELEMENTS
    }

    fn add(&self, name: QualName) -> Handle {
        self.is_active.set(true);
        let mut elements = self.elements.borrow_mut();
        elements.push(Element::default());
        Handle { index: elements.len() - 1, name: Rc::new(name) }
    }

    fn adopt(&self, parent: usize, child: &Handle) {
        let mut elements = self.elements.borrow_mut();
        elements[child.index].parent = Some(parent);
        elements[parent].children.push(child.index);
        elements[parent].texts[LAST] = Text::default();
        let mut depth = 0;
        let mut at = elements[child.index].parent;
        while let Some(parent) = at.filter(|_| depth <= MAX_DEPTH) {
            depth += 1;
            at = elements[parent].parent;
        }
        self.deepest.set(self.deepest.get().max(depth));
    }

    fn write(&self, parent: usize, which: usize, text: &str) {
        let more = self.elements.borrow_mut()[parent].texts[which].add(text);
        self.escaping.set(self.escaping.get().saturating_add(more));
    }

    fn write_attributes(&self, attributes: &[Attribute]) {
        let more: usize = attributes.iter().map(|attribute| Text::default().add(&attribute.value)).sum();
        self.escaping.set(self.escaping.get().saturating_add(more));
    }

    /// What it was a child of keeps it in its list, for nobody asks before the children move on.
    fn detach(&self, child: usize) {
        self.elements.borrow_mut()[child].parent = None;
    }
}

impl TreeSink for Tree {
    type Handle = Handle;
    type Output = ();
    type ElemName<'a> = ExpandedName<'a>;

    fn finish(self) {}

    fn parse_error(&self, _: Cow<'static, str>) {}

    fn get_document(&self) -> Handle {
        let name = QualName::new(None, ns!(), local_name!(""));
        if self.elements.borrow().is_empty() { self.add(name) } else { Handle { index: 0, name: Rc::new(name) } }
    }

    fn elem_name<'a>(&'a self, target: &'a Handle) -> ExpandedName<'a> {
        target.name.expanded()
    }

    fn create_element(&self, name: QualName, attributes: Vec<Attribute>, _: ElementFlags) -> Handle {
        self.write_attributes(&attributes);
        // The first is the document.
        self.get_document();
        self.add(name)
    }

    fn create_comment(&self, _: StrTendril) -> Handle {
        self.add(QualName::new(None, ns!(), local_name!("")))
    }

    fn create_pi(&self, _: StrTendril, _: StrTendril) -> Handle {
        self.add(QualName::new(None, ns!(), local_name!("")))
    }

    fn append(&self, parent: &Handle, child: NodeOrText<Handle>) {
        self.is_active.set(true);
        match child {
            NodeOrText::AppendNode(child) => self.adopt(parent.index, &child),
            NodeOrText::AppendText(text) => self.write(parent.index, LAST, &text),
        }
    }

    fn append_based_on_parent_node(&self, element: &Handle, before: &Handle, child: NodeOrText<Handle>) {
        let has_parent = self.elements.borrow()[element.index].parent.is_some();
        if has_parent { self.append_before_sibling(element, child) } else { self.append(before, child) }
    }

    fn append_doctype_to_document(&self, _: StrTendril, _: StrTendril, _: StrTendril) {}

    fn pop(&self, _: &Handle) {
        self.is_active.set(true);
    }

    fn get_template_contents(&self, target: &Handle) -> Handle {
        target.clone()
    }

    fn same_node(&self, x: &Handle, y: &Handle) -> bool {
        x.index == y.index
    }

    fn set_quirks_mode(&self, _: QuirksMode) {}

    fn append_before_sibling(&self, sibling: &Handle, child: NodeOrText<Handle>) {
        self.is_active.set(true);
        let parent = self.elements.borrow()[sibling.index].parent;
        match (parent, child) {
            (Some(parent), NodeOrText::AppendNode(child)) => self.adopt(parent, &child),
            (Some(parent), NodeOrText::AppendText(text)) => self.write(parent, BEFORE, &text),
            (None, _) => {}
        }
    }

    fn add_attrs_if_missing(&self, _: &Handle, attributes: Vec<Attribute>) {
        self.write_attributes(&attributes);
    }

    fn remove_from_parent(&self, target: &Handle) {
        self.detach(target.index);
    }

    fn reparent_children(&self, node: &Handle, new_parent: &Handle) {
        let mut elements = self.elements.borrow_mut();
        let children = std::mem::take(&mut elements[node.index].children);
        for child in children {
            if elements[child].parent == Some(node.index) {
                elements[child].parent = Some(new_parent.index);
                elements[new_parent.index].children.push(child);
            }
        }
    }
}
