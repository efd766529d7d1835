//! YAML → values with their lines. The only importer of the parser.
//!
//! Values stay texts: whether `0 5` or `yes` is a number or a truth is for whoever reads it. Built
//! from events, so that neither depth nor aliases can exhaust anything.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::super::document::Note;

/// Nothing is nested deeper.
const MAX_DEPTH: usize = 100;

/// All values, those of aliases counted each time.
const MAX_VALUES: usize = 1_000_000;

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) line: usize,
    kind: Kind,
    /// How many values it is, itself included.
    size: usize,
}

#[derive(Debug, Clone)]
enum Kind {
    Null,
    Text(String),
    List(Vec<Node>),
    /// Of several members with one key the last counts.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// A value of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let found = self.entries().iter().rev().find(|(name, _)| name == key);
        found
            .map(|(_, node)| node)
            .filter(|node| !matches!(node.kind, Kind::Null))
    }

    /// A value within maps.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The text of a value of a map.
    pub(super) fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Self::text)
    }

    /// A scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            Kind::Null | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// The items of a list; none if it is no list.
    pub(super) fn items(&self) -> &[Self] {
        match &self.kind {
            Kind::List(items) => items,
            Kind::Null | Kind::Text(_) | Kind::Map(_) => &[],
        }
    }

    /// The members of a map that are there; none if it is no map.
    pub(super) fn entries(&self) -> &[(String, Self)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            Kind::Null | Kind::Text(_) | Kind::List(_) => &[],
        }
    }

    /// The keys of a map whose values are not null.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let there = self
            .entries()
            .iter()
            .filter(|(_, node)| !matches!(node.kind, Kind::Null));
        there.map(|(key, _)| key.as_str())
    }
}

/// A collection that is not yet closed.
struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next.
    key: Option<String>,
    /// Members that `<<` brings along: any other wins over them, and of them the first.
    merged: Vec<(String, Node)>,
}

impl Open {
    fn close(mut self) -> (Node, usize) {
        if let Kind::Map(entries) = &mut self.node.kind
            && !self.merged.is_empty()
        {
            self.merged.reverse();
            self.merged.append(entries);
            *entries = self.merged;
        }
        (self.node, self.anchor)
    }
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    values: usize,
}

/// The documents of a text.
pub(super) fn read(text: &str) -> Result<Vec<Node>, Note> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let note = Note::new(
                error.marker().line().max(1),
                format!("this is not YAML: {}", error.info()),
            );
            match text.contains("{{") {
                true => note.with_help("a Helm chart must be rendered first, with `helm template`"),
                false => {
                    note.with_help("`kubectl get cronjobs -A -o yaml` writes what can be imported")
                }
            }
        })?;
        builder.event(event, span.start.line().max(1))?;
    }
    Ok(builder.documents)
}

impl Builder {
    fn event(&mut self, event: Event<'_>, line: usize) -> Result<(), Note> {
        let node = |kind| Node {
            line,
            kind,
            size: 1,
        };
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let null = style == ScalarStyle::Plain
                    && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let kind = if null {
                    Kind::Null
                } else {
                    Kind::Text(text.into_owned())
                };
                self.put(node(kind), anchor)
            }
            Event::SequenceStart(anchor, _) => self.open(node(Kind::List(Vec::new())), anchor),
            Event::MappingStart(anchor, _) => self.open(node(Kind::Map(Vec::new())), anchor),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    let (node, anchor) = open.close();
                    self.put(node, anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let size = self.anchors.get(&anchor).map_or(1, |node| node.size);
                // Before the copy is made.
                self.count(size, line)?;
                let known = self.anchors.get(&anchor);
                let kind = known.map_or(Kind::Null, |node| node.kind.clone());
                self.put(Node { line, kind, size }, 0)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd => Ok(()),
            Event::DocumentStart(_) | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, node: Node, anchor: usize) -> Result<(), Note> {
        if self.open.len() >= MAX_DEPTH {
            let message = format!("this is nested deeper than {MAX_DEPTH} levels");
            return Err(Note::new(node.line, message));
        }
        self.open.push(Open {
            node,
            anchor,
            key: None,
            merged: Vec::new(),
        });
        Ok(())
    }

    fn count(&mut self, values: usize, line: usize) -> Result<(), Note> {
        self.values = self.values.saturating_add(values);
        match self.values > MAX_VALUES {
            true => Err(Note::new(
                line,
                format!("there are more than {MAX_VALUES} values"),
            )),
            false => Ok(()),
        }
    }

    /// Puts a finished value where it belongs.
    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Note> {
        self.count(1, node.line)?;
        if anchor > 0 {
            // A copy that stays: aliases to it are counted when they come.
            self.count(node.size, node.line)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        open.node.size += node.size;
        match (&mut open.node.kind, open.key.take()) {
            (Kind::Map(entries), Some(key)) => match node.kind {
                Kind::Map(merged) if key == "<<" => open.merged.extend(merged),
                _ => entries.push((key, node)),
            },
            (Kind::Map(_), None) => open.key = Some(node.text().unwrap_or_default().to_owned()),
            (Kind::List(items), _) => items.push(node),
            (Kind::Null | Kind::Text(_), _) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        read(text).unwrap().remove(0)
    }

    #[test]
    fn values_are_texts_with_lines() {
        let node = one("a:\n  b: 010\n  c: [yes, '', ~]\n  d: null\n");
        assert_eq!(node.at(&["a", "b"]).and_then(Node::text), Some("010"));
        assert_eq!(node.at(&["a", "b"]).map(|node| node.line), Some(2));
        let list: Vec<_> = node
            .at(&["a", "c"])
            .unwrap()
            .items()
            .iter()
            .map(Node::text)
            .collect();
        assert_eq!(list, [Some("yes"), Some(""), None]);
        assert!(node.at(&["a", "d"]).is_none());
    }

    #[test]
    fn aliases_and_merges_are_filled_in() {
        let node = one("x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\nz: *x\n");
        assert_eq!(node.at(&["y", "a"]).and_then(Node::text), Some("1"));
        assert_eq!(node.at(&["y", "b"]).and_then(Node::text), Some("3"));
        assert_eq!(node.at(&["z", "b"]).and_then(Node::text), Some("2"));
        let node = one("a: 1\na: 2\n");
        assert_eq!(node.text_of("a"), Some("2"));
    }

    #[test]
    fn nothing_grows_without_bound() {
        let deep: String = (0..1000)
            .map(|depth| format!("{}a:\n", " ".repeat(depth)))
            .collect();
        let note = read(&deep).unwrap_err();
        assert!(note.message.contains("nested deeper"), "{note:?}");
        // Here the parser has a limit of its own.
        assert!(read(&"[".repeat(100_000)).is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let item = format!("*a{},", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{item}]\n"));
        }
        assert!(read(&bomb).unwrap_err().message.contains("more than"));
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_line() {
        let note = read("a: 1\nb: [1, 2\nc: }\n").unwrap_err();
        assert!(
            note.line >= 2 && note.message.contains("not YAML"),
            "{note:?}"
        );
        let note = read("a: {{ .Values.x }}\nb: {{- if }}\n: :\n").unwrap_err();
        assert!(note.help.unwrap().contains("helm template"));
    }
}
