//! Frames as columns: what is said many times is said once, and times are differences.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::annotate::{Annotated, Known, Language, file::Capture, summary};
use crate::programs::pcapng::Direction;

/// So many frames are in the table; those with comments come first.
const MAX_FRAMES: usize = 200_000;

#[derive(Default)]
struct Texts {
    texts: Vec<String>,
    places: HashMap<String, usize>,
}

impl Texts {
    fn place(&mut self, text: String) -> usize {
        if let Some(place) = self.places.get(&text) {
            return *place;
        }
        self.texts.push(text.clone());
        self.places.insert(text, self.texts.len() - 1);
        self.texts.len() - 1
    }
}

/// The frames that were sent, in the order of time; `start`: when the scenario began, in nanoseconds since 1970.
pub(super) fn columns(capture: &Capture, known: &Known, annotated: &Annotated, start: u64) -> Value {
    let sent = |index: usize| annotated.copy_of.get(index).is_none_or(Option::is_none);
    let noted = |index: usize| annotated.notes.get(index).is_some_and(|notes| !notes.is_empty());
    let all = (0..capture.packets.len()).filter(|index| sent(*index)).count();
    let plain = MAX_FRAMES.saturating_sub((0..capture.packets.len()).filter(|index| noted(*index)).count());
    let (mut texts, mut protocols) = (Texts::default(), Texts::default());
    let mut columns: [Vec<Value>; 9] = Default::default();
    let mut notes = Vec::new();
    let (mut last_time, mut last_number, mut rows, mut taken) = (0i64, 0usize, 0usize, 0usize);
    for (index, packet) in capture.packets.iter().enumerate().filter(|(index, _)| sent(*index)) {
        if !noted(index) {
            if taken >= plain {
                continue;
            }
            taken += 1;
        }
        if rows >= MAX_FRAMES {
            break;
        }
        let summary = summary(&packet.data, known);
        let time = i128::from(packet.time_ns) - i128::from(start);
        let time = i64::try_from(time / 1000).unwrap_or(0);
        let direction = match packet.direction {
            Direction::Outbound => 0,
            Direction::Inbound => 1,
            Direction::Unknown => 2,
        };
        let row: [Value; 9] = [
            (time - last_time).into(),
            (index - last_number).into(),
            packet.interface.into(),
            direction.into(),
            packet.original_length.into(),
            protocols.place(summary.protocol.to_owned()).into(),
            texts.place(summary.from).into(),
            texts.place(summary.to).into(),
            texts.place(summary.info).into(),
        ];
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(value);
        }
        for note in annotated.notes.get(index).into_iter().flatten() {
            notes.push(json!([rows, note.kind(), note.text(Language::En), note.text(Language::Fr)]));
        }
        (last_time, last_number) = (time, index);
        rows += 1;
    }
    let ends: Vec<Value> = known
        .ends
        .iter()
        .map(
            |end| json!({"name": end.name, "node": end.node, "network": end.network, "dropped": end.dropped}),
        )
        .collect();
    let [time, number, end, direction, length, protocol, from, to, info] = columns;
    json!({
        "recorded": capture.packets.len(), "sent": all, "rows": rows,
        "time": time, "number": number, "end": end, "direction": direction, "length": length,
        "protocol": protocol, "from": from, "to": to, "info": info,
        "protocols": protocols.texts, "texts": texts.texts, "notes": notes, "ends": ends,
    })
}
