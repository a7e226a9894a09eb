//! YAML (and so JSON) text into values that know where they stand.
//!
//! One file may hold several documents. Duplicate keys are refused, plain scalars mean what they mean to `kubectl`
//! ([`scalar`]), and what a file can cost is bounded: its size, its depth, and the number of values after its aliases
//! were followed.

mod scalar;

use std::{collections::HashMap, fmt};

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span};
use serde_json::{Map, Value};

/// Largest text that is parsed, in bytes.
pub const MAX_BYTES: usize = 8 << 20;
/// Deepest nesting; the API's deepest kind needs about 12.
pub const MAX_DEPTH: usize = 64;
/// Most values in one text, those that aliases repeat counted each time: a small file cannot become a large value.
pub const MAX_VALUES: usize = 1_000_000;

/// One YAML document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Line of its first value, from 1.
    pub line: usize,
    /// What it says.
    pub value: Value,
    places: Place,
}

/// Where a value stands, and its parts.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    line: u32,
    parts: Parts,
}

#[derive(Debug, Clone, PartialEq)]
enum Parts {
    None,
    Items(Vec<Place>),
    /// In the order of the text; a manifest's maps are small.
    Fields(Vec<Field>),
}

/// A key, its line, and the place of its value.
type Field = (String, u32, Place);

/// Why a text is no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// What is the matter.
    pub message: String,
}

impl Document {
    /// The line of the value at `path`, as `spec.ports[0].port` or `metadata.labels[a.b/c]`; where there is no such
    /// value, that of the nearest one around it.
    pub fn line_of(&self, path: &str) -> usize {
        let mut place = &self.places;
        let mut line = self.line;
        for segment in segments(path) {
            let found = match &place.parts {
                Parts::None => None,
                Parts::Items(items) => {
                    segment.parse().ok().and_then(|at: usize| items.get(at)).map(|part| (part.line, part))
                }
                Parts::Fields(fields) => {
                    fields.iter().find(|(key, ..)| key == segment).map(|(_, line, part)| (*line, part))
                }
            };
            let Some((at, part)) = found else { break };
            (line, place) = (at as usize, part);
        }
        line
    }
}

/// Splits `a.b[0].c[x.y]` into a, b, 0, c, x.y.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        loop {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            if rest.is_empty() {
                return None;
            }
            if let Some(inner) = rest.strip_prefix('[') {
                let (segment, after) = inner.split_once(']').unwrap_or((inner, ""));
                rest = after;
                return Some(segment.trim_matches('"'));
            }
            let (segment, after) = rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()));
            rest = after;
            if !segment.is_empty() {
                return Some(segment);
            }
        }
    })
}

/// All documents of `text`; empty ones are left out.
///
/// # Errors
/// The first thing that is wrong: no YAML, a duplicate key, or a bound passed.
pub fn parse(text: &str) -> Result<Vec<Document>, ParseError> {
    if text.len() > MAX_BYTES {
        return Err(error_at(
            1,
            1,
            format!("{} bytes are more than the {MAX_BYTES} that a file may have", text.len()),
        ));
    }
    if let Some(at) = text.bytes().position(|byte| byte == 0) {
        let line = text[..at].bytes().filter(|byte| *byte == b'\n').count() + 1;
        return Err(error_at(line, 1, "a NUL byte: this is not a text file"));
    }
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.emit_unresolved_aliases = true;
    let mut reader = Reader {
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        values: 0,
    };
    let mut documents = Vec::new();
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::DocumentStart(..), _) => reader.anchors.clear(),
            (Event::StreamStart | Event::DocumentEnd, _) => {}
            (event, span) => {
                let (value, places) = reader.value(event, span, 0)?;
                if !value.is_null() {
                    documents.push(Document { line: places.line as usize, value, places });
                }
            }
        }
    }
}

struct Reader<'a> {
    events: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, (Value, usize)>,
    values: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), ParseError> {
        match self.events.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(scan_error(&error)),
            None => Err(error_at(1, 1, "the text ends in the middle")),
        }
    }

    fn value(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<(Value, Place), ParseError> {
        let before = self.values;
        self.count(1, span)?;
        if depth > MAX_DEPTH {
            return Err(error(span, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let line = line_of(span);
        let (value, parts, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = match tag.as_deref().map(|tag| (tag, tag.core_suffix())) {
                    None if style == ScalarStyle::Plain => {
                        scalar::plain(&text).map_err(|message| error(span, message))?
                    }
                    None | Some((_, Some("str"))) => Value::String(text.into_owned()),
                    // `!` alone: not resolved, a string.
                    Some((tag, _)) if tag.original() == "!" => Value::String(text.into_owned()),
                    Some((tag, _)) => {
                        return Err(error(
                            span,
                            format!("the tag {} is not supported: write the value itself", tag.original()),
                        ));
                    }
                };
                (value, Parts::None, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let (mut items, mut places) = (Vec::new(), Vec::new());
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        break;
                    }
                    let (value, place) = self.value(event, span, depth + 1)?;
                    items.push(value);
                    places.push(place);
                }
                (Value::Array(items), Parts::Items(places), anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                let (map, places) = self.map(depth)?;
                (Value::Object(map), Parts::Fields(places), anchor)
            }
            Event::Alias(id) => {
                let Some((value, weight)) = self.anchors.get(&id).cloned() else {
                    return Err(error(span, "an alias inside the value that it stands for"));
                };
                self.count(weight, span)?;
                (value, Parts::None, 0)
            }
            Event::UnresolvedAlias(name) => {
                return Err(error(span, format!("the alias *{name} stands for nothing before it")));
            }
            other => return Err(error(span, format!("unexpected {other:?}"))),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), self.values - before));
        }
        Ok((value, Place { line, parts }))
    }

    fn map(&mut self, depth: usize) -> Result<(Map<String, Value>, Vec<Field>), ParseError> {
        let (mut map, mut places) = (Map::new(), Vec::new());
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok((map, places));
            }
            let key = match event {
                Event::Scalar(text, ScalarStyle::Plain, _, None) => {
                    scalar::key(&text).map_err(|message| error(span, message))?
                }
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(error(span, "a key must be a plain word or a string")),
            };
            if key == "<<" {
                return Err(error(span, "merge keys (<<) are not supported: write the fields out"));
            }
            let (event, value_span) = self.next()?;
            let (value, place) = self.value(event, value_span, depth + 1)?;
            if map.contains_key(&key) {
                let first = places.iter().find(|(known, ..)| *known == key).map_or(0, |(_, line, _)| *line);
                return Err(error(span, format!("duplicate key `{key}`, first on line {first}")));
            }
            places.push((key.clone(), line_of(span), place));
            map.insert(key, value);
        }
    }

    fn count(&mut self, values: usize, span: Span) -> Result<(), ParseError> {
        self.values += values;
        if self.values > MAX_VALUES {
            return Err(error(span, format!("more than {MAX_VALUES} values in one file")));
        }
        Ok(())
    }
}

fn line_of(span: Span) -> u32 {
    u32::try_from(span.start.line()).unwrap_or(u32::MAX)
}

fn error(span: Span, message: impl fmt::Display) -> ParseError {
    error_at(span.start.line(), span.start.col() + 1, message)
}

fn error_at(line: usize, column: usize, message: impl fmt::Display) -> ParseError {
    ParseError { line, column, message: message.to_string() }
}

fn scan_error(error: &ScanError) -> ParseError {
    error_at(error.marker().line(), error.marker().col() + 1, error.info())
}

#[cfg(test)]
mod tests;
