//! "Did you mean": the nearest of some known words.

/// The known word that `word` is probably a slip of: at most a third of its letters, rounded up, differ.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = word.chars().count().div_ceil(3);
    known
        .into_iter()
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// What to say about an unknown word: the nearest known one, else all of them when they are few.
pub(crate) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(nearest) = nearest(word, known.iter().copied()) {
        return format!("; did you mean `{nearest}`?");
    }
    match known.len() {
        0 => "; there is none".into(),
        1..=12 => format!("; there is {}", list(&known)),
        _ => String::new(),
    }
}

/// Words that people look for under another name: the command line has `inject` for what a step calls `fault`.
const OTHERWISE: [(&str, &str); 3] = [("inject", "fault"), ("sleep", "wait"), ("assert", "expect")];

/// What to say about an unknown field: the field that is meant, else all that there are.
pub(crate) fn field<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let meant =
        OTHERWISE.iter().find(|(other, own)| *other == word && known.contains(own)).map(|(_, own)| *own);
    if let Some(meant) = meant.or_else(|| nearest(word, known.iter().copied())) {
        return format!("; did you mean `{meant}`?");
    }
    match known.len() {
        0 => "; there are no fields here".into(),
        _ => format!("; fields here: {}", known.join(", ")),
    }
}

/// Words as people list them: `a`, `b` and `c`.
pub(crate) fn list(words: &[&str]) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            text.push_str(if index + 1 == words.len() { " and " } else { ", " });
        }
        text.push('`');
        text.push_str(word);
        text.push('`');
    }
    text
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_and_a_far_one_is_not() {
        let known = ["adminDown", "carrierLost", "blackhole"];
        assert_eq!(nearest("adminDwn", known), Some("adminDown"));
        assert_eq!(nearest("AdminDown", known), Some("adminDown"));
        assert_eq!(nearest("meteorite", known), None);
        assert_eq!(hint("x", ["SRV1", "SRV2"]), "; there is `SRV1` and `SRV2`");
        assert_eq!(hint("SRV11", ["SRV1", "ClientA"]), "; did you mean `SRV1`?");
        assert_eq!(field("inject", ["fault", "heal"]), "; did you mean `fault`?");
        assert_eq!(field("inject", ["node"]), "; fields here: node");
        assert_eq!(field("healed", ["fault", "heal"]), "; did you mean `heal`?");
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
