//! Fills a schema to its bounds.

use serde_json::{Map, Value, json};

/// A character without a pattern to forbid it that takes six bytes in JSON.
const WIDE: char = '\u{1}';
/// One that Go writes as `\u003c`.
const ESCAPED: char = '<';

/// Everything that the schema allows, as long and as often as it allows it; `n` makes it differ from its neighbours in a list.
/// Unions and rules are not looked at.
pub(crate) fn fill(schema: &Value, n: usize) -> Value {
    if let Some(choices) = schema["enum"].as_array() {
        return choices.iter().max_by_key(|choice| choice.to_string().len()).cloned().unwrap_or_default();
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return integer(schema, n);
    }
    match schema["type"].as_str() {
        Some("object") => object(schema, n),
        Some("array") => {
            let count = schema["maxItems"].as_u64().expect("lists are bounded");
            let items = &schema["items"];
            if let Some(choices) = items["enum"].as_array() {
                // Each once: such lists are sets.
                return choices.iter().take(usize::try_from(count).unwrap_or(0)).cloned().collect();
            }
            (0..count).map(|i| fill(items, usize::try_from(i).unwrap_or(0))).collect()
        }
        Some("string") => string(schema, n).into(),
        Some("integer") => integer(schema, n),
        Some("boolean") => false.into(),
        other => panic!("a type that is not known here: {other:?} in {schema}"),
    }
}

fn object(schema: &Value, n: usize) -> Value {
    let mut map = Map::new();
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            map.insert(name.clone(), fill(property, n));
        }
    }
    if let Some(values) = schema["additionalProperties"].as_object() {
        let count = schema["maxProperties"].as_u64().expect("maps are bounded");
        let values = Value::Object(values.clone());
        // Names of instances; else of ports or interfaces.
        let long = schema["x-kubernetes-validations"].to_string().contains("<= 63");
        let width = if long { 62 } else { 14 };
        for i in 0..count {
            map.insert(format!("{i:0>width$}k"), fill(&values, usize::try_from(i).unwrap_or(0)));
        }
    }
    Value::Object(map)
}

fn integer(schema: &Value, n: usize) -> Value {
    // Bounds are written as numbers with a fraction.
    let bound =
        |name: &str| schema[name].to_string().split('.').next().and_then(|whole| whole.parse::<i64>().ok());
    // Generations have no bound but their type's.
    let max = bound("maximum").unwrap_or(i64::from(i32::MAX));
    let min = bound("minimum").unwrap_or(0);
    let few = max < 100_000;
    json!(if few { (max - i64::try_from(n).unwrap_or(0) % 250).max(min) } else { max })
}

/// An IPv6 address that has no shorter form.
fn address(n: usize) -> String {
    format!("2001:1db8:1111:1111:1111:1111:{:x}:{:x}", 0x1000 + n / 0xe000, 0x1000 + n % 0xe000)
}

fn string(schema: &Value, n: usize) -> String {
    if schema["format"] == "date-time" {
        return "2026-01-01T00:00:00Z".into();
    }
    let max = usize::try_from(schema["maxLength"].as_u64().expect("strings are bounded")).expect("a length");
    let rules = schema["x-kubernetes-validations"].to_string();
    let pattern = schema["pattern"].as_str().unwrap_or_default();
    let padded = |filler: char| {
        let end = n.to_string();
        filler.to_string().repeat(max - end.len()) + &end
    };
    match max {
        91 => format!(
            "2001:1db8:1111:1111:1111:1111:1111:{:x}00-2001:1db8:1111:1111:1111:1111:1111:{0:x}ff",
            0x10 + n
        ),
        49 => format!("{}/128", address(n)),
        45 if rules.contains("ff00::/8") => "ff02:1111:1111:1111:1111:1111:1111:1111".into(),
        45 => address(n),
        _ if pattern.starts_with("^([0-9]{1,5}(h|m|s|ms))") => {
            schema["default"].as_str().map_or_else(|| "1s".to_owned(), ToOwned::to_owned)
        }
        _ if pattern.contains("BEGIN CERTIFICATE") => {
            let begin = "-----BEGIN CERTIFICATE-----";
            begin.to_owned() + &WIDE.to_string().repeat(max - begin.len())
        }
        _ => match pattern {
            "" => padded(WIDE),
            r"^[^\x00-\x1f\x7f]*$" => padded(ESCAPED),
            "^[ -~]*$" => ESCAPED.to_string().repeat(max),
            "^/[!-~]*$" => "/".to_owned() + &ESCAPED.to_string().repeat(max - 1),
            "^[A-Za-z0-9!#$%&'*+.^_|~-]+$" => padded('&'),
            "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$" => format!("{}-599", 100 + n),
            "^([0-9][-0-9]*)?[a-z]([-a-z0-9]*[a-z0-9])?$" => format!("{n:0>14}a"),
            "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$" => padded('R'),
            "^[A-Za-z]+$" => {
                let end =
                    n.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect::<String>();
                "T".repeat(max - end.len()) + &end
            }
            p if p.starts_with("^/[A-Za-z0-9 ") => "/".to_owned() + &"0".repeat(max - 1),
            // Labels of 63 characters.
            p if p.starts_with(r"^(\.|[A-Za-z0-9_-]{1,63}") => format!("{}.", "d".repeat(62)).repeat(4),
            // Letters and digits, and more, of which none is longer in JSON.
            p if p.starts_with("^[!-%'-.0-9;=?-~]+$")
                || p.starts_with("^[a-z0-9]")
                || p.starts_with("^[A-Za-z0-9")
                || p.starts_with("^([A-Za-z0-9_]")
                || p.starts_with("^([a-z0-9]")
                || p.starts_with("^[-._a-zA-Z0-9]")
                || p.starts_with("^[0-9a-f]")
                || p.starts_with("^([0-9a-fA-F") =>
            {
                padded('0')
            }
            p => panic!("the pattern {p} is not known here: say what its longest string is"),
        },
    }
}
