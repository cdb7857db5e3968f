//! Edits by offset: replace, insert or delete spans of accepted text without rewriting the rest.

use crate::scan::{self, Span};

/// Edits of one text, applied in order of position. An edit inside a deleted or replaced span has no effect.
#[derive(Debug, Default)]
pub struct Splice {
    edits: Vec<Edit>,
    /// The new texts of all edits, one after the other.
    texts: Vec<u8>,
    objects: Vec<Object>,
}

#[derive(Debug)]
struct Edit {
    span: Span,
    /// Where its new text lies in [`Splice::texts`].
    text: Span,
}

/// An object that loses or gains members. Which comma goes with a member is known only when all its edits are.
#[derive(Debug)]
struct Object {
    span: Span,
    members: Vec<Fate>,
    /// Name and value of the new members, with commas between.
    added: Vec<u8>,
}

#[derive(Debug)]
struct Fate {
    key: Span,
    value: Span,
    deleted: bool,
}

impl Splice {
    /// No edits yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces a span; an empty span inserts. Edits must not overlap.
    pub fn replace(&mut self, span: Span, with: impl Into<Vec<u8>>) {
        self.replace_with(span, &with.into());
    }

    /// The same from borrowed bytes.
    pub fn replace_with(&mut self, span: Span, with: &[u8]) {
        let start = self.texts.len();
        self.texts.extend_from_slice(with);
        self.edits.push(Edit { span, text: Span { start, end: self.texts.len() } });
    }

    /// Deletes a member of `object` with the right comma.
    pub fn delete_member(&mut self, bytes: &[u8], object: Span, key: Span) {
        if let Some(fate) = self.object(bytes, object).members.iter_mut().find(|fate| fate.key == key) {
            fate.deleted = true;
        }
    }

    /// Adds a member as the first of `object`.
    pub fn add_member(&mut self, bytes: &[u8], object: Span, name: &str, value: &[u8]) {
        let added = &mut self.object(bytes, object).added;
        if !added.is_empty() {
            added.push(b',');
        }
        scan::write_text(added, name);
        added.push(b':');
        added.extend_from_slice(value);
    }

    /// Appends the edited text of `within` to `out`; raw CR and LF become spaces.
    pub fn write(mut self, bytes: &[u8], within: Span, out: &mut Vec<u8>) {
        for object in std::mem::take(&mut self.objects) {
            self.settle(&object);
        }
        self.edits.sort_by_key(|edit| (edit.span.start, edit.span.end));
        out.reserve(within.end - within.start + self.texts.len() + 1);
        let mut at = within.start;
        for Edit { span, text } in &self.edits {
            if span.start < at || span.end > within.end {
                continue;
            }
            append_flat(out, &bytes[at..span.start]);
            append_flat(out, &self.texts[text.start..text.end]);
            at = span.end;
        }
        append_flat(out, &bytes[at..within.end]);
    }

    fn object(&mut self, bytes: &[u8], span: Span) -> &mut Object {
        let index = self.objects.iter().position(|object| object.span == span).unwrap_or_else(|| {
            let members =
                scan::members(bytes, span).map(|(key, value, _)| Fate { key, value, deleted: false }).collect();
            self.objects.push(Object { span, members, added: Vec::new() });
            self.objects.len() - 1
        });
        &mut self.objects[index]
    }

    /// Turns the fate of an object's members into edits that leave a comma between each two that remain.
    fn settle(&mut self, object: &Object) {
        let members = &object.members;
        let kept = members.iter().rposition(|fate| !fate.deleted);
        if !object.added.is_empty() {
            let at = object.span.start + 1;
            self.replace_with(Span { start: at, end: at }, &object.added);
            if kept.is_some() {
                self.replace_with(Span { start: at, end: at }, b",");
            }
        }
        let Some(last) = members.last() else { return };
        // Before the last that stays, a member goes with the comma after it; behind it, with the comma before it.
        for pair in members[..kept.map_or(0, |kept| kept + 1)].windows(2).filter(|pair| pair[0].deleted) {
            self.replace_with(Span { start: pair[0].key.start, end: pair[1].key.start }, b"");
        }
        let tail = match kept {
            Some(kept) => members[kept].value.end,
            None => members[0].key.start,
        };
        if tail < last.value.end {
            self.replace_with(Span { start: tail, end: last.value.end }, b"");
        }
    }
}

/// Appends JSON text as one line: a raw CR or LF can only be white space between tokens, so a space means the same. (E220)
pub(crate) fn append_flat(out: &mut Vec<u8>, text: &[u8]) {
    let mut at = out.len();
    out.extend_from_slice(text);
    while let Some(found) = memchr::memchr2(b'\r', b'\n', &out[at..]) {
        out[at + found] = b' ';
        at += found + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn written(splice: Splice, text: &str) -> String {
        let mut out = Vec::new();
        splice.write(text.as_bytes(), Span::all(text.as_bytes()), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn key(text: &str, name: &str) -> Span {
        let named = |key: &Span| scan::text(text.as_bytes(), *key) == name;
        scan::members(text.as_bytes(), Span::all(text.as_bytes())).map(|(key, ..)| key).find(named).unwrap()
    }

    #[test]
    fn untouched_bytes_stay() {
        let text = r#"{"a":1.10, "n":12345678901234567890123,"\u0062":"\/"}"#;
        assert_eq!(written(Splice::new(), text), text);
        let mut splice = Splice::new();
        splice.replace(Span { start: 5, end: 9 }, "2");
        assert_eq!(written(splice, text), r#"{"a":2, "n":12345678901234567890123,"\u0062":"\/"}"#);
    }

    #[test]
    fn e220_raw_line_ends_become_spaces() {
        assert_eq!(written(Splice::new(), "{\r\n \"a\":\n\"\\n\"\r}"), "{   \"a\": \"\\n\" }");
    }

    #[test]
    fn every_choice_of_deletions_leaves_the_right_commas() {
        let text = "{ \"a\" : 1 , \"b\":2,\"c\":[3] , \"d\":{} }";
        let names = ["a", "b", "c", "d"];
        for choice in 0_u8..16 {
            for adds in 0..3 {
                let mut splice = Splice::new();
                let all = Span::all(text.as_bytes());
                let mut expected: Value = serde_json::from_str(text).unwrap();
                for (at, name) in names.iter().enumerate() {
                    if choice & (1 << at) != 0 {
                        splice.delete_member(text.as_bytes(), all, key(text, name));
                        expected.as_object_mut().unwrap().remove(*name);
                    }
                }
                for add in 0..adds {
                    splice.add_member(text.as_bytes(), all, &format!("new\"{add}"), b"true");
                    expected[format!("new\"{add}")] = Value::Bool(true);
                }
                let out = written(splice, text);
                assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected, "{choice} {adds} {out}");
            }
        }
    }

    #[test]
    fn an_added_member_is_the_first() {
        let mut splice = Splice::new();
        splice.add_member(b"{\"a\":1}", Span { start: 0, end: 7 }, "b", b"2");
        assert_eq!(written(splice, "{\"a\":1}"), "{\"b\":2,\"a\":1}");
        let mut splice = Splice::new();
        splice.add_member(b"{ }", Span { start: 0, end: 3 }, "b", b"2");
        assert_eq!(written(splice, "{ }"), "{\"b\":2 }");
    }

    #[test]
    fn an_edit_inside_a_deleted_member_has_no_effect() {
        let text = r#"{"a":{"x":1,"y":2},"b":3}"#;
        let inner = Span { start: 5, end: 18 };
        let mut splice = Splice::new();
        splice.replace(Span { start: 10, end: 11 }, "9");
        splice.add_member(text.as_bytes(), inner, "z", b"0");
        splice.delete_member(text.as_bytes(), Span::all(text.as_bytes()), key(text, "a"));
        assert_eq!(written(splice, text), r#"{"b":3}"#);
    }

    #[test]
    fn only_the_part_asked_for_is_written() {
        let text = r#"{"a":[1,2],"b":3}"#;
        let mut splice = Splice::new();
        splice.replace(Span { start: 6, end: 7 }, "one");
        splice.replace(Span { start: 15, end: 16 }, "three");
        splice.replace(Span { start: 1, end: 4 }, "\"z\"");
        let mut out = b"> ".to_vec();
        splice.write(text.as_bytes(), Span { start: 5, end: 10 }, &mut out);
        assert_eq!(out, b"> [one,2]");
    }

    proptest! {
        #[test]
        fn a_splice_is_the_edit_done_on_the_value(
            value in crate::scan::tests::json(),
            choice in proptest::collection::vec(0_u8..3, 24),
            fresh in proptest::option::of(crate::scan::tests::json()),
        ) {
            prop_assume!(value.is_object());
            let text = serde_json::to_string_pretty(&value).unwrap();
            let mut expected: Value = serde_json::from_str(&text).unwrap();
            let (all, mut splice) = (Span::all(text.as_bytes()), Splice::new());
            let object = expected.as_object_mut().unwrap();
            for ((key, value, _), choice) in scan::members(text.as_bytes(), all).zip(choice) {
                let name = scan::text(text.as_bytes(), key).into_owned();
                match choice {
                    0 => {
                        splice.delete_member(text.as_bytes(), all, key);
                        object.remove(&name);
                    }
                    1 => {
                        splice.replace(value, "[\"edited\"]");
                        object.insert(name, serde_json::json!(["edited"]));
                    }
                    _ => {}
                }
            }
            if let Some(fresh) = fresh && !value.as_object().unwrap().contains_key("fresh") {
                splice.add_member(text.as_bytes(), all, "fresh", fresh.to_string().as_bytes());
                object.insert("fresh".to_owned(), serde_json::from_str(&fresh.to_string()).unwrap());
            }
            let out = written(splice, &text);
            prop_assert!(!out.contains(['\r', '\n']));
            prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected, "{}", out);
        }
    }
}
